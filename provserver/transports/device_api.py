"""ThingsBoard's HTTP API for a device that has been provisioned (spec thingsboard §7.3): `/api/v1/{token}/…`.

A device that its TLS channel has authenticated leaves the token out. Requests for what this server does not have
(remote procedure calls, firmware) get what ThingsBoard says where there is none.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

import msgspec
from aiohttp import web

from provserver.core.attributes import split_keys
from provserver.core.authentication import Denial
from provserver.core.model import Authenticated
from provserver.core.telemetry import InvalidData
from provserver.errors import RENDERINGS, Outcome, Unavailable
from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.sessions import Sessions
from provserver.transports.attributes import Changes, Polls, watching
from provserver.transports.http_server import CORS, Connection, body, peer, retry

POLL_SECONDS = 60.0
MAX_POLL_SECONDS = 300.0

_PREFLIGHT = CORS | {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": "*"}

_Call = Callable[[web.Request, Authenticated, bytes], Awaitable[web.Response]]


class _NotAuthenticated(Exception):  # noqa: N818
    pass


class _Expired(_NotAuthenticated):
    pass


class _NotHeard(Exception):  # noqa: N818
    pass


class _NothingCame(Exception):  # noqa: N818
    pass


class DeviceApi:
    """Authenticates, calls the data service, and says what came of it.

    body_timeout: seconds for a body to come. request_timeout: seconds after which a device is told to come back;
    a long poll waits without.
    """

    def __init__(
        self, access: Access, data: Data, sessions: Sessions, *, body_timeout: float, request_timeout: float
    ) -> None:
        self._access = access
        self._data = data
        self._sessions = sessions
        self._polls = Polls(sessions)
        self._body_timeout = body_timeout
        self._request_timeout = request_timeout
        self._waiting: set[asyncio.Timeout] = set()
        self._closed = False

    def routes(self) -> list[web.RouteDef]:
        """What to mount. One segment after `/api/v1/` names what the channel's device wants, it is never a token."""
        calls: dict[str, dict[str, _Call]] = {
            "telemetry": {"POST": self._telemetry},
            "attributes": {"POST": self._publish_attributes, "GET": self._attributes},
            "attributes/updates": {"GET": self._updates},
            "claim": {"POST": self._claim},
            "credentials": {"POST": self._credentials},
            "rpc": {"POST": self._call, "GET": self._calls},
            r"rpc/{id:\d{1,10}}": {"POST": self._result},
            "firmware": {"GET": self._firmware},
            "software": {"GET": self._firmware},
        }
        made = []
        for path, answers in calls.items():
            for prefix in ("/api/v1", "/api/v1/{token}"):
                made += [web.route(method, f"{prefix}/{path}", self._serve(call)) for method, call in answers.items()]
                made.append(web.options(f"{prefix}/{path}", _preflight))
        return made

    def open(self) -> None:
        """Take long polls again."""
        if self._closed:
            self._closed, self._polls = False, Polls(self._sessions)

    def close(self) -> None:
        """End the long polls, as if their time were over."""
        self._closed = True
        for limit in tuple(self._waiting):
            _end(limit)
        self._polls.close()

    def _serve(self, call: _Call) -> Callable[[web.Request], Awaitable[web.Response]]:
        polls = call in (self._updates, self._calls)

        async def handler(request: web.Request) -> web.Response:
            payload = await body(request, self._body_timeout) if request.method == "POST" else b""
            try:
                async with asyncio.timeout(None if polls else self._request_timeout):
                    return await call(request, await self._authenticate(request), payload)
            except _Expired:
                return _refusal(401, "The credentials have expired!")
            except _NotAuthenticated:
                return web.Response(status=401, headers=CORS)
            except _NotHeard:
                return _refusal(429, RENDERINGS[Outcome.LIMITED].error or "", retry())
            except _NothingCame:
                return web.Response(status=408, headers=CORS)
            except InvalidData as fault:
                return _refusal(400, str(fault))
            except (Unavailable, TimeoutError):
                return _refusal(503, RENDERINGS[Outcome.UNAVAILABLE].error or "", retry())

        return handler

    async def _authenticate(self, request: web.Request) -> Authenticated:
        """Who asks, by the token in the path or else by the channel."""
        token = request.match_info.get("token")
        if token is not None:
            found = await self._access.with_token(token, peer(request))
        else:
            found = await self._access.with_channel(peer(request))
        if found is Denial.EXPIRED:
            raise _Expired
        if isinstance(found, Denial):
            raise _NotHeard if found is Denial.LIMITED else _NotAuthenticated
        return found

    async def _telemetry(self, _request: web.Request, device: Authenticated, payload: bytes) -> web.Response:
        await self._data.telemetry(device, payload)
        return _done()

    async def _publish_attributes(self, _request: web.Request, device: Authenticated, payload: bytes) -> web.Response:
        await self._data.publish_attributes(device, payload)
        return _done()

    async def _claim(self, _request: web.Request, device: Authenticated, payload: bytes) -> web.Response:
        await self._data.claim(device, payload)
        return _done()

    async def _credentials(self, request: web.Request, device: Authenticated, payload: bytes) -> web.Response:
        answer = await self._data.credentials(device, payload, peer(request))
        status = RENDERINGS[answer.outcome].http
        wait = {"Retry-After": str(answer.retry_after)} if answer.retry_after else {}
        return web.Response(body=answer.body, status=status, content_type="application/json", headers=CORS | wait)

    async def _attributes(self, request: web.Request, device: Authenticated, _payload: bytes) -> web.Response:
        client, shared = (split_keys(",".join(request.query.getall(name, ()))) for name in ("clientKeys", "sharedKeys"))
        return _json(await self._data.attributes(device, client, shared))

    async def _updates(self, request: web.Request, device: Authenticated, _payload: bytes) -> web.Response:
        deadline = _deadline(request)
        with self._polls.poll(device.device_id) as changes:
            changes.add(None)  # what went before anybody watched was not heard
            while True:
                keys = await self._changed(request, changes, deadline)
                try:
                    async with asyncio.timeout(self._request_timeout):
                        # Again, as the poll may have begun long ago, and what it is about to tell is new.
                        await self._authenticate(request)
                        if keys is None:
                            continue
                        values = await self._data.changed_attributes(device.device_id, keys)
                except BaseException:
                    changes.add(keys)
                    raise
                if values:
                    return _json(values)

    async def _calls(self, request: web.Request, device: Authenticated, _payload: bytes) -> web.Response:
        deadline = _deadline(request)
        with watching(self._sessions, device.device_id) as changes:
            changes.add(None)
            while True:  # no call ever comes, but the credentials may go
                if await self._changed(request, changes, deadline) in (None, ()):
                    async with asyncio.timeout(self._request_timeout):
                        await self._authenticate(request)

    async def _call(self, _request: web.Request, _device: Authenticated, _payload: bytes) -> web.Response:
        return _refusal(501, "Remote procedure calls are not supported!")

    async def _result(self, _request: web.Request, _device: Authenticated, _payload: bytes) -> web.Response:
        return _done()  # of a call that nobody waits for

    async def _firmware(self, _request: web.Request, _device: Authenticated, _payload: bytes) -> web.Response:
        return _refusal(404, "Nothing is assigned to the device!")

    async def _changed(self, request: web.Request, changes: Changes, deadline: float) -> tuple[str, ...] | None:
        """Wait as `Changes.take` does; _NothingCame at the deadline, or when nobody is there any more to be told."""
        try:
            async with asyncio.timeout_at(deadline) as limit:
                with self._ending_early(request, limit):
                    return await changes.take()
        except TimeoutError:
            raise _NothingCame from None

    @contextmanager
    def _ending_early(self, request: web.Request, limit: asyncio.Timeout) -> Iterator[None]:
        """When the connection is lost or the server stops, the time is over."""
        connection = cast("Connection", request.protocol)
        if self._closed or connection.transport is None:
            _end(limit)
        self._waiting.add(limit)
        connection.when_lost = partial(_end, limit)
        try:
            yield
        finally:
            connection.when_lost = None
            self._waiting.discard(limit)


def _end(limit: asyncio.Timeout) -> None:
    if not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time())


def _deadline(request: web.Request) -> float:
    """When a long poll ends, by the loop's clock, with `timeout` in milliseconds."""
    asked = request.query.get("timeout") or "0"
    if not (asked.isascii() and asked.isdigit()):
        raise InvalidData("The timeout must be a number of milliseconds.")
    seconds = min(int(asked[:12]) / 1000, MAX_POLL_SECONDS) or POLL_SECONDS
    return asyncio.get_running_loop().time() + seconds


def _done() -> web.Response:
    return web.Response(headers=CORS)


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", headers=CORS)


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    encoded = msgspec.json.encode({"errorMsg": message, "status": "FAILURE"})
    return web.Response(body=encoded, status=status, content_type="application/json", headers=headers or CORS)


async def _preflight(_request: web.Request) -> web.Response:
    return web.Response(status=204, headers=_PREFLIGHT)
