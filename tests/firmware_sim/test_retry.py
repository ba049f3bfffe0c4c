import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.errors import NoAnswer, Pending, Refused
from firmware_sim.retry import Retry


class Waits:
    """Sleeps in no time, and hears of every wait."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.announced: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def waiting(self, failure: NoAnswer, delay: float) -> None:
        assert str(failure)
        self.announced.append(delay)


class Answers:
    """Gives the answers of a script, one for each attempt."""

    def __init__(self, *script: str | Exception) -> None:
        self._script = script
        self.attempts = 0

    async def ask(self, attempt: int) -> str:
        self.attempts += 1
        assert attempt == self.attempts
        answer = self._script[attempt - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def waits() -> Waits:
    return Waits()


async def test_asks_once_if_answered(waits: Waits) -> None:
    assert await Retry(sleep=waits.sleep).run(Answers("yes").ask, waits.waiting) == "yes"
    assert waits.slept == []


async def test_backs_off_exponentially_up_to_the_cap(waits: Waits) -> None:
    retry = Retry(attempts=6, base=1, cap=5, sleep=waits.sleep, uniform=lambda _, high: high)
    silence = [NoAnswer("silence")] * 5
    assert await retry.run(Answers(*silence, "yes").ask, waits.waiting) == "yes"
    assert waits.slept == waits.announced == [1, 2, 4, 5, 5]


async def test_gives_up_after_the_last_attempt(waits: Waits) -> None:
    answers = Answers(NoAnswer("first"), NoAnswer("second"), NoAnswer("third"))
    with pytest.raises(NoAnswer, match="third"):
        await Retry(attempts=3, sleep=waits.sleep).run(answers.ask, waits.waiting)
    assert answers.attempts == 3
    assert len(waits.slept) == 2


async def test_a_verdict_is_final(waits: Waits) -> None:
    answers = Answers(Refused("NOT_FOUND"))
    with pytest.raises(Refused):
        await Retry(sleep=waits.sleep).run(answers.ask, waits.waiting)
    assert answers.attempts == 1


async def test_waits_as_long_as_the_server_asked(waits: Waits) -> None:
    retry = Retry(base=1, sleep=waits.sleep, uniform=lambda _, high: high / 2)
    await retry.run(Answers(NoAnswer("busy", 7), "yes").ask, waits.waiting)
    assert waits.slept == [7.5]


async def test_a_server_that_asks_for_too_long_is_given_up(waits: Waits) -> None:
    answers = Answers(NoAnswer("busy", 86_400))
    with pytest.raises(NoAnswer):
        await Retry(patience=60, sleep=waits.sleep).run(answers.ask, waits.waiting)
    assert waits.slept == []


@given(st.integers(1, 2000), st.none() | st.floats(0, 1000))
def test_delay_is_bounded_from_both_sides(failures: int, retry_after: float | None) -> None:
    asked = retry_after or 0.0
    assert asked <= Retry(cap=20).delay(failures, retry_after) <= asked + 20


async def test_waits_for_an_operator_for_longer_than_for_an_answer(waits: Waits) -> None:
    answers = Answers(*[Pending("pending", 5.0)] * 9, NoAnswer("silence"), "yes")

    assert await Retry(attempts=2, sleep=waits.sleep).run(answers.ask, waits.waiting) == "yes"
    assert len(waits.slept) == 10
    assert all(seconds >= 5.0 for seconds in waits.slept[:9])


async def test_does_not_wait_for_an_operator_for_ever(waits: Waits) -> None:
    answers = Answers(*[Pending("pending", 5.0)] * 4)

    with pytest.raises(Pending):
        await Retry(attempts=2, pending=3, sleep=waits.sleep).run(answers.ask, waits.waiting)
    assert answers.attempts == 4
