"""A server tells a webhook what its devices do, whichever of its processes that is for."""

import asyncio
import json
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.adapters.conftest import serving
from tests.adapters.receiver import Receiver
from tests.server import Server
from tests.services.conftest import until


@pytest.mark.parametrize("options", [("--workers", "2"), ("--admin", "")], ids=["beside-operators", "beside-devices"])
async def test_a_server_tells_of_its_devices(tmp_path: Path, options: tuple[str, ...]) -> None:
    server = Server(tmp_path / "data", *options, env={"PROVSERVER_OUTGOING_PRIVATE": "127.0.0.1"})
    async with serving(Receiver()) as receiver:
        assert isinstance(receiver, Receiver)
        await asyncio.to_thread(server.start)
        try:
            made = await asyncio.to_thread(server.cli, "profile", "create", "sensors", "--strategy", "allow-create")
            webhook = await asyncio.to_thread(server.cli, "webhook", "create", receiver.url)
            receiver.secret = webhook["secret"]
            tried = await asyncio.to_thread(server.cli, "webhook", "test", webhook["id"])
            assert tried["delivered"]
            request = {
                "deviceName": "sensor-1",
                "provisionDeviceKey": made["provisionDeviceKey"],
                "provisionDeviceSecret": made["provisionDeviceSecret"],
            }
            asked = Request(f"http://{server.http}/api/v1/provision", json.dumps(request).encode(), method="POST")
            answer = json.loads(await asyncio.to_thread(lambda: urlopen(asked, timeout=60).read()))
            await until(lambda: len(receiver.events) >= 2)
        finally:
            assert await asyncio.to_thread(server.stop) == 0
    assert receiver.events[0]["type"] == "webhook.test"
    assert receiver.events[1]["type"] == "device.provisioned"
    assert receiver.events[1]["data"]["deviceId"] == answer["deviceId"]
    assert answer["credentialsValue"] not in str(receiver.events)
    assert "Traceback" not in server.log
