import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from msgspec.structs import replace

from provserver.core import credentials
from provserver.core.authentication import Denial
from provserver.core.model import (
    Authenticated,
    Credentials,
    Peer,
    PreSharedKey,
    ProvisionStrategy,
    ReprovisionPolicy,
    Transport,
)
from provserver.errors import Unavailable
from provserver.services.access import Access
from provserver.services.profiles import ProfileChange
from provserver.store.database import Database
from tests.conftest import Space
from tests.services.conftest import PEER, Fleet, Locking, Outage, use
from tests.services.loop_clock import LoopClock
from tests.services.ownership import Estate, Token, statements
from tests.services.test_sessions import Connection, process

MQTT = Peer(Transport.MQTT, "192.0.2.7")

Ask = Callable[[Access, str, str], Coroutine[Any, Any, object]]
"""Comes by a name from an address."""


async def by_identity(access: Access, name: str, address: str) -> object:
    return await access.shared_key(name, address)


async def by_token(access: Access, name: str, address: str) -> object:
    return await access.with_token(name, Peer(Transport.HTTP, address))


@pytest.fixture
def access(space: Space) -> Access:
    return Access(space.database, space.keys)


async def test_a_token_says_whose_it_is(fleet: Fleet, access: Access) -> None:
    reply = await fleet.ask("sensor-1", gateway=True)

    device = await access.with_token(reply["credentialsValue"], PEER)

    assert isinstance(device, Authenticated)
    assert str(device.device_id) == reply["deviceId"]
    assert (device.name, device.gateway) == ("sensor-1", True)
    assert (device.profile_id, device.profile_revision) == (fleet.profile.id, fleet.profile.revision)
    assert device.organization_id == fleet.space.organization_id


@pytest.mark.parametrize("token", ["", "device", "provision", "no such token", "\0", "\ud800", "x" * 100_000])
async def test_what_is_no_token_lets_nobody_in(fleet: Fleet, access: Access, token: str) -> None:
    await fleet.ask("sensor-1")

    assert await access.with_token(token, PEER) is Denial.CREDENTIALS


BASIC_BOTH = credentials.mqtt_basic("client", "user", "password")
BASIC_USER = credentials.mqtt_basic("", "only-user", "password")
BASIC_OPEN = credentials.mqtt_basic("", "open-user")
BASIC_CLIENT = credentials.mqtt_basic("only-client")
TOKEN = credentials.access_token("a-token")


@pytest.mark.parametrize(
    ("client_id", "username", "password", "expected"),
    [
        ("", "a-token", None, TOKEN),
        ("any", "a-token", b"any", TOKEN),
        ("", "a-token", b"", TOKEN),
        ("any", "device", b"a-token", TOKEN),
        ("any", "device", b"another", Denial.CREDENTIALS),
        ("any", "device", b"\xff", Denial.CREDENTIALS),
        ("any", "device", None, Denial.CREDENTIALS),
        ("any", "device", b"only-user", Denial.CREDENTIALS),
        ("device", "device", b"device", Denial.CREDENTIALS),
        ("client", "user", b"password", BASIC_BOTH),
        ("client", "user", b"wrong", Denial.CREDENTIALS),
        ("client", "user", None, Denial.CREDENTIALS),
        ("another", "user", b"password", Denial.CREDENTIALS),
        ("client", "another", b"password", Denial.CREDENTIALS),
        ("client|user", None, b"password", Denial.CREDENTIALS),
        ("client|user", None, None, Denial.CREDENTIALS),
        ("any", "only-user", b"password", BASIC_USER),
        ("", "only-user", b"password", BASIC_USER),
        ("any", "only-user", b"wrong", Denial.CREDENTIALS),
        ("any", "only-user", None, Denial.CREDENTIALS),
        ("any", "open-user", b"whatever", BASIC_OPEN),
        ("any", "open-user", None, BASIC_OPEN),
        ("only-client", None, None, BASIC_CLIENT),
        ("only-client", "", None, BASIC_CLIENT),
        ("only-client", None, b"whatever", BASIC_CLIENT),
        ("only-client", "someone", None, Denial.CREDENTIALS),
        ("a-token", None, None, Denial.CLIENT_ID),
        ("no-such", None, None, Denial.CLIENT_ID),
        ("no-such", None, b"password", Denial.CREDENTIALS),
        ("", None, b"a-token", Denial.CREDENTIALS),
        ("", None, None, Denial.NOTHING),
        ("", "", b"", Denial.NOTHING),
    ],
)
async def test_a_connect_is_judged_in_thingsboards_order(
    fleet: Fleet,
    access: Access,
    client_id: str,
    username: str | None,
    password: bytes | None,
    expected: Credentials | Denial,
) -> None:
    for given in (TOKEN, BASIC_BOTH, BASIC_USER, BASIC_OPEN, BASIC_CLIENT):
        await fleet.import_(given.id[:20], given)

    found = await access.with_mqtt(client_id, username, password, MQTT)

    if isinstance(expected, Denial):
        assert found is expected
    else:
        assert isinstance(found, Authenticated)
        assert found.name == expected.id[:20]


