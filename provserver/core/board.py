"""A device as its own access point shows it: who it is, which networks it sees, what went wrong the last time.

Firmware builds its JSON by printf, so that a quote or a backslash in a name makes it no JSON; it is read all the same.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

MAX_NETWORKS = 64
"""Networks read of a scan: firmware tells 15, or 30."""

MAX_NAME = 128
"""Characters read of a name; those that can be are shorter by far."""

OPEN = "OPEN"
ENTERPRISE = ("WPA2-EAP", "WPA-EAP", "WPA3-EAP")

PREFIX = "Blynk"
CLASSIC_NAME, EDGENT_NAME = 31, 29
"""Bytes of an access point's name, of both generations of firmware."""

_SUFFIX = len("-0000")
_MAX_DEPTH = 8


class Generation(Enum):
    """Of the firmware's interface."""

    CLASSIC = "classic"
    EDGENT = "edgent"


@dataclass(frozen=True, slots=True)
class Board:
    """What a device says of itself; what is empty it does not say.

    last_error: what became of the last try, as `trouble` knows it; 0: nothing went wrong. scans: it can look for
    networks.
    """

    name: str
    template_id: str
    template_name: str = ""
    firmware_type: str = ""
    firmware_version: str = ""
    mac: str = ""
    uid: str = ""
    last_error: int = 0
    scans: bool = True
    generation: Generation = Generation.CLASSIC


