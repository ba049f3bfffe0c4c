"""The one sequencer of the audit: after the commit, each entry gets its place and its mac; and who verifies them.

Whoever writes an entry pays nothing for the chain, and entries of transactions that end in any order get theirs
by one writer at a time: an advisory lock says who. A process that dies leaves entries without places, no gaps.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from provserver.core import auditchain, ids
from provserver.core.auditchain import GENESIS, Break, Entry, Head, Link, Verifier
from provserver.core.secrets import ServerKeys, Unsealable
from provserver.errors import Conflict, Invalid
from provserver.store import audit_chain as store
from provserver.store.database import Connection, Database

__all__ = ["AuditChain", "Head", "Verification"]

BATCH = 500
"""Entries of one transaction."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of verifying. entries: that are right, from the first on. broken: the first that is not.

    waiting: entries too new to have a place; they are not verified.
    """

    entries: int
    waiting: int
    broken: Break | None


class Broken(Exception):  # noqa: N818
    """The chain cannot be gone on with: what is there is not what was signed."""


class AuditChain:
    """Gives entries their places in the chain, and verifies it."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keys = keys
        self._random = random
        self._clock = clock

    async def advance(self, *, wait: bool = False) -> int:
        """Chain all that waits, a batch a transaction; how many it were. Raises Broken, Unavailable.

        wait: for another sequencer to be done; else what it is at is left to it.
        """
        count = 0
        while True:
            async with self._database.transaction() as connection:
                if not await store.lock(connection, wait=wait):
                    return count
                entries = await store.waiting(connection, BATCH)
                if entries:
                    await self._chain(connection, entries)
            count += len(entries)
            if len(entries) < BATCH:
                return count

    async def head(self) -> Head:
        """The signed end of the chain, with all that is committed in it. Raises Conflict, Unavailable."""
        try:
            await self.advance(wait=True)
        except Broken as fault:
            raise Conflict(str(fault)) from None
        async with self._database.connection() as connection:
            found = await store.head(connection)
        if found is None:
            raise Conflict("The audit is empty: there is nothing to sign yet.")
        return found

    async def verify(self, head: Head | None = None) -> Verification:
        """Walk along the whole chain. head: one that was exported before; the chain must lead to it.

        Raises Invalid for a head that this server did not sign.
        """
        async with (
            self._database.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            keys = await self._chain_keys(connection)
            if head is not None and not auditchain.is_signed(keys, head):
                raise Invalid("The head was not signed by this server, or was altered. Use one that `audit head` gave.")
            signed = await store.head(connection)
            last = await store.last(connection)
            waiting = await store.count_waiting(connection)
            heads = {} if head is None else {"the head of the file": head}
            fault = None
            if signed is None and last is not None:
                fault = Break(last[0], None, "the database has no signed head: it was removed")
            elif signed is not None and not auditchain.is_signed(keys, signed):
                fault = Break(signed.seq, None, "the database's head is not signed by this server")
            elif signed is not None:
                heads["the database's head"] = signed
                if last is not None and last[0] > signed.seq:
                    fault = Break(signed.seq + 1, None, "the chain goes on after the database's head")
            verifier = Verifier(keys, heads)
            broken = await self._walk(connection, verifier)
        return Verification(verifier.seq, waiting, broken or fault)

    async def _walk(self, connection: Connection, verifier: Verifier) -> Break | None:
        async for links in store.links(connection, BATCH):
            for link in links:
                if (broken := verifier.take(link)) is not None:
                    return broken
            await asyncio.sleep(0)
        return verifier.end()

    async def _chain(self, connection: Connection, entries: list[Entry]) -> None:
        keys = await self._chain_keys(connection)
        version = self._keys.current
        seq, before = await self._end(connection, keys)
        if before[0] > version:
            raise Broken(
                f"The audit is chained under digest key {before[0]}, which this process does not have. "
                "Restart it with the keys that are current."
            )
        if before[0] != version:  # the first under this key
            context, nonce = b"audit-key:" + bytes((version,)), self._random(12)
            await store.keep_key(connection, version, self._keys.seal(keys[version], context, nonce))
        links = []
        for entry in entries:
            seq += 1
            before = auditchain.mac(keys, version, seq, before, entry)
            links.append(Link(seq, before, entry))
        await store.place(connection, links)
        await store.set_head(connection, auditchain.sign(keys, seq, before, self._now()))

    async def _end(self, connection: Connection, keys: auditchain.ChainKeys) -> tuple[int, bytes]:
        """Where the chain ends, by the signed head alone: who cuts entries off, or the head, is not helped along."""
        head, last = await store.head(connection), await store.last(connection)
        if head is None and last is None:
            return 0, GENESIS
        if head is None or not auditchain.is_signed(keys, head) or last != (head.seq, head.mac):
            raise Broken(
                "The audit's chain does not end where it was signed to end, so it is not gone on with; entries are "
                "kept. `provserver audit verify` says where it is broken; a backup may have what is missing."
            )
        return last

    async def _chain_keys(self, connection: Connection) -> dict[int, bytes]:
        """Of all versions that ever were. Raises nothing: one that cannot be opened is not there."""
        keys: dict[int, bytes] = {}
        for version, sealed in (await store.sealed_keys(connection)).items():
            try:
                keys[version] = self._keys.unseal(sealed, b"audit-key:" + bytes((version,)))
            except Unsealable:
                continue
        return keys | auditchain.chain_keys(self._keys)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
