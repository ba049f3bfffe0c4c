import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from provserver.core import credentials as building
from provserver.core.authentication import Denial
from provserver.core.csvfile import DeviceRow
from provserver.core.decision import Reason
from provserver.core.limits import Buckets
from provserver.core.model import (
    CREDENTIALS_EXPIRE_AT,
    Authenticated,
    Peer,
    ProvisionStrategy,
    ReprovisionPolicy,
    Transport,
)
from provserver.errors import RETRY_AFTER_SECONDS, Conflict, Invalid, NotFound, Outcome, Unavailable
from provserver.services.access import Access
from provserver.services.credentials import issuer_context
from provserver.services.enrollment import Enrollment
from provserver.services.expiry import Expiry
from provserver.services.issuing import IssuingAuthorities
from provserver.services.limits import RotationLimits
from provserver.services.profiles import ProfileChange
from provserver.services.provisioning import Provisioning
from provserver.services.rotation import Rotation
from tests.conftest import Space
from tests.pki import Authority, Key
from tests.requests import body, csr, p256, text
from tests.services.accounts import Clock
from tests.services.conftest import NONCE, PEER, Fleet, use

X509 = "X509_CERTIFICATE"


@pytest.fixture
async def access(space: Space) -> Any:
    made = Access(space.database, space.keys, Enrollment(space.database, space.keys))
    yield made
    await made.drain()


@pytest.fixture
async def rotation(space: Space) -> Any:
    made = Rotation(space.database, space.keys)
    yield made
    await made.drain()


@pytest.fixture
async def certified(fleet: Fleet) -> Fleet:
    """A profile that issues certificates."""
    await IssuingAuthorities(fleet.space.database, fleet.space.keys, fleet.space.organization_id).create("sensors")
    return fleet


