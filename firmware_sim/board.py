"""A board as it leaves the factory, with the firmware that was written onto it."""

from dataclasses import dataclass
from enum import StrEnum

from firmware_sim.access_point_name import classic_name, edgent_name


class Generation(StrEnum):
    """Of the firmware."""

    CLASSIC = "classic"
    EDGENT = "edgent"


@dataclass(frozen=True, slots=True)
class Board:
    """What the factory made. mac: six bytes, of the WiFi station. template_name: the product's, as in its image."""

    mac: bytes
    template: str
    template_name: str
    generation: Generation = Generation.CLASSIC
    vendor: str = "Blynk"
    firmware_type: str = ""
    firmware_version: str = "0.1.0"

    @property
    def name(self) -> str:
        """Of its access point."""
        named = classic_name if self.generation is Generation.CLASSIC else edgent_name
        return named(self.vendor, self.template_name, self.mac)

    @property
    def type(self) -> str:
        """What the firmware calls itself: its template, unless it was given another name."""
        return self.firmware_type or self.template

    @property
    def access_point_mac(self) -> bytes:
        """The next after the station's."""
        return self.mac[:-1] + bytes([(self.mac[-1] + 1) & 0xFF])
