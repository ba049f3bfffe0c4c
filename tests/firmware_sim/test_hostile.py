import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from firmware_sim.address import Address
from firmware_sim.device import Provisioned
from firmware_sim.flash import Credentials
from firmware_sim.hostile import Gang, Loot
from firmware_sim.links import Line
from firmware_sim.scenario import Attack, Crime
from firmware_sim.transports import TransportName
from tests.firmware_sim.test_fleet import FakeServer

KEY, SECRET = "the-key", "the-secret"


class Guarded(FakeServer):
    """Grants to the right secret, unless the name is taken; lets in with the right token."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = self.judge
        self.tokens = {"right"}
        self.busy = False
        self.deaf = False

    def judge(self, asked: dict[str, Any]) -> web.Response:
        if self.busy:
            return web.Response(status=429, headers={"Retry-After": "5"})
        if asked["provisionDeviceSecret"] != SECRET or asked["deviceName"] == "taken":
            return web.json_response({"status": "FAILURE", "errorMsg": "no"})
        return self.grant(asked)

    async def ask(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["token"] in self.tokens else 401, text="{}")

    async def tell(self, request: web.Request) -> web.Response:
        self.messages.append((request.match_info["token"], 1))
        return web.Response(status=503 if self.deaf else 200)


@pytest.fixture
async def guarded() -> AsyncIterator[tuple[Guarded, Line]]:
    fake = Guarded()
    runner = web.AppRunner(fake.app(), handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield fake, Line(TransportName.HTTP, Address(*runner.addresses[0]))
    await runner.cleanup()


def victim(name: str, token: str = "right") -> Loot:
    loot = Loot()
    loot.take(TransportName.HTTP, Provisioned(Credentials("ACCESS_TOKEN", token, name), None, 1))
    return loot


async def attack(kind: Crime, line: Line, count: int = 4, loot: Loot | None = None, **more: Any) -> Counter[str]:
    told: list[None] = []
    attack = Attack(kind=kind, count=count, transports=(line.name,), victims="them" if loot else None, **more)
    gang = Gang(attack, {line.name: line}, KEY, SECRET, loot, progress=lambda: told.append(None))
    await gang.run()
    assert len(told) == gang.outcomes.total() == count
    assert SECRET not in repr(gang)
    return gang.outcomes


async def test_guessers_try_secrets_and_tokens(guarded: tuple[Guarded, Line]) -> None:
    fake, line = guarded
    assert await attack(Crime.GUESS, line, 6) == {"refused": 6}
    assert len(fake.asked) == 3  # the others tried tokens
    assert len({asked["provisionDeviceSecret"] for asked in fake.asked}) == 3
    assert {asked["provisionDeviceKey"] for asked in fake.asked} == {KEY}


async def test_guessers_who_are_told_to_wait(guarded: tuple[Guarded, Line]) -> None:
    fake, line = guarded
    fake.busy = True
    assert await attack(Crime.GUESS, line, 2) == {"refused": 1, "turned away": 1}


async def test_impersonators_have_the_key_and_a_name(guarded: tuple[Guarded, Line]) -> None:
    fake, line = guarded
    assert await attack(Crime.IMPERSONATE, line, 3, victim("taken")) == {"refused": 3}
    assert {asked["deviceName"] for asked in fake.asked} == {"taken"}
    assert len({asked["requestNonce"] for asked in fake.asked}) == 3
    assert await attack(Crime.IMPERSONATE, line, 1, victim("free")) == {"let in": 1}


async def test_clones_have_the_credentials(guarded: tuple[Guarded, Line]) -> None:
    fake, line = guarded
    assert await attack(Crime.CLONE, line, 2, victim("any", "wrong")) == {"refused": 2}
    assert await attack(Crime.CLONE, line, 2, victim("any", "right")) == {"let in": 2}
    assert [who for who, _ in fake.messages] == ["right", "right"]


async def test_who_is_let_in_is_not_turned_away_because_nobody_listens(guarded: tuple[Guarded, Line]) -> None:
    fake, line = guarded
    fake.deaf = True
    assert await attack(Crime.CLONE, line, 2, victim("any", "right")) == {"let in": 2}


async def test_there_is_nobody_to_steal_from(guarded: tuple[Guarded, Line]) -> None:
    loot = Loot()
    loot.close()
    assert await attack(Crime.CLONE, guarded[1], 2, loot) == {"turned away": 2}


async def test_victims_are_waited_for_and_come_in_turn() -> None:
    loot = Loot()
    waiting = asyncio.create_task(loot.steal(0))
    await asyncio.sleep(0)
    assert not waiting.done()
    for name in ("one", "two"):
        loot.take(TransportName.HTTP, Provisioned(Credentials("ACCESS_TOKEN", "t", name), None, 1))
    await waiting
    names = [(await loot.steal(number)).credentials.device_name for number in range(4)]
    assert names == ["one", "two", "one", "two"]


@pytest.mark.parametrize(("bytes_heard", "outcome"), [(3, "closed by the server"), (None, "held to the end")])
async def test_a_slow_loris_holds_on_until_it_is_closed(bytes_heard: int | None, outcome: str) -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            heard.append(await reader.readuntil(b"X-"))
            heard.append(await (reader.readexactly(bytes_heard) if bytes_heard else reader.read(-1)))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        line = Line(TransportName.HTTP, Address(*server.sockets[0].getsockname()))
        seconds = 60.0 if bytes_heard else 0.05
        assert await attack(Crime.SLOW_LORIS, line, 1, seconds=seconds, interval=0.001) == {outcome: 1}
    if bytes_heard:
        assert heard[0].startswith(b"POST /api/v1/provision HTTP/1.1\r\n")
        assert heard[1] == b"a" * bytes_heard


async def test_nobody_listens_to_a_slow_loris(free_port: int) -> None:
    line = Line(TransportName.MQTT, Address("127.0.0.1", free_port))
    assert await attack(Crime.SLOW_LORIS, line, 2) == {"turned away": 2}
