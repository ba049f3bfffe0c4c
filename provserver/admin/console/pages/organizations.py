"""The tree of organizations, and the way to look at those below one's own."""

import re
from typing import Any

from provserver.admin.console.address import origin
from provserver.admin.console.page import ApiProblem, Ask, Form, page
from provserver.admin.messages import Response
from provserver.core.accounts import MAX_DEPTH
from provserver.core.authorization import Permission

COUNTED = 10_000
"""Up to what the API counts."""

_SECTION = re.compile(r"https?://[^/?#]*(?:/o/[0-9]+)?/(?!o/)([a-z][a-z-]*)(?=[/?#]|$)")


async def list_organizations(ask: Ask) -> Response:
    """Show the tree, or what a search finds in it."""
    if search := ask.query.get("search", "").strip():
        found = await ask.api("GET", "/organizations", ask.chosen("search", "cursor") | {"limit": 50})
        return ask.show("organizations/found.html", found=found, above=await names(ask, found["items"]), search=search)
    top = ask.organization or ask.signed_in["organization"]
    below = await ask.api("GET", "/organizations", {"parent": top["id"], "limit": 50} | ask.chosen("cursor"))
    return ask.show("organizations/list.html", top=top, found=below)


async def show_branch(ask: Ask) -> Response:
    """The organizations right below one, for who opens it in the tree."""
    parent = ask.query.get("parent", "")
    found = await ask.api("GET", "/organizations", {"parent": parent, "limit": 50} | ask.chosen("cursor"))
    return ask.part("organizations/branch.html", found=found, parent=parent)


async def show_switcher(ask: Ask) -> Response:
    """The organizations that can be looked at, each with the link to the section that is open now."""
    section = _section(ask.request.headers.get("hx-current-url", ""))
    own = ask.signed_in["organization"]
    search = ask.query.get("search", "").strip()
    chosen: dict[str, Any] = {"search": search} if search else {"parent": own["id"]}
    found = await ask.api("GET", "/organizations", chosen | {"limit": 50} | ask.chosen("cursor"))
    items = [each for each in found["items"] if each["id"] != own["id"]]
    return ask.part(
        "organizations/switcher_list.html",
        own=own,
        items=items,
        above=await names(ask, items),
        more=found["nextCursor"],
        section=section,
        search=search,
        further=bool(ask.query.get("cursor")),
    )


async def show_switcher_branch(ask: Ask) -> Response:
    """The organizations right below one of the switcher's."""
    found = await ask.api("GET", "/organizations", {"parent": ask.query.get("parent", ""), "limit": 50})
    section = _section(ask.request.headers.get("hx-current-url", ""))
    return ask.part("organizations/switcher_branch.html", items=found["items"], section=section)


async def ask_for_organization(ask: Ask) -> Response:
    """Ask for a new one."""
    parent = ask.organization or ask.signed_in["organization"]
    if reference := ask.query.get("parent", ""):
        parent = await ask.api("GET", f"/organizations/{_number(reference)}")
    return ask.show("organizations/new.html", parent=parent)


async def create_organization(ask: Ask) -> Response:
    """Make one."""
    form = await ask.form()
    body = {"name": form["name"], "parent": form["parent"], "signUp": "signUp" in form} | _quotas(form)
    made = await ask.api("POST", "/organizations", body=body)
    return ask.go(f"/organizations/{made['number']}", said=f"The organization {made['name']} was created.")


async def show_organization(ask: Ask) -> Response:
    """Show one: what it has, what it may have, what is below."""
    path = f"/organizations/{ask.parameters['organization']}"
    organization = await ask.api("GET", path)
    contents = await ask.api("GET", f"{path}/contents")
    below = await ask.api("GET", "/organizations", {"parent": organization["id"], "limit": 50} | ask.chosen("cursor"))
    own = organization["id"] == ask.signed_in["organizationId"]
    return ask.show(
        "organizations/show.html",
        organization=organization,
        contents=contents,
        counted=COUNTED,
        found=below,
        above=await ancestors(ask, organization),
        own=own,
        deepest=len(organization["path"]) >= MAX_DEPTH,
        held=_held(contents),
        lost=_lost(contents),
        origin=origin(ask),
    )


async def update_organization(ask: Ask) -> Response:
    """Change one."""
    form = await ask.form()
    body = {"name": form["name"], "signUp": "signUp" in form} | _quotas(form)
    path = f"/organizations/{ask.parameters['organization']}"
    changed = await ask.api("PATCH", path, body=body, headers={"if-match": form["revision"]})
    return ask.go(f"/organizations/{changed['number']}", said=f"The organization {changed['name']} was changed.")


