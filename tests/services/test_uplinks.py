import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from provserver.core.integration import ClaimProof, NetworkState
from provserver.core.model import Datastream
from provserver.core.telemetry import InvalidData
from provserver.errors import Conflict, Forbidden, NotFound
from provserver.services.claiming import Claiming
from provserver.services.data import Data
from provserver.services.datastreams import Datastreams
from provserver.services.devices import Devices
from provserver.services.profiles import ProfileChange, Profiles
from provserver.services.sightings import Sightings
from provserver.services.uplinks import Uplinks
from provserver.store import network_devices
from provserver.store import sightings as store
from provserver.store.network_devices import NetworkDevice
from tests.conftest import Space
from tests.services.lorawan import APPLICATION, CODES, Brand
from tests.services.ownership import Estate

NOW = datetime.now(UTC).replace(microsecond=0)
EUI, JOIN_EUI = "0018B20000000101", "70B3D57ED0000010"
NAME = "eui-0018b20000000101"


def document(device_id: str = NAME, dev_eui: str = EUI, *, at: datetime = NOW, **more: Any) -> bytes:
    """An uplink; more: members of the decoded payload."""
    ids = {
        "device_id": device_id,
        "application_ids": {"application_id": APPLICATION},
        "dev_eui": dev_eui,
        "join_eui": JOIN_EUI,
    }
    gateways = [{"rssi": -110, "snr": -5.5}, {"rssi": -57, "snr": 9.25}]
    uplink = {"decoded_payload": more, "rx_metadata": gateways}
    return json.dumps({"end_device_ids": ids, "received_at": at.isoformat(), "uplink_message": uplink}).encode()


def joined(device_id: str = NAME, dev_eui: str = EUI, *, at: datetime = NOW) -> bytes:
    given = json.loads(document(device_id, dev_eui, at=at))
    del given["uplink_message"]
    return json.dumps(given | {"join_accept": {}}).encode()


@pytest.fixture
async def brand(space: Space) -> Brand:
    estate = await Estate.make(space.database, space.keys, space.organization_id)
    made = await Brand.make(space, estate)
    streams = (Datastream("temperature", "V1"), Datastream("count", "V2", "int"))
    profiles = Profiles(space.database, space.keys, estate["brand"])
    await profiles.update("sensors", ProfileChange(datastreams=streams))
    return made


@pytest.fixture
async def uplinks(space: Space) -> AsyncIterator[Uplinks]:
    data = Data(space.database, space.keys)
    yield Uplinks(space.database, space.keys, Datastreams(space.database, data))
    await data.drain()


@pytest.fixture
def sightings(space: Space) -> Sightings:
    return Sightings(space.database, space.keys)


async def onboarded(brand: Brand, space: Space) -> UUID:
    """The document's first device, claimed and in its network."""
    first, *_ = await brand.import_()
    claimed = await Claiming(space.database, space.keys).claim(brand.estate.who("anna"), CODES[0])
    async with space.database.transaction() as connection:
        device = NetworkDevice(first.id, brand.integration.id, NAME, EUI, JOIN_EUI, NetworkState.ONBOARDED, ("is",))
        await network_devices.put(connection, device)
    return claimed.id


async def heard(space: Space, device_id: UUID) -> NetworkDevice:
    async with space.database.connection() as connection:
        found = await network_devices.get(connection, device_id)
    assert found is not None
    return found


async def seen(brand: Brand, sightings: Sightings) -> list[tuple[str, int, str | None]]:
    found = await sightings.list_(brand.principal, brand.integration.id)
    return [(each.network_device_id, each.times, each.obstacle) for each in found]


# Ours


async def test_an_uplink_is_the_device_s_data(uplinks: Uplinks, brand: Brand, space: Space) -> None:
    device_id = await onboarded(brand, space)
    await uplinks.take(brand.integration, document(temperature=21.5, V2=3, battery=3.1, count="many"))
    assert await brand.values(device_id) == {
        "temperature": 21.5,
        "count": 3,
        "battery": 3.1,
        "RSSI": -57.0,
        "SNR": 9.25,
    }
    assert await space.value("SELECT max(ts) FROM telemetry") == int(NOW.timestamp() * 1000)
    device = await heard(space, device_id)
    assert (device.last_uplink_at, device.rssi, device.snr) == (NOW, -57, 9.25)
    assert device.last_join_at is None


async def test_a_join_is_noted(uplinks: Uplinks, brand: Brand, space: Space) -> None:
    device_id = await onboarded(brand, space)
    await uplinks.take(brand.integration, joined())
    assert (await heard(space, device_id)).last_join_at == NOW
    assert await brand.values(device_id) == {}


async def test_what_comes_both_ways_in_is_taken_once(uplinks: Uplinks, brand: Brand, space: Space) -> None:
    device_id = await onboarded(brand, space)
    for _ in range(2):
        await uplinks.take(brand.integration, document(temperature=21.5))
    await uplinks.take(brand.integration, document(at=NOW + timedelta(seconds=60), temperature=22))
    assert await space.value("SELECT count(*) FROM telemetry_history WHERE key = 'temperature'") == 2
    assert (await brand.values(device_id))["temperature"] == 22


