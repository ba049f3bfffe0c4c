"""Claims of devices, by a QR code or by the secret that a device has told; and what has come of them."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import Answer, Body, Reference
from provserver.admin.route import Call, Reply, route
from provserver.admin.routes.devices import DeviceAnswer, device_answer
from provserver.core.authorization import Permission
from provserver.services.claiming import Claimed


class ClaimAnswer(Answer, frozen=True):
    """What came of a claim. device: null while it has to say yes, until expiresAt."""

    id: UUID
    device: DeviceAnswer | None
    expires_at: datetime | None


class ClaimState(StrEnum):
    """What has come of a claim."""

    WAITING = "waiting"
    CLAIMED = "claimed"
    OVER = "over"


class ClaimOutcomeAnswer(Answer, frozen=True):
    """What has come of a claim of one's own. expiresAt: while it waits. device: once it is claimed."""

    state: ClaimState
    expires_at: datetime | None
    device: DeviceAnswer | None


class Claim(Body, frozen=True):
    """What a QR code says: sqr_…, with or without the organization's number, or a LoRaWAN device's code (TR005).

    user: who is to own the device.
    """

    qr: Annotated[str, Meta(min_length=1, max_length=512, examples=["sqr_gCCsLSydh3d0ArmZj50l9zr79JXVooBR+1"])]
    user: Reference | UnsetType = UNSET


class ClaimBySecret(Body, frozen=True):
    """A device, and the secret that it has told. user: who is to own it."""

    device: Reference
    secret: Annotated[str, Meta(max_length=512)] = ""
    user: Reference | UnsetType = UNSET


async def claim_static_token(call: Call[None, Claim]) -> Reply[ClaimAnswer]:
    """Claim the device of a QR code."""
    address = call.request.address
    return _claimed(
        await call.services.claiming.claim(call.principal, call.body.qr, call.body.user or None, address=address)
    )


async def show_claim(call: Call[None, None]) -> ClaimOutcomeAnswer:
    """Show what has come of one's own claim, by the id that it was answered with."""
    found = await call.services.claiming.outcome(call.principal, call.id)
    if found.device is not None:
        return ClaimOutcomeAnswer(ClaimState.CLAIMED, None, DeviceAnswer.of(found.device))
    return ClaimOutcomeAnswer(ClaimState.WAITING if found.expires_at else ClaimState.OVER, found.expires_at, None)


async def claim_device(call: Call[None, ClaimBySecret]) -> Reply[ClaimAnswer]:
    """Claim a device by the secret that it has told."""
    body = call.body
    return _claimed(
        await call.services.claiming.claim_device(
            call.principal, body.device, body.secret, body.user or None, address=call.request.address
        )
    )


def _claimed(claim: Claimed) -> Reply[ClaimAnswer]:
    device = None if claim.device is None else device_answer(claim.device)
    return Reply(ClaimAnswer(claim.id, device, claim.expires_at), status=200 if device else 202)


ROUTES = [
    route(
        "POST",
        "/static-tokens/claim",
        Permission.DEVICES_CLAIM,
        claim_static_token,
        also={202: ClaimAnswer},
        problems=("not_found", "conflict", "invalid", "too_many_requests"),
        example={"qr": "sqr_gCCsLSydh3d0ArmZj50l9zr79JXVooBR+1"},
    ),
    route("GET", "/static-tokens/claims/{id}", Permission.DEVICES_CLAIM, show_claim),
    route(
        "POST",
        "/devices/claim",
        Permission.DEVICES_CLAIM,
        claim_device,
        problems=("not_found", "conflict", "invalid", "too_many_requests"),
        also={202: ClaimAnswer},
        example={"device": "sensor-1", "secret": "pressed-the-button"},
    ),
]
