import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID, uuid4

import pytest

from provserver.core.authentication import Denial
from provserver.core.authorization import Permission, Principal, Role
from provserver.errors import Conflict, Forbidden, Invalid, NotFound, Refused
from provserver.services.access import Access
from provserver.services.claiming import Claimed, Claiming
from provserver.services.data import Data
from provserver.services.devices import DeviceChange, Devices
from provserver.services.handover import Handover
from provserver.services.sessions import Cause
from provserver.store.database import Database
from tests.conftest import Space
from tests.services.conftest import PEER, Locking
from tests.services.moves import (
    access,
    attributes,
    claiming,
    connect,
    data,
    estate,
    handover,
    history,
    made,
    outcomes,
    patient,
    serving,
    status,
    unchanged,
    unlimited,
    used,
    wiped,
)
from tests.services.ownership import Estate
from tests.services.test_sessions import Connection, process

ADMIN, STAFF = Role.ADMIN, Role.STAFF

__all__ = ["access", "claiming", "data", "estate", "handover", "patient", "serving"]  # fixtures


# --- giving back


BACK: dict[str, Callable[[Handover, Principal, UUID], Coroutine[Any, Any, None]]] = {
    "unclaim": Handover.unclaim,
    "disclaim": Handover.disclaim,
    "release": Handover.release_device,
}


@pytest.mark.parametrize("move", ["unclaim", "release"])
async def test_the_owner_gives_a_device_back_and_nothing_of_his_stays(
    estate: Estate, claiming: Claiming, handover: Handover, access: Access, data: Data, space: Space, move: str
) -> None:
    token = await used(estate, claiming, access, data, space)

    await BACK[move](handover, estate.who("anna"), token.id)

    assert await status(space, token) == ("UNCLAIMED", None, None)
    assert await wiped(space, token)
    assert (await history(space, token.id))[-1] == ("static_token.unclaimed", estate.who("anna").actor, estate["anna"])
    claimed = await claiming.claim(estate.who("ben"), token.payload)
    assert claimed.device is not None
    assert await wiped(space, token)
    await connect(access, token)


@pytest.mark.parametrize("move", ["unclaim", "disclaim", "release"])
async def test_the_maker_takes_a_device_back_which_is_cut_and_may_return(
    estate: Estate,
    claiming: Claiming,
    handover: Handover,
    access: Access,
    data: Data,
    space: Space,
    database_url: str,
    move: str,
) -> None:
    token = await used(estate, claiming, access, data, space)
    before = await connect(access, token)
    async with process(database_url) as sessions:
        connection = Connection()
        await sessions.open(before, connection)

        await BACK[move](handover, estate.who("brand", STAFF), token.id)

        assert await connection.ended is Cause.REVOKED
    assert await status(space, token) == ("UNCLAIMED", None, None)
    assert await wiped(space, token)
    after = await connect(access, token)
    assert after.issued_at > before.issued_at
    (seen,) = [device async for device in Devices(space.database, space.keys, estate["brand"]).stream()]
    assert (seen.id, seen.static_token, seen.holder_id) == (token.id, "UNCLAIMED", estate["brand"])
    assert [device async for device in Devices(space.database, space.keys, estate["anna"]).stream()] == []


@pytest.mark.parametrize("move", BACK)
@pytest.mark.parametrize(
    ("name", "role", "expected"),
    [
        ("root", ADMIN, None),
        ("root", STAFF, None),
        ("root", Role.USER, Forbidden),
        ("brand", ADMIN, None),
        ("brand", STAFF, None),
        ("brand", Role.USER, Forbidden),
        ("anna", ADMIN, Forbidden),
        ("anna", STAFF, Forbidden),
        ("anna", Role.USER, None),
        ("ben", ADMIN, NotFound),
        ("cleo", ADMIN, NotFound),
        ("foreign", ADMIN, NotFound),
        ("dora", ADMIN, NotFound),
    ],
)
async def test_who_may_give_a_device_back(
    estate: Estate,
    claiming: Claiming,
    handover: Handover,
    space: Space,
    move: str,
    name: str,
    role: Role,
    expected: type[Refused] | None,
) -> None:
    token = await estate.token()
    await claiming.claim(estate.who("anna"), token.qr)
    call = BACK[move](handover, estate.who(name, role), token.id)
    if move == "disclaim" and name == "anna":  # to her there is no static token
        expected = Forbidden if role is Role.USER else NotFound
    if move == "disclaim" and role is Role.USER:
        expected = Forbidden
    if expected is None:
        await call
        assert await status(space, token) == ("UNCLAIMED", None, None)
    else:
        await unchanged(space, expected, call)


