import os
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from provserver.core.attributes import METADATA, Scope
from provserver.core.authorization import Permission, Principal, Role
from provserver.core.integration import NetworkState
from provserver.core.lorawan import (
    APPLICATION_KEY,
    DEVICE_EUI,
    JOIN_EUI,
    NETWORK_DEVICE_ID,
    OWNER_TOKEN,
    LorawanVersion,
    PhyVersion,
)
from provserver.core.model import MetadataField
from provserver.core.telemetry import Value
from provserver.errors import Conflict, Forbidden, Invalid, NotFound
from provserver.services import network_devices
from provserver.services.devices import DeviceChange, Devices
from provserver.services.integrations import IntegrationChange, Integrations
from provserver.services.jobs import Jobs, Progress
from provserver.services.network_devices import Queued
from provserver.services.profiles import ProfileChange
from provserver.store import claiming, devices
from tests.conftest import Space
from tests.services.onboarding import APPLICATION, JOIN, PROFILE, Site, eui, key, values
from tests.services.ownership import Estate
from tests.support.things_stack import Component, How, ThingsStack

ALL = set(Component)


def id_of(number: int) -> str:
    return f"eui-{eui(number).lower()}"


@pytest.fixture
async def stack() -> AsyncIterator[ThingsStack]:
    async with ThingsStack() as running:
        yield running


@pytest.fixture
async def site(space: Space, stack: ThingsStack) -> AsyncIterator[Site]:
    async with Site.open(space, stack) as opened:
        yield opened


async def test_a_device_whose_metadata_are_typed_in_is_onboarded(site: Site) -> None:
    await site.run()
    device = await site.device()
    row = await site.ended(device)
    assert (row.state, row.network_device_id, row.error) == (NetworkState.ONBOARDED, id_of(1), None)
    assert set(row.made) == {"identity server", "join server", "network server", "application server"}
    assert site.there(id_of(1)) == ALL
    assert site.root_key(id_of(1)) == key(1)
    job = await site.yard.show(await site.job(device))
    assert (job.state, job.done, job.total) == ("done", 4, 4)
    assert await site.value(device, NETWORK_DEVICE_ID) == id_of(1)
    assert await site.events() == ["network.onboarded"]


async def test_an_integration_is_in_order_again_once_its_key_has_done_its_work(site: Site, stack: ThingsStack) -> None:
    async def status() -> tuple[str, str | None]:
        (row,) = await site.space.rows("SELECT status, error FROM integration")
        return row["status"], row["error"]

    await site.run()
    stack.fail(Component.AS, 1, How.FORBIDDEN, method="PUT")
    await site.ended(await site.device(1))
    assert (await status())[0] == "broken"
    device = await site.device(2)
    await site.ended(device)
    assert await status() == ("connected", None)
    await site.space.rows("UPDATE integration SET status = 'broken', error = 'MQTT: the broker does not answer'")
    await site.type(device, {APPLICATION_KEY: key(3)})
    await site.ended(device)
    assert (await status())[0] == "broken"  # which no job can tell
    await site.space.rows("UPDATE integration SET error = 'The API key may not do this.'")
    await site.network.remove(site.principal, device)
    await site.ended(device)
    assert await status() == ("connected", None)


LIMIT, DEVICES = (
    int(os.environ.get("PROVSERVER_TEST_LIMIT", "50")),
    int(os.environ.get("PROVSERVER_TEST_DEVICES", "30")),
)


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


PUTS = {Component.IS: "POST", Component.JS: "PUT", Component.NS: "PUT", Component.AS: "PUT"}
"""The calls that make a device."""


CASES = [(component, by_hand) for component in PUTS for by_hand in (False, True)]
"""At which call something happens, and whether somebody had registered the device before."""


@pytest.mark.parametrize("how", [How.SERVER_ERROR, How.TIMEOUT_AFTER, How.TAKEN_OURS, How.RESET_AFTER])
async def test_what_passes_is_got_over(space: Space, stack: ThingsStack, how: How) -> None:
    async with Site.open(space, stack, deadline=0.25) as site:
        await site.run()
        for number, (component, by_hand) in enumerate(CASES, 1):
            if by_hand:
                site.give(number, id_of(number))
            stack.fail(component, 2 if how is How.RESET_AFTER else 1, how, method=PUTS[component])
            row = await site.ended(await site.known(number, adopt=by_hand))
            assert (row.state, row.error, bool(row.made)) == (NetworkState.ONBOARDED, None, not by_hand)
            assert site.there(id_of(number)) == ALL
            assert site.root_key(id_of(number)) == key(number)
    assert not [call for call in stack.calls if call.method == "DELETE"]


