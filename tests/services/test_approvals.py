"""Profiles whose devices wait for an operator."""

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from provserver.core.authorization import OPERATOR, PERMISSIONS, Principal, Role
from provserver.core.model import Peer, ProvisionStrategy, ReprovisionPolicy, Transport
from provserver.errors import Conflict, Forbidden, NotFound, Unavailable
from provserver.services import approvals as services
from provserver.services import settlement
from provserver.services.access import Access
from provserver.services.approvals import Approvals, ApprovalState
from provserver.services.enrollment import Enrollment
from provserver.services.profiles import ProfileChange
from provserver.services.provisioning import Provisioning
from provserver.store import approvals as store
from provserver.store.database import Database
from tests.chains import DEVICE, FACTORY
from tests.conftest import Space
from tests.services.conftest import NONCE, Fleet, Locking, use

OTHER_NONCE = NONCE[::-1]
CHECK = ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES
PENDING = {
    "errorMsg": "Waiting for an operator's approval, try again later!",
    "status": "FAILURE",
    "provisionDeviceStatus": "PENDING",
}


@pytest.fixture
async def fleet(space: Space) -> Fleet:
    return await approving(space)


@pytest.fixture
def approvals(space: Space) -> Approvals:
    return Approvals(space.database)


@pytest.fixture
def operator(space: Space) -> Principal:
    return Principal(OPERATOR, space.organization_id)


async def approving(
    space: Space,
    strategy: ProvisionStrategy = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES,
    policy: ReprovisionPolicy = ReprovisionPolicy.DENY,
    name: str = "sensors",
) -> Fleet:
    change = ProfileChange(
        name=name, strategy=strategy, reprovision_policy=policy, accept_unproven_repeats=True, approval=True
    )
    return Fleet(space, *await space.profiles.create(change))


def waits(reply: dict[str, Any]) -> bool:
    """Whether the reply says to wait for an operator, and to ask again."""
    hint = reply.pop("retryAfter", 0)
    return reply == PENDING and 5 <= hint <= 10


async def rows(fleet: Fleet) -> list[tuple[object, ...]]:
    found = await fleet.space.rows("SELECT device_name, state, asks FROM provision_approval ORDER BY id")
    return [tuple(row) for row in found]


async def test_a_device_waits_until_an_operator_accepts_it(
    fleet: Fleet, approvals: Approvals, operator: Principal
) -> None:
    assert waits(await fleet.ask("sensor-1", requestNonce=NONCE))
    assert waits(await fleet.ask("sensor-1", requestNonce=NONCE))
    assert await fleet.counts() | {"attempt": 0, "outbox": 0} == dict.fromkeys(await fleet.counts(), 0)
    [waiting] = await approvals.list_(operator)
    assert (waiting.device_name, waiting.profile, waiting.address) == ("sensor-1", "sensors", "192.0.2.7")
    assert (waiting.state, waiting.asks, waiting.transport) == (ApprovalState.PENDING, 2, "HTTP")

    accepted = await approvals.decide(operator, "sensor-1", accept=True)

    assert (accepted.id, accepted.state, accepted.decided_by) == (waiting.id, ApprovalState.ACCEPTED, OPERATOR)
    granted = await fleet.ask("sensor-1", requestNonce=NONCE)
    assert (granted["status"], granted["deviceName"]) == ("SUCCESS", "sensor-1")
    assert await use(Access(fleet.space.database, fleet.space.keys), granted["credentialsValue"])
    assert await rows(fleet) == []
    assert (await fleet.counts())["device"] == 1


async def test_the_answer_to_who_was_accepted_can_be_lost(
    fleet: Fleet, approvals: Approvals, operator: Principal
) -> None:
    await fleet.ask("sensor-1", requestNonce=NONCE)
    await approvals.decide(operator, "sensor-1", accept=True)

    first, second = [await fleet.ask("sensor-1", requestNonce=NONCE) for _ in range(2)]

    assert first == second
    assert await fleet.refused("sensor-1", requestNonce=OTHER_NONCE) == "ALREADY_PROVISIONED"


async def test_an_operator_may_reject_and_think_again(fleet: Fleet, approvals: Approvals, operator: Principal) -> None:
    await fleet.ask("sensor-1")
    await approvals.decide(operator, "sensor-1", accept=False)
    assert await fleet.refused("sensor-1") == "APPROVAL_REJECTED"
    assert (await fleet.ask("sensor-1"))["provisionDeviceStatus"] == "FAILURE"

    await approvals.decide(operator, "sensor-1", accept=True)

    assert (await fleet.ask("sensor-1"))["status"] == "SUCCESS"


