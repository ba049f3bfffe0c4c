"""Types of the members that requests and answers are made of, as the API's description shows them."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Generic, Protocol, Self, TypeVar
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from provserver.core.search import Found

PRINTABLE = "^[^\\x00-\\x1f\\x7f]*$"
"""No control characters: they are in no name, and Postgres takes no NUL."""

Item = TypeVar("Item")

Text = Annotated[str, Meta(max_length=255, pattern=PRINTABLE)]
Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=PRINTABLE)]
LongText = Annotated[str, Meta(max_length=65_536, pattern="^[^\\x00]*$")]
Email = Annotated[
    str,
    Meta(
        min_length=3, max_length=254, pattern="^[^@\\s\\x00-\\x1f]+@[^@\\s\\x00-\\x1f]+$", examples=["ada@example.com"]
    ),
]
Password = Annotated[str, Meta(min_length=1, max_length=1024, pattern="^[^\\x00]*$")]
Reference = Annotated[
    str, Meta(min_length=1, max_length=255, pattern=PRINTABLE, description="A name or an id.", examples=["wifi-sensor"])
]
Search = Annotated[
    str, Meta(min_length=1, max_length=255, pattern=PRINTABLE, description="What is in the name, whatever its case.")
]
Limit = Annotated[int, Meta(ge=1, le=500, description="How many at most.")]
Cursor = Annotated[UUID, Meta(description="Where the page before ended: its nextCursor.")]


class Query(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What may follow the `?`."""


class Body(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A JSON body."""


class Answer(Struct, frozen=True, rename="camel"):
    """What is answered, as JSON."""

    @classmethod
    def of(cls, thing: object, **more: object) -> Self:
        """What a service gave, by its attributes; more: members that it has not, or has otherwise."""
        given = {name: getattr(thing, name) for name in cls.__struct_fields__ if name not in more}
        return cls(**given, **more)


class PageQuery(Query, frozen=True):
    """Which page of a list."""

    limit: Limit = 50
    cursor: Cursor | UnsetType = UNSET

    @property
    def after(self) -> UUID | None:
        """Where the page before ended."""
        return self.cursor or None


class Page(Answer, Generic[Item], frozen=True):
    """Some of a list. next_cursor: for the next page; null when there is none."""

    items: Sequence[Item]
    next_cursor: UUID | None = None


class SearchedPage(Page[Item], Generic[Item], frozen=True, kw_only=True):
    """What a search back in time found. searched_to: how far it has looked, where it stopped before the page was full.

    It goes on with nextCursor then.
    """

    searched_to: datetime | None = None


class _HasId(Protocol):
    @property
    def id(self) -> UUID: ...


Thing = TypeVar("Thing", bound=_HasId)


def searched(found: Found[Thing], show: Callable[[Thing], Item]) -> SearchedPage[Item]:
    """A page of what a search found."""
    return SearchedPage([show(each) for each in found.rows], found.cursor, searched_to=found.searched_to)


def paged(found: Sequence[Thing], limit: int, show: Callable[[Thing], Item]) -> Page[Item]:
    """A page of what was found; one more than `limit` was asked for, to know whether there is another page."""
    more = len(found) > limit
    return Page([show(each) for each in found[:limit]], found[limit - 1].id if more else None)
