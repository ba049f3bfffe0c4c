"""The front of HTTP: answers plain provision requests straight from the bytes.

A request is plain when its head means the same to every reader of RFC 9112: see `body_length`. The first one that is
not goes to whoever is behind (aiohttp, by `http_server.py`), byte for byte, and the rest of the connection with it, as
where the next one begins is then theirs to know. So there is one behaviour for all that is odd, and no request is
taken here that a proxy before us could have read otherwise.
"""

import asyncio
import logging
import re
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time
from typing import Final, Protocol, cast

import msgspec

from provserver.core.model import Peer, Transport
from provserver.errors import RENDERINGS, Outcome
from provserver.services.provisioning import Answer, Provisioning

log = logging.getLogger("provserver.http")

PATH: Final = "/api/v1/provision"
SERVER: Final = "provserver"
"""What all answers say of the server (RFC 9110 §10.2.4): no versions."""

_LINE: Final = f"POST {PATH} HTTP/1.1\r\n".encode()
_END: Final = b"\r\n\r\n"
_MAX_HEAD: Final = 1024  # as each may be remembered
_MAX_FIELDS: Final = 64
_MAX_WAITING: Final = 65_536
"""Bytes of requests that wait behind the one that is under way, but for what one read adds."""

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t -~]*")
_HOST = re.compile(rb"[0-9A-Za-z._~:%\[\]-]+")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,8}")
_NOT_PLAIN = frozenset(
    {
        b"transfer-encoding",
        b"content-encoding",
        b"expect",
        b"upgrade",
        b"trailer",
        b"te",
        b"proxy-connection",  # is Connection to some
        b"sec-websocket-key1",  # refused by aiohttp
    }
)

_IDLE, _ASKED, _HELD = range(3)
_SUCCESS = Outcome.SUCCESS


class Behind(Protocol):
    """Who counts the connections, and takes those that are not plain."""

    fronts: "set[Front]"

    def full(self) -> bool:
        """Whether a connection must be refused."""

    def take(self, front: "Front") -> asyncio.Protocol:
        """Who serves the connection from now on: its protocol, told of the transport already."""


