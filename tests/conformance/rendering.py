"""How each transport says what became of a request: the table that every case is held against."""

from tests.conformance.model import Expected, Granted, Refused, Transport, Undecodable

REPLY = "reply"
CLOSED = "closed"

_GRANTED = ("200", REPLY, REPLY, "2.01")
_REFUSED = ("200", REPLY, REPLY, "4.00")
_INVALID = ("400", REPLY, REPLY, "4.00")
_UNDECODABLE = ("400", CLOSED, "PUBACK 0x99", "4.00")
_TOO_LARGE = ("413", CLOSED, "DISCONNECT 0x95", "4.13")


def code(expected: Expected, transport: Transport) -> str:
    """The HTTP status, the CoAP code, or for MQTT at QoS 1: a reply, or what comes instead."""
    match expected:
        case Granted():
            codes = _GRANTED
        case Refused(invalid=invalid):
            codes = _INVALID if invalid else _REFUSED
        case Undecodable():
            codes = _UNDECODABLE
        case _:
            codes = _TOO_LARGE
    return codes[list(Transport).index(transport)]


def short(expected: Expected, transport: Transport) -> str:
    """The same for people: code and status."""
    match expected:
        case Granted():
            status = "SUCCESS"
        case Refused():
            status = expected.stage or expected.status
        case _:
            status = ""
    shown = code(expected, transport).replace(REPLY, "")
    return " ".join(part for part in (shown, status) if part)
