"""The people who operate: invited, changed, removed; and what their roles may do."""

from typing import Any

from provserver.admin.console.address import origin
from provserver.admin.console.page import Ask, page
from provserver.admin.console.pages.organizations import named, own_or
from provserver.admin.console.permissions import GROUPS, ROLES, choosable
from provserver.admin.messages import Response
from provserver.admin.route import Access
from provserver.core.authorization import PERMISSIONS, Permission, Role


async def list_users(ask: Ask) -> Response:
    """List users, or those that a search finds."""
    found = await ask.api("GET", "/users", ask.chosen("search", "organization", "cursor") | {"limit": 50})
    organizations = await named(ask, sorted({each["organizationId"] for each in found["items"]}))
    only = await own_or(ask, ask.query["organization"]) if ask.query.get("organization") else None
    return ask.show("users/list.html", found=found, organizations=organizations, only=only)


async def ask_for_user(ask: Ask) -> Response:
    """Ask whom to invite."""
    organization = await own_or(ask, ask.query.get("organization", ""))
    return ask.show("users/new.html", organization=organization, roles=choosable(ask.signed_in["permissions"]))


async def invite_user(ask: Ask) -> Response:
    """Invite somebody: the link is shown this once."""
    form = await ask.form()
    body = {"email": form["email"], "name": form["name"], "role": form["role"]}
    if form["organization"]:
        body["organization"] = form["organization"]
    invited = await ask.api("POST", "/users", body=body)
    return _link(ask, invited, "invitation", invited["link"])


async def show_user(ask: Ask) -> Response:
    """Show one, with what may be done about him."""
    user = await ask.api("GET", f"/users/{ask.parameters['user']}")
    organizations = await named(ask, [user["organizationId"]])
    own = ask.signed_in["user"]
    permissions = ask.signed_in["permissions"]
    return ask.show(
        "users/show.html",
        user=user,
        organization=organizations.get(user["organizationId"]),
        meaning=ROLES[Role(user["role"])],
        himself=own is not None and own["id"] == user["id"],
        above=not PERMISSIONS[Role(user["role"])] <= set(permissions),
        roles=choosable(permissions),
    )


async def update_user(ask: Ask) -> Response:
    """Change one."""
    form = await ask.form()
    path = f"/users/{ask.parameters['user']}"
    body = {name: form[name] for name in ("name", "email", "role") if name in form}
    changed = await ask.api("PATCH", path, body=body, headers={"if-match": form["revision"]})
    return ask.go(f"/users/{changed['id']}", said=f"{changed['email']} was changed.")


async def make_link(ask: Ask) -> Response:
    """Make a link by which a user chooses a password, his first or another."""
    path = f"/users/{ask.parameters['user']}"
    user = await ask.api("GET", path)
    if user["accepted"]:
        made = await ask.api("POST", f"{path}/reset-password")
        return _link(ask, user, "password-reset", made["link"])
    made = await ask.api("POST", f"{path}/invite")
    return _link(ask, user, "invitation", made["link"])


async def delete_user(ask: Ask) -> Response:
    """Remove one."""
    gone = await ask.api("DELETE", f"/users/{ask.parameters['user']}")
    return ask.go("/users", said=f"{gone['email']} was removed.")


async def show_roles(ask: Ask) -> Response:
    """Tell what each role may do."""
    return ask.show("users/roles.html", groups=GROUPS, roles=ROLES, permissions=PERMISSIONS)


def _link(ask: Ask, user: dict[str, Any], where: str, link: str) -> Response:
    """What leads to one of our pages and is good once: what follows the # is sent to nobody."""
    return ask.show("users/link.html", user=user, where=where, address=f"{origin(ask)}/{where}#{link}")


PAGES = [
    page("GET", "/users", list_users, Permission.USERS_VIEW),
    page("POST", "/users", invite_user, Permission.USERS_MANAGE),
    page("GET", "/users/new", ask_for_user, Permission.USERS_MANAGE),
    page("GET", "/users/roles", show_roles, Access.ANYONE),
    page("GET", "/users/{user}", show_user, Permission.USERS_VIEW),
    page("POST", "/users/{user}", update_user, Permission.USERS_MANAGE),
    page("POST", "/users/{user}/link", make_link, Permission.USERS_MANAGE),
    page("POST", "/users/{user}/delete", delete_user, Permission.USERS_MANAGE),
]
