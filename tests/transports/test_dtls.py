import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from provserver.core.model import Peer, PreSharedKey, Transport
from provserver.errors import Unavailable
from provserver.services.limits import Limits as Guesses
from provserver.services.limits import Rates, Strangers
from provserver.transports.dtls import Association, DtlsEndpoint, Limits
from provserver.transports.handshake import ContentType, encrypted
from provserver.transports.tls import ServerContext
from provserver.transports.udp import Address
from tests.pki import Authority, Issued, self_signed
from tests.services.loop_clock import LoopClock
from tests.transports.devices import until
from tests.transports.dtls_client import Datagrams, DtlsClient

KEY = PreSharedKey("a-device", b"its token", b"digest")
PSK = (KEY.identity, KEY.key)


class Endpoint(DtlsEndpoint):
    """Sends back what comes, in capitals, and remembers who sent it and who is gone."""

    def __init__(self, context: ServerContext, limits: Limits) -> None:
        super().__init__(context, self.look_up, self.answer, self.gone, limits)
        self.peers: list[Peer] = []
        self.associations: list[Association] = []
        self.lost: list[Peer] = []
        self.asked: list[str] = []
        self.before_look_up: Callable[[str], Any] = lambda _: asyncio.sleep(0)
        self.port = 0

    async def look_up(self, identity: str, source: str) -> PreSharedKey | None:
        assert source == "127.0.0.1"
        self.asked.append(identity)
        await self.before_look_up(identity)
        return KEY if identity == KEY.identity else None

    def answer(self, association: Association, data: bytes) -> None:
        self.peers.append(association.peer)
        self.associations.append(association)
        association.send(data.upper())

    def gone(self, association: Association) -> None:
        self.lost.append(association.peer)

    @property
    def state(self) -> tuple[int, int]:
        """How many handshakes and associations there are."""
        return len(self._handshakes), len(self._associations) + len(self._unproven)

    async def until(self, handshakes: int, associations: int) -> None:
        await until(lambda: self.state == (handshakes, associations))


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ServerContext:
    return make_context(tmp_path_factory.mktemp("dtls"))


@pytest.fixture(scope="module")
def certificate() -> Issued:
    return self_signed("sensor-1")


def make_context(directory: Path) -> ServerContext:
    return ServerContext(*self_signed("server").write(directory, "server"), datagram=True)


@asynccontextmanager
async def listening(context: ServerContext, **limits: Any) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(context, Limits(**limits))
    _, endpoint.port = endpoint.open("127.0.0.1", 0)
    try:
        yield endpoint
    finally:
        endpoint.close()


@pytest.fixture
async def endpoint(context: ServerContext) -> AsyncIterator[Endpoint]:
    async with listening(context) as opened:
        yield opened


# --- handshakes


async def test_a_client_certificate_is_what_the_peer_has_proved(endpoint: Endpoint, certificate: Issued) -> None:
    async with DtlsClient.connected(endpoint.port, certificate=certificate) as client:
        assert await client.ask(b"hello") == b"HELLO"

    assert endpoint.peers == [Peer(Transport.COAP, "127.0.0.1", certificates=(certificate.der,), proved=True)]


async def test_a_chain_is_there_as_a_whole(endpoint: Endpoint) -> None:
    leaf = Authority.root().intermediate().intermediate("Line 3").leaf("sensor-2")
    async with DtlsClient.connected(endpoint.port, certificate=leaf) as client:
        await client.ask(b"hello")

    assert endpoint.peers[0].certificates == leaf.full_chain


async def test_a_shared_key_is_what_the_peer_has_proved(endpoint: Endpoint) -> None:
    async with DtlsClient.connected(endpoint.port, psk=PSK) as client:
        assert await client.ask(b"hello") == b"HELLO"

    assert endpoint.peers == [Peer(Transport.COAP, "127.0.0.1", psk=KEY, proved=True)]
    assert endpoint.asked == [KEY.identity]


async def test_a_peer_may_prove_nothing(endpoint: Endpoint) -> None:
    async with DtlsClient.connected(endpoint.port) as client:
        assert await client.ask(b"hello") == b"HELLO"

    assert endpoint.peers == [Peer(Transport.COAP, "127.0.0.1", proved=True)]


