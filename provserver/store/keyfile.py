"""The server's keys, outside the database: in a file or a text of the environment (DESIGN §4, "Secrets")."""

import base64
import binascii
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from provserver.core.secrets import KEY_LENGTH, ServerKeys
from provserver.errors import Misconfigured
from provserver.store import server_keys
from provserver.store.database import Database
from provserver.store.server_keys import Version


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where the keys come from: a file, unless their text is given, as PROVSERVER_KEYS is."""

    path: Path
    text: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """What people know it as."""
        return "PROVSERVER_KEYS" if self.text else str(self.path)

    @property
    def present(self) -> bool:
        """Whether there are keys already."""
        return bool(self.text) or self.path.exists()

    def load(self) -> ServerKeys:
        """The keys that are there. Raises Misconfigured."""
        return _parse(self.text, self.name) if self.text else _read(self.path)

    def load_or_create(self) -> ServerKeys:
        """The keys; a file is made where there is none. Raises Misconfigured."""
        return self.load() if self.text else load_or_create(self.path)


def load_or_create(path: Path) -> ServerKeys:
    """The keys in the file; made at the first start, mode 0600. Raises Misconfigured.

    JSON: {"digest": {"1": base64 of 32 bytes}, "sealing": {"1": …}}.
    """
    try:
        made = not path.exists()
    except OSError as fault:
        raise Misconfigured(f"{path} cannot be read: {fault.strerror}.") from None
    if made:
        _make(path, ServerKeys({1: os.urandom(KEY_LENGTH)}, {1: os.urandom(KEY_LENGTH)}))
    return _read(path)


def replace(path: Path, keys: ServerKeys) -> None:
    """Write the file anew, whole or not at all; its owner stays. Raises Misconfigured."""
    try:
        owner = path.stat()
        with _unfinished(path, keys) as unfinished:
            if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(unfinished, owner.st_uid, owner.st_gid)
            unfinished.replace(path.resolve())
        _sync(path.resolve().parent)
    except OSError as fault:
        raise Misconfigured(f"{path} cannot be written: {fault.strerror}.") from None


def write_new(path: Path, keys: ServerKeys) -> None:
    """Make a file of keys, for the owner alone. Raises Misconfigured, also when it is there already."""
    if path.exists():
        raise Misconfigured(f"{path} exists already. Name a file that does not.")
    _make(path, keys)


def text_of(keys: ServerKeys) -> str:
    """The JSON of keys: a secret."""
    return json.dumps(
        {
            purpose: {str(version): base64.b64encode(key).decode() for version, key in sorted(versions.items())}
            for purpose, versions in (("digest", keys.digest_keys), ("sealing", keys.sealing_keys))
        }
    )


async def of_database(database: Database, source: KeySource) -> ServerKeys:
    """The keys that a database is written with, made with a new one. Raises Misconfigured.

    Where there are none any more, none are made.
    """
    async with database.connection() as connection:
        used = bool(await server_keys.proofs(connection))
    try:
        missing = used and not source.present
    except OSError as fault:
        raise Misconfigured(f"{source.path} cannot be read: {fault.strerror}.") from None
    if missing:
        raise Misconfigured(
            f"There are no keys at {source.path.absolute()}, and this database was written with some. "
            "Use the keys file that belongs to it (--data-dir, or option keys_file): put a copy of it there, or "
            "restore a backup into a new data directory (provserver restore), and copy it from there."
        )
    keys = source.load_or_create()
    await prove(database, keys)
    return keys


async def prove(database: Database, keys: ServerKeys) -> None:
    """Check that the database was written with these keys, or mark a new one; a version that is new is noted.

    The keys come to know which version is current, and forget those that were retired. Raises Misconfigured.
    """
    async with database.transaction() as connection:
        known = await server_keys.proofs(connection)
        newest = max((version for _, version in known), default=0)
        for purpose, held in (("digest", keys.digest_keys), ("sealing", keys.sealing_keys)):
            for version, key in held.items():
                if (purpose, version) in known:
                    continue
                if version > newest:
                    first = "current" if version == max(held) else "settled"
                    proof = server_keys.proof(purpose, key)
                    await server_keys.add(connection, purpose, version, proof, "new" if newest else first)
        recheck(await server_keys.proofs(connection), keys)
        adopt(keys, keys, await server_keys.versions(connection))


def recheck(proofs: Mapping[tuple[str, int], bytes], keys: ServerKeys) -> None:
    """Check keys against what a database has of them. Raises Misconfigured."""
    for purpose, held in (("digest", keys.digest_keys), ("sealing", keys.sealing_keys)):
        for version, key in held.items():
            if proofs.get((purpose, version)) != server_keys.proof(purpose, key):
                raise Misconfigured(
                    f"The {purpose} key {version} is not the one this database was written with. "
                    "Use the keys file that belongs to it (--data-dir, or option keys_file)."
                )


def adopt(keys: ServerKeys, loaded: ServerKeys, versions: Sequence[Version]) -> None:
    """Have keys be what was loaded, as far as the database knows of it. Raises Misconfigured when one is missing."""
    states = {version.number: version.state for version in versions}
    for version, state in states.items():
        if state not in ("new", "retired") and version not in loaded.digest_keys:
            raise Misconfigured(
                f"Version {version} of the keys is missing, which this database is written with. "
                "Use the keys that belong to it (--data-dir, or option keys_file)."
            )
    current = next(version for version, state in states.items() if state == "current")
    keep = [version for version in loaded.digest_keys if states.get(version, "retired") != "retired"]
    keys.take_up(
        {version: loaded.digest_keys[version] for version in keep},
        {version: loaded.sealing_keys[version] for version in keep},
        current,
        settled=not {"new", "old"} & {states[version] for version in keep},
    )


def check_private(path: Path) -> None:
    """Look whether a file is for its owner alone, or systemd's for this service. Raises Misconfigured, OSError."""
    status = path.stat()
    # Of a credential an ACL may say who reads it, whose mask is shown as what its group may.
    others = 0o037 if _is_credential(path) else 0o077
    if not status.st_mode & others:
        return
    if not stat.S_ISREG(status.st_mode):
        raise Misconfigured(f"{path} is not a regular file.")
    raise Misconfigured(f"{path} can be read by others than its owner. Run: chmod 600 {path}")