@dataclass(frozen=True, slots=True)
class WifiNetwork:
    """A network that a device sees. rssi: dBm. security: in the firmware's words."""

    ssid: str
    rssi: int
    security: str = "unknown"
    channel: int = 0
    bssid: str = ""
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a device itself says came of its settings. online: it is where it should be, as far as it can tell.

    last_error: as `trouble` knows it.
    """

    online: bool
    last_error: int = 0


class NotABoard(ValueError):  # noqa: N818
    """What answers is no device that waits to be set up."""


def read_board(content: bytes) -> Board:
    """What `/board_info.json` holds, of both generations. Raises NotABoard."""
    found = _read(content)
    if not isinstance(found, dict) or not ("tmpl_id" in found or "fw_ver" in found):
        raise NotABoard("it does not say which firmware it has")
    interfaces = found.get("ifs")
    if not isinstance(interfaces, list):
        return Board(
            name=_text(found, "ssid"),
            template_id=_text(found, "tmpl_id"),
            template_name=_text(found, "board"),
            firmware_type=_text(found, "fw_type"),
            firmware_version=_text(found, "fw_ver"),
            mac=_text(found, "mac"),
            last_error=_number(found, "last_error"),
            scans=_flag(found, "wifi_scan", default=True),
        )
    wifi = next((each for each in interfaces if isinstance(each, dict) and each.get("name") == "wifi"), {})
    if not wifi:
        raise NotABoard("it has no WiFi to be set up")
    return Board(
        name=_text(found, "name"),
        template_id=_text(found, "tmpl_id"),
        firmware_type=_text(found, "fw_type"),
        firmware_version=_text(found, "fw_ver"),
        mac=_text(wifi, "mac"),
        uid=_text(found, "uid"),
        last_error=_number(found, "last_error"),
        scans=_flag(wifi, "scan", default=True),
        generation=Generation.EDGENT,
    )


def read_networks(content: bytes) -> list[WifiNetwork]:
    """What `/wifi_scan.json` holds, as `strongest` has it. Raises NotABoard."""
    found = _read(content)
    if not isinstance(found, list):
        raise NotABoard("it does not say which networks it sees")
    networks = [
        WifiNetwork(
            ssid=_text(each, "ssid"),
            rssi=_number(each, "rssi"),
            security=_text(each, "sec") or "unknown",
            channel=_number(each, "ch"),
            bssid=_text(each, "bssid"),
            hidden=_flag(each, "hidden", default=False),
        )
        for each in found[:MAX_NETWORKS]
        if isinstance(each, dict)
    ]
    return strongest(networks)


def strongest(networks: Iterable[WifiNetwork]) -> list[WifiNetwork]:
    """Each name once, the strongest first; without those that hide theirs."""
    found: dict[str, WifiNetwork] = {}
    for each in sorted(networks, key=lambda network: -network.rssi):
        if each.ssid:
            found.setdefault(each.ssid, each)
    return list(found.values())


# --- what goes wrong


@dataclass(frozen=True, slots=True)
class Trouble:
    """What went wrong, in words. word: for programs; what: a sentence; remedy: what to do, sentences, too."""

    code: int
    word: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}"


_AGAIN = "Then run this again"
_TROUBLES = {
    each.code: each
    for each in (
        Trouble(
            0,
            "no_reason",
            "The device has come back without a reason.",
            "It may have lost power, or its button was pressed. See that it is powered well, and run this again.",
        ),
        Trouble(
            700,
            "config_invalid",
            "The device found its settings invalid.",
            "See that its firmware takes tokens of 32 characters, and that the network has a name. " + _AGAIN + ".",
        ),
        Trouble(
            701,
            "wifi_not_connected",
            "The device could not join the WiFi network.",
            "Check the network's name and its password, capital letters and blanks, too; that the network is on a band "
            "that the device has (most have 2.4 GHz alone); and that the device is near enough. " + _AGAIN + ".",
        ),
        Trouble(
            702,
            "server_unreachable",
            "The device joined the WiFi network, but could not reach the server.",
            "Check --host and --port, that the network leads to the server, and that no firewall is between them. "
            + _AGAIN
            + ".",
        ),
        Trouble(
            703,
            "token_invalid",
            "The server did not know the device's token.",
            "It may have ended, or the device has reached another server: check --host. Running this again gives it "
            "a new one.",
        ),
        Trouble(
            704,
            "access_point_failed",
            "The device's access point did not come up.",
            "Take its power away and give it back. Old versions of the ESP8266's core are known for it: update them. "
            + _AGAIN
            + ".",
        ),
        Trouble(
            705,
            "server_refused",
            "The device reached the server, but could not log in.",
            "Look at `provserver attempt list` for the reason, and whether --host and --port are this server's "
            "listener for that firmware. " + _AGAIN + ".",
        ),
        Trouble(
            710,
            "host_unknown",
            "The device could not resolve the server's name.",
            "Check --host; or the WiFi network's DNS does not answer, or does not know a name that only your own does. "
            + _AGAIN
            + ".",
        ),
        Trouble(
            711,
            "certificate_invalid",
            "The device does not trust the server's certificate.",
            "See that the certificate is of --host, in date, and of a CA that the firmware knows, and that the "
            "device's clock is right: it needs NTP (UDP port 123). " + _AGAIN + ".",
        ),
        Trouble(
            712,
            "captive_portal",
            "The WiFi network wants somebody to log in on a web page first.",
            "A device cannot. Choose another network, or have whoever runs this one let the device through"
            " by its MAC address. " + _AGAIN + ".",
        ),
        Trouble(
            720,
            "wifi_not_found",
            "The device does not see that WiFi network.",
            "Check its name, capital letters and blanks, too; that it is on a band that the device has (most have "
            "2.4 GHz alone); and that the device is near enough. " + _AGAIN + ".",
        ),
        Trouble(
            721,
            "no_cable",
            "There is no cable in the device's network socket.",
            "Plug it in, or choose WiFi. " + _AGAIN + ".",
        ),
        Trouble(
            722,
            "wifi_wrong_password",
            "The WiFi network did not take that password.",
            "Type it anew, capital letters and blanks, too. " + _AGAIN + ".",
        ),
        Trouble(
            723,
            "wifi_no_address",
            "The WiFi network gave the device no IP address.",
            "Restart the router, or see whether its DHCP is on and has addresses left, and whether it filters by MAC "
            "address. " + _AGAIN + ".",
        ),
        Trouble(
            730,
            "sim_missing",
            "There is no SIM card in the device.",
            "Put one in, or choose WiFi. " + _AGAIN + ".",
        ),
        Trouble(
            731,
            "sim_locked",
            "The SIM card wants its PIN.",
            "Unlock it in a telephone, or choose WiFi. " + _AGAIN + ".",
        ),
        Trouble(
            732,
            "sim_wrong_pin",
            "The SIM card did not take that PIN.",
            "Check it before the card locks itself, or choose WiFi. " + _AGAIN + ".",
        ),
    )
}


def trouble(code: int) -> Trouble:
    """What a device means by its `last_error`."""
    return _TROUBLES.get(code) or Trouble(
        code,
        "unknown",
        f"The device says that error {code} has happened, which is none that we know.",
        f"Look into its firmware's documentation. {_AGAIN}.",
    )


# --- its access point's name


def template_name_limit(generation: Generation, prefix: str = PREFIX) -> int:
    """Bytes of a template's name that fit between prefix and suffix."""
    whole = CLASSIC_NAME if generation is Generation.CLASSIC else EDGENT_NAME
    return whole - len(prefix.encode()) - len(" ") - _SUFFIX


