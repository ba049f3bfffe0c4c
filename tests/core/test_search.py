from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from provserver.core import ids
from provserver.core.search import FIRST, LAST, Found, Span

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    id: UUID


def id_at(seconds: float) -> UUID:
    return ids.uuid7(NOON.timestamp() + seconds, bytes)


def test_a_span_is_from_a_time_on_and_before_another() -> None:
    assert Span.of(None, None) == Span(FIRST, LAST)
    later = datetime.fromtimestamp(NOON.timestamp() + 10, UTC)
    span = Span.of(NOON, later)
    inside = [second for second in (-0.001, 0, 9.999, 10) if span.start <= id_at(second) < span.end]
    assert inside == [0, 9.999]
    assert Span.of(NOON, later, id_at(5)).end == id_at(5)
    assert Span.of(NOON, later, id_at(20)).end == span.end


def test_a_page_goes_on_after_its_last_row() -> None:
    rows = [Row(id_at(second)) for second in (3, 2, 1)]
    assert Found.of(rows, 2) == Found(rows[:2], rows[1].id, None)
    assert Found.of(rows, 3) == Found(rows, None, None)


def test_a_search_that_stopped_goes_on_where_it_stopped() -> None:
    rows, stop = [Row(id_at(3))], id_at(0)
    assert Found.of(rows, 2, stop) == Found(rows, stop, NOON)
    assert Found.of(rows * 3, 2, stop).searched_to is None


def test_when_an_id_was_made() -> None:
    assert ids.time_of(id_at(0.25)) == NOON.timestamp() + 0.25
