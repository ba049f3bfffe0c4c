"""Webhooks, for operators: where an organization's events go, what became of them, and sending them again."""

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType

from provserver.core import events, ids, webhook
from provserver.core.authorization import Permission, Principal
from provserver.core.events import EventType
from provserver.core.moment import in_utc
from provserver.core.secrets import ServerKeys, Unsealable
from provserver.core.telemetry import Value
from provserver.core.webhook import Answer, Delivery, DeliveryState, Webhook
from provserver.errors import Conflict, Invalid, NotFound, Unavailable
from provserver.services.organizations import check_revision, reach
from provserver.store import audit
from provserver.store import webhooks as store
from provserver.store.database import Connection, Database
from provserver.store.webhooks import Counts

if TYPE_CHECKING:
    from provserver.adapters.webhook import WebhookClient

MAX_WEBHOOKS = 20
"""Of one organization: each event is queued for every one that wants it."""

TEST = "webhook.test"
"""The type of what a test sends."""


def connect(private: str) -> "WebhookClient":
    """A client that may go to public addresses and to the option `outgoing_private`. Raises Misconfigured."""
    from provserver.adapters.outgoing import Outgoing, networks  # here, as they are slow to load
    from provserver.adapters.webhook import WebhookClient

    return WebhookClient(Outgoing(networks(private)))


class WebhookChange(Struct, frozen=True):
    """What to change; what is unset stays."""

    url: str | UnsetType = UNSET
    types: Collection[EventType] | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class WebhookDetails:
    """A webhook, and what waits for it."""

    webhook: Webhook
    counts: Counts


