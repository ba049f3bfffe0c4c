import asyncio
import json
from collections.abc import Awaitable
from datetime import timedelta
from uuid import uuid4

import pytest

from provserver.core.authentication import Denial
from provserver.core.authorization import Permission, Principal, Role
from provserver.core.limits import Buckets
from provserver.core.telemetry import InvalidData
from provserver.errors import Conflict, Forbidden, Invalid, NotFound, TooManyRequests, Unavailable
from provserver.services.access import Access
from provserver.services.claiming import CONTENDED, UNCLAIMABLE, UNCLAIMABLE_DEVICE, Claimed, Claiming, ClaimLimits
from provserver.services.data import Data
from provserver.services.devices import DeviceChange, Devices
from provserver.services.handover import Handover
from provserver.store.database import Database
from tests.conftest import Space
from tests.services.conftest import PEER, Locking, contents
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
)
from tests.services.ownership import Estate, statements
from tests.services.test_sessions import Connection, process

ADMIN, STAFF = Role.ADMIN, Role.STAFF

__all__ = ["access", "claiming", "data", "estate", "handover", "patient", "serving"]  # fixtures


# --- claiming by QR code


async def test_a_device_that_never_came_is_made_in_the_claimers_organization(
    estate: Estate, claiming: Claiming, space: Space
) -> None:
    token = await estate.token(device="Sense AGHJ", metadata={"Serial Number": "SN1", "MAC": "2C:54:91:88:C9:E3"})
    anna = estate.who("anna")

    claimed = await claiming.claim(anna, token.payload)

    device = claimed.device
    assert device is not None
    assert (claimed.id, claimed.expires_at) == (token.id, None)
    assert (device.id, device.name, device.profile) == (token.id, "Sense AGHJ", "sensors")
    assert (device.holder_id, device.holder, device.owner_id) == (estate["anna"], "anna", anna.user_id)
    assert (device.owner, device.static_token, device.credentials_type) == (
        "user@anna.example",
        "CLAIMED",
        "ACCESS_TOKEN",
    )
    assert (device.maker_id, device.maker) == (None, None)  # she does not see who is above her
    assert await status(space, token) == ("CLAIMED", estate["anna"], anna.user_id)
    assert await attributes(space, token.id) == {
        ("SERVER", "provisionState"): "provisioned",
        ("SERVER", "meta.Serial Number"): "SN1",
        ("SERVER", "meta.MAC"): "2C:54:91:88:C9:E3",
    }
    assert await space.value("SELECT first_used_at FROM credentials") is None
    assert await space.value("SELECT count(*) FROM presence") == 0
    assert await space.value("SELECT used_at = claimed_at FROM static_token")
    assert await history(space, token.id) == [("static_token.claimed", anna.actor, estate["anna"])]


async def test_a_device_that_came_keeps_what_it_sent_and_its_session(
    estate: Estate, claiming: Claiming, access: Access, data: Data, space: Space, database_url: str
) -> None:
    token = await estate.token()
    device = await connect(access, token)
    await data.telemetry(device, b'{"t":1}')
    async with process(database_url) as sessions:
        connection = Connection()
        session = await sessions.open(device, connection)

        await claiming.claim(estate.who("anna"), token.qr)
        await data.telemetry(device, b'{"t":2}')
        await sessions._catch_up()

        assert not session.closed
        assert not connection.ended.done()
    assert await status(space, token) == ("CLAIMED", estate["anna"], estate.users["anna", Role.USER])
    assert await space.value("SELECT samples FROM telemetry") == 2
    assert await connect(access, token) == device


@pytest.mark.parametrize("form", ["{qr}", "{qr}+1", "{qr} 1", " {qr}+1\n", "{qr}+77"])
async def test_both_forms_of_the_code_are_taken(estate: Estate, claiming: Claiming, form: str) -> None:
    token = await estate.token()

    assert (await claiming.claim(estate.who("anna"), form.format(qr=token.qr))).id == token.id


