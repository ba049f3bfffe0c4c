"""Devices: listed and found, made by hand, and each on pages of its own. What is done to them: `device_acts.py`."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from provserver.admin.console.page import ApiProblem, Ask, Form, page
from provserver.admin.console.snippets import places
from provserver.admin.messages import Response
from provserver.core.attributes import METADATA, Scope
from provserver.core.authorization import Permission
from provserver.core.definitions import SECRET_TYPES
from provserver.core.lorawan import SECRETS
from provserver.core.metadata import TYPES

FILTERS = ("profile", "organization", "online", "claimed", "provisioned", "quarantined", "suspected")
"""Members of the query by which devices are chosen."""

FIELD = "metadata."
"""What the names of inputs begin with that hold metadata."""

PAGE = 50

INPUTS: Mapping[str, str] = {"number": "text", "integer": "text", "email": "email", "phone": "tel", "url": "url"}
"""Inputs of metadata fields, where they are not plain text."""


async def list_devices(ask: Ask) -> Response:
    """Devices, those that fit, the newest first."""
    chosen = ask.chosen("search", "cursor", *FILTERS)
    state = ask.query.get("state", "")
    found = await ask.api("GET", "/devices", {"limit": PAGE, "newest": True, **chosen, **_state(state)})
    filtered = bool(state) or any(name != "cursor" for name in chosen)
    return ask.show(
        "devices/list.html",
        found=found,
        filtered=filtered,
        chosen=chosen | {"state": state},
        profiles=await profiles(ask),
        manages=ask.may(Permission.DEVICES_MANAGE),
    )


async def choose_profile(ask: Ask) -> Response:
    """A device to be: of which profile, and what its fields hold."""
    known = await profiles(ask)
    wanted = ask.query.get("profile", "").strip()
    chosen = next((each for each in known if wanted in (each["id"], each["name"], each["templateId"])), None)
    if chosen is None and len(known) == 1:
        chosen = known[0]
    fields = fields_of(chosen["metadataFields"], {}) if chosen else []
    if ask.is_part and ask.request.headers.get("hx-target") == "fields":
        return ask.part("devices/fields_part.html", fields=fields, profile=chosen)
    return ask.show("devices/new.html", profiles=known, profile=chosen, fields=fields)


async def create_device(ask: Ask) -> Response:
    """Make a device, and show its token this once."""
    form = await ask.form()
    body: dict[str, object] = {"name": form["name"], "profile": form["profile"], "gateway": "gateway" in form}
    metadata = {name: value for name, value in filled_in(form).items() if value}
    if metadata:
        body["metadata"] = metadata
    match form["credentials"]:
        case "token":
            body["token"] = form["token"]
        case "basic":
            body |= {"clientId": form["clientId"], "username": form["username"], "password": form.raw("password")}
        case "certificate":
            body["certificate"] = form.raw("certificate")
    made = await ask.api("POST", "/devices", body=body)
    token = made["accessToken"]
    return ask.show("devices/created.html", device=made, lines=lines(ask, token) if token else [])


async def show_device(ask: Ask) -> Response:
    """One device: what it is, how it stands, what may be done with it."""
    device = await found(ask)
    profile = await profile_of(ask, device)
    return ask.show(
        "devices/show.html",
        device=device,
        profile=profile,
        metadata=fields_of(profile["metadataFields"] if profile else [], metadata_of(device)),
        mine=is_mine(ask, device),
    )


async def show_live(ask: Ask) -> Response:
    """Whether a device is online, again."""
    return ask.part("devices/live_part.html", device=await found(ask))


async def show_timeline(ask: Ask) -> Response:
    """What happened to a device."""
    device = await found(ask)
    entries = await ask.api("GET", f"/devices/{device['id']}/timeline", {"limit": PAGE, **ask.chosen("cursor")})
    return ask.show("devices/timeline.html", device=device, entries=entries)


async def show_data(ask: Ask) -> Response:
    """What a device has sent, and its attributes."""
    device = await found(ask)
    by_scope: dict[str, list[Any]] = {scope: [] for scope in Scope}
    for each in device["attributes"]:
        if not (each["scope"] == Scope.SERVER and each["key"].startswith(METADATA)):
            by_scope[each["scope"]].append(each)
    return ask.show("devices/data.html", device=device, attributes=by_scope)


async def show_credentials(ask: Ask) -> Response:
    """What a device authenticates with, without what is secret of it."""
    return ask.show("devices/credentials.html", device=await found(ask), opened=None)


async def edit_device(ask: Ask) -> Response:
    """A device's name and metadata, to be changed."""
    device = await found(ask)
    profile = await profile_of(ask, device)
    known = fields_of(profile["metadataFields"] if profile else [], metadata_of(device))
    return ask.show("devices/edit.html", device=device, profile=profile, fields=known)


async def found(ask: Ask) -> dict[str, Any]:
    """The device that the path names."""
    device: dict[str, Any] = await ask.api("GET", f"/devices/{ask.parameters['device']}")
    for each in device["telemetry"]:
        each["at"] = datetime.fromtimestamp(each["ts"] / 1000, UTC)
    return device


