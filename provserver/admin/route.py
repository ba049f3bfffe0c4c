"""A route: what is asked for, who may, and what is answered; its types are those of its handler."""

import inspect
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
from msgspec import Struct

from provserver.admin.fields import Query
from provserver.admin.messages import Request
from provserver.admin.problem import Malformed
from provserver.core.authorization import Permission, Principal
from provserver.errors import NotFound

if TYPE_CHECKING:
    from provserver.admin.services import Services

PREFIX = "/api/admin"
JSON = "application/json"
CSV = "text/csv"

MAX_JSON = 1024 * 1024
MAX_CSV = 128 * 1024 * 1024  # a million devices with tokens are 60
MAX_FILES = 45 * 1024 * 1024
"""Bytes of a body."""

_PARAMETER = re.compile(r"\{([a-z_]+)\}")
_ETAG = re.compile(r'("?)([0-9]{1,18})\1')

Q_co = TypeVar("Q_co", covariant=True)
B_co = TypeVar("B_co", covariant=True)
Value = TypeVar("Value")


class Access(StrEnum):
    """Who may, where no permission is needed."""

    PUBLIC = "public"
    ANYONE = "anyone"  # who is known


@dataclass(frozen=True, slots=True)
class Call(Generic[Q_co, B_co]):
    """A request to a route, read and checked."""

    services: "Services"
    principal: Principal
    parameters: Mapping[str, str | UUID]
    query: Q_co
    body: B_co
    request: Request

    @property
    def id(self) -> UUID:
        """The parameter of the path that is an id."""
        return cast("UUID", self.parameters["id"])

    def text(self, name: str) -> str:
        """Any other parameter of the path."""
        return cast("str", self.parameters[name])

    @property
    def revision(self) -> int | None:
        """The revision that must still be there, by If-Match; None: whatever there is. Raises Malformed."""
        wanted = self.request.headers.get("if-match")
        if wanted is None or wanted.strip() == "*":
            return None
        match = _ETAG.fullmatch(wanted.strip())
        if match is None:
            raise Malformed('If-Match must be one ETag as it was answered, for example "3", or *.')
        return int(match[2])


