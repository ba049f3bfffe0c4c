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

from provserver import metrics
from provserver.core import ids
from provserver.core.sink import Delivery, QueuedMessage, Receiver
from provserver.services.lead import Lead, backoff
from provserver.store import sink as store
from provserver.store.database import Database
from provserver.store.lead import Connection

log = logging.getLogger("provserver.sink")

BATCH = 500
IDLE = 1.0
"""Seconds after which the queue is looked at unasked: another process may have filled it."""

REFUSED_DELAYS = (2.0, 10.0)
"""Seconds until a message that was refused by itself is tried again; after as many tries it is dropped. Short, as the
span of waiting ids is what bounds the queue."""

_FIRST_DELAY, _LAST_DELAY = 0.5, 60.0
"""Seconds between tries while the receiver is away."""


class Sink(Lead):
    """Sends what is queued. sent, dropped, refused: messages since this process began; waiting: as last seen."""

    def __init__(
        self, database: Database, receiver: Receiver, *, limit: int = 1_000_000, random: ids.Randomness = os.urandom
    ) -> None:
        super().__init__(database, store.LOCK, "sink", IDLE)
        self._receiver = receiver
        self._random = random
        self._wake = asyncio.Event()
        self._failing = False
        self._full = False
        self.limit = limit
        self.sent = self.dropped = self.refused = self.waiting = 0

    async def stop(self, grace: float) -> None:
        """Let what is being sent be acknowledged within `grace` seconds; the rest waits for the next start."""
        self._wake.set()
        await super().stop(grace)
        await self._receiver.close()
        if self.dropped or self.refused:
            log.warning(
                "since the start %d messages for the sink found no room, and %d were refused",
                self.dropped,
                self.refused,
            )

    def queued(self, number: int, dropped: int) -> None:
        """So many messages were queued, and so many found no room."""
        metrics.SINK_QUEUED.cell().value += number
        metrics.SINK_DROPPED.cell().value += dropped
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

    async def _watch(self, connection: Connection) -> None:
        self.waiting = await store.waiting(connection)

    async def _serve(self, connection: Connection) -> None:
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
                    async with asyncio.timeout(IDLE):  # `wait_for` may lose a cancellation until Python 3.12
                        await self._wake.wait()

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
                metrics.SINK_REFUSED.cell().value += 1
                log.warning("the sink refuses a message of device %s for good: %s", message.device_id, why)
        if gone:
            await store.delete(connection, gone)
        self.sent += len(delivery.delivered)
        metrics.SINK_SENT.cell().value += len(delivery.delivered)

    def _backoff(self, failures: int) -> float:
        return backoff(failures, _FIRST_DELAY, _LAST_DELAY, self._random)

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
