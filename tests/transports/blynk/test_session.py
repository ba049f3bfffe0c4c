from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provserver.transports.blynk.codec import Command, Status
from provserver.transports.blynk.session import (
    DONE,
    KEPT,
    RECONFIGURE,
    UNAVAILABLE,
    WRONG,
    Answer,
    Limits,
    LoginRequested,
    Request,
    Session,
    Verb,
)
from tests.transports.blynk import wire
from tests.transports.blynk.wire import (
    EVENT_LOG,
    GROUP,
    HARDWARE,
    INTERNAL,
    LOGIN,
    OLD_LOGIN,
    PING,
    PROPERTY,
    REDIRECT,
    SYNC,
    message,
    response,
)

LIMITS = Limits(max_body=64, max_login=40, login_timeout=10, first_report=600, in_flight=3)


class Talk:
    """A session, what it emitted and what it said."""

    def __init__(self, *, placeholder: bool = False, let_in: bool = True) -> None:
        self.session = Session(LIMITS, 0)
        if let_in:
            self.says(message(LOGIN, 1, "token"))
            self.session.accept(0, placeholder=placeholder)
            assert self.heard() == response(1, 200)

    def says(self, data: bytes, now: float = 0) -> list[object]:
        self.session.receive(data, now)
        events, self.session.events = self.session.events, []
        return list(events)

    def asks(self, data: bytes, now: float = 0) -> Request:
        (event,) = self.says(data, now)
        assert isinstance(event, Request)
        return event

    def heard(self) -> bytes:
        said = b"".join(self.session.output)
        self.session.output.clear()
        return said


# Login


@pytest.mark.parametrize("command", [LOGIN, OLD_LOGIN])
def test_a_login_waits_for_its_answer(command: int) -> None:
    talk = Talk(let_in=False)
    (login,) = talk.says(message(command, 9, "token") + message(PING, 2))
    assert isinstance(login, LoginRequested)
    assert login.token == "token"
    assert "token" not in repr(login)
    assert not talk.session.reading
    talk.session.accept(0)
    assert talk.heard() == response(9, 200) + response(2, 200)


@pytest.mark.parametrize("status", [Status.INVALID_TOKEN, Status.QUOTA_LIMIT])
def test_a_refused_login_is_told_and_closed(status: Status) -> None:
    talk = Talk(let_in=False)
    talk.says(message(LOGIN, 1, "token"))
    talk.session.refuse(status)
    assert talk.heard() == response(1, status)
    assert talk.session.closing


def test_a_device_is_sent_elsewhere() -> None:
    talk = Talk(let_in=False)
    talk.says(message(LOGIN, 1, "token"))
    talk.session.redirect("other.example", 8442)
    assert talk.heard() == message(REDIRECT, 1, "other.example", "8442")
    assert talk.session.closing


def test_who_is_too_much_is_told_to_come_back_and_keeps_its_token() -> None:
    talk = Talk(let_in=False)
    talk.session.crowded = True
    assert talk.says(message(LOGIN, 1, "token")) == []
    assert talk.heard() == response(1, 1)
    assert talk.session.closing


