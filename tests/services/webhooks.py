"""Webhooks on a test's own database: a receiver that listens, events to tell it, and a deliverer whose time flies."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self
from uuid import UUID

from provserver.adapters.outgoing import Outgoing, networks
from provserver.adapters.webhook import WebhookClient
from provserver.core.authorization import OPERATOR, Principal
from provserver.core.events import Event, EventType
from provserver.core.webhook import Webhook
from provserver.services.outbox import Outbox
from provserver.services.webhooks import Webhooks
from provserver.store import outbox
from tests.adapters.conftest import serving
from tests.adapters.receiver import Receiver
from tests.conftest import Space


def client() -> WebhookClient:
    """One that may go to this machine."""
    return WebhookClient(Outgoing(networks("127.0.0.1")))


class Flying(Outbox):
    """A deliverer on a clock of its own: where another would wait, its time moves on.

    meanwhile: called with the time whenever that moves on.
    """

    def __init__(self, space: Space, *, idle: float = 1.0, **options: Any) -> None:
        self.time = time.time()
        self.meanwhile: Callable[[float], Awaitable[None]] | None = None
        super().__init__(space.database, space.keys, client(), idle=idle, clock=lambda: self.time, **options)

    async def _rest(self, seconds: float) -> None:
        if self._couriers:
            await self._wake.wait()
            return
        self.time += seconds
        if self.meanwhile is not None:
            await self.meanwhile(self.time)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        await self.start()
        try:
            yield self
        finally:
            await self.stop(10)


class Subscriber:
    """A webhook of an organization, the root unless it is given, and its receiver."""

    def __init__(self, space: Space, webhooks: Webhooks, webhook: Webhook, receiver: Receiver) -> None:
        self.space = space
        self.webhooks = webhooks
        self.webhook = webhook
        self.receiver = receiver

    @classmethod
    @asynccontextmanager
    async def listening(
        cls, space: Space, *types: EventType, organization: UUID | None = None, receiver: Receiver | None = None
    ) -> AsyncIterator[Self]:
        webhooks = Webhooks(space.database, space.keys, client)
        receiver = receiver or Receiver()
        async with serving(receiver):
            made, receiver.secret = await webhooks.create(operator(space), receiver.url, types, organization)
            try:
                yield cls(space, webhooks, made, receiver)
            finally:
                await webhooks.close()

    async def states(self) -> dict[str, int]:
        """How many deliveries are in which state."""
        rows = await self.space.rows(
            "SELECT state, count(*) FROM webhook_delivery WHERE webhook_id = $1 GROUP BY 1", self.webhook.id
        )
        return {row[0]: row[1] for row in rows}


def operator(space: Space) -> Principal:
    return Principal(OPERATOR, space.organization_id)


async def tell(space: Space, device: int, *numbers: int, type_: EventType = EventType.DEVICE_CLAIMED) -> None:
    """Events of a device, in order, as a transaction leaves them."""
    id_ = UUID(int=device)
    async with space.database.transaction() as connection:
        await outbox.record_all(
            connection,
            [Event(type_, {"deviceId": str(id_), "n": n}, id_, space.organization_id) for n in numbers],
        )
