"""Attempts: what devices asked for, why they were refused, and what would come of a request."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from provserver.admin.console.moments import in_query
from provserver.admin.console.page import ApiProblem, Ask, page
from provserver.admin.console.templating import joined, segment
from provserver.admin.messages import Response
from provserver.admin.problem import Malformed
from provserver.core import explanation
from provserver.core.authorization import Permission
from provserver.core.decision import Reason
from provserver.core.explanation import Word
from provserver.core.model import Transport
from provserver.errors import Outcome

_FILTERS = ("profile", "device", "outcome", "reason", "transport", "address", "since", "until")

_ADDRESS = re.compile("[0-9A-Fa-f.:]*")

_OTHERS = 6
"""How many that failed the same are shown beside one."""

OUTCOMES = {
    Outcome.SUCCESS: ("provisioned", "good"),
    Outcome.PENDING: ("waits for approval", "warn"),
    Outcome.NOT_FOUND: ("refused", "bad"),
    Outcome.FAILURE: ("refused", "bad"),
    Outcome.INVALID: ("not valid", "bad"),
    Outcome.UNDECODABLE: ("not readable", "bad"),
    Outcome.TOO_LARGE: ("too large", "bad"),
    Outcome.LIMITED: ("slowed down", "warn"),
    Outcome.UNAVAILABLE: ("told to come back", "warn"),
}
"""Each outcome as a word, and what kind of badge it has."""

_OUTCOME_TEXTS = {
    Outcome.SUCCESS: "Provisioned",
    Outcome.PENDING: "Waits for approval",
    Outcome.NOT_FOUND: "Refused: key, secret or profile",
    Outcome.FAILURE: "Refused: the device itself",
    Outcome.INVALID: "Request not valid",
    Outcome.UNDECODABLE: "Request not readable",
    Outcome.TOO_LARGE: "Request too large",
    Outcome.LIMITED: "Slowed down by limits",
    Outcome.UNAVAILABLE: "Told to come back",
}

_TRANSPORTS = {Transport.HTTP: "HTTP", Transport.MQTT: "MQTT", Transport.COAP: "CoAP", Transport.BLYNK: "Blynk"}

_APPROVALS = {Reason.APPROVAL_PENDING, Reason.APPROVAL_REJECTED, Reason.APPROVALS_FULL, Reason.APPROVAL_UNNAMED}
_KEYS = {
    Reason.KEY_MISSING,
    Reason.KEY_UNKNOWN,
    Reason.SECRET_WRONG,
    Reason.PSK_UNPROVEN,
    Reason.KEY_NOT_YET_VALID,
    Reason.KEY_EXPIRED,
    Reason.KEY_USED_UP,
    Reason.KEY_BUSY,
    Reason.NETWORK_EXCLUDED,
}
_LIMITS = {
    Reason.ADDRESS_LOCKED,
    Reason.ADDRESS_BUSY,
    Reason.REFUSED_OFTEN,
    Reason.NAME_REPEATED,
    Reason.KEY_BUSY,
    Reason.ORGANIZATION_BUSY,
    Reason.DEVICE_BUSY,
}
_DEVICE = {
    Reason.ALREADY_PROVISIONED,
    Reason.ALREADY_USED,
    Reason.OTHER_CREDENTIALS,
    Reason.STATE_UNKNOWN,
    Reason.CREDENTIALS_TYPE,
    Reason.CREDENTIALS_EXPIRED,
    Reason.CREDENTIALS_IMPORTED,
    Reason.NAME_TAKEN,
    Reason.NAME_ELSEWHERE,
}
_SETTINGS = {Reason.PROFILE_DISABLED, Reason.NAME_REQUIRED, Reason.CHAIN_ONLY, Reason.CHAIN_DISABLED}
_CERTIFICATES = {
    Reason.MISSING_INTERMEDIATE,
    Reason.UNTRUSTED,
    Reason.SIGNATURE_WRONG,
    Reason.CERTIFICATE_REVOKED,
    Reason.CRL_STALE,
    Reason.CERTIFICATE_NAMELESS,
    Reason.NAME_MISMATCH,
    Reason.ISSUER_MISSING,
    Reason.ISSUER_EXPIRED,
}


class Mend(NamedTuple):
    """Where something can be done about a refusal. path: without base."""

    path: str
    text: str


async def list_attempts(ask: Ask) -> Response:
    """What was asked, newest first."""
    query = in_query(ask.chosen("cursor", *_FILTERS))
    if not _ADDRESS.fullmatch(query.get("address", "")):
        why = "an IP address, for example 192.0.2.7 or 2001:db8::7"
        raise Malformed("Attempts are found by addresses.", [{"in": "query", "field": "address", "reason": why}])
    if ask.query.get("refused"):
        query["refused"] = "true"
    found = await ask.api("GET", "/attempts", query)
    profiles = await ask.api("GET", "/profiles", {"limit": 200})
    return ask.show(
        "attempts/list.html",
        found=found,
        profiles=profiles["items"],
        outcomes=[(each.value, text) for each, text in _OUTCOME_TEXTS.items()],
        reasons=_reasons(),
        transports=_TRANSPORTS,
        word=_word,
        why=_why,
        filtered=any(name in query for name in (*_FILTERS, "refused")),
        own=joined(ask.base + ask.path, ask.query),
    )


async def show_attempt(ask: Ask) -> Response:
    """One, in words: why, the fix, and who else failed the same."""
    path = f"/attempts/{ask.parameters['attempt']}"
    attempt = await ask.api("GET", path)
    explained = await ask.api("GET", f"{path}/explanation")
    others, more = await _others(ask, attempt)
    device = await _device(ask, attempt)
    return ask.show(
        "attempts/show.html",
        attempt=attempt,
        explained=explained,
        others=others,
        more=more,
        device=device,
        mends=_mends(ask, attempt, device),
        word=_word,
        why=_why,
        transports=_TRANSPORTS,
    )


async def ask_rehearsal(ask: Ask) -> Response:
    """The form for a request that is only tried."""
    profiles = await ask.api("GET", "/profiles", {"limit": 200})
    return ask.show("attempts/rehearse.html", profiles=profiles["items"], given=ask.query)


async def rehearse(ask: Ask) -> Response:
    """What would come of a request. What was pasted is in no part of the answer."""
    form = await ask.form()
    body = {"profile": form["profile"], "request": form.raw("request") or "{}", "transport": form["transport"]}
    if address := form["address"]:
        body["address"] = address
    explained = await ask.api("POST", "/explain", body=body)
    return ask.part("attempts/rehearsed.html", explained=explained, word=_word, transports=_TRANSPORTS)


async def _others(ask: Ask, attempt: Mapping[str, Any]) -> tuple[Sequence[Mapping[str, Any]], str]:
    """Others that failed for the same reason, with the same profile; and where all of them are listed."""
    if attempt["reason"] is None or attempt["outcome"] == Outcome.SUCCESS.value:
        return [], ""
    query = {"reason": attempt["reason"]} | ({"profile": attempt["profileId"]} if attempt["profileId"] else {})
    try:
        found = await ask.api("GET", "/attempts", query | {"limit": _OTHERS + 1})
    except ApiProblem as problem:
        if problem.code != "not_found":
            raise
        query.pop("profile")  # that of another organization, or gone
        found = await ask.api("GET", "/attempts", query | {"limit": _OTHERS + 1})
    others = [each for each in found["items"] if each["id"] != attempt["id"]]
    return others[:_OTHERS], joined("/attempts", query)


async def _device(ask: Ask, attempt: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The device that an attempt was about, if it is there and seen."""
    name = attempt["deviceId"] or attempt["device"]
    if name is None or not ask.may(Permission.DEVICES_VIEW):
        return None
    for each in (attempt["deviceId"], attempt["device"]):
        if each is None:
            continue
        try:
            found: Mapping[str, Any] = await ask.api("GET", f"/devices/{segment(each)}")
        except ApiProblem as problem:
            if problem.code not in ("not_found", "conflict", "method_not_allowed"):  # the last: named like a route
                raise
        else:
            return found
    return None


