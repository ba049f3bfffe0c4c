"""An import that takes its time, beside devices that ask: neither makes the other wait or fail."""

import asyncio
import json
from collections.abc import Iterator

import asyncpg

from provserver.core.csvfile import DeviceRow
from provserver.core.model import Peer, ProvisionStrategy, Transport
from provserver.errors import Outcome
from provserver.services.device_import import BATCH, ImportReport
from provserver.services.devices import Devices
from provserver.services.profiles import KeyPair, ProfileChange
from provserver.services.provisioning import Provisioning
from tests.conftest import Space

PEER = Peer(Transport.HTTP, "192.0.2.1")


async def ask(provisioning: Provisioning, pair: KeyPair, name: str) -> Outcome:
    body = {"deviceName": name, "provisionDeviceKey": pair.key, "provisionDeviceSecret": pair.secret}
    return (await provisioning.answer(json.dumps(body).encode(), PEER)).outcome


async def test_a_device_that_stands_in_an_open_import_makes_nobody_wait(space: Space) -> None:
    strategy = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES
    profile, pair = await space.profiles.create(ProfileChange(name="p", strategy=strategy))
    opened, go_on = asyncio.Event(), asyncio.Event()

    async def rows_then_wait() -> ImportReport:
        loop = asyncio.get_running_loop()

        def rows() -> Iterator[DeviceRow]:
            for number in range(BATCH):
                yield DeviceRow(number + 2, f"bulk-{number}", None, False)
            loop.call_soon_threadsafe(opened.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            yield DeviceRow(BATCH + 2, "bulk-last", None, False)

        # The import's own loop and database connection: the command line is another process.
        def command() -> ImportReport:
            async def work() -> ImportReport:
                database = type(space.database)(space.database._dsn, size=1)
                await database.open()
                try:
                    beside = Devices(database, space.keys, space.organization_id)
                    return await beside.import_(rows(), profile.name)
                finally:
                    await database.close()

            return asyncio.run(work())

        return await asyncio.to_thread(command)

    importing = asyncio.create_task(rows_then_wait())
    try:
        async with asyncio.timeout(120):
            await opened.wait()
        names = ["bulk-7", *(f"other-{number}" for number in range(20))]
        outcomes = await asyncio.gather(*(ask(space.provisioning, pair, name) for name in names))
        assert set(outcomes) == {Outcome.SUCCESS}
    finally:
        go_on.set()  # whatever has failed: its thread waits for this
        report = await importing
    assert (report.imported, [(error.line, error.column) for error in report.errors]) == (0, [(9, "name")])
    assert await space.value("SELECT count(*) FROM device WHERE name LIKE 'bulk-%'") == 1


async def test_a_row_that_a_transaction_holds_makes_only_its_own_request_fail(space: Space, database_url: str) -> None:
    await space.database.close()
    serving = type(space.database)(database_url, size=4, serving=True)
    await serving.open()
    beside = Devices(serving, space.keys, space.organization_id)
    provisioning = Provisioning(serving, space.keys)
    profiles = type(space.profiles)(serving, space.keys, space.organization_id)
    strategy = ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES
    _, pair = await profiles.create(ProfileChange(name="p", strategy=strategy))
    names = [f"d-{number}" for number in range(20)]
    await beside.import_([DeviceRow(n + 2, name, None, False) for n, name in enumerate(names)], "p")
    holder = await asyncpg.connect(database_url)
    try:
        async with holder.transaction():
            await holder.execute("UPDATE device SET gateway = gateway WHERE name = 'd-3'")
            outcomes = await asyncio.gather(*(ask(provisioning, pair, name) for name in names))
        expected = dict.fromkeys(names, Outcome.SUCCESS) | {"d-3": Outcome.UNAVAILABLE}
        assert dict(zip(names, outcomes, strict=True)) == expected
        assert await ask(provisioning, pair, "d-3") is Outcome.SUCCESS
    finally:
        await holder.close()
        await provisioning.drain()
        await serving.close()