def leaf(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def presenting(pem: str) -> Peer:
    chain = x509.load_pem_x509_certificates(pem.encode())
    return Peer(Transport.MQTT, PEER.address, tuple(each.public_bytes(Encoding.DER) for each in chain))


def asking(key: Key, name: str = "sensor-1") -> dict[str, Any]:
    return {"credentialsType": X509, "csr": text(csr(key, name))}


async def known(access: Access, token: str) -> Authenticated:
    found = await access.with_token(token, PEER)
    assert isinstance(found, Authenticated)
    return found


async def rotated(rotation: Rotation, device: Authenticated, members: object = None) -> dict[str, Any]:
    payload = b"" if members is None else json.dumps(members).encode()
    answer = await rotation.request(device, payload, PEER)
    reply: dict[str, Any] = json.loads(answer.body)
    assert (answer.outcome is Outcome.SUCCESS) == (reply["status"] == "SUCCESS")
    return reply


async def reasons(space: Space) -> list[str]:
    return [
        row["reason"] for row in await space.rows("SELECT reason FROM attempt WHERE reason IS NOT NULL ORDER BY id")
    ]


# --- by the device


async def test_a_device_gets_the_next_token_and_the_old_one_dies_at_its_first_use(
    fleet: Fleet, access: Access, rotation: Rotation
) -> None:
    old = (await fleet.ask("sensor-1"))["credentialsValue"]
    device = await known(access, old)
    reply = await rotated(rotation, device)
    new = reply["credentialsValue"]
    assert reply["deviceName"] == "sensor-1"
    assert reply["credentialsType"] == "ACCESS_TOKEN"
    assert new != old
    assert await use(access, old)  # as long as nobody knows that the answer came
    assert await rotated(rotation, device) == reply

    assert await use(access, new)
    assert not await use(access, old)
    assert [each.id for each in await fleet.stored("sensor-1")] == [new]
    events = await fleet.space.rows("SELECT type FROM outbox WHERE type = 'credentials.rotated'")
    assert len(events) == 1
    entries = await fleet.space.rows("SELECT actor, detail FROM audit WHERE action = 'device.rotated'")
    assert [entry["actor"] for entry in entries] == [f"device:{device.device_id}"]
    assert new not in str(entries) + str(events)


async def test_two_that_ask_at_once_get_the_same(fleet: Fleet, access: Access, rotation: Rotation) -> None:
    device = await known(access, (await fleet.ask("sensor-1"))["credentialsValue"])
    first, second = await asyncio.gather(rotated(rotation, device), rotated(rotation, device))
    assert first == second


async def test_who_is_known_no_more_gets_nothing(fleet: Fleet, access: Access, rotation: Rotation) -> None:
    device = await known(access, (await fleet.ask("sensor-1"))["credentialsValue"])
    await fleet.space.devices.revoke("sensor-1")
    with pytest.raises(Unavailable):
        await rotation.request(device, b"", PEER)
    await fleet.space.devices.delete("sensor-1")
    with pytest.raises(Unavailable):
        await rotation.request(device, b"", PEER)


async def test_a_rotation_spends_the_nonce(fleet: Fleet, access: Access, rotation: Rotation) -> None:
    first = await fleet.ask("sensor-1", requestNonce=NONCE)
    new = await rotated(rotation, await known(access, first["credentialsValue"]))
    assert "credentialsValue" not in (reply := await fleet.ask("sensor-1", requestNonce=NONCE))
    assert new["credentialsValue"] not in str(reply)


async def test_a_device_may_bring_its_next_credentials(fleet: Fleet, access: Access, rotation: Rotation) -> None:
    device = await known(access, (await fleet.ask("sensor-1"))["credentialsValue"])
    own = await rotated(rotation, device, {"token": "brought-along"})
    assert own["credentialsValue"] == "brought-along"
    assert await use(access, "brought-along")
    stranger = await known(access, (await fleet.ask("sensor-2"))["credentialsValue"])
    assert (await rotated(rotation, stranger, {"token": "brought-along"}))["status"] == "FAILURE"
    await rotation.drain()
    assert (await reasons(fleet.space))[-1] == "CREDENTIALS_TAKEN"


@pytest.fixture
async def counted(space: Space) -> Any:
    limits = RotationLimits(Buckets(4, 1 / 60), Buckets(2, 1 / 60))
    made = Rotation(space.database, space.keys, limits=limits, monotonic=lambda: 0.0)
    yield made
    await made.drain()


async def test_who_rotates_too_often_is_told_to_wait(fleet: Fleet, access: Access, counted: Rotation) -> None:
    device = await known(access, (await fleet.ask("sensor-1"))["credentialsValue"])
    asked = [await rotated(counted, device, {"token": f"own-{n}"} if n % 2 else None) for n in range(6)]
    assert [each["status"] for each in asked] == ["SUCCESS"] * 4 + ["FAILURE"] * 2
    assert asked[5]["errorMsg"] == "Too many requests, try again later!"
    assert RETRY_AFTER_SECONDS <= asked[5]["retryAfter"] <= 2 * RETRY_AFTER_SECONDS
    answer = await counted.request(device, b"", PEER)
    assert (answer.outcome, answer.retry_after) == (Outcome.LIMITED, json.loads(answer.body)["retryAfter"])
    assert (await counted.request(device, b"[", PEER)).outcome is Outcome.LIMITED
    assert len(await fleet.space.rows("SELECT FROM audit WHERE action = 'device.rotated'")) == 4
    await counted.drain()
    assert await reasons(fleet.space) == ["DEVICE_BUSY"]  # once a minute

    other = await known(access, (await fleet.ask("sensor-2"))["credentialsValue"])
    assert (await rotated(counted, other))["status"] == "SUCCESS"


async def test_a_lost_answer_costs_no_more_than_the_first(fleet: Fleet, access: Access, counted: Rotation) -> None:
    device = await known(access, (await fleet.ask("sensor-1"))["credentialsValue"])
    first, *others = [await rotated(counted, device) for _ in range(4)]
    assert others == [first] * 3


async def test_whether_others_have_credentials_is_not_told_without_end(
    fleet: Fleet, access: Access, counted: Rotation
) -> None:
    theirs = (await fleet.ask("sensor-1"))["credentialsValue"]
    curious = await known(access, (await fleet.ask("sensor-2"))["credentialsValue"])
    told = await asyncio.gather(*(rotated(counted, curious, {"token": theirs}) for _ in range(3)))
    refused = ["Too many requests, try again later!"] + ["the supplied credentials cannot be used!"] * 2
    assert sorted(each["errorMsg"] for each in told) == refused
    assert (await rotated(counted, curious))["status"] == "SUCCESS"  # which tells of nobody


async def test_credentials_that_are_free_are_not_counted_as_told(
    fleet: Fleet, access: Access, counted: Rotation
) -> None:
    device = await known(access, (await fleet.ask("sensor-1"))["credentialsValue"])
    for n in range(4):
        assert (await rotated(counted, device, {"token": f"own-{n}"}))["status"] == "SUCCESS"


async def test_what_is_wrong_is_told_and_recorded(fleet: Fleet, access: Access, rotation: Rotation) -> None:
    device = await known(access, (await fleet.ask("sensor-1"))["credentialsValue"])
    assert "JSON" in (await rotated(rotation, device, [1]))["errorMsg"]
    told = await rotated(rotation, device, {"credentialsType": X509, "csr": "no base64!"})
    assert told["errorMsg"] == f"{Reason.CSR_MALFORMED.text}: it is neither PEM nor base64!"
    assert (await rotated(rotation, device, asking(p256())))["errorMsg"] == f"{Reason.ISSUER_MISSING.text}!"
    await rotation.drain()
    assert sorted(await reasons(fleet.space)) == ["CSR_MALFORMED", "INVALID", "ISSUER_MISSING"]  # of one millisecond


async def test_imported_credentials_are_their_operators(fleet: Fleet, access: Access, rotation: Rotation) -> None:
    await fleet.space.devices.create(DeviceRow(1, "sensor-1", building.access_token("imported"), False), "sensors")
    reply = await rotated(rotation, await known(access, "imported"))
    assert reply["errorMsg"] == f"{Reason.CREDENTIALS_IMPORTED.text}!"


# --- certificates


async def test_a_device_is_provisioned_with_a_certificate_for_its_key(certified: Fleet, access: Access) -> None:
    key = p256()
    reply = await certified.ask("sensor-1", **asking(key, "whatever it says"))
    certificate = leaf(reply["credentialsValue"])
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.rfc4514_string() == "CN=sensor-1"
    assert reply["credentialsExpireAt"] == certificate.not_valid_after_utc.timestamp() * 1000
    assert reply["credentialsType"] == X509

    found = await access.with_channel(presenting(reply["credentialsValue"]))
    assert isinstance(found, Authenticated)
    assert found.name == "sensor-1"
    (ends,) = await certified.space.rows("SELECT expires_at FROM credentials")
    assert ends["expires_at"] == certificate.not_valid_after_utc


async def test_a_name_may_be_the_servers_choice(certified: Fleet) -> None:
    reply = await certified.ask(**asking(p256()))
    assert leaf(reply["credentialsValue"]).subject.rfc4514_string() == f"CN={reply['deviceName']}"


async def test_a_lost_certificate_is_given_again_by_its_nonce(certified: Fleet) -> None:
    wanted = asking(p256())
    first = await certified.ask("sensor-1", requestNonce=NONCE, **wanted)
    assert await certified.ask("sensor-1", requestNonce=NONCE, **wanted) == first
    assert await certified.refused("sensor-1", requestNonce=NONCE, **asking(p256())) == "NONCE_REUSED"


async def test_or_by_its_key_which_nobody_else_can_use(certified: Fleet) -> None:
    key = p256()
    first = await certified.ask("sensor-1", **asking(key))
    assert await certified.ask("sensor-1", **asking(key)) == first
    assert await certified.refused("sensor-1", **asking(p256())) == "ALREADY_PROVISIONED"
    assert await certified.refused("sensor-1") == "ALREADY_PROVISIONED"


async def test_rearmed_it_gets_another_one(certified: Fleet, access: Access) -> None:
    key = p256()
    first = await certified.ask("sensor-1", **asking(key))
    await certified.space.devices.rearm("sensor-1")
    second = await certified.ask("sensor-1", **asking(key))
    assert second["credentialsValue"] != first["credentialsValue"]
    assert await access.with_channel(presenting(first["credentialsValue"])) is Denial.CERTIFICATE


async def test_a_device_made_beforehand_gets_a_certificate_for_its_token(space: Space) -> None:
    fleet = await Fleet.make(space, ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES)
    await IssuingAuthorities(space.database, space.keys, space.organization_id).create("sensors")
    await fleet.import_("sensor-1")
    reply = await fleet.ask("sensor-1", **asking(p256()))
    assert [each.type for each in await fleet.stored("sensor-1")] == [X509]
    assert reply["credentialsType"] == X509


async def test_under_rotate_the_next_certificate_waits_for_its_first_use(space: Space, access: Access) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.ROTATE)
    await IssuingAuthorities(space.database, space.keys, space.organization_id).create("sensors")
    key, fresh = p256(), p256()
    old = await fleet.ask("sensor-1", **asking(key))
    assert isinstance(await access.with_channel(presenting(old["credentialsValue"])), Authenticated)
    new = await fleet.ask("sensor-1", **asking(fresh))
    assert await fleet.ask("sensor-1", **asking(fresh)) == new
    assert isinstance(await access.with_channel(presenting(old["credentialsValue"])), Authenticated)
    assert isinstance(await access.with_channel(presenting(new["credentialsValue"])), Authenticated)
    assert await access.with_channel(presenting(old["credentialsValue"])) is Denial.CERTIFICATE


