import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Any, cast

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from provserver.core.model import Peer, PreSharedKey, Transport
from provserver.errors import RENDERINGS, Outcome
from provserver.services.provisioning import Answer, Provisioning
from provserver.transports.http import HttpTransport
from provserver.transports.http_front import Front, body_length
from tests.transports.test_http import Connection

LINE = b"POST /api/v1/provision HTTP/1.1\r\n"
HEAD = LINE + b"Host: h\r\n"
LIMIT = 1_000
RETRY_AFTER = 7
PSK = PreSharedKey("device", b"secret")


def post(body: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([HEAD + b"Content-Length: %d" % len(body), *fields]) + b"\r\n\r\n" + body


class Channel(asyncio.Transport):
    """A connection in memory."""

    def __init__(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        super().__init__({"peername": ("192.0.2.1", 5), "certificates": (b"leaf",), "psk": PSK})
        self.written = bytearray()
        self.reading = True
        self.closed = self.aborted = self.lost = self.stuck = False
        self.protocol = cast("asyncio.Protocol", make())
        self.protocol.connection_made(self)

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += data

    def writelines(self, data: Any) -> None:
        self.write(b"".join(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            if not self.stuck:
                self.lose()

    def abort(self) -> None:
        self.closed = self.aborted = True
        self.lose()

    def lose(self) -> None:
        self.closed = True
        asyncio.get_running_loop().call_soon(self._lost)

    def _lost(self) -> None:
        if not self.lost:
            self.lost = True
            self.protocol.connection_lost(None)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = cast("asyncio.Protocol", protocol)

    async def hear(self, *pieces: bytes) -> list[tuple[int, dict[str, str], bytes]]:
        """Have bytes come, one piece after the other; the answers that are there when nothing happens any more."""
        for piece in pieces:
            if not self.closed:
                self.protocol.data_received(piece)
            await turns(3)
        await turns()
        return list(self.answers())

    def answers(self) -> Iterator[tuple[int, dict[str, str], bytes]]:
        said, self.written = bytes(self.written), bytearray()
        while said:
            head, _, said = said.partition(b"\r\n\r\n")
            line, *fields = head.decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            length = int(headers.get("content-length", "0"))
            yield int(line.split()[1]), headers, said[:length]
            said = said[length:]


async def turns(number: int = 120) -> None:
    """More of the loop's turns than anything takes that does not wait."""
    for _ in range(number):
        await asyncio.sleep(0)


@dataclass
class Behind:
    """Who stands behind, and keeps all that comes."""

    room: bool = True
    fronts: set[Front] = field(default_factory=set)
    taken: "Taken | None" = None

    def full(self) -> bool:
        return not self.room

    def take(self, _front: Front) -> asyncio.Protocol:
        self.taken = Taken()
        return self.taken


class Taken(asyncio.Protocol):
    def __init__(self) -> None:
        self.came = b""
        self.paused = False

    def data_received(self, data: bytes) -> None:
        self.came += data

    def pause_writing(self) -> None:
        self.paused = True


class Asked:
    """Provisioning that answers when it is told to, or, at once, with what it was asked."""

    def __init__(self, *, at_once: bool = False) -> None:
        self.at_once = at_once
        self.payloads: list[bytes] = []
        self.peers: list[Peer] = []
        self.waiting: list[Callable[[Answer], None]] = []

    def request(
        self, payload: bytes, peer: Peer, done: Callable[[Answer], None], *, accept_protobuf: bool = True
    ) -> None:
        assert not accept_protobuf
        self.payloads.append(payload)
        self.peers.append(peer)
        if self.at_once:
            done(Answer(Outcome.SUCCESS, payload))
        else:
            self.waiting.append(done)

    def answer(self, body: bytes = b"{}", outcome: Outcome = Outcome.SUCCESS) -> None:
        wait = RETRY_AFTER if RENDERINGS[outcome].retried else 0
        self.waiting.pop(0)(Answer(outcome, body, retry_after=wait))


@dataclass
class Talk:
    """A connection with a front."""

    behind: Behind
    asked: Asked
    channel: Channel
    front: Front

    async def hear(self, *pieces: bytes) -> list[tuple[int, dict[str, str], bytes]]:
        return await self.channel.hear(*pieces)


def talking(*, at_once: bool = True, behind: Behind | None = None) -> Talk:
    made, asked = behind or Behind(), Asked(at_once=at_once)
    front = Front(made, cast("Provisioning", asked), LIMIT)
    return Talk(made, asked, Channel(lambda: front), front)


# --- what is plain


@pytest.mark.parametrize(
    "fields",
    [
        b"Host: h\r\nContent-Length: 7\r\n",
        b"host:h\r\nCONTENT-LENGTH:7\r\n",
        b"Content-Length: \t 7 \t\r\nHost: \th\t\r\n",
        b"Host: [::1]:8080\r\nContent-Length: 7\r\nConnection: Keep-Alive\r\n",
        b"Host: h\r\nContent-Length: 7\r\nContent-Type: a/b; charset=utf-8\r\nUser-Agent: esp/1 (x; y)\r\n",
        b'Host: h\r\nContent-Length: 7\r\nX-Empty:\r\nX!#$%&\'*+.^_`|~-1: "<>"\r\n',
        b"Host: h\r\nContent-Length: 7\r\nAuthorization: Basic eA==\r\nOrigin: https://a\r\n",
    ],
)
def test_plain_heads(fields: bytes) -> None:
    assert body_length(LINE + fields + b"\r\n") == 7


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"Host: h\r\n",
        b"Content-Length: 7\r\n",
        b"Host: h\r\nContent-Length: 7\r\nContent-Length: 7\r\n",
        b"Host: h\r\nContent-Length: 7\r\ncontent-length: 8\r\n",
        b"Host: h\r\nHost: h\r\nContent-Length: 7\r\n",
        b"Host: h\r\nContent-Length: 7\r\nX: 1\r\nx: 2\r\n",
        *(
            b"Host: h\r\nContent-Length: " + value + b"\r\n"
            for value in (b"", b"+7", b"-7", b"07", b"7 7", b"7,7", b"0x7", b"7.0", b"1e1", b"\xb2", b"1" * 10)
        ),
        *(b"Host:" + value + b"\r\nContent-Length: 7\r\n" for value in (b"", b" ", b" a b", b" a,b", b" a/b", b" u@h")),
        *(
            b"Host: h\r\nContent-Length: 7\r\n" + odd + b"\r\n"
            for odd in (
                b"Transfer-Encoding: chunked",
                b"Transfer-Encoding: identity",
                b"transfer-encoding:",
                b"Content-Encoding: gzip",
                b"Expect: 100-continue",
                b"Upgrade: websocket",
                b"Trailer: X",
                b"TE: trailers",
                b"Connection: close",
                b"Connection: keep-alive, close",
                b"Connection: keep-alive, Upgrade",
                b"Connection: upgrade",
                b"Connection:",
                b"Proxy-Connection: close",
                b"Sec-WebSocket-Key1: x",
                b"X : 1",
                b" X: 1",
                b" folded",
                b"\tfolded",
                b": 1",
                b"X",
                b"X Y: 1",
                b"X(: 1",
                b"X\xe4: 1",
                b"X: \xe4",
                b"X: \x00",
                b"X: a\rTransfer-Encoding: chunked",
                b"X: a\nTransfer-Encoding: chunked",
                b"X: a\x0bb",
                b"X: \x7f",
                b"X: 1\r",
                b"X: 1\n",
            )
        ),
        b"Host: h\nContent-Length: 7\r\n",
        b"\r\nHost: h\r\nContent-Length: 7\r\n",
        b"Host: h\r\nContent-Length: 7\r\n" + b"".join(b"X%d: 1\r\n" % n for n in range(63)),
    ],
)
async def test_odd_heads_go_behind(fields: bytes) -> None:
    assert body_length(LINE + fields + b"\r\n") is None
    talk = talking()
    came = LINE + fields + b"\r\n1234567"

    assert await talk.hear(came) == []

    assert talk.behind.taken is not None
    assert talk.behind.taken.came == came
    assert talk.asked.payloads == []


@pytest.mark.parametrize(
    "came",
    [
        LINE.replace(b"1.1", b"1.0") + b"Host: h\r\nContent-Length: 1\r\n\r\nx",
        LINE.replace(b"1.1", b"1.2") + b"Host: h\r\nContent-Length: 1\r\n\r\nx",
        LINE.replace(b"POST ", b"POST  ") + b"Host: h\r\nContent-Length: 1\r\n\r\nx",
        LINE.replace(b"POST", b"post") + b"Host: h\r\nContent-Length: 1\r\n\r\nx",
        LINE.replace(b"\r\n", b"\n") + b"Host: h\r\nContent-Length: 1\r\n\r\nx",
        LINE.replace(b"/provision", b"/provision?a=1") + b"Host: h\r\nContent-Length: 1\r\n\r\nx",
        LINE.replace(b" /", b" http://h/") + b"Host: h\r\nContent-Length: 1\r\n\r\nx",
        b"\r\n" + post(b"x"),
        b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n",
        HEAD,  # is not whole yet
        LINE[:9],
        b"\x16\x03\x01",
        post(b"x" * (LIMIT + 1)),
        post(b"x", b"X: " + b"y" * 1_000),
        HEAD + b"Content-Length: 1\n\nx",
    ],
)
async def test_other_beginnings_go_behind(came: bytes) -> None:
    talk = talking()

    await talk.hear(came)
    await talk.hear(b"more")

    assert talk.behind.taken is not None
    assert talk.behind.taken.came == came + b"more"
    assert talk.behind.fronts == set()


# --- answers


async def test_an_answer_is_written_as_it_is_decided() -> None:
    talk = talking(at_once=False)
    assert await talk.hear(post(b"a")) == []
    assert talk.asked.payloads == [b"a"]
    assert talk.asked.peers == [Peer(Transport.HTTP, "192.0.2.1", (b"leaf",), PSK)]

    talk.asked.answer(b'{"a":1}')

    [(status, headers, body)] = talk.channel.answers()
    assert (status, body) == (200, b'{"a":1}')
    assert parsedate_to_datetime(headers.pop("date"))
    assert headers == {
        "content-type": "application/json",
        "access-control-allow-origin": "*",
        "server": "provserver",
        "content-length": "7",
    }


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("body", [b"", b'{"status":"x"}'])
async def test_every_outcome_has_its_status(outcome: Outcome, body: bytes) -> None:
    talk = talking(at_once=False)
    await talk.hear(post(b"a"))

    talk.asked.answer(body, outcome)

    [(status, headers, said)] = talk.channel.answers()
    assert status == RENDERINGS[outcome].http
    assert headers.get("retry-after") == (str(RETRY_AFTER) if RENDERINGS[outcome].retried else None)
    if body or outcome is not Outcome.SUCCESS:
        assert said == body or json.loads(said)["errorMsg"] == (RENDERINGS[outcome].error or "")


async def test_an_empty_body_is_refused() -> None:
    talk = talking()

    [(status, _, body)] = await talk.hear(post(b""))

    assert (status, json.loads(body)["errorMsg"]) == (400, "The body is empty!")
    assert talk.asked.payloads == []


async def test_a_fault_of_ours_breaks_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    talk = talking()
    talk.front._ask = cast("Any", lambda *_, **__: 1 / 0)

    with caplog.at_level(logging.ERROR, "provserver.http"):
        answers = await talk.hear(post(b"a") + post(b"b"))

    assert [(status, json.loads(body)["errorMsg"]) for status, _, body in answers] == [(500, "Internal error!")] * 2
    assert "ZeroDivisionError" in caplog.text


async def test_what_follows_waits_and_is_answered_in_order() -> None:
    talk = talking(at_once=False)
    await talk.hear(post(b"1") + post(b"2"), post(b"3")[:70], post(b"3")[70:])
    for n in (b"1", b"2", b"3"):
        assert talk.asked.payloads[-1] == n
        talk.asked.answer(n)
        await turns()

    assert [body for _, _, body in talk.channel.answers()] == [b"1", b"2", b"3"]
    assert talk.asked.payloads == [b"1", b"2", b"3"]
    assert len({id(peer) for peer in talk.asked.peers}) == 1


async def test_what_is_not_plain_goes_behind_once_what_came_before_is_answered() -> None:
    talk = talking(at_once=False)
    rest = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n" + post(b"2")
    await talk.hear(post(b"1") + rest)
    assert talk.behind.taken is None

    talk.asked.answer(b"1")
    assert len(await talk.hear()) == 1

    taken = cast("Taken | None", talk.behind.taken)
    assert taken is not None
    assert taken.came == rest
    assert talk.channel.protocol is taken


async def test_a_body_may_come_piece_by_piece() -> None:
    talk = talking()
    whole = post(b"abcdef")
    assert await talk.hear(whole[:-6]) == []
    for n in range(-6, -1):
        assert await talk.hear(whole[n : n + 1]) == []

    [(status, _, body)] = await talk.hear(whole[-1:])

    assert (status, body) == (200, b"abcdef")
    assert talk.behind.taken is None


async def test_others_have_their_turn_between_requests_that_came_at_once() -> None:
    talk, other = talking(), talking()
    talk.channel.protocol.data_received(post(b"x") * 500)
    assert talk.asked.payloads == [b"x"]

    assert len(await other.hear(post(b"y"))) == 1

    assert 1 < len(talk.asked.payloads) < 500
    await turns(500)
    assert len(list(talk.channel.answers())) == 500


# --- too much


async def test_who_sends_too_much_at_once_is_not_read_for_a_while() -> None:
    talk = talking(at_once=False)
    many = post(b"x" * 900)
    number = 0
    while talk.channel.reading:
        talk.channel.protocol.data_received(many)
        number += 1
    assert 65_536 < number * len(many) < 70_000

    talk.asked.answer()
    await turns()
    talk.asked.answer()
    await turns()
    assert talk.channel.reading
    talk.asked.at_once = True
    talk.asked.answer()
    await turns(number * 2)

    assert len(talk.asked.payloads) == number


async def test_who_sends_too_much_of_something_else_is_read_again() -> None:
    talk = talking(at_once=False)
    talk.channel.protocol.data_received(post(b"1"))
    talk.channel.protocol.data_received(b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000)
    assert not talk.channel.reading

    talk.asked.answer()
    await turns()

    assert talk.behind.taken is not None
    assert talk.channel.reading


async def test_a_large_body_behind_too_much_is_still_read() -> None:
    talk = talking(at_once=False)
    talk.front._max_body = 65_536
    whole = post(b"x" * 65_536)
    await talk.hear(post(b"1"), whole[:-1])
    assert not talk.channel.reading

    talk.asked.answer()
    await turns()
    assert talk.channel.reading
    await talk.hear(whole[-1:])

    assert talk.asked.payloads[-1] == b"x" * 65_536


async def test_who_does_not_read_is_not_answered_further() -> None:
    talk = talking()
    talk.channel.protocol.pause_writing()

    assert len(await talk.hear(post(b"1"), post(b"2"), post(b"3"))) == 1
    assert talk.asked.payloads == [b"1"]

    talk.channel.protocol.resume_writing()
    await turns()
    assert [body for _, _, body in talk.channel.answers()] == [b"2", b"3"]


async def test_who_does_not_read_goes_behind_as_such() -> None:
    talk = talking()
    talk.channel.protocol.pause_writing()

    await talk.hear(b"GET / HTTP/1.1\r\n")

    assert talk.behind.taken is not None
    assert talk.behind.taken.paused


# --- ends


async def test_one_connection_too_many_is_closed() -> None:
    talk = talking(behind=Behind(room=False))

    assert talk.channel.closed
    await turns()
    assert talk.behind.fronts == set()


async def test_who_is_gone_is_not_answered() -> None:
    talk = talking(at_once=False)
    await talk.hear(post(b"1") + post(b"2"))
    assert talk.behind.fronts == {talk.front}

    talk.channel.lose()
    talk.asked.answer()  # closing, but not lost yet
    await turns()
    assert talk.behind.fronts == set()

    gone = talking(at_once=False)
    await gone.hear(post(b"1") + post(b"2"))
    gone.channel.lose()
    await turns()
    gone.asked.answer()
    await turns()

    for each in (talk, gone):
        assert each.channel.written == b""
        assert each.asked.payloads == [b"1"]


def ends(talk: Talk, after: float) -> bool:
    """Whether a connection is cut when it has been silent for so long."""
    talk.front.expire(talk.front._since + after, 10, 75)
    return talk.channel.closed


async def test_who_never_asks_is_cut() -> None:
    talk = talking()
    assert not ends(talk, 9)
    assert ends(talk, 11)
    assert talk.channel.aborted


async def test_who_has_asked_is_kept_for_longer() -> None:
    talk = talking(at_once=False)
    await talk.hear(post(b"1"))
    assert not ends(talk, 1_000)  # it waits for us
    talk.asked.answer()
    assert not ends(talk, 74)
    assert ends(talk, 76)
    assert not talk.channel.aborted


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    talk = talking()
    since = talk.front._since = talk.front._since - 5
    await talk.hear(post(b"123")[:-2])
    assert talk.front._since > since, "its time begins with its head"
    since = talk.front._since
    await talk.hear(b"2")
    assert talk.front._since == since, "and is not prolonged"
    assert not ends(talk, 9)

    assert ends(talk, 11)

    [(status, headers, body)] = talk.channel.answers()
    assert (status, headers["connection"]) == (408, "close")
    assert json.loads(body)["errorMsg"] == "The body did not arrive in time!"
    assert talk.asked.payloads == []


async def test_a_connection_that_cannot_close_is_cut() -> None:
    talk = talking()
    await talk.hear(post(b"1"))
    talk.channel.stuck = True
    assert ends(talk, 76)
    assert not talk.channel.aborted
    ends(talk, 76)
    assert talk.channel.aborted

    unread = talking()
    unread.channel.protocol.pause_writing()
    await unread.hear(post(b"1"))
    assert ends(unread, 76)
    assert unread.channel.aborted


async def test_closing_ends_what_is_idle_at_once() -> None:
    idle, asked = talking(), talking()
    await asked.hear(post(b"1"))
    for talk in (idle, asked):
        await talk.front.shutdown(60)
        assert talk.channel.closed


async def test_closing_waits_for_what_is_under_way() -> None:
    talk = talking(at_once=False)
    await talk.hear(post(b"1") + post(b"2"))
    ending = asyncio.create_task(talk.front.shutdown(60))
    await turns()
    assert not ending.done()

    talk.asked.answer(b"1")
    await ending

    [(status, headers, body)] = talk.channel.answers()
    assert (status, headers["connection"], body) == (200, "close", b"1")
    assert (talk.channel.closed, talk.channel.aborted) == (True, False)
    assert talk.asked.payloads == [b"1"]


async def test_closing_waits_for_a_body() -> None:
    talk = talking()
    await talk.hear(post(b"123")[:-1])
    talk.front.close()
    ending = asyncio.create_task(talk.front.shutdown(60))
    await turns()

    assert [body for _, _, body in await talk.hear(b"3")] == [b"123"]
    await ending


async def test_closing_does_not_wait_past_its_grace_nor_for_who_is_gone() -> None:
    talk = talking(at_once=False)
    await talk.hear(post(b"1"))
    await talk.front.shutdown(0)
    assert talk.channel.aborted

    gone = talking(at_once=False)
    await gone.hear(post(b"1"))
    ending = asyncio.create_task(gone.front.shutdown(60))
    await turns()
    gone.channel.lose()
    await ending


def test_it_runs_on_uvloop() -> None:
    async def run() -> None:
        transport = HttpTransport(cast("Provisioning", Echo()), ready)
        _, port = await transport.start("127.0.0.1", 0)
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
        for came, number in (
            (post(b"1") * 300, 300),
            (post(b"22")[:-1], 0),
            (b"2", 1),
            (post(b"3") + b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n" + post(b"4"), 3),
        ):
            await connection.send(came)
            for _ in range(number):
                await connection.response()
        await transport.stop(60)
        assert await connection.ended() == b""
        connection.writer.close()

    uvloop.run(run())


# --- the same as behind it


class Echo:
    """Provisioning that says what it was asked, one in two later; its outcome follows from the payload, too."""

    def request(self, payload: bytes, peer: Peer, done: Callable[[Answer], None], **_: object) -> None:
        outcome = list(Outcome)[sum(payload) % len(Outcome)]
        body = (
            b"" if outcome is Outcome.UNDECODABLE else b'{"%s":"%s"}' % (peer.address.encode(), payload.hex().encode())
        )
        if len(payload) % 2:
            done(Answer(outcome, body))
        else:
            asyncio.get_running_loop().call_soon(done, Answer(outcome, body))

    async def answer(self, payload: bytes, peer: Peer, **_: object) -> Answer:
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.request(payload, peer, answered.set_result)
        return await answered


async def ready() -> None:
    pass


@asynccontextmanager
async def connected(*, front: bool) -> AsyncIterator[Channel]:
    transport = HttpTransport(cast("Provisioning", Echo()), ready, front=front, max_payload_size=LIMIT)
    await transport._runner.setup()
    try:
        yield Channel(cast("Callable[[], asyncio.BaseProtocol]", transport._runner.server))
    finally:
        await transport.stop(0)


def both(talk: Callable[[Channel], Coroutine[Any, Any, Any]]) -> tuple[Any, Any]:
    """What a conversation comes to, with the front and without it; nothing may escape to the loop."""

    async def run(front: bool) -> Any:
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        async with connected(front=front) as channel:
            came = await talk(channel)
        assert faults == []
        return came

    return asyncio.run(run(front=True)), asyncio.run(run(front=False))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % len(data) for place in places} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(ends)]


FIELDS = st.sampled_from(
    [
        b"Content-Type: application/json",
        b"User-Agent: esp32 (1; 2)",
        b"Connection: keep-alive",
        b"X-Empty:",
        b"X-Tab:\tx\t",
        b"X-Umlaut: \xc3\xa4",
        b"Cookie: a=b; c=d",
        b"Accept-Encoding: gzip",
        b"x-long: " + b"y" * 1_100,
    ]
)
BODIES = st.one_of(st.binary(max_size=20), st.just(b"z" * LIMIT), st.just(b"\r\n\r\n"), st.just(post(b"inner")))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Of any kind, but each is whole, and leaves the connection open."""
    body, fields = draw(BODIES), draw(st.lists(FIELDS, max_size=3, unique=True))
    kind = draw(st.sampled_from(["plain"] * 4 + ["chunked", "without a length", "health", "nowhere", "query"]))
    match kind:
        case "chunked":
            chunks = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return b"\r\n".join([HEAD + b"Transfer-Encoding: chunked", *fields]) + b"\r\n\r\n" + chunks + b"0\r\n\r\n"
        case "without a length":
            return b"\r\n".join([HEAD[:-2], *fields]) + b"\r\n\r\n"
        case "health":
            return b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
        case "nowhere":
            return post(body, *fields).replace(b"/provision ", b"/nowhere ", 1)
        case "query":
            return post(body, *fields).replace(b"/provision ", b"/provision?a ", 1)
        case _:
            return post(body, *fields)


@given(st.lists(requests(), min_size=1, max_size=8), st.lists(st.integers(0, 10_000), max_size=8))
def test_the_answers_are_those_of_who_is_behind(asked: list[bytes], places: list[int]) -> None:
    async def talk(channel: Channel) -> list[tuple[int, dict[str, str], bytes]]:
        answers = await channel.hear(*cut(b"".join(asked), places))
        for _, headers, _ in answers:
            headers.pop("date")
        assert len(answers) == len(asked)
        assert not channel.closed
        return answers

    front, behind = both(talk)

    assert front == behind


ODD = st.one_of(
    FIELDS,
    st.binary(min_size=1, max_size=12).filter(lambda field: b"\r\n" not in field),
    st.sampled_from(
        [
            b"Content-Length: 3",
            b"Content-Length: 03",
            b"Content-Length: 4",
            b"Content-Length: 3, 3",
            b"Content-Length: -3",
            b"Content-Length: 2000",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding: identity",
            b"Expect: 100-continue",
            b"Expect: other",
            b"Connection: close",
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Content-Encoding: gzip",
            b"Content-Type: a",
            b"Host: h",
            b"Host:",
            b" folded",
            b"Sec-WebSocket-Key1: x",
            b"Proxy-Connection: close",
            b"X: a\rb",
            b"X: a\nTransfer-Encoding: chunked",
        ]
    ),
)


@given(
    st.sampled_from([LINE, LINE, LINE, LINE.replace(b"1.1", b"1.0"), LINE.replace(b"POST", b"PUT"), b"\r\n" + LINE]),
    st.lists(ODD, max_size=6),
    st.booleans(),
    st.lists(st.integers(0, 10_000), max_size=4),
)
def test_whatever_comes_is_answered_as_by_who_is_behind(
    line: bytes, fields: list[bytes], good: bool, places: list[int]
) -> None:
    """But for a plain request with what is not HTTP right behind it: aiohttp drops the first with the second."""
    if good:
        fields = [b"Host: h", b"Content-Length: 3", *fields]
    came = line + b"".join(each + b"\r\n" for each in fields) + b"\r\nabc"

    async def talk(channel: Channel) -> tuple[list[tuple[int, bytes]], bool]:
        answers = await channel.hear(*cut(came, places))
        return [(status, body) for status, _, body in answers], channel.closed

    front, behind = both(talk)

    assert front == behind
