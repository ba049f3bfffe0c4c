"""The record of what was refused, written in groups, and nobody waits for it; and the operator's reading of it."""

import logging
from collections.abc import Callable, Sequence
from uuid import UUID

from asyncpg import PostgresError

from provserver import metrics
from provserver.core import ids
from provserver.core.events import EventType
from provserver.core.model import Peer
from provserver.core.telemetry import Value
from provserver.errors import Outcome, Refused, Unavailable
from provserver.services.grouping import Grouper
from provserver.services.signals import Signals
from provserver.store import attempts as store
from provserver.store import profiles, provisions
from provserver.store.attempts import AttemptSummary
from provserver.store.database import Database
from provserver.store.provisions import AttemptRow

log = logging.getLogger("provserver.provisioning")


class Attempts:
    """Records refusals. What is granted is recorded with what it leaves (`settlement.py`).

    signals: for what else is worth an event and has no transaction.
    """

    def __init__(self, database: Database, random: ids.Randomness, clock: Callable[[], float]) -> None:
        self._database = database
        self._random = random
        self._clock = clock
        self._rows = Grouper("attempt", self._record)
        self.signals = Signals(database)

    def note(
        self,
        peer: Peer,
        outcome: Outcome,
        reason: str,
        detail: str = "",
        *,
        profile_id: UUID | None = None,
        device_id: UUID | None = None,
        name: str | None = None,
    ) -> None:
        """Have a refusal recorded; the answer does not wait for it."""
        id_ = ids.uuid7(self._clock(), self._random)
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name[:255]) if name else None
        row = AttemptRow(
            id_, peer.transport, peer.address, outcome.value, reason, detail or None, profile_id, device_id, shown
        )
        if not self._rows.post(row):
            metrics.ATTEMPTS_LOST.cell().value += 1
            log.warning("an attempt was not recorded: too many wait")
        if outcome is not Outcome.SUCCESS and outcome is not Outcome.PENDING:  # which have events of their own
            payload: dict[str, Value] = {"reason": reason}
            if profile_id is not None:
                payload["profileId"] = str(profile_id)
            self.signals.note(EventType.PROVISION_FAILED, (profile_id, reason), payload)

    async def drain(self) -> None:
        """Wait until everything is recorded."""
        await self._rows.drain()
        await self.signals.drain()

    async def _record(self, rows: Sequence[AttemptRow]) -> list[None]:
        try:
            async with self._database.connection() as connection:
                await provisions.record(connection, rows)
        except Unavailable as fault:
            metrics.ATTEMPTS_LOST.cell().value += len(rows)
            log.warning("%d attempts were not recorded: %s", len(rows), fault)
        except PostgresError as fault:
            if len(rows) > 1 and not self._database.is_lock_timeout(fault):  # it may be due to one of them
                for row in rows:
                    await self._record([row])
                return [None] * len(rows)
            metrics.ATTEMPTS_LOST.cell().value += len(rows)
            log.error("%d attempts were not recorded: %s", len(rows), type(fault).__name__)  # noqa: TRY400
        return [None] * len(rows)


class AttemptList:
    """Reads the attempts, of one organization's profiles and of nobody's."""

    def __init__(self, database: Database, organization_id: UUID) -> None:
        self._database = database
        self._organization_id = organization_id

    async def newest(
        self, limit: int, *, profile: str | None = None, device: str | None = None, refused: bool = False
    ) -> list[AttemptSummary]:
        """The last attempts, newest first: all, a profile's, a device's (by name or id). Raises Refused."""
        async with self._database.connection() as connection:
            profile_id = None
            if profile is not None:
                found = await profiles.find(connection, self._organization_id, profile)
                if found is None:
                    raise Refused(f"There is no profile {profile!r}. Look in the list of profiles.")
                profile_id = found.id
            return await store.newest(connection, limit, profile_id=profile_id, device=device, refused=refused)
