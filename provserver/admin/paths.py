"""Which of many routes or pages a path means: a tree of its segments."""

from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar
from urllib.parse import unquote

from provserver.admin.problem import MethodNotAllowed
from provserver.errors import NotFound


class Placed(Protocol):
    """What has a place: a method of a path with `{parameters}`."""

    @property
    def method(self) -> str:
        """GET, POST …"""

    @property
    def path(self) -> str:
        """From `/` on."""


Place = TypeVar("Place", bound=Placed)


class Paths(Generic[Place]):
    """Finds what is at a path; literal segments go before parameters."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._root: _Branch[Place] = _Branch()
        for each in places:
            self._root.add(each)

    def match(self, method: str, path: str) -> tuple[Place, tuple[str, ...]]:
        """What is at a percent-encoded path, and its parameters, decoded. Raises NotFound, MethodNotAllowed."""
        try:
            segments = [unquote(each, errors="strict") for each in path.split("/")]
        except UnicodeDecodeError:
            raise NotFound("The path is not UTF-8, percent-encoded.") from None
        found = self._root.find(segments)
        if found is None:
            raise NotFound("There is nothing at this path.")
        places, parameters = found
        place = places.get("GET" if method == "HEAD" else method)
        if place is None:
            raise MethodNotAllowed(f"This path takes {', '.join(sorted(places))}.", sorted(places))
        return place, parameters


class _Branch(Generic[Place]):
    """What there is below a part of the path."""

    def __init__(self) -> None:
        self.literal: dict[str, _Branch[Place]] = {}
        self.any: _Branch[Place] | None = None
        self.places: dict[str, Place] = {}

    def add(self, place: Place) -> None:
        branch = self
        for segment in place.path.split("/"):
            if segment.startswith("{"):
                branch.any = branch.any or _Branch()
                branch = branch.any
            else:
                branch = branch.literal.setdefault(segment, _Branch())
        if place.method in branch.places:
            raise ValueError(f"{place.method} {place.path} is there twice")
        branch.places[place.method] = place

    def find(
        self, segments: Sequence[str], taken: tuple[str, ...] = ()
    ) -> tuple[dict[str, Place], tuple[str, ...]] | None:
        """What segments lead to, with the parameters among them."""
        if not segments:
            return (self.places, taken) if self.places else None
        first, *rest = segments
        found = None
        if first in self.literal:
            found = self.literal[first].find(rest, taken)
        if found is None and self.any is not None and first:
            found = self.any.find(rest, (*taken, first))
        return found