async def test_requests_that_are_odd_are_refused(certified: Fleet) -> None:
    ca = [(x509.BasicConstraints(ca=True, path_length=None), True)]
    assert await certified.refused("a", credentialsType=X509, csr=text(csr(extensions=ca))) == "CSR_EXTENSION"
    assert await certified.refused("a", credentialsType=X509, csr=text(csr("p384"))) == "CSR_KEY"
    assert await certified.refused("a", credentialsType=X509, csr="x" * 9000) == "CSR_TOO_LARGE"
    assert await certified.refused("a", csr=text(csr())) == "CREDENTIALS_INVALID"
    assert await certified.refused("a", token="t", **asking(p256())) == "CREDENTIALS_INVALID"
    assert await certified.refused("x" * 65, **asking(p256())) == "NAME_TOO_LONG"
    assert (await certified.counts())["device"] == 0


async def test_who_issues_nothing_is_not_asked(fleet: Fleet) -> None:
    assert await fleet.refused("sensor-1", **asking(p256())) == "ISSUER_MISSING"
    await IssuingAuthorities(fleet.space.database, fleet.space.keys, fleet.space.organization_id).create("sensors")
    assert (await fleet.ask("sensor-1", **asking(p256())))["status"] == "SUCCESS"  # from the next request on


async def test_a_request_is_not_looked_at_before_its_secret(fleet: Fleet) -> None:
    attempt = await fleet.attempted("sensor-1", provisionDeviceSecret="wrong", csr="nonsense", credentialsType=X509)
    assert attempt["reason"] == "SECRET_WRONG"


