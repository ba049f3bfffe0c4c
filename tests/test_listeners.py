"""The listeners of `provserver serve` as a process, and how many connections they take."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from provserver.config import Config
from provserver.listeners import OTHER_FILES, connection_limit
from tests.server import LIMIT, Server


@pytest.fixture
def place(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a server on a database that nobody serves."""
    return ["--data-dir", str(tmp_path_factory.mktemp("data")), "--database-url", database_url]


@pytest.mark.parametrize("listener", ["http", "mqtt", "coap", "admin"])
def test_a_port_in_use_ends_it_with_3_and_the_fix(
    server: Server, place: list[str], tmp_path: Path, listener: str
) -> None:
    command = [sys.executable, "-m", "provserver", "serve", *place]
    for each in ("http", "mqtt", "coap", "admin"):
        command += [f"--{each}", server.addresses[each] if each == listener else "127.0.0.1:0"]

    done = subprocess.run(
        [*command, "--ready-file", str(tmp_path / "ready")], capture_output=True, text=True, check=False, timeout=120
    )

    assert (done.returncode, done.stdout) == (3, "")
    assert f"{listener}: cannot listen on {server.addresses[listener]}" in done.stderr
    assert "ddress already in use" in done.stderr
    assert f"--{listener} HOST:PORT (port 0: any free one)" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        (("--coap", "host.invalid:0"), "coap: cannot listen on host.invalid:0"),
        (("--mqtt", "192.0.2.1:0"), "mqtt: cannot listen on 192.0.2.1:0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_address_that_cannot_be_ends_it_with_3_and_the_fix(
    place: list[str], options: tuple[str, ...], fix: str
) -> None:
    command = [sys.executable, "-m", "provserver", "serve", *place]
    for each in ("http", "mqtt", "coap", "admin"):
        command += [f"--{each}", "127.0.0.1:0"]

    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=120)

    assert (done.returncode, done.stdout) == (3, "")
    assert fix in done.stderr
    assert "Traceback" not in done.stderr


def test_a_listener_may_be_off(place: list[str], tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "provserver", "serve", *place]
    command += ["--http", "127.0.0.1:0", "--mqtt", "", "--coap", "", "--admin", "", "--ready-file", str(ready)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        limit = threading.Timer(LIMIT, process.kill)
        limit.start()
        try:
            for line in process.stderr:
                if "serving: " in line:
                    break
            written = ready.read_text() if ready.exists() else "{}"
            process.send_signal(signal.SIGINT)
            process.stderr.read()
        finally:
            limit.cancel()
            limit.join()

    addresses = json.loads(written)
    assert set(addresses) == {"http"}
    assert process.returncode == 0
    assert not ready.exists()


@pytest.mark.parametrize(
    ("wanted", "level"), [(Config().max_connections, "DEBUG"), (1_000, None), (1_001, "INFO"), (60_000, "INFO")]
)
def test_fewer_connections_than_wanted_are_worth_a_word(
    caplog: pytest.LogCaptureFixture, wanted: int, level: str | None
) -> None:
    caplog.set_level("DEBUG", "provserver")
    files = 1_000 + OTHER_FILES

    assert connection_limit(Config(max_connections=wanted), files) == 1_000
    assert [record.levelname for record in caplog.records] == ([level] if level else [])