async def test_the_id_of_credentials_of_one_type_is_none_of_another(fleet: Fleet, access: Access) -> None:
    certificate = credentials.certificate("AAAA")
    for given in (certificate, BASIC_USER):
        await fleet.import_(given.id[:20], given)

    for id_ in (certificate.id, BASIC_USER.id):
        assert await access.with_token(id_, PEER) is Denial.CREDENTIALS
    assert await access.with_mqtt("", certificate.id, None, MQTT) is Denial.CREDENTIALS


async def test_a_certificate_opens_whatever_the_connect_says(fleet: Fleet, access: Access) -> None:
    der = b"not read here"
    await fleet.import_("sensor-1", credentials.certificate(base64.b64encode(der).decode()))
    await fleet.import_("sensor-2", TOKEN)

    known = await access.with_mqtt("x", "a-token", None, replace(MQTT, certificates=(der, b"issuer")))
    unknown = await access.with_mqtt("x", "a-token", None, replace(MQTT, certificates=(b"other",)))

    assert isinstance(known, Authenticated)
    assert known.name == "sensor-1"
    assert unknown is Denial.CERTIFICATE


async def test_a_channel_that_proves_nothing_lets_nobody_in(access: Access) -> None:
    assert await access.with_channel(PEER) is Denial.NOTHING
    assert await access.with_channel(replace(PEER, psk=PreSharedKey("key", b"secret"))) is Denial.NOTHING


async def test_the_shared_key_of_a_device_is_its_token(fleet: Fleet, access: Access) -> None:
    reply = await fleet.ask("sensor-1")

    key = await access.shared_key(reply["deviceId"])

    assert key is not None
    assert key.key == reply["credentialsValue"].encode()
    device = await access.with_channel(replace(PEER, psk=key))
    assert isinstance(device, Authenticated)
    assert device.name == "sensor-1"


async def test_the_shared_key_of_a_provision_key_is_its_secret(fleet: Fleet, access: Access) -> None:
    key = await access.shared_key(fleet.pair.key)

    assert key == PreSharedKey(fleet.pair.key, fleet.pair.secret.encode())
    assert repr(key).count(fleet.pair.secret) == 0


@pytest.mark.parametrize(
    "key", ["0123456789abcdef0123456789abcdef", "01890a5d-ac96-774b-bcce-b302099a8057", "{01890A5D}", "urn:uuid:x"]
)
async def test_a_provision_key_may_look_like_a_device_id(space: Space, access: Access, key: str) -> None:
    change = ProfileChange(name="uuids", strategy=ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES)
    await space.profiles.create(change, key, "its-secret")

    assert await access.shared_key(key) == PreSharedKey(key, b"its-secret")


@pytest.mark.parametrize("identity", ["", "nobody", "\0", "01890a5d-ac96-774b-bcce-b302099a8057"])
async def test_an_unknown_identity_has_no_shared_key(access: Access, identity: str) -> None:
    assert await access.shared_key(identity) is None


