"""What people ask for, see and end of WiFi sessions, and of whose."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from provserver.core.authentication import Denial
from provserver.core.authorization import Permission, Principal, Role
from provserver.core.csvfile import DeviceRow
from provserver.core.limits import Buckets
from provserver.core.model import Authenticated
from provserver.core.wifisession import MAX_LOG, WifiState
from provserver.errors import Conflict, Forbidden, Invalid, NotFound, Refused, TooManyRequests
from provserver.services import wifi_sessions as module
from provserver.services.claiming import ClaimLimits
from provserver.services.wifi_sessions import Wanted
from tests.conftest import Space
from tests.services.conftest import Locking
from tests.services.ownership import Estate
from tests.services.wifi import Wifi, words


@pytest.fixture
async def estate(space: Space) -> Estate:
    return await Estate.make(space.database, space.keys, space.organization_id)


@pytest.fixture
def wifi(estate: Estate) -> Wifi:
    return Wifi.of(estate, life=timedelta(minutes=5))


async def test_a_session_is_the_asker_s_own(wifi: Wifi, space: Space) -> None:
    made = await wifi.request(client="phone")
    session = made.session
    assert (session.organization_id, session.owner_id) == (wifi.estate["anna"], wifi.anna.user_id)
    assert (session.requester, session.client, session.reprovisioning) == (wifi.anna.actor, "phone", False)
    assert (session.device_id, session.profile_id, session.ended_at, session.duration) == (session.id, None, None, None)
    assert session.expires_at - session.started_at <= timedelta(minutes=5, seconds=1)
    assert len(made.token) == 32
    assert made.token not in repr(made)
    (entry,) = await space.rows("SELECT * FROM audit")
    assert (entry["action"], entry["subject_id"]) == ("wifi_session.requested", str(session.id))
    stored = str(list(map(tuple, await space.rows("SELECT * FROM wifi_session"))))
    assert made.token not in stored


async def test_a_session_may_be_for_somebody_else(wifi: Wifi) -> None:
    estate = wifi.estate
    brand = estate.who("brand", Role.STAFF)
    ben = estate.users["ben", Role.USER]
    session = (await wifi.request(brand, owner=str(ben))).session
    assert (session.organization_id, session.owner_id) == (estate["ben"], ben)
    session = (await wifi.request(brand, owner="user@ben.example", organization=estate["ben"])).session
    assert session.owner_id == ben
    session = (await wifi.request(brand, organization="anna")).session
    assert (session.organization_id, session.owner_id) == (estate["anna"], None)
    session = (await wifi.request(brand, owner=brand.user_id)).session
    assert (session.organization_id, session.owner_id) == (estate["brand"], brand.user_id)


@pytest.mark.parametrize(
    ("wanted", "fault"),
    [
        ({"owner": "user@ben.example", "organization": "anna"}, Invalid),
        ({"owner": "nobody@ben.example"}, NotFound),
        ({"owner": "x\0"}, NotFound),
        ({"owner": "None"}, NotFound),
        ({"owner": "user@dora.example"}, NotFound),
        ({"organization": "dora"}, NotFound),
        ({"template": "TMPLnowhere00"}, NotFound),
        ({"template": "a\0b"}, NotFound),
        ({"name": " "}, Invalid),
        ({"name": "x" * 201}, Invalid),
        ({"name": "a\nb"}, Invalid),
        ({"client": "Phone!"}, Invalid),
        ({"device": "x", "template": "y"}, Invalid),
        ({"device": "x"}, NotFound),
    ],
)
async def test_what_makes_no_session(wifi: Wifi, space: Space, wanted: dict[str, Any], fault: type[Refused]) -> None:
    with pytest.raises(fault):
        await wifi.request(wifi.estate.who("brand", Role.ADMIN), **wanted)
    assert await space.value("SELECT count(*) FROM wifi_session") == 0


async def test_permissions(wifi: Wifi) -> None:
    estate = wifi.estate
    with pytest.raises(Forbidden):
        await wifi.request(estate.key("anna", Permission.DEVICES_VIEW))
    with pytest.raises(Forbidden):  # somebody else is to own it
        await wifi.request(wifi.anna, owner="admin@anna.example")
    for refused in (
        wifi.sessions.list_(estate.key("anna", Permission.DEVICES_CLAIM)),
        wifi.sessions.summary(estate.key("anna", Permission.DEVICES_CLAIM)),
    ):
        with pytest.raises(Forbidden):
            await refused


async def test_templates_are_those_of_the_organization_and_above(wifi: Wifi) -> None:
    for reference in (await wifi.template(), "sensors", str(wifi.estate.profiles["brand"])):
        session = (await wifi.request(template=reference)).session
        assert session.profile_id == wifi.estate.profiles["brand"]
    for reference in (await wifi.template("foreign"), str(wifi.estate.profiles["foreign"])):
        with pytest.raises(NotFound):
            await wifi.request(template=reference)
    with pytest.raises(NotFound):  # cleo is no customer of the brand's
        await wifi.request(wifi.estate.who("cleo"), template=await wifi.template())


async def test_an_organization_has_so_many_at_most(wifi: Wifi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPEN", 2)
    first, _ = await wifi.request(), await wifi.request()
    with pytest.raises(Conflict, match="open"):
        await wifi.request()
    await wifi.sessions.cancel(wifi.anna, first.session.id)
    await wifi.request()


async def test_a_person_has_so_many_at_most_and_takes_no_other_s(wifi: Wifi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPEN_EACH", 2)
    _, _ = await wifi.request(), await wifi.request()
    with pytest.raises(Conflict, match="yours"):
        await wifi.request()
    await wifi.request(wifi.estate.who("anna", Role.STAFF))


async def test_people_are_limited_by_principal_and_by_organization(estate: Estate) -> None:
    now = 0.0
    wifi = Wifi.of(estate, limits=ClaimLimits(Buckets(2, 0.1), Buckets(3, 0.1), what="tries"), monotonic=lambda: now)

    async def waits(ask: Awaitable[object]) -> float:
        try:
            await ask
        except TooManyRequests as fault:
            return fault.retry_after
        except NotFound:
            pass
        return 0.0

    admin = estate.who("anna", Role.ADMIN)
    assert await waits(wifi.request()) == 0.0
    assert await waits(wifi.sessions.reconfigure(wifi.anna, "nothing")) == 0.0
    assert await waits(wifi.request()) == 10.0
    assert await waits(wifi.request(device="nothing")) == 10.0
    assert await waits(wifi.sessions.reconfigure(wifi.anna, "nothing")) == 10.0
    assert [await waits(wifi.request(admin)) for _ in range(2)] == [0.0, 10.0]
    for other in (estate.who("ben"), *[estate.key("anna"), estate.operator] * 5):  # programs are no people
        assert await waits(wifi.request(other)) == 0.0
    now = 10.0
    assert await waits(wifi.request()) == 0.0
    with pytest.raises(TooManyRequests, match=r"Too many tries\. Try again in 10 s\."):
        await wifi.request()


async def test_who_may_not_ask_is_not_counted(estate: Estate) -> None:
    wifi = Wifi.of(estate, limits=ClaimLimits(Buckets(1, 0.1)), monotonic=lambda: 0.0)
    mute = Principal(wifi.anna.actor, wifi.anna.organization_id, frozenset(), wifi.anna.user_id)
    for ask in (wifi.request(mute), wifi.sessions.reconfigure(mute, "nothing")):
        with pytest.raises(Forbidden):
            await ask
    await wifi.request()


async def test_a_full_organization_gets_no_token(wifi: Wifi) -> None:
    await wifi.execute("UPDATE organization SET device_quota = 0 WHERE id = $1", wifi.estate["anna"])
    with pytest.raises(Conflict):
        await wifi.request()


async def test_what_the_phone_saw_is_kept(wifi: Wifi) -> None:
    made = await wifi.request()
    await wifi.sessions.note(wifi.anna, made.session.id, "board_found", "Lamp-8DCF")
    session = await wifi.sessions.note(wifi.anna, made.session.id, "device_says", error="wifi_wrong_password")
    assert (session.state, session.last_error) == (WifiState.WAITING, "wifi_wrong_password")
    assert words(session) == ["requested", "board_found", "device_says"]
    assert session.log[1]["detail"] == "Lamp-8DCF"
    for event, detail, error in (("Bad", None, None), ("x", "a\nb", None), ("x", "y" * 201, None), ("x", None, "No!")):
        with pytest.raises(Invalid):
            await wifi.sessions.note(wifi.anna, made.session.id, event, detail, error)
    await wifi.report(made.token)
    with pytest.raises(Conflict, match="over"):
        await wifi.sessions.note(wifi.anna, made.session.id, "late")


async def test_a_log_has_an_end(wifi: Wifi) -> None:
    made = await wifi.request()
    await wifi.execute(
        "UPDATE wifi_session w SET log = (SELECT jsonb_agg(n) FROM generate_series(1, $1::int) AS n)", MAX_LOG
    )
    session = await wifi.sessions.note(wifi.anna, made.session.id, "more")
    assert len(session.log) == MAX_LOG


@pytest.mark.parametrize("end", [WifiState.CANCELED, WifiState.FAILED])
async def test_a_session_that_was_ended_lets_nobody_in(wifi: Wifi, space: Space, end: WifiState) -> None:
    made = await wifi.request()
    await wifi.login(made.token)
    id_ = made.session.id

    async def ended() -> Any:
        if end is WifiState.CANCELED:
            return await wifi.sessions.cancel(wifi.anna, id_)
        return await wifi.sessions.fail(wifi.anna, id_, "device_not_found")

    session = await ended()
    assert (session.state, session.last_error) == (end, None if end is WifiState.CANCELED else "device_not_found")
    assert await wifi.login(made.token) is Denial.CREDENTIALS
    with pytest.raises(Conflict, match="over"):
        await ended()
    assert await space.value("SELECT count(*) FROM audit WHERE action = $1", f"wifi_session.{end.lower()}") == 1
    told = await space.value("SELECT count(*) FROM outbox WHERE type = 'wifi.failed'")
    assert told == (1 if end is WifiState.FAILED else 0)


async def test_a_session_whose_device_came_back_cannot_be_cancelled(wifi: Wifi) -> None:
    first = await wifi.request(template=await wifi.template())
    device = await wifi.let_in(first.token)
    again = await wifi.request(device=device.name)
    await wifi.let_in(again.token)
    with pytest.raises(Conflict, match="over"):
        await wifi.sessions.cancel(wifi.anna, again.session.id)
    assert (await wifi.shown(again.session.id)).state is WifiState.SUCCESS
    assert isinstance(await wifi.login(again.token), Authenticated)


async def test_lists_and_summaries(wifi: Wifi) -> None:
    done, failed, other = [await wifi.request() for _ in range(3)]
    await wifi.report(done.token)
    await wifi.sessions.fail(wifi.anna, failed.session.id, "wifi_wrong_password")
    await wifi.request(wifi.estate.who("ben"))
    anna, root = wifi.anna, wifi.estate.who("root", Role.ADMIN)
    listed = await wifi.sessions.list_(anna)
    assert [each.id for each in listed] == [other.session.id, failed.session.id, done.session.id]
    assert await wifi.sessions.list_(anna, listed[0].id, 1) == [listed[1]]
    assert await wifi.sessions.list_(anna, state=WifiState.FAILED) == [listed[1]]
    assert len(await wifi.sessions.list_(root)) == 4
    assert await wifi.sessions.list_(root, organization="anna") == listed
    assert await wifi.sessions.list_(wifi.estate.who("dora")) == []
    summary = await wifi.sessions.summary(anna)
    assert (summary.total, summary.succeeded, summary.success_rate) == (3, 1, 0.5)
    assert summary.commonest_error == "wifi_wrong_password"
    assert summary.average_duration == listed[2].duration
    assert (await wifi.sessions.summary(root)).total == 4
    assert (await wifi.sessions.summary(root, organization="ben")).total == 1
    later = await wifi.sessions.summary(root, since=datetime.now(UTC) + timedelta(hours=1))
    assert (later.total, later.success_rate, later.average_duration, later.commonest_error) == (0, None, None, None)


async def test_who_looks_waits_for_no_other_organization(wifi: Wifi, space: Space, lock: Locking) -> None:
    device = await wifi.let_in((await wifi.request(template=await wifi.template())).token)
    due = await wifi.request(device=device.name)
    own = await wifi.request(wifi.estate.who("ben"))
    await wifi.expire(due.session.id)
    await wifi.expire(own.session.id)
    async with lock("SELECT FROM device WHERE id = $1 FOR UPDATE", device.device_id) as held:
        ben = wifi.estate.who("ben")
        for look in (wifi.sessions.show(ben, own.session.id), wifi.sessions.list_(ben)):
            looking = asyncio.create_task(look)
            while not looking.done():
                assert await held.waiters() == []
            await looking
        assert (await wifi.sessions.list_(ben))[0].state is WifiState.EXPIRED
    assert await space.value("SELECT state FROM wifi_session WHERE id = $1", due.session.id) == "WAITING"
    assert (await wifi.shown(due.session.id)).state is WifiState.EXPIRED


async def test_nobody_reaches_another_s(wifi: Wifi) -> None:
    made = await wifi.request()
    ben, id_ = wifi.estate.who("ben", Role.ADMIN), made.session.id
    for ask in (
        lambda: wifi.sessions.show(ben, id_),
        lambda: wifi.sessions.note(ben, id_, "x"),
        lambda: wifi.sessions.cancel(ben, id_),
        lambda: wifi.sessions.fail(ben, id_, "x"),
        lambda: wifi.sessions.list_(ben, organization="anna"),
        lambda: wifi.sessions.reconfigure(ben, "nothing"),
    ):
        with pytest.raises(NotFound):
            await ask()
    neighbour = wifi.estate.key("anna", Permission.DEVICES_CLAIM, Permission.DEVICES_VIEW)
    with pytest.raises(Forbidden):  # may look, and has no say in it
        await wifi.sessions.cancel(neighbour, id_)
    assert (await wifi.sessions.cancel(wifi.estate.who("anna", Role.STAFF), id_)).state is WifiState.CANCELED


async def test_whose_devices_may_get_another_token(wifi: Wifi) -> None:
    estate = wifi.estate
    device = await wifi.let_in((await wifi.request(template=await wifi.template())).token)
    for who, fault in (
        (estate.key("anna", Permission.DEVICES_CLAIM), Forbidden),
        (estate.who("ben", Role.ADMIN), NotFound),
        (estate.who("dora", Role.ADMIN), NotFound),
    ):
        with pytest.raises(fault):
            await wifi.request(who, device=str(device.device_id))
    for who in (estate.who("anna", Role.STAFF), estate.who("brand", Role.ADMIN), estate.operator):
        assert (await wifi.request(who, device=str(device.device_id))).session.device_id == device.device_id

    # One that came otherwise is its maker's to give tokens to, whoever has it.
    await wifi.execute("UPDATE wifi_session SET made = false")
    with pytest.raises(Forbidden, match="maker"):
        await wifi.request(device=str(device.device_id))
    await wifi.request(estate.who("brand", Role.ADMIN), device=str(device.device_id))


async def test_what_a_token_cannot_follow(wifi: Wifi, space: Space, fleet_device: Callable[..., Any]) -> None:
    await fleet_device("with a certificate's kind", credentialsType="MQTT_BASIC", username="u", password="p")
    with pytest.raises(Conflict, match="other credentials"):
        await wifi.request(wifi.estate.operator, device="with a certificate's kind")
    token = await wifi.estate.token(device="static")
    assert isinstance(await wifi.login(token.auth), Authenticated)
    with pytest.raises(Conflict, match="static token"):
        await wifi.request(wifi.estate.who("brand", Role.ADMIN), device="static")
    await space.devices.quarantine(str(token.id), "seen twice")
    with pytest.raises(Conflict, match="quarantine"):
        await wifi.request(wifi.estate.who("brand", Role.ADMIN), device="static")


@pytest.fixture
async def fleet_device(space: Space) -> Callable[..., Any]:
    """Provision a device by a key."""
    from tests.services.conftest import Fleet

    fleet = await Fleet.make(space, name="by key")

    async def make(name: str, **members: Any) -> None:
        assert (await fleet.ask(name, **members))["status"] == "SUCCESS"

    return make


async def test_a_device_without_credentials_gets_some(wifi: Wifi, space: Space) -> None:
    device = await wifi.let_in((await wifi.request(template=await wifi.template())).token)
    await space.devices.revoke(str(device.device_id))
    again = await wifi.request(device=device.name)
    assert (await wifi.let_in(again.token)).device_id == device.device_id
    assert (await wifi.shown(again.session.id)).state is WifiState.SUCCESS


async def test_who_is_connected_is_told_to_open_its_access_point(wifi: Wifi, space: Space) -> None:
    device = await wifi.let_in((await wifi.request(template=await wifi.template())).token)
    assert not await wifi.sessions.reconfigure(wifi.anna, device.name)
    await wifi.execute(
        "INSERT INTO presence (device_id, session_id, online_until, last_seen_at)"
        " VALUES ($1, $1, now() + interval '1 h', now())",
        device.device_id,
    )
    assert await wifi.sessions.reconfigure(wifi.anna, str(device.device_id))
    with pytest.raises(Forbidden):
        await wifi.sessions.reconfigure(wifi.estate.key("anna", Permission.DEVICES_CLAIM), device.name)
    details = await space.rows("SELECT detail FROM audit WHERE action = 'device.reconfigured' ORDER BY at, id")
    assert [each["detail"]["online"] for each in details] == [False, True]


async def test_a_pre_provisioned_device_gets_its_token_by_a_session(wifi: Wifi, space: Space, estate: Estate) -> None:
    """Whoever makes devices beforehand may hand their tokens over by WiFi, too."""
    await space.devices.create(DeviceRow(1, "made before", None, False), str(await _profile(space)))
    made = await wifi.sessions.request(estate.operator, Wanted(device="made before"))
    assert (await wifi.let_in(made.token)).name == "made before"


async def _profile(space: Space) -> object:
    from provserver.core.model import ProvisionStrategy
    from provserver.services.profiles import ProfileChange

    strategy = ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES
    return (await space.profiles.create_keyless(ProfileChange(name="before", strategy=strategy))).id
