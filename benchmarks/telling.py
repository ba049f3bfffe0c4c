"""Whether time tells a stranger what exists: answers to what is there and what is not, asked in turns.

    python -m benchmarks.telling [--pairs N]

Limits on guesses are off, so that there is much to compare: with them a stranger has a hundredth of it. Prints for each
question the median times, their difference with its 95 % interval, and how often a look at one answer tells which of
two it was (0.5: never better than a coin). Ends with 1 when a difference is past the bound.
"""

import argparse
import asyncio
import json
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from tests.server import UNLIMITED, Server

BOUND = 50e-6
"""Seconds by which medians may differ: less than one way through a local network varies by."""

Ask = Callable[[bool], Awaitable[bytes]]
"""Asks for what is there (True) or is not, and returns the answer."""


class Told(NamedTuple):
    """there, other: seconds, the medians. low, high: of the interval of their difference. alike: of 0.5 to 1."""

    there: float
    other: float
    low: float
    high: float
    alike: float


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=3000)
    pairs: int = parser.parse_args().pairs
    with tempfile.TemporaryDirectory(prefix="telling-") as folder:
        server = Server(Path(folder) / "data", env=UNLIMITED)
        with server:
            return asyncio.run(measure(server, pairs))


async def measure(server: Server, pairs: int) -> int:
    """Every question in turn; 1 when one tells too much."""
    made = server.cli("profile", "create", "any")
    key, name, user = made["provisionDeviceKey"], "sensor-1", "meter-1"
    right = {"provisionDeviceKey": key, "provisionDeviceSecret": made["provisionDeviceSecret"]}
    http = await Http.open(server.http)
    await http.post(right | {"deviceName": name})
    await http.post(
        right
        | {"deviceName": "b", "credentialsType": "MQTT_BASIC", "username": user, "password": secrets.token_hex(16)}
    )

    async def taken_name(there: bool) -> bytes:
        wrong = {"provisionDeviceKey": key, "provisionDeviceSecret": "x" * 20}
        return await http.post(wrong | {"deviceName": name if there else _other(name)})

    async def known_key(there: bool) -> bytes:
        return await http.post({"provisionDeviceKey": key if there else _other(key), "provisionDeviceSecret": "x" * 20})

    async def known_user(there: bool) -> bytes:
        return await connack(server.mqtt, user if there else _other(user))

    failed = 0
    for question, ask in (
        ("a device's name, secret wrong", taken_name),
        ("a provision key, secret wrong", known_key),
        ("an MQTT user name, password wrong", known_user),
    ):
        told = await compare(ask, pairs)
        past = told.low > BOUND or told.high < -BOUND
        failed |= past
        sys.stdout.write(
            f"{question}: {told.there * 1e6:.0f} µs if it is there, {told.other * 1e6:.0f} µs if not; difference "
            f"{told.low * 1e6:+.1f} … {told.high * 1e6:+.1f} µs, told apart {told.alike:.3f}"
            f"{' (PAST THE BOUND)' if past else ''}\n"
        )
    http.writer.close()
    return int(failed)


async def compare(ask: Ask, pairs: int) -> Told:
    """Ask in pairs, each in random order. Raises ValueError when the answers differ."""
    times: dict[bool, list[float]] = {True: [], False: []}
    answers = set()
    for number in range(pairs + 50):
        first = random.random() < 0.5
        for there in (first, not first):
            begun = time.perf_counter()
            answers.add(await ask(there))
            if number >= 50:  # what is loaded at first
                times[there].append(time.perf_counter() - begun)
    if len(answers) != 1:
        raise ValueError("the answers themselves tell")
    differences = [a - b for a, b in zip(times[True], times[False], strict=True)]
    medians = sorted(statistics.median(random.choices(differences, k=len(differences))) for _ in range(400))
    wins = statistics.fmean(a > b for a, b in zip(times[True], times[False], strict=True))
    return Told(
        statistics.median(times[True]), statistics.median(times[False]), medians[10], medians[-11], max(wins, 1 - wins)
    )


def _other(known: str) -> str:
    """Another of its length and kind."""
    return secrets.token_hex(len(known))[: len(known)]


class Http(NamedTuple):
    """A connection that stays."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, address: str) -> "Http":
        """Connect."""
        return cls(*await asyncio.open_connection(*address.rsplit(":", 1)))

    async def post(self, request: dict[str, str]) -> bytes:
        """The answer's body."""
        body = json.dumps(request).encode()
        self.writer.write(
            b"POST /api/v1/provision HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        return await self.reader.readexactly(length)


async def connack(address: str, user: str) -> bytes:
    """What a CONNECT with a wrong password is answered with."""
    reader, writer = await asyncio.open_connection(*address.rsplit(":", 1))
    try:
        body = b"\0\4MQTT\4\xc2\0\x3c" + b"".join(
            len(text).to_bytes(2) + text.encode() for text in ("", user, "wrong password")
        )
        writer.write(b"\x10" + bytes((len(body),)) + body)
        return await reader.read(4)
    finally:
        writer.close()


if __name__ == "__main__":
    sys.exit(main())
