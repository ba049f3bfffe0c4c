"""Programs as they come, unmodified: curl, mosquitto's and libcoap's clients."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conformance.bench import Bench, Stage, staged, until
from tests.conformance.model import Case
from tests.conformance.requests import request

Tool = Callable[..., str]

VERSIONS = ["mqttv31", "mqttv311", "mqttv5"]
COAP_CLIENTS = ["coap-client-notls", "coap-client-openssl"]
PROVISION = "/provision/request"
TIME_LIMIT = 90.0

CERTIFICATE = request(credentialsType="X509_CERTIFICATE", hash="«pem»")


@dataclass(frozen=True, slots=True)
class Done:
    """What a program said."""

    code: int
    output: str
    error: str

    def reply(self) -> Any:
        assert self.code == 0, self.error
        return json.loads(self.output)


class Shop:
    """A profile of the test's own, and the means to run programs."""

    def __init__(self, bench: Bench, stage: Stage) -> None:
        self.bench = bench
        self.values = stage.values

    def text(self, payload: str) -> str:
        """A payload with its placeholders filled in, for a command line."""
        return self.values.payload(payload).decode()

    async def run(self, *command: str, input_: str = "") -> Done:
        """Run a program to its end; its input is a payload with placeholders."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(TIME_LIMIT):
                output, error = await process.communicate(self.values.payload(input_))
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return Done(process.returncode, output.decode(), error.decode())

    async def mosquitto(self, program: str, version: str, *options: str, input_: str = "") -> Done:
        """Run one of mosquitto's clients in a provision session."""
        host, _, port = self.bench.server.mqtt.rpartition(":")
        return await self.run(program, "-V", version, "-h", host, "-p", port, *options, input_=input_)

    async def coap(self, program: str, *options: str, input_: str) -> Done:
        """Post with one of libcoap's clients."""
        uri = f"coap://{self.bench.server.coap}/api/v1/provision"
        return await self.run(program, "-m", "post", "-B", "60", *options, "-f", "-", uri, input_=input_)

    async def provisioned(self) -> bool:
        """Whether the device of the test is there."""
        rows = await self.bench.rows("SELECT FROM device WHERE name = $1", self.values.tag)
        return len(rows) == 1

    async def check(self, reply: Any, value: str | None = None) -> None:
        """The reply is a SUCCESS of the device that is stored, with the credentials that are."""
        details = await self.bench.operator.devices.show(self.values.tag, open_=True)
        assert reply["status"] == "SUCCESS"
        assert reply["deviceId"] == str(details.device.id)
        assert reply["credentialsValue"] == details.opened[0].value
        assert value is None or reply["credentialsValue"] == self.values.text(value)


@pytest.fixture
async def shop(bench: Bench) -> AsyncIterator[Shop]:
    async with staged(bench, Case(id="clients/any", says="", cites="", steps=())) as stage:
        yield Shop(bench, stage)


@pytest.mark.parametrize("header", [(), ("-H", "Content-Type: application/json"), ("-H", "Content-Type:")])
async def test_curl(shop: Shop, tool: Tool, header: tuple[str, ...]) -> None:
    url = f"http://{shop.bench.server.http}/api/v1/provision"
    done = await shop.run(tool("curl"), "-sS", "--fail", *header, "--data-binary", "@-", url, input_=request())
    await shop.check(done.reply())


async def test_curl_with_a_certificate(shop: Shop, tool: Tool) -> None:
    url = f"http://{shop.bench.server.http}/api/v1/provision"
    done = await shop.run(tool("curl"), "-sS", "--fail", "--data-binary", "@-", url, input_=CERTIFICATE)
    await shop.check(done.reply(), "«body»")


@pytest.mark.parametrize("qos", ["0", "1"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_mosquitto_rr(shop: Shop, tool: Tool, version: str, qos: str) -> None:
    done = await shop.mosquitto(
        tool("mosquitto_rr"),
        *(version, "-u", "provision", "-q", qos, "-W", "60"),
        *("-t", PROVISION, "-e", "/provision/response", "-m", shop.text(request())),
    )
    await shop.check(done.reply())


@pytest.mark.parametrize("version", VERSIONS)
async def test_mosquitto_rr_by_client_id(shop: Shop, tool: Tool, version: str) -> None:
    done = await shop.mosquitto(
        tool("mosquitto_rr"),
        *(version, "-i", "provision", "-W", "60"),
        *("-t", PROVISION, "-e", "/provision/response", "-m", shop.text(CERTIFICATE)),
    )
    await shop.check(done.reply(), "«body»")


@pytest.mark.parametrize("qos", ["0", "1"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_mosquitto_pub(shop: Shop, tool: Tool, version: str, qos: str) -> None:
    done = await shop.mosquitto(
        tool("mosquitto_pub"), version, "-u", "provision", "-q", qos, "-t", PROVISION, "-s", input_=request()
    )
    assert done.code == 0, done.error
    await until(shop.provisioned, "the device is there")


@pytest.mark.parametrize("version", ["mqttv31", "mqttv311"])
async def test_mosquitto_pub_at_qos_2(shop: Shop, tool: Tool, version: str) -> None:
    done = await shop.mosquitto(
        tool("mosquitto_pub"), version, "-u", "provision", "-q", "2", "-t", PROVISION, "-s", input_=request()
    )
    assert done.code == 0, done.error
    assert await shop.provisioned()


@pytest.mark.parametrize("version", VERSIONS)
async def test_mosquitto_pub_elsewhere_fails(shop: Shop, tool: Tool, version: str) -> None:
    done = await shop.mosquitto(
        tool("mosquitto_pub"), version, "-u", "provision", "-q", "1", "-t", "/provision", "-s", input_=request()
    )
    assert version != "mqttv5" or done.error
    assert not await shop.provisioned()


@pytest.mark.parametrize("version", VERSIONS)
async def test_mosquitto_sub(shop: Shop, tool: Tool, version: str) -> None:
    """-E: it leaves once its subscription is acknowledged, and never does without."""
    done = await shop.mosquitto(
        tool("mosquitto_sub"), version, "-u", "provision", "-q", "1", "-t", "/provision/response", "-E"
    )
    assert (done.code, done.output) == (0, ""), done.error


@pytest.mark.parametrize("program", COAP_CLIENTS)
async def test_coap_client(shop: Shop, tool: Tool, program: str) -> None:
    done = await shop.coap(tool(program), "-t", "application/json", input_=request())
    await shop.check(done.reply())


@pytest.mark.parametrize("options", [(), ("-b", "64"), ("-N",)], ids=["confirmable", "small-blocks", "non-confirmable"])
@pytest.mark.parametrize("program", COAP_CLIENTS)
async def test_coap_client_with_a_certificate(shop: Shop, tool: Tool, program: str, options: tuple[str, ...]) -> None:
    """A body of 4 KB in blocks, and one of the same size back."""
    done = await shop.coap(tool(program), *options, input_=CERTIFICATE)
    await shop.check(done.reply(), "«body»")


@pytest.mark.parametrize("program", COAP_CLIENTS)
async def test_coap_client_is_refused(shop: Shop, tool: Tool, program: str) -> None:
    done = await shop.coap(tool(program), input_=request(provisionDeviceSecret="wrong"))
    assert "4.00" in done.output + done.error
    assert not await shop.provisioned()
