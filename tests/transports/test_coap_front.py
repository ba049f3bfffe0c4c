import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from provserver.core.model import Peer, Transport
from provserver.errors import Outcome
from provserver.services.provisioning import Answer, Done, Provisioning
from provserver.transports import coap_exchanges, coap_front
from provserver.transports.coap_exchanges import EXCHANGE_LIFETIME, Answers
from provserver.transports.coap_front import Front
from provserver.transports.coap_message import Code, Message, Options, Type, decode, empty, encode, uint
from provserver.transports.coap_options import Reply
from provserver.transports.coap_resources import Resources
from provserver.transports.udp import Address
from tests.transports import WAITS
from tests.transports.devices import until

PEER = Address(("192.0.2.1", 40_000))
OTHER = Address(("192.0.2.1", 40_001))
PATH: Options = ((11, b"api"), (11, b"v1"), (11, b"provision"))
JSON = (12, b"\x32")
OBSERVE, BLOCK1, BLOCK2, OSCORE = (6, b""), (27, b"\x0e"), (23, b"\x06"), (9, b"")


class Desk(Provisioning):
    """Decides what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.answers: dict[bytes, Answer] = {}
        self.asked: list[tuple[bytes, Peer]] = []
        self._waiting: list[Callable[[], None]] = []
        self._answering = True

    def request(
        self,
        payload: bytes,
        peer: Peer,
        done: Done,
        *,
        accept_protobuf: bool = True,  # noqa: ARG002
        opened: bytes | None = None,  # noqa: ARG002
        heard: bool = False,  # noqa: ARG002
    ) -> None:
        self.asked.append((payload, peer))
        answer = self.answers.get(payload, Answer(Outcome.SUCCESS, b'{"status":"SUCCESS"}'))
        if self._answering:
            asyncio.get_running_loop().call_soon(done, answer)
        else:
            self._waiting.append(partial(done, answer))

    def close(self) -> None:
        """Let answers wait."""
        self._answering = False

    def open(self) -> None:
        """Give those that wait."""
        self._answering = True
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            asyncio.get_running_loop().call_soon(answer)


class Beyond:
    """Takes what is handed over."""

    def __init__(self) -> None:
        self.taken: list[tuple[Message, Address]] = []
        self.willing = True
        self.ids = itertools.count(0x1000)

    def take(self, message: Message, address: Address) -> bool:
        self.taken.append((message, address))
        return self.willing

    def next_id(self) -> int:
        return next(self.ids)


class Talk:
    """A front, and all that it is told and says."""

    def __init__(self, *, answers: bool = True) -> None:
        self.desk = Desk()
        self.beyond = Beyond()
        self.sent: list[tuple[bytes, Address]] = []
        self.now = 0.0
        resources = Resources(self.desk, None, 10_000, clock=lambda: self.now) if answers else None
        self.front = Front(lambda *datagram: self.sent.append(datagram), self.beyond, resources, clock=lambda: self.now)

    def tell(self, message: Message, address: Address = PEER) -> None:
        self.front.received(encode(message), address)

    def heard(self) -> list[bytes]:
        """What was said since, to whomever."""
        said, self.sent[:] = [datagram for datagram, _ in self.sent], []
        return said

    async def ask(self, message: Message, address: Address = PEER) -> list[bytes]:
        self.tell(message, address)
        await until(lambda: not self.front._under_way or bool(self.sent))
        return self.heard()


@asynccontextmanager
async def talking(*, answers: bool = True) -> AsyncIterator[Talk]:
    talk = Talk(answers=answers)
    yield talk
    await talk.front.close()


@pytest.fixture
async def talk() -> AsyncIterator[Talk]:
    async with talking() as made:
        yield made


def post(
    id_: int = 7, *, type_: int = Type.CON, token: bytes = b"tok", options: Options = (*PATH, JSON), body: bytes = b"{}"
) -> Message:
    return Message(type_, Code.POST, id_, token, tuple(sorted(options, key=lambda option: option[0])), body)


SUCCESS = b'\xc1\x32\xff{"status":"SUCCESS"}'


# --- one request, one answer


async def test_an_answer_is_on_the_acknowledgement(talk: Talk) -> None:
    assert await talk.ask(post()) == [b"\x63\x41\x00\x07tok" + SUCCESS]
    assert talk.desk.asked == [(b"{}", Peer(Transport.COAP, "192.0.2.1"))]


async def test_an_answer_may_be_there_at_once(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    def request(_payload: bytes, _peer: Peer, done: Done) -> None:
        done(Answer(Outcome.UNDECODABLE, b""))

    monkeypatch.setattr(talk.desk, "request", request)
    for _ in range(2):
        talk.tell(post())

    assert [decode(answer).code for answer in talk.heard()] == [Code.BAD_REQUEST] * 2
    assert not talk.front._under_way


async def test_a_fault_of_ours_is_told_without_its_words(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def request(*_: object) -> None:
        raise ZeroDivisionError("pl4nted")

    monkeypatch.setattr(talk.desk, "request", request)
    (answer,) = await talk.ask(post())

    assert (decode(answer).code, decode(answer).payload) == (Code.INTERNAL_SERVER_ERROR, b"")
    assert "a request failed" in caplog.text


async def test_what_is_sent_alike_by_many_is_told_apart(talk: Talk) -> None:
    """The options are remembered; nothing else is."""
    for n, type_ in enumerate((Type.CON, Type.NON) * 2):
        (answer,) = await talk.ask(post(n, type_=type_, token=bytes([n]), body=b"%d" % n))
        assert (decode(answer).token, decode(answer).type) == (bytes([n]), Type.ACK if type_ == Type.CON else Type.NON)
    for options, code in (((*PATH, (1, b"")), Code.BAD_OPTION), (PATH, Code.CREATED), ((*PATH, (1, b"")), 130)):
        assert [decode(each).code for each in await talk.ask(post(100 + code, options=options))] == [code]

    assert [body for body, _ in talk.desk.asked] == [b"0", b"1", b"2", b"3", b"{}"]


async def test_who_does_not_ask_for_a_confirmation_gets_none(talk: Talk) -> None:
    assert await talk.ask(post(type_=Type.NON)) == [b"\x53\x41\x10\x00tok" + SUCCESS]


@pytest.mark.parametrize("token", [b"", b"t", b"12345678"])
async def test_the_token_comes_back(talk: Talk, token: bytes) -> None:
    (answer,) = await talk.ask(post(token=token))

    assert decode(answer).token == token


async def test_the_peer_of_a_dual_stack_socket_has_an_ipv4_address(talk: Talk) -> None:
    await talk.ask(post(), Address(("::ffff:192.0.2.7", 5683, 0, 0), b"\0" * 20))

    assert talk.desk.asked[0][1].address == "192.0.2.7"


async def test_an_answer_may_have_no_body_and_a_max_age(talk: Talk) -> None:
    talk.desk.answers = {
        b"garbage": Answer(Outcome.UNDECODABLE, b""),
        b"away": Answer(Outcome.UNAVAILABLE, b"{}", retry_after=7),
        b"protobuf": Answer(Outcome.SUCCESS, b"\x08\x01", protobuf=True),
    }
    asked = {body: decode((await talk.ask(post(n, body=body)))[0]) for n, body in enumerate(talk.desk.answers)}

    assert {body: (answer.code, answer.options, answer.payload) for body, answer in asked.items()} == {
        b"garbage": (Code.BAD_REQUEST, (), b""),
        b"away": (Code.SERVICE_UNAVAILABLE, (JSON, (14, uint(7))), b"{}"),
        b"protobuf": (Code.CREATED, ((12, b"\x2a"),), b"\x08\x01"),
    }


async def test_what_is_refused_at_once_needs_no_task_and_is_not_remembered(talk: Talk) -> None:
    for options, code in (
        (((11, b"nothing"),), Code.NOT_FOUND),
        ((*PATH, (1, b"")), Code.BAD_OPTION),
        (((11, b"\xff"),), Code.BAD_OPTION),
        (((11, b"x" * 256),), Code.BAD_OPTION),
        ((*PATH, (15, b"\xff")), Code.BAD_OPTION),
        ((*PATH, (17, b"abc")), Code.BAD_OPTION),
        ((*PATH, (3, b"")), Code.BAD_OPTION),
        ((*PATH, (35, b"coap://h")), Code.PROXYING_NOT_SUPPORTED),
    ):
        talk.tell(post(options=options))
        assert [decode(answer).code for answer in talk.heard()] == [code]
    assert (talk.desk.asked, len(talk.front._others), talk.front._timer) == ([], 0, None)


async def test_a_body_that_is_too_large_is_refused(talk: Talk) -> None:
    talk.tell(post(body=bytes(10_001)))

    assert [decode(answer).code for answer in talk.heard()] == [Code.REQUEST_ENTITY_TOO_LARGE]


@pytest.mark.parametrize("code", [*range(3, 32)])
async def test_other_methods_are_not_allowed(talk: Talk, code: int) -> None:
    talk.tell(replace(post(), code=code))

    assert [decode(answer).code for answer in talk.heard()] == [Code.METHOD_NOT_ALLOWED]


# --- an answer that takes long


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coap_front, "ACK_DELAY", 0.001)


@pytest.mark.usefixtures("impatient")
async def test_it_is_announced_and_sent_until_it_is_acknowledged(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coap_exchanges, "ACK_TIMEOUT", 0.001)
    talk.desk.close()
    assert await talk.ask(post()) == [b"\x60\x00\x00\x07"]
    talk.desk.open()
    await until(lambda: len(talk.sent) > 2)

    assert set(talk.heard()) == {b"\x43\x41\x10\x00tok" + SUCCESS}
    talk.tell(Message(Type.ACK, 0, 0x1000), OTHER)
    assert len(talk.beyond.taken) == 1
    assert len(talk.front._confirmations) == 1
    talk.tell(Message(Type.ACK, 0, 0x1000))
    assert (len(talk.front._confirmations), len(talk.beyond.taken)) == (0, 1)


@pytest.mark.usefixtures("impatient")
async def test_a_reset_ends_it_too(talk: Talk) -> None:
    talk.desk.close()
    await talk.ask(post())
    talk.desk.open()
    await until(lambda: bool(talk.sent))
    talk.tell(Message(Type.RST, 0, 0x1000))

    assert (len(talk.front._confirmations), talk.beyond.taken) == (0, [])


@pytest.mark.usefixtures("impatient")
async def test_who_asks_for_no_confirmation_hears_nothing_meanwhile(talk: Talk) -> None:
    talk.desk.close()
    talk.tell(post(8, type_=Type.NON))
    assert await talk.ask(post(9)) == [b"\x60\x00\x00\x09"]
    talk.desk.open()
    await until(lambda: len(talk.sent) == 2)

    assert {decode(answer).type for answer in talk.heard()} == {Type.NON, Type.CON}


@pytest.mark.usefixtures("impatient")
async def test_only_what_is_not_decided_is_announced(talk: Talk) -> None:
    for n in range(5):
        assert len(await talk.ask(post(n))) == 1
    talk.desk.close()
    assert await talk.ask(post(6)) == [b"\x60\x00\x00\x06"]
    talk.desk.open()
    await until(lambda: bool(talk.sent))
    await until(lambda: talk.front._timer is None)
    assert not talk.front._unacknowledged


# --- what comes again


async def test_a_request_that_comes_again_is_answered_again_and_done_once(talk: Talk) -> None:
    (first,) = await talk.ask(post())
    (second,) = await talk.ask(post())

    assert first == second
    assert len(talk.desk.asked) == 1


async def test_a_request_that_comes_again_while_it_is_decided_is_done_once(talk: Talk) -> None:
    talk.desk.close()
    for _ in range(3):
        talk.tell(post())
    talk.desk.open()

    assert len(await talk.ask(post())) == 1
    assert len(talk.desk.asked) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_request_that_comes_again_is_acknowledged_again(talk: Talk) -> None:
    talk.desk.close()
    assert await talk.ask(post()) == await talk.ask(post()) == [b"\x60\x00\x00\x07"]
    talk.desk.open()
    await until(lambda: bool(talk.sent))
    assert decode(talk.heard()[0]).type == Type.CON

    assert await talk.ask(post()) == [b"\x60\x00\x00\x07"]
    assert len(talk.desk.asked) == 1


async def test_a_request_without_confirmation_that_comes_again_is_done_once(talk: Talk) -> None:
    assert len(await talk.ask(post(type_=Type.NON))) == 1
    assert await talk.ask(post(type_=Type.NON)) == []
    assert len(talk.desk.asked) == 1


async def test_a_failure_that_comes_again_is_not_tried_again(talk: Talk) -> None:
    talk.desk.answers[b"no"] = Answer(Outcome.FAILURE, b"{}")

    assert await talk.ask(post(body=b"no")) == await talk.ask(post(body=b"no"))
    assert len(talk.desk.asked) == 1


async def test_a_message_id_means_another_message_from_elsewhere_or_later(talk: Talk) -> None:
    await talk.ask(post())
    await talk.ask(post(), OTHER)
    await talk.ask(post(), Address(PEER.peer, b"\0" * 12))
    await talk.ask(post(8))
    assert len(talk.desk.asked) == 4

    talk.now = EXCHANGE_LIFETIME - 1
    await talk.ask(post())
    assert len(talk.desk.asked) == 4
    talk.now = EXCHANGE_LIFETIME
    (answer,) = await talk.ask(post(token=b"new"))
    assert (len(talk.desk.asked), decode(answer).token) == (5, b"new")


async def test_strangers_cannot_make_an_answer_forgotten(talk: Talk) -> None:
    talk.front._others = Answers(10_000)
    talk.desk.answers[b"stranger"] = Answer(Outcome.NOT_FOUND, b'{"status":"NOT_FOUND"}')
    granted = await talk.ask(post())
    for n in range(1_000):
        talk.tell(post(n, body=b"stranger"), OTHER)
        talk.tell(post(n, options=(*PATH, BLOCK1)), Address(("192.0.2.99", n)))
    await until(lambda: not talk.front._under_way)
    talk.heard()

    assert len(talk.front._others) < 100
    assert await talk.ask(post()) == granted


# --- No-Response (RFC 7967)


@pytest.mark.parametrize(("value", "body"), [(b"\x02", b"{}"), (b"\x1a", b"{}"), (b"\x08", b"no"), (b"\x18", b"no")])
async def test_what_is_not_wanted_is_not_said(talk: Talk, value: bytes, body: bytes) -> None:
    talk.desk.answers[b"no"] = Answer(Outcome.FAILURE, b"{}")
    options = (*PATH, (258, value))

    for _ in range(2):
        assert await talk.ask(post(7, options=options, body=body)) == [b"\x60\x00\x00\x07"]
        assert await talk.ask(post(8, options=options, body=body, type_=Type.NON)) == []
    assert len(talk.desk.asked) == 2


@pytest.mark.parametrize("value", [b"", b"\x08", b"\x10", b"\x18", b"\x02\x02"])
async def test_what_is_wanted_is_said(talk: Talk, value: bytes) -> None:
    for n, type_ in enumerate((Type.CON, Type.NON)):
        (answer,) = await talk.ask(post(n, options=(*PATH, (258, value)), type_=type_))
        assert decode(answer).code == Code.CREATED


@pytest.mark.usefixtures("impatient")
async def test_what_is_not_wanted_is_not_said_later(talk: Talk) -> None:
    talk.desk.close()
    assert await talk.ask(post(options=(*PATH, (258, b"\x02")))) == [b"\x60\x00\x00\x07"]
    talk.desk.open()
    await until(lambda: not talk.front._under_way)

    assert talk.heard() == []


async def test_a_bad_option_without_confirmation_is_not_answered(talk: Talk) -> None:
    talk.tell(post(type_=Type.NON, options=(*PATH, (65_001, b""))))
    talk.tell(post(type_=Type.NON, options=((11, b"nothing"),)))

    assert [decode(answer).code for answer in talk.heard()] == [Code.NOT_FOUND]


# --- what is handed over


@pytest.mark.parametrize(
    ("code", "options"),
    [
        (Code.POST, (*PATH, BLOCK1)),
        (Code.POST, (*PATH, BLOCK2)),
        (Code.POST, (OSCORE,)),
        (Code.POST, ((1, b""), OSCORE)),
        (Code.GET, (OBSERVE, *PATH)),
        (Code.GET, ((6, b"\x01"), *PATH)),
        (5, (OSCORE,)),
    ],
    ids=str,
)
async def test_what_needs_more_is_handed_over_once(talk: Talk, code: int, options: Options) -> None:
    message = replace(post(options=options), code=code)
    for _ in range(3):
        talk.tell(message)

    assert (talk.beyond.taken, talk.heard(), talk.desk.asked) == ([(message, PEER)], [], [])


async def test_observing_needs_more_for_what_can_be_read_alone(talk: Talk) -> None:
    assert len(await talk.ask(post(options=(OBSERVE, *PATH)))) == 1
    assert talk.beyond.taken == []


@pytest.mark.parametrize("code", [Code.CREATED, Code.CONTENT, Code.CONTINUE, Code.EMPTY])
async def test_what_acknowledges_a_request_that_was_handed_over_is_remembered(talk: Talk, code: int) -> None:
    answer = encode(Message(Type.ACK, code, 7, b"tok" if code else b""))
    talk.tell(post(options=(*PATH, BLOCK1)))
    talk.front.send(answer, PEER)
    talk.front.send(encode(Message(Type.CON, code, 9)), PEER)
    talk.heard()
    talk.tell(post(options=(*PATH, BLOCK1)))

    assert talk.heard() == [answer]
    assert len(talk.beyond.taken) == 1


async def test_a_request_that_was_not_taken_may_come_again(talk: Talk) -> None:
    talk.beyond.willing = False
    for _ in range(3):
        talk.tell(post(options=(*PATH, BLOCK1)))

    assert len(talk.beyond.taken) == 3


async def test_without_resources_all_is_handed_over() -> None:
    async with talking(answers=False) as talk:
        for message in (post(), post(8, options=((65_001, b""),)), Message(Type.ACK, 0, 9)):
            talk.tell(message)
        talk.tell(post())

        assert [message.id for message, _ in talk.beyond.taken] == [7, 8, 9]
        assert talk.heard() == []


async def test_acknowledgements_and_resets_that_are_not_ours_are_handed_over(talk: Talk) -> None:
    messages = [Message(Type.ACK, 0, 1), Message(Type.RST, 0, 1), Message(Type.ACK, Code.CONTENT, 1, b"t")]
    for message in messages * 2:
        talk.tell(message)

    assert [message for message, _ in talk.beyond.taken] == messages * 2


# --- what is not understood


@pytest.mark.parametrize(
    ("datagram", "answer"),
    [
        (b"\x40\x00\x12\x34", b"\x70\x00\x12\x34"),  # a ping
        (b"\x41\x00\x12\x34t", b"\x70\x00\x12\x34"),  # and one that is not empty
        (b"\x40\x45\x12\x34", b"\x70\x00\x12\x34"),  # a response that nobody waits for
        (b"\x50\x45\x12\x34", None),
        (b"\x50\x00\x12\x34", None),
        (b"\x49\x02\x12\x34", b"\x70\x00\x12\x34"),  # a token of nine bytes
        (b"\x40\xe0\x12\x34", b"\x70\x00\x12\x34"),  # a reserved class
        (b"\x40\x02\x12\x34\xff", b"\x70\x00\x12\x34"),
        (b"\x50\x02\x12\x34\xff", None),
        (b"\x60\x02\x12\x34", None),
        (b"\x70\x02\x12\x34", None),
        (b"\x80\x02\x12\x34", None),
        (b"\x40\x02\x12", None),
        (b"", None),
    ],
    ids=repr,
)
async def test_it_is_rejected_when_it_asks_for_a_confirmation(
    talk: Talk, datagram: bytes, answer: bytes | None
) -> None:
    talk.front.received(datagram, PEER)

    assert talk.heard() == ([answer] if answer is not None else [])
    assert talk.beyond.taken == []


def datagrams() -> st.SearchStrategy[bytes]:
    body = st.binary(max_size=60)
    return st.one_of(
        body,
        body.map(lambda rest: b"\x40\x02\x00\x01" + rest),
        body.map(lambda rest: encode(post()) + rest),
        st.tuples(st.integers(0, 300), st.integers(0, 255)).map(
            lambda change: bytes(
                value ^ (change[1] if n == change[0] else 0) for n, value in enumerate(encode(post(body=b"")))
            )
        ),
    )


@given(st.lists(st.tuples(datagrams(), st.integers(0, 3)), max_size=30))
def test_nothing_that_comes_does_harm(came: list[tuple[bytes, int]]) -> None:
    async def run() -> None:
        async with talking() as talk:
            for datagram, n in came:
                talk.front.received(datagram, Address(("192.0.2.1", n)))
            await until(lambda: not talk.front._under_way)
            for answer, address in talk.sent:
                message = decode(answer)
                assert address.peer[1] in {n for _, n in came}
                assert message.type == Type.RST or message.code >> 5 in (2, 4, 5)
            assert len(talk.sent) <= len(came)

    asyncio.run(run())


async def test_a_flood_of_garbage_from_anywhere_leaves_nothing_behind(talk: Talk) -> None:
    for n in range(10_000):
        talk.front.received(os.urandom(4 + n % 60), Address((f"198.51.{n >> 8}.{n & 255}", n)))
    await until(lambda: not talk.front._under_way)

    assert len(talk.front._granted) == 0
    assert len(talk.front._confirmations) == 0
    talk.heard()
    assert (await talk.ask(post()))[0].endswith(SUCCESS)


# --- many


async def test_ten_thousand_peers_at_once_get_their_own_answers(talk: Talk) -> None:
    talk.desk.close()
    peers = [Address((f"10.0.{n >> 8}.{n & 255}", 5683)) for n in range(10_000)]
    for n, peer in enumerate(peers):
        body = b'{"n":%d}' % n
        talk.desk.answers[body] = Answer(Outcome.SUCCESS, body)
        talk.tell(post(n, token=n.to_bytes(4), body=body), peer)
        talk.tell(post(n, token=n.to_bytes(4), body=body), peer)
    talk.desk.open()
    await until(lambda: not talk.front._under_way)

    answers = {address: decode(datagram) for datagram, address in talk.sent if datagram[1]}
    assert list(answers) == peers
    for n, answer in enumerate(answers.values()):
        assert (answer.token, answer.payload) == (n.to_bytes(4), b'{"n":%d}' % n)
    assert len(talk.desk.asked) == 10_000


async def test_when_too_many_wait_one_more_is_told_to_come_back(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coap_front, "_MAX_UNDER_WAY", 2)
    talk.desk.close()
    for n in range(3):
        talk.tell(post(n))
    (refused,) = talk.heard()
    assert (decode(refused).id, decode(refused).code) == (2, Code.SERVICE_UNAVAILABLE)
    assert decode(refused).options in [((14, uint(wait)),) for wait in WAITS]
    talk.desk.open()
    await until(lambda: not talk.front._under_way)

    assert decode((await talk.ask(post(2)))[-1]).code == Code.CREATED


# --- the end


async def test_draining_waits_for_the_answers(talk: Talk) -> None:
    await talk.front.drain(60)
    talk.desk.close()
    talk.tell(post())
    draining = asyncio.create_task(talk.front.drain(60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not draining.done()
    talk.desk.open()
    await draining

    assert len(talk.heard()) == 1


async def test_what_is_not_answered_in_time_is_cut_off(talk: Talk) -> None:
    talk.desk.close()
    for n in range(3):
        talk.tell(post(n))
    await talk.front.drain(0.001)
    await talk.front.close()
    talk.desk.open()
    await asyncio.sleep(0)

    assert (talk.heard(), talk.front._timer) == ([], None)


async def test_what_takes_a_task_is_cut_off_too(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def answer(*_: object) -> Reply:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    monkeypatch.setattr(Resources, "answer", answer)
    talk.tell(post(options=((11, b"api"), (11, b"v1"), (11, b"token"), (11, b"telemetry"))))
    await asyncio.sleep(0)
    await talk.front.drain(0.001)
    await talk.front.close()

    assert (ended.is_set(), talk.heard(), talk.desk.asked) == (True, [], [])


async def test_nothing_secret_is_shown() -> None:
    message: Any = post(token=b"pl4nted", body=b"pl4nted", options=((11, b"pl4nted"),))
    async with talking() as talk:
        talk.desk.close()
        talk.tell(message)
        assert "pl4nted" not in repr((message, *talk.front._under_way.values(), empty(Type.ACK, 1)))
