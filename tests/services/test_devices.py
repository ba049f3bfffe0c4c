import asyncio
import os
import re
from collections import Counter
from uuid import UUID, uuid4

import pytest

from provserver.core import credentials as building
from provserver.core import csvfile
from provserver.core.authorization import OPERATOR, Role
from provserver.core.csvfile import DeviceRow
from provserver.core.model import Credentials, CredentialsType, ProvisionStrategy, ReprovisionPolicy
from provserver.errors import Conflict, Forbidden, NotFound, Refused, Stale
from provserver.services.access import Access
from provserver.services.credentials import seal_credentials
from provserver.services.device_import import ImportReport
from provserver.services.devices import MAX_KEYS, DeviceChange, Devices
from tests.conftest import Space
from tests.services.conftest import NONCE, Fleet, Locking, contents, use
from tests.services.imports import load, names, where
from tests.services.ownership import Estate

PEM = "-----BEGIN CERTIFICATE-----\nTUlJQg==\n-----END CERTIFICATE-----\n"


@pytest.fixture
async def checked(space: Space) -> Fleet:
    return await Fleet.make(space, ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES)


async def audited(space: Space) -> list[tuple[object, ...]]:
    """What the audit has of devices: action, actor, organization, subject, detail."""
    rows = await space.rows(
        "SELECT action, actor, organization_id, subject_id, detail FROM audit WHERE action LIKE 'device.%' ORDER BY at"
    )
    return [tuple(row) for row in rows]


# --- one


async def test_a_device_is_made_not_yet_provisioned(checked: Fleet) -> None:
    made = await checked.space.devices.create(DeviceRow(1, "sensor-1", None, True), "sensors")

    assert (made.name, made.profile, made.profile_id) == ("sensor-1", "sensors", checked.profile.id)
    assert (made.gateway, made.rearmed, made.provision_state) == (True, False, None)
    assert made.credentials_type == "ACCESS_TOKEN"
    details = await checked.space.devices.show("sensor-1", open_=True)
    assert details.device == made
    assert details.attributes == ()
    (row,), (opened,) = details.credentials, details.opened
    assert (row.type, row.origin, row.pending, row.first_used_at) == ("ACCESS_TOKEN", "generated", False, None)
    assert len(opened.id) == 32


@pytest.mark.parametrize(
    "credentials",
    [building.access_token("brought"), building.mqtt_basic("c", "u", "p"), building.certificate(PEM)],
    ids=lambda credentials: str(credentials.type),
)
async def test_a_device_is_made_with_the_credentials_it_is_given(checked: Fleet, credentials: Credentials) -> None:
    made = await checked.space.devices.create(DeviceRow(1, "sensor-1", credentials, False), "sensors")

    assert made.credentials_type == credentials.type
    assert await checked.stored("sensor-1") == [credentials]
    assert await checked.space.value("SELECT origin FROM credentials") == "imported"


async def test_credentials_are_opened_for_who_asks_for_them_alone(checked: Fleet) -> None:
    await checked.import_("sensor-1", building.access_token("pl4nted"))

    details = await checked.space.devices.show("sensor-1")

    assert details.opened == ()
    assert "pl4nted" not in repr(details)
    assert "pl4nted" not in repr(await checked.space.devices.show("sensor-1", open_=True))
    assert await checked.space.value("SELECT count(*) FROM audit WHERE action = 'device.shown'") == 1


@pytest.mark.parametrize(
    ("row", "profile", "refusal", "fix"),
    [
        (DeviceRow(1, "taken", None, False), "sensors", Conflict, "another name"),
        (DeviceRow(1, "new", building.access_token("taken"), False), "sensors", Conflict, "others, or leave them out"),
        (DeviceRow(1, "new", None, False), "nothing", NotFound, "Look in the list of profiles"),
    ],
)
async def test_a_device_that_cannot_be_made_is_refused_with_the_fix(
    checked: Fleet, row: DeviceRow, profile: str, refusal: type[Refused], fix: str
) -> None:
    await checked.import_("taken", building.access_token("taken"))
    before = await contents(checked.space)

    with pytest.raises(refusal, match=fix):
        await checked.space.devices.create(row, profile)

    assert await contents(checked.space) == before