@dataclass(frozen=True, slots=True)
class Reply(Generic[Value]):
    """An answer with more to it than its value. status: where it is not the route's. revision: for the ETag."""

    value: Value
    status: int | None = None
    revision: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Content:
    """An answer that is not JSON. body: whole, or in parts; file_name: what a browser is to call it."""

    body: bytes | AsyncIterator[bytes]
    content_type: str
    file_name: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call[Any, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Route:
    """A method of a path.

    path: from PREFIX on, with `{parameters}`; one named `id` is a UUID. body: a Struct (JSON), bytes (CSV), or
    None. answer: a type for JSON, `Content`, or None for an empty one. creates: takes an Idempotency-Key.
    also: other answers than the usual, by their status. produces: the media types of a `Content`. revised: has an ETag,
    or takes an If-Match. problems: codes that it may answer beyond those that all may. files: its body has files in
    it. example: a body.
    """

    method: str
    path: str
    handler: Handler
    access: Permission | Access
    summary: str
    description: str
    tag: str
    query: type[Query] | None
    body: type | None
    answer: Any
    status: int
    creates: bool
    revised: bool
    also: Mapping[int, Any]
    produces: Sequence[str]
    problems: Sequence[str]
    files: bool
    example: object
    _parameters: tuple[tuple[str, str], ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the path's parameters."""
        return tuple(_PARAMETER.findall(self.path))

    @property
    def operation(self) -> str:
        """A name of its own: `make_static_tokens`."""
        return self.handler.__name__.strip("_")

    @property
    def takes_revision(self) -> bool:
        """Whether an If-Match means something."""
        return self.revised and self.method != "GET" and not self.creates

    @property
    def codes(self) -> set[str]:
        """The codes of the problems that it may answer (`problem.KINDS`)."""
        codes = {"malformed", "host_not_accepted", "internal", "unavailable", *self.problems}
        if self.access is not Access.PUBLIC:
            codes |= {"unauthenticated", "too_many_requests", "not_found"}  # the organization that is chosen
        if isinstance(self.access, Permission):
            codes.add("forbidden")
        if self.method not in ("GET", "HEAD"):
            codes.add("csrf_token_wrong")
        if self.parameters:
            codes.add("not_found")
        if self.body is not None:
            codes |= {"body_timeout", "too_large", "unsupported_media_type", "invalid"}
        if self.creates and self.access is not Access.PUBLIC:
            codes |= {"idempotency_key_in_use", "idempotency_key_reused"}
        if self.takes_revision:
            codes.add("stale")
        return codes

    @property
    def max_body(self) -> int:
        """Bytes."""
        if self.body is bytes:
            return MAX_CSV
        return MAX_FILES if self.files else MAX_JSON

    def read_query(self, text: str) -> Any:
        """What follows the `?`. Raises Malformed."""
        try:
            pairs = parse_qsl(
                text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=2000
            )
        except ValueError:
            raise Malformed("The query is not name=value&… in UTF-8, percent-encoded.") from None
        kinds = dict(self._parameters)
        values: dict[str, Any] = {}
        for name, value in pairs:
            kind = kinds.get(name)
            if kind is None:
                known = ", ".join(sorted(kinds)) or "none"
                raise Malformed(f"There is no query parameter {name!r} here. There are: {known}.")
            if kind == "list":
                values.setdefault(name, []).append(value)
            elif name in values:
                raise Malformed(f"The query parameter {name!r} is there twice.")
            else:
                values[name] = _scalar(kind, value)
        return None if self.query is None else convert(values, self.query, "query")


def route(
    method: str,
    path: str,
    access: Permission | Access,
    handler: Handler,
    *,
    status: int | None = None,
    creates: bool = False,
    revised: bool = False,
    also: Mapping[int, Any] | None = None,
    produces: Sequence[str] = (),
    problems: Sequence[str] = (),
    files: bool = False,
    example: object = None,
) -> Route:
    """A route, by its handler: `async def name(call: Call[Query, Body]) -> Answer | Reply[Answer] | Content`.

    Its types are the route's, its docstring the summary, and the description where it goes on.
    """
    hints = get_type_hints(handler, include_extras=True)
    query, body = (None if each is type(None) else each for each in get_args(next(iter(hints.values()))))
    answer = hints["return"]
    if get_origin(answer) is Reply:
        (answer,) = get_args(answer)
    if answer is type(None):
        answer = None
    if status is None:
        status = 201 if creates else 204 if answer is None else 200
    tag = path.split("/")[1]
    summary, _, more = inspect.cleandoc(handler.__doc__ or "").partition("\n\n")
    summary, description = summary.strip(". "), " ".join(more.split())
    return Route(
        method, PREFIX + path, handler, access, summary, description, tag, query, body, answer, status, creates,
        revised, also or {}, produces, problems, files, example, _kinds(query),
    )  # fmt: skip


def convert(value: object, wanted: type[Value], where: str) -> Value:
    """Check decoded JSON, or a query. Raises Malformed."""
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError as fault:
        raise malformed(fault, where) from None


def read_json(data: bytes, wanted: type[Value]) -> Value:
    """A JSON body. Raises Malformed."""
    _check_names(data)
    try:
        return msgspec.json.decode(data, type=wanted)
    except msgspec.ValidationError as fault:
        if "got `float`" in str(fault):  # 3.0 is a whole number to JSON
            return convert(_whole(msgspec.json.decode(data)), wanted, "body")
        raise malformed(fault, "body") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Malformed("The body is not JSON in UTF-8.") from None


def _check_names(data: bytes) -> None:
    """Whether no object has a member twice, of which msgspec would take the last. Raises Malformed."""
    with suppress(ValueError):  # what is no JSON is msgspec's to tell
        try:
            json.loads(data, object_pairs_hook=_named_once, parse_int=str, parse_float=str)
        except RecursionError:
            raise Malformed("The body is nested too deep.") from None


def _named_once(members: list[tuple[str, object]]) -> None:
    if len({name for name, _ in members}) == len(members):
        return
    seen: set[str] = set()
    for name, _ in members:
        if name in seen:
            shown = name[:255].encode(errors="replace").decode()
            raise Malformed(
                f"The body has the member {shown!r} twice.",
                [{"in": "body", "field": shown, "reason": "the member is there twice"}],
            )
        seen.add(name)


def _whole(value: Any) -> Any:
    """The same with every number an integer that is one."""
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def malformed(fault: msgspec.ValidationError, where: str) -> Malformed:
    """What msgspec found, in its words, which say what was expected and quote nothing but names."""
    reason, _, path = str(fault).partition(" - at ")
    pointer = path.strip("`$.") or None
    of = f"{pointer} in the {where}" if pointer else f"the {where}"
    return Malformed(f"{of}: {reason}.", [{"in": where, "field": pointer, "reason": reason}])


def read_parameter(name: str, text: str) -> str | UUID:
    """A parameter of a path. Raises NotFound when nothing can be there."""
    if name == "id":
        try:
            return UUID(text)
        except ValueError:
            raise NotFound("There is no such id.") from None
    if not text or len(text) > 255 or not text.isprintable():
        raise NotFound("There is nothing of such a name.")
    return text


def _kinds(query: type[Struct] | None) -> tuple[tuple[str, str], ...]:
    """Query parameters, with what is read from their text: int, bool, list or text."""
    if query is None:
        return ()
    found = []
    for each in msgspec.structs.fields(query):
        kind = "text"
        inner = msgspec.inspect.type_info(each.type)
        parts = inner.types if isinstance(inner, msgspec.inspect.UnionType) else (inner,)
        for part in parts:
            bare = part.type if isinstance(part, msgspec.inspect.Metadata) else part
            choices = bare.values if isinstance(bare, msgspec.inspect.LiteralType) else ()
            if isinstance(bare, msgspec.inspect.IntType) or isinstance(next(iter(choices), None), int):
                kind = "int"
            elif isinstance(bare, msgspec.inspect.BoolType):
                kind = "bool"
            elif isinstance(bare, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
                kind = "list"
        found.append((each.encode_name, kind))
    return tuple(found)


def _scalar(kind: str, text: str) -> object:
    if kind == "int" and re.fullmatch("-?(0|[1-9][0-9]{0,17})", text):
        return int(text)
    if kind == "bool" and text in ("true", "false"):
        return text == "true"
    return text
