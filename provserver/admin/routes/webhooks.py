"""Webhooks: where events go, what became of them, and sending them again."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import PRINTABLE, Answer, Body, Page, PageQuery, Reference, paged
from provserver.admin.route import Call, Reply, route
from provserver.core.authorization import Permission
from provserver.core.events import EventType
from provserver.core.webhook import MAX_URL, DeliveryState
from provserver.errors import NotFound
from provserver.services.webhooks import WebhookChange

Url = Annotated[str, Meta(min_length=1, max_length=MAX_URL, pattern=PRINTABLE, examples=["https://example.com/events"])]
Types = Annotated[tuple[EventType, ...], Meta(max_length=50, description="Of events; none: all.")]
Moment = Annotated[datetime, Meta(tz=True)]


class WebhookAnswer(Answer, frozen=True):
    """A webhook. failingSince, error: since when it cannot be reached, and why; null while it is."""

    id: UUID
    organization_id: UUID
    url: str
    types: Sequence[EventType]
    enabled: bool
    failing_since: datetime | None
    error: str | None
    created_by: str
    created_at: datetime
    revision: int


class NewWebhookAnswer(WebhookAnswer, frozen=True, kw_only=True):
    """A new webhook. secret: what its requests are signed with, shown this once."""

    secret: str


class WebhookDetailsAnswer(WebhookAnswer, frozen=True, kw_only=True):
    """A webhook with how many events wait for it, and how many are dead; 10,000 stands for that many or more."""

    waiting: int
    dead: int


class DeliveryAnswer(Answer, frozen=True):
    """An event on its way to a webhook. id: the event's. status: of HTTP, that the last try was answered with.

    notBefore: when it is tried again, if it failed.
    """

    id: UUID
    type: str
    device_id: UUID | None
    state: DeliveryState
    tries: int
    status: int | None
    error: str | None
    queued_at: datetime
    tried_at: datetime | None
    not_before: datetime | None


class DeliveryDetailsAnswer(DeliveryAnswer, frozen=True, kw_only=True):
    """The same, with the body that is sent: the very text that is signed."""

    body: str


class TriedAnswer(Answer, frozen=True):
    """What came of a test. status: of HTTP; null when there was no answer. error: why it failed; null if it did not.

    seconds: until the answer was there, or none was waited for any more.
    """

    delivered: bool
    status: int | None
    error: str | None
    seconds: float


class ReplayedAnswer(Answer, frozen=True):
    """How many events are sent again, or would be: of a dry run 10,000 stands for that many or more."""

    replayed: int


class WebhookQuery(PageQuery, frozen=True):
    """Which webhooks. organization: only those of this one."""

    organization: Reference | UnsetType = UNSET


class DeliveryQuery(PageQuery, frozen=True):
    """Which deliveries. state: all unless it is given."""

    state: DeliveryState | UnsetType = UNSET


class NewWebhook(Body, frozen=True):
    """A webhook to be. organization: the caller's own if it is left out."""

    url: Url
    types: Types = ()
    organization: Reference | UnsetType = UNSET


class WebhookChanges(Body, frozen=True):
    """What to change; what is left out stays."""

    url: Url | UnsetType = UNSET
    types: Types | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class Replay(Body, frozen=True):
    """What to send again: one event, those of a time (until: now unless it is given), or all that are dead.

    dryRun: only say how many it would be.
    """

    event: UUID | UnsetType = UNSET
    since: Moment | UnsetType = UNSET
    until: Moment | UnsetType = UNSET
    dead: bool = False
    dry_run: bool = False


async def list_webhooks(call: Call[WebhookQuery, None]) -> Page[WebhookAnswer]:
    """List the webhooks of your organization and those below."""
    query = call.query
    found = await call.services.webhooks.list_(
        call.principal, query.after, query.limit + 1, organization=query.organization or None
    )
    return paged(found, query.limit, WebhookAnswer.of)


async def create_webhook(call: Call[None, NewWebhook]) -> Reply[NewWebhookAnswer]:
    """Make a webhook: an organization is told of events of its devices from now on."""
    body = call.body
    made, secret = await call.services.webhooks.create(call.principal, body.url, body.types, body.organization or None)
    return Reply(NewWebhookAnswer.of(made, secret=secret), revision=made.revision)


