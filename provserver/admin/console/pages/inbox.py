"""The inbox: what waits for an operator, and what can be done about it."""

from datetime import UTC, datetime
from typing import Any

from provserver.admin.console.page import Ask, Form, page
from provserver.admin.messages import Response
from provserver.admin.problem import Malformed
from provserver.core.authorization import Permission
from provserver.core.clones import Sign

FEW = 5
"""Items of each kind on the inbox' first page; the rest have pages of their own."""

SIGNS = {
    Sign.NAME.value: "Somebody with the right key and secret asked for its name",
    Sign.NONCE.value: "One nonce came from two addresses, or with two requests",
    Sign.SESSIONS.value: "Sessions took over from each other",
}

KEYS = {"provision_key": "Provision key", "api_key": "API key", "particle": "Access token for Particle"}

JOBS = {
    "network.onboard": "Onboarding a device",
    "network.remove": "Removing a device from its network",
    "particle.plan": "Planning tokens for Particle",
    "particle.apply": "Writing tokens to Particle",
    "particle.verify": "Verifying tokens at Particle",
    "particle.revoke": "Revoking tokens at Particle",
}


async def show_inbox(ask: Ask) -> Response:
    """The first of each kind that waits."""
    counts = await ask.api("GET", "/inbox")
    few = {"limit": FEW}
    ending = await _some(ask, counts["endingKeys"], "/inbox/ending-keys", {})
    return ask.show(
        "inbox/show.html",
        counts=counts,
        approvals=await _some(ask, counts["approvals"], "/approvals", few),
        quarantined=await _some(ask, counts["quarantined"], "/inbox/quarantined", few),
        suspects=await _some(ask, counts["cloneSigns"], "/inbox/clone-signs", few),
        jobs=await _some(ask, counts["failedJobs"], "/inbox/failed-jobs", few),
        integrations=await _broken(ask, counts["brokenIntegrations"]),
        ending=[each | {"ended": _over(each["endsAt"])} for each in ending],
        **_words(),
    )


async def count(ask: Ask) -> Response:
    """How many wait, for the badge in the navigation; empty when nothing does."""
    counts = await ask.api("GET", "/inbox")
    return ask.part("inbox/count_part.html", counts=counts)


async def list_approvals(ask: Ask) -> Response:
    """Everything that waits for approval, all or a profile's; or what was rejected, which may still be accepted."""
    query = ask.chosen("cursor", "profile", "state")
    found = await ask.api("GET", "/approvals", query)
    return ask.show("inbox/approvals.html", found=found, state=query.get("state", "pending"), **_words())


async def decide(ask: Ask) -> Response:
    """Accept or reject one, or all of a profile."""
    form = await ask.form()
    verb = form["decision"]
    if verb not in ("accept", "reject") or not (form["approval"] or form["profile"]):
        raise Malformed("Say what to accept or reject: press the button beside it.")
    if form["approval"]:
        decided = await ask.api("POST", f"/approvals/{_id(form['approval'])}/{verb}")
        comes = ": it gets its credentials when it asks again" if verb == "accept" else ""
        return _done(ask, form, f"{decided['deviceName'] or 'The device'} was {verb}ed{comes}.")
    count = (await ask.api("POST", f"/approvals/{verb}", body={"profile": form["profile"]}))["count"]
    return _done(ask, form, f"{count:,} {'device was' if count == 1 else 'devices were'} {verb}ed.")


async def list_quarantined(ask: Ask) -> Response:
    """All devices in quarantine."""
    found = await ask.api("GET", "/inbox/quarantined", ask.chosen("cursor"))
    return ask.show("inbox/quarantined.html", found=found, **_words())


async def release(ask: Ask) -> Response:
    """Let a device out of quarantine, with the credentials that it has or a new token."""
    form = await ask.form()
    device = _id(form["device"])
    released = await ask.api("POST", f"/devices/{device}/release", body={"rotate": form["rotate"] == "true"})
    name = released["device"]["name"]
    if released["accessToken"] is not None:
        return ask.show("inbox/released.html", released=released, back=_back(form["back"]))
    return _done(ask, form, f"{name} is out of quarantine, with the credentials that it had.")


async def delete(ask: Ask) -> Response:
    """Delete a device that is in quarantine."""
    form = await ask.form()
    gone = await ask.api("DELETE", f"/devices/{_id(form['device'])}")
    return _done(ask, form, f"The device {gone['name']} was deleted.")