async def test_a_revoked_shared_key_opens_no_more(fleet: Fleet, access: Access) -> None:
    key = await access.shared_key((await fleet.ask("sensor-1"))["deviceId"])
    await fleet.space.devices.delete("sensor-1")

    assert await access.with_channel(replace(PEER, psk=key)) is Denial.SHARED_KEY


async def test_old_and_new_tokens_take_turns_as_shared_keys(space: Space, access: Access) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.ROTATE)
    old, new = [await fleet.ask("sensor-1") for _ in range(2)]

    both = await access.shared_keys(old["deviceId"])
    keys = [await access.shared_key(old["deviceId"]) for _ in range(4)]
    assert [keys[0], keys[1]] == list(both) == [keys[2], keys[3]]

    assert [key.key.decode() for key in keys if key] == 2 * [new["credentialsValue"], old["credentialsValue"]]
    assert await use(access, new["credentialsValue"])
    assert {(await access.shared_key(old["deviceId"])).key.decode() for _ in range(2)} == {  # type: ignore[union-attr]
        new["credentialsValue"]
    }


async def test_a_first_use_is_recorded_once(fleet: Fleet, access: Access) -> None:
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    revision = await fleet.space.value("SELECT revision FROM device")

    assert all(await asyncio.gather(*(use(access, token) for _ in range(20))))
    at = await fleet.space.value("SELECT first_used_at FROM credentials")
    assert at is not None
    assert await use(access, token)

    assert await fleet.space.value("SELECT first_used_at FROM credentials") == at
    assert await fleet.space.value("SELECT revision FROM device") == revision + 1  # which writes are guarded by


async def test_a_wrong_password_is_no_use(fleet: Fleet, access: Access) -> None:
    await fleet.import_("sensor-1", BASIC_BOTH)

    assert await access.with_mqtt("client", "user", b"wrong", MQTT) is Denial.CREDENTIALS

    assert await fleet.space.value("SELECT first_used_at FROM credentials") is None


async def test_the_use_of_one_device_is_not_that_of_another(fleet: Fleet, access: Access) -> None:
    used, unused = [(await fleet.ask(name))["credentialsValue"] for name in ("sensor-1", "sensor-2")]

    assert await use(access, used)

    assert unused != used
    rows = await fleet.space.rows(
        "SELECT d.name FROM credentials JOIN device d ON d.id = device_id WHERE first_used_at IS NULL"
    )
    assert [row["name"] for row in rows] == ["sensor-2"]


async def test_old_and_new_credentials_used_at_once_leave_the_new(space: Space, access: Access) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.ROTATE)
    for n in range(20):
        old, new = [(await fleet.ask(f"sensor-{n}"))["credentialsValue"] for _ in range(2)]

        await asyncio.gather(use(access, old), use(access, new))

        assert [each.id for each in await fleet.stored(f"sensor-{n}")] == [new]


async def test_a_first_use_takes_the_device_before_its_credentials_as_provisioning_does(
    fleet: Fleet, access: Access, lock: Locking
) -> None:
    """In another order, the two would wait for each other."""
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    async with lock("SELECT FROM device FOR UPDATE") as held:
        task = asyncio.create_task(use(access, token))
        await held.until_waiting()
        try:
            await held.connection.execute("SELECT FROM credentials FOR UPDATE NOWAIT")
        except asyncpg.LockNotAvailableError:
            pytest.fail("the credentials are taken first")

    assert await task


async def test_one_device_that_cannot_be_recorded_holds_up_no_other(fleet: Fleet, access: Access) -> None:
    names = [f"sensor-{n}" for n in range(5)]
    tokens = [(await fleet.ask(name))["credentialsValue"] for name in names]
    bad = await fleet.space.value("SELECT id FROM device WHERE name = 'sensor-2'")
    async with fleet.space.database.connection() as connection:
        await connection.execute(
            "CREATE FUNCTION obstacle() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$BEGIN IF NEW.device_id = '{bad}' THEN RAISE 'no'; END IF; RETURN NEW; END$$"
        )
        await connection.execute(
            "CREATE TRIGGER obstacle BEFORE UPDATE ON credentials FOR EACH ROW EXECUTE FUNCTION obstacle()"
        )

    results = await asyncio.gather(*(access.with_token(token, PEER) for token in tokens), return_exceptions=True)

    assert [type(result) for result in results] == [Authenticated] * 2 + [Unavailable] + [Authenticated] * 2


