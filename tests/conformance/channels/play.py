"""Carries a case out on one channel."""

import asyncio
import json
from contextlib import nullcontext
from typing import Any

import pytest

from provserver.errors import Refused
from provserver.services.devices import DeviceChange
from provserver.services.profiles import ProfileChange
from tests.conformance.bench import until
from tests.conformance.channels import model
from tests.conformance.channels.model import COAP, HTTP, KEYED, MQTT, Act, Channel, Login, Step, Verdict
from tests.conformance.channels.premises import Premises
from tests.conformance.channels.programs.base import Answer, Listener, Presented
from tests.conformance.channels.programs.curl import Curl
from tests.conformance.channels.programs.libcoap import CoapClient
from tests.conformance.channels.programs.paho import Received, Session
from tests.conformance.channels.programs.s_client import SClient
from tests.conformance.channels.rendering import NO_ANSWER, code
from tests.conformance.channels.stage import Stage
from tests.server import mode

CLOCK_SLACK = 60.0
"""Seconds by which what should hold from now on may be off."""


async def play(stage: Stage, premises: Premises) -> None:
    """Run the case; raises AssertionError where the server does otherwise."""
    run = _Play(stage, premises)
    try:
        for step in stage.case.on(stage.channel):
            await run.step(step)
    finally:
        await run.close()


