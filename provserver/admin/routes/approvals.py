"""Approvals: devices that ask for credentials, and wait for an operator."""

from datetime import datetime
from uuid import UUID

from msgspec import UNSET, UnsetType

from provserver.admin.fields import Answer, Body, Page, PageQuery, Reference, paged
from provserver.admin.route import Call, route
from provserver.core.authorization import Permission
from provserver.core.model import ApprovalState


class ApprovalAnswer(Answer, frozen=True):
    """A request that waits, or was decided on. deviceName: null when the server is to choose one.

    credentialsType: of those that the device brings. asks: how often it has asked.
    """

    id: UUID
    profile_id: UUID
    profile: str
    state: ApprovalState
    device_name: str | None
    transport: str
    address: str
    credentials_type: str | None
    asks: int
    first_asked_at: datetime
    last_asked_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    expires_at: datetime


class DecidedAnswer(Answer, frozen=True):
    """How many were decided on."""

    count: int


class ApprovalsQuery(PageQuery, frozen=True):
    """Which requests. state: `pending` unless it is given. profile: by name, template id or id."""

    state: ApprovalState = ApprovalState.PENDING
    profile: Reference | UnsetType = UNSET


class Waiting(Body, frozen=True):
    """Which of those that wait: all, or a profile's, by name, template id or id."""

    profile: Reference | UnsetType = UNSET


async def list_approvals(call: Call[ApprovalsQuery, None]) -> Page[ApprovalAnswer]:
    """List requests that wait for approval, in order of their first asking."""
    query = call.query
    found = await call.services.approvals.list_(
        call.principal, query.after, query.limit + 1, state=query.state, profile=query.profile or None
    )
    return paged(found, query.limit, ApprovalAnswer.of)


async def accept_approval(call: Call[None, None]) -> ApprovalAnswer:
    """Accept a request, by its id or the device's name: the device gets its credentials when it asks again."""
    return ApprovalAnswer.of(await call.services.approvals.decide(call.principal, call.text("approval"), accept=True))


async def reject_approval(call: Call[None, None]) -> ApprovalAnswer:
    """Reject a request, by its id or the device's name."""
    return ApprovalAnswer.of(await call.services.approvals.decide(call.principal, call.text("approval"), accept=False))


async def accept_approvals(call: Call[None, Waiting]) -> DecidedAnswer:
    """Accept all requests that wait now."""
    return DecidedAnswer(
        await call.services.approvals.decide_all(call.principal, accept=True, profile=call.body.profile or None)
    )


async def reject_approvals(call: Call[None, Waiting]) -> DecidedAnswer:
    """Reject all requests that wait now."""
    return DecidedAnswer(
        await call.services.approvals.decide_all(call.principal, accept=False, profile=call.body.profile or None)
    )


_CREATE = Permission.DEVICES_CREATE

ROUTES = [
    route("GET", "/approvals", Permission.DEVICES_VIEW, list_approvals, problems=("not_found",)),
    route(
        "POST",
        "/approvals/accept",
        _CREATE,
        accept_approvals,
        problems=("not_found",),
        example={"profile": "wifi-sensor"},
    ),
    route(
        "POST",
        "/approvals/reject",
        _CREATE,
        reject_approvals,
        problems=("not_found",),
        example={"profile": "wifi-sensor"},
    ),
    route("POST", "/approvals/{approval}/accept", _CREATE, accept_approval, problems=("conflict",)),
    route("POST", "/approvals/{approval}/reject", _CREATE, reject_approval, problems=("conflict",)),
]
