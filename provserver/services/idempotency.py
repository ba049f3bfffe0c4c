"""Requests that create something, told again: the answer of the first is given, and nothing is made twice."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import msgspec
from msgspec import Struct

from provserver.core import ids
from provserver.core.authorization import Principal
from provserver.core.secrets import ServerKeys
from provserver.errors import Refused
from provserver.store import idempotency as store
from provserver.store.database import Database

LIFE = timedelta(hours=24)
"""How long a key is remembered."""


class KeyInUse(Refused):
    """The request of this key is under way, or nobody knows what came of it."""

    code = "idempotency_key_in_use"


class KeyReused(Refused):
    """Another request was made with this key."""

    code = "idempotency_key_reused"


class Kept(Struct, frozen=True):
    """An answer that is given again."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Turn:
    """What to do with a request. kept: the answer to give again; None: do it, and `keep` what is answered."""

    def __init__(self, kept: Kept | None = None) -> None:
        self.kept = kept
        self.made: Kept | None = None

    async def keep(self, answer: Kept) -> None:
        """Have this given to whoever asks the same again."""
        self.made = answer


class Idempotency:
    """Remembers requests by the keys that their callers chose for them."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        random: ids.Randomness = os.urandom,
    ) -> None:
        self._database = database
        self._keys = keys
        self._random = random

    @asynccontextmanager
    async def once(self, principal: Principal, key: str, request: Sequence[str | bytes]) -> AsyncIterator[Turn]:
        """A caller's request under a key; what is Refused leaves the key free. Raises KeyInUse, KeyReused.

        Whatever else it ends with, nobody knows what was made: the key stays in use, and nothing is made twice.

        request: all that says what is asked.
        """
        digests = self._keys.digests("idempotency", *request)
        actor, context = principal.actor, answer_context(principal.actor, key)
        async with self._database.connection() as connection:
            begun = await store.begin(connection, actor, key, digests[0], LIFE)
            row = None if begun else await store.find(connection, actor, key)
        if not begun:
            yield Turn(self._again(row, digests, context))
            return
        turn = Turn()
        try:
            yield turn
        except Refused:
            async with self._database.connection() as connection:
                await store.release(connection, actor, key)
            raise
        if turn.made is not None:
            sealed = self._keys.seal(msgspec.msgpack.encode(turn.made), context, self._random(12))
            async with self._database.connection() as connection:
                await store.keep(connection, actor, key, turn.made.status, sealed)

    def _again(self, row: store.KeptRow | None, digests: Sequence[bytes], context: bytes) -> Kept:
        if row is not None and row.request_digest not in digests:
            raise KeyReused("This Idempotency-Key was used for another request. Choose a new one for each request.")
        if row is None or row.answer is None:
            raise KeyInUse(
                "The first request with this Idempotency-Key is under way, or was interrupted and may have been done. "
                "Wait a moment and repeat; if it stays so, look whether it was done, and if not, use a new key."
            )
        return msgspec.msgpack.decode(self._keys.unseal(row.answer, context), type=Kept)


def answer_context(actor: str, key: str) -> bytes:
    """What an answer is sealed for."""
    return b"idempotency:" + actor.encode() + b":" + key.encode()
