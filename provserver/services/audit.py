"""Reading what was done, by whom, in an organization and those below it; and proving that it is all there."""

import os
import time
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import replace
from uuid import UUID

import msgspec

from provserver.core import ids
from provserver.core.auditchain import Entry
from provserver.core.authorization import Permission, Principal
from provserver.core.search import Found
from provserver.core.secrets import ServerKeys
from provserver.errors import Forbidden
from provserver.services.audit_chain import AuditChain, Head, Verification
from provserver.services.organizations import reach
from provserver.store import actors, audit_chain, organizations
from provserver.store import audit as store
from provserver.store.audit import AuditRow, Wanted
from provserver.store.database import Connection, Database
from provserver.store.headfile import HeadFile

__all__ = ["Audit", "AuditRow", "Head", "Verification", "Wanted"]

_BATCH = 500


class Audit:
    """The audit, as far down the tree as a principal reaches."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
        *,
        file: HeadFile | None = None,
    ) -> None:
        self._database = database
        self._chain = AuditChain(database, keys, random, clock, file=file)
        self._random = random
        self._clock = clock

    async def list_(
        self,
        principal: Principal,
        wanted: Wanted | None = None,
        limit: int = 50,
        *,
        organization: UUID | str | None = None,
    ) -> Found[AuditRow]:
        """Entries newest first. Raises Refused.

        organization: only those of this one and of those below it. An actor may be wanted by the person's e-mail
        address or the API key's name, too.
        """
        principal.require(Permission.AUDIT_READ)
        wanted = wanted or Wanted()
        async with self._database.connection() as connection:
            above = (await reach(connection, principal, organization)).id
            if wanted.actor is not None and ":" not in wanted.actor:
                actor = await actors.find(connection, principal.organization_id, wanted.actor)
                wanted = replace(wanted, actor=actor or wanted.actor)
            return await store.newest(connection, above, wanted, limit)

    async def names(self, principal: Principal, given: Collection[str]) -> dict[str, str]:
        """What actors are called, by actor, of the principal's organization and those below it. Raises Forbidden."""
        principal.require(Permission.AUDIT_READ)
        async with self._database.connection() as connection:
            return await actors.names(connection, principal.organization_id, given)

    async def export(self, principal: Principal, organization: UUID | str | None = None) -> AsyncGenerator[bytes, None]:
        """Entries as JSON lines, oldest first, each with its place and mac; that it was done is an entry itself.

        organization: only those of this one and of those below it. Raises Refused, before its first chunk.
        """
        principal.require(Permission.AUDIT_READ)
        async with self._database.transaction() as connection:
            above = (await reach(connection, principal, organization)).id
            await self._record(connection, principal, above, "audit.exported")
        async with (
            self._database.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            async for rows in audit_chain.export(connection, above, _BATCH):
                yield b"".join(map(_line, rows))

    async def head(self, principal: Principal) -> Head:
        """The signed end of the whole chain, to be kept where nobody who has the database can change it.

        For who is at the top of the tree. Raises Forbidden, Conflict, Unavailable.
        """
        await self._require_all(principal)
        return await self._chain.head()

    async def verify(self, principal: Principal, head: Head | None = None) -> Verification:
        """Whether all entries are as they were made, in their order. head: an earlier one that must be in the chain.

        For who is at the top of the tree; of what is wrong it shows a place and an id. Raises Forbidden, Invalid.
        """
        await self._require_all(principal)
        return await self._chain.verify(head)

    async def _require_all(self, principal: Principal) -> None:
        principal.require(Permission.AUDIT_READ)
        async with self._database.connection() as connection:
            root = await organizations.root(connection)
        if principal.organization_id != root.id:
            raise Forbidden("The chain is the whole server's: this is for the organization at the top of the tree.")

    async def _record(self, connection: Connection, principal: Principal, organization_id: UUID, action: str) -> None:
        id_ = ids.uuid7(self._clock(), self._random)
        await store.record(connection, id_, organization_id, principal.actor, action, organization_id)


def _line(row: tuple[int | None, bytes | None, Entry]) -> bytes:
    """chained: the detail as the row has it, the very text that the mac is over."""
    seq, mac, entry = row
    members = {
        "seq": seq,
        "mac": None if mac is None else mac.hex(),
        "id": entry.id,
        "at": entry.at,
        "organizationId": entry.organization_id,
        "actor": entry.actor,
        "action": entry.action,
        "subjectId": entry.subject_id,
        "detail": store.shown(msgspec.json.decode(entry.detail)),
        "chained": entry.detail,
    }
    return msgspec.json.encode(members) + b"\n"
