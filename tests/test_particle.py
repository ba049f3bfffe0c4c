"""A fleet of Particle's, from the factory's CSV to values on our server, with real processes on our side."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.firmware_sim.test_cli import simulate
from tests.server import LIMIT, Server
from tests.support.particle import BLYNK_WEBHOOK, PRODUCT, TOKEN, Call, Particle

DEVICES = 6


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    env = {"PROVSERVER_OUTGOING_PRIVATE": "127.0.0.1", "PARTICLE_ACCESS_TOKEN": TOKEN}
    made = Server(tmp_path / "data", env=env)
    await asyncio.to_thread(made.start)
    yield made
    if made.process is not None and made.process.poll() is None:
        assert await asyncio.to_thread(made.stop) == 0
    assert "Traceback" not in made.log
    assert TOKEN not in made.log


async def test_from_the_csv_to_a_device_that_is_online(server: Server, tmp_path: Path) -> None:
    async with Particle() as cloud:
        devices = cloud.add(*range(1, DEVICES + 1))
        cloud.webhooks.append(BLYNK_WEBHOOK | {"url": f"http://{server.http}/external/api/batch/update"})

        async def cli(*words: str) -> Any:
            return await asyncio.to_thread(server.cli, *words)

        fields = ("--metadata-field", "Particle Device ID:text:unique")
        streams = [
            f"{name}:{pin}:{type_}"
            for name, pin, type_ in (
                ("Published", "V6", "string"),
                ("Uptime", "V14", "integer"),
                ("Temperature", "V15", "double"),
                ("LED", "V16", "integer"),
                ("Button", "V17", "integer"),
            )
        ]
        streams = [word for stream in streams for word in ("--datastream", stream)]
        await cli("profile", "create", "sensors", *fields, *streams)
        rows = ["Device Name,Particle Device ID", *(f"sensor-{n},{id_}" for n, id_ in enumerate(devices[:4]))]
        rows += [f"spare-{n}," for n in range(3)]
        (tmp_path / "factory.csv").write_text("\r\n".join(rows))
        await cli("token", "import", str(tmp_path / "factory.csv"), "--profile", "sensors")

        connected = await cli("particle", "connect", "--profile", "sensors", "--product", PRODUCT, "--url", cloud.url)
        assert TOKEN not in str(connected)
        report = await cli("particle", "apply", PRODUCT)
        assert (report["counts"], report["settled"]) == ({"write": DEVICES}, True)
        given = cloud.tokens_given()
        assert len(set(given.values())) == DEVICES
        assert not any(token in str(report) for token in given.values())
        cloud.reorder()
        assert (await cli("particle", "apply", PRODUCT))["counts"] == {"keep": DEVICES}
        assert cloud.tokens_given() == given

        device = devices[0]
        done = await asyncio.to_thread(
            simulate, "particle", "--cloud", cloud.url, "--device", device, "--events", "2", "--interval", "0.01"
        )
        assert done.code == 0, done.stdout
        assert cloud.hooked == [(200, "")] * 2
        url = f"http://{server.http}/external/api/getAll?token={given[device]}"
        values = json.loads(await asyncio.to_thread(lambda: urlopen(url, timeout=60).read()))
        assert (values["v15"], values["v16"]) == (20.1, 1)
        assert values["v6"] == cloud.events[-1]["published_at"]
        url = f"http://{server.http}/external/api/isHardwareConnected?token={given[device]}"
        assert json.loads(await asyncio.to_thread(lambda: urlopen(url, timeout=60).read())) is True

        cloud.data(device)["blynk_token"] = "t" * 32  # what no server knows
        done = await asyncio.to_thread(simulate, "particle", "--cloud", cloud.url, "--device", device)
        (*_, (status, text)) = cloud.hooked
        assert (status, "Invalid token" in text) == (400, True)


async def test_a_command_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    secrets = [f"{'t' * 28}{number:04}" for number in range(8)]
    (tmp_path / "tokens.csv").write_text("\n".join(["Device Token", *secrets]))
    env = os.environ | {"PROVSERVER_OUTGOING_PRIVATE": "127.0.0.1", "PARTICLE_ACCESS_TOKEN": TOKEN}
    async with Particle() as cloud:
        cloud.add(*range(1, DEVICES + 1))
        words = ["particle", "csv", "apply", "--csv", "tokens.csv", "--product", PRODUCT, "--url", cloud.url, "--json"]
        command = [sys.executable, "-m", "provserver", *words]
        for after in (False, True):
            held = cloud.hold(Call.WRITE, after=after)
            with (tmp_path / "said").open("wb") as said:
                running = subprocess.Popen(  # noqa: ASYNC220 - it takes no time
                    command, cwd=tmp_path, env=env, stdout=said, stderr=said
                )
            reached = asyncio.create_task(held.reached.wait())
            ended = asyncio.create_task(asyncio.to_thread(running.wait))
            await asyncio.wait({reached, ended}, timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
            reached.cancel()
            running.kill()
            await ended
            assert held.reached.is_set(), (tmp_path / "said").read_text()
            held.free.set()
            cloud.reorder()
        done = await asyncio.to_thread(
            lambda: subprocess.run(
                command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=LIMIT
            )
        )
        assert done.returncode == 0, done.stderr
        expected = dict(zip(sorted(cloud.devices), secrets, strict=False))
        assert cloud.tokens_given() == {device: expected[device] for device in cloud.devices}
