"""The plaintext part of a TLS or DTLS handshake, as far as it must be read before OpenSSL reads it.

OpenSSL asks for a pre-shared key in the middle of a call, and a look-up cannot be waited for there. So the identity is
read beforehand: from the ClientHello's pre_shared_key (TLS 1.3, RFC 8446 §4.2.11) or from the ClientKeyExchange (1.2,
RFC 4279 §2). What cannot be read here is left for OpenSSL to refuse.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

MAX_MESSAGE_SIZE: Final = 32_768
"""Bytes of a handshake message before the keys are agreed: a length that claims more is refused unread."""

_MAX_IDENTITY_SIZE: Final = 128

# The suites of `tls.py` that have a pre-shared key: GCM, ChaCha20, CCM and CCM-8 (IANA TLS parameters).
_PSK_SUITES: Final = frozenset({0x00A8, 0x00A9, 0xC0A4, 0xC0A5, 0xC0A8, 0xC0A9, 0xCCAB, 0xCCAC})
_PRE_SHARED_KEY: Final = 41

_UINT16: Final = Struct(">H")
_TWO_UINT16: Final = Struct(">HH")
_RECORD_HEADER: Final = Struct(">BHH")
_RECORD: Final = Struct(">BHHHIH")  # type, version, epoch, sequence number (48 bits), length
_RECORD_SIZE: Final = _RECORD.size
_FRAGMENT_SIZE: Final = 12  # type, length, message sequence, fragment offset and length


class ContentType(IntEnum):
    """Of a record (RFC 5246 §6.2.1)."""

    CHANGE_CIPHER_SPEC = 20
    HANDSHAKE = 22


class MessageType(IntEnum):
    """Of a handshake message (RFC 5246 §7.4)."""

    CLIENT_HELLO = 1
    HELLO_VERIFY_REQUEST = 3
    CLIENT_KEY_EXCHANGE = 16


class TooLarge(ValueError):  # noqa: N818 - reads as what it says
    """A handshake message of more than MAX_MESSAGE_SIZE."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a ClientHello offers.

    psk_suites: a cipher suite with a pre-shared key (TLS 1.2 and DTLS 1.2).
    identity: the first one of pre_shared_key (TLS 1.3) that is no session ticket.
    cookie: of DTLS. parameters: what stays the same when a hello is repeated with a cookie (RFC 6347 §4.2.1).
    """

    psk_suites: bool
    identity: str | None
    cookie: bytes
    parameters: bytes


def read_client_hello(body: bytes, *, datagram: bool = False) -> ClientHello | None:
    """A ClientHello without its header (RFC 8446 §4.1.2, with DTLS's cookie RFC 6347 §4.2.1); None: not one."""
    try:
        before = 35 + body[34]  # past version, random and session id
        after = before + 1 + body[before] if datagram else before
        cookie = body[before + 1 : after]
        (size,) = _UINT16.unpack_from(body, after)
        suites = struct.unpack_from(f">{size // 2}H", body, after + 2)
        end = after + 2 + size
        end += 1 + body[end]  # past the compression methods
        identity = None if datagram else _offered_identity(body, end)
    except (IndexError, struct.error):
        return None
    return ClientHello(not _PSK_SUITES.isdisjoint(suites), identity, cookie, body[:before] + body[after:end])


def _offered_identity(body: bytes, at: int) -> str | None:
    """Of the extensions there (RFC 8446 §4.2): pre_shared_key is the last one, if it is there."""
    at += 2
    while at < len(body):
        kind, size = _TWO_UINT16.unpack_from(body, at)
        at += 4
        if kind == _PRE_SHARED_KEY:
            end = at + 2 + _UINT16.unpack_from(body, at)[0]
            at += 2
            while at < end:
                (size,) = _UINT16.unpack_from(body, at)
                if (identity := _identity(body[at + 2 : at + 2 + size])) is not None:
                    return identity
                at += 6 + size  # past the age of a ticket, too
            return None
        at += size
    return None


def read_key_exchange(body: bytes) -> str | None:
    """The identity in a ClientKeyExchange of a PSK suite (RFC 4279 §2); None where there is none we could know."""
    size = int.from_bytes(body[:2])
    return _identity(body[2 : 2 + size]) if 2 + size <= len(body) else None


def _identity(data: bytes) -> str | None:
    """Ours are short and printable; a session ticket is neither."""
    if not 0 < len(data) <= _MAX_IDENTITY_SIZE:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


class StreamReader:
    """Finds the plaintext handshake messages in the records of one TLS direction, in whatever pieces they come.

    over: whether something else came, so that there is nothing more to find.
    """

    __slots__ = ("_message", "_record", "over")

    def __init__(self) -> None:
        self._record = bytearray()
        self._message = bytearray()
        self.over = False

    def feed(self, data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
        """Take the next bytes; yields (type, body) of each message that is complete. Raises TooLarge."""
        self._record += data
        while not self.over and len(self._record) >= _RECORD_HEADER.size:
            kind, _, length = _RECORD_HEADER.unpack_from(self._record)
            if kind == ContentType.CHANGE_CIPHER_SPEC and length == 1:
                pass  # a TLS 1.3 client may send one for the middleboxes (RFC 8446 §D.4); 1.2 goes on encrypted
            elif kind != ContentType.HANDSHAKE or not 0 < length <= 2**14:
                self.over = True
                return
            if len(self._record) < (end := _RECORD_HEADER.size + length):
                return
            if kind == ContentType.HANDSHAKE:
                self._message += self._record[_RECORD_HEADER.size : end]
            del self._record[:end]
            yield from self._messages()

    def _messages(self) -> Iterator[tuple[int, bytes]]:
        while len(self._message) >= 4:
            kind, length = self._message[0], int.from_bytes(self._message[1:4])
            if length > MAX_MESSAGE_SIZE:
                raise TooLarge
            if len(self._message) < 4 + length:
                return
            body = bytes(self._message[4 : 4 + length])
            del self._message[: 4 + length]
            yield kind, body


@dataclass(frozen=True, slots=True)
class Fragment:
    """A handshake message, or a part of one, of DTLS epoch 0 (RFC 6347 §4.2.2).

    record_number: 48 bits. length: of the whole message; offset: where `body` begins in it.
    """

    record_number: int
    type: int
    length: int
    message_number: int
    offset: int
    body: bytes


def fragments(datagram: bytes) -> Iterator[Fragment]:
    """The plaintext handshake fragments of a datagram; ends where it is not DTLS."""
    at = 0
    while at + _RECORD_SIZE <= len(datagram):
        kind, version, epoch, high, low, size = _RECORD.unpack_from(datagram, at)
        content = datagram[at + _RECORD_SIZE : at + _RECORD_SIZE + size]
        at += _RECORD_SIZE + size
        if version >> 8 != 0xFE or len(content) < size:
            return
        if kind != ContentType.HANDSHAKE or epoch:
            continue
        while len(content) >= _FRAGMENT_SIZE:
            end = _FRAGMENT_SIZE + int.from_bytes(content[9:12])
            if end > len(content):
                return
            yield Fragment(
                record_number=high << 32 | low,
                type=content[0],
                length=int.from_bytes(content[1:4]),
                message_number=int.from_bytes(content[4:6]),
                offset=int.from_bytes(content[6:9]),
                body=content[_FRAGMENT_SIZE:end],
            )
            content = content[end:]


def encrypted(datagram: bytes) -> int:
    """How many records of a DTLS datagram are under a key, or claim to be: those of a later epoch than the first."""
    count = at = 0
    while at + _RECORD_SIZE <= len(datagram):
        count += datagram[at + 3 : at + 5] != b"\0\0"
        at += _RECORD_SIZE + int.from_bytes(datagram[at + 11 : at + 13])
    return count


def records(data: bytes) -> Iterator[bytes]:
    """Split what was written by a DTLS endpoint into its records, headers included."""
    at = 0
    while at < len(data):
        end = at + _RECORD_SIZE + int.from_bytes(data[at + 11 : at + 13])
        yield data[at:end]
        at = end