@pytest.mark.parametrize("how", [How.TAKEN_FOREIGN, How.FORBIDDEN])
async def test_what_does_not_pass_leaves_nothing_but_what_was_there(site: Site, stack: ThingsStack, how: How) -> None:
    await site.run()
    for number, (component, by_hand) in enumerate(CASES, 1):
        if by_hand:
            site.give(number, id_of(number))
        stack.fail(component, 1, how, method=PUTS[component])
        device = await site.known(number, adopt=by_hand)
        row = await site.ended(device, lambda job: job.state == "failed")
        assert (row.state, row.made) == (NetworkState.FAILED, ())
        assert row.error
        assert row.remedy
        assert site.there(id_of(number)) == (ALL if by_hand else set())
        if how is How.TAKEN_FOREIGN:
            assert "theirs" in row.error
        row = await site.again(device)
        assert (row.state, site.there(id_of(number))) == (NetworkState.ONBOARDED, ALL)
        assert bool(row.made) != by_hand


@pytest.mark.parametrize("end", ["goes on", "is refused"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_process_that_is_killed_between_any_two(site: Site, stack: ThingsStack, after: bool, end: str) -> None:
    for number, (component, by_hand) in enumerate(CASES, 1):
        if by_hand:
            site.give(number, id_of(number))
        held = stack.hold(component, after=after, method=PUTS[component])
        device = await site.known(number, adopt=by_hand)
        await site.run()
        await held.reached.wait()
        await site.kill()
        held.release()  # and what it sent may have its effect yet
        refused = end == "is refused"
        if refused:
            stack.fail(Component.AS, 2, How.FORBIDDEN, method="PUT")
        await site.run()
        row = await site.ended(device)
        if refused:
            assert (row.state, site.there(id_of(number))) == (NetworkState.FAILED, ALL if by_hand else set())
            stack._faults.clear()
        else:
            assert (row.state, site.there(id_of(number))) == (NetworkState.ONBOARDED, ALL)
            assert bool(row.made) != by_hand
        await site.kill()


async def test_a_process_that_is_killed_while_it_undoes(site: Site, stack: ThingsStack) -> None:
    for number, component in enumerate((Component.NS, Component.JS, Component.IS), 1):
        stack.fail(Component.AS, 1, How.FORBIDDEN, method="PUT")
        held = stack.hold(component, after=True, method="DELETE")
        device = await site.device(number)
        await site.run()
        await held.reached.wait()
        await site.kill()
        held.release()
        await site.run()
        row = await site.ended(device)
        assert (row.state, row.made, site.there(id_of(number))) == (NetworkState.FAILED, (), set())
        await site.kill()


async def test_a_token_that_is_claimed_has_its_device_onboarded(site: Site) -> None:
    await site.run()
    token = await site.token(1)
    assert site.there(id_of(1)) == set()
    await site.claiming.claim(site.principal, token.payload)
    row = await site.ended(token.id)
    assert (row.state, site.there(id_of(1))) == (NetworkState.ONBOARDED, ALL)
    assert site.root_key(id_of(1)) == key(1)

    await site.handover.disclaim(site.principal, token.id)
    await site.claiming.claim(site.principal, token.payload)
    assert await site.jobs_of(token.id) == 1  # it is there
    assert await site.value(token.id, NETWORK_DEVICE_ID) == id_of(1)


async def test_what_is_switched_off_makes_nothing(site: Site) -> None:
    device = await site.device()
    await site.space.rows("UPDATE integration SET onboarding = false")
    await site.run()
    row = await site.ended(device)
    assert (row.error, site.there(id_of(1))) == ("Onboarding was switched off meanwhile.", set())
    await site.space.rows("UPDATE integration SET onboarding = true")
    assert (await site.again(device)).state is NetworkState.ONBOARDED


async def test_a_device_of_a_token_that_comes_back_is_in_its_network_still(site: Site) -> None:
    await site.run()
    token = await site.token(1)
    await site.claiming.claim(site.principal, token.payload)
    before = await site.ended(token.id)
    await site.handover.disclaim(site.principal, token.id)
    await site.space.devices.delete(token.id)
    await site.claiming.claim(site.principal, token.payload)
    assert (await site.row(token.id)).made == before.made != ()
    assert await site.jobs_of(token.id) == 1
    await site.handover.delete_token(site.principal, token.id, confirm=True)
    assert (await site.row(token.id)).state is NetworkState.REMOVED  # here, and known for ours there


async def test_nothing_is_begun_before_all_is_there(site: Site) -> None:
    device = await site.bare()
    for name, value in values(1).items():
        assert await site.jobs_of(device) == 0
        await site.type(device, {name: value})
    assert await site.jobs_of(device) == 1
    await site.type(device, {"Device EUI": eui(1).lower()})
    assert await site.jobs_of(device) == 1  # which says nothing new


async def test_what_is_typed_in_is_checked(site: Site) -> None:
    device = await site.bare()
    with pytest.raises(Invalid, match="not an EUI-64: 15 hexadecimal digits where it has 16") as refused:
        await site.type(device, values(1) | {DEVICE_EUI: "F" * 15})
    assert "F" * 15 not in str(refused.value)
    await site.type(device, {DEVICE_EUI: "0018-b200-0000-0001"})
    assert await site.value(device, DEVICE_EUI) == eui(1)


async def test_no_key_is_in_a_job(site: Site) -> None:
    await site.run()
    device = await site.device()
    await site.ended(device)
    await site.network.replace(site.principal, device, dev_eui=eui(2), application_key=key(2))
    await site.ended(device)
    for table in ("job", "job_step", "network_device", "audit", "outbox"):
        rows = await site.space.rows(f"SELECT t::text AS row FROM {table} t")
        assert not [row for row in rows if key(1) in row["row"] or key(2) in row["row"] or site.api_key in row["row"]]


async def test_rights_that_are_missing_are_named(space: Space, stack: ThingsStack) -> None:
    async with Site.open(space, stack, rights=["RIGHT_APPLICATION_DEVICES_WRITE"]) as site:
        await site.run()
        row = await site.ended(await site.device())
        assert row.error == (
            "The API key lacks rights: View device keys in application, Edit device keys in application."
        )
        assert site.there(id_of(1)) == set()
        assert await site.events() == ["network.onboarding_failed"]
        assert await space.value("SELECT status FROM integration") == "broken"


async def test_devices_that_are_there_already_are_onboarded_together(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_devices, "BATCH", 2)
    integrations = Integrations(site.space.database, site.space.keys, lambda: site.outgoing)
    await integrations.update(site.principal, site.integration.id, IntegrationChange(onboarding=False))
    progress = Progress()
    with pytest.raises(Conflict, match="--onboarding"):
        await site.network.start_all(site.principal, site.integration.id, progress)
    made = [await site.device(number) for number in range(1, 6)]
    gone = await site.device(6)
    lacking = await site.bare()
    await site.type(lacking, {DEVICE_EUI: eui(7), JOIN_EUI: JOIN})
    await site.bare("without metadata")
    assert [await site.jobs_of(each) for each in (*made, gone)] == [0] * 6
    await integrations.update(site.principal, site.integration.id, IntegrationChange(onboarding=True))
    await site.network.start(site.principal, gone)
    await site.network.remove(site.principal, gone)
    done = await site.network.start_all(site.principal, site.integration.id, progress)
    assert (done, progress.done) == (Queued(5, 6), 6)
    assert await site.network.start_all(site.principal, site.integration.id, progress) == Queued(0, 1)
    assert [await site.jobs_of(each) for each in (*made, gone, lacking)] == [1] * 6 + [0]
    rows = await site.space.rows("SELECT subject_id FROM audit WHERE action = 'integration.onboarded_all'")
    assert [id_ for (id_,) in rows] == [str(site.integration.id)] * 2
    await site.run()
    assert [(await site.ended(each)).state for each in made] == [NetworkState.ONBOARDED] * 5
    with pytest.raises(NotFound):
        await site.network.check_all(site.principal, uuid4())
    viewer = Principal("viewer", site.space.organization_id, frozenset({Permission.DEVICES_VIEW}))
    with pytest.raises(Forbidden):
        await site.network.check_all(viewer, site.integration.id)


async def test_a_key_that_is_no_more_is_said_to_be(site: Site, stack: ThingsStack) -> None:
    await site.run()
    stack.revoke(site.api_key)
    row = await site.ended(await site.device())
    assert row.error == "The identity server does not accept the API key."


async def test_two_devices_with_one_eui(site: Site) -> None:
    await site.run()
    first = await site.device()
    await site.ended(first)
    second = await site.bare("another")
    with pytest.raises(Conflict, match="same Device EUI"):
        await site.type(second, values(1) | {APPLICATION_KEY: key(2)})
    with pytest.raises(Conflict, match="same TheThingsNetwork Device ID"):
        await site.type(second, {NETWORK_DEVICE_ID: id_of(1)})
    assert await site.value(second, NETWORK_DEVICE_ID) is None
    assert site.root_key(id_of(1)) == key(1)
    await site.space.devices.delete(first)
    await site.type(second, values(1) | {APPLICATION_KEY: key(2)})
    row = await site.ended(second)
    assert (row.state, bool(row.made), site.root_key(id_of(1))) == (NetworkState.ONBOARDED, True, key(2))  # ours still


async def test_hardware_that_is_replaced_is_the_same_device(site: Site) -> None:
    await site.run()
    token = await site.token(1)
    await site.claiming.claim(site.principal, token.payload)
    await site.ended(token.id)
    await site.network.replace(site.principal, token.id, dev_eui=eui(2), application_key=key(2))
    row = await site.ended(token.id)
    assert (row.state, row.dev_eui, row.network_device_id) == (NetworkState.ONBOARDED, eui(2), id_of(2))
    assert (site.there(id_of(1)), site.there(id_of(2))) == (set(), ALL)
    assert site.root_key(id_of(2)) == key(2)
    assert await site.events() == ["network.onboarded", "network.onboarded", "network.removed"]
    assert await site.space.value("SELECT metadata ->> 'Device EUI' FROM static_token") == eui(2)


@pytest.mark.parametrize("how", ["typed in", "claimed", "onboarded", "all", "replaced", "retried"])
async def test_what_we_did_not_make_is_taken_over_on_somebody_s_word_only(site: Site, how: str) -> None:
    await site.run()
    site.give(2, id_of(2))
    site.stack.devices[Component.JS][APPLICATION, id_of(2)]["root_keys"] = {"app_key": {"key": key(99)}}
    if how == "claimed":
        token = await site.token(2)
        await site.claiming.claim(site.principal, token.payload)
        device = token.id
    elif how == "replaced":
        device = await site.device()
        await site.ended(device)
        await site.network.replace(site.principal, device, dev_eui=eui(2), application_key=key(2))
    else:
        device = await site.device(2)
    await site.ended(device)
    if how == "onboarded":
        await site.network.start(site.principal, device)
    elif how == "all":
        await site.network.start_all(site.principal, site.integration.id, Progress())
    elif how == "retried":
        await site.again(device)
    row = await site.ended(device)
    assert "did not make" in (row.error or "")
    assert "device onboard --adopt" in (row.remedy or "")
    assert (row.state, row.network_device_id) == (
        (NetworkState.ONBOARDED, id_of(1)) if how == "replaced" else (NetworkState.FAILED, id_of(2))
    )
    assert (site.there(id_of(2)), site.root_key(id_of(2))) == (ALL, key(99))
    await site.network.start(site.principal, device, adopt=True)
    row = await site.ended(device)
    assert (row.state, row.made, site.root_key(id_of(2))) == (NetworkState.ONBOARDED, (), key(2))
    told = await site.space.rows("SELECT detail FROM audit WHERE action = 'device.onboarding_started' ORDER BY at, id")
    assert told[-1]["detail"]["adopt"] is True
    await site.type(device, {APPLICATION_KEY: key(3)})  # once it was said, it is this one
    row = await site.ended(device)
    assert (row.state, row.made, site.root_key(id_of(2))) == (NetworkState.ONBOARDED, (), key(3))


async def test_who_has_a_device_does_not_say_what_it_is_to_its_network(site: Site) -> None:
    estate = await Estate.make(site.space.database, site.space.keys, site.space.organization_id)
    token = await site.token(1)
    device = token.id
    customer = estate.who("anna", Role.STAFF)
    await site.claiming.claim(customer, token.payload)
    jobs = await site.jobs_of(device)
    theirs = Devices(site.space.database, site.space.keys, customer.organization_id, actor=customer.actor)
    maker = "for the device's maker"
    with pytest.raises(Forbidden, match=maker):
        await site.network.start(customer, device)
    with pytest.raises(Forbidden, match=maker):
        await site.network.start(customer, device, adopt=True)
    with pytest.raises(Forbidden, match=maker):
        await site.network.replace(customer, device, dev_eui=eui(2), application_key=key(2))
    for field in (DEVICE_EUI, JOIN_EUI, APPLICATION_KEY, NETWORK_DEVICE_ID, "Network Key"):
        with pytest.raises(Forbidden, match=maker):
            await theirs.update(device, DeviceChange(server={f"meta.{field}": values(2).get(field, "an-id")}))
        with pytest.raises(Forbidden, match=maker):
            await theirs.update(device, DeviceChange(delete_server=[f"meta.{field}"]))
    await theirs.update(device, DeviceChange(server={"meta.Room": "Kitchen"}))
    assert await site.jobs_of(device) == jobs
    assert await site.value(device, DEVICE_EUI) == eui(1)


async def test_what_was_made_of_a_device_outlives_it(site: Site) -> None:
    await site.run()
    token = await site.token(1)
    await site.claiming.claim(site.principal, token.payload)
    await site.ended(token.id)
    await site.handover.delete_token(site.principal, token.id, confirm=True)
    device = await site.device(2)
    await site.ended(device)
    await site.space.devices.delete(device)
    assert (site.there(id_of(1)), site.there(id_of(2))) == (ALL, ALL)
    integrations = Integrations(site.space.database, site.space.keys, lambda: site.outgoing)
    found = await integrations.device(site.principal, token.id)
    assert (found.network_device_id, len(found.made)) == (id_of(1), 4)
    assert str(token.id) in (found.remedy or "")
    with pytest.raises(Conflict, match="2 devices are in the application"):
        await integrations.delete(site.principal, site.integration.id)
    stranger = Principal("user:stranger", uuid4())
    with pytest.raises((NotFound, Forbidden)):
        await site.network.remove(stranger, token.id)
    await site.network.remove(site.principal, token.id)
    await site.all_ended()
    assert (site.there(id_of(1)), site.there(id_of(2))) == (set(), ALL)
    with pytest.raises(NotFound):
        await integrations.device(site.principal, token.id)
    made = await site.bare("again")
    await site.type(made, values(2))
    assert len((await site.ended(made)).made) == 4
    await site.network.remove(site.principal, made)
    await site.all_ended()
    assert site.there(id_of(2)) == set()


async def test_a_token_is_deleted_with_its_device_in_the_network(site: Site, stack: ThingsStack) -> None:
    await site.run()
    tokens = [await site.token(number) for number in (1, 2, 3)]
    for token in tokens[:2]:
        await site.claiming.claim(site.principal, token.payload)
        await site.ended(token.id)
    with pytest.raises(Conflict, match="in no network"):
        await site.handover.delete_token(site.principal, tokens[2].id, from_network=True)
    limited = Principal("key:limited", site.space.organization_id, frozenset({Permission.TOKENS_MANAGE}))
    with pytest.raises(Forbidden):
        await site.handover.delete_token(limited, tokens[0].id, confirm=True, from_network=True)
    await site.handover.delete_token(site.principal, tokens[0].id, confirm=True, from_network=True)
    await site.all_ended()
    assert site.there(id_of(1)) == set()
    assert await site.space.value("SELECT count(*) FROM network_device WHERE device_id = $1", tokens[0].id) == 0
    stack.fail(Component.NS, 1, How.FORBIDDEN, method="DELETE")
    await site.handover.delete_token(site.principal, tokens[1].id, confirm=True, from_network=True)
    await site.all_ended()
    assert site.there(id_of(2))
    await site.network.remove(site.principal, tokens[1].id)  # what is left there is known for ours
    await site.all_ended()
    assert site.there(id_of(2)) == set()


async def test_what_devices_are_made_of_stays_while_they_are_onboarded(site: Site) -> None:
    fields = [
        *(await site.space.profiles.show(PROFILE)).profile.metadata_fields,
        MetadataField(OWNER_TOKEN),
        MetadataField("Room"),
    ]
    await site.space.profiles.update(PROFILE, ProfileChange(metadata_fields=fields))
    for name in (DEVICE_EUI, JOIN_EUI, APPLICATION_KEY, NETWORK_DEVICE_ID, OWNER_TOKEN):
        other = MetadataField(name, "mac" if name == OWNER_TOKEN else "text", unique=True)
        without = [each for each in fields if each.name != name]
        for changed in (without, [*without, other] if name != NETWORK_DEVICE_ID else [*without, MetadataField(name)]):
            with pytest.raises(Conflict, match="--no-onboarding"):
                await site.space.profiles.update(PROFILE, ProfileChange(metadata_fields=changed))
    await site.space.profiles.update(PROFILE, ProfileChange(metadata_fields=fields[:-1]))
    integrations = Integrations(site.space.database, site.space.keys, lambda: site.outgoing)
    await integrations.update(site.principal, site.integration.id, IntegrationChange(onboarding=False))
    estate = await Estate.make(site.space.database, site.space.keys, site.space.organization_id)
    device = await site.device(1, **{OWNER_TOKEN: "0WNER"})
    await site.space.profiles.update(PROFILE, ProfileChange(metadata_fields=[]))
    customer = estate.who("anna")
    async with site.space.database.transaction() as connection:
        await claiming.give(connection, device, customer.organization_id, None)
    theirs = Devices(site.space.database, site.space.keys, customer.organization_id, actor=customer.actor)
    seen = {each.key for each in (await theirs.show(device)).attributes}
    assert "meta.Device EUI" in seen
    assert not seen & {"meta.Application Key", "meta.Owner Token"}  # whatever the profile calls them


async def test_what_a_token_has_that_nobody_has_claimed_is_no_other_s(site: Site) -> None:
    await site.run()
    token = await site.token(1)
    device = await site.device(2)
    await site.ended(device)
    with pytest.raises(Conflict, match="static token"):
        await site.type(device, {DEVICE_EUI: eui(1)})
    with pytest.raises(Conflict, match="static token"):
        await site.type(device, {DEVICE_EUI: eui(1).lower(), APPLICATION_KEY: key(1)})
    with pytest.raises(Conflict, match="static token"):
        await site.network.replace(site.principal, device, dev_eui=eui(1), application_key=key(1))
    early = await site.bare()
    with pytest.raises(Conflict, match="static token"):
        await site.type(early, {DEVICE_EUI: eui(1)})
    imported = await site.bare("imported")
    async with site.space.database.transaction() as connection:  # as a CSV of devices brings it
        written: dict[tuple[Scope, str], Value] = {
            (Scope.SERVER, METADATA + name): each for name, each in values(1).items()
        }
        await devices.change_attributes(connection, imported, written, ())
    with pytest.raises(Conflict, match="static token"):
        await site.network.start(site.principal, imported)
    await site.claiming.claim(site.principal, token.payload)
    assert (await site.ended(token.id)).state is NetworkState.ONBOARDED
    await site.type(token.id, {DEVICE_EUI: eui(5), APPLICATION_KEY: key(5)})
    assert await site.space.value("SELECT metadata ->> 'Device EUI' FROM static_token") == eui(5)
    assert await site.space.value("SELECT value FROM static_token_value WHERE field = 'Device EUI'") == eui(5)


async def test_another_id_of_what_is_there_is_refused_with_what_to_do(site: Site) -> None:
    await site.run()
    device = await site.device()
    before = await site.ended(device)
    with pytest.raises(Conflict, match="sighting merge"):
        await site.type(device, {NETWORK_DEVICE_ID: "new-hw-1"})
    with pytest.raises(Invalid, match="small letters"):
        await site.type(device, {NETWORK_DEVICE_ID: "Bad ID!"})
    assert await site.value(device, NETWORK_DEVICE_ID) == id_of(1)
    await site.type(device, {NETWORK_DEVICE_ID: id_of(1)})
    assert await site.row(device) == before
    await site.type(device, values(2) | {NETWORK_DEVICE_ID: "new-hw-1"})  # other hardware, under an id of its own
    row = await site.ended(device)
    assert (row.network_device_id, row.dev_eui, site.there(id_of(1))) == ("new-hw-1", eui(2), set())


async def test_an_id_of_hardware_that_failed_is_not_that_of_the_next(site: Site) -> None:
    await site.run()
    token = await site.token(1)
    await site.claiming.claim(site.principal, token.payload)
    await site.ended(token.id)
    site.give(9, "chosen")
    given = {"dev_eui": eui(2), "application_key": key(2)}
    await site.network.replace(site.principal, token.id, **given, network_device_id="chosen")
    assert "another device of the id" in ((await site.ended(token.id)).error or "")
    await site.network.replace(site.principal, token.id, **given)
    row = await site.ended(token.id)
    assert (row.state, row.error, row.network_device_id) == (NetworkState.ONBOARDED, None, id_of(2))
    assert await site.space.value("SELECT metadata ->> $1 FROM static_token", NETWORK_DEVICE_ID) is None


async def test_hardware_that_somebody_registered_stays_there_when_it_is_replaced(site: Site) -> None:
    await site.run()
    site.give(1, id_of(1))
    device = await site.known(adopt=True)
    await site.ended(device)
    await site.type(device, {DEVICE_EUI: eui(2), APPLICATION_KEY: key(2)})
    await site.ended(device)
    assert (site.there(id_of(1)), site.there(id_of(2))) == (ALL, ALL)


async def test_another_join_eui_is_another_device_there(site: Site) -> None:
    await site.run()
    device = await site.device()
    await site.ended(device)
    other = "70B3D57ED0000099"
    await site.network.replace(site.principal, device, dev_eui=eui(1), join_eui=other, application_key=key(1))
    row = await site.ended(device)
    assert (row.join_eui, row.network_device_id) == (other, f"{id_of(1)}-2")
    assert (site.there(id_of(1)), site.there(f"{id_of(1)}-2")) == (set(), ALL)


async def test_another_key_alone_is_written_over(site: Site) -> None:
    await site.run()
    device = await site.device()
    before = await site.ended(device)
    await site.type(device, {APPLICATION_KEY: key(2)})
    row = await site.ended(device)
    assert (row.made, row.network_device_id) == (before.made, id_of(1))
    assert (site.root_key(id_of(1)), site.there(id_of(1))) == (key(2), ALL)


async def test_what_cannot_be_replaced_stays_what_it_was(site: Site, stack: ThingsStack) -> None:
    await site.run()
    device = await site.device()
    before = await site.ended(device)
    stack.fail(Component.NS, 1, How.FORBIDDEN)
    await site.network.replace(site.principal, device, dev_eui=eui(2), application_key=key(2))
    row = await site.ended(device)
    assert (row.state, row.made, row.network_device_id) == (before.state, before.made, id_of(1))
    assert row.error
    assert (site.there(id_of(1)), site.there(id_of(2))) == (ALL, set())
    await site.again(device)
    assert (site.there(id_of(1)), site.there(id_of(2))) == (set(), ALL)


async def test_metadata_that_change_meanwhile_are_what_counts(site: Site, stack: ThingsStack) -> None:
    await site.run()
    held = stack.hold(Component.NS)
    device = await site.device()
    await held.reached.wait()
    await site.type(device, {DEVICE_EUI: eui(2), APPLICATION_KEY: key(2)})
    held.release()
    row = await site.ended(device)
    assert (row.state, row.network_device_id) == (NetworkState.ONBOARDED, id_of(2))
    assert (site.there(id_of(1)), site.there(id_of(2))) == (set(), ALL)


async def test_a_device_is_deleted_there_too_if_that_is_wanted(site: Site) -> None:
    await site.run()
    first, second = await site.device(1), await site.device(2)
    await site.ended(first)
    await site.ended(second)
    await site.space.devices.delete(first, from_network=True)
    await site.space.devices.delete(second)
    await site.all_ended()
    assert (site.there(id_of(1)), site.there(id_of(2))) == (set(), ALL)
    (row,) = await site.space.rows("SELECT device_id, state FROM network_device")
    assert (row["device_id"], row["state"]) == (second, "removed")  # here, and known for ours there
    calls = [call.component for call in site.stack.calls if call.method == "DELETE"]
    assert calls == [Component.NS, Component.AS, Component.JS, Component.IS]


async def test_what_we_did_not_make_we_do_not_delete(site: Site) -> None:
    await site.run()
    site.give(1, id_of(1))
    device = await site.known(adopt=True)
    await site.ended(device)
    with pytest.raises(Conflict, match="was in its network before"):
        await site.space.devices.delete(device, from_network=True)
    with pytest.raises(Conflict, match="was in its network before"):
        await site.network.remove(site.principal, device)
    assert site.there(id_of(1)) == ALL


async def test_a_device_of_our_id_that_is_another_s_by_now_is_not_removed(site: Site, stack: ThingsStack) -> None:
    await site.run()
    device = await site.device()
    await site.ended(device)
    for each in Component:
        del stack.devices[each][APPLICATION, id_of(1)]
    site.give(7, id_of(1))
    await site.network.remove(site.principal, device)
    row = await site.ended(device)
    assert row.error == "The device of this id in the network is not the one that we made: it is not removed."
    assert site.there(id_of(1)) == ALL


async def test_a_device_that_is_deleted_while_it_is_onboarded_leaves_nothing(site: Site, stack: ThingsStack) -> None:
    await site.run()
    held = stack.hold(Component.AS, after=True)
    device = await site.device()
    await held.reached.wait()
    await site.space.devices.delete(device)
    held.release()
    await site.all_ended()
    assert site.there(id_of(1)) == set()


async def test_a_device_that_is_removed_stays_ours_and_comes_back(site: Site, stack: ThingsStack) -> None:
    await site.run()
    device = await site.device()
    await site.ended(device)
    stack.fail(Component.JS, 1, How.SERVER_ERROR_AFTER, method="DELETE")
    await site.network.remove(site.principal, device)
    row = await site.ended(device)
    assert (row.state, row.made, site.there(id_of(1))) == (NetworkState.REMOVED, (), set())
    assert await site.value(device, NETWORK_DEVICE_ID) is None
    await site.network.start(site.principal, device)
    row = await site.ended(device)
    assert (row.state, len(row.made), site.there(id_of(1))) == (NetworkState.ONBOARDED, 4, ALL)


async def test_one_that_is_removed_and_wanted_at_once_is_there_in_the_end(site: Site) -> None:
    await site.run()
    device = await site.device()
    await site.ended(device)
    await site.kill()
    await site.network.remove(site.principal, device)
    await site.network.start(site.principal, device)
    await site.run()
    row = await site.ended(device)
    assert (row.state, len(row.made), site.there(id_of(1))) == (NetworkState.ONBOARDED, 4, ALL)


async def test_a_job_that_is_cancelled_undoes_what_it_made(site: Site, stack: ThingsStack) -> None:
    await site.run()
    held = stack.hold(Component.NS)
    device = await site.device()
    await held.reached.wait()
    await Jobs(site.space.database).cancel(site.principal, await site.job(device))
    held.release()
    row = await site.ended(device)
    assert (row.state, row.made, site.there(id_of(1))) == (NetworkState.FAILED, (), set())


async def test_what_could_not_be_undone_is_said_to_be_there(site: Site, stack: ThingsStack) -> None:
    await site.run()
    stack.fail(Component.NS, 1, How.FORBIDDEN, method="PUT")
    stack.fail(Component.IS, 1, How.FORBIDDEN, method="DELETE")
    device = await site.device()
    row = await site.ended(device)
    assert (row.state, set(row.made)) == (NetworkState.FAILED, {"identity server", "join server"})
    assert site.there(id_of(1)) == {Component.IS}
    await site.network.remove(site.principal, device)
    row = await site.ended(device)
    assert (row.state, site.there(id_of(1))) == (NetworkState.REMOVED, set())


async def test_lorawan_1_1_has_two_keys(space: Space, stack: ThingsStack) -> None:
    async with Site.open(space, stack, version=LorawanVersion.V1_1, phy=PhyVersion.V1_1_REV_B) as site:
        await site.run()
        device = await site.device()
        row = await site.ended(device)
        assert row.error == "LoRaWAN 1.1 has two root keys, and the device has one."
        await site.type(device, {"Network Key": key(9)})
        await site.ended(device)
        keys = stack.devices[Component.JS][APPLICATION, id_of(1)]["root_keys"]
        assert (keys["app_key"]["key"], keys["nwk_key"]["key"]) == (key(1), key(9))


async def test_many_devices_under_a_narrow_limit(space: Space) -> None:
    """Of 100 in a minute; the minutes pass whenever nobody has anything to do."""
    clock = Clock()
    began = clock.now
    async with ThingsStack(limit=(LIMIT, 60.0), clock=clock) as stack, Site.open(space, stack) as site:
        devices = [await site.device(number) for number in range(1, DEVICES + 1)]
        await site.run(clock=clock)
        while await site.space.value("SELECT count(*) FROM job WHERE state IN ('waiting', 'running')"):
            if not await site.space.value("SELECT count(*) FROM job WHERE state = 'running'"):
                clock.now += 5.0
                site.yard.runners[0].wake()
        assert await space.value("SELECT count(*) FROM job WHERE state = 'done'") == DEVICES
        assert (
            await space.value("SELECT count(*) FROM network_device WHERE state = 'onboarded' AND error IS NULL")
            == DEVICES
        )
        assert len(devices) == len(stack.devices[Component.AS])
        limited = sum(call.status == 429 for call in stack.calls)
        assert limited < len(stack.calls) / 5  # they wait, and do not ask again and again
        assert clock.now - began >= (5 * DEVICES - LIMIT) * 60 / LIMIT
