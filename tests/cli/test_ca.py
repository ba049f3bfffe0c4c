import json
import os
import shlex
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from provserver.transports.tls import ServerContext
from tests.cli.conftest import Cli
from tests.transports.tls_peer import connect

PARTS = ("ca.key", "ca.pem", "server.key", "server.pem")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "not there yet" / "data"


@pytest.fixture
def ca(data_dir: Path) -> Cli:
    return Cli("--data-dir", str(data_dir))


def test_what_it_makes_serves_and_is_trusted(ca: Cli, data_dir: Path, tool: Callable[..., str]) -> None:
    made = ca.json("ca", "init", "--name", "gw.example", "--name", "192.0.2.7")
    folder = data_dir / "tls"
    assert made == {
        "ca": str(folder / "ca.pem"),
        "caKey": str(folder / "ca.key"),
        "certificate": str(folder / "server.pem"),
        "key": str(folder / "server.key"),
        "names": ["gw.example", "192.0.2.7", "localhost", "127.0.0.1", "::1", socket.gethostname()],
    }
    for name in made["names"]:
        option = "-verify_ip" if name[0] in "1:" else "-verify_hostname"
        command = (tool("openssl"), "verify", "-CAfile", made["ca"], "-purpose", "sslserver", option, name)
        subprocess.run((*command, made["certificate"]), check=True, capture_output=True)
    certificate = x509.load_pem_x509_certificate(Path(made["certificate"]).read_bytes())
    link = connect(ServerContext(Path(made["certificate"]), Path(made["key"])))
    assert link.client.ssl.get_peer_certificate(as_cryptography=True) == certificate
    ssl.create_default_context(cafile=made["ca"])


def test_keys_are_for_their_owner_only(ca: Cli, data_dir: Path) -> None:
    before = os.umask(0)
    try:
        ca.json("ca", "init")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (data_dir / "tls").iterdir()}
    assert modes == {"ca.key": 0o600, "ca.pem": 0o644, "server.key": 0o600, "server.pem": 0o644}
    assert data_dir.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("left", PARTS)
def test_nothing_is_replaced_unless_forced(ca: Cli, data_dir: Path, left: str) -> None:
    ca.json("ca", "init")
    folder = data_dir / "tls"
    for part in PARTS:
        if part != left:
            (folder / part).unlink()
    before = (folder / left).read_bytes()
    assert f"There is already {folder / left}" in ca.refused("ca", "init")
    assert [path.name for path in folder.iterdir()] == [left]
    ca.json("ca", "init", "--force")
    assert sorted(path.name for path in folder.iterdir()) == sorted(PARTS)
    assert (folder / left).read_bytes() != before


def test_the_next_lines_can_be_pasted(ca: Cli, data_dir: Path) -> None:
    done = ca.run("ca", "init", "--name", "gw.example")
    assert (done.code, done.err) == (0, "")
    commands = [shlex.split(line) for line in done.out.splitlines() if not line.startswith("#")]
    programs = {command[0]: command for command in commands}
    assert {"mosquitto_pub", "curl"} < programs.keys()
    assert programs["mosquitto_pub"][1:3] == ["-h", "gw.example"]
    assert str(data_dir / "tls" / "ca.pem") in programs["mosquitto_pub"]
    assert "https://gw.example:8443/api/v1/provision" in programs["curl"]
    assert json.loads(programs["curl"][-1])["deviceName"]
    (serve,) = (command for command in commands if "serve" in command)
    assert serve[serve.index("--data-dir") + 1] == str(data_dir)
    assert {"--mqtts", "--https", "--coaps"} < set(serve)


def test_a_name_that_is_none_is_refused(ca: Cli, data_dir: Path) -> None:
    assert "'two words' is neither a host name nor an IP address" in ca.refused("ca", "init", "--name", "two words")
    assert not data_dir.exists()


@pytest.mark.parametrize("host_name", ["", "my_machine", "localhost"])
def test_a_machine_may_have_no_name_of_its_own(ca: Cli, monkeypatch: pytest.MonkeyPatch, host_name: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host_name)
    assert ca.json("ca", "init")["names"] == ["localhost", "127.0.0.1", "::1"]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ca = Cli("--data-dir", str(tmp_path / "file" / "data"))
    assert "cannot be written: Not a directory" in ca.refused("ca", "init", code=3)
