"""TLS handshakes of our MQTT listener, compared with mosquitto's, in pairs of rounds in one run.

A round is `tls_load.c`: CONNECT, CONNACK, DISCONNECT, each on a TLS connection of its own with a P-256 client
certificate. Servers run on core 1, the load on core 0. Machines are not steady, so that only the ratio of the two
rounds of a pair says something, and the median of many. The last figure is what the server took from its core: where
the load generator is what limits, it says more.

    python benchmarks/tls_handshake.py [--tls 1.2|1.3] [--resume] [--pairs N] [--seconds S]

Ends with 1 when the ratio is below `--at-least`. The client's certificate is self-signed and known to mosquitto, so
that neither server has an issuer's signature to verify.
"""

import argparse
import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from provserver.core import pki
from provserver.core.model import PreSharedKey
from provserver.services.provisioning import Provisioning
from provserver.transports.mqtt.listener import MqttListener
from provserver.transports.tls import ServerContext
from provserver.transports.tls_stream import over_tls

SERVER_CORE, LOAD_CORE = 1, 0

MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_connections -1
persistence false
log_type error
cafile {folder}/client.pem
certfile {folder}/server.pem
keyfile {folder}/server.key
require_certificate true
"""


class Round(NamedTuple):
    """What one round came to."""

    rate: float  # sessions per second
    cost: float  # CPU seconds of the server per session


def main() -> int:
    """Measure and print."""
    arguments = _arguments()
    if arguments.serve:
        uvloop.run(_serve(arguments.serve, arguments.port))
        return 0
    if missing := _missing():
        sys.exit("missing: " + ", ".join(missing))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # mosquitto, started by root, reads the files as a user of its own
        _make_certificates(folder)
        load = _compile(folder)
        with _ours(folder) as ours, _mosquitto(folder) as mosquitto:
            play = partial(_round, load, folder, arguments)
            pairs: list[tuple[Round, Round]] = []
            for number in range(arguments.pairs + 1):
                if number % 2:
                    pairs.append((play(ours), play(mosquitto)))
                else:  # in turns, as who comes second may find a warmer machine
                    theirs = play(mosquitto)
                    pairs.append((play(ours), theirs))
    del pairs[0]  # which warms up
    return _report(pairs, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tls", choices=("1.2", "1.3"), default="1.3")
    parser.add_argument("--resume", action="store_true", help="resume sessions; without: full handshakes")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--at-least", type=float, default=1.0, help="the ratio to reach")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _missing() -> list[str]:
    """What is to be installed, by its Debian package."""
    missing = [
        f"{program} (apt-get install {package})"
        for program, package in (("mosquitto", "mosquitto"), ("gcc", "gcc"), ("taskset", "util-linux"))
        if _which(program) is None
    ]
    if (
        _which("gcc")
        and subprocess.run(
            ("gcc", "-E", "-x", "c", "-"), input=b"#include <openssl/ssl.h>\n", capture_output=True, check=False
        ).returncode
    ):
        missing.append("openssl/ssl.h (apt-get install libssl-dev)")
    if len(os.sched_getaffinity(0)) < 2:
        missing.append("a second core")
    return missing


def _which(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin")


def _make_certificates(folder: Path) -> None:
    now = datetime.now(UTC)
    authority_key, server_key, client_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    authority = pki.make_authority("benchmark", authority_key, x509.random_serial_number(), now)
    server = pki.issue_server(authority, server_key, ["localhost"], x509.random_serial_number(), now)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "device-1")])
    builder = x509.CertificateBuilder(
        name,
        name,
        client_key.public_key(),
        x509.random_serial_number(),
        now - timedelta(days=1),
        now + timedelta(days=1),
    )
    for part, certificate in (("server", server), ("client", builder.sign(client_key, hashes.SHA256()))):
        (folder / f"{part}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    for part, key in (("server", server_key), ("client", client_key)):
        path = folder / f"{part}.key"
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        path.chmod(0o644)


def _compile(folder: Path) -> Path:
    source, program = Path(__file__).with_name("tls_load.c"), folder / "tls_load"
    command = ("gcc", "-O2", "-Wall", "-o", program, source, "-lssl", "-lcrypto", "-lpthread")
    subprocess.run(command, check=True)
    return program


class Server(NamedTuple):
    """A server process."""

    pid: int
    port: int


@contextmanager
def _ours(folder: Path) -> Iterator[Server]:
    port = _free_port()
    with _running((sys.executable, __file__, "--serve", folder, "--port", port), port) as server:
        yield server


@contextmanager
def _mosquitto(folder: Path) -> Iterator[Server]:
    port = _free_port()
    configuration = folder / "mosquitto.conf"
    configuration.write_text(MOSQUITTO.format(port=port, folder=folder))
    with _running((_which("mosquitto"), "-c", configuration), port) as server:
        yield server


@contextmanager
def _running(command: tuple[object, ...], port: int) -> Iterator[Server]:
    process = subprocess.Popen(("taskset", "-c", str(SERVER_CORE), *map(str, command)))
    try:
        while True:
            if process.poll() is not None:
                sys.exit(f"{command[0]} did not start")
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.02)
        yield Server(process.pid, port)
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _round(load: Path, folder: Path, arguments: argparse.Namespace, server: Server) -> Round:
    command = (
        *("taskset", "-c", LOAD_CORE, load, server.port, folder / "client.pem", folder / "client.key"),
        *(arguments.tls, "resume" if arguments.resume else "full", arguments.clients, arguments.seconds),
    )
    before = _cpu_seconds(server.pid)
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    spent = _cpu_seconds(server.pid) - before
    sessions, failures, seconds = map(float, done.stdout.split())
    if failures:
        sys.exit(f"{failures:.0f} of {sessions + failures:.0f} sessions failed")
    return Round(sessions / seconds, spent / sessions)


def _cpu_seconds(pid: int) -> float:
    """That a process has used (proc(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _report(pairs: list[tuple[Round, Round]], arguments: argparse.Namespace) -> int:
    ours, theirs = zip(*pairs, strict=True)
    ratios = sorted(our.rate / their.rate for our, their in pairs)
    ratio = statistics.median(ratios)
    kind = "resumed" if arguments.resume else "full"
    print(f"TLS {arguments.tls}, {kind} handshakes with client certificate, {len(pairs)} pairs of rounds, medians:")
    for name, rounds in (("provserver", ours), ("mosquitto", theirs)):
        rate = statistics.median(round_.rate for round_ in rounds)
        cost = statistics.median(round_.cost for round_ in rounds)
        print(f"  {name:<10}  {rate:7.0f} a second   {1 / cost:7.0f} a second of its core")
    print(f"  ratio       {ratio:7.2f}            ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    by_core = statistics.median(their.cost / our.cost for our, their in pairs)
    print(f"  ratio by core time {by_core:.2f}")
    return 0 if ratio >= arguments.at_least else 1


class _NoRequests(Provisioning):
    """For sessions that ask for nothing: without a database."""

    def __init__(self) -> None:
        pass


async def _serve(folder: Path, port: int) -> None:
    loop = asyncio.get_running_loop()
    context = ServerContext(folder / "server.pem", folder / "server.key")

    async def no_key(_identity: str) -> PreSharedKey | None:
        return None

    listener = MqttListener(_NoRequests())
    await listener.start("127.0.0.1", port, wrap=lambda make: over_tls(context, make, loop, shared_key=no_key))
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