@pytest.mark.parametrize("move", BACK)
async def test_what_nobody_claimed_cannot_be_taken_from_anybody(
    estate: Estate, handover: Handover, access: Access, space: Space, move: str
) -> None:
    token = await estate.token()
    expected = NotFound if move == "release" else Conflict
    await unchanged(space, expected, BACK[move](handover, estate.operator, token.id))
    await connect(access, token)
    await unchanged(space, Conflict, BACK[move](handover, estate.operator, token.id), "not claimed")
    await unchanged(space, NotFound, BACK[move](handover, estate.operator, uuid4()))


async def test_what_no_user_owns_is_its_organizations_to_give_back(
    estate: Estate, claiming: Claiming, handover: Handover, space: Space
) -> None:
    token = await estate.token()
    await claiming.claim(estate.key("anna"), token.qr)

    await unchanged(space, Forbidden, handover.unclaim(estate.who("anna"), token.id), "devices:manage")
    await handover.unclaim(estate.who("anna", STAFF), token.id)

    assert await status(space, token) == ("UNCLAIMED", None, None)


async def test_a_device_that_the_maker_deletes_comes_back_unclaimed(
    estate: Estate, claiming: Claiming, handover: Handover, access: Access, data: Data, space: Space
) -> None:
    token = await used(estate, claiming, access, data, space)
    makers = Devices(space.database, space.keys, estate["brand"])

    await unchanged(space, Conflict, makers.delete(str(token.id)), "Disclaim")
    await handover.disclaim(estate.who("brand", STAFF), token.id)
    await makers.delete(str(token.id))
    assert await status(space, token) == ("UNCLAIMED", None, None)
    assert await space.value("SELECT count(*) FROM credentials") == 0
    await connect(access, token)

    assert await status(space, token) == ("UNCLAIMED", None, None)
    assert await wiped(space, token)
    await claiming.claim(estate.who("ben"), token.qr)


async def test_a_device_that_comes_back_has_a_revision_it_never_had(
    estate: Estate, access: Access, space: Space
) -> None:
    token = await estate.token()
    makers = Devices(space.database, space.keys, estate["brand"])
    revision = "SELECT revision FROM device"
    await connect(access, token)
    for changes in (0, 5, 0):
        for n in range(changes):
            await makers.update(str(token.id), DeviceChange(server={"place": str(n)}))
        seen = await space.value(revision)
        await makers.delete(str(token.id))
        await connect(access, token)
        assert await space.value(revision) > seen


async def test_credentials_that_its_maker_revoked_stay_so(
    estate: Estate, claiming: Claiming, handover: Handover, access: Access, space: Space
) -> None:
    token = await estate.token()
    await connect(access, token)
    await Devices(space.database, space.keys, estate["brand"]).revoke(str(token.id))

    assert await access.with_token(token.auth, PEER) is Denial.CREDENTIALS
    await claiming.claim(estate.who("anna"), token.qr)
    await handover.unclaim(estate.who("anna"), token.id)
    assert await access.with_token(token.auth, PEER) is Denial.CREDENTIALS


# --- deleting tokens


async def test_a_token_that_is_deleted_opens_nothing(
    estate: Estate, claiming: Claiming, handover: Handover, access: Access, space: Space
) -> None:
    unused, connected = await estate.token(), await estate.token()
    await connect(access, connected)
    for token in (unused, connected):
        await handover.delete_token(estate.who("brand", STAFF), token.id)

        assert await status(space, token) is None
        assert await access.with_token(token.auth, PEER) is Denial.CREDENTIALS
        with pytest.raises(NotFound, match="cannot be claimed"):
            await claiming.claim(estate.who("anna"), token.qr)
        actor = estate.who("brand", STAFF).actor
        assert (await history(space, token.id))[-1] == ("static_token.deleted", actor, estate["brand"])
    for table in ("device", "credentials", "attribute", "static_token"):
        assert await space.value(f"SELECT count(*) FROM {table}") == 0


