"""`provserver serve` as a process."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from provserver import app, workspace
from provserver.config import Config
from provserver.core.model import ProvisionStrategy
from provserver.errors import Misconfigured
from provserver.services.profiles import KeyPair, ProfileChange
from provserver.store import schema
from tests.server import STOP_LIMIT, CommandFailed, Server, children
from tests.services.conftest import Lock


async def make_profile(space: workspace.Workspace, name: str) -> KeyPair:
    """A profile that lets any device in."""
    strategy = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES
    return (await space.profiles.create(ProfileChange(name=name, strategy=strategy)))[1]


async def provision(server: Server, name: str, pair: KeyPair, **members: object) -> dict[str, Any]:
    """The reply over HTTP."""
    body = {"deviceName": name, "provisionDeviceKey": pair.key, "provisionDeviceSecret": pair.secret} | members
    request = urllib.request.Request(f"http://{server.http}/api/v1/provision", data=json.dumps(body).encode())

    def ask() -> dict[str, Any]:
        with urllib.request.urlopen(request, timeout=60) as response:
            reply: dict[str, Any] = json.load(response)
            return reply

    return await asyncio.to_thread(ask)


def status(server: Server, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{server.http}{path}", timeout=60) as response:
            code: int = response.status
            return code
    except urllib.error.HTTPError as fault:
        fault.close()
        return fault.code


def accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def ready_file(server: Server) -> Path:
    return server.data_dir.with_name(server.data_dir.name + ".ready.json")


@dataclass
class Second:
    """A second server on a data directory that is in use."""

    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def second(server: Server) -> Iterator[Second]:
    """Started first and looked at last: it waits for ten seconds before it gives up."""
    command = [sys.executable, "-m", "provserver", "serve", "--data-dir", str(server.data_dir)]
    for listener in ("http", "mqtt", "coap", "admin"):
        command += [f"--{listener}", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield Second(process)
        process.kill()


@pytest.fixture(scope="module")
async def served_url(postgres: str) -> str:
    """The DSN of a database that nothing was done to."""
    name = f"served_{os.urandom(4).hex()}"
    connection = await asyncpg.connect(postgres)
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    await connection.close()
    return postgres.replace("/provserver?", f"/{name}?")


@pytest.fixture(scope="module")
def served(served_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a database of somebody else's."""
    with Server(tmp_path_factory.mktemp("served") / "data", "--database-url", served_url) as running:
        yield running


# --- starting


@pytest.mark.usefixtures("second")
def test_the_ready_file_holds_the_addresses_that_accept(server: Server) -> None:
    addresses = json.loads(ready_file(server).read_text())

    assert set(addresses) == {"http", "mqtt", "coap", "https", "mqtts", "coaps", "admin"}
    assert all(address.startswith("127.0.0.1:") and not address.endswith(":0") for address in addresses.values())
    assert accepts(addresses["http"])
    assert accepts(addresses["mqtt"])
    assert list(ready_file(server).parent.glob(".*ready*")) == []
    assert (status(server, "/healthz"), status(server, "/readyz")) == (200, 200)


def test_nothing_is_said_on_stdout_and_the_log_is_json(server: Server) -> None:
    for line in server.log.splitlines():
        assert {"event", "level", "logger", "timestamp"} <= json.loads(line).keys()
    assert "serving: http 127.0.0.1:" in server.log
    assert "database made, " in server.log
    assert "migration applied" not in server.log


async def test_a_database_of_somebody_elses_is_upgraded_and_served(served: Server, served_url: str) -> None:
    async with workspace.workspace(Config(data_dir=served.data_dir, database_url=served_url)) as space:
        assert await schema.pending(space.database) == []
        pair = await make_profile(space, "sensors")
        assert (await provision(served, "sensor-1", pair))["status"] == "SUCCESS"
        assert (await space.devices.show("sensor-1")).device.provision_state == "provisioned"

    names = {path.name for path in served.data_dir.iterdir()}
    upkeep = {name for name in names if "audit-head.json" in name}  # written in its own time, beside its place at first
    assert names - upkeep == {"keys.json", "setup-link"}
    assert f"database made, {len(schema.known())} migrations" in served.log
    assert served_url not in served.log


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        (("--log-level", "loud"), "log_level must be one of"),
        (("--ready-file", "/nowhere/at/all"), "ready_file: /nowhere/at/all cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_option_that_cannot_be_ends_it_with_3_and_the_fix(
    served: Server, options: tuple[str, ...], fix: str
) -> None:
    command = [sys.executable, "-m", "provserver", "serve", "--data-dir", str(served.data_dir), *served.options]
    for each in ("http", "mqtt", "coap", "admin"):
        command += [f"--{each}", "127.0.0.1:0"]

    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=120)

    assert (done.returncode, done.stdout) == (3, "")
    assert fix in done.stderr
    assert "Traceback" not in done.stderr


