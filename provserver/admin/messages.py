"""A request to the admin API and its answer, without sockets."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from provserver.core.authorization import Principal

Reader = Callable[[int], Awaitable[bytes]]
"""Reads a body of at most so many bytes. Raises a `Refused` when it is larger or does not come."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked.

    path: as a URL has it, percent-encoded, from `/api/admin/` on. query: what follows the `?`, encoded as well.
    headers: by their names in lower case. body: or who reads it, once it is known that it is wanted.
    secure: whether it came by TLS. principal: who asks, when no credentials need say so.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | Reader = field(default=b"", repr=False)
    address: str = ""
    secure: bool = False
    principal: Principal | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered. headers: by their names, Content-Type among them. body: or its parts, one after the other."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterator[bytes] = field(default=b"", repr=False)
