"""How what a group of requests deserves is written: at once, else one by one; and within the uses of provision keys.

The writes are guarded (`store/provisions.py`): what does not come through keeps no result, and is looked at again.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from uuid import UUID

from provserver.core.decision import Reason, Refusal
from provserver.core.events import EventType
from provserver.core.model import ApprovalState, DeviceProfile
from provserver.errors import Unavailable
from provserver.services.ticket import StaleProfile, Ticket
from provserver.store import approvals, outbox, provisions
from provserver.store.database import Connection, Database
from provserver.store.provisions import Uses, Write

BURNING = 0.8
"""Part of a provision key's uses after which an event tells of it."""

HINT_LENGTH = 4
"""Characters of a provision key that events and the audit tell it by."""

_ACCEPTED = ApprovalState.ACCEPTED

Pair = tuple[Ticket, Write]
Statement = Callable[[Connection, Sequence[Write]], Awaitable[set[UUID]]]


class _NothingWritten(Exception):  # noqa: N818
    """Rolls back the use of an approval."""


class ProvisionWrites:
    """Writes groups of what was decided."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def apply(
        self,
        connection: Connection,
        statement: Statement,
        pairs: Sequence[Pair],
    ) -> None:
        """Write a group; when the statement fails, one by one, so that nobody pays for a neighbour."""
        if not pairs:
            return
        if approved := [pair for pair in pairs if pair[0].situation.approval is _ACCEPTED]:
            pairs = [pair for pair in pairs if pair[0].situation.approval is not _ACCEPTED]
            for pair in approved:
                await self._apply_approved(connection, statement, pair)
            if not pairs:
                return
        metered = [pair for pair in pairs if pair[0].intent.metered is not None]
        if 0 < len(metered) < len(pairs):
            await self.apply(connection, statement, metered)
            pairs = [pair for pair in pairs if pair[0].intent.metered is None]
            metered = []
        try:
            if metered:
                done = await self._apply_metered(connection, statement, metered)
            else:
                done = await statement(connection, [write for _, write in pairs])
        except Exception as fault:
            if self._database.is_away(fault):
                raise
            if len(pairs) == 1:
                self._not_written(pairs[0][0], fault)
            else:
                for pair in pairs:
                    await self.apply(connection, statement, [pair])
            return
        for ticket, write in pairs:
            if write.device_id in done:
                ticket.result = ticket.granted

    async def _apply_approved(self, connection: Connection, statement: Statement, pair: Pair) -> None:
        """Write what an operator has approved, and use the approval, both or neither."""
        ticket, write = pair
        try:
            async with connection.transaction():
                if not await approvals.consume(connection, ticket.intent.profile.id, ticket.approval_digest):
                    return  # taken back just now: it is looked at again
                if ticket.intent.metered is not None:
                    done = await self._apply_metered(connection, statement, [pair])
                else:
                    done = await statement(connection, [write])
                if write.device_id not in done:
                    raise _NothingWritten
        except _NothingWritten:
            pass
        except Exception as fault:
            if self._database.is_away(fault):
                raise
            self._not_written(ticket, fault)
        else:
            ticket.result = ticket.granted

    def _not_written(self, ticket: Ticket, fault: Exception) -> None:
        """What becomes of a ticket whose write has failed alone."""
        if self._database.is_lock_timeout(fault):
            ticket.result = Unavailable("Another transaction holds the device.")
        elif not self._database.is_race(fault):  # which is looked at again
            ticket.fail(fault)

    async def _apply_metered(self, connection: Connection, statement: Statement, pairs: Sequence[Pair]) -> set[UUID]:
        """Write what the uses of its provision keys allow, and count it, in one transaction; returns what was written.

        What finds no use left is refused, once those before it are written.
        """
        waiting: list[Ticket] = []
        gone: list[Ticket] = []
        async with connection.transaction():
            before = await provisions.hold_uses(connection, {_metered(ticket) for ticket, _ in pairs})
            left = {key: _left(uses) for key, uses in before.items()}
            fitting: list[Pair] = []
            for ticket, write in pairs:
                key = _metered(ticket)
                if key not in left:
                    gone.append(ticket)
                elif left[key] > 0:
                    left[key] -= 1
                    fitting.append((ticket, write))
                else:
                    waiting.append(ticket)
            done = await statement(connection, [write for _, write in fitting]) if fitting else set()
            made = Counter(_metered(ticket) for ticket, write in fitting if write.device_id in done)
            if made:
                await provisions.add_uses(connection, made)
                profiles = {_metered(ticket): ticket.intent.profile for ticket, _ in fitting}
                for key, number in made.items():
                    await _burn(connection, profiles[key], key, before[key], number)
        for ticket in gone:
            ticket.result = StaleProfile()
        for ticket in waiting:
            if _left(before[_metered(ticket)]) <= made[_metered(ticket)]:
                ticket.result = Refusal(Reason.KEY_USED_UP)
        return done


def unshared(ticket: Ticket, write: Write) -> list[object]:
    """What two writes of one statement must not share; the first in line has it, the others see what it left."""
    profile = ticket.intent.profile
    found: list[object] = [(profile.organization_id, write.name), write.id_digest]
    if ticket.nonce_digest is not None:
        found.append((profile.id, ticket.nonce_digest))
    return found


def _metered(ticket: Ticket) -> str:
    return ticket.intent.metered or ""


def _left(uses: Uses) -> float:
    return inf if uses.max_uses is None else uses.max_uses - uses.uses


async def _burn(connection: Connection, profile: DeviceProfile, key: str, before: Uses, number: int) -> None:
    """Tell of a provision key that has few uses left; once."""
    if before.max_uses is None:
        return
    after = before.uses + number
    if before.uses < BURNING * before.max_uses <= after:
        await outbox.record(
            connection,
            EventType.PROVISION_KEY_BURNING,
            organization_id=profile.organization_id,
            profileId=str(profile.id),
            hint=key[:HINT_LENGTH],
            cause="uses",
            uses=after,
            maxUses=before.max_uses,
        )
