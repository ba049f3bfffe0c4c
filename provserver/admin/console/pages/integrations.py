"""Pages of networks: the integrations of profiles, their devices there, and what was seen that is none of ours."""

from typing import Any

from provserver.admin.console.page import ApiProblem, Ask, Form, page
from provserver.admin.console.templating import segment
from provserver.admin.messages import Response
from provserver.admin.problem import Malformed
from provserver.core.authorization import Permission
from provserver.core.integration import ClaimProof, NetworkKind, NetworkState
from provserver.core.lorawan import VALID_PAIRS, LorawanVersion, PhyVersion

KINDS = {kind.value: kind.label for kind in NetworkKind}

VERSIONS = [(each.value, "LoRaWAN " + each.removeprefix("MAC_V").replace("_", ".")) for each in LorawanVersion]

PLANS = (
    "EU_863_870_TTN",
    "US_902_928_FSB_2",
    "AU_915_928_FSB_2",
    "AS_923",
    "IN_865_867",
    "KR_920_923_TTN",
    "EU_863_870",
    "CN_470_510_FSB_11",
    "RU_864_870_TTN",
)
"""Ids of frequency plans that are offered; others may be typed."""

CLUSTERS = ("eu1.cloud.thethings.network", "nam1.cloud.thethings.network", "au1.cloud.thethings.network")

PROOFS = [
    (ClaimProof.NONE.value, "Nothing more: whoever has read the code may claim"),
    (ClaimProof.OWNER_TOKEN.value, "The owner token, which is in the code on the label"),
    (ClaimProof.DEVICE.value, "The device itself: it confirms by an uplink"),
]

STATES = [
    (NetworkState.WAITING.value, "Waiting", "A job is to make it in the network."),
    (NetworkState.ONBOARDING.value, "Onboarding", "A job is making it in the network now."),
    (NetworkState.ONBOARDED.value, "Onboarded", "It is in the network."),
    (NetworkState.IMPORTED.value, "Imported", "It was in the network before it was here."),
    (NetworkState.FAILED.value, "Failed", "It could not be made there; see why."),
    (NetworkState.REMOVING.value, "Removing", "A job is removing it from the network."),
    (NetworkState.REMOVED.value, "Removed", "It was removed from the network."),
]

_THERE = ("waiting", "onboarding", "onboarded", "failed", "removing", "imported")

_TEXTS = {
    NetworkKind.THINGS_STACK.value: (
        "frequencyPlan",
        "identityServer",
        "networkServer",
        "joinServer",
        "applicationServer",
        "mqttAddress",
        "mqttUser",
    ),
    NetworkKind.CHIRPSTACK.value: ("address", "deviceProfileId"),
}
"""Settings that are typed, by network."""


async def list_integrations(ask: Ask) -> Response:
    """Every integration, and whether its network answers."""
    found = await ask.api("GET", "/integrations", ask.chosen("cursor"))
    return ask.show("integrations/list.html", found=found, kinds=KINDS)


async def new_integration(ask: Ask) -> Response:
    """Which network, and then its form."""
    network = ask.query.get("network", "")
    if network not in KINDS:
        return ask.show("integrations/choose.html", profile=ask.query.get("profile", ""))
    profiles = await ask.api("GET", "/profiles", {"limit": 500})
    return ask.show(
        "integrations/new.html",
        network=network,
        label=KINDS[network],
        profiles=[(each["id"], each["name"]) for each in profiles["items"]],
        chosen=ask.query.get("profile", ""),
        regions=_regions(LorawanVersion.V1_0_3),
        **_words(),
    )


async def show_regions(ask: Ask) -> Response:
    """The regional parameters that go with a version."""
    return ask.part("integrations/regions_part.html", regions=_regions(ask.query.get("lorawanVersion", "")), value="")


