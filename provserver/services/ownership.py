"""Who has a device: what all moves of ownership share.

A move is one transaction, which writes its audit too.
"""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from asyncpg import PostgresError

from provserver.core import ids
from provserver.core.authorization import Principal
from provserver.core.credentials import has_control_characters
from provserver.core.events import EventType
from provserver.core.telemetry import Value
from provserver.errors import Conflict, NotFound, Unavailable
from provserver.services import onboarding
from provserver.services.organizations import check_quota
from provserver.store import audit, devices, outbox
from provserver.store import claiming as store
from provserver.store.database import Connection, Database
from provserver.store.devices import DeviceSummary


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who is to have a device: an organization, and a user of it or nobody in particular."""

    organization_id: UUID
    user_id: UUID | None


class Ownership:
    """Moves of one kind."""

    def __init__(
        self,
        database: Database,
        *,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._random = random
        self._clock = clock

    async def _user(self, connection: Connection, principal: Principal, reference: UUID | str) -> Recipient:
        found = None
        if isinstance(reference, UUID) or not has_control_characters(reference):
            found = await store.owner(connection, principal.organization_id, reference)
        if found is None:
            raise NotFound("There is no such user that you can see. Look him up in the list.")
        if not found.activated:
            raise Conflict("This user has never signed in. Have the invitation accepted first.")
        return Recipient(found.organization_id, found.id)

    async def _onboard(self, connection: Connection, device_id: UUID, actor: str) -> None:
        """A device that somebody has is to be in its network."""
        await onboarding.wanted(connection, device_id, actor, random=self._random, clock=self._clock)

    @staticmethod
    async def _tell_claimed(
        connection: Connection, device_id: UUID, recipient: Recipient, *, transferred: bool = False
    ) -> None:
        members: dict[str, Value] = {"organizationId": str(recipient.organization_id), "transferred": transferred}
        if recipient.user_id is not None:
            members["userId"] = str(recipient.user_id)
        await outbox.record_of_device(
            connection, EventType.DEVICE_CLAIMED, device_id, recipient.organization_id, **members
        )

    async def _seen(self, connection: Connection, principal: Principal, id_: UUID) -> DeviceSummary:
        device = await devices.get(connection, principal.organization_id, id_)
        if device is None:
            raise no_device(id_)
        return device

    @staticmethod
    async def _check_quota(connection: Connection, recipient: Recipient, holder_id: UUID | None) -> None:
        """Whether an organization may have one more device. Also keeps it from being deleted. Raises Conflict."""
        count = 0 if holder_id == recipient.organization_id else 1
        await check_quota(connection, recipient.organization_id, devices=count, coming_from=holder_id)

    async def _record(
        self, connection: Connection, organization_id: UUID, actor: str, action: str, subject_id: UUID, **detail: Value
    ) -> None:
        id_ = ids.uuid7(self._clock(), self._random)
        await audit.record(connection, id_, organization_id, actor, action, subject_id, **detail)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        """One transaction. Raises Unavailable, also while somebody else holds the device, and Conflict."""
        try:
            async with self._database.transaction() as connection:
                yield connection
        except PostgresError as fault:
            if self._database.is_lock_timeout(fault):
                raise Unavailable("Somebody else moves this device just now. Try again.") from None
            if self._database.is_race(fault):
                raise Conflict("Somebody else has changed this device just now. Look at it again.") from None
            raise


def owned(recipient: Recipient) -> dict[str, str]:
    """What the audit says of who has it: the user, if any."""
    return {} if recipient.user_id is None else {"user": str(recipient.user_id)}


def no_device(id_: UUID) -> NotFound:
    """To be raised for what is not there, or not to be seen."""
    return NotFound(f"There is no device {str(id_)!r}. Look it up in the list.")
