"""Signing in and out."""

from provserver.admin.console.page import Ask, page
from provserver.admin.messages import Response
from provserver.admin.route import Access


async def show_sign_in(ask: Ask) -> Response:
    """Ask for e-mail and password; who is signed in already goes on."""
    after = _local(ask.query.get("next", ""))
    if ask.session is not None:
        return ask.leave(after)
    needed = (await ask.api("GET", "/setup"))["needed"]
    return ask.show("sign_in.html", after=after, email=ask.query.get("email", ""), needed=needed)


async def sign_in(ask: Ask) -> Response:
    """Begin a session, always one of its own, and go on."""
    form = await ask.form()
    await ask.sign_in(form["email"], form.raw("password"))
    return ask.leave(_local(form["next"]))


async def sign_out(ask: Ask) -> Response:
    """End the session; one that has ended already is no reason to stay."""
    if ask.session is not None:
        await ask.sign_out()
    return ask.leave("/sign-in")


def _local(path: str) -> str:
    """A path of ours to go on to; whatever else is asked for is `/`."""
    plain = path.isascii() and path.isprintable() and " " not in path
    return path if plain and path.startswith("/") and path[1:2] not in ("/", "\\") else "/"


PAGES = [
    page("GET", "/sign-in", show_sign_in, Access.PUBLIC),
    page("POST", "/sign-in", sign_in, Access.PUBLIC),
    page("POST", "/sign-out", sign_out, Access.PUBLIC),
]
