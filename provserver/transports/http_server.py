"""aiohttp's server as devices need it: bounded, JSON for every refusal, and no words of a peer in any of them."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from provserver.core.model import Peer, Transport
from provserver.errors import RENDERINGS, RETRY_AFTER_SECONDS, Outcome

log = logging.getLogger("provserver.http")

CORS = {"Access-Control-Allow-Origin": "*"}
RETRY = CORS | {"Retry-After": str(RETRY_AFTER_SECONDS)}

ProtocolFactory = Callable[[], asyncio.BaseProtocol]
Wrap = Callable[[ProtocolFactory], ProtocolFactory]

protocol_log = logging.getLogger("provserver.http.protocol")
"""What aiohttp says of broken requests: worth a line for debugging, never a stack trace (see observability)."""

_BACKLOG = 4096

LARGE_BODIES = {"/external/api/batch/update": 2 * 1024 * 1024}
"""Bytes of a body on paths that read it once its sender has authenticated; elsewhere it is `client_max_size`."""


class Connection(web.RequestHandler):
    """A connection that does not quote what it could not read, as that may be a secret after a wrong length.

    when_lost: called when it is lost, for who would else wait in vain.
    """

    __slots__ = ("when_lost",)

    def __init__(self, server: "Server", **options: object) -> None:
        super().__init__(server, **options)  # type: ignore[arg-type] # as aiohttp passes them on
        self.when_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Stay, if there is room."""
        if cast("Server", self._manager).full():
            transport.close()
        else:
            super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell who waits."""
        super().connection_lost(exc)
        if self.when_lost is not None:
            self.when_lost()

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
        protocol_log.debug("a request could not be read (%s)", type(exc).__name__)
        response = refusal(400, "The request is not valid HTTP!")
        response.force_close()
        return response


class Server(web.Server):
    """Makes the connections, up to a number; one more is closed at once, and counted in `refused`."""

    def __init__(self, max_connections: int, handler: Callable[..., Awaitable[web.StreamResponse]], **options: object):
        super().__init__(handler, **options)  # type: ignore[arg-type] # as aiohttp passes them on
        self._max_connections = max_connections
        self.refused = 0

    def full(self) -> bool:
        """Whether a connection must be refused; it is then counted."""
        if len(self._connections) < self._max_connections:
            return False
        self.refused += 1
        return True

    def __call__(self) -> web.RequestHandler:
        """Make one, for the loop."""
        return Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Puts `_as_json` around the whole application: aiohttp answers `Expect` before its middlewares."""

    def __init__(self, application: web.Application, max_connections: int, **options: object) -> None:
        super().__init__(application, **options)  # type: ignore[arg-type] # as aiohttp passes them on
        self._max_connections = max_connections

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handler = partial(_as_json, handler=made.request_handler)
        return Server(self._max_connections, handler, request_factory=made.request_factory, **self._kwargs)


class Site(web.BaseSite):
    """An address to listen on. sock: bound to it already. wrap: makes the loop's protocols of ours, for TLS."""

    def __init__(
        self, runner: Runner, host: str, port: int, *, sock: socket.socket | None = None, wrap: Wrap | None = None
    ) -> None:
        super().__init__(runner)
        connections = cast("ProtocolFactory", runner.server)
        self._factory = wrap(connections) if wrap is not None else connections
        self._sock = sock
        self.address = host, port

    @property
    def name(self) -> str:
        """For aiohttp."""
        return "{}:{}".format(*self.address)

    async def start(self) -> None:
        """Listen; `address` then has the port. Raises OSError."""
        await super().start()
        loop = asyncio.get_running_loop()
        if self._sock is not None:
            server = await loop.create_server(self._factory, sock=self._sock, backlog=_BACKLOG)
        else:
            server = await loop.create_server(self._factory, *self.address, backlog=_BACKLOG)
        self._server = server
        self.address = server.sockets[0].getsockname()[:2]

    async def stop(self) -> None:
        """Accept no more, and end the handshakes that have no connection of ours yet."""
        await super().stop()
        abort = getattr(self._factory, "abort", None)
        if abort is not None:
            abort()


def peer(request: web.BaseRequest) -> Peer:
    """Who asks."""
    channel = request.transport
    if channel is None:
        return Peer(Transport.HTTP, request.remote or "")
    certificates, psk = channel.get_extra_info("certificates", ()), channel.get_extra_info("psk")
    return Peer(Transport.HTTP, request.remote or "", certificates, psk)


async def body(request: web.BaseRequest, limit: float) -> bytes:
    """A request's body, which must be there within `limit` seconds."""
    try:
        async with asyncio.timeout(limit):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(reason="The body did not arrive in time") from None


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """A refusal that any client of ours can read."""
    text = msgspec.json.encode({"errorMsg": message, "status": "FAILURE", "provisionDeviceStatus": "FAILURE"})
    return web.Response(body=text, status=status, content_type="application/json", headers=CORS | (headers or {}))


async def _as_json(
    request: web.BaseRequest, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every refusal of aiohttp's own (404, 405, 413 …) as JSON, and no stack trace for what a peer sent.

    A body that says it is too large is not waited for, nor is a client told to send it (RFC 9110 §10.1.1).
    """
    try:
        if (request.content_length or 0) > max(request.client_max_size, LARGE_BODIES.get(request.path, 0)):
            raise web.HTTPRequestEntityTooLarge(request.client_max_size)
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        response = refusal(413, RENDERINGS[Outcome.TOO_LARGE].error or "")
        response.force_close()  # the rest of the body may or may not come
        return response
    except web.HTTPException as fault:
        allow = {"Allow": fault.headers["Allow"]} if "Allow" in fault.headers else {}
        return refusal(fault.status, f"{fault.reason}!", allow)
    except (ConnectionError, web.RequestPayloadError):
        return refusal(400, "The body is not complete!")
    except Exception:
        log.exception("a request failed")
        return refusal(500, "Internal error!")
