"""HTTP and HTTPS: POST /api/v1/provision."""

import asyncio
import contextlib
import datetime
import email.utils
import math
import socket
import ssl
import weakref
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp

from firmware_sim import power, tls
from firmware_sim.address import Address
from firmware_sim.errors import NoAnswer, Refused, SimulatorError
from firmware_sim.tls import Security

_LOOK, _PATIENCE = 0.002, 2.0  # seconds between two looks whether connections are closed, and in all

TEMPORARY = {408, 425, 429, 500, 502, 503, 504}


def open_session(connections: int, security: Security | None, *, keep: bool = True) -> aiohttp.ClientSession:
    """A session of at most so many connections, without cookies. keep: use a connection again. Raises WrongUsage."""
    return aiohttp.ClientSession(
        trace_configs=[_steps()],
        connector=Connector(connections, tls.client_context(security) if security else None, keep),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Content-Type": "application/json", "Accept": "application/json"},
    )


def _steps() -> aiohttp.TraceConfig:
    """Tells what is done of an exchange."""

    def step(name: str) -> Callable[..., Awaitable[None]]:
        async def done(*_: object) -> None:
            power.reached(name)

        return done

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(step("connected"))
    trace.on_request_headers_sent.append(step("head sent"))
    trace.on_request_chunk_sent.append(step("body sent"))
    trace.on_request_end.append(step("answer begun"))
    trace.on_response_chunk_received.append(step("answer read"))
    return trace


class Connector(aiohttp.TCPConnector):
    """Closed when all its connections are: aiohttp's own does not wait for the TLS of a request that was cancelled."""

    def __init__(self, connections: int, context: ssl.SSLContext | None, keep: bool) -> None:
        self.sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        super().__init__(limit=connections, ssl=context or True, force_close=not keep, socket_factory=self._open_socket)

    def _open_socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        opened = socket.socket(*address[:3])
        self.sockets.add(opened)
        return opened

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close, and wait until it is done."""
        await super().close(abort_ssl=abort_ssl)
        for opened in list(self.sockets):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)  # do not wait for the server's end of TLS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while any(opened.fileno() >= 0 for opened in list(self.sockets)):  # noqa: ASYNC110 (nobody tells)
                    await asyncio.sleep(_LOOK)


class HttpTransport:
    """One session of at most `concurrency` connections. A redirect is refused: the secret stays here.

    Connections are kept, but for TLS, where each device is to shake hands for itself.
    """

    def __init__(self, server: Address, concurrency: int, security: Security | None = None) -> None:
        self.name = "https" if security else "http"
        self.url = f"{self.name}://{server}/api/v1/provision"
        self._concurrency = concurrency
        self._security = security

    async def __aenter__(self) -> Self:
        self._session = open_session(self._concurrency, self._security, keep=self._security is None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def provision(self, body: bytes, timeout: float) -> bytes:
        """Status 200 carries every verdict; a 4xx with a body is one too, as the reply's reader decides."""
        limit = aiohttp.ClientTimeout(total=timeout)
        post = self._session.post(self.url, data=body, timeout=limit, allow_redirects=False)
        try:
            async with post as response:
                reply = await response.read()
                status, retry_after = response.status, response.headers.get("Retry-After")
                is_json = response.content_type == "application/json"
        except (aiohttp.ClientError, OSError) as error:
            raise failure(error, timeout) from error
        if status in TEMPORARY:
            raise NoAnswer(describe(status), parse_retry_after(retry_after))
        if status == HTTPStatus.OK or (400 <= status < 500 and is_json and reply):
            return reply
        raise Refused(describe(status))


def failure(error: aiohttp.ClientError | OSError, timeout: float) -> SimulatorError:
    """What an exchange that broke means."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            cause: BaseException = error.certificate_error
        case aiohttp.ClientConnectorError() | aiohttp.ClientOSError() if isinstance(
            error.__cause__ or error.__context__, ssl.SSLError
        ):
            cause = error.__cause__ or error.__context__ or error
        case aiohttp.ClientConnectorError():
            cause = error.os_error
        case _:
            cause = error
    if isinstance(cause, ssl.SSLError):
        return tls.failure(cause)
    return NoAnswer.because(cause, timeout)


def parse_retry_after(value: str | None, now: datetime.datetime | None = None) -> float | None:
    """Seconds to wait (RFC 9110 §10.2.3: a number or a date); None when absent or unreadable."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return math.ceil(max(0.0, (date - (now or datetime.datetime.now(datetime.UTC))).total_seconds()))


def describe(status: int) -> str:
    """A status for people."""
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"
