"""The provision keys of a profile: what bounds them, how they are used, and replacing one without a gap."""

import re
from collections.abc import Mapping
from typing import Any

from provserver.admin.console.moments import sent
from provserver.admin.console.page import Ask, Form, page
from provserver.admin.console.pages.profiles import details, filled
from provserver.admin.console.templating import segment
from provserver.admin.messages import Response
from provserver.core.authorization import Permission
from provserver.core.model import MAX_USES


async def list_keys(ask: Ask) -> Response:
    """The keys, oldest first."""
    return ask.show("profiles/keys.html", profile=await details(ask), any_number=MAX_USES)


async def add_key(ask: Ask) -> Response:
    """Add one; the secret is shown this once."""
    form = await ask.form()
    body = _bounds(form) | {
        name: value for name in ("provisionDeviceKey", "provisionDeviceSecret") if (value := form.optional(name))
    }
    return await _added(ask, body)


async def bound_key(ask: Ask) -> Response:
    """Bound one anew."""
    form = await ask.form()
    await _set(ask, form["key"], _bounds(form))
    return ask.go(_path(ask), said="The bounds of the key are saved: they hold from the next request on.")


async def replace_key(ask: Ask) -> Response:
    """Add one beside another, with the same bounds, and have the uses of both counted."""
    old_key = (await ask.form())["key"]
    profile = await details(ask)
    old = next((each for each in profile["keys"] if each["provisionDeviceKey"] == old_key), None)
    if old is None:
        return ask.go(_path(ask), said="This key was removed meanwhile. Add one where you need it.")
    if old["maxUses"] is None:
        await _set(ask, old_key, _kept(old) | {"maxUses": MAX_USES})
    made = _kept(old) | {"maxUses": MAX_USES, "notBefore": None, "notAfter": None}
    return await _added(ask, made, replaces=old_key)


async def remove_key(ask: Ask) -> Response:
    """Remove one: from here on it provisions nothing."""
    key = (await ask.form())["key"]
    await ask.api("DELETE", f"/profiles/{ask.parameters['profile']}/keys/{segment(key)}")
    return ask.go(_path(ask), said="The key was removed: it provisions nothing any more.")


async def _added(ask: Ask, body: Mapping[str, Any], replaces: str | None = None) -> Response:
    pair = await ask.api("POST", f"/profiles/{ask.parameters['profile']}/keys", body=body)
    profile = await details(ask)
    shown = filled(ask, profile, pair["provisionDeviceKey"], pair["provisionDeviceSecret"])
    return ask.show("profiles/key_added.html", profile=profile, pair=pair, snippets=shown, replaces=replaces)


async def _set(ask: Ask, key: str, bounds: Mapping[str, Any]) -> None:
    await ask.api("PUT", f"/profiles/{ask.parameters['profile']}/keys/{segment(key)}/budget", body=bounds)


def _kept(key: Mapping[str, Any]) -> dict[str, Any]:
    """The bounds of a key as they are."""
    return {name: key[name] for name in ("notBefore", "notAfter", "networks", "maxUses", "perMinute")}


def _bounds(form: Form) -> dict[str, Any]:
    max_uses = form.number("maxUses")
    if max_uses is None and form["counted"] == "on":
        max_uses = MAX_USES
    return {
        "notBefore": sent(form["notBefore"]) or None,
        "notAfter": sent(form["notAfter"]) or None,
        "networks": [each for each in re.split(r"[\s,;]+", form["networks"]) if each],
        "maxUses": max_uses,
        "perMinute": form.number("perMinute"),
    }


def _path(ask: Ask) -> str:
    return f"/profiles/{ask.parameters['profile']}/keys"


_VIEW, _MANAGE = Permission.PROFILES_VIEW, Permission.PROFILES_MANAGE

PAGES = [
    page("GET", "/profiles/{profile}/keys", list_keys, _VIEW),
    page("POST", "/profiles/{profile}/keys", add_key, _MANAGE),
    page("POST", "/profiles/{profile}/keys/bounds", bound_key, _MANAGE),
    page("POST", "/profiles/{profile}/keys/replacement", replace_key, _MANAGE),
    page("POST", "/profiles/{profile}/keys/removal", remove_key, _MANAGE),
]
