"""A device's word that it may be claimed, and an operator's (spec thingsboard §7.4)."""

from dataclasses import dataclass, field

import msgspec

from provserver.core import telemetry
from provserver.core.telemetry import InvalidData

DEFAULT_DURATION = 24 * 60 * 60 * 1000
MAX_DURATION = 365 * DEFAULT_DURATION
"""Milliseconds; who asks for more gets this."""

MAX_SECRET_LENGTH = 512

CLAIMING_DATA = "claimingData"
"""The server attribute by which an operator lets a device be claimed, instead of the device's own word."""


@dataclass(frozen=True, slots=True)
class ClaimMessage:
    """What whoever claims the device must present, and for how many milliseconds."""

    secret: str = field(default="", repr=False)
    duration: int = DEFAULT_DURATION


def decode(payload: bytes) -> ClaimMessage:
    """`{"secretKey": "…", "durationMs": 60000}`, each member optional, as is the whole. Raises InvalidData."""
    message = telemetry.read(payload) if payload else None
    if message is None:
        return ClaimMessage()
    if not isinstance(message, dict):
        raise InvalidData("A claim must be a JSON object!")
    return ClaimMessage(_secret(message.get("secretKey")), _duration(message.get("durationMs")))


def _secret(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        value = msgspec.json.encode(value).decode()
    if not isinstance(value, str):
        raise InvalidData("secretKey must be a text!")
    if len(value) > MAX_SECRET_LENGTH or any("\ud800" <= c <= "\udfff" for c in value):
        raise InvalidData(f"secretKey may have {MAX_SECRET_LENGTH} characters of Unicode!")
    return str(value)


def _duration(value: object) -> int:
    if value is None or value == "":
        return DEFAULT_DURATION
    number = telemetry.whole_number(value)
    if number is None:
        raise InvalidData("durationMs must be a number of milliseconds!")
    return min(number, MAX_DURATION) if number > 0 else DEFAULT_DURATION


@dataclass(frozen=True, slots=True)
class ClaimingData:
    """What that attribute says. expires_at: milliseconds since the epoch."""

    secret: str = field(repr=False)
    expires_at: int


def read_claiming_data(value: object) -> ClaimingData | None:
    """`{"secretKey": "…", "expirationTime": ms}`, as such or as a text of it; None when it is something else."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None
    if not isinstance(value, dict):
        return None
    expires_at = telemetry.whole_number(value.get("expirationTime"))
    try:
        return None if expires_at is None else ClaimingData(_secret(value.get("secretKey")), expires_at)
    except InvalidData:
        return None
