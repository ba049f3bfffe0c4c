import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provserver.core import protobuf
from provserver.core.protobuf import SyntaxFault
from tests.core.wireformat import FIXED32, FIXED64, GROUP_END, GROUP_START, LENGTH, VARINT, field, group, tag, varint
from tests.core.work import calls

LARGEST = (1 << 29) - 1

numbers = st.integers(1, LARGEST)
scalars = st.integers(0, 2**64 - 1)
members = st.lists(st.tuples(numbers, scalars | st.binary(max_size=16)), max_size=8)
unknown = st.recursive(
    st.builds(lambda n, data: tag(n, FIXED64) + data, numbers, st.binary(min_size=8, max_size=8))
    | st.builds(lambda n, data: tag(n, FIXED32) + data, numbers, st.binary(min_size=4, max_size=4)),
    lambda inner: st.builds(group, numbers, st.lists(inner | st.builds(field, numbers, scalars)).map(b"".join)),
    max_leaves=4,
)


def read(message: bytes) -> list[tuple[int, int | bytes]]:
    return list(protobuf.fields(message))


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("", []),
        ("08 96 01", [(1, 150)]),  # protobuf.dev, "Encoding": the first example
        ("12 07 74 65 73 74 69 6e 67", [(2, b"testing")]),  # and the second
        ("08 00", [(1, 0)]),
        ("12 00", [(2, b"")]),
        ("08 80 80 00", [(1, 0)]),  # longer than needed
        ("88 80 00 01", [(1, 1)]),  # the tag, too
        ("08 ff ff ff ff ff ff ff ff ff 01", [(1, 2**64 - 1)]),
        ("08 fe ff ff ff ff ff ff ff ff 7f", [(1, 2**64 - 2)]),  # bits past the 64th are dropped
        ("08 01 08 02", [(1, 1), (1, 2)]),  # in order, each
        ("f8 ff ff ff 0f 01", [(LARGEST, 1)]),
        ("a2 06 01 41", [(100, b"A")]),
        ("09 01 02 03 04 05 06 07 08 10 05", [(2, 5)]),  # fixed64
        ("0d 01 02 03 04 10 05", [(2, 5)]),  # fixed32
        ("0b 0c 10 05", [(2, 5)]),  # an empty group
        ("0b 08 01 12 01 41 1b 1c 25 00 00 00 00 0c 10 05", [(2, 5)]),
        ("12 03 0b 0b 0b", [(2, b"\x0b\x0b\x0b")]),  # what is inside bytes is not looked at
    ],
)
def test_fields(message: str, fields: list[tuple[int, int | bytes]]) -> None:
    assert read(bytes.fromhex(message)) == fields


@pytest.mark.parametrize(
    "message",
    [
        "08",  # no value
        "80",  # half a tag
        "08 80",  # half a value
        "08 ff ff ff ff ff ff ff ff ff ff 01",  # eleven bytes
        "00 01",  # field number 0
        "80 80 80 80 10 01",  # field number 2**29
        "02 00",
        "12",
        "12 01",
        "12 ff ff ff ff ff ff ff ff ff 01 41",  # a length of 2**64 - 1
        "09 01 02 03 04 05 06 07",
        "0d 01 02 03",
        "0e 00",  # wire type 6
        "0f 00",  # wire type 7
        "0c",  # a group's end without its start
        "0b",
        "0b 08 01",
        "0b 14",  # the end of another
        "0b 13 0c 14",  # crossed
        "0b 12 02 41 0c",  # an end inside what a length covers
        "0b 00 0c",
        "0b 0e 0c",
    ],
)
def test_what_is_no_message(message: str) -> None:
    with pytest.raises(SyntaxFault):
        read(bytes.fromhex(message))


def test_fields_before_a_fault_come_first() -> None:
    found = protobuf.fields(bytes.fromhex("08 01 0f"))
    assert next(found) == (1, 1)
    with pytest.raises(SyntaxFault):
        next(found)


@pytest.mark.parametrize("message", [b"", b"\0" * 200])
def test_a_message_inside_is_there_even_when_it_is_empty(message: bytes) -> None:
    assert protobuf.embedded(10, message) == field(10, message)
    assert read(protobuf.embedded(LARGEST, message)) == [(LARGEST, message)]


def nested(depth: int) -> bytes:
    return tag(1, GROUP_START) * depth + tag(1, GROUP_END) * depth


