"""Devices in quarantine: nobody is let in with their credentials, and they get none."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from provserver.core.authentication import Denial
from provserver.core.authorization import OPERATOR
from provserver.core.model import Authenticated, ClonePolicy, Peer, ProvisionStrategy, ReprovisionPolicy, Transport
from provserver.errors import Conflict, Invalid, NotFound, Stale
from provserver.services.access import Access
from provserver.services.enrollment import Enrollment
from provserver.services.profiles import ProfileChange
from provserver.services.sessions import Cause
from tests.chains import DEVICE, FACTORY
from tests.conftest import Space
from tests.services.conftest import NONCE, PEER, Fleet, Locking, use
from tests.services.ownership import Estate
from tests.services.test_sessions import Connection, Entering, come_back, process, token_in

CHAIN_PEER = Peer(Transport.MQTT, "192.0.2.7", DEVICE.chain)


@pytest.fixture
def access(space: Space) -> Access:
    return Access(space.database, space.keys)


async def hold(fleet: Fleet, name: str = "sensor-1", reason: str = "seen twice") -> None:
    await fleet.space.devices.quarantine(name, reason)


async def test_it_lets_nobody_in_and_is_released(fleet: Fleet, access: Access) -> None:
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    assert await use(access, token)

    await hold(fleet)
    assert await access.with_token(token, PEER) is Denial.CREDENTIALS
    await fleet.space.devices.release("sensor-1")

    assert await use(access, token)


async def test_it_is_shown_audited_and_told(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")
    before = (await fleet.space.devices.show("sensor-1")).device
    held = await fleet.space.devices.quarantine("sensor-1", " seen twice ", before.revision)
    shown = await fleet.space.devices.show("sensor-1")
    assert shown.quarantine is not None
    assert (shown.quarantine.reason, shown.quarantine.actor) == ("seen twice", OPERATOR)
    assert held.revision == before.revision + 1

    released, token = await fleet.space.devices.release("sensor-1", revision=held.revision)

    assert token is None
    assert (await fleet.space.devices.show("sensor-1")).quarantine is None
    audits = await fleet.space.rows(
        "SELECT action, detail FROM audit WHERE subject_id = $1 ORDER BY at", str(released.id)
    )
    assert [tuple(each) for each in audits] == [
        ("device.quarantined", {"name": "sensor-1", "reason": "seen twice"}),
        ("device.released", {"name": "sensor-1", "rotated": False}),
    ]
    events = await fleet.space.rows(
        "SELECT type, payload FROM outbox WHERE type <> 'device.provisioned' ORDER BY created_at"
    )
    of = {"deviceId": str(released.id), "deviceName": "sensor-1", "profileId": str(fleet.profile.id)}
    assert [tuple(each) for each in events] == [
        ("device.quarantined", of | {"reason": "seen twice", "by": OPERATOR}),
        ("device.released", of | {"rotated": False}),
    ]


async def test_what_cannot_be_done(fleet: Fleet) -> None:
    devices = fleet.space.devices
    await fleet.ask("sensor-1")
    with pytest.raises(Conflict, match="not in quarantine"):
        await devices.release("sensor-1")
    with pytest.raises(Invalid, match="reason"):
        await devices.quarantine("sensor-1", " ")
    with pytest.raises(NotFound):
        await devices.quarantine("sensor-2", "seen twice")
    with pytest.raises(Stale):
        await devices.quarantine("sensor-1", "seen twice", 99)
    await hold(fleet)
    with pytest.raises(Conflict, match="already"):
        await hold(fleet)
    before = await _state(fleet.space)
    for forbidden in (devices.rotate, devices.rearm):
        with pytest.raises(Conflict, match=r"in quarantine.*provserver device release sensor-1.*--rotate"):
            await forbidden("sensor-1")
    assert await _state(fleet.space) == before


async def test_what_was_revoked_stays_in_quarantine(fleet: Fleet) -> None:
    """For the unit to provision itself again while the clone is off."""
    await fleet.ask("sensor-1", requestNonce=NONCE)
    await hold(fleet)
    await fleet.space.devices.revoke("sensor-1")
    with pytest.raises(Conflict, match="in quarantine"):
        await fleet.space.devices.rotate("sensor-1")
    assert await fleet.refused("sensor-1", requestNonce=NONCE) == "QUARANTINED"

    await fleet.space.devices.release("sensor-1")
    await fleet.space.devices.rearm("sensor-1")

    assert (await fleet.ask("sensor-1"))["status"] == "SUCCESS"


async def test_a_rotating_release_takes_a_rearming_back(fleet: Fleet) -> None:
    """It would give who has a copy of the flash what he asks for first."""
    await fleet.ask("sensor-1", requestNonce=NONCE)
    await fleet.space.devices.rearm("sensor-1")
    await hold(fleet)

    released, _ = await fleet.space.devices.release("sensor-1", rotate=True)

    assert not released.rearmed
    assert await fleet.refused("sensor-1", requestNonce=NONCE) == "ALREADY_PROVISIONED"


@pytest.mark.parametrize("policy", ReprovisionPolicy)
async def test_it_gets_no_credentials(space: Space, policy: ReprovisionPolicy) -> None:
    fleet = await Fleet.make(space, policy=policy)
    await fleet.ask("sensor-1", requestNonce=NONCE)
    await hold(fleet)

    assert await fleet.refused("sensor-1", requestNonce=NONCE) == "QUARANTINED"
    assert await fleet.refused("sensor-1") == "QUARANTINED"
    assert await fleet.refused(requestNonce=NONCE) == "QUARANTINED"

    await space.devices.release("sensor-1")
    await space.devices.rearm("sensor-1")
    assert (await fleet.ask("sensor-1"))["status"] == "SUCCESS"


async def test_a_pre_provisioned_device_gets_none_either(space: Space) -> None:
    fleet = await Fleet.make(space, ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES)
    await fleet.import_("sensor-1")
    await hold(fleet)

    assert await fleet.refused("sensor-1") == "QUARANTINED"


async def test_a_device_by_chain_gets_none_either(space: Space) -> None:
    change = ProfileChange(name="chain", strategy=ProvisionStrategy.X509_CERTIFICATE_CHAIN, authorities=[FACTORY.der])
    await space.profiles.create_keyless(change)
    enrollment = Enrollment(space.database, space.keys)
    access = Access(space.database, space.keys, enrollment)
    assert isinstance(await access.with_channel(CHAIN_PEER), Authenticated)
    await space.devices.quarantine("sensor-1", "seen twice")

    assert await access.with_channel(CHAIN_PEER) is Denial.CERTIFICATE
    await enrollment.drain()
    assert await space.value("SELECT reason FROM attempt WHERE outcome <> 'success'") == "QUARANTINED"
    await space.devices.release("sensor-1")
    assert isinstance(await access.with_channel(CHAIN_PEER), Authenticated)


async def test_a_static_token_comes_not_back_by_itself(space: Space, access: Access) -> None:
    estate = await Estate.make(space.database, space.keys, space.organization_id)
    token = await estate.token()
    device = await access.with_token(token.auth, PEER)
    assert isinstance(device, Authenticated)
    await space.devices.quarantine(device.device_id, "seen twice")

    assert await access.with_token(token.auth, PEER) is Denial.CREDENTIALS
    with pytest.raises(Conflict, match="stays its token"):
        await space.devices.release(device.device_id, rotate=True)
    await space.devices.release(device.device_id)
    assert await use(access, token.auth)


async def test_it_has_no_shared_key(fleet: Fleet, access: Access) -> None:
    granted = await fleet.ask("sensor-1")
    assert await access.shared_key(granted["deviceId"]) is not None

    await hold(fleet)

    assert await access.shared_key(granted["deviceId"]) is None


async def test_rotated_credentials_keep_the_clone_out(space: Space, access: Access) -> None:
    fleet = await Fleet.make(space)
    old = (await fleet.ask("sensor-1", requestNonce=NONCE))["credentialsValue"]
    await hold(fleet)

    _, token = await space.devices.release("sensor-1", rotate=True)

    assert token is not None
    assert await use(access, token.id)
    assert await access.with_token(old, PEER) is Denial.CREDENTIALS
    assert await fleet.refused("sensor-1", requestNonce=NONCE) == "ALREADY_PROVISIONED"
    assert await space.value("SELECT payload -> 'rotated' FROM outbox WHERE type = 'device.released'") is True


async def test_live_sessions_are_cut_in_every_process(fleet: Fleet, access: Access, database_url: str) -> None:
    async with AsyncExitStack() as stack:
        here, elsewhere = [await stack.enter_async_context(process(database_url)) for _ in range(2)]
        ended = []
        for sessions, name in ((here, "sensor-1"), (elsewhere, "sensor-2")):
            connection = Connection()
            await sessions.open(await come_back(fleet, access, name), connection)
            ended.append(connection.ended)
            await hold(fleet, name)
        assert [await asyncio.wait_for(each, 30) for each in ended] == [Cause.REVOKED] * 2


async def test_no_session_is_opened(fleet: Fleet, access: Access, database_url: str) -> None:
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    device = await access.with_token(token, PEER)
    assert isinstance(device, Authenticated)
    await hold(fleet)
    async with process(database_url) as sessions:
        assert await Entering(sessions, token_in(access, token)).verdict is False
        connection = Connection()
        await sessions.open(device, connection)
        assert connection.ended.result() is Cause.REVOKED


async def test_a_provision_that_was_decided_before_comes_to_nothing(space: Space, lock: Locking) -> None:
    """It waits for the device's row meanwhile, and is decided anew."""
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.ROTATE)
    await fleet.ask("sensor-1")
    device = (await space.devices.show("sensor-1")).device
    async with lock("SELECT FROM device WHERE id = $1 FOR UPDATE", device.id) as held:
        asking = asyncio.create_task(fleet.attempted("sensor-1"))
        await held.until_waiting()
        await held.connection.execute("UPDATE device SET revision = revision + 1")
        await held.connection.execute("UPDATE credentials SET quarantined = true")
        await held.connection.execute("INSERT INTO device_quarantine VALUES ($1, 'seen twice', 'operator')", device.id)
        await held.commit()

    assert (await asking)["reason"] == "QUARANTINED"
    assert await space.value("SELECT count(*) FROM credentials WHERE NOT quarantined") == 0


