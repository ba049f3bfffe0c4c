"""What operators do with device profiles and their provision keys; one transaction each."""

import os
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from uuid import UUID

from asyncpg import LockNotAvailableError, UniqueViolationError

from provserver.core import authority, ids, lorawan, profilechange, profilefile
from provserver.core.authority import AuthorityFacts, InvalidAuthority
from provserver.core.authorization import OPERATOR
from provserver.core.board import template_name_warning
from provserver.core.credentials import has_control_characters
from provserver.core.model import (
    MAX_USES,
    ChainRules,
    DeviceProfile,
    KeyBudget,
    MetadataField,
    ProvisionStrategy,
    ReprovisionPolicy,
)
from provserver.core.moment import in_utc
from provserver.core.profilechange import UNPROVEN, ProfileChange, checked_name
from provserver.core.profilefile import InvalidProfileFile, ProfileTemplate
from provserver.core.secrets import ServerKeys
from provserver.core.telemetry import Value
from provserver.errors import Conflict, Invalid, NotFound, Stale
from provserver.services.device_counts import DeviceCounts
from provserver.services.provision_writes import HINT_LENGTH
from provserver.store import audit, integrations
from provserver.store import profiles as store
from provserver.store.database import Connection, Database

__all__ = [
    "NO_AUTHORITY",
    "KeyFacts",
    "KeyPair",
    "ProfileChange",
    "ProfileCounts",
    "ProfileDetails",
    "Profiles",
    "add_fields",
    "missing",
    "name_warnings",
    "open_secret",
    "secret_context",
]

KEY_LENGTH = 20
SECRET_LENGTH = 32
MAX_LENGTH = 255
MAX_NETWORKS = 100

NO_AUTHORITY = "The profile trusts no CA yet, so no device can be provisioned: add one with profile update --ca FILE."
"""What `profile show` warns of under strategy x509-chain."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A provision key with its secret in clear: shown to the operator, never logged."""

    key: str
    secret: str

    def __repr__(self) -> str:
        return "<KeyPair>"


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A provision key without its secret. uses: None when they are not counted; used_at: the last one that was."""

    key: str
    created_at: datetime
    budget: KeyBudget
    uses: int | None = None
    used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ProfileCounts:
    """How much a profile has."""

    devices: int
    keys: int


@dataclass(frozen=True, slots=True)
class ProfileDetails:
    """A profile with its provision keys (oldest first, without secrets), its CAs and the numbers of what it has.

    budgets: of those of its keys that have one. uses: how often keys were used whose uses are counted. facts: of all.
    """

    profile: DeviceProfile
    keys: tuple[str, ...]
    device_count: int
    authorities: tuple[AuthorityFacts, ...] = ()
    budgets: Mapping[str, KeyBudget] = field(default_factory=dict)
    uses: Mapping[str, int] = field(default_factory=dict)
    facts: tuple[KeyFacts, ...] = ()
    static_token_count: int = 0

    @property
    def warnings(self) -> list[str]:
        """What the operator should know about these settings."""
        found = name_warnings(self.profile)
        if self.profile.reprovision_policy is not ReprovisionPolicy.DENY:
            found.append(UNPROVEN)
        if self.profile.strategy is ProvisionStrategy.X509_CERTIFICATE_CHAIN and not self.authorities:
            found.append(NO_AUTHORITY)
        now = datetime.now(UTC)
        for key, budget in self.budgets.items():
            if budget.not_after is not None and budget.not_after <= now:
                found.append(f"The provision key {key} expired on {budget.not_after:%Y-%m-%d}: remove it.")
            if budget.max_uses is not None and self.uses.get(key, 0) >= budget.max_uses:
                found.append(f"The provision key {key} is used up: remove it, or allow it more uses.")
        return found + [warning for each in self.authorities for warning in each.warnings(now)]


def name_warnings(profile: DeviceProfile) -> list[str]:
    """What the operator should know about a profile's name, as soon as it is saved."""
    warning = template_name_warning(profile.name)
    return [] if warning is None else [warning]


class _NothingKept(Exception):  # noqa: N818
    """Rolls a dry run back."""