@pytest.mark.parametrize("method", ["show", "rearm", "revoke", "delete"])
async def test_a_device_that_is_not_there_is_refused_with_the_fix(space: Space, method: str) -> None:
    with pytest.raises(Refused, match=r"There is no device 'nothing'\. Look in the list of devices"):
        await getattr(space.devices, method)("nothing")


async def test_a_device_is_found_by_name_and_id_and_a_name_goes_first(checked: Fleet) -> None:
    await checked.import_("sensor-1")
    first = (await checked.space.devices.show("sensor-1")).device
    assert (await checked.space.devices.show(str(first.id))).device == first
    await checked.import_(str(first.id))

    assert (await checked.space.devices.show(str(first.id))).device.name == str(first.id)


async def test_devices_are_listed_in_order_of_making(space: Space, checked: Fleet) -> None:
    meters = await Fleet.make(space, name="meters")
    assert await names(space) == []
    for fleet, name in ((checked, "b"), (meters, "c"), (checked, "a")):
        await fleet.import_(name)

    assert Counter(await names(space)) == Counter("abc")
    for profile, expected in (("sensors", "ab"), (meters.profile.template_id, "c"), (str(meters.profile.id), "c")):
        found = [device async for device in space.devices.stream(profile)]
        assert Counter(device.name for device in found) == Counter(expected)


async def test_more_devices_than_one_fetch_brings_are_listed(checked: Fleet) -> None:
    await load(checked, ["name\n", *(f"sensor-{n}\n" for n in range(2_500))])

    listed = [device async for device in checked.space.devices.stream("sensors")]

    assert [device.name for device in listed] == [f"sensor-{n}" for n in range(2_500)]


async def test_the_devices_of_a_profile_that_is_not_there_are_refused_with_the_fix(space: Space) -> None:
    with pytest.raises(Refused, match="Look in the list of profiles"):
        _ = [device async for device in space.devices.stream("nothing")]


