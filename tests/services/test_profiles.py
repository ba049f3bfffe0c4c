import asyncio
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from provserver.core.ids import ALPHANUMERIC
from provserver.core.model import (
    ChainRules,
    Datastream,
    MetadataField,
    NameSource,
    ProvisionStrategy,
    ReprovisionPolicy,
)
from provserver.errors import Refused
from provserver.services.profiles import NO_AUTHORITY, UNPROVEN, KeyPair, ProfileChange
from tests import pki
from tests.chains import DEVICE, FACTORY, OTHER, ROOT
from tests.conftest import Space
from tests.pki import Authority, days
from tests.services.conftest import Fleet, Locking, contents

ALLOW = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES
SENSORS = ProfileChange(name="sensors", strategy=ALLOW)


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
        ("show", ("nothing",), "provserver profile list"),
        ("secrets", ("nothing",), "provserver profile list"),
        ("update", ("nothing", ProfileChange()), "provserver profile list"),
        ("delete", ("nothing",), "provserver profile list"),
        ("add_key", ("nothing",), "provserver profile list"),
        ("remove_key", ("nothing", "key"), "provserver profile list"),
        ("remove_key", ("sensors", "no such key"), "provserver profile show"),
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
