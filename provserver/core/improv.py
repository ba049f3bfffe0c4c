"""Improv Wi-Fi on a serial port, the phone's side (https://www.improv-wifi.com/serial, version 1).

A packet: `IMPROV`, version, type, length, so many bytes, and the sum of all before as a byte. In between there may be
anything, as devices log to the same port. Improv knows WiFi alone. `CLOUD` and `LAST_ERROR` are commands of ours, in
its form and far from its own numbers: a device takes its token by the one, before the network, and says by the other
why it could not connect, for which Improv has a single word. A device that does not know them answers as Improv says.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

from provserver.core.board import Board, Generation, WifiNetwork
from provserver.core.edgent import Settings

MAGIC: Final = b"IMPROV"
VERSION: Final = 1
BAUD: Final = 115_200

WIFI: Final = 1
STATE: Final = 2
INFO: Final = 3
SCAN: Final = 4
CLOUD: Final = 0xF0
LAST_ERROR: Final = 0xF1

NO_ERROR: Final = 0
INVALID: Final = 1
UNKNOWN_COMMAND: Final = 2
UNABLE_TO_CONNECT: Final = 3

READY: Final = 2
PROVISIONING: Final = 3
PROVISIONED: Final = 4

_STATE_PACKET, _ERROR_PACKET, _COMMAND_PACKET, _RESULT_PACKET = 1, 2, 3, 4
_HEAD: Final = len(MAGIC) + 3
_OPEN: Final = "NO"


@dataclass(frozen=True, slots=True)
class State:
    """How far the device is."""

    code: int


@dataclass(frozen=True, slots=True)
class ErrorState:
    """What was wrong with a command, or became of it; 0 comes before each answer."""

    code: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a command gave."""

    command: int
    texts: tuple[str, ...]


Packet: TypeAlias = State | ErrorState | Result


def command(number: int, *texts: str) -> bytes:
    """A command's packet: each text behind its length. They are 250 bytes at most, together with their lengths."""
    data = b"".join(len(each).to_bytes(1) + each for each in (text.encode() for text in texts))
    body = bytes((number, len(data))) + data
    packet = MAGIC + bytes((VERSION, _COMMAND_PACKET, len(body))) + body
    return packet + bytes((sum(packet) & 0xFF,)) + b"\n"


def wifi(settings: Settings) -> bytes:
    """Give it the network, and have it connect: states come, then a Result, or an ErrorState."""
    return command(WIFI, settings.ssid, settings.password)


def cloud(settings: Settings) -> bytes:
    """Give it token, host and port, for when it has the network: a Result comes, or an ErrorState."""
    return command(CLOUD, settings.auth, settings.host, "" if settings.port is None else str(settings.port))


def board(texts: tuple[str, ...], last_error: int = 0) -> Board:
    """Who a device is by its answer to `INFO`: firmware, its version, the chip, the device's name, and maybe more.

    Edgent's type of a firmware is its template, unless that is set apart.
    """
    firmware, version, _, name = (*texts, "", "", "", "")[:4]
    return Board(
        name=name,
        template_id=firmware if firmware.startswith("TMPL") else "",
        firmware_type=firmware,
        firmware_version=version,
        last_error=last_error,
        generation=Generation.EDGENT,
    )


def network(texts: tuple[str, ...]) -> WifiNetwork:
    """One that a device sees: its name, its strength, and whether it wants a password (or which security it has)."""
    name, strength, secured = (*texts, "", "", "")[:3]
    try:
        rssi = int(strength)
    except ValueError:
        rssi = 0
    security = {_OPEN: "OPEN", "YES": "unknown"}.get(secured, secured)
    return WifiNetwork(ssid=name, rssi=rssi, security=security)


class Decoder:
    """Bytes go in as they come; packets come out, and what is none, or is damaged, is passed over."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that are whole now."""
        self._received += data
        packets = []
        while (found := self._next()) is not None:
            packets += found
        return packets

    def _next(self) -> list[Packet] | None:
        """What the next packet holds, nothing if it makes no sense; None: more must come."""
        received = self._received
        begin = received.find(MAGIC)
        if begin < 0:
            del received[: max(0, len(received) - len(MAGIC) + 1)]
            return None
        del received[:begin]
        if len(received) < _HEAD:
            return None
        version, kind, length = received[_HEAD - 3 : _HEAD]
        if version != VERSION:
            del received[: len(MAGIC)]
            return []
        end = _HEAD + length
        if len(received) <= end:
            return None
        if sum(received[:end]) & 0xFF != received[end]:
            del received[: len(MAGIC)]  # a byte was lost, and a whole packet may begin further on
            return []
        body = bytes(received[_HEAD:end])
        del received[: end + 1]
        return _packet(kind, body)


def _packet(kind: int, body: bytes) -> list[Packet]:
    if kind == _RESULT_PACKET and len(body) >= 2 and body[1] == len(body) - 2:
        texts = _texts(body[2:])
        return [] if texts is None else [Result(body[0], texts)]
    if len(body) == 1 and kind == _STATE_PACKET:
        return [State(body[0])]
    if len(body) == 1 and kind == _ERROR_PACKET:
        return [ErrorState(body[0])]
    return []


def _texts(data: bytes) -> tuple[str, ...] | None:
    texts = []
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        if end > len(data):
            return None
        texts.append(data[at + 1 : end].decode("utf-8", "replace"))
        at = end
    return tuple(texts)
