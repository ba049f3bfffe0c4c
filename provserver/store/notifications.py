"""What other processes tell: LISTEN on a connection of its own, made again whenever it is lost."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from provserver.errors import Unavailable
from provserver.store.database import Connection, Database

log = logging.getLogger("provserver.database")

_PING_INTERVAL = 2.0
_RETRY_INTERVAL = 0.5


async def notify(connection: Connection, told: Sequence[tuple[str, str]]) -> None:
    """Tell every process that listens, ours too: (channel, payload of less than 8000 bytes), in one transaction."""
    await connection.execute(
        "SELECT pg_notify(channel, payload) FROM unnest($1::text[], $2::text[]) AS told(channel, payload)",
        [channel for channel, _ in told],
        [payload for _, payload in told],
    )


class Notifications:
    """Calls a channel's handler with each payload, in the order of the commits.

    caught_up: called after each (re)connection, as what was told meanwhile was not heard; may raise Unavailable.
    """

    def __init__(
        self,
        database: Database,
        handlers: Mapping[str, Callable[[str], None]],
        caught_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._handlers = handlers
        self._caught_up = caught_up
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen from now on; returns once it does, or Postgres is away."""
        listening = asyncio.Event()
        self._task = asyncio.create_task(self._run(listening), name="notifications")
        await listening.wait()

    async def stop(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, tried: asyncio.Event) -> None:
        while True:
            try:
                await self._listen(tried)
            except Exception as fault:  # whatever it is, listening must not end
                if isinstance(fault, Unavailable) or self._database.is_away(fault):
                    log.warning("notifications are not heard until the database is back: %s", type(fault).__name__)
                else:
                    log.exception("listening for notifications has failed, and begins anew")
            tried.set()
            await asyncio.sleep(_RETRY_INTERVAL)

    async def _listen(self, listening: asyncio.Event) -> None:
        connection = await self._database.dedicated()
        try:
            for channel in self._handlers:
                await connection.add_listener(channel, self._heard)
            await self._caught_up()
            listening.set()
            while True:  # a connection that died silently is heard of by asking
                await asyncio.sleep(_PING_INTERVAL)
                await connection.execute("SELECT", timeout=_PING_INTERVAL)
        finally:
            connection.terminate()

    def _heard(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        try:
            self._handlers[channel](str(payload))
        except Exception:  # one that is not ours must not end the listening
            log.exception("a notification on %s could not be handled", channel)
