import asyncio
import base64
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

MQTT = Peer(Transport.MQTT, "192.0.2.7")


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

    keys = [await access.shared_key(old["deviceId"]) for _ in range(4)]

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
