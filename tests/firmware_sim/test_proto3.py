import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.proto3 import Unreadable, data, number, pack, unpack
from provserver.core import protobuf

numbers = st.integers(1, 1 << 20)
values = st.integers(0, 2**64 - 1) | st.binary(max_size=20)


@given(st.lists(st.tuples(numbers, values), max_size=8))
def test_both_sides_read_the_same(members: list[tuple[int, int | bytes]]) -> None:
    message = pack(*members)
    told = [(at, value) for at, value in members if value != 0]
    assert list(protobuf.fields(message)) == told
    assert [(at, value) for at, found in unpack(message).items() for value in found] == sorted(
        told, key=lambda each: [at for at, _ in told].index(each[0])
    )


@given(st.binary(max_size=40))
def test_whatever_comes(message: bytes) -> None:
    with contextlib.suppress(Unreadable):
        fields = unpack(message)
        for at in fields:
            with contextlib.suppress(Unreadable):
                number(fields, at)
            with contextlib.suppress(Unreadable):
                data(fields, at)


def test_below_zero() -> None:
    assert pack((3, -60)).hex() == "18c4ffffffffffffffff01"


def test_a_message_says_something_by_being_there() -> None:
    assert pack((10, b"")) == b"\x52\x00"
    assert unpack(b"\x52\x00") == {10: [b""]}


def test_the_last_one_counts() -> None:
    fields = unpack(pack((1, 5), (1, 7), (2, b"a"), (2, b"b")))
    assert number(fields, 1) == 7
    assert data(fields, 2) == b"b"
    assert number(fields, 9) == 0
    assert data(fields, 9) == b""


def test_fields_of_a_fixed_size_are_there_and_no_more() -> None:
    assert unpack(bytes.fromhex("09 0102030405060708 0d 01020304 1001")) == {
        1: [b"\1\2\3\4\5\6\7\x08", b"\1\2\3\4"],
        2: [1],
    }


@pytest.mark.parametrize(
    "message", ["08", "0880", "12", "1202 41", "00 01", "0b", "0c", "0e00", "09 01", "08" + "ff" * 10 + "01"]
)
def test_what_is_no_message(message: str) -> None:
    with pytest.raises(Unreadable):
        unpack(bytes.fromhex(message))


def test_of_another_kind() -> None:
    with pytest.raises(Unreadable):
        number(unpack(pack((1, b"a"))), 1)
    with pytest.raises(Unreadable):
        data(unpack(pack((1, 1))), 1)
