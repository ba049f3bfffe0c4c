"""A station of the production line: it gets a unit's token from the line, and the token into the unit."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from provserver.core import edgent
from provserver.core.edgent import Settings
from provserver.errors import Unavailable
from provserver.services import injection
from provserver.services.eol import Reservation
from provserver.services.injection import Way

PAUSES = (0.2, 1.0, 3.0)
"""Seconds between tries to record that a unit is written, when the line does not answer."""

Record = TypeVar("Record")
Record_co = TypeVar("Record_co", covariant=True)


class Line(Protocol[Record_co]):
    """Where the tokens of a profile are kept. All raise Refused, Unavailable."""

    def hold(self, unit: str) -> AbstractAsyncContextManager[str]:
        """Have a unit to oneself; the profile's template id."""

    async def reserve(self, unit: str, match: str | None) -> Reservation:
        """The token for a unit; match: see `EndOfLine.reserve`."""

    async def written(self, reservation: Reservation) -> Record_co:
        """Record that a unit has its token; it may be said twice."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done to a unit.

    settings: what it gets beside its token. label: a file for its QR code. match: see `EndOfLine.reserve`.
    """

    way: Way
    settings: Settings
    label: Path | None = None
    match: str | None = None


@dataclass(frozen=True, slots=True)
class Done(Generic[Record]):
    """A unit that has its token. record: as the line has it; about: what the unit has said of itself."""

    reservation: Reservation
    record: Record
    about: Mapping[str, str]


async def write(line: Line[Record], unit: str, work: Work, pauses: Sequence[float] = PAUSES) -> Done[Record]:
    """Give a unit its token, with all that belongs to it. Raises Refused, before it reserves one where it can.

    The label is there before the unit counts as written: a unit without one is run again.
    """
    blank = injection.with_token(work.settings, edgent.BLANK)
    work.way.check(blank)
    if work.label is not None:
        injection.check_label(work.label)
    async with line.hold(unit) as template_id:
        work.way.check(blank, template_id)
        reservation = await line.reserve(unit, work.match)
        settings = injection.with_token(work.settings, reservation.auth)
        about = await work.way.inject(settings, reservation.template_id)
        if work.label is not None:
            injection.print_label(work.label, reservation.payload, (reservation.unit, reservation.profile))
        return Done(reservation, await _written(line, reservation, pauses), about)


async def _written(line: Line[Record], reservation: Reservation, pauses: Sequence[float]) -> Record:
    """Say it again when the line went away under it."""
    for pause in pauses:
        try:
            return await line.written(reservation)
        except Unavailable:
            await asyncio.sleep(pause)
    return await line.written(reservation)
