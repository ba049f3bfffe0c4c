"""What speaks for clones, told as it is seen; and devices that two hold credentials of."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest

from provserver.core.clones import MAX_PLACES, TAKE_OVERS, TURNS, Sign
from provserver.core.model import Authenticated, ClonePolicy, Peer, ReprovisionPolicy, Transport
from provserver.services import clones as services
from provserver.services.access import Access
from provserver.services.clones import Clones
from provserver.services.profiles import ProfileChange
from provserver.services.sessions import Cause, Sessions
from provserver.store.database import Database
from tests.conftest import Space
from tests.services.conftest import NONCE, Fleet
from tests.services.test_sessions import Connection, come_back, process

OTHER_NONCE = NONCE[::-1]
HERE, THERE = "192.0.2.7", "198.51.100.7"


@pytest.fixture
def access(space: Space) -> Access:
    return Access(space.database, space.keys)


async def ask(fleet: Fleet, address: str = HERE, name: str | None = "sensor-1", **members: object) -> dict[str, Any]:
    """A request from an address; `signs` has the effect."""
    request = {"provisionDeviceKey": fleet.pair.key, "provisionDeviceSecret": fleet.pair.secret} | members
    if name is not None:
        request["deviceName"] = name
    peer = Peer(Transport.MQTT, address)
    answer = await fleet.space.provisioning.answer(json.dumps(request).encode(), peer)
    reply: dict[str, Any] = json.loads(answer.body)
    return reply


async def signs(space: Space) -> dict[str, int]:
    """How often each sign was seen, of all devices."""
    await space.provisioning.drain()
    rows = await space.rows("SELECT kind, sum(count)::bigint FROM clone_sign GROUP BY kind")
    return {row[0]: row[1] for row in rows}


async def told(space: Space) -> list[dict[str, Any]]:
    rows = await space.rows("SELECT payload FROM outbox WHERE type = 'clone.suspected' ORDER BY created_at")
    return [row["payload"] for row in rows]


# Requests


async def test_one_name_from_two_with_nonces_of_their_own(fleet: Fleet) -> None:
    await ask(fleet, requestNonce=NONCE)
    assert (await ask(fleet, requestNonce=OTHER_NONCE))["status"] == "FAILURE"

    assert await signs(fleet.space) == {"name": 1}


async def test_one_name_from_two_addresses(fleet: Fleet) -> None:
    await ask(fleet)
    await ask(fleet, HERE)
    assert await signs(fleet.space) == {}

    await ask(fleet, THERE)

    assert await signs(fleet.space) == {"name": 1}


async def test_one_nonce_from_two_addresses(fleet: Fleet) -> None:
    first = await ask(fleet, requestNonce=NONCE)
    assert await ask(fleet, requestNonce=NONCE) == first
    assert await signs(fleet.space) == {}

    assert await ask(fleet, THERE, requestNonce=NONCE) == first  # it is proved, and told all the same

    assert await signs(fleet.space) == {"nonce": 1}


async def test_one_nonce_for_two_requests(fleet: Fleet) -> None:
    await ask(fleet, requestNonce=NONCE)
    assert (await ask(fleet, name="sensor-2", requestNonce=NONCE))["status"] == "FAILURE"

    assert await signs(fleet.space) == {"nonce": 1}


async def test_two_that_race_for_a_name(fleet: Fleet) -> None:
    await asyncio.gather(ask(fleet, requestNonce=NONCE), ask(fleet, THERE, requestNonce=OTHER_NONCE))

    assert await signs(fleet.space) == {"name": 1}


@pytest.mark.parametrize("policy", ReprovisionPolicy)
async def test_what_the_policy_says_of_repeats_changes_no_sign(space: Space, policy: ReprovisionPolicy) -> None:
    fleet = await Fleet.make(space, policy=policy)
    await ask(fleet)
    await ask(fleet, THERE)

    assert await signs(space) == {"name": 1}


async def test_a_wrong_secret_is_no_sign(fleet: Fleet) -> None:
    await ask(fleet, requestNonce=NONCE)
    await ask(fleet, THERE, provisionDeviceSecret="wrong", requestNonce=OTHER_NONCE)

    assert await signs(fleet.space) == {}


async def test_a_profile_may_ignore_it(fleet: Fleet) -> None:
    await fleet.space.profiles.update("sensors", ProfileChange(clone_policy=ClonePolicy.IGNORE))
    await ask(fleet, requestNonce=NONCE)
    await ask(fleet, THERE, requestNonce=OTHER_NONCE)

    assert (await signs(fleet.space), await told(fleet.space)) == ({}, [])


async def test_it_is_told_once_a_minute_and_shown(fleet: Fleet) -> None:
    granted = await ask(fleet, requestNonce=NONCE)
    for n in range(5):
        await ask(fleet, requestNonce=f"{n:032}")
        await fleet.space.provisioning.drain()

    [shown] = (await fleet.space.devices.show("sensor-1")).signs
    assert (shown.sign, shown.count) == ("name", 5)
    of = {"deviceId": granted["deviceId"], "deviceName": "sensor-1", "profileId": str(fleet.profile.id)}
    assert await told(fleet.space) == [of | {"sign": "name", "count": 1}]

    await fleet.space.value("UPDATE clone_sign SET told_at = told_at - interval '61 seconds'")
    await ask(fleet, THERE, requestNonce=OTHER_NONCE)
    await fleet.space.provisioning.drain()
    assert (await told(fleet.space))[1:] == [of | {"sign": "name", "count": 6}]


# Sessions


class Twins:
    """Two that hold the credentials of a device, each in a process."""

    def __init__(self, device: Authenticated, *processes: Sessions) -> None:
        self.device = device
        self.processes = processes
        self.live: list[Connection] = []

    async def come(self, addresses: Sequence[str]) -> None:
        """One after the other opens a session, in the processes by turns."""
        for address in addresses:
            older = self.live[-1] if self.live else None
            connection = Connection(address)
            self.live.append(connection)
            await self.processes[len(self.live) % len(self.processes)].open(self.device, connection)
            if older is not None:
                assert await asyncio.wait_for(older.ended, 30) in (Cause.TAKEN_OVER, Cause.REVOKED)

    async def settle(self) -> None:
        for each in self.processes:
            await each._clones.drain()


@pytest.fixture(params=[1, 2], ids=["one process", "two processes"])
async def twins(request: pytest.FixtureRequest, fleet: Fleet, access: Access, database_url: str) -> Any:
    device = await come_back(fleet, access)
    async with AsyncExitStack() as stack:
        yield Twins(device, *[await stack.enter_async_context(process(database_url)) for _ in range(request.param)])


async def put_in_quarantine(fleet: Fleet) -> str | None:
    reason: str | None = await fleet.space.value("SELECT reason FROM device_quarantine")
    return reason


# The first take-over that a process sees is free, and a turn needs two: with a margin for that in either process.
BACK_AND_FORTH = [HERE, HERE, THERE, THERE] * (TURNS + 1)


async def test_two_that_take_turns_are_told(fleet: Fleet, twins: Twins) -> None:
    await twins.come(BACK_AND_FORTH)
    await twins.settle()

    assert set(await signs(fleet.space)) == {"sessions"}
    assert [each["sign"] for each in await told(fleet.space)] == ["sessions"]
    assert await put_in_quarantine(fleet) is None


async def test_two_that_take_turns_are_out_if_the_profile_wants_it(fleet: Fleet, twins: Twins) -> None:
    await fleet.space.profiles.update("sensors", ProfileChange(clone_policy=ClonePolicy.QUARANTINE))
    for place in range(len(BACK_AND_FORTH)):
        await twins.come(BACK_AND_FORTH[place : place + 1])
        await twins.settle()

    assert await put_in_quarantine(fleet) == services.REASON
    assert await asyncio.wait_for(twins.live[-1].ended, 30) is Cause.REVOKED
    [entry] = await fleet.space.rows("SELECT actor, detail FROM audit WHERE action = 'device.quarantined'")
    assert tuple(entry) == ("provserver", {"reason": services.REASON})
    assert await fleet.space.value("SELECT count(*) FROM outbox WHERE type = 'device.quarantined'") == 1


@pytest.mark.parametrize("other", [THERE, "2001:db8::1"])
async def test_two_rounds_are_enough(fleet: Fleet, twins: Twins, other: str) -> None:
    """The sixth session at the latest, when each is another process'; of one process, the fifth."""
    await fleet.space.profiles.update("sensors", ProfileChange(clone_policy=ClonePolicy.QUARANTINE))
    for address in [HERE, other, HERE, other]:
        await twins.come([address])
        await twins.settle()
    assert await put_in_quarantine(fleet) is None

    for address in [HERE, other][: len(twins.processes)]:
        await twins.come([address])
        await twins.settle()

    assert await put_in_quarantine(fleet) == services.REASON


