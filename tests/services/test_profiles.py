import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from provserver.core.ids import ALPHANUMERIC
from provserver.core.model import (
    ChainRules,
    Datastream,
    DeviceProfile,
    KeyBudget,
    MetadataField,
    NameSource,
    ProvisionStrategy,
    ReprovisionPolicy,
)
from provserver.core.profilechange import UNPROVEN
from provserver.errors import Conflict, Invalid, NotFound, Refused, Stale
from provserver.services.profiles import NO_AUTHORITY, KeyPair, ProfileChange, Profiles
from provserver.services.provisioning import Provisioning
from tests import pki
from tests.chains import DEVICE, FACTORY, OTHER, ROOT
from tests.conftest import Space
from tests.pki import Authority, days
from tests.services.conftest import Fleet, Locking, contents
from tests.services.ownership import Estate

ALLOW = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES
SENSORS = ProfileChange(name="sensors", strategy=ALLOW)
TODAY = datetime(2026, 11, 22, tzinfo=UTC)
LAST = datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-12)))
NETWORKS = tuple(ip_network(f"10.{n}.0.0/16") for n in range(101))
EXAMPLES = {file.stem: file.read_bytes() for file in (Path(__file__).parents[2] / "config/profiles").glob("*.toml")}


def file_of(name: str = "new", strategy: str = "disabled", **tables: str) -> bytes:
    lines = [f'name = "{name}"\nstrategy = "{strategy}"', *(f"[[{key}]]\n{text}" for key, text in tables.items())]
    return ("\n".join(lines) + "\n").encode()


async def audited(space: Space) -> list[tuple[str, str, dict[str, Any]]]:
    rows = await space.rows("SELECT action, actor, subject_id, detail, organization_id FROM audit ORDER BY at, id")
    assert {row["organization_id"] for row in rows} <= {space.organization_id}
    return [(row["action"], row["actor"], row["detail"] | {"subject": row["subject_id"]}) for row in rows]


async def make_tokens(space: Space, profile: DeviceProfile, *metadata: dict[str, str]) -> None:
    for values in metadata:
        await space.rows(
            "INSERT INTO static_token (id, organization_id, profile_id, id_digest, sealed, qr_digest, qr_sealed,"
            " metadata) VALUES ($1, $2, $3, $4, '', $4, '', $5)",
            (id_ := uuid4()),
            space.organization_id,
            profile.id,
            id_.bytes,
            values,
        )


async def taken(space: Space) -> list[tuple[str, str]]:
    rows = await space.rows("SELECT field, value FROM static_token_value ORDER BY field, value")
    return [(row["field"], row["value"]) for row in rows]


async def test_a_profile_has_what_it_was_given(space: Space) -> None:
    fields = (MetadataField("serial"), MetadataField("rack", "number"))
    streams = (Datastream("temperature", "V1", "double", -40, 125.5), Datastream("state", "V2", "string"))

    profile, pair = await space.profiles.create(
        ProfileChange(name="  sensors ", strategy=ALLOW, metadata_fields=fields, datastreams=streams), "key", "secret"
    )

    assert (profile.name, profile.strategy, profile.reprovision_policy) == ("sensors", ALLOW, ReprovisionPolicy.DENY)
    assert (profile.metadata_fields, profile.datastreams) == (fields, streams)
    assert profile.organization_id == space.organization_id
    assert (pair.key, pair.secret) == ("key", "secret")
    shown = await space.profiles.show("sensors")
    assert shown.profile.metadata_fields == fields
    assert shown.profile.datastreams == streams
    assert (shown.keys, shown.device_count, shown.warnings) == (("key",), 0, [])
    assert abs((shown.profile.created_at - profile.created_at).total_seconds()) < 3600


async def test_a_profile_is_disabled_unless_it_is_told_otherwise(space: Space) -> None:
    profile, _ = await space.profiles.create(ProfileChange(name="sensors"))

    assert profile.strategy is ProvisionStrategy.DISABLED


async def test_what_is_not_given_is_generated(space: Space) -> None:
    made = [await space.profiles.create(ProfileChange(name=f"p{n}")) for n in range(3)]

    for profile, pair in made:
        assert profile.template_id.startswith("TMPL")
        assert len(profile.template_id) == 13
        assert (len(pair.key), len(pair.secret)) == (20, 32)
        assert set(pair.key + pair.secret) <= set(ALPHANUMERIC)
    assert len({pair.key for _, pair in made} | {pair.secret for _, pair in made}) == 6
    assert len({profile.template_id for profile, _ in made}) == 3