async def test_a_device_with_a_token_gets_a_certificate(certified: Fleet, access: Access, rotation: Rotation) -> None:
    token = (await certified.ask("sensor-1"))["credentialsValue"]
    device = await known(access, token)
    key = p256()
    reply = await rotated(rotation, device, asking(key))
    assert await rotated(rotation, device, asking(key)) == reply
    other = await rotated(rotation, device, asking(p256()))
    assert other["credentialsValue"] != reply["credentialsValue"]
    assert await access.with_channel(presenting(reply["credentialsValue"])) is Denial.CERTIFICATE
    found = await access.with_channel(presenting(other["credentialsValue"]))
    assert isinstance(found, Authenticated)
    assert not await use(access, token)
    assert (await rotated(rotation, found))["errorMsg"].startswith(Reason.CREDENTIALS_TYPE.text)
    renewed = await rotated(rotation, found, {"credentialsType": X509, "csr": body(csr(key))})
    assert renewed["status"] == "SUCCESS"


# --- by an operator, and at their end


async def test_an_operator_gives_a_device_time(fleet: Fleet, access: Access, rotation: Rotation) -> None:
    old = (await fleet.ask("sensor-1"))["credentialsValue"]
    device = await known(access, old)
    result = await fleet.space.devices.rotate("sensor-1", timedelta(hours=1))
    assert result.credentials is not None
    assert result.ends is not None
    again = await fleet.space.devices.rotate("sensor-1", timedelta(hours=2))
    assert again.credentials == result.credentials
    assert again.ends == result.ends  # nothing lasts longer than it would have
    (told,) = await fleet.space.rows("SELECT value FROM attribute WHERE scope = 'SHARED'")
    assert told["value"] == result.ends.timestamp() * 1000

    assert (await rotated(rotation, device))["credentialsValue"] == result.credentials.id
    assert await use(access, old)
    assert await use(access, result.credentials.id)
    assert not await use(access, old)
    assert await fleet.space.rows("SELECT FROM attribute WHERE scope = 'SHARED'") == []


