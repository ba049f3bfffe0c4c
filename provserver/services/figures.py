"""Figures that cost something to find: who asks gets the last ones, and newer ones are found behind."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from provserver.errors import Unavailable, described

log = logging.getLogger("provserver.overview")

Found = TypeVar("Found")

SHARE = 0.05
"""Of the time, at most, that one organization's figures are being found."""


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Found]):
    value: Found
    fresh_until: float


class Figures(Generic[Found]):
    """Figures of organizations, found once at a time for each.

    find: finds an organization's anew, beginning with the last ones, if there are any. turns: how many may be found at
    once, shared by all that cost the database much. least: seconds for which figures are taken as new. patience:
    seconds that somebody waits for newer ones; first: for the first. keep: of how many organizations they are kept,
    those that were asked for last.
    """

    def __init__(
        self,
        find: Callable[[UUID, Found | None], Awaitable[Found]],
        turns: asyncio.Semaphore,
        *,
        least: float = 1.0,
        patience: float = 0.05,
        first: float = 2.0,
        keep: int = 64,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._turns = turns
        self._least = least
        self._patience = patience
        self._first = first
        self._keep = keep
        self._monotonic = monotonic
        self._entries: OrderedDict[UUID, _Entry[Found]] = OrderedDict()
        self._under_way: dict[UUID, asyncio.Task[Found]] = {}

    async def of(self, organization_id: UUID) -> Found | None:
        """An organization's figures; None: the first are being found, and will be there.

        Raises what `find` raises where there are none from before.
        """
        entry = self._entries.get(organization_id)
        if entry is not None:
            self._entries.move_to_end(organization_id)
            if self._monotonic() < entry.fresh_until:
                return entry.value
        task = self._under_way.get(organization_id)
        if task is None:
            task = asyncio.create_task(self._renew(organization_id), name="figures")
            self._under_way[organization_id] = task
            task.add_done_callback(lambda done: self._ended(organization_id, done))
        done, _ = await asyncio.wait({task}, timeout=self._first if entry is None else self._patience)
        if done and task.cancelled():
            raise Unavailable("The server is stopping.")
        if done and (entry is None or task.exception() is None):
            return task.result()
        return None if entry is None else entry.value

    async def stop(self) -> None:
        """Find no more."""
        for task in (under_way := tuple(self._under_way.values())):
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _renew(self, organization_id: UUID) -> Found:
        async with self._turns:
            begun, last = self._monotonic(), self._entries.get(organization_id)
            value = await self._find(organization_id, None if last is None else last.value)
            now = self._monotonic()
        fresh_until = now + max(self._least, (now - begun) / SHARE)
        self._entries[organization_id] = _Entry(value, fresh_until)
        self._entries.move_to_end(organization_id)
        while len(self._entries) > self._keep:
            self._entries.popitem(last=False)
        return value

    def _ended(self, organization_id: UUID, task: asyncio.Task[Found]) -> None:
        del self._under_way[organization_id]
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.warning("figures of the overview could not be found: %s", described(fault))
