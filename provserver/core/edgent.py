"""What Blynk's Edgent firmware keeps to reach its server, and the forms in which a production line gives it that.

New firmware keeps the strings `auth` and `host`; what came before it keeps one packed structure with the WiFi in it,
which new firmware takes over at its first start.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from provserver.core.credentials import has_control_characters
from provserver.core.nvs import Item, Type

NAMESPACE = "blynk"
PORT = 443
"""What firmware uses that is told no other."""

BAUD = 115_200
"""Speed of the console."""

BLANK = "0" * 32
"""Stands where an AuthToken will be."""

MAX_HOST = 33
MAX_SSID = 32
MAX_PASSWORD = 63
MAX_LINE = 240
"""Characters of a command line: the console has room for 255, and for some that were on the line before."""

_TOKEN = re.compile(r"[A-Za-z0-9_\-]{32}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.\-]*[A-Za-z0-9])?")
_CONFIG = struct.Struct("<I15sB34s64s34s34sH5Ii")
_MAGIC = 0x626C6E6B
_VALID = 1


class InvalidSettings(ValueError):  # noqa: N818
    """Firmware would cut or misread the settings. Holds no secret."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a unit reaches its server. auth: its AuthToken. What is empty, and a port that is None, is not set.

    Raises InvalidSettings.
    """

    auth: str = field(repr=False)
    host: str = ""
    port: int | None = None
    ssid: str = ""
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not _TOKEN.fullmatch(self.auth):
            raise InvalidSettings("the AuthToken is not of the 32 characters that firmware takes")
        if self.host and (len(self.host) > MAX_HOST or not _HOST.fullmatch(self.host)):
            raise InvalidSettings(f"the host must be a name or an IPv4 address of 1-{MAX_HOST} characters")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise InvalidSettings("the port must be 1-65535")
        for name, value, limit in (("SSID", self.ssid, MAX_SSID), ("WiFi password", self.password, MAX_PASSWORD)):
            if has_control_characters(value) or len(value.encode()) > limit:
                raise InvalidSettings(f"the {name} must be at most {limit} bytes, without control characters")
        if self.password and not self.ssid:
            raise InvalidSettings("there is a WiFi password, but no SSID")


def nvs_items(settings: Settings) -> list[Item]:
    """What the unit's partition must hold. Raises InvalidSettings."""
    items = [Item(NAMESPACE, "auth", Type.STRING, settings.auth)]
    if settings.host:
        items.append(Item(NAMESPACE, "host", Type.STRING, settings.host))
    if settings.ssid:
        if not settings.host:
            raise InvalidSettings("with an SSID there must be a host, too: firmware keeps them together")
        items.append(Item(NAMESPACE, "config", Type.BLOB, _config(settings)))
    elif settings.port is not None:
        raise InvalidSettings("the port goes with an SSID: firmware that keeps no SSID keeps no port")
    return items


def tag_values(settings: Settings, found: Mapping[str, str]) -> dict[str, str | None]:
    """What must be in the tag of options, beside what is found there. Raises InvalidSettings."""
    if not settings.ssid and len(found.get("ssid", "").encode()) not in range(1, MAX_SSID + 1):
        raise InvalidSettings("there is no SSID, and without one the firmware does not look at the AuthToken")
    changes: dict[str, str | None] = {"auth": settings.auth}
    if settings.ssid:
        changes |= {"ssid": settings.ssid, "pass": settings.password or None}
    if settings.host:
        changes["host"] = settings.host
    if settings.port is not None:
        changes["port"] = str(settings.port)
    return changes


def connect_line(settings: Settings) -> str:
    """The console's command that hands the settings over, in the form without WiFi or with. Raises InvalidSettings."""
    if settings.port is not None or (settings.ssid and settings.host):
        raise InvalidSettings("the console takes a host, or an SSID with its password, and never a port")
    words = [settings.auth, *filter(None, (settings.ssid, settings.password) if settings.ssid else (settings.host,))]
    line = " ".join(["connect", *map(_escaped, words)])
    if len(line) > MAX_LINE:
        raise InvalidSettings("SSID and WiFi password are longer than the console takes: write a partition instead")
    return line


def _config(settings: Settings) -> bytes:
    return _CONFIG.pack(
        _MAGIC,
        b"",
        _VALID,
        settings.ssid.encode(),
        settings.password.encode(),
        settings.auth.encode(),
        settings.host.encode(),
        settings.port or PORT,
        *(0, 0, 0, 0, 0),  # no static address
        0,
    )


def _escaped(word: str) -> str:
    """A word as the console reads it: it parts words at blanks, and takes back what a backslash hides."""
    return "".join(
        chr(byte) if 0x21 <= byte <= 0x7E and byte != 0x5C else "\\\\" if byte == 0x5C else f"\\x{byte:02x}"
        for byte in word.encode()
    )
