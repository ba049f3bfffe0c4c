"""A manufacturer in the middle of its work: whatever there is a page for, made by the API and by devices."""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
from aiohttp import web
from playwright._impl._api_structures import SetCookieParam

from provserver.core import ids
from tests.adapters.conftest import Endpoint, serving
from tests.server import Server
from tests.support.mosquitto import Broker
from tests.support.particle import PRODUCT, TOKEN, Particle
from tests.support.things_stack import ThingsStack
from tests.test_lorawan import becomes, decoder
from tests.test_story import PASSWORD, Person, browser

MAKER = "maya@northwind.example"
STAFF = "otto@northwind.example"
CUSTOMER = "carla@bluefarm.example"
RIVAL = "rita@elsewhere.example"
NEWCOMER = "nils@fresh.example"

DEVICES = 200
TOKENS = 60

GROWING = 240.0
"""Seconds after which something has gone wrong."""

ROOMS = ("boiler", "roof", "cellar", "lobby", "kitchen", "server room", "stairs", "garage", "lab", "store")

FIELDS = [
    {"name": "Serial Number", "unique": True},
    {"name": "MAC address", "type": "mac", "unique": True},
    {"name": "Hardware", "type": "list", "options": ["rev A", "rev B"], "default": "rev B"},
]
STREAMS = [
    {"name": "Temperature", "pin": "V1", "type": "double", "minimum": -40, "maximum": 85},
    {"name": "Humidity", "pin": "V2", "type": "double", "minimum": 0, "maximum": 100},
]


class Receiver(Endpoint):
    """Takes whatever a webhook tells."""

    async def handle(self, request: web.Request) -> web.Response:
        await request.read()
        return web.Response()


@dataclass
class World:
    """members: who asks the API, by e-mail. cookies: of their sessions. ids: what things are called in paths."""

    server: Server
    members: dict[str, Person] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    organizations: dict[str, Any] = field(default_factory=dict)
    devices: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.server.admin}"

    @property
    def maker(self) -> Person:
        return self.members[MAKER]

    def cookies(self, email: str) -> list[SetCookieParam]:
        """Of a member's session, for a browser."""
        jar = self.members[email].session.cookie_jar
        return [{"name": each.key, "value": each.value, "url": self.url} for each in jar]


@asynccontextmanager
async def begun(postgres: str, mosquitto: str, directory: Path, name: str) -> AsyncIterator[World]:
    """The same on a server of its own. postgres: the DSN of the run's; name: of its database there."""
    connection = await asyncpg.connect(postgres)
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE template")
    await connection.close()
    database_url = postgres.replace("/provserver?", f"/{name}?")
    env = {"PROVSERVER_OUTGOING_PRIVATE": "127.0.0.1"}
    running = Server(directory / "data", "--database-url", database_url, env=env)
    await asyncio.to_thread(running.start)
    try:
        async with grown(running, mosquitto, directory, database_url) as made:
            yield made
    finally:
        await asyncio.to_thread(running.stop)


@asynccontextmanager
async def grown(server: Server, mosquitto: str, directory: Path, database_url: str) -> AsyncIterator[World]:
    """All of it, on a server that was started for the first time with PROVSERVER_OUTGOING_PRIVATE=127.0.0.1."""
    world = World(server)
    async with AsyncExitStack() as stack:
        for email in (MAKER, STAFF, CUSTOMER, RIVAL, NEWCOMER):
            session = await stack.enter_async_context(browser())
            world.members[email] = Person(session, world.url)
        devices = await stack.enter_async_context(aiohttp.ClientSession(f"http://{server.http}"))
        async with asyncio.timeout(GROWING):  # what is waited for may never come
            await _people(world)
            await _profiles(world)
            await _devices(world, devices)
            await _tokens(world, devices)
            await _refusals(world, devices)
            await _doubtful(world, devices)
            await _webhook(world, await stack.enter_async_context(serving(Receiver())), devices)
            await _wifi(world)
            broker = Broker.guarded(mosquitto, directory)
            stack.callback(broker.kill)
            await broker.start()
            network = await stack.enter_async_context(ThingsStack(mosquitto=broker))
            await _network(world, network, devices)
            await _particle(world, await stack.enter_async_context(Particle()))
            await _jobs(world)
            await _yesterday(world, database_url)
        yield world