class Profiles:
    """The profiles of one organization; by their ids those of the ones below it, too. actor: as the audit has it."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        organization_id: UUID,
        random: ids.Randomness = os.urandom,
        actor: str = OPERATOR,
        counts: DeviceCounts | None = None,
    ) -> None:
        self._database = database
        self._counts = counts or DeviceCounts(database)
        self._keys = keys
        self._organization_id = organization_id
        self._random = random
        self._actor = actor

    async def create(
        self, change: ProfileChange, key: str | None = None, secret: str | None = None
    ) -> tuple[DeviceProfile, KeyPair]:
        """Make a profile with its first key; what is not given is generated. Raises Refused."""
        pair = self._pair(key, secret)
        return await self._create(change, pair), pair

    async def create_keyless(self, change: ProfileChange) -> DeviceProfile:
        """Make a profile without a provision key, as chains need none. Raises Refused."""
        return await self._create(change, None)

    async def clone(self, reference: str, name: str) -> DeviceProfile:
        """Make a profile like another, under a name of its own; without provision keys and CAs. Raises Refused."""
        now = datetime.now(UTC)
        async with self._database.transaction() as connection:
            original = await self._find(connection, reference)
            profile = replace(
                original,
                id=ids.uuid7(now.timestamp(), self._random),
                name=checked_name(name),
                template_id=ids.template_id(self._random),
                revision=1,
                created_at=now,
            )
            await self._unique(store.insert(connection, profile), _taken(profile))
            await self._record(connection, "profile.created", profile, clone_of=str(original.id))
        return profile

    async def export(self, reference: str) -> str:
        """A profile as a file (core/profilefile.py). Raises Refused."""
        async with self._database.connection() as connection:
            profile = await self._find(connection, reference)
        return profilefile.write(ProfileTemplate.of(profile))

    async def import_(
        self, content: bytes, *, name: str | None = None, accept_unproven_repeats: bool = False, dry_run: bool = False
    ) -> DeviceProfile:
        """Make a profile, without provision keys and CAs, from a file's content. Raises Refused.

        name: instead of the file's. dry_run: check everything, keep nothing.
        """
        try:
            template = profilefile.read(content)
        except InvalidProfileFile as fault:
            raise Invalid(f"The file is no profile: {fault}.") from None
        rules, plain = template.chain, template.chain == ChainRules()
        change = ProfileChange(
            name=template.name if name is None else name,
            strategy=template.strategy,
            reprovision_policy=template.reprovision_policy,
            metadata_fields=template.metadata_fields,
            datastreams=template.datastreams,
            accept_unproven_repeats=accept_unproven_repeats,
            name_from=None if plain else rules.name_from,
            name_pattern=None if plain else rules.name_pattern,
            allow_create=None if plain else rules.allow_create,
            two_sided_claim=template.two_sided_claim,
            clone_policy=template.clone_policy,
            approval=template.approval,
            credentials_lifetime=template.credentials_lifetime,
        )
        return await self._create(change, None, dry_run=dry_run)

    async def all(self, search: str = "") -> list[DeviceProfile]:
        """All profiles by name. search: what is in their name or template id, whatever its case."""
        async with self._database.connection() as connection:
            found = await store.list_(connection, self._organization_id)
        wanted = search.casefold()
        return [each for each in found if wanted in each.name.casefold() or wanted in each.template_id.casefold()]

    async def counts(self, found: Sequence[DeviceProfile]) -> list[ProfileCounts]:
        """How much each of these profiles has."""
        async with self._database.connection() as connection:
            keys = await store.count_keys(connection, [each.id for each in found])
        devices = await self._counts.get()
        return [ProfileCounts(devices.get(each.id, 0), keys.get(each.id, 0)) for each in found]

    async def show(self, reference: str) -> ProfileDetails:
        """A profile by name, template id or id. Raises Refused."""
        async with self._database.connection() as connection:
            profile = await self._find(connection, reference)
            keys = await store.keys(connection, profile.id)
            tokens = await store.count_static_tokens(connection, profile.id)
            devices = await store.count_devices(connection, profile.id)  # of one they are the present ones
            trusted = await store.authorities(connection, profile.id)
        return ProfileDetails(
            profile,
            tuple(row.key for row in keys),
            devices,
            tuple(map(authority.facts, trusted)),
            {row.key: row.budget for row in keys if row.budget is not None},
            {row.key: row.uses for row in keys if _is_counted(row)},
            tuple(_facts(row) for row in keys),
            tokens,
        )

    async def secrets(self, reference: str) -> list[KeyPair]:
        """A profile's keys with their secrets, oldest first. Raises Refused."""
        async with self._database.connection() as connection:
            profile = await self._find(connection, reference)
            keys = await store.keys(connection, profile.id)
        return [KeyPair(row.key, open_secret(self._keys, row.key, row.secret_sealed)) for row in keys]

    async def update(self, reference: str, change: ProfileChange, revision: int | None = None) -> DeviceProfile:
        """Change a profile. revision: that it must have; Stale is raised when it has another. Raises Refused."""
        async with self._database.transaction() as connection:
            found = await self._find(connection, reference, lock="NO KEY UPDATE")
            _check_revision(found, revision)
            profile = profilechange.changed(found, change)
            await _check_network_fields(connection, found, profile)
            await self._unique(store.update(connection, profile), _taken(profile))
            await self._reserve_values(connection, found, profile)
            await self._trust(connection, profile, change)
            names = [each.name for each in fields(profile)]
            changed = [name for name in names if getattr(profile, name) != getattr(found, name)]
            if change.of_trust:
                changed.append("authorities")
            await self._record(connection, "profile.updated", profile, changed=[*changed])
        return replace(profile, revision=found.revision + 1)

    async def add_key(
        self, reference: str, key: str | None = None, secret: str | None = None, budget: KeyBudget | None = None
    ) -> KeyPair:
        """Add a provision key; the others stay valid. Raises Refused."""
        pair, budget = self._pair(key, secret), _checked_budget(budget)
        async with self._database.transaction() as connection:
            profile = await self._find(connection, reference, lock="NO KEY UPDATE")
            await self._insert_key(connection, profile, pair, budget)
            await store.touch(connection, profile.id)
        return pair

    async def set_budget(self, reference: str, key: str, budget: KeyBudget) -> None:
        """Bound a provision key anew, as a whole; how often it was used stays. Raises Refused."""
        checked = _checked_budget(budget) or KeyBudget()
        async with self._database.transaction() as connection:
            profile = await self._find(connection, reference, lock="NO KEY UPDATE")
            if not await store.set_budget(connection, profile.id, key, checked):
                raise _no_key(profile)
            await store.touch(connection, profile.id)
            await self._record(connection, "provision_key.bounded", profile, hint=key[:HINT_LENGTH])

    async def remove_key(self, reference: str, key: str) -> None:
        """Remove a provision key: from here on it provisions nothing. Raises Refused."""
        async with self._database.transaction() as connection:
            profile = await self._find(connection, reference, lock="NO KEY UPDATE")
            if not await store.delete_key(connection, profile.id, key):
                raise _no_key(profile)
            await store.touch(connection, profile.id)
            await self._record(connection, "provision_key.removed", profile, hint=key[:HINT_LENGTH])

    async def delete(self, reference: str, revision: int | None = None) -> DeviceProfile:
        """Remove a profile that has neither devices nor static tokens. revision: as in `update`. Raises Refused."""
        async with self._database.transaction() as connection:
            profile = await self._find(connection, reference)
            try:
                await store.bar_devices(connection)
                profile = await self._find(connection, reference, lock="UPDATE")
            except LockNotAvailableError:
                raise Conflict("Devices are being made just now. Try again when that is done.") from None
            _check_revision(profile, revision)
            if count := await store.count_devices(connection, profile.id):
                raise Conflict(f"The profile {profile.name!r} has {count} devices. Delete them first.")
            if count := await store.count_static_tokens(connection, profile.id):
                raise Conflict(f"The profile {profile.name!r} has {count} static tokens. Delete them first.")
            await store.delete(connection, profile.id)
            await self._record(connection, "profile.deleted", profile)
        return profile

    async def _create(self, change: ProfileChange, pair: KeyPair | None, *, dry_run: bool = False) -> DeviceProfile:
        now = datetime.now(UTC)
        blank = DeviceProfile(
            id=ids.uuid7(now.timestamp(), self._random),
            organization_id=self._organization_id,
            name="",
            template_id=ids.template_id(self._random),
            strategy=ProvisionStrategy.DISABLED,
            reprovision_policy=ReprovisionPolicy.DENY,
            revision=1,
            created_at=now,
        )
        profile = profilechange.changed(blank, change)
        try:
            async with self._database.transaction() as connection:
                await self._unique(store.insert(connection, profile), _taken(profile))
                await self._trust(connection, profile, change)
                await self._record(connection, "profile.created", profile)
                if pair is not None:
                    await self._insert_key(connection, profile, pair, None)
                if dry_run:
                    raise _NothingKept
        except _NothingKept:
            pass
        return profile

    async def _find(
        self, connection: Connection, reference: str, *, lock: store.RowLock | None = None
    ) -> DeviceProfile:
        profile = await store.find(connection, self._organization_id, reference, lock=lock, below=True)
        if profile is None:
            raise missing(reference)
        return profile

    async def _trust(self, connection: Connection, profile: DeviceProfile, change: ProfileChange) -> None:
        """Have the profile trust the CAs that the change names, with its revocation lists."""
        if not change.of_trust:
            return
        now = datetime.now(UTC)
        trusted = await store.authorities(connection, profile.id)
        if change.forget_crls:
            trusted = tuple(replace(each, crl=None) for each in trusted)
        try:
            if change.authorities is not None:
                held = {authority.identity(each): each.crl for each in trusted}
                named = authority.read_authorities(change.authorities, now)
                trusted = tuple(replace(each, crl=held.get(authority.identity(each))) for each in named)
            trusted = authority.with_crls(trusted, change.crls or (), now)
        except InvalidAuthority as fault:
            raise Invalid(str(fault)) from None
        rows = [store.AuthorityRow(authority.identity(each), authority.subject_digest(each), each) for each in trusted]
        identities = [row.identity for row in rows]
        if holder := await store.authority_holder(connection, identities, profile.id, profile.organization_id):
            raise Conflict(f"The profile {holder!r} trusts this CA already; a CA belongs to one profile. {_NARROWER}")
        await self._unique(
            store.replace_authorities(connection, profile.id, rows),
            f"Another profile trusts this CA already; a CA belongs to one profile. {_NARROWER}",
        )

    async def _reserve_values(self, connection: Connection, before: DeviceProfile, after: DeviceProfile) -> None:
        """Have the static tokens' values of unique fields, and of no others, taken."""
        was, is_ = ({each.name for each in profile.metadata_fields if each.unique} for profile in (before, after))
        if was - is_:
            await store.release_values(connection, after.id, was - is_)
        for name in sorted(is_ - was):
            await self._unique(
                store.reserve_values(connection, after.id, name),
                f"The metadata field {name!r} cannot be unique: several static tokens have the same value.",
            )

    async def _record(self, connection: Connection, action: str, profile: DeviceProfile, **detail: Value) -> None:
        id_ = ids.uuid7(datetime.now(UTC).timestamp(), self._random)
        await audit.record(
            connection, id_, profile.organization_id, self._actor, action, profile.id, name=profile.name, **detail
        )

    async def _insert_key(
        self, connection: Connection, profile: DeviceProfile, pair: KeyPair, budget: KeyBudget | None
    ) -> None:
        digest = self._keys.digest("provision-secret", pair.secret)
        sealed = self._keys.seal(pair.secret.encode(), secret_context(pair.key), self._random(12))
        await self._unique(
            store.insert_key(connection, profile.id, pair.key, digest, sealed, budget),
            "This provision key is in use already. Choose another, or leave --key out to have one generated.",
        )
        await self._record(connection, "provision_key.added", profile, hint=pair.key[:HINT_LENGTH])

    def _pair(self, key: str | None, secret: str | None) -> KeyPair:
        for name, value in (("key", key), ("secret", secret)):
            if value is not None and (not value or len(value) > MAX_LENGTH or has_control_characters(value)):
                raise Invalid(f"The provision {name} must be 1-{MAX_LENGTH} printable characters.")
        return KeyPair(
            key or ids.alphanumeric(KEY_LENGTH, self._random),
            secret or ids.alphanumeric(SECRET_LENGTH, self._random),
        )

    @staticmethod
    async def _unique(statement: Awaitable[None], message: str) -> None:
        try:
            await statement
        except UniqueViolationError:
            raise Conflict(message) from None


