"""HTTP: `POST /api/v1/provision` (spec thingsboard §2), `GET /healthz`, `GET /readyz`."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from weakref import WeakKeyDictionary, WeakSet

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from provserver.core.model import Peer, Transport
from provserver.errors import RENDERINGS, RETRY_AFTER_SECONDS, Outcome, Unavailable
from provserver.services.provisioning import Provisioning

log = logging.getLogger("provserver.http")

_CORS = {"Access-Control-Allow-Origin": "*"}
_PREFLIGHT = _CORS | {"Access-Control-Allow-Methods": "POST", "Access-Control-Allow-Headers": "*"}
_RETRY = _CORS | {"Retry-After": str(RETRY_AFTER_SECONDS)}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_aiohttp_log = logging.getLogger("provserver.http.protocol")
"""What aiohttp says of broken requests: worth a line for debugging, never a stack trace (see observability)."""


class HttpTransport:
    """Serves devices over HTTP. ready: raises Unavailable when the server cannot serve now, for `/readyz`.

    connect_timeout: seconds from accepting a connection to its first request's headers, and for each body.
    """

    def __init__(
        self,
        provisioning: Provisioning,
        ready: Callable[[], Awaitable[None]],
        *,
        max_payload_size: int = 65_536,
        connect_timeout: float = 10.0,
    ) -> None:
        self._provisioning = provisioning
        self._ready = ready
        self._connect_timeout = connect_timeout
        self._spoken: WeakSet[asyncio.Transport] = WeakSet()
        self._accepted: WeakKeyDictionary[asyncio.Transport, float] = WeakKeyDictionary()

        @web.middleware
        async def spoken(request: web.Request, handler: _Handler) -> web.StreamResponse:
            if request.transport is not None:
                self._spoken.add(request.transport)
            return await handler(request)

        application = web.Application(client_max_size=max_payload_size, middlewares=[spoken])
        application.router.add_post("/api/v1/provision", self._provision)
        application.router.add_options("/api/v1/provision", _preflight)
        application.router.add_get("/healthz", _healthz)
        application.router.add_get("/readyz", self._readyz)
        self._runner = _Runner(
            application,
            access_log=None,
            logger=_aiohttp_log,
            keepalive_timeout=75,
            lingering_time=connect_timeout,
            handle_signals=False,
        )
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, *, reuse_port: bool = False) -> tuple[str, int]:
        """Listen; returns the address, with the port that was free if 0 was asked. Raises OSError."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, reuse_port=reuse_port or None, backlog=4096).start()
        self._sweeper = asyncio.create_task(self._sweep(), name="http:sweep")
        bound: tuple[str, int] = self._runner.addresses[0][:2]
        return bound

    async def stop(self, grace: float) -> None:
        """Accept no more, let requests under way be answered within `grace` seconds, close."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._runner._shutdown_timeout = grace  # noqa: SLF001 - known only now, and aiohttp takes it earlier
        await self._runner.cleanup()

    async def _provision(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(self._connect_timeout):
                payload = await request.read()
        except TimeoutError:
            return _refusal(408, "The body did not arrive in time!")
        if not payload:
            return _refusal(400, "The body is empty!")
        answer = await self._provisioning.answer(
            payload, Peer(Transport.HTTP, request.remote or ""), accept_protobuf=False
        )
        rendering = RENDERINGS[answer.outcome]
        if not answer.body:
            return _refusal(rendering.http, rendering.error or "")
        headers = _RETRY if answer.outcome is Outcome.UNAVAILABLE else _CORS
        return web.Response(body=answer.body, status=rendering.http, content_type="application/json", headers=headers)

    async def _readyz(self, _request: web.Request) -> web.Response:
        try:
            await self._ready()
        except Unavailable as fault:
            return web.json_response({"status": "unavailable", "reason": str(fault)}, status=503, headers=_RETRY)
        return web.json_response({"status": "ready"})

    async def _sweep(self) -> None:
        """Close connections that never say anything: aiohttp has a time limit between requests only."""
        while True:
            await asyncio.sleep(self._connect_timeout / 4)
            server = self._runner.server
            now = time.monotonic()
            for handler in server.connections if server is not None else ():
                transport = handler.transport
                if transport is None or transport in self._spoken:
                    continue
                if now - self._accepted.setdefault(transport, now) > self._connect_timeout:
                    transport.abort()


class _Connection(web.RequestHandler):
    """A connection that does not quote what it could not read, as that may be a secret after a wrong length."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that are not HTTP (RFC 9112 §2.2), and close, as where the next request begins is unknown."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        _aiohttp_log.debug("a request could not be read (%s)", type(exc).__name__)
        response = _refusal(400, "The request is not valid HTTP!")
        response.force_close()
        return response


class _Server(web.Server):
    """Makes the connections."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    """Puts `_as_json` around the whole application: aiohttp answers `Expect` before its middlewares."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handler = partial(_as_json, handler=made.request_handler)
        return _Server(handler, request_factory=made.request_factory, **self._kwargs)


async def _as_json(
    request: web.BaseRequest, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every refusal of aiohttp's own (404, 405, 413 …) as JSON, and no stack trace for what a peer sent.

    A body that says it is too large is not waited for, nor is a client told to send it (RFC 9110 §10.1.1).
    """
    try:
        if (request.content_length or 0) > request.client_max_size:
            raise web.HTTPRequestEntityTooLarge(request.client_max_size)
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        response = _refusal(413, RENDERINGS[Outcome.TOO_LARGE].error or "")
        response.force_close()  # the rest of the body may or may not come
        return response
    except web.HTTPException as fault:
        allow = {"Allow": fault.headers["Allow"]} if "Allow" in fault.headers else {}
        return _refusal(fault.status, f"{fault.reason}!", allow)
    except (ConnectionError, web.RequestPayloadError):
        return _refusal(400, "The body is not complete!")
    except Exception:
        log.exception("a request failed")
        return _refusal(500, "Internal error!")


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = msgspec.json.encode({"errorMsg": message, "status": "FAILURE", "provisionDeviceStatus": "FAILURE"})
    return web.Response(body=body, status=status, content_type="application/json", headers=_CORS | (headers or {}))


async def _preflight(_request: web.Request) -> web.Response:
    return web.Response(status=204, headers=_PREFLIGHT)


async def _healthz(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})
