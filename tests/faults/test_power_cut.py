"""The server and its Postgres are killed under load, again and again."""

import random
from pathlib import Path

from provserver.store import keyfile
from provserver.store.embedded import connectable
from tests.faults import oracle
from tests.faults.load import Load
from tests.server import Server

CUTS = 20


async def test_nothing_that_was_told_is_lost_over_twenty_kills(tmp_path: Path) -> None:
    chance = random.Random(20)
    server = Server(tmp_path / "data").start(restartable=True)
    try:
        profile = server.cli("profile", "create", "load")
        keys = keyfile.load_or_create(tmp_path / "data" / "keys.json")
        async with Load(server, profile["provisionDeviceKey"], profile["provisionDeviceSecret"]) as load:
            for _ in range(CUTS):
                enough = len(load.told) + chance.randint(1, 120)
                await load.until(lambda enough=enough: len(load.told) >= enough)  # type: ignore[misc]
                server.kill()
                server.start()
                async with connectable(server.data_dir) as dsn:
                    await oracle.check(dsn, keys, dict(load.told))
        async with connectable(server.data_dir) as dsn:
            devices = await oracle.check(dsn, keys, load.told)
    finally:
        server.stop()
    assert devices >= len(load.told) > CUTS
    assert "Traceback" not in server.log
