"""Users, and the links by which they choose their passwords."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import Answer, Body, Email, Page, PageQuery, Reference, Search, Text, paged
from provserver.admin.route import Access, Call, Reply, route
from provserver.core.accounts import User
from provserver.core.authorization import Permission, Role
from provserver.services.users import UserChange


class UserAnswer(Answer, frozen=True):
    """A user. accepted: has chosen a password. activatedAt: first signed in; from then on may own devices."""

    id: UUID
    organization_id: UUID
    email: str
    name: str
    role: Role
    accepted: bool
    activated_at: datetime | None
    revision: int
    created_at: datetime


class InvitedUser(UserAnswer, frozen=True, kw_only=True):
    """A user who is to choose a password. link: the token of the link to do so, shown this once."""

    link: str


class LinkAnswer(Answer, frozen=True):
    """The token of a one-time link, shown this once."""

    link: str


class UserQuery(PageQuery, frozen=True):
    """Which users. organization: only those of this one. search: in the e-mail address or the name."""

    organization: Reference | UnsetType = UNSET
    search: Search | UnsetType = UNSET


class NewUser(Body, frozen=True):
    """A user to invite. organization: the caller's own if it is left out."""

    email: Email
    role: Role
    name: Text = ""
    organization: Reference | UnsetType = UNSET


class UserPatch(Body, frozen=True):
    """What to change; what is left out stays. One's own name needs no permission."""

    name: Text | UnsetType = UNSET
    email: Email | UnsetType = UNSET
    role: Annotated[Role, Meta(description="Holds from the next request on.")] | UnsetType = UNSET


def shown(user: User) -> Reply[UserAnswer]:
    """A user, with the ETag."""
    return Reply(UserAnswer.of(user), revision=user.revision)


async def list_users(call: Call[UserQuery, None]) -> Page[UserAnswer]:
    """List the users of your organization and those below."""
    query = call.query
    found = await call.services.users.list_(
        call.principal,
        query.after,
        query.limit + 1,
        organization=query.organization or None,
        search=query.search or None,
    )
    return paged(found, query.limit, UserAnswer.of)


async def invite_user(call: Call[None, NewUser]) -> Reply[InvitedUser]:
    """Invite a user."""
    body = call.body
    user, link = await call.services.users.invite(
        call.principal, body.email, body.role, body.organization or None, body.name
    )
    return Reply(InvitedUser.of(user, link=link), revision=user.revision)


async def show_user(call: Call[None, None]) -> Reply[UserAnswer]:
    """Show a user, by id or e-mail."""
    return shown(await call.services.users.show(call.principal, call.text("user")))


async def update_user(call: Call[None, UserPatch]) -> Reply[UserAnswer]:
    """Change a user."""
    body = call.body
    change = UserChange(body.name, body.email, body.role)
    return shown(await call.services.users.update(call.principal, call.text("user"), change, call.revision))


async def delete_user(call: Call[None, None]) -> UserAnswer:
    """Delete a user; devices stay where they are, without an owner."""
    return UserAnswer.of(await call.services.users.delete(call.principal, call.text("user"), call.revision))


async def invite_user_again(call: Call[None, None]) -> LinkAnswer:
    """Make a new link for a user who has not accepted yet."""
    return LinkAnswer(await call.services.users.invite_again(call.principal, call.text("user")))


async def reset_user_password(call: Call[None, None]) -> LinkAnswer:
    """Make a link by which a user chooses a new password."""
    return LinkAnswer(await call.services.users.reset_password(call.principal, call.text("user")))


_MANAGE = Permission.USERS_MANAGE

ROUTES = [
    route(
        "GET",
        "/users",
        Permission.USERS_VIEW,
        list_users,
        problems=("not_found", "conflict"),
    ),
    route(
        "POST",
        "/users",
        _MANAGE,
        invite_user,
        creates=True,
        revised=True,
        problems=("not_found", "conflict", "invalid"),
        example={"email": "ada@example.com", "role": "staff", "name": "Ada"},
    ),
    route(
        "GET",
        "/users/{user}",
        Access.ANYONE,
        show_user,
        revised=True,
        problems=("forbidden", "conflict"),
    ),
    route(
        "PATCH",
        "/users/{user}",
        Access.ANYONE,
        update_user,
        revised=True,
        problems=("forbidden", "conflict", "invalid"),
        example={"name": "Ada Lovelace"},
    ),
    route(
        "DELETE",
        "/users/{user}",
        _MANAGE,
        delete_user,
        revised=True,
        problems=("conflict",),
    ),
    route(
        "POST",
        "/users/{user}/invite",
        _MANAGE,
        invite_user_again,
        problems=("conflict",),
    ),
    route(
        "POST",
        "/users/{user}/reset-password",
        _MANAGE,
        reset_user_password,
        problems=("conflict",),
    ),
]