async def create_integration(ask: Ask) -> Response:
    """Have an application serve a profile; its connection is looked at next."""
    form = await ask.form()
    settings: dict[str, Any] = _settings(form, form["network"]) | _switches(form, form["network"])
    if form["network"] == NetworkKind.THINGS_STACK and form["address"]:
        settings["address"] = form["address"]
    body = {
        "profile": form["profile"],
        "network": form["network"],
        "applicationId": form["applicationId"],
        "apiKey": form["apiKey"],
        "settings": {name: value for name, value in settings.items() if value != ""},
        "onboarding": "onboarding" in form,
        "autoImport": "autoImport" in form,
        "lorawanProfileId": form["lorawanProfileId"],
        "claimProof": form["claimProof"] or ClaimProof.NONE,
    }
    made = await ask.api("POST", "/integrations", body=body)
    return ask.go(f"/integrations/{made['id']}", said=f"{KINDS[made['network']]} serves {made['profile']} now.")


async def show_integration(ask: Ask) -> Response:
    """One: how it stands, its settings, and what can be done with it."""
    found = await _found(ask)
    return ask.show("integrations/show.html", check=None, **_about(ask, found))


async def test_integration(ask: Ask) -> Response:
    """What a test of the connection found, as the part of the page that says how it stands."""
    id_ = ask.parameters["id"]
    check = await ask.api("POST", f"/integrations/{id_}/test")
    return ask.part("integrations/connection_part.html", check=check, **_about(ask, await _found(ask)))


async def edit_integration(ask: Ask) -> Response:
    """The form of one that is there."""
    found = await _found(ask)
    return ask.show(
        "integrations/edit.html",
        regions=_regions(found["settings"]["lorawanVersion"]),
        **_about(ask, found),
        **_words(),
    )


async def update_integration(ask: Ask) -> Response:
    """Change what the form has otherwise than it was; an API key that is left empty stays."""
    form, found = await ask.form(), await _found(ask)
    was, settings = found["settings"], _settings(form, found["network"]) | _switches(form, found["network"])
    body: dict[str, Any] = {
        "applicationId": form["applicationId"],
        "settings": {name: value for name, value in settings.items() if value != was.get(name, "")},
        "onboarding": "onboarding" in form,
        "autoImport": "autoImport" in form,
        "lorawanProfileId": form["lorawanProfileId"],
        "claimProof": form["claimProof"],
    }
    if form["apiKey"]:
        body["apiKey"] = form["apiKey"]
    id_ = ask.parameters["id"]
    await ask.api("PATCH", f"/integrations/{id_}", body=body, headers={"if-match": f'"{form["revision"]}"'})
    return ask.go(f"/integrations/{id_}", said="The integration was changed.")


async def delete_integration(ask: Ask) -> Response:
    """Delete one, and forget its devices in the network if the form has said so."""
    form, id_ = await ask.form(), ask.parameters["id"]
    query = {"forget": True} if form["forget"] == "true" else None
    gone = await ask.api("DELETE", f"/integrations/{id_}", query)
    return ask.go("/integrations", said=f"{KINDS[gone['network']]} serves {gone['profile']} no more.")


async def make_webhook(ask: Ask) -> Response:
    """A new secret for uplinks, shown this once with what to paste into the network's console."""
    id_ = ask.parameters["id"]
    made = await ask.api("POST", f"/integrations/{id_}/webhook")
    return ask.show(
        "integrations/webhook.html", made=made, url=_public(ask) + made["path"], **_about(ask, await _found(ask))
    )


async def onboard_all(ask: Ask) -> Response:
    """A job that has all devices of the profile be in the network."""
    begun = await ask.api("POST", f"/integrations/{ask.parameters['id']}/onboard")
    return ask.go(
        f"/jobs/{begun['job']['id']}", said="The job looks at the profile's devices, and queues those that can go."
    )


async def list_devices(ask: Ask) -> Response:
    """The devices of one, by their state in the network."""
    found = await _found(ask)
    devices = await ask.api("GET", f"/integrations/{ask.parameters['id']}/devices", ask.chosen("cursor", "state"))
    return ask.show(
        "integrations/devices.html", devices=devices, state=ask.query.get("state", ""), **_about(ask, found)
    )