def _mends(ask: Ask, attempt: Mapping[str, Any], device: Mapping[str, Any] | None) -> list[Mend]:
    """Where the operator can do something about it, what helps most first."""
    found = []
    try:
        reason = explanation.read(attempt["reason"])
    except KeyError:
        reason = Word.GRANTED
    profile = f"/profiles/{attempt['profileId']}" if attempt["profileId"] and attempt["profile"] else None
    if reason in _APPROVALS:
        found.append(Mend("/inbox/approvals", "Accept or reject it"))
    elif reason is Reason.QUARANTINED:
        found.append(Mend("/inbox/quarantine", "See the quarantine"))
    if device is not None:
        text = "Open the device: re-arm it there" if reason in _DEVICE else "Open the device"
        found.append(Mend(f"/devices/{device['id']}", text))
    elif reason is Reason.NOT_PRE_PROVISIONED and ask.may(Permission.DEVICES_CREATE):
        found.append(Mend(joined("/devices/new", {"profile": attempt["profileId"]}), "Create the device"))
    if profile is not None and attempt["outcome"] != Outcome.SUCCESS.value:
        found.append(_at_profile(ask, profile, reason))
    elif reason in _KEYS:
        found.append(Mend("/profiles", "See the profiles and their keys"))
    if reason in _LIMITS:
        found.append(Mend(joined("/attempts", {"address": attempt["address"]}), "What else came from this address"))
    if attempt["profileId"] and reason is not Word.GRANTED and ask.may(Permission.PROFILES_MANAGE):
        query = {"profile": attempt["profileId"], "transport": attempt["transport"].lower()}
        found.append(Mend(joined("/attempts/rehearse", query), "Try a request"))
    return found