async def show_webhook(call: Call[None, None]) -> Reply[WebhookDetailsAnswer]:
    """Show a webhook, and how much waits for it."""
    details = await call.services.webhooks.show(call.principal, call.id)
    shown = WebhookDetailsAnswer.of(details.webhook, waiting=details.counts.waiting, dead=details.counts.dead)
    return Reply(shown, revision=details.webhook.revision)


async def update_webhook(call: Call[None, WebhookChanges]) -> Reply[WebhookAnswer]:
    """Change a webhook; while it is disabled, nothing is queued for it or sent."""
    body = call.body
    change = WebhookChange(url=body.url, types=body.types, enabled=body.enabled)
    changed = await call.services.webhooks.update(call.principal, call.id, change, call.revision)
    return Reply(WebhookAnswer.of(changed), revision=changed.revision)


async def delete_webhook(call: Call[None, None]) -> WebhookAnswer:
    """Delete a webhook, with what waits for it."""
    return WebhookAnswer.of(await call.services.webhooks.delete(call.principal, call.id, call.revision))


async def test_webhook(call: Call[None, None]) -> TriedAnswer:
    """Send a webhook an event of the type webhook.test, at once."""
    begun = time.monotonic()
    answer = await call.services.webhooks.test(call.principal, call.id)
    return TriedAnswer(not answer.error, answer.status, answer.error or None, time.monotonic() - begun)


async def list_deliveries(call: Call[DeliveryQuery, None]) -> Page[DeliveryAnswer]:
    """List what is, or was, sent to a webhook, the newest event first."""
    query = call.query
    found = await call.services.webhooks.deliveries(
        call.principal, call.id, query.after, query.limit + 1, state=query.state or None
    )
    return paged(found, query.limit, DeliveryAnswer.of)


async def show_delivery(call: Call[None, None]) -> DeliveryDetailsAnswer:
    """Show what is, or was, sent to a webhook of one event."""
    try:
        event = UUID(call.text("event"))
    except ValueError:
        raise NotFound("An event's id is a UUID.") from None
    delivery, body = await call.services.webhooks.delivery(call.principal, call.id, event)
    return DeliveryDetailsAnswer.of(delivery, body=body.decode())


async def replay_events(call: Call[None, Replay]) -> ReplayedAnswer:
    """Send a webhook events again: one, those of a time, or all that are dead."""
    body = call.body
    count = await call.services.webhooks.replay(
        call.principal,
        call.id,
        event=body.event or None,
        since=body.since or None,
        until=body.until or None,
        dead=body.dead,
        dry_run=body.dry_run,
    )
    return ReplayedAnswer(count)


_MANAGE = Permission.ORGANIZATIONS_MANAGE

ROUTES = [
    route("GET", "/webhooks", _MANAGE, list_webhooks, problems=("not_found", "conflict")),
    route(
        "POST",
        "/webhooks",
        _MANAGE,
        create_webhook,
        creates=True,
        revised=True,
        problems=("not_found", "conflict", "invalid"),
        example={"url": "https://example.com/events", "types": ["device.provisioned"]},
    ),
    route("GET", "/webhooks/{id}", _MANAGE, show_webhook, revised=True),
    route(
        "PATCH",
        "/webhooks/{id}",
        _MANAGE,
        update_webhook,
        revised=True,
        problems=("invalid",),
        example={"enabled": False},
    ),
    route("DELETE", "/webhooks/{id}", _MANAGE, delete_webhook, revised=True),
    route("POST", "/webhooks/{id}/test", _MANAGE, test_webhook),
    route("GET", "/webhooks/{id}/deliveries", _MANAGE, list_deliveries),
    route("GET", "/webhooks/{id}/deliveries/{event}", _MANAGE, show_delivery),
    route(
        "POST",
        "/webhooks/{id}/replay",
        _MANAGE,
        replay_events,
        problems=("invalid",),
        example={"dead": True},
    ),
]