async def test_two_that_ask_for_one_name_are_told_apart(
    fleet: Fleet, approvals: Approvals, operator: Principal
) -> None:
    """By their nonces; only the one that was accepted gets the name."""
    for nonce in (NONCE, OTHER_NONCE):
        assert waits(await fleet.ask("sensor-1", requestNonce=nonce))
    mine, others = await approvals.list_(operator)
    with pytest.raises(Conflict, match="Several ask"):
        await approvals.decide(operator, "sensor-1", accept=True)
    await approvals.decide(operator, others.id, accept=True)

    assert waits(await fleet.ask("sensor-1", requestNonce=NONCE))
    assert (await fleet.ask("sensor-1", requestNonce=OTHER_NONCE))["status"] == "SUCCESS"
    await approvals.decide(operator, mine.id, accept=True)
    assert await fleet.refused("sensor-1", requestNonce=NONCE) == "ALREADY_PROVISIONED"
    assert (await fleet.counts())["device"] == 1


async def test_two_that_were_accepted_for_one_name_race(
    fleet: Fleet, approvals: Approvals, operator: Principal, other: Provisioning
) -> None:
    for nonce in (NONCE, OTHER_NONCE):
        await fleet.ask("sensor-1", requestNonce=nonce)
    assert await approvals.decide_all(operator, accept=True) == 2

    replies = await asyncio.gather(
        fleet.ask("sensor-1", requestNonce=NONCE), fleet.ask("sensor-1", requestNonce=OTHER_NONCE, of=other)
    )

    assert sorted(reply["status"] for reply in replies) == ["FAILURE", "SUCCESS"]
    assert (await fleet.counts())["device"] == 1
    assert len(await rows(fleet)) == 1  # the loser's is not used


async def test_accepting_while_the_device_asks(fleet: Fleet, lock: Locking) -> None:
    """The operator's transaction holds the request: whichever is first, the device has it after one more try."""
    await fleet.ask("sensor-1", requestNonce=NONCE)
    async with lock("SELECT FROM provision_approval FOR UPDATE") as held:
        asking = asyncio.create_task(fleet.ask("sensor-1", requestNonce=NONCE))
        await held.until_waiting()
        await held.connection.execute("UPDATE provision_approval SET state = 'accepted'")
        await held.commit()
    first = await asking

    assert waits(first) or first["status"] == "SUCCESS"
    assert (await fleet.ask("sensor-1", requestNonce=NONCE))["status"] == "SUCCESS"
    assert (await fleet.counts())["device"] == 1


