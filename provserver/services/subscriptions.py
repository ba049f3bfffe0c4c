"""Keeps a connection to the MQTT server of each application of The Things Stack: one process at a time does.

What comes in is `services/uplinks.py`'s. A connection that breaks is made anew, later each time it fails.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from provserver.adapters.outgoing import Outgoing, Unreachable
from provserver.core import ids
from provserver.core.integration import MQTT_ERROR, Status, ThingsStackSettings
from provserver.core.secrets import ServerKeys, Unsealable
from provserver.core.telemetry import InvalidData
from provserver.errors import Unavailable
from provserver.services.integrations import opened_key
from provserver.services.lead import IDLE, Lead, backoff
from provserver.services.uplinks import Uplinks
from provserver.store import integrations
from provserver.store import lead as store
from provserver.store.database import Database
from provserver.store.integrations import Integration

log = logging.getLogger("provserver.uplinks")

LOCK = 0x75706C6B
"""“uplk”."""

_FIRST_DELAY, _LAST_DELAY = 1.0, 60.0
"""Seconds between tries."""

_PATIENCE = 2.0
"""Seconds that who is cancelled has for taking leave of its broker, until it is cancelled again."""

Subscribe: TypeAlias = Callable[
    [Outgoing, ThingsStackSettings, str, str], AbstractAsyncContextManager[AsyncIterator[bytes]]
]
"""The documents of an application, by client, settings, the application's id and its API key. Raises Unreachable."""


def subscribed(
    outgoing: Outgoing, settings: ThingsStackSettings, application_id: str, api_key: str
) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
    """Those that its broker publishes."""
    from provserver.adapters import uplinks  # here, as it brings a broker's client along

    return uplinks.subscribed(outgoing, settings, application_id, api_key)


@dataclass(frozen=True, slots=True)
class _Followed:
    revision: int
    task: asyncio.Task[None]


class Subscriptions(Lead):
    """Takes what the networks' brokers publish. first_delay: seconds until a second try."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        uplinks: Uplinks,
        outgoing: Outgoing,
        subscribe: Subscribe = subscribed,
        *,
        idle: float = IDLE,
        first_delay: float = _FIRST_DELAY,
        random: ids.Randomness = os.urandom,
    ) -> None:
        super().__init__(database, LOCK, "uplinks", idle)
        self._keys = keys
        self._uplinks = uplinks
        self._outgoing = outgoing
        self._subscribe = subscribe
        self._first_delay = first_delay
        self._random = random

    async def _serve(self, connection: store.Connection) -> None:
        followed: dict[UUID, _Followed] = {}
        try:
            while not self._stopping.is_set():
                await connection.execute("SELECT 1")  # who has lost it, leads no more
                await self._follow_all(followed)
                await self._pause(self._idle)
        finally:
            await _end([each.task for each in followed.values()])

    async def _follow_all(self, followed: dict[UUID, _Followed]) -> None:
        """Follow the integrations that there are, as they are now."""
        async with self._database.connection() as connection:
            found = await integrations.all_(connection)
        wanted = {each.id: each for each in found if isinstance(each.settings, ThingsStackSettings)}
        gone = [id_ for id_, each in followed.items() if id_ not in wanted or wanted[id_].revision != each.revision]
        await _end([followed.pop(id_).task for id_ in gone])
        for id_, each in wanted.items():
            if id_ not in followed:
                task = asyncio.create_task(self._follow(each), name=f"uplinks:{id_}")
                followed[id_] = _Followed(each.revision, task)

    async def _follow(self, integration: Integration) -> None:
        failures = 0
        while True:
            try:
                api_key = await self._api_key(integration)
                assert isinstance(integration.settings, ThingsStackSettings)  # noqa: S101 - the only ones with MQTT
                async with self._subscribe(
                    self._outgoing, integration.settings, integration.application_id, api_key
                ) as documents:
                    if failures:
                        log.info("the uplinks of %s come in again", integration.application_id)
                    failures = 0
                    await self._note(integration, None)
                    async for document in documents:
                        await self._take(integration, document)
                why = "the connection ended"
            except (Unreachable, Unsealable) as fault:
                why = str(fault) if isinstance(fault, Unreachable) else "the API key cannot be opened: give it anew"
            except Unavailable:
                why = ""  # Postgres is away, which is told elsewhere
            except Exception as fault:  # the others' uplinks are none of its affair
                log.error("the uplinks of %s have failed: %s", integration.application_id, type(fault).__name__)  # noqa: TRY400
                why = "an internal error"
            failures += 1
            if why:
                if failures == 1:
                    log.warning("no uplinks of %s: %s", integration.application_id, why)
                await self._note(integration, MQTT_ERROR + why)
            await asyncio.sleep(backoff(failures, self._first_delay, _LAST_DELAY, self._random))

    async def _api_key(self, integration: Integration) -> str:
        async with self._database.connection() as connection:
            sealed = await integrations.sealed_key(connection, integration.id)
        if sealed is None:
            raise Unreachable("the integration is gone")
        return opened_key(self._keys, integration.id, sealed)

    async def _take(self, integration: Integration, document: bytes) -> None:
        """Take a document; the broker will not send it again, so while Postgres is away it is kept."""
        failures = 0
        while True:
            try:
                await self._uplinks.take(integration, document)
            except InvalidData as fault:
                log.debug("an uplink of %s was not taken: %s", integration.application_id, fault)
            except Unavailable:
                failures += 1
                await asyncio.sleep(backoff(failures, self._first_delay, _LAST_DELAY, self._random))
                continue
            return

    async def _note(self, integration: Integration, error: str | None) -> None:
        """Have the integration say how its connection is; not where a webhook does without it."""
        id_, revision = integration.id, integration.revision
        status = Status.CONNECTED if error is None else Status.BROKEN
        try:
            async with self._database.connection() as connection:
                now = await integrations.get(connection, id_)
                if now is None or now.revision != revision or (now.status, now.error) == (status, error):
                    return
                other = now.error is not None and not now.error.startswith(MQTT_ERROR)
                if other and (now.onboarding or error is not None):  # more than this can tell was found, or as much
                    return
                if await integrations.sealed_webhook(connection, id_) is None:
                    await integrations.set_status(connection, id_, status, error, revision=revision)
        except Unavailable:
            return  # it is told with the next change


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended: the client's `wait_for` may lose a cancellation until Python 3.12."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_PATIENCE)