async def test_away_is_not_wrong(fleet: Fleet, database_url: str) -> None:
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    async with Outage.prepare(database_url) as outage:
        access = Access(outage.database, fleet.space.keys)
        assert await use(access, token)
        await outage.begin()

        for given in (token, "no such token"):
            with pytest.raises(Unavailable):
                await access.with_token(given, PEER)
            with pytest.raises(Unavailable):
                await access.with_mqtt("", given, None, MQTT)
        with pytest.raises(Unavailable):
            await access.shared_key("nobody")

        outage.end()
        assert await use(access, token)


@pytest.mark.parametrize("ask", [by_identity, by_token])
async def test_who_has_waited_too_long_is_told_to_come_back(
    fleet: Fleet, lock: Locking, loop_clock: LoopClock, ask: Ask
) -> None:
    access = Access(fleet.space.database, fleet.space.keys, wait_limit=4)  # which statements have longer than
    async with lock("LOCK TABLE credentials IN ACCESS EXCLUSIVE MODE") as held:
        task = asyncio.create_task(ask(access, "nobody", "192.0.2.7"))
        await held.until_waiting()
        assert not task.done()
        loop_clock.pass_(4)

        with pytest.raises(Unavailable, match="in time"):
            await task
    await access.drain()


@pytest.mark.parametrize("ask", [by_identity, by_token])
async def test_addresses_take_turns(fleet: Fleet, lock: Locking, ask: Ask) -> None:
    access = Access(fleet.space.database, fleet.space.keys)
    told: list[str] = []

    async def told_of(name: str, address: str) -> None:
        await ask(access, name, address)
        told.append(address)

    async with lock("LOCK TABLE credentials IN ACCESS EXCLUSIVE MODE") as held:
        tasks = [asyncio.create_task(told_of("the first", "192.0.2.7"))]
        await held.until_waiting()
        tasks += [asyncio.create_task(told_of(f"nobody {n}", "192.0.2.7")) for n in range(300)]
        tasks += [asyncio.create_task(told_of("somebody", "192.0.2.8"))]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)

    assert told.index("192.0.2.8") < 1 + 128  # in the first group after the one that was under way


async def test_identities_that_come_at_once_take_one_statement(fleet: Fleet, database_url: str) -> None:
    granted = [await fleet.ask(f"sensor-{n}") for n in range(5)]
    opened = Database(database_url, size=1, serving=True)
    await opened.open()
    access = Access(opened, fleet.space.keys)
    known = [reply["deviceId"] for reply in granted]
    names = [*known, "nobody", fleet.pair.key, str(UUID(int=7)), known[0], "\0", "\ud800", "x" * 100_000]
    await access.shared_key("the first")

    async with statements(opened) as made:
        found = await asyncio.gather(*(access.shared_key(name) for name in names))

    assert len(made) == 1
    tokens = [reply["credentialsValue"] for reply in granted]
    expected = [*tokens, None, fleet.pair.secret, None, tokens[0], None, None, None]
    assert [None if key is None else key.key.decode() for key in found] == expected
    assert [None if key is None else key.identity for key in found[:8]] == [*known, None, fleet.pair.key, None]
    await opened.close()


async def test_old_and_new_tokens_are_told_from_those_of_others_in_a_group(space: Space, access: Access) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.ROTATE)
    one, other = [[await fleet.ask(name) for _ in range(2)] for name in ("sensor-1", "sensor-2")]

    found = await asyncio.gather(*(access.shared_keys(each[0]["deviceId"]) for each in (one, other)))

    assert [[key.key.decode() for key in keys] for keys in found] == [
        [reply["credentialsValue"] for reply in each[::-1]] for each in (one, other)
    ]