async def test_whoever_may_not_have_it_gets_one_answer(
    estate: Estate, claiming: Claiming, handover: Handover, space: Space, access: Access
) -> None:
    claimed, deleted, connected = [await estate.token() for _ in range(3)]
    await claiming.claim(estate.who("anna"), claimed.qr)
    await handover.delete_token(estate.who("brand", ADMIN), deleted.id)
    await connect(access, connected)
    unknown = "sqr_" + 32 * "x"
    for who, code in (
        ("ben", unknown),
        ("ben", "\ud800"),
        ("ben", ""),
        ("ben", claimed.auth),
        ("ben", claimed.qr),
        ("anna", claimed.qr),
        ("brand", claimed.qr),
        ("ben", deleted.qr),
        ("cleo", connected.qr),
        ("root", connected.qr),
        ("dora", connected.qr),
        ("foreign", connected.qr),
    ):
        before = await contents(space)
        with pytest.raises(NotFound) as refused:
            await claiming.claim(estate.who(who), code)
        assert str(refused.value) == UNCLAIMABLE
        assert await contents(space) == before


async def test_what_is_unknown_takes_the_same_statements_as_what_is_claimed(
    estate: Estate, space: Space, database_url: str
) -> None:
    """So it takes as long."""
    claimed, foreign = await estate.token(), await estate.token("foreign")
    await unlimited(space, space.database).claim(estate.who("anna"), claimed.qr)
    opened = Database(database_url, size=1)
    await opened.open()
    claiming = unlimited(space, opened)
    seen: list[list[str]] = []
    with pytest.raises(NotFound):
        await claiming.claim(estate.who("ben"), "the first")  # after which all types are known
    for code in ("sqr_" + 32 * "x", "nonsense", claimed.qr, foreign.qr):
        async with statements(opened) as made:
            with pytest.raises(NotFound):
                await claiming.claim(estate.who("ben"), code)
        seen.append(made)
    await opened.close()
    assert seen.count(seen[0]) == len(seen)
    assert len(seen[0]) > 2


async def test_the_makers_own_people_may_claim(estate: Estate, claiming: Claiming, space: Space) -> None:
    token = await estate.token()
    anna = estate.who("brand")

    claimed = await claiming.claim(anna, token.qr)

    assert claimed.device is not None
    assert claimed.device.holder_id == estate["brand"]
    assert await status(space, token) == ("CLAIMED", None, anna.user_id)
    await unchanged(space, NotFound, claiming.claim(estate.who("anna"), token.qr))


async def test_a_key_claims_for_its_organization_or_for_a_user_whom_it_may_see(
    estate: Estate, claiming: Claiming, space: Space
) -> None:
    may = (Permission.DEVICES_CLAIM, Permission.DEVICES_VIEW)
    for_nobody, for_anna = await estate.token(), await estate.token()
    await claiming.claim(estate.key("anna", *may), for_nobody.qr)
    assert await status(space, for_nobody) == ("CLAIMED", estate["anna"], None)

    user_id = estate.users["anna", Role.USER]
    brand = estate.key("brand", *may, Permission.USERS_VIEW)
    await unchanged(space, Forbidden, claiming.claim(estate.key("brand", *may), for_anna.qr, user_id), "users:view")
    for user in (estate.users["cleo", Role.USER], uuid4(), "user@dora.example", "nobody"):
        await unchanged(space, NotFound, claiming.claim(brand, for_anna.qr, user), "no such user")
    claimed = await claiming.claim(brand, for_anna.qr, "USER@anna.example")
    assert claimed.device is not None
    assert (claimed.device.owner_id, claimed.device.maker_id) == (user_id, estate["brand"])
    assert await status(space, for_anna) == ("CLAIMED", estate["anna"], user_id)
    assert await history(space, for_anna.id) == [("static_token.claimed", "key:brand", estate["anna"])]


