"""Blynk.Inject over BLE, the phone's side: one JSON object a write or notification, its type in the member `t`.

Messages to the device are functions; what it says goes through `Listener`. GATT: a service with the characteristics RX
(phone to device), TX (device to phone, by notification) and RAW (firmware).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from provserver.core.board import MAX_NAME, MAX_NETWORKS, Board, Generation, WifiNetwork, strongest
from provserver.core.edgent import Settings

SERVICE: Final = "95e30001-5737-45a9-a092-a88e2e5dd659"
RX: Final = "95e30002-5737-45a9-a092-a88e2e5dd659"
TX: Final = "95e30003-5737-45a9-a092-a88e2e5dd659"
RAW: Final = "95e30004-5737-45a9-a092-a88e2e5dd659"

MAX_MESSAGE: Final = 512
"""Bytes that an attribute of GATT can have."""

WIFI: Final = "wifi"

_NETWORK_FAILURES: Final[Mapping[str, int]] = {
    "timeout": 701,
    "generic": 701,
    "not_found": 720,
    "no_cable": 721,
    "invalid_credentials": 722,
    "no_ip_assigned": 723,
    "sim_missing": 730,
    "sim_locked": 731,
    "sim_wrong_pin": 732,
}
_CLOUD_FAILURES: Final[Mapping[str, int]] = {
    "timeout": 702,
    "auth_failed": 703,
    "generic": 705,
    "dns_failed": 710,
    "invalid_certificate": 711,
    "captive_portal": 712,
}
_CONFIG_INVALID: Final = 700
_NETWORK: Final = 701
_CLOUD: Final = 705


@dataclass(frozen=True, slots=True)
class Interfaces:
    """The kinds of network that the device has: `wifi`, `eth`, `cell`."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Networks:
    """What a scan found: each name once, the strongest first."""

    found: tuple[WifiNetwork, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """What was handed over is understood."""


@dataclass(frozen=True, slots=True)
class NotTaken:
    """The device does not know a member of what was handed over."""


@dataclass(frozen=True, slots=True)
class Connecting:
    """The device begins to connect."""


@dataclass(frozen=True, slots=True)
class Status:
    """How far it is: `connecting_net`, `connecting_cloud`, `connected`, `error`, `unknown`."""

    word: str


@dataclass(frozen=True, slots=True)
class Failed:
    """It could not connect. last_error: as `core.board.trouble` knows it."""

    last_error: int


@dataclass(frozen=True, slots=True)
class Erased:
    """It has forgotten everything."""


@dataclass(frozen=True, slots=True)
class Fault:
    """It did not understand, or cannot do it: `wrong format`, `invalid command`, `no wifi`."""

    text: str


Event: TypeAlias = Board | Interfaces | Networks | Taken | NotTaken | Connecting | Status | Failed | Erased | Fault


def info() -> bytes:
    """Ask what the device is: a Board comes."""
    return _message("info")


def interfaces() -> bytes:
    """Ask which kinds of network it has: Interfaces come."""
    return _message("ifs")


def scan() -> bytes:
    """Ask which networks it sees: Networks come, or a Fault."""
    return _message("scan")


def connect() -> bytes:
    """Have it connect: Connecting comes, then Status after Status; or Failed."""
    return _message("connect")


def reset() -> bytes:
    """Have it forget everything: Erased comes."""
    return _message("reset")


def reboot() -> bytes:
    """Have it start anew: nothing comes."""
    return _message("reboot")


def hand_over(settings: Settings) -> bytes:
    """Give it what it needs: Taken or NotTaken comes.

    Not the port: Edgent ignores it, and a device that does not know it takes nothing.
    """
    members = {"if": WIFI, "ssid": settings.ssid, "pass": settings.password, "blynk": settings.auth}
    if settings.host:
        members["host"] = settings.host
    return _message("set", **members)


class Listener:
    """Notifications go in; events come out, when they are whole. What cannot be read is passed over."""

    def __init__(self) -> None:
        self._interfaces: list[str] = []
        self._networks: list[WifiNetwork] = []

    def receive(self, message: bytes) -> Event | None:
        """What a notification of TX tells, if it is the last of its kind."""
        try:
            members = json.loads(message[:MAX_MESSAGE], strict=False)
        except (ValueError, RecursionError):
            return None  # of a long name, firmware's buffer keeps a part
        if not isinstance(members, dict):
            return None
        match members.get("t"):
            case "ifs_start":
                self._interfaces.clear()
            case "if" if len(self._interfaces) < MAX_NETWORKS:
                self._interfaces.append(_text(members, "name"))
            case "ifs_end":
                return Interfaces(tuple(filter(None, self._interfaces)))
            case "scan_start":
                self._networks.clear()
            case "scan" if len(self._networks) < MAX_NETWORKS:
                self._networks.append(_network(members))
            case "scan_end":
                return Networks(tuple(strongest(self._networks)))
            case _:
                return _event(members)
        return None


def _event(members: dict[str, object]) -> Event | None:
    """What one message tells by itself."""
    match members.get("t"):
        case "info":
            return _board(members)
        case "set_ok":
            return Taken()
        case "set_fail":
            return NotTaken()
        case "connecting":
            return Connecting()
        case "status":
            return Status(_text(members, "s"))
        case "connect_fail":
            return Failed(_CONFIG_INVALID)
        case "net_fail":
            return Failed(_NETWORK_FAILURES.get(_text(members, "reason"), _NETWORK))
        case "cloud_fail":
            return Failed(_CLOUD_FAILURES.get(_text(members, "reason"), _CLOUD))
        case "reset_ok":
            return Erased()
        case "error":
            return Fault(_text(members, "msg"))
    return None  # `net_status`, and what later firmware may have


def _board(members: dict[str, object]) -> Board:
    return Board(
        name=_text(members, "name"),
        template_id=_text(members, "tmpl_id"),
        firmware_type=_text(members, "fw_type"),
        firmware_version=_text(members, "fw_ver"),
        uid=_text(members, "uid"),
        generation=Generation.EDGENT,
    )


def _network(members: dict[str, object]) -> WifiNetwork:
    return WifiNetwork(
        ssid=_text(members, "ssid"),
        rssi=_number(members, "rssi"),
        security=_text(members, "sec") or "unknown",
        channel=_number(members, "ch"),
        bssid=_text(members, "bssid"),
    )


def _text(members: dict[str, object], name: str) -> str:
    value = members.get(name)
    return value[:MAX_NAME] if isinstance(value, str) else ""


def _number(members: dict[str, object], name: str) -> int:
    value = members.get(name)
    return value if isinstance(value, int) else 0


def _message(kind: str, **members: str) -> bytes:
    return json.dumps({"t": kind, **members}, ensure_ascii=False, separators=(",", ":")).encode()
