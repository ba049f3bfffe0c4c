"""The options of CoAP requests and replies (RFC 7252 §5.10): what is asked for, and where (spec thingsboard §3)."""

from collections.abc import Iterable
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import msgspec

from provserver.transports.blockwise import Block
from provserver.transports.coap_message import Code, Options, encode_options, uint


class Option(IntEnum):
    """The numbers of the options that are looked at."""

    URI_HOST = 3
    OBSERVE = 6
    URI_PORT = 7
    OSCORE = 9
    URI_PATH = 11
    CONTENT_FORMAT = 12
    MAX_AGE = 14
    URI_QUERY = 15
    ACCEPT = 17
    BLOCK2 = 23
    BLOCK1 = 27
    SIZE2 = 28
    PROXY_URI = 35
    PROXY_SCHEME = 39
    ECHO = 252
    NO_RESPONSE = 258


class Format(IntEnum):
    """Content-Formats (§12.3)."""

    TEXT = 0
    OCTETSTREAM = 42
    JSON = 50


_FEATURES = frozenset({"provision", "telemetry", "attributes", "claim", "credentials", "rpc"})
_READABLE = frozenset({"attributes", "rpc"})

_URI_PATH, _URI_QUERY = int(Option.URI_PATH), int(Option.URI_QUERY)
_MAX_SEGMENT = 255
_CRITICAL: dict[int, range] = {
    Option.URI_HOST: range(1, 256),
    Option.URI_PORT: range(3),
    Option.ACCEPT: range(3),  # a format that we do not have is answered in JSON
    Option.BLOCK2: range(4),
    Option.BLOCK1: range(4),
    Option.PROXY_URI: range(1, 1035),
    Option.PROXY_SCHEME: range(1, 256),
}
"""The critical options that are understood, besides Uri-Path and Uri-Query, and the lengths they may have. Not If-Match
nor If-None-Match: a condition that is not looked at must not be taken as met (§5.10.8)."""

_NOT_PLAIN = frozenset({Option.OSCORE, Option.BLOCK1, Option.BLOCK2})
_PROXYING = frozenset({Option.PROXY_URI, Option.PROXY_SCHEME})

_NO_4XX = 8
"""No-Response (RFC 7967 §2.1) to the class 4.xx."""


class Target(NamedTuple):
    """Where a request goes. token: None when the path has none; request_id: that of a procedure call."""

    feature: str
    token: str | None = None
    request_id: str | None = None

    def __repr__(self) -> str:  # tokens are secrets
        return f"<Target {self.feature}>"


class Reply(msgspec.Struct, frozen=True):
    """What is answered. max_age: seconds; observe: the number of a notification, None when no more follow.

    echo: what the request is to come again with (RFC 9175).
    """

    code: int
    body: bytes = b""
    format: int | None = None
    max_age: int | None = None
    observe: int | None = None
    block1: Block | None = None
    block2: Block | None = None
    size2: int | None = None
    echo: bytes | None = None

    def __repr__(self) -> str:  # bodies are secrets
        return f"<Reply {self.code >> 5}.{self.code & 31:02}>"

    @property
    def options(self) -> Options:
        """As they are sent."""
        numbers = {
            Option.OBSERVE: self.observe,
            Option.CONTENT_FORMAT: self.format,
            Option.MAX_AGE: self.max_age,
            Option.BLOCK2: self.block2.option if self.block2 is not None else None,
            Option.BLOCK1: self.block1.option if self.block1 is not None else None,
            Option.SIZE2: self.size2,
        }
        options = tuple((int(number), uint(value)) for number, value in numbers.items() if value is not None)
        return options if self.echo is None else (*options, (int(Option.ECHO), self.echo))

    @property
    def encoded_options(self) -> bytes:
        """As bytes."""
        plain = self.observe is None and self.block1 is None and self.block2 is None and self.size2 is None
        if plain and self.echo is None:
            return _encoded(self.format, self.max_age)
        return encode_options(self.options)


@lru_cache(maxsize=64)
def _encoded(format_: int | None, max_age: int | None) -> bytes:
    return encode_options(Reply(Code.EMPTY, format=format_, max_age=max_age).options)


