"""Events: what happens to devices and is worth telling other programs (`docs/events.md`)."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec
from msgspec import Struct

from provserver.core.telemetry import Value


class EventType(StrEnum):
    """Everything that is told."""

    DEVICE_PROVISIONED = "device.provisioned"
    DEVICE_FIRST_CONNECTED = "device.first_connected"
    DEVICE_QUARANTINED = "device.quarantined"
    DEVICE_RELEASED = "device.released"
    DEVICE_CLAIMED = "device.claimed"
    DEVICE_UNCLAIMED = "device.unclaimed"
    CREDENTIALS_ROTATED = "credentials.rotated"
    CREDENTIALS_REVOKED = "credentials.revoked"
    PROVISION_FAILED = "provision.failed"
    PROVISION_PENDING = "provision.pending"
    PROVISION_KEY_BURNING = "provision.key.burning"
    CLONE_SUSPECTED = "clone.suspected"
    NETWORK_ONBOARDED = "network.onboarded"
    NETWORK_ONBOARDING_FAILED = "network.onboarding_failed"
    NETWORK_REMOVED = "network.removed"
    WIFI_PROVISIONED = "wifi.provisioned"
    WIFI_FAILED = "wifi.failed"


class Event(Struct, frozen=True):
    """Something to tell. organization_id: whose event it is; None: of whoever has the device, else of the profile.

    payload: members in camelCase, never a secret nor what an unproven peer sent.
    """

    type: EventType
    payload: Mapping[str, Value]
    device_id: UUID | None = None
    organization_id: UUID | None = None


def encode(id_: UUID, type_: str, at: datetime, payload: str) -> bytes:
    """The body that a webhook gets, the same at every try. payload: JSON; at: aware."""
    return msgspec.json.encode({"id": id_, "type": type_, "timestamp": at, "data": msgspec.Raw(payload.encode())})