# --- serving


async def test_the_data_outlive_stops_and_power_cuts(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", fresh=True)
    await asyncio.to_thread(server.start, restartable=True)
    try:
        async with workspace.workspace(Config(data_dir=server.data_dir)) as space:
            pair = await make_profile(space, "sensors")
        first = await provision(server, "sensor-1", pair, requestNonce="n" * 32)
        assert await asyncio.to_thread(server.stop) == 0
        assert not ready_file(server).exists()

        await asyncio.to_thread(server.start)
        assert await provision(server, "sensor-1", pair, requestNonce="n" * 32) == first
        assert (await provision(server, "sensor-1", pair))["status"] == "FAILURE"

        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        assert await provision(server, "sensor-1", pair, requestNonce="n" * 32) == first
    finally:
        assert await asyncio.to_thread(server.stop) == 0


async def test_sigterm_answers_what_is_under_way_and_ends_with_0(
    served_url: str, served: Server, tmp_path: Path
) -> None:
    server = Server(tmp_path / "data", "--database-url", served_url, "--config", str(tmp_path / "keys.toml"))
    (tmp_path / "keys.toml").write_text(f'keys_file = "{served.data_dir / "keys.json"}"\n')
    await asyncio.to_thread(server.start)
    assert server.process is not None
    try:
        async with workspace.workspace(Config(data_dir=served.data_dir, database_url=served_url)) as space:
            pair = await make_profile(space, "draining")
        connection = await asyncpg.connect(served_url)
        try:
            await connection.execute("BEGIN; LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE")
            asking = asyncio.create_task(provision(server, "draining", pair))
            await Lock(connection).until_waiting()

            server.process.send_signal(signal.SIGTERM)
            while await asyncio.to_thread(accepts, server.http):
                pass
            assert not asking.done()
            await connection.execute("ROLLBACK")

            assert (await asking)["status"] == "SUCCESS"
            assert await asyncio.to_thread(server.process.wait, STOP_LIMIT) == 0
            assert not ready_file(server).exists()
            assert "stopping: what is under way is answered first" in server.log
            assert "stopped" in server.log.splitlines()[-1]
            assert await connection.fetchval("SELECT count(*) FROM device WHERE name = 'draining'") == 1
        finally:
            await connection.close()
    finally:
        await asyncio.to_thread(server.__exit__)


async def test_nothing_secret_is_in_the_log(server: Server) -> None:
    async with workspace.workspace(Config(data_dir=server.data_dir)) as space:
        pair = await make_profile(space, "secretive")
    told = await provision(server, "secretive-1", pair, token="pl4nted-token", requestNonce="pl4nted-" * 4)
    assert told["status"] == "SUCCESS"
    generated = (await provision(server, "secretive-2", pair))["credentialsValue"]
    await provision(server, "secretive-1", KeyPair(pair.key, "pl4nted-wrong"))

    for secret in ("pl4nted", generated, pair.key, pair.secret):
        assert secret not in server.log
    assert "Traceback" not in server.log


def test_a_second_server_on_the_data_directory_is_refused_and_told_by_whom(server: Server, second: Second) -> None:
    assert server.process is not None

    out, err = second.process.communicate(timeout=60)

    assert (second.process.returncode, out) == (3, "")
    assert str(server.data_dir) in err
    assert f"{server.process.pid}" in err
    assert "Traceback" not in err
    assert status(server, "/readyz") == 200


# --- for commands


async def test_a_workspace_on_a_database_that_is_not_upgraded_is_refused_with_the_fix(
    postgres: str, tmp_path: Path
) -> None:
    with pytest.raises(Misconfigured, match="provserver db upgrade --database-url"):
        async with workspace.workspace(Config(data_dir=tmp_path, database_url=postgres)):
            pytest.fail("it is not usable")

    assert not (tmp_path / "keys.json").exists()


def test_an_upgrade_is_told_step_by_step(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "provserver")

    app._say_upgraded(schema.known()[1:3])
    app._say_upgraded([])

    assert caplog.messages == ["migration applied: 0002_access", "migration applied: 0003_chain"]


def test_a_start_that_fails_says_why(served: Server, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed) as raised, Server(tmp_path / "data", *served.options):
        pytest.fail("it has keys of its own, which are not that database's")

    assert raised.value.code == 3
    assert "Use the keys file that belongs to it" in raised.value.message


def test_the_embedded_postgres_has_room_for_every_worker(tmp_path: Path) -> None:
    with Server(tmp_path / "data", "--workers", "14") as server:
        assert len(children(server.process.pid if server.process else 0)) >= 14
        assert server.cli("profile", "list") == []
    assert "Too many" not in server.log
    assert "TooMany" not in server.log
