"""Request keys: what devices seal their requests to."""

from datetime import datetime
from uuid import UUID

from msgspec import UNSET, UnsetType

from provserver.admin.fields import Answer, Body, Page, PageQuery, Reference, paged
from provserver.admin.route import Call, route
from provserver.core import sealed
from provserver.core.authorization import Permission
from provserver.core.sealed import RequestKey


class RequestKeyAnswer(Answer, frozen=True):
    """A request key. keyId: what requests name it by. publicKey: what firmware carries, base64url."""

    id: UUID
    organization_id: UUID
    key_id: str
    public_key: str
    created_at: datetime


class RequestKeyQuery(PageQuery, frozen=True):
    """Which keys. organization: only those of this one."""

    organization: Reference | UnsetType = UNSET


class NewRequestKey(Body, frozen=True):
    """A request key to be. organization: the caller's own if it is left out."""

    organization: Reference | UnsetType = UNSET


def _answer(key: RequestKey) -> RequestKeyAnswer:
    return RequestKeyAnswer(key.id, key.organization_id, key.key_id, sealed.encode(key.public_key), key.created_at)


async def list_request_keys(call: Call[RequestKeyQuery, None]) -> Page[RequestKeyAnswer]:
    """List the request keys of your organization and those below."""
    query = call.query
    found = await call.services.request_keys.list_(
        call.principal, query.after, query.limit + 1, organization=query.organization or None
    )
    return paged(found, query.limit, _answer)


async def create_request_key(call: Call[None, NewRequestKey]) -> RequestKeyAnswer:
    """Make a request key."""
    return _answer(await call.services.request_keys.create(call.principal, call.body.organization or None))


async def delete_request_key(call: Call[None, None]) -> RequestKeyAnswer:
    """Delete a request key, by id or key id: what is sealed to it opens no more."""
    return _answer(await call.services.request_keys.delete(call.principal, call.text("key")))


ROUTES = [
    route(
        "GET",
        "/request-keys",
        Permission.PROFILES_VIEW,
        list_request_keys,
        problems=("not_found", "conflict"),
    ),
    route(
        "POST",
        "/request-keys",
        Permission.PROFILES_MANAGE,
        create_request_key,
        creates=True,
        problems=("not_found", "conflict"),
        example={},
    ),
    route("DELETE", "/request-keys/{key}", Permission.PROFILES_MANAGE, delete_request_key),
]
