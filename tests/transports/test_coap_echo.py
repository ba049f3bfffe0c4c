"""A plain CoAP address that others had locked by forging it: who is there shows it, and is heard (RFC 9175 §2.3)."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from aiocoap import Context, Message
from aiocoap.numbers.codes import Code
from aiocoap.optiontypes import BlockOption

from firmware_sim.address import Address
from firmware_sim.flash import VolatileFlash
from firmware_sim.links.coap import CoapLink, OscoreLink
from firmware_sim.tls import PreSharedKey
from firmware_sim.transports import coap as simulated
from provserver.core.model import Peer, Transport
from provserver.core.model import PreSharedKey as ProvenKey
from provserver.services.access import Access
from provserver.services.limits import Limits, Rates
from provserver.services.oscore import SequenceNumbers
from provserver.services.provisioning import Provisioning
from provserver.transports.coap import CoapTransport
from provserver.transports.coap_echo import Echoes
from provserver.transports.oscore import OscoreSite
from tests.transports import WAITS
from tests.transports.devices import Backend, Device, backend
from tests.transports.test_coap import LIMIT, Datagrams, Site

RATES = Rates(guess_limit=3, guess_interval=1e6, locked_interval=1e6)
HERE, THERE = Peer(Transport.COAP, "192.0.2.1"), Peer(Transport.COAP, "192.0.2.2")

numbers = itertools.count()


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


# --- the values


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> Limits:
    return Limits(RATES, clock)


def locked(limits: Limits, peer: Peer = HERE) -> Limits:
    for number in range(5):
        limits.guessed(peer, number)
    return limits


def test_a_value_proves_the_address_it_was_sent_to(limits: Limits, clock: Clock) -> None:
    echoes = Echoes(locked(limits), clock)
    value = echoes.challenge(HERE)

    assert value is not None
    assert echoes.proved(HERE, value).proved
    assert Echoes(limits, clock).proved(HERE, value).proved  # in any process that the limits are shared with
    assert limits.hold(echoes.proved(HERE, value), "asks") is None
    assert not echoes.proved(THERE, value).proved


@pytest.mark.parametrize("value", [None, b"", b"x", bytes(8), bytes(40)])
def test_what_is_no_such_value_proves_nothing(limits: Limits, clock: Clock, value: bytes | None) -> None:
    assert Echoes(limits, clock).proved(HERE, value) == HERE


def test_a_value_is_good_for_a_minute_or_two(limits: Limits, clock: Clock) -> None:
    echoes = Echoes(locked(limits), clock)
    value = echoes.challenge(HERE)
    clock.now += 59
    assert echoes.proved(HERE, value).proved
    clock.now += 121
    assert not echoes.proved(HERE, value).proved


def test_another_server_makes_others(clock: Clock) -> None:
    values = {Echoes(locked(Limits(RATES, clock)), clock).challenge(HERE) for _ in range(10)}
    assert len(values) == 10


def test_nobody_is_asked_whom_it_would_not_help(limits: Limits, clock: Clock) -> None:
    echoes = Echoes(limits, clock)
    assert echoes.challenge(HERE) is None
    locked(limits)
    assert echoes.challenge(THERE) is None
    for proven in (
        Peer(Transport.COAP, HERE.address, proved=True),
        Peer(Transport.COAP, HERE.address, psk=ProvenKey("a device", b"its key", b"digest")),
        Peer(Transport.HTTP, HERE.address),
    ):
        locked(limits, proven)
        assert limits.locked(proven)
        assert echoes.challenge(proven) is None


# --- over the wire


@dataclass
class Street:
    """A listener that counts, and the address where a device lives. limits: what is counted."""

    site: Site
    limits: Limits
    back: Backend

    @asynccontextmanager
    async def datagrams(self, host: str = "127.0.0.1") -> AsyncIterator[Datagrams]:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            Datagrams, local_addr=(host, 0), remote_addr=("127.0.0.1", self.site.port)
        )
        yield protocol
        transport.close()

    async def ask(self, socket: Datagrams, body: bytes, *path: str, code: Code = Code.POST, **options: Any) -> Any:
        mid = next(numbers) % 65_536
        request = Message(code=code, payload=body, _mtype=0, _mid=mid, _token=mid.to_bytes(2))
        request.opt.uri_path = ("api", "v1", *path)
        for name, value in options.items():
            setattr(request.opt, name, value)
        socket.send(request.encode())
        return await socket.answer()

    async def have_locked(self, host: str = "127.0.0.1") -> None:
        """By somebody who sends guesses from that address, and does not see what becomes of them."""
        async with self.datagrams(host) as socket:
            for number in range(6):
                await self.ask(socket, self.guess(number), "provision")

    def guess(self, number: int) -> bytes:
        return self.site.body("x", provisionDeviceSecret=f"guess {number}")

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.site.port)


@pytest.fixture(scope="module")
async def back(postgres: str, tmp_path_factory: pytest.TempPathFactory, front: bool) -> AsyncIterator[Backend]:
    async with backend(postgres, tmp_path_factory.mktemp("coap_echo"), f"coap_echo_{front}".lower()) as services:
        yield services


@pytest.fixture
async def street(back: Backend, front: bool) -> AsyncIterator[Street]:
    limits, made = Limits(RATES), back.made
    provisioning = Provisioning(made.database, made.keys, limits=limits)
    access = Access(made.database, made.keys, limits=limits)
    numbers_ = SequenceNumbers(made.database)
    transport = CoapTransport(
        provisioning,
        **back.services | {"access": access},
        wrap=lambda site: OscoreSite(site, access.shared_keys, numbers_, limits=limits),
        limits=limits,
        front=front,
        max_payload_size=LIMIT,
        notification_interval=0,
    )
    client = await Context.create_client_context()
    _, port = await transport.start("127.0.0.1", 0)
    yield Street(Site(transport, port, made, client), limits, back)
    await client.shutdown()
    await transport.stop(0)
    await provisioning.drain()
    await access.drain()


@pytest.fixture
async def device(back: Backend) -> Device:
    return await back.device(f"lives here {next(numbers)}")


async def test_who_is_there_is_heard_though_others_had_the_address_locked(street: Street) -> None:
    await street.have_locked()
    async with street.datagrams() as socket:
        body = street.site.body(f"there {next(numbers)}")
        challenge = await street.ask(socket, body, "provision")
        assert challenge.code is Code.UNAUTHORIZED
        assert challenge.opt.max_age in WAITS
        assert json.loads(challenge.payload)["status"] == "FAILURE"  # for who does not know the option
        answer = await street.ask(socket, body, "provision", echo=challenge.opt.echo)

    assert (answer.code, json.loads(answer.payload)["status"]) == (Code.CREATED, "SUCCESS")
    assert answer.opt.echo is None


async def test_who_is_forged_is_not_sent_much(street: Street) -> None:
    """Three times what was sent at most (RFC 9175 §2.4), with the headers of UDP and IPv4."""
    await street.have_locked()
    async with street.datagrams() as socket:
        challenge = await street.ask(socket, b"{}", "provision")

    assert (challenge.code, challenge.payload) == (Code.UNAUTHORIZED, b"")


async def test_a_value_of_another_address_helps_nobody(street: Street) -> None:
    await street.have_locked()
    await street.have_locked("127.0.0.2")
    async with street.datagrams("127.0.0.2") as elsewhere:
        stolen = (await street.ask(elsewhere, b"{}", "provision")).opt.echo
    async with street.datagrams() as socket:
        for echo in (stolen, b"a guess", b""):
            answer = await street.ask(socket, street.site.body("x"), "provision", echo=echo)
            assert (answer.code, len(answer.opt.echo)) == (Code.UNAUTHORIZED, 8)


async def test_who_guesses_where_he_is_is_locked_as_over_any_other_transport(street: Street) -> None:
    await street.have_locked()
    async with street.datagrams() as socket:
        echo = (await street.ask(socket, street.guess(0), "provision")).opt.echo
        codes = [(await street.ask(socket, street.guess(n), "provision", echo=echo)).code for n in range(6)]

    assert codes == [Code.BAD_REQUEST] * 4 + [Code.TOO_MANY_REQUESTS] * 2
    assert street.limits.locked(Peer(Transport.HTTP, "127.0.0.1"))


async def test_who_forges_an_address_locks_nothing_but_its_plain_datagrams(street: Street) -> None:
    await street.have_locked()

    assert not street.limits.locked(Peer(Transport.HTTP, "127.0.0.1"))
    assert street.limits.locked(Peer(Transport.COAP, "127.0.0.1"))


async def test_a_device_with_its_token_is_heard(street: Street, device: Device) -> None:
    await street.have_locked()
    async with street.datagrams() as socket:
        challenge = await street.ask(socket, b'{"a":1}', device.token, "telemetry")
        assert (challenge.code, challenge.payload) == (Code.TOO_MANY_REQUESTS, b"")  # never that its token is wrong
        assert challenge.opt.max_age in WAITS
        echo = challenge.opt.echo
        assert (await street.ask(socket, b'{"a":1}', device.token, "telemetry", echo=echo)).code is Code.CREATED
        observed = await street.ask(socket, b"", device.token, "attributes", code=Code.GET, observe=0, echo=echo)
        assert (observed.code, observed.opt.observe is None) == (Code.CONTENT, False)
        unproved = await street.ask(socket, b"", device.token, "attributes", code=Code.GET, observe=0)
        assert (unproved.code, unproved.opt.observe, unproved.opt.echo) == (Code.TOO_MANY_REQUESTS, None, echo)


async def test_of_a_body_in_blocks_the_last_one_comes_again(street: Street) -> None:
    await street.have_locked()
    body = street.site.body(f"blocks {next(numbers)}", padding="x" * 100)
    parts = [body[start : start + 64] for start in range(0, len(body), 64)]
    async with street.datagrams() as socket:

        async def part(number: int, **options: Any) -> Any:
            more = number < len(parts) - 1
            block = BlockOption.BlockwiseTuple(number, more, 2)
            return await street.ask(socket, parts[number], "provision", block1=block, **options)

        for number in range(len(parts) - 1):
            assert (await part(number)).code is Code.CONTINUE
        challenge = await part(len(parts) - 1)
        assert (challenge.code, challenge.opt.block1.block_number) == (Code.UNAUTHORIZED, len(parts) - 1)
        answer = await part(len(parts) - 1, echo=challenge.opt.echo)

    assert (answer.code, json.loads(answer.payload)["status"]) == (Code.CREATED, "SUCCESS")


# --- clients that repeat by themselves


async def test_the_simulator_repeats_by_itself(street: Street, device: Device) -> None:
    await street.have_locked()
    async with simulated.CoapTransport(street.address) as transport:
        answer = await transport.provision(street.site.body(f"simulated {next(numbers)}"), 10)
        assert json.loads(answer)["status"] == "SUCCESS"
        long = street.site.body(f"simulated {next(numbers)}", padding="x" * 2_000)
        assert json.loads(await transport.provision(long, 10))["status"] == "SUCCESS"
    async with CoapLink(f"coap://{street.address}/api/v1/{device.token}", 10) as link:
        await link.telemetry(b'{"a":1}')
        updates = link.updates()
        await anext(updates)
        assert await anext(updates) == {}
        await updates.aclose()


async def test_so_it_does_under_oscore(street: Street, device: Device) -> None:
    await street.have_locked()
    pair = street.site.service.pair
    async with simulated.OscoreTransport(street.address, PreSharedKey(pair.key, pair.secret.encode())) as transport:
        answer = await transport.provision(json.dumps({"deviceName": f"oscore {next(numbers)}"}).encode(), 10)
        assert json.loads(answer)["status"] == "SUCCESS"
    key = PreSharedKey(str(device.id), device.token.encode())
    async with OscoreLink(f"coap://{street.address}/api/v1", key, VolatileFlash(), 10) as link:
        await link.telemetry(b'{"a":1}')


async def test_so_does_libcoaps_client(street: Street, tool: Callable[..., str]) -> None:
    await street.have_locked()
    process = await asyncio.create_subprocess_exec(
        tool("coap-client-notls", "coap-client"),
        *("-v", "7", "-m", "post", "-t", "json", "-e", street.site.body(f"libcoap {next(numbers)}").decode()),
        f"{street.site.uri}/api/v1/provision",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()

    assert out.index(b"c:4.01") < out.index(b"c:2.01")
    assert b'"status":"SUCCESS"' in out
