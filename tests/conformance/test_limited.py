"""Who guesses is told to come back, on each transport in its own way; the processes of a server count together."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.conformance.clients import coap, mqtt
from tests.conformance.model import Refused
from tests.conformance.replies import check_refused
from tests.server import Server

LIMITED = Refused(status="FAILURE", error="Too many requests, try again later!", retry_after=5)
WAITS = [str(seconds) for seconds in range(5, 11)]
HEARD = 4
"""Three guesses, and the one that a locked address is heard at once."""

PATH = coap.path_options(("api", "v1", "provision"))


def guess(number: int) -> bytes:
    return json.dumps({"provisionDeviceKey": "key", "provisionDeviceSecret": f"guess {number}"}).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Its two processes grant three guesses, and hardly one more."""
    limits = {"GUESS_LIMIT": "3", "GUESS_INTERVAL": "1000000", "LOCKED_INTERVAL": "1000000"}
    directory: Path = tmp_path_factory.mktemp("limited")
    environment = {f"PROVSERVER_{name}": value for name, value in limits.items()}
    with Server(directory / "data", "--workers", "2", env=environment) as running:
        running.cli("profile", "create", "any", "--key", "key", "--secret", "secret")
        yield running


async def test_guesses_are_counted_over_all_processes(server: Server) -> None:
    told: Counter[int] = Counter()
    for number in range(20):  # each on a connection of its own, so each process has some
        elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))  # which no other test has locked before this one
        async with (
            aiohttp.ClientSession(connector=elsewhere) as session,
            session.post(f"http://{server.http}/api/v1/provision", data=guess(number)) as response,
        ):
            body = await response.read()
            told[response.status] += 1
        if response.status == 429:
            check_refused(body, LIMITED)
            assert response.headers["Retry-After"] == str(json.loads(body)["retryAfter"])
    assert told == {200: HEARD, 429: 20 - HEARD}


@pytest.mark.parametrize("version", [mqtt.V3_1_1, mqtt.V5])
async def test_over_mqtt(server: Server, version: int) -> None:
    await locked(server)
    link = await mqtt.Link.to(server.mqtt, version)
    try:
        link.send(mqtt.Connect(), mqtt.Publish(guess(0)))
        assert isinstance(await link.receive(), mqtt.Connack)
        assert await link.receive() == mqtt.Ack(1, 0x97 if version == mqtt.V5 else 0)
        reply = await link.receive()
        assert isinstance(reply, mqtt.Published)
        check_refused(reply.payload, LIMITED)
    finally:
        await link.close()


@pytest.mark.parametrize(("version", "code"), [(mqtt.V3_1_1, 3), (mqtt.V5, 0x9F)])
async def test_a_token_over_mqtt(server: Server, version: int, code: int) -> None:
    await locked(server)
    link = await mqtt.Link.to(server.mqtt, version)
    try:
        link.send(mqtt.Connect(username="a guess"))
        connack = await link.receive()
        assert isinstance(connack, mqtt.Connack)
        assert connack.code == code
    finally:
        await link.close()


@pytest.mark.parametrize("path", ["/api/v1/a-guess/attributes", "/external/api/get?token=a-guess&v1"])
async def test_a_token_over_http(server: Server, path: str) -> None:
    await locked(server)
    async with aiohttp.request("GET", f"http://{server.http}{path}") as response:
        assert (response.status, response.headers["Retry-After"] in WAITS) == (429, True)


async def test_over_coap(server: Server) -> None:
    """Datagrams are counted apart, as their source can be forged."""
    codes: Counter[str] = Counter()
    for number in range(10):
        endpoint = await coap.Endpoint.to(server.coap)
        response = await endpoint.ask("POST", PATH, guess(number).ljust(200))
        codes[response.code] += 1
        if response.code == "4.01":  # with an Echo: see tests/transports/test_coap_echo.py
            check_refused(response.payload, LIMITED)
            assert response.max_age == json.loads(response.payload)["retryAfter"]
        token = await endpoint.ask("GET", coap.path_options(("api", "v1", "a-guess", "attributes")), b"")
        codes[token.code] += 1
        endpoint.close()
    assert codes == {"4.00": 2, "4.01": 10, "4.29": 8}  # of the tokens two were heard


async def locked(server: Server) -> None:
    """Have our address locked, if it is not."""
    for number in range(HEARD + 1):
        async with aiohttp.request("POST", f"http://{server.http}/api/v1/provision", data=guess(number)):
            await asyncio.sleep(0)
