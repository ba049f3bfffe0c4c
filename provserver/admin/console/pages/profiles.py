"""Device profiles: what devices of one kind have in common."""

from typing import Any

from provserver.admin.console import profile_form as forms
from provserver.admin.console.page import Ask, page
from provserver.admin.console.snippets import Snippet, Subject, places, snippets
from provserver.admin.messages import Response
from provserver.core.authorization import Permission
from provserver.core.model import ProvisionStrategy, ReprovisionPolicy

CHAIN = ProvisionStrategy.X509_CERTIFICATE_CHAIN


async def list_profiles(ask: Ask) -> Response:
    """The profiles, by name."""
    found = await ask.api("GET", "/profiles", ask.chosen("cursor", "search"))
    return ask.show("profiles/list.html", found=found, strategies=forms.STRATEGIES)


async def ask_profile(ask: Ask) -> Response:
    """The form for a profile to be."""
    return ask.show("profiles/new.html", profile=None, **_choices())


async def create_profile(ask: Ask) -> Response:
    """Make one, with its first key; the secret is shown this once."""
    form = await ask.form()
    body = forms.settings(form) | {"metadataFields": forms.fields(form), "datastreams": forms.datastreams(form)}
    if form["strategy"] == CHAIN:
        body |= forms.naming(form) | {"authorities": forms.files(form["authorities"])}
        if crls := forms.files(form["crls"]):
            body["crls"] = crls
    if form["key"] == "none" or form["strategy"] == CHAIN:
        body["keyless"] = True
    elif form["key"] == "own":
        body |= {
            "provisionDeviceKey": form["provisionDeviceKey"],
            "provisionDeviceSecret": form["provisionDeviceSecret"],
        }
    made = await ask.api("POST", "/profiles", body=body)
    if made["provisionDeviceSecret"] is None:
        return ask.go(f"/profiles/{made['id']}", said=f"The profile {made['name']} was created.")
    shown = filled(ask, made, made["provisionDeviceKey"], made["provisionDeviceSecret"])
    return ask.show("profiles/created.html", profile=made, snippets=shown)


async def show_profile(ask: Ask) -> Response:
    """One, with what it has."""
    profile = await details(ask)
    return ask.show("profiles/show.html", profile=profile, **_choices())


async def ask_settings(ask: Ask) -> Response:
    """The form for its settings."""
    profile = await details(ask)
    lifetime, unit = forms.lifetime_shown(profile["credentialsLifetime"])
    return ask.show("profiles/settings.html", profile=profile, lifetime=lifetime, unit=unit, **_choices())


async def change_settings(ask: Ask) -> Response:
    """Change them."""
    changed = await _patch(ask, forms.settings(await ask.form()))
    return ask.go(f"/profiles/{changed['id']}", said="The settings are saved: they hold from the next request on.")


async def ask_fields(ask: Ask) -> Response:
    """The form for its metadata fields."""
    profile = await details(ask)
    return ask.show("profiles/fields.html", profile=profile, rows=forms.field_rows(profile), **_choices())


async def change_fields(ask: Ask) -> Response:
    """Change them, as a whole."""
    changed = await _patch(ask, {"metadataFields": forms.fields(await ask.form())})
    return ask.go(f"/profiles/{changed['id']}", said="The metadata fields are saved.")


async def ask_datastreams(ask: Ask) -> Response:
    """The form for its datastreams."""
    return ask.show("profiles/datastreams.html", profile=await details(ask), **_choices())


async def change_datastreams(ask: Ask) -> Response:
    """Change them, as a whole."""
    changed = await _patch(ask, {"datastreams": forms.datastreams(await ask.form())})
    return ask.go(f"/profiles/{changed['id']}", said="The datastreams are saved.")


async def clone_profile(ask: Ask) -> Response:
    """Make another like it."""
    body = {"name": (await ask.form())["name"]}
    made = await ask.api("POST", f"/profiles/{ask.parameters['profile']}/clone", body=body)
    said = f"{made['name']} is a copy without provision keys and CAs: add its own."
    return ask.go(f"/profiles/{made['id']}", said=said)


async def delete_profile(ask: Ask) -> Response:
    """Delete one that has neither devices nor static tokens."""
    form = await ask.form()
    gone = await ask.api("DELETE", f"/profiles/{ask.parameters['profile']}", headers=_revision(form["revision"]))
    return ask.go("/profiles", said=f"The profile {gone['name']} was deleted.")