async def _people(world: World) -> None:
    maker = world.maker
    link = (world.server.data_dir / "setup-link").read_text().strip().partition("#")[2]
    await maker.get("POST", "/setup", {"link": link, "email": MAKER, "password": PASSWORD, "name": "Maya Northwind"})
    await maker.sign_in(MAKER)
    root = (await maker.get("GET", "/organizations"))["items"][0]
    await maker.get("PATCH", f"/organizations/{root['id']}", {"name": "Northwind Sensors"})
    world.organizations["Northwind Sensors"] = root
    for name, parent in (
        ("Blue Farm", None),
        ("Blue Farm Greenhouses", "Blue Farm"),
        ("City of Sunfield", None),
        ("Elsewhere Ltd", None),
        ("Fresh Start", None),
    ):
        body = {"name": name} | ({"parent": world.organizations[parent]["id"]} if parent else {})
        world.organizations[name] = await maker.get("POST", "/organizations", body)
    for email, role, organization, name in (
        (STAFF, "staff", "Northwind Sensors", "Otto Lind"),
        (CUSTOMER, "user", "Blue Farm", "Carla Bloom"),
        (RIVAL, "admin", "Elsewhere Ltd", "Rita Rival"),
        (NEWCOMER, "admin", "Fresh Start", "Nils New"),
    ):
        body = {"email": email, "role": role, "organization": world.organizations[organization]["id"]}
        invited = await maker.get("POST", "/users", body)
        world.ids[email] = invited["id"]
        accepted = {"link": invited["link"].rpartition("#")[2], "password": PASSWORD, "name": name}
        await world.members[email].get("POST", "/invitations/accept", accepted)
        await world.members[email].sign_in(email)
    pending = {"email": "new.hire@northwind.example", "role": "staff", "organization": root["id"]}
    await maker.get("POST", "/users", pending)
    world.ids["organization"] = world.organizations["Blue Farm"]["id"]
    world.ids["user"] = world.ids[STAFF]
    for name, permissions in (("production line 1", ["tokens:manage"]), ("dashboards", ["devices:view"])):
        made = await maker.get("POST", "/keys", {"name": name, "permissions": permissions})
        world.ids["key"] = made["id"]


async def _profiles(world: World) -> None:
    maker = world.maker
    sensors = await maker.get(
        "POST", "/profiles", {"name": "WiFi sensor", "metadataFields": FIELDS[:1], "datastreams": STREAMS}
    )
    world.ids["profile"] = sensors["id"]
    world.ids["sensor key"] = sensors["provisionDeviceKey"]
    world.ids["sensor secret"] = sensors["provisionDeviceSecret"]
    key = await maker.get(
        "POST", f"/profiles/{sensors['id']}/keys", {"maxUses": 500, "perMinute": 6000, "networks": ["127.0.0.0/8"]}
    )
    ends = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    await maker.get("POST", f"/profiles/{sensors['id']}/keys", {"maxUses": 100, "notAfter": ends})
    world.ids["second key"], world.ids["second secret"] = key["provisionDeviceKey"], key["provisionDeviceSecret"]
    nodes = {"name": "Temperature node", "metadataFields": FIELDS, "datastreams": STREAMS, "keyless": True}
    world.ids["nodes"] = (await maker.get("POST", "/profiles", nodes))["id"]
    locks = await maker.get("POST", "/profiles", {"name": "Door lock", "approval": True})
    world.ids["lock key"], world.ids["lock secret"] = locks["provisionDeviceKey"], locks["provisionDeviceSecret"]
    world.ids["locks"] = locks["id"]
    boards = {"name": "Gateway", "strategy": "CHECK_PRE_PROVISIONED_DEVICES"}
    world.ids["gateways"] = (await maker.get("POST", "/profiles", boards))["id"]
    await maker.get("POST", "/profiles/WiFi sensor/ca".replace(" ", "%20"), {})
    await maker.get("POST", "/request-keys", {})


async def _ask(devices: aiohttp.ClientSession, **members: Any) -> dict[str, Any]:
    """A provision request over HTTP."""
    async with devices.post("/api/v1/provision", json=members) as response:
        answer: dict[str, Any] = await response.json()
        return answer


