"""Devices that come back by MQTT and MQTTS, on real sockets and services, with unmodified clients."""

import asyncio
import json
import logging
import os
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID

import aiomqtt
import asyncpg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from provserver.core import pki
from provserver.core.authorization import OPERATOR, Principal
from provserver.core.model import Authenticated, Datastream, ProvisionStrategy
from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.datastreams import Datastreams
from provserver.services.enrollment import Enrollment
from provserver.services.limits import Limits, Rates
from provserver.services.placeholders import MAX_EACH, Placeholders
from provserver.services.profiles import ProfileChange, Profiles
from provserver.services.sessions import LiveSession, Sessions
from provserver.services.wifi_sessions import Wanted, WifiSessions
from provserver.store.database import Database
from provserver.transports.mqtt.listener import MqttListener
from provserver.transports.tls import ServerContext
from provserver.transports.tls_stream import over_tls
from tests.chains import FACTORY
from tests.conformance.test_sdk import SDK
from tests.transports.devices import Backend, Device, backend, going_away, until
from tests.transports.mqtt.sockets import PROTOCOLS, Find, Raw, run
from tests.transports.mqtt.wire import ALL, DISCONNECT, PINGREQ, PINGRESP, V5, V311, Wire

ME: Final = "v1/devices/me/"