class Webhooks:
    """The webhooks, as far down the tree as a principal reaches.

    connect: makes the client, once it is needed: most commands have no use for it, and it is slow to load.
    """

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        connect: Callable[[], "WebhookClient"],
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keys = keys
        self._connect = connect
        self._connected: WebhookClient | None = None
        self._random = random
        self._clock = clock

    async def close(self) -> None:
        """Let go of the connections."""
        if self._connected is not None:
            await self._connected.close()

    async def create(
        self,
        principal: Principal,
        url: str,
        types: Collection[EventType] = (),
        organization: UUID | str | None = None,
    ) -> tuple[Webhook, str]:
        """Have an organization, the principal's own unless it is given, be told of events from now on.

        types: of events; none: all. Returns the webhook, and its secret. Raises Refused.
        """
        principal.require(Permission.ORGANIZATIONS_MANAGE)
        self._check(url)
        secret = self._random(webhook.SECRET_LENGTH)
        made = ids.uuid7(self._clock(), self._random)
        sealed = self._keys.seal(secret, _context(made), self._random(12))
        async with self._database.transaction() as connection:
            where = await reach(connection, principal, organization, lock="NO KEY UPDATE")
            if await store.count(connection, where.id) >= MAX_WEBHOOKS:
                raise Conflict(f"An organization has {MAX_WEBHOOKS} webhooks at most. Delete one.")
            found = await store.insert(connection, made, where.id, url, sealed, sorted(set(types)), principal.actor)
            await self._record(connection, principal, found, "webhook.created", types=_listed(found.types))
        return found, webhook.shown(secret)

    async def list_(
        self,
        principal: Principal,
        cursor: UUID | None = None,
        limit: int = 50,
        *,
        organization: UUID | str | None = None,
    ) -> list[Webhook]:
        """The webhooks in reach, in the order they were made, after the cursor's; of one organization, or all.

        Raises Refused.
        """
        principal.require(Permission.ORGANIZATIONS_MANAGE)
        async with self._database.connection() as connection:
            only = None if organization is None else (await reach(connection, principal, organization)).id
            return await store.list_(
                connection, principal.organization_id, after=cursor, limit=limit, organization_id=only
            )

    async def show(self, principal: Principal, id_: UUID) -> WebhookDetails:
        """One, and how much waits for it. Raises Refused."""
        principal.require(Permission.ORGANIZATIONS_MANAGE)
        async with self._database.connection() as connection:
            found = await self._find(connection, principal, id_)
            return WebhookDetails(found, await store.counts(connection, id_))

    async def update(
        self, principal: Principal, id_: UUID, change: WebhookChange, revision: int | None = None
    ) -> Webhook:
        """Change one; revision: which the change was meant for. Raises Refused.

        While it is disabled nothing is queued for it, and what waits is not sent.
        """
        principal.require(Permission.ORGANIZATIONS_MANAGE)
        changes: dict[str, object] = {
            name: value for name in change.__struct_fields__ if (value := getattr(change, name)) is not UNSET
        }
        if change.url is not UNSET:
            self._check(change.url)
        if change.types is not UNSET:
            changes["types"] = sorted(set(change.types))
        async with self._database.transaction() as connection:
            check_revision((await self._find(connection, principal, id_, lock=True)).revision, revision)
            found = await store.update(connection, id_, changes)
            await self._record(
                connection, principal, found, "webhook.updated", enabled=found.enabled, types=_listed(found.types)
            )
        return found

    async def delete(self, principal: Principal, id_: UUID, revision: int | None = None) -> Webhook:
        """Remove one, with what waits for it; revision: which was meant. Raises Refused."""
        principal.require(Permission.ORGANIZATIONS_MANAGE)
        async with self._database.transaction() as connection:
            found = await self._find(connection, principal, id_, lock=True)
            check_revision(found.revision, revision)
            await store.delete(connection, id_)
            await self._record(connection, principal, found, "webhook.deleted")
        return found

    async def test(self, principal: Principal, id_: UUID) -> Answer:
        """Send an event of the type `webhook.test`, at once and this once; what came of it. Raises Refused."""
        principal.require(Permission.ORGANIZATIONS_MANAGE)
        async with self._database.connection() as connection:
            found = await self._find(connection, principal, id_)
            sealed = await store.sealed(connection, id_)
        if sealed is None:
            raise _missing(id_)
        try:
            secret = self._keys.unseal(sealed, _context(id_))
        except Unsealable:
            raise Unavailable("The webhook's secret cannot be opened. Make another webhook.") from None
        now = self._clock()
        body = events.encode(
            event := ids.uuid7(now, self._random), TEST, datetime.fromtimestamp(now, UTC), f'{{"webhookId":"{id_}"}}'
        )
        return await self._client().send(found.url, secret, event, body, now)

    async def deliveries(
        self,
        principal: Principal,
        id_: UUID,
        cursor: UUID | None = None,
        limit: int = 50,
        *,
        state: DeliveryState | None = None,
    ) -> list[Delivery]:
        """Its deliveries, the newest event first, from before the cursor's on; of one state, or all. Raises Refused."""
        principal.require(Permission.ORGANIZATIONS_MANAGE)
        async with self._database.connection() as connection:
            await self._find(connection, principal, id_)
            return await store.deliveries(connection, id_, before=cursor, limit=limit, state=state)

    async def delivery(self, principal: Principal, id_: UUID, event: UUID) -> tuple[Delivery, bytes]:
        """One of them, and the body that is sent at every try. Raises Refused."""
        principal.require(Permission.ORGANIZATIONS_MANAGE)
        async with self._database.connection() as connection:
            await self._find(connection, principal, id_)
            sent = await store.delivery(connection, id_, event)
        if sent is None:
            raise NotFound("No such event was meant for this webhook, or it is kept no longer.")
        return sent.delivery, events.encode(event, sent.delivery.type, sent.created_at, sent.payload)

    async def replay(
        self,
        principal: Principal,
        id_: UUID,
        *,
        event: UUID | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        dead: bool = False,
        dry_run: bool = False,
    ) -> int:
        """Queue events again, behind all that waits: one, those of a time (of its types), or all that are dead.

        until: now unless it is given. dry_run: do nothing. Returns how many; what waits already does not count, and of
        a dry run 10,000 stands for that many or more. Raises Refused.
        """
        principal.require(Permission.ORGANIZATIONS_MANAGE)
        if (event is not None) + (since is not None) + dead != 1 or (until is not None and since is None):
            raise Invalid("Name one event, or a span by its begin (and end), or all that are dead.")
        end = datetime.fromtimestamp(self._clock(), UTC) if until is None else in_utc(until, "The end of the span")
        async with self._database.transaction() as connection:
            found = await self._find(connection, principal, id_)
            if event is not None:
                count = await store.replay_event(connection, id_, event, dry=dry_run)
            elif since is not None:
                begin = in_utc(since, "The begin of the span")
                count = await store.replay_span(connection, id_, begin, end, dry=dry_run)
            else:
                count = await store.replay_dead(connection, id_, dry=dry_run)
            if not dry_run:
                await self._record(connection, principal, found, "webhook.replayed", count=count)
        return count

    async def _find(self, connection: Connection, principal: Principal, id_: UUID, *, lock: bool = False) -> Webhook:
        found = await store.find(connection, principal.organization_id, id_, lock=lock)
        if found is None:
            raise _missing(id_)
        return found

    def _client(self) -> "WebhookClient":
        if self._connected is None:
            self._connected = self._connect()
        return self._connected

    def _check(self, url: str) -> None:
        """Whether requests may go there, as far as the URL itself tells. Raises Invalid."""
        host = webhook.host(webhook.checked_url(url))
        try:
            allowed = self._client().allows("127.0.0.1" if host == "localhost" else host)
        except ValueError:  # a name: its addresses are looked at with every connection
            return
        if not allowed:
            raise Invalid(
                f"{host} is not at a public address, where requests go only if they are meant to. "
                "Whoever runs the server can add its network to outgoing_private."
            )

    async def _record(
        self, connection: Connection, principal: Principal, found: Webhook, action: str, **detail: Value
    ) -> None:
        """The URL's host alone, as the rest may hold a token."""
        id_ = ids.uuid7(self._clock(), self._random)
        detail = {"host": webhook.host(found.url)} | detail
        await audit.record(connection, id_, found.organization_id, principal.actor, action, found.id, **detail)


def _context(id_: UUID) -> bytes:
    """What the secret of a webhook is sealed for."""
    return b"webhook:" + id_.bytes


def _listed(types: Collection[EventType]) -> str:
    return ", ".join(types) or "all"


def _missing(id_: UUID) -> NotFound:
    return NotFound(f"There is no webhook {str(id_)!r} that you can see. Look in the list.")
