import asyncio
import datetime as dt
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from cryptography import x509 as certificates

from provserver.core import credentials as building
from provserver.core import x509
from provserver.core.authentication import Denial
from provserver.core.credentials import certificate
from provserver.core.csvfile import DeviceRow
from provserver.core.decision import Reason, Refusal
from provserver.core.model import (
    Authenticated,
    Credentials,
    DeviceProfile,
    NameSource,
    Origin,
    Peer,
    ProvisionStrategy,
    Transport,
)
from provserver.errors import Outcome, Unavailable
from provserver.services.access import Access
from provserver.services.enrollment import Enrollment
from provserver.services.profiles import ProfileChange
from tests import pki
from tests.chains import CASES, FACTORY, NAMES, OTHER, ROOT, TRUSTED
from tests.conftest import Space
from tests.pki import Authority, Issued, days
from tests.services.conftest import Fleet, Locking, Outage, contents

CHAIN = ProvisionStrategy.X509_CERTIFICATE_CHAIN


class Factory:
    """A profile that trusts a CA, and devices that come with its certificates."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.clock_offset = 0.0
        self.enrollment = Enrollment(space.database, space.keys, clock=self.clock)
        self.access = Access(space.database, space.keys, self.enrollment)

    def clock(self) -> float:
        return dt.datetime.now(dt.UTC).timestamp() + self.clock_offset

    async def trust(self, *authorities: Authority, name: str = "sensors", **settings: Any) -> DeviceProfile:
        given = {"strategy": CHAIN, "authorities": [each.der for each in authorities]} | settings
        return await self.space.profiles.create_keyless(ProfileChange(name=name, **given))

    async def change(self, name: str = "sensors", **settings: Any) -> None:
        await self.space.profiles.update(name, ProfileChange(**settings))

    async def admitted(self, device: Issued, *, of: Enrollment | None = None) -> Authenticated:
        verdict = await (of or self.enrollment).admit(peer(*device.chain))
        assert isinstance(verdict, Authenticated), verdict
        return verdict

    async def refused(self, *chain: bytes) -> Reason:
        """Why these certificates do not enroll; the attempt says the same."""
        return (await self.attempted(*chain))[0]

    async def attempted(self, *chain: bytes) -> tuple[Reason, dict[str, Any]]:
        await self.enrollment.drain()
        before = [row["id"] for row in await self.space.rows("SELECT id FROM attempt")]
        verdict = await self.enrollment.admit(peer(*chain))
        assert isinstance(verdict, Refusal), verdict
        await self.enrollment.drain()
        (attempt,) = await self.space.rows("SELECT * FROM attempt WHERE id <> ALL($1)", before)
        assert (attempt["outcome"], attempt["reason"]) == (Outcome.FAILURE.value, verdict.reason.name)
        assert (attempt["detail"] or "") == verdict.detail
        return verdict.reason, dict(attempt)

    async def comes_back(self, device: Issued, *chain: bytes) -> bool:
        """Whether a device authenticates, as transports have it."""
        verdict = await self.access.with_channel(peer(*(chain or device.chain)))
        assert isinstance(verdict, Authenticated) or verdict is Denial.CERTIFICATE
        return isinstance(verdict, Authenticated)

    async def stored(self, name: str = "sensor-1") -> list[tuple[Credentials, Origin, bool]]:
        details = await self.space.devices.show(name, open_=True)
        return [
            (opened, Origin(row.origin), row.pending)
            for opened, row in zip(details.opened, details.credentials, strict=True)
        ]


def peer(*chain: bytes, transport: Transport = Transport.MQTT) -> Peer:
    return Peer(transport, "192.0.2.7", chain)


def credentials(device: Issued) -> Credentials:
    return certificate(device.pem)


@pytest.fixture
async def factory(space: Space) -> AsyncIterator[Factory]:
    made = Factory(space)
    yield made
    await made.access.drain()
    await made.enrollment.drain()


# From unknown to provisioned


async def test_a_device_is_made_and_provisioned(factory: Factory) -> None:
    profile = await factory.trust(ROOT)
    device = FACTORY.leaf("sensor-1")

    made = await factory.admitted(device)

    assert (made.name, made.profile_id, made.organization_id, made.gateway) == (
        "sensor-1",
        profile.id,
        factory.space.organization_id,
        False,
    )
    assert made.profile_revision == profile.revision
    assert made.id_digest == factory.space.keys.digest("credentials", x509.fingerprint(device.pem))
    assert await factory.stored() == [(credentials(device), Origin.SUPPLIED, False)]
    shown = await factory.space.devices.show("sensor-1")
    assert [(each.scope, each.key, each.value) for each in shown.attributes] == [
        ("SERVER", "provisionState", "provisioned")
    ]
    (attempt,) = await factory.space.rows("SELECT * FROM attempt")
    assert (attempt["outcome"], attempt["transport"], attempt["device_id"], attempt["profile_id"]) == (
        "success",
        "MQTT",
        made.device_id,
        profile.id,
    )
    (event,) = await factory.space.rows("SELECT type, payload FROM outbox")
    assert event["type"] == "device.provisioned"
    assert event["payload"]["credentialsType"] == "X509_CERTIFICATE"


async def test_it_comes_back_as_the_same(factory: Factory) -> None:
    await factory.trust(ROOT)
    device = FACTORY.leaf("sensor-1")

    first, again, over_coap = [
        await factory.access.with_channel(peer(*device.chain, transport=transport))
        for transport in (Transport.MQTT, Transport.MQTT, Transport.COAP)
    ]

    assert first == again == over_coap
    assert isinstance(first, Authenticated)
    assert await factory.space.value("SELECT count(*) FROM attempt") == 1


@pytest.mark.parametrize("transport", Transport)
async def test_any_transport_will_do(factory: Factory, transport: Transport) -> None:
    await factory.trust(ROOT)

    assert isinstance(await factory.enrollment.enroll(peer(*FACTORY.leaf().chain, transport=transport)), Authenticated)
    assert await factory.space.value("SELECT transport FROM attempt") == transport


async def test_the_root_may_be_presented_and_the_ca_be_an_intermediate(factory: Factory) -> None:
    await factory.trust(FACTORY)
    device = FACTORY.leaf("sensor-1")

    assert (await factory.enrollment.enroll(peer(*device.full_chain))) is not None
    assert await factory.enrollment.enroll(peer(FACTORY.leaf("sensor-2").der)) is not None


async def test_the_name_is_what_the_profile_finds(factory: Factory) -> None:
    await factory.trust(ROOT, name_from=NameSource.SAN_DNS, name_pattern=r"^([^.]+)\.factory\.example$")
    named = FACTORY.leaf("x", san=[certificates.DNSName("sensor-7.factory.example")])

    assert (await factory.admitted(named)).name == "sensor-7"
    assert await factory.refused(*FACTORY.leaf("sensor-8").chain) is Reason.CERTIFICATE_NAMELESS
    elsewhere = FACTORY.leaf("x", san=[certificates.DNSName("sensor-7.example")])
    assert await factory.refused(*elsewhere.chain) is Reason.NAME_MISMATCH


# The case table: each with its reason, and nobody pays


@pytest.mark.parametrize("case", CASES | NAMES)
async def test_a_bad_chain_is_refused_with_its_reason(factory: Factory, case: str) -> None:
    await factory.trust(*TRUSTED)
    good = FACTORY.leaf("good")
    await factory.admitted(good)
    await factory.enrollment.drain()
    before = await without_attempts(factory.space)
    shown = (CASES | NAMES)[case]

    assert await factory.refused(*shown.make().certificates) is shown.reason

    assert await without_attempts(factory.space) == before
    assert await factory.comes_back(good)


async def without_attempts(space: Space) -> dict[str, list[tuple[object, ...]]]:
    return {table_: rows for table_, rows in (await contents(space)).items() if table_ != "attempt"}


@pytest.mark.parametrize(
    "chain",
    [(), (b"garbage",), (FACTORY.leaf().der, b"garbage")],
    ids=["none", "garbage", "garbage beside"],
)
async def test_what_cannot_be_read_is_refused(factory: Factory, chain: tuple[bytes, ...]) -> None:
    await factory.trust(ROOT)

    assert await factory.refused(*chain) is Reason.CERTIFICATE_MALFORMED
    assert await factory.enrollment.enroll(peer(*chain)) is None


async def test_an_attempt_says_whose_and_why(factory: Factory) -> None:
    profile = await factory.trust(ROOT, name_pattern="^(sensor.*)")

    _, expired = await factory.attempted(*FACTORY.leaf("sensor-1", not_after=days(-0.1)).chain)
    _, stranger = await factory.attempted(*OTHER.leaf("sensor-1").chain)
    _, mismatch = await factory.attempted(*FACTORY.leaf("gateway\u202e-1").chain)

    assert (expired["profile_id"], expired["detail"], expired["address"]) == (profile.id, "CN=sensor-1", "192.0.2.7")
    assert (stranger["profile_id"], stranger["detail"]) == (None, "CN=sensor-1 names CN=Other")
    assert (mismatch["profile_id"], mismatch["detail"]) == (profile.id, "gateway\N{REPLACEMENT CHARACTER}-1")


async def test_what_a_transport_refused_is_recorded_too(factory: Factory) -> None:
    factory.enrollment.refuse(peer(), Reason.CERTIFICATE_TOO_LARGE, "the handshake is too large")
    await factory.enrollment.drain()

    (attempt,) = await factory.space.rows("SELECT * FROM attempt")
    assert (attempt["transport"], attempt["address"], attempt["outcome"], attempt["reason"], attempt["detail"]) == (
        "MQTT",
        "192.0.2.7",
        "failure",
        "CERTIFICATE_TOO_LARGE",
        "the handshake is too large",
    )


async def test_without_a_profile_nobody_is_let_in(factory: Factory) -> None:
    assert await factory.refused(*FACTORY.leaf().chain) is Reason.MISSING_INTERMEDIATE
    assert await factory.refused(*FACTORY.leaf().full_chain) is Reason.UNTRUSTED
    await factory.trust()
    assert await factory.refused(*pki.self_signed().chain) is Reason.SELF_SIGNED


async def test_a_profile_with_another_strategy_lets_nobody_in(factory: Factory) -> None:
    profile = await factory.trust(ROOT)
    device = FACTORY.leaf("sensor-1")
    await factory.admitted(device)
    await factory.change(strategy=ProvisionStrategy.DISABLED)

    reason, attempt = await factory.attempted(*FACTORY.leaf("sensor-2").chain)

    assert (reason, attempt["profile_id"]) == (Reason.CHAIN_DISABLED, profile.id)
    assert await factory.comes_back(device)


# Which profile


async def test_the_nearest_ca_decides(factory: Factory) -> None:
    broad, narrow = await factory.trust(ROOT, name="broad"), await factory.trust(FACTORY, name="narrow")

    assert (await factory.admitted(FACTORY.leaf("a"))).profile_id == narrow.id
    assert (await factory.admitted(ROOT.leaf("b"))).profile_id == broad.id
    assert (await factory.admitted(ROOT.intermediate("Other Factory").leaf("c"))).profile_id == broad.id


async def test_cas_of_one_name_are_told_apart_by_their_keys(factory: Factory) -> None:
    namesakes = [Authority.root("Device CA") for _ in range(3)]
    made = [await factory.trust(each, name=f"p{n}") for n, each in enumerate(namesakes)]

    for n, (namesake, profile) in enumerate(zip(namesakes, made, strict=True)):
        assert (await factory.admitted(namesake.leaf(f"sensor-{n}"))).profile_id == profile.id
    assert await factory.refused(*Authority.root("Device CA").leaf("x").chain) is Reason.SIGNATURE_WRONG
    refused, attempt = await factory.attempted(*namesakes[1].leaf("y", not_after=days(-0.1)).chain)
    assert (refused, attempt["profile_id"]) == (Reason.CERTIFICATE_EXPIRED, made[1].id)


async def test_no_profile_lets_in_whom_another_has_revoked(factory: Factory) -> None:
    device = FACTORY.leaf("sensor-1")
    await factory.trust(ROOT, name="broad")
    await factory.trust(FACTORY, name="narrow", crls=[FACTORY.crl(device)])

    assert await factory.refused(*device.chain) is Reason.CERTIFICATE_REVOKED
    assert (await factory.admitted(FACTORY.leaf("sensor-2"))).name == "sensor-2"


async def test_a_profile_may_trust_the_old_ca_and_the_new(factory: Factory) -> None:
    old, new = Authority.root("CA 2024"), Authority.root("CA 2026")
    await factory.trust(old)
    device = old.leaf("sensor-1")
    await factory.admitted(device)

    await factory.change(authorities=[old.der, new.der])
    await factory.admitted(new.leaf("sensor-2"))
    await factory.admitted(old.leaf("sensor-3"))
    await factory.change(authorities=[new.der])

    assert await factory.refused(*old.leaf("sensor-4").chain) is Reason.MISSING_INTERMEDIATE
    assert await factory.comes_back(device)  # who is registered stays so


async def test_a_change_holds_at_once_in_every_process(factory: Factory) -> None:
    await factory.trust(ROOT)
    other = Enrollment(factory.space.database, factory.space.keys)
    await factory.admitted(FACTORY.leaf("sensor-1"), of=other)

    await factory.change(name_pattern="^(gateway.*)$")
    verdict = await other.admit(peer(*FACTORY.leaf("sensor-2").chain))
    assert isinstance(verdict, Refusal)
    assert verdict.reason is Reason.NAME_MISMATCH
    await factory.change(authorities=[OTHER.der], name_pattern="(.*)")
    await factory.admitted(OTHER.leaf("sensor-2"), of=other)
    assert await other.enroll(peer(*FACTORY.leaf("sensor-3").chain)) is None
    await other.drain()


async def test_a_profile_that_changes_meanwhile_is_looked_at_again(factory: Factory, lock: Locking) -> None:
    """Judged by the old pattern, written under the new one: it must not come through."""
    await factory.trust(ROOT)
    async with lock("LOCK TABLE device IN ACCESS EXCLUSIVE MODE") as held:
        task = asyncio.create_task(factory.enrollment.admit(peer(*FACTORY.leaf("sensor-1").chain)))
        await held.until_waiting()
        await held.connection.execute("UPDATE device_profile SET name_pattern = '^(gateway)', revision = revision + 1")
        await held.commit()

    verdict = await task

    assert isinstance(verdict, Refusal)
    assert verdict.reason is Reason.NAME_MISMATCH
    assert await factory.space.value("SELECT count(*) FROM device") == 0


# Devices that are there


async def test_without_allow_create_devices_are_pre_provisioned(factory: Factory) -> None:
    await factory.trust(ROOT, allow_create=False)
    device = FACTORY.leaf("sensor-1")
    assert await factory.refused(*device.chain) is Reason.NOT_PRE_PROVISIONED

    await factory.space.devices.create(DeviceRow(1, "sensor-1", None, True), "sensors")
    made = await factory.admitted(device)

    assert (made.name, made.gateway) == ("sensor-1", True)
    assert await factory.stored() == [(credentials(device), Origin.SUPPLIED, False)]  # the generated token is gone
    assert (await factory.space.devices.show("sensor-1")).device.provision_state == "provisioned"


async def test_a_pre_provisioned_device_is_provisioned_where_others_are_made(factory: Factory) -> None:
    await factory.trust(ROOT)
    await factory.space.devices.create(DeviceRow(1, "sensor-1", None, False), "sensors")

    made = await factory.admitted(FACTORY.leaf("sensor-1"))

    assert made.device_id == (await factory.space.devices.show("sensor-1")).device.id


async def test_a_device_of_another_profile_is_left_alone(factory: Factory) -> None:
    await factory.trust(ROOT)
    fleet = await Fleet.make(factory.space, name="others")
    await fleet.ask("sensor-1")
    before = await without_attempts(factory.space)

    assert await factory.refused(*FACTORY.leaf("sensor-1").chain) is Reason.NAME_ELSEWHERE

    assert await without_attempts(factory.space) == before


async def test_a_device_with_credentials_of_another_type_is_left_alone(factory: Factory) -> None:
    await factory.trust(ROOT)
    own = building.access_token("flashed in the factory")
    await factory.space.devices.create(DeviceRow(1, "imported", own, False), "sensors")
    await factory.space.devices.create(DeviceRow(2, "used", None, False), "sensors")
    await factory.space.rows("UPDATE credentials SET first_used_at = now() WHERE origin = 'generated'")
    before = await without_attempts(factory.space)

    for name in ("imported", "used"):
        assert await factory.refused(*FACTORY.leaf(name).chain) is Reason.CREDENTIALS_TYPE

    assert await without_attempts(factory.space) == before
    await factory.space.devices.rearm("used")
    await factory.admitted(FACTORY.leaf("used"))  # the operator's word
    await factory.space.devices.rearm("imported")
    assert await factory.refused(*FACTORY.leaf("imported").chain) is Reason.CREDENTIALS_TYPE


async def test_a_state_that_an_operator_set_is_respected(factory: Factory) -> None:
    await factory.trust(ROOT)
    await factory.admitted(FACTORY.leaf("sensor-1"))
    await factory.space.rows("""UPDATE attribute SET value = '"quarantined"' WHERE key = 'provisionState'""")

    assert await factory.refused(*FACTORY.leaf("sensor-1").chain) is Reason.STATE_UNKNOWN


async def test_a_certificate_of_another_device_is_its_own(factory: Factory) -> None:
    """It was imported for a device of another name, in this very moment: a look-up would have found it."""
    await factory.trust(ROOT)
    device = FACTORY.leaf("sensor-1")
    await factory.space.devices.create(DeviceRow(1, "somebody", credentials(device), False), "sensors")

    assert await factory.refused(*device.chain) is Reason.CREDENTIALS_TAKEN
    assert await factory.comes_back(device)


# Rotation


async def test_the_old_certificate_is_good_until_the_new_one_is_used(factory: Factory) -> None:
    await factory.trust(ROOT)
    old, new = FACTORY.leaf("sensor-1", not_before=days(-9)), FACTORY.leaf("sensor-1")
    first = await factory.admitted(old)
    assert await factory.comes_back(old)

    rotated = await factory.admitted(new)

    assert rotated.device_id == first.device_id
    assert rotated.id_digest != first.id_digest
    assert await factory.stored() == [
        (credentials(new), Origin.SUPPLIED, True),
        (credentials(old), Origin.SUPPLIED, False),
    ]
    assert await factory.comes_back(old)
    assert await factory.comes_back(new)  # its first use
    assert await factory.stored() == [(credentials(new), Origin.SUPPLIED, False)]
    assert not await factory.comes_back(old)


async def test_an_old_certificate_does_not_take_over_again(factory: Factory) -> None:
    """Else whoever stole it would, as long as it has not expired."""
    await factory.trust(ROOT)
    old, new = FACTORY.leaf("sensor-1", not_before=days(-9)), FACTORY.leaf("sensor-1")
    await factory.admitted(old)
    await factory.admitted(new)
    assert await factory.comes_back(new)

    assert await factory.refused(*old.chain) is Reason.CERTIFICATE_SUPERSEDED

    assert await factory.comes_back(new)
    await factory.space.devices.rearm("sensor-1")
    await factory.admitted(old)  # the operator's word
    assert await factory.stored() == [(credentials(old), Origin.SUPPLIED, False)]


async def test_a_third_certificate_takes_the_place_of_the_second(factory: Factory) -> None:
    await factory.trust(ROOT)
    first, second, third = (FACTORY.leaf("sensor-1", not_before=days(n)) for n in (-3, -2, -1))
    for each in (first, second, third):
        await factory.admitted(each)

    assert [each for each, _, _ in await factory.stored()] == [credentials(third), credentials(first)]
    assert not await factory.comes_back(second)


async def test_a_certificate_that_an_operator_imported_is_rotated_too(factory: Factory) -> None:
    await factory.trust(ROOT, allow_create=False)
    imported, renewed = FACTORY.leaf("sensor-1", not_before=days(-9)), FACTORY.leaf("sensor-1")
    await factory.space.devices.create(DeviceRow(1, "sensor-1", credentials(imported), False), "sensors")

    await factory.admitted(renewed)

    assert [(each, pending) for each, _, pending in await factory.stored()] == [
        (credentials(renewed), True),
        (credentials(imported), False),
    ]


async def test_a_certificate_is_rotated_to_another_ca_of_the_profile(factory: Factory) -> None:
    await factory.trust(ROOT, OTHER)
    await factory.admitted(ROOT.leaf("sensor-1", not_before=days(-2)))

    await factory.admitted(OTHER.leaf("sensor-1"))


# Those who are known


async def test_who_has_expired_does_not_come_back(factory: Factory) -> None:
    profile = await factory.trust(ROOT)
    device = FACTORY.leaf("sensor-1", not_after=days(2))
    made = await factory.admitted(device)
    assert await factory.enrollment.still_good(peer(*device.chain), made)

    factory.clock_offset = dt.timedelta(days=3).total_seconds()

    assert not await factory.comes_back(device)
    assert await factory.enrollment.check(peer(device.der), made) == Refusal(Reason.CERTIFICATE_EXPIRED)
    await factory.enrollment.drain()
    rows = await factory.space.rows("SELECT * FROM attempt WHERE outcome = 'failure'")
    assert {(row["reason"], row["profile_id"], row["device_id"], row["device_name"]) for row in rows} == {
        ("CERTIFICATE_EXPIRED", profile.id, made.device_id, "sensor-1")
    }


async def test_who_is_revoked_does_not_come_back(factory: Factory) -> None:
    await factory.trust(FACTORY)
    device, other = FACTORY.leaf("sensor-1"), FACTORY.leaf("sensor-2")
    for each in (device, other):
        await factory.admitted(each)

    await factory.change(crls=[FACTORY.crl(device)])

    assert not await factory.comes_back(device)
    assert not await factory.comes_back(device, device.der)  # nor without the rest of the chain
    assert await factory.comes_back(other)
    assert await factory.comes_back(other, other.der)
    assert await factory.refused(*device.chain) is Reason.CERTIFICATE_REVOKED
    await factory.change(forget_crls=True)
    assert await factory.comes_back(device)


async def test_a_revoked_intermediate_takes_its_devices_along(factory: Factory) -> None:
    await factory.trust(ROOT)
    device, other = FACTORY.leaf("sensor-1"), ROOT.intermediate("Other Factory").leaf("sensor-2")
    for each in (device, other):
        await factory.admitted(each)

    await factory.change(crls=[ROOT.crl(FACTORY)])

    assert not await factory.comes_back(device)
    assert not await factory.comes_back(device, device.der)  # it may not hide who issued it
    assert await factory.comes_back(other)


async def test_a_resumed_session_that_shows_the_leaf_alone_is_as_good_as_its_chain(factory: Factory) -> None:
    await factory.trust(ROOT, crls=[ROOT.crl()])
    elsewhere = Enrollment(factory.space.database, factory.space.keys)
    first, second = FACTORY.leaf("sensor-1"), FACTORY.leaf("sensor-2")
    made = await factory.admitted(second, of=elsewhere)
    await elsewhere.drain()
    restarted = Enrollment(factory.space.database, factory.space.keys)
    line = ROOT.intermediate("Line").intermediate("Sub")
    third = line.leaf("sensor-3")
    assert await restarted.still_good(peer(second.der), made)

    known = await factory.admitted(third)  # in another process, after `restarted` has read what there was
    await factory.admitted(first)
    await factory.enrollment.drain()

    assert await restarted.still_good(peer(third.der), known)
    for device in (first, second, third):
        assert await factory.comes_back(device, device.der)
    assert await factory.space.value("SELECT count(*) FROM chain_issuer") == 3
    assert (
        await factory.refused(FACTORY.leaf("sensor-4").der) is Reason.MISSING_INTERMEDIATE
    )  # a stranger has to show it
    await factory.change(crls=[ROOT.crl(FACTORY)])
    assert [await factory.comes_back(each, each.der) for each in (first, third)] == [False, True]
    await restarted.drain()


async def test_only_issuers_on_the_way_to_a_ca_are_remembered(factory: Factory) -> None:
    profile = await factory.trust(ROOT, crls=[ROOT.crl()])
    device = FACTORY.leaf("sensor-1")
    made = await factory.admitted(FACTORY.leaf("sensor-0"))
    await factory.enrollment.drain()
    await factory.space.rows("DELETE FROM chain_issuer")
    fresh = Enrollment(factory.space.database, factory.space.keys)

    stranger = OTHER.intermediate("Line")
    assert isinstance(await fresh.admit(peer(*stranger.leaf("sensor-2").chain)), Refusal)
    assert not await fresh.still_good(peer(device.der), made)
    await fresh.drain()
    assert await factory.space.value("SELECT count(*) FROM chain_issuer") == 0
    assert await fresh.still_good(peer(*device.full_chain, stranger.der, OTHER.der), made)
    await fresh.drain()

    (row,) = await factory.space.rows("SELECT profile_id, der FROM chain_issuer")
    assert tuple(row) == (profile.id, FACTORY.der)


async def test_so_many_issuers_are_remembered(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provserver.services.enrollment.MAX_ISSUERS", 2)
    await factory.trust(ROOT)
    for number in range(4):
        await factory.admitted(ROOT.intermediate(f"Line {number}").leaf(f"sensor-{number}"))
        await factory.enrollment.drain()

    assert await factory.space.value("SELECT count(*) FROM chain_issuer") == 2
    await factory.space.rows("DELETE FROM device")
    await factory.space.rows("DELETE FROM device_profile")
    assert await factory.space.value("SELECT count(*) FROM chain_issuer") == 0


async def test_an_issuer_that_cannot_be_read_is_as_good_as_forgotten(factory: Factory) -> None:
    profile = await factory.trust(ROOT, crls=[ROOT.crl()])
    await factory.space.rows("INSERT INTO chain_issuer VALUES ($1, 'x', 'x')", profile.id)
    device = FACTORY.leaf("sensor-1")
    await factory.admitted(device)
    await factory.enrollment.drain()

    assert await factory.comes_back(device, device.der)


async def test_a_stale_list_lets_nobody_in(factory: Factory) -> None:
    await factory.trust(FACTORY, crls=[FACTORY.crl(next_update=days(1))])
    device = FACTORY.leaf("sensor-1")
    await factory.admitted(device)

    factory.clock_offset = dt.timedelta(days=2).total_seconds()

    assert not await factory.comes_back(device)
    assert await factory.refused(*FACTORY.leaf("sensor-2").chain) is Reason.CRL_STALE
    await factory.change(crls=[FACTORY.crl(next_update=days(9))])
    assert await factory.comes_back(device)


async def test_a_self_signed_certificate_that_a_device_supplied_is_checked_for_its_dates_and_key(
    factory: Factory,
) -> None:
    fleet = await Fleet.make(factory.space)
    for name, how in (("good", {}), ("weak", {"key": "rsa1024"}), ("late", {"not_after": days(-0.1)})):
        device = pki.self_signed(name, **how)
        await fleet.ask(name, credentialsType="X509_CERTIFICATE", hash=device.pem)
        assert await factory.comes_back(device) is (name == "good")


async def test_who_is_deleted_is_new(factory: Factory) -> None:
    await factory.trust(ROOT)
    device = FACTORY.leaf("sensor-1")
    made = await factory.admitted(device)

    await factory.space.devices.delete("sensor-1")

    assert (await factory.admitted(device)).device_id != made.device_id


# Many at once


async def test_of_many_connections_with_one_certificate_each_is_let_in_and_one_device_made(factory: Factory) -> None:
    await factory.trust(ROOT)
    other = Enrollment(factory.space.database, factory.space.keys)
    device = FACTORY.leaf("sensor-1")

    made = await asyncio.gather(
        *(factory.admitted(device, of=of) for of in (factory.enrollment, other) for _ in range(10))
    )

    assert len(set(made)) == 1
    assert await factory.space.value("SELECT count(*) FROM device") == 1
    assert len(await factory.stored()) == 1
    assert await factory.space.value("SELECT count(*) FROM attempt WHERE outcome = 'success'") == 20
    assert await factory.space.value("SELECT count(*) FROM outbox") == 1
    await other.drain()


async def test_of_many_connections_with_one_new_certificate_each_is_let_in_and_it_is_rotated_once(
    factory: Factory,
) -> None:
    await factory.trust(ROOT)
    await factory.admitted(FACTORY.leaf("sensor-1", not_before=days(-9)))
    other = Enrollment(factory.space.database, factory.space.keys)
    device = FACTORY.leaf("sensor-1")

    made = await asyncio.gather(
        *(factory.admitted(device, of=of) for of in (factory.enrollment, other) for _ in range(10))
    )

    assert len(set(made)) == 1
    assert [pending for _, _, pending in await factory.stored()] == [True, False]
    await other.drain()


async def test_of_many_certificates_with_one_name_one_makes_the_device(factory: Factory) -> None:
    """The rest rotate it, in the order they come in: each has the CA's word."""
    await factory.trust(ROOT)
    issued = days(-1)
    devices = [FACTORY.leaf("sensor-1", not_before=issued) for _ in range(8)]

    made = await asyncio.gather(*(factory.admitted(device) for device in devices), return_exceptions=True)

    assert len({each.device_id for each in made if isinstance(each, Authenticated)}) == 1
    assert await factory.space.value("SELECT count(*) FROM device") == 1
    assert len(await factory.stored()) == 2


