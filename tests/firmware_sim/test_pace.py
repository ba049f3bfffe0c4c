import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.pace import Pace

positive = st.floats(0.01, 1000)


def test_without_a_rate_nothing_is_due_later() -> None:
    assert Pace().due(5) is None


def test_an_even_rate() -> None:
    assert [Pace(4).due(number) for number in range(4)] == [0, 0.25, 0.5, 0.75]


def test_a_ramp_takes_twice_the_time_of_the_rate_it_leads_to() -> None:
    pace = Pace(rate=10, ramp=4)
    assert pace.due(0) == 0
    assert pace.due(20) == 4  # half of what the rate itself would have had begin
    assert pace.due(30) == 5


@given(positive, positive, st.integers(0, 10_000))
def test_never_quicker_than_the_rate_and_never_backwards(rate: float, ramp: float, number: int) -> None:
    pace = Pace(rate, ramp)
    due, after = pace.due(number), pace.due(number + 1)
    assert due is not None
    assert after is not None
    assert after - due >= 1 / rate * (1 - 1e-9) - 1e-9 * after
    assert due <= ramp + number / rate + 1e-6


async def test_each_is_told_when_it_is_due() -> None:
    times = [due async for _, due in Pace(rate=1000).each(5)]
    assert all(due is not None for due in times)
    assert [round((due or 0) - (times[0] or 0), 6) for due in times] == pytest.approx([0, 0.001, 0.002, 0.003, 0.004])
    assert [due async for _, due in Pace().each(3)] == [None] * 3