async def test_or_none(fleet: Fleet, access: Access) -> None:
    old = (await fleet.ask("sensor-1"))["credentialsValue"]
    result = await fleet.space.devices.rotate("sensor-1", timedelta())
    assert result.credentials is not None
    assert result.ends is None
    assert not await use(access, old)
    assert await use(access, result.credentials.id)


async def test_who_has_no_token_makes_the_next_ones_itself(certified: Fleet) -> None:
    await certified.ask("sensor-1", **asking(p256()))
    result = await certified.space.devices.rotate("sensor-1")
    assert result.credentials is None
    assert result.ends is not None
    with pytest.raises(Conflict, match="give it time"):
        await certified.space.devices.rotate("sensor-1", timedelta())
    await certified.space.devices.revoke("sensor-1")
    with pytest.raises(Conflict, match="no credentials"):
        await certified.space.devices.rotate("sensor-1")
    with pytest.raises(NotFound):
        await certified.space.devices.rotate("nobody")


async def age(space: Space, **period: int) -> None:
    """Let time pass for all credentials."""
    await space.rows(
        "UPDATE credentials SET expires_at = expires_at - $1::interval, created_at = created_at - $1::interval",
        timedelta(**period),
    )


async def test_what_has_ended_is_refused_and_it_is_told_why(fleet: Fleet, access: Access) -> None:
    await fleet.space.profiles.update("sensors", ProfileChange(credentials_lifetime=timedelta(days=8)))
    reply = await fleet.ask("sensor-1")
    token = reply["credentialsValue"]
    in_days = (reply["credentialsExpireAt"] / 1000 - datetime.now(UTC).timestamp()) / 86_400
    assert 7.9 < in_days <= 8
    assert await use(access, token)
    assert (await access.shared_key(reply["deviceId"])) is not None
    await age(fleet.space, days=9)
    assert await access.with_token(token, PEER) is Denial.EXPIRED
    assert await access.with_mqtt("client", token, None, PEER) is Denial.EXPIRED
    assert await access.shared_key(reply["deviceId"]) is None
    await access.drain()
    assert await reasons(fleet.space) == ["CREDENTIALS_EXPIRED"] * 2
    (attempt, _) = await fleet.space.rows("SELECT device_id FROM attempt WHERE reason IS NOT NULL")
    assert attempt["device_id"] == UUID(reply["deviceId"])


async def test_without_a_lifetime_nothing_ends(fleet: Fleet) -> None:
    assert "credentialsExpireAt" not in await fleet.ask("sensor-1")
    await fleet.space.profiles.update("sensors", ProfileChange(credentials_lifetime=timedelta(days=8)))
    await fleet.space.profiles.update("sensors", ProfileChange(credentials_lifetime=timedelta()))
    assert "credentialsExpireAt" not in await fleet.ask("sensor-2")
    with pytest.raises(Invalid):
        await fleet.space.profiles.update("sensors", ProfileChange(credentials_lifetime=timedelta(seconds=1)))


async def test_a_device_is_told_in_time(fleet: Fleet, access: Access, rotation: Rotation) -> None:
    await fleet.space.profiles.update("sensors", ProfileChange(credentials_lifetime=timedelta(days=8)))
    old = (await fleet.ask("sensor-1"))["credentialsValue"]
    device = await known(access, old)
    expiry = Expiry(fleet.space.database)

    async def told() -> list[int]:
        async with fleet.space.database.connection() as connection:
            await expiry.look(connection)  # type: ignore[arg-type]
        rows = await fleet.space.rows("SELECT value FROM attribute WHERE key = $1", CREDENTIALS_EXPIRE_AT)
        return [row["value"] for row in rows]

    assert await told() == []
    await age(fleet.space, days=5)
    assert await told() == []
    await age(fleet.space, days=2)
    (ends,) = await fleet.space.rows("SELECT expires_at FROM credentials")
    assert await told() == [int(ends["expires_at"].timestamp() * 1000)]
    assert await told() == [int(ends["expires_at"].timestamp() * 1000)]

    device = await known(access, old)
    new = (await rotated(rotation, device))["credentialsValue"]
    assert await use(access, new)
    assert await told() == []


