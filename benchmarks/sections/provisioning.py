"""Provisions a second on every transport, beside pgbench and the stock servers; their latency at half of that."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks import load, references, svg
from benchmarks.bench import Bench, Rounds, Stage, best, caution, cores, rates
from benchmarks.load import PGBENCH_CLIENTS, Load, Measurement, pgbench
from benchmarks.product import NO_WORKERS, Product
from benchmarks.results import Result, Series, missing, result

TRANSPORTS: dict[str, Callable[[int], Load]] = {"http": load.http, "mqtt": load.mqtt_exchange, "coap": load.coap}

NAMES = {"http": "HTTP", "mqtt": "MQTT", "coap": "CoAP"}
_PGBENCH = "pgbench, one transaction per device, best of 4/16/64 clients"
_LIBCOAP_PATH = "/example_data"


def measure(bench: Bench, stage: Stage) -> None:
    """All of it; leaves the databases `one` and `two`."""
    with ExitStack() as stack:
        one = stack.enter_context(stage.product("one", stage.database("one")))
        two_url = stage.database("two")
        two = stack.enter_context(stage.product("two", two_url, workers=2)) if bench.workers else None
        stage.database("reference")
        _throughput(bench, stage, one, two)
        _latency(bench, stage, one)


def _throughput(bench: Bench, stage: Stage, one: Product, two: Product | None) -> None:
    aiocoap = references.ours(bench.processes, "stock_aiocoap")
    aiohttp = references.ours(bench.processes, "bare_aiohttp")
    libcoap = references.libcoap(bench.processes)

    def contender(asked: Load, server: int) -> Callable[[], Measurement]:
        return partial(asked.run, server=server, postgres=stage.cluster.pid, seconds=bench.seconds)

    contenders: dict[str, Callable[[], Measurement]] = {
        f"pgbench {clients}": partial(pgbench, stage.cluster, "reference", clients, round(bench.seconds) or 1)
        for clients in PGBENCH_CLIENTS
    }
    for product, suffix in ((one, ""), (two, "_two")):
        for transport, asked in TRANSPORTS.items():
            if product is not None:
                contenders[transport + suffix] = contender(asked(product.port(transport)), product.pid)
    contenders["aiocoap"] = contender(load.coap(aiocoap.port), aiocoap.pid)
    contenders["bare aiohttp"] = contender(load.http(aiohttp.port), aiohttp.pid)
    contenders["libcoap"] = contender(load.coap_put(libcoap.port, _LIBCOAP_PATH), libcoap.pid)
    rounds = bench.take_turns("provisions", contenders)
    for reference in (aiocoap, aiohttp, libcoap):
        bench.processes.end(reference.process)
    _results(bench, rounds)
    bench.plots["provisions"] = _plot(rounds)


def _results(bench: Bench, rounds: Rounds) -> None:
    pgbenches = best(rounds, [f"pgbench {clients}" for clients in PGBENCH_CLIENTS])
    reference = rates(pgbenches)
    bench.results.append(result("pgbench", _PGBENCH, reference, "provisions/s", cpu=cores(pgbenches)))
    for name, transport, what in (
        ("http", "http", "HTTP provisions, one process, ÷ pgbench best"),
        ("http_two", "http_two", "HTTP provisions, two processes, ÷ pgbench best"),
        ("mqtt_one", "mqtt", "MQTT full provision exchanges, one process, ÷ pgbench best"),
        ("mqtt_two", "mqtt_two", "MQTT full provision exchanges, two processes, ÷ pgbench best"),
        ("coap_one", "coap", "CoAP provisions, one process, ÷ pgbench best"),
        ("coap_two", "coap_two", "CoAP provisions, two processes, ÷ pgbench best"),
    ):
        if transport not in rounds:
            bench.results.append(missing(name, what, NO_WORKERS))
            continue
        measured = rounds[transport]
        bench.results.append(
            result(
                name,
                what,
                rates(measured),
                "provisions/s",
                reference=reference,
                reference_name=_PGBENCH,
                note=caution(measured),
                cpu=cores(measured),
            )
        )
    for name, transport, what in (
        ("mqtt", "mqtt", "MQTT full provision exchanges, new connection each"),
        ("coap", "coap", "CoAP provisions"),
    ):
        bench.results.append(_better(name, what, transport, rounds, pgbenches, _PGBENCH))
    bench.results.append(
        _better("coap_aiocoap", "CoAP provisions", "coap", rounds, rounds["aiocoap"], "aiocoap, in memory")
    )
    bench.results.append(
        _better(
            "coap_libcoap",
            "CoAP provisions ÷ libcoap storing in memory",
            "coap",
            rounds,
            rounds["libcoap"],
            "libcoap, in memory",
        )
    )
    bench.results.append(
        _better(
            "http_aiohttp",
            "HTTP provisions ÷ bare aiohttp in memory",
            "http",
            rounds,
            rounds["bare aiohttp"],
            "aiohttp, in memory",
        )
    )


def _better(
    name: str, what: str, transport: str, rounds: Rounds, reference: Sequence[Measurement], reference_name: str
) -> Result:
    """Of one process and two, whichever does more: so would an operator choose."""
    chosen = max(
        (candidate for candidate in (transport, transport + "_two") if candidate in rounds),
        key=lambda candidate: rates(rounds[candidate]).median,
    )
    processes = "two processes" if chosen.endswith("_two") else "one process"
    measured = rounds[chosen]
    note = ". ".join(filter(None, (processes, caution(measured, reference))))
    return result(
        name,
        what,
        rates(measured),
        "provisions/s",
        reference=rates(reference),
        reference_name=reference_name,
        note=note,
        cpu=cores(measured),
    )


def _latency(bench: Bench, stage: Stage, one: Product) -> None:
    """A lone client's; and, of requests that arrive at random, half as many as the peak was right before.

    As in a server that has run for a while: Postgres writes into log files that it has already.
    """
    stage.cluster.settle("one")
    for transport, asked in TRANSPORTS.items():
        name = NAMES[transport]
        run = partial(asked(one.port(transport)).run, server=one.pid, postgres=stage.cluster.pid)
        peaks, half, lone = [], [], []
        for _ in range(bench.rounds):
            peaks.append(run(seconds=bench.seconds).rate)
            half.append(run("--rate", peaks[-1] / 2, "--clients", 512, seconds=bench.seconds + 1, warmup=0.5))
            lone.append(run("--clients", 1, seconds=max(bench.seconds / 2, 0.5)))
        rate = Series.of(peaks).median / 2
        bench.say(
            f"latency: {name} at {rate:,.0f}/s p50 {Series.of(m.p50 for m in half).median:.2f} ms, "
            f"p99 {Series.of(m.p99 for m in half).median:.2f} ms; alone p50 {Series.of(m.p50 for m in lone).median:.2f}"
        )
        note = f"{rate:,.0f} requests/s arriving at random"
        for part in ("p50", "p99"):
            series = Series.of(getattr(each, part) for each in half)
            what = f"{part} at half of peak, {name}"
            bench.results.append(result(f"{part}_{transport}", what, series, "ms", note=note, cpu=cores(half)))
        for part in ("p50", "p99"):
            series = Series.of(getattr(each, part) for each in lone)
            label = "lone" if part == "p50" else "lone_p99"
            what = f"lone request {part}, {name}"
            bench.results.append(result(f"{label}_{transport}", what, series, "ms", cpu=cores(lone)))
    bench.plots["latency"] = svg.bars(
        "Latency at half of peak (ms)",
        {
            NAMES[transport]: {
                part: next(each.value or 0.0 for each in bench.results if each.name == f"{part}_{transport}")
                for part in ("p50", "p99")
            }
            for transport in TRANSPORTS
        },
    )


def _plot(rounds: Rounds) -> str:
    groups: dict[str, dict[str, float]] = {}
    for transport, name in NAMES.items():
        members = {"one process": transport, "two processes": f"{transport}_two"}
        groups[name] = {
            label: rates(rounds[contender]).median for label, contender in members.items() if contender in rounds
        }
    groups["pgbench"] = {f"{n} clients": rates(rounds[f"pgbench {n}"]).median for n in PGBENCH_CLIENTS}
    groups["in memory"] = {name: rates(rounds[name]).median for name in ("aiocoap", "bare aiohttp")}
    return svg.bars("Provisions per second", groups)
