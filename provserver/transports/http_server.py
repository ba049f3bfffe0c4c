"""aiohttp's server as devices need it: bounded, JSON for every refusal, and no words of a peer in any of them."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from provserver.core.model import Peer, Transport
from provserver.errors import RENDERINGS, Outcome
from provserver.services.limits import retry_after
from provserver.transports.http_front import SERVER, Behind, Front, channel_peer, refusal_body

log = logging.getLogger("provserver.http")

CORS = {"Access-Control-Allow-Origin": "*"}

ProtocolFactory = Callable[[], asyncio.BaseProtocol]
Wrap = Callable[[ProtocolFactory], ProtocolFactory]

protocol_log = logging.getLogger("provserver.http.protocol")
"""What aiohttp says of broken requests: worth a line for debugging, never a stack trace (see observability)."""

_BACKLOG = 4096

KEEPALIVE_TIMEOUT = 75.0
"""Seconds after which a connection is closed that was of use before."""

LARGE_BODIES = {"/external/api/batch/update": 2 * 1024 * 1024}
"""Bytes of a body on paths that read it once its sender has authenticated; elsewhere it is `client_max_size`."""


class Connection(web.RequestHandler):
    """A connection that does not quote what it could not read, as that may be a secret after a wrong length.

    when_lost: called when it is lost, for who would else wait in vain.
    accepted: when, by the loop's clock. spoken: whether there was a request.
    """

    __slots__ = ("accepted", "spoken", "when_lost")

    def __init__(self, server: "Server", **options: object) -> None:
        super().__init__(server, **options)  # type: ignore[arg-type] # as aiohttp passes them on
        self.when_lost: Callable[[], None] | None = None
        self.accepted = 0.0
        self.spoken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Stay, if there is room."""
        if cast("Server", self._manager).full():
            transport.close()
        else:
            self.accepted = self._loop.time()
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
        response.headers["Server"] = SERVER
        return response


class Server(web.Server):
    """Makes the connections, up to a number; one more is closed at once, and counted in `refused`.

    front: makes what answers plain requests before they come to us.
    """

    def __init__(
        self,
        max_connections: int,
        front: Callable[[Behind], Front] | None,
        handler: Callable[..., Awaitable[web.StreamResponse]],
        **options: object,
    ) -> None:
        super().__init__(handler, **options)  # type: ignore[arg-type] # as aiohttp passes them on
        self._max_connections = max_connections
        self._front = front
        self.fronts: set[Front] = set()
        self.refused = 0

    @property
    def held(self) -> int:
        """How many connections there are."""
        return len(self._connections) + len(self.fronts)

    def full(self) -> bool:
        """Whether a connection must be refused; it is then counted."""
        if self.held < self._max_connections:
            return False
        self.refused += 1
        return True

    def __call__(self) -> asyncio.BaseProtocol:  # type: ignore[override] # aiohttp gives it to the loop only
        """Make one, for the loop."""
        return self._front(self) if self._front is not None else self._connection()

    def take(self, front: Front) -> asyncio.Protocol:
        """Take a connection over."""
        connection = self._connection()
        connection.connection_made(cast("asyncio.BaseTransport", front.transport))
        connection.accepted, connection.spoken = front.accepted, front.peer is not None
        return connection

    def sweep(self, connect_timeout: float) -> None:
        """Close connections that say nothing: aiohttp has a time limit between requests only."""
        now = self._loop.time()
        for handler, transport in tuple(self._connections.items()):
            connection = cast("Connection", handler)
            if not connection.spoken and now - connection.accepted > connect_timeout:
                transport.abort()
        for front in tuple(self.fronts):
            front.expire(now, connect_timeout, KEEPALIVE_TIMEOUT)

    def pre_shutdown(self) -> None:
        """Close what is idle."""
        for front in tuple(self.fronts):
            front.close()
        super().pre_shutdown()

    async def shutdown(self, timeout: float | None = None) -> None:
        """Close all, those with a request under way once it is answered."""
        await asyncio.gather(super().shutdown(timeout), *(front.shutdown(timeout) for front in self.fronts))

    def _connection(self) -> Connection:
        return Connection(self, loop=self._loop, keepalive_timeout=KEEPALIVE_TIMEOUT, **self._kwargs)


class Runner(web.AppRunner):
    """Puts `_answer` around the whole application: aiohttp answers `Expect` before its middlewares."""

    def __init__(
        self,
        application: web.Application,
        max_connections: int,
        front: Callable[[Behind], Front] | None,
        **options: object,
    ) -> None:
        super().__init__(application, **options)  # type: ignore[arg-type] # as aiohttp passes them on
        self._max_connections = max_connections
        self._front = front

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handler = partial(_answer, handler=made.request_handler)
        return Server(self._max_connections, self._front, handler, request_factory=made.request_factory, **self._kwargs)


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
    return channel_peer(channel) if channel is not None else Peer(Transport.HTTP, request.remote or "")


def retry() -> dict[str, str]:
    """The headers of a refusal after which to come again."""
    return CORS | {"Retry-After": str(retry_after())}


async def body(request: web.BaseRequest, limit: float) -> bytes:
    """A request's body, which must be there within `limit` seconds."""
    try:
        async with asyncio.timeout(limit):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(reason="The body did not arrive in time") from None


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """A refusal that any client of ours can read."""
    headers = CORS | (headers or {})
    return web.Response(body=refusal_body(message), status=status, content_type="application/json", headers=headers)


async def _answer(
    request: web.BaseRequest, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every answer says who serves as the front does, without versions."""
    response = await _as_json(request, handler)
    response.headers["Server"] = SERVER
    return response


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