async def _devices(world: World, devices: aiohttp.ClientSession) -> None:
    chance = random.Random(9)
    for first in range(0, DEVICES, 20):
        names = [f"sensor-{ROOMS[n % len(ROOMS)].replace(' ', '-')}-{n:03}" for n in range(first, first + 20)]
        world.devices += await asyncio.gather(
            *(
                _ask(
                    devices,
                    deviceName=name,
                    provisionDeviceKey=world.ids["sensor key" if n % 3 else "second key"],
                    provisionDeviceSecret=world.ids["sensor secret" if n % 3 else "second secret"],
                )
                for n, name in enumerate(names)
            )
        )
    assert all(each["status"] == "SUCCESS" for each in world.devices)
    for device in world.devices[::2]:
        values = {"Temperature": round(chance.uniform(17, 24), 1), "Humidity": chance.randrange(35, 60)}
        async with devices.post(f"/api/v1/{device['credentialsValue']}/telemetry", json=values) as response:
            assert response.status == 200
    first_ = world.devices[0]
    async with devices.post(
        f"/api/v1/{first_['credentialsValue']}/attributes", json={"firmware": "2.4.1", "board": "esp32-c3"}
    ) as response:
        assert response.status == 200
    world.ids["device"] = first_["deviceId"]
    await world.maker.get("PATCH", f"/devices/{first_['deviceId']}", {"shared": {"interval": 60}})
    await world.maker.get("POST", f"/devices/{world.devices[2]['deviceId']}/rotate", {"overlap": 86_400})
    await world.maker.get("POST", "/devices", {"name": "gateway-1", "profile": world.ids["gateways"], "gateway": True})


async def _tokens(world: World, devices: aiohttp.ClientSession) -> None:
    maker = world.maker
    rows = ["Serial Number,MAC address,Device Name"]
    rows += [f"SN{n:06},2C:54:91:88:C9:{n:02X},Temperature Sense Node {n:03}" for n in range(1, TOKENS + 1)]
    assert (await maker.get("POST", "/static-tokens/import", "\n".join(rows), profile="Temperature node"))["imported"]
    made = await maker.get("POST", "/static-tokens", {"profile": "Temperature node", "count": 5})
    tokens = (await maker.get("GET", "/static-tokens", limit="100"))["items"]
    chosen = tokens[:TOKENS]
    world.ids["token"] = chosen[0]["id"]
    world.ids["batch"] = made.get("batchId") or made["batch"]["id"]
    for n, token in enumerate(chosen[:12]):
        opened = await maker.get("GET", f"/static-tokens/{token['id']}", open="true")
        if n % 4 != 3:
            sent = {"Temperature": 20 + n / 10}
            async with devices.post(f"/api/v1/{opened['authToken']}/telemetry", json=sent) as response:
                assert response.status == 200
        if 1 <= n <= 5:
            await world.members[CUSTOMER].get("POST", "/static-tokens/claim", {"qr": opened["qrPayload"]})
    world.ids["claimed"] = chosen[1]["id"]
    begun_ = await maker.get("POST", "/static-tokens", {"profile": "Temperature node", "count": 1200})
    world.ids["tokens job"] = begun_["job"]["id"]
    await _done(maker, begun_["job"]["id"])
    opened = await maker.get("GET", f"/static-tokens/{chosen[20]['id']}", open="true")
    world.ids["rival's"] = (
        await world.members[RIVAL].get("POST", "/static-tokens/claim", {"qr": opened["qrPayload"]})
    )["device"]["id"]


async def _refusals(world: World, devices: aiohttp.ClientSession) -> None:
    """Requests that get nothing, each for another reason."""
    key, secret = world.ids["sensor key"], world.ids["sensor secret"]
    for n in range(6):
        await _ask(devices, deviceName=f"stray-{n}", provisionDeviceKey=key, provisionDeviceSecret="not-the-secret")
    for n in range(3):
        await _ask(devices, deviceName=f"lost-{n}", provisionDeviceKey="no-such-key", provisionDeviceSecret="x")
    for n in range(4):
        taken = world.devices[n]["deviceName"]
        await _ask(devices, deviceName=taken, provisionDeviceKey=key, provisionDeviceSecret=secret)
    await _ask(devices, deviceName="no-secret", provisionDeviceKey=key)
    found = await becomes(  # a refusal is recorded after its answer
        lambda: world.maker.get("GET", "/attempts", limit="1", refused="true"), lambda found: bool(found["items"])
    )
    world.ids["attempt"] = found["items"][0]["id"]


