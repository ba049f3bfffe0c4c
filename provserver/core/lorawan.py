"""LoRaWAN's words: versions, EUIs and keys, and the metadata fields that hold them (LoRa Alliance TS001, RP001, RP002).

EUIs and keys are kept as metadata is: hexadecimal digits in capitals, most significant byte first, without signs.
"""

import re
from collections.abc import Container, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from provserver.core import metadata

DEVICE_EUI: Final = "Device EUI"
JOIN_EUI: Final = "Join EUI"
APPLICATION_KEY: Final = "Application Key"
NETWORK_DEVICE_ID: Final = "TheThingsNetwork Device ID"

FIELDS: Mapping[str, str] = MappingProxyType(
    {DEVICE_EUI: "eui64", JOIN_EUI: "eui64", APPLICATION_KEY: "key128", NETWORK_DEVICE_ID: "text"}
)
"""The metadata fields of a profile whose devices are onboarded into a network, with their types."""

NETWORK_KEY: Final = "Network Key"
"""The field of the second root key, which LoRaWAN 1.1 has."""

OWNER_TOKEN: Final = "Owner Token"  # noqa: S105 - a name
"""The field of what a TR005 code proves ownership with, where its printer has chosen it; one that we print has ours."""

SECRETS: Final = frozenset({APPLICATION_KEY, NETWORK_KEY, OWNER_TOKEN})
"""Fields that are nobody's to see but the maker's, whatever their type."""

_COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "id": NETWORK_DEVICE_ID,
        "dev_eui": DEVICE_EUI,
        "join_eui": JOIN_EUI,
        "app_eui": JOIN_EUI,
        "name": metadata.DEVICE_NAME,
        "app_key": APPLICATION_KEY,
        "nwk_key": NETWORK_KEY,
    }
)
"""What the columns of the CSV fill that The Things Stack takes devices from (spec lorawan D.2)."""

MAX_DEVICE_ID: Final = 36
"""Characters of a device's id in The Things Stack."""


class LorawanVersion(StrEnum):
    """Of the link layer (TS001), as The Things Stack spells it."""

    V1_0 = "MAC_V1_0"
    V1_0_1 = "MAC_V1_0_1"
    V1_0_2 = "MAC_V1_0_2"
    V1_0_3 = "MAC_V1_0_3"
    V1_0_4 = "MAC_V1_0_4"
    V1_1 = "MAC_V1_1"


class PhyVersion(StrEnum):
    """Of the regional parameters (RP001, RP002), as The Things Stack spells it."""

    V1_0 = "PHY_V1_0"
    V1_0_1 = "PHY_V1_0_1"
    V1_0_2_REV_A = "PHY_V1_0_2_REV_A"
    V1_0_2_REV_B = "PHY_V1_0_2_REV_B"
    V1_0_3_REV_A = "PHY_V1_0_3_REV_A"
    V1_1_REV_A = "PHY_V1_1_REV_A"
    V1_1_REV_B = "PHY_V1_1_REV_B"
    RP002_V1_0_0 = "RP002_V1_0_0"
    RP002_V1_0_1 = "RP002_V1_0_1"
    RP002_V1_0_2 = "RP002_V1_0_2"
    RP002_V1_0_3 = "RP002_V1_0_3"
    RP002_V1_0_4 = "RP002_V1_0_4"


_RP002 = frozenset(version for version in PhyVersion if version.startswith("RP002"))

VALID_PAIRS: Mapping[LorawanVersion, frozenset[PhyVersion]] = MappingProxyType(
    {
        LorawanVersion.V1_0: frozenset({PhyVersion.V1_0}),
        LorawanVersion.V1_0_1: frozenset({PhyVersion.V1_0_1}),
        LorawanVersion.V1_0_2: frozenset({PhyVersion.V1_0_2_REV_A, PhyVersion.V1_0_2_REV_B}),
        LorawanVersion.V1_0_3: frozenset({PhyVersion.V1_0_3_REV_A}),
        LorawanVersion.V1_0_4: _RP002,
        LorawanVersion.V1_1: _RP002 | {PhyVersion.V1_1_REV_A, PhyVersion.V1_1_REV_B},
    }
)
"""Which regional parameters go with which link layer."""

InvalidIdentifier = metadata.InvalidValue
"""What `eui`, `key` and `profile_id` raise; the text says why and quotes no value."""


def eui(text: str) -> str:
    """A DevEUI or JoinEUI in its normal form: 16 digits. Raises InvalidIdentifier."""
    return metadata.hexadecimal(text.strip(), 16, "an EUI-64")


def key(text: str) -> str:
    """A root key in its normal form: 32 digits. Raises InvalidIdentifier."""
    return metadata.hexadecimal(text.strip(), 32, "a key of 128 bits")


def profile_id(text: str) -> str:
    """A LoRaWAN Profile ID, VendorID and VendorProfileID, in its normal form: 8 digits. Raises InvalidIdentifier."""
    return metadata.hexadecimal(text.strip(), 8, "a LoRaWAN Profile ID")


def device_id_of(dev_eui: str) -> str:
    """The id that a device has in its network unless it is given another. dev_eui: in normal form."""
    return f"eui-{dev_eui.lower()}"


def is_device_id(text: str) -> bool:
    """Whether a device can have this id in The Things Stack."""
    return len(text) <= MAX_DEVICE_ID and _DEVICE_ID.fullmatch(text) is not None


def assignment(headers: Sequence[str], fields: Container[str]) -> dict[str, str | None]:
    """What the columns of The Things Stack's own CSV fill, of fields that there are; nothing when it is none.

    All others are left out, as it has dozens that say how a device is to be used there.
    """
    if "dev_eui" not in headers or DEVICE_EUI not in fields:
        return {}
    found: dict[str, str | None] = {}
    for header in headers:
        field = None if header == "app_eui" and "join_eui" in headers else _COLUMNS.get(header)
        if header not in fields:
            found[header] = field if field in fields or field == metadata.DEVICE_NAME else None
    return found


_DEVICE_ID = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,}")
