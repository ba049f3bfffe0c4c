"""The command line; against the real server wherever the server has a say."""

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from firmware_sim.cli import app
from firmware_sim.pki import Factory
from tests.server import Server

TRANSPORTS = ["http", "mqtt", "coap"]
KINDS = ["generated", "token", "basic", "x509"]
SCENARIOS = Path(__file__).parents[2] / "config" / "scenarios"
ENVIRONMENT = {"COLUMNS": "120", "TERM": "dumb"}


@dataclass(frozen=True)
class Result:
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


def simulate(*arguments: str | Path, **environment: str) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=ENVIRONMENT | environment)
    return Result(result.exit_code, result.stdout, result.stderr)


@dataclass(frozen=True)
class Profile:
    """A profile of the server, and the commands that ask for it."""

    server: Server
    key: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        return {"FIRMWARE_SIM_KEY": self.key, "FIRMWARE_SIM_SECRET": self.secret}

    @property
    def servers(self) -> tuple[str, ...]:
        return ("--http", self.server.http, "--mqtt", self.server.mqtt, "--coap", self.server.coap)

    def device(self, transport: str, *arguments: str | Path) -> Result:
        server = self.server.addresses[transport]
        return simulate("device", "--transport", transport, "--server", server, *arguments, **self.environment)

    def fleet(self, *arguments: str | Path) -> Result:
        return simulate("fleet", *self.servers, *arguments, **self.environment)


@pytest.fixture(scope="module")
def profile(server: Server) -> Profile:
    name = f"firmware-sim-{secrets.token_hex(4)}"
    created = server.cli("profile", "create", name, "--strategy", "allow-create", "--json")
    return Profile(server, created["provisionDeviceKey"], created["provisionDeviceSecret"])


