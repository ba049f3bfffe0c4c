import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core.limits import Buckets


def test_a_bucket_empties_and_fills_again() -> None:
    buckets = Buckets(2, 0.5)

    assert [buckets.take("a", 10.0) for _ in range(3)] == [0.0, 0.0, 2.0]
    assert buckets.take("a", 11.0) == 1.0
    assert [buckets.take("a", 12.0) for _ in range(2)] == [0.0, 2.0]
    assert [buckets.take("a", 100.0) for _ in range(3)] == [0.0, 0.0, 2.0]


def test_keys_do_not_share() -> None:
    buckets = Buckets(1, 1)

    assert [buckets.take(key, 0.0) for key in "aabb"] == [0.0, 1.0, 0.0, 1.0]


def test_what_is_given_back_can_be_taken_again() -> None:
    buckets = Buckets(1, 1)
    assert buckets.take("a", 0.0) == 0.0
    buckets.give_back("a", 0.0)
    assert [buckets.take("a", 0.0) for _ in range(2)] == [0.0, 1.0]

    buckets.give_back("b", 0.0)  # which is full
    assert [buckets.take("b", 0.0) for _ in range(2)] == [0.0, 1.0]


def test_the_key_that_was_used_least_recently_is_forgotten() -> None:
    buckets = Buckets(1, 1, keys=2)
    for key in "aba":
        buckets.take(key, 0.0)
    assert buckets.take("a", 0.5) == 0.5
    buckets.take("c", 0.5)

    assert [buckets.take(key, 0.5) for key in "ba"] == [0.0, 0.0]


@pytest.mark.parametrize("settings", [(0.5, 1, 1), (1, 0, 1), (1, -1, 1), (1, 1, 0)])
def test_what_never_holds_a_token_is_no_bucket(settings: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="must hold a token"):
        Buckets(*settings)


@given(
    st.integers(1, 20),
    st.floats(0.01, 100),
    st.lists(st.floats(0, 10), max_size=100),
    st.floats(0, 1e9),
)
def test_no_more_are_taken_than_there_ever_were(capacity: int, rate: float, steps: list[float], start: float) -> None:
    buckets = Buckets(capacity, rate)
    now, taken = start, 0
    for step in steps:
        now += step
        wait = buckets.take("a", now)
        if wait:
            assert 0 < wait <= 1 / rate + 1e-3
        taken += not wait

    assert taken <= capacity + (now - start) * rate * (1 + 1e-6) + 1e-3 * rate


@given(st.integers(1, 20), st.floats(0.01, 100))
def test_who_waits_as_told_is_let_in(capacity: int, rate: float) -> None:
    buckets = Buckets(capacity, rate)
    now = 1000.0
    while not (wait := buckets.take("a", now)):
        pass

    assert buckets.take("a", now + wait) == 0.0