async def test_two_hundred_at_once_are_settled_in_groups(factory: Factory) -> None:
    await factory.trust(ROOT)
    key = pki.new_key()
    devices = [FACTORY.leaf(f"sensor-{n:03}", key=key) for n in range(200)]

    made = await asyncio.gather(*(factory.admitted(device) for device in devices))

    assert [each.name for each in made] == [f"sensor-{n:03}" for n in range(200)]
    assert len({each.device_id for each in made}) == 200
    assert await factory.space.value("SELECT count(*) FROM credentials") == 200
    assert await factory.space.value("SELECT count(DISTINCT xmin::text) FROM device") < 40


# Postgres away


async def test_while_postgres_is_away_nobody_is_refused(factory: Factory, outage: Outage) -> None:
    profile = await factory.trust(FACTORY, crls=[FACTORY.crl()])
    away = Enrollment(outage.database, factory.space.keys, wait_limit=60)
    made = await factory.admitted(FACTORY.leaf("sensor-1"), of=away)
    away._wait_limit = 0.2
    stale = Authenticated(
        made.device_id, made.name, made.organization_id, uuid4(), 1, False, made.id_digest, made.issued_at
    )
    await outage.begin()

    with pytest.raises(Unavailable):
        await away.enroll(peer(*FACTORY.leaf("sensor-2").chain))
    assert await away.still_good(peer(*FACTORY.leaf("sensor-1").chain), made)  # by what is in memory
    with pytest.raises(Unavailable):
        await away.still_good(peer(*FACTORY.leaf("sensor-1").chain), stale)

    outage.end()
    await away.drain()
    assert (await factory.admitted(FACTORY.leaf("sensor-2"))).profile_id == profile.id


