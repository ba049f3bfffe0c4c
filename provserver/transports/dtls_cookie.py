"""DTLS's cookie exchange (RFC 6347 §4.2.1): nothing is kept of a peer that has not shown that it receives.

Stateless: the cookie is a MAC over the peer's address and its hello, under a secret that changes with time and that
all processes can share.
"""

import hmac
from enum import Enum
from typing import Final

from provserver.transports.handshake import ContentType, MessageType, fragments, read_client_hello

_COOKIE_SIZE: Final = 16
_PERIOD: Final = 60.0  # seconds that a secret is new; it is good for twice as long
_MAX_HELLO_SIZE: Final = 2048


class Hello(Enum):
    """What a datagram from an unknown peer is, when it is not to be answered with a HelloVerifyRequest."""

    VERIFIED = "verified"  # a ClientHello with our cookie: make a channel and feed it
    NOTHING = "nothing"  # not a ClientHello that we would look at: ignore it


class CookieExchange:
    """Judges the first datagrams of unknown peers.

    secret: 16 random bytes or more, the same in every process that may get the second hello.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def judge(self, datagram: bytes, address: bytes, now: float) -> Hello | bytes:
        """The HelloVerifyRequest to send back, or what else is to be done.

        address: the peer's, port included. now: seconds; for more than one process, a clock they share.
        The answer is shorter than the hello, so a forged source address gains nothing.
        """
        if len(datagram) > _MAX_HELLO_SIZE:
            return Hello.NOTHING
        first = next(fragments(datagram), None)
        if first is None or first.type != MessageType.CLIENT_HELLO or first.length != len(first.body):
            return Hello.NOTHING  # also a hello in fragments: they could not be put together without keeping some
        hello = read_client_hello(first.body, datagram=True)
        if hello is None:
            return Hello.NOTHING
        period = int(now / _PERIOD)
        content = address + b"\0" + hello.parameters
        if first.message_number and any(
            hmac.compare_digest(hello.cookie, self._cookie(content, period - back)) for back in (0, 1)
        ):
            return Hello.VERIFIED
        return _hello_verify_request(first.record_number, self._cookie(content, period))

    def _cookie(self, content: bytes, period: int) -> bytes:
        return hmac.digest(self._secret, period.to_bytes(8, signed=True) + content, "sha256")[:_COOKIE_SIZE]


def _hello_verify_request(record_number: int, cookie: bytes) -> bytes:
    """In a record of the hello's number, and of DTLS 1.0 for every version (RFC 6347 §4.2.1)."""
    body = b"\xfe\xff" + len(cookie).to_bytes(1) + cookie
    size = len(body).to_bytes(3)
    message = bytes([MessageType.HELLO_VERIFY_REQUEST]) + size + bytes(2) + bytes(3) + size + body
    header = bytes([ContentType.HANDSHAKE]) + b"\xfe\xff" + bytes(2) + record_number.to_bytes(6)
    return header + len(message).to_bytes(2) + message
