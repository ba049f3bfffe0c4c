"""Attributes: facts about a device, by scope; ThingsBoard's messages about them."""

import json
import math
from collections.abc import Sequence
from enum import StrEnum

from provserver.core import telemetry
from provserver.core.telemetry import InvalidData, Value

METADATA = "meta."
"""What the keys of server attributes begin with that hold the values of metadata fields."""


class Scope(StrEnum):
    """Whose an attribute is."""

    CLIENT = "CLIENT"  # the device writes it
    SHARED = "SHARED"  # the operator writes it, the device reads it and is told of changes
    SERVER = "SERVER"  # the device never sees it


def decode(payload: bytes) -> dict[str, Value]:
    """The client attributes that a device publishes: a JSON object. Raises InvalidData."""
    message = telemetry.read(payload)
    if not isinstance(message, dict):
        raise InvalidData("Attributes must be a JSON object!")
    found = dict(telemetry.members(message))
    if len(found) > telemetry.MAX_KEYS:
        raise InvalidData(f"A device may have {telemetry.MAX_KEYS} client attributes!")
    return found


def decode_request(payload: bytes) -> tuple[list[str] | None, list[str] | None]:
    """The client and shared keys that a device asks for: `{"clientKeys": "a,b", "sharedKeys": "c"}`.

    None for a member that is absent or blank; a blank payload has neither. Raises InvalidData.
    """
    message = telemetry.read(payload)
    if message is None:
        return None, None
    if not isinstance(message, dict):
        raise InvalidData("The request must be a JSON object!")
    wanted = [message.get("clientKeys"), message.get("sharedKeys")]
    if not all(keys is None or isinstance(keys, str) for keys in wanted):
        raise InvalidData("clientKeys and sharedKeys must be texts of keys with commas between!")
    client, shared = (split_keys(keys) for keys in wanted)
    return client, shared


def split_keys(keys: str | None) -> list[str] | None:
    """Keys from a text with commas between; None, which asks for nothing in particular, from one that names none."""
    return list(dict.fromkeys(key.strip() for key in (keys or "").split(",") if key.strip())) or None


def reply(
    client: dict[str, Value] | None, shared: dict[str, Value] | None, deleted: Sequence[str] = ()
) -> dict[str, object]:
    """ThingsBoard's answer to a request: members only for what there is."""
    members = {"client": client, "shared": shared, "deleted": list(deleted)}
    return {name: value for name, value in members.items() if value}


def from_text(text: str) -> object:
    """A value that a person wrote: JSON that Postgres can store, or else the text."""
    try:
        value: object = json.loads(text, parse_constant=str, parse_float=_finite)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair has no UTF-8
    except (ValueError, RecursionError):
        return text
    return value


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError
    return value
