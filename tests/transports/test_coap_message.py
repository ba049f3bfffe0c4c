import aiocoap
import pytest
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.optiontypes import OpaqueOption
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from provserver.transports.coap_message import (
    _MAX_REMEMBERED,
    MAX_OPTIONS,
    Code,
    Malformed,
    Message,
    Type,
    _remembered,
    decode,
    empty,
    encode,
    uint,
)

# --- datagrams by hand, from RFC 7252 appendix A and §3

EXAMPLES = [
    # figure 16: a confirmable GET of /temperature without a token, and its piggybacked response
    (
        b"\x40\x01\x7d\x34\xbbtemperature",
        Message(0, 1, 0x7D34, b"", ((11, b"temperature"),)),
    ),
    (b"\x60\x45\x7d\x34\xff22.3 C", Message(2, 69, 0x7D34, b"", (), b"22.3 C")),
    # figure 17: with a token
    (b"\x41\x01\x7d\x35\x20\xbbtemperature", Message(0, 1, 0x7D35, b"\x20", ((11, b"temperature"),))),
    (b"\x61\x45\x7d\x35\x20\xff22.3 C", Message(2, 69, 0x7D35, b"\x20", (), b"22.3 C")),
    (b"\x40\x00\x00\x01", Message(0, 0, 1)),
    (b"\x60\x00\xff\xff", Message(2, 0, 65_535)),
    (b"\x70\x00\x00\x0a", Message(3, 0, 10)),
    (b"\x58\x02\x00\x01tokentok", Message(1, 2, 1, b"tokentok")),
    # the same option again, an empty value, no delta
    (b"\x40\x02\x00\x01\xb1a\x00\x01b", Message(0, 2, 1, b"", ((11, b"a"), (11, b""), (11, b"b")))),
    # lengths and deltas around 13 and 269
    (b"\x40\x02\x00\x01\xbc" + b"x" * 12, Message(0, 2, 1, b"", ((11, b"x" * 12),))),
    (b"\x40\x02\x00\x01\xbd\x00" + b"x" * 13, Message(0, 2, 1, b"", ((11, b"x" * 13),))),
    (b"\x40\x02\x00\x01\xbd\xff" + b"x" * 268, Message(0, 2, 1, b"", ((11, b"x" * 268),))),
    (b"\x40\x02\x00\x01\xbe\x00\x00" + b"x" * 269, Message(0, 2, 1, b"", ((11, b"x" * 269),))),
    (b"\x40\x02\x00\x01\xc0", Message(0, 2, 1, b"", ((12, b""),))),
    (b"\x40\x02\x00\x01\xd0\x00", Message(0, 2, 1, b"", ((13, b""),))),
    (b"\x40\x02\x00\x01\xd1\xf5\x1a", Message(0, 2, 1, b"", ((258, b"\x1a"),))),
    (b"\x40\x02\x00\x01\xd0\xff", Message(0, 2, 1, b"", ((268, b""),))),
    (b"\x40\x02\x00\x01\xe0\x00\x00", Message(0, 2, 1, b"", ((269, b""),))),
    (b"\x40\x02\x00\x01\xe0\xfe\xf2", Message(0, 2, 1, b"", ((65_535, b""),))),
    (b"\x40\x02\x00\x01\xffx\xff", Message(0, 2, 1, b"", (), b"x\xff")),
]


@pytest.mark.parametrize(("datagram", "message"), EXAMPLES, ids=lambda value: repr(value)[:30])
def test_examples(datagram: bytes, message: Message) -> None:
    assert decode(datagram) == message
    assert encode(message) == datagram


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        (b"", 0x20),  # reserved classes
        (b"", 0x7F),
        (b"", 0xC0),
        (b"", 0xFF),
        (b"x", 0),  # an empty message that is not
        (b"\xff", 2),  # a payload marker without a payload
        (b"\xb5a", 2),  # an option that ends too early
        (b"\xbd", 2),
        (b"\xbd\x05", 2),
        (b"\xbe\x00", 2),
        (b"\xd0", 2),
        (b"\xe0\x00", 2),
        (b"\xf0", 2),  # a delta of 15
        (b"\xf1\xff", 2),
        (b"\xbf", 2),  # a length of 15
        (b"\xbf" + b"x" * 300, 2),
        (b"\xe0\xfe\xf3", 2),  # option 65536
        (b"\xe0\xff\xff\xe0\xff\xff", 2),
        (b"\xb0" + b"\x00" * MAX_OPTIONS, 2),
    ],
    ids=repr,
)
def test_what_is_malformed_is_to_be_rejected_when_it_asks_for_a_confirmation(rest: bytes, code: int) -> None:
    for type_ in Type:
        with pytest.raises(Malformed) as caught:
            decode(bytes((0x40 | type_ << 4, code, 0x12, 0x34)) + rest)
        assert caught.value.id == (0x1234 if type_ is Type.CON else None)


@pytest.mark.parametrize("length", range(9, 16))
def test_a_token_of_more_than_8_bytes_is_malformed(length: int) -> None:
    with pytest.raises(Malformed) as caught:
        decode(bytes((0x40 | length, 2, 0, 1)) + b"t" * length)
    assert caught.value.id == 1