async def test_one_that_roams_is_never_put_in_quarantine(fleet: Fleet, twins: Twins) -> None:
    """From a new address every time, or a new one of its own IPv6 network."""
    await fleet.space.profiles.update("sensors", ProfileChange(clone_policy=ClonePolicy.QUARANTINE))
    for n in range(TAKE_OVERS):
        await twins.come([f"192.0.2.{n}"])
        await twins.settle()
    assert await signs(fleet.space) == {}
    await twins.come([f"2001:db8::{n % 2 + 1}" for n in range(40)])
    await twins.settle()

    assert set(await signs(fleet.space)) == {"sessions"}
    assert await put_in_quarantine(fleet) is None


async def test_what_is_remembered_of_a_device_is_bounded(fleet: Fleet, twins: Twins) -> None:
    await twins.come([f"192.0.2.{n}" for n in range(MAX_PLACES + 10)])
    await twins.settle()

    assert await fleet.space.value("SELECT jsonb_array_length(places) FROM clone_watch") == MAX_PLACES


async def test_one_address_is_told_late_and_never_costs_a_device_its_credentials(fleet: Fleet, twins: Twins) -> None:
    """Two behind one NAT, or one device that starts anew all the time: nobody can tell."""
    await fleet.space.profiles.update("sensors", ProfileChange(clone_policy=ClonePolicy.QUARANTINE))
    await twins.come([HERE] * TAKE_OVERS)
    await twins.settle()
    assert await signs(fleet.space) == {}

    await twins.come([HERE] * 4)
    await twins.settle()

    assert set(await signs(fleet.space)) == {"sessions"}
    assert await put_in_quarantine(fleet) is None


