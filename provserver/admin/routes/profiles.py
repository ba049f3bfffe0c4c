"""Device profiles and their provision keys."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Annotated, Any
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from provserver.admin.fields import Answer, Body, LongText, Name, Page, PageQuery, Query, Reference, Text
from provserver.admin.route import Call, Content, Reply, route
from provserver.core.authority import AuthorityFacts
from provserver.core.authorization import Permission
from provserver.core.model import (
    MAX_USES,
    ClonePolicy,
    Datastream,
    DeviceProfile,
    KeyBudget,
    MetadataField,
    NameSource,
    ProvisionStrategy,
    ReprovisionPolicy,
)
from provserver.errors import Invalid
from provserver.services.profiles import KeyPair, ProfileChange, ProfileDetails, Profiles, name_warnings

TOML = "application/toml"

File = Annotated[str, Meta(max_length=45_000_000, description="A file: PEM as it is, or DER in base64.")]
Pin = Annotated[str, Meta(pattern="^[Vv][0-9]{1,3}$", examples=["V1"])]
Lifetime = Annotated[int, Meta(ge=0, le=3_155_760_000, description="Seconds, 60 at least; 0: without end.")]
Moment = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=1, le=MAX_USES)]


class FieldMember(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A metadata field. options: of the type `list`. default: what a device without a value has."""

    name: Name
    type: Text = "text"
    unique: bool = False
    options: tuple[Text, ...] = ()
    default: Text = ""


