import asyncio
import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from provserver.transports import coap_exchanges
from provserver.transports.coap_exchanges import EXCHANGE_LIFETIME, Answers, Confirmations, exchange
from provserver.transports.udp import Address
from tests.transports.devices import until

PEER = Address(("192.0.2.1", 5683))
ENTRY = 350
MAX_BYTES = 4_000
KEYS = [bytes([n]) for n in range(17)]

hosts = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address) | st.sampled_from(["1.2.3.4", "11.2.3.4", "1.2.3.41"])
hosts6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address) | st.sampled_from(["::1", "fe80::1", "::ffff:1.2.3.4"])
ports = st.integers(0, 65_535) | st.sampled_from([0x3131, 0x3132])
peers = st.tuples(hosts.map(str), ports)
peers6 = st.tuples(hosts6.map(str), ports, st.just(0), st.integers(0, 3))
sockets = [  # by what its addresses have: one socket's are alike
    st.builds(Address, peers),
    st.builds(Address, peers, st.binary(min_size=12, max_size=12)),
    st.builds(Address, peers6),
    st.builds(Address, peers6, st.binary(min_size=20, max_size=20)),
]


@given(st.sampled_from(sockets), st.data())
def test_exchanges_of_one_socket_are_told_apart(addresses: st.SearchStrategy[Address], data: st.DataObject) -> None:
    messages = st.tuples(addresses, st.integers(0, 65_535))
    (address, id_), (other, other_id) = data.draw(messages), data.draw(messages)

    assert (exchange(address, id_) == exchange(other, other_id)) is ((address, id_) == (other, other_id))


def test_an_answer_is_found_until_its_message_id_may_mean_another() -> None:
    answers = Answers(MAX_BYTES)
    answers.keep(b"a", b"answer", 1_000)

    assert answers.find(b"a", 1_000 + EXCHANGE_LIFETIME - 0.001) == b"answer"
    assert answers.find(b"a", 1_000 + EXCHANGE_LIFETIME) is None
    assert answers.find(b"b", 1_000) is None


def test_an_answer_takes_the_place_of_none() -> None:
    answers = Answers(MAX_BYTES)
    answers.keep(b"a", b"", 0)
    assert answers.find(b"a", 1) == b""
    answers.keep(b"a", b"answer", 1)
    assert (answers.find(b"a", 2), len(answers)) == (b"answer", 1)
    answers.forget(b"a")
    answers.forget(b"a")
    assert (answers.find(b"a", 2), len(answers)) == (None, 0)


def test_what_is_too_old_is_let_go() -> None:
    answers = Answers(10**9)
    for n in range(1_000):
        answers.keep(b"%d" % n, b"answer", n)

    assert EXCHANGE_LIFETIME <= len(answers) <= EXCHANGE_LIFETIME * 1.5 + 1
    assert [n for n in range(1_000) if answers.find(b"%d" % n, 999)] == list(
        range(1_000 - int(EXCHANGE_LIFETIME), 1_000)
    )


def test_an_answer_that_is_larger_than_all_room_is_not_kept() -> None:
    answers = Answers(MAX_BYTES)
    answers.keep(b"a", bytes(MAX_BYTES), 0)

    assert len(answers) == 0


class Bounded(RuleBasedStateMachine):
    """The table; for each key what is to be found, and how much room all had that came until it was put there."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = Answers(MAX_BYTES)
        self.kept: dict[bytes, tuple[float, bytes, int]] = {}
        self.room = 0
        self.now = 0.0

    @rule(key=st.sampled_from(KEYS), size=st.integers(0, 400) | st.integers(0, 5_000))
    def keep(self, key: bytes, size: int) -> None:
        self.answers.keep(key, bytes(size), self.now)
        self.kept.pop(key, None)
        if size + ENTRY <= MAX_BYTES:
            self.kept[key] = (self.now + EXCHANGE_LIFETIME, bytes(size), self.room)
            self.room += size + ENTRY

    @rule(key=st.sampled_from(KEYS))
    def forget(self, key: bytes) -> None:
        self.answers.forget(key)
        self.kept.pop(key, None)

    @rule(seconds=st.floats(0, 300))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_newest_are_known_and_nothing_else(self) -> None:
        assert len(self.answers) <= MAX_BYTES // ENTRY
        for key in KEYS:
            end, answer, room = self.kept.get(key, (0.0, None, 0))
            found = self.answers.find(key, self.now)
            assert found is None or (found == answer and end > self.now and key in self.answers)
            if end > self.now and self.room - room <= MAX_BYTES * 3 // 4:
                assert found == answer


test_the_table_is_bounded = Bounded.TestCase


# --- confirmations


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coap_exchanges, "ACK_TIMEOUT", 0.001)


@pytest.mark.usefixtures("hasty")
async def test_a_message_is_sent_again_until_it_is_acknowledged() -> None:
    sent: list[tuple[bytes, Address]] = []
    confirmations = Confirmations(lambda *message: sent.append(message))
    confirmations.send(b"a", b"hello", PEER)
    assert sent == [(b"hello", PEER)]
    await until(lambda: len(sent) == 3)

    assert confirmations.settle(b"a")
    assert not confirmations.settle(b"a")
    assert len(confirmations) == 0


@pytest.mark.usefixtures("hasty")
async def test_a_message_that_is_not_acknowledged_is_given_up() -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    confirmations = Confirmations(lambda *_: times.append(loop.time()))
    confirmations.send(b"a", b"hello", PEER)
    await until(lambda: len(confirmations) == 0)

    waits = [after - before for before, after in itertools.pairwise(times)]
    assert len(times) == 1 + coap_exchanges.MAX_RETRANSMIT
    assert all(wait >= 0.001 * 2**n for n, wait in enumerate(waits))


async def test_past_the_bound_a_message_is_sent_once() -> None:
    sent: list[bytes] = []
    confirmations = Confirmations(lambda datagram, _: sent.append(datagram), max_messages=2)
    for n in range(3):
        confirmations.send(b"%d" % n, b"%d" % n, PEER)

    assert (sent, len(confirmations)) == ([b"0", b"1", b"2"], 2)
    confirmations.close()
    assert len(confirmations) == 0
