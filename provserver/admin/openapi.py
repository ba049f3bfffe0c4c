"""The API's description (OpenAPI 3.1), made from the table of routes that serves it."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from provserver.admin import problem
from provserver.admin.api import (
    COOKIE,
    CSRF_HEADER,
    IDEMPOTENCY_HEADER,
    IDEMPOTENCY_KEY,
    ORGANIZATION,
    ORGANIZATION_HEADER,
    SAFE,
)
from provserver.admin.problem import KINDS, Problem
from provserver.admin.route import CSV, JSON, Access, Content, Route

_REF = "#/components/schemas/{name}"

_INTRODUCTION = """\
Everything that the command line does, as JSON over HTTP.

Sign in as a program with an API key (`Authorization: Bearer psk_…`), or as a person with `POST /api/admin/session`,
which sets a cookie; what changes something then needs the header X-CSRF-Token, too. You see what belongs to your
organization and to those below it; all else is not found. The header X-Organization, with the number or the id of one
of them, has a request reach that one and those below it, and no more. Lists come in pages: repeat the request with
`cursor` set to the `nextCursor` that was answered, until it is null. Single things have an ETag; with it in If-Match, a
change is refused (412) when somebody else was faster. Requests that create something take an Idempotency-Key of your
choice: repeated within a day, they give the first answer again. Refusals are problem details (RFC 9457) with a stable
`code`."""

_TAGS = {
    "session": "Sign in and out.",
    "setup": "The first user.",
    "invitations": "Links by which people come to have a password.",
    "email": "Your own, with which you sign in.",
    "sign-up": "For whoever likes, where an organization allows it.",
    "password": "Your own.",
    "organizations": "The tree: the manufacturer above its customers.",
    "users": "People. The roles: admin, staff, user.",
    "keys": "API keys: what programs sign in with.",
    "profiles": "Device profiles and their provision keys.",
    "approvals": "Devices that wait for an operator.",
    "inbox": "All that waits for an operator.",
    "request-keys": "Keys that devices seal their requests to.",
    "webhooks": "Who is told of events, and what came of it.",
    "particle": "Products of Particle whose devices get static tokens through a ledger.",
    "integrations": "Applications of LoRaWAN networks that devices are onboarded into.",
    "devices": "Devices, made beforehand, provisioned, or of static tokens.",
    "wifi-sessions": "Tries to get devices onto WiFi with a token of ours, and what came of them.",
    "static-tokens": "Access tokens made before their devices, each with a QR code that claims the device.",
    "jobs": "Work that takes longer than a request should.",
    "overview": "How things are.",
    "attempts": "What devices asked for, and why it was refused.",
    "explain": "Why a request would be refused.",
    "audit": "What was done, by whom, and the proof that it is all there.",
    "events": "What happens, as it happens.",
    "openapi.json": "This description.",
    "docs": "This description, to read.",
}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The description of these routes."""
    schemas, components = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "provserver admin API",
            "version": version("provserver"),
            "description": _INTRODUCTION,
            "license": {"name": "See the project"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": tag, "description": _TAGS.get(tag, "")} for tag in dict.fromkeys(route.tag for route in routes)
        ],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {
                str(status): _problems(status) for status in sorted({kind.status for kind in KINDS.values()})
            },
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "An API key, `psk_` and 40 characters."},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "Set by POST /session."},
                "csrfToken": {
                    "type": "apiKey",
                    "in": "header",
                    "name": _header(CSRF_HEADER),
                    "description": "The session's csrfToken.",
                },
            },
        },
    }