async def add_fields(connection: Connection, profile: DeviceProfile, wanted: Sequence[MetadataField]) -> DeviceProfile:
    """Have a profile, which the transaction has locked, have these metadata fields beside its own. Raises Conflict."""
    held = {each.name: each for each in profile.metadata_fields}
    for each in wanted:
        there = held.get(each.name, each)
        if there.type != each.type or (each.unique and not there.unique):
            unique = ":unique" if each.unique else ""
            raise Conflict(
                f"The metadata field {each.name!r} of the profile {profile.name!r} must be of the type {each.type}"
                f"{' and unique' if unique else ''}: `provserver profile update` with "
                f'--metadata-field "{each.name}:{each.type}{unique}" beside the others.'
            )
    new = tuple(each for each in wanted if each.name not in held)
    if not new:
        return profile
    changed = replace(profile, metadata_fields=(*profile.metadata_fields, *new), revision=profile.revision + 1)
    await store.update(connection, changed)
    for each in new:
        if each.unique:
            try:
                await store.reserve_values(connection, profile.id, each.name)
            except UniqueViolationError:
                raise Conflict(
                    f"The metadata field {each.name!r} cannot be unique: several static tokens have the same value."
                ) from None
    return changed


async def _check_network_fields(connection: Connection, before: DeviceProfile, after: DeviceProfile) -> None:
    """Whether what a network's devices are made of is left as it is while they are onboarded. Raises Conflict."""
    names = {*lorawan.FIELDS, lorawan.NETWORK_KEY, lorawan.OWNER_TOKEN}
    held = {each.name: each for each in after.metadata_fields}
    for was in before.metadata_fields:
        now = held.get(was.name)
        if was.name not in names or (now is not None and now.type == was.type and now.unique >= was.unique):
            continue
        served_by = await integrations.of_profile(connection, before.id)
        if served_by is None or not served_by.onboarding:
            return
        raise Conflict(
            f"The metadata field {was.name!r} stays as it is while devices of the profile are onboarded into a "
            f"network. Switch that off first: provserver integration update {served_by.id} --no-onboarding."
        )


