"""The page where customers claim: by a code that they scan, take a picture of or type, or by name and secret.

A code is what opens a claim, so it is never in a URL that is sent, nor in the history: the browser sends it in the body
of a POST. Whoever has to sign in first finds it again, as his tab keeps it for some minutes (see static/scan.js).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from provserver.admin.console.page import ApiProblem, Ask, page
from provserver.admin.messages import Response
from provserver.admin.route import Access
from provserver.core.authorization import Permission

REFUSALS = ("not_found", "conflict", "invalid", "too_many_requests", "unavailable")
"""Problems that are shown as what came of a claim; all others are shown at the form."""

_JOINED = re.compile("(sqr_[A-Za-z0-9_-]{32})[+]?([0-9]{1,10})")
"""A code and its number, once the spaces are out."""

_NOTHING_NEW = Response(204)
"""To who asks again and again: the page stays as it is, with the focus where it was."""


async def ask_for_code(ask: Ask) -> Response:
    """Have a code scanned; also of who is not signed in yet."""
    return ask.show("claim/scan.html", may_claim=ask.may(Permission.DEVICES_CLAIM))


async def claim_by_code(ask: Ask) -> Response:
    """Claim the device of a code."""
    form = await ask.form()
    return await _claimed(ask, "/static-tokens/claim", {"qr": _joined(form["code"])}, by_code=True)


async def claim_by_secret(ask: Ask) -> Response:
    """Claim a device by its name and the secret that it has told."""
    form = await ask.form()
    body = {"device": form["device"], "secret": form.raw("secret")}
    return await _claimed(ask, "/devices/claim", body, by_code=False)


async def show_outcome(ask: Ask) -> Response:
    """What has come of a claim: it waits, is over, or the device is there and perhaps online."""
    found = await ask.api("GET", f"/static-tokens/claims/{ask.parameters['id']}")
    if ask.is_part and found["state"] == "waiting":
        return _NOTHING_NEW
    return _outcome(ask, found, ask.parameters["id"])


async def show_device(ask: Ask) -> Response:
    """A device that was just claimed: whether it is online, and what to do next."""
    device = await ask.api("GET", f"/devices/{ask.parameters['id']}")
    if ask.is_part and not device["online"]:
        return _NOTHING_NEW
    outcome = {"state": "claimed", "device": device, "expiresAt": None}
    return _outcome(ask, outcome, device["id"])


async def _claimed(ask: Ask, path: str, body: dict[str, Any], *, by_code: bool) -> Response:
    try:
        claim = await ask.api("POST", path, body=body)
    except ApiProblem as fault:
        if fault.code not in REFUSALS:
            raise
        status = 200 if ask.is_part else fault.status
        wait = fault.headers.get("Retry-After", "")
        seconds = int(wait) if wait.isdecimal() else 0
        return ask.show("claim/refused.html", status=status, problem=fault, by_code=by_code, seconds=seconds)
    device = claim["device"]
    outcome = {"state": "claimed" if device else "waiting", "device": device, "expiresAt": claim["expiresAt"]}
    shown = ask.show("claim/done.html", outcome=outcome, id=claim["id"])
    # No secret: whoever loads the page again (a phone does, when it comes back to it) finds out how it went on.
    again = f"{ask.base}/claim/device/{device['id']}" if device else f"{ask.base}/claim/outcome/{claim['id']}"
    return replace(shown, headers={**shown.headers, "HX-Replace-Url": again})


def _joined(code: str) -> str:
    """A code as it was meant: people type it in groups, and forms make a space of its `+`."""
    joined = "".join(code.split())
    match = _JOINED.fullmatch(joined)
    return f"{match[1]}+{match[2]}" if match else joined


def _outcome(ask: Ask, outcome: Mapping[str, Any], id_: str) -> Response:
    if ask.is_part:
        return ask.part("claim/outcome.html", outcome=outcome, id=id_)
    return ask.show("claim/done.html", outcome=outcome, id=id_)


_CLAIM = Permission.DEVICES_CLAIM

PAGES = [
    page("GET", "/claim", ask_for_code, Access.PUBLIC),
    page("POST", "/claim", claim_by_code, _CLAIM),
    page("POST", "/claim/by-secret", claim_by_secret, _CLAIM),
    page("GET", "/claim/outcome/{id}", show_outcome, _CLAIM),
    page("GET", "/claim/device/{id}", show_device, _CLAIM),
]