async def _doubtful(world: World, devices: aiohttp.ClientSession) -> None:
    """What waits for an operator: requests for approval, devices in quarantine, signs of a clone."""
    for name in ("front-door", "back-door", "gate"):
        await _ask(
            devices,
            deviceName=name,
            provisionDeviceKey=world.ids["lock key"],
            provisionDeviceSecret=world.ids["lock secret"],
        )
    found = await world.maker.get("GET", "/approvals")
    world.ids["approval"] = found["items"][0]["id"]
    reason = {"reason": "two in the field answer to this name"}
    world.ids["quarantined"] = world.devices[7]["deviceId"]
    await world.maker.get("POST", f"/devices/{world.ids['quarantined']}/quarantine", reason)
    for nonce in ("a", "b"):
        await _ask(
            devices,
            deviceName=world.devices[9]["deviceName"],
            provisionDeviceKey=world.ids["sensor key"],
            provisionDeviceSecret=world.ids["sensor secret"],
            requestNonce=nonce * 32,
        )


async def _webhook(world: World, endpoint: Endpoint, devices: aiohttp.ClientSession) -> None:
    made = await world.maker.get("POST", "/webhooks", {"url": endpoint.url})
    world.ids["webhook"] = made["id"]
    await world.maker.get("POST", f"/webhooks/{made['id']}/test")
    away = await world.maker.get("POST", "/webhooks", {"url": "http://127.0.0.1:9/out-of-order"})
    world.ids["webhook away"] = away["id"]
    await _ask(
        devices,
        deviceName="told-of",
        provisionDeviceKey=world.ids["sensor key"],
        provisionDeviceSecret=world.ids["sensor secret"],
    )
    deliveries = f"/webhooks/{away['id']}/deliveries"
    found = await becomes(lambda: world.maker.get("GET", deliveries), lambda found: bool(found["items"]))
    world.ids["event"] = found["items"][0].get("eventId") or found["items"][0]["id"]


async def _wifi(world: World) -> None:
    maker = world.maker
    made = [
        await maker.get("POST", "/wifi-sessions", {"name": f"lamp {n}", "template": world.ids["profile"]})
        for n in range(4)
    ]
    for event in ("seen", "joined", "sent"):
        await maker.ask("POST", f"/wifi-sessions/{made[0]['id']}/events", {"event": event})
    await maker.get("POST", f"/wifi-sessions/{made[1]['id']}/fail", {"error": "device_not_found"})
    await maker.get("POST", f"/wifi-sessions/{made[2]['id']}/cancel")
    world.ids["wifi"] = made[0]["id"]
    world.ids["wifi failed"] = made[1]["id"]


async def _network(world: World, network: ThingsStack, devices: aiohttp.ClientSession) -> None:
    maker = world.maker
    network.application("meters", decoder=decoder)
    key = network.api_key("meters")
    await network.settle()
    profile = {"name": "Soil sensor", "datastreams": STREAMS[:1], "keyless": True}
    await maker.get("POST", "/profiles", profile)
    settings = {
        "lorawanVersion": "MAC_V1_0_3",
        "frequencyPlan": "EU_863_870_TTN",
        "mqttAddress": f"mqtt://{network.mqtt_address}",
        "mqttUser": "meters@ttn",
    }
    body = {
        "profile": "Soil sensor",
        "network": "things-stack",
        "applicationId": "meters",
        "apiKey": key,
        "settings": settings | network.addresses,
        "onboarding": True,
        "lorawanProfileId": "000AF8BE",
    }
    made = await maker.get("POST", "/integrations", body)
    world.ids["integration"] = made["id"]
    rows = "Device EUI,Join EUI,Application Key\n" + "\n".join(
        f"0018B2000000010{n},70B3D57ED000001{n},{n}B7E151628AED2A6ABF7158809CF4F3C" for n in range(4)
    )
    await maker.get("POST", "/static-tokens/import", rows, profile="Soil sensor")
    tokens = (await maker.get("GET", "/static-tokens", profile="Soil sensor"))["items"]
    claimed = []
    for token in tokens[:2]:
        opened = await maker.get("GET", f"/static-tokens/{token['id']}", open="true")
        answer = await world.members[CUSTOMER].get("POST", "/static-tokens/claim", {"qr": opened["qrPayload"]})
        claimed.append(answer["device"]["id"])
    world.ids["network device"] = claimed[0]
    await becomes(
        lambda: maker.get("GET", f"/devices/{claimed[0]}/network"), lambda shown: shown["state"] == "onboarded"
    )
    hook = await maker.get("POST", f"/integrations/{made['id']}/webhook")
    uplink = {
        "end_device_ids": {
            "device_id": "eui-0018b200000009ff",
            "dev_eui": "0018B200000009FF",
            "join_eui": "70B3D57ED0000010",
            "application_ids": {"application_id": "meters"},
        },
        "received_at": "2026-11-20T10:00:00Z",
        "uplink_message": {"f_port": 2, "f_cnt": 1, "frm_payload": "ANc=", "decoded_payload": {"Temperature": 21.5}},
    }
    async with devices.post(hook["path"], json=uplink, headers={hook["header"]: hook["secret"]}) as response:
        assert response.status < 300, await response.text()