def test_it_runs_on_uvloop(tmp_path: Path, certificate: Issued) -> None:
    async def run() -> None:
        async with (
            listening(make_context(tmp_path)) as endpoint,
            DtlsClient.connected(endpoint.port, certificate=certificate) as first,
            DtlsClient.connected(endpoint.port, psk=PSK) as second,
        ):
            assert await first.ask(b"hello") == b"HELLO"
            assert await second.ask(b"hello") == b"HELLO"

    uvloop.run(run())


@pytest.mark.parametrize("order", ["reversed", "twice", "shuffled", "one by one"])
async def test_fragments_come_in_any_order(endpoint: Endpoint, order: str) -> None:
    leaf = Authority.root().intermediate().leaf("sensor-3")
    shuffle = random.Random(7)

    def reorder(datagrams: Datagrams) -> Datagrams:
        if order == "reversed":
            return datagrams[::-1]
        if order == "twice":
            return [datagram for datagram in datagrams for _ in range(2)]
        if order == "shuffled":
            shuffle.shuffle(datagrams)
        return datagrams

    async with DtlsClient.open(endpoint.port, certificate=leaf, mtu=256) as client:
        client.passing = reorder
        await client.handshake()
        assert await client.ask(b"hello") == b"HELLO"

    assert endpoint.peers[0].certificates == leaf.full_chain


async def test_what_is_lost_is_repeated(endpoint: Endpoint, certificate: Issued) -> None:
    async with DtlsClient.open(endpoint.port, certificate=certificate) as client:
        assert not client.step()
        await client.take()  # the cookie
        client.lose = 2
        await client.handshake()
        assert await client.ask(b"hello") == b"HELLO"


async def test_the_last_flight_is_repeated_for_who_has_missed_it(endpoint: Endpoint, certificate: Issued) -> None:
    flights = 0

    def lose_the_answer(datagrams: Datagrams) -> Datagrams:
        nonlocal flights
        if any(datagram[0] == ContentType.CHANGE_CIPHER_SPEC for datagram in datagrams):
            flights += 1
            client.lose = 100 if flights == 1 else 0
        return datagrams

    async with DtlsClient.open(endpoint.port, certificate=certificate) as client:
        client.passing = lose_the_answer
        await client.handshake()
        assert await client.ask(b"hello") == b"HELLO"

    assert flights == 2
    assert endpoint.state == (0, 1)


# --- who has not returned a cookie


async def test_a_hello_without_a_cookie_leaves_nothing_behind(endpoint: Endpoint) -> None:
    sent: Datagrams = []
    async with DtlsClient.open(endpoint.port) as client:
        client.passing = lambda datagrams: sent.extend(datagrams) or datagrams  # type: ignore[func-returns-value]
        for _ in range(50):
            client.step()
            answer = await client.take()
            assert len(answer) <= len(sent[-1])
            client.begin()

    assert endpoint.state == (0, 0)


async def test_a_cookie_is_good_for_its_address_alone(endpoint: Endpoint) -> None:
    sent: Datagrams = []
    async with DtlsClient.open(endpoint.port) as client, DtlsClient.open(endpoint.port) as other:
        client.step()
        await client.take()
        client.passing = lambda datagrams: sent.extend(datagrams) or []  # type: ignore[func-returns-value]
        client.step()
        other.transport.sendto(sent[0])
        answer = await other.came.get()

    assert answer[13] == 3  # another HelloVerifyRequest
    assert endpoint.state == (0, 0)


@pytest.mark.parametrize(
    "datagram",
    [
        b"\0",
        b"\x16",
        bytes(range(7, 47)),
        bytes(1500),
        b"\x16\xfe\xfd" + bytes(10),
        b"\x40\x01\x12\x34",
        b"\xff" * 60_000,
    ],
    ids=lambda datagram: f"{datagram[:4].hex()} {len(datagram)}",
)
async def test_garbage_is_not_answered(endpoint: Endpoint, datagram: bytes) -> None:
    async with DtlsClient.open(endpoint.port) as client:
        client.transport.sendto(datagram)
        await client.handshake()  # whose first datagram is the first to come
        assert await client.ask(b"hello") == b"HELLO"

    assert endpoint.state == (0, 1)


