"""Devices that come back by Blynk's native protocol, on real sockets and services."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from provserver.core.model import Authenticated, Datastream, MetadataField, Peer, Transport
from provserver.core.wifisession import WifiState
from provserver.services.access import Access
from provserver.services.datastreams import Datastreams
from provserver.services.limits import Limits as GuessLimits
from provserver.services.limits import Rates
from provserver.services.placeholders import MAX_EACH, Placeholders
from provserver.services.profiles import ProfileChange, Profiles
from provserver.transports.admission import Admission
from provserver.transports.blynk.listener import BlynkListener, Services
from provserver.transports.blynk.session import Limits
from tests.conformance.test_sdk import SDK
from tests.services.ownership import Estate
from tests.services.wifi import Wifi
from tests.transports.blynk.wire import (
    EVENT_LOG,
    GROUP,
    HARDWARE,
    INTERNAL,
    LOGIN,
    PING,
    PROPERTY,
    REDIRECT,
    SYNC,
    message,
    response,
    whole,
)
from tests.transports.devices import Backend, Device, backend, coming_back, going_away, until
from tests.transports.mqtt.sockets import run

NOW = 1_795_323_667.25  # 2026-11-22T05:01:07.250Z
STREAMS = (
    Datastream("temperature", "V1", "double", 0, 50),
    Datastream("state", "V2", "string"),
    Datastream("led", "V5", "int", 0, 1),
    Datastream("power", "V6", "bool"),
)

BLYNKLIB = """
import sys, blynklib
blynk = blynklib.Blynk(sys.argv[2], server="127.0.0.1", port=int(sys.argv[1]))
while not blynk.connect():
    pass
print("connected to", blynk.port)
"""


@dataclass
class Raw:
    """A device that says what it is told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytes = b""
    last_id: int = 1

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def message(self) -> bytes:
        while (size := whole(self.received)) is None:
            data = await self.reader.read(4096)
            assert data, "closed"
            self.received += data
        found, self.received = self.received[:size], self.received[size:]
        return found

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        return self.received + await self.reader.read()

    async def says(self, command: int, *texts: str) -> list[bytes]:
        """Send a message of id 2, and a ping; what came before the ping's answer."""
        await self.send(message(command, 2, *texts) + message(PING, 3))
        heard = []
        while (said := await self.message()) != response(3, 200):
            heard.append(said)
        return heard

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


@dataclass
class Site:
    """A listener, and where it is."""

    back: Backend
    listener: BlynkListener
    port: int

    async def connect(self) -> Raw:
        return Raw(*await asyncio.open_connection("127.0.0.1", self.port))

    async def login(self, token: str) -> tuple[Raw, bytes]:
        raw = await self.connect()
        await raw.send(message(LOGIN, 1, token))
        return raw, await raw.message()

    async def session(self, device: Device) -> Raw:
        raw, answer = await self.login(device.token)
        assert answer == response(1, 200)
        return raw


