"""Looking for devices: names, what identifies one, filters, and walks that end for being long."""

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest

from provserver.core import ids
from provserver.core.authorization import OPERATOR, Permission, Principal
from provserver.core.csvfile import DeviceRow
from provserver.core.model import DeviceProfile, MetadataField
from provserver.core.search import Found
from provserver.errors import Forbidden, NotFound
from provserver.services.device_search import DeviceSearch, Wanted
from provserver.services.organizations import Organizations
from provserver.services.profiles import ProfileChange
from provserver.store import device_search as store
from provserver.store.database import Database
from provserver.store.devices import DeviceSummary
from tests.conftest import Space


class Fleet:
    """A manufacturer's devices, and who looks for them."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.search = DeviceSearch(space.database)
        self.operator = Principal(OPERATOR, space.organization_id)

    async def make(self, *names: str, profile: str = "sensors") -> dict[str, UUID]:
        return {name: (await self.space.devices.create(DeviceRow(0, name, None, False), profile)).id for name in names}

    async def organization(self, name: str, parent: UUID | None = None) -> UUID:
        made = await Organizations(self.space.database).create(self.operator, name, None if parent is None else parent)
        return made.id

    async def placed(self, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have the manufacturer be at the top of the tree, or below another one with few devices, or with many."""
        if where == "many":
            monkeypatch.setattr(store, "_FEW", 0)
        if where != "top":
            await self.space.rows(
                "WITH top AS (INSERT INTO organization (id, name, path)"
                " SELECT i, 'Holding', ARRAY[i] FROM gen_random_uuid() AS i RETURNING id)"
                " UPDATE organization o SET parent_id = top.id, path = ARRAY[top.id, o.id] FROM top WHERE o.id = $1",
                self.space.organization_id,
            )

    async def give(self, device_id: UUID, organization_id: UUID) -> None:
        await self.space.rows("UPDATE device SET holder_id = $2 WHERE id = $1", device_id, organization_id)

    async def names(self, wanted: Wanted | None = None, who: UUID | None = None, **more: object) -> list[str]:
        principal = self.operator if who is None else Principal(OPERATOR, who)
        found = await self.search.find(principal, wanted or Wanted(), **more)  # type: ignore[arg-type]
        return [device.name for device in found.rows]

    async def everything(self, wanted: Wanted, limit: int, **more: bool) -> tuple[list[str], int]:
        """All pages, and how many there were."""
        found: list[str] = []
        cursor, pages = None, 0
        while True:
            page: Found[DeviceSummary] = await self.search.find(self.operator, wanted, cursor, limit, **more)
            found += [device.name for device in page.rows]
            pages += 1
            if (cursor := page.cursor) is None:
                return found, pages


@pytest.fixture
async def fleet(space: Space) -> Fleet:
    await profile(space, "sensors")
    return Fleet(space)


async def profile(space: Space, name: str, fields: Sequence[MetadataField] = ()) -> DeviceProfile:
    return await space.profiles.create_keyless(ProfileChange(name=name, metadata_fields=tuple(fields)))


async def test_devices_are_paged_from_either_end(fleet: Fleet) -> None:
    names = [f"sensor-{n}" for n in range(7)]
    await fleet.make(*names)
    assert (await fleet.everything(Wanted(), 3, ascending=True)) == (names, 3)
    assert (await fleet.everything(Wanted(), 3)) == (names[::-1], 3)


async def test_names_are_found_by_their_beginning_whatever_the_case(fleet: Fleet) -> None:
    await fleet.make("Sensor-2", "SENSOR-1", "sensor-3", "pump", "ätherpumpe", "sen%")
    assert await fleet.names(Wanted("sen")) == ["SENSOR-1", "Sensor-2", "sen%", "sensor-3"]
    assert await fleet.names(Wanted("sen%")) == ["sen%"]
    assert await fleet.names(Wanted("ump")) == []
    assert await fleet.names(Wanted("ä")) == ["ätherpumpe"]
    assert await fleet.everything(Wanted("sen"), 2) == (["SENSOR-1", "Sensor-2", "sen%", "sensor-3"], 2)


async def test_a_page_by_name_needs_the_device_that_the_one_before_ended_with(fleet: Fleet) -> None:
    made = await fleet.make("sensor-1", "sensor-2")
    await fleet.space.devices.delete(made["sensor-1"])
    with pytest.raises(NotFound, match="Search once more"):
        await fleet.search.find(fleet.operator, Wanted("sensor"), made["sensor-1"])


