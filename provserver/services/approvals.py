"""Operators decide on devices that ask for credentials; what they say counts when the device asks the next time."""

import os
import time
from collections.abc import Callable, Sequence
from uuid import UUID

from provserver.core import ids
from provserver.core.authorization import Permission, Principal
from provserver.core.credentials import has_control_characters
from provserver.core.model import ApprovalState
from provserver.errors import Conflict, NotFound
from provserver.services.settlement import APPROVAL_PERIOD
from provserver.store import approvals as store
from provserver.store import audit
from provserver.store.approvals import ApprovalRow
from provserver.store.database import Connection, Database

__all__ = ["ApprovalRow", "ApprovalState", "Approvals"]

AT_ONCE = 500
"""Requests that one transaction decides on."""

MAX_REJECTED = 1_000
"""Requests of a profile that were rejected; of more, the oldest are forgotten, and may ask again."""

MAX_ACCEPTED = 10_000
"""Requests of a profile that were accepted and have not come yet; of more, the oldest must ask again."""


class Approvals:
    """The requests that wait for an operator, as far down the tree as a principal reaches."""

    def __init__(
        self, database: Database, random: ids.Randomness = os.urandom, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._random = random
        self._clock = clock

    async def list_(
        self,
        principal: Principal,
        cursor: UUID | None = None,
        limit: int = 50,
        *,
        state: ApprovalState | None = ApprovalState.PENDING,
        profile: str | None = None,
    ) -> list[ApprovalRow]:
        """Requests in order of their first asking, after the cursor's; state None: those that were decided on, too.

        profile: only its; by name, template id or id. Raises NotFound.
        """
        principal.require(Permission.DEVICES_VIEW)
        async with self._database.connection() as connection:
            await self._check_profile(connection, principal, profile)
            return await store.page(connection, principal.organization_id, cursor, limit, state=state, profile=profile)

    async def decide(self, principal: Principal, reference: UUID | str, *, accept: bool) -> ApprovalRow:
        """Accept a request, named by its id or the device's name, or reject it. Raises NotFound, Conflict."""
        principal.require(Permission.DEVICES_CREATE)
        text = str(reference)
        async with self._database.transaction() as connection:
            found: Sequence[ApprovalRow] = ()
            if not has_control_characters(text):
                found = await store.named(connection, principal.organization_id, text)
            if len(found) > 1:
                raise Conflict(
                    f"Several ask for the name {text!r}: look at where they ask from, and name one by its id."
                )
            decided = await self._decide(connection, principal, found, accept=accept)
        if not decided:
            raise NotFound(f"No request {text!r} waits for approval. Look in the list of approvals.")
        return decided[0]

    async def decide_all(self, principal: Principal, *, accept: bool, profile: str | None = None) -> int:
        """Accept or reject all that wait now, or a profile's; returns how many. Raises NotFound."""
        principal.require(Permission.DEVICES_CREATE)
        count, cursor = 0, None
        while True:
            async with self._database.transaction() as connection:
                await self._check_profile(connection, principal, profile)
                found = await store.page(
                    connection,
                    principal.organization_id,
                    cursor,
                    AT_ONCE,
                    state=ApprovalState.PENDING,
                    profile=profile,
                )
                count += len(await self._decide(connection, principal, found, accept=accept))
            if len(found) < AT_ONCE:
                return count
            cursor = found[-1].id

    @staticmethod
    async def _check_profile(connection: Connection, principal: Principal, profile: str | None) -> None:
        if profile is not None and not await store.sees_profile(connection, principal.organization_id, profile):
            raise NotFound(f"There is no profile {profile!r}. Look in the list of profiles.")

    async def _decide(
        self, connection: Connection, principal: Principal, found: Sequence[ApprovalRow], *, accept: bool
    ) -> list[ApprovalRow]:
        state = ApprovalState.ACCEPTED if accept else ApprovalState.REJECTED
        decided = await store.decide(connection, [each.id for each in found], state, principal.actor, APPROVAL_PERIOD)
        limit = MAX_ACCEPTED if accept else MAX_REJECTED
        await store.trim(connection, {each.profile_id for each in decided}, state, limit)
        for each in decided:
            await audit.record(
                connection,
                ids.uuid7(self._clock(), self._random),
                each.organization_id,
                principal.actor,
                f"approval.{state}",
                each.id,
                profile=each.profile,
                **({} if each.device_name is None else {"name": each.device_name}),
            )
        return decided
