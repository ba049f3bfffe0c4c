import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import aiohttp
import pytest

from provserver.core.integration import WEBHOOK_HEADER
from provserver.services.data import Data
from provserver.services.datastreams import Datastreams
from provserver.services.uplinks import Uplinks
from provserver.store.database import Database
from provserver.transports.http import HttpTransport
from tests.conftest import Space
from tests.services.conftest import Outage
from tests.services.lorawan import Brand
from tests.services.ownership import Estate
from tests.services.test_uplinks import document, joined, onboarded


@asynccontextmanager
async def serving(space: Space, database: Database) -> AsyncIterator[aiohttp.ClientSession]:
    """The HTTP port for devices, on a database."""
    data = Data(database, space.keys)
    uplinks = Uplinks(database, space.keys, Datastreams(database, data))
    http = HttpTransport(space.provisioning, space.database.ping, uplinks=uplinks)
    host, port = await http.start("127.0.0.1", 0)
    async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
        yield session
    await http.stop(0)
    await data.drain()


@pytest.fixture
async def brand(space: Space) -> Brand:
    return await Brand.make(space, await Estate.make(space.database, space.keys, space.organization_id))


async def told(session: aiohttp.ClientSession, path: object, secret: str, body: bytes) -> tuple[int, str]:
    """The status, and what a refusal says."""
    async with session.post(f"/external/lorawan/{path}", data=body, headers={WEBHOOK_HEADER: secret}) as response:
        text = await response.text()
        return response.status, json.loads(text)["errorMsg"] if text else ""


async def test_uplinks_and_joins_come_with_the_secret(space: Space, brand: Brand) -> None:
    device_id = await onboarded(brand, space)
    id_ = brand.integration.id
    async with serving(space, space.database) as session:
        stranger = (403, "There is no such integration, or this is not its secret.")
        assert await told(session, id_, "", document()) == stranger  # it has no webhook
        _, secret = await brand.integrations.make_webhook(brand.principal, id_)
        for path, given in ((id_, ""), (id_, secret + "x"), (id_, "ü"), (uuid4(), secret), ("7", secret)):
            assert await told(session, path, given, document(temperature=3)) == stranger
        assert await brand.values(device_id) == {}
        assert await told(session, id_, secret, document(temperature=21.5)) == (204, "")
        assert await told(session, id_, secret, joined()) == (204, "")
        assert (await brand.values(device_id))["temperature"] == 21.5
        status, why = await told(session, id_, secret, b"{}")
        assert status == 400
        assert "The Things Stack" in why


async def test_while_the_database_is_away_the_network_is_told_to_come_back(
    space: Space, brand: Brand, database_url: str
) -> None:
    _, secret = await brand.integrations.make_webhook(brand.principal, brand.integration.id)
    async with Outage.prepare(database_url) as outage, serving(space, outage.database) as session:
        await outage.begin()
        status, _ = await told(session, brand.integration.id, secret, document())
        assert status == 503
