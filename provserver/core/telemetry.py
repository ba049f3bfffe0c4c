"""What devices send: ThingsBoard's JSON ⇄ samples, with bounds on everything that is kept.

A message is `{"key": value, …}`, `{"ts": ms, "values": {…}}` or an array of those, read as leniently as ThingsBoard
reads it (`lenientjson.py`). Null values say nothing. A text stays a text, also when it looks like a number.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

import msgspec

from provserver.core import lenientjson
from provserver.core.credentials import has_control_characters
from provserver.core.lenientjson import MAX_DEPTH, Number

Value: TypeAlias = bool | int | float | str | list["Value | None"] | dict[str, "Value | None"]

MAX_KEY_LENGTH = 255
"""Characters of a key, as in ThingsBoard's database."""

MAX_VALUE_SIZE = 16_384
"""Bytes of one value in JSON."""

MAX_SAMPLES = 10_000
"""Samples of one message."""

MAX_KEYS = 1_000
"""Telemetry keys, and client attributes, that a device may have."""

MAX_AHEAD: Final = 24 * 60 * 60 * 1000
"""Milliseconds by which a sample may be ahead of the server's clock: one that is further would hide, as the newest,
all that come after it."""

_INT64 = 2**63
_NUMERIC = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]*)?")


class InvalidData(ValueError):  # noqa: N818
    """A message cannot be taken; the text says why, quotes no value, and may be sent back."""


class Sample(NamedTuple):
    """One value of one key. ts: milliseconds since the epoch; None: when the server took it."""

    key: str
    value: Value
    ts: int | None = None


def decode(payload: bytes, now: int) -> list[Sample]:
    """The samples of a telemetry message, in its order. now: ms since the epoch. Raises InvalidData."""
    message = read(payload)
    samples: list[Sample] = []
    for each in message if isinstance(message, list) else [message]:
        if not isinstance(each, dict):
            raise InvalidData("Telemetry must be a JSON object or an array of objects!")
        if "ts" in each and "values" in each:
            ts, values = timestamp(each["ts"], now), each["values"]
            if not isinstance(values, dict):
                raise InvalidData("values must be a JSON object!")
        else:
            ts, values = None, each
        samples.extend(Sample(key, value, ts) for key, value in members(values))
        if len(samples) > MAX_SAMPLES:
            raise InvalidData(f"A message may have {MAX_SAMPLES} samples!")
    return samples


def read(payload: bytes) -> object:
    """A JSON value, strictly or else as ThingsBoard's parser takes it; of a blank payload None. Raises InvalidData."""
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    try:
        return lenientjson.parse(payload.decode())
    except (lenientjson.SyntaxFault, UnicodeDecodeError):
        raise InvalidData("The message is not JSON!") from None


def members(values: Mapping[str, object]) -> Iterable[tuple[str, Value]]:
    """Keys and values, checked, without those that are null. Raises InvalidData."""
    for key, value in values.items():
        if value is not None:
            yield checked_key(key), checked_value(value)


def checked_key(key: str) -> str:
    """The key itself. Raises InvalidData."""
    if not key or len(key) > MAX_KEY_LENGTH or key.isspace() or has_control_characters(key):
        raise InvalidData(f"A key must have 1 to {MAX_KEY_LENGTH} characters, none of them a control character!")
    return key


def checked_value(value: object) -> Value:
    """The value as it is kept: 64-bit integers and finite doubles for numbers, nothing Postgres has no place for.

    Raises InvalidData.
    """
    kept = _kept(value, 0)
    if kept is None:
        raise InvalidData("A value must not be null!")
    if isinstance(kept, str | list | dict) and len(msgspec.json.encode(kept)) > MAX_VALUE_SIZE:
        raise InvalidData(f"A value may have {MAX_VALUE_SIZE} bytes!")
    return kept


def timestamp(value: object, now: int) -> int:
    """Milliseconds since the epoch, from a number or a numeric text. Raises InvalidData."""
    number = whole_number(value)
    if number is None:
        raise InvalidData("ts must be a number of milliseconds since 1970!")
    if number < 0 or number > now + MAX_AHEAD:
        raise InvalidData("ts must be in milliseconds since 1970, and no more than a day ahead!")
    return number


def whole_number(value: object) -> int | None:
    """An integer from a number or a numeric text, as ThingsBoard reads it; None when it is none."""
    if isinstance(value, Number):
        value = float(value) if "e" in value.lower() else str(value)
    if isinstance(value, str):
        return int(value.partition(".")[0]) if _NUMERIC.fullmatch(value) else None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _kept(value: object, depth: int) -> Value | None:
    if depth > MAX_DEPTH:
        raise InvalidData(f"A value may be nested {MAX_DEPTH} levels deep!")
    match value:
        case None | bool():
            return value
        case Number():
            return _number(value)
        case str():
            if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
                raise InvalidData("A text must not have a NUL character, nor half a surrogate pair!")
            return value
        case int():
            return value if -_INT64 <= value < _INT64 else _finite(_double(value))
        case float():
            return _finite(value)
        case list():
            return [_kept(each, depth + 1) for each in value]
        case dict():
            return {str(_kept(str(key), depth)): _kept(each, depth + 1) for key, each in value.items()}
        case _:
            raise InvalidData("A value must be JSON!")


def _number(text: Number) -> int | float:
    if text.lstrip("-").isdigit() and len(text) <= 20 and -_INT64 <= (number := int(text)) < _INT64:
        return number
    return _finite(float(text))


def _double(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise InvalidData("A number is too large!")
    return number
