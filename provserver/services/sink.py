"""The sink: every accepted message goes on to the operator's broker or endpoint, at least once.

Messages are queued by the transaction that accepts them (`services/data.py`). Of all processes one sends, in order,
and deletes what was acknowledged; whoever kills it, another or the next one goes on. While the receiver is away,
messages wait; past `limit`, new ones are dropped (not the device's data), and counted.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from provserver.core import ids
from provserver.core.sink import Delivery, QueuedMessage, Receiver
from provserver.store import sink as store
from provserver.store.database import Database
from provserver.store.sink import Connection

log = logging.getLogger("provserver.sink")

BATCH = 500
IDLE = 1.0
"""Seconds after which the queue is looked at unasked: another process may have filled it."""

REFUSED_DELAYS = (2.0, 10.0)
"""Seconds until a message that was refused by itself is tried again; after as many tries it is dropped. Short, as the
span of waiting ids is what bounds the queue."""

_FIRST_DELAY, _LAST_DELAY = 0.5, 60.0
"""Seconds between tries while the receiver is away."""


class Sink:
    """Sends what is queued. sent, dropped, refused: messages since this process began; waiting: as last seen."""

    def __init__(
        self, database: Database, receiver: Receiver, *, limit: int = 1_000_000, random: ids.Randomness = os.urandom
    ) -> None:
        self._database = database
        self._receiver = receiver
        self._random = random
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self._full = False
        self.limit = limit
        self.sent = self.dropped = self.refused = self.waiting = 0

    async def start(self) -> None:
        """Send from now on, whenever this process is the one that does."""
        self._task = asyncio.create_task(self._run(), name="sink")

    async def stop(self, grace: float) -> None:
        """Let what is being sent be acknowledged within `grace` seconds; the rest waits for the next start."""
        self._stopping.set()
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=grace)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._receiver.close()
        if self.dropped or self.refused:
            log.warning(
                "since the start %d messages for the sink found no room, and %d were refused",
                self.dropped,
                self.refused,
            )

    def queued(self, number: int, dropped: int) -> None:
        """So many messages were queued, and so many found no room."""
        if number:
            self._wake.set()
            if self._full and not dropped:
                self._full = False
                log.info("messages are queued for the sink again; %d were dropped since the start", self.dropped)
        if dropped:
            self.dropped += dropped
            if not self._full:
                self._full = True
                log.warning("%d messages wait for the sink: new ones are dropped until there is room", self.limit)

    async def _run(self) -> None:
        away = False
        while not self._stopping.is_set():
            try:
                connection = await self._database.dedicated()
                try:
                    away = False
                    await self._serve(connection)
                finally:
                    connection.terminate()
            except Exception as fault:  # whatever it is, who is waited for must not end
                if not self._database.is_away(fault):
                    log.exception("the sink has failed, and begins anew")
                elif not away:
                    log.warning("the sink waits for the database: %s", type(fault).__name__)
                away = True
                await self._pause(IDLE)

    async def _serve(self, connection: Connection) -> None:
        while not await store.take_lead(connection):
            self.waiting = await store.waiting(connection)
            if await self._pause(IDLE):
                return
        failures = 0
        while not self._stopping.is_set():
            self._wake.clear()
            messages = await store.due(connection, BATCH)
            delivery = await self._receiver.send(messages) if messages else Delivery()
            await self._settle(connection, messages, delivery)
            if len(messages) < BATCH or delivery.fault:
                self.waiting = await store.waiting(connection)
            if delivery.fault:
                failures = 1 if delivery.delivered else failures + 1
                self._say_failing(delivery.fault)
                await self._pause(max(self._backoff(failures), delivery.retry_after))
            elif messages:
                failures = 0
                self._say_well()
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), IDLE)

    async def _settle(self, connection: Connection, messages: Sequence[QueuedMessage], delivery: Delivery) -> None:
        gone = list(delivery.delivered)
        for message in messages:
            if (why := delivery.refused.get(message.id)) is None:
                continue
            if message.refusals < len(REFUSED_DELAYS):
                await store.refused(connection, message.id, timedelta(seconds=REFUSED_DELAYS[message.refusals]))
            else:
                gone.append(message.id)
                self.refused += 1
                log.warning("the sink refuses a message of device %s for good: %s", message.device_id, why)
        if gone:
            await store.delete(connection, gone)
        self.sent += len(delivery.delivered)

    def _backoff(self, failures: int) -> float:
        """Doubling, and at random between half of it and all, so that servers that failed together part."""
        longest: float = min(_LAST_DELAY, _FIRST_DELAY * 2 ** min(failures - 1, 16))
        return longest * (0.5 + self._random(1)[0] / 512)

    async def _pause(self, seconds: float) -> bool:
        """Wait; True when it is time to stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    def _say_failing(self, why: str) -> None:
        if not self._failing:
            self._failing = True
            log.warning("the sink cannot be reached, messages wait for it: %s", why)

    def _say_well(self) -> None:
        if self._failing:
            self._failing = False
            log.info("the sink is reached again")
            if self.dropped:
                log.warning("%d messages for the sink were dropped since the start", self.dropped)