async def test_a_profile_is_found_by_name_template_id_and_id(space: Space) -> None:
    profile, _ = await space.profiles.create(SENSORS)

    for reference in ("sensors", profile.template_id, str(profile.id)):
        assert (await space.profiles.show(reference)).profile.id == profile.id


async def test_a_name_goes_before_an_id(space: Space) -> None:
    first, _ = await space.profiles.create(SENSORS)
    second, _ = await space.profiles.create(ProfileChange(name=str(first.id)))
    third, _ = await space.profiles.create(ProfileChange(name=first.template_id))

    assert (await space.profiles.show(str(first.id))).profile.id == second.id
    assert (await space.profiles.show(first.template_id)).profile.id == third.id


async def test_all_are_listed_by_name(space: Space) -> None:
    assert await space.profiles.all() == []
    for name in ("b", "c", "a"):
        await space.profiles.create(ProfileChange(name=name))

    assert [profile.name for profile in await space.profiles.all()] == ["a", "b", "c"]


async def test_the_secret_is_kept_sealed_and_shown_to_who_asks(space: Space) -> None:
    _, pair = await space.profiles.create(SENSORS)
    added = await space.profiles.add_key("sensors", "second", "s")

    assert await space.profiles.secrets("sensors") == [pair, added]
    assert pair.secret not in repr(pair)
    assert pair.secret not in repr(await space.profiles.show("sensors"))
    assert pair.secret.encode() not in repr(await contents(space)).encode()


async def test_a_sealed_secret_does_not_open_under_another_key(space: Space) -> None:
    await space.profiles.create(SENSORS, "mine", "secret")
    await space.rows("UPDATE provision_key SET key = 'stolen'")

    with pytest.raises(ValueError, match="sealed"):
        await space.profiles.secrets("sensors")


async def test_only_what_is_given_is_changed(space: Space) -> None:
    profile, _ = await space.profiles.create(
        ProfileChange(name="sensors", strategy=ALLOW, metadata_fields=[MetadataField("serial")])
    )

    renamed = await space.profiles.update("sensors", ProfileChange(name="meters"))
    disabled = await space.profiles.update("meters", ProfileChange(strategy=ProvisionStrategy.DISABLED))
    cleared = await space.profiles.update("meters", ProfileChange(metadata_fields=[]))

    assert (renamed.name, renamed.strategy, renamed.metadata_fields) == ("meters", ALLOW, profile.metadata_fields)
    assert (disabled.name, disabled.strategy) == ("meters", ProvisionStrategy.DISABLED)
    assert cleared.metadata_fields == ()
    shown = (await space.profiles.show("meters")).profile
    assert (shown.id, shown.template_id) == (profile.id, profile.template_id)
    assert (shown.name, shown.strategy, shown.metadata_fields) == ("meters", ProvisionStrategy.DISABLED, ())


async def test_every_change_gives_a_new_revision(space: Space) -> None:
    await space.profiles.create(SENSORS)
    revisions = [(await space.profiles.show("sensors")).profile.revision]

    for change in (
        space.profiles.update("sensors", ProfileChange(strategy=ProvisionStrategy.DISABLED)),
        space.profiles.update("sensors", ProfileChange()),
        space.profiles.add_key("sensors", "second"),
        space.profiles.remove_key("sensors", "second"),
    ):
        await change
        revisions.append((await space.profiles.show("sensors")).profile.revision)

    assert len(set(revisions)) == 5
    assert revisions == sorted(revisions)


@pytest.mark.parametrize(
    "policy", [ReprovisionPolicy.UNTIL_FIRST_USE, ReprovisionPolicy.RETURN_SAME, ReprovisionPolicy.ROTATE]
)
async def test_unproven_repeats_need_to_be_accepted(space: Space, policy: ReprovisionPolicy) -> None:
    risky = ProfileChange(name="risky", reprovision_policy=policy)
    with pytest.raises(Refused, match="--accept-unproven-repeats"):
        await space.profiles.create(risky)
    await space.profiles.create(SENSORS)
    with pytest.raises(Refused, match="--accept-unproven-repeats"):
        await space.profiles.update("sensors", ProfileChange(reprovision_policy=policy))
    assert [profile.reprovision_policy for profile in await space.profiles.all()] == [ReprovisionPolicy.DENY]

    await space.profiles.update("sensors", ProfileChange(reprovision_policy=policy, accept_unproven_repeats=True))

    assert (await space.profiles.show("sensors")).warnings == [UNPROVEN]
    # What was accepted once need not be again, and deny needs no word.
    await space.profiles.update("sensors", ProfileChange(name="meters", reprovision_policy=policy))
    await space.profiles.update("meters", ProfileChange(reprovision_policy=ReprovisionPolicy.DENY))
    assert (await space.profiles.show("meters")).warnings == []