def test_a_token_that_ends_too_early_is_malformed() -> None:
    with pytest.raises(Malformed) as caught:
        decode(b"\x44\x02\x00\x01ttt")
    assert caught.value.id == 1


@pytest.mark.parametrize(
    "datagram",
    [b"", b"\x40", b"\x40\x02\x00", b"\x00\x02\x00\x01", b"\x80\x02\x00\x01", b"\xc0\x02\x00\x01"],
    ids=repr,
)
def test_what_is_too_short_or_of_another_version_is_ignored(datagram: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        decode(datagram)
    assert caught.value.id is None


@pytest.mark.parametrize(
    ("type_", "code"),
    [(Type.NON, 0), (Type.ACK, 1), (Type.ACK, 31), (Type.RST, 1), (Type.RST, 69)],
    ids=str,
)
def test_types_and_codes_must_suit_each_other(type_: Type, code: int) -> None:
    with pytest.raises(Malformed) as caught:
        decode(bytes((0x40 | type_ << 4, code, 0, 1)))
    assert caught.value.id is None


# --- any


def outcome(datagram: bytes) -> Message | int | None:
    try:
        return decode(datagram)
    except Malformed as fault:
        return fault.id


options = (
    st.lists(
        st.tuples(st.integers(0, 65_535) | st.sampled_from([11, 12, 15, 27, 258, 269]), st.binary(max_size=300)),
        max_size=MAX_OPTIONS,
    )
    .map(lambda some: sorted(some, key=lambda option: option[0]))
    .map(tuple)
)
messages = st.builds(
    Message,
    st.sampled_from([0, 1]),
    st.integers(1, 31) | st.sampled_from([code for code in Code if code > 31]),
    st.integers(0, 65_535),
    st.binary(max_size=8),
    options,
    st.binary(max_size=50),
)


@given(messages)
def test_a_message_is_read_as_it_was_written(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda rest: b"\x40\x02\x00\x01" + rest))
@example(b"\xff" * 1_500)
def test_any_datagram_is_a_message_or_malformed(datagram: bytes) -> None:
    try:
        message = decode(datagram)
    except Malformed:
        return
    assert encode(message) == datagram  # there is one way to write a message


@given(messages, st.sampled_from([b"", b"\xff", b"\xffpayload", b"\xff\xff", b"\xf0", b"\xb5a"]))
@example(Message(0, 2, 1, b"", ((11, b"a\xffb"),), b"x"), b"")
@example(Message(0, 2, 1, b"", ((12, b"2"), (281, b"")), b"x"), b"")  # a delta of 269 is 0xFF less 0xF2
def test_options_that_came_before_are_read_alike(message: Message, more: bytes) -> None:
    datagram = encode(message) + more
    for each in (datagram, datagram[:-1], datagram):
        _remembered.cache_clear()
        assert outcome(each) == outcome(each)


@given(st.lists(st.binary(max_size=6).map(lambda rest: b"\x40\x02\x00\x01" + rest), max_size=20))
def test_what_is_remembered_of_others_changes_nothing(datagrams: list[bytes]) -> None:
    remembered = [outcome(datagram) for datagram in datagrams]
    for datagram, before in zip(datagrams, remembered, strict=True):
        _remembered.cache_clear()
        assert outcome(datagram) == before


@pytest.mark.parametrize("length", [_MAX_REMEMBERED, _MAX_REMEMBERED + 1, 60_000])
def test_long_options_are_not_remembered(length: int) -> None:
    _remembered.cache_clear()
    message = Message(0, 2, 1, b"", ((11, bytes(length - 2 if length < 260 else length - 3)),), b"x")
    assert decode(encode(message)) == message

    assert _remembered.cache_info().currsize == (length == _MAX_REMEMBERED)


@given(messages)
def test_aiocoap_reads_the_same(message: Message) -> None:
    plain = tuple(each for each in message.options if isinstance(OptionNumber(each[0]).create_option(), OpaqueOption))
    message = replace(message, options=plain)  # of the others aiocoap keeps what they mean, not their bytes
    theirs = aiocoap.Message.decode(encode(message))

    assert (int(theirs.mtype), int(theirs.code), theirs.mid) == (message.type, message.code, message.id)
    assert (theirs.token, theirs.payload) == (message.token, message.payload)
    assert tuple((int(each.number), each.encode()) for each in theirs.opt.option_list()) == plain


# --- parts


@pytest.mark.parametrize(("value", "encoded"), [(0, b""), (1, b"\x01"), (255, b"\xff"), (256, b"\x01\x00")])
def test_numbers_are_as_short_as_can_be(value: int, encoded: bytes) -> None:
    assert uint(value) == encoded


def test_acknowledgements_and_resets() -> None:
    assert empty(Type.ACK, 0x1234) == b"\x60\x00\x12\x34"
    assert empty(Type.RST, 1) == b"\x70\x00\x00\x01"


def test_nothing_that_may_be_secret_is_shown() -> None:
    message = Message(0, 2, 7, b"pl4nted", ((11, b"pl4nted"),), b"pl4nted")

    assert repr(message) == "<Message 0.02 7>"
    assert "pl4nted" not in repr(Malformed(7))
