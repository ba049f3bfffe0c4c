"""What one process does for all, again and again: chain the audit, and forget what is over."""

import asyncio
import logging

from asyncpg import PostgresError

from provserver import metrics
from provserver.core.secrets import Unsealable
from provserver.errors import Misconfigured
from provserver.services.audit_chain import AuditChain, Broken
from provserver.services.lead import IDLE, Lead
from provserver.services.retention import Retention
from provserver.store.database import Database
from provserver.store.lead import Connection

log = logging.getLogger("provserver.audit")

SWEEP_PERIOD = 60.0
"""Seconds between looks for what is over."""

_PACE = 0.02
"""Seconds between batches, while there are more."""

_COMPLAINT_PERIOD = 3600.0

_LOCK = 0x70726F76_75706B70
"""Of the work, among advisory locks: "provupkp"."""


class Upkeep(Lead):
    """Keeps the audit chained and the tables small. interval: seconds between looks at the audit."""

    def __init__(self, database: Database, chain: AuditChain, retention: Retention, *, interval: float = IDLE) -> None:
        super().__init__(database, _LOCK, "upkeep")
        self._chain = chain
        self._retention = retention
        self._interval = interval
        self._complaint = ""
        self._quiet_until = 0.0
        self._faults = {kind: metrics.AUDIT_FAULT.cell(kind) for (kind,) in metrics.AUDIT_FAULT.cells}

    async def _serve(self, connection: Connection) -> None:
        now = asyncio.get_running_loop().time
        sweep_at = now()
        more = False
        try:
            while True:
                await self._advance()
                if more or now() >= sweep_at:
                    more = await self._retention.sweep(connection)
                    sweep_at = now() + SWEEP_PERIOD
                if await self._pause(_PACE if more else self._interval):
                    await self._advance(last=True)
                    return
        finally:  # whoever goes on says how it is
            self._show("")

    async def _advance(self, *, last: bool = False) -> None:
        """Chain what is new; what is in the way is said once an hour, and the rest goes on. last: of this process."""
        try:
            await self._chain.advance()
            await self._chain.keep(now=last)
        except Broken as fault:
            kind, complaint = "broken", str(fault)
        except Misconfigured as fault:
            kind, complaint = "head_file", str(fault)
        except (PostgresError, Unsealable) as fault:
            kind, complaint = "failed", f"The audit cannot be chained: {type(fault).__name__}."
        else:
            self._complaint = ""
            self._show("")
            return
        self._show(kind)
        now = asyncio.get_running_loop().time()
        if complaint != self._complaint or now >= self._quiet_until:
            log.error("%s", complaint)
            self._complaint, self._quiet_until = complaint, now + _COMPLAINT_PERIOD

    def _show(self, fault: str) -> None:
        for kind, cell in self._faults.items():
            cell.value = float(kind == fault)
