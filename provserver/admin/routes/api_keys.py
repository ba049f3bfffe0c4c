"""API keys: what programs sign in with."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import Answer, Body, Name, Page, PageQuery, Reference, Search, paged
from provserver.admin.route import Call, route
from provserver.core.authorization import Permission


class KeyAnswer(Answer, frozen=True):
    """An API key. hint: its first characters, to tell it by. createdBy: `user:<id>`, `key:<id>` or `operator`."""

    id: UUID
    organization_id: UUID
    name: str
    hint: str
    permissions: Sequence[Permission]
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime


class NewKeyAnswer(KeyAnswer, frozen=True, kw_only=True):
    """A new API key. secret: what it is presented as, shown this once."""

    secret: str


class KeyQuery(PageQuery, frozen=True):
    """Which keys. organization: only those of this one. search: in the name, or the hint."""

    organization: Reference | UnsetType = UNSET
    search: Search | UnsetType = UNSET


class NewKey(Body, frozen=True):
    """An API key to be. organization: the caller's own if it is left out. expiresAt: null for never."""

    name: Name
    permissions: Annotated[tuple[Permission, ...], Meta(min_length=1, max_length=50)]
    organization: Reference | UnsetType = UNSET
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None


async def list_api_keys(call: Call[KeyQuery, None]) -> Page[KeyAnswer]:
    """List the API keys of your organization and those below."""
    query = call.query
    found = await call.services.api_keys.list_(
        call.principal,
        query.after,
        query.limit + 1,
        organization=query.organization or None,
        search=query.search or None,
    )
    return paged(found, query.limit, KeyAnswer.of)


async def create_api_key(call: Call[None, NewKey]) -> NewKeyAnswer:
    """Make an API key."""
    body = call.body
    key, secret = await call.services.api_keys.create(
        call.principal, body.name, body.permissions, body.organization or None, body.expires_at
    )
    return NewKeyAnswer.of(key, secret=secret)


async def show_api_key(call: Call[None, None]) -> KeyAnswer:
    """Show an API key, by id or name."""
    return KeyAnswer.of(await call.services.api_keys.show(call.principal, call.text("key")))


async def delete_api_key(call: Call[None, None]) -> KeyAnswer:
    """Delete an API key."""
    return KeyAnswer.of(await call.services.api_keys.delete(call.principal, call.text("key")))


_MANAGE = Permission.KEYS_MANAGE

ROUTES = [
    route(
        "GET",
        "/keys",
        _MANAGE,
        list_api_keys,
        problems=("not_found", "conflict"),
    ),
    route(
        "POST",
        "/keys",
        _MANAGE,
        create_api_key,
        creates=True,
        problems=("not_found", "conflict", "invalid"),
        example={"name": "factory", "permissions": ["tokens:manage", "profiles:view"]},
    ),
    route("GET", "/keys/{key}", _MANAGE, show_api_key, problems=("conflict",)),
    route("DELETE", "/keys/{key}", _MANAGE, delete_api_key, problems=("conflict",)),
]