def test_groups_nest_to_a_limit() -> None:
    assert read(nested(32) + field(2, 5)) == [(2, 5)]
    for depth in (33, 1000, 100_000):
        with pytest.raises(SyntaxFault):
            read(nested(depth))


@settings(deadline=None)
@given(members)
def test_what_is_encoded_reads_the_same_but_for_defaults(pairs: list[tuple[int, int | bytes]]) -> None:
    assert read(protobuf.encode(pairs)) == [(number, value) for number, value in pairs if value]


@settings(deadline=None)
@given(members)
def test_encode_writes_what_any_encoder_writes(pairs: list[tuple[int, int | bytes]]) -> None:
    assert protobuf.encode(pairs) == b"".join(field(number, value) for number, value in pairs if value)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_text_is_utf_8(text: str) -> None:
    assert read(protobuf.encode([(3, text)])) == [(3, text.encode())]


def test_values_equal_to_their_default_are_left_out() -> None:
    assert protobuf.encode([(1, 0), (2, ""), (3, b""), (4, False)]) == b""


@settings(deadline=None, max_examples=50)
@given(members, st.lists(unknown, min_size=1, max_size=3), st.data())
def test_fields_of_other_wire_types_are_skipped_wherever_they_are(
    pairs: list[tuple[int, int | bytes]], others: list[bytes], data: st.DataObject
) -> None:
    parts = [field(number, value) for number, value in pairs]
    for other in others:
        parts.insert(data.draw(st.integers(0, len(parts))), other)
    left = [part for part in parts if part not in others]
    assert read(b"".join(parts)) == read(b"".join(left))


@settings(deadline=None)
@given(members.filter(bool))
def test_concatenated_messages_are_one(pairs: list[tuple[int, int | bytes]]) -> None:
    whole = protobuf.encode(pairs)
    assert read(whole + whole) == 2 * read(whole)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=64) | st.lists(unknown | st.binary(max_size=4), max_size=5).map(b"".join))
def test_no_bytes_raise_anything_else(message: bytes) -> None:
    with contextlib.suppress(SyntaxFault):
        for number, value in protobuf.fields(message):
            assert 0 < number <= LARGEST
            assert isinstance(value, bytes) or 0 <= value < 2**64


@settings(deadline=None)
@given(members.filter(bool), st.data())
def test_a_cut_message_is_noticed_or_ends_between_fields(
    pairs: list[tuple[int, int | bytes]], data: st.DataObject
) -> None:
    parts = [field(number, value) for number, value in pairs]
    whole = b"".join(parts)
    end = data.draw(st.integers(0, len(whole) - 1))
    boundaries = {sum(map(len, parts[:n])): n for n in range(len(parts))}
    if end in boundaries:
        assert read(whole[:end]) == pairs[: boundaries[end]]
    else:
        with pytest.raises(SyntaxFault):
            read(whole[:end])


@pytest.mark.parametrize("padding", range(5))
def test_varints_may_be_longer_than_needed(padding: int) -> None:
    message = varint(1 << 3 | VARINT, padding=padding) + varint(5, padding=padding)
    message += varint(2 << 3 | LENGTH, padding=padding) + varint(1, padding=padding) + b"A"
    assert read(message) == [(1, 5), (2, b"A")]


ADVERSARIAL: list[Callable[[int], bytes]] = [
    lambda n: b"\xff" * n,
    lambda n: b"\x0b" * n,
    lambda n: b"\x0b\x0c" * (n // 2),
    lambda n: b"\x0b" * 30 + b"\x13\x14" * (n // 2),
    lambda n: b"\x08\x01" * (n // 2),
    lambda n: b"\x12\x00" * (n // 2),
    lambda n: b"\x12" + varint(n) + b"\0" * n,
    lambda n: b"\x0b\x12" + varint(n) + b"\0" * n + b"\x0c",
]


@pytest.mark.parametrize("make", ADVERSARIAL, ids=lambda make: make(8).hex())
def test_work_is_linear(make: Callable[[int], bytes]) -> None:
    def attempt(size: int) -> None:
        with contextlib.suppress(SyntaxFault):
            read(make(size))

    attempt(1 << 16)
    small, large = calls(lambda: attempt(1 << 10)), calls(lambda: attempt(1 << 13))
    assert large <= 8 * small + 100