async def test_a_claimed_token_is_deleted_with_its_device_when_that_is_confirmed(
    estate: Estate, claiming: Claiming, handover: Handover, access: Access, data: Data, space: Space, database_url: str
) -> None:
    token = await used(estate, claiming, access, data, space)
    maker = estate.who("brand", STAFF)
    await unchanged(space, Conflict, handover.delete_token(maker, token.id), "Confirm")
    async with process(database_url) as sessions:
        connection = Connection()
        await sessions.open(await connect(access, token), connection)

        await handover.delete_token(maker, token.id, confirm=True)

        assert await connection.ended is Cause.REVOKED
    assert await access.with_token(token.auth, PEER) is Denial.CREDENTIALS
    for table in ("device", "credentials", "attribute", "telemetry", "telemetry_history", "claim", "static_token"):
        assert await space.value(f"SELECT count(*) FROM {table}") == 0


@pytest.mark.parametrize(
    ("name", "role", "expected"),
    [
        ("root", STAFF, None),
        ("brand", Role.USER, Forbidden),
        ("anna", ADMIN, NotFound),
        ("ben", ADMIN, NotFound),
        ("cleo", ADMIN, NotFound),
        ("foreign", ADMIN, NotFound),
    ],
)
async def test_who_may_delete_a_token(
    estate: Estate,
    claiming: Claiming,
    handover: Handover,
    space: Space,
    name: str,
    role: Role,
    expected: type[Refused] | None,
) -> None:
    token = await estate.token()
    await claiming.claim(estate.who("anna"), token.qr)
    call = handover.delete_token(estate.who(name, role), token.id, confirm=True)
    if expected is None:
        await call
    else:
        await unchanged(space, expected, call)


# --- transfer


@pytest.mark.parametrize("kept", [False, True])
async def test_a_device_is_transferred_to_another_organization_with_its_data_only_if_that_is_wanted(
    estate: Estate, claiming: Claiming, handover: Handover, access: Access, data: Data, space: Space, kept: bool
) -> None:
    token = await used(estate, claiming, access, data, space)
    maker, ben = estate.who("brand", STAFF), estate.users["ben", Role.USER]

    device = await handover.transfer(maker, token.id, to_user=ben, keep_data=kept)

    assert await wiped(space, token) is not kept
    assert (device.holder_id, device.owner_id, device.static_token) == (estate["ben"], ben, "CLAIMED")
    assert await status(space, token) == ("CLAIMED", estate["ben"], ben)
    assert await space.value("SELECT sum(samples) FROM telemetry") == (1 if kept else None)
    details = await space.rows("SELECT detail FROM audit WHERE action IN ('device.transferred', 'device.received')")
    assert [row["detail"]["data_kept"] for row in details] == [kept, kept]
    assert set((await history(space, token.id))[-2:]) == {
        ("device.transferred", maker.actor, estate["anna"]),
        ("device.received", maker.actor, estate["ben"]),
    }
    await unchanged(space, NotFound, handover.unclaim(estate.who("anna"), token.id))
    await handover.unclaim(estate.who("ben"), token.id)


async def test_a_device_without_a_token_goes_to_another_organization_as_its_maker_made_it(
    estate: Estate, handover: Handover, data: Data, space: Space
) -> None:
    device = await made(estate, space)
    makers = Devices(space.database, space.keys, estate["brand"])
    await makers.update("sensor-1", DeviceChange({"unit": "C"}, {"batch": "7"}))
    await data.telemetry(device, b'{"t":1}')

    await handover.transfer(estate.operator, device.device_id, to_organization=estate["anna"])

    assert await attributes(space, device.device_id) == {("SERVER", "batch"): 7}
    assert await space.value("SELECT count(*) FROM telemetry") == 0


