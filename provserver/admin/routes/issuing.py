"""The CAs that device profiles issue certificates with."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import Answer, Body
from provserver.admin.route import Call, Reply, route
from provserver.admin.routes.profiles import File, InOrganization, file_of
from provserver.core.authorization import Permission
from provserver.core.signing import MAX_COMMON_NAME
from provserver.services.issuing import IssuingAuthorities, IssuingAuthority

CommonName = Annotated[str, Meta(min_length=1, max_length=MAX_COMMON_NAME, pattern="^[^\\x00-\\x1f\\x7f]*$")]
Days = Annotated[int, Meta(ge=1, le=36_525)]


class IssuingAuthorityAnswer(Answer, frozen=True):
    """A CA that a profile issues with. fingerprint: hex SHA-256. certificates: PEM, its own and those above it."""

    profile: str
    template_id: str
    subject: str
    fingerprint: str
    not_after: datetime
    certificates: str


class NewIssuingAuthority(Body, frozen=True):
    """A CA to be, its own root. name: its common name. days: how long it is good. replace: another that there is."""

    name: CommonName | UnsetType = UNSET
    days: Days | UnsetType = UNSET
    replace: bool = False


class ImportedIssuingAuthority(Body, frozen=True):
    """A CA's certificate with those above it, and its key, EC P-256, without a password."""

    certificates: File
    key: File
    replace: bool = False


async def make_issuing_authority(
    call: Call[InOrganization, NewIssuingAuthority],
) -> Reply[IssuingAuthorityAnswer]:
    """Make a CA for a device profile to issue certificates with."""
    body = call.body
    lifetime = None if body.days is UNSET else timedelta(days=body.days)
    authorities = await _authorities(call)
    made = await authorities.create(call.text("profile"), body.name or None, lifetime, replace=body.replace)
    return Reply(_shown(made))


async def import_issuing_authority(
    call: Call[InOrganization, ImportedIssuingAuthority],
) -> Reply[IssuingAuthorityAnswer]:
    """Have a device profile issue certificates with a CA that there is."""
    body = call.body
    authorities = await _authorities(call)
    certificates, key = file_of(body.certificates), file_of(body.key)
    return Reply(_shown(await authorities.import_(call.text("profile"), certificates, key, replace=body.replace)))


async def show_issuing_authority(call: Call[InOrganization, None]) -> IssuingAuthorityAnswer:
    """Show the CA that a device profile issues certificates with."""
    return _shown(await (await _authorities(call)).show(call.text("profile")))


async def _authorities(call: Call[Any, Any]) -> IssuingAuthorities:
    """Those of the organization that is meant. Raises NotFound."""
    id_ = call.principal.organization_id
    if call.query.organization is not UNSET:
        id_ = (await call.services.organizations.show(call.principal, call.query.organization)).id
    return call.services.issuing(id_, call.principal.actor)


def _shown(authority: IssuingAuthority) -> IssuingAuthorityAnswer:
    return IssuingAuthorityAnswer.of(authority)


_VIEW, _MANAGE = Permission.PROFILES_VIEW, Permission.PROFILES_MANAGE

ROUTES = [
    route("GET", "/profiles/{profile}/ca", _VIEW, show_issuing_authority, problems=("conflict",)),
    route(
        "POST",
        "/profiles/{profile}/ca",
        _MANAGE,
        make_issuing_authority,
        creates=True,
        problems=("conflict", "invalid"),
        example={"days": 3650},
    ),
    route(
        "POST",
        "/profiles/{profile}/ca/import",
        _MANAGE,
        import_issuing_authority,
        creates=True,
        files=True,
        problems=("conflict", "invalid"),
        example={"certificates": "-----BEGIN CERTIFICATE-----\n…", "key": "-----BEGIN PRIVATE KEY-----\n…"},
    ),
]
