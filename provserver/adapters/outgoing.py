"""The guarded client for everything we call (DESIGN §4): where a request may go, how long, how much comes back.

A name is resolved once for a connection, each address is checked, and the connection goes to that very address.
Public addresses are allowed; private, loopback, link-local and all other special ones only where `outgoing_private`
lists them. No redirects, no proxies of the environment, no cookies.
"""

import asyncio
import io
import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import TracebackType
from typing import Any, Self, TypeAlias

import aiohttp
from yarl import URL

from provserver.errors import Misconfigured

Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address

_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that is assigned of RFC 4291 §2.4
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in its last 32 bits

_MUCH = 1 << 20
"""Bytes that aiohttp does not want to send in one go."""

MAX_RESPONSE = 65_536
DEADLINE = 10.0


class Unreachable(Exception):  # noqa: N818
    """A request could not be made or was not answered; the message says why and holds nothing secret."""


class Forbidden(Unreachable):
    """The host is at an address that requests must not go to."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is not at a public address; if it is meant, add its network to outgoing_private")


@dataclass(frozen=True, slots=True)
class Response:
    """What came back. body: its first bytes, as many as were allowed; complete: whether that is all of it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool

    def retry_after(self, now: float, longest: float) -> float:
        """Seconds for which the server asks to be left alone, `longest` at most (RFC 9110 §10.2.3); 0.0: it does not.

        now: seconds since the epoch.
        """
        text = self.headers.get("Retry-After", "")
        try:
            seconds = float(int(text)) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - now
        except (ValueError, OverflowError):
            return 0.0
        return max(0.0, min(longest, seconds))


def networks(text: str) -> tuple[Network, ...]:
    """The option `outgoing_private`: networks or addresses with commas between. Raises Misconfigured."""
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        try:
            found.append(ipaddress.ip_network(part))
        except ValueError as fault:
            raise Misconfigured(
                f'outgoing_private: {fault}. It is a list of networks, e.g. "10.0.0.0/8, 127.0.0.1".'
            ) from None
    return tuple(found)


class Outgoing:
    """Makes requests; private: the networks beside the public ones that they may go to."""

    def __init__(
        self, private: Sequence[Network] = (), *, deadline: float = DEADLINE, max_response: int = MAX_RESPONSE
    ) -> None:
        self._private = tuple(private)
        self._deadline = deadline
        self._max_response = max_response
        self._session: aiohttp.ClientSession | None = None

    def allows(self, address: str) -> bool:
        """Whether a request may go to this IP address."""
        for each in _embedded(ipaddress.ip_address(address.partition("%")[0])):
            if not (_is_public(each) or any(each.version == n.version and each in n for n in self._private)):
                return False
        return True

    async def resolve(self, host: str, port: int) -> str:
        """An address of the host that may be connected to: for what is not HTTP. Raises Unreachable."""
        try:
            async with asyncio.timeout(self._deadline):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise Unreachable(f"{host} could not be resolved in time") from None
        except (OSError, UnicodeError) as fault:
            raise Unreachable(f"{host} cannot be resolved: {_reason(fault)}") from None
        for _, _, _, _, (address, *_) in found:
            if self.allows(str(address)):
                return str(address)
        raise Forbidden(host)

    async def request(
        self, method: str, url: URL, *, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Response:
        """One request and its answer, whatever its status. Raises Unreachable.

        Credentials belong in the headers: those in a URL are refused.
        """
        if url.scheme not in ("http", "https") or url.raw_user is not None or url.raw_password is not None:
            raise ValueError("the URL must be http or https, without credentials")
        if self._session is None:
            self._session = self._open()
        try:
            data = io.BytesIO(body) if len(body) > _MUCH else body or None
            async with self._session.request(
                method, url, headers=headers, data=data, allow_redirects=False
            ) as response:
                content = await _at_most(response.content, self._max_response + 1)
                if len(content) > self._max_response:
                    response.close()
                return Response(
                    response.status,
                    response.headers.copy(),
                    content[: self._max_response],
                    len(content) <= self._max_response,
                )
        except TimeoutError:
            raise Unreachable(f"no answer within {self._deadline:.0f} s") from None
        except aiohttp.ClientSSLError as fault:
            raise Unreachable(f"TLS: {_tls_reason(fault)}") from None
        except aiohttp.ClientConnectorError as fault:
            if isinstance(fault.os_error, _ForbiddenAddress):
                raise Forbidden(url.host or "") from None
            raise Unreachable(f"no connection: {_reason(fault.os_error)}") from None
        except (aiohttp.ClientError, OSError, ValueError) as fault:
            raise Unreachable(f"the request failed: {type(fault).__name__}") from None

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _fault: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(use_dns_cache=False, socket_factory=self._socket),
            timeout=aiohttp.ClientTimeout(total=self._deadline),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # which could make much of little
            headers={"User-Agent": "provserver", "Accept-Encoding": "identity"},
        )

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        """The one place that every connection passes, whatever its host looked like: with the address it goes to."""
        family, type_, protocol, _, address = info
        if not self.allows(address[0]):
            raise _ForbiddenAddress
        return socket.socket(family, type_, protocol)


class _ForbiddenAddress(OSError):  # noqa: N818
    """`Forbidden`, on its way through aiohttp."""


def _embedded(address: Address) -> Sequence[Address]:
    """The address and, for an IPv6 one that stands for an IPv4 one, that one instead."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return (address.ipv4_mapped,)
        if address.sixtofour is not None:
            return (address, address.sixtofour)
        if address.teredo is not None:
            return (address, *address.teredo)
        if address in _NAT64:
            return (IPv4Address(address.packed[-4:]),)
    return (address,)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


async def _at_most(stream: aiohttp.StreamReader, limit: int) -> bytes:
    parts = bytearray()
    while len(parts) < limit and (part := await stream.read(limit - len(parts))):
        parts += part
    return bytes(parts)


def _tls_reason(fault: aiohttp.ClientSSLError) -> str:
    if isinstance(fault, aiohttp.ClientConnectorCertificateError):
        return str(getattr(fault.certificate_error, "verify_message", "")) or "the certificate is not accepted"
    return "the handshake failed"


def _reason(fault: Exception) -> str:
    if isinstance(fault, OSError) and fault.errno is not None:
        return str(fault.strerror) if isinstance(fault, socket.gaierror) else os.strerror(fault.errno)
    return type(fault).__name__
