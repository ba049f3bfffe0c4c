"""The inbox: what waits for an operator."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import UNSET, UnsetType

from provserver.admin.fields import Answer, Body, Page, PageQuery, Reference, paged
from provserver.admin.route import Call, route
from provserver.admin.routes.devices import SignMember
from provserver.admin.routes.jobs import JobAnswer
from provserver.core.authorization import Permission
from provserver.services import inbox as service
from provserver.services.inbox import HeldRow, SuspectRow


class InboxAnswer(Answer, frozen=True):
    """How many wait, of each kind up to `most`; null: you may do nothing about these. total: of all, to `most`, too."""

    approvals: int | None
    quarantined: int | None
    clone_signs: int | None
    failed_jobs: int | None
    broken_integrations: int | None
    ending_keys: int | None
    total: int
    most: int = service.MAX_COUNT


class QuarantinedAnswer(Answer, frozen=True):
    """A device in quarantine. holder: who has it. staticToken: the status of its token. actor: who put it there."""

    id: UUID
    name: str
    profile_id: UUID
    profile: str
    holder: str
    static_token: str | None
    reason: str
    actor: str
    since: datetime
    signs: Sequence[SignMember]


class SuspectAnswer(Answer, frozen=True):
    """A device that something speaks for being there twice."""

    id: UUID
    name: str
    profile_id: UUID
    profile: str
    holder: str
    signs: Sequence[SignMember]


class EndingKeyAnswer(Answer, frozen=True):
    """A key that ends soon, has ended, or is nearly used up. reference: the profile's id, or its own.

    uses, maxUses: of a provision key whose uses are bounded.
    """

    kind: Literal["provision_key", "api_key", "particle"]
    name: str
    reference: str
    organization: str
    profile: str | None
    ends_at: datetime | None
    uses: int | None
    max_uses: int | None


class EndingKeysAnswer(Answer, frozen=True):
    """Keys, those that end first before the others; 100 at most."""

    items: Sequence[EndingKeyAnswer]


class Dismissal(Body, frozen=True):
    """Whose signs: one device's, a profile's, or of all devices that are listed if neither is named."""

    device: Reference | UnsetType = UNSET
    profile: Reference | UnsetType = UNSET


class DismissedAnswer(Answer, frozen=True):
    """Of how many devices signs were forgotten."""

    count: int


async def show_inbox(call: Call[None, None]) -> InboxAnswer:
    """Count what waits for you."""
    found = await call.services.inbox.counts(call.principal)
    known = (
        found.approvals,
        found.quarantined,
        found.clone_signs,
        found.failed_jobs,
        found.broken_integrations,
        found.ending_keys,
    )
    return InboxAnswer.of(found, total=min(sum(each or 0 for each in known), service.MAX_COUNT), most=service.MAX_COUNT)


async def list_quarantined(call: Call[PageQuery, None]) -> Page[QuarantinedAnswer]:
    """List devices in quarantine that were made by your organization or those below."""
    found = await call.services.inbox.quarantined(call.principal, _page(call.query))
    return paged(found, call.query.limit, lambda each: QuarantinedAnswer.of(each, signs=_signs(each)))


async def list_clone_signs(call: Call[PageQuery, None]) -> Page[SuspectAnswer]:
    """List devices with signs of a clone that are in no quarantine."""
    found = await call.services.inbox.suspects(call.principal, _page(call.query))
    return paged(found, call.query.limit, lambda each: SuspectAnswer.of(each, signs=_signs(each)))


async def dismiss_clone_signs(call: Call[None, Dismissal]) -> DismissedAnswer:
    """Forget signs of clones that you have looked at; what is seen from then on is counted anew."""
    inbox, body = call.services.inbox, call.body
    if body.device is not UNSET:
        return DismissedAnswer(await inbox.dismiss(call.principal, body.device))
    return DismissedAnswer(await inbox.dismiss_all(call.principal, body.profile or None))


async def list_failed_jobs(call: Call[PageQuery, None]) -> Page[JobAnswer]:
    """List durable jobs that failed and were not asked for anew, newest first."""
    found = await call.services.inbox.failed_jobs(call.principal, _page(call.query))
    return paged(found, call.query.limit, JobAnswer.of)


async def list_ending_keys(call: Call[None, None]) -> EndingKeysAnswer:
    """List provision keys, API keys and access tokens for Particle that end within two weeks, or have ended."""
    found = await call.services.inbox.ending_keys(call.principal)
    return EndingKeysAnswer([EndingKeyAnswer.of(each) for each in found])


def _page(query: PageQuery) -> service.Page:
    return service.Page(query.after, query.limit + 1)


def _signs(of: HeldRow | SuspectRow) -> list[SignMember]:
    return [SignMember.of(each) for each in of.signs]


_VIEW = Permission.DEVICES_VIEW

ROUTES = [
    route("GET", "/inbox", _VIEW, show_inbox),
    route("GET", "/inbox/quarantined", _VIEW, list_quarantined),
    route("GET", "/inbox/clone-signs", _VIEW, list_clone_signs),
    route(
        "POST",
        "/inbox/clone-signs/dismiss",
        Permission.DEVICES_MANAGE,
        dismiss_clone_signs,
        problems=("not_found", "conflict"),
        example={"device": "sensor-1"},
    ),
    route("GET", "/inbox/failed-jobs", Permission.TOKENS_MANAGE, list_failed_jobs),
    route("GET", "/inbox/ending-keys", _VIEW, list_ending_keys),
]