async def test_who_claims_for_himself_by_his_own_id_needs_no_permission_to_see_users(
    estate: Estate, claiming: Claiming
) -> None:
    anna, token = estate.who("anna"), await estate.token()

    assert (await claiming.claim(anna, token.qr, str(anna.user_id))).id == token.id


async def test_a_user_who_never_signed_in_gets_nothing(
    estate: Estate, claiming: Claiming, handover: Handover, space: Space
) -> None:
    token = await estate.token()
    user_id = estate.users["anna", Role.USER]
    await space.rows('UPDATE "user" SET activated_at = NULL WHERE id = $1', user_id)

    await unchanged(space, Conflict, claiming.claim(estate.who("brand", ADMIN), token.qr, user_id), "never signed in")
    await claiming.claim(estate.who("ben"), token.qr)
    transfer = handover.transfer(estate.who("brand", ADMIN), token.id, to_user=user_id)
    await unchanged(space, Conflict, transfer, "never signed in")


@pytest.mark.parametrize("missing", [Permission.DEVICES_CLAIM, Permission.DEVICES_VIEW])
async def test_claiming_takes_the_permission_and_sight_of_devices(
    estate: Estate, claiming: Claiming, space: Space, missing: Permission
) -> None:
    token = await estate.token()
    principal = estate.key("anna", *(set(Permission) - {missing}))

    await unchanged(space, Forbidden, claiming.claim(principal, token.qr), missing)
    await unchanged(space, Forbidden, claiming.claim_device(principal, "x"), missing)


async def test_claims_are_limited_by_principal_and_by_organization(estate: Estate, space: Space) -> None:
    now = 0.0
    limits = ClaimLimits(Buckets(2, 0.1), Buckets(3, 0.1))
    claiming = Claiming(space.database, space.keys, limits, monotonic=lambda: now)

    async def tries(principal: Principal) -> float:
        try:
            await claiming.claim(principal, "nonsense")
        except TooManyRequests as fault:
            return fault.retry_after
        except NotFound:
            return 0.0
        raise AssertionError

    user, admin = estate.who("anna"), estate.who("anna", ADMIN)
    assert [await tries(user) for _ in range(3)] == [0.0, 0.0, 10.0]
    assert [await tries(admin) for _ in range(2)] == [0.0, 10.0]
    assert await tries(estate.who("ben")) == 0.0
    now = 10.0
    assert await tries(admin) == 0.0  # what the organization's limit refused was not counted against him
    with pytest.raises(TooManyRequests, match=r"Try again in 10 s\."):
        await claiming.claim_device(user, "nonsense")
    now = 19.9  # a tenth of a second is a second to whom it is told
    with pytest.raises(TooManyRequests, match=r"Try again in 1 s\."):
        await claiming.claim_device(user, "nonsense")


async def test_claims_in_vain_are_guesses_of_their_address_whoever_makes_them(estate: Estate, space: Space) -> None:
    plenty = Buckets(10**6, 10**6)
    claiming = Claiming(space.database, space.keys, ClaimLimits(plenty, plenty, Buckets(3, 0.1)), monotonic=lambda: 0.0)
    right = [await estate.token() for _ in range(2)]
    for number, who in enumerate(("anna", "ben", "anna")):
        with pytest.raises(NotFound):
            await claiming.claim(estate.who(who), f"nonsense {number}", address="192.0.2.7")

    for who in ("anna", "ben"):
        with pytest.raises(TooManyRequests):
            await claiming.claim_device(estate.who(who), "x", address="192.0.2.7")
        with pytest.raises(TooManyRequests):
            await claiming.claim(estate.who(who), right[0].qr, address="192.0.2.7")
    assert (await claiming.claim(estate.who("anna"), right[0].qr, address="192.0.2.8")).device
    assert (await claiming.claim(estate.who("ben"), right[1].qr)).device  # on the server's own machine


