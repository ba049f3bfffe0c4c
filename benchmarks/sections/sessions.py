"""MQTT sessions: connects with authentication, the exchange without a database, memory when idle."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import load, references
from benchmarks.bench import Bench, Stage, caution, cores, rates
from benchmarks.load import Load, Measurement, measurement
from benchmarks.machine import BUILD, Broken, Lap, resident
from benchmarks.product import Product
from benchmarks.results import Series, result

IDLE_SESSIONS = 10_000
_FIRST_SESSIONS = 2_000
_SETTLING = 2.0
_SERVER_CORE, _LOAD_CORE = 1, 0


def connect(bench: Bench, stage: Stage, tokens: Path) -> None:
    """Devices that come back, with the tokens of a file; mosquitto lets anybody in.

    Needs these devices in the database `known` and, where there are workers, in `known_two`.
    """
    with ExitStack() as stack:
        products = {"one process": stack.enter_context(stage.product("known"))}
        if bench.workers:
            products["two processes"] = stack.enter_context(stage.product("known_two", workers=2))
        mosquitto = references.mosquitto(bench.processes, bench.folder)
        contenders = {
            "mosquitto": partial(load.mqtt_connect(mosquitto.port).run, server=mosquitto.pid, seconds=bench.seconds)
        }
        for name, product in products.items():
            asked = load.mqtt_connect(product.port("mqtt"), tokens)
            asked.run("--count", sum(1 for _ in tokens.open()), server=product.pid)  # their first use
            contenders[name] = partial(asked.run, server=product.pid, postgres=stage.cluster.pid, seconds=bench.seconds)
        rounds = bench.take_turns("connect", contenders)
        bench.processes.end(mosquitto.process)
        chosen = max(products, key=lambda name: rates(rounds[name]).median)
        bench.results.append(
            result(
                "mqtt_connect",
                "MQTT connect with token authentication",
                rates(rounds[chosen]),
                "connects/s",
                reference=rates(rounds["mosquitto"]),
                reference_name="mosquitto, no authentication",
                note=". ".join(filter(None, (chosen, caution(rounds[chosen], rounds["mosquitto"])))),
                cpu=cores(rounds[chosen]),
            )
        )


def exchange(bench: Bench) -> None:
    """The packets of a provisioning without what they are for; servers on one core, the load on the other."""
    servers = {
        "ours": references.ours(bench.processes, "bare_exchange", core=_SERVER_CORE),
        "mosquitto": references.mosquitto(bench.processes, bench.folder, core=_SERVER_CORE),
        "aMQTT": references.ours(bench.processes, "amqtt_broker", core=_SERVER_CORE),
    }
    contenders = {}
    for name, server in servers.items():
        asked = load.mqtt_exchange(server.port, 32) if name == "ours" else load.mqtt_echo(server.port, 32)
        contenders[name] = partial(asked.run, server=server.pid, core=_LOAD_CORE, seconds=bench.seconds)
    rounds = bench.take_turns("exchange", contenders)
    for server in servers.values():
        bench.processes.end(server.process)
    for name, reference in (("exchange_mosquitto", "mosquitto"), ("exchange_amqtt", "aMQTT")):
        bench.results.append(
            result(
                name,
                "MQTT exchange of four packets without database, new connection each",
                rates(rounds["ours"]),
                "exchanges/s",
                reference=rates(rounds[reference]),
                reference_name=f"{reference}, a topic for each client",
                note=caution(rounds["ours"], rounds[reference]),
                cpu=cores(rounds["ours"]),
            )
        )


def memory(bench: Bench, stage: Stage, tokens: Path) -> None:
    """What 10,000 sessions that do nothing add to the resident memory of a server that has some already.

    Those fill what was left free in its memory by its start. Each round has a server of its own.
    """
    first = tokens.with_name("first-tokens")
    lines = tokens.read_text().splitlines(keepends=True)
    first.write_text("".join(lines[-_FIRST_SESSIONS:]))
    for name, tls in (("plain", False), ("tls", True)):
        rounds = [_memory(bench, stage, tokens, first, tls=tls) for _ in range(bench.rounds)]
        bench.results.append(
            result(
                f"memory_{name}",
                f"resident memory per idle MQTT session, {name}",
                Series.of(each for each, _ in rounds),
                "KiB",
                note=f"of {IDLE_SESSIONS:,} sessions; cores while they were opened",
                cpu=cores([opened for _, opened in rounds]),
            )
        )


def _memory(bench: Bench, stage: Stage, tokens: Path, first: Path, *, tls: bool) -> tuple[float, Measurement]:
    """KiB of each session, and how they were opened."""
    listener, options = ("mqtts", ("--tls",)) if tls else ("mqtt", ())
    product = stage.product("known", tls=tls)
    if tls and not (product.data_dir / "tls").exists():
        product.make_certificates()
    with product:
        port = product.port(listener)
        with held(bench, stage, product, port, _FIRST_SESSIONS, "--tokens", first, *options):
            time.sleep(_SETTLING)
            before = resident(product.pid)
            with held(bench, stage, product, port, IDLE_SESSIONS, "--tokens", tokens, *options) as opened:
                time.sleep(_SETTLING)
                each = (resident(product.pid) - before) / IDLE_SESSIONS / 1024
    bench.say(f"memory: {each:.2f} KiB per idle session, {listener}, {opened.rate:,.0f} connects/s")
    return each, opened


@contextmanager
def held(
    bench: Bench, stage: Stage, product: Product, port: int, count: int, *options: object, at_once: int = 64
) -> Iterator[Measurement]:
    """Sessions that stay open meanwhile, opened so many at once; all of them, or Broken."""
    laps = Lap(product.pid), Lap(stage.cluster.pid)
    asked = Load("mqtt_load", port, ("--mode", "hold"))
    process = bench.processes.start(
        *(BUILD / asked.generator, "--port", port, *asked.options, "--clients", count, "--count", count),
        *("--at-once", at_once, "--seconds", 120, "--warmup", 0, "--patience", 30, *options),
        input_=subprocess.PIPE,
        output=subprocess.PIPE,
        log="hold",
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if not line:
            raise Broken(f"the load generator failed: {bench.processes.log('hold')}")
        opened = measurement(line)
        if opened.done != count or opened.lost:
            raise Broken(f"of {count} sessions {opened.failed} could not be opened, {opened.lost} were ended")
        yield replace(opened, server_cpu=laps[0].cores(), postgres_cpu=laps[1].cores())
        assert process.stdin is not None
        process.stdin.close()
        if lost := int(process.stdout.readline()):
            raise Broken(f"of {count} idle sessions {lost} were ended")
    finally:
        bench.processes.end(process)
