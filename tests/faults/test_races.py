"""Two servers are asked for one name at a time, clocks jump, and requests come twice and in any order."""

import asyncio
import json
import random
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from provserver.errors import Outcome
from provserver.services.provisioning import Provisioning
from provserver.store import database
from provserver.store.database import Database
from tests.conftest import Space
from tests.faults import oracle
from tests.services.conftest import PEER, Fleet

NAMES = 60
DEVICES_EACH = 4


@pytest.fixture
async def fleet(space: Space) -> Fleet:
    return await Fleet.make(space)


@pytest.fixture
async def others(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Database]]:
    """The connections of two other servers. Each waits for a row that the other writes, however slow the disk is."""
    monkeypatch.setitem(database._SERVING, "lock_timeout", "60s")
    opened = [Database(database_url, size=2, serving=True) for _ in range(2)]
    for each in opened:
        await each.open()
    yield opened
    for each in opened:
        await each.close()


def request(fleet: Fleet, name: str, nonce: str) -> bytes:
    members = {"provisionDeviceKey": fleet.pair.key, "provisionDeviceSecret": fleet.pair.secret}
    return json.dumps(members | {"deviceName": name, "requestNonce": nonce}).encode()


async def test_of_all_who_ask_two_servers_for_a_name_one_gets_it(
    fleet: Fleet, others: list[Database], database_url: str
) -> None:
    chance = random.Random(6)
    servers = [Provisioning(database, fleet.space.keys) for database in others]
    asks = [(f"name-{n}", f"{n:016x}{device:016x}") for n in range(NAMES) for device in range(DEVICES_EACH)]
    twice = [(name, nonce, server) for name, nonce in asks for server in servers]
    chance.shuffle(twice)
    answers = await asyncio.gather(*(server.answer(request(fleet, *ask), PEER) for *ask, server in twice))

    told: dict[str, tuple[str, str]] = {}
    for (name, nonce, _), answer in zip(twice, answers, strict=True):
        if answer.outcome is Outcome.SUCCESS:  # both servers tell the same device the same, and no other anything
            token = json.loads(answer.body)["credentialsValue"]
            assert told.setdefault(name, (nonce, token)) == (nonce, token)
        else:
            assert answer.outcome is Outcome.FAILURE
    assert len(told) == NAMES
    for server in servers:
        await server.drain()
    tokens = {name: token for name, (_, token) in told.items()}
    assert await oracle.check(database_url, fleet.space.keys, tokens) == NAMES
    for name, (nonce, token) in told.items():
        again = json.loads((await servers[0].answer(request(fleet, name, nonce), PEER)).body)
        assert again["credentialsValue"] == token
    await servers[0].drain()


@pytest.mark.parametrize("jumps", [(0, -3600, 7200), (0, 10 * 365 * 86400, -20 * 365 * 86400), (0, -0.001, 0.001)])
async def test_a_clock_that_jumps_costs_nobody_his_credentials(
    fleet: Fleet, database_url: str, jumps: tuple[float, ...]
) -> None:
    chance = random.Random(7)
    provisioning = Provisioning(
        fleet.space.database, fleet.space.keys, clock=lambda: time.time() + chance.choice(jumps)
    )
    told: dict[str, str] = {}
    for round_ in range(4):
        asks = {f"device-{n}": request(fleet, f"device-{n}", f"{n:032x}") for n in range(round_ * 20, round_ * 20 + 40)}
        answers = await asyncio.gather(*(provisioning.answer(body, PEER) for body in asks.values()))
        for name, answer in zip(asks, answers, strict=True):
            token = json.loads(answer.body)["credentialsValue"]
            assert told.setdefault(name, token) == token
    await provisioning.drain()
    assert await oracle.check(database_url, fleet.space.keys, told) == len(told)


