import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.transports.blynk.codec import Command, Decoder, MalformedMessage, Message, Status, encode, response
from tests.transports.blynk import wire

MESSAGES = st.lists(
    st.one_of(
        st.tuples(st.just(0), st.integers(1, 0xFFFF), st.integers(0, 0xFFFF), st.just(b"")),
        st.tuples(st.integers(1, 255), st.integers(1, 0xFFFF), st.just(0), st.binary(max_size=64)),
    ),
    max_size=8,
)


def decoded(data: bytes, max_body: int = 4096) -> list[Message]:
    decoder = Decoder(max_body)
    decoder.feed(data)
    return list(decoder)


@given(MESSAGES, st.data())
def test_messages_are_the_same_however_they_are_chunked(
    messages: list[tuple[int, int, int, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(
        command.to_bytes(1) + id_.to_bytes(2) + (len(body) or status).to_bytes(2) + body
        for command, id_, status, body in messages
    )
    decoder = Decoder(64)
    found: list[Message] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        decoder.feed(stream[:size])
        stream = stream[size:]
        found += decoder
    assert [(each.command, each.id, each.body) for each in found] == [
        (command, id_, body) for command, id_, _, body in messages
    ]
    assert decoder.buffered == 0


@given(st.binary(max_size=200), st.integers(0, 64))
def test_no_bytes_make_another_error_or_more_than_is_allowed(data: bytes, max_body: int) -> None:
    try:
        found = decoded(data, max_body)
    except MalformedMessage:
        return
    assert all(len(each.body) <= max_body for each in found)
    for each in found:
        assert each.texts is None or "\0".join(each.texts).encode() == each.body


def test_header_and_body_may_come_apart() -> None:
    decoder = Decoder(64)
    decoder.feed(wire.message(wire.LOGIN, 1, "token")[:5])
    assert list(decoder) == []
    decoder.feed(b"token")
    assert [each.texts for each in decoder] == [["token"]]


def test_a_large_body_is_refused_at_its_header() -> None:
    with pytest.raises(MalformedMessage, match="too large"):
        decoded(b"\x14\x00\x01\x10\x01")


def test_a_response_has_a_status_and_no_body() -> None:
    (message,) = decoded(wire.response(7, 200))
    assert (message.command, message.id, message.length, message.body) == (0, 7, 200, b"")
    assert response(7, Status.OK) == wire.response(7, 200)


def test_ids_that_wrapped_to_0_are_answered_as_1() -> None:
    assert decoded(wire.message(wire.PING, 0))[0].id == 1


def test_what_is_encoded() -> None:
    assert encode(Command.HARDWARE, 258, ("vw", "5", "Grüße")) == b"\x14\x01\x02\x00\x0cvw\x005\x00Gr\xc3\xbc\xc3\x9fe"
    assert encode(Command.REDIRECT, 1) == b"\x29\x00\x01\x00\x00"


def test_a_body_is_not_shown() -> None:
    (message,) = decoded(wire.message(wire.LOGIN, 1, "pl4nted"))
    assert "pl4nted" not in repr(message)
    assert decoded(b"\x14\x00\x01\x00\x01\xff")[0].texts is None
