"""A process that accepts messages and sends them on, until it is killed: `-m tests.faults.sender DSN KEYS URL FIRST`.

Numbers its messages from FIRST, and writes the number of each to stdout once it was accepted.
"""

import asyncio
import itertools
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import uvloop

from provserver.adapters import sink as adapters
from provserver.adapters.outgoing import Outgoing, networks
from provserver.core.model import Authenticated
from provserver.core.telemetry import Sample
from provserver.services.data import Data
from provserver.services.sink import Sink
from provserver.store import keyfile
from provserver.store.database import Database

DEVICES = 7


async def run(dsn: str, keys: str, url: str, first: str) -> None:
    database = Database(dsn, serving=True)
    await database.open()
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT id, name, organization_id, profile_id FROM device ORDER BY name")
    sink = Sink(database, adapters.receiver(url, Outgoing(networks("127.0.0.1"))))
    data = Data(database, keyfile.load_or_create(Path(keys)), sink)
    await sink.start()
    numbers = itertools.count(int(first))

    async def device(row: tuple[UUID, str, UUID, UUID]) -> None:
        known = Authenticated(*row, 1, False, b"", datetime.now(UTC))
        while True:
            number = next(numbers)
            await data.record(known, [Sample("n", number)], kind="telemetry")
            print(number, flush=True)  # noqa: T201 - what it is for

    await asyncio.gather(*(device(tuple(row)) for row in rows))


if __name__ == "__main__":
    uvloop.run(run(*sys.argv[1:]))