async def test_credentials_that_do_not_open_are_not_wrong(fleet: Fleet, access: Access) -> None:
    await fleet.import_("sensor-1", BASIC_USER)
    async with fleet.space.database.connection() as connection:
        await connection.execute("UPDATE credentials SET sealed = '\\x01020304'")

    with pytest.raises(Unavailable):
        await access.with_mqtt("", "only-user", b"password", MQTT)


async def test_a_large_fleet_at_once(fleet: Fleet, access: Access, space: Space) -> None:
    tokens = [reply["credentialsValue"] for reply in await asyncio.gather(*(fleet.ask() for _ in range(500)))]

    found = await asyncio.gather(*(access.with_token(token, PEER) for token in tokens))

    assert len({device.device_id for device in found if isinstance(device, Authenticated)}) == 500
    assert await space.value("SELECT count(*) FROM credentials WHERE first_used_at IS NULL") == 0
    assert isinstance(found[0], Authenticated)
    assert isinstance(found[0].device_id, UUID)
    assert isinstance(space.database, Database)


# --- static tokens


@pytest.fixture
async def estate(space: Space) -> Estate:
    return await Estate.make(space.database, space.keys, space.organization_id)


async def by_http(access: Access, token: Token) -> Authenticated | Denial:
    return await access.with_token(token.auth, PEER)


async def by_coap(access: Access, token: Token) -> Authenticated | Denial:
    return await access.with_token(token.auth, Peer(Transport.COAP, "192.0.2.7"))


async def as_user_name(access: Access, token: Token) -> Authenticated | Denial:
    return await access.with_mqtt("any", token.auth, None, MQTT)


async def as_password_of_the_user_device(access: Access, token: Token) -> Authenticated | Denial:
    return await access.with_mqtt("any", "device", token.auth.encode(), MQTT)


LOGINS = {
    login.__name__: (login, transport)
    for login, transport in (
        (by_http, "HTTP"),
        (by_coap, "COAP"),
        (as_user_name, "MQTT"),
        (as_password_of_the_user_device, "MQTT"),
    )
}


@pytest.mark.parametrize("name", LOGINS)
async def test_a_static_token_that_first_connects_makes_its_device_unclaimed_at_its_makers(
    estate: Estate, access: Access, space: Space, name: str
) -> None:
    token = await estate.token(metadata={"Serial Number": "SN1"})
    login, transport = LOGINS[name]

    device = await login(access, token)

    assert isinstance(device, Authenticated)
    assert (device.device_id, device.name) == (token.id, f"sensors {token.number}")
    assert (device.organization_id, device.profile_id) == (estate["brand"], estate.profiles["brand"])
    (row,) = await space.rows("SELECT * FROM device")
    assert (row["holder_id"], row["owner_id"], row["gateway"]) == (None, None, False)
    (credentials_,) = await space.rows("SELECT * FROM credentials")
    assert credentials_["first_used_at"] == credentials_["created_at"] == device.issued_at
    assert (credentials_["type"], credentials_["origin"], credentials_["pending"]) == (
        "ACCESS_TOKEN",
        "generated",
        False,
    )
    assert await space.value("SELECT status FROM static_token") == "UNCLAIMED"
    assert await space.value("SELECT used_at FROM static_token") == device.issued_at
    attributes = {(row["scope"], row["key"]): row["value"] for row in await space.rows("SELECT * FROM attribute")}
    assert attributes == {
        ("SERVER", "provisionState"): "provisioned",
        ("SERVER", "meta.Serial Number"): "SN1",
    }
    event, connected = await space.rows("SELECT * FROM outbox ORDER BY created_at")
    assert (connected["device_id"], connected["type"]) == (token.id, "device.first_connected")
    assert connected["payload"].items() <= event["payload"].items()
    assert (event["device_id"], event["type"]) == (token.id, "device.provisioned")
    assert event["payload"] == {
        "deviceId": str(token.id),
        "deviceName": device.name,
        "profileId": str(device.profile_id),
        "credentialsType": "ACCESS_TOKEN",
        "transport": transport,
    }
    for again, _ in LOGINS.values():
        assert await again(access, token) == device
    assert await space.value("SELECT count(*) FROM outbox") == 2
    (opened,) = (await space.devices.show(str(token.id), open_=True)).opened
    assert opened.id == token.auth