def unique(name: str) -> str:
    return f"{name}-{secrets.token_hex(4)}"


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_device_is_provisioned_once(profile: Profile, tmp_path: Path, transport: str, kind: str) -> None:
    flash, name = tmp_path / "flash.json", unique("device")
    first = profile.device(transport, "--name", name, "--credentials", kind, "--flash", flash)
    second = profile.device(transport, "--flash", flash)
    third = profile.device(transport, "--flash", flash, "--json", "--show-credentials")
    assert (first.code, second.code, third.code) == (0, 0, 0), first.stdout
    assert "SUCCESS" in first.stdout
    assert "credentials found" in second.stdout
    assert third.json["source"] == "flash"
    assert third.json["deviceName"] == name
    assert (kind == "x509") is ("privateKey" in third.json)
    assert (
        third.json["credentialsType"]
        == {
            "generated": "ACCESS_TOKEN",
            "token": "ACCESS_TOKEN",
            "basic": "MQTT_BASIC",
            "x509": "X509_CERTIFICATE",
        }[kind]
    )
    value = third.json["credentialsValue"]
    for secret in (profile.secret, *(value.values() if isinstance(value, dict) else [value])):
        assert secret not in first.stdout + first.stderr + second.stdout + second.stderr


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_lost_answer_is_given_again(profile: Profile, tmp_path: Path, transport: str) -> None:
    flash = tmp_path / "flash.json"
    arguments = ("--name", unique("device"), "--flash", flash, "--json", "--show-credentials")
    first = profile.device(transport, *arguments)
    memory = json.loads(flash.read_bytes())
    flash.write_text(json.dumps(memory | {"credentials": None}))
    second = profile.device(transport, *arguments)
    assert second.code == 0, second.stderr
    assert second.json == first.json


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_server_names_a_device_that_has_no_name(profile: Profile, transport: str) -> None:
    result = profile.device(transport, "--json")
    assert result.json["deviceName"]
    assert result.json["deviceId"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_wrong_secret_is_refused_without_retry(profile: Profile, transport: str) -> None:
    result = profile.device(transport, "--secret", "not-the-secret-at-all", "--json")
    assert result.code == 1
    assert result.json["status"] == "refused"
    assert "NOT_FOUND" in result.json["reason"]
    assert "not-the-secret-at-all" not in result.stdout + result.stderr
    assert result.stderr.count("attempt 1/5") == 1
    assert "attempt 2/5" not in result.stderr


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_name_is_given_away_once(profile: Profile, transport: str) -> None:
    name = unique("device")
    assert (profile.device(transport, "--name", name)).code == 0
    assert (profile.device(transport, "--name", name)).code == 1


def test_mqtt_5(profile: Profile) -> None:
    result = profile.device("mqtt", "--mqtt-version", "5")
    assert result.code == 0, result.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_fleet(profile: Profile, kind: str) -> None:
    result = profile.fleet("--count", "60", "--credentials", kind, "--json")
    assert result.code == 0, result.stdout
    report = result.json
    assert report["provisioned"] == report["count"] == 60
    assert report["failed"] == report["duplicates"] == 0
    assert {name: one["provisioned"] for name, one in report["transports"].items()} == dict.fromkeys(TRANSPORTS, 20)
    assert all(one["latencyMs"]["p50"] <= one["latencyMs"]["max"] for one in report["transports"].values())
    assert "60/60" in result.stderr


def test_a_fleet_that_is_refused_says_why(profile: Profile) -> None:
    result = profile.fleet("--count", "6", "--secret", "not-the-secret-at-all")
    assert result.code == 1
    assert "0/6 provisioned" in result.stdout
    for transport in TRANSPORTS:
        assert f"{transport}: refused: NOT_FOUND" in result.stdout


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nobody_listens(free_port: int, transport: str) -> None:
    result = simulate(
        *("device", "--transport", transport, "--server", f"127.0.0.1:{free_port}", "--attempts", "2", "--json"),
        FIRMWARE_SIM_KEY="key",
        FIRMWARE_SIM_SECRET="secret",
    )
    assert result.code == 3
    assert result.json == {"status": "unreachable", "reason": "connection refused", "transport": transport}


def test_a_fleet_without_a_server(free_port: int) -> None:
    nowhere = f"127.0.0.1:{free_port}"
    result = simulate(
        *("fleet", "--count", "3", "--attempts", "1", "--json", "--key", "key"),
        *("--http", nowhere, "--mqtt", nowhere, "--coap", nowhere),
        FIRMWARE_SIM_SECRET="secret",
    )
    assert result.code == 3
    assert result.json["failures"] == {f"{name}: unreachable: connection refused": 1 for name in TRANSPORTS}


def test_a_corrupted_flash_is_kept_until_erased(tmp_path: Path, free_port: int) -> None:
    flash = tmp_path / "flash.json"
    flash.write_text("{")
    arguments = ("device", "--transport", "http", "--server", f"127.0.0.1:{free_port}", "--key", "k", "--flash", flash)
    result = simulate(*arguments, FIRMWARE_SIM_SECRET="secret")
    assert result.code == 5
    assert "corrupted" in result.stdout
    assert flash.read_text() == "{"
    erased = simulate(*arguments, "--erase", "--attempts", "1", FIRMWARE_SIM_SECRET="secret")
    assert erased.code == 3
    assert "requestNonce" in flash.read_text()


def test_the_secret_may_come_from_a_file(tmp_path: Path, free_port: int) -> None:
    file = tmp_path / "secret"
    file.write_text("secret\n")
    arguments = ("device", "--transport", "http", "--server", f"127.0.0.1:{free_port}", "--key", "k", "--attempts", "1")
    assert (simulate(*arguments, "--secret-file", file)).code == 3
    both = simulate(*arguments, "--secret-file", file, "--secret", "secret")
    assert both.code == 2
    assert "either --secret or --secret-file" in both.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["device"],
        ["device", "--transport", "carrier-pigeon", "--key", "k", "--secret", "s"],
        ["device", "--transport", "http", "--secret", "s"],
        ["device", "--transport", "http", "--key", "k"],
        ["device", "--transport", "http", "--key", "k", "--secret", "s", "--server", "host:0"],
        ["fleet", "--key", "k", "--secret", "s"],
        ["fleet", "--key", "k", "--secret", "s", "--count", "0"],
        ["fleet", "--key", "k", "--secret", "s", "--count", "1", "--coap", "::1"],
        ["fleet", "--key", "k", "--secret", "s", "--count", "1", "--coaps", "::1"],
        ["fleet", "--count", "1", "--credentials", "chain", "--transport", "mqtts", "--insecure"],
        ["fleet", "--count", "1", "--key", "k", "--secret", "s", "--pki", "/"],
        ["device", "--transport", "https", "--credentials", "chain", "--insecure"],
        ["device", "--transport", "http", "--key", "k", "--secret", "s", "--certificate", "file"],
        ["device", "--transport", "http", "--key", "k", "--secret", "s", "--telemetry", "-1"],
        ["device", "--transport", "http", "--key", "k", "--secret", "s", "--interval", "0"],
        ["device", "--transport", "http", "--credentials", "static"],
        ["fleet", "--count", "1", "--credentials", "static"],
        ["pki", "init"],
        ["fleet", "--scenario", "missing.toml"],
        ["fleet", "--scenario", f"{SCENARIOS}/leaked-key.toml", "--secret", "s"],
        ["fleet", "--scenario", f"{SCENARIOS}/leaked-key.toml", "--key", "k"],
        ["fleet", "--scenario", f"{SCENARIOS}/leaked-key.toml", "--key", "k", "--secret", "s", "--scale", "0"],
        ["fleet", "--scenario", f"{SCENARIOS}/factory-line.toml", "--key", "k", "--secret", "s"],
        ["fleet", "--scenario", f"{SCENARIOS}/phone-onboarding.toml", "--key", "k", "--secret", "s"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    result = simulate(*arguments)
    assert result.code == 2
    assert result.stdout == ""


@pytest.mark.parametrize("option", [("--count", "3"), ("--transport", "http"), ("--telemetry", "1"), ("--rate", "3")])
def test_what_a_scenario_says_itself(option: tuple[str, str]) -> None:
    result = simulate("fleet", "--scenario", f"{SCENARIOS}/leaked-key.toml", "--key", "k", "--secret", "s", *option)
    assert result.code == 2
    assert option[0] in result.stderr


def test_a_scenario_with_a_key_that_is_not_known_names_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "x"\ncolour = "red"\n[[group]]\nname = "g"\ncount = 1\n')
    result = simulate("fleet", "--scenario", file, "--key", "k", "--secret", "s")
    assert result.code == 2
    assert "colour" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["device", "--transport", "https"],
        ["device", "--transport", "mqtts"],
        ["device", "--transport", "coaps", "--dtls", "certificate"],
        ["device", "--transport", "coaps", "--credentials", "x509", "--connect"],
        ["device", "--transport", "http", "--connect-transport", "mqtts", "--connect"],
        ["fleet", "--count", "1", "--transport", "mix-tls"],
        ["fleet", "--count", "1", "--transport", "mix", "--connect-transport", "https", "--telemetry", "1"],
    ],
)
def test_tls_without_a_ca_names_both_ways_out(arguments: list[str]) -> None:
    result = simulate(*arguments, "--key", "k", "--secret", "s")
    assert result.code == 2
    assert "--ca" in result.stderr
    assert "--insecure" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--transport", "http", "--credentials", "basic", "--connect"], "mqtt or mqtts"),
        (["--transport", "mqtt", "--credentials", "x509", "--telemetry", "1"], "mqtts, https or coaps"),
        (["--transport", "mqtt", "--credentials", "chain"], "mqtts, https or coaps"),
    ],
)
def test_credentials_that_open_no_such_connection(arguments: list[str], words: str) -> None:
    result = simulate("device", *arguments, "--key", "k", "--secret", "s")
    assert result.code == 2
    assert words in " ".join(result.stderr.replace("│", "").split())