async def list_sightings(ask: Ask) -> Response:
    """Devices that the network has told of, and that are none of ours."""
    found = await _found(ask)
    seen = await ask.api("GET", f"/integrations/{ask.parameters['id']}/sightings", ask.chosen("cursor"))
    return ask.show("integrations/sightings.html", seen=seen, **_about(ask, found))


async def import_sighting(ask: Ask) -> Response:
    """Make a device of one that was seen."""
    form = await ask.form()
    made = await ask.api(
        "POST",
        f"/integrations/{ask.parameters['id']}/import",
        body={"networkDeviceId": form["networkDeviceId"]},
    )
    return ask.go(f"/devices/{made['id']}", said=f"The device {made['name']} was made of {form['networkDeviceId']}.")


async def merge_sighting(ask: Ask) -> Response:
    """Have a device of ours be one that was seen."""
    form = await ask.form()
    if not form["device"]:
        raise Malformed("Say which device it is.", [{"in": "body", "field": "device", "reason": "a name or an id"}])
    device = await ask.api("GET", f"/devices/{segment(form['device'])}")
    await ask.api(
        "POST",
        f"/devices/{device['id']}/network/merge",
        body={"networkDeviceId": form["networkDeviceId"], "confirm": "confirm" in form},
    )
    return ask.go(f"/devices/{device['id']}", said=f"{device['name']} is {form['networkDeviceId']} in its network now.")


async def show_network(ask: Ask) -> Response:
    """How one device stands with its network: a part of the device's page."""
    return await _network(ask)


async def onboard_device(ask: Ask) -> Response:
    """Have a device be in its network."""
    form, device = await ask.form(), ask.parameters["device"]
    await ask.api("POST", f"/devices/{device}/network", body={"adopt": "adopt" in form})
    return await _network(ask)


async def leave_network(ask: Ask) -> Response:
    """Remove a device from its network."""
    device = ask.parameters["device"]
    await ask.api("DELETE", f"/devices/{device}/network")
    return ask.go(f"/devices/{device}", said="A job removes the device from its network; it stays here.")


async def replace_hardware(ask: Ask) -> Response:
    """Have a device be other hardware."""
    form, device = await ask.form(), ask.parameters["device"]
    names = ("deviceEui", "applicationKey", "joinEui", "networkKey", "networkDeviceId")
    body = {name: form[name] for name in names if form[name]}
    await ask.api("POST", f"/devices/{device}/network/replace", body=body)
    return ask.go(
        f"/devices/{device}", said="A job makes the new hardware in the network; the former goes on until then."
    )


async def _network(ask: Ask) -> Response:
    device = ask.parameters["device"]
    about = await ask.api("GET", f"/devices/{device}")
    standing = problem = integration = None
    try:
        standing = await ask.api("GET", f"/devices/{device}/network")
    except ApiProblem as fault:
        if fault.status not in (404, 409):
            raise
        problem = fault
    if ask.may(Permission.PROFILES_VIEW):
        serving = (await ask.api("GET", "/integrations", {"profile": about["profileId"]}))["items"]
        integration = serving[0] if serving else None
    return ask.part(
        "integrations/device_part.html",
        device=about,
        standing=standing,
        problem=problem,
        integration=integration,
        kinds=KINDS,
        states=STATES,
    )


async def _found(ask: Ask) -> Any:
    return await ask.api("GET", f"/integrations/{ask.parameters['id']}")


def _about(ask: Ask, found: Any) -> dict[str, Any]:
    """What all pages of one show. there: how many of its devices a deletion would forget."""
    return {
        "found": found,
        "label": KINDS[found["network"]],
        "states": STATES,
        "there": sum(found["devices"].get(state, 0) for state in _THERE),
        "proofs": dict(PROOFS),
        "versions": dict(VERSIONS),
        "region": _region(PhyVersion(phy)) if (phy := found["settings"].get("regionalParameters")) else "",
        "manages": ask.may(Permission.PROFILES_MANAGE),
    }