def _at_profile(ask: Ask, profile: str, reason: Reason | Word) -> Mend:
    """What of a profile has to do with a reason. profile: its path."""
    advice = explanation.ADVICE[reason].text
    if reason in _KEYS:
        return Mend(f"{profile}/keys", "See the profile's keys")
    if reason in _SETTINGS and ask.may(Permission.PROFILES_MANAGE):
        return Mend(f"{profile}/settings", "Change the profile's settings")
    if reason in _CERTIFICATES:
        return Mend(f"{profile}/certificates", "See the CAs that the profile trusts")
    if advice.startswith(explanation.FIRMWARE):
        return Mend(f"{profile}/firmware", "See what firmware sends")
    return Mend(profile, "See the profile")


def _word(outcome: str) -> tuple[str, str]:
    """An outcome as a word, and its badge's kind."""
    try:
        return OUTCOMES[Outcome(outcome)]
    except (ValueError, KeyError):
        return outcome, "plain"


def _why(reason: str | None) -> str:
    """A reason in words; that of another version as it was recorded."""
    try:
        found = explanation.read(reason)
    except KeyError:
        return str(reason)
    if found is Word.GRANTED:
        return ""
    return found.value if isinstance(found, Word) else found.text


def _reasons() -> list[tuple[str, str]]:
    """All there are, by their words."""
    named = [(each.name, _why(each.name)) for each in (*Word, *Reason) if each is not Word.GRANTED]
    return sorted(named, key=lambda pair: pair[1].lower())


PAGES = [
    page("GET", "/attempts", list_attempts, Permission.PROFILES_VIEW),
    page("GET", "/attempts/rehearse", ask_rehearsal, Permission.PROFILES_MANAGE),
    page("POST", "/attempts/rehearse", rehearse, Permission.PROFILES_MANAGE),
    page("GET", "/attempts/{attempt}", show_attempt, Permission.PROFILES_VIEW),
]