class DatastreamMember(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A named channel."""

    name: Name
    pin: Pin
    type: Text = "double"
    minimum: float | None = None
    maximum: float | None = None


class AuthorityMember(Answer, frozen=True):
    """A CA that the profile trusts. fingerprint: hex SHA-256. crl…: of its revocation list."""

    subject: str
    fingerprint: str
    not_after: datetime
    crl_this_update: datetime | None
    crl_next_update: datetime | None
    revoked: int | None


class BudgetMember(Answer, frozen=True):
    """When, from where and how often a provision key is good.

    uses: what was counted while maxUses bounded them, and not what it provisioned without; null: they are not counted.
    """

    provision_device_key: str
    not_before: datetime | None
    not_after: datetime | None
    networks: Sequence[str]
    max_uses: int | None
    per_minute: int | None
    uses: int | None


class KeyMember(BudgetMember, frozen=True, kw_only=True):
    """A provision key, and what bounds it. usedAt: when it was used last while its uses were counted; null: never."""

    created_at: datetime
    used_at: datetime | None


class ProfileAnswer(Answer, frozen=True):
    """A device profile. nameFrom, namePattern, allowCreate: of the strategy X509_CERTIFICATE_CHAIN.

    credentialsLifetime: seconds; 0: without end.
    """

    id: UUID
    organization_id: UUID
    name: str
    template_id: str
    strategy: ProvisionStrategy
    reprovision_policy: ReprovisionPolicy
    two_sided_claim: bool
    clone_policy: ClonePolicy
    approval: bool
    credentials_lifetime: int
    metadata_fields: Sequence[FieldMember]
    datastreams: Sequence[DatastreamMember]
    name_from: NameSource
    name_pattern: str
    allow_create: bool
    revision: int
    created_at: datetime


class ListedProfileAnswer(ProfileAnswer, frozen=True, kw_only=True):
    """A device profile, and how much it has. deviceCount: of at most a minute ago, where there are very many.

    Both null where counts were not wanted.
    """

    device_count: int | None
    provision_key_count: int | None


class ProfileDetailsAnswer(ProfileAnswer, frozen=True):
    """A device profile with its provision keys, oldest first, without their secrets.

    deviceCount: of at most a minute ago, where there are very many.
    """

    provision_device_keys: Sequence[str] = ()
    key_budgets: Sequence[BudgetMember] = ()
    certificate_authorities: Sequence[AuthorityMember] = ()
    device_count: int = 0
    warnings: Sequence[str] = ()
    keys: Sequence[KeyMember] = ()
    static_token_count: int = 0


class SavedProfileAnswer(ProfileAnswer, frozen=True):
    """A device profile that was made. warnings: what the operator should know about its name."""

    warnings: Sequence[str] = ()


class NewProfileAnswer(SavedProfileAnswer, frozen=True):
    """A new device profile, and its first provision key: the secret is shown this once."""

    provision_device_key: str | None = None
    provision_device_secret: str | None = None


class KeyAnswer(Answer, frozen=True):
    """A provision key: the secret is shown this once."""

    provision_device_key: str
    provision_device_secret: str


class RemovedKey(Answer, frozen=True):
    """The provision key that was removed."""

    provision_device_key: str


class InOrganization(Query, frozen=True):
    """organization: whose; the caller's own if it is left out.

    A profile's name is one of this organization; its id or template id may be of one below it, too.
    """

    organization: Reference | UnsetType = UNSET


class ProfilesQuery(PageQuery, frozen=True):
    """Which profiles. search: what is in the name or the template id, whatever its case.

    counts: with how many devices and keys each has, for which all devices may have to be counted.
    """

    organization: Reference | UnsetType = UNSET
    search: Annotated[Text, Meta(min_length=1)] | UnsetType = UNSET
    counts: bool = True


class ProfilePatch(Body, frozen=True):
    """What to change; what is left out stays. Lists are replaced as a whole."""

    name: Name | UnsetType = UNSET
    strategy: ProvisionStrategy | UnsetType = UNSET
    reprovision_policy: ReprovisionPolicy | UnsetType = UNSET
    accept_unproven_repeats: bool = False
    two_sided_claim: bool | UnsetType = UNSET
    clone_policy: ClonePolicy | UnsetType = UNSET
    approval: bool | UnsetType = UNSET
    credentials_lifetime: Lifetime | UnsetType = UNSET
    metadata_fields: Annotated[tuple[FieldMember, ...], Meta(max_length=100)] | UnsetType = UNSET
    datastreams: Annotated[tuple[DatastreamMember, ...], Meta(max_length=256)] | UnsetType = UNSET
    authorities: Annotated[tuple[File, ...], Meta(max_length=100)] | UnsetType = UNSET
    crls: Annotated[tuple[File, ...], Meta(max_length=100)] | UnsetType = UNSET
    forget_crls: bool = False
    name_from: NameSource | UnsetType = UNSET
    name_pattern: Text | UnsetType = UNSET
    allow_create: bool | UnsetType = UNSET


class NewProfile(ProfilePatch, frozen=True, kw_only=True):
    """A profile to be. What is not given of its first provision key is generated; keyless: it gets none."""

    name: Name
    strategy: ProvisionStrategy = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES
    provision_device_key: Name | UnsetType = UNSET
    provision_device_secret: Name | UnsetType = UNSET
    keyless: bool | UnsetType = UNSET


class NewBudget(Body, frozen=True):
    """What bounds a provision key; what is left out bounds nothing. networks: CIDR, from which alone it is good.

    maxUses: for so many provisionings, counted from when it is set. perMinute: for so many requests a minute.
    """

    not_before: Moment | None = None
    not_after: Moment | None = None
    networks: Annotated[tuple[Text, ...], Meta(max_length=100)] = ()
    max_uses: Count | None = None
    per_minute: Count | None = None


class NewKey(NewBudget, frozen=True):
    """A provision key to be, and what bounds it; what is not given of the key is generated."""

    provision_device_key: Name | UnsetType = UNSET
    provision_device_secret: Name | UnsetType = UNSET


class Clone(Body, frozen=True):
    """The name of the copy."""

    name: Name


class ImportedProfile(Body, frozen=True):
    """A profile's file, and what to make of it. name: instead of the file's."""

    toml: LongText
    name: Name | UnsetType = UNSET
    accept_unproven_repeats: bool = False
    dry_run: bool = False


async def list_profiles(call: Call[ProfilesQuery, None]) -> Page[ListedProfileAnswer]:
    """List device profiles by name."""
    query, profiles = call.query, await _profiles(call)
    found = await profiles.all(query.search or "")
    if query.after is not None:
        places = [place for place, each in enumerate(found, 1) if each.id == query.after]
        found = found[places[0] if places else len(found) :]
    more = len(found) > query.limit
    shown = found[: query.limit]
    counted = await profiles.counts(shown) if query.counts else [None] * len(shown)
    listed = [
        _shown(
            ListedProfileAnswer,
            each,
            device_count=None if counts is None else counts.devices,
            provision_key_count=None if counts is None else counts.keys,
        )
        for each, counts in zip(shown, counted, strict=True)
    ]
    return Page(listed, found[query.limit - 1].id if more else None)


async def create_profile(call: Call[InOrganization, NewProfile]) -> Reply[NewProfileAnswer]:
    """Make a device profile with its first provision key."""
    body, profiles = call.body, await _profiles(call)
    change = _change(body)
    key, secret = body.provision_device_key or None, body.provision_device_secret or None
    keyless = body.keyless
    if keyless is UNSET:
        keyless = bool(body.authorities) and key is None and secret is None
    if keyless:
        if key is not None or secret is not None:
            raise Invalid("A profile without a key has neither key nor secret. Leave them out, or keyless.")
        return _saved(NewProfileAnswer, await profiles.create_keyless(change))
    profile, pair = await profiles.create(change, key, secret)
    return _saved(NewProfileAnswer, profile, provision_device_key=pair.key, provision_device_secret=pair.secret)


async def import_profile(call: Call[InOrganization, ImportedProfile]) -> Reply[SavedProfileAnswer]:
    """Make a device profile from a TOML file."""
    body, profiles = call.body, await _profiles(call)
    made = await profiles.import_(
        body.toml.encode(),
        name=body.name or None,
        accept_unproven_repeats=body.accept_unproven_repeats,
        dry_run=body.dry_run,
    )
    return replace(_saved(SavedProfileAnswer, made), status=200 if body.dry_run else 201)


async def show_profile(call: Call[InOrganization, None]) -> Reply[ProfileDetailsAnswer]:
    """Show a device profile, by name, template id or id."""
    details = await (await _profiles(call)).show(call.text("profile"))
    return _details(details)


async def update_profile(call: Call[InOrganization, ProfilePatch]) -> Reply[ProfileDetailsAnswer]:
    """Change a device profile."""
    profiles = await _profiles(call)
    changed = await profiles.update(call.text("profile"), _change(call.body), call.revision)
    return _details(await profiles.show(str(changed.id)))


async def delete_profile(call: Call[InOrganization, None]) -> ProfileAnswer:
    """Delete a device profile that has no devices and no static tokens."""
    return _profile(await (await _profiles(call)).delete(call.text("profile"), call.revision))


async def clone_profile(call: Call[InOrganization, Clone]) -> Reply[SavedProfileAnswer]:
    """Make a device profile like another."""
    return _saved(SavedProfileAnswer, await (await _profiles(call)).clone(call.text("profile"), call.body.name))


async def export_profile(call: Call[InOrganization, None]) -> Content:
    """A device profile as a TOML file."""
    text = await (await _profiles(call)).export(call.text("profile"))
    return Content(text.encode(), f"{TOML}; charset=utf-8", "profile.toml")


async def add_provision_key(call: Call[InOrganization, NewKey]) -> KeyAnswer:
    """Add a provision key."""
    body = call.body
    pair = await (await _profiles(call)).add_key(
        call.text("profile"), body.provision_device_key or None, body.provision_device_secret or None, _budget(body)
    )
    return _pair(pair)


async def bound_provision_key(call: Call[InOrganization, NewBudget]) -> Reply[ProfileDetailsAnswer]:
    """Bound a provision key anew, as a whole."""
    profiles = await _profiles(call)
    await profiles.set_budget(call.text("profile"), call.text("key"), _budget(call.body))
    return _details(await profiles.show(call.text("profile")))


async def remove_provision_key(call: Call[InOrganization, None]) -> RemovedKey:
    """Remove a provision key."""
    await (await _profiles(call)).remove_key(call.text("profile"), call.text("key"))
    return RemovedKey(call.text("key"))


def _budget(body: NewBudget) -> KeyBudget:
    try:
        networks = tuple(ip_network(each) for each in body.networks)
    except ValueError as fault:
        raise Invalid(f"A network is not CIDR, as 192.0.2.0/24: {fault}.") from None
    return KeyBudget(body.not_before, body.not_after, networks, body.max_uses, body.per_minute)


async def _profiles(call: Call[Any, Any]) -> Profiles:
    """Those of the organization that is meant. Raises NotFound."""
    id_ = call.principal.organization_id
    if call.query.organization is not UNSET:
        id_ = (await call.services.organizations.show(call.principal, call.query.organization)).id
    return call.services.profiles(id_, call.principal.actor)


def _change(body: ProfilePatch) -> ProfileChange:
    def given(value: Any) -> Any:
        return None if value is UNSET else value

    return ProfileChange(
        name=given(body.name),
        strategy=given(body.strategy),
        reprovision_policy=given(body.reprovision_policy),
        metadata_fields=(
            None
            if body.metadata_fields is UNSET
            else [
                MetadataField(each.name, each.type, each.unique, each.options, each.default)
                for each in body.metadata_fields
            ]
        ),
        datastreams=(
            None
            if body.datastreams is UNSET
            else [Datastream(each.name, each.pin, each.type, each.minimum, each.maximum) for each in body.datastreams]
        ),
        accept_unproven_repeats=body.accept_unproven_repeats,
        authorities=None if body.authorities is UNSET else [file_of(each) for each in body.authorities],
        crls=None if body.crls is UNSET else [file_of(each) for each in body.crls],
        forget_crls=body.forget_crls,
        name_from=given(body.name_from),
        name_pattern=given(body.name_pattern),
        allow_create=given(body.allow_create),
        two_sided_claim=given(body.two_sided_claim),
        clone_policy=given(body.clone_policy),
        approval=given(body.approval),
        credentials_lifetime=(
            None if body.credentials_lifetime is UNSET else timedelta(seconds=body.credentials_lifetime)
        ),
    )


def file_of(text: str) -> bytes:
    """What a file holds that was sent as text. Raises Invalid."""
    if "-----BEGIN " in text:
        return text.encode()
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("A certificate or revocation list must be PEM, or DER in base64.") from None


def _profile(profile: DeviceProfile) -> ProfileAnswer:
    shown: ProfileAnswer = _shown(ProfileAnswer, profile)
    return shown


def _saved(kind: type[Any], profile: DeviceProfile, **more: object) -> Reply[Any]:
    return _reply(kind, profile, warnings=name_warnings(profile), **more)


def _reply(kind: type[Any], profile: DeviceProfile, **more: object) -> Reply[Any]:
    return Reply(_shown(kind, profile, **more), revision=profile.revision)


def _shown(kind: type[Any], profile: DeviceProfile, **more: object) -> Any:
    members = {each.name: getattr(profile, each.name) for each in fields(profile) if each.name != "chain"}
    return kind(
        **members
        | {
            "metadata_fields": [
                FieldMember(f.name, f.type, f.unique, f.options, f.default) for f in profile.metadata_fields
            ],
            "datastreams": [DatastreamMember(d.name, d.pin, d.type, d.minimum, d.maximum) for d in profile.datastreams],
            "name_from": profile.chain.name_from,
            "name_pattern": profile.chain.name_pattern,
            "allow_create": profile.chain.allow_create,
            "credentials_lifetime": int((profile.credentials_lifetime or timedelta()).total_seconds()),
        }
        | more
    )


def _details(details: ProfileDetails) -> Reply[ProfileDetailsAnswer]:
    return _reply(
        ProfileDetailsAnswer,
        details.profile,
        provision_device_keys=details.keys,
        key_budgets=[
            BudgetMember(provision_device_key=key, uses=details.uses.get(key), **_bounds(budget))
            for key, budget in details.budgets.items()
        ],
        keys=[
            KeyMember(
                provision_device_key=each.key,
                uses=each.uses,
                created_at=each.created_at,
                used_at=each.used_at,
                **_bounds(each.budget),
            )
            for each in details.facts
        ],
        static_token_count=details.static_token_count,
        certificate_authorities=[_authority(each) for each in details.authorities],
        device_count=details.device_count,
        warnings=details.warnings,
    )


def _bounds(budget: KeyBudget) -> dict[str, Any]:
    members = {each.name: getattr(budget, each.name) for each in fields(budget)}
    return members | {"networks": [str(each) for each in budget.networks]}


def _authority(facts: AuthorityFacts) -> AuthorityMember:
    return AuthorityMember.of(facts)


def _pair(pair: KeyPair) -> KeyAnswer:
    return KeyAnswer(pair.key, pair.secret)


_VIEW, _MANAGE = Permission.PROFILES_VIEW, Permission.PROFILES_MANAGE
_EXAMPLE = {
    "name": "wifi-sensor",
    "metadataFields": [{"name": "Serial Number", "unique": True}, {"name": "MAC address", "type": "mac"}],
}

ROUTES = [
    route("GET", "/profiles", _VIEW, list_profiles, problems=("not_found", "conflict")),
    route(
        "POST",
        "/profiles",
        _MANAGE,
        create_profile,
        creates=True,
        revised=True,
        problems=("not_found", "conflict", "invalid"),
        files=True,
        example=_EXAMPLE,
    ),
    route(
        "POST",
        "/profiles/import",
        _MANAGE,
        import_profile,
        creates=True,
        revised=True,
        also={200: ProfileAnswer},
        problems=("not_found", "conflict", "invalid"),
        example={"toml": 'name = "wifi-sensor"\nstrategy = "allow-create"\n', "dryRun": True},
    ),
    route(
        "GET",
        "/profiles/{profile}",
        _VIEW,
        show_profile,
        revised=True,
        problems=("conflict",),
    ),
    route(
        "PATCH",
        "/profiles/{profile}",
        _MANAGE,
        update_profile,
        revised=True,
        problems=("conflict", "invalid"),
        files=True,
        example={"twoSidedClaim": True},
    ),
    route(
        "DELETE",
        "/profiles/{profile}",
        _MANAGE,
        delete_profile,
        revised=True,
        problems=("conflict",),
    ),
    route(
        "POST",
        "/profiles/{profile}/clone",
        _MANAGE,
        clone_profile,
        creates=True,
        revised=True,
        problems=("conflict", "invalid"),
        example={"name": "wifi-sensor-2"},
    ),
    route(
        "GET",
        "/profiles/{profile}/export.toml",
        _VIEW,
        export_profile,
        produces=(TOML,),
        problems=("conflict",),
    ),
    route(
        "POST",
        "/profiles/{profile}/keys",
        _MANAGE,
        add_provision_key,
        creates=True,
        problems=("conflict", "invalid"),
        example={"networks": ["192.0.2.0/24"]},
    ),
    route(
        "PUT",
        "/profiles/{profile}/keys/{key}/budget",
        _MANAGE,
        bound_provision_key,
        revised=True,
        problems=("conflict", "invalid"),
        example={"maxUses": 5000, "perMinute": 60},
    ),
    route(
        "DELETE",
        "/profiles/{profile}/keys/{key}",
        _MANAGE,
        remove_provision_key,
        problems=("conflict",),
    ),
]
