"""Jobs: work that takes longer than a request should; how far it is, and what came of it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from provserver.admin.console.page import Ask, page
from provserver.admin.messages import Response
from provserver.admin.route import Access
from provserver.core.job import LIVE, JobState

KINDS = {
    "static_tokens.make": "Make static tokens",
    "static_tokens.import": "Import static tokens",
    "devices.import": "Import devices",
    "network.onboard": "Bring a device into its network",
    "network.remove": "Remove a device from its network",
    "network.onboard_all": "Bring all devices into their network",
    "particle.plan": "Plan tokens for Particle devices",
    "particle.apply": "Deliver tokens to Particle devices",
    "particle.verify": "Check the tokens of Particle devices",
    "particle.revoke": "Take tokens from Particle devices",
}
"""What jobs do, in words."""

_TOKENS = ("/static-tokens/jobs/{job}", "See what was made")
_PARTICLE = ("/integrations/particle/{subject}/runs/{job}", "Its report, device by device")

_OWN_PAGES = {
    "static_tokens.make": _TOKENS,
    "static_tokens.import": _TOKENS,
    "particle.plan": _PARTICLE,
    "particle.apply": _PARTICLE,
    "particle.verify": _PARTICLE,
    "particle.revoke": _PARTICLE,
}
"""Where the result of a kind is shown by pages of its own, and what a link there says."""

_DEVICES = ("network.onboard", "network.remove")
"""Kinds whose subject is a device."""

STATES = {
    JobState.WAITING: ("waits", "warn"),
    JobState.RUNNING: ("running", "info"),
    JobState.DONE: ("done", "good"),
    JobState.FAILED: ("failed", "bad"),
    JobState.CANCELLED: ("cancelled", "plain"),
}
"""Each state as a word, and its badge's kind."""

_STEPS = {"begun": "info", "done": "good", "failed": "bad", "undone": "plain"}

_OF_PROGRAMS = ("id", "dryRun", "dry_run")
"""Members of results that say nothing to people."""

_LONGEST = 366 * 86_400.0
"""Seconds; what would take longer is not foretold."""


class Pace(NamedTuple):
    """How fast a job goes: things a second, and seconds until it is done; None while nobody knows."""

    rate: float | None
    left: float | None


async def list_jobs(ask: Ask) -> Response:
    """Jobs, newest first."""
    query = ask.chosen("cursor", "state", "kind", "subject")
    found = await ask.api("GET", "/jobs", query)
    kind = ask.query.get("kind", "")
    kinds = [("", "All"), *KINDS.items()]
    if kind and kind not in KINDS:
        kinds.append((kind, kind))
    return ask.show(
        "jobs/list.html",
        found=found,
        kinds=kinds,
        states=[("", "All"), *((state.value, word.capitalize()) for state, (word, _) in STATES.items())],
        named=_named,
        word=_word,
        live=LIVE,
        filtered=any(name in query for name in ("state", "kind", "subject")),
    )


async def show_job(ask: Ask) -> Response:
    """A job, how far it is, and its result."""
    return ask.show("jobs/show.html", polled=False, **await _job(ask))


async def show_progress(ask: Ask) -> Response:
    """The part that changes while a job is under way; it asks for itself until that has ended."""
    return ask.part("jobs/progress.html", polled=True, **await _job(ask))


async def cancel_job(ask: Ask) -> Response:
    """Have a job end."""
    id_ = ask.parameters["job"]
    job = await ask.api("POST", f"/jobs/{id_}/cancel")
    said = "It ends as soon as what it did is undone." if job["ending"] else "The job is cancelled."
    return ask.go(f"/jobs/{id_}", said=said)


async def retry_job(ask: Ask) -> Response:
    """Have a job that failed be tried again."""
    id_ = ask.parameters["job"]
    await ask.api("POST", f"/jobs/{id_}/retry")
    return ask.go(f"/jobs/{id_}", said="The job is tried again.")


async def _job(ask: Ask) -> dict[str, Any]:
    job = await ask.api("GET", f"/jobs/{ask.parameters['job']}")
    return {
        "job": job,
        "name": _named(job["kind"]),
        "word": _word,
        "live": job["state"] in LIVE,
        "pace": pace(job, datetime.now(UTC)),
        "own": _own(job),
        "device": job["subjectId"] if job["kind"] in _DEVICES else None,
        "steps": _STEPS,
        "took": _took(job),
        "facts": _facts(job["result"]),
        "errors": _errors(job["result"]),
    }


def pace(job: Mapping[str, Any], now: datetime) -> Pace:
    """How fast a job goes, by what it has done since it was asked for."""
    elapsed = (now - datetime.fromisoformat(job["createdAt"])).total_seconds()
    if job["state"] != JobState.RUNNING.value or job["done"] <= 0 or elapsed < 1:
        return Pace(None, None)
    rate = job["done"] / elapsed
    if not job["total"] or job["total"] < job["done"]:
        return Pace(rate, None)
    left = (job["total"] - job["done"]) / rate
    return Pace(rate, left if left < _LONGEST else None)


def _took(job: Mapping[str, Any]) -> float | None:
    """Seconds from the wish to the end."""
    if job["finishedAt"] is None:
        return None
    return (datetime.fromisoformat(job["finishedAt"]) - datetime.fromisoformat(job["createdAt"])).total_seconds()


def _facts(result: object) -> list[tuple[str, object]]:
    """Members of a result that are single values."""
    if not isinstance(result, dict):
        return [] if result is None else [("result", result)]
    found: list[tuple[str, object]] = []
    found += [
        (name, value)
        for name, value in result.items()
        if isinstance(value, str | int | float | bool) and name not in _OF_PROGRAMS and not name.endswith(("Id", "_id"))
    ]
    return found + [
        (name, len(value)) for name, value in result.items() if isinstance(value, list) and name != "errors"
    ]


def _errors(result: object) -> list[tuple[str, str]]:
    """What could not be done, each with its reason: rows of a file, or devices."""
    if not isinstance(result, dict):
        return []
    given = result.get("errors") or result.get("failed") or result.get("entries") or []
    found = []
    for each in given if isinstance(given, list) else []:
        if not isinstance(each, dict):
            found.append(("", str(each)))
            continue
        reason = each.get("reason") or each.get("error") or each.get("detail") or each.get("text")
        if reason is None:
            continue
        row = each.get("row")
        parts = [f"row {row}" if row is not None else None, each.get("column") or each.get("field")]
        parts += [each.get("name"), each.get("device")]
        found.append((", ".join(str(part) for part in parts if part), str(reason)))
    return found


def _named(kind: str) -> str:
    return KINDS.get(kind, kind)


def _word(state: str) -> tuple[str, str]:
    return STATES[JobState(state)]


def _own(job: Mapping[str, Any]) -> tuple[str, str] | None:
    """Path and text of a link to a page that knows the job's kind."""
    if job["kind"] not in _OWN_PAGES:
        return None
    path, text = _OWN_PAGES[job["kind"]]
    return path.format(job=job["id"], subject=job["subjectId"]), text


PAGES = [
    page("GET", "/jobs", list_jobs, Access.ANYONE),
    page("GET", "/jobs/{job}", show_job, Access.ANYONE),
    page("GET", "/jobs/{job}/progress", show_progress, Access.ANYONE),
    page("POST", "/jobs/{job}/cancel", cancel_job, Access.ANYONE),
    page("POST", "/jobs/{job}/retry", retry_job, Access.ANYONE),
]
