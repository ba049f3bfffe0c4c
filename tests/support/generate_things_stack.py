"""Makes things_stack.json out of The Things Stack's public API: names, types, limits and field masks, no text.

    python -m tests.support.generate_things_stack REPOSITORY    a clone of github.com/TheThingsNetwork/lorawan-stack

Types are from the OpenAPI file, limits from the .proto files that it is made of, masks from the server's list of them.
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_API = "api/ttn/lorawan/v3"
_MASKS = "pkg/ttnpb/field_mask_validation.go"
_CALLS = {
    "is": ("EndDeviceRegistry/Get", "EndDeviceRegistry/Update"),
    "js": ("JsEndDeviceRegistry/Get", "JsEndDeviceRegistry/Set"),
    "ns": ("NsEndDeviceRegistry/Get", "NsEndDeviceRegistry/Set"),
    "as": ("AsEndDeviceRegistry/Get", "AsEndDeviceRegistry/Set"),
}
_STATE = ("mac_state", "pending_mac_state", "session", "pending_session", "queued_application_downlinks")
"""What a device has once it has joined. Nobody sets it in order to have it join."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\w.+-]+|[{}\[\]():,=;<>]')
_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_FIELD = re.compile(r"(?:repeated\s+|optional\s+)?(?:map<[^>]*>|[\w.]+)\s+(\w+)\s*=\s*\d+\s*([\[;])")
_HEX = re.compile(r"types\.Unmarshal(\d+)Bytes")


