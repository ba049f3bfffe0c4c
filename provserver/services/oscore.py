"""The sequence numbers that this server sends under OSCORE (RFC 8613 §3.2.2, §7.2.1)."""

import asyncio

from provserver.errors import Unavailable
from provserver.store import oscore as store
from provserver.store.database import Database

SHARDS = 256
MAX_NUMBER = 2**40 - 1
"""The largest Partial IV (RFC 8613 §7.2.1)."""

_BLOCK = 1024
_RESERVE = 64  # numbers that are left when the next block is fetched: enough for all that do not wait for one


class SequenceNumbers:
    """Numbers of which none is given twice within a shard, by any process, ever.

    Why that is safe: a key belongs to one shard for life, as its shard is a digest of it; a process draws numbers
    only from blocks that Postgres has committed to it; and it draws each once, from a counter that belongs to no
    context, so that contexts may be dropped and made again. So no nonce of a key comes twice (RFC 8613 §12.3).
    A shard has 2 ** 40 numbers: 256 shards at 10,000 messages a second last for 800 years.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._blocks: dict[int, tuple[int, int]] = {}  # shard: the next number, and where its block ends
        self._fetching = asyncio.Lock()

    async def provide(self, shard: int) -> None:
        """See to it that the next `take`s of the shard find numbers. Raises Unavailable."""
        if self._left(shard) > _RESERVE:
            return
        async with self._fetching:
            if self._left(shard) > _RESERVE:
                return
            try:
                async with self._database.connection() as connection:
                    start = await store.next_block(connection, shard) * _BLOCK
            except Unavailable:
                if self._left(shard):
                    return
                raise
            if start + _BLOCK > MAX_NUMBER:
                raise Unavailable("The OSCORE sequence numbers are used up.")
            self._blocks[shard] = start, start + _BLOCK

    def take(self, shard: int) -> int:
        """A number. Raises Unavailable when the block is used up."""
        number, end = self._blocks.get(shard, (0, 0))
        if number == end:
            raise Unavailable("There is no OSCORE sequence number at hand.")
        self._blocks[shard] = number + 1, end
        return number

    def _left(self, shard: int) -> int:
        number, end = self._blocks.get(shard, (0, 0))
        return end - number
