"""The overview: how far devices have come, what becomes of their requests, which provision keys end soon.

Nothing here makes anybody wait for a count of all devices: see `figures.py`.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple
from uuid import UUID

from provserver.core import ids
from provserver.core.authorization import Permission, Principal
from provserver.errors import Outcome
from provserver.services.figures import Figures
from provserver.store import overview as store
from provserver.store.database import Database
from provserver.store.overview import BudgetRow, Stages

__all__ = ["BUCKETS", "BudgetRow", "Funnel", "Overview", "Series", "Stages", "Summary"]

BUCKETS: Mapping[int, int] = {1: 60, 24: 900, 168: 7_200, 720: 28_800}
"""How many hours may be looked back, with the seconds of one part of them."""

SOON = timedelta(days=14)
"""A provision key that expires within this is told of first."""

SHARE = 0.8
"""Likewise one of whose uses so many are used."""

KEPT = timedelta(days=14)
"""How long a key that has expired is told of."""

MAX_KEYS = 10

_LATENESS = 15.0
"""Seconds by which an attempt may be committed later than its id says."""

_AT_ONCE = 1
"""Counts that the database is asked for at once."""


class Funnel(NamedTuple):
    """How far devices have come.

    made: devices, and static tokens whose devices are not there yet. devices: those of them that are there.
    provisioned: devices whose provisionState says so. connected: that have connected at least once. online: that
    are connected now. claimed: that a user owns, that another organization than their maker holds, or whose static
    token is claimed.
    """

    at: datetime
    made: int
    devices: int
    provisioned: int
    connected: int
    online: int
    claimed: int


@dataclass(frozen=True, slots=True)
class Series:
    """What became of attempts over time. Each part lasts `step` seconds; the last one is not over.

    begin: of the first part, in seconds since the epoch. outcomes, reasons: the counts of each part; of reasons, those
    of what was not granted.
    """

    at: datetime
    hours: int
    step: int
    begin: int
    outcomes: Mapping[str, Sequence[int]]
    reasons: Mapping[str, Sequence[int]]


class Summary(NamedTuple):
    """An overview. None: they are being counted for the first time; attempts, keys: also without profiles:view."""

    funnel: Funnel | None
    attempts: Series | None
    keys: Sequence[BudgetRow] | None


Counts = Counter[tuple[str, str | None]]


@dataclass(frozen=True, slots=True)
class _Progress:
    """Counted so far. settled: by the second that a part begins with, up to `until`, before which none will come."""

    series: Series
    settled: Mapping[int, Counts]
    until: float


class Overview:
    """Tells a principal how things are in its organization and those below it."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        turns = asyncio.Semaphore(_AT_ONCE)
        self._funnels = Figures(self._funnel, turns)
        self._series = {hours: Figures(partial(self._count, hours), turns) for hours in BUCKETS}

    async def show(self, principal: Principal, hours: int = 24) -> Summary:
        """How things are. hours: one of BUCKETS. Raises Forbidden, Unavailable."""
        principal.require(Permission.DEVICES_VIEW)
        funnel = await self._funnels.of(principal.organization_id)
        if Permission.PROFILES_VIEW not in principal.permissions:
            return Summary(funnel, None, None)
        progress = await self._series[hours].of(principal.organization_id)
        async with self._database.connection() as connection:
            keys = await store.budgets(
                connection, principal.organization_id, soon=SOON, share=SHARE, kept=KEPT, limit=MAX_KEYS
            )
        return Summary(funnel, None if progress is None else progress.series, keys)

    async def stop(self) -> None:
        """Count no more."""
        await self._funnels.stop()
        for each in self._series.values():
            await each.stop()

    async def _funnel(self, organization_id: UUID, _last: Funnel | None) -> Funnel:
        async with self._database.connection() as connection:
            found = await store.stages(connection, organization_id)
        return Funnel(
            self._now(),
            found.devices + found.tokens,
            found.devices,
            found.provisioned,
            found.connected,
            found.online,
            found.claimed,
        )

    async def _count(self, hours: int, organization_id: UUID, last: _Progress | None) -> _Progress:
        """What has come since the last time, added to what was there."""
        now, step = self._clock(), BUCKETS[hours]
        current = math.floor(now / step) * step
        begins = range(current - hours * 3_600 + step, current + step, step)
        begin = float(begins[0]) if last is None else max(begins[0], last.until)
        until = max(begin, now - _LATENESS)
        bounds = sorted({begin, until, *(float(each) for each in begins if each > begin)})
        async with self._database.connection() as connection:
            found = await store.tally(connection, organization_id, [ids.floor(each) for each in bounds])
        kept = {} if last is None else last.settled
        settled = {each: Counter(kept.get(each, {})) for each in begins}
        late: dict[int, Counts] = {each: Counter() for each in begins}
        for place, outcome, reason, number in found:
            since = bounds[place]
            part = math.floor(since / step) * step
            (settled if since < until else late)[part][outcome, reason] += number
        totals = [settled[each] + late[each] for each in begins]
        outcomes = {each for total in totals for each, _ in total}
        reasons = {reason for total in totals for outcome, reason in total if _is_refusal(outcome, reason)}
        series = Series(
            self._now(),
            hours,
            step,
            begins[0],
            {each: [_sum(total, outcome=each) for total in totals] for each in outcomes},
            {each: [_sum(total, reason=each) for total in totals] for each in reasons if each is not None},
        )
        return _Progress(series, settled, until)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _is_refusal(outcome: str, reason: str | None) -> bool:
    return reason is not None and outcome != Outcome.SUCCESS.value


def _sum(counts: Counts, *, outcome: str | None = None, reason: str | None = None) -> int:
    """Of one outcome; or of one reason, where it was not granted."""
    if outcome is not None:
        return sum(count for (each, _), count in counts.items() if each == outcome)
    return sum(count for (each, why), count in counts.items() if why == reason and _is_refusal(each, why))