async def test_a_quota_that_is_used_up_refuses_the_claim(
    estate: Estate, claiming: Claiming, handover: Handover, space: Space
) -> None:
    tokens = [await estate.token() for _ in range(3)]
    await space.rows("UPDATE organization SET device_quota = 1 WHERE id = $1", estate["anna"])
    await claiming.claim(estate.who("anna"), tokens[0].qr)

    await unchanged(space, Conflict, claiming.claim(estate.who("anna"), tokens[1].qr), "1")
    await claiming.claim(estate.who("ben"), tokens[1].qr)
    transfer = handover.transfer(estate.operator, tokens[1].id, to_organization=estate["anna"])
    await unchanged(space, Conflict, transfer, "1")
    await handover.unclaim(estate.who("anna"), tokens[0].id)
    await handover.transfer(estate.operator, tokens[1].id, to_organization=estate["anna"])
    await handover.transfer(estate.operator, tokens[1].id, to_user=estate.users["anna", Role.USER])


async def test_a_quota_above_both_counts_a_device_once(
    estate: Estate, claiming: Claiming, access: Access, space: Space
) -> None:
    there, to_come = await estate.token(), await estate.token()
    await connect(access, there)
    await space.rows("UPDATE organization SET device_quota = 1 WHERE id = $1", estate["brand"])

    await claiming.claim(estate.who("anna"), there.qr)
    await unchanged(space, Conflict, claiming.claim(estate.who("anna"), to_come.qr))


# --- the device's word


async def test_a_claim_may_wait_for_the_devices_word(
    estate: Estate, claiming: Claiming, access: Access, data: Data, space: Space
) -> None:
    await estate.two_sided()
    token, anna = await estate.token(), estate.who("anna")
    device = await connect(access, token)
    await data.claim(device, b"")  # of no claim: nobody hears it

    begun = await claiming.claim(anna, token.qr)

    assert begun.device is None
    assert begun.expires_at is not None
    assert begun.expires_at - await space.value("SELECT now()") <= timedelta(seconds=60)
    assert await status(space, token) == ("UNCLAIMED", None, None)
    assert await claiming.claim(anna, token.qr) == begun  # and it waits no longer for that

    await data.claim(device, b'{"secretKey":"whatever"}')

    assert await status(space, token) == ("CLAIMED", estate["anna"], anna.user_id)
    assert await space.value("SELECT count(*) FROM pending_claim") == 0
    assert await space.value("SELECT count(*) FROM claim") == 0
    assert {action for action, *_ in await history(space, token.id)} == {
        "static_token.claim_begun",
        "static_token.claimed",
    }
    assert (await history(space, token.id))[-1] == ("static_token.claimed", anna.actor, estate["anna"])


async def test_a_device_that_first_comes_within_the_minute_can_say_yes(
    estate: Estate, claiming: Claiming, access: Access, data: Data, space: Space
) -> None:
    await estate.two_sided()
    token = await estate.token()
    await claiming.claim(estate.who("anna"), token.qr)

    await data.claim(await connect(access, token), b"")

    assert await status(space, token) == ("CLAIMED", estate["anna"], estate.users["anna", Role.USER])


async def test_a_claim_whose_minute_is_over_is_nobodys(
    estate: Estate, claiming: Claiming, access: Access, data: Data, space: Space
) -> None:
    await estate.two_sided()
    token = await estate.token()
    device = await connect(access, token)
    await claiming.claim(estate.who("anna"), token.qr)
    await space.rows("UPDATE pending_claim SET expires_at = now()")

    await data.claim(device, b"")
    assert await status(space, token) == ("UNCLAIMED", None, None)
    await claiming.claim(estate.who("ben"), token.qr)
    await data.claim(device, b"")
    assert await status(space, token) == ("CLAIMED", estate["ben"], estate.users["ben", Role.USER])


