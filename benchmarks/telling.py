"""Whether time tells a stranger what exists: answers to what is there and what is not, asked in turns.

    python -m benchmarks.telling [--pairs N] [--only TEXT]

Limits on guesses are off, so that there is much to compare: with them a stranger has a hundredth of it. Prints for each
question the median times, their difference with its 95 % interval, and how often a look at one answer tells which of
two it was (0.5: never better than a coin). Ends with 1 when a difference is past the bound.
"""

import argparse
import asyncio
import itertools
import json
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from provserver.config import Config
from provserver.core.authorization import OPERATOR, Principal
from provserver.core.limits import Buckets
from provserver.errors import NotFound
from provserver.services.claiming import Claiming, ClaimLimits
from provserver.workspace import workspace
from tests.server import UNLIMITED, Server
from tests.transports.oscore_client import DeviceContext
from tests.transports.tls_peer import TLS_1_2, Client

BOUND = 50e-6
"""Seconds by which medians may differ: less than one way through a local network varies by."""

PAST = " (PAST THE BOUND)"

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
    parser.add_argument("--only", default="", help="questions with this text")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="telling-") as folder:
        server = Server(Path(folder) / "data", env=UNLIMITED, tls=True, fresh=True)
        with server:
            return asyncio.run(measure(server, arguments.pairs, arguments.only))


async def measure(server: Server, pairs: int, only: str = "") -> int:
    """Every question in turn; 1 when one tells too much."""
    failed = 0
    async with asking(server) as questions:
        for question, ask in questions.items():
            if only not in question:
                continue
            told = await compare(ask, pairs)
            past = told.low > BOUND or told.high < -BOUND
            failed |= past
            print(
                f"{question}: {told.there * 1e6:.0f} µs if it is there, {told.other * 1e6:.0f} µs if not; difference "
                f"{told.low * 1e6:+.1f} … {told.high * 1e6:+.1f} µs, told apart {told.alike:.3f}{PAST if past else ''}",
                flush=True,
            )
    return int(failed)


@asynccontextmanager
async def asking(server: Server) -> AsyncIterator[dict[str, Ask]]:
    """What a stranger may ask, of each way in."""
    made = server.cli("profile", "create", "any")
    key, name, user = made["provisionDeviceKey"], "sensor-1", "meter-1"
    right = {"provisionDeviceKey": key, "provisionDeviceSecret": made["provisionDeviceSecret"]}
    http = await Http.open(server.http)
    known = json.loads(await http.post(right | {"deviceName": name}))["deviceId"]
    await http.post(
        right
        | {"deviceName": "b", "credentialsType": "MQTT_BASIC", "username": user, "password": secrets.token_hex(16)}
    )
    oscore = await Oscore.open(server.coap)

    async def taken_name(there: bool) -> bytes:
        wrong = {"provisionDeviceKey": key, "provisionDeviceSecret": "x" * 20}
        return await http.post(wrong | {"deviceName": name if there else _other(name)})

    async def known_key(there: bool) -> bytes:
        return await http.post({"provisionDeviceKey": key if there else _other(key), "provisionDeviceSecret": "x" * 20})

    async def known_user(there: bool) -> bytes:
        return await connack(server.mqtt, user if there else _other(user))

    async def known_id(there: bool) -> bytes:
        return await http.get(f"/api/v1/{user if there else _other(user)}/attributes")

    async def device_psk(there: bool) -> bytes:
        return await handshake(server.mqtts, known if there else str(uuid4()))

    async def key_psk(there: bool) -> bytes:
        return await handshake(server.mqtts, key if there else _other(key))

    async def device_oscore(there: bool) -> bytes:
        return await oscore.ask(known if there else str(uuid4()))

    async def key_oscore(there: bool) -> bytes:
        return await oscore.ask(key if there else _other(key))

    async with claims(server) as (claim, claimed, deleted):

        async def claimed_code(there: bool) -> bytes:
            return await claim(claimed if there else _other_code(claimed))

        async def deleted_code(there: bool) -> bytes:
            return await claim(deleted if there else _other_code(deleted))

        yield {
            "a device's name, secret wrong": taken_name,
            "a provision key, secret wrong": known_key,
            "an MQTT user name, password wrong": known_user,
            "an MQTT user name in place of a token, over HTTP": known_id,
            "a device's identity, pre-shared key wrong": device_psk,
            "a provision key's identity, pre-shared key wrong": key_psk,
            "a device's identity, OSCORE's key wrong": device_oscore,
            "a provision key's identity, OSCORE's key wrong": key_oscore,
            "a QR code that is claimed": claimed_code,
            "a QR code that is deleted": deleted_code,
        }
    http.writer.close()
    oscore.transport.close()