def _schemas(routes: Sequence[Route]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The schema of each type there is, and those that they refer to, by name."""
    types: dict[Any, None] = {Problem: None}
    for route in routes:
        for each in (route.query, route.body, route.answer, *route.also.values()):
            if each not in (None, bytes, Content):
                types[each] = None
    made, components = msgspec.json.schema_components(list(types), ref_template=_REF)
    return dict(zip(types, made, strict=True)), components


def _operation(route: Route, schemas: Mapping[Any, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": re.sub("_(.)", lambda match: match[1].upper(), route.operation),
        "summary": route.summary,
        "tags": [route.tag],
    }
    if route.access is Access.PUBLIC:
        operation["security"] = []
    else:
        session: dict[str, list[str]] = {"session": []}
        operation["security"] = [{"apiKey": []}, session if route.method in SAFE else session | {"csrfToken": []}]
    described = [route.description] if route.description else []
    if not isinstance(route.access, Access):
        described.append(f"Needs the permission `{route.access}`.")
        operation["x-permission"] = route.access
    if described:
        operation["description"] = " ".join(described)
    if parameters := [*_path(route), *_query(route, schemas, components), *_headers(route)]:
        operation["parameters"] = parameters
    if route.body is not None:
        media = CSV if route.body is bytes else JSON
        content: dict[str, Any] = {"schema": {"type": "string"} if route.body is bytes else schemas[route.body]}
        if route.example is not None:
            content["example"] = route.example
        operation["requestBody"] = {"required": True, "content": {media: content}}
    operation["responses"] = _responses(route, schemas)
    return operation


def _path(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "format": "uuid"}
            if name == "id"
            else {"type": "string", "minLength": 1, "maxLength": 255},
        }
        for name in route.parameters
    ]


def _query(route: Route, schemas: Mapping[Any, Any], components: Mapping[str, Any]) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = schemas[route.query]
    schema = components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    found = []
    for name, each in schema["properties"].items():
        parameter = {"name": name, "in": "query", "schema": each}
        if name in schema.get("required", ()):
            parameter["required"] = True
        if "description" in each:
            parameter["description"] = each["description"]
        found.append(parameter)
    return found


def _headers(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    schema: dict[str, Any]
    if route.access is not Access.PUBLIC:
        schema = {"type": "string", "pattern": f"^({ORGANIZATION.pattern})$", "examples": ["3"]}
        text = "The number or the id of an organization below yours: the request reaches that one and those below it."
        found.append({"name": _header(ORGANIZATION_HEADER), "in": "header", "schema": schema, "description": text})
    if route.creates and route.access is not Access.PUBLIC:
        schema = {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY.pattern}$"}
        text = "A word of your choice for this request: repeated, it gives the same answer and makes nothing twice."
        found.append({"name": _header(IDEMPOTENCY_HEADER), "in": "header", "schema": schema, "description": text})
    if route.takes_revision:
        text = "The ETag of what is to be changed; with another one there, nothing is changed."
        schema = {"type": "string", "pattern": '^("[0-9]{1,18}"|[0-9]{1,18}|\\*)$', "examples": ['"3"']}
        found.append({"name": "If-Match", "in": "header", "schema": schema, "description": text})
    if "text/event-stream" in route.produces:
        schema = {"type": "string", "format": "uuid"}
        text = "The last event that was heard: what came after it is told first."
        found.append({"name": "Last-Event-ID", "in": "header", "schema": schema, "description": text})
    return found


def _responses(route: Route, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, answer in {route.status: route.answer, **route.also}.items():
        response: dict[str, Any] = {"description": _DESCRIPTIONS.get(status, "What was asked for.")}
        if answer is Content:
            response["content"] = {media: {"schema": {}} for media in route.produces}
        elif answer is not None:
            response["content"] = {JSON: {"schema": schemas[answer]}}
        if route.revised and status in (200, 201):
            schema = {"type": "string", "pattern": '^"[0-9]+"$'}
            response["headers"] = {"ETag": {"schema": schema, "description": "Its revision, for If-Match."}}
        answers[str(status)] = response
    for status in sorted({KINDS[code].status for code in route.codes}):
        answers[str(status)] = {"$ref": f"#/components/responses/{status}"}
    return answers


_DESCRIPTIONS = {201: "It was made.", 202: "It goes on; the answer says where.", 204: "It was done."}


def _problems(status: int) -> dict[str, Any]:
    """The refusals of a status, for all routes."""
    codes = {code: kind for code, kind in KINDS.items() if kind.status == status}
    response: dict[str, Any] = {
        "description": " ".join(f"`{code}`: {kind.meaning}" for code, kind in codes.items()),
        "content": {problem.CONTENT_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}},
    }
    text = {"schema": {"type": "string"}}
    if status in (429, 503):
        response["headers"] = {"Retry-After": text | {"description": "Seconds to wait."}}
    elif status == 401:
        response["headers"] = {"WWW-Authenticate": text}
    elif status == 405:
        response["headers"] = {"Allow": text}
    return response


def _header(name: str) -> str:
    return {"x-csrf-token": "X-CSRF-Token"}.get(name, name.title())