async def test_what_changed_within_the_minute_counts(
    estate: Estate, claiming: Claiming, access: Access, data: Data, space: Space
) -> None:
    await estate.two_sided()
    user_gone, quota_gone = await estate.token(), await estate.token()
    for token in (user_gone, quota_gone):
        await connect(access, token)
    await claiming.claim(estate.who("anna"), user_gone.qr)
    await claiming.claim(estate.who("ben"), quota_gone.qr)
    await space.rows('DELETE FROM "user" WHERE id = $1', estate.users["anna", Role.USER])
    await space.rows("UPDATE organization SET device_quota = 0 WHERE id = $1", estate["ben"])

    await data.claim(await connect(access, user_gone), b"")
    with pytest.raises(InvalidData):
        await data.claim(await connect(access, quota_gone), b"")

    for token in (user_gone, quota_gone):
        assert await status(space, token) == ("UNCLAIMED", None, None)


async def test_a_device_that_is_to_agree_is_claimed_in_no_other_way(
    estate: Estate, claiming: Claiming, access: Access, data: Data, space: Space
) -> None:
    token = await estate.token(device="thing")
    device = await connect(access, token)
    await data.claim(device, b'{"secretKey":"before"}')
    await estate.two_sided()
    other = await made(estate, space)
    for message in (b"", b'{"secretKey":"s"}'):
        await data.claim(device, message)
        await data.claim(other, message)

    assert await space.value("SELECT count(*) FROM claim") == 1
    makers = Devices(space.database, space.keys, estate["brand"])
    told = {"secretKey": "attribute", "expirationTime": 10**15}
    await makers.update("thing", DeviceChange(server={"claimingData": json.dumps(told)}))
    for name in ("thing", "sensor-1", str(token.id)):
        for secret in ("", "s", "before", "attribute"):
            work = claiming.claim_device(estate.who("anna"), name, secret)
            await unchanged(space, NotFound, work, "cannot be claimed")


async def test_of_two_who_claim_within_a_minute_nobody_gets_the_device(
    estate: Estate, claiming: Claiming, access: Access, data: Data, space: Space
) -> None:
    await estate.two_sided()
    token, anna, ben = await estate.token(), estate.who("anna"), estate.who("ben")
    device = await connect(access, token)
    await claiming.claim(anna, token.qr)
    for who in (ben, ben, anna, estate.who("anna", ADMIN), anna, ben):
        with pytest.raises(Conflict) as refused:
            await claiming.claim(who, token.qr)
        assert str(refused.value) == CONTENDED
        await data.claim(device, b"")
        assert await status(space, token) == ("UNCLAIMED", None, None)

    entries = await history(space, token.id)
    assert entries[:2] == [
        ("static_token.claim_begun", anna.actor, estate["anna"]),
        ("static_token.claim_contended", ben.actor, estate["brand"]),
    ]
    left = await space.value("SELECT expires_at FROM pending_claim")
    with pytest.raises(Conflict):
        await claiming.claim(ben, token.qr)
    assert await space.value("SELECT expires_at FROM pending_claim") == left  # who is alone waits for nobody but others
    await space.rows("UPDATE pending_claim SET expires_at = now()")
    await claiming.claim(anna, token.qr)
    await data.claim(device, b"")
    assert await status(space, token) == ("CLAIMED", estate["anna"], anna.user_id)


async def test_who_claims_for_the_same_user_is_nobody_else(
    estate: Estate, claiming: Claiming, access: Access, data: Data, space: Space
) -> None:
    await estate.two_sided()
    token, anna = await estate.token(), estate.who("anna")
    device = await connect(access, token)

    begun = await claiming.claim(anna, token.qr)
    assert await claiming.claim(estate.key("brand"), token.qr, anna.user_id) == begun

    await data.claim(device, b"")
    assert (await history(space, token.id))[-1] == ("static_token.claimed", anna.actor, estate["anna"])


