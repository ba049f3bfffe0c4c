"""Improv Wi-Fi on a serial port, the device's side (https://www.improv-wifi.com/serial, version 1).

`Service` is without I/O; `served` has it on a pseudo-terminal. Two commands are no part of Improv: 0xF0 takes token,
host and port ("" for the usual ones), as Improv has no place for them, and comes before the network; 0xF1 tells why
the device could not connect, as the firmware's number. Whoever does not know them can give new WiFi to a device that
has a token already; one without is unable to connect, whatever the network.
"""

import asyncio
import contextlib
import os
import pty
import tty
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Final, TypeAlias

from firmware_sim import power
from firmware_sim.log import SerialLog
from firmware_sim.onboarding import TOKEN_SIZE, Onboarding, Settings
from firmware_sim.wifi_networks import Network

_HEADER: Final = b"IMPROV\x01"
_CURRENT_STATE, _ERROR_STATE, _RPC_COMMAND, _RPC_RESULT = 1, 2, 3, 4


class _Rpc(IntEnum):
    SEND_WIFI = 1
    STATE = 2
    INFO = 3
    NETWORKS = 4
    SEND_CLOUD = 0xF0
    LAST_ERROR = 0xF1


_FINE, _INVALID_RPC, _UNKNOWN_RPC, _UNABLE_TO_CONNECT = 0, 1, 2, 3
_AUTHORIZED, _PROVISIONING, _PROVISIONED = 2, 3, 4

CHIP: Final = "ESP32"
"""What all simulated devices are."""

_READ: Final = 1024
_BUSY: Final = ("SWITCH_TO_STA", "CONNECTING_NET", "CONNECTING_CLOUD")
_DONE: Final = ("RUNNING", "OTA_UPGRADE")


@dataclass(frozen=True, slots=True)
class Scan:
    """The networks around are wanted: answer with `networks_found`."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Begin to connect."""

    settings: Settings


Effect: TypeAlias = bytes | Scan | Connect


class Service:
    """One serial port: bytes and changes of state go in; packets, and what is to be done, come out, in order."""

    def __init__(self, device: Onboarding) -> None:
        self._device = device
        self._forget()

    def _forget(self) -> None:
        """As at power-on: all this is in memory alone."""
        self._line = bytearray()
        self._cloud = Settings("")
        self._connecting = self._begun = False

    def receive(self, data: bytes) -> list[Effect]:
        """What that which has come leads to. Whatever is between packets is passed over."""
        effects: list[Effect] = []
        for byte in data:
            self._line.append(byte)
            if len(self._line) <= len(_HEADER):
                while not _HEADER.startswith(self._line):
                    del self._line[0]
            elif len(self._line) > 9 and len(self._line) == 10 + self._line[8]:
                packet = bytes(self._line)
                self._line.clear()
                effects += self._packet(packet)
        return effects

    def changed(self, state: str, last_error: int) -> list[bytes]:
        """How a change of the device's state is told, and the answer to whoever has sent the network."""
        if state == "OFF":
            self._forget()
            return []
        packets = [_packet(_CURRENT_STATE, bytes((_code(state),)))]
        if not self._connecting:
            return packets
        if state in _BUSY:
            self._begun = True
            return packets
        if state in _DONE:
            self._connecting = False
            self._cloud = Settings("")
            packets.append(_result(_Rpc.SEND_WIFI))
        elif last_error or self._begun:  # else it is on its way to the first of them
            self._connecting = False
            packets.insert(0, _error(_UNABLE_TO_CONNECT))
        return packets

    def _packet(self, packet: bytes) -> list[Effect]:
        body = packet[9:-1]
        if packet[7] != _RPC_COMMAND:
            return []
        if sum(packet[:-1]) & 0xFF != packet[-1] or len(body) < 2 or body[1] != len(body) - 2:
            return [_error(_INVALID_RPC)]
        return [_error(_FINE), *self._command(body[0], body[2:])]

    def _command(self, number: int, data: bytes) -> list[Effect]:
        device = self._device
        match number:
            case _Rpc.SEND_WIFI:
                return self._wifi(_texts(data))
            case _Rpc.STATE:
                state = _packet(_CURRENT_STATE, bytes((_code(device.state),)))
                return [state, _result(number)] if device.state in _DONE else [state]
            case _Rpc.INFO:
                device.asked()
                board = device.board
                return [_result(number, board.firmware_type, board.version, CHIP, board.name)]
            case _Rpc.NETWORKS:
                return [Scan()]
            case _Rpc.SEND_CLOUD:
                return self._take_cloud(_texts(data))
            case _Rpc.LAST_ERROR:
                return [_result(number, str(device.last_error))]
        return [_error(_UNKNOWN_RPC)]

    def _wifi(self, texts: list[str] | None) -> list[Effect]:
        if texts is None or len(texts) != 2 or not texts[0]:
            return [_error(_INVALID_RPC)]
        if self._connecting or not (self._cloud.token or self._device.token):
            return [_error(_UNABLE_TO_CONNECT)]
        self._connecting, self._begun = True, False
        cloud = self._cloud if self._cloud.token else replace(self._cloud, token=self._device.token)
        return [Connect(replace(cloud, ssid=texts[0], password=texts[1]))]

    def _take_cloud(self, texts: list[str] | None) -> list[Effect]:
        if texts is None or len(texts) != 3 or len(texts[0].encode()) != TOKEN_SIZE:
            return [_error(_INVALID_RPC)]
        token, host, port = texts
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
            return [_error(_INVALID_RPC)]
        self._cloud = Settings("", token=token, host=host, port=int(port) if port else None)
        return [_result(_Rpc.SEND_CLOUD)]