async def test_a_device_is_transferred_within_an_organization_with_its_data(
    estate: Estate, claiming: Claiming, handover: Handover, access: Access, data: Data, space: Space
) -> None:
    token = await used(estate, claiming, access, data, space)
    staff = estate.who("anna", STAFF)

    await handover.transfer(staff, token.id, to_user="staff@anna.example")
    assert await status(space, token) == ("CLAIMED", estate["anna"], staff.user_id)
    await handover.transfer(staff, token.id, to_organization=estate["anna"])
    assert await status(space, token) == ("CLAIMED", estate["anna"], None)
    assert await space.value("SELECT samples FROM telemetry") == 1
    assert ("SHARED", "home") in await attributes(space, token.id)
    assert [action for action, *_ in await history(space, token.id)][-2:] == 2 * ["device.transferred"]


async def test_what_is_transferred_unclaimed_counts_as_claimed(
    estate: Estate, claiming: Claiming, handover: Handover, access: Access, space: Space
) -> None:
    token = await estate.token()
    await unchanged(space, NotFound, handover.transfer(estate.operator, token.id, to_organization=estate["anna"]))
    await connect(access, token)

    await handover.transfer(estate.operator, token.id, to_organization=estate["anna"])

    assert await status(space, token) == ("CLAIMED", estate["anna"], None)
    await unchanged(space, NotFound, claiming.claim(estate.who("ben"), token.qr), "cannot be claimed")


async def test_transfers_that_are_refused(estate: Estate, claiming: Claiming, handover: Handover, space: Space) -> None:
    token, anna = await estate.token(), estate.who("anna")
    await claiming.claim(anna, token.qr)
    user_of = {name: estate.users[name, Role.USER] for name in ("anna", "ben", "cleo", "dora", "root", "brand")}
    staff = estate.who("anna", STAFF)
    brand, root = estate.who("brand", STAFF), estate.who("root", STAFF)
    for principal, error, to in (
        (staff, Invalid, {}),
        (staff, Invalid, {"to_user": anna.user_id, "to_organization": estate["anna"]}),
        (anna, Forbidden, {"to_user": estate.users["anna", STAFF]}),
        (staff, Conflict, {"to_user": anna.user_id}),
        (staff, NotFound, {"to_user": user_of["ben"]}),
        (staff, NotFound, {"to_organization": estate["ben"]}),
        (staff, NotFound, {"to_organization": estate["brand"]}),
        (estate.who("ben", STAFF), NotFound, {"to_user": user_of["ben"]}),
        (estate.who("foreign", STAFF), NotFound, {"to_user": user_of["dora"]}),
        (brand, NotFound, {"to_user": user_of["cleo"]}),
        (root, Conflict, {"to_user": user_of["cleo"]}),
        (root, Conflict, {"to_user": user_of["root"]}),
        (root, NotFound, {"to_organization": estate["dora"]}),
    ):
        await unchanged(space, error, handover.transfer(principal, token.id, **to))
    await unchanged(space, NotFound, handover.transfer(root, uuid4(), to_user=user_of["brand"]))
    await handover.transfer(root, token.id, to_user=user_of["brand"])


# --- claiming by a secret (spec thingsboard §7.4)


async def test_a_device_without_a_token_is_released_but_keeps_what_its_maker_wrote(
    estate: Estate, claiming: Claiming, handover: Handover, data: Data, space: Space
) -> None:
    device, anna = await made(estate, space), estate.who("anna")
    makers = Devices(space.database, space.keys, estate["brand"])
    await makers.update("sensor-1", DeviceChange({"unit": "C"}, {"batch": "7"}))
    await data.claim(device, b"")
    await claiming.claim_device(anna, "sensor-1")
    await data.telemetry(device, b'{"t":1}')
    hers = Devices(space.database, space.keys, estate["anna"])
    await hers.update("sensor-1", DeviceChange({"home": "12 High St"}, {"meta.Room": "bath"}))
    await unchanged(space, NotFound, handover.unclaim(anna, device.device_id), "no static token")
    await unchanged(space, NotFound, handover.disclaim(estate.operator, device.device_id), "no static token")

    await handover.release_device(anna, device.device_id)

    assert await attributes(space, device.device_id) == {("SERVER", "batch"): 7}
    assert await space.value("SELECT count(*) FROM telemetry") == 0
    assert (await history(space, device.device_id))[-1] == ("device.released", anna.actor, estate["anna"])
    await unchanged(space, Conflict, handover.release_device(estate.operator, device.device_id), "not claimed")


# --- at once


