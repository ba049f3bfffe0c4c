"""What a device does over CoAP once it has credentials: telemetry, attributes and their changes, claims (spec
thingsboard §7.3). The path names the token, or the channel (DTLS, OSCORE) proves who asks.

Observers of the attributes (RFC 7641) get first all shared ones, then what changes, as ThingsBoard sends it. Each
notification asks for an acknowledgement, so that none is lost and who is gone is noticed.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import msgspec

from provserver.core.attributes import split_keys
from provserver.core.authentication import Denial
from provserver.core.model import Authenticated, Peer
from provserver.core.telemetry import InvalidData
from provserver.errors import RENDERINGS, RETRY_AFTER_SECONDS, Unavailable
from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.limits import retry_after
from provserver.services.sessions import Sessions
from provserver.transports.attributes import Changes, watching
from provserver.transports.coap_message import Code
from provserver.transports.coap_options import Reply, Request, Target

MAX_OBSERVERS = 10_000
MAX_OBSERVERS_PER_DEVICE = 4


class _NotAuthenticated(Exception):  # noqa: N818
    pass


class _Expired(_NotAuthenticated):
    pass


class _NotHeard(Exception):  # noqa: N818
    pass


_FAULTS = (_NotAuthenticated, _NotHeard, InvalidData, Unavailable, TimeoutError)


class Features:
    """Authenticates, calls the data service, and says what came of it.

    request_timeout: seconds after which a device is told to come back.
    notification_interval: seconds between two notifications; what changes meanwhile is told in one.
    """

    def __init__(
        self,
        access: Access,
        data: Data,
        sessions: Sessions,
        *,
        request_timeout: float,
        notification_interval: float,
    ) -> None:
        self._access = access
        self._data = data
        self._sessions = sessions
        self._request_timeout = request_timeout
        self._notification_interval = notification_interval
        self._observers = _Observers()
        # One for all: who observes again must not get lower numbers than before (RFC 7641 §3.4).
        self._numbers = itertools.count()

    async def answer(
        self, target: Target, request: Request, payload: bytes, peer: Peer, let_in: Callable[[], None] | None = None
    ) -> Reply:
        """Answer a request that does not observe. let_in: hears of it when the peer is a device."""
        try:
            async with asyncio.timeout(self._request_timeout):
                device = await self._authenticate(target, peer, let_in)
                return await self._call(target, device, request, payload, peer)
        except _FAULTS as fault:
            return _refusal(fault)

    async def observe(
        self, target: Target, request: Request, peer: Peer, let_in: Callable[[], None] | None = None
    ) -> AsyncGenerator[Reply]:
        """Answer a request that observes the attributes, then notify until it must end; the last reply says so."""
        try:
            async with asyncio.timeout(self._request_timeout):
                device = await self._authenticate(target, peer, let_in)
            with (
                watching(self._sessions, device.device_id) as changes,
                self._observers.joined(device.device_id, changes) as joined,
            ):
                changes.add(None)  # what went before anybody watched was not heard
                async with asyncio.timeout(self._request_timeout):
                    values = await self._data.changed_attributes(device.device_id, ())
                if not joined:
                    yield _json(values, request)
                    return
                yield _json(values, request, self._next_number())
                while (news := await self._news(target, peer, device, changes)) is not None:
                    yield _json(news, request, self._next_number())
                yield Reply(Code.SERVICE_UNAVAILABLE)
        except _FAULTS as fault:
            yield _refusal(fault)

    async def _news(
        self, target: Target, peer: Peer, device: Authenticated, changes: Changes
    ) -> dict[str, object] | None:
        """Wait for changes; None when the device has begun to observe from elsewhere. Raises _NotAuthenticated."""
        while True:
            await asyncio.sleep(self._notification_interval)
            keys = await changes.take()
            if changes.closed:
                return None
            try:
                async with asyncio.timeout(self._request_timeout):
                    # Again, as it may have begun to observe long ago, and what it is about to be told is new.
                    if (await self._authenticate(target, peer)).device_id != device.device_id:
                        raise _NotAuthenticated
                    if keys is None:
                        continue
                    values = await self._data.changed_attributes(device.device_id, keys)
            except (_NotHeard, Unavailable, TimeoutError):
                changes.add(keys)
                await asyncio.sleep(RETRY_AFTER_SECONDS)
                continue
            if values:
                return values

    def _next_number(self) -> int:
        return next(self._numbers) & 0xFFFFFF  # (RFC 7641 §2)

    async def _authenticate(
        self, target: Target, peer: Peer, let_in: Callable[[], None] | None = None
    ) -> Authenticated:
        if target.token is not None:
            found = await self._access.with_token(target.token, peer)
        else:
            found = await self._access.with_channel(peer)
        if found is Denial.EXPIRED:
            raise _Expired
        if isinstance(found, Denial):
            raise _NotHeard if found is Denial.LIMITED else _NotAuthenticated
        if let_in is not None:
            let_in()
        return found

    async def _call(self, target: Target, device: Authenticated, request: Request, payload: bytes, peer: Peer) -> Reply:
        match target.feature:
            case "attributes" if request.code == Code.GET:
                client, shared = (
                    split_keys(",".join(request.parameter(name))) for name in ("clientKeys", "sharedKeys")
                )
                found = await self._data.attributes(device, client, shared)
                return _json(found, request) if found else Reply(Code.NOT_FOUND)
            case "telemetry":
                await self._data.telemetry(device, payload)
            case "attributes":
                await self._data.publish_attributes(device, payload)
            case "claim":
                await self._data.claim(device, payload)
            case "credentials":
                answer = await self._data.credentials(device, payload, peer)
                code = RENDERINGS[answer.outcome].coap
                return Reply(code, answer.body, request.json_format, answer.retry_after or None)
            case _ if request.code == Code.GET or target.request_id is None:
                return Reply(Code.NOT_IMPLEMENTED)  # there are no remote procedure calls
        return Reply(Code.CREATED)


class _Observers:
    """Who observes, up to a number, of each device the latest."""

    def __init__(self) -> None:
        self._count = 0
        self._of: dict[UUID, deque[Changes]] = {}

    @contextmanager
    def joined(self, device_id: UUID, changes: Changes) -> Iterator[bool]:
        """Whether there is room for one more, that hears of a device by `changes`."""
        if self._count >= MAX_OBSERVERS:
            yield False
            return
        observers = self._of.setdefault(device_id, deque())
        if len(observers) >= MAX_OBSERVERS_PER_DEVICE:
            observers.popleft().close()
        observers.append(changes)
        self._count += 1
        try:
            yield True
        finally:
            self._count -= 1
            if changes in observers:
                observers.remove(changes)
            if not observers:
                self._of.pop(device_id, None)


def _refusal(fault: Exception) -> Reply:
    match fault:
        case _Expired():
            return Reply(Code.UNAUTHORIZED, b"The credentials have expired!")
        case _NotAuthenticated():
            return Reply(Code.UNAUTHORIZED)
        case _NotHeard():
            return Reply(Code.TOO_MANY_REQUESTS, max_age=retry_after())
        case InvalidData():
            return Reply(Code.BAD_REQUEST, str(fault).encode())  # a diagnostic payload (RFC 7252 §5.5.2)
        case _:
            return Reply(Code.SERVICE_UNAVAILABLE, max_age=retry_after())


def _json(value: object, request: Request, observe: int | None = None) -> Reply:
    return Reply(Code.CONTENT, msgspec.json.encode(value), request.json_format, observe=observe)
