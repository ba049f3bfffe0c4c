"""`provserver serve --workers 2`: several processes behind the same addresses."""

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("workers") / "data", "--workers", "2", tls=True) as running:
        running.cli("profile", "create", "sensors", "--key", "key", "--secret", "secret")
        yield running


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def workers(server: Server) -> list[int]:
    """The first child keeps the database."""
    assert server.process is not None
    return children(server.process.pid)[1:]


def fleet(server: Server, count: int, transport: str) -> None:
    """Provision so many devices, which come back and send something."""
    addresses = [f"--{name}={address}" for name, address in server.addresses.items()]
    command = [sys.executable, "-m", "firmware_sim", "fleet", "--count", str(count), "--transport", transport]
    command += [*addresses, "--telemetry", "1", "--key", "key", "--secret", "secret", "--ca", str(server.ca)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("transport", ["mix", "mix-tls"])
def test_devices_are_served_on_every_address(server: Server, transport: str) -> None:
    assert len(workers(server)) == 2

    fleet(server, 60, transport)


def test_the_newer_session_wins_whatever_worker_has_it(server: Server, tool: Callable[..., str]) -> None:
    tool("mosquitto_sub")
    host, port = server.mqtt.split(":")
    device = server.cli("device", "create", "taken-over", "--profile", "sensors", "--token", "taken-over-token")
    assert device["name"] == "taken-over"
    command = ["stdbuf", "-oL", "mosquitto_sub", "-h", host, "-p", port, "-u", "taken-over-token", "-V", "5"]
    command += ["-t", "v1/devices/me/attributes", "-d"]
    running: list[subprocess.Popen[str]] = []
    try:
        for _ in range(8):  # so many are not all of one worker
            session = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert session.stdout is not None
            while "SUBACK" not in (line := session.stdout.readline()):
                assert line, "the session was refused"
            running.append(session)
            for older in running[:-1]:
                assert "DISCONNECT (142)" in older.communicate()[0]
            del running[:-1]
    finally:
        for session in running:
            session.kill()
            session.communicate()


def test_a_session_ticket_is_good_in_every_worker(server: Server) -> None:
    host, port = server.mqtts.split(":")
    context = ssl.create_default_context(cafile=str(server.ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as first,
    ):
        session = first.session
    for _ in range(8):
        with (
            socket.create_connection((host, int(port))) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as again,
        ):
            assert again.session_reused


def test_a_worker_that_dies_is_replaced_and_the_others_serve_on(server: Server) -> None:
    before = workers(server)
    os.kill(before[0], signal.SIGKILL)
    while len(now := workers(server)) < 2 or before[0] in now:
        pass

    fleet(server, 40, "mix")

    assert before[1] in workers(server)
    assert "was started again" in server.log