async def test_garbage_from_a_peers_address_harms_nothing(endpoint: Endpoint, certificate: Issued) -> None:
    chance = random.Random(11)

    def between(datagrams: Datagrams) -> Datagrams:
        mixed = []
        for datagram in datagrams:
            damaged = bytearray(datagram)
            damaged[chance.randrange(11, len(damaged))] ^= 1 << chance.randrange(8)
            mixed += [chance.randbytes(50), b"\x15\xfe\xfd" + bytes(8) + b"\x00\x02\x02", bytes(13), datagram]
            if datagram[0] != ContentType.HANDSHAKE:  # which is in plain text: anybody could end it
                mixed.append(bytes(damaged))
        return mixed

    async with DtlsClient.open(endpoint.port, certificate=certificate) as client:
        client.passing = between
        await client.handshake()
        for _ in range(10):
            assert await client.ask(b"hello") == b"HELLO"

    assert endpoint.state == (0, 1)


@given(datagrams=st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=200)), max_size=20))
async def test_nothing_that_comes_makes_it_fail(context: ServerContext, datagrams: list[tuple[int, bytes]]) -> None:
    endpoint = Endpoint(context, Limits())
    for place, data in datagrams:
        endpoint.datagram_received(data, Address(("192.0.2.1", place)))
        endpoint.datagram_received(
            b"\x16\xfe\xfd" + bytes(8) + len(data).to_bytes(2) + data, Address(("192.0.2.1", place))
        )

    assert endpoint.state == (0, 0)


# --- bounds


async def test_half_open_handshakes_are_bounded(context: ServerContext, certificate: Issued) -> None:
    async with (
        listening(context, max_handshakes=3) as endpoint,
        DtlsClient.connected(endpoint.port, certificate=certificate) as old,
        AsyncExitStack() as stack,
    ):
        for number in range(10):
            client = await stack.enter_async_context(DtlsClient.open(endpoint.port))
            client.step()
            await client.take()
            client.step()
            await client.take()
            assert endpoint.state == (min(number + 1, 3), 1)
        assert await old.ask(b"unharmed") == b"UNHARMED"
        new = await stack.enter_async_context(DtlsClient.connected(endpoint.port, certificate=certificate))
        assert await new.ask(b"hello") == b"HELLO"