async def test_a_static_tokens_key_is_a_shared_key_once_there_is_a_device(estate: Estate, access: Access) -> None:
    token = await estate.token()
    assert await access.shared_key(str(token.id)) is None
    assert isinstance(await by_http(access, token), Authenticated)

    key = await access.shared_key(str(token.id))

    assert key is not None
    assert key.key == token.auth.encode()
    device = await access.with_channel(replace(PEER, psk=key))
    assert isinstance(device, Authenticated)
    assert device.device_id == token.id


async def test_a_live_session_is_not_open_to_a_static_token_before_access_has_judged_it(
    estate: Estate, access: Access, database_url: str
) -> None:
    token = await estate.token()
    presented = access.token_in("any", "device", token.auth.encode())
    assert presented is not None
    async with process(database_url) as sessions:

        async def enters() -> bool | Exception:
            verdict: asyncio.Future[bool | Exception] = asyncio.get_running_loop().create_future()
            session = sessions.enter(presented, Connection(), verdict.set_result)
            outcome = await verdict
            session.close()
            return outcome

        assert await enters() is False
        assert isinstance(await as_password_of_the_user_device(access, token), Authenticated)
        assert await enters() is True


async def test_a_device_that_is_known_costs_no_statement_more(estate: Estate, space: Space, database_url: str) -> None:
    token = await estate.token()
    opened = Database(database_url, size=1, serving=True)
    await opened.open()
    access = Access(opened, space.keys)
    assert isinstance(await by_http(access, token), Authenticated)
    for login, _ in LOGINS.values():
        async with statements(opened) as made:
            assert isinstance(await login(access, token), Authenticated)
        assert len(made) == 1
        assert "static_token" not in made[0]
    async with statements(opened) as made:
        assert await access.with_token("unknown", PEER) is Denial.CREDENTIALS
    assert len(made) == 4
    async with statements(opened) as made:  # a certificate is no token
        assert await access.with_channel(replace(PEER, certificates=(b"leaf",))) is Denial.CERTIFICATE
    await opened.close()


async def test_what_is_unknown_takes_the_same_statements_as_what_is_known(fleet: Fleet, database_url: str) -> None:
    """So it takes as long: `benchmarks.telling` measures it."""
    device = (await fleet.ask("sensor-1"))["deviceId"]
    await fleet.ask("meter", credentialsType="MQTT_BASIC", username="meter-1", password="its password")
    opened = Database(database_url, size=1, serving=True)
    await opened.open()
    access = Access(opened, fleet.space.keys)
    asked: list[tuple[Callable[[str], Awaitable[object]], str, str]] = [
        (lambda name: access.with_mqtt("", name, b"wrong", PEER), "meter-1", "nobody"),
        (lambda name: access.with_mqtt("client", name, b"wrong", PEER), "meter-1", "nobody"),
        (lambda name: access.with_token(name, PEER), "meter-1", "nobody"),
        (access.shared_keys, device, str(UUID(int=7))),
        (access.shared_keys, fleet.pair.key, "no key"),
    ]
    for ask, known, unknown in asked:
        await ask("the first")  # after which all types are known
        seen: list[list[str]] = []
        for name in (known, unknown, known):
            async with statements(opened) as made:
                await ask(name)
            seen.append(made)
        assert seen[0] == seen[1] == seen[2], known
        assert seen[0], known
    await opened.close()