async def test_a_word_that_meets_a_second_claim_is_for_neither(
    estate: Estate, claiming: Claiming, access: Access, space: Space, lock: Locking
) -> None:
    await estate.two_sided()
    token = await estate.token()
    device = await connect(access, token)
    await claiming.claim(estate.who("anna"), token.qr)
    unhurried = unlimited(space, space.database)
    async with lock("SELECT FROM static_token FOR UPDATE") as held:
        claim = asyncio.create_task(unhurried.claim(estate.who("ben"), token.qr))
        await held.until_waiting()
        word = asyncio.create_task(unhurried.confirm(device))
        await held.until_waiting(2)
        await held.commit()
        _, heard = await asyncio.gather(claim, word, return_exceptions=True)

    assert heard is True
    assert await status(space, token) == ("UNCLAIMED", None, None)


async def test_a_word_that_comes_twice_counts_once(
    estate: Estate, claiming: Claiming, access: Access, data: Data, space: Space
) -> None:
    await estate.two_sided()
    token = await estate.token()
    device = await connect(access, token)
    await claiming.claim(estate.who("anna"), token.qr)

    await asyncio.gather(*(data.claim(device, b"") for _ in range(10)))

    assert [action for action, *_ in await history(space, token.id)].count("static_token.claimed") == 1


# --- claiming by a secret (spec thingsboard §7.4)


@pytest.mark.parametrize(
    ("message", "secret"),
    [(b"", ""), (b'{"secretKey":"s3cret"}', "s3cret"), ('{"secretKey":"schlüssel"}'.encode(), "schlüssel")],
)
async def test_a_device_is_claimed_by_the_secret_that_it_told(
    estate: Estate, claiming: Claiming, data: Data, space: Space, message: bytes, secret: str
) -> None:
    device, anna = await made(estate, space), estate.who("anna")
    await data.claim(device, message)

    claimed = await claiming.claim_device(anna, "sensor-1", secret)

    assert claimed.device is not None
    assert (claimed.device.holder_id, claimed.device.owner_id) == (estate["anna"], anna.user_id)
    assert await space.value("SELECT count(*) FROM claim") == 0
    assert await history(space, device.device_id) == [("device.claimed", anna.actor, estate["anna"])]
    again = claiming.claim_device(estate.who("ben"), "sensor-1", secret)
    await unchanged(space, NotFound, again, "cannot be claimed")
    await data.claim(device, message)  # which is for its owner to care about
    again = claiming.claim_device(estate.who("ben"), str(device.device_id), secret)
    await unchanged(space, NotFound, again, "cannot be claimed")


async def test_a_wrong_secret_uses_the_devices_word_up(
    estate: Estate, claiming: Claiming, data: Data, space: Space
) -> None:
    device = await made(estate, space)
    await data.claim(device, b'{"secretKey":"s"}')

    with pytest.raises(NotFound, match="cannot be claimed"):
        await claiming.claim_device(estate.who("anna"), "sensor-1", "t")
    await unchanged(space, NotFound, claiming.claim_device(estate.who("anna"), "sensor-1", "s"), "cannot be claimed")
    await data.claim(device, b'{"secretKey":"s"}')
    await claiming.claim_device(estate.who("anna"), "sensor-1", "s")


async def test_who_may_not_have_it_by_its_secret_gets_one_answer(
    estate: Estate, claiming: Claiming, data: Data, space: Space
) -> None:
    device, silent, late = [await made(estate, space, name) for name in ("sensor-1", "silent", "late")]
    await data.claim(device, b'{"secretKey":"s"}')
    await data.claim(late, b'{"secretKey":"s"}')
    await space.rows("UPDATE claim SET expires_at = now() WHERE device_id = $1", late.device_id)
    for who, name in (
        ("anna", "no such"),
        ("anna", "silent"),
        ("anna", "late"),
        ("anna", str(uuid4())),
        ("anna", "\ud800"),
        ("cleo", "sensor-1"),
        ("root", "sensor-1"),
        ("dora", "sensor-1"),
    ):
        before = await contents(space)
        with pytest.raises(NotFound) as refused:
            await claiming.claim_device(estate.who(who), name, "s")
        assert str(refused.value) == UNCLAIMABLE_DEVICE
        assert await contents(space) == before
    assert silent.name == "silent"
    await claiming.claim_device(estate.who("anna"), "sensor-1", "s")