class _Play:
    def __init__(self, stage: Stage, premises: Premises) -> None:
        self._stage = stage
        self._premises = premises
        self._operator = stage.bench.operator
        self._text = stage.values.text
        self._sessions: dict[str, Session] = {}
        self._listener: Listener | None = None
        self._listening: Any = None

    async def close(self) -> None:
        if self._listening is not None:
            await self._listening.__aexit__(None, None, None)
        for session in self._sessions.values():
            await session.close()

    async def step(self, step: Step) -> None:
        match step:
            case model.Come() | model.Send() | model.Ask() | model.Provision() | model.Listen() | model.Hear():
                await self._device(step)
            case model.Open() | model.Publish() | model.Subscribe() | model.Message() | model.Ended():
                await self._packet(step)
            case model.Http():
                await self._http(step)
            case model.Coap():
                await self._coap(step)
            case model.Change() | model.Do() | model.Trust():
                await self._operate(step)
            case model.Bystander():
                answer = await self._premises.send_as_bystander(self._channel)
                assert answer.code == self._code(Verdict.DONE), f"another device: {answer.text}"
            case _:
                await self._look(step)

    @property
    def _channel(self) -> Channel:
        return self._stage.channel

    def _code(self, verdict: Verdict) -> str:
        wanted = code(verdict, self._channel)
        assert wanted, f"{verdict} means nothing on {self._channel}"
        return wanted

    def _codes(self, verdict: Verdict) -> tuple[str, ...]:
        """What may be said. Of several workers only those with the OSCORE context of a key know that it was good."""
        alike = (Verdict.GONE, Verdict.KEY)
        if verdict in alike and self._channel is Channel.OSCORE and "PROVSERVER_WORKERS" in mode():
            return tuple(map(self._code, alike))
        return (self._code(verdict),)

    # What the device does.

    async def _device(
        self, step: model.Come | model.Send | model.Ask | model.Provision | model.Listen | model.Hear
    ) -> None:
        match step:
            case model.Come():
                wanted = self._codes(step.expect)
                answer = await self._come(step.login, wanted[0])
                for _ in range(1, step.tries):
                    if answer.code in wanted:
                        break
                    await asyncio.sleep(1)
                    answer = await self._come(step.login, wanted[0])
                assert answer.code in wanted, answer.text
            case model.Send():
                client = self._stage.client(step.login)
                answer = await client.send(self._text(step.feature), self._stage.values.payload(step.payload))
                assert answer.code == self._code(step.expect), answer.text
                if step.says and answer.code != "closed":
                    assert step.says in answer.text
            case model.Ask():
                answer = await self._stage.client(step.login).ask(step.client, step.shared)
                if step.gets or self._channel not in COAP:
                    assert answer.code == ("2.05" if self._channel in COAP else "reply" if self._on_mqtt else "200")
                    assert json.loads(answer.text) == step.gets
                else:
                    assert answer.code == "4.04"
            case model.Provision():
                await self._provision(step)
            case model.Listen():
                self._listening = self._stage.client().listen()
                self._listener = await self._listening.__aenter__()
            case model.Hear(told):
                assert self._listener is not None
                assert json.loads(await self._listener.next()) == told

    async def _come(self, login: Login | None, wanted: str) -> Answer:
        patience = 2 if wanted == NO_ANSWER else 60
        presented = self._stage.presented(login, patience)
        stubborn = login is not None and login.stubborn and self._channel is Channel.X509
        if stubborn or (presented.identity and self._channel is Channel.HTTPS):
            return await SClient(self._stage.place, presented).come()
        return await self._stage.client(login, patience).come()

    @property
    def _on_mqtt(self) -> bool:
        return self._channel in MQTT

    async def _provision(self, step: model.Provision) -> None:
        """On a channel that its provision key protects, a request need not repeat it."""
        members = {"deviceName": "«tag»", **step.members}
        login = step.login or Login()
        if self._channel in KEYED:
            login = Login(identity="«key»", key="«secret»", gnutls=login.gnutls)
        else:
            members |= {"provisionDeviceKey": "«key»", "provisionDeviceSecret": "«secret»"}
        payload = self._stage.values.payload(json.dumps(members, ensure_ascii=False))
        answer = await self._stage.client(login).provision(payload)
        reply = json.loads(answer.text)
        assert reply["status"] == step.status, reply.get("errorMsg")
        if step.name:
            token = reply["credentialsValue"]
            given = {f"{step.name}.id": reply["deviceId"], "id": reply["deviceId"]}
            if reply["credentialsType"] == "ACCESS_TOKEN":
                given[f"{step.name}.token"] = token
            self._stage.values.add(**given)

    # A session, packet by packet.

    async def _packet(self, step: model.Open | model.Publish | model.Subscribe | model.Message | model.Ended) -> None:
        if isinstance(step, model.Open):
            presented = self._stage.presented(step.login)
            self._sessions[step.session] = await Session.to(self._stage.place, presented, self._channel)
        session = self._sessions[step.session]
        match step:
            case model.Open():
                assert await session.receive() == Received(self._code(step.expect))
            case model.Publish():
                payload = self._stage.values.payload(step.payload)
                session.publish(self._text(step.topic), payload, qos=step.qos, retain=step.retain)
                wanted = Received(self._code(step.expect))
                got = await session.receive()
                assert got == wanted if step.qos else got.packet.startswith("PUBACK")  # which is paho's word for sent
            case model.Subscribe():
                session.subscribe(self._text(step.filter), step.qos)
                refused = 0x80 if self._channel is Channel.MQTT3 else 0x8F
                granted = refused if step.granted is None else step.granted
                assert await session.receive() == Received(f"SUBACK {granted:02X}")
            case model.Message():
                received = await session.receive()
                assert (received.packet, received.topic) == ("PUBLISH", self._text(step.topic))
                self._same(received.payload.decode(), step.payload)
            case model.Ended():
                codes = [self._code(verdict) for verdict in (step.expect, step.or_) if verdict is not None]
                assert (await session.receive()).packet in codes

    # Requests that only one protocol has.

    async def _http(self, step: model.Http) -> None:
        presented = self._stage.presented(step.login or Login())
        if step.certificate:
            presented = Presented(certificate=self._stage.files(step.certificate))
        curl = Curl(self._stage.place, presented, tls=self._channel is Channel.HTTPS)
        payload = None if step.payload is None else self._stage.values.payload(step.payload)
        answer = await curl.request(step.method, self._text(step.path), payload, step.headers)
        assert answer.code == str(step.expect), answer.text
        self._same(answer.text, step.body)

    async def _coap(self, step: model.Coap) -> None:
        coap = CoapClient(self._stage.place, self._stage.presented(None), self._channel)
        path = self._text(step.path)
        answer = await coap.request(step.method, path, self._stage.values.payload(step.payload))
        assert answer.code == step.expect, answer.text
        self._same(answer.text, step.body)

    def _same(self, text: str, wanted: Any) -> None:
        if isinstance(wanted, str):
            assert text == self._text(wanted)
        elif wanted is not ...:
            assert json.loads(text) == wanted

    # What the operator does.

    async def _operate(self, step: model.Change | model.Do | model.Trust) -> None:
        devices, name = self._operator.devices, self._stage.values.tag
        match step:
            case model.Change():
                change = DeviceChange(step.shared, step.server, step.delete_shared)
                await devices.update(self._text(step.name), change)
            case model.Do(Act.REVOKE):
                await devices.revoke(name)
            case model.Do(Act.DELETE):
                await devices.delete(name)
            case model.Do(Act.REARM):
                await devices.rearm(name)
            case model.Do(Act.DELETE_ROW):
                await self._stage.bench.rows(
                    "DELETE FROM credentials c USING device d WHERE d.id = c.device_id AND d.name = $1", name
                )
            case model.Trust():
                await self._trust(step)

    async def _trust(self, step: model.Trust) -> None:
        pki = self._stage.pki
        change = ProfileChange(
            authorities=None if step.authorities is None else [pki.authorities[name].der for name in step.authorities],
            crls=None if step.crls is None else [pki.crls[name] for name in step.crls],
            name_pattern=step.pattern,
        )
        with pytest.raises(Refused, match=step.refused) if step.refused else nullcontext():
            await self._operator.profiles.update(self._stage.profile, change)

    # What the operator sees.

    async def _look(
        self,
        step: model.Kept | model.Claimable | model.Attempted | model.Enrolled | model.Devices | model.Absent,
    ) -> None:
        match step:
            case model.Absent(name):
                names = [each.name async for each in self._operator.devices.stream(self._stage.profile)]
                assert self._text(name) not in names
            case model.Enrolled(count):
                await self._look_for_records(count)
            case model.Devices(count):
                assert (await self._operator.profiles.show(self._stage.profile)).device_count == count
            case model.Kept():
                await self._look_at_device(step)
            case model.Claimable(secret, seconds):
                await self._look_at_claim(self._text(secret), seconds)
            case model.Attempted(reason):
                await self._look_for_attempt(reason)

    async def _look_at_device(self, step: model.Kept) -> None:
        details = await self._operator.devices.show(self._text(step.name))
        if step.telemetry is not None:
            assert {sample.key: sample.value for sample in details.telemetry} == step.telemetry
        for scope, wanted in (("CLIENT", step.client), ("SHARED", step.shared)):
            if wanted is not None:
                filled = {key: self._text(value) if isinstance(value, str) else value for key, value in wanted.items()}
                assert {each.key: each.value for each in details.attributes if each.scope == scope} == filled
        if step.credentials is not None:
            assert tuple(each.type for each in details.credentials) == step.credentials
        if step.state != "":
            assert details.device.provision_state == step.state
        if step.online is not None:
            rows = await self._stage.bench.rows(
                "SELECT FROM presence WHERE device_id = $1 AND online_until > now()", details.device.id
            )
            assert bool(rows) is step.online

    async def _look_at_claim(self, secret: str, seconds: int) -> None:
        device = (await self._operator.devices.show(self._stage.values.tag)).device
        digest = self._operator.keys.digest("claim-secret", device.id.bytes, secret)
        [(stored, left)] = await self._stage.bench.rows(
            "SELECT secret_digest, extract(epoch FROM expires_at - now())::float8 FROM claim WHERE device_id = $1",
            device.id,
        )
        assert stored == digest
        assert seconds - CLOCK_SLACK < left <= seconds

    async def _look_for_records(self, count: int) -> None:
        id_ = self._stage.profile_id
        [(attempts, events)] = await self._stage.bench.rows(
            "SELECT (SELECT count(*) FROM attempt WHERE profile_id = $1 AND outcome = 'success'),"
            " (SELECT count(*) FROM outbox WHERE type = 'device.provisioned' AND payload ->> 'profileId' = $2)",
            id_,
            str(id_),
        )
        assert (attempts, events) == (count, count)

    async def _look_for_attempt(self, reason: str | None) -> None:
        transport = "HTTP" if self._channel in HTTP else "MQTT" if self._channel in MQTT else "COAP"

        async def recorded() -> bool:
            rows = await self._stage.bench.rows(
                "SELECT transport, reason FROM attempt WHERE address = $1 AND reason IS NOT NULL"
                " ORDER BY id DESC LIMIT 1",
                self._stage.place.address,
            )
            found = [tuple(row) for row in rows]
            return found == ([] if reason is None else [(transport, reason)])

        await until(recorded, f"the latest attempt has the reason {reason}")