def networks_found(networks: Sequence[Network]) -> list[bytes]:
    """The answer to `Scan`: a result for each network, and an empty one at the end."""
    found = [
        _result(_Rpc.NETWORKS, network.ssid, str(network.rssi), "NO" if network.sec == "OPEN" else "YES")
        for network in networks
        if network.ssid
    ]
    return [*found, _result(_Rpc.NETWORKS)]


@asynccontextmanager
async def served(device: Onboarding, log: SerialLog) -> AsyncIterator[Path]:
    """Listen on a pseudo-terminal as long as the context lasts. Yields its path, which is the other's serial port."""
    line, port = pty.openpty()
    tty.setraw(port)
    os.set_blocking(line, False)
    cable = _Cable(line, device, log)
    loop = asyncio.get_running_loop()
    forget = device.watch(cable.changed)
    try:
        loop.add_reader(line, cable.receive)
        path = Path(os.ttyname(port))
        log.info("improv", f"serial port {path}")
        yield path
    finally:
        forget()
        loop.remove_reader(line)
        await cable.closed()
        os.close(line)
        os.close(port)


class _Cable:
    def __init__(self, line: int, device: Onboarding, log: SerialLog) -> None:
        self._line = line
        self._device = device
        self._log = log
        self._service = Service(device)
        self._scan: asyncio.Task[None] | None = None

    def receive(self) -> None:
        """Take what has come; called by the loop."""
        with contextlib.suppress(OSError):
            for effect in self._service.receive(os.read(self._line, _READ)):
                match effect:
                    case bytes():
                        self._send(effect)
                    case Connect(settings):
                        self._log.info("improv", f"network {settings.ssid!r}")
                        self._device.configure(settings)
                    case Scan() if self._scan is None:
                        self._scan = asyncio.get_running_loop().create_task(self._found())
        power.reached("Improv packets taken")

    def changed(self, state: str, last_error: int) -> None:
        """Tell a change of state."""
        for packet in self._service.changed(state, last_error):
            self._send(packet)

    async def closed(self) -> None:
        """End what is under way."""
        if self._scan is not None:
            self._scan.cancel()
            await asyncio.wait([self._scan])

    async def _found(self) -> None:
        try:
            for packet in networks_found(await self._device.scan()):
                self._send(packet)
        finally:
            self._scan = None

    def _send(self, packet: bytes) -> None:
        """What nobody takes off the line is lost, as on a real one."""
        with contextlib.suppress(OSError):
            os.write(self._line, packet + b"\n")


def _code(state: str) -> int:
    if state in _DONE:
        return _PROVISIONED
    return _PROVISIONING if state in _BUSY else _AUTHORIZED


def _texts(data: bytes) -> list[str] | None:
    """Texts behind their lengths; None for what is none."""
    texts = []
    while data:
        size, data = data[0], data[1:]
        if size > len(data):
            return None
        try:
            texts.append(data[:size].decode())
        except UnicodeDecodeError:
            return None
        data = data[size:]
    return texts


def _result(command: int, *texts: str) -> bytes:
    data = b"".join(bytes((len(text.encode()),)) + text.encode() for text in texts)
    return _packet(_RPC_RESULT, bytes((command, len(data))) + data)


def _error(code: int) -> bytes:
    return _packet(_ERROR_STATE, bytes((code,)))


def _packet(kind: int, body: bytes) -> bytes:
    packet = _HEADER + bytes((kind, len(body))) + body
    return packet + bytes((sum(packet) & 0xFF,))
