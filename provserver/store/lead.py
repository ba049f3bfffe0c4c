"""The SQL of work that one process at a time does: an advisory lock, held by a connection as long as it lives."""

from typing import TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# A dead machine must not hold the lock for the two hours that TCP waits by default. No meaning on a unix socket.
_KEEPALIVE = "SET tcp_keepalives_idle = 20; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 4"


async def take(connection: Connection, lock: int) -> bool:
    """Become the one who has the lock, for as long as the connection lasts; False while another is."""
    await connection.execute(_KEEPALIVE)
    won: bool = await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock)
    return won
