"""esp-protocomm, a client of ESP-IDF's provisioning as the package index has it, sets the simulated device up."""

import asyncio
import json
import os

import pytest

from firmware_sim import esp_prov
from firmware_sim.address import Address
from firmware_sim.log import SerialLog
from firmware_sim.onboarding import Settings
from tests.conformance.test_sdk import SDK
from tests.support.wifi_board import SUCCESS, WifiBoard, failure

TOKEN = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"

# It has security 1 and no HTTP; a way to carry its messages is what it asks its user for.
PROGRAM = """
import asyncio, http.client, json, sys
from esp_protocomm import Security1, SecurityError, establish_session, provision_wifi

class Http:
    def __init__(self):
        self.connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
        self.headers = {}

    async def send(self, endpoint, data):
        self.connection.request("POST", "/" + endpoint, data, self.headers)
        answer = self.connection.getresponse()
        if cookie := answer.getheader("Set-Cookie"):
            self.headers["Cookie"] = cookie
        assert answer.status == 200
        return answer.read()

async def attempt(proof):
    device = Http()
    try:
        security = await establish_session(device, Security1(pop=proof))
    except SecurityError:
        return "refused"
    given = json.dumps({"token": sys.argv[2], "host": "iot.example.com"}).encode()
    board = json.loads(security.decrypt(await device.send("custom-data", security.encrypt(given))))
    status = await provision_wifi(device, security, "Home", "secret", poll_interval=0.01)
    return [board["tmpl_id"], status.describe()]

print(json.dumps([asyncio.run(attempt(proof)) for proof in sys.argv[3:]]))
"""


async def attempt(board: WifiBoard, *proofs: str) -> list[object]:
    """What the client says of its tries with these proofs, one after the other."""
    if not SDK.exists():
        message = "the client is not installed: make sdk"
        pytest.fail(message) if os.environ.get("PROVSERVER_TEST_REQUIRE_TOOLS") else pytest.skip(message)
    possession = esp_prov.Possession("abcd1234")
    async with esp_prov.served(Address("127.0.0.1", 0), board, SerialLog(None), possession) as address:
        process = await asyncio.create_subprocess_exec(
            SDK,
            "-c",
            PROGRAM,
            str(address.port),
            TOKEN,
            *proofs,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, error = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, error.decode()
    said: list[object] = json.loads(out)
    return said


async def test_a_wrong_proof_and_then_the_right_one() -> None:
    board = WifiBoard(outcomes=[SUCCESS])
    assert await attempt(board, "abcd1235", "abcd1234") == ["refused", ["TMPL2feLBENZh", "connected"]]
    assert board.configured == [Settings(ssid="Home", password="secret", token=TOKEN, host="iot.example.com")]


async def test_a_wrong_password() -> None:
    said = await attempt(WifiBoard(outcomes=[failure(722)]), "abcd1234")
    assert said == [["TMPL2feLBENZh", "connection failed: incorrect password"]]
