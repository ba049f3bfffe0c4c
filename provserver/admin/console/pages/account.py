"""How people come to have a password, by links that are good once, or by signing up; and their own account.

A link's token is behind the `#`, which browsers send to nobody: the page's script (static/link.js) puts it into the
form. Whoever has chosen a password is signed in with it, by a session that begins then.
"""

from provserver.admin.console.page import ApiProblem, Ask, Form, page
from provserver.admin.console.permissions import ROLES, granted
from provserver.admin.messages import Response
from provserver.admin.problem import Malformed
from provserver.admin.route import Access
from provserver.core.authorization import Role
from provserver.core.passwords import MIN_LENGTH


async def show_set_up(ask: Ask) -> Response:
    """Ask for the first user."""
    needed = (await ask.api("GET", "/setup"))["needed"]
    return ask.show("account/set_up.html", needed=needed, min_length=MIN_LENGTH)


async def set_up(ask: Ask) -> Response:
    """Make the first user."""
    form = await ask.form()
    user = await ask.api(
        "POST",
        "/setup",
        body={
            "link": _link(form),
            "email": form["email"],
            "name": form["name"],
            "password": form.raw("password"),
        },
    )
    return await _signed_in(ask, user["email"], form.raw("password"))


async def show_invitation(ask: Ask) -> Response:
    """Ask who was invited for a password."""
    return ask.show("account/invitation.html", min_length=MIN_LENGTH)


async def accept_invitation(ask: Ask) -> Response:
    """Accept."""
    form = await ask.form()
    body = {"link": _link(form), "name": form["name"], "password": form.raw("password")}
    user = await ask.api("POST", "/invitations/accept", body=body)
    return await _signed_in(ask, user["email"], form.raw("password"))


async def show_password_reset(ask: Ask) -> Response:
    """Ask for a new password."""
    return ask.show("account/password_reset.html", min_length=MIN_LENGTH)


async def reset_password(ask: Ask) -> Response:
    """Choose a new password."""
    form = await ask.form()
    user = await ask.api("POST", "/password/reset", body={"link": _link(form), "password": form.raw("password")})
    return await _signed_in(ask, user["email"], form.raw("password"))


async def show_sign_up(ask: Ask) -> Response:
    """Ask who signs up, once it is known below which organization."""
    number = ask.query.get("organization", "").strip()
    above = None
    refused = ""
    if number:
        try:
            above = await ask.api("GET", "/sign-up", {"organizationNumber": number})
        except ApiProblem as problem:
            if problem.code not in ("not_found", "malformed"):
                raise
            refused = number
    return ask.show("account/sign_up.html", above=above, refused=refused, min_length=MIN_LENGTH)


async def sign_up(ask: Ask) -> Response:
    """Sign up."""
    form = await ask.form()
    body = {
        "organizationNumber": form.number("organization"),
        "email": form["email"],
        "name": form["name"],
        "password": form.raw("password"),
    }
    user = await ask.api("POST", "/sign-up", body=body)
    return await _signed_in(ask, user["email"], form.raw("password"))


async def show_account(ask: Ask) -> Response:
    """Show who is signed in, and what he may do."""
    user = ask.signed_in["user"]
    return ask.show(
        "account/account.html",
        user=user,
        granted=granted(ask.signed_in["permissions"]),
        meaning=ROLES[Role(user["role"])] if user else "",
        min_length=MIN_LENGTH,
    )


async def change_name(ask: Ask) -> Response:
    """Have another name."""
    form = await ask.form()
    await ask.api("PATCH", f"/users/{ask.signed_in['user']['id']}", body={"name": form["name"]})
    return ask.go("/account", said="Your name is changed.")


async def change_email(ask: Ask) -> Response:
    """Have another e-mail address."""
    form = await ask.form()
    changed = await ask.api("POST", "/email", body={"current": form.raw("current"), "email": form["email"]})
    return ask.go("/account", said=f"From now on you sign in as {changed['email']}.")


async def change_password(ask: Ask) -> Response:
    """Have another password."""
    form = await ask.form()
    body = {"current": form.raw("current"), "password": form.raw("password")}
    await ask.api("POST", "/password", body=body)
    return ask.go("/account", said="Your password is changed. All your other sessions have ended.")


def _link(form: Form) -> str:
    """The link's token, as the page's script has put it there. Raises Malformed."""
    if not form["link"]:
        raise Malformed("The page was opened without its link. Open the whole link again, with all behind the #.")
    return form["link"]


async def _signed_in(ask: Ask, email: str, password: str) -> Response:
    """On to the overview, in a session that is new, whatever cookie came; or to sign in, when that cannot be now."""
    try:
        await ask.sign_in(email, password)
    except ApiProblem as problem:
        if problem.status < 500 and problem.code != "too_many_requests":
            raise
        return ask.leave("/sign-in", said="Your password is chosen. Sign in with it.")
    return ask.leave("/")


PAGES = [
    page("GET", "/set-up", show_set_up, Access.PUBLIC),
    page("POST", "/set-up", set_up, Access.PUBLIC),
    page("GET", "/invitation", show_invitation, Access.PUBLIC),
    page("POST", "/invitation", accept_invitation, Access.PUBLIC),
    page("GET", "/password-reset", show_password_reset, Access.PUBLIC),
    page("POST", "/password-reset", reset_password, Access.PUBLIC),
    page("GET", "/sign-up", show_sign_up, Access.PUBLIC),
    page("POST", "/sign-up", sign_up, Access.PUBLIC),
    page("GET", "/account", show_account),
    page("POST", "/account/name", change_name),
    page("POST", "/account/email", change_email),
    page("POST", "/account/password", change_password),
]