@pytest.mark.parametrize(
    "data", [message(PING, 1), message(INTERNAL, 1, "tmpl", "TMPL1"), b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n"]
)
def test_what_is_no_login_is_closed_without_a_word(data: bytes) -> None:
    talk = Talk(let_in=False)
    assert talk.says(data) == []
    assert talk.session.closing
    assert talk.heard() == b""


def test_a_login_that_cannot_be_a_token_is_invalid() -> None:
    for body in (b"a\0b", b"\xff"):
        talk = Talk(let_in=False)
        assert talk.says(bytes((LOGIN, 0, 1, 0, len(body))) + body) == []
        assert talk.heard() == response(1, 9)


def test_a_login_is_waited_for_so_long() -> None:
    session = Session(LIMITS, 5)
    assert session.deadline == 15
    session.receive(b"\x1d\x00", 14)  # half a header moves nothing
    session.expire(14.9)
    assert not session.closing
    session.expire(15)
    assert session.closing
    assert session.deadline == inf


def test_a_second_login_is_answered_and_changes_nothing() -> None:
    talk = Talk()
    assert talk.says(message(LOGIN, 5, "other")) == []
    assert talk.heard() == response(5, 4)


# What a device asks for


@pytest.mark.parametrize(
    ("data", "verb", "arguments"),
    [
        (message(HARDWARE, 2, "vw", "5", "42"), Verb.WRITE, ["5", "42"]),
        (message(HARDWARE, 2, "vw", "5", "1.5", "2"), Verb.WRITE, ["5", "1.5", "2"]),
        (message(HARDWARE, 2, "vw", "5", ""), Verb.WRITE, ["5", ""]),
        (message(SYNC, 2), Verb.SYNC, []),
        (message(SYNC, 2, "vr", "1", "2"), Verb.SYNC, ["1", "2"]),
        (message(PROPERTY, 2, "1", "color", "#fff"), Verb.PROPERTY, ["1", "color", "#fff"]),
        (message(INTERNAL, 2, "ver", "1", "h-beat", "10"), Verb.INFO, ["ver", "1", "h-beat", "10"]),
        (message(INTERNAL, 2, "meta", "set", "Hotspot Name", "home"), Verb.SET_FIELD, ["Hotspot Name", "home"]),
        (message(INTERNAL, 2, "meta", "get", "Device Name"), Verb.GET_FIELD, ["Device Name"]),
        (message(INTERNAL, 2, "utc", "tz_rule"), Verb.UTC, ["tz_rule"]),
        (message(INTERNAL, 2, "rtc", "sync"), Verb.RTC, []),
    ],
)
def test_what_needs_a_service(data: bytes, verb: Verb, arguments: list[str]) -> None:
    request = Talk().asks(data)
    assert (request.verb, request.id, list(request.arguments)) == (verb, 2, arguments)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (message(PING, 2), 200),
        (message(HARDWARE, 2, "vw", "5"), 11),
        (message(HARDWARE, 2, "dw", "5", "1"), 2),
        (message(SYNC, 2, "vr"), 11),
        (message(PROPERTY, 2, "1", "color"), 11),
        (message(INTERNAL, 2, "ver"), 11),
        (message(INTERNAL, 2), 11),
        (message(INTERNAL, 2, "meta", "get"), 11),
        (message(GROUP, 2, "t", "yesterday"), 11),
        (message(EVENT_LOG, 2, "overheated", "very"), 11),
        (message(14, 2, "a notification"), 2),
        (message(255, 2), 2),
        (b"\x14\x00\x02\x00\x01\xff", 11),
    ],
)
def test_what_needs_none_is_answered_at_once(data: bytes, status: int) -> None:
    talk = Talk()
    assert talk.says(data) == []
    assert talk.heard() == response(2, status)
    assert not talk.session.closing


def test_answers_keep_the_order_of_what_was_asked() -> None:
    talk = Talk()
    first = talk.asks(message(HARDWARE, 2, "vw", "1", "a"))
    second = talk.asks(message(SYNC, 3, "vr", "1"))
    assert talk.says(message(PING, 4)) == []
    assert talk.heard() == b""
    talk.session.answer(second, Answer(told=[(Command.HARDWARE, ("vw", "1", "a"))]), 0)
    assert talk.heard() == b""
    talk.session.answer(first, KEPT, 0)
    assert talk.heard() == message(HARDWARE, 3, "vw", "1", "a") + response(4, 200)


def test_no_more_is_read_than_is_worked_on() -> None:
    talk = Talk()
    requests = talk.says(b"".join(message(HARDWARE, id_, "vw", "1", str(id_)) for id_ in range(2, 7)))
    assert len(requests) == LIMITS.in_flight
    assert not talk.session.reading
    for status, answer in ((b"", KEPT), (response(3, 11), WRONG), (response(4, 19), UNAVAILABLE)):
        request = requests.pop(0)
        assert isinstance(request, Request)
        talk.session.answer(request, answer, 0)
        requests += talk.session.events
        talk.session.events.clear()
        assert talk.heard() == status
    assert [each.id for each in requests if isinstance(each, Request)] == [5, 6]
    assert talk.session.reading


def test_writes_of_a_group_have_its_time() -> None:
    talk = Talk()
    data = message(GROUP, 2, "t", "1795323667250")
    assert talk.says(data) == []
    assert talk.asks(message(HARDWARE, 3, "vw", "1", "a")).ts == 1795323667250
    assert talk.says(message(GROUP, 4, "e")) == []
    assert talk.asks(message(HARDWARE, 5, "vw", "1", "a")).ts is None
    assert talk.heard() == b""


def test_responses_are_for_nobody() -> None:
    talk = Talk()
    assert talk.says(response(77, 200)) == []
    assert talk.heard() == b""


# What the device is told


def test_pins_are_written_with_ids_of_our_own() -> None:
    talk = Talk()
    talk.session.write([(5, "1"), (6, "a\0b")])
    assert talk.heard() == message(HARDWARE, 1, "vw", "5", "1") + message(HARDWARE, 2, "vw", "6", "a\0b")
    talk.session._last_id = 0xFFFF
    talk.session.tell(Command.INTERNAL, RECONFIGURE)
    assert talk.heard() == message(INTERNAL, 1, "dbg", "config start")


def test_a_device_is_told_no_more_than_it_has_room_for() -> None:
    talk = Talk()
    talk.session.write([(5, "x" * 250), (5, "x" * 251)])  # "vw\0005\0" are five more, and some want one left
    assert talk.heard() == message(HARDWARE, 1, "vw", "5", "x" * 250)
    talk.asks(message(INTERNAL, 2, "ver", "1", "buff-in", "1024"))
    talk.session.write([(5, "x" * 1000)])
    assert len(talk.heard()) == 1010