def _words() -> dict[str, Any]:
    """What the forms offer."""
    return {"lorawan": VERSIONS, "plans": PLANS, "clusters": CLUSTERS, "claim_proofs": PROOFS}


def _regions(version: str) -> list[tuple[str, str]]:
    """Regional parameters to choose from; one alone needs no choice."""
    if version not in dict(VERSIONS):
        return []
    pairs = VALID_PAIRS[LorawanVersion(version)]
    return [(each.value, _region(each)) for each in PhyVersion if each in pairs]


def _region(phy: PhyVersion) -> str:
    """`RP002-1.0.3`, or `1.0.2 revision B`, as people call it."""
    if phy.startswith("RP002"):
        return "RP002-" + phy.removeprefix("RP002_V").replace("_", ".")
    version, _, revision = phy.removeprefix("PHY_V").partition("_REV_")
    return version.replace("_", ".") + (f" revision {revision}" if revision else "")


def _settings(form: Form, network: str) -> dict[str, Any]:
    """Settings that were typed or chosen."""
    names = ("lorawanVersion", *_TEXTS.get(network, ()))
    found: dict[str, Any] = {name: form[name] for name in names if name in form}
    if network == NetworkKind.THINGS_STACK and form["regionalParameters"]:
        found["regionalParameters"] = form["regionalParameters"]
    return found


def _switches(form: Form, network: str) -> dict[str, Any]:
    if network != NetworkKind.THINGS_STACK:
        return {}
    return {"classB": "classB" in form, "classC": "classC" in form}


def _public(ask: Ask) -> str:
    """Where devices and networks reach the server, as far as it is known here: HTTPS before HTTP."""
    for scheme, usual in (("https", 443), ("http", 80)):
        if scheme in ask.addresses:
            _, port = ask.addresses[scheme]
            host = f"[{ask.host}]" if ":" in ask.host else ask.host
            return f"{scheme}://{host}" + ("" if port == usual else f":{port}")
    return "https://YOUR-SERVER"


_VIEW, _MANAGE, _DEVICES = Permission.PROFILES_VIEW, Permission.PROFILES_MANAGE, Permission.DEVICES_MANAGE

PAGES = [
    page("GET", "/integrations", list_integrations, _VIEW),
    page("POST", "/integrations", create_integration, _MANAGE),
    page("GET", "/integrations/new", new_integration, _MANAGE),
    page("GET", "/integrations/new/regions", show_regions, _MANAGE),
    page("GET", "/integrations/{id}", show_integration, _VIEW),
    page("GET", "/integrations/{id}/edit", edit_integration, _MANAGE),
    page("POST", "/integrations/{id}", update_integration, _MANAGE),
    page("POST", "/integrations/{id}/delete", delete_integration, _MANAGE),
    page("POST", "/integrations/{id}/test", test_integration, _MANAGE),
    page("POST", "/integrations/{id}/webhook", make_webhook, _MANAGE),
    page("POST", "/integrations/{id}/onboard", onboard_all, _DEVICES),
    page("GET", "/integrations/{id}/devices", list_devices, _VIEW),
    page("GET", "/integrations/{id}/sightings", list_sightings, Permission.DEVICES_VIEW),
    page("POST", "/integrations/{id}/import", import_sighting, _DEVICES),
    page("POST", "/integrations/{id}/merge", merge_sighting, _DEVICES),
    page("GET", "/devices/{device}/network", show_network, Permission.DEVICES_VIEW),
    page("POST", "/devices/{device}/network", onboard_device, _DEVICES),
    page("POST", "/devices/{device}/network/leave", leave_network, _DEVICES),
    page("POST", "/devices/{device}/network/replace", replace_hardware, _DEVICES),
]