@pytest.mark.parametrize("as_text", [False, True])
async def test_an_operator_lets_a_device_be_claimed_by_an_attribute(
    estate: Estate, claiming: Claiming, space: Space, as_text: bool
) -> None:
    device = await made(estate, space)
    makers = Devices(space.database, space.keys, estate["brand"])
    soon = int((await space.value("SELECT extract(epoch FROM now())")) * 1000) + 600_000
    tellings: tuple[object, ...] = (
        {"secretKey": "s", "expirationTime": 1},
        {"secretKey": "s"},
        7,
        "nonsense",
        [],
        {"expirationTime": []},
    )
    for told in tellings:
        await makers.update("sensor-1", DeviceChange(server={"claimingData": json.dumps(told)}))
        await unchanged(space, NotFound, claiming.claim_device(estate.who("anna"), "sensor-1", "s"))
    good = json.dumps({"secretKey": "s", "expirationTime": soon})
    await makers.update("sensor-1", DeviceChange(server={"claimingData": json.dumps(good) if as_text else good}))
    await unchanged(space, NotFound, claiming.claim_device(estate.who("anna"), "sensor-1", "t"))  # and it stays

    await claiming.claim_device(estate.who("anna"), "sensor-1", "s")

    assert await attributes(space, device.device_id) == {}


async def test_a_device_of_a_static_token_is_not_claimed_by_its_name(
    estate: Estate, claiming: Claiming, access: Access, data: Data, space: Space
) -> None:
    token = await estate.token(device="thing")
    await data.claim(await connect(access, token), b"")
    told = json.dumps({"secretKey": "", "expirationTime": 10**15})
    makers = Devices(space.database, space.keys, estate["brand"])
    await makers.update("thing", DeviceChange(server={"claimingData": told}))

    with pytest.raises(NotFound) as refused:
        await claiming.claim_device(estate.who("anna"), "thing", "")

    assert str(refused.value) == UNCLAIMABLE_DEVICE
    assert await status(space, token) == ("UNCLAIMED", None, None)


async def test_a_device_of_a_static_token_may_be_claimed_by_its_secret_too(
    estate: Estate, claiming: Claiming, access: Access, data: Data, space: Space
) -> None:
    token = await estate.token(device="thing")
    await data.claim(await connect(access, token), b'{"secretKey":"s"}')

    await claiming.claim_device(estate.who("anna"), "thing", "s")

    assert await status(space, token) == ("CLAIMED", estate["anna"], estate.users["anna", Role.USER])
    await unchanged(space, NotFound, claiming.claim(estate.who("ben"), token.qr), "cannot be claimed")


async def test_the_maker_claims_his_own_device_for_a_user_alone(
    estate: Estate, claiming: Claiming, data: Data, space: Space
) -> None:
    device = await made(estate, space)
    await data.claim(device, b"")

    await unchanged(space, Invalid, claiming.claim_device(estate.key("brand"), "sensor-1"), "Name the user")
    claimed = await claiming.claim_device(estate.key("brand"), "sensor-1", user=estate.users["anna", Role.USER])
    assert claimed.device is not None
    assert claimed.device.holder_id == estate["anna"]


# --- at once


@pytest.mark.parametrize("connected", [False, True])
async def test_of_those_who_claim_at_once_one_wins(
    estate: Estate, access: Access, space: Space, connected: bool, patient: Database
) -> None:
    unhurried = unlimited(space, patient)
    who = [estate.who(name, role) for name in ("anna", "ben", "brand") for role in Role]
    for _ in range(5):
        token = await estate.token()
        if connected:
            await connect(access, token)

        results = await outcomes(*(unhurried.claim(each, token.qr) for each in who))

        (won,) = [result for result in results if isinstance(result, Claimed)]
        assert all(isinstance(result, Claimed | NotFound) for result in results)
        winner = who[results.index(won)]
        holder = None if winner.organization_id == estate["brand"] else winner.organization_id
        assert await status(space, token) == ("CLAIMED", holder, winner.user_id)
        assert await history(space, token.id) == [("static_token.claimed", winner.actor, winner.organization_id)]