async def profiles(ask: Ask) -> list[dict[str, Any]]:
    """The profiles of the organization, for choosing; none for who may not see them."""
    if not ask.may(Permission.PROFILES_VIEW):
        return []
    listed: list[dict[str, Any]] = (await ask.api("GET", "/profiles", {"limit": 500, "counts": False}))["items"]
    return sorted(listed, key=lambda each: each["name"].casefold())


async def profile_of(ask: Ask, device: Mapping[str, Any]) -> dict[str, Any] | None:
    """A device's profile; None for who may not see it, as those below its maker."""
    if device["makerId"] is None or not ask.may(Permission.PROFILES_VIEW):
        return None
    query = {} if device["makerId"] == _here(ask) else {"organization": device["makerId"]}
    try:
        profile: dict[str, Any] = await ask.api("GET", f"/profiles/{device['profileId']}", query)
    except ApiProblem as problem:
        if problem.status in (403, 404):
            return None
        raise
    return profile


def metadata_of(device: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a device's metadata, by field, as people write them."""
    return {
        each["key"].removeprefix(METADATA): _text(each["value"])
        for each in device["attributes"]
        if each["scope"] == Scope.SERVER and each["key"].startswith(METADATA)
    }


def fields_of(known: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a form needs of metadata fields: those of a profile, then values that are of none."""
    made = []
    for each in known:
        kind, value = each["type"], values.get(each["name"], "")
        options = [("", "–"), *((option, option) for option in each["options"])]
        if kind == "list" and value and value not in each["options"]:
            options.append((value, f"{value} (no option any more)"))
        hint = "One of the options." if kind == "list" else f"{TYPES.get(kind, 'text')[0].upper()}{TYPES[kind][1:]}."
        if each["default"]:
            hint += f" Left empty: {each['default']}."
        if each["unique"]:
            hint += " Static tokens have each another one; of devices made by hand nobody compares it."
        made.append(
            {
                "name": each["name"],
                "input": FIELD + each["name"],
                "type": kind,
                "kind": INPUTS.get(kind, "text"),
                "options": options,
                "secret": kind in SECRET_TYPES or each["name"] in SECRETS,
                "unique": each["unique"],
                "default": each["default"],
                "hint": hint,
                "value": value,
                "of_profile": True,
            }
        )
    names = {each["name"] for each in known}
    for name, value in values.items():
        if name not in names:
            made.append({"name": name, "value": value, "secret": name in SECRETS, "of_profile": False})
    return made


def filled_in(form: Form) -> dict[str, str]:
    """The metadata that a form has, by field."""
    return {name.removeprefix(FIELD): form[name] for name in form.names() if name.startswith(FIELD)}


def is_mine(ask: Ask, device: Mapping[str, Any]) -> bool:
    """Whether whoever looks is the one who owns a device."""
    user = ask.signed_in["user"]
    return user is not None and device["ownerId"] == user["id"]


def lines(ask: Ask, token: str) -> list[tuple[str, str]]:
    """What is typed in a shell to send a first value with a token, by protocol, for the listeners that are on."""
    at = places(ask.addresses, ask.host)
    made = []
    for name in ("http", "https"):
        if name in at:
            url = shlex.quote(f"{name}://{at[name].authority}/api/v1/{token}/telemetry")
            ca = " --cacert ca.pem" if name == "https" and ask.authority else ""
            made.append(
                ("curl", f"curl -sS{ca} {url} -H 'Content-Type: application/json' -d '{{\"temperature\": 21.5}}'")
            )
            break
    for name in ("mqtt", "mqtts"):
        if name in at:
            host, port = shlex.quote(at[name].host), at[name].port
            ca = "" if name == "mqtt" else " --cafile ca.pem" if ask.authority else " --tls-use-os-certs"
            topic = "v1/devices/me/telemetry"
            line = f"mosquitto_pub -h {host} -p {port}{ca} -q 1 -u {token} -t {topic} -m '{{\"temperature\": 21.5}}'"
            made.append(("mosquitto", line))
            break
    if "coap" in at:
        url = shlex.quote(f"coap://{at['coap'].authority}/api/v1/{token}/telemetry")
        made.append(
            ("coap-client", f"printf '{{\"temperature\": 21.5}}' | coap-client-notls -m post -t json -f - {url}")
        )
    return made


def _state(state: str) -> dict[str, bool]:
    """What the choice of a state asks the API for."""
    name, _, value = state.partition(":")
    return {name: value != "no"} if name in FILTERS[2:] else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _here(ask: Ask) -> str | None:
    """The organization that is looked at."""
    if ask.organization is not None:
        return str(ask.organization["id"])
    return None if ask.session is None else str(ask.session["organizationId"])


_VIEW = Permission.DEVICES_VIEW

PAGES = [
    page("GET", "/devices", list_devices, _VIEW),
    page("GET", "/devices/new", choose_profile, Permission.DEVICES_CREATE),
    page("POST", "/devices", create_device, Permission.DEVICES_CREATE),
    page("GET", "/devices/{device}", show_device, _VIEW),
    page("GET", "/devices/{device}/live", show_live, _VIEW),
    page("GET", "/devices/{device}/timeline", show_timeline, _VIEW),
    page("GET", "/devices/{device}/data", show_data, _VIEW),
    page("GET", "/devices/{device}/credentials", show_credentials, _VIEW),
    page("GET", "/devices/{device}/edit", edit_device, Permission.DEVICES_MANAGE),
]
