"""The seam to the networks that devices live in: what is made of a device there, step by step, and what can go wrong.

Whose a device is that is there is known from a look before anything was sent, and from what we write into it where the
network shows that. So a lost answer is not a lost device, and nothing is ever removed that was not made by us.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from provserver.core import lorawan

REFERENCE: Final = "provserver-device"
"""What the id of our device is called there, among its attributes or tags."""

ATTEMPT: Final = "provserver-attempt"
"""What the id of the attempt is called that made it."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Made(StrEnum):
    """What a step did."""

    CREATED = "created"
    """The component is there by this attempt."""

    ADOPTED = "adopted"
    """It was there before, under our ids."""


@dataclass(frozen=True, slots=True)
class EndDevice:
    """A device as its network is to have it. EUIs and keys in normal form; nwk_key: of LoRaWAN 1.1 alone.

    name: for those who look there. reference, attempt: what says there whose it is.
    """

    network_device_id: str
    dev_eui: str
    join_eui: str
    app_key: str = field(repr=False)
    nwk_key: str | None = field(default=None, repr=False)
    name: str = ""
    reference: str = ""
    attempt: str = ""

    @property
    def marks(self) -> Mapping[str, str]:
        """What is written into it there."""
        return {REFERENCE: self.reference, ATTEMPT: self.attempt}


@dataclass(frozen=True, slots=True)
class Found:
    """A device that is there. EUIs in normal form; empty: the network does not say.

    reference, attempt: what we wrote into it; None: nothing that the network would show.
    """

    dev_eui: str
    join_eui: str
    reference: str | None = None
    attempt: str | None = None


class TryAgain(Exception):  # noqa: N818
    """A network did not answer, or could not: the call may have had its effect.

    reason: for people, without anything that the network said. after: seconds for which it asks to be left alone, with
    all that we want of it.
    """

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


class Rejected(Exception):  # noqa: N818
    """A network refuses a call for good, and has done nothing. reason, remedy: for people."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class Denied(Rejected):
    """The API key may not do this."""


class Network(Protocol):
    """A network server's API, for one application and one API key. All calls raise TryAgain and Rejected."""

    @property
    def steps(self) -> Sequence[str]:
        """What a device is made of, in the order of making; the first says whose it is."""

    @property
    def removal(self) -> Sequence[str]:
        """The same in the order of removing."""

    async def missing_rights(self, *, uplinks: bool = False) -> list[str]:
        """What the key may not do that onboarding needs, by the network's names; uplinks: that MQTT needs, too."""

    async def look(self, network_device_id: str) -> Found | None:
        """The device of an id, if it is there."""

    async def make(self, step: str, device: EndDevice, *, again: bool) -> Made:
        """Have a component be there as it should be, new or not.

        again: it was not there, and an earlier try may have made it: if it is there now, that has.
        """

    async def unmake(self, step: str, network_device_id: str) -> None:
        """Have a component not be there."""


def shown(text: object) -> str:
    """A name that a network gave, if it is one that can be shown; else a word for it."""
    return text if isinstance(text, str) and _SAFE.fullmatch(text) else "unknown"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a device's metadata say of it as an end device. network_device_id: as it is given, if it can be one."""

    dev_eui: str
    join_eui: str
    app_key: str = field(repr=False)
    nwk_key: str | None = field(default=None, repr=False)
    network_device_id: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, str]) -> "Identity | None":
        """Of values by metadata field; None unless both EUIs and the key are there and valid."""
        try:
            dev_eui, join_eui = lorawan.eui(values[lorawan.DEVICE_EUI]), lorawan.eui(values[lorawan.JOIN_EUI])
            app_key = lorawan.key(values[lorawan.APPLICATION_KEY])
            nwk_key = lorawan.key(values[lorawan.NETWORK_KEY]) if values.get(lorawan.NETWORK_KEY) else None
        except (KeyError, lorawan.InvalidIdentifier):
            return None
        id_ = values.get(lorawan.NETWORK_DEVICE_ID, "")
        return cls(dev_eui, join_eui, app_key, nwk_key, id_ if lorawan.is_device_id(id_) else None)


def free_id(dev_eui: str, taken: str | None) -> str:
    """An id for a device in its network: that of its DevEUI, with a number behind it if its forerunner has that."""
    id_ = lorawan.device_id_of(dev_eui)
    if taken is None or not (taken == id_ or taken.startswith(f"{id_}-")):
        return id_
    number = taken.removeprefix(id_).lstrip("-")
    return f"{id_}-{int(number) + 1 if number.isdecimal() and len(number) < 9 else 2}"
