"""TLS handshakes of devices that are known by their client certificates, each with an MQTT session."""

import csv
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks import certificates, load, references
from benchmarks.bench import Bench, Stage, caution, cores, rates
from benchmarks.certificates import Certificates
from benchmarks.load import Measurement
from benchmarks.machine import pinned
from benchmarks.product import Product
from benchmarks.results import result
from benchmarks.sections import importing

DEVICES = 1_000
PAIRS = 9
_SERVER_CORE, _LOAD_CORE = 1, 0
_SECONDS = 1.5


def measure(bench: Bench, stage: Stage) -> None:
    """Full TLS 1.3 handshakes, CONNECT, CONNACK, DISCONNECT. Leaves the database `handshakes`.

    The devices are imported with their certificates, which are signed by themselves: mosquitto trusts each of them, so
    that it, like us, has no issuer's signature to verify. The servers have the same certificate, and a core for
    themselves; Postgres shares that of the load, as it would take from ours, which may not move, what mosquitto has.
    """
    stage.database("handshakes")
    product = stage.product("handshakes", tls=True, core=_SERVER_CORE)
    product.make_certificates()
    devices = certificates.make(bench.folder, "handshakes", DEVICES, issued=False)
    _import(product, bench.folder / "handshakes.csv", devices)
    with pinned(stage.cluster.pid, _LOAD_CORE), product:
        mosquitto = references.mosquitto(
            *(bench.processes, bench.folder),
            core=_SERVER_CORE,
            tls=_readable(product.data_dir / "tls", bench.folder),
            trusted=devices.trusted,
        )
        ours, theirs = (load.mqtt_handshake(port, devices) for port in (product.port("mqtts"), mosquitto.port))
        ours.run("--count", DEVICES, server=product.pid)  # their first use
        rounds = bench.take_turns(
            "TLS",
            {
                "provserver": partial(
                    ours.run, server=product.pid, postgres=stage.cluster.pid, core=_LOAD_CORE, seconds=_SECONDS
                ),
                "mosquitto": partial(theirs.run, server=mosquitto.pid, core=_LOAD_CORE, seconds=_SECONDS),
            },
            PAIRS,
        )
        bench.processes.end(mosquitto.process)
    note = f"{PAIRS} pairs of rounds; {costs(rounds['provserver'], rounds['mosquitto'])}"
    bench.results.append(
        result(
            "tls",
            "TLS 1.3 full handshake, MQTT connect with client certificate",
            rates(rounds["provserver"]),
            "handshakes/s",
            reference=rates(rounds["mosquitto"]),
            reference_name="mosquitto, same certificates",
            note=". ".join(filter(None, (note, caution(rounds["provserver"], rounds["mosquitto"])))),
            cpu=cores(rounds["provserver"]),
        )
    )


def costs(ours: Sequence[Measurement], theirs: Sequence[Measurement]) -> str:
    """The CPU of each handshake, in the medians; somewhat less than it is, as a generator needs time to start."""
    server, postgres, mosquitto = (
        median(cpu / each.rate for each, cpu in measured) * 1e6
        for measured in (
            [(each, each.server_cpu) for each in ours],
            [(each, each.postgres_cpu) for each in ours],
            [(each, each.server_cpu) for each in theirs],
        )
    )
    return f"for each {server:,.0f} µs of the server and {postgres:,.0f} of Postgres, of mosquitto {mosquitto:,.0f}"


def _import(product: Product, file: Path, devices: Certificates) -> None:
    with file.open("w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(("name", "certificate"))
        for number, each in enumerate(devices.devices):
            rows.writerow((f"handshakes-{number}", each.public_bytes(Encoding.PEM).decode()))
    importing.run(product, file)


def _readable(tls: Path, folder: Path) -> tuple[Path, Path]:
    """Copies of the product's certificate and key: mosquitto, started by root, reads them as a user of its own."""
    copies = folder / "handshakes-server.pem", folder / "handshakes-server.key"
    for name, copy in zip(("server.pem", "server.key"), copies, strict=True):
        shutil.copyfile(tls / name, copy)
        copy.chmod(0o644)
    return copies
