"""What the options of a CoAP request ask for: what must be refused, and where the path leads (spec thingsboard §3)."""

from collections import Counter
from dataclasses import dataclass, field

from aiocoap import Message
from aiocoap.numbers.codes import Code
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.numbers.types import Type

_FEATURES = frozenset({"provision", "telemetry", "attributes", "claim", "rpc"})
_READABLE = frozenset({"attributes", "rpc"})

_PROXYING = frozenset({OptionNumber.PROXY_URI, OptionNumber.PROXY_SCHEME})
_REPEATABLE = frozenset({OptionNumber.URI_PATH, OptionNumber.URI_QUERY})
_CRITICAL = (
    _PROXYING
    | _REPEATABLE
    | {
        OptionNumber.URI_HOST,
        OptionNumber.URI_PORT,
        OptionNumber.ACCEPT,  # one that cannot be met is answered in JSON
        OptionNumber.BLOCK1,
        OptionNumber.BLOCK2,
    }
)
"""The critical options that are understood. Not If-Match nor If-None-Match: a condition that is not looked at must
not be taken as met (RFC 7252 §5.10.8)."""

_NO_4XX = 8
"""No-Response (RFC 7967 §2.1) to the class 4.xx."""

_OTHER_METHODS = (Code.PUT, Code.DELETE, Code.PATCH, Code.iPATCH, Code.FETCH)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes. token: None when the path has none; request_id: that of a procedure call."""

    feature: str
    token: str | None = field(default=None, repr=False)
    request_id: str | None = None


def unsupported(request: Message) -> Message | None:
    """The answer to a request with a critical option that is not known (RFC 7252 §5.4.1), that comes again but may
    not (§5.4.5), or that is for a proxy (§5.10.2).
    """
    numbers = Counter(option.number for option in request.opt.option_list())
    for number in sorted(numbers):
        if not number.is_critical():
            continue
        if number not in _CRITICAL:
            return _bad_option(request, f"Unknown option {int(number)}")
        if numbers[number] > 1 and number not in _REPEATABLE:
            return _bad_option(request, f"Repeated option {int(number)}")
    return Message(code=Code.PROXYING_NOT_SUPPORTED) if numbers.keys() & _PROXYING else None


def target(request: Message) -> Target | Message:
    """Where path and method lead, or the answer to a request that leads nowhere."""
    path: tuple[str, ...] = request.opt.uri_path
    if len(path) == 1 and "/" in path[0]:  # the whole path in one option
        path = tuple(path[0].removeprefix("/").split("/"))
    if path[:2] != ("api", "v1"):
        return Message(code=Code.NOT_FOUND)
    if request.code in _OTHER_METHODS:
        return Message(code=Code.METHOD_NOT_ALLOWED)
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
            return Message(code=Code.BAD_REQUEST)
    taken = {Code.POST: _FEATURES, Code.GET: _READABLE}.get(request.code, ())
    return found if found.feature in taken else Message(code=Code.BAD_REQUEST)


def query(request: Message, name: str) -> list[str]:
    """The values of a query parameter."""
    parameters = (each.partition("=") for option in request.opt.uri_query for each in option.split("&"))
    return [value for name_, _, value in parameters if name_ == name]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _bad_option(request: Message, diagnostic: str) -> Message:
    response = Message(code=Code.BAD_OPTION, payload=diagnostic.encode())
    if request.mtype is Type.NON:  # is rejected (§5.4.1), which is to say nothing (§4.3)
        response.opt.no_response = _NO_4XX
    return response
