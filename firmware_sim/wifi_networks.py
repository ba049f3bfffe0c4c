"""The WiFi around a simulated device: networks, their passwords, and what is wrong with them."""

import tomllib
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Final

import msgspec

from firmware_sim.errors import WrongUsage


class LastError(IntEnum):
    """What a device says in `last_error`. Classic firmware knows those below 705."""

    NONE = 0
    CONFIG = 700
    NETWORK = 701
    CLOUD = 702
    TOKEN = 703
    INTERNAL = 704
    CERTIFICATE = 711
    CAPTIVE_PORTAL = 712
    NOT_FOUND = 720
    WRONG_PASSWORD = 722
    NO_ADDRESS = 723


class Fault(StrEnum):
    """What is wrong with a network, for a device that knows its password."""

    NONE = "none"
    NO_IP = "no-ip"
    NO_INTERNET = "no-internet"
    CAPTIVE_PORTAL = "captive-portal"
    BAD_CERTIFICATE = "bad-certificate"
    WRONG_CLOCK = "wrong-clock"


_CLOUD_TROUBLE: Final = {
    Fault.NO_INTERNET: LastError.CLOUD,
    Fault.CAPTIVE_PORTAL: LastError.CAPTIVE_PORTAL,
    Fault.BAD_CERTIFICATE: LastError.CERTIFICATE,
    Fault.WRONG_CLOCK: LastError.CERTIFICATE,  # to a clock that is wrong, every certificate is
}

OPEN = "OPEN"


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One network.

    bssid: "" for its own. rssi: dBm. sec: as firmware writes it (OPEN, WPA2, WPA2+WPA3, …). hidden: it sends no SSID.
    """

    ssid: str
    bssid: str = ""
    rssi: int = -50
    sec: str = "WPA2"
    ch: int = 6
    password: str = ""
    hidden: bool = False
    fault: Fault = Fault.NONE

    @property
    def cloud_trouble(self) -> LastError | None:
        """Why no server can be reached by it, None if one can."""
        return _CLOUD_TROUBLE.get(self.fault)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    network: list[Network]


class Networks:
    """Those in reach; `all` may be replaced while devices live."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self.all = tuple(
            network
            if network.bssid
            else msgspec.structs.replace(network, bssid=f"02:00:00:00:{n >> 8:02X}:{n & 255:02X}")
            for n, network in enumerate(networks, 1)
        )

    @classmethod
    def load(cls, path: Path) -> "Networks":
        """Read a TOML file of `[[network]]` tables. Raises WrongUsage."""
        try:
            return cls(msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File).network)
        except OSError as error:
            raise WrongUsage(f"cannot read {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
            raise WrongUsage(f"{path} is no list of networks: {error}; each is a [[network]] with an ssid") from None

    def by_strength(self) -> list[Network]:
        """The strongest first."""
        return sorted(self.all, key=lambda network: -network.rssi)

    def join(self, ssid: str, password: str) -> Network | LastError:
        """What becomes of a try: the network that let the device in, or why none did."""
        named = [network for network in self.by_strength() if network.ssid == ssid]
        if not named:
            return LastError.NOT_FOUND
        for network in named:
            if network.password == password:
                return LastError.NO_ADDRESS if network.fault is Fault.NO_IP else network
        return LastError.WRONG_PASSWORD


def home() -> Networks:
    """A network to try things with."""
    return Networks([Network("Home", password="correct horse")])  # noqa: S106 - everybody's
