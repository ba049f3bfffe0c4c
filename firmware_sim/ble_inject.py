"""Blynk.Inject over BLE, the device's side: one JSON object a write or notification, its type in the member `t`.

`Peripheral` is without I/O. `served` has it on a TCP socket in BLE's place: what would be a write to the
characteristic RX, or a notification of TX, is two bytes of length (big-endian) and so many bytes.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from firmware_sim import power
from firmware_sim.address import Address
from firmware_sim.log import SerialLog
from firmware_sim.onboarding import TOKEN_SIZE, Identity, Onboarding, Settings
from firmware_sim.wifi_networks import Network

MAX_MESSAGE: Final = 512
"""Bytes that an attribute of GATT can have."""

MAX_NETWORKS: Final = 30
_WEAKEST: Final = -90

_FIELDS: Final[Mapping[str, str]] = {
    "ssid": "ssid",
    "pass": "password",
    "blynk": "token",
    "host": "host",
    "ip": "ip",
    "mask": "mask",
    "gw": "gateway",
    "dns": "dns",
    "dns2": "dns2",
}
"""Members of `set` that are texts, and what they set."""

_STATUS: Final[Mapping[str, str]] = {
    "CONNECTING_NET": "connecting_net",
    "CONNECTING_CLOUD": "connecting_cloud",
    "RUNNING": "connected",
}
_NETWORK_FAILURES: Final[Mapping[int, str]] = {
    701: "timeout",
    720: "not_found",
    721: "no_cable",
    722: "invalid_credentials",
    723: "no_ip_assigned",
    730: "sim_missing",
    731: "sim_locked",
    732: "sim_wrong_pin",
}
_CLOUD_FAILURES: Final[Mapping[int, str]] = {
    702: "timeout",
    703: "auth_failed",
    705: "generic",
    710: "dns_failed",
    711: "invalid_certificate",
    712: "captive_portal",
}
_OVER: Final = ("WAIT_CONFIG", "CONFIGURING", "IDLE", "ERROR")
"""States that end an attempt to connect which has not come to `RUNNING`."""

_SILENT: Final = ("OFF", "IDLE", "RUNNING", "OTA_UPGRADE")
"""States in which the firmware does not advertise."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The phone has looked at the board."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The networks around are wanted: answer with `Peripheral.scanned`."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Begin to connect."""

    settings: Settings


@dataclass(frozen=True, slots=True)
class Reset:
    """Forget everything."""


@dataclass(frozen=True, slots=True)
class Reboot:
    """Power off, and on."""


Action: TypeAlias = Asked | Scan | Connect | Reset | Reboot
Effect: TypeAlias = bytes | Action


