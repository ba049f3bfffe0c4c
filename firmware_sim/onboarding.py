"""The seam between a WiFi device and the ways of provisioning it that are not its access point."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from firmware_sim.wifi_networks import Network

TOKEN_SIZE = 32
"""Characters of an AuthToken; firmware takes no other."""

Tell = Callable[[str, int], None]
"""Hears of the device's state, by the name in its log, and of the `last_error` that it has then."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a device is given. Empty, None: its default, or DHCP. save: keep them before they have been of use."""

    ssid: str
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    host: str = ""
    port: int | None = None
    ip: str = ""
    mask: str = ""
    gateway: str = ""
    dns: str = ""
    dns2: str = ""
    save: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """What a device says of itself. name: of its access point. uid: newer firmware's alone."""

    vendor: str
    template: str
    template_name: str
    name: str
    firmware_type: str
    version: str
    mac: str
    uid: str | None = None


class Onboarding(Protocol):
    """A device that can be provisioned."""

    @property
    def board(self) -> Identity:
        """Who it is."""

    @property
    def state(self) -> str:
        """What it does, by the name in its log."""

    @property
    def last_error(self) -> int:
        """Why it could not connect the last time, 0 if it could."""

    @property
    def token(self) -> str:
        """The one that it has been let in with, "" for none."""

    def joined(self) -> None:
        """A phone is connected."""

    def left(self) -> None:
        """It is no longer."""

    def asked(self) -> None:
        """Somebody looks at the device, and is going to provision it."""

    async def scan(self) -> Sequence[Network]:
        """The networks around, strongest first."""

    def configure(self, settings: Settings) -> None:
        """Begin to connect with these."""

    def watch(self, tell: Tell) -> Callable[[], None]:
        """Have each change of state told. Returns what ends that."""

    def reset(self) -> None:
        """Forget everything."""

    def reboot(self) -> None:
        """Power off, and on."""
