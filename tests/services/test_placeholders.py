"""Devices to be: let in for their template alone, made of it, and told that they are nobody only when that is sure."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest

from provserver.core import datastreams as core
from provserver.core.authentication import Denial
from provserver.core.authorization import Role
from provserver.core.model import Authenticated
from provserver.core.telemetry import InvalidData
from provserver.core.wifisession import MAX_NAME, WifiState
from provserver.errors import Unavailable
from provserver.services.retention import Retention
from provserver.store.database import Database
from tests.conftest import Space
from tests.services.conftest import PEER, Locking, Outage
from tests.services.ownership import Estate, statements
from tests.services.wifi import Wifi, words


@pytest.fixture
async def estate(space: Space) -> Estate:
    return await Estate.make(space.database, space.keys, space.organization_id)


@pytest.fixture
def wifi(estate: Estate) -> Wifi:
    return Wifi.of(estate)


@pytest.fixture
async def elsewhere(estate: Estate, database_url: str) -> AsyncIterator[Wifi]:
    """Another process on the same database."""
    opened = Database(database_url, size=4, serving=True)
    await opened.open()
    yield Wifi.of(estate, opened)
    await opened.close()


async def test_a_device_says_what_it_is_and_is_made(wifi: Wifi, space: Space) -> None:
    made = await wifi.request()
    assert made.session.state is WifiState.WAITING
    assert await wifi.login(made.token) is Denial.UNBOUND
    assert await space.value("SELECT count(*) FROM device") == 0
    assert (await wifi.shown(made.session.id)).state is WifiState.CONNECTED

    device = await wifi.report(made.token, ver="1.0", build="today")

    session = await wifi.shown(made.session.id)
    assert device.device_id == session.device_id == made.session.id
    assert device == await wifi.let_in(made.token)
    assert (session.state, session.last_error, session.profile) == (WifiState.SUCCESS, None, "sensors")
    assert session.device_name == device.name == f"sensors {str(device.device_id)[-6:].upper()}"
    assert session.duration is not None
    assert session.duration >= 0
    assert words(session) == ["requested", "connected", "provisioned"]
    (row,) = await space.rows("SELECT * FROM device")
    assert row["organization_id"] == wifi.estate["brand"]
    assert (row["holder_id"], row["owner_id"]) == (wifi.estate["anna"], wifi.anna.user_id)
    facts = await space.rows("SELECT key, value FROM attribute WHERE scope = 'CLIENT' ORDER BY key")
    assert [tuple(each) for each in facts] == [
        ("mcu.build", "today"),
        ("mcu.tmpl", await wifi.template()),
        ("mcu.ver", "1.0"),
    ]
    assert await space.value("SELECT value FROM attribute WHERE key = 'provisionState'") == "provisioned"
    assert await space.value("SELECT sealed IS NULL FROM wifi_session")


async def test_what_happens_is_told(wifi: Wifi, space: Space) -> None:
    made = await wifi.request()
    await wifi.report(made.token)
    events = {each["type"]: each for each in await space.rows("SELECT * FROM outbox")}
    assert set(events) == {"device.provisioned", "device.first_connected", "wifi.provisioned"}
    assert {each["organization_id"] for each in events.values()} == {wifi.estate["anna"]}
    assert events["wifi.provisioned"]["payload"] == {
        "deviceId": str(made.session.id),
        "deviceName": (await wifi.shown(made.session.id)).device_name,
        "profileId": str(wifi.estate.profiles["brand"]),
        "wifiSessionId": str(made.session.id),
        "reprovisioning": False,
    }
    failed = await wifi.request()
    with pytest.raises(InvalidData):
        await wifi.report(failed.token, "TMPLunknown00")
    payload = await space.value("SELECT payload FROM outbox WHERE type = 'wifi.failed'")
    assert payload == {
        "wifiSessionId": str(failed.session.id),
        "state": "FAILED",
        "error": "hw_info_tmpl_not_found",
    }


async def test_a_session_that_knows_the_template_needs_no_word_of_it(wifi: Wifi) -> None:
    made = await wifi.request(template=await wifi.template(), name="Living room")
    device = await wifi.let_in(made.token)
    assert (device.device_id, device.name) == (made.session.device_id, f"Living room ({str(made.session.id)[-8:]})")
    session = await wifi.shown(made.session.id)
    assert (session.state, words(session)) == (WifiState.SUCCESS, ["requested", "provisioned"])
    assert await wifi.report(made.token, ver="1") == device


async def test_a_name_that_is_taken_gets_the_id_behind_it(wifi: Wifi) -> None:
    template, maker = await wifi.template(), wifi.estate.who("brand")
    first, second = [await wifi.request(maker, template=template, name="Lamp") for _ in range(2)]
    assert (await wifi.let_in(first.token)).name == "Lamp"
    assert (await wifi.let_in(second.token)).name == f"Lamp ({second.session.id})"


async def test_a_customer_takes_no_name_from_the_maker(wifi: Wifi, space: Space) -> None:
    template, long = await wifi.template(), "x" * MAX_NAME
    for name, reference in (("SN-1", template), ("SN-1", None), (long, template)):
        made = await wifi.request(template=reference, name=name)
        assert made.session.device_name == name
        device = await (wifi.report(made.token) if reference is None else wifi.let_in(made.token))
        given = f"{name} ({str(made.session.id)[-8:]})"
        assert (device.name, (await wifi.shown(made.session.id)).device_name) == (given, given)
        told = "SELECT payload->>'deviceName' FROM outbox WHERE type = 'device.provisioned' AND device_id = $1"
        assert await space.value(told, device.device_id) == given
        again = await wifi.request(device=given)
        assert again.session.device_name == given
    own = await wifi.request(wifi.estate.who("brand"), template=template, name="SN-1")
    assert (await wifi.let_in(own.token)).name == "SN-1"


async def test_a_customer_s_name_that_is_taken_gets_the_whole_id_behind_it(wifi: Wifi) -> None:
    template = await wifi.template()
    made = await wifi.request(template=template, name="x" * MAX_NAME)
    given = f"{'x' * MAX_NAME} ({str(made.session.id)[-8:]})"
    other = await wifi.let_in((await wifi.request(template=template)).token)
    await wifi.execute("UPDATE device SET name = $1 WHERE id = $2", given, other.device_id)
    assert (await wifi.let_in(made.token)).name == f"{given} ({made.session.id})"


async def test_an_unknown_template_ends_the_session(wifi: Wifi, space: Space) -> None:
    for template, error in (
        ("TMPLnowhere00", "hw_info_tmpl_not_found"),
        ("TMPL\0", "hw_info_tmpl_not_found"),
        (await wifi.template("foreign"), "template_of_another_organization"),
    ):
        made = await wifi.request()
        assert await wifi.login(made.token) is Denial.UNBOUND
        with pytest.raises(InvalidData, match=core.WRONG_TEMPLATE):
            await wifi.placeholders.report(made.token, template, {}, PEER)
        session = await wifi.shown(made.session.id)
        assert (session.state, session.last_error) == (WifiState.FAILED, error)
        assert await wifi.login(made.token) is Denial.CREDENTIALS
        with pytest.raises(InvalidData, match=core.INVALID_TOKEN):
            await wifi.report(made.token)
    assert await space.value("SELECT count(*) FROM device") == 0
    assert await space.value("SELECT count(*) FROM wifi_session WHERE sealed IS NOT NULL") == 0


async def test_who_names_no_template_may_say_it_again(wifi: Wifi) -> None:
    made = await wifi.request()
    with pytest.raises(InvalidData, match=core.WRONG_TEMPLATE):
        await wifi.placeholders.report(made.token, "", {}, PEER)
    assert (await wifi.report(made.token)).device_id == made.session.id


async def test_a_token_waits_no_longer_than_it_may(wifi: Wifi, space: Space) -> None:
    bound, unbound = await wifi.request(template=await wifi.template()), await wifi.request()
    assert await wifi.login(unbound.token) is Denial.UNBOUND
    for made in (bound, unbound):
        await wifi.expire(made.session.id)
        assert await wifi.login(made.token) is Denial.CREDENTIALS
        with pytest.raises(InvalidData, match=core.INVALID_TOKEN):
            await wifi.report(made.token)
        session = await wifi.shown(made.session.id)
        assert (session.state, words(session)[-1]) == (WifiState.EXPIRED, "expired")
    assert await space.value("SELECT count(*) FROM device") == 0


async def test_two_reports_at_once_make_one_device(wifi: Wifi, elsewhere: Wifi, space: Space) -> None:
    made = await wifi.request()
    reports = [each.report(made.token) for each in (wifi, elsewhere) for _ in range(3)]
    found = await asyncio.gather(*reports, return_exceptions=True)
    ids = {each.device_id for each in found if isinstance(each, Authenticated)}
    assert ids == {made.session.id}
    assert all(isinstance(each, Authenticated | Unavailable) for each in found)
    assert await space.value("SELECT count(*) FROM device") == 1
    assert await space.value("SELECT count(*) FROM outbox WHERE type = 'wifi.provisioned'") == 1


async def test_many_log_in_at_once(wifi: Wifi, elsewhere: Wifi, space: Space) -> None:
    template = await wifi.template()
    made = [await wifi.request(template=template) for _ in range(20)]
    found = await asyncio.gather(
        *(each.login(one.token) for one in made for each in (wifi, elsewhere)), return_exceptions=True
    )
    assert not [each for each in found if isinstance(each, Denial)]
    assert {each.device_id for each in found if isinstance(each, Authenticated)} == {each.session.id for each in made}
    assert await space.value("SELECT count(*) FROM device") == 20


async def test_who_waits_for_another_s_report_is_told_to_come_back(wifi: Wifi, elsewhere: Wifi, lock: Locking) -> None:
    made = await wifi.request(template=await wifi.template())
    async with lock("SELECT FROM wifi_session WHERE id = $1 FOR UPDATE", made.session.id):
        with pytest.raises(Unavailable):
            await elsewhere.login(made.token)
    assert isinstance(await elsewhere.login(made.token), Authenticated)


async def test_devices_of_an_organization_that_is_held_wait_once_and_not_for_a_quota(
    wifi: Wifi, elsewhere: Wifi, lock: Locking, caplog: pytest.LogCaptureFixture
) -> None:
    anna = wifi.estate["anna"]
    await wifi.execute("UPDATE organization SET device_quota = 100 WHERE id = $1", anna)
    made = [await wifi.request(template=await wifi.template()) for _ in range(8)]
    async with lock("SELECT FROM organization WHERE id = $1 FOR UPDATE", anna):
        found = await asyncio.gather(*(elsewhere.login(each.token) for each in made), return_exceptions=True)
    assert {type(each) for each in found} == {Unavailable}
    waits = [message for message in caplog.messages if "could not be made: Contended" in message]
    assert 1 <= len(waits) < 8  # who waits for a row makes all wait who log in just then
    assert {(await wifi.shown(each.session.id)).last_error for each in made} == {None}
    assert isinstance(await elsewhere.login(made[0].token), Authenticated)


async def test_an_outage_never_makes_a_token_bad(wifi: Wifi, outage: Outage) -> None:
    away = Wifi.of(wifi.estate, outage.database)
    bound, unbound = await wifi.request(template=await wifi.template()), await wifi.request()
    await outage.begin()
    for made in (bound, unbound):
        with pytest.raises(Unavailable):
            await away.login(made.token)
        with pytest.raises(Unavailable):
            await away.report(made.token, "TMPLnowhere00")
    outage.end()
    assert await wifi.login(unbound.token) is Denial.UNBOUND
    assert isinstance(await wifi.login(bound.token), Authenticated)


async def test_a_connection_that_breaks_costs_the_device_nothing(wifi: Wifi, space: Space, lock: Locking) -> None:
    made = await wifi.request()
    async with lock("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE") as held:
        report = asyncio.create_task(wifi.report(made.token))
        (pid,) = await held.until_waiting()
        await held.terminate(pid)
        with pytest.raises(Unavailable):
            await report
    assert await wifi.login(made.token) is Denial.UNBOUND
    assert (await wifi.report(made.token)).device_id == made.session.id
    assert await space.value("SELECT count(*) FROM device") == 1


async def test_a_full_organization_s_device_comes_back_until_there_is_room(wifi: Wifi, space: Space) -> None:
    made = await wifi.request(template=await wifi.template())
    await wifi.execute("UPDATE organization SET device_quota = 0 WHERE id = $1", wifi.estate["anna"])
    with pytest.raises(Unavailable):
        await wifi.login(made.token)
    session = await wifi.shown(made.session.id)
    assert (session.state, session.last_error) == (WifiState.WAITING, "device_quota")
    await wifi.execute("UPDATE organization SET device_quota = NULL")
    assert isinstance(await wifi.login(made.token), Authenticated)
    assert await space.value("SELECT error FROM wifi_session") is None


async def test_a_device_that_is_known_costs_no_statement_more(estate: Estate, database_url: str) -> None:
    opened = Database(database_url, size=1, serving=True)
    await opened.open()
    away = Wifi.of(estate, opened)
    made = await away.request(template=await away.template())
    await away.let_in(made.token)
    async with statements(opened) as seen:
        await away.let_in(made.token)
    assert len(seen) == 1
    assert "wifi_session" not in seen[0]
    await opened.close()


async def test_a_deleted_device_s_token_is_nobody_s(wifi: Wifi, space: Space) -> None:
    made = await wifi.request(template=await wifi.template())
    device = await wifi.let_in(made.token)
    await space.devices.delete(str(device.device_id))
    assert await wifi.login(made.token) is Denial.CREDENTIALS
    session = await wifi.shown(made.session.id)
    assert (session.state, words(session)[-1]) == (WifiState.SUCCESS, "deleted")
    assert not await space.value("SELECT made FROM wifi_session")


async def test_a_device_of_another_template_than_was_asked_for(wifi: Wifi, space: Space) -> None:
    made = await wifi.request(template=await wifi.template())
    await wifi.let_in(made.token)
    with pytest.raises(InvalidData, match=core.WRONG_TEMPLATE):
        await wifi.report(made.token, await wifi.template("foreign"))
    session = await wifi.shown(made.session.id)
    assert (session.state, session.last_error) == (WifiState.FAILED, "wrong_template")
    assert await space.value("SELECT made FROM wifi_session")


# --- devices that are there


async def made_device(wifi: Wifi) -> tuple[Authenticated, str]:
    made = await wifi.request(template=await wifi.template())
    return await wifi.let_in(made.token), made.token


async def test_the_old_token_is_good_until_the_new_one_first_connects(wifi: Wifi, space: Space) -> None:
    device, old = await made_device(wifi)
    await wifi.execute(
        "INSERT INTO telemetry (device_id, key, ts, value, samples) VALUES ($1, 'temperature', 1, '21', 1)",
        device.device_id,
    )
    again = await wifi.request(device=str(device.device_id))
    assert again.session.reprovisioning
    assert again.session.device_id == device.device_id != again.session.id
    assert (await wifi.let_in(old)).device_id == device.device_id
    assert (await wifi.shown(again.session.id)).state is WifiState.WAITING

    back = await wifi.report(again.token)

    assert (back.device_id, back.name) == (device.device_id, device.name)
    assert await wifi.login(old) is Denial.CREDENTIALS
    session = await wifi.shown(again.session.id)
    assert (session.state, session.last_error) == (WifiState.SUCCESS, None)
    assert await space.value("SELECT count(*) FROM telemetry WHERE device_id = $1", device.device_id) == 1
    assert await space.value("SELECT count(*) FROM device") == 1
    told = await space.value(
        "SELECT payload FROM outbox WHERE type = 'wifi.provisioned' AND device_id = $1"
        " ORDER BY created_at DESC LIMIT 1",
        device.device_id,
    )
    assert told["reprovisioning"]


async def test_a_next_token_that_nobody_came_with_is_good_no_more(wifi: Wifi, space: Space) -> None:
    device, old = await made_device(wifi)
    again = await wifi.request(device=device.name)
    await wifi.expire(again.session.id)
    async with space.database.connection() as connection:
        assert not await Retention(0).sweep(connection)
    assert await space.value("SELECT state FROM wifi_session WHERE again") == WifiState.EXPIRED
    assert await space.value("SELECT count(*) FROM credentials") == 1
    assert await wifi.login(again.token) is Denial.CREDENTIALS
    assert (await wifi.let_in(old)).device_id == device.device_id


async def test_a_next_token_that_was_used_is_not_taken_back(wifi: Wifi) -> None:
    device, _ = await made_device(wifi)
    again = await wifi.request(device=device.name)
    await wifi.let_in(again.token)
    await wifi.expire(again.session.id)
    session = await wifi.shown(again.session.id)
    assert session.state is WifiState.SUCCESS
    assert (await wifi.let_in(again.token)).device_id == device.device_id


async def test_a_next_token_that_goes_while_its_device_logs_in_lets_nobody_in(wifi: Wifi, lock: Locking) -> None:
    device, old = await made_device(wifi)
    again = await wifi.request(device=device.name)
    async with lock("SELECT FROM device WHERE id = $1 FOR UPDATE", device.device_id) as held:
        login = asyncio.create_task(wifi.login(again.token))
        await held.until_waiting()
        await held.connection.execute("DELETE FROM credentials WHERE device_id = $1 AND pending", device.device_id)
        await held.commit()
        with pytest.raises(Unavailable):  # it hears that it is nobody's when it comes again
            await login
    assert await wifi.login(again.token) is Denial.CREDENTIALS
    assert (await wifi.let_in(old)).device_id == device.device_id


async def test_another_request_takes_the_place_of_the_one_before(wifi: Wifi) -> None:
    device, old = await made_device(wifi)
    first, second = await wifi.request(device=device.name), await wifi.request(device=device.name)
    assert (await wifi.shown(first.session.id)).state is WifiState.CANCELED
    assert await wifi.login(first.token) is Denial.CREDENTIALS
    assert (await wifi.let_in(old)).device_id == device.device_id
    assert (await wifi.let_in(second.token)).device_id == device.device_id


async def test_a_board_of_another_template_is_told_of(wifi: Wifi, space: Space) -> None:
    device, _ = await made_device(wifi)
    again = await wifi.request(device=device.name)
    with pytest.raises(InvalidData, match=core.WRONG_TEMPLATE):
        await wifi.report(again.token, await wifi.template("foreign"))
    told = await space.rows("SELECT payload FROM outbox WHERE type = 'wifi.failed'")
    assert [each["payload"]["error"] for each in told] == ["wrong_template"]
    session = await wifi.shown(again.session.id)
    assert (session.state, session.last_error) == (WifiState.FAILED, "wrong_template")


async def test_who_has_the_device_no_more_has_not_the_last_word(wifi: Wifi, space: Space) -> None:
    from provserver.services.handover import Handover

    device, old = await made_device(wifi)
    again = await wifi.request(device=device.name)
    brand = wifi.estate.who("brand", Role.ADMIN)
    await Handover(space.database).transfer(brand, device.device_id, to_organization=wifi.estate["ben"])
    assert (await wifi.shown(again.session.id)).state is WifiState.CANCELED
    assert await wifi.login(again.token) is Denial.CREDENTIALS
    assert (await wifi.let_in(old)).device_id == device.device_id


async def test_sessions_are_forgotten_with_their_devices(wifi: Wifi, space: Space) -> None:
    from provserver.store import wifi_sessions as store

    device, _ = await made_device(wifi)
    failed = await wifi.request()
    await wifi.sessions.fail(wifi.anna, failed.session.id, "device_not_found")
    await wifi.execute("UPDATE wifi_session SET ended_at = now() - interval '91 days'")

    async def swept() -> list[UUID]:
        async with space.database.connection() as connection:
            await store.sweep(connection, timedelta(days=90), 10)
        return [row["id"] for row in await space.rows("SELECT id FROM wifi_session")]

    assert await swept() == [device.device_id]
    await space.devices.delete(str(device.device_id))
    assert await swept() == []
