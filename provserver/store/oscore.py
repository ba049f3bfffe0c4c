"""The SQL of OSCORE: blocks of sequence numbers."""

from provserver.store.database import Connection

_TICK = 4  # seconds, and blocks are numbered from the start of 2026: 2 ** 30 of them last 136 years


async def next_block(connection: Connection, shard: int) -> int:
    """Give out a block of a shard. It comes once: the commit makes it the past of every process.

    The time is its floor, so that a database that was restored, or a standby that lagged when it took over, does not
    begin again where it was.
    """
    number: int = await connection.fetchval(
        "INSERT INTO oscore_block (shard, number)"
        " VALUES ($1, extract(epoch FROM clock_timestamp() - timestamptz '2026-01-01 00:00Z')::bigint / $2::bigint)"
        " ON CONFLICT (shard) DO UPDATE SET number = greatest(oscore_block.number + 1, excluded.number)"
        " RETURNING number",
        shard,
        _TICK,
    )
    return number
