"""Carries a case out on one transport."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from provserver.core.authorization import OPERATOR, Principal
from provserver.core.model import Authenticated, MqttBasic, Peer, ProvisionStrategy
from provserver.core.model import Transport as Way
from provserver.services.approvals import Approvals
from provserver.services.profiles import ProfileChange
from tests.conformance import model, rendering
from tests.conformance.bench import Answer, Bench, Stage, staged, statuses, until, version
from tests.conformance.clients import coap, mqtt
from tests.conformance.model import Case, Expected, Granted, Payload, Refused, Transport
from tests.conformance.replies import Receipt, check_error, check_granted, check_refused

JSON, OCTETS = 50, 42
"""CoAP's numbers of the formats that replies have."""


async def play(bench: Bench, case: Case, transport: Transport) -> None:
    """Run the case; raises AssertionError where the server does otherwise."""
    async with staged(bench, case) as stage:
        await _Play(bench, stage, transport).run(case.on(transport))


class _Play:
    def __init__(self, bench: Bench, stage: Stage, transport: Transport) -> None:
        self._bench = bench
        self._stage = stage
        self._values = stage.values
        self._transport = transport
        self._receipts: list[Receipt | None] = []
        self._links: dict[str, mqtt.Link] = {}
        self._connected: set[str] = set()
        self._endpoint: coap.Endpoint | None = None
        self._parts = b""

    async def run(self, steps: Sequence[model.Step]) -> None:
        try:
            for step in steps:
                await self._step(step)
            for name in self._connected:
                if (link := self._links[name]).open:
                    link.send(mqtt.Pingreq())
                    assert await link.receive() == mqtt.Pingresp(), "nothing else comes"
        finally:
            for link in self._links.values():
                await link.close()
            if self._endpoint is not None:
                self._endpoint.close()

    async def _step(self, step: model.Step) -> None:
        match step:
            case model.Ask():
                answer = await self._bench.ask(self._transport, self._values.payload(step.payload))
                await self._check(answer, step.expected(self._transport))
            case model.Rush():
                await self._rush(step)
            case model.Send():
                await self._send(step)
            case model.Get():
                for expected in step.packets:
                    await self._get(step.link, expected)
            case model.Silence(seconds):
                await asyncio.sleep(seconds)
            case model.Http():
                await self._http(step)
            case model.Coap():
                await self._coap(step)
            case model.Stored() | model.Devices() | model.Attempted() | model.Recorded():
                await self._look(step)
            case _:
                await self._operate(step)

    # What the operator does.

    async def _operate(
        self,
        step: model.Rearm
        | model.Delete
        | model.Use
        | model.State
        | model.Strategy
        | model.DropKey
        | model.Approve
        | model.Quarantine,
    ) -> None:
        operator = self._bench.operator
        match step:
            case model.Rearm(name):
                await operator.devices.rearm(self._values.text(name))
            case model.Delete(name):
                await operator.devices.delete(self._values.text(name))
            case model.Use(reply):
                receipt = self._receipts[reply]
                assert receipt is not None
                assert isinstance(receipt.value, str)
                peer = Peer(Way.HTTP, "127.0.0.1")
                assert isinstance(await self._bench.access.with_token(receipt.value, peer), Authenticated)
            case model.Strategy(strategy):
                change = ProfileChange(strategy=ProvisionStrategy(strategy))
                await operator.profiles.update(self._stage.profile, change)
            case model.DropKey(key):
                await operator.profiles.remove_key(self._stage.profile, self._values.text(key))
            case model.Approve(name, accept):
                principal = Principal(OPERATOR, operator.organization_id)
                await Approvals(operator.database).decide(principal, self._values.text(name), accept=accept)
            case model.Quarantine(name, over=True):
                await operator.devices.release(self._values.text(name))
            case model.Quarantine(name):
                await operator.devices.quarantine(self._values.text(name), "as the case has it")
            case model.State(value, name):
                await self._set_state(self._values.text(name), value)

    async def _set_state(self, name: str, value: str | None) -> None:
        async with self._bench.operator.database.transaction() as connection:
            device = await connection.fetchval(
                "UPDATE device SET revision = revision + 1 WHERE name = $1 RETURNING id", name
            )
            await connection.execute("DELETE FROM attribute WHERE device_id = $1 AND key = 'provisionState'", device)
            if value is not None:
                await connection.execute(
                    "INSERT INTO attribute (device_id, scope, key, value) VALUES ($1, 'SERVER', 'provisionState', $2)",
                    device,
                    value,
                )

    # What the operator sees.

    async def _look(self, step: model.Stored | model.Devices | model.Attempted | model.Recorded) -> None:
        match step:
            case model.Devices(count):
                details = await self._bench.operator.profiles.show(self._stage.profile)
                assert details.device_count == count
            case model.Stored():
                await self._look_at_device(step)
            case model.Attempted(reason):
                await self._look_for_attempt(reason)
            case model.Recorded():
                await self._look_for_secrets(step)

    async def _look_at_device(self, step: model.Stored) -> None:
        details = await self._bench.operator.devices.show(self._values.text(step.name))
        device = details.device
        assert (device.provision_state, device.gateway) == (step.state, step.gateway)
        assert len(details.credentials) == step.credentials
        if step.credentials_id is not None:
            digest = self._bench.operator.keys.digest("credentials", self._values.text(step.credentials_id))
            rows = await self._bench.rows("SELECT device_id FROM credentials WHERE id_digest = $1", digest)
            assert [row["device_id"] for row in rows] == [device.id]

    async def _look_for_attempt(self, reason: str | None) -> None:
        async def recorded() -> bool:
            rows = await self._bench.rows(
                "SELECT reason FROM attempt WHERE at >= $1 AND (profile_id = $2 OR profile_id IS NULL)"
                " AND reason IS DISTINCT FROM 'PSK_UNPROVEN'"  # an earlier test's handshake that gives up just now
                " ORDER BY at DESC, id DESC LIMIT 1",  # ids of one millisecond are in no order
                self._stage.started,
                self._stage.profile_id,
            )
            return [row["reason"] for row in rows] == [reason]

        await until(recorded, f"the latest attempt has the reason {reason}")

    async def _look_for_secrets(self, step: model.Recorded) -> None:
        found: list[str] = []

        async def recorded() -> bool:
            attempts = await self._bench.rows(
                "SELECT row_to_json(a)::text FROM attempt a WHERE profile_id = $1", self._stage.profile_id
            )
            events = await self._bench.rows(
                "SELECT row_to_json(o)::text FROM outbox o WHERE payload ->> 'profileId' = $1",
                str(self._stage.profile_id),
            )
            found[:] = [row[0] for row in (*attempts, *events)]
            made = [row for row in events if '"device.provisioned"' in row[0]]
            return (len(attempts), len(made)) == (step.attempts, step.events)

        await until(recorded, f"{step.attempts} attempts and {step.events} events are recorded")
        for text in map(self._values.text, step.without):
            assert not any(text in line for line in found), "a record holds a secret"
            assert text not in self._bench.server.log, "the log holds a secret"

    # Answers.

    async def _check(self, answer: Answer, expected: Expected) -> None:
        """Code and body; and on HTTP and CoAP, when nothing else was asked for, the format."""
        assert answer.code == rendering.code(expected, self._transport)
        await self._check_body(answer.body, expected)
        if self._transport is Transport.HTTP:
            assert answer.format == "application/json"
        elif self._transport is Transport.COAP:
            protobuf = isinstance(expected, Granted | Refused) and expected.protobuf
            assert answer.format == ((OCTETS if protobuf else JSON) if answer.body else None)

    async def _check_body(self, body: bytes, expected: Expected) -> None:
        assert self._values.text("«secret»").encode() not in body, "an answer quotes the secret"
        match expected:
            case Granted():
                await self._check_granted(body, expected)
            case Refused():
                check_refused(body, expected)
                self._receipts.append(None)
            case _ if self._transport is Transport.HTTP:
                check_error(body)
                self._receipts.append(None)
            case _:
                assert not body
                self._receipts.append(None)

    async def _check_granted(self, body: bytes, expected: Granted) -> None:
        receipt = check_granted(body, expected, self._values.text)
        for number, same in ((expected.same_as, True), (expected.other_than, False)):
            if number is not None:
                earlier = self._receipts[number]
                assert earlier is not None
                assert (receipt.value == earlier.value) is same
                if same and earlier.device_id and receipt.device_id:
                    assert receipt.device_id == earlier.device_id
        self._receipts.append(receipt)
        name = receipt.name or (self._values.text(expected.name) if expected.name else None)
        if name is None:
            return
        details = await self._bench.operator.devices.show(name, open_=True)
        assert details.device.provision_state == "provisioned"
        stage = self._stage
        assert details.device.profile_id == (stage.other_id if expected.other else stage.profile_id)
        assert receipt.device_id in (None, str(details.device.id))
        stored = details.opened[0]
        value = stored.value
        if isinstance(value, MqttBasic):
            assert receipt.value == {
                "clientId": value.client_id,
                "userName": value.user_name,
                "password": value.password,
            }
        else:
            assert receipt.value == value
        assert stored.type == receipt.type

    async def _rush(self, step: model.Rush) -> None:
        payloads: list[bytes] = []
        for number in range(step.count):
            self._values.add(n=str(number))
            payloads.append(self._values.payload(step.payload))
        got = statuses(await self._bench.rush(self._transport, payloads))
        assert got.count("SUCCESS") == step.granted
        assert got.count("FAILURE") == step.count - step.granted

    # Transports, message by message.

    async def _send(self, step: model.Send) -> None:
        link = self._links.get(step.link)
        if link is None:
            link = await mqtt.Link.to(self._bench.server.mqtt, version(self._transport))
            self._links[step.link] = link
        link.send(*map(self._filled, step.packets))

    def _filled(self, packet: mqtt.ClientPacket) -> mqtt.ClientPacket:
        match packet:
            case mqtt.Publish():
                return replace(packet, payload=self._values.payload(packet.payload))
            case mqtt.Connect():
                return replace(packet, client_id=self._values.text(packet.client_id))
            case _:
                return packet

    async def _get(self, link: str, expected: mqtt.ServerPacket | model.Reply) -> None:
        packet = await self._links[link].receive()
        match expected:
            case mqtt.Connack():
                assert isinstance(packet, mqtt.Connack)
                assert packet.session_present == expected.session_present
                assert packet.code if expected.code is None else packet.code == expected.code
                if self._links[link].version == mqtt.V5:
                    for name, value in expected.has.items():
                        assert name in packet.has if value is ... else packet.has.get(name) == value, name
                    assert not set(expected.lacks) & set(packet.has)
                if not packet.code:
                    self._connected.add(link)
            case model.Reply():
                assert isinstance(packet, mqtt.Published)
                assert (packet.topic, packet.retain, packet.dup) == (mqtt.RESPONSE_TOPIC, False, False)
                assert (packet.qos, packet.packet_id) == (expected.qos, expected.packet_id if expected.qos else 0)
                correlation = expected.correlation
                assert packet.properties == ({} if correlation is None else {"correlation_data": correlation})
                await self._check_body(packet.payload, expected.expect)
            case mqtt.Unsuback() if self._links[link].version != mqtt.V5:
                assert packet == replace(expected, codes=())
            case _:
                assert packet == expected

    async def _http(self, step: model.Http) -> None:
        payload: Payload | None = step.payload
        async with self._bench.http.request(
            step.method,
            f"http://{self._bench.server.http}{step.path}",
            data=self._values.payload(payload) if payload else None,
            headers=step.headers,
            skip_auto_headers=() if "Content-Type" in step.headers else ("Content-Type",),
        ) as response:
            answer = Answer(str(response.status), await response.read(), response.content_type)
            assert {name: response.headers.get(name) for name in step.has} == step.has
        if step.status is not None:
            assert answer.code == str(step.status)
        if step.expect is None:
            if answer.body:
                check_error(answer.body)
        elif step.status is None:
            await self._check(answer, step.expect)
        else:
            await self._check_body(answer.body, step.expect)

    async def _coap(self, step: model.Coap) -> None:
        if self._endpoint is None:
            self._endpoint = await coap.Endpoint.to(self._bench.server.coap)
        options = coap.path_options(step.path)
        for number, value in ((coap.CONTENT_FORMAT, step.content_format), (coap.ACCEPT, step.accept)):
            if value is not None:
                options.append((number, coap.unsigned(value)))
        for number, block in ((coap.BLOCK1, step.block1), (coap.BLOCK2, step.block2)):
            if block is not None:
                options.append((number, coap.block_option(block)))
        payload = self._values.payload(step.payload)
        got = await self._endpoint.ask(
            step.method,
            options,
            payload if step.part is None else payload[step.part],
            confirmable=step.confirmable,
            times=step.times,
            burst=step.burst,
        )
        if step.code is not None:
            assert got.code == step.code
        elif step.expect is not None:
            assert got.code == rendering.code(step.expect, self._transport)
        if step.format is not None:
            assert got.format == step.format
        assert got.block2 == step.gets_block2
        if step.piggybacked:
            assert got.piggybacked
        if step.block1 is not None:
            assert got.block1 == step.block1
        self._parts += got.payload
        if got.block2 is not None and got.block2[1]:
            return
        body, self._parts = self._parts, b""
        if step.expect is not None:
            await self._check_body(body, step.expect)
        else:
            assert not body
