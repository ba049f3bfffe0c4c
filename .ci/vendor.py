"""Fetch what we ship of other people's JavaScript, and prove that it is what `vendor.toml` says.

    make vendor                        fetch the pinned versions anew
    make vendor PACKAGES=htmx.org@2.0.12   pin another version, and write down its hashes

Packages come by `npm pack`, which asks the registry that npm is set up for and installs nothing.
"""

import base64
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LISTS = (
    ROOT / "provserver/admin/console/static/vendor/vendor.toml",
    ROOT / "tests/browser/vendor/vendor.toml",
)
HEAD = """\
# What others wrote and we ship as it is. `make vendor` fetches it, a test compares it with these hashes.
# integrity: of the package as the registry gives it; files: path in the package = SHA-256 of the file.
"""


class Mismatch(Exception):  # noqa: N818
    """A package or a file is not what was pinned."""


def main(changes: list[str]) -> None:
    """Fetch all packages; changes: "name@version" of those to pin anew."""
    wanted = dict(change.rsplit("@", 1) for change in changes)
    for path in LISTS:
        packages: list[dict[str, Any]] = tomllib.loads(path.read_text())["package"]
        for package in packages:
            version = wanted.pop(package["name"], package["version"])
            renew = version != package["version"]
            package["version"] = version
            _fetch(package, path.parent, renew=renew)
            print(f"{package['name']} {version}: {len(package['files'])} files, {package['integrity'][:20]}…")
        path.write_text(_written(packages))
    if wanted:
        raise SystemExit(f"no list names {', '.join(wanted)}")


def _fetch(package: dict[str, Any], place: Path, *, renew: bool) -> None:
    """Write the package's files below `place`; with `renew` note their hashes instead of comparing them."""
    name, version = package["name"], package["version"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=folder, check=True, stdout=subprocess.PIPE)
        (archive,) = Path(folder).glob("*.tgz")
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if renew or not package.get("integrity"):
            package["integrity"] = integrity
        elif package["integrity"] != integrity:
            raise Mismatch(f"{name}@{version} is {integrity}, pinned is {package['integrity']}")
        with tarfile.open(archive) as members:
            for member, pinned in package["files"].items():
                source = members.extractfile(f"package/{member}")
                assert source is not None, member
                content = source.read()
                found = hashlib.sha256(content).hexdigest()
                if renew or not pinned:
                    package["files"][member] = found
                elif found != pinned:
                    raise Mismatch(f"{name}@{version}: {member} is {found}, pinned is {pinned}")
                target = place / package["folder"] / Path(member).name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(content)


def _written(packages: list[dict[str, Any]]) -> str:
    parts = [HEAD]
    for package in packages:
        parts.append("\n[[package]]\n")
        parts += [f'{key} = "{package[key]}"\n' for key in ("name", "version", "licence", "folder", "integrity")]
        parts.append("[package.files]\n")
        parts += [f'"{member}" = "{digest}"\n' for member, digest in package["files"].items()]
    return "".join(parts)


if __name__ == "__main__":
    main(sys.argv[1:])
