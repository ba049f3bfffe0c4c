"""Refusals as problem details (RFC 9457): one table, by the code that programs read."""

import math
from http import HTTPStatus
from typing import NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType

from provserver.admin.messages import Response
from provserver.errors import ProvserverError, Refused, TooManyRequests, Unavailable
from provserver.services.limits import retry_after

CONTENT_TYPE = "application/problem+json"

DOCS = "/api/admin/docs"


class Malformed(Refused):
    """The request is not as the API's description has it. errors: where and why."""

    code = "malformed"

    def __init__(self, message: str, errors: list[dict[str, object]] | None = None) -> None:
        super().__init__(message)
        self.errors = errors or []


class MethodNotAllowed(Refused):
    """There is something, but it does not take this method. allowed: those that it takes."""

    code = "method_not_allowed"

    def __init__(self, message: str, allowed: list[str]) -> None:
        super().__init__(message)
        self.allowed = allowed


class CsrfTokenWrong(Refused):
    """A browser's session does not suffice to change something."""

    code = "csrf_token_wrong"


class BodyTimeout(Refused):
    """The body did not come in time."""

    code = "body_timeout"


class TooLarge(Refused):
    """The body is larger than we take."""

    code = "too_large"


class UnsupportedMediaType(Refused):
    """The body is of a type that is not taken here."""

    code = "unsupported_media_type"


class HostNotAccepted(Refused):
    """The request is for a name that is not ours: a page that had its name resolve to us may have sent it."""

    code = "host_not_accepted"


class Kind(NamedTuple):
    """A kind of problem. meaning: for the documentation."""

    status: int
    title: str
    meaning: str


KINDS: dict[str, Kind] = {
    "malformed": Kind(400, "Malformed request", "The request is not as this document describes it; errors says where."),
    "unauthenticated": Kind(401, "Not authenticated", "The credentials are missing, wrong or expired."),
    "forbidden": Kind(403, "Not permitted", "The caller's role or API key lacks the permission."),
    "csrf_token_wrong": Kind(
        403,
        "CSRF token missing or wrong",
        "A session cookie needs the header X-CSRF-Token with it to change something.",
    ),
    "not_found": Kind(404, "Not found", "It does not exist, or not where the caller may look."),
    "method_not_allowed": Kind(405, "Method not allowed", "The header Allow names the methods that are."),
    "body_timeout": Kind(408, "Body too slow", "The body did not arrive in time."),
    "conflict": Kind(409, "Conflict", "It cannot be done as things are: a name is taken, a quota is used up."),
    "idempotency_key_in_use": Kind(
        409, "Idempotency key in use", "A request with this key is under way, or was interrupted; look what there is."
    ),
    "stale": Kind(412, "Changed meanwhile", "It is not any more of the revision that If-Match names."),
    "too_large": Kind(413, "Too large", "The body is larger than the server takes."),
    "unsupported_media_type": Kind(415, "Unsupported media type", "The body has the wrong Content-Type."),
    "host_not_accepted": Kind(421, "Host not accepted", "The header Host names none of the server's names."),
    "invalid": Kind(422, "Invalid", "The request is well-formed, but a value cannot be taken; errors may say where."),
    "refused": Kind(422, "Refused", "It cannot be done; detail says why."),
    "idempotency_key_reused": Kind(422, "Idempotency key reused", "Another request was made with this key before."),
    "too_many_requests": Kind(429, "Too many requests", "Wait as many seconds as Retry-After says."),
    "internal": Kind(500, "Internal error", "A fault of the server; its log has more."),
    "misconfigured": Kind(500, "Misconfigured", "The server's configuration must be mended; detail says how."),
    "unavailable": Kind(
        503, "Unavailable", "The database is away; try again after as many seconds as Retry-After says."
    ),
}
"""Every code there is."""


class Problem(Struct, frozen=True, rename="camel"):
    """What was wrong. code: a stable word for programs; detail: for people, with the fix."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, str | int | None]] | UnsetType = UNSET


def code_of(fault: ProvserverError) -> str:
    """The code of KINDS that a fault has."""
    if isinstance(fault, Unavailable):
        return "unavailable"
    return fault.code if isinstance(fault, Refused) else "misconfigured"


def of(fault: ProvserverError) -> Response:
    """What to answer for a fault."""
    code = code_of(fault)
    headers = {}
    if isinstance(fault, Unavailable):
        headers["Retry-After"] = str(retry_after())
    elif isinstance(fault, TooManyRequests):
        headers["Retry-After"] = str(max(1, math.ceil(fault.retry_after)))
    elif isinstance(fault, MethodNotAllowed):
        headers["Allow"] = ", ".join(fault.allowed)
    errors = [
        {name: value if isinstance(value, str | int | None) else str(value) for name, value in each.items()}
        for each in getattr(fault, "errors", ())
    ]
    return answer(code, str(fault), errors, headers)


def answer(
    code: str,
    detail: str,
    errors: list[dict[str, str | int | None]] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """What to answer for a code of KINDS."""
    kind = KINDS.get(code, KINDS["refused"])
    found = Problem(f"{DOCS}#{code}", kind.title, kind.status, detail or kind.meaning, code, errors or UNSET)
    if kind.status == HTTPStatus.UNAUTHORIZED:
        headers = {"WWW-Authenticate": "Bearer"} | (headers or {})
    return Response(kind.status, {"Content-Type": CONTENT_TYPE} | (headers or {}), msgspec.json.encode(found))
