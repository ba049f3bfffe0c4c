"""What is done to devices: to one on its pages, to many that were selected in the list."""

from typing import Any

import msgspec

from provserver.admin.console.page import Ask, Form, page
from provserver.admin.console.pages.devices import filled_in, found, metadata_of
from provserver.admin.messages import Response
from provserver.admin.problem import Malformed
from provserver.core.authorization import Permission

ACTS: dict[str, tuple[str, str, str]] = {
    "revoke": (
        "Revoke credentials",
        (
            "Their credentials are good no more, and their connections are cut. They get new ones only by provisioning "
            "again: rearm them for that."
        ),
        "were revoked",
    ),
    "rotate": (
        "Rotate credentials",
        "Each gets a new token. The present one stays good until the new one is used first, or the overlap is over.",
        "were rotated",
    ),
    "rearm": ("Rearm", "Each may provision itself once more, with fresh credentials.", "were rearmed"),
    "quarantine": (
        "Quarantine",
        "Nobody is let in with their credentials until they are released. Live connections are cut.",
        "were put into quarantine",
    ),
    "release": ("Release", "They are let in again with the credentials that they have.", "were released"),
    "transfer": ("Transfer", "Another organization or user has them from then on.", "were transferred"),
    "delete": (
        "Delete",
        (
            "Their credentials, attributes, telemetry and history are lost. Those of a static token come back "
            "unclaimed when they connect again."
        ),
        "were deleted",
    ),
}
"""What may be done to many: what it is called, what comes of it, and what is said when it was done."""

OVERLAPS = (("604800", "7 days"), ("86400", "1 day"), ("3600", "1 hour"), ("0", "none: at once"))


async def update_device(ask: Ask) -> Response:
    """Another name, other metadata: what the form has otherwise than it was."""
    form, device = await ask.form(), await found(ask)
    was = metadata_of(device)
    kept = set(form.all("keep"))  # a key that was not typed anew stays
    body: dict[str, object] = {"name": form["name"]} if form["name"] not in ("", device["name"]) else {}
    metadata = {
        name: value or None
        for name, value in filled_in(form).items()
        if value != was.get(name, "") and (value or name not in kept)
    }
    if metadata:
        body["metadata"] = metadata
    if not body:
        return ask.go(f"/devices/{device['id']}", said=f"{device['name']} stays as it was: nothing is otherwise.")
    device = await ask.api("PATCH", _path(ask), body=body, headers=_revision(form))
    return ask.go(f"/devices/{device['id']}", said=f"{device['name']} was changed.")


async def write_attribute(ask: Ask) -> Response:
    """Write one attribute, or remove it."""
    form = await ask.form()
    scope, key = form["scope"], form["key"]
    if scope not in ("shared", "server"):
        raise Malformed("Attributes of the scope shared or server can be written here.")
    body: dict[str, object]
    if "remove" in form:
        body = {"deleteShared" if scope == "shared" else "deleteServer": [key]}
    else:
        body = {scope: {key: value(form["value"])}}
    device = await ask.api("PATCH", _path(ask), body=body)
    said = f"{key} was {'removed' if 'remove' in form else 'written'}."
    return ask.go(f"/devices/{device['id']}/data", said=said)


async def reveal_credentials(ask: Ask) -> Response:
    """Credentials in clear: the audit keeps that they were shown."""
    device = await ask.api("GET", _path(ask), {"credentials": True})
    return ask.show("devices/credentials.html", device=device, opened=True)


async def rotate_device(ask: Ask) -> Response:
    """Credentials that give way, and the token that follows, which is shown this once."""
    form = await ask.form()
    overlap = form.number("overlap")
    body = {} if overlap is None else {"overlap": overlap}
    rotated = await ask.api("POST", f"{_path(ask)}/rotate", body=body)
    return ask.show("devices/rotated.html", rotated=rotated, device=rotated["device"])


async def revoke_device(ask: Ask) -> Response:
    """Credentials that are good no more."""
    return await _done(ask, "revoke", "The credentials of {name} were revoked.", to="/credentials")


async def rearm_device(ask: Ask) -> Response:
    """A device that may provision itself once more."""
    return await _done(ask, "rearm", "{name} may provision itself once more.", to="/credentials")


async def erase_data(ask: Ask) -> Response:
    """A device without what it has sent."""
    return await _done(ask, "erase-data", "What {name} had sent was erased.", to="/data")


async def quarantine_device(ask: Ask) -> Response:
    """A device that nobody is let in as."""
    form = await ask.form()
    body = {"reason": form["reason"]}
    return await _done(ask, "quarantine", "{name} is in quarantine.", body)


async def release_device(ask: Ask) -> Response:
    """A device out of quarantine; its new token, if it gets one, is shown this once."""
    form = await ask.form()
    released = await ask.api("POST", f"{_path(ask)}/release", body={"rotate": "rotate" in form})
    device, token = released["device"], released["accessToken"]
    if token is None:
        return ask.go(f"/devices/{device['id']}", said=f"{device['name']} is out of quarantine.")
    rotated = {"credentialsType": "ACCESS_TOKEN", "credentialsValue": token, "expireAt": None}
    return ask.show("devices/rotated.html", rotated=rotated, device=device)


async def ask_transfer(ask: Ask) -> Response:
    """Who is to have a device."""
    return ask.show("devices/transfer.html", device=await found(ask), **await recipients(ask))


