"""The audit: what was done, and the proof that it is all there."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import Answer, Body, PageQuery, Query, Reference, SearchedPage, Text, searched
from provserver.admin.route import Call, Content, route
from provserver.core.authorization import Permission
from provserver.core.moment import in_utc
from provserver.core.search import Span
from provserver.services.audit import Head, Wanted

JSON_LINES = "application/jsonl"

Hex = Annotated[str, Meta(pattern="^([0-9a-f]{2}){1,64}$")]


Moment = Annotated[datetime, Meta(tz=True)]


class AuditQuery(PageQuery, frozen=True):
    """Which entries. organization: only those of this one and those below it. subject: the id of what was changed.

    actor: as entries have it, or an e-mail address, or the name of an API key. action: one, or those of a kind, all of
    `device` for example. since, until: those of this time on, and before that one.
    """

    organization: Reference | UnsetType = UNSET

    subject: Text | UnsetType = UNSET
    actor: Text | UnsetType = UNSET
    action: Text | UnsetType = UNSET
    since: Moment | UnsetType = UNSET
    until: Moment | UnsetType = UNSET


class AuditAnswer(Answer, frozen=True):
    """What was done. actor: `user:<id>`, `key:<id>`, `device:<id>`, `nobody` (who fails to sign in) or `operator`.

    actorName: a person's e-mail address, or what a key or device is called; null of those that you cannot see.
    """

    id: UUID
    at: datetime
    organization_id: UUID
    actor: str
    actor_name: str | None
    action: str
    subject_id: str
    detail: dict[str, Any]


class ExportQuery(Query, frozen=True):
    """Which entries. organization: only those of this one and those below it."""

    organization: Reference | UnsetType = UNSET


class HeadAnswer(Answer, frozen=True):
    """The signed end of the audit's chain. mac, signature: in hexadecimal."""

    seq: int
    mac: str
    time: datetime
    signature: str


class GivenHead(Body, frozen=True):
    """A head that was exported before, as it was."""

    seq: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    mac: Hex
    time: Annotated[datetime, Meta(tz=True)]
    signature: Hex


class Verifying(Body, frozen=True):
    """What the chain is to be held against. head: it must be in the chain; none: the database's own alone."""

    head: GivenHead | None = None


class BreakAnswer(Answer, frozen=True):
    """Where the chain is broken first. id: of the entry there; null where there is none."""

    seq: int
    id: UUID | None
    text: str


class VerificationAnswer(Answer, frozen=True):
    """What came of verifying. entries: right, from the first on. waiting: too new to be in the chain."""

    entries: int
    waiting: int
    broken: BreakAnswer | None


async def list_audit(call: Call[AuditQuery, None]) -> SearchedPage[AuditAnswer]:
    """List what was done, newest first."""
    query, audit = call.query, call.services.audit
    wanted = Wanted(
        Span.of(
            in_utc(query.since, "The begin of the time") if query.since else None,
            in_utc(query.until, "The end of the time") if query.until else None,
            query.after,
        ),
        subject_id=query.subject or None,
        actor=query.actor or None,
        action=query.action or None,
    )
    found = await audit.list_(call.principal, wanted, query.limit, organization=query.organization or None)
    names = await audit.names(call.principal, [each.actor for each in found.rows])
    return searched(found, lambda row: AuditAnswer.of(row, actor_name=names.get(row.actor)))


async def export_audit(call: Call[ExportQuery, None]) -> Content:
    """Export what was done, oldest first, an entry a line; the export is in the audit itself."""
    parts = call.services.audit.export(call.principal, call.query.organization or None)
    return Content(parts, JSON_LINES, "audit.jsonl")


async def show_head(call: Call[None, None]) -> HeadAnswer:
    """Show the signed end of the audit's chain, to be kept elsewhere."""
    head = await call.services.audit.head(call.principal)
    return HeadAnswer(head.seq, head.mac.hex(), head.at, head.signature.hex())


async def verify_audit(call: Call[None, Verifying]) -> VerificationAnswer:
    """Verify the audit: that no entry was altered, removed or moved."""
    given = call.body.head
    head = None
    if given is not None:
        at = in_utc(given.time, "The head's time")
        head = Head(given.seq, bytes.fromhex(given.mac), at, bytes.fromhex(given.signature))
    found = await call.services.audit.verify(call.principal, head)
    broken = None if found.broken is None else BreakAnswer.of(found.broken)
    return VerificationAnswer(found.entries, found.waiting, broken)


_READ = Permission.AUDIT_READ

ROUTES = [
    route("GET", "/audit", _READ, list_audit, problems=("not_found", "conflict", "invalid")),
    route("GET", "/audit/export", _READ, export_audit, produces=(JSON_LINES,), problems=("not_found", "conflict")),
    route("GET", "/audit/head", _READ, show_head, problems=("conflict",)),
    route("POST", "/audit/verify", _READ, verify_audit, example={"head": None}),
]