def extract(repository: Path) -> dict[str, Any]:
    """The extract of the newest commit."""

    def text(path: str) -> str:
        return _git(repository, "show", f"HEAD:{path}")

    names = _git(repository, "ls-tree", "--name-only", "HEAD", f"{_API}/").split()
    options: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        if name.endswith(".proto"):
            options |= _options(_COMMENT.sub(r"\1", text(name)))
    definitions: dict[str, Any] = json.loads(text(f"{_API}/api.swagger.json"))["definitions"]
    messages, enums = _reachable("v3EndDevice", definitions, options)
    masks = text(_MASKS)
    return {
        "source": f"TheThingsNetwork/lorawan-stack {_git(repository, 'rev-parse', 'HEAD').strip()}",
        "rights": [right for right in definitions["v3Right"]["enum"] if right.startswith("RIGHT_APPLICATION_")],
        "enums": enums,
        "messages": messages,
        "masks": {
            component: {"get": _mask(masks, get), "set": _mask(masks, put)} for component, (get, put) in _CALLS.items()
        },
    }


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def _reachable(
    root: str, definitions: Mapping[str, Any], options: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The messages and enums that one is made of, by the names that they have in the .proto files."""
    messages: dict[str, Any] = {}
    enums: dict[str, Any] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        short = _short(name)
        if short in messages or short in enums:
            continue
        definition = definitions[name]
        if "enum" in definition:
            enums[short] = definition["enum"]
            continue
        given = options.get(short, {})
        messages[short] = fields = {}
        for field, schema in definition.get("properties", {}).items():
            if short == "EndDevice" and field in _STATE:
                continue
            fields[field] = _field(schema, definitions, given.get(field, ""))
            waiting += _references(schema)
    return dict(sorted(messages.items())), dict(sorted(enums.items()))


def _short(name: str) -> str:
    return name.removeprefix("lorawan").removeprefix("v3")


def _references(schema: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        yield schema["$ref"].rpartition("/")[2]
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            yield from _references(schema[inner])


def _field(schema: Mapping[str, Any], definitions: Mapping[str, Any], options: str) -> dict[str, Any]:
    kind = _kind(schema, definitions)
    if found := _HEX.search(options):
        kind = {"kind": "hex", "bytes": int(found[1])}
    rules: dict[str, Any] = {}
    for name, value in _parsed(options):
        if name == "validate.rules":
            rules |= value
    return kind | ({"rules": rules} if rules else {})


def _kind(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return {"kind": "enum" if "enum" in definitions[name] else "message", "of": _short(name)}
    match schema.get("type"), schema.get("format"):
        case "array", _:
            return {"kind": "list", "of": _kind(schema["items"], definitions)}
        case "object", _ if isinstance(schema.get("additionalProperties"), dict):
            return {"kind": "map", "of": _kind(schema["additionalProperties"], definitions)}
        case "string", "date-time":
            return {"kind": "time"}
        case "string", "uint64" | "int64":
            return {"kind": "integer"}
        case "string", "byte":
            return {"kind": "base64"}
        case kind, _:
            return {"kind": str(kind)}


def _options(proto: str) -> dict[str, dict[str, str]]:
    """Of each message: what stands in brackets behind its fields."""
    found: dict[str, dict[str, str]] = {}
    for start in re.finditer(r"^message (\w+) \{", proto, re.MULTILINE):
        body = _until(proto, start.end() - 1)
        fields = found.setdefault(start[1], {})
        for field in _FIELD.finditer(body):
            if field[2] == "[":
                fields.setdefault(field[1], _until(body, field.end() - 1))
    return found


def _until(text: str, start: int) -> str:
    """From a bracket to the one that closes it."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        depth += (token[0] in "{[(") - (token[0] in "}])")
        if not depth:
            return text[start : token.end()]
    raise ValueError("a bracket is never closed")


def _parsed(options: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """`[(a.b).c.d = {e: 1}, …]` as ("a.b", {"c": {"d": {"e": 1}}})."""
    tokens = [token[0] for token in _TOKEN.finditer(options)][1:-1]
    while tokens:
        if tokens[0] == ",":
            tokens.pop(0)
        named = tokens[0] == "("
        name = tokens.pop(int(named))
        del tokens[: 2 * named]
        path = tokens.pop(0).strip(".").split(".") if tokens[0] != "=" else []
        assert tokens.pop(0) == "="
        value = _value(tokens)
        for part in reversed(path):
            value = {part: value}
        yield name, value if isinstance(value, dict) else {}


def _value(tokens: list[str]) -> Any:
    first = tokens.pop(0)
    if first == "[":
        values = []
        while tokens[0] != "]":
            values.append(_value(tokens))
            if tokens[0] == ",":
                tokens.pop(0)
        tokens.pop(0)
        return values
    if first == "{":
        members = {}
        while tokens[0] != "}":
            key = tokens.pop(0)
            if tokens[0] == ":":
                tokens.pop(0)
            members[key] = _value(tokens)
            if tokens[0] in ",;":
                tokens.pop(0)
        tokens.pop(0)
        return members
    if first in ("true", "false"):
        return first == "true"
    return ast.literal_eval(first) if first[0] in '"-0123456789' else first


def _mask(source: str, call: str) -> list[str]:
    """The paths that a call allows, in the list or by the name of one."""
    entry = source[source.index(f'"/ttn.lorawan.v3.{call}": {{') :]
    allowed = entry[entry.index("Allowed:") + len("Allowed:") :].lstrip()
    if not allowed.startswith("[]string{"):
        name = re.match(r"\w+", allowed)
        assert name
        allowed = source[source.index(f"var {name[0]} = ") :]
    return sorted(_kept(re.findall(r'"([a-z0-9_.]+)"', allowed[: allowed.index("}")])))


def _kept(paths: Iterable[str]) -> Iterator[str]:
    return (path for path in paths if path.partition(".")[0] not in _STATE)


def written(extracted: Mapping[str, Any]) -> str:
    """The file: a line for each message, enum and mask, so that a new version is a readable difference."""

    def line(value: object) -> str:
        return json.dumps(value, separators=(", ", ": "))

    parts = []
    for key, value in extracted.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"  {line(name)}: {line(entry)}" for name, entry in value.items())
            parts.append(f"{line(key)}: {{\n{inner}\n }}")
        else:
            parts.append(f"{line(key)}: {line(value)}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


if __name__ == "__main__":
    Path(__file__).with_name("things_stack.json").write_text(written(extract(Path(sys.argv[1]))))