async def delete_organization(ask: Ask) -> Response:
    """Remove one."""
    gone = await ask.api("DELETE", f"/organizations/{ask.parameters['organization']}")
    return ask.go("/organizations", said=f"The organization {gone['name']} was deleted.")


async def names(ask: Ask, organizations: list[dict[str, Any]]) -> dict[str, str]:
    """What those are called that are above these, by their ids."""
    wanted = sorted({above for each in organizations for above in each["path"][:-1]})
    return await named(ask, wanted)


async def named(ask: Ask, ids: list[str]) -> dict[str, str]:
    """What organizations are called, by their ids; of those that who asks may see."""
    found: dict[str, str] = {}
    if not ask.may(Permission.ORGANIZATIONS_VIEW):
        return found
    for start in range(0, len(ids), 100):
        some = await ask.api("GET", "/organizations", {"id": ids[start : start + 100], "limit": 100})
        found |= {each["id"]: each["name"] for each in some["items"]}
    return found


async def ancestors(ask: Ask, organization: dict[str, Any]) -> list[dict[str, Any]]:
    """Those above one, the highest first, as far as who asks sees them."""
    ids = organization["path"][:-1]
    if not ids:
        return []
    found = {each["id"]: each for each in (await ask.api("GET", "/organizations", {"id": ids}))["items"]}
    return [found[each] for each in ids if each in found]


async def own_or(ask: Ask, reference: str) -> dict[str, Any] | None:
    """An organization that is asked for; the one that is looked at without; None when it is not to be seen."""
    if not reference:
        found: dict[str, Any] | None = ask.organization or ask.signed_in["organization"]  # type: ignore[assignment]
        return found
    try:
        return dict(await ask.api("GET", f"/organizations/{_number(reference)}"))
    except ApiProblem as problem:
        if problem.code not in ("not_found", "forbidden"):
            raise
        return None


def _number(reference: str) -> str:
    """A reference from a query, as a segment of a path."""
    return reference if re.fullmatch("[0-9]{1,10}|[0-9a-f-]{36}", reference) else "0"


def _quotas(form: Form) -> dict[str, int | None]:
    return {"deviceQuota": form.number("deviceQuota"), "tokenQuota": form.number("tokenQuota")}


def _section(url: str) -> str:
    """The part of the console that a browser is in, as a path: what is there is looked at elsewhere next."""
    match = _SECTION.match(url)
    return f"/{match[1]}" if match else "/"


def _held(contents: dict[str, Any]) -> list[str]:
    """What stands against a deletion, with numbers."""
    nouns = (
        ("organizations", "organization"),
        ("users", "user"),
        ("profiles", "device profile"),
        ("staticTokens", "static token"),
        ("devices", "device"),
        ("heldDevices", "device made by others"),
    )
    return [_counted(contents[name], noun) for name, noun in nouns if contents[name]]


def _lost(contents: dict[str, Any]) -> list[str]:
    """What goes with it."""
    nouns = (("apiKeys", "API key"), ("webhooks", "webhook"), ("requestKeys", "request key"))
    return [_counted(contents[name], noun) for name, noun in nouns if contents[name]]


def _counted(count: int, noun: str) -> str:
    many = f"{count:,} or more" if count >= COUNTED else f"{count:,}"
    head, _, tail = noun.partition(" made")
    return f"{many} {head if count == 1 else head + 's'}{' made' + tail if tail else ''}"


PAGES = [
    page("GET", "/organizations", list_organizations, Permission.ORGANIZATIONS_VIEW),
    page("POST", "/organizations", create_organization, Permission.ORGANIZATIONS_MANAGE),
    page("GET", "/organizations/new", ask_for_organization, Permission.ORGANIZATIONS_MANAGE),
    page("GET", "/organizations/branch", show_branch, Permission.ORGANIZATIONS_VIEW),
    page("GET", "/organizations/switcher", show_switcher, Permission.ORGANIZATIONS_VIEW),
    page("GET", "/organizations/switcher/branch", show_switcher_branch, Permission.ORGANIZATIONS_VIEW),
    page("GET", "/organizations/{organization}", show_organization, Permission.ORGANIZATIONS_VIEW),
    page("POST", "/organizations/{organization}", update_organization, Permission.ORGANIZATIONS_MANAGE),
    page("POST", "/organizations/{organization}/delete", delete_organization, Permission.ORGANIZATIONS_MANAGE),
]
