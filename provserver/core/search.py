"""Searches back in time, through rows whose ids are time-ordered: what one of them found, and how far it looked.

A filter that hardly anything passes would have a search look at everything there is. So each looks at `LOOKED` rows at
most, says how far it came, and is gone on with from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from provserver.core import ids

LOOKED = 100_000
"""Rows that one search looks at."""

FIRST, LAST = UUID(int=0), UUID(int=2**128 - 1)
"""Below and above all ids that are made."""


class _HasId(Protocol):
    @property
    def id(self) -> UUID: ...


Row = TypeVar("Row", bound=_HasId)


@dataclass(frozen=True, slots=True)
class Span:
    """Ids that a search is among: of all from `start` on, those below `end`."""

    start: UUID = FIRST
    end: UUID = LAST

    @classmethod
    def of(cls, since: datetime | None, until: datetime | None, cursor: UUID | None = None) -> "Span":
        """What was made from a time on and before another, and before the row that a page ended with."""
        start = FIRST if since is None else ids.floor(since.timestamp())
        end = LAST if until is None else ids.floor(until.timestamp())
        return cls(start, end if cursor is None else min(end, cursor))


@dataclass(frozen=True, slots=True)
class Found(Generic[Row]):
    """Rows, newest first. cursor: to go on from, None at the end. searched_to: None unless the search stopped early."""

    rows: Sequence[Row]
    cursor: UUID | None = None
    searched_to: datetime | None = None

    @classmethod
    def of(cls, rows: Sequence[Row], limit: int, stop: UUID | None = None) -> "Found[Row]":
        """A page of rows, one more than `limit` having been asked for. stop: the last id looked at."""
        if len(rows) > limit:
            return cls(rows[:limit], rows[limit - 1].id)
        if stop is None:
            return cls(rows)
        return cls(rows, stop, datetime.fromtimestamp(ids.time_of(stop), UTC))