async def _particle(world: World, cloud: Particle) -> None:
    maker = world.maker
    ids = cloud.add(*range(1, 7))
    fields = [{"name": "Particle Device ID", "unique": True}]
    await maker.get("POST", "/profiles", {"name": "Photon", "metadataFields": fields, "keyless": True})
    rows = "Device Name,Particle Device ID\n" + "\n".join(f"photon-{n},{id_}" for n, id_ in enumerate(ids[:4]))
    await maker.get("POST", "/static-tokens/import", rows, profile="Photon")
    body = {"profile": "Photon", "product": PRODUCT, "accessToken": TOKEN, "url": cloud.url}
    world.ids["product"] = (await maker.get("POST", "/particle", body))["id"]
    begun = await maker.get("POST", f"/particle/{world.ids['product']}/plan", {})
    world.ids["particle job"] = begun["job"]["id"]
    await _done(maker, begun["job"]["id"])


async def _jobs(world: World) -> None:
    maker = world.maker
    rows = "name\r\n" + "".join(f"spare-{n:03}\r\n" for n in range(40))
    begun = await maker.get("POST", "/devices/import", rows, profile="WiFi sensor", asJob="true")
    await _done(maker, begun["job"]["id"])
    world.ids["job"] = begun["job"]["id"]
    wrong = await maker.get("POST", "/devices/import", "name\r\nspare-001\r\n\r\n", profile="WiFi sensor", asJob="true")
    await _done(maker, wrong["job"]["id"])
    world.ids["refused job"] = wrong["job"]["id"]


async def _done(maker: Person, job: str) -> None:
    await becomes(lambda: maker.get("GET", f"/jobs/{job}"), lambda shown: shown["state"] not in ("waiting", "running"))


async def _yesterday(world: World, database_url: str) -> None:
    """What came before: nobody's charts are of one minute."""
    chance = random.Random(20)
    now = time.time()
    profile = UUID(world.ids["profile"])
    refusals = (
        ("not_found", "SECRET_WRONG", profile),
        ("not_found", "KEY_UNKNOWN", None),
        ("failure", "ALREADY_PROVISIONED", profile),
        ("pending", "APPROVAL_PENDING", UUID(world.ids["locks"])),
    )
    rows = []
    for _ in range(700):
        hours = chance.uniform(0.2, 23.8)
        moment = now - hours * 3600
        if chance.random() > 0.25 + 0.75 * math.sin(hours / 24 * math.pi) ** 2:
            continue
        outcome, reason, of = ("success", None, profile) if chance.random() < 0.85 else chance.choice(refusals)
        transport = chance.choice(("HTTP", "MQTT", "COAP"))
        address = f"192.0.2.{chance.randrange(4, 40)}"
        at = datetime.fromtimestamp(moment, UTC)
        rows.append((ids.uuid7(moment, chance.randbytes), at, transport, address, outcome, reason, of))
    connection = await asyncpg.connect(database_url, user="postgres")
    try:
        await connection.executemany(
            "INSERT INTO attempt (id, at, transport, address, outcome, reason, profile_id)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7)",
            rows,
        )
    finally:
        await connection.close()