async def test_rearming_is_shown(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")
    revision = await fleet.space.value("SELECT revision FROM device")

    rearmed = await fleet.space.devices.rearm("sensor-1")

    assert rearmed == (await fleet.space.devices.show("sensor-1")).device
    assert (rearmed.name, rearmed.rearmed) == ("sensor-1", True)
    assert rearmed.revision > revision


# --- the audit


async def test_what_is_done_to_devices_is_audited(fleet: Fleet) -> None:
    space = fleet.space
    devices = Devices(space.database, space.keys, space.organization_id, actor="user:7")
    made = await devices.create(DeviceRow(1, "sensor-1", building.access_token("pl4nted"), False), "sensors")
    await devices.update(made.id, DeviceChange({"unit": "s3cret"}, {"note": "s3cret"}))
    await devices.update(made.id, DeviceChange(delete_server=["note"]))
    await devices.revoke(made.id)
    await devices.rearm(made.id)
    await devices.delete(made.id)

    entries = await audited(space)
    of = ("user:7", space.organization_id, str(made.id))
    assert [(action, *rest) for action, *rest in entries] == [
        ("device.created", *of, {"name": "sensor-1"}),
        ("device.updated", *of, {"name": "sensor-1", "written": ["shared:unit", "server:note"]}),
        ("device.updated", *of, {"name": "sensor-1", "deleted": ["server:note"]}),
        ("device.revoked", *of, {"name": "sensor-1"}),
        ("device.rearmed", *of, {"name": "sensor-1"}),
        ("device.deleted", *of, {"name": "sensor-1"}),
    ]
    for secret in ("pl4nted", "s3cret"):
        assert secret not in repr(entries)


async def test_an_import_is_audited_once(checked: Fleet) -> None:
    lines = ["name\n", "a\n", "b\n", "a\n"]
    for options in ({"dry_run": True}, {"partial": False}):
        await load(checked, lines, **options)
        assert await audited(checked.space) == []
    await load(checked, lines, partial=True)
    await load(checked, lines, partial=True)  # of which nothing is left to make

    assert await audited(checked.space) == [
        (
            "device.imported",
            OPERATOR,
            checked.space.organization_id,
            str(checked.profile.id),
            {"profile": "sensors", "count": 2},
        )
    ]


async def test_the_audit_counts_the_keys_that_it_does_not_name(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")
    await fleet.space.devices.update("sensor-1", DeviceChange({f"key {n}": "1" for n in range(MAX_KEYS + 1)}))

    ((*_, detail),) = await audited(fleet.space)
    assert isinstance(detail, dict)
    assert (len(detail["written"]), detail["written_count"]) == (MAX_KEYS, MAX_KEYS + 1)


async def test_who_has_a_device_reads_what_its_maker_does_to_it(estate: Estate, space: Space) -> None:
    id_ = await hold(estate, "anna's", "anna")
    await seen_by(estate, "brand").revoke(id_)
    await seen_by(estate, "anna").update(id_, DeviceChange({"unit": "C"}))

    assert [(entry[0], entry[2]) for entry in await audited(space)] == [
        ("device.revoked", estate["anna"]),
        ("device.updated", estate["anna"]),
    ]


# --- revisions


async def test_what_was_meant_for_another_revision_is_refused(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")
    devices = fleet.space.devices
    change = DeviceChange({"unit": "C"})
    seen = (await devices.show("sensor-1")).device.revision
    changed = (await devices.update("sensor-1", change, seen)).device.revision
    assert changed > seen
    before = await contents(fleet.space)

    for work in (
        devices.update("sensor-1", change, seen),
        devices.revoke("sensor-1", seen),
        devices.rearm("sensor-1", seen),
        devices.delete("sensor-1", seen),
    ):
        with pytest.raises(Stale, match="Look at it again"):
            await work

    assert await contents(fleet.space) == before
    rearmed = (await devices.rearm("sensor-1", changed)).revision
    revoked = (await devices.revoke("sensor-1", rearmed)).revision
    assert changed < rearmed < revoked
    await devices.delete("sensor-1", revoked)


async def test_a_device_that_provisions_or_connects_has_another_revision(fleet: Fleet) -> None:
    """So nobody takes credentials away that he has not heard of."""
    devices = fleet.space.devices
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    made = (await devices.show("sensor-1")).device.revision
    assert await use(Access(fleet.space.database, fleet.space.keys), token)
    connected = (await devices.rearm("sensor-1")).revision - 1
    assert connected > made
    await fleet.ask("sensor-1")

    for seen in (made, connected, connected + 1):
        with pytest.raises(Stale):
            await devices.revoke("sensor-1", seen)


async def test_of_two_changes_for_one_revision_one_is_made(fleet: Fleet, lock: Locking) -> None:
    device_id = (await fleet.ask("sensor-1"))["deviceId"]
    devices = fleet.space.devices
    revision = (await devices.show("sensor-1")).device.revision
    async with lock("SELECT FROM device WHERE id = $1 FOR NO KEY UPDATE", device_id) as held:
        changes = [asyncio.create_task(devices.update("sensor-1", DeviceChange({key: "1"}), revision)) for key in "ab"]
        await held.until_waiting(2)
    outcomes = await asyncio.gather(*changes, return_exceptions=True)

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["DeviceDetails", "Stale"]
    assert await fleet.space.value("SELECT count(*) FROM attribute WHERE scope = 'SHARED'") == 1


# --- deleting


async def test_of_two_who_delete_a_device_one_does(fleet: Fleet, lock: Locking) -> None:
    device_id = (await fleet.ask("sensor-1"))["deviceId"]
    async with lock("SELECT FROM device WHERE id = $1 FOR NO KEY UPDATE", device_id) as held:
        deleting = [asyncio.create_task(fleet.space.devices.delete("sensor-1")) for _ in range(2)]
        await held.until_waiting(2)
    outcomes = await asyncio.gather(*deleting, return_exceptions=True)

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["DeviceSummary", "NotFound"]
    assert [entry[0] for entry in await audited(fleet.space)] == ["device.deleted"]


async def test_a_device_is_deleted_by_its_id_though_another_is_called_so(fleet: Fleet) -> None:
    first = UUID((await fleet.ask("sensor-1"))["deviceId"])
    await fleet.ask(str(first))

    assert (await fleet.space.devices.delete(first)).name == "sensor-1"
    assert await names(fleet.space) == [str(first)]


async def test_a_deleted_device_leaves_its_attempts_alone(fleet: Fleet) -> None:
    first = await fleet.ask("sensor-1", token="token", requestNonce=NONCE)
    await fleet.ask("sensor-2")
    deleted = await fleet.space.devices.delete(first["deviceId"])

    assert deleted.name == "sensor-1"
    assert await fleet.counts() == {"device": 1, "credentials": 1, "attribute": 1, "attempt": 2, "outbox": 3}
    assert (await fleet.ask("sensor-3", token="token"))["status"] == "SUCCESS"


async def test_credentials_given_while_their_device_is_deleted_die_with_it(fleet: Fleet, lock: Locking) -> None:
    """The device is being provisioned anew, but not committed, when it is to be deleted."""
    device_id = (await fleet.ask("sensor-1"))["deviceId"]
    await fleet.space.devices.rearm("sensor-1")
    await fleet.space.rows("DELETE FROM attribute")
    async with lock(
        "INSERT INTO attribute (device_id, scope, key, value) VALUES ($1, 'SERVER', 'provisionState', 'null')",
        device_id,
    ) as held:
        provisioning = asyncio.create_task(fleet.ask("sensor-1"))
        await held.until_waiting()
        deleting = asyncio.create_task(fleet.space.devices.delete("sensor-1"))
        await held.until_waiting(2)

    assert (await provisioning)["status"] == "SUCCESS"
    await deleting
    counts = await fleet.counts()
    assert (counts["device"], counts["credentials"], counts["attribute"]) == (0, 0, 0)


async def test_a_device_deleted_while_it_provisions_is_not_half_there(fleet: Fleet) -> None:
    for n in range(10):
        await fleet.ask(f"sensor-{n}")
        await fleet.space.devices.rearm(f"sensor-{n}")
        await asyncio.gather(fleet.ask(f"sensor-{n}"), fleet.space.devices.delete(f"sensor-{n}"))

    devices = {row["id"] for row in await fleet.space.rows("SELECT id FROM device")}
    held = {row["device_id"] for row in await fleet.space.rows("SELECT device_id FROM credentials")}
    states = {row["device_id"] for row in await fleet.space.rows("SELECT device_id FROM attribute")}
    assert devices == held == states


async def test_the_newest_credentials_are_the_ones_shown_first(space: Space) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.ROTATE)
    await fleet.ask("sensor-1", token="old")
    await fleet.ask("sensor-1", credentialsType="MQTT_BASIC", username="new")

    details = await space.devices.show("sensor-1")

    assert details.device.credentials_type == CredentialsType.MQTT_BASIC
    assert [(row.type, row.pending) for row in details.credentials] == [("MQTT_BASIC", True), ("ACCESS_TOKEN", False)]


# --- attributes and credentials of one that is there


async def attributes(space: Space, name: str) -> dict[tuple[str, str], object]:
    return {(a.scope, a.key): a.value for a in (await space.devices.show(name)).attributes}


async def test_attributes_are_written_and_removed(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")
    devices = fleet.space.devices
    change = DeviceChange({"interval": "30", "mode": "eco", "map": '{"a":[1.5,null]}'}, {"rack": "7", "x": "007"})

    changed = await devices.update("sensor-1", change)
    assert {(a.scope, a.key): a.value for a in changed.attributes} == {
        ("SERVER", "provisionState"): "provisioned",
        ("SERVER", "rack"): 7,
        ("SERVER", "x"): "007",
        ("SHARED", "interval"): 30,
        ("SHARED", "map"): {"a": [1.5, None]},
        ("SHARED", "mode"): "eco",
    }

    await devices.update("sensor-1", DeviceChange({"mode": "full"}, {}, ["interval", "map", "none"], ["rack", "x"]))
    assert await attributes(fleet.space, "sensor-1") == {
        ("SERVER", "provisionState"): "provisioned",
        ("SHARED", "mode"): "full",
    }


async def test_a_device_whose_state_is_taken_away_may_provision_again(checked: Fleet) -> None:
    await checked.import_("sensor-1")
    first = await checked.ask("sensor-1")
    assert await checked.refused("sensor-1") == "ALREADY_PROVISIONED"

    await checked.space.devices.update("sensor-1", DeviceChange(delete_server=["provisionState"]))

    assert await checked.ask("sensor-1") == first


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        (DeviceChange(), "--shared KEY=VALUE"),
        (DeviceChange({"a": "1"}, {}, ["a"]), "'a' cannot be both"),
        (DeviceChange({"": "1"}), "A key must have"),
        (DeviceChange({}, {"a\0": "1"}), "A key must have"),
        (DeviceChange({"a": "null"}), "must not be null"),
        (DeviceChange({"a": '"\\u0000"'}), "NUL"),
        (DeviceChange({"a": "\udcff"}), "surrogate"),
        (DeviceChange({"a": '"' + "x" * 20_000 + '"'}), "16384 bytes"),
        (DeviceChange(delete_shared=["\0"]), "A key must have"),
    ],
)
async def test_a_change_that_cannot_be_made_changes_nothing(fleet: Fleet, change: DeviceChange, fix: str) -> None:
    await fleet.ask("sensor-1")
    before = await contents(fleet.space)
    with pytest.raises(Refused, match=re.escape(fix)):
        await fleet.space.devices.update("sensor-1", change)
    assert await contents(fleet.space) == before


async def test_a_revoked_device_has_no_credentials_and_is_rearmed_to_get_new_ones(fleet: Fleet) -> None:
    first = await fleet.ask("sensor-1", requestNonce=NONCE)
    await fleet.ask("sensor-2")

    revoked = await fleet.space.devices.revoke("sensor-1")

    assert (revoked.name, revoked.credentials_type) == ("sensor-1", None)
    assert await fleet.stored("sensor-1") == []
    assert len(await fleet.stored("sensor-2")) == 1
    assert await fleet.refused("sensor-1") == "ALREADY_PROVISIONED"
    assert await fleet.refused("sensor-1", requestNonce=NONCE) == "ALREADY_PROVISIONED"
    await fleet.space.devices.rearm("sensor-1")
    again = await fleet.ask("sensor-1")
    assert again["deviceId"] == first["deviceId"]
    assert again["credentialsValue"] != first["credentialsValue"]


async def test_what_a_device_last_sent_is_shown(fleet: Fleet) -> None:
    device_id = (await fleet.ask("sensor-1"))["deviceId"]
    await fleet.space.rows(
        "INSERT INTO telemetry VALUES ($1, 'b', 5, $2, 1), ($1, 'a', 6, $3, 1)", device_id, 2, {"x": 1}
    )

    shown = await fleet.space.devices.show("sensor-1")

    assert [(sample.key, sample.ts, sample.value) for sample in shown.telemetry] == [("a", 6, {"x": 1}), ("b", 5, 2)]


async def test_what_a_device_has_sent_is_erased_and_nothing_else(fleet: Fleet) -> None:
    ids_ = [(await fleet.ask(name))["deviceId"] for name in ("sensor-1", "sensor-2")]
    await fleet.space.devices.update("sensor-1", DeviceChange(shared={"interval": "60"}))
    for device_id in ids_:
        await fleet.space.rows("INSERT INTO telemetry VALUES ($1, 'b', 5, $2, 1)", device_id, 2)
        await fleet.space.rows("INSERT INTO telemetry_history VALUES ($1, 'b', 0, 5, $2)", device_id, 2)
    credentials = await fleet.stored("sensor-1")

    erased = await fleet.space.devices.erase_data("sensor-1")

    assert erased.name == "sensor-1"
    for table in ("telemetry", "telemetry_history"):
        (row,) = await fleet.space.rows(f"SELECT device_id FROM {table}")
        assert str(row["device_id"]) == ids_[1]
    shown = await fleet.space.devices.show("sensor-1")
    assert ("interval", 60) in [(each.key, each.value) for each in shown.attributes]
    assert await fleet.stored("sensor-1") == credentials
    assert "device.erased" in [action for action, *_ in await audited(fleet.space)]
    with pytest.raises(NotFound):
        await fleet.space.devices.erase_data("sensor-3")


# --- who sees what


@pytest.fixture
async def estate(space: Space) -> Estate:
    return await Estate.make(space.database, space.keys, space.organization_id)


def seen_by(estate: Estate, name: str) -> Devices:
    return Devices(estate.database, estate.keys, estate[name])


async def hold(estate: Estate, name: str, holder: str | None = None, *, maker: str = "brand") -> UUID:
    """A device of a maker, that an organization below it has."""
    id_ = uuid4()
    async with estate.database.connection() as connection:
        await connection.execute(
            "INSERT INTO device (id, organization_id, profile_id, name, holder_id) VALUES ($1, $2, $3, $4, $5)",
            id_,
            estate[maker],
            estate.profiles[maker],
            name,
            estate[holder] if holder else None,
        )
        await connection.execute(
            "INSERT INTO credentials (id_digest, device_id, type, origin, sealed)"
            " VALUES ($1, $2, 'ACCESS_TOKEN', 'generated', $3)",
            id_.bytes,
            id_,
            seal_credentials(estate.keys, id_, building.access_token("pl4nted"), os.urandom),
        )
    return id_


async def test_devices_are_seen_by_who_has_them_and_by_those_above(estate: Estate) -> None:
    for name, holder, maker in (
        ("in stock", None, "brand"),
        ("anna's", "anna", "brand"),
        ("ben's", "ben", "brand"),
        ("foreign", None, "foreign"),
        ("dora's", "dora", "foreign"),
    ):
        await hold(estate, name, holder, maker=maker)

    for viewer, expected in {
        "root": {"in stock", "anna's", "ben's"},
        "brand": {"in stock", "anna's", "ben's"},
        "anna": {"anna's"},
        "ben": {"ben's"},
        "cleo": set(),
        "foreign": {"foreign", "dora's"},
        "dora": {"dora's"},
    }.items():
        devices = seen_by(estate, viewer)
        assert {device.name async for device in devices.stream()} == expected
        for name in ("in stock", "anna's", "ben's", "foreign", "dora's"):
            if name in expected:
                assert (await devices.show(name)).device.name == name
            else:
                with pytest.raises(NotFound, match="Look in the list of devices"):
                    await devices.show(name)


async def test_a_device_is_shown_with_who_has_it(estate: Estate) -> None:
    id_ = await hold(estate, "anna's", "anna")
    owner = estate.users["anna", Role.USER]
    async with estate.database.connection() as connection:
        await connection.execute("UPDATE device SET owner_id = $1", owner)
    for viewer, maker in {"brand": (estate["brand"], "brand"), "anna": (None, None)}.items():
        device = (await seen_by(estate, viewer).show(str(id_))).device
        assert (device.maker_id, device.maker) == maker
        assert (device.holder_id, device.holder) == (estate["anna"], "anna")
        assert (device.owner_id, device.owner, device.static_token) == (owner, "user@anna.example", None)


async def test_credentials_are_their_makers_to_see_and_to_change(estate: Estate) -> None:
    await hold(estate, "anna's", "anna")
    for viewer in ("brand", "root"):
        (opened,) = (await seen_by(estate, viewer).show("anna's", open_=True)).opened
        assert opened.id == "pl4nted"
    hers = seen_by(estate, "anna")
    before = await contents_of(estate)
    for call in (hers.show("anna's", open_=True), hers.revoke("anna's"), hers.rearm("anna's"), hers.delete("anna's")):
        with pytest.raises(Forbidden, match="maker"):
            await call
    assert await contents_of(estate) == before
    assert (await hers.show("anna's")).opened == ()


async def contents_of(estate: Estate) -> list[list[tuple[object, ...]]]:
    async with estate.database.connection() as connection:
        return [
            sorted(map(tuple, await connection.fetch(f"SELECT * FROM {table}")), key=repr)
            for table in ("device", "credentials", "attribute")
        ]


async def test_who_has_a_device_writes_shared_attributes_and_metadata(estate: Estate) -> None:
    await hold(estate, "anna's", "anna")
    hers = seen_by(estate, "anna")
    for change in (
        DeviceChange(server={"provisionState": "no"}),
        DeviceChange(delete_server=("provisionState",)),
        DeviceChange(server={"meta.Room": "bath", "claimingData": "{}"}),
    ):
        with pytest.raises(Forbidden, match="maker"):
            await hers.update("anna's", change)
    details = await hers.update("anna's", DeviceChange({"unit": "C"}, {"meta.Room": "bath"}))
    assert [(each.scope, each.key, each.value) for each in details.attributes] == [
        ("SERVER", "meta.Room", "bath"),
        ("SHARED", "unit", "C"),
    ]
    await seen_by(estate, "brand").update("anna's", DeviceChange(server={"provisionState": "provisioned"}))


async def test_keys_among_the_metadata_are_for_the_maker_to_see(estate: Estate) -> None:
    await hold(estate, "anna's", "anna")
    fields = [{"name": "App Key", "type": "key128"}, {"name": "Model", "type": "text"}]
    async with estate.database.connection() as connection:
        await connection.execute("UPDATE device_profile SET metadata_fields = $1", fields)
    values = {"meta.App Key": "01" * 16, "meta.Model": "A"}
    await seen_by(estate, "brand").update("anna's", DeviceChange({"meta.App Key": "shared"}, values))

    for viewer in ("root", "brand"):
        shown = await seen_by(estate, viewer).show("anna's")
        assert {each.key for each in shown.attributes if each.scope == "SERVER"} == values.keys()
    hers = seen_by(estate, "anna")
    for shown in (await hers.show("anna's"), await hers.update("anna's", DeviceChange({"meta.App Key": "so"}))):
        assert {(each.scope, each.key) for each in shown.attributes} == {
            ("SERVER", "meta.Model"),
            ("SHARED", "meta.App Key"),
        }


async def test_a_name_that_several_makers_use_is_told_apart_by_whose_it_is_or_by_the_id(
    estate: Estate, space: Space
) -> None:
    profile = "INSERT INTO device_profile (id, organization_id, name, template_id, strategy, reprovision_policy)"
    for name in ("root", "anna"):
        estate.profiles[name] = uuid4()
        values = f" VALUES ($1, $2, 'sensors', 'TMPL{name}', 'DISABLED', 'deny')"
        await space.rows(profile + values, estate.profiles[name], estate[name])
    of_brand = await hold(estate, "same", "anna")
    of_root = await hold(estate, "same", "anna", maker="root")

    with pytest.raises(Conflict, match="by its id"):
        await seen_by(estate, "anna").show("same")
    for id_ in (of_brand, of_root):
        assert (await seen_by(estate, "anna").show(str(id_))).device.id == id_
    assert (await seen_by(estate, "brand").show("same")).device.id == of_brand
    assert (await seen_by(estate, "root").show("same")).device.id == of_root
    own = await hold(estate, "same", maker="anna")
    assert (await seen_by(estate, "anna").show("same")).device.id == own


async def test_devices_are_made_as_the_organizations_own(estate: Estate) -> None:
    devices = seen_by(estate, "brand")
    made = await devices.create(DeviceRow(1, "sensor-1", None, False), "sensors")
    assert (made.maker_id, made.holder_id, made.owner_id) == (estate["brand"], estate["brand"], None)
    with pytest.raises(NotFound, match="Look in the list of profiles"):
        await seen_by(estate, "anna").create(DeviceRow(1, "sensor-2", None, False), "sensors")


@pytest.mark.parametrize("reference", ["", "\0", "a\0b", "\ud800"])
async def test_what_nothing_can_be_called_is_not_found(space: Space, reference: str) -> None:
    with pytest.raises(NotFound):
        await space.devices.show(reference)


# --- what else is in the way


async def imported(devices: Devices, *lines: str, dry_run: bool = False, partial: bool = False) -> ImportReport:
    rows = csvfile.read_devices(["name,token", *lines])
    return await devices.import_(rows, "sensors", dry_run=dry_run, partial=partial)


async def test_a_quota_bounds_the_devices_that_are_made(estate: Estate, space: Space) -> None:
    devices = seen_by(estate, "brand")
    await space.rows("UPDATE organization SET device_quota = 3 WHERE id = $1", estate["brand"])
    await hold(estate, "anna's", "anna")
    await devices.create(DeviceRow(1, "sensor-1", None, False), "sensors")
    for dry_run in (True, False):
        with pytest.raises(Conflict, match="may have 3 devices"):
            await imported(devices, "a,", "b,", dry_run=dry_run)
        assert (await imported(devices, "a,", "sensor-1,", dry_run=True, partial=True)).imported == 1
    assert (await imported(devices, "a,", "sensor-1,", partial=True)).imported == 1

    with pytest.raises(Conflict, match="may have 3 devices"):
        await devices.create(DeviceRow(1, "sensor-2", None, False), "sensors")
    assert (await imported(devices, "a,", "sensor-1,")).error_count == 2  # which is what there is to put right first
    assert len([device async for device in devices.stream()]) == 3


async def test_the_token_of_a_device_to_come_is_taken(estate: Estate) -> None:
    token = await estate.token()
    devices = seen_by(estate, "brand")

    with pytest.raises(Conflict, match="in use by another device"):
        await devices.create(DeviceRow(1, "sensor-1", building.access_token(token.auth), False), "sensors")
    report = await imported(devices, f"a,{token.auth}", "b,")

    assert (report.imported, where(report)) == (0, [(2, None)])
    assert [device async for device in devices.stream()] == []
