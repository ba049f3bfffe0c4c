"""Particle's products: whose devices get a profile's static tokens through a ledger, and the jobs that see to it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import PRINTABLE, Answer, Body, Page, PageQuery, Reference, paged
from provserver.admin.route import Call, Reply, route
from provserver.admin.routes.jobs import Begun, JobAnswer
from provserver.core import particle
from provserver.core.authorization import Permission
from provserver.core.particle import MAX_SELECTED, Acting, Can, Right, Run
from provserver.services.particle import ProductChange

Slug = Annotated[
    str, Meta(min_length=1, max_length=100, description="A number or slug of Particle's.", examples=["my-product-v1"])
]
OrgSlug = Annotated[str, Meta(max_length=100, description="An organization of Particle's; empty: a sandbox.")]
LedgerName = Annotated[str, Meta(min_length=1, max_length=32, examples=[particle.LEDGER])]
Url = Annotated[str, Meta(min_length=1, max_length=255, pattern=PRINTABLE, examples=[particle.URL])]
AccessToken = Annotated[str, Meta(min_length=8, max_length=256, description="Of Particle's API; shown never again.")]
DeviceId = Annotated[str, Meta(min_length=1, max_length=64, pattern=PRINTABLE)]
Text = Annotated[str, Meta(max_length=255, pattern=PRINTABLE)]


class ParticleProductAnswer(Answer, frozen=True):
    """A product, and the profile whose static tokens its devices get. expiresAt: when the access token ends."""

    id: UUID
    organization_id: UUID
    profile_id: UUID
    profile: str
    url: str
    org: str
    product: str
    ledger: str
    expires_at: datetime | None
    created_by: str
    created_at: datetime
    updated_at: datetime
    revision: int


class ParticleFinding(Answer, frozen=True):
    """Whether something can be done. reason: why not, or why nobody can tell; remedy: what to do."""

    name: Right
    state: Can
    reason: str | None
    remedy: str | None


class ParticleCheckAnswer(Answer, frozen=True):
    """What a test found. ready: nothing is known to be missing. expiresAt: when the access token ends."""

    ready: bool
    expires_at: datetime | None
    findings: Sequence[ParticleFinding]


class ParticleQuery(PageQuery, frozen=True):
    """Which products. organization: by number, name or id; unset: yours and all below."""

    organization: Reference | UnsetType = UNSET


class NewParticleProduct(Body, frozen=True):
    """Which product's devices get which profile's static tokens, through which ledger."""

    profile: Reference
    product: Slug
    access_token: AccessToken
    ledger: LedgerName = particle.LEDGER
    org: OrgSlug = ""
    url: Url = particle.URL


class ParticleProductChanges(Body, frozen=True):
    """What is to be changed."""

    product: Slug | UnsetType = UNSET
    access_token: AccessToken | UnsetType = UNSET
    ledger: LedgerName | UnsetType = UNSET
    org: OrgSlug | UnsetType = UNSET
    url: Url | UnsetType = UNSET


class ParticleRun(Body, frozen=True):
    """What a run is about. devices, group, serial: only those. force: also where a token is that is none of ours.

    exported: tokens that were exported or shown, and nothing more, are free, too.
    """

    devices: Annotated[tuple[DeviceId, ...], Meta(max_length=MAX_SELECTED)] = ()
    group: Text = ""
    serial: Text = ""
    force: bool = False
    exported: bool = False


async def list_particle_products(call: Call[ParticleQuery, None]) -> Page[ParticleProductAnswer]:
    """List the Particle products of your organization and those below."""
    query = call.query
    found = await call.services.particle.list_(
        call.principal, query.after, query.limit + 1, organization=query.organization or None
    )
    return paged(found, query.limit, ParticleProductAnswer.of)


async def connect_particle_product(call: Call[None, NewParticleProduct]) -> Reply[ParticleProductAnswer]:
    """Have the devices of a Particle product get a profile's static tokens."""
    body = call.body
    made = await call.services.particle.create(
        call.principal, body.profile, body.product, body.access_token, ledger=body.ledger, org=body.org, url=body.url
    )
    return Reply(ParticleProductAnswer.of(made), revision=made.revision)