async def test_keys_are_added_and_removed(space: Space) -> None:
    _, first = await space.profiles.create(SENSORS)

    second = await space.profiles.add_key("sensors")
    third = await space.profiles.add_key("sensors", "third", "secret")

    assert third == KeyPair("third", "secret")
    assert (await space.profiles.show("sensors")).keys == (first.key, second.key, "third")
    await space.profiles.remove_key("sensors", first.key)
    await space.profiles.remove_key("sensors", second.key)
    await space.profiles.remove_key("sensors", "third")
    assert (await space.profiles.show("sensors")).keys == ()


async def test_a_deleted_profile_takes_its_keys_along(space: Space) -> None:
    _, pair = await space.profiles.create(SENSORS)

    assert (await space.profiles.delete("sensors")).name == "sensors"

    assert await space.profiles.all() == []
    await space.profiles.create(SENSORS, pair.key, pair.secret)  # name and key are free again


@pytest.mark.parametrize(
    ("method", "args", "fix"),
    [
        ("show", ("nothing",), "Look in the list of profiles"),
        ("secrets", ("nothing",), "Look in the list of profiles"),
        ("update", ("nothing", ProfileChange()), "Look in the list of profiles"),
        ("delete", ("nothing",), "Look in the list of profiles"),
        ("add_key", ("nothing",), "Look in the list of profiles"),
        ("remove_key", ("nothing", "key"), "Look in the list of profiles"),
        ("remove_key", ("sensors", "no such key"), "Look at those that it has"),
        ("create", (SENSORS,), "Choose another name"),
        ("create", (ProfileChange(name="new"), "taken"), "Choose another"),
        ("create", (ProfileChange(name=""),), "1-255 printable characters"),
        ("create", (ProfileChange(name=" \t"),), "1-255 printable characters"),
        ("create", (ProfileChange(),), "1-255 printable characters"),
        ("create", (ProfileChange(name="a\x1bb"),), "1-255 printable characters"),
        ("create", (ProfileChange(name="x" * 256),), "1-255 printable characters"),
        ("create", (ProfileChange(name="new"), ""), "key must be 1-255 printable characters"),
        ("create", (ProfileChange(name="new"), "x" * 256), "key must be 1-255 printable characters"),
        ("create", (ProfileChange(name="new"), "a\nb"), "key must be 1-255 printable characters"),
        ("create", (ProfileChange(name="new"), "k", ""), "secret must be 1-255 printable characters"),
        ("create", (ProfileChange(name="new"), "k", "pl4nted\0"), "secret must be 1-255 printable characters"),
        ("create", (ProfileChange(name="new", metadata_fields=[MetadataField("a")] * 2),), "'a' is there twice"),
        ("create", (ProfileChange(name="new", datastreams=[Datastream("a", "V1")] * 2),), "'a' is there twice"),
        ("add_key", ("meters", "taken"), "Choose another"),
        ("add_key", ("sensors", "taken"), "Choose another"),
        ("add_key", ("sensors", "k", "pl4nted\x7f"), "secret must be 1-255 printable characters"),
        ("update", ("sensors", ProfileChange(name="meters")), "Choose another name"),
        ("update", ("sensors", ProfileChange(name="")), "1-255 printable characters"),
        ("update", ("sensors", ProfileChange(metadata_fields=[MetadataField("a", "nmuber")])), "Did you mean 'number'"),
        ("update", ("sensors", ProfileChange(metadata_fields=[MetadataField("a", "list")])), "needs options"),
        ("update", ("sensors", ProfileChange(datastreams=[Datastream("a", "GPIO4")])), "no pin: V0 to V255"),
        ("clone", ("nothing", "new"), "Look in the list of profiles"),
        ("clone", ("sensors", "meters"), "Choose another name"),
        ("clone", ("sensors", "a\0"), "1-255 printable characters"),
        ("export", ("nothing",), "Look in the list of profiles"),
        ("import_", (b"name = 1",), "The file is no profile: name: expected `str`"),
        ("import_", (file_of(name="meters"),), "Choose another name"),
        ("import_", (file_of(metadata_field='name = "a"\ntype = "b"'),), "The metadata field 'a': there is no type"),
        ("import_", (file_of(datastream='name = "a"\npin = "b"'),), "'b' is no pin"),
        ("import_", (file_of(strategy="allow-create") + b"[certificate_chain]\nallow_create = false",), "x509-chain"),
        ("add_key", ("sensors", None, None, KeyBudget(not_before=datetime(2027, 1, 1))), "needs a time zone"),  # noqa: DTZ001
        ("add_key", ("sensors", None, None, KeyBudget(TODAY, TODAY)), "become valid before it expires"),
        ("add_key", ("sensors", None, None, KeyBudget(networks=NETWORKS)), "100 networks at most"),
        ("add_key", ("sensors", None, None, KeyBudget(not_after=LAST)), "years 1970 to 9998"),
        ("add_key", ("sensors", None, None, KeyBudget(max_uses=0)), "1 to 1,000,000,000 uses; leave it out"),
        ("add_key", ("sensors", None, None, KeyBudget(per_minute=10**9 + 1)), "uses a minute; leave it out"),
        ("set_budget", ("sensors", "another", KeyBudget()), "has no such provision key"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_the_fix_and_changes_nothing(
    space: Space, method: str, args: tuple[Any, ...], fix: str
) -> None:
    await space.profiles.create(SENSORS, "taken", "secret")
    await space.profiles.create(ProfileChange(name="meters"))
    before = await contents(space)

    with pytest.raises(Refused, match=fix) as raised:
        await getattr(space.profiles, method)(*args)

    assert "pl4nted" not in str(raised.value)
    assert await contents(space) == before


async def test_a_profile_with_devices_is_not_deleted(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")

    with pytest.raises(Refused, match=r"has 1 devices\. Delete them first"):
        await fleet.space.profiles.delete("sensors")

    assert (await fleet.space.profiles.show("sensors")).device_count == 1


async def test_a_profile_that_gets_a_device_meanwhile_is_not_deleted(fleet: Fleet, lock: Locking) -> None:
    """The device is being made, but not committed, when the profile is to be deleted."""
    await fleet.ask("sensor-1")
    await fleet.space.devices.delete("sensor-1")
    async with lock(
        "INSERT INTO device (id, organization_id, profile_id, name) VALUES ($1, $2, $3, 'sensor-2')",
        uuid4(),
        fleet.space.organization_id,
        fleet.profile.id,
    ) as held:
        making = asyncio.create_task(fleet.ask("sensor-2"))
        await held.until_waiting()
        deleting = asyncio.create_task(fleet.space.profiles.delete("sensors"))
        while len(await held.waiters()) < 2 and not deleting.done():
            pass

    assert (await making)["status"] == "SUCCESS"
    with pytest.raises(Refused, match=r"Delete them first|Try again"):
        await deleting
    assert (await fleet.space.devices.show("sensor-2")).device.profile == "sensors"


async def test_of_a_name_made_twice_at_once_one_is_made(space: Space) -> None:
    made = await asyncio.gather(*(space.profiles.create(SENSORS) for _ in range(8)), return_exceptions=True)

    assert sum(isinstance(each, tuple) for each in made) == 1
    assert sum(isinstance(each, Refused) for each in made) == 7
    assert await space.value("SELECT count(*) FROM provision_key") == 1


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda p: p.show("nothing"), NotFound),
        (lambda p: p.remove_key("sensors", "nothing"), NotFound),
        (lambda p: p.create(SENSORS), Conflict),
        (lambda p: p.add_key("sensors", "taken"), Conflict),
        (lambda p: p.update("sensors", ProfileChange(name="")), Invalid),
        (lambda p: p.update("sensors", ProfileChange(metadata_fields=[MetadataField("")])), Invalid),
        (lambda p: p.import_(b""), Invalid),
    ],
    ids=range(7),
)
async def test_programs_are_told_what_kind_of_refusal_it_is(
    space: Space, call: Callable[[Profiles], Any], kind: type[Refused]
) -> None:
    await space.profiles.create(SENSORS, "taken")
    with pytest.raises(Refused) as raised:
        await call(space.profiles)
    assert type(raised.value) is kind


# Revisions


async def test_a_change_may_rest_on_a_revision(space: Space) -> None:
    made, _ = await space.profiles.create(SENSORS)

    changed = await space.profiles.update("sensors", ProfileChange(two_sided_claim=True), made.revision)

    assert changed.revision > made.revision
    assert (await space.profiles.show("sensors")).profile == changed
    before = await contents(space)
    for call in (
        space.profiles.update("sensors", ProfileChange(name="meters"), made.revision),
        space.profiles.delete("sensors", made.revision),
    ):
        with pytest.raises(Stale, match="has changed meanwhile"):
            await call
    assert await contents(space) == before
    await space.profiles.delete("sensors", changed.revision)


async def test_of_changes_that_rest_on_one_revision_one_is_made(space: Space) -> None:
    made, _ = await space.profiles.create(SENSORS)

    done = await asyncio.gather(
        *(space.profiles.update(str(made.id), ProfileChange(name=f"p{n}"), made.revision) for n in range(6)),
        return_exceptions=True,
    )

    assert sum(isinstance(each, Stale) for each in done) == 5


# Copies


FULL = ProfileChange(
    name="full",
    strategy=ProvisionStrategy.X509_CERTIFICATE_CHAIN,
    reprovision_policy=ReprovisionPolicy.ROTATE,
    accept_unproven_repeats=True,
    metadata_fields=(MetadataField("Model", "list", options=("a", "b"), default="a"), MetadataField("S", unique=True)),
    datastreams=(Datastream("t", "V1", "double", -40.0, 125.5), Datastream("x", "V2", "string")),
    authorities=[ROOT.der],
    name_from=NameSource.SAN_DNS,
    name_pattern=r"^([^.]+)\.",
    allow_create=False,
    two_sided_claim=True,
)


def same(copy: DeviceProfile, original: DeviceProfile) -> bool:
    own = {"id", "name", "template_id", "revision", "created_at"}
    return {f for f in copy.__slots__ if getattr(copy, f) != getattr(original, f)} <= own


async def test_a_clone_is_alike_but_for_what_is_its_own(space: Space) -> None:
    original, _ = await space.profiles.create(FULL)

    made = await space.profiles.clone("full", " copy ")

    shown = await space.profiles.show("copy")
    assert made == replace(shown.profile, created_at=made.created_at)
    assert same(made, original)
    assert made.name == "copy"
    assert {made.id, made.template_id}.isdisjoint({original.id, original.template_id})
    assert (shown.keys, shown.authorities, shown.device_count) == ((), (), 0)


async def test_an_export_is_imported_again(space: Space) -> None:
    original, pair = await space.profiles.create(FULL, "pl4nted-key", "pl4nted-secret")
    text = await space.profiles.export("full")
    assert "pl4nted" not in text
    assert original.template_id not in text

    with pytest.raises(Conflict):
        await space.profiles.import_(text.encode(), accept_unproven_repeats=True)
    with pytest.raises(Invalid, match="--accept-unproven-repeats"):
        await space.profiles.import_(text.encode(), name="again")
    made = await space.profiles.import_(text.encode(), name="again", accept_unproven_repeats=True)

    assert same(made, original)
    assert await space.profiles.export("again") == text.replace('"full"', '"again"')
    assert (await space.profiles.show("again")).keys == ()
    assert await space.profiles.secrets("full") == [pair]


async def test_a_dry_run_keeps_nothing(space: Space) -> None:
    before = await contents(space)

    made = await space.profiles.import_(file_of(), dry_run=True)

    assert (made.name, made.strategy) == ("new", ProvisionStrategy.DISABLED)
    assert await contents(space) == before
    await space.profiles.import_(file_of())
    with pytest.raises(Conflict):
        await space.profiles.import_(file_of(), dry_run=True)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
async def test_the_examples_are_imported(space: Space, name: str) -> None:
    made = await space.profiles.import_(EXAMPLES[name])

    assert made.metadata_fields
    assert made.datastreams
    assert (await space.profiles.clone(made.name, "copy")).metadata_fields == made.metadata_fields
    assert await space.profiles.export(made.name) == (await space.profiles.export("copy")).replace("copy", made.name, 1)


# Budgets of keys


async def test_a_key_has_the_budget_it_was_given(space: Space) -> None:
    _, first = await space.profiles.create(SENSORS)
    east = timezone(timedelta(hours=9))
    budget = KeyBudget(TODAY, TODAY + timedelta(days=9), (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")))

    await space.profiles.add_key("sensors", "bounded", "s", replace(budget, not_before=TODAY.astimezone(east)))
    budget = replace(budget, max_uses=10, per_minute=3)
    await space.profiles.set_budget("sensors", "bounded", budget)
    await space.profiles.add_key("sensors", "free", "s", KeyBudget())
    await space.profiles.add_key("sensors", "once", "s", KeyBudget(networks=budget.networks[:1] * 9))

    shown = await space.profiles.show("sensors")
    assert shown.keys == (first.key, "bounded", "free", "once")
    assert shown.budgets == {"bounded": budget, "once": KeyBudget(networks=budget.networks[:1])}


async def test_an_expired_key_is_warned_of(space: Space) -> None:
    await space.profiles.create(SENSORS)
    await space.profiles.add_key("sensors", "old", None, KeyBudget(not_after=datetime(2020, 1, 1, tzinfo=UTC)))
    await space.profiles.add_key("sensors", "new", None, KeyBudget(not_after=datetime(9000, 1, 1, tzinfo=UTC)))

    assert (await space.profiles.show("sensors")).warnings == [
        "The provision key old expired on 2020-01-01: remove it."
    ]


async def test_a_device_keeps_to_its_keys_budget(fleet: Fleet) -> None:
    """The device learns nothing, the operator the reason; and it holds for what was in memory before."""
    profiles = fleet.space.profiles
    await fleet.ask("sensor-0")
    await profiles.remove_key("sensors", fleet.pair.key)
    end = TODAY + timedelta(days=1)
    await profiles.add_key(
        "sensors", fleet.pair.key, fleet.pair.secret, KeyBudget(TODAY, end, (ip_network("192.0.2.0/24"),))
    )

    now = [TODAY]
    server = Provisioning(fleet.space.database, fleet.space.keys, clock=lambda: now[0].timestamp())
    unknown = await fleet.ask("sensor-1", of=server, provisionDeviceKey="unknown")
    for now[0], reason in ((TODAY - timedelta(seconds=1), "KEY_NOT_YET_VALID"), (end, "KEY_EXPIRED")):
        assert await fleet.ask("sensor-1", of=server) == unknown
        await server.drain()
        attempt = await fleet.attempted("sensor-1", of=server)
        assert (attempt["reason"], attempt["outcome"]) == (reason, "not_found")
        assert (attempt["profile_id"], attempt["device_name"]) == (fleet.profile.id, "sensor-1")
    now[0] = TODAY
    assert (await fleet.ask("sensor-1", of=server))["status"] == "SUCCESS"
    await server.drain()

    await profiles.remove_key("sensors", fleet.pair.key)
    await profiles.add_key(
        "sensors", fleet.pair.key, fleet.pair.secret, KeyBudget(networks=(ip_network("198.51.100.0/24"),))
    )
    assert await fleet.refused("sensor-2") == "NETWORK_EXCLUDED"


# Static tokens


async def test_a_profile_with_static_tokens_is_not_deleted(space: Space) -> None:
    profile, _ = await space.profiles.create(SENSORS)
    await make_tokens(space, profile, {}, {})

    with pytest.raises(Conflict, match=r"has 2 static tokens\. Delete them first"):
        await space.profiles.delete("sensors")

    await space.rows("DELETE FROM static_token")
    await space.profiles.delete("sensors")


async def test_what_becomes_unique_is_so_for_the_tokens_that_there_are(space: Space) -> None:
    plain, unique = MetadataField("Serial"), MetadataField("Serial", unique=True)
    profile, _ = await space.profiles.create(replace(SENSORS, metadata_fields=[plain, MetadataField("Rack")]))
    other, _ = await space.profiles.create(replace(SENSORS, name="other", metadata_fields=[unique]))
    await make_tokens(space, profile, {"Serial": "1", "Rack": "a"}, {"Serial": "2", "Rack": "a"}, {"Serial": ""}, {})
    await make_tokens(space, other, {"Serial": "1"})

    await space.profiles.update("sensors", ProfileChange(metadata_fields=[unique, MetadataField("Rack")]))
    assert await taken(space) == [("Serial", "1"), ("Serial", "2")]
    await space.profiles.update("sensors", ProfileChange(metadata_fields=[unique]))
    before = await contents(space)
    with pytest.raises(Conflict, match="The metadata field 'Rack' cannot be unique: several static tokens"):
        await space.profiles.update("sensors", ProfileChange(metadata_fields=[MetadataField("Rack", unique=True)]))
    assert await contents(space) == before
    assert await taken(space) == [("Serial", "1"), ("Serial", "2")]
    await space.profiles.update("sensors", ProfileChange(metadata_fields=[plain]))
    assert await taken(space) == []


# The audit


async def test_what_is_done_is_recorded_with_who_did_it(space: Space) -> None:
    profiles = Profiles(space.database, space.keys, space.organization_id, actor="key:7")
    made, pair = await profiles.create(SENSORS, "pl4nted-key", "pl4nted-secret")
    await profiles.update("sensors", ProfileChange(name="meters", two_sided_claim=True))
    await profiles.add_key("meters", "second")
    await profiles.remove_key("meters", "second")
    copy = await space.profiles.clone("meters", "copy")
    imported = await space.profiles.import_(file_of())
    await profiles.delete("copy")

    subject, renamed = {"name": "sensors", "subject": str(made.id)}, {"name": "meters", "subject": str(made.id)}
    assert await audited(space) == [
        ("profile.created", "key:7", subject),
        ("provision_key.added", "key:7", subject | {"hint": "pl4n"}),
        ("profile.updated", "key:7", renamed | {"changed": ["name", "two_sided_claim"]}),
        ("provision_key.added", "key:7", renamed | {"hint": "seco"}),
        ("provision_key.removed", "key:7", renamed | {"hint": "seco"}),
        ("profile.created", "operator", {"name": "copy", "subject": str(copy.id), "clone_of": str(made.id)}),
        ("profile.created", "operator", {"name": "new", "subject": str(imported.id)}),
        ("profile.deleted", "key:7", {"name": "copy", "subject": str(copy.id)}),
    ]
    assert pair.secret not in str(await audited(space))


async def test_the_audit_says_that_trust_has_changed(space: Space) -> None:
    await space.profiles.create_keyless(CHAIN)
    await space.profiles.update("chain", ProfileChange(forget_crls=True))

    assert (await audited(space))[-1][2]["changed"] == ["authorities"]


async def test_what_is_refused_is_not_recorded(space: Space) -> None:
    await space.profiles.create(SENSORS)
    before = await audited(space)
    for call in (space.profiles.create(SENSORS), space.profiles.clone("sensors", "sensors")):
        with pytest.raises(Conflict):
            await call

    assert await audited(space) == before


# Certificate chains


CHAIN = ProfileChange(name="chain", strategy=ProvisionStrategy.X509_CERTIFICATE_CHAIN, authorities=[ROOT.der])


async def trusted(space: Space, name: str = "chain") -> list[tuple[str, int | None]]:
    """Each CA's subject, and how many it has revoked."""
    return sorted((each.subject, each.revoked) for each in (await space.profiles.show(name)).authorities)


async def test_a_chain_profile_has_its_rules_and_needs_no_key(space: Space) -> None:
    plain = await space.profiles.create_keyless(CHAIN)
    assert plain.chain == ChainRules(NameSource.CN, "(.*)", allow_create=True)
    assert (await space.profiles.show("chain")).keys == ()

    given = replace(
        CHAIN,
        name="other",
        authorities=[OTHER.pem.encode(), FACTORY.der],
        crls=[FACTORY.crl(DEVICE)],
        name_from=NameSource.SAN_DNS,
        name_pattern="^([^.]+)",
        allow_create=False,
    )
    made, pair = await space.profiles.create(given)

    shown = await space.profiles.show("other")
    assert made.chain == shown.profile.chain == ChainRules(NameSource.SAN_DNS, "^([^.]+)", allow_create=False)
    assert shown.keys == (pair.key,)
    assert await trusted(space, "other") == [("CN=Factory", 1), ("CN=Other", None)]
    assert shown.warnings == []


async def test_a_chain_profile_without_a_ca_is_warned_of(space: Space) -> None:
    await space.profiles.create(replace(CHAIN, authorities=None))
    assert (await space.profiles.show("chain")).warnings == [NO_AUTHORITY]

    await space.profiles.update("chain", ProfileChange(authorities=[ROOT.der]))
    assert (await space.profiles.show("chain")).warnings == []
    near = Authority.root("Near", not_after=days(20))
    await space.profiles.update("chain", ProfileChange(authorities=[near.der]))
    assert "CN=Near expires on" in (await space.profiles.show("chain")).warnings[0]


async def test_the_rules_are_changed_one_by_one(space: Space) -> None:
    await space.profiles.create_keyless(replace(CHAIN, crls=[ROOT.crl()]))

    for change, rules in (
        (ProfileChange(name_pattern="^(x.*)"), ChainRules(name_pattern="^(x.*)")),
        (ProfileChange(name_from=NameSource.SAN_URI), ChainRules(NameSource.SAN_URI, "^(x.*)")),
        (ProfileChange(allow_create=False), ChainRules(NameSource.SAN_URI, "^(x.*)", allow_create=False)),
    ):
        before = (await space.profiles.show("chain")).profile.revision
        await space.profiles.update("chain", change)
        shown = (await space.profiles.show("chain")).profile
        assert shown.chain == rules
        assert shown.revision > before
    assert await trusted(space) == [("CN=Root", 0)]


async def test_cas_are_replaced_as_a_whole_and_keep_their_lists(space: Space) -> None:
    await space.profiles.create_keyless(replace(CHAIN, crls=[ROOT.crl(DEVICE)]))
    renewed = pki.renewed(ROOT)

    await space.profiles.update("chain", ProfileChange(authorities=[renewed.der, OTHER.der]))
    assert await trusted(space) == [("CN=Other", None), ("CN=Root", 1)]
    (fingerprint,) = {each.fingerprint for each in (await space.profiles.show("chain")).authorities} - {
        OTHER.certificate.fingerprint(pki.SHA256).hex()
    }
    assert fingerprint == renewed.certificate.fingerprint(pki.SHA256).hex()

    await space.profiles.update("chain", ProfileChange(crls=[OTHER.crl(DEVICE, FACTORY)]))
    assert await trusted(space) == [("CN=Other", 2), ("CN=Root", 1)]
    await space.profiles.update("chain", ProfileChange(forget_crls=True, crls=[OTHER.crl()]))
    assert await trusted(space) == [("CN=Other", 0), ("CN=Root", None)]
    await space.profiles.update("chain", ProfileChange(authorities=[ROOT.der]))
    assert await trusted(space) == [("CN=Root", None)]
    await space.profiles.update("chain", ProfileChange(strategy=ProvisionStrategy.DISABLED))
    assert await trusted(space) == [("CN=Root", None)]


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        (ProfileChange(authorities=[DEVICE.der]), "CN=sensor-1 cannot be a profile's CA"),
        (ProfileChange(authorities=[b"garbage"]), "no certificate"),
        (ProfileChange(authorities=[OTHER.der]), "The profile 'other' trusts this CA already"),
        (ProfileChange(authorities=[pki.renewed(OTHER).der]), "The profile 'other' trusts this CA already"),
        (ProfileChange(crls=[OTHER.crl()]), "not signed by a CA of the profile"),
        (ProfileChange(authorities=[FACTORY.der], crls=[ROOT.crl()]), "not signed by a CA of the profile"),
        (ProfileChange(name_pattern="("), "The name pattern is not valid: missing \\).*RE2"),
        (ProfileChange(name_pattern="(?=x)"), "no look-around"),
        (ProfileChange(name_pattern="a\0b"), "control characters"),
        (ProfileChange(strategy=ALLOW, allow_create=True), "go with --strategy x509-chain"),
        (ProfileChange(strategy=ALLOW, authorities=[ROOT.der]), "go with --strategy x509-chain"),
    ],
    ids=range(11),
)
async def test_what_cannot_be_trusted_is_refused_with_the_fix_and_changes_nothing(
    space: Space, change: ProfileChange, fix: str
) -> None:
    await space.profiles.create_keyless(CHAIN)
    await space.profiles.create_keyless(replace(CHAIN, name="other", authorities=[OTHER.der]))
    before = await contents(space)

    with pytest.raises(Refused, match=fix):
        await space.profiles.update("chain", change)
    with pytest.raises(Refused):
        await space.profiles.create(replace(change, name="new", strategy=change.strategy or CHAIN.strategy))

    assert await contents(space) == before


async def test_whose_ca_it_is_only_those_above_are_told(space: Space) -> None:
    estate = await Estate.make(space.database, space.keys, space.organization_id)
    names = ("root", "brand", "anna", "ben")
    root, brand, anna, ben = (Profiles(space.database, space.keys, estate[name]) for name in names)
    await anna.create_keyless(replace(CHAIN, name="annas"))

    for profiles, told in ((root, "'annas'"), (brand, "'annas'"), (anna, "'annas'"), (ben, "^Another profile trusts")):
        with pytest.raises(Conflict, match=told) as refused:
            await profiles.create_keyless(replace(CHAIN, name="mine"))
        assert ("annas" in str(refused.value)) is (told == "'annas'")


async def test_of_profiles_that_claim_one_ca_at_once_one_has_it(space: Space) -> None:
    made = await asyncio.gather(
        *(space.profiles.create_keyless(replace(CHAIN, name=f"p{n}")) for n in range(6)), return_exceptions=True
    )

    assert sum(isinstance(each, Refused) for each in made) == 5
    assert len(await space.profiles.all()) == 1


async def test_a_deleted_profile_trusts_nobody(space: Space) -> None:
    await space.profiles.create_keyless(CHAIN)
    await space.profiles.delete("chain")

    assert await space.value("SELECT count(*) FROM certificate_authority") == 0
    await space.profiles.create_keyless(CHAIN)