Claim = Callable[[str], Awaitable[bytes]]


@asynccontextmanager
async def claims(server: Server) -> AsyncIterator[tuple[Claim, str, str]]:
    """Claims a QR code, in this process as people's limits cannot be lifted; a code that is claimed, a deleted one."""
    server.cli("token", "create", "--profile", "any", "--count", "2")
    ids = [each["id"] for each in server.cli("token", "list")]
    claimed, deleted = (server.cli("token", "show", id_, "--open")["qrPayload"] for id_ in ids)
    server.cli("token", "claim", claimed)
    server.cli("token", "delete", ids[1])
    plenty = Buckets(1e9, 1e9)
    async with workspace(Config(data_dir=server.data_dir)) as space:
        claiming = Claiming(space.database, space.keys, ClaimLimits(plenty, plenty, plenty))
        principal = Principal(OPERATOR, space.organization_id)

        async def claim(code: str) -> bytes:
            try:
                await claiming.claim(principal, code)
            except NotFound as refusal:
                return str(refusal).encode()
            raise ValueError("it could be claimed")

        yield claim, claimed, deleted


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


def _other_code(known: str) -> str:
    """Another QR code: all but the mark in front."""
    mark, _, rest = known.partition("_")
    return f"{mark}_{_other(rest.partition('+')[0])}"


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
        return (await self._answer())[1]

    async def get(self, path: str) -> bytes:
        """The status line and the body."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        head, body = await self._answer()
        return head.partition(b"\r\n")[0] + body

    async def _answer(self) -> tuple[bytes, bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        return head, await self.reader.readexactly(length)


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


async def handshake(address: str, identity: str) -> bytes:
    """The alert that ends a handshake with a wrong pre-shared key."""
    reader, writer = await asyncio.open_connection(*address.rsplit(":", 1))
    client = Client(TLS_1_2, psk=(identity, b"not its key"), ciphers="PSK-AES128-GCM-SHA256")
    came = b""
    try:
        while True:
            writer.writelines(client.step())
            if not (part := await reader.read(65_536)):
                return came[-7:]
            came += part
            client.feed(part)
    finally:
        writer.close()


class Oscore(asyncio.DatagramProtocol):
    """A socket for requests under a wrong key."""

    transport: asyncio.DatagramTransport

    def __init__(self) -> None:
        self._came: asyncio.Queue[bytes] = asyncio.Queue()
        self._numbers = itertools.count(1)

    @classmethod
    async def open(cls, address: str) -> "Oscore":
        """Connect."""
        host, port = address.rsplit(":", 1)
        loop = asyncio.get_running_loop()
        return (await loop.create_datagram_endpoint(cls, remote_addr=(host, int(port))))[1]

    async def ask(self, identity: str) -> bytes:
        """The answer, without its message id and token."""
        context = DeviceContext(identity.encode() + secrets.token_bytes(16), b"not its key")
        datagram, _ = context.request(next(self._numbers) % 65_536)
        self.transport.sendto(datagram)
        while (answer := await self._came.get())[1] == 0:  # it comes later
            pass
        return answer[1:2] + answer[4 + (answer[0] & 15) :]

    def connection_made(self, transport: Any) -> None:
        """Take the socket."""
        self.transport = transport

    def datagram_received(self, data: bytes, _address: object) -> None:
        """Keep it for who asks."""
        self._came.put_nowait(data)


if __name__ == "__main__":
    sys.exit(main())