async def show_particle_product(call: Call[None, None]) -> Reply[ParticleProductAnswer]:
    """Show a Particle product, by its id, Particle's name for it, or the profile."""
    found = await call.services.particle.show(call.principal, call.text("product"))
    return Reply(ParticleProductAnswer.of(found), revision=found.revision)


async def update_particle_product(call: Call[None, ParticleProductChanges]) -> Reply[ParticleProductAnswer]:
    """Change a Particle product, or its access token."""
    body = call.body
    change = ProductChange(body.url, body.org, body.product, body.ledger, body.access_token)
    changed = await call.services.particle.update(call.principal, call.text("product"), change, call.revision)
    return Reply(ParticleProductAnswer.of(changed), revision=changed.revision)


async def disconnect_particle_product(call: Call[None, None]) -> ParticleProductAnswer:
    """Forget a Particle product and its access token; its devices keep what they have."""
    product = call.text("product")
    return ParticleProductAnswer.of(await call.services.particle.delete(call.principal, product, call.revision))


async def test_particle_product(call: Call[None, None]) -> ParticleCheckAnswer:
    """Say what the access token of a Particle product may do, without changing anything there."""
    found = await call.services.particle.test(call.principal, call.text("product"))
    return ParticleCheckAnswer(found.ready, found.expires_at, [ParticleFinding(*each) for each in found.findings])


async def plan_particle_tokens(call: Call[None, ParticleRun]) -> Begun:
    """Say which device would get which token, and change nothing."""
    return await _begin(call, Acting.PLAN)


async def apply_particle_tokens(call: Call[None, ParticleRun]) -> Begun:
    """Give each device its token, as planned."""
    return await _begin(call, Acting.APPLY)


async def verify_particle_tokens(call: Call[None, ParticleRun]) -> Begun:
    """Look whether each device's ledger has the token that is kept for it."""
    return await _begin(call, Acting.VERIFY)


async def revoke_particle_tokens(call: Call[None, ParticleRun]) -> Begun:
    """Take tokens out of the ledger, and give them up for good."""
    return await _begin(call, Acting.REVOKE)


async def _begin(call: Call[None, ParticleRun], acting: Acting) -> Begun:
    body = call.body
    run = Run(body.devices, body.group, body.serial, body.force, body.exported)
    return Begun(JobAnswer.of(await call.services.particle.start(call.principal, call.text("product"), acting, run)))


_MANAGE = Permission.TOKENS_MANAGE

ROUTES = [
    route("GET", "/particle", _MANAGE, list_particle_products, problems=("not_found", "conflict")),
    route(
        "POST",
        "/particle",
        _MANAGE,
        connect_particle_product,
        creates=True,
        revised=True,
        problems=("not_found", "conflict", "invalid"),
        example={"profile": "wifi-sensor", "product": "my-product-v1", "accessToken": "0123456789abcdef"},
    ),
    route("GET", "/particle/{product}", _MANAGE, show_particle_product, revised=True, problems=("conflict",)),
    route(
        "PATCH",
        "/particle/{product}",
        _MANAGE,
        update_particle_product,
        revised=True,
        problems=("conflict", "invalid"),
        example={"ledger": particle.LEDGER},
    ),
    route("DELETE", "/particle/{product}", _MANAGE, disconnect_particle_product, revised=True, problems=("conflict",)),
    route("POST", "/particle/{product}/test", _MANAGE, test_particle_product, problems=("conflict",)),
    *(
        route(
            "POST",
            f"/particle/{{product}}/{handler.__name__.partition('_')[0]}",
            _MANAGE,
            handler,
            status=202,
            problems=("conflict", "invalid"),
            example={"devices": ["e00fce681234567890abcdef"]},
        )
        for handler in (plan_particle_tokens, apply_particle_tokens, verify_particle_tokens, revoke_particle_tokens)
    ),
]
