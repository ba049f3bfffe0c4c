"""Signing in and out, and the links by which people come to have a password."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from msgspec import Meta

from provserver.admin.api import COOKIE, ORGANIZATION_HEADER, session_token
from provserver.admin.fields import Answer, Body, Email, Password, Query, Text
from provserver.admin.messages import Request
from provserver.admin.route import Access, Call, Reply, route
from provserver.admin.routes.organizations import OrganizationAnswer
from provserver.admin.routes.users import UserAnswer
from provserver.core.authorization import Permission

OrganizationNumber = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Link = Annotated[
    str, Meta(min_length=1, max_length=200, pattern="^[A-Za-z0-9_-]+$", description="The token of a one-time link.")
]


class SessionAnswer(Answer, frozen=True):
    """Who is signed in. csrfToken: to be sent as X-CSRF-Token with every change; null with an API key.

    organization: his own; null for who may not see organizations. chosen: the one that the header X-Organization
    names, likewise; null without the header. organizationsBelow: there are some below his own, which he may see.
    user: null with an API key.
    """

    actor: str
    organization_id: UUID
    organization: OrganizationAnswer | None
    chosen: OrganizationAnswer | None
    organizations_below: bool
    permissions: Sequence[Permission]
    user: UserAnswer | None
    csrf_token: str | None


class Credentials(Body, frozen=True):
    """What a user signs in with."""

    email: Email
    password: Password


class SetUp(Body, frozen=True):
    """The first user, an admin. link: from the file that the first start of the server has left."""

    link: Link
    email: Email
    password: Password
    name: Text = ""


class Acceptance(Body, frozen=True):
    """An invitation that is accepted."""

    link: Link
    password: Password
    name: Text = ""


class SetUpAnswer(Answer, frozen=True):
    """Whether the server waits to be set up. needed: there is no user yet; the set-up link makes the first."""

    needed: bool


class SignUpQuery(Query, frozen=True):
    """Below which organization."""

    organization_number: OrganizationNumber


class SignUpAnswer(Answer, frozen=True):
    """Below whom one may sign up."""

    organization_number: int
    name: str


class SignUp(Body, frozen=True):
    """A user, with a client organization of his own. organizationNumber: below which; it must allow that."""

    organization_number: OrganizationNumber
    email: Email
    password: Password
    name: Text = ""


class PasswordChange(Body, frozen=True):
    """A new password for who is signed in."""

    current: Password
    password: Password


class EmailChange(Body, frozen=True):
    """Another e-mail address for who is signed in."""

    current: Annotated[Password, Meta(description="The password.")]
    email: Email


class PasswordChoice(Body, frozen=True):
    """A new password, by a reset link."""

    link: Link
    password: Password


async def sign_in(call: Call[None, Credentials]) -> Reply[SessionAnswer]:
    """Sign in: sets the session's cookie."""
    body, request = call.body, call.request
    sessions = call.services.sign_in
    token, _, _ = await sessions.password(body.email, body.password, request.address)
    principal = await sessions.authenticate(token)
    known = Call(call.services, principal, {}, None, None, request)
    return Reply(await _session(known, token), headers={"Set-Cookie": _cookie(request, token)})


async def show_session(call: Call[None, None]) -> SessionAnswer:
    """Show who you are, and what you may do."""
    return await _session(call, _token(call.request))


async def sign_out(call: Call[None, None]) -> Reply[None]:
    """Sign out."""
    if token := _token(call.request):
        await call.services.sign_in.sign_out(token)
    return Reply(None, headers={"Set-Cookie": _cookie(call.request, "") + "; Max-Age=0"})


async def show_set_up(call: Call[None, None]) -> SetUpAnswer:
    """Tell whether the server waits to be set up."""
    return SetUpAnswer(await call.services.sign_in.awaits_set_up())


async def set_up(call: Call[None, SetUp]) -> UserAnswer:
    """Make the first user, by the set-up link."""
    body = call.body
    return UserAnswer.of(await call.services.sign_in.set_up(body.link, body.email, body.password, body.name))


async def accept_invitation(call: Call[None, Acceptance]) -> UserAnswer:
    """Accept an invitation, by its link."""
    body = call.body
    return UserAnswer.of(await call.services.users.accept_invitation(body.link, body.password, body.name))


async def show_sign_up(call: Call[SignUpQuery, None]) -> SignUpAnswer:
    """Tell whether whoever likes may sign up below an organization, and what it is called."""
    found = await call.services.users.open_to_sign_up(call.query.organization_number)
    return SignUpAnswer(found.number, found.name)


