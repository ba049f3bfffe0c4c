"""Devices that were claimed and used, and what moves of ownership leave of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from uuid import UUID

import pytest

from provserver.core.limits import Buckets
from provserver.core.model import Authenticated
from provserver.errors import Refused, Unavailable
from provserver.services.access import Access
from provserver.services.claiming import Claiming, ClaimLimits
from provserver.services.data import Data
from provserver.services.devices import DeviceChange, Devices
from provserver.services.handover import Handover
from provserver.store.database import Database
from tests.conftest import Space
from tests.services.conftest import PEER, contents
from tests.services.ownership import Estate, Token


def unlimited(space: Space, database: Database) -> Claiming:
    return Claiming(database, space.keys, ClaimLimits(Buckets(10**6, 10**6), Buckets(10**6, 10**6)))


@pytest.fixture
async def estate(space: Space) -> Estate:
    return await Estate.make(space.database, space.keys, space.organization_id)


@pytest.fixture
async def serving(database_url: str) -> AsyncIterator[Database]:
    """The database as the server has it."""
    opened = Database(database_url, size=4, serving=True)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def patient(database_url: str) -> AsyncIterator[Database]:
    """The same, but who waits for a lock waits for longer than a disk stands still."""
    opened = Database(database_url, size=4, serving=True)
    opened._settings["lock_timeout"] = "7s"
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def claiming(space: Space, serving: Database) -> Claiming:
    """Without a limit that a test would run into."""
    return unlimited(space, serving)


@pytest.fixture
def access(space: Space, serving: Database) -> Access:
    return Access(serving, space.keys)


@pytest.fixture
async def data(space: Space, serving: Database) -> AsyncIterator[Data]:
    made = Data(serving, space.keys)
    yield made
    await made.drain()


@pytest.fixture
def handover(serving: Database) -> Handover:
    return Handover(serving)


async def connect(access: Access, token: Token) -> Authenticated:
    """Come with a static token, and be let in."""
    device = await access.with_token(token.auth, PEER)
    assert isinstance(device, Authenticated)
    assert device.device_id == token.id
    return device


async def status(space: Space, token: Token) -> tuple[str, UUID | None, UUID | None] | None:
    """A token's status, and who has its device: holder and owner; no holder: the maker. None: there is no token."""
    rows = await space.rows(
        "SELECT t.status, d.holder_id, d.owner_id, t.claimed_at IS NOT NULL FROM static_token t"
        " LEFT JOIN device d ON d.id = t.id WHERE t.id = $1",
        token.id,
    )
    if not rows:
        return None
    assert rows[0][3] == (rows[0][0] == "CLAIMED")
    found: tuple[str, UUID | None, UUID | None] = tuple(rows[0])[:3]
    return found


async def history(space: Space, subject: UUID) -> list[tuple[str, str, UUID]]:
    """What the audit has of a subject: action, actor, organization."""
    rows = await space.rows(
        "SELECT action, actor, organization_id FROM audit WHERE subject_id = $1 ORDER BY at, id", str(subject)
    )
    return [tuple(row) for row in rows]


async def attributes(space: Space, id_: UUID) -> dict[tuple[str, str], object]:
    rows = await space.rows("SELECT scope, key, value FROM attribute WHERE device_id = $1", id_)
    return {(row["scope"], row["key"]): row["value"] for row in rows}


async def unchanged(space: Space, error: type[Refused], work: Awaitable[object], match: str | None = None) -> None:
    """Refused, and nothing of it stays."""
    before = await contents(space)
    with pytest.raises(error, match=match):
        await work
    assert await contents(space) == before


async def used(estate: Estate, claiming: Claiming, access: Access, data: Data, space: Space) -> Token:
    """A device that anna has claimed, and that has been used."""
    token = await estate.token(metadata={"Serial": "SN1"})
    device = await connect(access, token)
    await claiming.claim(estate.who("anna"), token.qr)
    await data.telemetry(device, b'{"t":1}')
    await data.publish_attributes(device, b'{"a":1}')
    await data.claim(device, b'{"secretKey":"s"}')
    hers = Devices(space.database, space.keys, estate["anna"])
    await hers.update(str(token.id), DeviceChange({"home": "12 High St"}, {"meta.Serial": "mine", "meta.Room": "bath"}))
    return token


async def wiped(space: Space, token: Token) -> bool:
    """Whether nothing of an owner is left."""
    left = [
        await space.value(f"SELECT count(*) FROM {table} WHERE device_id = $1", token.id)
        for table in ("telemetry", "telemetry_history", "claim", "pending_claim")
    ]
    state = {("SERVER", "provisionState"): "provisioned", ("SERVER", "meta.Serial"): "SN1"}
    return not any(left) and await attributes(space, token.id) == state


async def made(estate: Estate, space: Space, name: str = "sensor-1") -> Authenticated:
    """A device of the brand's without a static token, that has authenticated."""
    device_id = await space.value(
        "INSERT INTO device (id, organization_id, profile_id, name) VALUES (gen_random_uuid(), $1, $2, $3)"
        " RETURNING id",
        estate["brand"],
        estate.profiles["brand"],
        name,
    )
    now = await space.value("SELECT now()")
    return Authenticated(device_id, name, estate["brand"], estate.profiles["brand"], 1, False, b"", now)


async def outcomes(*calls: Awaitable[object]) -> list[object]:
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Refused | Unavailable):
            raise result
    return list(results)
