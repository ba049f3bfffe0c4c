"""What others wrote is what `vendor.toml` says, and it is shipped with its licences."""

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "provserver/admin/console/static/vendor"
PLACES = [SHIPPED, ROOT / "tests/browser/vendor"]


def _packages(place: Path) -> list[dict[str, Any]]:
    packages: list[dict[str, Any]] = tomllib.loads((place / "vendor.toml").read_text())["package"]
    return packages


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.parent.name)
def test_each_file_is_as_pinned_and_no_other_is_there(place: Path) -> None:
    pinned = {
        f"{package['folder']}/{Path(member).name}": digest
        for package in _packages(place)
        for member, digest in package["files"].items()
    }
    there = {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in place.rglob("*")
        if path.is_file() and path.name != "vendor.toml"
    }
    assert there == pinned


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.parent.name)
def test_each_package_has_its_version_integrity_and_licence(place: Path) -> None:
    for package in _packages(place):
        assert package["version"].count(".") == 2
        assert package["integrity"].startswith("sha512-")
        assert package["licence"]
        assert any(Path(member).name.startswith("LICENSE") for member in package["files"]), package["name"]


def test_the_wheel_has_the_consoles_files() -> None:
    """Templates, styles, scripts, and what others wrote with its licences."""
    console = ROOT / "provserver/admin/console"
    wanted = {
        str(path.relative_to(ROOT))
        for path in console.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    shipped = {each.distribution_path for each in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert wanted <= shipped
    assert not any(".ci" in path or path.startswith("tests/") for path in shipped)
