from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from asyncpg import UniqueViolationError

from provserver.adapters.outgoing import Outgoing, networks
from provserver.core import lorawan
from provserver.core.authorization import Permission, Principal
from provserver.core.csvfile import DeviceRow
from provserver.core.integration import ClaimProof, NetworkKind, NetworkState, Settings, SettingsChange, Status
from provserver.core.lorawan import LorawanVersion, PhyVersion
from provserver.core.model import DeviceProfile, MetadataField
from provserver.core.onboarding import Denied, TryAgain
from provserver.errors import Conflict, Forbidden, Invalid, NotFound, Stale
from provserver.services import integrations as module
from provserver.services.integrations import IntegrationChange, Integrations
from provserver.services.network_check import NetworkCheck
from provserver.services.profiles import ProfileChange, Profiles
from provserver.store import integrations as store
from provserver.store import network_devices
from provserver.store.integrations import Integration
from provserver.store.network_devices import NetworkDevice
from tests.adapters.conftest import Endpoint, serving
from tests.conftest import Space
from tests.services.accounts import Accounts, Tree, only
from tests.services.webhooks import operator
from tests.support.chirpstack import ChirpStack
from tests.support.things_stack import SEED_RIGHTS, TRAFFIC_READ, ThingsStack

KEY = "NNSXS.PL4NTED"
SETTINGS = SettingsChange(
    lorawan_version=LorawanVersion.V1_0_3, frequency_plan="EU_863_870_TTN", address="stack.example"
)
WANTED = IntegrationChange(application_id="my-app", api_key=KEY, settings=SETTINGS)
THINGS_STACK = NetworkKind.THINGS_STACK