async def test_many_static_tokens_connect_at_once(estate: Estate, access: Access, space: Space) -> None:
    tokens = [await estate.token() for _ in range(200)]

    found = await asyncio.gather(*(by_http(access, token) for token in tokens for _ in range(2)))

    assert {device.device_id for device in found if isinstance(device, Authenticated)} == {token.id for token in tokens}
    assert await space.value("SELECT count(*) FROM outbox") == 2 * 200
    assert await space.value("SELECT count(DISTINCT name) FROM device") == 200


async def test_two_processes_make_one_device_of_a_static_token(
    estate: Estate, access: Access, space: Space, database_url: str
) -> None:
    opened = Database(database_url, size=4, serving=True)
    await opened.open()
    other = Access(opened, space.keys)
    tokens = [await estate.token() for _ in range(30)]

    found = await asyncio.gather(*(by_http(each, token) for token in tokens for each in (access, other)))

    assert all(isinstance(device, Authenticated) for device in found)
    assert await space.value("SELECT count(*) FROM device") == 30
    assert await space.value("SELECT count(*) FROM outbox") == 2 * 30
    await opened.close()


async def test_a_device_gets_a_name_that_is_free(estate: Estate, access: Access, space: Space) -> None:
    named, plain, taken_twice = (
        await estate.token(device="Sense"),
        await estate.token(),
        await estate.token(device="Hall"),
    )
    for name in ("Sense", f"sensors {plain.number}", "Hall", f"Hall ({taken_twice.number})"):
        await space.rows(
            "INSERT INTO device (id, organization_id, profile_id, name) VALUES (gen_random_uuid(), $1, $2, $3)",
            estate["brand"],
            estate.profiles["brand"],
            name,
        )

    names = [found.name async for found in _all(by_http(access, token) for token in (named, plain, taken_twice))]

    assert names == [
        f"Sense ({named.number})",
        f"sensors {plain.number} ({plain.number})",
        f"Hall ({taken_twice.id})",
    ]


async def _all(calls: Iterable[Awaitable[Authenticated | Denial]]) -> AsyncIterator[Authenticated]:
    for call in calls:
        found = await call
        assert isinstance(found, Authenticated)
        yield found


async def test_tokens_of_one_group_that_would_have_one_name_get_two(estate: Estate, access: Access) -> None:
    default = await estate.token()
    given = await estate.token(device=f"sensors {default.number}")

    found = await asyncio.gather(by_http(access, default), by_http(access, given))

    assert len({device.name for device in found if isinstance(device, Authenticated)}) == 2


async def test_one_first_connect_that_cannot_be_recorded_holds_up_no_other(
    estate: Estate, access: Access, space: Space
) -> None:
    tokens = [await estate.token() for _ in range(5)]
    known = await estate.token()
    assert isinstance(await by_http(access, known), Authenticated)
    async with space.database.connection() as connection:
        await connection.execute(
            "CREATE FUNCTION obstacle() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$BEGIN IF NEW.id = '{tokens[2].id}' THEN RAISE 'no'; END IF; RETURN NEW; END$$"
        )
        await connection.execute(
            "CREATE TRIGGER obstacle BEFORE INSERT ON device FOR EACH ROW EXECUTE FUNCTION obstacle()"
        )

    results = await asyncio.gather(*(by_http(access, token) for token in (*tokens, known)), return_exceptions=True)

    assert [type(result) for result in results] == [Authenticated] * 2 + [Unavailable] + [Authenticated] * 3


async def test_while_postgres_is_away_a_static_token_is_not_wrong(estate: Estate, space: Space, outage: Outage) -> None:
    token = await estate.token()
    access = Access(outage.database, space.keys)
    await outage.begin()
    with pytest.raises(Unavailable):
        await by_http(access, token)
    outage.end()

    assert isinstance(await by_http(access, token), Authenticated)


async def test_wrong_mqtt_basic_credentials_are_not_mended_by_a_static_token(
    estate: Estate, fleet: Fleet, access: Access
) -> None:
    token = await estate.token()
    await fleet.import_("sensor-1", credentials.mqtt_basic("client", token.auth, "password"))

    assert await access.with_mqtt("client", token.auth, b"wrong", MQTT) is Denial.CREDENTIALS
