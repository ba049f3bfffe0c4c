"""What The Things Stack takes: messages read and checked by the extract of its public API (things_stack.json).

A message is a dict with the members' JSON names; bytes that it writes as hexadecimal digits are in capitals.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

Message = dict[str, Any]

_EXTRACT: Mapping[str, Any] = json.loads(Path(__file__).with_name("things_stack.json").read_text())

RIGHTS: Sequence[str] = tuple(_EXTRACT["rights"])
MASKS: Mapping[str, Mapping[str, Sequence[str]]] = _EXTRACT["masks"]
"""Of each component, by "get" and "set": the paths that a field mask may hold."""


class Malformed(Exception):  # noqa: N818
    """JSON that is not of the message."""


class Unknown(Malformed):
    """A member that the message does not have. The Things Stack drops it without a word, we do not."""

    def __init__(self, path: str) -> None:
        super().__init__(f"no member {path!r}: The Things Stack would drop it without a word")


class Violation(Exception):  # noqa: N818
    """A value past its limits."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"invalid {field}: {reason}")
        self.field = field
        self.reason = reason


def read(name: str, document: object, path: str = "") -> Message:
    """The message of that name. Raises Malformed."""
    if not isinstance(document, dict):
        raise Malformed(f"{path or name} is not an object")
    fields = _EXTRACT["messages"][name]
    made = {}
    for key, value in document.items():
        at = f"{path}.{key}" if path else str(key)
        if key not in fields:
            raise Unknown(at)
        if value is not None:
            made[key] = _read(fields[key], value, at)
    return made


def _read(field: Mapping[str, Any], value: Any, path: str) -> Any:
    wrong = Malformed(f"{path} is not of type {field['kind']}")
    match field["kind"]:
        case "message":
            return read(field["of"], value, path)
        case "list" if isinstance(value, list):
            return [_read(field["of"], each, f"{path}[{n}]") for n, each in enumerate(value)]
        case "map" if isinstance(value, dict):
            return {key: _read(field["of"], each, f"{path}.{key}") for key, each in value.items()}
        case "enum" if value in _EXTRACT["enums"][field["of"]]:
            return value
        case "hex" if isinstance(value, str):
            return _digits(value, field["bytes"], wrong)
        case "base64" if isinstance(value, str):
            try:
                base64.b64decode(value, validate=True)
            except ValueError:
                raise wrong from None
            return value
        case "time" if isinstance(value, str):
            try:
                datetime.fromisoformat(value)
            except ValueError:
                raise wrong from None
            return value
        case "integer" if isinstance(value, str | int) and not isinstance(value, bool):
            try:
                return int(value)
            except ValueError:
                raise wrong from None
        case "number" if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        case "string" if isinstance(value, str):
            return value
        case "boolean" if isinstance(value, bool):
            return value
        case "object" if isinstance(value, dict):
            return value
        case _:
            raise wrong


def _digits(text: str, count: int, wrong: Malformed) -> str:
    """Hexadecimal or base64, as it takes both; nothing at all is no value."""
    bare = text.rstrip("=")
    try:
        if len(bare) == 2 * count:
            return bytes.fromhex(bare).hex().upper()
        if bare and len(bare) == -(-count * 8 // 6):
            return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_").hex().upper()
    except ValueError:
        raise wrong from None
    if bare:
        raise wrong
    return ""


def check(name: str, message: Message, path: str = "") -> None:
    """Its limits, and those of the messages in it. Raises Violation."""
    for key, field in _EXTRACT["messages"][name].items():
        at = f"{path}.{key}" if path else key
        value = message.get(key)
        rules = field.get("rules", {})
        if rules.get("message", {}).get("required") and value is None:
            raise Violation(at, "value is required")
        for kind, limits in rules.items():
            if kind != "message":
                _LIMITS[kind](at, value, limits)
        if field["kind"] == "message" and value is not None:
            check(field["of"], value, at)


def _string(path: str, value: Any, limits: Mapping[str, Any]) -> None:
    text = value or ""
    if not text and limits.get("ignore_empty"):
        return
    if len(text) > limits.get("max_len", len(text)):
        raise Violation(path, f"value length must be at most {limits['max_len']} runes")
    if len(text) < limits.get("min_len", 0):
        raise Violation(path, f"value length must be at least {limits['min_len']} runes")
    if "pattern" in limits and not _pattern(limits["pattern"]).search(text):
        raise Violation(path, f"value does not match regex pattern {limits['pattern']!r}")


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text.replace("$", r"\Z"))


def _bytes(path: str, value: Any, limits: Mapping[str, Any]) -> None:
    """Of hexadecimal digits: how many were there was looked at while reading."""
    if "len" in limits and not value and not limits.get("ignore_empty"):
        raise Violation(path, f"value length must be {limits['len']} bytes")


def _map(path: str, value: Any, limits: Mapping[str, Any]) -> None:
    entries = value or {}
    if len(entries) > limits.get("max_pairs", len(entries)):
        raise Violation(path, f"value must contain no more than {limits['max_pairs']} pair(s)")
    for key, each in entries.items():
        _string(f"{path}[{key}]", key, limits.get("keys", {}).get("string", {}))
        if "string" in limits.get("values", {}):
            _string(f"{path}[{key}]", each, limits["values"]["string"])


def _list(path: str, value: Any, limits: Mapping[str, Any]) -> None:
    if len(value or ()) > limits.get("max_items", len(value or ())):
        raise Violation(path, f"value must contain no more than {limits['max_items']} item(s)")


def _enum(_path: str, _value: Any, _limits: Mapping[str, Any]) -> None:
    """A name that there is not was refused while reading."""


def _number(path: str, value: Any, limits: Mapping[str, Any]) -> None:
    if not isinstance(value, int | float):
        return
    if not (limits.get("gte", value) <= value <= limits.get("lte", value)) or value in limits.get("not_in", ()):
        raise Violation(path, "value is out of range")
    if value <= limits.get("gt", value - 1) or value >= limits.get("lt", value + 1):
        raise Violation(path, "value is out of range")


_LIMITS = {
    "string": _string,
    "bytes": _bytes,
    "map": _map,
    "repeated": _list,
    "enum": _enum,
    "timestamp": _enum,
    "duration": _enum,
} | dict.fromkeys(("float", "double", "int32", "int64", "uint32", "uint64"), _number)


def get(message: Mapping[str, Any], path: str) -> Any:
    """What is at a path; None: nothing."""
    found: Any = message
    for part in path.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found


def assign(target: Message, source: Mapping[str, Any], paths: Iterable[str]) -> None:
    """Have the target say at these paths what the source says there, which may be nothing."""
    for path in paths:
        *above, last = path.split(".")
        value = get(source, path)
        at = target
        for part in above:
            at = at.setdefault(part, {})
        if value is None:
            at.pop(last, None)
        else:
            at[last] = value


def within(mask: Iterable[str], path: str) -> bool:
    """Whether a field mask covers a path: by itself, or by one above it."""
    return any(path == each or path.startswith(f"{each}.") for each in mask)