class Asker:
    """A device on one transport, which sends each request as often as it is told."""

    def __init__(self, server: Any, pair: Any, transport: str) -> None:
        self.server = server
        self.members = {name: pair[name] for name in ("provisionDeviceKey", "provisionDeviceSecret")}
        self.transport = transport

    def body(self, number: int) -> bytes:
        named = {"deviceName": f"{self.transport}-{number}", "requestNonce": f"{number:032x}"}
        return json.dumps(self.members | named).encode()

    async def answers(self, numbers: list[int]) -> list[tuple[str, str]]:
        """(name, token) of each answer to what was sent, in this order, over one connection."""
        return await asyncio.to_thread(getattr(self, f"_{self.transport}"), numbers)

    def _http(self, numbers: list[int]) -> list[tuple[str, str]]:
        host, port = self.server.http.split(":")
        found: list[tuple[str, str]] = []
        with socket.create_connection((host, int(port)), timeout=60) as link:
            bodies = [self.body(number) for number in numbers]
            head = "POST /api/v1/provision HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
            with link.makefile("rb") as file:
                for body in bodies:  # an impatient client's: the next before the answer
                    link.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
                for _ in bodies:
                    assert b" 200 " in file.readline()
                    length = 0
                    while (line := file.readline()) not in (b"\r\n", b""):
                        if line.lower().startswith(b"content-length:"):
                            length = int(line.split(b":")[1])
                    found.append(_named(file.read(length)))
        return found

    def _coap(self, numbers: list[int]) -> list[tuple[str, str]]:
        host, port = self.server.coap.split(":")
        found: list[tuple[str, str]] = []
        with socket.socket(type=socket.SOCK_DGRAM) as link:
            link.settimeout(60)
            link.connect((host, int(port)))
            # From anywhere: what had this port before may have used an id already, and been answered.
            first = random.randrange(0x10000 - max(numbers))
            for number in numbers:  # the same Message ID, and token, for each that is the same
                options = b"\xb3api\x02v1\x09provision\xff"
                ids = (first + number).to_bytes(2) + number.to_bytes(4)
                link.send(b"\x44\x02" + ids + options + self.body(number))
            heard: set[int] = set()
            while heard != set(numbers):
                answer = link.recv(65_536)
                if answer[0] >> 4 & 3 == 0:  # an answer of its own, to be acknowledged
                    link.send(b"\x60\0" + answer[2:4])
                if answer[:2] == b"\x60\0":  # it takes a while (RFC 7252 §5.2.2)
                    assert first <= int.from_bytes(answer[2:4]) <= first + max(numbers), answer
                    continue
                assert answer[1] in (0x41, 0x44), answer
                heard.add(int.from_bytes(answer[4:8]))
                found.append(_named(answer[answer.index(b"\xff{") + 1 :]))
        return found

    def _mqtt(self, numbers: list[int]) -> list[tuple[str, str]]:
        host, port = self.server.mqtt.split(":")
        found: list[tuple[str, str]] = []
        with socket.create_connection((host, int(port)), timeout=60) as link, link.makefile("rb") as file:
            link.sendall(_packet(0x10, _text("MQTT") + b"\x04\x82\x00\x3c" + _text("") + _text("provision")))
            assert _read(file)[0] >> 4 == 2
            seen: set[int] = set()
            for number in numbers:  # QoS 1; DUP where it was sent before
                flags = 0x32 | (8 if number in seen else 0)
                seen.add(number)
                topic = _text("/provision/request") + (number + 1).to_bytes(2)
                link.sendall(_packet(flags, topic + self.body(number)))
            while len({name for name, _ in found}) < len(seen):
                kind, content = _read(file)
                if kind >> 4 == 3:
                    length = int.from_bytes(content[:2])
                    found.append(_named(content[content.index(b"{", 2 + length) :]))
        return found


def _named(body: bytes) -> tuple[str, str]:
    reply = json.loads(body)
    assert reply["status"] == "SUCCESS", reply
    return reply["deviceName"], reply["credentialsValue"]


def _text(text: str) -> bytes:
    return len(text).to_bytes(2) + text.encode()


def _packet(kind: int, content: bytes) -> bytes:
    length, digits = len(content), bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | (128 if length else 0))
        if not length:
            return bytes((kind,)) + bytes(digits) + content


def _read(file: Any) -> tuple[int, bytes]:
    kind, length, shift = file.read(1)[0], 0, 0
    while (byte := file.read(1)[0]) & 128:
        length |= (byte & 127) << shift
        shift += 7
    return kind, file.read(length | byte << shift)


@pytest.mark.parametrize("transport", ["http", "mqtt", "coap"])
async def test_what_comes_twice_and_in_any_order_is_answered_alike(server: Any, transport: str) -> None:
    chance = random.Random(8)
    pair = server.cli("profile", "create", f"races-{transport}")
    asker = Asker(server, pair, transport)
    numbers = [number for number in range(30) for _ in range(3)]
    chance.shuffle(numbers)
    answers = await asker.answers(numbers) + await asker.answers(sorted(set(numbers)))

    told: dict[str, set[str]] = {}
    for name, token in answers:
        told.setdefault(name, set()).add(token)
    assert set(told) == {f"{transport}-{number}" for number in range(30)}
    assert all(len(tokens) == 1 for tokens in told.values()), "a device was told two tokens"
    assert len(set.union(*told.values())) == 30
    listed = [each["name"] for each in server.cli("device", "list", "--profile", f"races-{transport}")]
    assert sorted(listed) == sorted(told)