async def test_a_refused_or_unproven_request_changes_nothing(fleet: Fleet) -> None:
    """However often: only an operator, or two that hold valid credentials, put a device into quarantine."""
    await fleet.ask("sensor-1", requestNonce=NONCE)
    await fleet.space.profiles.update("sensors", ProfileChange(clone_policy=ClonePolicy.QUARANTINE))
    before = await _state(fleet.space)
    for n in range(20):
        await fleet.refused("sensor-1", requestNonce=f"{n:032}")
        await fleet.refused("sensor-1", provisionDeviceSecret="wrong")
    await fleet.space.provisioning.drain()

    assert await _state(fleet.space) == before
    assert await fleet.space.value("SELECT count(*) FROM device_quarantine") == 0


async def test_a_deleted_device_leaves_nothing(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")
    await hold(fleet)
    await fleet.space.devices.delete("sensor-1")

    assert await fleet.space.value("SELECT count(*) FROM device_quarantine") == 0
    assert (await fleet.ask("sensor-1"))["status"] == "SUCCESS"


async def _state(space: Space) -> list[tuple[object, ...]]:
    rows = await space.rows(
        "SELECT d.revision, d.request_digest, c.id_digest, c.quarantined, c.created_at FROM device d"
        " JOIN credentials c ON c.device_id = d.id"
    )
    return [tuple(row) for row in rows]