def test_before_the_login_nothing_is_told() -> None:
    talk = Talk(let_in=False)
    talk.session.write([(5, "1")])
    assert talk.heard() == b""


# Times


@pytest.mark.parametrize(
    ("info", "silence"),
    [
        ((), 67.5),
        (("h-beat", "10"), 15),
        (("h-beat", "0"), 67.5),
        (("h-beat", "-1"), 67.5),
        (("h-beat", "9" * 9), 5400),
    ],
)
def test_silence_ends_it(info: tuple[str, ...], silence: float) -> None:
    talk = Talk()
    talk.session.answer(talk.asks(message(INTERNAL, 2, "ver", "1", *info), 100), DONE, 100)
    assert talk.session.deadline == 100 + silence
    talk.says(message(PING, 3), 110)
    assert talk.session.deadline == 110 + silence
    talk.session.expire(110 + silence)
    assert talk.session.close_reason == "nothing was received in time"


def test_half_a_message_is_no_sign_of_life() -> None:
    talk = Talk()
    talk.says(message(PING, 2)[:3], 50)
    assert talk.session.deadline == 67.5


# Placeholders


def test_a_placeholder_may_ping_and_say_its_template() -> None:
    talk = Talk(placeholder=True)
    assert talk.says(message(PING, 2) + message(HARDWARE, 3, "vw", "1", "a") + message(INTERNAL, 4, "ver", "1")) == []
    assert talk.heard() == response(2, 200) + response(3, 6) + response(4, 200)
    (request,) = talk.says(message(INTERNAL, 5, "ver", "1", "tmpl", "TMPL1") + message(HARDWARE, 6, "vw", "1", "a"))
    assert isinstance(request, Request)
    assert request.facts == {"ver": "1", "tmpl": "TMPL1"}
    talk.session.bind()
    talk.session.answer(request, DONE, 0)
    assert talk.heard() == response(5, 200)
    (write,) = talk.session.events
    assert isinstance(write, Request)
    assert write.verb is Verb.WRITE


def test_a_placeholder_has_its_time() -> None:
    talk = Talk(placeholder=True)
    for now in range(0, 600, 50):
        talk.says(message(PING, 2), now)
    talk.session.expire(599)
    assert not talk.session.closing
    talk.session.expire(600)
    assert "placeholder" in talk.session.close_reason


# The end


def test_it_drains() -> None:
    talk = Talk()
    request = talk.asks(message(HARDWARE, 2, "vw", "1", "a"))
    talk.session.drain()
    assert not talk.session.closing
    assert not talk.session.reading
    talk.session.answer(request, WRONG, 0)
    assert talk.heard() == response(2, 11)
    assert talk.session.closing


def test_after_the_end_nothing_happens() -> None:
    talk = Talk()
    request = talk.asks(message(HARDWARE, 2, "vw", "1", "a"))
    talk.session.receive_eof()
    talk.session.answer(request, WRONG, 0)
    talk.session.accept(0)
    talk.session.refuse(Status.INVALID_TOKEN)
    talk.session.redirect("a", 1)
    talk.session.write([(1, "a")])
    assert talk.says(message(PING, 3)) == []
    assert talk.heard() == b""


_TEXTS = st.lists(
    st.sampled_from(
        ["vw", "vr", "5", "", "meta", "set", "get", "utc", "rtc", "tmpl", "h-beat", "buff-in", "t", "b", "é"]
    )
    | st.text(max_size=4),
    max_size=5,
)
_ANSWERS = st.sampled_from([KEPT, DONE, WRONG, UNAVAILABLE])
_PIECES = st.one_of(
    st.builds(lambda command, texts: message(command, 3, *texts), st.integers(0, 70), _TEXTS),
    st.binary(max_size=12),
)


@settings(max_examples=300)
@given(st.booleans(), st.lists(st.tuples(_PIECES, st.none() | st.tuples(_ANSWERS, st.integers(0, 2))), max_size=12))
def test_whatever_comes_it_stays_in_bounds(
    placeholder: bool, steps: list[tuple[bytes, tuple[Answer, int] | None]]
) -> None:
    """No bytes raise, no more is in flight than allowed, and each message gets one answer at most, in order."""
    talk = Talk(placeholder=placeholder)
    session = talk.session
    open_: list[Request] = []
    for now, (piece, done) in enumerate(steps):
        for event in talk.says(piece, now):
            assert isinstance(event, Request)
            open_.append(event)
        assert len(session._requests) <= LIMITS.in_flight
        if open_ and done is not None:
            answer, which = done
            session.answer(open_.pop(which % len(open_)), answer, now)
            open_ += [each for each in session.events if isinstance(each, Request)]
            session.events.clear()
        said = talk.heard()
        while said:
            size = wire.whole(said)
            assert size is not None
            assert int.from_bytes(said[1:3]) != 0
            said = said[size:]
        if session.closing:
            assert session.deadline == inf
            break
        assert session.deadline > now
