"""The words for numbers and times, and that templates escape whatever they are given."""

import re
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from markupsafe import Markup

from provserver.admin.console import templating


class Still(datetime):
    """A clock that stands."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(2026, 11, 23, 1, 41, 32, tzinfo=tz)


def rendered(directory: Path, text: str, **context: object) -> str:
    (directory / "page.html").write_text(text)
    made = templating.environment(directory, lambda name: f"/assets/{name}")
    return made.get_template("page.html").render(context)


def test_what_is_given_is_escaped(tmp_path: Path) -> None:
    assert rendered(tmp_path, '<p title="{{ it }}">{{ it }}</p>', it="<b>\"'&") == (
        '<p title="&lt;b&gt;&#34;&#39;&amp;">&lt;b&gt;&#34;&#39;&amp;</p>'
    )


def test_what_is_not_given_is_no_empty_text(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError):
        rendered(tmp_path, "{{ forgotten }}")


def test_what_templates_may_call(tmp_path: Path) -> None:
    given_ = {"n": 12_345, "s": 90, "word": "A_B", "at": "2026-11-23T01:41:32Z", "name": "a/b"}
    text = "{{ n|number }} {{ s|duration }} {{ word|words }} {{ at|utc }} {{ name|segment }} {{ asset('x.js') }}"
    assert rendered(tmp_path, text, **given_) == (
        "12,345 1 minute 30 seconds a b 2026-11-23 01:41:32 UTC a%2Fb /assets/x.js"
    )
    assert rendered(tmp_path, "{{ joined('/x', {'a': 1, 'b': ''}) }} {{ now().tzinfo }}") == "/x?a=1 UTC"
    assert re.fullmatch("[A-Za-z0-9_-]{22}", rendered(tmp_path, "{{ once() }}"))


@pytest.mark.parametrize(
    ("path", "query", "joined"),
    [
        ("/devices", {}, "/devices"),
        ("/devices", {"search": "", "cursor": None}, "/devices"),
        ("/devices", {"search": "a b&c", "n": 0}, "/devices?search=a+b%26c&n=0"),
    ],
)
def test_a_path_with_a_query(path: str, query: dict[str, object], joined: str) -> None:
    assert templating.joined(path, query) == joined


def test_forms_are_told_apart() -> None:
    assert len({templating.once() for _ in range(100)}) == 100


@pytest.mark.parametrize("text", ["a/b?c#d %41", "é", "..", ""])
def test_a_segment_holds_no_delimiter(text: str) -> None:
    assert not set(templating.segment(text)) & set("/?# ")


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0, "0"), (999, "999"), (1_234_567, "1,234,567"), (1234.5, "1,234.5")]
)
def test_numbers(value: float | None, shown: str) -> None:
    assert templating.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("CHECK_PRE_PROVISIONED_DEVICES", "check pre provisioned devices"),
        ("twoSidedClaim", "two sided claim"),
        ("static-token", "static token"),
        ("UNCLAIMED", "unclaimed"),
    ],
)
def test_names_as_words(value: str, shown: str) -> None:
    assert templating.words(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "–"),
        (0, "0 ms"),
        (0.0124, "12 ms"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "1 minute"),
        (3_661, "1 hour 1 minute"),
        (86_400, "1 day"),
        (3 * 86_400 + 4 * 3_600 + 5 * 60, "3 days 4 hours"),
        (86_400 + 5, "1 day 5 seconds"),
    ],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert templating.duration(seconds) == shown


@given(st.floats(min_value=1, max_value=10**9))
def test_a_duration_has_two_units_at_most(seconds: float) -> None:
    assert re.fullmatch(r"\d+ [a-z]+( \d+ [a-z]+)?", templating.duration(seconds))


def test_a_time_is_shown_in_utc() -> None:
    moment = datetime(2026, 11, 23, 1, 41, 32, tzinfo=UTC)

    assert templating.utc(moment) == templating.utc(moment.isoformat()) == "2026-11-23 01:41:32 UTC"


@pytest.mark.parametrize(
    ("away", "shown"),
    [
        (timedelta(0), "now"),
        (timedelta(seconds=-30.5), "30 seconds ago"),
        (timedelta(minutes=-1.5), "1 minute ago"),
        (timedelta(hours=-2.5), "2 hours ago"),
        (timedelta(days=-59.5), "59 days ago"),
        (timedelta(minutes=90.5), "in 1 hour"),
        (timedelta(days=3.5), "in 3 days"),
    ],
)
def test_how_far_away_a_time_is(away: timedelta, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templating, "datetime", Still)
    moment = Still.now(UTC) + away

    found = templating.ago(moment)

    assert isinstance(found, Markup)
    assert found == f'<time datetime="{moment.isoformat()}" title="{templating.utc(moment)}">{shown}</time>'


@pytest.mark.parametrize("days", [-61, 61])
def test_far_away_a_time_is_a_date(days: int) -> None:
    moment = datetime.now(UTC) + timedelta(days=days)

    assert f">{moment:%Y-%m-%d}</time>" in templating.ago(moment.isoformat())