async def sign_up(call: Call[None, SignUp]) -> UserAnswer:
    """Sign up, where an organization lets whoever likes."""
    body = call.body
    return UserAnswer.of(
        await call.services.users.sign_up(
            body.organization_number, body.email, body.password, body.name, address=call.request.address
        )
    )


async def change_password(call: Call[None, PasswordChange]) -> None:
    """Change your password."""
    body, request = call.body, call.request
    await call.services.sign_in.change_password(
        call.principal, body.current, body.password, request.address, _token(request) or None
    )


async def change_email(call: Call[None, EmailChange]) -> UserAnswer:
    """Change your e-mail address."""
    body, request = call.body, call.request
    return UserAnswer.of(
        await call.services.sign_in.change_email(call.principal, body.current, body.email, request.address)
    )


async def choose_password(call: Call[None, PasswordChoice]) -> UserAnswer:
    """Choose a new password, by a reset link."""
    body = call.body
    return UserAnswer.of(await call.services.sign_in.choose_password(body.link, body.password, call.request.address))


def _token(request: Request) -> str:
    """Of the session that the caller is known by."""
    return "" if "authorization" in request.headers or request.principal else session_token(request)


async def _session(call: Call[None, None], token: str) -> SessionAnswer:
    principal, services = call.principal.home, call.services
    organization = chosen = user = None
    below = False
    if Permission.ORGANIZATIONS_VIEW in principal.permissions:
        found = await services.organizations.show(principal, principal.organization_id)
        organization = OrganizationAnswer.of(found)
        below = found.id in await services.organizations.parents(principal, [found])
        if ORGANIZATION_HEADER in call.request.headers:
            found = await services.organizations.show(call.principal, call.principal.organization_id)
            chosen = OrganizationAnswer.of(found)
    if principal.user_id is not None:
        user = UserAnswer.of(await services.users.show(principal, principal.user_id))
    return SessionAnswer(
        principal.actor,
        principal.organization_id,
        organization,
        chosen,
        below,
        sorted(principal.permissions),
        user,
        services.sign_in.csrf_token(token) if token else None,
    )


def _cookie(request: Request, token: str) -> str:
    secure = "; Secure" if request.secure else ""
    return f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict{secure}"


_PASSWORD = "correct horse battery staple"  # noqa: S105 - an example
_LINK = "o4Xw5yMZ2rVq8bTnK1cLd7fHs9jPuA3e"

ROUTES = [
    route(
        "POST",
        "/session",
        Access.PUBLIC,
        sign_in,
        status=201,
        problems=("unauthenticated", "invalid", "too_many_requests"),
        example={"email": "ada@example.com", "password": _PASSWORD},
    ),
    route("GET", "/session", Access.ANYONE, show_session),
    route("DELETE", "/session", Access.ANYONE, sign_out),
    route("GET", "/setup", Access.PUBLIC, show_set_up),
    route(
        "POST",
        "/setup",
        Access.PUBLIC,
        set_up,
        status=201,
        problems=("not_found", "conflict", "invalid", "too_many_requests"),
        example={"link": _LINK, "email": "ada@example.com", "password": _PASSWORD},
    ),
    route(
        "POST",
        "/invitations/accept",
        Access.PUBLIC,
        accept_invitation,
        problems=("not_found", "conflict", "invalid", "too_many_requests"),
        example={"link": _LINK, "password": _PASSWORD},
    ),
    route("GET", "/sign-up", Access.PUBLIC, show_sign_up, problems=("not_found",)),
    route(
        "POST",
        "/sign-up",
        Access.PUBLIC,
        sign_up,
        status=201,
        problems=("not_found", "conflict", "invalid", "too_many_requests"),
        example={"organizationNumber": 1, "email": "ada@example.com", "password": _PASSWORD},
    ),
    route(
        "POST",
        "/password",
        Access.ANYONE,
        change_password,
        problems=("conflict", "invalid", "too_many_requests"),
        example={"current": _PASSWORD, "password": f"{_PASSWORD}, twice"},
    ),
    route(
        "POST",
        "/email",
        Access.ANYONE,
        change_email,
        problems=("conflict", "invalid", "too_many_requests"),
        example={"current": _PASSWORD, "email": "ada@example.com"},
    ),
    route(
        "POST",
        "/password/reset",
        Access.PUBLIC,
        choose_password,
        problems=("not_found", "invalid", "too_many_requests"),
        example={"link": _LINK, "password": _PASSWORD},
    ),
]
