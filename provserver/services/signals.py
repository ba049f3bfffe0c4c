"""Events of what no transaction does: failures, suspicions. However often one happens, it is told once a minute.

The first of a kind is told at once; those that follow are counted, and told together when the minute is over.
"""

import asyncio
import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from asyncpg import PostgresError
from msgspec import structs

from provserver.core.events import Event, EventType
from provserver.core.telemetry import Value
from provserver.errors import Unavailable
from provserver.services.grouping import Grouper
from provserver.store import outbox
from provserver.store.database import Database

log = logging.getLogger("provserver.outbox")

PERIOD = 60.0
"""Seconds for which what is told once is only counted."""

MAX_SUBJECTS = 10_000
"""How many are counted at once; of more, nothing is told until there is room."""


@dataclass(frozen=True, slots=True)
class _Window:
    """What is counted of one subject. count: since it was told last."""

    ends: float
    event: Event
    count: int = 0


class Signals:
    """Writes such events, in groups, and nobody waits for it. Each process counts for itself."""

    def __init__(self, database: Database, *, period: float = PERIOD) -> None:
        self._database = database
        self._period = period
        self._windows: dict[tuple[EventType, Hashable], _Window] = {}  # in order of their ends
        self._timer: asyncio.TimerHandle | None = None
        self._events = Grouper("signal", self._record)

    def note(
        self,
        type_: EventType,
        subject: Hashable,
        payload: Mapping[str, Value],
        *,
        device_id: UUID | None = None,
        organization_id: UUID | None = None,
    ) -> None:
        """Tell of it, or count it: an event says `count`, and of those that it counts it has the last one's payload."""
        key = (type_, subject)
        event = Event(type_, payload, device_id, organization_id)
        window = self._windows.get(key)
        if window is not None:
            self._windows[key] = replace(window, event=event, count=window.count + 1)
        elif len(self._windows) < MAX_SUBJECTS:
            self._tell(key, event, 1)

    async def drain(self) -> None:
        """Tell what is counted, and wait until it is written."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        windows, self._windows = self._windows, {}
        for window in windows.values():
            if window.count:
                self._post(window.event, window.count)
        await self._events.drain()

    def _tell(self, key: tuple[EventType, Hashable], event: Event, count: int) -> None:
        loop = asyncio.get_running_loop()
        self._windows[key] = _Window(loop.time() + self._period, event)
        if self._timer is None:
            self._timer = loop.call_later(self._period, self._sweep)
        self._post(event, count)

    def _sweep(self) -> None:
        """Tell of those whose time is over; who had nothing to count is forgotten."""
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if window.ends > loop.time():
                if self._timer is None:  # which telling sets
                    self._timer = loop.call_at(window.ends, self._sweep)
                return
            del self._windows[key]
            if window.count:
                self._tell(key, window.event, window.count)

    def _post(self, event: Event, count: int) -> None:
        if not self._events.post(structs.replace(event, payload={**event.payload, "count": count})):
            log.warning("an event was not recorded: too many wait")

    async def _record(self, events: Sequence[Event]) -> list[None]:
        try:
            async with self._database.connection() as connection:
                await outbox.record_all(connection, events)
        except Unavailable as fault:
            log.warning("%d events were not recorded: %s", len(events), fault)
        except PostgresError as fault:
            if len(events) > 1 and not self._database.is_lock_timeout(fault):  # it may be due to one of them
                for event in events:
                    await self._record([event])
                return [None] * len(events)
            log.error("%d events were not recorded: %s", len(events), type(fault).__name__)  # noqa: TRY400
        return [None] * len(events)
