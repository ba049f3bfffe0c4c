"""The tree of organizations."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import Answer, Body, Name, Page, PageQuery, Reference, Search, paged
from provserver.admin.route import Call, Reply, route
from provserver.core.accounts import Organization
from provserver.core.authorization import Permission
from provserver.services.organizations import MAX_QUOTA, OrganizationChange

Quota = Annotated[int, Meta(ge=0, le=MAX_QUOTA)]


class OrganizationAnswer(Answer, frozen=True):
    """An organization. path: its ancestors as far as you see them, and itself. Quotas count all below it."""

    id: UUID
    number: int
    parent_id: UUID | None
    name: str
    path: tuple[UUID, ...]
    device_quota: int | None
    token_quota: int | None
    sign_up: bool
    revision: int
    created_at: datetime


class ListedOrganization(OrganizationAnswer, frozen=True, kw_only=True):
    """An organization of a list. hasBelow: there are organizations below it."""

    has_below: bool


class ContentsAnswer(Answer, frozen=True):
    """How much an organization has itself, each counted up to 10,000; heldDevices: that others have made.

    devicesUsed, tokensUsed: what counts against its quotas, its own and of all below it; null without a quota.
    """

    organizations: int
    users: int
    profiles: int
    static_tokens: int
    devices: int
    held_devices: int
    api_keys: int
    webhooks: int
    request_keys: int
    devices_used: int | None
    tokens_used: int | None


class OrganizationQuery(PageQuery, frozen=True):
    """Which organizations. parent: only those right below this one. id: only these."""

    parent: Reference | UnsetType = UNSET
    search: Search | UnsetType = UNSET
    id: Annotated[tuple[UUID, ...], Meta(max_length=100)] = ()


class NewOrganization(Body, frozen=True):
    """An organization to be. parent: right below which; the caller's own if it is left out."""

    name: Name
    parent: Reference | UnsetType = UNSET
    device_quota: Quota | None = None
    token_quota: Quota | None = None
    sign_up: bool = False


class OrganizationPatch(Body, frozen=True):
    """What to change; what is left out stays. A quota of null: none."""

    name: Name | UnsetType = UNSET
    device_quota: Quota | UnsetType | None = UNSET
    token_quota: Quota | UnsetType | None = UNSET
    sign_up: bool | UnsetType = UNSET


def _shown(organization: Organization) -> Reply[OrganizationAnswer]:
    return Reply(OrganizationAnswer.of(organization), revision=organization.revision)


async def list_organizations(call: Call[OrganizationQuery, None]) -> Page[ListedOrganization]:
    """List your organization and those below."""
    query, organizations = call.query, call.services.organizations
    found = await organizations.list_(
        call.principal,
        query.after,
        query.limit + 1,
        parent=query.parent or None,
        search=query.search or None,
        ids=query.id or None,
    )
    parents = await organizations.parents(call.principal, found)
    return paged(found, query.limit, lambda each: ListedOrganization.of(each, has_below=each.id in parents))


async def create_organization(call: Call[None, NewOrganization]) -> Reply[OrganizationAnswer]:
    """Make an organization below another."""
    body = call.body
    return _shown(
        await call.services.organizations.create(
            call.principal,
            body.name,
            body.parent or None,
            device_quota=body.device_quota,
            token_quota=body.token_quota,
            sign_up=body.sign_up,
        )
    )


async def show_organization(call: Call[None, None]) -> Reply[OrganizationAnswer]:
    """Show an organization, by id, number or name."""
    return _shown(await call.services.organizations.show(call.principal, call.text("organization")))


async def show_contents(call: Call[None, None]) -> ContentsAnswer:
    """Count what an organization has."""
    return ContentsAnswer.of(await call.services.organizations.contents(call.principal, call.text("organization")))


async def update_organization(call: Call[None, OrganizationPatch]) -> Reply[OrganizationAnswer]:
    """Change an organization."""
    body = call.body
    change = OrganizationChange(body.name, body.device_quota, body.token_quota, body.sign_up)
    return _shown(
        await call.services.organizations.update(call.principal, call.text("organization"), change, call.revision)
    )


async def delete_organization(call: Call[None, None]) -> OrganizationAnswer:
    """Delete an organization that has nothing left."""
    return OrganizationAnswer.of(
        await call.services.organizations.delete(call.principal, call.text("organization"), call.revision)
    )


ROUTES = [
    route(
        "GET",
        "/organizations",
        Permission.ORGANIZATIONS_VIEW,
        list_organizations,
        problems=("not_found", "conflict"),
    ),
    route(
        "POST",
        "/organizations",
        Permission.ORGANIZATIONS_MANAGE,
        create_organization,
        creates=True,
        revised=True,
        problems=("not_found", "conflict", "invalid"),
        example={"name": "Customer A", "deviceQuota": 1000},
    ),
    route(
        "GET",
        "/organizations/{organization}",
        Permission.ORGANIZATIONS_VIEW,
        show_organization,
        revised=True,
        problems=("conflict",),
    ),
    route(
        "GET",
        "/organizations/{organization}/contents",
        Permission.ORGANIZATIONS_VIEW,
        show_contents,
        problems=("conflict",),
    ),
    route(
        "PATCH",
        "/organizations/{organization}",
        Permission.ORGANIZATIONS_MANAGE,
        update_organization,
        revised=True,
        problems=("conflict", "invalid"),
        example={"name": "Customer B"},
    ),
    route(
        "DELETE",
        "/organizations/{organization}",
        Permission.ORGANIZATIONS_MANAGE,
        delete_organization,
        revised=True,
        problems=("conflict",),
    ),
]