async def test_what_was_taken_back_before_it_was_used_is_not_used(
    fleet: Fleet, approvals: Approvals, operator: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.ask("sensor-1", requestNonce=NONCE)
    await approvals.decide(operator, "sensor-1", accept=True)
    consume = store.consume

    async def after_the_operator(*arguments: Any) -> bool:
        await approvals.decide(operator, "sensor-1", accept=False)
        done: bool = await consume(*arguments)
        return done

    monkeypatch.setattr(store, "consume", after_the_operator)

    assert await fleet.refused("sensor-1", requestNonce=NONCE) == "APPROVAL_REJECTED"
    assert (await fleet.counts())["device"] == 0


async def test_a_group_waits_as_one(fleet: Fleet, approvals: Approvals, operator: Principal) -> None:
    asked = [fleet.ask(f"sensor-{n % 20}", requestNonce=f"{n % 20:032}") for n in range(40)]
    assert all(map(waits, await asyncio.gather(*asked)))
    assert len(await rows(fleet)) == 20
    assert await approvals.decide_all(operator, accept=True, profile="sensors") == 20

    replies = await asyncio.gather(*[fleet.ask(f"sensor-{n}", requestNonce=f"{n:032}") for n in range(20)])

    assert {reply["status"] for reply in replies} == {"SUCCESS"}
    assert await rows(fleet) == []


async def test_pre_provisioned_devices_wait_as_well(space: Space, approvals: Approvals, operator: Principal) -> None:
    fleet = await approving(space, CHECK)
    await fleet.import_("sensor-1")
    assert waits(await fleet.ask("sensor-1"))
    assert await fleet.refused("sensor-2") == "NOT_PRE_PROVISIONED"
    await approvals.decide(operator, "sensor-1", accept=True)

    granted = await fleet.ask("sensor-1")

    assert [granted["credentialsValue"]] == [each.value for each in await fleet.stored("sensor-1")]


@pytest.mark.parametrize("policy", [ReprovisionPolicy.RETURN_SAME, ReprovisionPolicy.ROTATE])
async def test_an_unproven_repeat_waits_as_well(
    space: Space, approvals: Approvals, operator: Principal, policy: ReprovisionPolicy
) -> None:
    fleet = await approving(space, policy=policy)
    await fleet.ask("sensor-1")
    await approvals.decide(operator, "sensor-1", accept=True)
    assert (await fleet.ask("sensor-1"))["status"] == "SUCCESS"

    assert waits(await fleet.ask("sensor-1"))


async def test_a_rearmed_device_has_its_operators_word(fleet: Fleet, approvals: Approvals, operator: Principal) -> None:
    await fleet.ask("sensor-1")
    await approvals.decide(operator, "sensor-1", accept=True)
    await fleet.ask("sensor-1")
    await fleet.space.devices.rearm("sensor-1")

    assert (await fleet.ask("sensor-1"))["status"] == "SUCCESS"


async def test_who_has_neither_name_nor_nonce_is_told_what_is_missing(fleet: Fleet) -> None:
    reply = await fleet.ask()

    assert "deviceName or requestNonce" in reply["errorMsg"]
    assert await rows(fleet) == []


async def test_a_device_without_a_name_is_known_by_its_nonce(
    fleet: Fleet, approvals: Approvals, operator: Principal
) -> None:
    assert waits(await fleet.ask(requestNonce=NONCE))
    [waiting] = await approvals.list_(operator)
    await approvals.decide(operator, waiting.id, accept=True)

    assert (await fleet.ask(requestNonce=NONCE))["status"] == "SUCCESS"


async def test_other_credentials_are_another_request(fleet: Fleet, approvals: Approvals, operator: Principal) -> None:
    """Who knows the fleet's key and a name that was accepted cannot slip his own token in."""
    await fleet.ask("sensor-1")
    await approvals.decide(operator, "sensor-1", accept=True)

    assert waits(await fleet.ask("sensor-1", credentialsType="ACCESS_TOKEN", token="t" * 32))


async def test_so_many_may_wait(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "MAX_APPROVALS", 3)
    replies = await asyncio.gather(*[fleet.ask(f"sensor-{n}") for n in range(5)])

    assert sum(map(waits, replies)) == 3
    assert len(await rows(fleet)) == 3
    full = await fleet.ask("sensor-9")
    assert full["errorMsg"] == "Too many requests, try again later!"
    other = await approving(fleet.space, name="others")
    assert waits(await other.ask("other-1"))


async def come(fleet: Fleet, name: str, address: str) -> bool:
    """Whether a device may wait that asks from an address."""
    request = {"provisionDeviceKey": fleet.pair.key, "provisionDeviceSecret": fleet.pair.secret, "deviceName": name}
    peer = Peer(Transport.HTTP, address)
    answer = await fleet.space.provisioning.answer(json.dumps(request).encode(), peer, accept_protobuf=False)
    return waits(json.loads(answer.body))


@pytest.mark.parametrize("accept", [False, True])
async def test_what_is_decided_on_makes_room(
    fleet: Fleet, approvals: Approvals, operator: Principal, monkeypatch: pytest.MonkeyPatch, accept: bool
) -> None:
    monkeypatch.setattr(settlement, "MAX_APPROVALS", 3)
    for n in range(3):
        assert waits(await fleet.ask(f"sensor-{n}"))
    assert (await fleet.ask("sensor-9"))["errorMsg"] == "Too many requests, try again later!"

    assert await approvals.decide_all(operator, accept=accept) == 3

    assert waits(await fleet.ask("sensor-9"))


async def test_so_many_of_one_network_may_wait(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "MAX_APPROVALS_OF_NETWORK", 3)
    monkeypatch.setattr(settlement, "MAX_APPROVALS", 8)
    asked = [come(fleet, f"flood-{n}", f"2001:db8::{n:x}") for n in range(9)]
    assert sum(await asyncio.gather(*asked, come(fleet, "mine", "192.0.2.7"))) == 4
    assert await come(fleet, "mine", "192.0.2.7")
    assert await come(fleet, "mine-2", "192.0.2.8")

    # Who is waiting keeps his place wherever he goes, and makes no room by going.
    for n in range(3):
        assert await come(fleet, f"flood-{n}", "203.0.113.1")
    assert not await come(fleet, "flood-10", "2001:db8::a")
    assert await come(fleet, "theirs", "203.0.113.1")


async def test_of_what_was_rejected_the_oldest_is_forgotten(
    fleet: Fleet, approvals: Approvals, operator: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "MAX_REJECTED", 2)
    for n in range(4):
        await fleet.ask(f"sensor-{n}")
        await approvals.decide(operator, f"sensor-{n}", accept=n == 0)

    assert [row[:2] for row in await rows(fleet)] == [
        ("sensor-0", "accepted"),
        ("sensor-2", "rejected"),
        ("sensor-3", "rejected"),
    ]
    assert waits(await fleet.ask("sensor-1"))


async def test_what_nobody_asks_again_is_forgotten(
    fleet: Fleet, approvals: Approvals, operator: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "APPROVAL_PERIOD", timedelta(0))
    assert waits(await fleet.ask("sensor-1"))
    monkeypatch.undo()

    assert await approvals.list_(operator) == []
    with pytest.raises(NotFound):
        await approvals.decide(operator, "sensor-1", accept=True)
    assert waits(await fleet.ask("sensor-2"))
    assert [name for name, *_ in await rows(fleet)] == ["sensor-2"]


async def test_it_is_told_once_and_audited(fleet: Fleet, approvals: Approvals, operator: Principal) -> None:
    for _ in range(3):
        await fleet.ask("sensor-1", requestNonce=NONCE)
    decided = await approvals.decide(operator, "sensor-1", accept=True)

    [event] = await fleet.space.rows("SELECT payload FROM outbox WHERE type = 'provision.pending'")
    assert event["payload"] == {
        "approvalId": str(decided.id),
        "deviceName": "sensor-1",
        "profileId": str(fleet.profile.id),
        "profile": "sensors",
        "transport": "HTTP",
    }
    [entry] = await fleet.space.rows("SELECT action, actor, detail FROM audit WHERE subject_id = $1", str(decided.id))
    assert tuple(entry) == ("approval.accepted", OPERATOR, {"name": "sensor-1", "profile": "sensors"})


async def test_who_may_see_and_decide(fleet: Fleet, approvals: Approvals, operator: Principal) -> None:
    await fleet.ask("sensor-1")
    user = replace_permissions(operator, Role.USER)
    stranger = Principal("key:1", uuid4())

    assert len(await approvals.list_(user)) == 1
    with pytest.raises(Forbidden):
        await approvals.decide(user, "sensor-1", accept=True)
    assert await approvals.list_(stranger) == []
    assert await approvals.decide_all(stranger, accept=True) == 0
    with pytest.raises(NotFound):
        await approvals.decide(stranger, "sensor-1", accept=True)


def replace_permissions(principal: Principal, role: Role) -> Principal:
    return Principal("user:1", principal.organization_id, PERMISSIONS[role])


async def test_a_device_by_chain_waits_too(space: Space, approvals: Approvals, operator: Principal) -> None:
    await space.profiles.create_keyless(
        ProfileChange(
            name="chain",
            strategy=ProvisionStrategy.X509_CERTIFICATE_CHAIN,
            authorities=[FACTORY.der],
            approval=True,
        )
    )
    enrollment = Enrollment(space.database, space.keys)
    access = Access(space.database, space.keys, enrollment)
    peer = Peer(Transport.MQTT, "192.0.2.7", DEVICE.chain)
    with pytest.raises(Unavailable, match="approval"):
        await access.with_channel(peer)
    assert [each.device_name for each in await approvals.list_(operator)] == ["sensor-1"]
    await approvals.decide(operator, "sensor-1", accept=True)

    device = await access.with_channel(peer)

    assert getattr(device, "name", device) == "sensor-1"
    await enrollment.drain()


async def test_a_copy_of_the_profile_from_before_lets_nobody_through(space: Space, other: Provisioning) -> None:
    """The other process has cached the profile without approval; its write is guarded by the revision."""
    fleet = await Fleet.make(space)
    assert (await fleet.ask("sensor-1", of=other))["status"] == "SUCCESS"
    await space.profiles.update("sensors", ProfileChange(approval=True))

    assert waits(await fleet.ask("sensor-2", of=other))


async def test_profiles_without_approval_ask_nobody(space: Space, database_url: str) -> None:
    """Not one statement more for them."""
    fleet = await Fleet.make(space)
    statements: list[str] = []
    opened = Database(database_url, size=1)
    await opened.open()
    async with opened.connection() as connection:
        connection.add_query_logger(lambda record: statements.append(record.query))
    provisioning = Provisioning(opened, space.keys)
    try:
        for n in range(3):
            assert (await fleet.ask(f"sensor-{n}", of=provisioning))["status"] == "SUCCESS"
        await provisioning.drain()
    finally:
        await opened.close()
    assert statements
    assert not [each for each in statements if "provision_approval" in each]