class Peripheral:
    """One phone's connection: messages and changes of state go in; messages, and what is to be done, come out."""

    def __init__(self, board: Identity) -> None:
        self._board = board
        self._interface = ""
        self._settings = Settings("")
        self._connecting = False
        self._status = ""

    def receive(self, message: bytes) -> list[Effect]:
        """What a write to RX leads to, in order."""
        try:
            members = json.loads(message)
        except (ValueError, RecursionError):
            members = None
        if not isinstance(members, dict):
            return [_message("error", msg="wrong format")]
        match members.get("t"):
            case "info":
                return [Asked(), self._info()]
            case "ifs":
                interface = {"mac": self._board.mac, "scan": 1, "5ghz": 0, "static_ip": 1}
                return [_message("ifs_start"), _message("if", name="wifi", **interface), _message("ifs_end")]
            case "scan":
                return [_message("scan_start"), Scan()]
            case "set":
                return [_message("set_ok" if self._set(members) else "set_fail")]
            case "connect":
                return self._connect()
            case "reset":
                return [Reset(), _message("reset_ok")]
            case "reboot":
                return [Reboot()]
        return [_message("error", msg="invalid command")]

    def scanned(self, networks: Sequence[Network]) -> list[bytes]:
        """How networks are told: those with a name, and loud enough, up to `scan_end`."""
        heard = [network for network in networks if network.ssid and network.rssi >= _WEAKEST]
        found = [
            _message("scan", ssid=each.ssid, bssid=each.bssid, rssi=each.rssi, sec=each.sec, ch=each.ch)
            for each in heard[:MAX_NETWORKS]
        ]
        return [*found, _message("scan_end")]

    def changed(self, state: str, last_error: int) -> list[bytes]:
        """How a change of the device's state is told: what is no part of an attempt to connect, not at all."""
        if not self._connecting:
            return []
        status = _STATUS.get(state)
        if status is not None:
            self._connecting = status != "connected"
            repeated, self._status = status == self._status, status
            return [] if repeated else [_message("status", s=status)]
        if state not in _OVER or not (last_error or self._status):
            return []  # on its way to the first of them
        self._connecting = False
        if last_error in _CLOUD_FAILURES:
            return [_message("cloud_fail", reason=_CLOUD_FAILURES[last_error])]
        if last_error == 700:
            return [_message("connect_fail", msg="configuration invalid")]
        return [_message("net_fail", reason=_NETWORK_FAILURES.get(last_error, "generic"))]

    def _info(self) -> bytes:
        board = self._board
        said = {"vendor": board.vendor, "tmpl_id": board.template, "fw_type": board.firmware_type}
        said |= {"fw_ver": board.version, "name": board.name}
        return _message("info", **said, **({"uid": board.uid} if board.uid else {}))

    def _set(self, members: dict[str, Any]) -> bool:
        """Take what is known, as the firmware does, even when something else is not."""
        known = True
        for name, value in members.items():
            text = value if isinstance(value, str) else json.dumps(value)
            if name in _FIELDS:
                change: dict[str, Any] = {_FIELDS[name]: text}
                self._settings = replace(self._settings, **change)
            elif name == "if":
                self._interface = text
            elif name == "save":
                self._settings = replace(self._settings, save=True)
            elif name not in ("t", "port"):
                known = False
        return known

    def _connect(self) -> list[Effect]:
        if (
            len(self._settings.token.encode(errors="replace")) != TOKEN_SIZE
            or self._interface != "wifi"
            or not self._settings.ssid
        ):
            return [_message("connect_fail", msg="configuration invalid")]
        self._connecting, self._status = True, ""
        return [_message("connecting"), Connect(self._settings)]


@asynccontextmanager
async def served(address: Address, device: Onboarding, log: SerialLog) -> AsyncIterator[Address]:
    """Be there for one phone at a time, as long as the context lasts. Yields where: port 0 is any that is free."""
    bridge = _Bridge(device, log)
    server = await asyncio.start_server(bridge.connected, address.host, address.port)
    try:
        host, port = server.sockets[0].getsockname()[:2]
        yield Address(host, port)
    finally:
        server.close()
        await bridge.closed()


class _Bridge:
    def __init__(self, device: Onboarding, log: SerialLog) -> None:
        self._device = device
        self._log = log
        self._phone: asyncio.Task[Any] | None = None

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its first byte to its last."""
        if self._phone is not None or self._device.state in _SILENT:
            writer.close()
            return
        self._phone = asyncio.current_task()
        self._device.joined()
        self._log.info("ble", "phone connected")
        peripheral = Peripheral(self._device.board)

        def changed(state: str, last_error: int) -> None:
            for message in peripheral.changed(state, last_error):
                _send(writer, message)
            if state in _SILENT:
                writer.close()

        forget = self._device.watch(changed)
        try:
            with suppress(asyncio.IncompleteReadError, OSError):
                while size := int.from_bytes(await reader.readexactly(2)):
                    if size > MAX_MESSAGE:
                        break
                    await self._take(peripheral, await reader.readexactly(size), writer)
        finally:
            forget()
            writer.close()
            self._device.left()
            self._phone = None
            self._log.info("ble", "phone disconnected")

    async def closed(self) -> None:
        """End the phone's connection, if there is one."""
        if self._phone is not None:
            self._phone.cancel()
            await asyncio.wait([self._phone])

    async def _take(self, peripheral: Peripheral, message: bytes, writer: asyncio.StreamWriter) -> None:
        for effect in peripheral.receive(message):
            match effect:
                case bytes():
                    _send(writer, effect)
                case Asked():
                    self._device.asked()
                case Scan():
                    for found in peripheral.scanned(await self._device.scan()):
                        _send(writer, found)
                case Connect(settings):
                    self._log.info("ble", f"token {self._log.secret(settings.token)}, network {settings.ssid!r}")
                    self._device.configure(settings)
                case Reset():
                    self._device.reset()
                case Reboot():
                    self._device.reboot()
                    writer.close()
        power.reached("BLE message taken")


def _send(writer: asyncio.StreamWriter, message: bytes) -> None:
    if not writer.is_closing():
        writer.write(len(message).to_bytes(2) + message)


def _message(kind: str, **members: object) -> bytes:
    return json.dumps({"t": kind, **members}, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
