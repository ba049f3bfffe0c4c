"""What a profile becomes by a change, without a database."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from provserver.core.model import (
    ChainRules,
    ClonePolicy,
    Datastream,
    DeviceProfile,
    MetadataField,
    NameSource,
    ProvisionStrategy,
    ReprovisionPolicy,
)
from provserver.core.profilechange import (
    LONGEST_LIFETIME,
    MAX_NAME_LENGTH,
    SHORTEST_LIFETIME,
    UNPROVEN,
    ProfileChange,
    changed,
    checked_name,
)
from provserver.errors import Invalid

CHAIN = ProvisionStrategy.X509_CERTIFICATE_CHAIN
PROFILE = DeviceProfile(
    id=UUID(int=1),
    organization_id=UUID(int=2),
    name="sensors",
    template_id="TMPL12345678",
    strategy=CHAIN,
    reprovision_policy=ReprovisionPolicy.DENY,
    revision=7,
    created_at=datetime(2026, 11, 23, tzinfo=UTC),
    metadata_fields=(MetadataField("rack", "integer"),),
    datastreams=(Datastream("temperature", "V1", "double", 0, 90),),
    chain=ChainRules(NameSource.SAN_DNS, "unit-(.*)", allow_create=True),
    two_sided_claim=True,
    clone_policy=ClonePolicy.QUARANTINE,
    approval=True,
    credentials_lifetime=timedelta(days=30),
)


def test_what_is_left_out_stays() -> None:
    assert changed(PROFILE, ProfileChange()) == PROFILE


@pytest.mark.parametrize(
    ("change", "becomes"),
    [
        ({"name": "  meters "}, {"name": "meters"}),
        ({"strategy": ProvisionStrategy.DISABLED}, {"strategy": ProvisionStrategy.DISABLED}),
        ({"metadata_fields": []}, {"metadata_fields": ()}),
        ({"datastreams": []}, {"datastreams": ()}),
        ({"name_pattern": "x(.*)"}, {"chain": ChainRules(NameSource.SAN_DNS, "x(.*)", allow_create=True)}),
        ({"name_from": NameSource.CN}, {"chain": ChainRules(NameSource.CN, "unit-(.*)", allow_create=True)}),
        ({"allow_create": False}, {"chain": ChainRules(NameSource.SAN_DNS, "unit-(.*)", allow_create=False)}),
        ({"two_sided_claim": False}, {"two_sided_claim": False}),
        ({"clone_policy": ClonePolicy.IGNORE}, {"clone_policy": ClonePolicy.IGNORE}),
        ({"approval": False}, {"approval": False}),
        ({"credentials_lifetime": SHORTEST_LIFETIME}, {"credentials_lifetime": SHORTEST_LIFETIME}),
        ({"credentials_lifetime": LONGEST_LIFETIME}, {"credentials_lifetime": LONGEST_LIFETIME}),
        ({"credentials_lifetime": timedelta(0)}, {"credentials_lifetime": None}),
    ],
)
def test_one_change_is_one_change(change: dict[str, Any], becomes: dict[str, Any]) -> None:
    assert changed(PROFILE, ProfileChange(**change)) == replace(PROFILE, **becomes)


@pytest.mark.parametrize("policy", [each for each in ReprovisionPolicy if each is not ReprovisionPolicy.DENY])
def test_a_policy_that_needs_no_proof_is_accepted_once(policy: ReprovisionPolicy) -> None:
    with pytest.raises(Invalid) as refused:
        changed(PROFILE, ProfileChange(reprovision_policy=policy))
    assert str(refused.value).startswith(UNPROVEN)

    accepted = changed(PROFILE, ProfileChange(reprovision_policy=policy, accept_unproven_repeats=True))
    assert accepted == replace(PROFILE, reprovision_policy=policy)
    assert changed(accepted, ProfileChange(reprovision_policy=policy, name="x")).reprovision_policy is policy
    assert changed(accepted, ProfileChange(reprovision_policy=ReprovisionPolicy.DENY)) == PROFILE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (ProfileChange(name=" "), "1-255 printable"),
        (ProfileChange(metadata_fields=[MetadataField("rack", "no-such-type")]), "rack"),
        (ProfileChange(datastreams=[Datastream("t", "V1", "no-such-type")]), "no-such-type"),
        (ProfileChange(name_pattern="(?<=x)y"), "no look-around"),
        (ProfileChange(credentials_lifetime=SHORTEST_LIFETIME - timedelta(seconds=1)), "a minute at least"),
        (ProfileChange(credentials_lifetime=LONGEST_LIFETIME + timedelta(seconds=1)), "100 years at most"),
        (ProfileChange(strategy=ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES, allow_create=False), "x509-chain"),
        (ProfileChange(strategy=ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES, crls=[b""]), "x509-chain"),
    ],
)
def test_what_does_not_fit_is_refused(change: ProfileChange, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        changed(PROFILE, change)


def test_what_is_of_chains_and_of_trust() -> None:
    of_trust = {"authorities": [b""], "crls": [b""], "forget_crls": True}
    of_chains = of_trust | {"name_from": NameSource.CN, "name_pattern": "(.*)", "allow_create": False}
    others = {each.name for each in fields(ProfileChange)} - of_chains.keys()
    for name, value in of_chains.items():
        change = ProfileChange(**{name: value})  # type: ignore[arg-type]
        assert (change.of_chains, change.of_trust) == (True, name in of_trust), name
    for name in others:
        change = ProfileChange(**{name: True})  # type: ignore[arg-type]
        assert (change.of_chains, change.of_trust) == (False, False), name


@pytest.mark.parametrize("name", ["", "\t", "a\0b", "a\nb", "x" * (MAX_NAME_LENGTH + 1)])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(Invalid, match="printable"):
        checked_name(name)


def test_a_name_may_be_long() -> None:
    assert checked_name(f" {'ä' * MAX_NAME_LENGTH} ") == "ä" * MAX_NAME_LENGTH