async def test_a_disclaim_and_a_claim_at_once_follow_each_other(
    estate: Estate, claiming: Claiming, access: Access, data: Data, space: Space, patient: Database
) -> None:
    unhurried = unlimited(space, patient)
    for _ in range(10):
        token = await used(estate, claiming, access, data, space)

        claimed, disclaimed = await outcomes(
            unhurried.claim(estate.who("ben"), token.qr), Handover(patient).disclaim(estate.operator, token.id)
        )

        assert disclaimed is None
        assert await wiped(space, token)
        if isinstance(claimed, Claimed):
            assert await status(space, token) == ("CLAIMED", estate["ben"], estate.users["ben", Role.USER])
        else:
            assert await status(space, token) == ("UNCLAIMED", None, None)


async def test_moves_of_one_device_at_once_are_as_if_one_came_after_the_other(
    estate: Estate, claiming: Claiming, handover: Handover, access: Access, data: Data, space: Space
) -> None:
    devices = Devices(space.database, space.keys, estate["brand"])
    for _ in range(5):
        token = await used(estate, claiming, access, data, space)
        await outcomes(
            handover.transfer(estate.operator, token.id, to_user=estate.users["ben", Role.USER]),
            handover.unclaim(estate.who("anna"), token.id),
            claiming.claim(estate.who("brand"), token.qr),
            handover.disclaim(estate.operator, token.id),
            access.with_token(token.auth, PEER),
            devices.delete(str(token.id)),
            handover.delete_token(estate.operator, token.id, confirm=True),
        )
        there = await status(space, token)
        if there is None:
            assert await space.value("SELECT count(*) FROM device WHERE id = $1", token.id) == 0
        elif there[0] == "UNCLAIMED":
            assert there[1:] == (None, None)


async def test_what_is_being_written_while_a_device_is_wiped_is_wiped(
    estate: Estate, claiming: Claiming, access: Access, data: Data, space: Space, lock: Locking
) -> None:
    token = await used(estate, claiming, access, data, space)
    device = await connect(access, token)
    unhurried, data = Handover(space.database), Data(space.database, space.keys)
    async with lock("SELECT FROM telemetry FOR UPDATE") as held:
        writing = asyncio.create_task(data.telemetry(device, b'{"t":2}'))
        await held.until_waiting()
        wiping = asyncio.create_task(unhurried.disclaim(estate.operator, token.id))
        await held.until_waiting(2)
        await held.commit()
        results = await asyncio.gather(writing, wiping, return_exceptions=True)
    assert list(results) == [None, None]
    assert await wiped(space, token)


async def test_whoever_had_a_device_writes_nothing_into_it_after_that(
    estate: Estate, claiming: Claiming, access: Access, data: Data, space: Space, lock: Locking
) -> None:
    token = await used(estate, claiming, access, data, space)
    hers = Devices(space.database, space.keys, estate["anna"])
    async with lock("SELECT FROM device FOR UPDATE") as held:
        disclaiming = asyncio.create_task(Handover(space.database).disclaim(estate.operator, token.id))
        await held.until_waiting()
        writing = asyncio.create_task(hers.update(str(token.id), DeviceChange({"left": "behind"})))
        await held.until_waiting(2)
        await held.commit()
    await disclaiming
    with pytest.raises(NotFound):
        await writing
    assert await wiped(space, token)


@pytest.mark.parametrize("move", ["unclaim", "release"])
async def test_to_choose_the_holder_is_no_way_around_what_its_maker_needs(
    estate: Estate, claiming: Claiming, handover: Handover, space: Space, move: str
) -> None:
    """Whoever is above the maker takes back with tokens:manage, from wherever he looks."""
    token = await estate.token()
    await claiming.claim(estate.key("anna"), token.qr)
    maker = estate.key("brand", Permission.DEVICES_VIEW, Permission.DEVICES_MANAGE)
    for principal in (maker, maker.within(estate["anna"])):
        await unchanged(space, Forbidden, BACK[move](handover, principal, token.id), "tokens:manage")
    await BACK[move](handover, estate.key("brand", Permission.TOKENS_MANAGE).within(estate["anna"]), token.id)
    assert await status(space, token) == ("UNCLAIMED", None, None)
