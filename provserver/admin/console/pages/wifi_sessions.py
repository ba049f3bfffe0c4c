"""Pages of WiFi sessions: what became of them, one to be begun, and one as it goes."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from provserver.admin.console.page import Ask, page
from provserver.admin.console.templating import segment
from provserver.admin.messages import Response
from provserver.core import qr
from provserver.core.authorization import Permission
from provserver.core.wifisession import OPEN, WifiState

CLIENT = "console"

SINCE = [("1", "the last day"), ("7", "the last 7 days"), ("30", "the last 30 days"), ("", "all that is kept")]
"""Days that the summary goes back."""

STATES = [
    (WifiState.WAITING.value, "Waiting", "warn", "Its token is given; no device has come with it yet."),
    (WifiState.CONNECTED.value, "Connected", "info", "A device has logged in, and is yet to say its template."),
    (WifiState.SUCCESS.value, "Success", "good", "The device is there, and its owner's."),
    (WifiState.FAILED.value, "Failed", "bad", "It came to nothing; its token is good no more."),
    (WifiState.CANCELED.value, "Cancelled", "plain", "Somebody ended it; its token is good no more."),
    (WifiState.EXPIRED.value, "Expired", "plain", "Nobody came in time; its token is good no more."),
]

EVENTS = {
    "requested": "The session was started",
    "connected": "A device logged in with the token",
    "provisioned": "The device is there",
    "deleted": "The device was deleted",
    "wrong_template": "The board is of another template",
    "failed": "It came to nothing",
    "canceled": "The session was ended",
    "expired": "Nobody came in time",
}
"""Events of the server's own, in words; the phone side has words of its own."""

PROTOCOLS = {
    "mqtts": "MQTT with TLS",
    "mqtt": "MQTT",
    "https": "HTTPS",
    "http": "HTTP",
    "blynks": "Blynk's protocol with TLS",
    "blynk": "Blynk's protocol",
    "coaps": "CoAP with DTLS",
    "coap": "CoAP",
}


async def list_sessions(ask: Ask) -> Response:
    """Sessions, newest first, and what became of them all."""
    days = ask.query.get("since", "7")
    days = days if days in dict(SINCE) else "7"
    query = {}
    if days:
        query["since"] = (datetime.now(UTC) - timedelta(days=int(days))).isoformat()
    summary = await ask.api("GET", "/wifi-sessions/summary", query)
    found = await ask.api("GET", "/wifi-sessions", ask.chosen("cursor", "state"))
    state = ask.query.get("state", "")
    return ask.show(
        "wifi_sessions/list.html", found=found, summary=summary, days=days, since=SINCE, state=state, states=STATES
    )


async def new_session(ask: Ask) -> Response:
    """The form of one to be, for a new device or for one that is there."""
    device = None
    if reference := ask.query.get("device", ""):
        device = await ask.api("GET", f"/devices/{segment(reference)}")
    profiles: list[Any] = []
    if ask.may(Permission.PROFILES_VIEW):
        profiles = (await ask.api("GET", "/profiles", {"limit": 500}))["items"]
    choices = [("", "The device says it itself")] + [(each["id"], each["name"]) for each in profiles]
    return ask.show("wifi_sessions/new.html", device=device, profiles=choices, chosen=ask.query.get("profile", ""))


async def start_session(ask: Ask) -> Response:
    """Begin: the token, this once, and what to do with the phone."""
    form = await ask.form()
    names = ("device",) if form["device"] else ("template", "name", "organization", "owner")
    body = {name: form[name] for name in names if form[name]} | {"client": CLIENT}
    made = await ask.api("POST", "/wifi-sessions", body=body)
    text = msgspec.json.encode({"token": made["token"], "host": ask.host}).decode()
    image = base64.b64encode(qr.svg(text)).decode()
    listeners = _listeners(ask)
    return ask.show("wifi_sessions/started.html", code=text, image=image, listeners=listeners, **_about(made))


async def show_session(ask: Ask) -> Response:
    """One: how it stands, its log, and what can be done; asks again by itself as long as it goes on."""
    found = await ask.api("GET", f"/wifi-sessions/{ask.parameters['id']}")
    if ask.is_part and ask.request.headers.get("hx-target") == "session":
        return ask.part("wifi_sessions/session_part.html", **_about(found))
    return ask.show("wifi_sessions/show.html", **_about(found))


async def cancel_session(ask: Ask) -> Response:
    """End one."""
    id_ = ask.parameters["id"]
    await ask.api("POST", f"/wifi-sessions/{id_}/cancel")
    return ask.go(f"/wifi-sessions/{id_}", said="The session is over; its token is good no more.")


async def reconfigure(ask: Ask) -> Response:
    """Have the device of a session open its access point."""
    id_ = ask.parameters["id"]
    found = await ask.api("GET", f"/wifi-sessions/{id_}")
    told = await ask.api("POST", f"/devices/{found['deviceId']}/reconfigure")
    if told["deviceIsOffline"]:
        return ask.go(f"/wifi-sessions/{id_}", said="The device is offline: hold its button for 10 seconds instead.")
    return ask.go(
        f"/wifi-sessions/new?device={found['deviceId']}",
        said="The device was told to open its access point. Start a session, and hand its token over.",
    )


def _about(found: Any) -> dict[str, Any]:
    return {"found": found, "states": STATES, "events": EVENTS, "live": found["state"] in OPEN}


def _listeners(ask: Ask) -> list[tuple[str, int]]:
    """Where a device may come, in words, with its port."""
    return [(text, ask.addresses[name][1]) for name, text in PROTOCOLS.items() if name in ask.addresses]


_VIEW, _CLAIM = Permission.DEVICES_VIEW, Permission.DEVICES_CLAIM

PAGES = [
    page("GET", "/wifi-sessions", list_sessions, _VIEW),
    page("POST", "/wifi-sessions", start_session, _CLAIM),
    page("GET", "/wifi-sessions/new", new_session, _CLAIM),
    page("GET", "/wifi-sessions/{id}", show_session, _VIEW),
    page("POST", "/wifi-sessions/{id}/cancel", cancel_session, _CLAIM),
    page("POST", "/wifi-sessions/{id}/reconfigure", reconfigure, _CLAIM),
]
