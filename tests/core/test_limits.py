import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from provserver.core.limits import Buckets, network, retry_after


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


def test_who_looks_takes_nothing() -> None:
    buckets = Buckets(1, 1)

    assert [buckets.wait("a", 0.0) for _ in range(2)] == [0.0, 0.0]
    buckets.take("a", 0.0)
    assert [buckets.wait("a", now) for now in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]


def test_parts_of_a_token_make_rates_of_their_own() -> None:
    minute = Buckets(1, 1 / 60)

    assert [minute.take("slow", 0.0, 1 / 2) for _ in range(3)] == [0.0, 0.0, pytest.approx(30)]
    assert sum(not minute.take("fast", 0.0, 1 / 600) for _ in range(1_000)) == 600


def test_it_is_known_until_when_any_is_empty() -> None:
    buckets = Buckets(2, 0.5)
    assert buckets.drained[0] == 0.0
    buckets.take("a", 10.0)
    assert buckets.drained[0] <= 10.0
    buckets.take("a", 10.0)
    assert buckets.drained[0] == 12.0
    buckets.take("b", 11.0)
    assert buckets.drained[0] == 12.0


def test_the_key_that_is_next_to_be_full_is_forgotten() -> None:
    buckets = Buckets(3, 1, keys=8)
    for number in range(8):
        for _ in range(1 if number == 5 else 3):
            buckets.take(f"key {number}", 0.0)
    assert buckets.take("one more", 0.0) == 0.0

    assert [round(buckets.wait(f"key {number}", 0.0)) for number in range(8)] == [1, 1, 1, 1, 1, 0, 1, 1]
    assert [buckets.take("key 5", 1.5) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_one_that_is_full_again_makes_room() -> None:
    buckets = Buckets(1, 1, keys=8)
    for number in range(8):
        buckets.take(f"key {number}", float(number) / 10)
    buckets.take("one more", 1.05)

    assert [bool(buckets.wait(f"key {number}", 1.05)) for number in range(8)] == [False] + 7 * [True]


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


class AgainstAModel(RuleBasedStateMachine):
    """Few enough keys to be remembered: each is a count of tokens that grows with time. Ticks, to be exact."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.capacity, self.ticks = 4, 8  # a token each eight ticks
        self.buckets = Buckets(self.capacity, 1 / self.ticks, keys=1_000)
        self.tokens: dict[str, float] = {}

    def left(self, key: str) -> float:
        return self.tokens.get(key, self.capacity)

    @rule(key=st.sampled_from("abc"), part=st.sampled_from([1, 2, 4]))
    def take(self, key: str, part: int) -> None:
        amount, left = 1 / part, self.left(key)
        wait = self.buckets.take(key, self.now, amount)
        if left >= amount:
            assert wait == 0.0
            self.tokens[key] = left - amount
        else:
            assert wait == (amount - left) * self.ticks

    @rule(key=st.sampled_from("abc"))
    def look(self, key: str) -> None:
        assert self.buckets.wait(key, self.now) == max((1 - self.left(key)) * self.ticks, 0)

    @rule(key=st.sampled_from("abc"))
    def give_back(self, key: str) -> None:
        self.buckets.give_back(key, self.now)
        self.tokens[key] = min(self.left(key) + 1, self.capacity)

    @precondition(lambda self: self.tokens)
    @rule(ticks=st.integers(1, 40))
    def wait(self, ticks: int) -> None:
        self.now += ticks
        for key, tokens in self.tokens.items():
            self.tokens[key] = min(tokens + ticks / self.ticks, self.capacity)

    @invariant()
    def an_empty_one_is_known(self) -> None:
        if any(tokens < 1 / 4 for tokens in self.tokens.values()):
            assert self.buckets.drained[0] > self.now


TestAgainstAModel = AgainstAModel.TestCase


def test_processes_share_what_was_made_before_them() -> None:
    buckets = Buckets(100, 1e-6)
    taken = []
    for _ in range(4):
        if (pid := os.fork()) == 0:
            os._exit(sum(not buckets.take(("a", b"b"), time.monotonic()) for _ in range(40)))
        taken.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    assert taken == [40, 40, 20, 0]
    assert buckets.take(("a", b"b"), time.monotonic()) > 0


@pytest.mark.parametrize(
    ("address", "one"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::"),
        ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ("", ""),
        ("/run/socket", "/run/socket"),
    ],
)
def test_what_one_requester_has_counts_as_one(address: str, one: str) -> None:
    assert network(address) == one


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 10), (0.49, 15), (0.99, 20)])
def test_who_is_told_to_come_back_waits_between_once_and_twice_as_long(chance: float, seconds: int) -> None:
    assert retry_after(chance, 10) == seconds