async def transfer_device(ask: Ask) -> Response:
    """A device that somebody else has."""
    form = await ask.form()
    device = await ask.api("POST", f"{_path(ask)}/transfer", body=_recipient(form) | {"keepData": "keep" in form})
    whom = f"{device['owner']} of {device['holder']}" if device["owner"] else device["holder"]
    return ask.go(f"/devices/{device['id']}", said=f"{device['name']} is now with {whom}.")


async def delete_device(ask: Ask) -> Response:
    """A device that is gone; below its maker: given back."""
    form = await ask.form()
    query = {"fromNetwork": True} if "network" in form else {}
    device = await ask.api("DELETE", _path(ask), query)
    given_back = "back" in form
    said = f"{device['name']} was given back." if given_back else f"{device['name']} was deleted."
    return ask.go("/devices", said=said)


async def ask_for_many(ask: Ask) -> Response:
    """Whether that is to be done to the selected devices, by name."""
    form = await ask.form()
    act, chosen = form["act"], _selected(form)
    if act not in ACTS:
        raise Malformed("Choose what to do with the selected devices.", [_error("act", "choose one")])
    if not chosen:
        raise Malformed("Select devices first: tick them in the list.", [_error("device", "none is selected")])
    more = await recipients(ask) if act == "transfer" else {}
    name, text, _ = ACTS[act]
    return ask.show("devices/many.html", act=act, title=name, text=text, devices=chosen, overlaps=OVERLAPS, **more)


async def act_on_many(ask: Ask) -> Response:
    """What came of it, device by device."""
    form = await ask.form()
    act, chosen = form["act"], _selected(form)
    if act not in ACTS:
        raise Malformed("Choose what to do with the selected devices.", [_error("act", "choose one")])
    body: dict[str, object] = {"act": act, "devices": [id_ for id_, _ in chosen]}
    if act == "quarantine":
        body["reason"] = form["reason"]
    elif act == "rotate" and (overlap := form.number("overlap")) is not None:
        body["overlap"] = overlap
    elif act == "release":
        body["rotate"] = "rotate" in form
    elif act == "delete":
        body["fromNetwork"] = "network" in form
    elif act == "transfer":
        body |= _recipient(form) | {"keepData": "keep" in form}
    came = await ask.api("POST", "/devices/bulk", body=body)
    names = dict(chosen)
    outcomes = [{**each, "name": each["name"] or names.get(each["id"], each["id"])} for each in came["outcomes"]]
    return ask.show("devices/came.html", act=act, done=came["done"], outcomes=outcomes, said_of=ACTS[act][2])


async def recipients(ask: Ask) -> dict[str, Any]:
    """Organizations and users that may get devices, as far as whoever asks may see them: the first of many."""
    organizations: list[tuple[str, str]] = []
    users: list[dict[str, Any]] = []
    if ask.may(Permission.ORGANIZATIONS_VIEW):
        listed = (await ask.api("GET", "/organizations", {"limit": 500}))["items"]
        organizations = [(each["id"], each["name"]) for each in listed]
    if ask.may(Permission.USERS_VIEW):
        users = (await ask.api("GET", "/users", {"limit": 500}))["items"]
    return {"organizations": organizations, "users": users}


def value(text: str) -> object:
    """An attribute's value as a person wrote it: JSON, or else text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text


async def _done(ask: Ask, verb: str, said: str, body: object = None, to: str = "") -> Response:
    device = await ask.api("POST", f"{_path(ask)}/{verb}", body=body)
    return ask.go(f"/devices/{device['id']}{to}", said=said.format(name=device["name"]))


def _path(ask: Ask) -> str:
    return f"/devices/{ask.parameters['device']}"


def _revision(form: Form) -> dict[str, str]:
    return {"if-match": f'"{form["revision"]}"'} if form["revision"].isdecimal() else {}


def _recipient(form: Form) -> dict[str, object]:
    """Who is to have devices: a user, if one was named, else an organization."""
    if form["user"]:
        return {"user": form["user"]}
    return {"organization": form["organization"]} if form["organization"] else {}


def _selected(form: Form) -> list[tuple[str, str]]:
    """The devices that were ticked: id and name."""
    pairs = (each.partition(" ") for each in form.all("device"))
    return list(dict.fromkeys((id_, name or id_) for id_, _, name in pairs))


def _error(field: str, reason: str) -> dict[str, object]:
    return {"in": "body", "field": field, "reason": reason}


_MANAGE = Permission.DEVICES_MANAGE

PAGES = [
    page("POST", "/devices/many", ask_for_many, _MANAGE),
    page("POST", "/devices/many/do", act_on_many, _MANAGE),
    page("POST", "/devices/{device}/edit", update_device, _MANAGE),
    page("POST", "/devices/{device}/attributes", write_attribute, _MANAGE),
    page("POST", "/devices/{device}/reveal", reveal_credentials, _MANAGE),
    page("POST", "/devices/{device}/rotate", rotate_device, _MANAGE),
    page("POST", "/devices/{device}/revoke", revoke_device, _MANAGE),
    page("POST", "/devices/{device}/rearm", rearm_device, _MANAGE),
    page("POST", "/devices/{device}/erase", erase_data, _MANAGE),
    page("POST", "/devices/{device}/quarantine", quarantine_device, _MANAGE),
    page("POST", "/devices/{device}/release", release_device, _MANAGE),
    page("GET", "/devices/{device}/transfer", ask_transfer, Permission.DEVICES_TRANSFER),
    page("POST", "/devices/{device}/transfer", transfer_device, Permission.DEVICES_TRANSFER),
    page("POST", "/devices/{device}/delete", delete_device, Permission.DEVICES_VIEW),
]