@pytest.mark.parametrize("option", [("--name", "sensor-1"), ("--flash", "file"), ("--connect-transport", "mqtts")])
def test_what_a_factory_certificate_leaves_no_room_for(factory: Factory, option: tuple[str, str]) -> None:
    factory.device("sensor-1")
    files = (factory.directory / "devices" / f"sensor-1{suffix}" for suffix in (".pem", ".key"))
    words = [word for pair in zip(("--certificate", "--private-key"), files, strict=True) for word in pair]
    result = simulate("device", "--transport", "https", "--credentials", "chain", "--insecure", *words, *option)
    assert result.code == 2
    assert option[0] in result.stderr


def test_files_that_are_no_certificate(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no PEM")
    chain = ("--credentials", "chain", "--certificate", file, "--private-key", file)
    result = simulate("device", "--transport", "https", "--insecure", *chain, "--json")
    assert result.code == 2
    assert result.json["status"] == "wrong usage"


def test_pki_init_says_what_to_do_next(tmp_path: Path) -> None:
    directory = tmp_path / "pki"
    result = simulate("pki", "init", directory, "--count", "2", "--name-prefix", "line")
    assert result.code == 0
    assert f"provserver profile create NAME --strategy x509-chain --ca {directory / 'root.pem'}" in result.stdout
    names = sorted(path.name for path in (directory / "devices").iterdir())
    assert names == ["line-000001.key", "line-000001.pem", "line-000002.key", "line-000002.pem"]
    again = simulate("pki", "init", directory)
    assert again.stdout == result.stdout


def test_pki_init_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = simulate("pki", "init", tmp_path / "file")
    assert result.code == 2
    assert "cannot write" in result.stderr


def test_a_fleet_without_a_factory_names_the_command_that_makes_one(tmp_path: Path) -> None:
    chain = ("--credentials", "chain", "--pki", tmp_path)
    result = simulate("fleet", "--count", "1", "--transport", "mqtts", "--insecure", *chain)
    assert result.code == 2
    assert "pki init" in " ".join(result.stderr.replace("│", "").split())


@pytest.mark.parametrize("command", ["device", "fleet"])
def test_help_documents_the_exit_codes(command: str) -> None:
    result = simulate(command, "--help")
    assert result.code == 0
    assert "Exit codes" in result.stdout


async def test_as_a_process_it_prints_json_alone_on_stdout(profile: Profile) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "firmware_sim", "fleet", *profile.servers, "--count", "9", "--json"),
        env={**os.environ, **profile.environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    assert json.loads(stdout)["provisioned"] == 9


@pytest.mark.parametrize("command", [["device"], ["fleet", "--count", "9"]])
async def test_an_interrupt_ends_it_with_130(command: list[str]) -> None:
    asked = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as silent:
        option = "--server" if command == ["device"] else "--http"
        port = silent.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "firmware_sim", *command, "--transport", "http", option, f"127.0.0.1:{port}"),
            env={**os.environ, "FIRMWARE_SIM_KEY": "key", "FIRMWARE_SIM_SECRET": "secret"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        ended = asyncio.create_task(process.communicate())
        try:
            async with asyncio.timeout(120):
                await asyncio.wait({ended, asyncio.create_task(asked.wait())}, return_when=asyncio.FIRST_COMPLETED)
            assert not ended.done(), ended.result()
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(120):
                stdout, stderr = await asyncio.shield(ended)
        finally:  # else the server would wait for its client
            if process.returncode is None:
                process.kill()
            await ended
    assert process.returncode == 130, stderr.decode()
    assert "Traceback" not in stderr.decode()
    assert command == ["device"] or "0/9 provisioned" in stdout.decode()


WIFI = ("wifi", "--template", "TMPL1", "--template-name", "Garage", "--mac", "AA:BB:CC:DD:EE:FF")


@pytest.mark.parametrize("option", ["--softap", "--ble", "--control"])
def test_a_wifi_device_says_which_port_is_taken(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        result = simulate(*WIFI, option, where)
    assert result.code == 2
    assert f"cannot listen on {where}" in result.stdout


def test_a_wifi_device_says_that_the_port_for_names_is_taken() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        result = simulate(*WIFI, "--dns", where)
    assert result.code == 2
    assert f"cannot listen on {where}" in result.stdout


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--control", "nowhere:xx", "a port is a number"),
        ("--dns", "nowhere:xx", "a port is a number"),
        ("--transport", "coaps", "is one of mqtt,"),
        ("--mac", "A", "six"),
    ],
)
def test_what_a_wifi_device_cannot_be(option: str, value: str, said: str) -> None:
    result = simulate(*WIFI, option, value)
    assert result.code == 2
    assert said in result.stderr
