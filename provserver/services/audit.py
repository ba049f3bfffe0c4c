"""Reading what was done, by whom, in an organization and those below it."""

from uuid import UUID

from provserver.core.authorization import Permission, Principal
from provserver.services.organizations import reach
from provserver.store import audit as store
from provserver.store.audit import AuditRow
from provserver.store.database import Database

__all__ = ["Audit", "AuditRow"]


class Audit:
    """The audit, as far down the tree as a principal reaches."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_(
        self,
        principal: Principal,
        cursor: UUID | None = None,
        limit: int = 50,
        *,
        organization: UUID | str | None = None,
        subject_id: str | None = None,
    ) -> list[AuditRow]:
        """Entries newest first, from before the cursor's on. Raises Refused.

        organization: only those of this one and of those below it. subject_id: of what was acted on.
        """
        principal.require(Permission.AUDIT_READ)
        async with self._database.connection() as connection:
            above = (await reach(connection, principal, organization)).id
            return await store.newest(connection, above, limit, before=cursor, subject_id=subject_id)
