"""What happened to one device, as entries that sort by when it was, each said in words."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final
from uuid import UUID

from msgspec import Struct

from provserver.core import ids


class Kind(StrEnum):
    """What an entry is about."""

    DEVICE = "device"
    ATTEMPT = "attempt"
    CONNECTION = "connection"
    CREDENTIALS = "credentials"
    CLAIM = "claim"
    JOB = "job"
    NETWORK = "network"
    WIFI = "wifi"
    QUARANTINE = "quarantine"
    CLONE = "clone"
    AUDIT = "audit"


class Entry(Struct, frozen=True, kw_only=True):
    """Something that happened. id: sorts as the time does. text: a sentence; detail: what more there is to say.

    state: as what it tells of has it: an attempt's outcome, a job's state. actor: who did it, where that is known and
    the reader may know. subject_id: of the attempt, job or session itself.
    """

    id: UUID
    kind: Kind
    at: datetime
    text: str
    detail: str | None = None
    state: str | None = None
    actor: str | None = None
    subject_id: UUID | None = None


def place(at: datetime, what: str) -> UUID:
    """An id for what has none of its own: by its time, and the same at every look."""
    rest = hashlib.sha256(what.encode()).digest()
    return ids.uuid7(at.timestamp(), lambda size: rest[:size])


CLAIMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "static_token.claimed": "Somebody claimed the device.",
        "static_token.claim_begun": "Somebody claimed the device; the claim waited for the device's word.",
        "static_token.claim_contended": "Two people claimed the device at once, so nobody got it.",
        "static_token.unclaimed": "The device was given back to its maker.",
        "static_token.disclaimed": "The maker took the device back.",
        "device.claimed": "Somebody claimed the device.",
        "device.transferred": "The device was transferred.",
        "device.received": "The device was received from another organization.",
    }
)
"""Moves of ownership, by the action that the audit has of them."""

_ACTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "device.created": "The device was created by hand.",
        "device.updated": "The device was changed.",
        "device.shown": "The credentials were shown.",
        "device.erased": "The data that the device has sent was erased.",
        "device.revoked": "The credentials were revoked.",
        "device.rotated": "The credentials were rotated.",
        "device.rearmed": "The device was rearmed: it may provision itself once more.",
        "device.quarantined": "The device was put into quarantine.",
        "device.deleted": "The device was deleted.",
        "device.onboarding_started": "The device was to be onboarded into its network.",
        "device.removed_from_network": "The device was to be removed from its network.",
        "device.hardware_replaced": "The device became other hardware.",
        "device.merged": "The device was merged with one that its network knew.",
        "device.reconfigured": "The device was sent back to WiFi provisioning.",
        "device.clone_signs_dismissed": "The signs of a clone were dismissed.",
        "static_token.shown": "The static token's secrets were shown.",
        "static_token.qr_shown": "The static token's QR code was shown.",
        "static_token.deleted": "The static token was deleted.",
    }
)


def told(action: str, detail: Mapping[str, object]) -> str:
    """What an entry of the audit says, as a sentence."""
    if action == "device.released":  # out of quarantine, or by its owner
        return "The device was released from quarantine." if "rotated" in detail else CLAIMS["static_token.unclaimed"]
    if action in CLAIMS:
        return CLAIMS[action]
    return _ACTIONS.get(action) or f"{action.replace('.', ' ').replace('_', ' ').capitalize()}."


def details(detail: Mapping[str, object]) -> str | None:
    """What else an entry of the audit has, on one line; the device's own name is no news."""
    parts = [f"{name}: {_shown(value)}" for name, value in detail.items() if name != "name" and value not in (None, "")]
    return "; ".join(parts) or None


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
