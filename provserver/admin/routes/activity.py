"""What has happened, and what happens: attempts, events."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import Answer, PageQuery, Query, Reference, SearchedPage, searched
from provserver.admin.problem import Malformed
from provserver.admin.route import Call, Content, route
from provserver.core.authorization import Permission, Principal
from provserver.core.model import Transport
from provserver.core.moment import in_utc
from provserver.core.search import Span
from provserver.errors import Outcome, Unavailable
from provserver.services.events import AttemptSummary, Happening, Wanted

if TYPE_CHECKING:
    from provserver.admin.services import Services

HEARTBEAT = 15.0
"""Seconds after which a silent feed says that it lives."""

MAX_LIFE = 300.0
"""Seconds after which a feed ends: whoever reads on comes again, and shows that he still may."""


Address = Annotated[str, Meta(max_length=45, pattern="^[0-9A-Fa-f.:]*$", examples=["192.0.2.7"])]
ReasonName = Annotated[str, Meta(max_length=64, pattern="^[A-Z0-9_]*$", examples=["SECRET_WRONG"])]
Moment = Annotated[datetime, Meta(tz=True)]


class AttemptQuery(PageQuery, frozen=True):
    """Which attempts. profile: by name, template id or id. device: a name or an id, also of one that was never made.

    since, until: those of this time on, and before that one.
    """

    profile: Reference | UnsetType = UNSET
    device: Reference | UnsetType = UNSET
    refused: Annotated[bool, Meta(description="Only those that were refused.")] = False
    outcome: Outcome | UnsetType = UNSET
    reason: ReasonName | UnsetType = UNSET
    transport: Transport | UnsetType = UNSET
    address: Address | UnsetType = UNSET
    since: Moment | UnsetType = UNSET
    until: Moment | UnsetType = UNSET


class AttemptAnswer(Answer, frozen=True):
    """A device's request to be provisioned, and what came of it. reason, detail: for the operator."""

    id: UUID
    time: datetime
    transport: str
    address: str
    outcome: str
    reason: str | None
    detail: str | None
    profile_id: UUID | None
    profile: str | None
    device_id: UUID | None
    device: str | None


class EventQuery(Query, frozen=True):
    """From where on. last_event_id: as the header Last-Event-ID, which goes before it."""

    last_event_id: UUID | UnsetType = UNSET


async def list_attempts(call: Call[AttemptQuery, None]) -> SearchedPage[AttemptAnswer]:
    """List provisioning attempts, newest first."""
    query = call.query
    wanted = Wanted(
        Span.of(
            in_utc(query.since, "The begin of the time") if query.since else None,
            in_utc(query.until, "The end of the time") if query.until else None,
            query.after,
        ),
        device=query.device or None,
        refused=query.refused,
        outcome=query.outcome.value if query.outcome else None,
        reason=query.reason or None,
        transport=query.transport.value if query.transport else None,
        address=query.address or None,
    )
    found = await call.services.activity.attempts(
        call.principal, wanted, profile=query.profile or None, limit=query.limit
    )
    return searched(found, _attempt)


async def show_attempt(call: Call[None, None]) -> AttemptAnswer:
    """Show an attempt."""
    return _attempt(await call.services.activity.attempt(call.principal, call.id))


async def follow_events(call: Call[EventQuery, None]) -> Content:
    """Follow what happens, as server-sent events.

    An entry of the audit says in `actorName` what its `actor` is called; null of those that you cannot see.
    """
    since = call.query.last_event_id or None
    if (header := call.request.headers.get("last-event-id")) is not None:
        since = _event_id(header)
    return Content(stream(call.services, call.principal, since), "text/event-stream")


async def stream(services: "Services", principal: Principal, since: UUID | None) -> AsyncIterator[bytes]:
    """The feed in the form of server-sent events (HTML §9.2)."""
    async with services.feed.read(principal, since) as reader:
        yield b": what happens from now on\nretry: 3000\n\n"
        while (happenings := await reader.next(HEARTBEAT)) is not None:
            if not happenings:
                yield b":\n\n"
            actors = {str(each.facts["actor"]) for each in happenings if each.kind == "audit"}
            try:
                names = await services.audit.names(principal, actors) if actors else {}
            except Unavailable:  # what was heard is told nevertheless
                names = {}
            for each in happenings:
                yield _event(each, names)
            if reader.age > MAX_LIFE:
                return


def _event(happening: Happening, names: Mapping[str, str]) -> bytes:
    """names: of actors, for who reads: what has happened is told to others, too."""
    lines = [b"event: " + happening.kind.encode()]
    if happening.id is not None:
        lines.append(b"id: " + str(happening.id).encode())
    data = {"id": happening.id, "type": happening.kind, "at": happening.at} | happening.facts
    if happening.kind == "audit":
        data["actorName"] = names.get(str(happening.facts["actor"]))
    lines.append(b"data: " + msgspec.json.encode(data))
    return b"\n".join(lines) + b"\n\n"


def _event_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Malformed("Last-Event-ID must be the id of an event.") from None


def _attempt(attempt: AttemptSummary) -> AttemptAnswer:
    return AttemptAnswer.of(attempt, time=attempt.at)


ROUTES = [
    route("GET", "/attempts", Permission.PROFILES_VIEW, list_attempts, problems=("not_found", "invalid")),
    route("GET", "/attempts/{id}", Permission.PROFILES_VIEW, show_attempt),
    route(
        "GET",
        "/events",
        Permission.DEVICES_VIEW,
        follow_events,
        produces=("text/event-stream",),
        problems=("too_many_requests",),
    ),
]