each_version = pytest.mark.parametrize("wire", ALL, ids=str)
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture(scope="module")
async def back(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    async with backend(postgres, tmp_path_factory.mktemp("mqtt"), "mqtt_devices") as services:
        yield services


@dataclass
class Site:
    """A listener for devices, and where it is."""

    listener: MqttListener
    port: int

    async def connect(self) -> Raw:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        return Raw(reader, writer)

    async def session(self, wire: Wire, device: Device, **options: Any) -> Raw:
        """Connected and let in."""
        raw = await self.connect()
        await raw.send(wire.connect("client", device.token, **options))
        assert (await raw.packet())[3] == 0
        return raw

    def client(self, device: Device, protocol: str = "mqttv5", **options: Any) -> aiomqtt.Client:
        options = {"username": device.token} | options
        return aiomqtt.Client("127.0.0.1", self.port, protocol=PROTOCOLS[protocol], **options)


@asynccontextmanager
async def serving(back: Backend, **options: Any) -> AsyncIterator[Site]:
    listener = MqttListener(back.made.provisioning, **{"sweep_interval": 0.01, **back.services, **options})
    _, port = await listener.start("127.0.0.1", 0)
    try:
        yield Site(listener, port)
    finally:
        await listener.stop(0)


@pytest.fixture
async def site(back: Backend, nothing_hangs: None) -> AsyncIterator[Site]:  # noqa: ARG001
    async with asyncio.timeout(60), serving(back) as served:
        yield served


Named = Callable[[], Awaitable[Device]]


@pytest.fixture
def device(back: Backend, request: pytest.FixtureRequest) -> Named:
    """Provisions a device of the test's own."""
    return lambda: back.device(request.node.name)


async def eventually(get: Callable[[], Awaitable[object]], expected: object) -> None:
    while await get() != expected:  # noqa: ASYNC110 - a state without an event
        await asyncio.sleep(0.001)


def puback(wire: Wire, packet_id: int = 1, code: int = 0) -> bytes:
    if code and wire.v5:
        return bytes((0x40, 3, 0, packet_id, code))
    return bytes((0x40, 2, 0, packet_id))


# Authentication


@each_protocol
@pytest.mark.parametrize("qos", ["0", "1", "2"])
async def test_mosquitto_pub(back: Backend, site: Site, device: Named, tool: Find, protocol: str, qos: str) -> None:
    made = await device()
    where = ("-p", str(site.port), "-V", protocol, "-u", made.token, "-P", "anything", "-q", qos)
    code, _, err = await run(tool("mosquitto_pub"), *where, "-t", ME + "telemetry", "-m", '{"t": 21.5}')
    if (protocol, qos) == ("mqttv5", "2"):
        assert b"QoS not supported" in err
        return
    assert (code, err) == (0, b"")
    await eventually(lambda: back.latest(made), {"t": 21.5})


async def test_blynk_user(back: Backend, site: Site, device: Named) -> None:
    made = await device()
    async with site.client(made, username="device", password=made.token) as client:
        await client.publish("v2/t", '{"t":1}', qos=1)
    assert await back.latest(made) == {"t": 1}


@each_version
@pytest.mark.parametrize(
    ("stored", "presented", "let_in"),
    [
        ({"username": "%u"}, ("any", "%u", None), True),
        ({"username": "%u", "password": "pw"}, ("any", "%u", b"pw"), True),
        ({"username": "%u", "password": "pw"}, ("any", "%u", b"no"), False),
        ({"clientId": "%c"}, ("%c", None, None), True),
        ({"clientId": "%c"}, ("no", None, None), False),
        ({"clientId": "%c", "username": "%u", "password": "pw"}, ("%c", "%u", b"pw"), True),
        ({"clientId": "%c", "username": "%u", "password": "pw"}, ("no", "%u", b"pw"), False),
    ],
)
async def test_mqtt_basic(
    back: Backend,
    site: Site,
    request: pytest.FixtureRequest,
    wire: Wire,
    stored: dict[str, str],
    presented: tuple[str, str | None, bytes | None],
    let_in: bool,
) -> None:
    name = request.node.name
    names = {"%c": name + "-client", "%u": name + "-user"}
    members = {member: names.get(value, value) for member, value in stored.items()}
    await back.device(name, credentialsType="MQTT_BASIC", **members)
    client_id, username, password = presented
    raw = await site.connect()
    await raw.send(wire.connect(names.get(client_id, client_id), names.get(username or "", username), password))
    assert ((await raw.packet())[3] == 0) is let_in
    await raw.close()


@each_version
@pytest.mark.parametrize(
    ("connect", "code", "reason_code"),
    [
        (("client", "wrong"), 5, 0x86),
        (("client", "wrong", b"password"), 5, 0x86),
        (("client", "device", b"wrong"), 5, 0x86),
        (("client", None), 2, 0x85),
        (("", None), 5, 0x87),
    ],
)
async def test_refused(site: Site, wire: Wire, connect: tuple[Any, ...], code: int, reason_code: int) -> None:
    raw = await site.connect()
    await raw.send(wire.connect(*connect))
    answer = bytes((0x20, 3, 0, reason_code, 0)) if wire.v5 else bytes((0x20, 2, 0, code))
    if wire.level == 3 and connect == ("", None):
        answer = b"\x20\x02\0\x02"  # 3.1 knows no client without an id
    assert await raw.rest() == answer
    await raw.close()


@each_protocol
async def test_mosquitto_reads_why(site: Site, tool: Find, protocol: str) -> None:
    """The code arrives, although the client has said more by then."""
    where = ("-p", str(site.port), "-V", protocol, "-u", "wrong", "-q", "1")
    code, _, err = await run(tool("mosquitto_pub"), *where, "-t", "v2/t", "-m", "{}")
    assert code == (134 if protocol == "mqttv5" else 5)
    assert b"not authorised" in err.lower() or b"bad user name" in err.lower()


@each_version
async def test_what_came_behind_the_connect_is_done(back: Backend, site: Site, device: Named, wire: Wire) -> None:
    """A device that says all it has to say at once, and leaves."""
    made = await device()
    raw = await site.connect()
    publish = [wire.publish(b'{"t":%d}' % number, "v2/t") for number in range(20)]
    await raw.send(wire.connect("client", made.token) + b"".join(publish) + DISCONNECT)
    raw.writer.write_eof()
    assert (await raw.packet())[:1] == b"\x20"
    assert await raw.rest() == b""
    await raw.close()
    await eventually(lambda: back.latest(made), {"t": 19})


async def test_provisioned_then_back(back: Backend, site: Site, request: pytest.FixtureRequest) -> None:
    pair = back.made.pair
    asked = {
        "deviceName": request.node.name,
        "provisionDeviceKey": pair.key,
        "provisionDeviceSecret": pair.secret,
    }
    async with aiomqtt.Client("127.0.0.1", site.port, username="provision") as client:
        await client.subscribe("/provision/response")
        await client.publish("/provision/request", json.dumps(asked))
        reply = json.loads(str((await anext(client.messages)).payload, "utf-8"))
    made = Device(UUID(reply["deviceId"]), reply["credentialsValue"])
    async with site.client(made) as client:
        await client.publish("v2/t", '{"back":true}', qos=1)
    assert await back.latest(made) == {"back": True}


# Data


@each_protocol
@pytest.mark.parametrize("qos", [0, 1])
async def test_aiomqtt(back: Backend, site: Site, device: Named, protocol: str, qos: int) -> None:
    made = await device()
    await back.share(made, interval=5)
    async with site.client(made, protocol) as client:
        await client.subscribe(ME + "attributes", qos=qos)
        await client.subscribe(ME + "attributes/response/+", qos=qos)
        for number in range(30):
            await client.publish(ME + "telemetry", f'{{"n":{number}}}', qos=qos, retain=not number % 2)
        await client.publish(ME + "attributes", '{"fw":"1.0","plan":{"a":[1]}}', qos=qos)
        await client.publish(ME + "claim", '{"secretKey":"s","durationMs":1000}', qos=qos)
        await client.publish(ME + "attributes/request/1", '{"clientKeys":"fw","sharedKeys":"interval,x"}', qos=qos)
        reply = await anext(client.messages)
        assert (str(reply.topic), reply.qos) == (ME + "attributes/response/1", qos)
        assert json.loads(reply.payload) == {"client": {"fw": "1.0"}, "shared": {"interval": 5}}
        await back.share(made, interval=6)
        update = await anext(client.messages)
        assert (str(update.topic), json.loads(update.payload)) == (ME + "attributes", {"interval": 6})
        await back.share(made, interval=None)
        assert json.loads((await anext(client.messages)).payload) == {"deleted": ["interval"]}
    # Nothing acknowledges what is sent at QoS 0.
    while await back.latest(made) != {"n": 29}:  # noqa: ASYNC110 - the database
        await asyncio.sleep(0.01)
    claims = "SELECT count(*) FROM claim WHERE device_id = $1"
    while await back.made.value(claims, made.id) != 1:  # noqa: ASYNC110 - the database
        await asyncio.sleep(0.01)


@each_protocol
@pytest.mark.parametrize("short", [False, True])
async def test_mosquitto_rr(back: Backend, site: Site, device: Named, tool: Find, protocol: str, short: bool) -> None:
    made = await device()
    await back.share(made, a=1)
    topics = ("v2/a/req/3", "v2/a/res/3") if short else (ME + "attributes/request/3", ME + "attributes/response/3")
    where = ("-p", str(site.port), "-V", protocol, "-u", made.token, "-W", "30")
    code, out, err = await run(tool("mosquitto_rr"), *where, "-t", topics[0], "-e", topics[1], "-m", "{}")
    assert (code, json.loads(out), err) == (0, {"shared": {"a": 1}}, b"")


@each_protocol
async def test_mosquitto_sub(back: Backend, site: Site, device: Named, tool: Find, protocol: str) -> None:
    made = await device()
    where = ("-p", str(site.port), "-V", protocol, "-u", made.token, "-q", "1", "-C", "1", "-W", "30")
    waiting = asyncio.create_task(run(tool("mosquitto_sub"), *where, "-t", ME + "attributes"))
    await until(lambda: any(each._device and each._device.awaits_updates for each in site.listener._connections))
    await back.share(made, led="on")
    assert await waiting == (0, b'{"led":"on"}\n', b"")


@each_version
@pytest.mark.parametrize("qos", [0, 1])
async def test_bad_payload(site: Site, device: Named, wire: Wire, qos: int) -> None:
    raw = await site.session(wire, await device())
    await raw.send(wire.publish(b"no json", "v2/t", qos) + PINGREQ)
    if wire.v5 and qos:
        answer = await raw.packet() + await raw.packet()  # which comes first is open
        assert answer in (PINGRESP + b"\x40\x03\0\x01\x99", b"\x40\x03\0\x01\x99" + PINGRESP)
    else:
        assert (await raw.rest()).removeprefix(PINGRESP) == (b"\xe0\x01\x99" if wire.v5 else b"")
    await raw.close()


async def test_what_one_device_sends_does_not_overtake(site: Site, device: Named) -> None:
    """An attribute that was published is in the reply to the request behind it."""
    raw = await site.session(V311, await device())
    for number in range(50):
        body = b'{"n":%d}' % number
        await raw.send(V311.publish(body, "v2/a") + V311.publish(b"{}", f"v2/a/req/{number}"))
    for number in range(50):
        reply = await raw.packet()
        assert reply == V311.publish(b'{"client":{"n":%d}}' % number, f"v2/a/res/{number}", 1, number + 1)
    await raw.close()


async def blynk_device(back: Backend, name: str) -> Device:
    profiles = Profiles(back.made.database, back.made.keys, await back.made.value("SELECT id FROM organization"))
    change = ProfileChange(
        name=name,
        strategy=ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES,
        datastreams=(Datastream("temperature", "V1", "double", 0, 50), Datastream("state", "V2", "string")),
    )
    _, pair = await profiles.create(change)
    return await back.device(name, provisionDeviceKey=pair.key, provisionDeviceSecret=pair.secret)


@each_protocol
async def test_blynk_topics(back: Backend, request: pytest.FixtureRequest, protocol: str) -> None:
    made = await blynk_device(back, request.node.name)
    streams = Datastreams(back.made.database, back.data)
    async with (
        serving(back, datastreams=streams) as site,
        site.client(made, protocol, username="device", password=made.token) as client,
    ):
        await client.subscribe("downlink/#", qos=0)
        info = '{"tmpl":"TMPL","ver":"1.0","build":"today","type":"TMPL","rxbuff":1024}'
        await client.publish("info/mcu", info, qos=1, retain=True)
        await client.publish("ds/temperature", "21.5", qos=1)
        await client.publish("batch_ds", '{"state":"on"}')
        await client.publish("get/ds", "temperature,state")
        replies = [await anext(client.messages) for _ in range(2)]
        assert [(str(each.topic), each.payload) for each in replies] == [
            ("downlink/ds/temperature", b"21.5"),
            ("downlink/ds/state", b"on"),
        ]
        await client.publish("ds/temperature", "warm", qos=1 if protocol != "mqttv5" else 0)
        told = await anext(client.messages)
        assert str(told.topic) == "downlink/diag"
    assert await back.latest(made) == {"temperature": 21.5, "state": "on"}


PROGRAM: Final = """
import sys, time
from tb_device_mqtt import TBDeviceMqttClient
port, token = sys.argv[1:]
client = TBDeviceMqttClient("127.0.0.1", int(port), token)
client.connect()
print(client.send_telemetry({"t": 1}).get(), flush=True)
print(client.send_attributes({"fw": "1.0"}).get(), flush=True)
answers = []
client.request_attributes(["fw"], ["interval"], callback=lambda body, _: answers.append(body))
client.subscribe_to_all_attributes(lambda body, _: answers.append(body))
sent = [client.send_telemetry({"n": number}) for number in range(100)]
assert not any(each.get() for each in sent)
while not answers or not client.rate_limits_received:
    time.sleep(0.01)
print(answers[0], flush=True)
while len(answers) < 2:
    time.sleep(0.01)
print(answers[1], flush=True)
client.disconnect()
client.stop()
"""


async def test_thingsboards_own_sdk(back: Backend, site: Site, device: Named) -> None:
    if not SDK.exists():
        message = "the SDK is not installed: make sdk"
        pytest.fail(message) if os.environ.get("PROVSERVER_TEST_REQUIRE_TOOLS") else pytest.skip(message)
    made = await device()
    await back.share(made, interval=5)
    process = await asyncio.create_subprocess_exec(
        SDK, "-c", PROGRAM, str(site.port), made.token, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        lines = [await process.stdout.readline() for _ in range(3)]
        assert lines == [b"0\n", b"0\n", b"{'client': {'fw': '1.0'}, 'shared': {'interval': 5}}\n"]
        await back.share(made, interval=7)
        assert await process.stdout.readline() == b"{'interval': 7}\n"
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert await back.latest(made) == {"t": 1, "n": 99}


# Live sessions


@each_version
async def test_the_newer_session_wins(site: Site, device: Named, wire: Wire) -> None:
    made = await device()
    old = await site.session(wire, made)
    new = await site.session(wire, made)
    assert await old.rest() == (b"\xe0\x01\x8e" if wire.v5 else b"")
    await old.close()
    await new.send(wire.publish(b'{"t":1}', "v2/t", 1))
    assert await new.packet() == puback(wire)
    await new.close()


@asynccontextmanager
async def elsewhere(back: Backend) -> AsyncIterator[Site]:
    """Another process on the same database."""
    database = Database(back.made.url, size=2, serving=True)
    await database.open()
    sessions = Sessions(database)
    await sessions.start()
    async with serving(back, sessions=sessions) as site:
        yield site
    await sessions.stop()
    await database.close()


@each_version
async def test_the_newer_session_wins_across_processes(back: Backend, site: Site, device: Named, wire: Wire) -> None:
    made = await device()
    async with elsewhere(back) as other:
        raw = await site.session(wire, made)
        for number in range(6):
            newer = await (other, site)[number % 2].session(wire, made)
            assert await raw.rest() == (b"\xe0\x01\x8e" if wire.v5 else b"")
            await raw.close()
            raw = newer
        await raw.send(PINGREQ)
        assert await raw.packet() == PINGRESP
        await raw.close()


async def test_of_many_at_once_one_is_left(back: Backend, site: Site, device: Named) -> None:
    made = await device()
    async with elsewhere(back) as other:
        raws = [await (site, other)[number % 2].connect() for number in range(20)]
        for raw in raws:
            await raw.send(V311.connect("client", made.token))
        ended = [asyncio.create_task(raw.rest()) for raw in raws]
        await until(lambda: sum(not each.done() for each in ended) == 1)
        assert {each.result() for each in ended if each.done()} == {b"\x20\x02\0\0"}
        for raw in raws:
            await raw.close()
        await asyncio.gather(*ended, return_exceptions=True)


@each_version
async def test_a_revoked_device_is_cut(back: Backend, site: Site, device: Named, wire: Wire) -> None:
    made = await device()
    raw = await site.session(wire, made)
    await back.revoke(made)
    assert await raw.rest() == (b"\xe0\x01\x98" if wire.v5 else b"")
    await raw.close()
    raw = await site.connect()
    await raw.send(wire.connect("client", made.token))
    assert await raw.rest() == (b"\x20\x03\0\x86\0" if wire.v5 else b"\x20\x02\0\x05")
    await raw.close()


@asynccontextmanager
async def blocked(back: Backend, tables: str = "telemetry") -> AsyncIterator[None]:
    """No telemetry is written before the end of the block, or nothing of other tables."""
    connection = await asyncpg.connect(back.made.url)
    await connection.execute(f"BEGIN; LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
    yield
    await connection.execute("ROLLBACK")
    await connection.close()


def queued(site: Site) -> list[int]:
    connections: set[Any] = {*site.listener._connections}
    return [len(each._waiting) for each in connections if each._waiting is not None]


async def test_what_was_not_begun_ends_with_its_session(back: Backend, site: Site, device: Named) -> None:
    """It was not acknowledged: the newer session sends it again."""
    made = await device()
    old = await site.session(V5, made)
    async with blocked(back):
        await old.send(b"".join(V5.publish(b'{"t":%d}' % n, "v2/t", 1, n) for n in range(1, 5)))
        await until(lambda: queued(site) == [3])
        new = await site.session(V5, made)
        assert await old.rest() == b"\xe0\x01\x8e"
        assert queued(site) == [0]
    await new.send(V5.publish(b'{"t":1}', "v2/t", 1))
    assert await new.packet() == puback(V5)
    assert await back.latest(made) == {"t": 1}
    for raw in (old, new):
        await raw.close()


@pytest.mark.parametrize("ending", ["disconnect", "close", "reset", "error"])
async def test_presence(back: Backend, site: Site, device: Named, ending: str) -> None:
    made = await device()

    async def online() -> object:
        return await back.made.value("SELECT session_id IS NOT NULL FROM presence WHERE device_id = $1", made.id)

    raw = await site.session(V5, made)
    assert await online()
    match ending:
        case "disconnect":
            await raw.send(DISCONNECT)
        case "error":
            await raw.send(b"\xf0\0")
        case "reset":
            raw.reset()
        case "close":
            await raw.close()
    await eventually(online, False)
    await raw.close()


class Slow(Sessions):
    """Lets no session in before the gate is open."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.opened: list[LiveSession] = []

    async def _open(self, sessions: Sequence[LiveSession]) -> list[bool | Exception]:
        self.asked.set()
        await self.gate.wait()
        self.opened += sessions
        return await super()._open(sessions)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


async def test_a_client_that_does_not_wait_leaves_no_session(back: Backend, device: Named) -> None:
    made = await device()
    async with Slow(back.made.database) as slow, serving(back, sessions=slow) as site:
        raw = await site.connect()
        await raw.send(V311.connect("client", made.token))
        await slow.asked.wait()
        for connection in tuple(site.listener._connections):
            connection.abort()  # as a reset does, which a socket that is not read may not notice
        await raw.close()
        slow.gate.set()
        await until(lambda: bool(slow.opened) and slow.opened[0].closed)


@pytest.mark.parametrize("used", [False, True])
async def test_revoked_while_it_was_let_in(back: Backend, site: Site, device: Named, used: bool) -> None:
    made = await device()
    if used:
        await (await site.session(V5, made)).close()
    async with Slow(back.made.database) as slow, serving(back, sessions=slow) as slowly:
        raw = await slowly.connect()
        await raw.send(V5.connect("client", made.token))
        await slow.asked.wait()
        await back.revoke(made)
        slow.gate.set()
        assert await raw.packet() == b"\x20\x03\0\x86\0"
        assert await raw.rest() == b""
        await raw.close()


class Gated(Data):
    """Reads shared attributes only while the gate is open."""

    def __init__(self, inner: Data) -> None:
        self.inner = inner
        self.gate = asyncio.Event()
        self.asked: list[Any] = []

    async def changed_attributes(self, device_id: UUID, keys: Any) -> dict[str, object]:
        self.asked.append(keys)
        await self.gate.wait()
        return await self.inner.changed_attributes(device_id, keys)


@pytest.mark.parametrize("any_", [False, True])
async def test_changes_are_gathered_while_others_are_read(back: Backend, device: Named, any_: bool) -> None:
    made = await device()
    gated = Gated(back.data)
    async with serving(back, data=gated) as site:
        raw = await site.session(V311, made)
        await raw.send(V311.subscribe(("v2/a", 0)))
        await raw.packet()
        connection: Any = next(iter(site.listener._connections))
        await back.share(made, a=1)
        await until(lambda: gated.asked == [("a",)])
        await back.share(made, a=2, b=3)
        await back.share(made, c=4)
        await until(
            lambda: connection._changed is not None and {"c"} <= {key for each in connection._changed for key in each}
        )
        if any_:
            connection.attributes_changed(())
        gated.gate.set()
        assert await raw.packet() == V311.publish(b'{"a":2}', "v2/a")
        assert await raw.packet() == V311.publish(b'{"a":2,"b":3,"c":4}', "v2/a")
        assert [set(keys) for keys in gated.asked] == [{"a"}, set() if any_ else {"a", "b", "c"}]
        await raw.close()


# When the database is away


@each_version
async def test_away(back: Backend, wire: Wire, device: Named) -> None:
    """Nobody hears of bad credentials, and what was sent at QoS 1 is not acknowledged but asked for again."""
    made = await device()
    async with going_away(back.made) as (services, outage), serving(services) as site:
        publish = wire.publish(b'{"t":1}', "v2/t", 1)
        raw = await site.session(wire, made)
        silent = await site.session(wire, await back.device(f"{made.id}-silent"))
        await outage.begin()
        await silent.send(wire.publish(b'{"t":1}', "v2/t"))
        await raw.send(publish)
        assert await raw.rest() == (b"\xe0\x01\x89" if wire.v5 else b"")
        await raw.close()
        raw = await site.connect()
        await raw.send(wire.connect("client", made.token))
        assert await raw.rest() == (b"\x20\x03\0\x88\0" if wire.v5 else b"\x20\x02\0\x03")
        await raw.close()
        outage.end()
        raw = await site.session(wire, made)
        await raw.send(publish)
        assert await raw.packet() == puback(wire)
        await raw.close()
        await silent.send(PINGREQ)
        assert await silent.packet() == PINGRESP
        await silent.close()
    assert await back.latest(made) == {"t": 1}


@each_version
@pytest.mark.parametrize("topic", ["v2/t", "v2/a", "v1/devices/me/attributes/request/1"])
async def test_a_slow_database(back: Backend, wire: Wire, device: Named, topic: str) -> None:
    """After the limit nothing is acknowledged that is not known to be kept: at QoS 1 the device has to come again."""
    made = await device()
    data = Data(back.made.database, back.made.keys, wait_limit=0.05)
    async with serving(back, data=data) as site:
        raw = await site.session(wire, made)
        silent = await site.session(wire, await back.device(f"{made.id}-silent"))
        async with blocked(back, "telemetry, attribute"):
            await silent.send(wire.publish(b"{}", topic))
            await raw.send(wire.publish(b'{"t":1}', topic, 1))
            assert await raw.rest() == (b"\xe0\x01\x89" if wire.v5 else b"")
            await until(lambda: queued(site) == [])
        await raw.close()
        await silent.send(PINGREQ)
        assert await silent.packet() == PINGRESP
        await silent.close()
        await data.drain()


class Failing(Data):
    """Cannot do anything, and says what it must not be quoted with."""

    def __init__(self) -> None:
        pass

    async def telemetry(self, device: Authenticated, payload: bytes) -> None:  # noqa: ARG002
        raise LookupError(payload)

    async def changed_attributes(self, device_id: UUID, keys: Any) -> dict[str, object]:
        raise LookupError(device_id, keys)


@each_version
async def test_data_that_fails(back: Backend, device: Named, caplog: pytest.LogCaptureFixture, wire: Wire) -> None:
    async with serving(back, data=Failing()) as site:
        raw = await site.session(wire, await device())
        await raw.send(wire.publish(b"secret", "v2/t", 1))
        assert await raw.rest() == (b"\xe0\x01\x83" if wire.v5 else b"")
        await raw.close()
    (record,) = [each for each in caplog.records if each.name == "provserver.mqtt" and each.levelno > logging.DEBUG]
    assert "LookupError" in record.getMessage()
    assert "secret" not in record.getMessage()


async def test_an_update_that_fails_ends_the_session(back: Backend, device: Named) -> None:
    """So that the device asks for its attributes when it comes back."""
    made = await device()
    async with serving(back, data=Failing()) as site:
        raw = await site.session(V5, made)
        await raw.send(V5.subscribe(("v2/a", 1)))
        await raw.packet()
        await back.share(made, a=1)
        assert await raw.rest() == b"\xe0\x01\x89"
        await raw.close()


# The server's end


@each_version
async def test_stop_finishes_what_was_begun(back: Backend, device: Named, wire: Wire) -> None:
    made = await device()
    async with serving(back) as site:
        raw = await site.session(wire, made)
        async with blocked(back):
            await raw.send(b"".join(wire.publish(b'{"t":%d}' % n, "v2/t", 1, n) for n in range(1, 6)))
            await until(lambda: queued(site) == [4])
            stopping = asyncio.create_task(site.listener.stop(30))
        farewell = b"\xe0\x01\x8b" if wire.v5 else b""
        assert await raw.rest() == b"".join(puback(wire, n) for n in range(1, 6)) + farewell
        await raw.close()
        await stopping
    assert await back.latest(made) == {"t": 5}


# TLS


@dataclass
class Secured:
    """A listener over TLS, and what its clients need."""

    site: Site
    directory: Path
    authority: pki.Authority

    @property
    def authority_file(self) -> str:
        return str(self.directory / "ca.pem")

    def certificate(self, name: str) -> tuple[str, str, str]:
        """A device's self-signed certificate: the text of its PEM, and the files of it and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = pki.make_authority(name, key, 7, datetime.now(UTC)).certificate
        return write(self.directory, name, certificate, key)


def write(directory: Path, name: str, certificate: Any, key: ec.EllipticCurvePrivateKey) -> tuple[str, str, str]:
    text = certificate.public_bytes(serialization.Encoding.PEM).decode()
    files = (directory / f"{name}.pem", directory / f"{name}.key")
    files[0].write_text(text)
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return text, str(files[0]), str(files[1])


@pytest.fixture
async def secured(back: Backend, tmp_path: Path, nothing_hangs: None) -> AsyncIterator[Secured]:  # noqa: ARG001
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    authority = pki.make_authority("test", key, 1, now)
    write(tmp_path, "ca", authority.certificate, key)
    server_key = ec.generate_private_key(ec.SECP256R1())
    server = pki.issue_server(authority, server_key, ["localhost", "127.0.0.1"], 2, now)
    write(tmp_path, "server", server, server_key)
    context = ServerContext(tmp_path / "server.pem", tmp_path / "server.key")
    loop = asyncio.get_running_loop()
    listener = MqttListener(back.made.provisioning, sweep_interval=0.01, **back.services)
    _, port = await listener.start(
        "127.0.0.1",
        0,
        wrap=lambda make: over_tls(context, make, loop, shared_key=back.access.shared_key),
    )
    async with asyncio.timeout(60):
        yield Secured(Site(listener, port), tmp_path, authority)
        await listener.stop(0)


@each_protocol
@pytest.mark.parametrize("proof", ["token", "certificate", "psk"])
async def test_mosquitto_pub_over_tls(
    back: Backend, secured: Secured, tool: Find, request: pytest.FixtureRequest, protocol: str, proof: str
) -> None:
    name = request.node.name
    where = ["-h", "127.0.0.1", "-p", str(secured.site.port), "-V", protocol, "-q", "1", "-t", "v2/t", "-m", '{"t":1}']
    if proof == "certificate":
        text, certificate, key = secured.certificate("device")
        made = await back.device(name, credentialsType="X509_CERTIFICATE", hash=text)
        where += ["--cafile", secured.authority_file, "--cert", certificate, "--key", key]
    elif proof == "psk":
        made = await back.device(name)
        where += ["--psk", made.token.encode().hex(), "--psk-identity", str(made.id), "--tls-version", "tlsv1.2"]
    else:
        made = await back.device(name)
        where += ["--cafile", secured.authority_file, "-u", made.token]
    code, _, err = await run(tool("mosquitto_pub"), *where)
    assert (code, err) == (0, b"")
    assert await back.latest(made) == {"t": 1}


@each_protocol
async def test_a_certificate_that_is_not_known(secured: Secured, tool: Find, protocol: str) -> None:
    """Even with a password: what the channel proves counts, and the client reads the code."""
    _, certificate, key = secured.certificate("stranger")
    where = ["-p", str(secured.site.port), "-V", protocol, "--cafile", secured.authority_file]
    where += ["--cert", certificate, "--key", key, "-u", "user", "-q", "1", "-t", "v2/t", "-m", "{}"]
    code, _, _ = await run(tool("mosquitto_pub"), *where)
    assert code == (135 if protocol == "mqttv5" else 5)


async def test_provisioning_over_tls_with_a_certificate(
    back: Backend, secured: Secured, request: pytest.FixtureRequest
) -> None:
    """The user name decides before the certificate does (spec §1.1)."""
    text, certificate, key = secured.certificate("device")
    tls = ssl.create_default_context(cafile=secured.authority_file)
    tls.load_cert_chain(certificate, key)
    asked = {
        "deviceName": request.node.name,
        "provisionDeviceKey": back.made.pair.key,
        "provisionDeviceSecret": back.made.pair.secret,
        "credentialsType": "X509_CERTIFICATE",
        "hash": text,
    }
    port = secured.site.port
    async with aiomqtt.Client("127.0.0.1", port, username="provision", tls_context=tls) as client:
        await client.subscribe("/provision/response")
        await client.publish("/provision/request", json.dumps(asked))
        reply = json.loads((await anext(client.messages)).payload)
        assert reply["status"] == "SUCCESS"
    async with aiomqtt.Client("127.0.0.1", port, tls_context=tls, protocol=PROTOCOLS["mqttv5"]) as client:
        await client.publish("v2/t", '{"t":2}', qos=1)
    assert await back.latest(Device(UUID(reply["deviceId"]), "")) == {"t": 2}


@each_version
async def test_of_many_connections_of_a_placeholder_the_oldest_end(back: Backend, wire: Wire) -> None:
    made = back.made
    root = await made.value("SELECT id FROM organization WHERE parent_id IS NULL")
    requested = await WifiSessions(made.database, made.keys).request(Principal(OPERATOR, root), Wanted())
    device = Device(requested.session.device_id, requested.token)
    datastreams = Datastreams(made.database, back.data)
    placeholders = Placeholders(made.database, made.keys, back.access, datastreams)
    template = await made.value("SELECT template_id FROM device_profile WHERE organization_id = $1 LIMIT 1", root)
    async with serving(back, datastreams=datastreams, placeholders=placeholders) as site:
        waiting = [await site.session(wire, device) for _ in range(MAX_EACH + 2)]
        for raw in waiting[:2]:
            assert await raw.rest() == (b"\xe0\x01\x8e" if wire.v5 else b"")
        assert [len(each) for each in placeholders._waiting.values()] == [MAX_EACH]
        await waiting[2].send(wire.publish(json.dumps({"tmpl": template}).encode(), "info/mcu", qos=1))
        assert (await waiting[2].packet())[0] == 0x40
        assert [len(each) for each in placeholders._waiting.values()] == [MAX_EACH - 1]
        for raw in waiting:
            await raw.close()
        await until(lambda: not placeholders._waiting)


async def test_a_revocation_list_ends_the_session_of_whom_it_names(back: Backend, secured: Secured) -> None:
    made, listener = back.made, secured.site.listener
    organization = await made.value("SELECT id FROM organization")
    profiles = Profiles(made.database, made.keys, organization)
    chain = ProfileChange(name="chain", strategy=ProvisionStrategy.X509_CERTIFICATE_CHAIN, authorities=[FACTORY.der])
    await profiles.create_keyless(chain)
    enrollment = Enrollment(made.database, made.keys)
    assert listener.services is not None
    access = Access(made.database, made.keys, enrollment)
    listener.services = replace(listener.services, access=access)
    issued = [FACTORY.leaf("revoked"), FACTORY.leaf("kept")]
    raws = []
    for each in issued:
        tls = ssl.create_default_context(cafile=secured.authority_file)
        tls.load_cert_chain(*each.write(secured.directory, each.der.hex()[-8:]))
        raw = Raw(*await asyncio.open_connection("127.0.0.1", secured.site.port, ssl=tls))
        await raw.send(V5.connect("client", None))
        assert (await raw.packet())[3] == 0
        raws.append(raw)
    revoked, kept = raws

    await profiles.update("chain", ProfileChange(crls=[FACTORY.crl(issued[0])]))

    assert await revoked.rest() == b"\xe0\x01\x98"
    await kept.send(PINGREQ)
    assert await kept.packet() == PINGRESP
    for raw in raws:
        await raw.close()
    await access.drain()
    await enrollment.drain()


async def test_a_right_token_among_guesses_of_one_moment_is_not_told(back: Backend, site: Site, device: Named) -> None:
    made = await device()
    await (await site.session(V5, made)).close()  # from now on it takes neither a look-up nor a task
    limits = Limits(Rates(guess_limit=5, guess_interval=60.0, locked_interval=60.0))
    assert site.listener.services is not None
    access = Access(back.made.database, back.made.keys, limits=limits)
    site.listener.services = replace(site.listener.services, access=access)
    raws = [await site.connect() for _ in range(100)]
    for n, raw in enumerate(raws):
        await raw.send(V5.connect("client", f"guess {n}" if n < 99 else made.token))
    told = Counter([(await raw.packet())[3] for raw in raws])

    assert told[0] == 0
    assert told[0x86] <= 5 + 1
    assert told[0x86] + told[0x9F] == 100
    for raw in raws:
        await raw.close()
    await access.drain()


async def test_stop_does_not_wait_for_handshakes(secured: Secured) -> None:
    raw = await secured.site.connect()
    await raw.send(b"\x16\x03\x01\x02\0\x01")  # the beginning of a ClientHello
    (acceptor,) = [each.__self__ for each in secured.site.listener._abort_handshakes]  # type: ignore[attr-defined]
    await until(lambda: acceptor.handshakes == 1)
    await secured.site.listener.stop(30)
    with pytest.raises(ConnectionResetError):
        await raw.rest()
    await raw.close()


async def test_stop_over_tls(back: Backend, secured: Secured, request: pytest.FixtureRequest) -> None:
    made = await back.device(request.node.name)
    tls = ssl.create_default_context(cafile=secured.authority_file)
    raw = Raw(*await asyncio.open_connection("127.0.0.1", secured.site.port, ssl=tls))
    await raw.send(V5.connect("client", made.token))
    assert (await raw.packet())[3] == 0
    stopping = asyncio.create_task(secured.site.listener.stop(30))
    assert await raw.rest() == b"\xe0\x01\x8b"
    await raw.close()
    await stopping