async def test_who_does_not_finish_a_handshake_is_forgotten(
    context: ServerContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with listening(context, handshake_timeout=0.05) as endpoint, DtlsClient.open(endpoint.port) as client:
        client.step()
        await client.take()
        client.step()
        await client.take()
        await endpoint.until(0, 0)

    assert [record.message for record in caplog.records if record.name == "provserver.dtls"] == [
        "DTLS with 127.0.0.1 failed: the handshake was not completed"
    ]


async def test_who_was_quiet_for_longest_makes_room(context: ServerContext) -> None:
    async with (
        listening(context, max_associations=2) as endpoint,
        DtlsClient.connected(endpoint.port, psk=PSK) as first,
        DtlsClient.connected(endpoint.port, psk=PSK) as second,
    ):
        await second.ask(b"hello")
        await first.ask(b"hello")
        async with DtlsClient.connected(endpoint.port, psk=PSK) as third:
            assert await third.ask(b"hello") == b"HELLO"
            with pytest.raises(SSL.ZeroReturnError):
                await second.receive()
            assert await first.ask(b"hello") == b"HELLO"
        assert endpoint.state == (0, 2)
        assert len(endpoint.lost) == 1


@pytest.mark.parametrize(("limit", "psk"), [("idle_timeout", PSK), ("unproven_idle_timeout", None)])
async def test_who_is_quiet_for_too_long_is_told(
    context: ServerContext, limit: str, psk: tuple[str, bytes] | None
) -> None:
    async with listening(context, **{limit: 0.05}) as endpoint:
        async with DtlsClient.connected(endpoint.port, psk=psk) as client:
            with pytest.raises(SSL.ZeroReturnError):
                await client.receive()
        assert endpoint.state == (0, 0)
        assert len(endpoint.lost) == 1


@pytest.mark.parametrize("signed", [False, True], ids=["anonymous", "a certificate of nobody's"])
async def test_who_has_proved_nothing_takes_no_room_from_who_has(
    context: ServerContext, certificate: Issued, signed: bool
) -> None:
    async with (
        listening(context, max_associations=2, max_unproven=3) as endpoint,
        DtlsClient.connected(endpoint.port, psk=PSK) as by_key,
        DtlsClient.connected(endpoint.port, certificate=certificate) as let_in,
        AsyncExitStack() as stack,
    ):
        await let_in.ask(b"let me in")
        endpoint.associations[-1].prove()
        strangers = [
            await stack.enter_async_context(
                DtlsClient.connected(endpoint.port, certificate=certificate if signed else None)
            )
            for _ in range(5)
        ]
        for client in (*strangers[2:], by_key, let_in):
            assert await client.ask(b"hello") == b"HELLO"
        for client in strangers[:2]:
            with pytest.raises(SSL.ZeroReturnError):
                await client.receive()
        assert endpoint.state == (0, 5)


async def test_who_has_proved_nothing_gains_nothing_by_being_busy(context: ServerContext) -> None:
    """Otherwise who keeps a full table busy would shut out whoever comes next."""
    async with (
        listening(context, max_unproven=2) as endpoint,
        DtlsClient.connected(endpoint.port) as busy,
        DtlsClient.connected(endpoint.port) as new,
    ):
        await busy.ask(b"hello")
        async with DtlsClient.connected(endpoint.port):
            with pytest.raises(SSL.ZeroReturnError):
                await busy.receive()
            assert await new.ask(b"hello") == b"HELLO"


async def test_of_one_address_few_may_have_proved_nothing(context: ServerContext) -> None:
    async with (
        listening(context, max_unproven_per_address=2) as endpoint,
        DtlsClient.connected(endpoint.port, host="127.0.0.2") as elsewhere,
        DtlsClient.connected(endpoint.port) as first,
        DtlsClient.connected(endpoint.port) as second,
        DtlsClient.connected(endpoint.port) as third,
    ):
        for client in (elsewhere, second, third):
            assert await client.ask(b"hello") == b"HELLO"
        with pytest.raises(SSL.ZeroReturnError):
            await first.receive()


async def test_who_is_let_in_may_be_quiet_from_then_on(
    context: ServerContext, certificate: Issued, loop_clock: LoopClock
) -> None:
    async with (
        listening(context, unproven_idle_timeout=60) as endpoint,
        DtlsClient.connected(endpoint.port, certificate=certificate) as client,
    ):
        await client.ask(b"hello")
        (let_in,) = endpoint.associations
        let_in.prove()
        let_in.prove()  # as each of its requests does
        async with DtlsClient.connected(endpoint.port) as other:
            await endpoint.until(0, 2)
            loop_clock.pass_(60)
            with pytest.raises(SSL.ZeroReturnError):
                await other.receive()
        assert await client.ask(b"still here") == b"STILL HERE"
        client.close()
        await endpoint.until(0, 0)
        let_in.prove()  # too late

    assert endpoint.state == (0, 0)


async def test_whoever_says_goodbye_is_forgotten(endpoint: Endpoint, certificate: Issued) -> None:
    async with DtlsClient.connected(endpoint.port, certificate=certificate) as client:
        await client.ask(b"hello")
        client.close()
        await endpoint.until(0, 0)

    assert endpoint.lost == endpoint.peers


async def test_who_has_ended_is_sent_nothing(endpoint: Endpoint, certificate: Issued) -> None:
    kept: list[Association] = []
    endpoint._received = lambda association, _: kept.append(association)
    async with DtlsClient.connected(endpoint.port, certificate=certificate) as client:
        client.send(b"hello")
        client.close()
        await endpoint.until(0, 0)
        kept[0].send(b"late")

    assert kept[0].channel is None


async def test_it_says_goodbye(context: ServerContext, certificate: Issued) -> None:
    async with listening(context) as endpoint, DtlsClient.connected(endpoint.port, certificate=certificate) as client:
        endpoint.close()
        with pytest.raises(SSL.ZeroReturnError):
            await client.receive()


# --- a peer that begins anew


async def test_a_new_handshake_replaces_the_association_once_it_is_done(
    endpoint: Endpoint, certificate: Issued
) -> None:
    async with DtlsClient.connected(endpoint.port, certificate=certificate) as client:
        await client.ask(b"hello")

        before = client.connection
        client.begin()
        client.step()
        await client.take()
        client.step()
        assert endpoint.lost == []
        after, client.connection = client.connection, before
        while True:  # the old one still works, between the flights of the new one
            client.send(b"still here")
            try:
                answer = client.connection.recv(100)
            except SSL.WantReadError:
                datagram = await client.came.get()
                (client.connection if datagram[0] == 23 else after).bio_write(datagram)
            else:
                break
        assert answer == b"STILL HERE"
        client.connection = after
        await client.handshake()
        assert await client.ask(b"anew") == b"ANEW"

    assert endpoint.state == (0, 1)
    assert len(endpoint.lost) == 1


async def test_a_hello_that_is_replayed_replaces_nothing(endpoint: Endpoint, certificate: Issued) -> None:
    sent: Datagrams = []
    async with DtlsClient.open(endpoint.port, certificate=certificate) as client:
        client.passing = lambda datagrams: sent.extend(datagrams) or datagrams  # type: ignore[func-returns-value]
        await client.handshake()
        for datagram in sent:
            client.transport.sendto(datagram)
        assert await client.ask(b"hello") == b"HELLO"

    assert endpoint.state == (0, 1)
    assert endpoint.lost == []


# --- shared keys


@pytest.mark.parametrize("psk", [(KEY.identity, b"another"), ("nobody", KEY.key)], ids=["wrong key", "unknown"])
async def test_a_wrong_key_is_not_let_in(endpoint: Endpoint, psk: tuple[str, bytes]) -> None:
    async with DtlsClient.open(endpoint.port, psk=psk) as client:
        client.step()
        await client.take()
        client.step()
        await client.take()
        while not client.step():
            if endpoint.asked:
                break
            await client.take()
        async with DtlsClient.connected(endpoint.port, psk=PSK) as other:
            assert await other.ask(b"hello") == b"HELLO"
        assert not client.step()

    assert endpoint.state == (1, 1)
    assert endpoint.peers == [Peer(Transport.COAP, "127.0.0.1", psk=KEY, proved=True)]


async def test_who_does_not_prove_the_key_it_names_guesses(endpoint: Endpoint) -> None:
    limits = Guesses(Rates(guess_limit=1, guess_interval=1e6, locked_interval=1e6))
    endpoint._strangers = Strangers(limits, Transport.COAP)
    async with DtlsClient.open(endpoint.port, psk=("nobody", KEY.key)) as client:
        client.step()
        await client.take()
        client.step()
        await client.take()
        while not endpoint.asked:
            client.step()
            await client.take()
        (association,) = endpoint._handshakes.values()
        await until(lambda: association.unproven is not None)
        endpoint._end(association)

    assert limits.locked(Peer(Transport.COAP, "127.0.0.1", psk=KEY))
    assert not limits.locked(Peer(Transport.COAP, "127.0.0.1"))  # whose source may be forged


AT_ONCE = 20
GUESSING = Rates(guess_limit=AT_ONCE, guess_interval=1e6, locked_interval=1e6)
"""That many guesses, and the one that a locked address is heard at once."""


@pytest.fixture
async def patient(context: ServerContext) -> AsyncIterator[Endpoint]:
    """One that waits however often a busy machine loses flights."""
    async with listening(context, handshake_timeout=86_400) as opened:
        yield opened


async def test_guesses_that_go_on_at_once_are_no_more(patient: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong key is met with silence, so its handshake goes on; one that is not heard ends."""
    endpoint = patient
    endpoint._strangers = Strangers(Guesses(GUESSING), Transport.COAP)
    turned_away: set[Address] = set()
    end = endpoint._end

    def turn_away(association: Association) -> None:
        turned_away.add(association.address)
        end(association)

    monkeypatch.setattr(endpoint, "_end", turn_away)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(DtlsClient.open(endpoint.port, psk=(KEY.identity, b"guess %d" % n)))
            for n in range(400)
        ]
        handshakes = [asyncio.ensure_future(client.handshake()) for client in clients]
        await until(lambda: len(turned_away) == 400 - AT_ONCE - 1)
        assert endpoint.state == (AT_ONCE + 1, 0)
        assert all(each.unproven for each in endpoint._handshakes.values())
        for each in handshakes:
            each.cancel()
        await asyncio.gather(*handshakes, return_exceptions=True)


async def test_many_keys_that_are_tried_in_one_handshake_are_as_many_guesses(endpoint: Endpoint) -> None:
    limits = Guesses(GUESSING)
    endpoint._strangers = Strangers(limits, Transport.COAP)
    async with DtlsClient.open(endpoint.port, psk=(KEY.identity, b"a guess")) as client:
        sent: Datagrams = []
        client.passing = lambda datagrams: sent.extend(datagrams) or datagrams  # type: ignore[func-returns-value]
        while not endpoint.asked:
            client.step()
            await client.take() if not encrypted(b"".join(sent)) else await asyncio.sleep(0)
        (association,) = endpoint._handshakes.values()
        await until(lambda: association.unproven is not None)
        finished = next(each for each in sent if encrypted(each))
        for _ in range(AT_ONCE - 1):
            assert not limits.locked(Peer(Transport.COAP, "127.0.0.1", psk=KEY))
            endpoint.datagram_received(finished, association.address)
        assert limits.locked(Peer(Transport.COAP, "127.0.0.1", psk=KEY))
        assert endpoint.state == (1, 0)
        endpoint.datagram_received(finished * 2, association.address)  # one is heard, one is too many
    assert endpoint.state == (0, 0)


@pytest.mark.parametrize("late", [False, True], ids=["together", "Finished late"])
async def test_right_devices_of_one_address_may_come_at_once(endpoint: Endpoint, late: bool) -> None:
    """A fleet behind one NAT, when the power comes back."""
    limits = Guesses(GUESSING)
    endpoint._strangers = Strangers(limits, Transport.COAP)
    go_on = asyncio.Event()

    async def shake_hands(client: DtlsClient) -> None:
        held: Datagrams = []

        def hold(datagrams: Datagrams) -> Datagrams:
            held.extend(each for each in datagrams if encrypted(each))
            return [each for each in datagrams if not encrypted(each)]

        if late:
            client.passing = hold
            while not held:
                client.step() or await client.take()
            await go_on.wait()
            client.passing = lambda datagrams: datagrams
            for each in held:
                client.transport.sendto(each)
        await client.handshake()

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(DtlsClient.open(endpoint.port, psk=PSK)) for _ in range(300)]
        handshakes = asyncio.gather(*(shake_hands(client) for client in clients))
        if late:
            await until(lambda: sum(each.unproven is not None for each in endpoint._handshakes.values()) == 300)
            go_on.set()
        await handshakes
        await endpoint.until(0, 300)
    assert not limits.watchful()


async def test_while_postgres_is_away_nobody_is_told_that_a_key_is_wrong(endpoint: Endpoint) -> None:
    async def away(_: str) -> None:
        raise Unavailable("Postgres is away.")

    endpoint.before_look_up = away
    async with DtlsClient.open(endpoint.port, psk=PSK) as client:
        handshake = asyncio.ensure_future(client.handshake())
        await until(lambda: bool(endpoint.asked))
        await endpoint.until(0, 0)
        assert client.came.empty()
        assert not handshake.done()
        handshake.cancel()

        endpoint.before_look_up = lambda _: asyncio.sleep(0)
        client.begin()
        await client.handshake()
        assert await client.ask(b"hello") == b"HELLO"


async def test_a_fault_of_the_look_up_ends_one_handshake(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: str) -> None:
        raise ValueError

    endpoint.before_look_up = fail
    async with DtlsClient.open(endpoint.port, psk=PSK) as client:
        handshake = asyncio.ensure_future(client.handshake())
        await until(lambda: bool(endpoint.asked))
        await endpoint.until(0, 0)
        handshake.cancel()

    assert "could not be looked up" in caplog.text


async def test_a_look_up_that_takes_long_holds_nobody_up(endpoint: Endpoint, certificate: Issued) -> None:
    arrived = asyncio.Event()
    endpoint.before_look_up = lambda _: arrived.wait()
    async with DtlsClient.open(endpoint.port, psk=PSK) as slow:
        handshake = asyncio.ensure_future(slow.handshake())
        await until(lambda: bool(endpoint.asked))
        async with DtlsClient.connected(endpoint.port, certificate=certificate) as other:
            assert await other.ask(b"hello") == b"HELLO"
        arrived.set()
        await handshake
        assert await slow.ask(b"hello") == b"HELLO"

    assert endpoint.asked == [KEY.identity]


async def test_who_is_gone_when_the_key_is_found_costs_nothing(endpoint: Endpoint) -> None:
    arrived = asyncio.Event()
    endpoint.before_look_up = lambda _: arrived.wait()
    async with DtlsClient.open(endpoint.port, psk=PSK) as client:
        handshake = asyncio.ensure_future(client.handshake())
        await until(lambda: bool(endpoint.asked))
        handshake.cancel()
        (association,) = endpoint._handshakes.values()
        look_up = association.look_up
        assert look_up is not None
        client.begin()
        client.step()
        await client.take()
        client.step()
        await client.take()
        arrived.set()
        with pytest.raises(asyncio.CancelledError):
            await look_up

    assert endpoint.state == (1, 0)
