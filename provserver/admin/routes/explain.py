"""Why a device was refused, or would be."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import Answer, Body, LongText, Reference, Text
from provserver.admin.route import Call, route
from provserver.core.authorization import Permission
from provserver.services.explain import Explained, Transport


class ToldAnswer(Answer, frozen=True):
    """What the device is told. status, message: in the reply's body; null when it has none."""

    status: str | None
    message: str | None
    http: int
    coap: str
    mqtt: str


class ExplanationAnswer(Answer, frozen=True):
    """An attempt in words. attempt: null of a rehearsal, which leaves none. commands: that may help.

    present: how profile and device are now. assumed: what a rehearsed request left out, and was taken to be right.
    """

    attempt: UUID | None
    time: datetime
    transport: str
    address: str
    outcome: str
    reason: str | None
    profile: str | None
    device: str | None
    happened: str
    why: str
    told: ToldAnswer
    advice: str
    commands: Sequence[str]
    present: Sequence[str]
    assumed: Sequence[str]
    credentials_type: str | None


class Rehearsal(Body, frozen=True):
    """A request to try. request: the JSON that the device sends, as text. address: whence it comes.

    What it leaves out of key and secret is taken to be right.
    """

    profile: Reference
    request: LongText
    transport: Annotated[Literal["http", "mqtt", "coap"], Meta(description="By which protocol.")] = "http"
    address: Text | UnsetType = UNSET


async def explain_attempt(call: Call[None, None]) -> ExplanationAnswer:
    """Explain an attempt: what happened and why, what the device was told, what can be done."""
    return _answer(await call.services.explain.attempt(call.principal, call.id))


async def explain_request(call: Call[None, Rehearsal]) -> ExplanationAnswer:
    """Explain what would come of a request; nothing is changed, and nothing recorded."""
    body = call.body
    found = await call.services.explain.request(
        call.principal, body.profile, body.request, Transport(body.transport.upper()), body.address or None
    )
    return _answer(found, rehearsed=True)


def _answer(found: Explained, *, rehearsed: bool = False) -> ExplanationAnswer:
    attempt, told = found.attempt, found.explanation
    return ExplanationAnswer(
        None if rehearsed else attempt.id,
        attempt.at,
        attempt.transport,
        attempt.address,
        attempt.outcome,
        attempt.reason,
        attempt.profile,
        attempt.device,
        told.happened,
        told.why,
        ToldAnswer.of(told.told),
        told.advice,
        told.commands,
        found.present,
        found.assumed,
        found.credentials_type,
    )


ROUTES = [
    route("GET", "/attempts/{id}/explanation", Permission.PROFILES_VIEW, explain_attempt),
    route(
        "POST",
        "/explain",
        Permission.PROFILES_MANAGE,
        explain_request,
        problems=("not_found",),
        example={"profile": "wifi-sensor", "request": '{"deviceName": "DHT11-0001"}'},
    ),
]