class Front(asyncio.Protocol):
    """Serves one connection as long as its requests are plain. One at a time: what follows waits, in order.

    max_body: bytes; larger ones go behind. accepted: when, by the loop's clock.
    peer: who asks, from the first request on.
    transport: None when the connection is not ours any more.
    """

    __slots__ = (
        "_ask",
        "_behind",
        "_deaf",
        "_ended",
        "_last",
        "_loop",
        "_max_body",
        "_rest",
        "_since",
        "_slow",
        "_state",
        "_wanted",
        "accepted",
        "peer",
        "transport",
    )

    def __init__(self, behind: Behind, provisioning: Provisioning, max_body: int) -> None:
        self._behind = behind
        self._ask = provisioning.request
        self._max_body = min(max_body, _MAX_WAITING)  # as what comes in pieces is joined with each of them
        self._loop = asyncio.get_running_loop()
        self._state = _IDLE  # held: answered, but what follows waits for its turn or for the client to read
        self._rest = b""  # what came and is not taken yet
        self._wanted = 0  # bytes of a request whose body is to come
        self._deaf = False  # we do not read, as too much waits
        self._slow = False  # the client does not read, so too much waits for it
        self._last = False  # close after the next answer
        self._ended: asyncio.Future[None] | None = None
        self.accepted = self._since = 0.0
        self.peer: Peer | None = None
        self.transport: asyncio.Transport | None = None

    # For the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Stay, if there is room."""
        if self._behind.full():
            transport.close()
            return
        self.transport = cast("asyncio.Transport", transport)
        self.accepted = self._since = self._loop.time()
        self._behind.fronts.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        """What is under way is answered to nobody."""
        self.transport = None
        self._rest = b""
        self._behind.fronts.discard(self)
        self._end()

    def data_received(self, data: bytes) -> None:
        """Take what came, or have it wait."""
        if self._rest:
            data = self._rest + data
        if self._state or len(data) < self._wanted:
            self._rest = data
            if self._state and len(data) > _MAX_WAITING and not self._deaf and self.transport is not None:
                self._deaf = True
                self.transport.pause_reading()
        else:
            self._take(data)

    def pause_writing(self) -> None:
        """Answer one more, then wait for the client to read."""
        self._slow = True

    def resume_writing(self) -> None:
        """Go on."""
        self._slow = False
        if self._state == _HELD:
            self._loop.call_soon(self._next)

    # For who is behind

    def close(self) -> None:
        """Take no more requests; close when the one under way is answered, or the one whose body is coming."""
        if self.transport is not None:
            if self._state == _ASKED or self._wanted:
                self._last = True
            else:
                self.transport.close()

    async def shutdown(self, grace: float | None) -> None:
        """Close within `grace` seconds."""
        self.close()
        if self._last and self.transport is not None:
            self._ended = self._loop.create_future()
            await asyncio.wait((self._ended,), timeout=grace)
            if not self._ended.done():
                self.transport.abort()

    def expire(self, now: float, body_timeout: float, keepalive_timeout: float) -> None:
        """Cut off who has been silent for too long, before its first request, in one, or after the last one."""
        if self._state == _ASKED or self.transport is None:
            return
        unheard = self.peer is None
        if now - self._since <= (body_timeout if unheard or self._wanted else keepalive_timeout):
            return
        if self._wanted:
            self._wanted, self._rest, self._last = 0, b"", True
            self._say(408, refusal_body("The body did not arrive in time!"))
        elif unheard or self._state or self.transport.is_closing():
            self.transport.abort()
        else:
            self.transport.close()

    # Requests

    def _take(self, data: bytes) -> None:
        """Take the first request of what came; if it is not plain, the connection goes behind."""
        end = data.find(_END, 0, _MAX_HEAD) + 4
        length = body_length(data[:end]) if end > 3 and data.startswith(_LINE) else None
        if length is None or length > self._max_body:
            self._hand_over(data)
            return
        size = end + length
        peer = self.peer or self._first()
        if len(data) < size:
            if not self._wanted:
                self._since = self._loop.time()
            self._wanted, self._rest = size, data
            return
        self._wanted, self._rest, self._state = 0, data[size:], _ASKED
        if length == 0:
            self._say(400, refusal_body("The body is empty!"))
            return
        try:
            self._ask(data[end:size], peer, self._answered, accept_protobuf=False)
        except Exception:
            log.exception("a request failed")
            if self._state == _ASKED:
                self._say(500, refusal_body("Internal error!"))

    def _answered(self, answer: Answer) -> None:
        if answer.outcome is _SUCCESS:  # the usual one, without the look-up
            self._say(200, answer.body)
        else:
            self._say(*rendered(answer), answer.retry_after)

    def _say(self, status: int, body: bytes, retry_after: int = 0) -> None:
        transport = self.transport
        self._state = _HELD
        if transport is None or transport.is_closing():
            return  # nobody is there any more
        head = _head(status, int(time()), self._last, retry_after)
        transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        self._since = self._loop.time()
        if self._last:
            transport.close()
            self._end()
        elif self._rest or self._slow:
            self._loop.call_soon(self._next)  # others have their turn
        else:
            self._state = _IDLE

    def _next(self) -> None:
        if self._state != _HELD or self._slow or self.transport is None or self.transport.is_closing():
            return
        self._state = _IDLE
        if rest := self._rest:
            self._rest = b""
            self._take(rest)
        if self._deaf and self.transport is not None and (self._wanted or len(self._rest) <= _MAX_WAITING):
            self._deaf = False
            self.transport.resume_reading()

    def _first(self) -> Peer:
        self.peer = peer = channel_peer(cast("asyncio.Transport", self.transport))
        return peer

    def _hand_over(self, data: bytes) -> None:
        transport = cast("asyncio.Transport", self.transport)
        self._behind.fronts.discard(self)
        behind = self._behind.take(self)
        self.transport = None
        transport.set_protocol(behind)
        if self._deaf:
            transport.resume_reading()
        if self._slow:
            behind.pause_writing()
        behind.data_received(data)

    def _end(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


@lru_cache(maxsize=256)  # firmware sends the same few heads again and again
def body_length(head: bytes) -> int | None:
    """How many bytes the body of a plain request has, by its head with all line ends; None if it is not plain.

    Plain: lines end with CRLF; fields are `token: value` in visible ASCII, spaces and tabs, without folds, each once;
    there are a Host and a Content-Length; nothing asks for more than an answer on a connection that is kept.
    """
    lines = head.split(b"\r\n")[1:-2]
    if len(lines) > _MAX_FIELDS:
        return None
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or _TOKEN.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            return None
        fields[name.lower()] = value.strip(b" \t")
    if len(fields) < len(lines) or not _NOT_PLAIN.isdisjoint(fields):
        return None
    if fields.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    length = fields.get(b"content-length", b"")
    if _LENGTH.fullmatch(length) is None or _HOST.fullmatch(fields.get(b"host", b"")) is None:
        return None
    return int(length)


@lru_cache(maxsize=16)
def _head(status: int, second: int, last: bool, retry_after: int) -> bytes:
    """An answer's head up to the length of its body."""
    fields = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Content-Type: application/json",
        "Access-Control-Allow-Origin: *",
        f"Server: {SERVER}",
        f"Date: {formatdate(second, usegmt=True)}",
    ]
    if retry_after:
        fields.append(f"Retry-After: {retry_after}")
    if last:
        fields.append("Connection: close")
    return "\r\n".join([*fields, "Content-Length: "]).encode()


def rendered(answer: Answer) -> tuple[int, bytes]:
    """An answer's status and body."""
    rendering = RENDERINGS[answer.outcome]
    return rendering.http, answer.body or refusal_body(rendering.error or "")


def refusal_body(message: str) -> bytes:
    """A refusal that any client of ours can read."""
    return msgspec.json.encode({"errorMsg": message, "status": "FAILURE", "provisionDeviceStatus": "FAILURE"})


def channel_peer(channel: asyncio.BaseTransport) -> Peer:
    """Who is at the other end."""
    address = channel.get_extra_info("peername")
    return Peer(
        Transport.HTTP,
        address[0] if address else "",
        channel.get_extra_info("certificates", ()),
        channel.get_extra_info("psk"),
    )