async def test_a_device_that_comes_back_now_and_then_is_no_sign(
    fleet: Fleet, twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another network each time: what is further apart than the window counts alone."""
    monkeypatch.setattr(services, "WINDOW", 0.0)
    await twins.come(BACK_AND_FORTH)
    await twins.settle()

    assert await signs(fleet.space) == {}


async def test_a_first_take_over_costs_no_statement(fleet: Fleet, twins: Twins) -> None:
    await twins.come([HERE, THERE])
    await twins.settle()

    assert await fleet.space.value("SELECT count(*) FROM clone_watch") == 0


async def test_what_is_remembered_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MAX_WATCHED", 10)
    clones = Clones(database)
    for _ in range(100):
        clones.taken_over(uuid4(), HERE)
    assert len(clones._last) == 10
    clones.note(uuid4(), Sign.NAME, HERE, certain=True)  # of a device that is gone: of no consequence
    await clones.drain()


async def test_nobody_waits_for_a_database_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    clones, device = Clones(Database("postgresql:///nowhere")), uuid4()
    clones.note(device, Sign.NONCE, HERE, certain=True)
    for _ in range(3):
        clones.taken_over(device, HERE)
    await clones.drain()

    assert "signs of clones were not noted: Unavailable" in caplog.text
    assert "take-overs were not counted: Unavailable" in caplog.text
