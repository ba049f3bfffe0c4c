"""What devices send once they are in: telemetry, attributes, claims, credentials that are to follow. Accepted means
committed.

Messages are grouped as provision requests are; one that Postgres refuses fails alone. Every accepted message is also
queued for the sink (`services/sink.py`), by the same statement; a claim, which carries a secret, is not.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import msgspec
from asyncpg import DataError, PostgresError, ProgramLimitExceededError

from provserver.core import attributes as facts
from provserver.core import claiming, ids, sink, telemetry
from provserver.core.attributes import Scope
from provserver.core.credentials import has_control_characters
from provserver.core.decision import Refusal
from provserver.core.model import Authenticated, Peer, SigningRequest
from provserver.core.secrets import ServerKeys
from provserver.core.telemetry import MAX_KEYS, MAX_SAMPLES, InvalidData, Sample, Value
from provserver.core.wire import Granted
from provserver.errors import Refused, Unavailable
from provserver.services.claiming import Claiming
from provserver.services.grouping import Grouper
from provserver.services.limits import RotationLimits
from provserver.services.provisioning import Answer
from provserver.services.rotation import Rotation
from provserver.services.sink import Sink
from provserver.store import data as store
from provserver.store.data import Batch, Obstacle, Series, SinkRow
from provserver.store.database import Database

log = logging.getLogger("provserver.data")

_REFUSED_FOR_GOOD = (DataError, ProgramLimitExceededError)
"""What Postgres says of values that it cannot hold: who sends them again until they are taken would never end."""

MAX_ROWS = 5_000
"""Samples and attributes of one statement, unless a single message has more."""

MAX_SIZE = 8 * 1024 * 1024
"""Bytes of JSON that wait or are being written: decoded, they take some ten times as much memory."""


@dataclass(frozen=True, slots=True, eq=False)
class _Message:
    """A message that may be accepted. ts: when it came, milliseconds since the epoch."""

    device: Authenticated
    kind: str
    ts: int
    samples: Sequence[Sample]
    attributes: Mapping[str, Value]

    def __len__(self) -> int:
        return len(self.samples) + len(self.attributes)


class Data:
    """Keeps what devices send.

    online_period: seconds for which a message shows its device online. limits: how often it may rotate.
    wait_limit: seconds a device may wait for Postgres; then it is told Unavailable, and what was begun is still done.
    """

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        sink: Sink | None = None,
        *,
        history_limit: int = 100,
        online_period: float = 60.0,
        limits: RotationLimits | None = None,
        wait_limit: float = 10.0,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keys = keys
        self._sink = sink
        self._history_limit = history_limit
        self._online_period = timedelta(seconds=online_period)
        self._wait_limit = wait_limit
        self._random = random
        self._clock = clock
        self._claiming = Claiming(database, keys, random=random, clock=clock)
        self._rotation = Rotation(database, keys, limits=limits, random=random, clock=clock)
        self._messages: Grouper[_Message, None] = Grouper(
            "data",
            self._write,
            max_weight=MAX_SIZE,
            wait_limit=wait_limit,
            sharer=lambda message: message.device.profile_id,
        )

    async def telemetry(self, device: Authenticated, payload: bytes) -> None:
        """Keep a telemetry message (`core/telemetry.py`). Raises InvalidData, Unavailable."""
        now = self._now()
        message = _Message(device, "telemetry", now, telemetry.decode(payload, now), {})
        await self._messages.submit(message, len(payload))

    async def record(self, device: Authenticated, samples: Sequence[Sample], *, kind: str) -> None:
        """Keep samples: the newest of each key, the recent ones, and all for the sink. Raises InvalidData, Unavailable.

        kind: what the sink calls the message.
        """
        if len(samples) > MAX_SAMPLES:
            raise InvalidData(f"A message may have {MAX_SAMPLES} samples!")
        size = sum([_size(value) for _, value, _ in samples])
        await self._messages.submit(_Message(device, kind, self._now(), samples, {}), size)

    async def publish_attributes(self, device: Authenticated, payload: bytes) -> None:
        """Keep client attributes. Raises InvalidData, Unavailable."""
        message = _Message(device, "attributes", self._now(), (), facts.decode(payload))
        await self._messages.submit(message, len(payload))

    async def attributes(
        self, device: Authenticated, client_keys: Sequence[str] | None, shared_keys: Sequence[str] | None
    ) -> dict[str, object]:
        """`{"client": {…}, "shared": {…}}`: a member for what was asked and exists; both None: everything.

        Raises Unavailable.
        """
        all_ = client_keys is None and shared_keys is None
        client: dict[str, Value] = {}
        shared: dict[str, Value] = {}
        async with self._limit(), self._database.connection() as connection:
            if client_keys or all_:
                client = await store.attributes(connection, device.device_id, Scope.CLIENT, _possible(client_keys))
            if shared_keys or all_:
                shared = await store.attributes(connection, device.device_id, Scope.SHARED, _possible(shared_keys))
        return facts.reply(client, shared)

    async def changed_attributes(self, device_id: UUID, keys: Sequence[str]) -> dict[str, object]:
        """What to push: these shared attributes as they are now, and `"deleted": […]` for those that are gone.

        Without keys: all there are. Raises Unavailable.
        """
        async with self._limit(), self._database.connection() as connection:
            shared = await store.attributes(connection, device_id, Scope.SHARED, _possible(keys or None))
        deleted = [key for key in keys if key not in shared]
        return shared | ({"deleted": deleted} if deleted else {})

    async def latest(self, device_id: UUID, keys: Sequence[str] | None = None) -> dict[str, object]:
        """The newest value of each telemetry key, or of these. Raises Unavailable."""
        async with self._limit(), self._database.connection() as connection:
            return {key: value for key, _, value in await store.latest(connection, device_id, _possible(keys))}

    async def claim(self, device: Authenticated, payload: bytes) -> None:
        """Let the device be claimed with the secret it names; while it may be, another message changes nothing.

        Where a claim waits for the device's word, this is it, whatever the secret; where claims do, but none just now,
        it is forgotten.
        The secret is kept as digest("claim-secret", device id, secret). Raises InvalidData, Unavailable.
        """
        message = claiming.decode(payload)
        digest = self._keys.digest("claim-secret", device.device_id.bytes, message.secret)
        try:
            async with self._limit():
                if await self._claiming.confirm(device):
                    return
                async with self._database.connection() as connection:
                    await store.claim(connection, device.device_id, digest, timedelta(milliseconds=message.duration))
        except PostgresError as fault:
            log.warning("a claim was not stored: %s", type(fault).__name__)
            raise Unavailable("The claim could not be stored.") from None
        except Refused:  # a quota, say, that was used up meanwhile
            raise InvalidData("The claim cannot be completed!") from None

    async def credentials(self, device: Authenticated, payload: bytes, peer: Peer) -> Answer:
        """Give the device the credentials that are to follow its own (`rotation.py`). Raises Unavailable."""
        async with self._limit():
            return await self._rotation.request(device, payload, peer)

    async def certify(self, device: Authenticated, wanted: SigningRequest | Refusal, peer: Peer) -> Granted | Refusal:
        """The same, for a request for a certificate that was read. Raises Unavailable."""
        async with self._limit():
            return await self._rotation.rotate(device, wanted, peer)

    async def drain(self) -> None:
        """Wait until everything that was accepted is written."""
        await self._messages.drain()
        await self._rotation.drain()

    @asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._wait_limit):
                yield
        except TimeoutError:
            raise Unavailable("Postgres did not answer in time.") from None

    def _now(self) -> int:
        return int(self._clock() * 1000)

    async def _write(self, messages: Sequence[_Message]) -> list[Exception | None]:
        results: list[Exception | None] = []
        for part in _parts(messages):
            results += await self._write_part(part)
        return results

    async def _write_part(self, messages: Sequence[_Message]) -> list[Exception | None]:
        """Write messages at once; when that fails, one by one, so that nobody pays for a neighbour."""
        try:
            fault = await self._write_batch(messages)
        except Unavailable as away:
            return [away] * len(messages)
        except PostgresError as refused:
            if self._database.is_lock_timeout(refused):
                fault = Unavailable("Another transaction holds the device.")
            else:
                if len(messages) == 1:
                    log.error("a data statement failed: %s", type(refused).__name__)  # noqa: TRY400
                for_good = isinstance(refused, _REFUSED_FOR_GOOD)
                fault = InvalidData("It cannot be stored!") if for_good else Unavailable("The statement failed.")
        if fault is None or len(messages) == 1:
            return [fault] * len(messages)
        return [(await self._write_part([message]))[0] for message in messages]

    async def _write_batch(self, messages: Sequence[_Message]) -> Exception | None:
        rows = [self._sink_row(message) for message in messages if len(message)] if self._sink is not None else []
        batch = Batch(
            list({message.device.device_id for message in messages}),
            self._series(messages),
            {(m.device.device_id, key): value for m in messages for key, value in m.attributes.items()},
            rows,
        )
        async with self._database.connection() as connection:
            written = await store.write(
                connection,
                batch,
                history_limit=self._history_limit,
                online_period=self._online_period,
                sink_limit=self._sink.limit if self._sink is not None else 0,
            )
        if written.obstacle is Obstacle.DEVICE_GONE:
            return Unavailable("The device is gone.")
        if written.obstacle is Obstacle.TOO_MANY_KEYS:
            return InvalidData(f"A device may have {MAX_KEYS} keys!")
        if self._sink is not None:
            self._sink.queued(written.queued, len(rows) - written.queued)
        return None

    def _series(self, messages: Sequence[_Message]) -> dict[tuple[UUID, str], Series]:
        found: dict[tuple[UUID, str], Series] = {}
        for message in messages:
            for key, value, taken in message.samples:
                ts = message.ts if taken is None else taken
                series = found.get((message.device.device_id, key))
                if series is None:
                    series = found[message.device.device_id, key] = Series(ts, value)
                elif ts >= series.ts:
                    series.ts, series.value = ts, value
                series.count += 1
                series.recent.append((ts, value))
        for series in found.values():
            del series.recent[: -self._history_limit]
        return found

    def _sink_row(self, message: _Message) -> SinkRow:
        device = message.device
        id_ = ids.uuid7(message.ts / 1000, self._random)
        data = message.attributes or message.samples
        body = sink.encode(id_, device, message.kind, message.ts, data)
        return SinkRow(device.device_id, device.name, message.kind, body)


def _parts(messages: Sequence[_Message]) -> Iterator[Sequence[_Message]]:
    start = rows = 0
    for at, message in enumerate(messages):
        rows += len(message)
        if rows > MAX_ROWS and at > start:
            yield messages[start:at]
            start, rows = at, len(message)
    yield messages[start:]


def _size(value: Value) -> int:
    """Bytes of a sample as a device sends it, about."""
    return 16 if isinstance(value, int | float) else 16 + len(msgspec.json.encode(value))


def _possible(keys: Sequence[str] | None) -> list[str] | None:
    """Without keys that nothing can have, nor Postgres be asked for."""
    return None if keys is None else [key for key in keys if not has_control_characters(key)]
