"""Progress bars of many devices."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Standing(Protocol):
    """How far they are: see `Report`."""

    seconds: float

    @property
    def finished(self) -> int:
        """Devices whose boot ended."""

    @property
    def boot_failures(self) -> int:
        """Those of them that it ended badly for."""

    @property
    def linked(self) -> int:
        """Devices that were to connect, and have ended."""

    @property
    def link_failures(self) -> int:
        """Those of them that it ended badly for."""


@contextlib.contextmanager
def progress(booting: int, connecting: int) -> Iterator[Callable[[Standing], None]]:
    """Bars on stderr, to be told of each change. booting, connecting: how many devices are to."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f}/s  {task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        boots = bars.add_task("provisioning", total=booting, rate=0.0, failed=0)
        links = bars.add_task("connecting", total=connecting, rate=0.0, failed=0, visible=connecting > 0)

        def update(so_far: Standing) -> None:
            for bar, ended, failed in (
                (boots, so_far.finished, so_far.boot_failures),
                (links, so_far.linked, so_far.link_failures),
            ):
                rate = ended / so_far.seconds if so_far.seconds else 0.0
                bars.update(bar, completed=ended, rate=rate, failed=failed)

        yield update
