import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provserver.core import ids

eight_bytes = st.binary(min_size=8, max_size=8)


def in_turn(*chunks: bytes) -> ids.Randomness:
    """A source that gives these, whatever is asked."""
    left: Iterator[bytes] = iter(chunks)
    return lambda _: next(left)


def test_uuid7_as_rfc_9562_appendix_a6_shows_it() -> None:
    rand, now = bytes.fromhex("18c4dc0c0c07398f"), 1645557742 + 0xCC3 / 4_096_000
    assert str(ids.uuid7(now, lambda n: rand[:n])) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@settings(deadline=None)
@given(st.floats(0, 4e9), eight_bytes)
def test_uuid7_has_time_version_variant_and_62_random_bits(time: float, rand: bytes) -> None:
    made = ids.uuid7(time, lambda _: rand)
    assert made.int >> 80 == int(time * 1000)
    assert made.int >> 64 & 0xFFF == int(time * 1000 % 1 * 4096)
    assert (made.version, made.int >> 62 & 0b11) == (7, 0b10)
    free = (1 << 62) - 1
    assert made.int & free == int.from_bytes(rand) & free


@settings(deadline=None)
@given(st.lists(st.floats(0, 4e9), min_size=2, max_size=2, unique=True).map(sorted), eight_bytes, eight_bytes)
def test_uuid7_sorts_by_time(times: list[float], earlier: bytes, later: bytes) -> None:
    first, second = ids.uuid7(times[0], lambda _: earlier), ids.uuid7(times[1], lambda _: later)
    same = int(times[0] * 4_096_000) == int(times[1] * 4_096_000)  # as a clock says it in less than a microsecond
    assert same or (first < second and first.bytes < second.bytes and str(first) < str(second))


def test_uuid7_asks_for_eight_bytes() -> None:
    asked: list[int] = []

    def source(n: int) -> bytes:
        asked.append(n)
        return bytes(n)

    ids.uuid7(0, source)
    assert asked == [8]


def test_randomness_in_stock_is_drawn_at_once_and_given_out_once() -> None:
    asked: list[int] = []

    def source(n: int) -> bytes:
        asked.append(n)
        return bytes(len(asked) + i for i in range(n))

    random = ids.in_stock(source, 5)
    assert [random(n) for n in (2, 3, 4, 2, 7, 0)] == [
        bytes([1, 2]),
        bytes([3, 4, 5]),
        bytes([2, 3, 4, 5]),
        bytes([3, 4]),
        bytes([4, 5, 6, 7, 8, 9, 10]),
        b"",
    ]
    assert asked == [5, 5, 5, 7]


def test_every_byte_value_counts_alike_or_not_at_all() -> None:
    drawn = ids.alphanumeric(248, lambda n: bytes(range(n)))
    assert Counter(drawn) == dict.fromkeys(ids.ALPHANUMERIC, 4)


def test_bytes_that_would_be_unfair_are_drawn_again() -> None:
    unfair = bytes(range(248, 256))
    assert ids.alphanumeric(3, in_turn(unfair, b"\x00" + unfair, b"", b"\x01\xff\x02\x03")) == "ABC"


def test_characters_are_evenly_distributed() -> None:
    drawn = ids.alphanumeric(62 * 2000, random.Random(20260101).randbytes)
    counts = Counter(drawn)
    assert set(counts) == set(ids.ALPHANUMERIC)
    chi_square = sum((counts[c] - 2000) ** 2 / 2000 for c in ids.ALPHANUMERIC)
    assert 61 - 5 * 122**0.5 < chi_square < 61 + 5 * 122**0.5  # 61 degrees of freedom, five deviations


def test_each_place_is_evenly_distributed() -> None:
    source = random.Random(20260102).randbytes
    drawn = [ids.token(source) for _ in range(3100)]
    for place in range(ids.TOKEN_LENGTH):
        counts = Counter(token[place] for token in drawn)
        chi_square = sum((counts[c] - 50) ** 2 / 50 for c in ids.ALPHANUMERIC)
        assert chi_square < 61 + 6 * 122**0.5


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 2**32))
def test_any_length_is_met_exactly(length: int, seed: int) -> None:
    drawn = ids.alphanumeric(length, random.Random(seed).randbytes)
    assert len(drawn) == length
    assert drawn == "" or (drawn.isascii() and drawn.isalnum())


@pytest.mark.parametrize(
    ("make", "length"), [(ids.token, 32), (ids.device_name, 20), (ids.template_id, 13)], ids=lambda v: str(v)[:20]
)
def test_generated_values(make: Callable[[ids.Randomness], str], length: int) -> None:
    source = random.Random(1).randbytes
    first, second = make(source), make(source)
    assert len(first) == len(second) == length
    assert first != second


def test_a_template_id_has_blynks_prefix() -> None:
    assert ids.template_id(bytes) == "TMPLAAAAAAAAA"


@given(st.floats(0, 2**37), st.floats(0, 1000))
def test_ids_of_a_time_and_after_are_above_its_floor(at: float, later: float) -> None:
    assert ids.floor(at) <= ids.uuid7(at, bytes)
    assert ids.floor(at) <= ids.uuid7(at + later, lambda size: b"\xff" * size)
    assert ids.floor(at + 1) > ids.uuid7(at, lambda size: b"\xff" * size)
    assert ids.floor(-1.0).int == 0
