"""Imports of devices from CSV, and what came of them."""

from collections.abc import Iterable

from provserver.core import csvfile
from provserver.services.device_import import ImportReport
from tests.conftest import Space
from tests.services.conftest import Fleet


async def load(fleet: Fleet, lines: Iterable[str], *, dry_run: bool = False, partial: bool = False) -> ImportReport:
    """Import lines of a CSV file into the profile of a fleet."""
    return await fleet.space.devices.import_(csvfile.read_devices(lines), "sensors", dry_run=dry_run, partial=partial)


def where(report: ImportReport) -> list[tuple[int, str | None]]:
    """Line and column of each error."""
    return [(error.line, error.column) for error in report.errors]


async def names(space: Space) -> list[str]:
    """The names of all devices, in order of making."""
    return [device.name async for device in space.devices.stream()]
