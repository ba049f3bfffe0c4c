"""10,000 wrong secrets from one address in 10 s: how many are evaluated, and what right devices elsewhere feel of it.

    python -m benchmarks.guessing [--guesses N] [--seconds S] [--rounds R] [--workers W]

Guesses come from 127.0.0.2, right devices from 127.0.0.1, each in a process of its own, over HTTP connections that are
kept. In each round right devices are measured alone and then beside the guesses. Exits with 1 when more than the
configured number are evaluated, or the p99 of right devices is more than RATIO times what it is without.
"""

import argparse
import asyncio
import json
import multiprocessing
import secrets
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.load import KEY, SECRET
from benchmarks.machine import Processes
from benchmarks.product import Product
from provserver.config import Config

RATIO = 1.5
RATE = 50
"""Right devices in a second."""

_CONNECTIONS = 16
_PATIENCE = 30.0


def main(arguments: argparse.Namespace) -> int:
    """Measure, tell; an exit code."""
    with tempfile.TemporaryDirectory(prefix="guessing-") as name, Processes(Path(name)) as processes:
        product = Product(processes, Path(name) / "data", workers=arguments.workers)
        with product, ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            product.make_profile()
            port, seconds = product.port("http"), arguments.seconds
            pool.submit(devices, port, 1.0).result()  # what is asked first is slower
            alone, beside, bounds, heard = [], [], [], []
            for _ in range(arguments.rounds):
                alone.append(pool.submit(devices, port, seconds).result())
                guessing = pool.submit(guesses, port, arguments.guesses, seconds)
                beside.append(pool.submit(devices, port, seconds).result())
                told, took = guessing.result()
                heard.append(told["NOT_FOUND"])
                bounds.append(bound(took))
                print(
                    f"{sum(told.values()):,} guesses in {took:.1f} s: {heard[-1]} were evaluated, {bounds[-1]} may be;"
                    f" p99 of right devices: {alone[-1]:.1f} ms alone, {beside[-1]:.1f} ms beside them",
                    flush=True,
                )
    ratio = statistics.median(beside) / statistics.median(alone)
    print(f"median p99 beside guesses ÷ alone: {ratio:.2f} (mark: {RATIO} at most)")
    return int(ratio > RATIO or any(one > most for one, most in zip(heard, bounds, strict=True)))


def bound(seconds: float) -> int:
    """How many guesses the default options allow in so many seconds, to who had none yet."""
    config = Config()
    reserve = 2 * max(1 / (2 * config.locked_interval), 1)
    return int(config.guess_limit + seconds / config.guess_interval + reserve + seconds / config.locked_interval)


def devices(port: int, seconds: float) -> float:
    """Right devices: the p99 of their time in milliseconds. A fault is told, and ends it."""
    prefix, times = secrets.token_hex(4), list[float]()

    def body(number: int) -> bytes:
        return _body(f"{prefix}-{number}", SECRET)

    def answered(status: str, took: float) -> None:
        if status != "SUCCESS":
            raise RuntimeError(f"a right device was told {status}")
        times.append(took)

    asyncio.run(_ask("127.0.0.1", port, round(RATE * seconds), seconds, body, answered))
    return statistics.quantiles(times, n=100)[98] * 1000


def guesses(port: int, number: int, seconds: float) -> tuple["Counter[str]", float]:
    """Wrong secrets: what they were told, and how many seconds it took."""
    told: Counter[str] = Counter()
    begun = time.monotonic()

    def answered(status: str, _took: float) -> None:
        told[status] += 1

    asyncio.run(
        _ask("127.0.0.2", port, number, seconds, lambda n: _body(f"guess-{n}", secrets.token_hex(16)), answered)
    )
    return told, time.monotonic() - begun


async def _ask(
    source: str,
    port: int,
    number: int,
    seconds: float,
    body: Callable[[int], bytes],
    answered: Callable[[str, float], None],
) -> None:
    """Ask so often, evenly over the seconds, on a few connections."""
    begun = time.monotonic()
    numbers = iter(range(number))

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        for n in numbers:
            await asyncio.sleep(begun + n * seconds / number - time.monotonic())
            asked = time.monotonic()
            payload = body(n)
            writer.write(
                b"POST /api/v1/provision HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload
            )
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _PATIENCE)
            length = int(head.rpartition(b"Content-Length: ")[2].split(b"\r\n")[0])
            reply = json.loads(await reader.readexactly(length))
            answered("LIMITED" if b" 429 " in head[:16] else reply["status"], time.monotonic() - asked)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(_CONNECTIONS)))


def _body(name: str, secret: str) -> bytes:
    members = {"deviceName": name, "provisionDeviceKey": KEY, "provisionDeviceSecret": secret}
    return json.dumps(members).encode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guessing", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--guesses", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    sys.exit(main(parser.parse_args()))