async def export_profile(ask: Ask) -> Response:
    """A profile as a file."""
    return await ask.pass_on("GET", f"/profiles/{ask.parameters['profile']}/export.toml")


async def ask_import(ask: Ask) -> Response:
    """The form for a file."""
    return ask.show("profiles/import.html")


async def import_profile(ask: Ask) -> Response:
    """Show what a file would make, or make it."""
    form = await ask.form()
    body = {"toml": form.raw("toml"), "acceptUnprovenRepeats": form["accept"] == "on", "dryRun": form["make"] != "yes"}
    if name := form.optional("name"):
        body["name"] = name
    made = await ask.api("POST", "/profiles/import", body=body)
    if body["dryRun"]:
        return ask.show("profiles/import_preview.html", profile=made, given=form, **_choices())
    return ask.go(f"/profiles/{made['id']}/keys", said=f"The profile {made['name']} was made. Add its provision key.")


async def show_firmware(ask: Ask) -> Response:
    """What to paste into shells and firmware."""
    profile = await details(ask)
    keys = [each["provisionDeviceKey"] for each in profile["keys"]]
    chosen = ask.query.get("key", "")
    key = keys[int(chosen) - 1] if chosen.isdecimal() and 0 < int(chosen) <= len(keys) else next(iter(keys), None)
    secure = ask.query.get("over") == "tls"
    device = ask.query.get("device", "").strip() or None
    shown = filled(ask, profile, key, None, device=device, secure=secure)
    return ask.show(
        "profiles/firmware.html", profile=profile, snippets=shown, keys=keys, key=key, device=device, secure=secure
    )


async def details(ask: Ask) -> Any:
    """The profile that the path names. Raises ApiProblem."""
    return await ask.api("GET", f"/profiles/{ask.parameters['profile']}")


def filled(
    ask: Ask, profile: Any, key: str | None, secret: str | None, *, device: str | None = None, secure: bool = False
) -> list[Snippet]:
    """The snippets of a profile for the listeners of this server."""
    strategy = ProvisionStrategy(profile["strategy"])
    subject = Subject(profile["name"], strategy, key, secret, device, ask.authority)
    return snippets(places(ask.addresses, ask.host), subject, secure=secure)


async def _patch(ask: Ask, body: dict[str, Any]) -> Any:
    """Change a profile, unless somebody has changed it since the form was loaded. Raises ApiProblem."""
    revision = (await ask.form())["revision"]
    return await ask.api("PATCH", f"/profiles/{ask.parameters['profile']}", body=body, headers=_revision(revision))


def _revision(text: str) -> dict[str, str]:
    return {"if-match": f'"{text}"'} if text.isdecimal() else {}


def _choices() -> dict[str, Any]:
    return {
        "strategies": forms.STRATEGIES,
        "policies": forms.POLICIES,
        "clones": forms.CLONES,
        "names_from": forms.NAMES_FROM,
        "units": forms.UNITS,
        "field_types": forms.FIELD_TYPES_SHOWN,
        "stream_types": forms.STREAM_TYPES_SHOWN,
        "deny": ReprovisionPolicy.DENY,
        "chain": CHAIN,
    }


_VIEW, _MANAGE = Permission.PROFILES_VIEW, Permission.PROFILES_MANAGE

PAGES = [
    page("GET", "/profiles", list_profiles, _VIEW),
    page("GET", "/profiles/new", ask_profile, _MANAGE),
    page("POST", "/profiles", create_profile, _MANAGE),
    page("GET", "/profiles/import", ask_import, _MANAGE),
    page("POST", "/profiles/import", import_profile, _MANAGE),
    page("GET", "/profiles/{profile}", show_profile, _VIEW),
    page("GET", "/profiles/{profile}/settings", ask_settings, _MANAGE),
    page("POST", "/profiles/{profile}/settings", change_settings, _MANAGE),
    page("GET", "/profiles/{profile}/fields", ask_fields, _MANAGE),
    page("POST", "/profiles/{profile}/fields", change_fields, _MANAGE),
    page("GET", "/profiles/{profile}/datastreams", ask_datastreams, _MANAGE),
    page("POST", "/profiles/{profile}/datastreams", change_datastreams, _MANAGE),
    page("GET", "/profiles/{profile}/firmware", show_firmware, _VIEW),
    page("GET", "/profiles/{profile}/export.toml", export_profile, _VIEW),
    page("POST", "/profiles/{profile}/clone", clone_profile, _MANAGE),
    page("POST", "/profiles/{profile}/delete", delete_profile, _MANAGE),
]