def template_name_warning(name: str, prefix: str = PREFIX) -> str | None:
    """What is to be said of a profile's name that its devices' access points cannot have as it is."""
    length = len(name.encode())
    classic, edgent = (template_name_limit(each, prefix) for each in (Generation.CLASSIC, Generation.EDGENT))
    if length <= edgent:
        return None
    short = name.encode()[: classic if length > classic else edgent].decode(errors="ignore").rstrip()
    which = "WiFi devices" if length > classic else "WiFi devices with Edgent of 2026 or later"
    return (
        f"The name is too long for {which}: their access points would be called {f'{prefix} {short}-…'!r}, as no more "
        f"than {edgent} bytes of it fit ({classic} with older firmware). If phones are to find them, shorten it."
    )


# --- JSON by printf

_END_OF_STRING = re.compile(r'"(?=\s*(?:,\s*"\w{1,24}"\s*:|[}\]]\s*(?:,\s*[{"]|[\]}]|$)))')
"""A quote is a string's end where the structure goes on behind it."""

_NAME = re.compile(r'\s*"(\w{1,24})"\s*:\s*')
_LITERAL = re.compile(r"[^\s,\]}]*")
_BLANK = re.compile(r"\s*")


def _read(content: bytes) -> object:
    """JSON; or what printf has made of it, strings as they stand there. Raises NotABoard."""
    text = content.decode("utf-8", "replace").strip().lstrip("\ufeff").strip()
    try:
        found: object = json.loads(text, strict=False)
        if not _has_escaped_controls(found, text):
            return found
    except (ValueError, RecursionError):
        pass
    reader = _Printed(text)
    found = reader.value(0)
    if _BLANK.match(text, reader.at).end() != len(text):  # type: ignore[union-attr] # it always matches
        raise NotABoard("what it answers is no JSON")
    return found


def _has_escaped_controls(found: object, text: str) -> bool:
    """Whether what was read as an escape is rather a name with a backslash: no network is called by a line's end."""
    if "\\" not in text:
        return False
    if isinstance(found, str):
        return not found.isprintable()
    if isinstance(found, dict):
        return any(_has_escaped_controls(each, text) for each in found.values())
    return isinstance(found, list) and any(_has_escaped_controls(each, text) for each in found)


class _Printed:
    __slots__ = ("at", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def value(self, depth: int) -> object:
        if depth > _MAX_DEPTH:
            raise NotABoard("what it answers is nested too deeply")
        head = self.text[self.at : self.at + 1]
        if head == "{":
            return self.members(depth)
        if head == "[":
            return self.elements(depth)
        if head == '"':
            return self.string()
        match = _LITERAL.match(self.text, self.at)
        if match is None or not match[0]:
            raise NotABoard("what it answers is no JSON")
        self.at = match.end()
        try:
            return int(match[0])
        except ValueError:
            return {"true": True, "false": False, "null": None}.get(match[0], match[0])

    def members(self, depth: int) -> dict[str, object]:
        members: dict[str, object] = {}
        self.at += 1
        if self.closed("}"):
            return members
        while True:
            name = _NAME.match(self.text, self.at)
            if name is None:
                raise NotABoard("what it answers is no JSON")
            self.at = name.end()
            members[name[1]] = self.value(depth + 1)
            if self.closed("}"):
                return members
            self.comma()

    def elements(self, depth: int) -> list[object]:
        elements: list[object] = []
        self.at += 1
        while not self.closed("]"):
            if elements:
                self.comma()
                if self.closed("]"):  # a comma at the end, as simple loops make it
                    break
            self.blank()
            elements.append(self.value(depth + 1))
        return elements

    def string(self) -> str:
        end = _END_OF_STRING.search(self.text, self.at + 1)
        if end is None:
            raise NotABoard("what it answers is no JSON")
        begun, self.at = self.at + 1, end.end()
        return self.text[begun : end.start()]

    def blank(self) -> None:
        match = _BLANK.match(self.text, self.at)
        if match is not None:
            self.at = match.end()

    def closed(self, bracket: str) -> bool:
        self.blank()
        if self.text[self.at : self.at + 1] != bracket:
            return False
        self.at += 1
        return True

    def comma(self) -> None:
        self.blank()
        if self.text[self.at : self.at + 1] != ",":
            raise NotABoard("what it answers is no JSON")
        self.at += 1


def _text(members: Mapping[str, object], name: str) -> str:
    value = members.get(name)
    return value[:MAX_NAME] if isinstance(value, str) else ""


def _number(members: Mapping[str, object], name: str) -> int:
    """A number, which some firmware puts in quotes."""
    value = members.get(name)
    try:
        return int(value) if isinstance(value, int | float | str) else 0
    except (ValueError, OverflowError):
        return 0


def _flag(members: Mapping[str, object], name: str, *, default: bool) -> bool:
    value = members.get(name, default)
    return value.lower() in ("true", "1") if isinstance(value, str) else bool(value)
