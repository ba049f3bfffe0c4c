"""API keys: what programs sign in with, shown once."""

from datetime import UTC, datetime, timedelta
from typing import Any

from provserver.admin.console.address import origin
from provserver.admin.console.page import ApiProblem, Ask, page
from provserver.admin.console.pages.organizations import named
from provserver.admin.console.permissions import granted
from provserver.admin.messages import Response
from provserver.core.authorization import OPERATOR, Permission

PERIODS = (("30", "30 days"), ("90", "90 days"), ("365", "a year"), ("", "never"))
"""After how many days a key ends."""


async def list_api_keys(ask: Ask) -> Response:
    """List keys, with what they may do and when they were used."""
    found = await ask.api("GET", "/keys", ask.chosen("search", "organization", "cursor") | {"limit": 50})
    organizations = await named(ask, sorted({each["organizationId"] for each in found["items"]}))
    return ask.show(
        "keys/list.html",
        found=found,
        organizations=organizations,
        ended={each["id"] for each in found["items"] if _has_ended(each)},
        search=ask.query.get("search", ""),
    )


async def ask_for_api_key(ask: Ask) -> Response:
    """Ask for a new one."""
    return ask.show("keys/new.html", groups=granted(ask.signed_in["permissions"]), periods=PERIODS)


async def create_api_key(ask: Ask) -> Response:
    """Make one: it is shown this once."""
    form = await ask.form()
    body: dict[str, Any] = {"name": form["name"], "permissions": form.all("permissions")}
    if days := form.number("days"):
        body["expiresAt"] = (datetime.now(UTC) + timedelta(days=min(days, 36_500))).isoformat()
    made = await ask.api("POST", "/keys", body=body)
    return ask.show("keys/created.html", made=made, origin=origin(ask), granted=granted(made["permissions"]))


async def show_api_key(ask: Ask) -> Response:
    """Show one."""
    key = await ask.api("GET", f"/keys/{ask.parameters['key']}")
    organizations = await named(ask, [key["organizationId"]])
    return ask.show(
        "keys/show.html",
        key=key,
        organization=organizations.get(key["organizationId"]),
        granted=granted(key["permissions"]),
        ended=_has_ended(key),
        maker=await _maker(ask, key["createdBy"]),
    )


async def delete_api_key(ask: Ask) -> Response:
    """Remove one."""
    gone = await ask.api("DELETE", f"/keys/{ask.parameters['key']}")
    return ask.go("/keys", said=f"The API key {gone['name']} was deleted. It is good for nothing any more.")


def _has_ended(key: dict[str, Any]) -> bool:
    return key["expiresAt"] is not None and datetime.fromisoformat(key["expiresAt"]) <= datetime.now(UTC)


async def _maker(ask: Ask, actor: str) -> str:
    """Who made a key, in words, as far as that is to be seen."""
    kind, _, id_ = actor.partition(":")
    if actor == OPERATOR:
        return "the command line on the database"
    try:
        if kind == "user":
            user = await ask.api("GET", f"/users/{id_}")
            return str(user["name"] or user["email"])
        return f"the API key {(await ask.api('GET', f'/keys/{id_}'))['name']}"
    except ApiProblem as problem:
        if problem.code not in ("not_found", "forbidden"):
            raise
        return "somebody who is not there any more" if kind == "user" else "an API key that is not there any more"


PAGES = [
    page("GET", "/keys", list_api_keys, Permission.KEYS_MANAGE),
    page("POST", "/keys", create_api_key, Permission.KEYS_MANAGE),
    page("GET", "/keys/new", ask_for_api_key, Permission.KEYS_MANAGE),
    page("GET", "/keys/{key}", show_api_key, Permission.KEYS_MANAGE),
    page("POST", "/keys/{key}/delete", delete_api_key, Permission.KEYS_MANAGE),
]
