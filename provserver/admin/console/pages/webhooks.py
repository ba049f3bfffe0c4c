"""Webhooks: where events go, what became of them, and sending them again."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from provserver.admin.console.moments import sent
from provserver.admin.console.page import Ask, Form, page
from provserver.admin.messages import Response
from provserver.admin.problem import Malformed
from provserver.core.authorization import Permission
from provserver.core.events import EventType
from provserver.core.webhook import DeliveryState, host

EVENTS = {
    EventType.DEVICE_PROVISIONED: "A device was given credentials of its own.",
    EventType.DEVICE_FIRST_CONNECTED: "A device used its credentials for the first time.",
    EventType.DEVICE_QUARANTINED: "A device was shut out, as it seems to be there twice or an operator wanted it.",
    EventType.DEVICE_RELEASED: "A device was let in again after a quarantine.",
    EventType.DEVICE_CLAIMED: "A customer made a device his own.",
    EventType.DEVICE_UNCLAIMED: "A device was given back, or taken back.",
    EventType.CREDENTIALS_ROTATED: "A device uses new credentials; the old ones are good no more.",
    EventType.CREDENTIALS_REVOKED: "A device's credentials were declared invalid.",
    EventType.PROVISION_FAILED: "Devices were refused; at most one such event a minute for each profile and reason.",
    EventType.PROVISION_PENDING: "A device waits for an operator's approval.",
    EventType.PROVISION_KEY_BURNING: "A provision key is used up soon, or faster than expected: it may have leaked.",
    EventType.CLONE_SUSPECTED: "Something speaks for a device being there twice.",
    EventType.NETWORK_ONBOARDED: "A device is in its LoRaWAN network now.",
    EventType.NETWORK_ONBOARDING_FAILED: "A device could not be brought into its LoRaWAN network.",
    EventType.NETWORK_REMOVED: "A device was removed from its LoRaWAN network.",
    EventType.WIFI_PROVISIONED: "A device came onto a WiFi network with a token of ours.",
    EventType.WIFI_FAILED: "A device could not be put onto WiFi.",
}
"""What each event says."""

STATES = {
    DeliveryState.WAITING: ("waits", "warn"),
    DeliveryState.DELIVERED: ("delivered", "good"),
    DeliveryState.DEAD: ("given up", "bad"),
}
"""Each state of a delivery as a word, and its badge's kind."""

VERIFY = """\
import base64, hashlib, hmac, os, time

KEY = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))

def is_genuine(headers, body):
    # headers: of the request, names in lower case; body: its bytes, as they came
    sent_at = headers["webhook-timestamp"]
    if abs(time.time() - int(sent_at)) > 300:
        return False
    signed = headers["webhook-id"].encode() + b"." + sent_at.encode() + b"." + body
    wanted = "v1," + base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    return any(hmac.compare_digest(wanted, each) for each in headers["webhook-signature"].split())
"""
"""How a receiver verifies what it gets, in Python."""

_MANY = 10_000
"""What counts of the API stop at."""


async def list_webhooks(ask: Ask) -> Response:
    """The webhooks, with what waits for each."""
    found = await ask.api("GET", "/webhooks", ask.chosen("cursor"))
    return ask.show("webhooks/list.html", found=found, state=_state, host=host)


async def ask_webhook(ask: Ask) -> Response:
    """The form for a webhook to be."""
    return ask.show("webhooks/new.html", events=_events(), types=[])


async def create_webhook(ask: Ask) -> Response:
    """Make one; its secret is shown this once."""
    form = await ask.form()
    made = await ask.api("POST", "/webhooks", body={"url": form["url"], "types": _types(form)})
    return ask.show("webhooks/created.html", made=made, host=host(made["url"]), verify=VERIFY)


async def show_webhook(ask: Ask) -> Response:
    """One, and what was sent to it."""
    id_ = ask.parameters["webhook"]
    webhook = await ask.api("GET", f"/webhooks/{id_}")
    deliveries = await ask.api("GET", f"/webhooks/{id_}/deliveries", ask.chosen("cursor", "state"))
    return ask.show(
        "webhooks/show.html",
        webhook=webhook,
        host=host(webhook["url"]),
        verify=VERIFY,
        deliveries=deliveries,
        state=_state,
        states=[("", "All"), *((each.value, word.capitalize()) for each, (word, _) in STATES.items())],
        word=_word,
        took=_took,
        many=_many,
        events=dict(_events()),
    )


async def show_delivery(ask: Ask) -> Response:
    """One event on its way: what came of it, and its body."""
    id_, event = ask.parameters["webhook"], ask.parameters["event"]
    delivery = await ask.api("GET", f"/webhooks/{id_}/deliveries/{event}")
    webhook = await ask.api("GET", f"/webhooks/{id_}")
    return ask.show(
        "webhooks/delivery.html",
        delivery=delivery,
        webhook=webhook,
        host=host(webhook["url"]),
        word=_word,
        took=_took,
        events=dict(_events()),
    )


async def ask_changes(ask: Ask) -> Response:
    """The form for what may be changed."""
    webhook = await ask.api("GET", f"/webhooks/{ask.parameters['webhook']}")
    where = host(webhook["url"])
    return ask.show("webhooks/edit.html", webhook=webhook, host=where, events=_events(), types=webhook["types"])


