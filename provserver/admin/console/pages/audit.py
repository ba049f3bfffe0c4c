"""The audit: who did what, and whether the record of it is whole."""

from collections.abc import Mapping
from typing import Any

import msgspec

from provserver.admin.console.moments import in_query
from provserver.admin.console.page import ApiProblem, Ask, page
from provserver.admin.console.templating import segment, words
from provserver.admin.messages import Response
from provserver.admin.problem import Malformed
from provserver.core.authorization import Permission

_FILTERS = ("subject", "actor", "action", "since", "until")

NOUNS = {
    "device": "Devices",
    "static_token": "Static tokens",
    "profile": "Profiles",
    "provision_key": "Provision keys",
    "request_key": "Request keys",
    "user": "Users",
    "api_key": "API keys",
    "organization": "Organizations",
    "integration": "Integrations",
    "particle": "Particle",
    "wifi_session": "WiFi sessions",
    "webhook": "Webhooks",
    "job": "Jobs",
    "audit": "The audit itself",
    "keys": "The server's keys",
}
"""What actions are about."""

_PLACES = {
    "device": "/devices/{}",
    "static_token": "/static-tokens/{}",
    "profile": "/profiles/{}",
    "user": "/users/{}",
    "organization": "/organizations/{}",
    "integration": "/integrations/{}",
    "wifi_session": "/wifi-sessions/{}",
    "webhook": "/webhooks/{}",
    "job": "/jobs/{}",
    "api_key": "/keys",
    "particle": "/integrations/particle",
}
"""Where subjects are looked at, by the noun of what was done to them."""

_FEW = 3
"""Members of a detail that are shown at once."""


async def list_audit(ask: Ask) -> Response:
    """What was done, newest first."""
    query = in_query(ask.chosen("cursor", *_FILTERS))
    found = await ask.api("GET", "/audit", query)
    action = ask.query.get("action", "")
    actions = [("", "All"), *NOUNS.items()]
    if action and action not in NOUNS:
        actions.append((action, _done(action)))
    return ask.show(
        "audit/list.html",
        found=found,
        actions=actions,
        filtered=any(name in query for name in _FILTERS),
        done=_done,
        place=_place,
        members=_members,
        few=_FEW,
    )


async def show_chain(ask: Ask) -> Response:
    """Where the chain ends, and whether it ends there: for a part of the page."""
    return ask.part("audit/chain.html", **await _chain(ask))


async def verify_audit(ask: Ask) -> Response:
    """Look at every entry, and say what came of it."""
    form = await ask.form()
    given = form["head"]
    head = None
    if given:
        try:
            head = msgspec.json.decode(given)
        except msgspec.DecodeError:
            head = None
        if not isinstance(head, dict):
            raise Malformed(
                "This is no head of the audit. Paste the file that `provserver audit head` or this page has made.",
                [{"in": "body", "field": "head", "reason": "is a JSON object with seq, mac, time and signature"}],
            )
    verified = await ask.api("POST", "/audit/verify", body={"head": head})
    return ask.part("audit/verified.html", verified=verified, compared=head is not None)


async def download_head(ask: Ask) -> Response:
    """The signed end of the chain, to be kept elsewhere."""
    head = await ask.pass_on("GET", "/audit/head")
    name = 'attachment; filename="audit-head.json"'
    return Response(200, dict(head.headers) | {"Content-Disposition": name}, head.body)


async def export_audit(ask: Ask) -> Response:
    """All entries as JSON lines."""
    return await ask.pass_on("GET", "/audit/export")


async def _chain(ask: Ask) -> dict[str, Any]:
    try:
        return {"head": await ask.api("GET", "/audit/head"), "fault": None}
    except ApiProblem as problem:
        if problem.code not in ("conflict", "forbidden"):
            raise
        return {"head": None, "fault": problem}


def _done(action: str) -> str:
    """An action in words: `static_token.claim_begun` → `static token: claim begun`."""
    noun, _, act = action.partition(".")
    return f"{words(noun)}: {words(act)}" if act else words(noun)


def _place(entry: Mapping[str, Any]) -> str:
    """Where the subject of an entry is looked at; empty where it is not, or gone."""
    noun, _, act = entry["action"].partition(".")
    if act == "deleted" or noun not in _PLACES:
        return ""
    return _PLACES[noun].format(segment(entry["subjectId"]))


def _members(detail: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A detail as names and values to be read."""
    return [(words(name), _value(value)) for name, value in detail.items()]


def _value(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case str():
            return value or "empty"
        case list():
            return ", ".join(map(_value, value)) or "none"
        case dict():
            return "; ".join(f"{words(str(name))}: {_value(each)}" for name, each in value.items()) or "none"
        case _:
            return msgspec.json.encode(value).decode()


PAGES = [
    page("GET", "/audit", list_audit, Permission.AUDIT_READ),
    page("GET", "/audit/chain", show_chain, Permission.AUDIT_READ),
    page("GET", "/audit/head.json", download_head, Permission.AUDIT_READ),
    page("GET", "/audit/export.jsonl", export_audit, Permission.AUDIT_READ),
    page("POST", "/audit/verify", verify_audit, Permission.AUDIT_READ),
]