@pytest.fixture(scope="module")
async def back(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    async with backend(postgres, tmp_path_factory.mktemp("blynk"), "blynk_devices") as services:
        made = services.made
        root = await made.value("SELECT id FROM organization")
        change = ProfileChange(datastreams=STREAMS, metadata_fields=(MetadataField("Room"),))
        await Profiles(made.database, made.keys, root).update("sensors", change)
        yield services


@asynccontextmanager
async def serving(back: Backend, **options: Any) -> AsyncIterator[Site]:
    made = back.made
    access: Access = options.pop("access", back.access)
    datastreams = Datastreams(made.database, back.data, clock=lambda: NOW)
    services = Services(
        access, back.sessions, back.data, datastreams, Placeholders(made.database, made.keys, access, datastreams)
    )
    listener = BlynkListener(services, **{"sweep_interval": 0.01, **options})
    _, port = await listener.start("127.0.0.1", 0)
    try:
        yield Site(back, listener, port)
    finally:
        await listener.stop(0)


@pytest.fixture
async def site(back: Backend) -> AsyncIterator[Site]:
    async with serving(back) as served:
        yield served


@pytest.fixture
async def device(back: Backend) -> Device:
    return await back.device(f"blynk-{uuid4()}")


# Login


async def test_a_device_logs_in_and_writes_a_pin(back: Backend, site: Site, device: Device) -> None:
    raw = await site.session(device)
    assert await raw.says(INTERNAL, "ver", "0.2.0", "h-beat", "10", "buff-in", "1024", "dev", "python") == [
        response(2, 200)
    ]
    assert await raw.says(HARDWARE, "vw", "1", "21.5") == []
    assert await back.latest(device) == {"temperature": 21.5}
    await raw.close()


async def test_in_the_smallest_pieces(back: Backend, site: Site, device: Device) -> None:
    raw = await site.connect()
    data = message(LOGIN, 1, device.token) + message(HARDWARE, 2, "vw", "2", "on") + message(PING, 3)
    for byte in data:
        await raw.send(bytes((byte,)))
        await asyncio.sleep(0)
    assert [await raw.message(), await raw.message()] == [response(1, 200), response(3, 200)]
    assert await back.latest(device) == {"state": "on"}
    await raw.close()


@pytest.mark.parametrize("token", ["", "nobody's", "x" * 32])
async def test_an_unknown_token_is_invalid_and_the_connection_closed(site: Site, token: str) -> None:
    raw, answer = await site.login(token)
    assert answer == response(1, 9)
    assert await raw.rest() == b""
    await raw.close()


async def test_a_revoked_token_is_invalid(back: Backend, site: Site, device: Device) -> None:
    await back.revoke(device)
    raw, answer = await site.login(device.token)
    assert answer == response(1, 9)
    await raw.close()


async def test_while_postgres_is_away_no_token_is_called_invalid(back: Backend, device: Device) -> None:
    async with going_away(back.made) as (away, outage), serving(back, access=away.access) as site:
        await outage.begin()
        for token in (device.token, "nobody's"):
            raw = await site.connect()
            await raw.send(message(LOGIN, 1, token))
            assert await raw.rest() == b""
            await raw.close()


async def test_an_internal_error_closes_the_connection(
    back: Backend, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Access):
        async def with_token(self, token: str, peer: Peer) -> Authenticated:  # noqa: ARG002
            raise LookupError(token)

    broken = Broken(back.made.database, back.made.keys)
    async with serving(back, access=broken) as site:
        raw = await site.connect()
        with caplog.at_level(logging.ERROR):
            await raw.send(message(LOGIN, 1, device.token))
            assert await raw.rest() == b""
        await raw.close()
    assert "a login of 127.0.0.1 failed" in caplog.text
    assert device.token not in caplog.text


async def test_who_guesses_is_told_to_come_back(back: Backend, device: Device) -> None:
    rates = Rates(guess_limit=1, guess_interval=1000.0, locked_interval=1000.0)
    access = Access(back.made.database, back.made.keys, limits=GuessLimits(rates))
    async with serving(back, access=access) as site:
        answers = []
        for token in ("wrong-1", "wrong-2", "wrong-3", device.token):
            raw, answer = await site.login(token)
            answers.append(answer)
            await raw.close()
    assert answers[0] == response(1, 9)
    assert answers[-1] == response(1, 1)


async def test_a_storm_is_told_to_come_back(back: Backend, device: Device) -> None:
    async with serving(back, admission=Admission(1, 1)) as site:
        silent = await site.connect()
        await until(lambda: site.listener.admission.waiting == 1)
        raw, answer = await site.login(device.token)
        assert answer == response(1, 1)
        assert await raw.rest() == b""
        await raw.close()
        await silent.close()
        await until(lambda: site.listener.admission.waiting == 0)
        raw = await site.session(device)
        assert site.listener.admission.waiting == 0
        await raw.close()


async def test_one_too_many_is_closed(back: Backend, device: Device) -> None:
    async with serving(back, max_connections=1) as site:
        raw = await site.session(device)
        other = await site.connect()
        assert await other.rest() == b""
        assert (site.listener.refused, site.listener.connections) == (1, 1)
        await raw.close()
        await other.close()


async def test_a_silent_connection_is_closed(back: Backend) -> None:
    async with serving(back, limits=Limits(login_timeout=0.01)) as site:
        raw = await site.connect()
        assert await raw.rest() == b""
        await raw.close()


async def test_a_silent_device_is_offline(site: Site, device: Device) -> None:
    raw = await site.session(device)
    await raw.says(INTERNAL, "ver", "1", "h-beat", "1")
    assert await raw.rest() == b""  # after one second and a half
    await raw.close()


async def test_devices_are_sent_elsewhere(back: Backend, device: Device) -> None:
    async with serving(back, redirect=("other.example", 8442)) as site:
        raw, answer = await site.login(device.token)
        assert answer == message(REDIRECT, 1, "other.example", "8442")
        await raw.close()


async def test_blynklib_goes_where_it_is_sent(back: Backend, site: Site, device: Device) -> None:
    if not SDK.exists():
        text = "Blynk's clients are not installed: make sdk"
        pytest.fail(text) if os.environ.get("PROVSERVER_TEST_REQUIRE_TOOLS") else pytest.skip(text)
    async with serving(back, redirect=("127.0.0.1", site.port)) as elsewhere:
        code, out, err = await run(str(SDK), "-c", BLYNKLIB, str(elsewhere.port), device.token)
    assert (code, out.decode().splitlines()[-1]) == (0, f"connected to {site.port}"), err


# One session a device


async def test_the_newer_connection_of_a_token_stays(back: Backend, site: Site, device: Device) -> None:
    older = await site.session(device)
    newer = await site.session(device)
    assert await older.rest() == b""
    assert await newer.says(PING) == [response(2, 200)]
    assert len([each for each in back.sessions._live.values() if each.device.device_id == device.id]) == 1
    await older.close()
    await newer.close()


async def test_another_process_takes_over(back: Backend, site: Site, device: Device) -> None:
    older = await site.session(device)
    async with coming_back(back.made, back.made.database) as elsewhere, serving(elsewhere) as other:
        newer = await other.session(device)
        assert await older.rest() == b""
        assert await newer.says(PING) == [response(2, 200)]
        await newer.close()
    await older.close()


async def test_revocation_cuts(back: Backend, site: Site, device: Device) -> None:
    raw = await site.session(device)
    await back.revoke(device)
    assert await raw.rest() == b""
    await raw.close()


async def test_a_device_is_online_while_it_is_connected(back: Backend, site: Site, device: Device) -> None:
    raw = await site.session(device)
    found = await back.access.with_token(device.token, Peer(Transport.HTTP, "192.0.2.7"))
    assert isinstance(found, Authenticated)
    streams = site.listener.services.datastreams
    assert await streams.is_online(found)
    await raw.close()
    while await streams.is_online(found):  # noqa: ASYNC110 - a state without an event
        await asyncio.sleep(0.01)


# What a device asks for


async def test_values_are_synced(back: Backend, site: Site, device: Device) -> None:
    raw = await site.session(device)
    assert await raw.says(SYNC) == []
    await raw.says(HARDWARE, "vw", "1", "21.5")
    await raw.says(HARDWARE, "vw", "2", "a", "b")
    await raw.says(HARDWARE, "vw", "6", "1")
    await back.share(device, led=7, temperature=30)
    until_told = [await raw.message(), await raw.message()]
    assert {each[5:] for each in until_told} == {b"vw\x005\x001", b"vw\x001\x0030.0"}
    pins = [
        message(HARDWARE, 2, "vw", "1", "30.0"),  # as the operator has set it
        message(HARDWARE, 2, "vw", "2", "a", "b"),
        message(HARDWARE, 2, "vw", "5", "1"),  # within its range
        message(HARDWARE, 2, "vw", "6", "1"),
    ]
    assert await raw.says(SYNC) == pins
    assert await raw.says(SYNC, "vr", "2", "5") == pins[1:3]
    assert await raw.says(SYNC, "vr", "99") == []
    assert await raw.says(SYNC, "vr", "none") == [response(2, 11)]
    await raw.close()


async def test_changed_attributes_of_other_names_are_no_pins(back: Backend, site: Site, device: Device) -> None:
    raw = await site.session(device)
    await back.share(device, other=1, state="on", led="no number")
    assert await raw.message() == message(HARDWARE, 1, "vw", "2", "on")
    assert await raw.says(PING) == [response(2, 200)]
    await raw.close()


@pytest.mark.parametrize(
    "texts", [("vw", "1", "warm"), ("vw", "9", "1"), ("vw", "-1", "1"), ("vw", "V1", "1"), ("vw", "1", "")]
)
async def test_a_wrong_write_is_told_and_the_session_stays(
    back: Backend, site: Site, device: Device, texts: tuple[str, ...]
) -> None:
    raw = await site.session(device)
    assert await raw.says(HARDWARE, *texts) == [response(2, 11)]
    assert await raw.says(HARDWARE, "vw", "1", "1") == []
    assert await back.latest(device) == {"temperature": 1.0}
    await raw.close()


async def test_writes_of_a_group_have_its_time(back: Backend, site: Site, device: Device) -> None:
    raw = await site.session(device)
    ts = int(NOW * 1000) - 60_000
    assert await raw.says(GROUP, "t", str(ts)) == []
    assert await raw.says(HARDWARE, "vw", "1", "1") == []
    assert await raw.says(GROUP, "e") == []
    assert await raw.says(GROUP, "t", "1") == []
    assert await raw.says(HARDWARE, "vw", "1", "1") == [response(2, 11)]
    assert await back.made.value("SELECT ts FROM telemetry_history WHERE device_id = $1", device.id) == ts
    await raw.close()


async def test_properties_and_events(back: Backend, site: Site, device: Device) -> None:
    raw = await site.session(device)
    assert await raw.says(PROPERTY, "1", "color", "#fff") == [response(2, 200)]
    assert await raw.says(PROPERTY, "1", "no property", "#fff") == [response(2, 11)]
    assert await client_attributes(back, device) == {"property.temperature.color": "#fff"}
    assert await raw.says(EVENT_LOG, "overheated", "very") == [response(2, 11)]
    await raw.close()


async def test_metadata(site: Site, device: Device) -> None:
    raw = await site.session(device)
    assert await raw.says(INTERNAL, "meta", "set", "Hotspot Name", "home") == [response(2, 200)]
    assert await raw.says(INTERNAL, "meta", "get", "Hotspot Name") == [
        message(INTERNAL, 2, "meta", "Hotspot Name", "home")
    ]
    assert await raw.says(INTERNAL, "meta", "get", "Room") == [message(INTERNAL, 2, "meta", "Room", "")]
    assert await raw.says(INTERNAL, "meta", "get", "none") == [response(2, 11)]
    assert await raw.says(INTERNAL, "meta", "set", "Device UID", "1") == [response(2, 11)]
    await raw.close()


async def test_the_time(site: Site, device: Device) -> None:
    raw = await site.session(device)
    await raw.says(INTERNAL, "meta", "set", "Time Zone", "Europe/Berlin")
    expected = {
        "time": ("1795323667250",),
        "iso": ("2026-11-22T06:01:07+01:00",),
        "tz": ("60", "0"),
        "tz_name": ("Europe/Berlin",),
        "tz_rule": ("CET-1CEST,M3.5.0,M10.5.0/3",),
    }
    for part, texts in expected.items():
        assert await raw.says(INTERNAL, "utc", part) == [message(INTERNAL, 2, "utc", part, *texts)]
    assert await raw.says(INTERNAL, "rtc", "sync") == [message(INTERNAL, 2, "rtc", "1795327267")]
    assert await raw.says(INTERNAL, "utc", "dst_next") == [response(2, 11)]
    await raw.close()


async def test_what_the_firmware_says_of_itself(back: Backend, site: Site, device: Device) -> None:
    raw = await site.session(device)
    template = await back.made.value("SELECT template_id FROM device_profile")
    facts = ("mcu", "1.2.3", "fw-type", "HEATER", "build", "today", "blynk", "1.3.2", "h-beat", "45")
    assert await raw.says(INTERNAL, *facts, "wei rd", "x", "tmpl", template) == [response(2, 200)]
    assert await client_attributes(back, device) == {
        "mcu.ver": "1.2.3",
        "mcu.fwType": "HEATER",
        "mcu.build": "today",
        "mcu.blynk": "1.3.2",
        "mcu.hBeat": "45",
        "mcu.tmpl": template,
    }
    assert await raw.says(INTERNAL, *facts, "tmpl", "TMPLother") == [response(2, 11)]
    await raw.close()


async def test_what_cannot_be_kept_now_is_told(back: Backend, device: Device) -> None:
    async with going_away(back.made) as (away, outage), serving(away) as site:
        site.listener.services.datastreams._data = away.data
        raw = await site.session(device)
        await raw.says(HARDWARE, "vw", "1", "1")
        await outage.begin()
        assert await raw.says(HARDWARE, "vw", "1", "2") == [response(2, 19)]
        await raw.close()


async def test_what_a_device_said_last_is_done(back: Backend, site: Site, device: Device) -> None:
    raw = await site.session(device)
    await raw.send(b"".join(message(HARDWARE, 2, "vw", "1", str(value)) for value in range(10)))
    raw.writer.write_eof()
    while await back.latest(device) != {"temperature": 9.0}:  # noqa: ASYNC110 - a state without an event
        await asyncio.sleep(0.001)
    await raw.close()


# Devices of WiFi sessions


@pytest.fixture(scope="module")
async def wifi(back: Backend) -> Wifi:
    made = back.made
    root = await made.value("SELECT id FROM organization WHERE parent_id IS NULL")
    return Wifi.of(await Estate.make(made.database, made.keys, root))


async def test_a_placeholder_becomes_a_device_on_its_connection(back: Backend, site: Site, wifi: Wifi) -> None:
    requested = await wifi.request()
    raw, answer = await site.login(requested.token)
    assert answer == response(1, 200)
    assert await raw.says(HARDWARE, "vw", "1", "1") == [response(2, 6)]
    assert await raw.says(INTERNAL, "ver", "1") == [response(2, 200)]
    template = await wifi.template()
    assert await raw.says(INTERNAL, "mcu", "1.2.3", "tmpl", template) == [response(2, 200)]
    assert (await wifi.shown(requested.session.id)).state is WifiState.SUCCESS
    assert await raw.says(INTERNAL, "meta", "set", "Hotspot Name", "home") == [response(2, 200)]
    live = back.sessions._live[requested.session.id.bytes]
    live.connection.reconfigure()
    assert (await raw.message())[5:] == b"dbg\0config start"
    newer, answer = await site.login(requested.token)
    assert answer == response(1, 200)
    assert await raw.rest() == b""
    await raw.close()
    await newer.close()


async def test_of_many_connections_of_a_placeholder_the_oldest_end(site: Site, wifi: Wifi) -> None:
    token = (await wifi.request()).token
    waiting = [(await site.login(token))[0] for _ in range(MAX_EACH + 2)]
    for raw in waiting[:2]:
        assert await raw.rest() == b""
    placeholders = site.listener.services.placeholders
    assert [len(each) for each in placeholders._waiting.values()] == [MAX_EACH]
    template = await wifi.template()
    assert await waiting[2].says(INTERNAL, "tmpl", template) == [response(2, 200)]
    assert [len(each) for each in placeholders._waiting.values()] == [MAX_EACH - 1]
    for raw in waiting:
        await raw.close()
    while placeholders._waiting:  # noqa: ASYNC110 - a state without an event
        await asyncio.sleep(0.001)


async def test_a_template_that_is_not_to_be_had_ends_it(site: Site, wifi: Wifi) -> None:
    requested = await wifi.request()
    raw, _ = await site.login(requested.token)
    await raw.send(message(INTERNAL, 2, "ver", "1", "tmpl", "TMPLnone"))
    assert await raw.rest() == response(2, 11)
    await raw.close()
    raw, answer = await site.login(requested.token)
    assert answer == response(1, 9)
    await raw.close()
    shown = await wifi.shown(requested.session.id)
    assert (shown.state, shown.last_error) == (WifiState.FAILED, "hw_info_tmpl_not_found")


async def test_a_session_that_is_over_is_told_as_such(site: Site, wifi: Wifi) -> None:
    requested = await wifi.request()
    raw, _ = await site.login(requested.token)
    await wifi.expire(requested.session.id)
    await raw.send(message(INTERNAL, 2, "ver", "1", "tmpl", await wifi.template()))
    assert await raw.rest() == response(2, 9)
    await raw.close()


async def test_a_placeholder_waits_for_postgres_elsewhere(back: Backend, wifi: Wifi) -> None:
    requested = await wifi.request()
    async with going_away(back.made) as (away, outage), serving(away, access=away.access) as site:
        site.listener.services.placeholders._database = away.data._database
        raw, answer = await site.login(requested.token)
        assert answer == response(1, 200)
        await outage.begin()
        await raw.send(message(INTERNAL, 2, "tmpl", "TMPLnone"))
        assert await raw.rest() == b""
        await raw.close()


# Reconfigure, and the end


async def test_a_device_is_told_to_open_its_access_point(back: Backend, site: Site, device: Device) -> None:
    raw = await site.session(device)
    live = back.sessions._live[device.id.bytes]
    live.connection.reconfigure()
    assert await raw.message() == message(INTERNAL, 1, "dbg", "config start")
    await raw.close()


async def test_it_drains(back: Backend, device: Device) -> None:
    async with serving(back) as site:
        raw = await site.session(device)
        silent = await site.connect()
        await until(lambda: site.listener.connections == 2)
        await site.listener.stop(30)
        assert await raw.rest() == b""
        assert await silent.rest() == b""
        await raw.close()
        await silent.close()
        with pytest.raises(ConnectionRefusedError):
            await site.connect()


async def client_attributes(back: Backend, device: Device) -> dict[str, object]:
    async with back.made.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT key, value FROM attribute WHERE device_id = $1 AND scope = 'CLIENT'", device.id
        )
    return dict(tuple(row) for row in rows)