async def test_a_device_in_quarantine_is_not_heard(uplinks: Uplinks, brand: Brand, space: Space) -> None:
    device_id = await onboarded(brand, space)
    devices = Devices(space.database, space.keys, brand.estate["brand"])
    await devices.quarantine(device_id, "cloned")
    await uplinks.take(brand.integration, document(temperature=21.5))
    assert await brand.values(device_id) == {}


async def test_a_device_that_is_not_here_yet_is_none_to_import(
    uplinks: Uplinks, brand: Brand, space: Space, sightings: Sightings
) -> None:
    first, *_ = await brand.import_()
    async with space.database.transaction() as connection:
        device = NetworkDevice(first.id, brand.integration.id, NAME, EUI, JOIN_EUI, NetworkState.ONBOARDED)
        await network_devices.put(connection, device)
    await uplinks.take(brand.integration, document(temperature=21.5))
    assert (await heard(space, first.id)).last_uplink_at == NOW
    assert await seen(brand, sightings) == []


async def test_another_application_s_uplink_is_refused(uplinks: Uplinks, brand: Brand) -> None:
    with pytest.raises(InvalidData):
        await uplinks.take(brand.integration, document().replace(APPLICATION.encode(), b"other-app"))


async def test_an_uplink_may_be_the_device_s_word(uplinks: Uplinks, brand: Brand, space: Space) -> None:
    await brand.demand(ClaimProof.DEVICE)
    first, *_ = await brand.import_()
    begun = await Claiming(space.database, space.keys).claim(brand.estate.who("anna"), CODES[0])
    assert begun.device is None
    assert (await heard(space, first.id)).state is NetworkState.WAITING  # it is onboarded, to be able to say so
    await uplinks.take(brand.integration, document(temperature=21.5))
    assert await space.value("SELECT status FROM static_token WHERE id = $1", first.id) == "UNCLAIMED"
    await uplinks.take(brand.integration, document(at=NOW + timedelta(seconds=1), claim=True))
    assert await space.value("SELECT holder_id FROM device WHERE id = $1", first.id) == brand.estate["anna"]


async def test_only_the_webhook_s_secret_opens_it(uplinks: Uplinks, brand: Brand) -> None:
    id_ = brand.integration.id
    assert await uplinks.sender(id_, "") is None
    _, secret = await brand.integrations.make_webhook(brand.principal, id_)
    found = await uplinks.sender(id_, secret)
    assert found is not None
    assert found.id == id_
    assert await uplinks.sender(id_, secret + "x") is None
    assert await uplinks.sender(brand.estate["brand"], secret) is None


# None of ours


async def test_an_unknown_device_is_noted(uplinks: Uplinks, brand: Brand, space: Space, sightings: Sightings) -> None:
    for _ in range(3):
        await uplinks.take(brand.integration, document("meter-7", "0018B20000000777"))
    assert await seen(brand, sightings) == [("meter-7", 3, None)]
    assert await space.value("SELECT count(*) FROM device") == 0
    with pytest.raises(NotFound):
        await sightings.list_(brand.estate.key("foreign"), brand.integration.id)