# --- CAs of profiles


async def test_a_ca_is_made_shown_replaced_and_audited(fleet: Fleet) -> None:
    space = fleet.space
    authorities = IssuingAuthorities(space.database, space.keys, space.organization_id)
    with pytest.raises(NotFound, match="profile ca create"):
        await authorities.show("sensors")
    made = await authorities.create("sensors", "Sensors CA", timedelta(days=100))
    assert made == await authorities.show("sensors")
    assert made.subject == "CN=Sensors CA"
    with pytest.raises(Conflict, match="--replace"):
        await authorities.create("sensors")
    other = await authorities.create("sensors", replace=True)
    assert other.fingerprint != made.fingerprint
    (row,) = await space.rows("SELECT * FROM issuing_ca")
    key = space.keys.unseal(row["key_sealed"], issuer_context(fleet.profile.id))
    assert key
    everything = str(await space.rows("SELECT * FROM audit")) + str(await space.rows("SELECT * FROM outbox"))
    assert key.hex() not in everything
    actions = await space.rows("SELECT action FROM audit WHERE action LIKE 'issuing_ca.%'")
    assert [each["action"] for each in actions] == ["issuing_ca.made"] * 2


async def test_a_ca_of_ones_own_is_imported(fleet: Fleet, access: Access) -> None:
    space = fleet.space
    authorities = IssuingAuthorities(space.database, space.keys, space.organization_id)
    root = Authority.root("Root")
    factory = root.intermediate("Factory", path_length=0)
    large = Authority.root("Large", key="p384")
    with pytest.raises(Invalid, match="P-256"):
        await authorities.import_("sensors", large.pem.encode(), large.key_pem.encode())
    made = await authorities.import_("sensors", (factory.pem + root.pem).encode(), factory.key_pem.encode())
    assert made.subject == "CN=Factory"
    reply = await fleet.ask("sensor-1", **asking(p256()))
    chain = x509.load_pem_x509_certificates(reply["credentialsValue"].encode())
    assert [each.public_bytes(Encoding.DER) for each in chain[1:]] == [factory.der]
    chain[0].verify_directly_issued_by(factory.certificate)
    assert isinstance(await access.with_channel(presenting(reply["credentialsValue"])), Authenticated)


async def test_profiles_of_chains_issue_nothing(space: Space) -> None:
    fleet = await Fleet.make(space, ProvisionStrategy.X509_CERTIFICATE_CHAIN)
    authorities = IssuingAuthorities(space.database, space.keys, space.organization_id)
    with pytest.raises(Conflict, match="--ca"):
        await authorities.create("sensors")
    assert fleet.profile.strategy is ProvisionStrategy.X509_CERTIFICATE_CHAIN


async def test_a_certificate_past_its_own_end_is_refused(certified: Fleet) -> None:
    reply = await certified.ask("sensor-1", **asking(p256()))
    clock = Clock()
    clock.advance(days=400)
    later = Access(
        certified.space.database,
        certified.space.keys,
        enrollment := Enrollment(certified.space.database, certified.space.keys, clock=clock),
        clock=clock,
    )
    assert await later.with_channel(presenting(reply["credentialsValue"])) is Denial.CERTIFICATE
    await enrollment.drain()
    assert await reasons(certified.space) == ["CERTIFICATE_EXPIRED"]


async def test_the_servers_clock_says_when_a_token_ends(fleet: Fleet) -> None:
    clock = Clock()
    await fleet.space.profiles.update("sensors", ProfileChange(credentials_lifetime=timedelta(days=1)))
    of = Provisioning(fleet.space.database, fleet.space.keys, clock=clock)
    reply = await fleet.ask("sensor-1", of=of)
    assert reply["credentialsExpireAt"] % 1000 == 0
    assert abs(reply["credentialsExpireAt"] / 1000 - clock.now - 86_400) < 2
    await of.drain()