def _is_credential(path: Path) -> bool:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(directory) and path.resolve().is_relative_to(Path(str(directory)).resolve())


def _read(path: Path) -> ServerKeys:
    try:
        check_private(path)
        return _parse(path.read_text(), str(path))
    except OSError as fault:
        raise Misconfigured(f"{path} cannot be read: {fault.strerror}.") from None
    except UnicodeDecodeError:
        return _parse("", str(path))


def _parse(text: str, name: str) -> ServerKeys:
    try:
        content = json.loads(text)
        digest, sealing = _keys(content["digest"]), _keys(content["sealing"])
        if digest.keys() != sealing.keys():
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error):
        raise Misconfigured(
            f'{name} must be {{"digest": {{"1": KEY}}, "sealing": {{"1": KEY}}}}, each version in both, '
            f"KEY being the base64 of {KEY_LENGTH} bytes. Restore it from your backup."
        ) from None
    return ServerKeys(digest, sealing)


def _make(path: Path, keys: ServerKeys) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _unfinished(path, keys) as unfinished, suppress(FileExistsError):
            os.link(unfinished, path)  # who comes second takes the first one's keys
        _sync(path.parent)
    except OSError as fault:
        raise Misconfigured(f"{path} cannot be written: {fault.strerror}.") from None


@contextmanager
def _unfinished(path: Path, keys: ServerKeys) -> Iterator[Path]:
    """The keys in a file beside the path, gone at the end."""
    unfinished = path.resolve().with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text_of(keys))
            file.flush()
            os.fsync(file.fileno())
        yield unfinished
    finally:
        unfinished.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keys(versions: Mapping[str, str]) -> dict[int, bytes]:
    keys = {int(version): base64.b64decode(key, validate=True) for version, key in versions.items()}
    if not keys or not all(0 < v < 256 and len(key) == KEY_LENGTH for v, key in keys.items()):
        raise ValueError
    return keys
