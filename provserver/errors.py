"""What can become of a request, and how each protocol says so: one table, total over `Outcome`.

The device reads `Outcome` (through its protocol's code and the reply's `status` and `errorMsg`).
`Refused`, `Unavailable` and `Misconfigured` are for people: their message names the fix.
"""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class ProvserverError(Exception):
    """Root of every error a person may read. The message says what is wrong and how to mend it."""


class Misconfigured(ProvserverError):  # noqa: N818 - reads as what it says
    """An option, a file or the machine is not as it must be; nothing was changed."""


def described(fault: BaseException) -> str:
    """What a fault of ours is and where it arose, for the log: not its message, as Postgres' and others' quote data."""
    frames = traceback.extract_tb(fault.__traceback__)
    ours = [frame for frame in frames if "/provserver/" in frame.filename] or frames
    kind = type(fault).__qualname__
    return f"{kind} at {ours[-1].filename}:{ours[-1].lineno}" if ours else kind


class Refused(ProvserverError):  # noqa: N818
    """What an operator asked for cannot be done; nothing was changed. code: a stable word for programs."""

    code = "refused"


class NotFound(Refused):
    """It is not there, or not where the caller may look: the two are not told apart."""

    code = "not_found"


class Invalid(Refused):
    """The request itself is wrong, whatever there is. errors: where and why, when there are several."""

    code = "invalid"

    def __init__(self, message: str, errors: Sequence[Mapping[str, object]] = ()) -> None:
        super().__init__(message)
        self.errors = errors


class Unauthenticated(Refused):
    """Nobody knows who asks."""

    code = "unauthenticated"


class Forbidden(Refused):
    """The caller may not do this."""

    code = "forbidden"


class Conflict(Refused):
    """It cannot be done as things are: a name is taken, a token is claimed, a quota is used up."""

    code = "conflict"


class Stale(Conflict):
    """It has changed since the caller looked: looking again comes first."""

    code = "stale"


class TooManyRequests(Refused):
    """Asked too often. retry_after: seconds to wait."""

    code = "too_many_requests"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(ProvserverError):  # noqa: N818
    """Postgres or the queue before it cannot serve now; asking again later is right."""


class Outcome(Enum):
    """What becomes of one provision request, on every transport alike."""

    SUCCESS = "success"
    NOT_FOUND = "not_found"  # unknown key, wrong secret or disabled: told apart only for the operator
    FAILURE = "failure"
    INVALID = "invalid"  # decoded, but a member is missing or has the wrong type
    UNDECODABLE = "undecodable"  # neither JSON nor (where accepted) protobuf
    TOO_LARGE = "too_large"
    UNAVAILABLE = "unavailable"
    LIMITED = "limited"  # asked too often
    PENDING = "pending"  # right, and waits for an operator


@dataclass(frozen=True, slots=True)
class Rendering:
    """How the protocols say one outcome.

    status: the reply's `status` member (ThingsBoard's ResponseStatus), None when there is no such reply.
    error: the reply's `errorMsg`; an INVALID request gets a message that names its member instead.
    http: status code. coap: response code as RFC 7252 §12.1.2 writes it, class * 32 + detail.
    mqtt: MQTT 5 reason code of the PUBACK (§3.4.2.1); a reply is published wherever there is one.
    stage: the reply's `provisionDeviceStatus` where it says more than `status` may.
    retried: the device is told when to ask again.
    """

    status: str | None
    error: str | None
    http: int
    coap: int
    mqtt: int
    stage: str | None = None
    retried: bool = False


def _coap(code_class: int, detail: int) -> int:
    return code_class * 32 + detail


RENDERINGS: dict[Outcome, Rendering] = {
    Outcome.SUCCESS: Rendering("SUCCESS", None, 200, _coap(2, 1), 0x00),
    Outcome.NOT_FOUND: Rendering("NOT_FOUND", "Provision data was not found!", 200, _coap(4, 0), 0x00),
    Outcome.FAILURE: Rendering("FAILURE", "Failed to provision device!", 200, _coap(4, 0), 0x00),
    Outcome.INVALID: Rendering("FAILURE", "The request is not valid!", 400, _coap(4, 0), 0x00),
    Outcome.UNDECODABLE: Rendering(
        None,
        "The body is not a JSON object with provisionDeviceKey and provisionDeviceSecret!",
        400,
        _coap(4, 0),
        0x99,
    ),
    Outcome.TOO_LARGE: Rendering(None, "The request is too large!", 413, _coap(4, 13), 0x95),
    Outcome.UNAVAILABLE: Rendering(
        "FAILURE",
        "Temporarily unavailable, try again later!",
        503,
        _coap(5, 3),
        0x00,
        retried=True,
    ),
    Outcome.LIMITED: Rendering("FAILURE", "Too many requests, try again later!", 429, _coap(4, 29), 0x97, retried=True),
    Outcome.PENDING: Rendering(
        "FAILURE",
        "Waiting for an operator's approval, try again later!",
        200,
        _coap(4, 0),
        0x00,
        stage="PENDING",
        retried=True,
    ),
}

RETRY_AFTER_SECONDS = 5
"""What who is told to come back waits at least (`limits.retry_after` draws): HTTP Retry-After (RFC 9110 §10.2.3), CoAP
Max-Age (RFC 7252 §5.9.3.4).
"""