def _is_counted(row: store.KeyRow) -> bool:
    """Whether a key's uses are."""
    return row.budget is not None and row.budget.max_uses is not None


def _facts(row: store.KeyRow) -> KeyFacts:
    uses = row.uses if _is_counted(row) else None
    return KeyFacts(row.key, row.created_at, row.budget or KeyBudget(), uses, row.used_at)


def missing(reference: str) -> NotFound:
    """There is no such profile to whom asks."""
    return NotFound(
        f"There is no profile {reference!r} here. Look in the list of profiles. One of an organization below goes by "
        "its id, or by its name together with that organization."
    )


def open_secret(keys: ServerKeys, key: str, sealed: bytes) -> str:
    """The secret of a provision key. Raises Unsealable."""
    return keys.unseal(sealed, secret_context(key)).decode()


def secret_context(key: str) -> bytes:
    """What the secret of a provision key is sealed for."""
    return b"provision-secret:" + key.encode()


_NARROWER = "Take it away there, or trust an intermediate of it here."


def _taken(profile: DeviceProfile) -> str:
    return f"A profile {profile.name!r} exists already. Choose another name, or change that profile."


def _check_revision(profile: DeviceProfile, wanted: int | None) -> None:
    if wanted not in (None, profile.revision):
        raise Stale(f"The profile {profile.name!r} has changed meanwhile. Look at it again, and then change it.")


def _no_key(profile: DeviceProfile) -> NotFound:
    return NotFound(f"The profile {profile.name!r} has no such provision key. Look at those that it has.")


def _checked_budget(given: KeyBudget | None) -> KeyBudget | None:
    """A budget, in UTC; None when it bounds nothing."""
    if given is None or given == KeyBudget():
        return None
    not_before, not_after = (
        moment and in_utc(moment, "A time of a provision key") for moment in (given.not_before, given.not_after)
    )
    if not_before is not None and not_after is not None and not_before >= not_after:
        raise Invalid("A provision key must become valid before it expires.")
    networks = tuple(dict.fromkeys(given.networks))
    if len(networks) > MAX_NETWORKS or any("%" in str(network) for network in networks):
        raise Invalid(f"A provision key can have {MAX_NETWORKS} networks at most, and no zone in one.")
    for number, called in ((given.max_uses, "uses"), (given.per_minute, "uses a minute")):
        if number is not None and not 0 < number <= MAX_USES:
            raise Invalid(f"A provision key can be allowed 1 to {MAX_USES:,} {called}; leave it out for any number.")
    return KeyBudget(not_before, not_after, networks, given.max_uses, given.per_minute)