async def test_a_ca_that_cannot_be_read_is_told_of_and_lets_nobody_in(
    factory: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    await factory.trust(ROOT)
    await factory.trust(OTHER, name="others")
    await factory.space.rows(
        "UPDATE certificate_authority SET certificate = 'x' WHERE profile_id ="
        " (SELECT id FROM device_profile WHERE name = 'sensors')"
    )
    with caplog.at_level(logging.ERROR), pytest.raises(Unavailable):
        await factory.enrollment.enroll(peer(*FACTORY.leaf("sensor-1").chain))

    assert "cannot be read" in caplog.text
    await factory.admitted(OTHER.leaf("sensor-2"))


async def test_nothing_is_logged_of_a_certificate(factory: Factory, caplog: pytest.LogCaptureFixture) -> None:
    await factory.trust(ROOT)
    with caplog.at_level(logging.DEBUG):
        await factory.admitted(FACTORY.leaf("pl4nted"))
        await factory.refused(*OTHER.leaf("pl4nted").chain)

    assert "pl4nted" not in caplog.text


async def test_the_old_certificate_is_good_until_the_device_comes_back_with_the_new_one(factory: Factory) -> None:
    await factory.trust(ROOT)
    old = ROOT.leaf("sensor-1", not_before=days(-2))
    new = ROOT.leaf("sensor-1", not_before=days(-1))

    async def let_in(device: Issued) -> bool:
        return isinstance(await factory.access.with_channel(peer(*device.chain)), Authenticated)

    assert [await let_in(each) for each in (old, old, new, old)] == [True] * 4
    assert await let_in(new)  # its first use
    assert not await let_in(old)
    assert await let_in(new)