async def test_only_so_many_are_noted(
    uplinks: Uplinks, brand: Brand, sightings: Sightings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_SIGHTINGS", 2)
    for number in (1, 2, 3, 1):
        await uplinks.take(brand.integration, document(f"meter-{number}", f"0018B2000000077{number}"))
    assert await seen(brand, sightings) == [("meter-1", 2, None), ("meter-2", 1, None)]


async def test_an_unknown_device_is_imported_where_that_is_wanted(
    uplinks: Uplinks, brand: Brand, space: Space, sightings: Sightings
) -> None:
    await uplinks.take(brand.integration, joined("meter-7", "0018B20000000777"))
    await brand.update(auto_import=True)
    await uplinks.take(brand.integration, document("meter-7", "0018B20000000777", temperature=4))
    device_id = await space.value("SELECT id FROM device WHERE name = 'meter-7'")
    assert dict(await brand.values(device_id))["temperature"] == 4
    assert (await heard(space, device_id)).state is NetworkState.IMPORTED
    rows = await space.rows("SELECT key, value FROM attribute WHERE device_id = $1", device_id)
    assert {row["key"]: row["value"] for row in rows} == {
        "meta.Device EUI": "0018B20000000777",
        "meta.Join EUI": JOIN_EUI,
        "meta.TheThingsNetwork Device ID": "meter-7",
    }
    assert await seen(brand, sightings) == []
    actor = await space.value("SELECT actor FROM audit WHERE action = 'device.created'")
    assert actor == f"integration:{brand.integration.id}"


@pytest.mark.parametrize("claimed", [False, True])
async def test_two_devices_are_never_made_of_one(
    uplinks: Uplinks, brand: Brand, space: Space, sightings: Sightings, claimed: bool
) -> None:
    await brand.update(auto_import=True)
    device_id = await onboarded(brand, space) if claimed else (await brand.import_())[0].id
    await uplinks.take(brand.integration, document("another", temperature=4))
    ((name, times, obstacle),) = await seen(brand, sightings)
    assert (name, times) == ("another", 1)
    assert str(device_id) in (obstacle or "")
    assert await space.value("SELECT count(*) FROM device WHERE name = 'another'") == 0


async def test_a_name_that_is_taken_is_an_obstacle(
    uplinks: Uplinks, brand: Brand, space: Space, sightings: Sightings
) -> None:
    await brand.update(auto_import=True)
    await uplinks.take(brand.integration, document("meter-7", "0018B20000000777"))
    await space.rows("DELETE FROM network_device")
    await space.rows("DELETE FROM attribute")
    await uplinks.take(brand.integration, document("meter-7", "0018B20000000777"))
    ((_, _, obstacle),) = await seen(brand, sightings)
    assert "name" in (obstacle or "")


async def test_an_operator_imports_one(uplinks: Uplinks, brand: Brand, sightings: Sightings) -> None:
    await uplinks.take(brand.integration, document("meter-7", "0018B20000000777"))
    with pytest.raises(Forbidden):
        await sightings.import_(brand.estate.who("anna"), brand.integration.id, "meter-7")
    made = await sightings.import_(brand.principal, brand.integration.id, "meter-7")
    assert made.name == "meter-7"
    assert await seen(brand, sightings) == []
    with pytest.raises(NotFound):
        await sightings.import_(brand.principal, brand.integration.id, "meter-7")


# Merged


async def test_a_device_that_was_changed_for_another_stays_what_it_is(
    uplinks: Uplinks, brand: Brand, space: Space, sightings: Sightings
) -> None:
    device_id = await onboarded(brand, space)
    await uplinks.take(brand.integration, document(temperature=21.5))
    await uplinks.take(brand.integration, document("meter-2", "0018B20000000999", temperature=4))
    async with space.database.connection() as connection:
        await network_devices.change(connection, device_id, {"made": ("identity server",)})
    merged = await sightings.merge(brand.principal, device_id, "meter-2")
    assert (merged.network_device_id, merged.dev_eui, merged.state) == (
        "meter-2",
        "0018B20000000999",
        NetworkState.IMPORTED,
    )
    later = NOW + timedelta(seconds=1)
    await uplinks.take(brand.integration, document("meter-2", "0018B20000000999", at=later, temperature=5))
    assert (await brand.values(device_id))["temperature"] == 5
    assert await space.value("SELECT count(*) FROM telemetry_history WHERE key = 'temperature'") == 2
    metadata = await space.value("SELECT metadata FROM static_token WHERE id = $1", device_id)
    assert (metadata["Device EUI"], metadata["TheThingsNetwork Device ID"]) == ("0018B20000000999", "meter-2")
    assert "Application Key" not in metadata  # it was that of the former hardware, which goes
    keys = await space.rows("SELECT key FROM attribute WHERE device_id = $1 AND key LIKE '%Key'", device_id)
    assert [key for (key,) in keys] == []
    removal = await space.value("SELECT input FROM job WHERE kind = 'network.remove' AND subject_id = $1", device_id)
    assert (removal["networkDeviceId"], removal["made"]) == (NAME, ["identity server"])
    assert await seen(brand, sightings) == []
    detail = await space.value("SELECT detail FROM audit WHERE action = 'device.merged'")
    assert (detail["network_device_id"], detail["before"]) == ("meter-2", NAME)


async def test_what_was_imported_meanwhile_goes_on_the_operator_s_word(
    uplinks: Uplinks, brand: Brand, space: Space, sightings: Sightings
) -> None:
    device_id = await onboarded(brand, space)
    await brand.update(auto_import=True)
    await uplinks.take(brand.integration, document("meter-2", "0018B20000000999", temperature=4))
    with pytest.raises(Conflict, match="Confirm"):
        await sightings.merge(brand.principal, device_id, "meter-2")
    await sightings.merge(brand.principal, device_id, "meter-2", confirm=True)
    assert await space.value("SELECT count(*) FROM device WHERE name = 'meter-2'") == 0
    assert (await heard(space, device_id)).network_device_id == "meter-2"
    with pytest.raises(Conflict, match="already"):
        await sightings.merge(brand.principal, device_id, "meter-2")


async def test_what_cannot_be_merged(uplinks: Uplinks, brand: Brand, space: Space, sightings: Sightings) -> None:
    device_id = await onboarded(brand, space)
    with pytest.raises(NotFound):
        await sightings.merge(brand.principal, device_id, "nobody")
    with pytest.raises(Forbidden):
        await sightings.merge(brand.estate.who("anna"), device_id, "meter-2")
    await Claiming(space.database, space.keys).claim(brand.estate.who("ben"), CODES[1])
    other = await space.value("SELECT id FROM device WHERE id <> $1", device_id)
    with pytest.raises(Conflict, match="onboarded"):
        await sightings.merge(brand.principal, other, NAME)
    await uplinks.take(brand.integration, document("meter-2", "0018B20000000999"))
    async with space.database.connection() as connection:
        await network_devices.change(connection, device_id, {"state": NetworkState.REMOVING})
    with pytest.raises(Conflict, match="on its way"):
        await sightings.merge(brand.principal, device_id, "meter-2")