@dataclass
class Network:
    """A network's API that answers as it is told to."""

    answer: list[str] | Exception = field(default_factory=list)
    connected: list[tuple[str, Settings, str]] = field(default_factory=list)

    def connect(self, application_id: str, settings: Settings, api_key: str, _: Outgoing) -> Any:
        self.connected.append((application_id, settings, api_key))
        return self

    async def missing_rights(self, *, uplinks: bool = False) -> list[str]:  # noqa: ARG002
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def client() -> Outgoing:
    """One that may go to this machine."""
    return Outgoing(networks("127.0.0.1"))


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every address answers."""

    async def silence(*_: object) -> None:
        return None

    monkeypatch.setattr(NetworkCheck, "_silence", silence)


@pytest.fixture
async def integrations(space: Space, network: Network) -> AsyncIterator[Integrations]:
    made = Integrations(space.database, space.keys, client, network.connect)
    yield made
    await made.close()


@pytest.fixture(autouse=True)
async def profile(space: Space) -> DeviceProfile:
    return await space.profiles.create_keyless(ProfileChange(name="lora"))


@pytest.fixture
def accounts(space: Space, tmp_path: Path) -> Accounts:
    return Accounts(space, tmp_path)


async def put(space: Space, integration: Integration, state: NetworkState, number: int = 1) -> NetworkDevice:
    """A device in the network, by a number of its own."""
    dev_eui = f"{number:016X}"
    device = NetworkDevice(
        uuid4(), integration.id, lorawan.device_id_of(dev_eui), dev_eui, "70B3D57ED0000010", state, ("is", "js")
    )
    async with space.database.transaction() as connection:
        await network_devices.put(connection, device)
    return device


async def fields_of(space: Space, name: str = "lora") -> dict[str, MetadataField]:
    shown = await space.profiles.show(name)
    return {each.name: each for each in shown.profile.metadata_fields}


async def test_an_application_serves_a_profile(
    space: Space, profile: DeviceProfile, integrations: Integrations
) -> None:
    made = await integrations.create(operator(space), "lora", THINGS_STACK, WANTED)
    assert (made.profile_id, made.organization_id) == (profile.id, space.organization_id)
    assert (made.application_id, made.status, made.onboarding) == ("my-app", Status.UNCHECKED, False)
    assert await integrations.list_(operator(space)) == [made]
    details = await integrations.show(operator(space), made.id)
    assert (details.integration, details.devices, details.webhook) == (made, {}, False)
    assert await fields_of(space) == {}
    async with space.database.connection() as connection:
        assert await store.of_profile(connection, profile.id) == made
        assert await store.get(connection, made.id) == made
        assert await store.all_(connection) == [made]
        sealed = await store.sealed_key(connection, made.id)
    assert sealed is not None
    assert module.opened_key(space.keys, made.id, sealed) == KEY


async def test_the_key_is_nowhere_to_be_seen(space: Space, profile: DeviceProfile, integrations: Integrations) -> None:
    made = await integrations.create(operator(space), str(profile.id), THINGS_STACK, WANTED)
    await integrations.update(operator(space), made.id, IntegrationChange(api_key=KEY + "2"))
    with pytest.raises(Invalid) as refused:
        await integrations.update(operator(space), made.id, IntegrationChange(api_key="pl4nted"))
    audit = await space.rows("SELECT * FROM audit WHERE action LIKE 'integration.%'")
    assert len(audit) == 2
    shown = [*map(str, audit), *map(str, await space.rows("SELECT * FROM integration")), repr(made), str(refused.value)]
    assert "pl4nted" not in "".join(shown).lower()


@pytest.mark.usefixtures("answering")
async def test_onboarding_makes_the_metadata_fields(
    space: Space, profile: DeviceProfile, integrations: Integrations
) -> None:
    made = await integrations.create(operator(space), "lora", THINGS_STACK, WANTED)
    changed = await integrations.update(operator(space), made.id, IntegrationChange(onboarding=True))
    assert changed.onboarding
    found = await fields_of(space)
    assert {name: (each.type, each.unique) for name, each in found.items()} == {
        "Device EUI": ("eui64", True),
        "Join EUI": ("eui64", False),
        "Application Key": ("key128", False),
        "TheThingsNetwork Device ID": ("text", True),
    }
    revision = (await space.profiles.show("lora")).profile.revision
    await integrations.update(operator(space), made.id, IntegrationChange(auto_import=True))
    assert (await space.profiles.show("lora")).profile.revision == revision  # there was nothing to add
    settings = SettingsChange(lorawan_version=LorawanVersion.V1_1, regional_parameters=PhyVersion.RP002_V1_0_3)
    await integrations.update(operator(space), made.id, IntegrationChange(settings=settings))
    assert (await fields_of(space))["Network Key"].type == "key128"
    actions = await space.rows("SELECT action, detail FROM audit WHERE subject_id = $1", str(profile.id))
    assert [row["detail"]["changed"] for row in actions if row["action"] == "profile.updated"] == [
        ["metadata_fields"],
        ["metadata_fields"],
    ]


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize("there", [MetadataField("Device EUI", "text", True), MetadataField("Device EUI", "eui64")])
async def test_a_field_that_is_otherwise_is_left_as_it_is(
    space: Space, integrations: Integrations, there: MetadataField
) -> None:
    await space.profiles.create_keyless(ProfileChange(name="other", metadata_fields=[there]))
    with pytest.raises(Conflict, match=r"eui64 and unique.*profile update"):
        await integrations.create(
            operator(space), "other", THINGS_STACK, IntegrationChange("my-app", KEY, SETTINGS, onboarding=True)
        )
    assert await fields_of(space, "other") == {there.name: there}
    assert await integrations.list_(operator(space)) == []


@pytest.mark.usefixtures("answering")
async def test_fields_that_are_right_are_taken(space: Space, integrations: Integrations) -> None:
    own = [MetadataField("Device EUI", "eui64", unique=True), MetadataField("Note")]
    await space.profiles.create_keyless(ProfileChange(name="other", metadata_fields=own))
    change = IntegrationChange("my-app", KEY, SETTINGS, onboarding=True)
    await integrations.create(operator(space), "other", THINGS_STACK, change)
    assert [*await fields_of(space, "other")] == [
        "Device EUI",
        "Note",
        "Join EUI",
        "Application Key",
        "TheThingsNetwork Device ID",
    ]


@pytest.mark.usefixtures("answering")
async def test_what_chirpstack_needs(space: Space, integrations: Integrations) -> None:
    application, device_profile = str(uuid4()), str(uuid4())
    settings = SettingsChange(
        lorawan_version=LorawanVersion.V1_0_3, address="http://127.0.0.1:8090", device_profile_id=device_profile
    )
    change = IntegrationChange(application, "eyJ0.pl4nted", settings, onboarding=True)
    made = await integrations.create(operator(space), "lora", NetworkKind.CHIRPSTACK, change)
    assert (made.application_id, made.network) == (application, NetworkKind.CHIRPSTACK)
    assert [*await fields_of(space)] == ["Device EUI", "Join EUI", "Application Key"]
    with pytest.raises(Invalid, match="no setting of ChirpStack"):
        await integrations.update(
            operator(space), made.id, IntegrationChange(settings=SettingsChange(frequency_plan="EU_863_870_TTN"))
        )


async def test_one_application_serves_one_profile(accounts: Accounts, space: Space, integrations: Integrations) -> None:
    tree = await Tree.grow(accounts)
    left = only(tree.left.id, Permission.PROFILES_MANAGE, Permission.PROFILES_VIEW)
    for name in ("one", "two"):
        await Profiles(space.database, space.keys, tree.left.id).create_keyless(ProfileChange(name=name))
    made = await integrations.create(left, "one", THINGS_STACK, WANTED)
    with pytest.raises(Conflict, match="'one' has an integration already"):
        await integrations.create(left, "one", THINGS_STACK, WANTED)
    with pytest.raises(Conflict, match="serves the profile 'one' already"):
        await integrations.create(left, "two", THINGS_STACK, WANTED)
    elsewhere = IntegrationChange(
        "my-app",
        KEY,
        SettingsChange(
            lorawan_version=LorawanVersion.V1_0_3, frequency_plan="EU_863_870_TTN", address="HTTPS://Stack.Example:443/"
        ),
    )
    with pytest.raises(Conflict, match="serves the profile 'one' already"):
        await integrations.create(left, "two", THINGS_STACK, elsewhere)
    other = await integrations.create(left, "two", THINGS_STACK, IntegrationChange("other-app", KEY, SETTINGS))
    with pytest.raises(Conflict, match="serves the profile 'one' already"):
        await integrations.update(left, other.id, IntegrationChange(application_id="my-app"))
    await integrations.delete(left, made.id)
    assert (await integrations.update(left, other.id, IntegrationChange(application_id="my-app"))).revision == 2


async def owners(accounts: Accounts, space: Space) -> tuple[Principal, Principal]:
    """Of two organizations that do not see each other, each with a profile "mine"."""
    tree = await Tree.grow(accounts)
    for organization in (tree.left.id, tree.right.id):
        await Profiles(space.database, space.keys, organization).create_keyless(ProfileChange(name="mine"))
    left, right = (
        only(each.id, Permission.PROFILES_MANAGE, Permission.PROFILES_VIEW) for each in (tree.left, tree.right)
    )
    return left, right


ON = IntegrationChange(onboarding=True)


@pytest.mark.usefixtures("answering")
async def test_nobody_holds_an_application_without_a_key_of_it(
    accounts: Accounts, space: Space, integrations: Integrations, network: Network
) -> None:
    left, right = await owners(accounts, space)
    squatting = await integrations.create(left, "mine", THINGS_STACK, WANTED)
    made = await integrations.create(right, "mine", THINGS_STACK, WANTED)  # two that have shown nothing
    assert (squatting.verified, made.verified) == (False, False)
    network.answer = Denied("It knows no such key.", "Make another key.")
    assert not (await integrations.test(left, squatting.id)).verifies
    with pytest.raises(Conflict, match=r"not switched on. It knows no such key. Make another key."):
        await integrations.update(left, squatting.id, ON)
    network.answer = []
    found = await integrations.update(right, made.id, ON)
    assert (found.verified, found.onboarding, found.status, found.revision) == (True, True, Status.CONNECTED, 2)
    with pytest.raises(Conflict, match="serves a profile that you do not see") as refused:
        await integrations.update(left, squatting.id, ON)
    assert "mine" not in str(refused.value)
    check = await integrations.test(left, squatting.id)
    assert (check.status, check.remedy) == (
        Status.BROKEN,
        "Make another application for this one, or delete the other's integration.",
    )
    assert not (await integrations.show(left, squatting.id)).integration.verified
    with pytest.raises(Conflict, match="serves the profile 'mine' already"):  # who sees both is told which
        await integrations.update(operator(space), squatting.id, ON)


@pytest.mark.usefixtures("answering")
async def test_who_has_an_application_keeps_it(
    accounts: Accounts, space: Space, integrations: Integrations, network: Network
) -> None:
    left, right = await owners(accounts, space)
    made = await integrations.create(left, "mine", THINGS_STACK, WANTED)
    assert (await integrations.test(left, made.id)).verifies
    found = (await integrations.show(left, made.id)).integration
    assert (found.verified, found.onboarding, found.revision) == (True, False, 1)
    network.answer = TryAgain("It does not answer.")
    assert (await integrations.test(left, made.id)).status is Status.BROKEN
    found = await integrations.update(
        left, made.id, IntegrationChange(api_key=KEY, settings=SettingsChange(class_c=True))
    )
    assert (found.verified, found.status) == (True, Status.UNCHECKED)
    network.answer = []
    on = IntegrationChange("my-app", KEY, SETTINGS, onboarding=True)
    with pytest.raises(Conflict, match="serves a profile that you do not see"):
        await integrations.create(right, "mine", THINGS_STACK, on)
    other = await integrations.create(right, "mine", THINGS_STACK, WANTED)  # of which nobody learns anything
    assert not other.verified
    moved = await integrations.update(left, made.id, IntegrationChange(application_id="other-app"))
    assert not moved.verified
    assert (await integrations.update(right, other.id, ON)).verified
    await integrations.delete(right, other.id)
    moved = await integrations.update(left, made.id, IntegrationChange(application_id="my-app", onboarding=True))
    assert moved.verified


@pytest.mark.usefixtures("answering")
async def test_onboarding_needs_all_rights(space: Space, integrations: Integrations, network: Network) -> None:
    network.answer = ["RIGHT_APPLICATION_DEVICES_WRITE_KEYS"]
    wanted = IntegrationChange("my-app", KEY, SETTINGS, onboarding=True)
    with pytest.raises(Conflict, match="tick “Edit device keys in application”"):
        await integrations.create(operator(space), "lora", THINGS_STACK, wanted)
    made = await integrations.create(operator(space), "lora", THINGS_STACK, WANTED)
    assert (await integrations.test(operator(space), made.id)).status is Status.CONNECTED  # for uplinks it will do
    with pytest.raises(Conflict, match="tick “Edit device keys in application”"):
        await integrations.update(operator(space), made.id, ON)
    found = (await integrations.show(operator(space), made.id)).integration
    assert (found.verified, found.onboarding, found.revision, await fields_of(space)) == (False, False, 1, {})
    network.answer = []
    assert (await integrations.update(operator(space), made.id, ON)).verified
    asked = len(network.connected)
    await integrations.update(operator(space), made.id, IntegrationChange(auto_import=True, onboarding=True))
    assert len(network.connected) == asked  # it is on
    network.answer = TryAgain("It does not answer.")
    with pytest.raises(Conflict, match="does not answer"):
        await integrations.update(operator(space), made.id, IntegrationChange(application_id="other-app"))


async def test_nobody_reaches_another_s(accounts: Accounts, space: Space, integrations: Integrations) -> None:
    tree = await Tree.grow(accounts)
    allowed = (Permission.PROFILES_MANAGE, Permission.PROFILES_VIEW, Permission.DEVICES_VIEW)
    left, right = only(tree.left.id, *allowed), only(tree.right.id, *allowed)
    await Profiles(space.database, space.keys, tree.left.id).create_keyless(ProfileChange(name="one"))
    made = await integrations.create(left, "one", THINGS_STACK, WANTED)
    assert await integrations.list_(right) == []
    assert await integrations.list_(operator(space), organization=tree.left.id) == [made]
    for refused in (
        integrations.show(right, made.id),
        integrations.update(right, made.id, IntegrationChange(onboarding=True)),
        integrations.delete(right, made.id),
        integrations.test(right, made.id),
        integrations.make_webhook(right, made.id),
        integrations.devices(right, made.id),
        integrations.create(right, "one", THINGS_STACK, WANTED),
        integrations.create(right, "one", THINGS_STACK, WANTED, tree.left.id),
    ):
        with pytest.raises(NotFound):
            await refused
    looking = only(tree.left.id, Permission.PROFILES_VIEW)
    assert await integrations.list_(looking) == [made]
    for forbidden in (
        integrations.update(looking, made.id, IntegrationChange(onboarding=True)),
        integrations.test(looking, made.id),
        integrations.make_webhook(looking, made.id),
        integrations.list_(only(tree.left.id, Permission.DEVICES_VIEW)),
        integrations.device(looking, "sensor-1"),
    ):
        with pytest.raises(Forbidden):
            await forbidden


async def test_other_addresses_need_the_key_again(space: Space, integrations: Integrations) -> None:
    made = await integrations.create(operator(space), "lora", THINGS_STACK, WANTED)
    for settings in (SettingsChange(join_server="evil.example"), SettingsChange(mqtt_address="evil.example")):
        with pytest.raises(Invalid, match=r"not given for evil\.example"):
            await integrations.update(operator(space), made.id, IntegrationChange(settings=settings))
    settings = SettingsChange(join_server="join.example")
    changed = await integrations.update(operator(space), made.id, IntegrationChange(api_key=KEY, settings=settings))
    back = SettingsChange(join_server="stack.example", class_c=True)
    changed = await integrations.update(operator(space), made.id, IntegrationChange(settings=back))
    assert changed.revision == 3


async def test_a_change_was_meant_for_what_was_seen(space: Space, integrations: Integrations) -> None:
    made = await integrations.create(operator(space), "lora", THINGS_STACK, WANTED)
    change = IntegrationChange(claim_proof=ClaimProof.OWNER_TOKEN, lorawan_profile_id="000af8be")
    changed = await integrations.update(operator(space), made.id, change, 1)
    assert (changed.claim_proof, changed.lorawan_profile_id) == (ClaimProof.OWNER_TOKEN, "000AF8BE")
    with pytest.raises(Stale):
        await integrations.update(operator(space), made.id, change, 1)
    with pytest.raises(Stale):
        await integrations.delete(operator(space), made.id, 1)
    assert (await integrations.update(operator(space), made.id, IntegrationChange(lorawan_profile_id=""))).revision == 3
    with pytest.raises(Invalid, match=r"lorawanProfileId.*7"):
        await integrations.update(operator(space), made.id, IntegrationChange(lorawan_profile_id="000AFBE"))


async def test_devices_hold_their_application(space: Space, integrations: Integrations) -> None:
    made = await integrations.create(operator(space), "lora", THINGS_STACK, WANTED)
    moving = await put(space, made, NetworkState.WAITING)
    with pytest.raises(Conflict, match="1 devices are in the application"):
        await integrations.update(operator(space), made.id, IntegrationChange(application_id="other-app"))
    with pytest.raises(Conflict, match="on their way"):
        await integrations.delete(operator(space), made.id, forget=True)
    async with space.database.connection() as connection:
        assert await network_devices.change(connection, moving.device_id, {"state": NetworkState.ONBOARDED})
    assert (await integrations.show(operator(space), made.id)).devices == {NetworkState.ONBOARDED: 1}
    with pytest.raises(Conflict, match="forget"):
        await integrations.delete(operator(space), made.id)
    await integrations.delete(operator(space), made.id, forget=True)
    assert await space.value("SELECT count(*) FROM network_device") == 0
    detail = await space.value("SELECT detail FROM audit WHERE action = 'integration.deleted'")
    assert detail["forgotten"] == 1


async def test_the_devices_of_an_integration(space: Space, integrations: Integrations) -> None:
    made = await integrations.create(operator(space), "lora", THINGS_STACK, WANTED)
    put_ = [
        await put(space, made, state, number)
        for number, state in enumerate((NetworkState.ONBOARDED, NetworkState.FAILED, NetworkState.ONBOARDED), 1)
    ]
    expected = sorted(each.device_id for each in put_)
    found = await integrations.devices(operator(space), made.id)
    assert [each.device_id for each in found] == expected
    assert [each.device_id for each in await integrations.devices(operator(space), made.id, expected[0], 1)] == [
        expected[1]
    ]
    (failed,) = await integrations.devices(operator(space), made.id, state=NetworkState.FAILED)
    assert failed.dev_eui == "0000000000000002"


async def test_how_a_device_stands(space: Space, integrations: Integrations) -> None:
    made = await integrations.create(operator(space), "lora", THINGS_STACK, WANTED)
    device = await space.devices.create(DeviceRow(1, "sensor-1", None, gateway=False), "lora")
    with pytest.raises(NotFound, match=r"in no network.*Device EUI"):
        await integrations.device(operator(space), "sensor-1")
    there = NetworkDevice(
        device.id, made.id, "eui-1", "0" * 16, None, NetworkState.FAILED, (), "It is another's.", "Ask him.", uuid4()
    )
    at = datetime(2026, 11, 22, tzinfo=UTC)
    async with space.database.transaction() as connection:
        await network_devices.put(connection, there)
        await network_devices.saw_uplink(connection, device.id, at, -97.5, 7.25)
        await network_devices.saw_uplink(connection, device.id, at.replace(year=2025), -1, -1)
        await network_devices.saw_join(connection, device.id, at)
        await network_devices.saw_join(connection, device.id, at.replace(year=2025))
    found = await integrations.device(operator(space), device.id)
    expected = replace(there, last_join_at=at, last_uplink_at=at, rssi=-97.5, snr=7.25, device_name="sensor-1")
    assert replace(found, created_at=None, updated_at=None) == expected
    with pytest.raises(NotFound):
        await integrations.device(operator(space), "sensor-2")


async def test_names_in_a_network_are_one_device_s(space: Space, integrations: Integrations) -> None:
    made = await integrations.create(operator(space), "lora", THINGS_STACK, WANTED)
    first = await put(space, made, NetworkState.ONBOARDED)
    for other in (
        replace(first, device_id=uuid4(), dev_eui="F" * 16),
        replace(first, device_id=uuid4(), network_device_id="other"),
    ):
        with pytest.raises(UniqueViolationError):
            async with space.database.transaction() as connection:
                await network_devices.put(connection, other)
    async with space.database.transaction() as connection:
        assert await network_devices.by_eui(connection, made.id, first.dev_eui) is not None
        assert await network_devices.by_network_id(connection, made.id, first.network_device_id) is not None
        job = uuid4()
        assert not await network_devices.change(connection, first.device_id, {"error": "x"}, job_id=job)
        await network_devices.put(connection, replace(first, state=NetworkState.FAILED, made=(), job_id=job))
        assert await network_devices.change(connection, first.device_id, {"error": "x"}, job_id=job)
        assert await network_devices.by_eui(connection, made.id, first.dev_eui) is None
        await network_devices.put(connection, replace(first, device_id=uuid4()))  # what failed is in nobody's way
        await network_devices.delete(connection, first.device_id)
        assert await network_devices.get(connection, first.device_id) is None


@pytest.mark.parametrize(
    ("address", "told"),
    [("10.0.0.1", "outgoing_private"), ("http://1.1.1.1", "clear"), ("localhost:1", "outgoing_private")],
)
async def test_private_addresses_need_the_configuration(
    space: Space, network: Network, address: str, told: str
) -> None:
    integrations = Integrations(space.database, space.keys, Outgoing, network.connect)
    change = SettingsChange(lorawan_version=LorawanVersion.V1_0_3, frequency_plan="EU_863_870_TTN", address=address)
    with pytest.raises(Invalid, match=told):
        await integrations.create(operator(space), "lora", THINGS_STACK, IntegrationChange("my-app", KEY, change))
    await integrations.close()


async def local(space: Space, integrations: Integrations, url: str) -> Integration:
    """An integration with a network on this machine."""
    settings = SettingsChange(lorawan_version=LorawanVersion.V1_0_3, frequency_plan="EU_863_870_TTN", address=url)
    change = IntegrationChange("my-app", KEY, settings)
    return await integrations.create(operator(space), "lora", THINGS_STACK, change)


async def test_a_test_says_that_all_is_well(space: Space, integrations: Integrations, network: Network) -> None:
    async with serving(Endpoint()) as endpoint:
        made = await local(space, integrations, endpoint.url.removesuffix("/in"))
        check = await integrations.test(operator(space), made.id)
    assert (check.status, check.error, check.remedy, check.missing) == (Status.CONNECTED, None, None, [])
    assert [each.name for each in check.components] == [
        "identityServer",
        "networkServer",
        "joinServer",
        "applicationServer",
    ]
    assert {each.error for each in check.components} == {None}
    assert network.connected == [("my-app", made.settings, KEY)]
    assert "Authorization" not in endpoint.headers
    found = (await integrations.show(operator(space), made.id)).integration
    assert (found.status, found.error, found.revision) == (Status.CONNECTED, None, 1)
    assert found.checked_at is not None
    changed = await integrations.update(operator(space), made.id, IntegrationChange(auto_import=True))
    assert changed.status is Status.CONNECTED
    changed = await integrations.update(operator(space), made.id, IntegrationChange(api_key=KEY))
    assert (changed.status, changed.checked_at) == (Status.UNCHECKED, None)


@pytest.mark.parametrize(
    ("answer", "error", "remedy"),
    [
        (["RIGHT_APPLICATION_DEVICES_WRITE_KEYS"], "lacks", "tick “Edit device keys in application”"),
        (TryAgain("It does not answer."), "It does not answer.", "test again"),
        (Denied("It knows no such key.", "Make another key."), "It knows no such key.", "Make another key."),
    ],
)
async def test_a_test_says_what_is_wrong(
    space: Space,
    integrations: Integrations,
    network: Network,
    answer: list[str] | Exception,
    error: str,
    remedy: str,
) -> None:
    async with serving(Endpoint()) as endpoint:
        made = await local(space, integrations, endpoint.url.removesuffix("/in"))
        await integrations.update(operator(space), made.id, ON)
        network.answer = answer
        check = await integrations.test(operator(space), made.id)
    assert check.status is Status.BROKEN
    assert error in (check.error or "")
    assert remedy in (check.remedy or "")
    found = (await integrations.show(operator(space), made.id)).integration
    assert (found.status, found.error) == (Status.BROKEN, check.error)


async def test_a_test_names_who_does_not_answer(space: Space, integrations: Integrations) -> None:
    async with serving(Endpoint()) as endpoint, serving(Endpoint()) as gone:
        gone.status = lambda _: 503
        made = await local(space, integrations, endpoint.url.removesuffix("/in"))
        settings = SettingsChange(join_server=gone.url.removesuffix("/in"))
        await integrations.update(operator(space), made.id, IntegrationChange(api_key=KEY, settings=settings))
        check = await integrations.test(operator(space), made.id)
    assert {each.name: each.error for each in check.components if each.error} == {"joinServer": "it answers 503"}
    assert "joinServer" in (check.error or "")


async def test_rights_are_for_onboarding(space: Space, integrations: Integrations, network: Network) -> None:
    network.answer = ["RIGHT_APPLICATION_DEVICES_WRITE"]
    async with serving(Endpoint()) as endpoint:
        made = await local(space, integrations, endpoint.url.removesuffix("/in"))
        check = await integrations.test(operator(space), made.id)
    assert (check.status, [each.title for each in check.missing]) == (
        Status.CONNECTED,
        ["Create devices in application"],
    )


async def test_the_things_stack_says_which_rights_are_missing(
    space: Space,
) -> None:
    async with ThingsStack() as stack:
        stack.application("my-app")
        lacking = ("RIGHT_APPLICATION_DEVICES_WRITE", "RIGHT_APPLICATION_DEVICES_READ_KEYS")
        key = stack.api_key("my-app", [right for right in SEED_RIGHTS if right not in lacking])
        integrations = Integrations(space.database, space.keys, client)
        settings = SettingsChange(
            lorawan_version=LorawanVersion.V1_0_3,
            frequency_plan="EU_863_870_TTN",
            identity_server=stack.addresses["identityServer"],
            network_server=stack.addresses["networkServer"],
            join_server=stack.addresses["joinServer"],
            application_server=stack.addresses["applicationServer"],
        )
        change = IntegrationChange("my-app", key, settings)
        made = await integrations.create(operator(space), "lora", THINGS_STACK, change)
        check = await integrations.test(operator(space), made.id)
        assert not check.verifies
        with pytest.raises(Conflict, match="“View device keys in application”"):
            await integrations.update(operator(space), made.id, ON)
        assert {each.title for each in check.missing} == {
            "Create devices in application",
            "View device keys in application",
        }
        await integrations.update(
            operator(space), made.id, IntegrationChange(api_key=stack.api_key("my-app"), onboarding=True)
        )
        check = await integrations.test(operator(space), made.id)
        assert (check.status, check.error, check.missing) == (Status.CONNECTED, None, [])
        deaf = stack.api_key("my-app", [right for right in SEED_RIGHTS if right != TRAFFIC_READ])
        await integrations.update(operator(space), made.id, IntegrationChange(api_key=deaf, onboarding=False))
        await integrations.update(operator(space), made.id, ON)  # as uplinks may come by a webhook
        check = await integrations.test(operator(space), made.id)
        assert (check.status, check.verifies) == (Status.CONNECTED, True)
        assert [(each.name, each.needed_for) for each in check.missing] == [(TRAFFIC_READ, "uplinks")]
        await integrations.close()


async def test_chirpstack_knows_its_application(space: Space) -> None:
    async with ChirpStack() as chirpstack:
        settings = SettingsChange(
            lorawan_version=LorawanVersion.V1_0_3,
            address=chirpstack.url,
            device_profile_id=chirpstack.device_profile("sensor"),
        )
        change = IntegrationChange(chirpstack.application("my-app"), chirpstack.api_key(), settings, onboarding=True)
        integrations = Integrations(space.database, space.keys, client)
        made = await integrations.create(operator(space), "lora", NetworkKind.CHIRPSTACK, change)
        check = await integrations.test(operator(space), made.id)
        assert (check.status, check.error) == (Status.CONNECTED, None)
        await integrations.update(operator(space), made.id, IntegrationChange(api_key="eyJ0.unknown"))
        check = await integrations.test(operator(space), made.id)
        assert check.status is Status.BROKEN
        assert check.remedy
        assert "eyJ0" not in str(check)
        await integrations.close()


async def test_a_webhook_has_a_secret(space: Space, integrations: Integrations) -> None:
    made = await integrations.create(operator(space), "lora", THINGS_STACK, WANTED)
    _, first = await integrations.make_webhook(operator(space), made.id)
    _, second = await integrations.make_webhook(operator(space), made.id)
    assert len({first, second}) == 2
    async with space.database.connection() as connection:
        sealed = await store.sealed_webhook(connection, made.id)
    assert sealed is not None
    assert module.opened_secret(space.keys, made.id, sealed) == second
    assert (await integrations.show(operator(space), made.id)).webhook
    shown = str(await space.rows("SELECT detail FROM audit")) + str(await space.rows("SELECT * FROM integration"))
    assert second not in shown


async def test_what_an_operator_should_know(space: Space, integrations: Integrations) -> None:
    made = await integrations.create(operator(space), "lora", THINGS_STACK, WANTED)
    assert module.warnings(made) == []
    (warning,) = module.warnings(replace(made, onboarding=True))
    assert "Profile ID" in warning
    (warning,) = module.warnings(replace(made, onboarding=True, lorawan_profile_id="000AF8BE"))
    assert "claimProof" in warning
    owned = replace(made, onboarding=True, lorawan_profile_id="000AF8BE", claim_proof=ClaimProof.OWNER_TOKEN)
    assert module.warnings(owned) == []


async def test_a_profile_takes_its_integration_along(space: Space, integrations: Integrations) -> None:
    made = await integrations.create(operator(space), "lora", THINGS_STACK, WANTED)
    await space.profiles.delete("lora")
    with pytest.raises(NotFound):
        await integrations.show(operator(space), made.id)


async def test_what_is_needed_is_named(space: Space, integrations: Integrations) -> None:
    for change in (IntegrationChange(), IntegrationChange(application_id="my-app", settings=SETTINGS)):
        with pytest.raises(Invalid, match="apiKey"):
            await integrations.create(operator(space), "lora", THINGS_STACK, change)
    with pytest.raises(NotFound, match="profile"):
        await integrations.create(operator(space), "unknown", THINGS_STACK, WANTED)
    with pytest.raises(NotFound):
        await integrations.show(operator(space), UUID(int=1))
