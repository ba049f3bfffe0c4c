"""MQTT, by mosquitto's clients: mosquitto_pub, mosquitto_sub and mosquitto_rr."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.conformance.channels.model import Channel
from tests.conformance.channels.programs.base import Answer, Lines, Listener, Place, Presented, run, started
from tests.conformance.channels.rendering import NO_HANDSHAKE

TOPICS = {
    "telemetry": "v1/devices/me/telemetry",
    "attributes": "v1/devices/me/attributes",
    "claim": "v1/devices/me/claim",
}
REQUEST, RESPONSE = "v1/devices/me/attributes/request/1", "v1/devices/me/attributes/response/1"

_RECEIVED = re.compile(r"received (CONNACK|PUBACK|DISCONNECT) \((?:Mid: \d+, RC:)?(\d+)\)")


class Mosquitto:
    """A device on MQTT."""

    def __init__(self, place: Place, presented: Presented, channel: Channel) -> None:
        self._place = place
        self._presented = presented
        self._channel = channel

    async def come(self) -> Answer:
        """By mosquitto_sub, which leaves once it has subscribed: -E."""
        return await self._run("mosquitto_sub", *self._connect(), "-d", "-E", "-t", TOPICS["attributes"])

    async def send(self, feature: str, payload: bytes) -> Answer:
        what = ("-s",) if payload else ("-n",)
        topic = TOPICS.get(feature, feature)
        return await self._run("mosquitto_pub", *self._connect(), "-d", "-q", "1", "-t", topic, *what, input_=payload)

    async def ask(self, client: str | None, shared: str | None) -> Answer:
        keys = {name: keys for name, keys in (("clientKeys", client), ("sharedKeys", shared)) if keys is not None}
        return await self._exchange(REQUEST, RESPONSE, json.dumps(keys), self._connect())

    async def provision(self, payload: bytes) -> Answer:
        connect = self._connect(provision=True)
        return await self._exchange("/provision/request", "/provision/response", payload.decode(), connect)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Listener]:
        """stdbuf: it would keep what it has to say until it has more."""
        command = ("-oL", self._place.tool("mosquitto_sub"), *self._connect(), "-d", "-q", "1", "-F", "%p")
        async with started(
            self._place.tool("stdbuf"), *command, "-t", TOPICS["attributes"], stderr=asyncio.subprocess.STDOUT
        ) as process:
            lines = Lines(process)
            await lines.next(lambda line: line.startswith("Subscribed"))
            yield _Subscriber(lines)

    async def _exchange(self, request: str, response: str, payload: str, connect: tuple[str, ...]) -> Answer:
        command = (*connect, "-q", "1", "-W", "60", "-t", request, "-e", response, "-m", payload)
        done = await run(self._place.tool("mosquitto_rr"), *command)
        assert done.code == 0, done.error
        return Answer("reply", done.output.rstrip("\n"))

    async def _run(self, program: str, *options: str, input_: bytes = b"") -> Answer:
        done = await run(self._place.tool(program), *options, input_=input_, environment=self._presented.environment)
        received = {kind: int(code) for kind, code in _RECEIVED.findall(done.output)}
        said = (done.output + done.error).strip()
        v5 = self._channel is not Channel.MQTT3
        if "CONNACK" not in received:
            assert self._channel is Channel.MQTTS, said
            return Answer(NO_HANDSHAKE, said)
        last = next(kind for kind in ("DISCONNECT", "PUBACK", "CONNACK") if kind in received)
        code = f" 0x{received[last]:02X}" if v5 else f" {received[last]}" if last == "CONNACK" else ""
        if last == "CONNACK" and not received[last] and done.code == 7:  # MOSQ_ERR_CONN_LOST
            return Answer("closed", said)
        return Answer(last + code, said)

    def _connect(self, *, provision: bool = False) -> tuple[str, ...]:
        place, presented, tls = self._place, self._presented, self._channel is Channel.MQTTS
        host, _, port = (place.server.mqtts if tls else place.server.mqtt).rpartition(":")
        version = "mqttv311" if self._channel is Channel.MQTT3 else "mqttv5"
        options = ["-V", version, "-h", host, "-p", port, "-A", place.address]
        for option, value in (
            ("-u", "provision" if provision else presented.username or presented.token),
            ("-P", presented.password),
            ("-i", presented.client_id),
        ):
            options += [option, value] if value else []
        if presented.identity:
            return (*options, "--psk-identity", presented.identity, "--psk", presented.key.encode().hex())
        if tls:
            options += ["--cafile", str(place.server.ca)]
        if presented.certificate is not None:
            certificate, key = presented.certificate
            options += ["--cert", str(certificate), "--key", str(key)]
        return tuple(options)


class _Subscriber:
    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    async def next(self) -> str:
        return await self._lines.next(lambda line: line.startswith("{"))
