"""The admin API over HTTP: aiohttp, bounded, for operators alone; and no name but ours is answered to."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from ipaddress import ip_address, ip_network
from typing import TypedDict, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from provserver.admin import problem
from provserver.admin.api import SAFE, Api
from provserver.admin.console.console import Console
from provserver.admin.messages import Request, Response
from provserver.admin.problem import BodyTimeout, HostNotAccepted, TooLarge
from provserver.admin.route import PREFIX
from provserver.errors import Forbidden, Misconfigured, ProvserverError, described

log = logging.getLogger("provserver.admin")

protocol_log = logging.getLogger("provserver.http.protocol")
"""What aiohttp says of broken requests: worth a line for debugging, never a stack trace (see observability)."""

MAX_CONNECTIONS = 500

_BACKLOG = 128
_KEEPALIVE = 75.0
_SLOWEST = 64 * 1024
"""Bytes of a body that must come in a second, after the first seconds."""

_READER_PATIENCE = 60.0
"""Seconds for which a part of an answer may wait for who reads it."""

_SECURITY = {
    "Server": "provserver",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
"""What every answer tells a browser. No CORS: other sites' pages have no business here."""


class _Origin(TypedDict):
    address: str
    secure: bool


class Connection(web.RequestHandler):
    """A connection that does not quote what it could not read, as that may be a secret."""

    __slots__ = ("accepted", "spoken")

    def __init__(self, server: web.Server, **options: object) -> None:
        super().__init__(server, **options)  # type: ignore[arg-type] # as aiohttp passes them on
        self.accepted = 0.0
        self.spoken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Stay, if there is room."""
        if len(cast("Server", self._manager).connections) >= MAX_CONNECTIONS:
            transport.close()
            return
        self.accepted = self._loop.time()
        super().connection_made(transport)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that are not HTTP, and close, as where the next request begins is unknown."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        protocol_log.debug("a request could not be read (%s)", type(exc).__name__)
        response = _whole(problem.answer("malformed", "The request is not valid HTTP."))
        response.force_close()
        return response


class Server(web.Server):
    """Makes the connections."""

    def __call__(self) -> web.RequestHandler:
        """Make one, for the loop."""
        return Connection(self, loop=self._loop, keepalive_timeout=_KEEPALIVE, **self._kwargs)

    def sweep(self, timeout: float) -> None:
        """Close connections that have said nothing for so long: aiohttp has a limit between requests only."""
        now = self._loop.time()
        for connection in self.connections:
            made = cast("Connection", connection)
            if not made.spoken and now - made.accepted > timeout and made.transport is not None:
                made.transport.abort()


class AdminListener:
    """Serves the API, and the console beside it.

    hosts: names that requests may be for, by commas, besides localhost and the listener's own addresses. proxies:
    addresses or networks, by commas, that say the truth in X-Forwarded-For and X-Forwarded-Proto. timeout: seconds for
    a request's head, and for its body to begin. Raises Misconfigured.
    """

    def __init__(
        self, api: Api, console: Console, *, hosts: str = "", proxies: str = "", timeout: float = 10.0
    ) -> None:
        self._api = api
        self._console = console
        try:
            self._proxies = [ip_network(each.strip()) for each in proxies.split(",") if each.strip()]
        except ValueError as fault:
            raise Misconfigured(f"The admin API's proxies must be addresses or networks: {fault}.") from None
        self._names = {name.strip().lower().rstrip(".") for name in hosts.split(",") if name.strip()} | {"localhost"}
        self._timeout = timeout
        self._server: Server | None = None
        self._sockets: list[asyncio.Server] = []
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, *, sock: socket.socket | None = None) -> tuple[str, int]:
        """Listen; returns the address, with the port that was free if 0 was asked. Raises OSError.

        sock: bound to the address already.
        """
        loop = asyncio.get_running_loop()
        if self._server is None:
            self._server = Server(
                self._serve,
                access_log=None,
                logger=protocol_log,
                lingering_time=self._timeout,
                max_line_size=65_536,
            )
            self._sweeper = loop.create_task(self._sweep(self._server), name="admin:sweep")
        if sock is not None:
            made = await loop.create_server(self._server, sock=sock, backlog=_BACKLOG)
        else:
            made = await loop.create_server(self._server, host, port, backlog=_BACKLOG)
        self._sockets.append(made)
        address: tuple[str, int] = made.sockets[0].getsockname()[:2]
        return address

    async def stop(self, grace: float) -> None:
        """Accept no more, let requests under way be answered within `grace` seconds, close; then stop the API."""
        for each in self._sockets:
            each.close()
        self._sockets.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._api.services.feed.close()
        if self._server is not None:
            self._server.pre_shutdown()
            await self._server.shutdown(grace / 2)  # which waits twice for so long: then it cuts who does not read
            self._server = None
        await self._api.stop()

    async def _sweep(self, server: Server) -> None:
        while True:
            await asyncio.sleep(self._timeout / 4)
            server.sweep(self._timeout)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        cast("Connection", request.protocol).spoken = True
        try:
            self._check(request)
            asked = self._request(request)
            whole = self._api if asked.path.startswith(PREFIX) else self._console
            response = await whole.call(asked)
        except ProvserverError as fault:
            response = problem.of(fault)
        if response.status in (408, 413) or (request.can_read_body and not request.content.at_eof()):
            return _whole(response, close=True)  # the rest of the body may or may not come
        if isinstance(response.body, bytes):
            return _whole(response)
        return await _streamed(request, response, response.body)

    def _check(self, request: web.BaseRequest) -> None:
        """Whether it is for us, and from our own pages if from any. Raises HostNotAccepted, Forbidden."""
        if request.headers.getall("Host", [])[1:] or not self._is_ours(request):
            raise HostNotAccepted(
                "The header Host names none of this server's names. Use its address, or have the name added to the "
                "option admin_hosts."
            )
        if request.method not in SAFE and request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Forbidden("Another site's page has sent this request.")
        if (
            request.method not in SAFE
            and not _has_key(request)
            and not all(
                _is_of(origin, request.headers.get("Host", "")) for origin in request.headers.getall("Origin", [])
            )
        ):
            raise Forbidden(
                "Another site's page has sent this request: Origin is not what Host names. "
                "If the page is ours, have the proxy before it pass the header Host on as it came."
            )

    def _is_ours(self, request: web.BaseRequest) -> bool:
        """Whether Host is a name of ours, or an address that the request came to: names resolve as others like."""
        host = request.headers.get("Host", "").lower()
        name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0].rstrip(".")
        if name in self._names:
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        own = request.transport.get_extra_info("sockname") if request.transport is not None else None
        return address.is_loopback or (own is not None and str(address) == own[0].partition("%")[0])

    def _request(self, request: web.BaseRequest) -> Request:
        target = request.raw_path
        if not target.startswith("/"):  # in absolute form (RFC 9112 §3.2.2)
            target = "/" + target.partition("://")[2].partition("/")[2]
        path, _, query = target.partition("#")[0].partition("?")
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
        return Request(
            method=request.method,
            path=path,
            query=query,
            headers=headers,
            body=partial(self._read, request),
            **self._origin(request, headers),
        )

    def _origin(self, request: web.BaseRequest, headers: Mapping[str, str]) -> "_Origin":
        """Whence a request comes, and how; what a trusted proxy says of it goes before what we see."""
        address = request.remote or ""
        if not self._is_trusted(address):
            return {"address": address, "secure": False}
        hops = [hop.strip() for hop in headers.get("x-forwarded-for", "").split(",") if hop.strip()]
        for hop in reversed(hops):
            address = hop
            if not self._is_trusted(hop):
                break
        return {"address": address, "secure": headers.get("x-forwarded-proto", "").strip().lower() == "https"}

    def _is_trusted(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)

    async def _read(self, request: web.BaseRequest, limit: int) -> bytes:
        if (request.content_length or 0) > limit:
            raise TooLarge(f"The body may have {limit} bytes.")
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        data = bytearray()
        begun = asyncio.get_running_loop().time()
        try:
            while True:
                async with asyncio.timeout_at(begun + self._timeout + len(data) / _SLOWEST):
                    part = await request.content.readany()
                if not part:
                    return bytes(data)
                data += part
                if len(data) > limit:
                    raise TooLarge(f"The body may have {limit} bytes.")
        except TimeoutError:
            raise BodyTimeout("The body did not arrive in time.") from None


def _has_key(request: web.BaseRequest) -> bool:
    """Whether it is made with what no browser adds by itself."""
    return request.headers.get("Authorization", "").lower().startswith("bearer ")


def _is_of(origin: str, host: str) -> bool:
    """Whether an origin (RFC 6454) is that of pages of a host; the scheme is for who ends TLS to know."""
    scheme, _, authority = origin.lower().partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme)
    return port is not None and authority.removesuffix(port) == host.lower().removesuffix(port)


def _whole(response: Response, *, close: bool = False) -> web.Response:
    made = web.Response(
        status=response.status,
        body=response.body if isinstance(response.body, bytes) else b"",
        headers=_SECURITY | dict(response.headers),
    )
    if response.status == 204:
        made.headers.pop("Content-Type", None)
    if close:
        made.force_close()
    return made


async def _streamed(request: web.BaseRequest, response: Response, parts: AsyncIterator[bytes]) -> web.StreamResponse:
    """Parts as they come; when one fails, the connection breaks, so that nobody takes what came for the whole."""
    made = web.StreamResponse(status=response.status, headers=_SECURITY | dict(response.headers))
    made.enable_chunked_encoding()
    try:
        await made.prepare(request)
        if request.method == "HEAD":
            return made
        async for part in parts:
            if part:
                async with asyncio.timeout(_READER_PATIENCE):
                    await made.write(part)
        await made.write_eof()
    except ConnectionError:
        pass  # who asked has left
    except TimeoutError:
        made.force_close()
        if request.transport is not None:
            request.transport.abort()
    except Exception as fault:
        if not isinstance(fault, ProvserverError):
            log.error("an answer broke off: %s", described(fault))  # noqa: TRY400 - Postgres quotes rows
        if request.transport is not None:
            request.transport.abort()
    finally:
        close: Callable[[], Awaitable[None]] | None = getattr(parts, "aclose", None)
        if close is not None:
            await close()
    return made
