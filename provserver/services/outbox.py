"""Tells webhooks what happens: at least once, and of each device in order.

Events leave the outbox for a queue of each webhook that wants them (`store/deliveries.py`). Of all processes one
delivers; whoever kills it, another goes on. A webhook that cannot be reached is left alone for ever longer, and nobody
else waits for it. An event that is refused while others get through waits by itself, with the later ones of its device,
and is dead after so many tries. All that waits is in the database: in memory is one batch of each webhook at work.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from provserver import metrics
from provserver.adapters.webhook import WebhookClient
from provserver.core import events, ids
from provserver.core.secrets import ServerKeys, Unsealable
from provserver.core.webhook import Answer, DeliveryState
from provserver.services.lead import IDLE, Lead, backoff
from provserver.store import deliveries as store
from provserver.store.database import Database
from provserver.store.deliveries import Due, Result, Target
from provserver.store.lead import Connection

BATCH = 500
"""Events that leave the outbox at once."""

MAX_AT_ONCE = 16
"""Webhooks that are told something at one time."""

MAX_OF_ONE = 4
"""As many of them are of one organization: others are told, however slow these are."""

ROUND = 15.0
"""Seconds after which no further event of a batch is sent: it is the turn of other webhooks."""

WINDOW = 100
"""Events of one webhook that are in memory: as many may be sent twice when the process is killed."""

LANES = 8
"""Requests to one webhook at one time, each of another device."""

TRIES = 10
GIVE_UP = 3 * 86_400.0
RETENTION = 7 * 86_400.0
"""Until an event that is refused is dead; seconds until all are that have waited, out of reach or behind others; and
until events that nobody waits for are removed."""

_FIRST_PAUSE, _LAST_PAUSE = 1.0, 300.0
"""Seconds between tries of a webhook that cannot be reached."""

_FIRST_DELAY, _LAST_DELAY = 5.0, 3600.0
"""Seconds between tries of an event that is refused."""

_LOOK_AGAIN = 10.0
"""Seconds after which a webhook is looked at again whose events all wait for others: a replay may have come."""

_COUNT_EVERY, _SWEEP_EVERY = 15.0, 300.0
_CHUNK, _CHUNKS = 1000, 10
"""Rows that are given up or removed by one statement, and how many of these follow each other."""


@dataclass(slots=True)
class _Outage:
    """A webhook that cannot be reached is left alone until a time. failures: in a row."""

    until: float = 0.0
    failures: int = 0


@dataclass(slots=True)
class _Round:
    """What comes of a batch. well: whether the last try that ended got through, in it or before."""

    well: bool
    results: list[Result] = field(default_factory=list)
    delivered: int = 0
    away: Answer | None = None


class Outbox(Lead):
    """Delivers. tries, give_up, retention: see TRIES. delivered, failed, dead: since this process began."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        client: WebhookClient,
        *,
        tries: int = TRIES,
        give_up: float = GIVE_UP,
        retention: float = RETENTION,
        idle: float = IDLE,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(database, store.LOCK, "outbox", idle)
        self._keys = keys
        self._client = client
        self._tries = tries
        self._give_up = timedelta(seconds=give_up)
        self._retention = timedelta(seconds=retention)
        self._random = random
        self._clock = clock
        self._outages: dict[UUID, _Outage] = {}
        self._resting: dict[UUID, float] = {}  # webhooks for which nothing was due, and until when nobody looks again
        self._couriers: dict[UUID, asyncio.Task[None]] = {}
        self._organizations: dict[UUID, UUID] = {}  # of the webhooks that have a courier
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()  # of the one connection
        self._swept_at = self._counted_at = 0.0
        self.delivered = self.failed = self.dead = 0

    async def stop(self, grace: float) -> None:
        """Let requests that are under way be answered within `grace` seconds; the rest waits for the next start."""
        self._stopping.set()
        self._wake.set()
        await super().stop(grace)
        await self._client.close()

    async def _serve(self, connection: Connection) -> None:
        self._outages.clear()
        self._resting.clear()
        self._swept_at = self._clock()
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                moved = await self._fan_out(connection)
                await self._dispatch(connection)
                await self._keep_house(connection)
                if moved < BATCH:
                    await self._rest(self._idle)
                for id_, courier in list(self._couriers.items()):
                    if courier.done():
                        del self._couriers[id_], self._organizations[id_]
                        courier.result()
            await asyncio.gather(*self._couriers.values())
        finally:
            for courier in self._couriers.values():
                courier.cancel()
            await asyncio.gather(*self._couriers.values(), return_exceptions=True)
            self._couriers.clear()
            self._organizations.clear()

    async def _rest(self, seconds: float) -> None:
        """Until there may be something to do."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # `wait_for` may lose a cancellation until Python 3.12
                await self._wake.wait()

    async def _fan_out(self, connection: Connection) -> int:
        async with self._turn:
            if not await store.wanted(connection):
                return 0
            moved, told = await store.fan_out(connection, BATCH, self._now())
            for id_ in told:
                self._resting.pop(id_, None)
        return moved

    async def _dispatch(self, connection: Connection) -> None:
        """Send a courier to each webhook that something waits for."""
        room = MAX_AT_ONCE - len(self._couriers)
        if not room:
            return
        now = self._clock()
        self._resting = {id_: until for id_, until in self._resting.items() if until > now}
        away = [id_ for id_, outage in self._outages.items() if outage.until > now]
        async with self._turn:
            but = [*self._couriers, *self._resting, *away]
            busy = list(self._organizations.values())
            targets = await store.targets(connection, self._now(), but, room, busy, MAX_OF_ONE)
        for target in targets:
            courier = asyncio.create_task(self._tell(connection, target), name="courier")
            courier.add_done_callback(lambda _: self._wake.set())
            self._couriers[target.id] = courier
            self._organizations[target.id] = target.organization_id

    async def _tell(self, connection: Connection, target: Target) -> None:
        """Send a webhook the first of what waits for it; who may be down is asked with one event."""
        well = target.failing_since is None and target.id not in self._outages
        try:
            secret = self._keys.unseal(target.sealed, b"webhook:" + target.id.bytes)
        except Unsealable:
            await self._leave_alone(connection, target, Answer(None, "the webhook's secret cannot be opened"))
            return
        async with self._turn:
            waiting = await store.due(connection, target.id, self._now(), WINDOW if well else 1)
            if not waiting:
                self._resting[target.id] = self._clock() + _LOOK_AGAIN
                return
        old = waiting[0].queued_at < self._now() - self._give_up
        if old and await self._give_up_old(connection, target, "it has waited for too long"):
            return
        sent = await self._send(target, secret, waiting, well=well)
        if sent.away is not None:
            await self._leave_alone(connection, target, sent.away, sent.results)
            return
        async with self._turn:
            if sent.results:
                await store.settle(connection, target.id, self._now(), sent.results)
            if sent.delivered and not well:
                await store.reached(connection, target.id)
                self._outages.pop(target.id, None)
                self._log.info("webhook %s is reached again", target.id)

    async def _send(self, target: Target, secret: bytes, waiting: Sequence[Due], *, well: bool) -> _Round:
        """Try a batch: of each device one after the other, of several at once."""
        sent = _Round(well)
        lanes = iter(_by_device(waiting))
        end = time.monotonic() + ROUND

        async def work() -> None:
            for lane in lanes:
                for event in lane:
                    if sent.away is not None or self._stopping.is_set():
                        return
                    got_through = await self._try(target, secret, event, sent)
                    if time.monotonic() >= end:
                        return
                    if not got_through:
                        break

        await asyncio.gather(*(work() for _ in range(min(LANES, len(waiting)))))
        return sent

    async def _try(self, target: Target, secret: bytes, event: Due, sent: _Round) -> bool:
        body = events.encode(event.id, event.type, event.created_at, event.payload)
        answer = await self._client.send(target.url, secret, event.id, body, self._clock())
        if not answer.error:
            sent.well = True
            sent.delivered += 1
            sent.results.append(Result(event.id, DeliveryState.DELIVERED, False, None, answer.status, None))
            self.delivered += 1
            _DELIVERED.value += 1
            return True
        refused = answer.refused or sent.well
        if not answer.refused:
            sent.away, sent.well = answer, False
        refusals = event.refusals + refused
        self.failed += 1
        _FAILED.value += 1
        if refused and refusals >= self._tries:
            self.dead += 1
            _DEAD.value += 1
            self._log.warning("an event is refused by webhook %s for good: %s", target.id, answer.error)
            sent.results.append(Result(event.id, DeliveryState.DEAD, True, None, answer.status, answer.error))
        else:
            delay = backoff(max(refusals, 1), _FIRST_DELAY, _LAST_DELAY, self._random)
            not_before = self._now() + timedelta(seconds=max(delay, answer.retry_after))
            sent.results.append(
                Result(event.id, DeliveryState.WAITING, refused, not_before, answer.status, answer.error)
            )
        return False

    async def _leave_alone(
        self, connection: Connection, target: Target, why: Answer, results: Sequence[Result] = ()
    ) -> None:
        """Of a webhook that cannot be reached, wait; when that has lasted for too long, give up what has waited."""
        outage = self._outages.setdefault(target.id, _Outage())
        outage.failures += 1
        pause = max(backoff(outage.failures, _FIRST_PAUSE, _LAST_PAUSE, self._random), why.retry_after)
        outage.until = self._clock() + pause
        if target.failing_since is None and outage.failures == 1:
            self._log.warning("webhook %s cannot be reached, its events wait: %s", target.id, why.error)
        async with self._turn:
            if results:
                await store.settle(connection, target.id, self._now(), results)
            since = await store.failing(connection, target.id, self._now(), why.error)
        if self._now() - since < self._give_up:
            return
        await self._give_up_old(connection, target, why.error)

    async def _give_up_old(self, connection: Connection, target: Target, error: str) -> int:
        """What has waited for too long is dead; how many that are."""
        given_up = 0
        while True:
            async with self._turn:
                dead = await store.give_up(connection, target.id, self._now() - self._give_up, error, _CHUNK)
            given_up += dead
            if dead < _CHUNK:
                break
        if given_up:
            self.dead += given_up
            _DEAD.value += given_up
            self._log.warning("%d events for webhook %s are given up: %s", given_up, target.id, error)
        return given_up

    async def _keep_house(self, connection: Connection) -> None:
        """Once in a while: remove what is old, and say how much waits."""
        now = self._clock()
        if now >= self._swept_at + _SWEEP_EVERY:
            for _ in range(_CHUNKS):
                async with self._turn:
                    if await store.forget(connection, self._now() - self._retention, _CHUNK) < _CHUNK:
                        self._swept_at = now
                        break
        if now >= self._counted_at + _COUNT_EVERY:
            self._counted_at = now
            async with self._turn:
                number, since = await store.waiting(connection)
            _WAITING.value = number
            _LAG.value = 0.0 if since is None else max(0.0, now - since.timestamp())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


_DELIVERED, _FAILED, _DEAD = (metrics.WEBHOOKS.cell(result) for result in ("delivered", "failed", "dead"))
_WAITING, _LAG = metrics.OUTBOX_WAITING.cell(), metrics.OUTBOX_LAG.cell()


def _by_device(waiting: Iterable[Due]) -> list[list[Due]]:
    """Each device's, in order; what is of no device is by itself."""
    lanes: dict[UUID, list[Due]] = {}
    for event in waiting:
        lanes.setdefault(event.device_id or event.id, []).append(event)
    return list(lanes.values())
