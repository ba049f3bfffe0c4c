"""The arithmetic of `make bench`: medians, paired ratios, marks."""

from functools import partial

import pytest

from benchmarks import results
from benchmarks.marks import CONDITIONS, MARKS
from benchmarks.results import Mark, Result, Series


def test_a_ratio_is_the_median_of_those_within_rounds_not_that_of_medians() -> None:
    ours, theirs = Series((10.0, 40.0, 21.0)), Series((10.0, 20.0, 30.0))
    assert ours.over(theirs).figures == (1.0, 2.0, 0.7)
    line = results.result("a", "A", ours, "x/s", reference=theirs, reference_name="theirs")
    assert (line.value, line.reference, line.ratio, line.spread) == (21.0, 20.0, 1.0, (0.7, 2.0))


def test_without_a_reference_the_spread_is_of_the_values() -> None:
    line = results.result("a", "A", Series((3.0, 1.0, 2.0, 10.0)), "ms")
    assert (line.value, line.spread, line.ratio, line.reference) == (2.5, (1.0, 10.0), None, None)


def test_rounds_that_do_not_pair_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        Series((1.0, 2.0)).over(Series((1.0,)))


@pytest.mark.parametrize(
    ("mark", "line", "reached"),
    [
        (Mark("a", "", 1.2), Result("a", "", 5.0, ratio=1.2), True),
        (Mark("a", "", 1.2), Result("a", "", 5.0, ratio=1.199), False),
        (Mark("a", "", 10, at_least=False, of="value"), Result("a", "", 10.0), True),
        (Mark("a", "", 10, at_least=False, of="value"), Result("a", "", 10.01, ratio=0.1), False),
        (Mark("a", "", 0, at_least=False, of="value"), Result("a", "", 0.0), True),
        (Mark("a", "", 20_000, of="value"), Result("a", "", 19_999.0), False),
        (Mark("a", "", 1.2), Result("a", ""), None),
        (Mark("a", "", 1.2), Result("a", "", 5.0), None),
    ],
)
def test_a_mark_judges_what_it_is_of(mark: Mark, line: Result, reached: bool | None) -> None:
    judged = line.judged(mark)
    assert (judged.mark, judged.reached) == (mark.bound, reached)


def test_every_mark_has_its_line_in_its_order_and_nothing_is_lost() -> None:
    marks = (Mark("first", "First", 1), Mark("second", "Second", 2))
    lines = results.judge([Result("other", "Other", 1.0), Result("second", "", ratio=3.0)], marks)
    assert [(line.name, line.reached) for line in lines] == [("first", None), ("second", True), ("other", None)]
    assert lines[0].note == results.NOT_MEASURED


def test_every_contender_plays_every_round_and_none_always_begins() -> None:
    played: list[str] = []

    def player(name: str) -> int:
        played.append(name)
        return len(played)

    measured = results.in_turns({name: partial(player, name) for name in "abc"}, 3)
    assert "".join(played) == "abcbcacab"
    assert measured == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_more_contenders_than_rounds_and_fewer() -> None:
    played: list[str] = []
    results.in_turns({name: partial(played.append, name) for name in "abcd"}, 2)
    assert "".join(played) == "abcdcdab"
    assert results.in_turns({"a": lambda: 1}, 3) == {"a": [1, 1, 1]}


def test_growth_by_time() -> None:
    assert results.slope([0.0, 1.0, 2.0], [5.0, 7.0, 9.0]) == pytest.approx(2.0)


def test_a_line_has_every_member() -> None:
    (row,) = results.as_json([Result("a", "A", 1.0, "x/s", spread=(0.5, 2.0))])
    assert {"name", "value", "unit", "reference", "ratio", "mark", "reached", "spread"} <= row.keys()


def test_marks_are_the_issues() -> None:
    names = [mark.name for mark in (*MARKS, *CONDITIONS)]
    assert len(names) == len(set(names))
    assert [mark.text for mark in MARKS if mark.name in {"http", "coap_aiocoap", "csv_import", "p99_mqtt"}] == [
        "≥ 1.2",
        "≥ 6",
        "≤ 10",
        "≥ 20,000",
    ]
