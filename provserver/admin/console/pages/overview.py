"""The first page: how far devices have come, what becomes of their requests, what waits, what happens now."""

import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from provserver.admin.console.page import Ask, page
from provserver.admin.console.snippets import Snippet, Subject, first_lines, places
from provserver.admin.messages import Response
from provserver.core import ids
from provserver.core.authorization import Permission
from provserver.core.model import ProvisionStrategy
from provserver.errors import Outcome

WINDOWS: Mapping[str, str] = {"1": "1 hour", "24": "24 hours", "168": "7 days", "720": "30 days"}
"""How far back attempts are shown: by the query's `hours`."""

FIRST_PROFILE = "first-devices"
"""What the profile for trying the server out is called, unless somebody calls it otherwise."""

_SHOWN = 8
"""Devices on a customer's overview."""

_JUST_NOW = 180.0
"""Seconds of the past that a feed begins with."""

_LATER = frozenset({Outcome.PENDING.value, Outcome.LIMITED.value, Outcome.UNAVAILABLE.value})
"""Outcomes of devices that were told to come back."""

_EVENT = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


async def show_overview(ask: Ask) -> Response:
    """How things are; on a server that has made no device yet, how to make the first."""
    if not ask.may(Permission.PROFILES_VIEW):
        found = await ask.api("GET", "/overview")
        devices = await ask.api("GET", "/devices", {"limit": _SHOWN, "newest": True})
        return ask.show("overview/customer.html", found=found, devices=devices)
    found = await _found(ask)
    if found["funnel"] is not None and not found["funnel"]["made"]:
        first = await ask.api("GET", "/devices", {"limit": 1})  # what was counted may be older than it
        if not first["items"]:
            return await _show_start(ask, found)
    inbox = await ask.api("GET", "/inbox")
    return ask.show("overview/overview.html", inbox=inbox, **_shown(ask, found))


async def show_figures(ask: Ask) -> Response:
    """The figures alone, for a page that is open."""
    return ask.part("overview/figures.html", **_shown(ask, await _found(ask)))


async def make_first(ask: Ask) -> Response:
    """Make a profile to try the server out with, and show what to paste: its secret is there this once."""
    form = await ask.form()
    strategy = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES
    made = await ask.api("POST", "/profiles", body={"name": form["name"], "strategy": strategy})
    lines = _lines(ask, made["name"], made["provisionDeviceKey"], made["provisionDeviceSecret"])
    return ask.show("overview/first.html", profile=made, lines=lines)


async def follow(ask: Ask) -> Response:
    """What happens, as it happens: the API's feed, with what has just happened before it.

    after: the last event that was heard, where a page begins again.
    """
    last = ask.request.headers.get("last-event-id") or ask.query.get("after", "")
    if not _EVENT.fullmatch(last):
        last = str(ids.floor(time.time() - _JUST_NOW))
    return await ask.pass_on("GET", "/events", headers={"last-event-id": last})


async def _found(ask: Ask) -> Any:
    hours = ask.query.get("hours", "24")
    return await ask.api("GET", "/overview", {"hours": hours if hours in WINDOWS else "24"})


async def _show_start(ask: Ask, found: Mapping[str, Any]) -> Response:
    """What to do first. A profile that is there has a key, but its secret was shown when it was made."""
    profiles = (await ask.api("GET", "/profiles", {"limit": 1}))["items"]
    profile = None
    lines: Sequence[Snippet] = ()
    if profiles:
        profile = await ask.api("GET", f"/profiles/{profiles[0]['id']}")
        if profile["provisionDeviceKeys"]:
            lines = _lines(ask, profile["name"], profile["provisionDeviceKeys"][0], None)
    return ask.show("overview/start.html", found=found, profile=profile, lines=lines, name=FIRST_PROFILE)


def _lines(ask: Ask, profile: str, key: str, secret: str | None) -> Sequence[Snippet]:
    subject = Subject(profile, ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES, key, secret, ca=ask.authority)
    return first_lines(places(ask.addresses, ask.host), subject)


def _shown(ask: Ask, found: Mapping[str, Any]) -> dict[str, Any]:
    """What the figures' templates need."""
    attempts = found["attempts"]
    hours = "24" if attempts is None else str(attempts["hours"])
    if attempts is None and ask.query.get("hours", "") in WINDOWS:
        hours = ask.query["hours"]
    return {
        "found": found,
        "windows": WINDOWS,
        "hours": hours,
        "chart": (chart := None if attempts is None else _chart(attempts)),
        "rows": [] if chart is None else _rows(chart),
        "as_table": ask.query.get("table", "") == "1",
    }


def _chart(attempts: Mapping[str, Any]) -> dict[str, Any]:
    """What is drawn: in each part of the time, how many were granted, were refused, were told to come back."""
    parts: dict[str, list[int]] = {name: [0] * len(attempts["times"]) for name in ("granted", "refused", "later")}
    for each in attempts["outcomes"]:
        granted = each["outcome"] == Outcome.SUCCESS.value
        line = parts["granted" if granted else "later" if each["outcome"] in _LATER else "refused"]
        for place, count in enumerate(each["counts"]):
            line[place] += count
    return {"times": attempts["times"], "step": attempts["step"], **parts}


def _rows(chart: Mapping[str, Any]) -> list[tuple[str, int, int, int]]:
    """The same to read, the newest first, without the parts in which no device asked."""
    parts = zip(chart["times"], chart["granted"], chart["later"], chart["refused"], strict=True)
    return [
        (f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}", *counts)
        for at, *counts in reversed(list(parts))
        if any(counts)
    ]


PAGES = [
    page("GET", "/", show_overview, Permission.DEVICES_VIEW),
    page("GET", "/overview/figures", show_figures, Permission.PROFILES_VIEW),
    page("POST", "/overview/first", make_first, Permission.PROFILES_MANAGE),
    page("GET", "/feed", follow, Permission.DEVICES_VIEW),
]