async def test_of_those_who_name_the_secret_at_once_one_wins(
    estate: Estate, claiming: Claiming, data: Data, space: Space
) -> None:
    who = [estate.who(name, role) for name in ("anna", "ben", "brand") for role in Role]
    for n in range(5):
        device = await made(estate, space, f"sensor-{n}")
        await data.claim(device, b"")

        results = await outcomes(*(claiming.claim_device(each, f"sensor-{n}") for each in who))

        assert len([result for result in results if isinstance(result, Claimed)]) == 1
        assert len(await history(space, device.device_id)) == 1


async def test_a_claim_and_the_first_connect_at_once_make_one_device(
    estate: Estate, access: Access, space: Space, patient: Database
) -> None:
    unhurried = unlimited(space, patient)
    for n in range(10):
        token = await estate.token()
        calls: list[Awaitable[object]] = [
            unhurried.claim(estate.who("anna"), token.qr),
            access.with_token(token.auth, PEER),
        ]

        results = await outcomes(*(calls if n % 2 else reversed(calls)))

        assert any(isinstance(result, Claimed) for result in results)
        assert not any(isinstance(result, Denial) for result in results)
        assert await status(space, token) == ("CLAIMED", estate["anna"], estate.users["anna", Role.USER])
        await connect(access, token)
        assert await space.value("SELECT count(*) FROM credentials WHERE device_id = $1", token.id) == 1


async def test_a_claim_and_a_deletion_at_once_leave_no_half_of_either(
    estate: Estate, access: Access, space: Space, patient: Database
) -> None:
    unhurried, handover = unlimited(space, patient), Handover(patient)
    for n in range(10):
        token = await estate.token()
        if n % 3:
            await connect(access, token)
        delete = handover.delete_token(estate.operator, token.id, confirm=n % 2 == 0)
        claimed, deleted = await outcomes(unhurried.claim(estate.who("anna"), token.qr), delete)

        there = await status(space, token)
        if there is None:
            assert deleted is None
            assert await space.value("SELECT count(*) FROM device WHERE id = $1", token.id) == 0
            assert await space.value("SELECT count(*) FROM credentials WHERE device_id = $1", token.id) == 0
        else:
            assert isinstance(claimed, Claimed)
            assert isinstance(deleted, Conflict)
            assert there == ("CLAIMED", estate["anna"], estate.users["anna", Role.USER])


async def test_who_holds_a_device_up_is_waited_for_not_long(
    estate: Estate, claiming: Claiming, access: Access, lock: Locking
) -> None:
    token = await estate.token()
    async with lock("SELECT FROM static_token FOR UPDATE"):
        with pytest.raises(Unavailable):
            await claiming.claim(estate.who("anna"), token.qr)
        with pytest.raises(Unavailable):
            await access.with_token(token.auth, PEER)
    await connect(access, token)
    await claiming.claim(estate.who("anna"), token.qr)


async def test_to_choose_an_organization_is_no_way_to_claim_for_others(
    estate: Estate, claiming: Claiming, space: Space
) -> None:
    """For somebody else than oneself a claim takes users:view, as when it names him."""
    token = await estate.token()
    scanner = estate.key("brand", Permission.DEVICES_VIEW, Permission.DEVICES_CLAIM)
    for principal in (estate.who("brand").within(estate["anna"]), scanner.within(estate["anna"])):
        await unchanged(space, Forbidden, claiming.claim(principal, token.qr), "users:view")
        await unchanged(space, Forbidden, claiming.claim_device(principal, "thing", "secret"), "users:view")
    await claiming.claim(estate.who("brand", STAFF).within(estate["anna"]), token.qr)
    assert await status(space, token) == ("CLAIMED", estate["anna"], None)
