"""The inbox: what waits for an operator. Counted for a badge, and listed as far as nothing else lists it."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from provserver.core import ids
from provserver.core.authorization import Permission, Principal
from provserver.errors import NotFound
from provserver.services.devices import seen
from provserver.store import audit, profiles
from provserver.store import inbox as store
from provserver.store.database import Connection, Database
from provserver.store.inbox import Counts, EndingRow, HeldRow, SuspectRow, Wants
from provserver.store.jobs import Job

__all__ = ["MAX_COUNT", "Counts", "EndingRow", "HeldRow", "Inbox", "Page", "SuspectRow"]

MAX_COUNT = 100
"""So far each kind is counted: past that it is many, and costs no more to know."""

SOON = timedelta(days=14)
"""A key that ends within this is told of."""

AT_ONCE = 500
"""Devices whose signs one transaction forgets."""


class Page(NamedTuple):
    """Which part of a list. after: what the one before ended with."""

    after: UUID | None = None
    limit: int = 50


class Inbox:
    """What waits, as far down the tree as a principal reaches, and as far as it may do something about it."""

    def __init__(
        self, database: Database, random: ids.Randomness = os.urandom, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._random = random
        self._clock = clock

    async def counts(self, principal: Principal) -> Counts:
        """How many wait, of each kind up to MAX_COUNT; None of what the principal has no say in. Raises Forbidden."""
        principal.require(Permission.DEVICES_VIEW)
        async with self._database.connection() as connection:
            return await store.counts(connection, principal.organization_id, _wants(principal), SOON, MAX_COUNT)

    async def quarantined(self, principal: Principal, page: Page = Page()) -> list[HeldRow]:  # noqa: B008 - immutable
        """Devices in quarantine of makers in reach, in order of their ids. Raises Forbidden."""
        principal.require(Permission.DEVICES_VIEW)
        async with self._database.connection() as connection:
            return await store.quarantined(connection, principal.organization_id, page.after, page.limit)

    async def suspects(self, principal: Principal, page: Page = Page()) -> list[SuspectRow]:  # noqa: B008 - immutable
        """Devices with signs of a clone that are in no quarantine, in order of their ids. Raises Forbidden."""
        principal.require(Permission.DEVICES_VIEW)
        async with self._database.connection() as connection:
            return await store.suspects(connection, principal.organization_id, page.after, page.limit)

    async def failed_jobs(self, principal: Principal, page: Page = Page()) -> list[Job]:  # noqa: B008 - immutable
        """Durable jobs that failed and were not asked for anew, newest first. Raises Forbidden."""
        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.connection() as connection:
            return await store.failed_jobs(connection, principal.organization_id, page.after, page.limit)

    async def ending_keys(self, principal: Principal) -> list[EndingRow]:
        """Keys that end soon, have ended or are nearly used up, MAX_COUNT at most: of the kinds that it may manage."""
        principal.require(Permission.DEVICES_VIEW)
        async with self._database.connection() as connection:
            return await store.ending_keys(connection, principal.organization_id, _wants(principal), SOON, MAX_COUNT)

    async def dismiss(self, principal: Principal, device: UUID | str) -> int:
        """Forget the signs of a device: an operator has looked at them. Returns 1, or 0 if it has none. Raises Refused.

        What its sessions do goes on to be counted: who is there twice shows up again.
        """
        principal.require(Permission.DEVICES_MANAGE)
        async with self._database.transaction() as connection:
            found = await seen(connection, principal.organization_id, device, made=True)
            return await self._dismiss(connection, principal, [found.id])

    async def dismiss_all(self, principal: Principal, profile: str | None = None) -> int:
        """Forget the signs of all devices that are listed now, or a profile's; returns of how many. Raises Refused."""
        principal.require(Permission.DEVICES_MANAGE)
        count, after = 0, None
        while True:
            async with self._database.transaction() as connection:
                only = None
                if profile is not None:
                    named = await profiles.find(connection, principal.organization_id, profile, below=True)
                    if named is None:
                        raise NotFound(f"There is no profile {profile!r}. Look in the list of profiles.")
                    only = named.id
                found = await store.suspects(connection, principal.organization_id, after, AT_ONCE, profile_id=only)
                count += await self._dismiss(connection, principal, [each.id for each in found])
            if len(found) < AT_ONCE:
                return count
            after = found[-1].id

    async def _dismiss(self, connection: Connection, principal: Principal, device_ids: list[UUID]) -> int:
        gone = await store.dismiss(connection, device_ids)
        for id_ in gone:
            await audit.record(
                connection,
                ids.uuid7(self._clock(), self._random),
                principal.organization_id,
                principal.actor,
                "device.clone_signs_dismissed",
                id_,
            )
        return len(gone)


def _wants(principal: Principal) -> Wants:
    held = principal.permissions
    return Wants(
        approvals=Permission.DEVICES_CREATE in held,
        devices=Permission.DEVICES_MANAGE in held,
        jobs=Permission.TOKENS_MANAGE in held,
        integrations=Permission.PROFILES_VIEW in held,
        provision_keys=Permission.PROFILES_VIEW in held,
        api_keys=Permission.KEYS_MANAGE in held,
        particle=Permission.TOKENS_MANAGE in held,
    )
