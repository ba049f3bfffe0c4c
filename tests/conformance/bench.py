"""The server process under test, the operator's hands on its database, and a client for each transport."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import asyncpg

from provserver.config import Config
from provserver.core import csvfile
from provserver.core.csvfile import DeviceRow
from provserver.core.model import ProvisionStrategy, ReprovisionPolicy
from provserver.services.access import Access
from provserver.services.profiles import KeyPair, ProfileChange
from provserver.workspace import Workspace, workspace
from tests.conformance.clients import coap, mqtt
from tests.conformance.model import Case, Device, Transport
from tests.conformance.rendering import CLOSED, REPLY
from tests.conformance.values import Values
from tests.server import Server

POLL_LIMIT = 90.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request. code: as `rendering.code` says it."""

    code: str
    body: bytes
    format: object = None


class Bench:
    """What every case works with."""

    def __init__(
        self, server: Server, operator: Workspace, http: aiohttp.ClientSession, coap_client: coap.Client
    ) -> None:
        self.server = server
        self.operator = operator
        self.http = http
        self.access = Access(operator.database, operator.keys)
        self._coap = coap_client

    async def ask(self, transport: Transport, payload: bytes) -> Answer:
        """One request, as the transport is ordinarily used."""
        match transport:
            case Transport.HTTP:
                url = f"http://{self.server.http}/api/v1/provision"
                headers = {"Content-Type": "application/json"}
                async with self.http.post(url, data=payload, headers=headers) as response:
                    return Answer(str(response.status), await response.read(), response.content_type)
            case Transport.COAP:
                got = await self._coap.post(payload)
                return Answer(got.code, got.payload, got.format)
            case _:
                return await self._ask_mqtt(payload, version(transport))

    async def rush(self, transport: Transport, payloads: list[bytes]) -> list[Answer]:
        """Many requests at once, each from a client of its own that is connected already."""
        async with AsyncExitStack() as stack:
            senders = [await self._sender(stack, transport, payload) for payload in payloads]
            return await asyncio.gather(*(send() for send in senders))

    async def rows(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask the database."""
        async with self.operator.database.connection() as connection:
            return await connection.fetch(statement, *arguments)

    async def _ask_mqtt(self, payload: bytes, version_: int) -> Answer:
        link = await mqtt.Link.to(self.server.mqtt, version_)
        try:
            link.send(mqtt.Connect())
            assert isinstance(await link.receive(), mqtt.Connack)
            link.send(mqtt.Subscribe(packet_id=1), mqtt.Publish(payload, packet_id=2))
            assert await link.receive() == mqtt.Suback((1,), 1)
            return await _outcome(link, 2)
        finally:
            await link.close()

    async def _sender(
        self, stack: AsyncExitStack, transport: Transport, payload: bytes
    ) -> Callable[[], Coroutine[Any, Any, Answer]]:
        if transport is Transport.HTTP:
            return lambda: self.ask(transport, payload)
        if transport is Transport.COAP:
            endpoint = await coap.Endpoint.to(self.server.coap)
            stack.callback(endpoint.close)

            async def send_datagram() -> Answer:
                got = await endpoint.ask("POST", coap.path_options(("api", "v1", "provision")), payload)
                return Answer(got.code, got.payload, got.format)

            return send_datagram
        link = await mqtt.Link.to(self.server.mqtt, version(transport))
        stack.push_async_callback(link.close)
        link.send(mqtt.Connect())
        assert isinstance(await link.receive(), mqtt.Connack)

        async def publish() -> Answer:
            link.send(mqtt.Publish(payload, packet_id=2))
            return await _outcome(link, 2)

        return publish


async def _outcome(link: mqtt.Link, packet_id: int) -> Answer:
    """What comes for a PUBLISH at QoS 1, to its end; then nothing more does, until a ping is answered."""
    packet = await link.receive()
    match packet:
        case mqtt.Closed():
            return Answer(CLOSED, b"")
        case mqtt.Disconnected(code):
            assert await link.receive() == mqtt.Closed()
            return Answer(f"DISCONNECT 0x{code:02X}", b"")
        case mqtt.Ack(kind="PUBACK", packet_id=acknowledged, code=0):
            assert acknowledged == packet_id
            reply = await link.receive()
            assert isinstance(reply, mqtt.Published)
            assert (reply.topic, reply.qos, reply.retain, reply.dup) == (mqtt.RESPONSE_TOPIC, 1, False, False)
            answer = Answer(REPLY, reply.payload)
        case mqtt.Ack(kind="PUBACK", packet_id=acknowledged, code=code):
            assert acknowledged == packet_id
            answer = Answer(f"PUBACK 0x{code:02X}", b"")
        case _:
            raise AssertionError(f"unexpected packet {packet}")
    link.send(mqtt.Pingreq())
    assert await link.receive() == mqtt.Pingresp()
    link.send(mqtt.Bye())
    assert await link.receive() == mqtt.Closed()
    return answer


def version(transport: Transport) -> int:
    """The protocol version of an MQTT column."""
    return mqtt.V5 if transport is Transport.MQTT5 else mqtt.V3_1_1


@dataclass(frozen=True, slots=True)
class Stage:
    """What was set up for one run of a case."""

    values: Values
    profile: str
    profile_id: object
    other_id: object
    started: object


@asynccontextmanager
async def staged(bench: Bench, case: Case) -> AsyncIterator[Stage]:
    """Make the profiles and devices of a case; take them away afterwards, as ids and keys exist once."""
    values = Values()
    names = [values.tag, f"{values.tag}-other"]
    profile, pair = await _profile(bench, names[0], case.strategy, case.policy, case.key, approval=case.approval)
    values.add(key=pair.key, secret=pair.secret)
    other = None
    if case.extra:
        pair = await bench.operator.profiles.add_key(names[0])
        values.add(**{"extra.key": pair.key, "extra.secret": pair.secret})
    if case.other:
        other, pair = await _profile(bench, names[1], case.other, "deny", "")
        values.add(**{"other.key": pair.key, "other.secret": pair.secret})
    try:
        for device in case.devices:
            row = _row(device, values)
            await bench.operator.devices.create(row, names[1] if device.other else names[0])
        [(started,)] = await bench.rows("SELECT clock_timestamp()")
        yield Stage(values, names[0], profile, other, started)
    finally:
        await _clear(bench, [id_ for id_ in (profile, other) if id_ is not None])


async def _clear(bench: Bench, profiles: list[object]) -> None:
    """Remove profiles with all that hangs on them, in one go and without waiting for the disk."""
    async with bench.operator.database.transaction() as connection:
        await connection.execute("SET LOCAL synchronous_commit = off")
        for table in ("credentials", "attribute"):
            await connection.execute(
                f"DELETE FROM {table} t USING device d WHERE d.id = t.device_id AND d.profile_id = ANY($1)", profiles
            )
        await connection.execute("DELETE FROM device WHERE profile_id = ANY($1)", profiles)
        await connection.execute("DELETE FROM device_profile WHERE id = ANY($1)", profiles)


async def _profile(
    bench: Bench, name: str, strategy: str | None, policy: str, key: str, *, approval: bool = False
) -> tuple[object, KeyPair]:
    change = ProfileChange(
        name,
        ProvisionStrategy(strategy) if strategy else None,
        ReprovisionPolicy(policy),
        accept_unproven_repeats=True,
        approval=approval,
    )
    profile, pair = await bench.operator.profiles.create(change, key or None)
    return profile.id, pair


def _row(device: Device, values: Values) -> DeviceRow:
    cells = {
        "name": device.name,
        "token": device.token,
        "clientId": device.client_id,
        "username": device.username,
        "password": device.password,
        "certificate": device.certificate,
    }
    row = csvfile.device_row(1, {column: values.text(cell) for column, cell in cells.items()})
    assert isinstance(row, DeviceRow), row
    return row


@asynccontextmanager
async def bench(server: Server) -> AsyncIterator[Bench]:
    """The bench around a running server."""
    async with (
        workspace(Config(data_dir=server.data_dir)) as operator,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        coap.Client(server.coap) as coap_client,
    ):
        yield Bench(server, operator, http, coap_client)


async def until(holds: Callable[[], Coroutine[Any, Any, bool]], what: str) -> None:
    """Wait for what is written without the answer waiting for it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + POLL_LIMIT
    while not await holds():
        assert loop.time() < end, what
        await asyncio.sleep(0.005)


def statuses(answers: list[Answer]) -> list[str]:
    """The `status` of each reply."""
    return [json.loads(answer.body)["status"] for answer in answers]
