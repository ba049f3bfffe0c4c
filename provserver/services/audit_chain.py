"""The one sequencer of the audit: after the commit, each entry gets its place and its mac; and who verifies them.

Whoever writes an entry pays nothing for the chain, and entries of transactions that end in any order get theirs
by one writer at a time: an advisory lock says who. A process that dies leaves entries without places, no gaps.

The newest head is kept in a file as well, after the commit: the chain must contain it, and go on under no older key.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf

from provserver.core import auditchain, ids
from provserver.core.auditchain import GENESIS, Break, Entry, Head, Link, Verifier
from provserver.core.secrets import ServerKeys, Unsealable
from provserver.errors import Conflict, Invalid, Misconfigured
from provserver.store import audit_chain as store
from provserver.store.database import Connection, Database
from provserver.store.headfile import HeadFile

__all__ = ["AuditChain", "Head", "Verification"]

BATCH = 500
"""Entries of one transaction."""

LOOK_PERIOD = 60.0
"""Seconds after which the chain's end is looked at although nothing waits: somebody may have cut it off."""

KEEP_PERIOD = 2.0
"""Seconds between writes of the file that the newest head is kept in."""


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
    """Gives entries their places in the chain, and verifies it. file: where the newest head is kept, if anywhere."""

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
        self._keys = keys
        self._random = random
        self._clock = clock
        self._file = file
        self._look_at = -inf  # when the end is looked at although nothing waits
        self._newest: Head | None = None
        self._kept_at = -KEEP_PERIOD

    async def advance(self, *, wait: bool = False) -> int:
        """Chain all that waits, a batch a transaction; how many it were. Raises Broken, Unavailable.

        wait: for another sequencer to be done; else what it is at is left to it.
        """
        count = 0
        while True:
            made = None
            async with self._database.transaction() as connection:
                if not await store.lock(connection, wait=wait):
                    return count
                entries = await store.waiting(connection, BATCH)
                looks = bool(entries) or time.monotonic() >= self._look_at
                try:
                    if entries:
                        made = await self._chain(connection, entries)
                    elif looks:
                        await self._end(connection, await self._chain_keys(connection))
                        made = await store.head(connection)
                except Broken:
                    self._look_at = -inf  # it stays broken, also once nothing waits
                    raise
            if looks:
                self._look_at = time.monotonic() + LOOK_PERIOD
            self._newest = made or self._newest  # committed: it is never kept before
            count += len(entries)
            with suppress(Misconfigured):  # for who calls `keep` himself
                await self.keep()
            if len(entries) < BATCH:
                return count

    async def keep(self, *, now: bool = False) -> None:
        """Have the newest head that was seen here in its file, now or when it is time. Raises Misconfigured."""
        due = now or time.monotonic() >= self._kept_at + KEEP_PERIOD
        head = self._newest
        if due and self._file is not None and head is not None:
            await asyncio.to_thread(self._file.keep, head)
            self._kept_at = time.monotonic()
            if self._newest is head:
                self._newest = None

    async def head(self) -> Head:
        """The signed end of the chain, with all that is committed in it. Raises Conflict, Unavailable."""
        self._look_at = -inf  # who asks is told whether it is there now, not a minute ago
        try:
            await self.advance(wait=True)
        except Broken as fault:
            raise Conflict(str(fault)) from None
        with suppress(Misconfigured):  # the server's to say, whose file it is
            await self.keep(now=True)
        async with self._database.connection() as connection:
            found = await store.head(connection)
        if found is None:
            raise Conflict("The audit is empty: there is nothing to sign yet.")
        return found

    async def verify(self, head: Head | None = None) -> Verification:
        """Walk along the whole chain. head: one that was exported before; the chain must lead to it.

        Raises Invalid for a head that this server did not sign.
        """
        unreadable, kept = None, None
        try:
            kept = await self._read_kept()  # first: what it has seen was committed by now
        except Broken as fault_:
            unreadable = Break(1, None, str(fault_))
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
            if kept is not None and self._file is not None:
                heads[f"the head kept in {self._file.path}"] = kept
            begun = last is not None or kept is not None or await store.sealed_keys(connection)
            fault = unreadable
            if kept is not None and not auditchain.is_signed(keys, kept):
                fault = Break(kept.seq, None, "the head that is kept beside the database is not signed by this server")
            elif signed is None and begun:
                seq = 1 if last is None else last[0]
                fault = Break(seq, None, "the database has no signed head: it was removed")
            elif signed is not None and self._is_outdated(signed, kept):
                text = f"the database's head is under key {signed.mac[0]}, which was rotated away before"
                fault = Break(signed.seq, None, text)
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

    async def _chain(self, connection: Connection, entries: list[Entry]) -> Head:
        keys = await self._chain_keys(connection)
        version = self._keys.current
        seq, before = await self._end(connection, keys)
        if before[0] != version:  # the first under this key
            context, nonce = b"audit-key:" + bytes((version,)), self._random(12)
            await store.keep_key(connection, version, self._keys.seal(keys[version], context, nonce))
        links = []
        for entry in entries:
            seq += 1
            before = auditchain.mac(keys, version, seq, before, entry)
            links.append(Link(seq, before, entry))
        await store.place(connection, links)
        signed = auditchain.sign(keys, seq, before, self._now())
        await store.set_head(connection, signed)
        return signed

    async def _end(self, connection: Connection, keys: auditchain.ChainKeys) -> tuple[int, bytes]:
        """Where the chain ends, by the signed heads alone: who cuts entries off, or a head, is not helped along."""
        kept = await self._read_kept()
        head, last = await store.head(connection), await store.last(connection)
        if head is not None and head.mac and head.mac[0] > self._keys.current:
            raise Broken(
                f"The audit is chained under digest key {head.mac[0]}, which this process does not have. "
                "Restart it with the keys that are current."
            )
        if kept is not None and (
            not auditchain.is_signed(keys, kept) or await store.mac_at(connection, kept.seq) != kept.mac
        ):
            raise Broken(
                f"The audit's chain does not have the head that is kept{self._where}, so it is not gone on with; "
                "entries are kept. `provserver audit verify` says where it is broken. Remove that file only if you "
                "have put an older copy of the database in place yourself."
            )
        if head is None and last is None and kept is None and not await store.sealed_keys(connection):
            return 0, GENESIS
        if (
            head is None
            or not auditchain.is_signed(keys, head)
            or self._is_outdated(head, kept)
            or last != (head.seq, head.mac)
        ):
            raise Broken(
                "The audit's chain does not end where it was signed to end, so it is not gone on with; entries are "
                "kept. `provserver audit verify` says where it is broken; a backup may have what is missing."
            )
        return last

    def _is_outdated(self, head: Head, kept: Head | None) -> bool:
        """Whether a head of the database is under a key that was rotated away: who knows that one can have made it."""
        return head.mac[:1] < (b"" if kept is None else kept.mac[:1]) or (
            bool(head.mac) and head.mac[0] < self._keys.current and head.mac[0] not in self._keys.digest_keys
        )

    async def _read_kept(self) -> Head | None:
        """The head in the file. Raises Broken when it is there and cannot be told."""
        if self._file is None:
            return None
        try:
            return await asyncio.to_thread(self._file.read)
        except Misconfigured as fault:
            raise Broken(str(fault)) from None

    @property
    def _where(self) -> str:
        return "" if self._file is None else f" in {self._file.path}"

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
