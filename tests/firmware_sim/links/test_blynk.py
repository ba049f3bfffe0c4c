import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from firmware_sim.address import Address
from firmware_sim.errors import BadReply, NoAnswer, Refused, SimulatorError, Unauthorized, Untrusted, WrongUsage
from firmware_sim.flash import VolatileFlash
from firmware_sim.links import Line, Login
from firmware_sim.links.blynk import BlynkLink
from firmware_sim.tls import Security
from firmware_sim.transports import TransportName, connect
from tests.firmware_sim.conftest import Identity, make_identity
from tests.transports.blynk.wire import HARDWARE, INTERNAL, LOGIN, PING, REDIRECT, message, response, whole

TOKEN = Login(token="the-token")


@dataclass
class Peer:
    """A server that says what it is told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def hears(self) -> bytes:
        data = await self.reader.readexactly(5)
        return data if whole(data) else data + await self.reader.readexactly(int.from_bytes(data[3:5]))

    def says(self, data: bytes) -> None:
        self.writer.write(data)

    async def welcome(self) -> None:
        """Let a device in, and hear what it is."""
        assert await self.hears() == message(LOGIN, 1, "the-token")
        self.says(response(1, 200))
        assert (await self.hears())[:3] == bytes((INTERNAL, 0, 2))
        self.says(response(2, 200))

    async def closed(self) -> None:
        """Until the device hangs up."""
        await self.reader.read()


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def served(*scripts: Script, context: ssl.SSLContext | None = None) -> AsyncIterator[Address]:
    """Each connection gets its script; what goes wrong in one fails the test."""
    ends: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future() for _ in scripts]
    waiting = list(zip(scripts, ends, strict=True))

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script, end = waiting.pop(0)
        try:
            await script(Peer(reader, writer))
            end.set_result(None)
        except BaseException as error:
            end.set_exception(error)
        finally:
            writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as server:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])
        await asyncio.gather(*ends)


def link(server: Address, security: Security | None = None, timeout: float = 60, template: str = "") -> BlynkLink:
    return BlynkLink(server, TOKEN, security, timeout, template)


async def test_telemetry_is_written_to_pins_and_waited_for() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        assert await peer.hears() == message(HARDWARE, 3, "vw", "0", "21.5")
        assert await peer.hears() == message(HARDWARE, 4, "vw", "7", "on")
        assert await peer.hears() == message(PING, 5)
        peer.says(response(5, 200))
        await peer.closed()

    async with served(script) as server, link(server) as connected:
        await connected.telemetry(json.dumps({"temperature": 21.5, "v7": "on"}).encode())


@pytest.mark.parametrize(("status", "error"), [(11, Refused), (19, NoAnswer)])
async def test_a_write_that_was_not_kept_is_known(status: int, error: type[SimulatorError]) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.hears()
        await peer.hears()
        peer.says(response(3, status) + response(4, 200))
        await peer.closed()

    async with served(script) as server, link(server) as connected:
        with pytest.raises(error):
            await connected.telemetry(b'{"a": 1}')


async def test_a_device_says_its_template_and_its_fields() -> None:
    async def script(peer: Peer) -> None:
        await peer.hears()
        peer.says(response(1, 4))
        texts = (await peer.hears())[5:].decode().split("\0")
        assert dict(zip(texts[::2], texts[1::2], strict=True)).items() >= {"tmpl": "TMPL1", "fw-type": "X"}.items()
        peer.says(response(2, 200))
        assert await peer.hears() == message(INTERNAL, 3, "meta", "set", "Hotspot Name", "home")
        peer.says(response(3, 11))
        await peer.closed()

    async with served(script) as server, link(server) as connected:
        await connected.info({"tmpl": "TMPL1", "fw-type": "X"})
        await connected.meta("Hotspot Name", "home")


async def test_what_the_server_says() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        peer.says(message(HARDWARE, 1, "vw", "5", "on")[:3])
        peer.says(message(HARDWARE, 1, "vw", "5", "on")[3:])
        peer.says(message(INTERNAL, 2, "dbg", "config start") + message(INTERNAL, 3, "ota", "http://a/b"))
        peer.says(message(INTERNAL, 4, "rtc", "1") + message(PING, 5))
        assert await peer.hears() == response(5, 200)

    async with served(script) as server, link(server) as connected:
        await connected._introduce()
        news = connected.downlinks()
        found = [await anext(news) for _ in range(3)]
        assert found == [("ds/v5", b"on"), ("reconfigure", b""), ("ota", b"http://a/b")]
        with pytest.raises(NoAnswer, match="closed the connection"):
            await anext(news)


async def test_updates_are_those_of_pins() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        peer.says(message(INTERNAL, 2, "dbg", "config start") + message(HARDWARE, 1, "vw", "5", "on"))
        await peer.closed()

    async with served(script) as server, link(server) as connected:
        assert await anext(connected.updates()) == {"v5": "on"}


@pytest.mark.parametrize(("status", "error"), [(9, Unauthorized), (1, NoAnswer), (19, NoAnswer), (6, Refused)])
async def test_a_refused_login(status: int, error: type[SimulatorError]) -> None:
    async def script(peer: Peer) -> None:
        await peer.hears()
        peer.says(response(1, status))
        await peer.closed()

    async with served(script) as server:
        with pytest.raises(error, match=f"status {status}") as refused:
            await link(server).__aenter__()
        assert (refused.type is Unauthorized) == (status == 9)


async def test_a_connection_that_is_closed_says_nothing_of_the_token() -> None:
    async def script(peer: Peer) -> None:
        await peer.hears()

    async with served(script) as server:
        with pytest.raises(NoAnswer, match="closed the connection"):
            await link(server).__aenter__()


async def test_a_server_that_is_silent_or_not_there() -> None:
    async def script(peer: Peer) -> None:
        await peer.closed()

    async with served(script) as server:
        with pytest.raises(NoAnswer, match="no answer within"):
            await link(server, timeout=0.01).__aenter__()
    with pytest.raises(NoAnswer, match="refused"):
        await link(server).__aenter__()


async def test_it_goes_where_it_is_sent() -> None:
    async def there(peer: Peer) -> None:
        await peer.welcome()
        await peer.closed()

    async with served(there) as other:

        async def here(peer: Peer) -> None:
            await peer.hears()
            peer.says(message(REDIRECT, 1, other.host, str(other.port)))
            await peer.closed()

        async with served(here) as server, link(server) as connected:
            await connected._introduce()


async def test_it_does_not_go_round_in_circles() -> None:
    addresses: list[Address] = []

    async def script(peer: Peer) -> None:
        await peer.hears()
        peer.says(message(REDIRECT, 1, addresses[0].host, str(addresses[0].port)))
        await peer.closed()

    async with served(*[script] * 4) as server:
        addresses.append(server)
        with pytest.raises(Refused, match="redirected"):
            await link(server).__aenter__()


@pytest.mark.parametrize("said", [message(INTERNAL, 1, "x"), response(7, 200), message(REDIRECT, 1, "a", "port")])
async def test_what_is_no_answer_to_a_login(said: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.hears()
        peer.says(said)
        await peer.closed()

    async with served(script) as server:
        with pytest.raises(BadReply):
            await link(server).__aenter__()


@pytest.mark.parametrize(
    ("said", "match"),
    [
        (message(99, 1), "unknown type"),
        (message(HARDWARE, 0, "vw"), "is 0"),
        (message(HARDWARE, 1, "x" * 1025), "larger"),
    ],
)
async def test_what_makes_a_device_hang_up(said: bytes, match: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        peer.says(said)
        await peer.closed()

    async with served(script) as server, link(server) as connected:
        with pytest.raises(BadReply, match=match):
            await anext(connected.updates())
        with pytest.raises(NoAnswer):
            await connected.telemetry(b"{}")


async def test_tls(identity: Identity) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.closed()

    async with (
        served(script, context=identity.context()) as server,
        link(server, Security(identity.trust)) as connected,
    ):
        await connected._introduce()


async def test_a_server_that_is_not_trusted_gets_no_token(identity: Identity, tmp_path: Path) -> None:
    async with served(context=identity.context()) as server:
        with pytest.raises(Untrusted):
            await link(server, Security(make_identity(tmp_path).trust)).__aenter__()


async def test_what_it_is_not_for() -> None:
    with pytest.raises(WrongUsage, match="provisions nobody"):
        connect(TransportName.BLYNK, Address("127.0.0.1", 1))
    with pytest.raises(WrongUsage, match="not rotated"):
        await link(Address("127.0.0.1", 1)).rotate(b"{}")


def test_a_line_opens_it() -> None:
    opened: Any = Line(TransportName.BLYNK, Address("127.0.0.1", 1), template="TMPL1").open(TOKEN, VolatileFlash())
    assert isinstance(opened, BlynkLink)
    assert opened._facts == {"tmpl": "TMPL1"}