async def list_clone_signs(ask: Ask) -> Response:
    """All devices that something speaks for being there twice."""
    found = await ask.api("GET", "/inbox/clone-signs", ask.chosen("cursor"))
    return ask.show("inbox/clone_signs.html", found=found, **_words())


async def dismiss(ask: Ask) -> Response:
    """Forget the signs of a device, or of all."""
    form = await ask.form()
    body = {"device": form["device"]} if form["device"] else {}
    done = await ask.api("POST", "/inbox/clone-signs/dismiss", body=body)
    number = done["count"]
    return _done(ask, form, f"The signs of {number} device{'s' if number != 1 else ''} were forgotten.")


async def quarantine(ask: Ask) -> Response:
    """Put a suspicious device into quarantine."""
    form = await ask.form()
    held = await ask.api("POST", f"/devices/{_id(form['device'])}/quarantine", body={"reason": form["reason"]})
    return _done(ask, form, f"{held['name']} is in quarantine: nobody is let in with its credentials.")


async def list_jobs(ask: Ask) -> Response:
    """All failed jobs that were not asked for anew."""
    found = await ask.api("GET", "/inbox/failed-jobs", ask.chosen("cursor"))
    return ask.show("inbox/jobs.html", found=found, **_words())


async def retry(ask: Ask) -> Response:
    """Have a failed job be tried again."""
    form = await ask.form()
    id_ = _id(form["job"])
    await ask.api("POST", f"/jobs/{id_}/retry")
    return ask.go(f"/jobs/{id_}", said="The job is tried again.")


async def _some(ask: Ask, waiting: int | None, path: str, query: dict[str, int]) -> list[Any]:
    """Items of a kind of which some wait."""
    if not waiting:
        return []
    items: list[Any] = (await ask.api("GET", path, query))["items"]
    return items


async def _broken(ask: Ask, waiting: int | None) -> list[Any]:
    """Integrations that do not work; there are few, and most do."""
    if not waiting:
        return []
    found: list[Any] = []
    query: dict[str, object] = {"limit": 500}
    while len(found) < waiting:
        answer = await ask.api("GET", "/integrations", query)
        found += [each for each in answer["items"] if each["status"] == "broken"]
        if answer["nextCursor"] is None:
            break
        query["cursor"] = answer["nextCursor"]
    return found


def _over(moment: str | None) -> bool:
    """Whether a time is past."""
    return moment is not None and datetime.fromisoformat(moment) <= datetime.now(UTC)


def _words() -> dict[str, Any]:
    return {"signs": SIGNS, "key_kinds": KEYS, "job_kinds": JOBS, "few": FEW}


_PLACES = ("/inbox", "/inbox/approvals", "/inbox/quarantine", "/inbox/clone-signs", "/inbox/jobs")


def _back(path: str) -> str:
    """The page of the inbox that a form was on."""
    return path if path in _PLACES else "/inbox"


def _done(ask: Ask, form: Form, said: str) -> Response:
    """Back to where a form was, with what came of it."""
    return ask.go(_back(form["back"]), said=said)


def _id(text: str) -> str:
    """What was sent as an id, fit for a path: whatever is none of ours is answered by "not found"."""
    return "".join(c for c in text if c in "0123456789abcdef-") or "-"


_VIEW, _CREATE, _MANAGE = Permission.DEVICES_VIEW, Permission.DEVICES_CREATE, Permission.DEVICES_MANAGE

PAGES = [
    page("GET", "/inbox", show_inbox, _VIEW),
    page("GET", "/inbox/count", count, _VIEW),
    page("GET", "/inbox/approvals", list_approvals, _VIEW),
    page("POST", "/inbox/approvals", decide, _CREATE),
    page("GET", "/inbox/quarantine", list_quarantined, _VIEW),
    page("POST", "/inbox/quarantine", quarantine, _MANAGE),
    page("POST", "/inbox/quarantine/release", release, _MANAGE),
    page("POST", "/inbox/quarantine/delete", delete, _MANAGE),
    page("GET", "/inbox/clone-signs", list_clone_signs, _VIEW),
    page("POST", "/inbox/clone-signs/dismiss", dismiss, _MANAGE),
    page("GET", "/inbox/jobs", list_jobs, Permission.TOKENS_MANAGE),
    page("POST", "/inbox/jobs/retry", retry, Permission.TOKENS_MANAGE),
]
