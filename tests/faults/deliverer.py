"""A process that delivers events to webhooks, until it is killed: `-m tests.faults.deliverer DSN KEYS SINCE`.

Its clock goes faster than others', since that moment: whoever refused an event is asked again soon. Writes a line to
stdout once it is the one that does.
"""

import asyncio
import sys
import time
from pathlib import Path

import uvloop

from provserver.services.outbox import Outbox
from provserver.store import keyfile
from provserver.store.database import Database
from provserver.store.lead import Connection
from tests.services.webhooks import client

SPEED = 50
"""Of the clock."""


class Deliverer(Outbox):
    async def _serve(self, connection: Connection) -> None:
        print("delivers", flush=True)  # noqa: T201 - what it is for
        await super()._serve(connection)


async def run(dsn: str, keys: str, since: float) -> None:
    def fast() -> float:
        return since + SPEED * (time.time() - since)

    database = Database(dsn)
    await database.open()
    await Deliverer(database, keyfile.load_or_create(Path(keys)), client(), idle=0.05, clock=fast).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1], sys.argv[2], float(sys.argv[3])))