@pytest.mark.parametrize("where", ["top", "few", "many"])
async def test_every_filter_has_its_devices(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    await fleet.placed(where, monkeypatch)
    space = fleet.space
    await profile(space, "others")
    made = await fleet.make("plain", "online", "given", "provisioned", "held", "twice")
    await fleet.make("other", profile="others")
    customer = await fleet.organization("Customer")
    await space.rows(
        "INSERT INTO presence VALUES ($1, NULL, now() + interval '1 hour', now()), ($2, NULL, now(), now())",
        made["online"],
        made["plain"],
    )
    await fleet.give(made["given"], customer)
    await space.rows(
        "INSERT INTO attribute (device_id, scope, key, value) VALUES ($1, 'SERVER', 'provisionState', $2)",
        made["provisioned"],
        "provisioned",
    )
    await space.devices.quarantine(made["held"], "seen twice")
    await space.rows(
        "INSERT INTO clone_sign (device_id, organization_id, kind, count)"
        " SELECT id, organization_id, 'name', 1 FROM device WHERE id = $1",
        made["twice"],
    )

    everyone = {*made, "other"}
    for wanted, fitting in (
        (Wanted(online=True), {"online"}),
        (Wanted(claimed=True), {"given"}),
        (Wanted(provisioned=True), {"provisioned"}),
        (Wanted(quarantined=True), {"held"}),
        (Wanted(suspected=True), {"twice"}),
        (Wanted(profile="others"), {"other"}),
        (Wanted(organization=customer), {"given"}),
    ):
        assert set(await fleet.names(wanted)) == fitting, wanted
    assert set(await fleet.names(Wanted(online=False))) == everyone - {"online"}
    assert set(await fleet.names(Wanted(claimed=False))) == everyone - {"given"}
    assert set(await fleet.names(Wanted(provisioned=False))) == everyone - {"provisioned"}
    assert set(await fleet.names(Wanted(quarantined=False, suspected=False))) == everyone - {"held", "twice"}
    assert await fleet.names(Wanted("o", online=True)) == ["online"]
    assert await fleet.names(Wanted(profile="sensors", online=True, claimed=True)) == []
    assert await fleet.names(Wanted(), customer) == ["given"]
    assert await fleet.names(Wanted("gi"), customer) == ["given"]
    assert await fleet.names(Wanted("on"), customer) == []


@pytest.mark.parametrize("where", ["top", "few", "many"])
async def test_a_walk_ends_and_is_gone_on_with(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    await fleet.placed(where, monkeypatch)
    monkeypatch.setattr(store, "LOOKED", 3)
    names = [f"sensor-{n}" for n in range(10)]
    made = await fleet.make(*names)
    await fleet.space.rows("UPDATE device SET owner_id = id WHERE name IN ('sensor-0', 'sensor-5')")
    page = await fleet.search.find(fleet.operator, Wanted(claimed=True), limit=2)
    assert (list(page.rows), page.cursor) == ([], made["sensor-7"])
    assert page.searched_to == datetime.fromtimestamp(ids.time_of(made["sensor-7"]), UTC)
    assert await fleet.everything(Wanted(claimed=True), 2) == (["sensor-5", "sensor-0"], 4)
    assert await fleet.everything(Wanted(claimed=True), 2, ascending=True) == (["sensor-0", "sensor-5"], 4)


async def test_a_walk_by_name_ends_and_is_gone_on_with(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOOKED_BY_NAME", 3)
    await fleet.make(*(f"sensor-{n}" for n in range(10)))
    await fleet.space.rows("UPDATE device SET owner_id = id WHERE name IN ('sensor-0', 'sensor-5')")
    assert await fleet.everything(Wanted("s", claimed=True), 2) == (["sensor-0", "sensor-5"], 4)


async def test_what_identifies_a_device_finds_it(fleet: Fleet) -> None:
    space = fleet.space
    fields = [MetadataField("IMEI", "imei", True), MetadataField("Key", "key128", True), MetadataField("Note")]
    made = await profile(space, "trackers", fields)
    device = (await fleet.make("t-1", profile="trackers"))["t-1"]
    await space.rows(
        "INSERT INTO static_token (id, organization_id, profile_id, id_digest, sealed, qr_digest, qr_sealed, unit,"
        " unit_state, unit_at) VALUES ($1, $2, $3, '1', '', '2', '', 'SN-0017', 'written', now())",
        device,
        space.organization_id,
        made.id,
    )
    await space.rows(
        "INSERT INTO static_token_value VALUES ($1, 'IMEI', '490154203237518', $2), ($1, 'Key', $3, $2)",
        made.id,
        device,
        "2B" * 16,
    )
    assert await fleet.names(Wanted(str(device))) == ["t-1"]
    assert await fleet.names(Wanted("49-015420-323751-8")) == ["t-1"]
    assert await fleet.names(Wanted("SN-0017")) == ["t-1"]
    assert await fleet.names(Wanted("SN-001")) == []
    assert await fleet.names(Wanted("2B" * 16)) == []
    assert await fleet.names(Wanted("SN-0017", online=True)) == []
    customer = await fleet.organization("Customer")
    assert await fleet.names(Wanted("SN-0017"), customer) == []
    assert await fleet.names(Wanted(str(device)), customer) == []


async def test_a_device_is_found_by_what_its_network_knows(fleet: Fleet) -> None:
    space = fleet.space
    made = await profile(space, "nodes")
    device = (await fleet.make("n-1", profile="nodes"))["n-1"]
    integration = ids.uuid7(0, os.urandom)
    await space.rows(
        "INSERT INTO integration (id, organization_id, profile_id, network, host, application_id, settings, key_sealed,"
        " onboarding, auto_import, claim_proof, created_by)"
        " VALUES ($1, $2, $3, 'things-stack', 'h', 'a', '{}', '', false, false, 'none', 'operator')",
        integration,
        space.organization_id,
        made.id,
    )
    await space.rows(
        "INSERT INTO network_device (device_id, integration_id, network_device_id, dev_eui, state, made)"
        " VALUES ($1, $2, 'eui-0018b20000000101', '0018B20000000101', 'onboarded', '[]')",
        device,
        integration,
    )
    assert await fleet.names(Wanted("00-18-b2-00-00-00-01-01")) == ["n-1"]
    assert await fleet.names(Wanted("eui-0018b20000000101")) == ["n-1"]


async def test_a_profile_of_an_organization_below_may_be_named(fleet: Fleet) -> None:
    with pytest.raises(NotFound, match="no profile"):
        await fleet.names(Wanted(profile="nothing"))
    customer = await fleet.organization("Customer")
    with pytest.raises(NotFound, match="no profile"):
        await fleet.names(Wanted(profile="sensors"), customer)
    with pytest.raises(Forbidden):
        await fleet.search.find(
            Principal("user:x", fleet.space.organization_id, frozenset({Permission.PROFILES_VIEW})), Wanted()
        )


async def test_names_are_looked_for_by_their_index(fleet: Fleet) -> None:
    """Which holds for any collation of the database, and however many devices there are."""
    await fleet.space.rows(
        "INSERT INTO device (id, organization_id, profile_id, name)"
        " SELECT gen_random_uuid(), $1, $1, 'd-' || lpad(n::text, 6, '0') FROM generate_series(1, 20000) AS n",
        fleet.space.organization_id,
    )
    await fleet.space.rows("ANALYZE device")
    plan = await fleet.space.rows(
        "EXPLAIN SELECT n.id, n.name FROM device n WHERE n.organization_id = $1 AND n.name >= 'd-0199' COLLATE \"C\""
        " AND n.name < 'd-0199z' ORDER BY n.name, n.id LIMIT 50",
        fleet.space.organization_id,
    )
    text = "\n".join(row[0] for row in plan)
    assert "device_organization_id_name_key" in text
    assert "Seq Scan" not in text


@pytest.mark.parametrize("ascending", [False, True])
async def test_a_page_goes_straight_to_its_place(own_database_url: str, ascending: bool) -> None:
    """However deep it is: plans are kept for any parameters, and a filter would walk past all before it."""
    walk = store._Walk(store.Filter(), None, None, ascending)
    online = store._Walk(store.Filter(online=True), None, None, ascending)
    database = Database(own_database_url, size=1, serving=True)
    await database.open()
    try:
        async with database.connection() as connection:
            for number, each in enumerate((walk, online)):
                await connection.execute(f"PREPARE s{number} AS SELECT d.id {each.sql(1)}")
                rows = await connection.fetch(f"EXPLAIN EXECUTE s{number} (NULL, 50000, NULL)")
                plan = "\n".join(row[0] for row in rows)
                assert re.search(r"Index Cond: \((device_)?id [<>] COALESCE", plan), plan
    finally:
        await database.close()
