import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from provserver.adapters.outgoing import Outgoing, Unreachable, networks
from provserver.core.integration import SettingsChange, Status, ThingsStackSettings
from provserver.errors import Unavailable
from provserver.services import subscriptions
from provserver.services.data import Data
from provserver.services.datastreams import Datastreams
from provserver.services.subscriptions import Subscriptions
from provserver.services.uplinks import Uplinks
from provserver.store import integrations
from provserver.store.integrations import Integration
from tests.conftest import Space
from tests.services.lorawan import API_KEY, APPLICATION, Brand
from tests.services.ownership import Estate
from tests.services.test_uplinks import NAME
from tests.support.mosquitto import Broker
from tests.support.things_stack import SEED_RIGHTS, TRAFFIC_READ, ThingsStack


class Feed:
    """What a broker publishes, as its script has it, then nothing. tried: with which API keys."""

    def __init__(self, *script: "list[bytes] | Unreachable") -> None:
        self.script = list(script)
        self.tried: asyncio.Queue[str] = asyncio.Queue()
        self.fault: Unreachable | None = None  # as long as it is there, nobody gets as far as the script

    @asynccontextmanager
    async def subscribed(
        self, _: Outgoing, __: ThingsStackSettings, application_id: str, api_key: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        assert application_id == APPLICATION
        self.tried.put_nowait(api_key)
        if self.fault is not None:
            raise self.fault
        part = self.script.pop(0) if self.script else None
        if isinstance(part, Unreachable):
            raise part
        yield self._documents(part)

    async def _documents(self, part: list[bytes] | None) -> AsyncIterator[bytes]:
        if part is None:
            await asyncio.Event().wait()
        for each in part or ():
            yield each


class Taker:
    """Takes what comes, or fails once."""

    def __init__(self, *faults: Exception) -> None:
        self.taken: asyncio.Queue[bytes] = asyncio.Queue()
        self.faults = list(faults)

    async def take(self, _: Integration, given: bytes) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.taken.put_nowait(given)


@pytest.fixture
async def brand(space: Space) -> Brand:
    return await Brand.make(space, await Estate.make(space.database, space.keys, space.organization_id))


@asynccontextmanager
async def following(space: Space, uplinks: Any, **options: Any) -> AsyncIterator[Subscriptions]:
    async with Outgoing(networks("127.0.0.1")) as outgoing:
        made = Subscriptions(space.database, space.keys, uplinks, outgoing, idle=0.02, first_delay=0.01, **options)
        await made.start()
        try:
            yield made
        finally:
            await made.stop(5)


async def status(space: Space, brand: Brand, wanted: Status) -> Integration:
    """The integration, once it has this status."""
    while True:
        async with space.database.connection() as connection:
            found = await integrations.get(connection, brand.integration.id)
        assert found is not None
        if found.status is wanted:
            return found
        await asyncio.sleep(0.02)


async def value(space: Space, key: str) -> object:
    """Of a telemetry key, once it is there."""
    while True:
        rows = await space.rows("SELECT value FROM telemetry WHERE key = $1", key)
        if rows:
            return rows[0]["value"]
        await asyncio.sleep(0.02)


@pytest.mark.usefixtures("brand")
async def test_what_is_published_is_taken_whatever_breaks(space: Space) -> None:
    feed = Feed([b"1"], Unreachable("the broker refuses the API key"), [b"2", b"3"])
    taker = Taker(Unavailable("away"))
    async with following(space, taker, subscribe=feed.subscribed):
        assert [await taker.taken.get() for _ in range(3)] == [b"1", b"2", b"3"]
    assert [feed.tried.get_nowait() for _ in range(3)] == [API_KEY] * 3


async def test_an_integration_says_how_its_connection_is(space: Space, brand: Brand) -> None:
    feed = Feed()
    feed.fault = Unreachable("the broker refuses the API key")
    async with following(space, Taker(), subscribe=feed.subscribed):
        assert (await status(space, brand, Status.BROKEN)).error == "MQTT: the broker refuses the API key"
        assert [await feed.tried.get() for _ in range(3)] == [API_KEY] * 3
        feed.fault = None
        assert (await status(space, brand, Status.CONNECTED)).error is None
        await brand.update(api_key=f"{API_KEY}.NEW")
        while await feed.tried.get() != f"{API_KEY}.NEW":
            continue


async def test_what_has_a_webhook_needs_no_broker(space: Space, brand: Brand) -> None:
    await brand.integrations.make_webhook(brand.principal, brand.integration.id)
    feed = Feed(*[Unreachable("no connection")] * 3)
    async with following(space, Taker(), subscribe=feed.subscribed):
        for _ in range(4):
            await feed.tried.get()
        async with space.database.connection() as connection:
            found = await integrations.get(connection, brand.integration.id)
        assert found is not None
        assert (found.status, found.error) == (brand.integration.status, None)


async def test_uplinks_of_a_broker_are_the_device_s_data(
    space: Space, brand: Brand, tool: Callable[..., str], tmp_path: Path
) -> None:
    broker = Broker.guarded(tool("mosquitto", "/usr/sbin/mosquitto"), tmp_path)
    await broker.start()
    data = Data(space.database, space.keys)
    try:
        async with ThingsStack(mosquitto=broker) as stack:
            stack.application(APPLICATION)
            key = stack.api_key(APPLICATION)
            await stack.settle()
            await brand.update(
                api_key=key,
                onboarding=False,  # so that nothing but this finds out how the connection is
                auto_import=True,
                settings=SettingsChange(
                    mqtt_address=f"mqtt://{stack.mqtt_address}", mqtt_user=stack.tenant(APPLICATION)
                ),
            )
            uplinks = Uplinks(space.database, space.keys, Datastreams(space.database, data))
            async with following(space, uplinks):
                await status(space, brand, Status.CONNECTED)
                given = stack.uplink(APPLICATION, NAME, decoded={"temperature": 21.5})
                given["end_device_ids"] |= {"dev_eui": "0018B20000000101"}
                await stack.publish(given)
                assert await value(space, "temperature") == 21.5
                deaf = stack.api_key(APPLICATION, [right for right in SEED_RIGHTS if right != TRAFFIC_READ])
                stack.revoke(key)
                await stack.settle()
                await brand.update(api_key=deaf)
                found = await status(space, brand, Status.BROKEN)
                assert found.error == "MQTT: the broker refuses the API key"
    finally:
        broker.kill()
        await data.drain()


async def test_a_cancellation_that_a_client_loses_is_made_again(
    space: Space, brand: Brand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_PATIENCE", 0.01)
    feed = Feed()

    @asynccontextmanager
    async def deaf(*arguments: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        async with feed.subscribed(*arguments) as documents:
            with suppress(asyncio.CancelledError):  # as `wait_for` does until Python 3.12
                await asyncio.Event().wait()
            yield documents

    async with following(space, Taker(), subscribe=deaf):
        assert await feed.tried.get() == API_KEY
        await brand.update(api_key=f"{API_KEY}.NEW")
        assert await feed.tried.get() == f"{API_KEY}.NEW"
