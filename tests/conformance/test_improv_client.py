"""py-improv-ble-client, an Improv client as the package index has it, gives the simulated device its WiFi."""

import asyncio
import json
import os

import pytest

from firmware_sim.improv import served
from firmware_sim.log import SerialLog
from firmware_sim.onboarding import Settings
from tests.conformance.test_sdk import SDK
from tests.support.wifi_board import SUCCESS, WifiBoard, failure

TOKEN = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"

# It speaks by bleak, which is a radio: in its place, this carries commands and results between characteristics and
# the serial port's packets, in which they are the same but for the frame.
PROGRAM = """
import asyncio, json, os, sys, tty
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

sys.modules |= {name: MagicMock() for name in (
    "bleak", "bleak.backends", "bleak.backends.characteristic", "bleak.backends.device", "bleak.backends.scanner",
    "bleak.backends.service", "bleak.exc",
)}
sys.modules["bleak.exc"].BleakError = OSError
radio = sys.modules["bleak_retry_connector"] = ModuleType("bleak_retry_connector")
radio.BleakClientWithServiceCache, radio.BLEAK_RETRY_EXCEPTIONS = None, (OSError,)
radio.retry_bluetooth_connection_error = lambda attempts: lambda procedure: procedure

async def establish_connection(*_, **__):
    client.is_connected = True
    return client

radio.establish_connection = establish_connection
from improv_ble_client import ImprovBLEClient, protocol
from improv_ble_client.errors import ProvisioningFailed

class SerialPort:
    services = SimpleNamespace(get_characteristic=lambda uuid: True)
    is_connected = False

    def __init__(self, path):
        self.port = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.port)
        self.heard = {}
        self.received = b""
        self.tasks = []
        asyncio.get_running_loop().add_reader(self.port, self.receive)

    async def start_notify(self, characteristic, handler):
        self.heard[characteristic] = handler

    async def read_gatt_char(self, characteristic):
        capabilities = protocol.Capabilities.DEVICE_INFO
        return bytes((capabilities if characteristic == protocol.CHARACTERISTIC_UUID_CAPABILITIES else 2,))

    async def write_gatt_char(self, characteristic, data, response):
        assert characteristic == protocol.CHARACTERISTIC_UUID_RPC_COMMAND
        body = bytes(data[:-1])
        packet = b"IMPROV\\x01\\x03" + bytes((len(body),)) + body
        os.write(self.port, packet + bytes((sum(packet) & 0xFF,)))

    async def disconnect(self):
        self.is_connected = False

    def receive(self):
        self.received += os.read(self.port, 1024)
        while len(self.received) > 8 and len(self.received) > 10 + self.received[8]:
            size = 10 + self.received[8]
            packet, self.received = self.received[:size], self.received[size:].lstrip(b"\\n")
            assert packet.startswith(b"IMPROV\\x01") and sum(packet[:-1]) & 0xFF == packet[-1]
            kind, body = packet[7], packet[9:-1]
            characteristic = {
                1: protocol.CHARACTERISTIC_UUID_STATE, 2: protocol.CHARACTERISTIC_UUID_ERROR,
                4: protocol.CHARACTERISTIC_UUID_RPC_RESULT,
            }[kind]
            if kind == 4:
                body += bytes((sum(body) & 0xFF,))
            notified = self.heard[characteristic](SimpleNamespace(uuid=characteristic), body)
            self.tasks.append(asyncio.ensure_future(notified))

class Cloud(protocol.Command):
    cmd_id = 0xF0

async def attempt(device, password):
    states = []
    try:
        url = await device.provision("Home", password, lambda state: states.append(state.name))
    except ProvisioningFailed as failed:
        while client.is_connected:  # it hangs up then
            await asyncio.sleep(0)
        return [str(failed), states]
    return [url, states]

async def main():
    global client
    client = SerialPort(sys.argv[1])
    device = ImprovBLEClient(SimpleNamespace(address="AA:BB:CC:DD:EE:FF", name="Meter"))
    await device.ensure_connected()
    info = await device.get_device_info()
    told = [info.firmware_name.decode(), info.firmware_version.decode(), info.device_name.decode()]
    tried = [await attempt(device, "right")]
    await device.ensure_connected()
    taken = device.receive_response(Cloud)
    await device.send_cmd(Cloud([sys.argv[2].encode(), b"iot.example.com", b"8443"]))
    await taken
    for password in ("wrong", "right"):
        tried.append(await attempt(device, password))
    print(json.dumps([told, tried]))

asyncio.run(main())
"""


async def test_it_is_told_who_the_device_is_and_what_comes_of_each_try() -> None:
    if not SDK.exists():
        message = "the client is not installed: make sdk"
        pytest.fail(message) if os.environ.get("PROVSERVER_TEST_REQUIRE_TOOLS") else pytest.skip(message)
    board = WifiBoard(outcomes=[failure(722), SUCCESS])
    async with served(board, SerialLog(None)) as path:
        client = await asyncio.create_subprocess_exec(
            SDK, "-c", PROGRAM, str(path), TOKEN, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            printed, said = await client.communicate()
        finally:
            if client.returncode is None:
                client.kill()
                await client.wait()

    assert client.returncode == 0, said.decode()
    told, [without_a_token, wrong, right] = json.loads(printed)
    assert told == ["TMPL2feLBENZh", "1.2.3", "Blynk Meter-8DCF"]
    assert without_a_token == ["UNABLE_TO_CONNECT", []]
    assert wrong[0] == "UNABLE_TO_CONNECT"
    assert right[0] is None
    assert set(right[1]) >= {"PROVISIONING", "PROVISIONED"}
    assert board.configured == [
        Settings("Home", password, TOKEN, "iot.example.com", 8443) for password in ("wrong", "right")
    ]
