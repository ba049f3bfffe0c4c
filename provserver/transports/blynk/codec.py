"""Messages of Blynk's native protocol ⇄ bytes (spec blynk-device-api C.3); pure.

A message is a header of five bytes, big-endian, and a body: type, message id, length of the body; the body is texts
with NUL between. A RESPONSE has no body: where the length would be is its status. No id is 0, but blynklib's are once
it has sent 65535 messages: we take them, and answer as if it were 1.
`MalformedMessage` is the only exception that bytes can cause here.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from struct import Struct as Layout
from typing import Final

from msgspec import Struct


class Command(IntEnum):
    """Types of messages. What is not here is answered as an illegal command."""

    RESPONSE = 0
    LOGIN = 2  # the older one
    PING = 6
    HARDWARE_SYNC = 16
    INTERNAL = 17
    PROPERTY = 19
    HARDWARE = 20
    GROUP = 21
    HARDWARE_LOGIN = 29
    REDIRECT = 41
    EVENT_LOG = 64
    EVENT_CLEAR = 65


class Status(IntEnum):
    """What a RESPONSE says, as far as this server says it. A firmware that hears NOT_AUTHENTICATED (5) hangs up."""

    QUOTA_LIMIT = 1
    ILLEGAL_COMMAND = 2
    ALREADY_REGISTERED = 4
    NOT_ALLOWED = 6
    INVALID_TOKEN = 9
    ILLEGAL_COMMAND_BODY = 11
    SERVER_EXCEPTION = 19
    OK = 200


class MalformedMessage(Exception):  # noqa: N818 - as MQTT's MalformedPacket
    """What the client sent is not this protocol. The message is fixed text: it never repeats what was sent."""


HEADER: Final = Layout(">BHH")

_RESPONSE: Final = int(Command.RESPONSE)


class Message(Struct):
    """A message of the client's. length: of the body; of a RESPONSE, its status. Its repr shows no body."""

    command: int
    id: int
    length: int
    body: bytes = b""

    def __repr__(self) -> str:
        return f"<Message of type {self.command}, {self.length}>"

    @property
    def texts(self) -> list[str] | None:
        """The texts of the body; none if it is empty. None when they are not UTF-8."""
        try:
            return self.body.decode().split("\0") if self.body else []
        except UnicodeDecodeError:
            return None


def encode(command: Command, message_id: int, texts: Sequence[str] = ()) -> bytes:
    """The bytes of a message with a body, which may have 65535."""
    body = "\0".join(texts).encode()
    return HEADER.pack(command, message_id, len(body)) + body


def response(message_id: int, status: Status) -> bytes:
    """The bytes of a RESPONSE."""
    return HEADER.pack(_RESPONSE, message_id, status)


class Decoder:
    """Cuts a client's bytes into messages, however they were chunked.

    Feed it, then iterate: iteration ends where the next message is incomplete and may be taken up again after more was
    fed. A body above `max_body` bytes is refused at its header. After a `MalformedMessage` it is of no more use.
    """

    __slots__ = ("_buffer", "max_body")

    def __init__(self, max_body: int) -> None:
        self.max_body = max_body
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes held that no message was made of yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._buffer += data

    def __iter__(self) -> Iterator[Message]:
        while len(self._buffer) >= HEADER.size:
            command, message_id, length = HEADER.unpack_from(self._buffer)
            size = 0 if command == _RESPONSE else length
            if size > self.max_body:
                raise MalformedMessage("the message is too large")
            end = HEADER.size + size
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield Message(command, message_id or 1, length, body)
