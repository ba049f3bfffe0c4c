"""The record of what was refused, for the operator: written in groups, and nobody waits for it."""

import logging
from collections.abc import Callable, Sequence
from uuid import UUID

from asyncpg import PostgresError

from provserver.core import ids
from provserver.core.model import Peer
from provserver.errors import Outcome, Unavailable
from provserver.services.grouping import Grouper
from provserver.store import provisions
from provserver.store.database import Database
from provserver.store.provisions import AttemptRow

log = logging.getLogger("provserver.provisioning")


class Attempts:
    """Records refusals. What is granted is recorded with what it leaves (`settlement.py`)."""

    def __init__(self, database: Database, random: ids.Randomness, clock: Callable[[], float]) -> None:
        self._database = database
        self._random = random
        self._clock = clock
        self._rows = Grouper("attempt", self._record)

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
            log.warning("an attempt was not recorded: too many wait")

    async def drain(self) -> None:
        """Wait until everything is recorded."""
        await self._rows.drain()

    async def _record(self, rows: Sequence[AttemptRow]) -> list[None]:
        try:
            async with self._database.connection() as connection:
                await provisions.record(connection, rows)
        except Unavailable as fault:
            log.warning("%d attempts were not recorded: %s", len(rows), fault)
        except PostgresError as fault:
            log.error("%d attempts were not recorded: %s", len(rows), type(fault).__name__)  # noqa: TRY400
        return [None] * len(rows)