async def change_webhook(ask: Ask) -> Response:
    """Write what was changed, unless somebody else has changed it meanwhile."""
    form, id_ = await ask.form(), ask.parameters["webhook"]
    body = {"url": form["url"], "types": _types(form)}
    await ask.api("PATCH", f"/webhooks/{id_}", body=body, headers=_revision(form))
    return ask.go(f"/webhooks/{id_}", said="The webhook is changed.")


async def switch_webhook(ask: Ask) -> Response:
    """Pause or enable one."""
    form, id_ = await ask.form(), ask.parameters["webhook"]
    enabled = form["enabled"] == "true"
    await ask.api("PATCH", f"/webhooks/{id_}", body={"enabled": enabled})
    said = "It is sent events again." if enabled else "The webhook is paused: nothing is queued for it or sent."
    return ask.go(f"/webhooks/{id_}", said=said)


async def delete_webhook(ask: Ask) -> Response:
    """Remove one, with what waits for it."""
    form, id_ = await ask.form(), ask.parameters["webhook"]
    gone = await ask.api("DELETE", f"/webhooks/{id_}", headers=_revision(form))
    return ask.go("/webhooks", said=f"The webhook to {host(gone['url'])} is deleted.")


async def test_webhook(ask: Ask) -> Response:
    """Send a test at once, and say what came back."""
    tried = await ask.api("POST", f"/webhooks/{ask.parameters['webhook']}/test")
    return ask.part("webhooks/tried.html", tried=tried)


async def count_replay(ask: Ask) -> Response:
    """How many events would be sent again, before they are."""
    id_ = ask.parameters["webhook"]
    wanted = _wanted(await ask.form())
    webhook = await ask.api("GET", f"/webhooks/{id_}")
    counted = await ask.api("POST", f"/webhooks/{id_}/replay", body=wanted | {"dryRun": True})
    return ask.part("webhooks/replay.html", webhook=webhook, wanted=wanted, count=_many(counted["replayed"]))


async def replay(ask: Ask) -> Response:
    """Queue events again."""
    id_ = ask.parameters["webhook"]
    count = (await ask.api("POST", f"/webhooks/{id_}/replay", body=_wanted(await ask.form())))["replayed"]
    if count == 0:
        return ask.go(f"/webhooks/{id_}", said="No event was queued: what fits waits already, or is kept no longer.")
    said = "1 event is sent again, after what waits." if count == 1 else f"{count:,} events are sent again."
    return ask.go(f"/webhooks/{id_}", said=said)


def _types(form: Form) -> list[str]:
    """Chosen types of events; none: all. Raises Malformed."""
    if form["which"] != "some":
        return []
    if not (chosen := form.all("types")):
        why = "choose one event at least, or all events"
        raise Malformed("No event is chosen.", [{"in": "body", "field": "types", "reason": why}])
    return chosen


def _wanted(form: Form) -> dict[str, Any]:
    """What to send again, as the API takes it."""
    if event := form["event"]:
        return {"event": event}
    if form["which"] == "dead":
        return {"dead": True}
    if not form["since"]:
        why = "say from when on"
        raise Malformed("From when on is missing.", [{"in": "body", "field": "since", "reason": why}])
    until = {"until": sent(form["until"])} if form["until"] else {}
    return {"since": sent(form["since"])} | until


def _revision(form: Form) -> dict[str, str]:
    """So that nobody undoes unseen what somebody else did."""
    return {"if-match": f'"{form["revision"]}"'} if form["revision"].isdigit() else {}


def _events() -> list[tuple[str, str]]:
    return [(each.value, EVENTS[each]) for each in EventType]


def _state(webhook: Mapping[str, Any]) -> tuple[str, str]:
    if not webhook["enabled"]:
        return "paused", "plain"
    if webhook["failingSince"] is not None:
        return "cannot be reached", "bad"
    return "on", "good"


def _word(state: str) -> tuple[str, str]:
    return STATES[DeliveryState(state)]


def _took(delivery: Mapping[str, Any]) -> float | None:
    """Seconds from when an event was queued until the last try."""
    if delivery["triedAt"] is None:
        return None
    queued, tried = datetime.fromisoformat(delivery["queuedAt"]), datetime.fromisoformat(delivery["triedAt"])
    return max(0.0, (tried - queued).total_seconds())


def _many(count: int) -> str:
    """A count of the API in words: it stops at some number."""
    return f"{count:,} or more" if count >= _MANY else f"{count:,}"


_MANAGE = Permission.ORGANIZATIONS_MANAGE

PAGES = [
    page("GET", "/webhooks", list_webhooks, _MANAGE),
    page("GET", "/webhooks/new", ask_webhook, _MANAGE),
    page("POST", "/webhooks", create_webhook, _MANAGE),
    page("GET", "/webhooks/{webhook}", show_webhook, _MANAGE),
    page("GET", "/webhooks/{webhook}/edit", ask_changes, _MANAGE),
    page("POST", "/webhooks/{webhook}", change_webhook, _MANAGE),
    page("POST", "/webhooks/{webhook}/enabled", switch_webhook, _MANAGE),
    page("POST", "/webhooks/{webhook}/delete", delete_webhook, _MANAGE),
    page("POST", "/webhooks/{webhook}/test", test_webhook, _MANAGE),
    page("GET", "/webhooks/{webhook}/deliveries/{event}", show_delivery, _MANAGE),
    page("POST", "/webhooks/{webhook}/replay/count", count_replay, _MANAGE),
    page("POST", "/webhooks/{webhook}/replay", replay, _MANAGE),
]