class Request:
    """What is asked for by a method and options: the same for all requests that have the same.

    path, query: the values of Uri-Path and Uri-Query. values: those of other options, the first where one is repeated.
    refusal: why it cannot be taken: it has a critical option that is not known (§5.4.1) or is none of its kind
        (§5.4.3), one that comes again but may not (§5.4.5), or one for a proxy (§5.10.2).
    target: where path and method lead, or the answer to a request that leads nowhere.
    unwanted: the classes of response codes that are not to be sent (RFC 7967 §2.1), 1 << class - 1 of each: to a
        request that needs no confirmation, and to one that does.
    plain: whether one datagram has all of it, and needs no other.
    json_format: what JSON is sent under: text where that was asked for.
    echo: what it was asked to come again with (RFC 9175).
    """

    __slots__ = ("code", "echo", "json_format", "path", "plain", "query", "refusal", "target", "unwanted", "values")

    def __init__(self, code: int, options: Iterable[tuple[int, bytes]]) -> None:
        """options: in the order of their numbers."""
        self.code = code
        path: list[str] = []
        query: list[str] = []
        values: dict[int, bytes] = {}
        bad = ""
        for number, value in options:
            if number == _URI_PATH:
                texts = path
            elif number == _URI_QUERY:
                texts = query
            else:
                if number & 1:
                    bad = bad or _complaint(number, value, again=number in values)
                values.setdefault(number, value)
                continue
            try:
                texts.append(value.decode())
            except UnicodeDecodeError:
                bad = bad or f"Invalid option {number}"
            if len(value) > _MAX_SEGMENT:
                bad = bad or f"Invalid option {number}"
        self.path = tuple(path)
        self.query = tuple(query)
        self.values = values
        self.echo = values.get(Option.ECHO)
        self.target = _target(code, path)
        self.plain = _NOT_PLAIN.isdisjoint(values) and not (code == Code.GET and Option.OBSERVE in values)
        self.refusal: Reply | None = None
        if bad:
            self.refusal = Reply(Code.BAD_OPTION, bad.encode())
        elif not _PROXYING.isdisjoint(values):
            self.refusal = Reply(Code.PROXYING_NOT_SUPPORTED)
        unwanted = self._uint(Option.NO_RESPONSE, 1) or 0
        rejected = self.refusal is not None and self.refusal.code == Code.BAD_OPTION  # (§5.4.1), to say nothing (§4.3)
        self.unwanted = unwanted | _NO_4XX if rejected else unwanted, unwanted
        self.json_format = Format.TEXT if self.format == Format.TEXT else Format.JSON

    def __repr__(self) -> str:
        return f"<Request 0.{self.code:02}>"

    @property
    def format(self) -> int | None:
        """The format that is asked for, else the one it came in."""
        asked = self._uint(Option.ACCEPT, 2)
        return asked if asked is not None else self._uint(Option.CONTENT_FORMAT, 2)

    @property
    def observe(self) -> int | None:
        """0: wants to observe; 1: no more (RFC 7641 §2)."""
        return self._uint(Option.OBSERVE, 3)

    @property
    def block1(self) -> Block | None:
        """Which part of the body it has (RFC 7959 §2.1)."""
        return self._block(Option.BLOCK1)

    @property
    def block2(self) -> Block | None:
        """Which part of the answer it asks for."""
        return self._block(Option.BLOCK2)

    def parameter(self, name: str) -> list[str]:
        """The values of a query parameter."""
        parameters = (each.partition("=") for option in self.query for each in option.split("&"))
        return [value for name_, _, value in parameters if name_ == name]

    def _uint(self, number: int, longest: int) -> int | None:
        value = self.values.get(number)
        return None if value is None or len(value) > longest else int.from_bytes(value)

    def _block(self, number: int) -> Block | None:
        value = self._uint(number, 3)
        return None if value is None else Block.of(value)


@lru_cache(maxsize=128)
def requested(code: int, options: Options) -> Request:
    """What is asked for; devices of a kind ask for the same."""
    return Request(code, options)


def _target(code: int, path: list[str]) -> Target | Reply:
    if len(path) == 1 and "/" in path[0]:  # the whole path in one option
        path = path[0].removeprefix("/").split("/")
    if path[:2] != ["api", "v1"]:
        return Reply(Code.NOT_FOUND)
    if code not in (Code.GET, Code.POST):
        return Reply(Code.METHOD_NOT_ALLOWED)
    match path[2:]:
        case (feature,):
            found = Target(feature.lower())
        case (feature, number, *_) if _is_number(number):
            found = Target(feature.lower(), request_id=number)
        case (token, feature, number, *_) if _is_number(number):
            found = Target(feature.lower(), token, number)
        case (token, feature, *_):
            found = Target(feature.lower(), token)
        case _:
            return Reply(Code.BAD_REQUEST)
    taken = _FEATURES if code == Code.POST else _READABLE
    return found if found.feature in taken else Reply(Code.BAD_REQUEST)


def _complaint(number: int, value: bytes, *, again: bool) -> str:
    lengths = _CRITICAL.get(number)
    if lengths is None:
        return f"Unknown option {number}"
    if again:
        return f"Repeated option {number}"
    return "" if len(value) in lengths else f"Invalid option {number}"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
