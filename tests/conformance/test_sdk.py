"""ThingsBoard's own Python SDK, as it comes from the package index, provisions devices here."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.server import Server

SDK = Path(__file__).parents[2] / ".venv-sdk/bin/python"

PROGRAM = """
import json, sys
from tb_device_http import TBHTTPDevice
from tb_device_mqtt import TBDeviceMqttClient
http, mqtt_port, key, secret = sys.argv[1:]
def ask(secret=secret, **members):
    return TBDeviceMqttClient.provision("127.0.0.1", key, secret, port=int(mqtt_port), **members)
print(json.dumps([
    ask(device_name="sdk-generated"),
    ask(device_name="sdk-token", access_token="a-token-of-its-own"),
    ask(device_name="sdk-basic", username="user", password="pass", client_id="client"),
    ask(device_name="sdk-certificate", hash="MIIB"),
    ask(device_name="sdk-refused", secret="wrong"),
    TBHTTPDevice.provision("http://" + http, "sdk-http", key, secret).name,
]))
"""


def test_the_sdk_walks_away_with_every_kind_of_credentials(server: Server) -> None:
    if not SDK.exists():
        message = "the SDK is not installed: make sdk"
        pytest.fail(message) if os.environ.get("PROVSERVER_TEST_REQUIRE_TOOLS") else pytest.skip(message)
    pair = server.cli("profile", "create", "sdk")
    command = [str(SDK), "-c", PROGRAM, server.http, server.mqtt.split(":")[1]]
    command += [pair["provisionDeviceKey"], pair["provisionDeviceSecret"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    generated, token, basic, certificate, refused, http = json.loads(done.stdout)
    assert len(generated["credentialsValue"]) == 32
    assert token["credentialsValue"] == "a-token-of-its-own"
    assert basic["credentialsValue"] == {"clientId": "client", "userName": "user", "password": "pass"}
    assert certificate["credentialsValue"] == "MIIB"
    assert refused is None
    assert "NOT_FOUND" in done.stderr
    assert http == "sdk-http"
    names = {device["name"] for device in server.cli("device", "list", "--profile", "sdk")}
    assert names == {"sdk-generated", "sdk-token", "sdk-basic", "sdk-certificate", "sdk-http"}
