"""What operators do with device profiles and their provision keys; one transaction each."""

import os
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from asyncpg import LockNotAvailableError, UniqueViolationError

from provserver.core import authority, chain, ids
from provserver.core.authority import AuthorityFacts, InvalidAuthority
from provserver.core.chain import InvalidPattern
from provserver.core.credentials import has_control_characters
from provserver.core.model import (
    ChainRules,
    Datastream,
    DeviceProfile,
    MetadataField,
    NameSource,
    ProvisionStrategy,
    ReprovisionPolicy,
)
from provserver.core.secrets import ServerKeys
from provserver.errors import Refused
from provserver.store import profiles as store
from provserver.store.database import Connection, Database

KEY_LENGTH = 20
SECRET_LENGTH = 32
MAX_LENGTH = 255

UNPROVEN = (
    "Whoever holds the fleet key and knows a device's name can take its credentials: "
    "firmware should send a requestNonce instead, with policy deny."
)
"""What `profile show` warns of under every policy but `deny`."""

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
class ProfileDetails:
    """A profile with its provision keys (oldest first, without secrets), its CAs and the number of its devices."""

    profile: DeviceProfile
    keys: tuple[str, ...]
    device_count: int
    authorities: tuple[AuthorityFacts, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """What the operator should know about these settings."""
        found = [] if self.profile.reprovision_policy is ReprovisionPolicy.DENY else [UNPROVEN]
        if self.profile.strategy is ProvisionStrategy.X509_CERTIFICATE_CHAIN and not self.authorities:
            found.append(NO_AUTHORITY)
        now = datetime.now(UTC)
        return found + [warning for each in self.authorities for warning in each.warnings(now)]


@dataclass(frozen=True, slots=True)
class ProfileChange:
    """What to change; None leaves it as it is.

    authorities: contents of files, a CA's certificate in each, PEM or DER; they replace those that were trusted.
    crls: contents of files with their revocation lists. A CA that stays keeps the list it has, unless forget_crls.
    """

    name: str | None = None
    strategy: ProvisionStrategy | None = None
    reprovision_policy: ReprovisionPolicy | None = None
    metadata_fields: Sequence[MetadataField] | None = None
    datastreams: Sequence[Datastream] | None = None
    accept_unproven_repeats: bool = False
    authorities: Sequence[bytes] | None = None
    crls: Sequence[bytes] | None = None
    forget_crls: bool = False
    name_from: NameSource | None = None
    name_pattern: str | None = None
    allow_create: bool | None = None

    @property
    def of_chains(self) -> bool:
        """Whether there is something in it that only chains are concerned with."""
        settings = (self.authorities, self.crls, self.name_from, self.name_pattern, self.allow_create)
        return self.forget_crls or any(setting is not None for setting in settings)


class Profiles:
    """The profiles of one organization."""

    def __init__(
        self, database: Database, keys: ServerKeys, organization_id: UUID, random: ids.Randomness = os.urandom
    ) -> None:
        self._database = database
        self._keys = keys
        self._organization_id = organization_id
        self._random = random

    async def create(
        self, change: ProfileChange, key: str | None = None, secret: str | None = None
    ) -> tuple[DeviceProfile, KeyPair]:
        """Make a profile with its first key; what is not given is generated. Raises Refused."""
        pair = self._pair(key, secret)
        return await self._create(change, pair), pair

    async def create_keyless(self, change: ProfileChange) -> DeviceProfile:
        """Make a profile without a provision key, as chains need none. Raises Refused."""
        return await self._create(change, None)

    async def all(self) -> list[DeviceProfile]:
        """All profiles by name."""
        async with self._database.connection() as connection:
            return await store.list_(connection, self._organization_id)

    async def show(self, reference: str) -> ProfileDetails:
        """A profile by name, template id or id. Raises Refused."""
        async with self._database.connection() as connection:
            profile = await self._find(connection, reference)
            keys = await store.keys(connection, profile.id)
            count = await store.count_devices(connection, profile.id)
            trusted = await store.authorities(connection, profile.id)
        return ProfileDetails(profile, tuple(key for key, _ in keys), count, tuple(map(authority.facts, trusted)))

    async def secrets(self, reference: str) -> list[KeyPair]:
        """A profile's keys with their secrets, oldest first. Raises Refused."""
        async with self._database.connection() as connection:
            profile = await self._find(connection, reference)
            keys = await store.keys(connection, profile.id)
        return [KeyPair(key, open_secret(self._keys, key, sealed)) for key, sealed in keys]

    async def update(self, reference: str, change: ProfileChange) -> DeviceProfile:
        """Change a profile. Raises Refused."""
        async with self._database.transaction() as connection:
            profile = _changed(await self._find(connection, reference, lock="NO KEY UPDATE"), change)
            await self._unique(store.update(connection, profile), _taken(profile))
            await self._trust(connection, profile, change)
        return profile

    async def add_key(self, reference: str, key: str | None = None, secret: str | None = None) -> KeyPair:
        """Add a provision key; the others stay valid. Raises Refused."""
        pair = self._pair(key, secret)
        async with self._database.transaction() as connection:
            profile = await self._find(connection, reference, lock="NO KEY UPDATE")
            await self._insert_key(connection, profile.id, pair)
            await store.touch(connection, profile.id)
        return pair

    async def remove_key(self, reference: str, key: str) -> None:
        """Remove a provision key: from here on it provisions nothing. Raises Refused."""
        async with self._database.transaction() as connection:
            profile = await self._find(connection, reference, lock="NO KEY UPDATE")
            if not await store.delete_key(connection, profile.id, key):
                raise Refused(
                    f"The profile {profile.name!r} has no such provision key. `provserver profile show` names them."
                )
            await store.touch(connection, profile.id)

    async def delete(self, reference: str) -> DeviceProfile:
        """Remove a profile that has no devices. Raises Refused."""
        async with self._database.transaction() as connection:
            profile = await self._find(connection, reference)
            try:
                await store.bar_devices(connection)
                profile = await self._find(connection, reference, lock="UPDATE")
            except LockNotAvailableError:
                raise Refused("Devices are being made just now. Try again when that is done.") from None
            if count := await store.count_devices(connection, profile.id):
                raise Refused(f"The profile {profile.name!r} has {count} devices. Delete them first.")
            await store.delete(connection, profile.id)
        return profile

    async def _create(self, change: ProfileChange, pair: KeyPair | None) -> DeviceProfile:
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
        profile = _changed(blank, change)
        async with self._database.transaction() as connection:
            await self._unique(store.insert(connection, profile), _taken(profile))
            await self._trust(connection, profile, change)
            if pair is not None:
                await self._insert_key(connection, profile.id, pair)
        return profile

    async def _find(
        self, connection: Connection, reference: str, *, lock: store.RowLock | None = None
    ) -> DeviceProfile:
        profile = await store.find(connection, self._organization_id, reference, lock=lock)
        if profile is None:
            raise Refused(f"There is no profile {reference!r}. `provserver profile list` names them.")
        return profile

    async def _trust(self, connection: Connection, profile: DeviceProfile, change: ProfileChange) -> None:
        """Have the profile trust the CAs that the change names, with its revocation lists."""
        if change.authorities is None and change.crls is None and not change.forget_crls:
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
            raise Refused(str(fault)) from None
        rows = [store.AuthorityRow(authority.identity(each), authority.subject_digest(each), each) for each in trusted]
        if holder := await store.authority_holder(connection, [row.identity for row in rows], profile.id):
            raise Refused(f"The profile {holder!r} trusts this CA already; a CA belongs to one profile. {_NARROWER}")
        await self._unique(
            store.replace_authorities(connection, profile.id, rows),
            f"Another profile trusts this CA already; a CA belongs to one profile. {_NARROWER}",
        )

    async def _insert_key(self, connection: Connection, profile_id: UUID, pair: KeyPair) -> None:
        digest = self._keys.digest("provision-secret", pair.secret)
        sealed = self._keys.seal(pair.secret.encode(), _context(pair.key), self._random(12))
        await self._unique(
            store.insert_key(connection, profile_id, pair.key, digest, sealed),
            "This provision key is in use already. Choose another, or leave --key out to have one generated.",
        )

    def _pair(self, key: str | None, secret: str | None) -> KeyPair:
        for name, value in (("key", key), ("secret", secret)):
            if value is not None and (not value or len(value) > MAX_LENGTH or has_control_characters(value)):
                raise Refused(f"The provision {name} must be 1-{MAX_LENGTH} printable characters.")
        return KeyPair(
            key or ids.alphanumeric(KEY_LENGTH, self._random),
            secret or ids.alphanumeric(SECRET_LENGTH, self._random),
        )

    @staticmethod
    async def _unique(statement: Awaitable[None], message: str) -> None:
        try:
            await statement
        except UniqueViolationError:
            raise Refused(message) from None


def open_secret(keys: ServerKeys, key: str, sealed: bytes) -> str:
    """The secret of a provision key. Raises Unsealable."""
    return keys.unseal(sealed, _context(key)).decode()


def _context(key: str) -> bytes:
    return b"provision-secret:" + key.encode()


_NARROWER = "Take it away there, or trust an intermediate of it here."


def _taken(profile: DeviceProfile) -> str:
    return f"A profile {profile.name!r} exists already. Choose another name, or change that profile."


def _changed(profile: DeviceProfile, change: ProfileChange) -> DeviceProfile:
    name = profile.name if change.name is None else change.name.strip()
    if not name or len(name) > MAX_LENGTH or has_control_characters(name):
        raise Refused(f"A profile's name must be 1-{MAX_LENGTH} printable characters.")
    policy = change.reprovision_policy or profile.reprovision_policy
    changed = change.reprovision_policy not in (None, profile.reprovision_policy)
    if changed and policy is not ReprovisionPolicy.DENY and not change.accept_unproven_repeats:
        raise Refused(f"{UNPROVEN} To have it all the same, add --accept-unproven-repeats.")
    for noun, named in (("metadata field", change.metadata_fields), ("datastream", change.datastreams)):
        names = [each.name for each in named or ()]
        if twice := next((each for each in names if names.count(each) > 1), None):
            raise Refused(f"The {noun} {twice!r} is there twice. Leave one out.")
    strategy = change.strategy or profile.strategy
    if change.of_chains and strategy not in (ProvisionStrategy.X509_CERTIFICATE_CHAIN, ProvisionStrategy.DISABLED):
        raise Refused("CAs, revocation lists and names from certificates go with --strategy x509-chain.")
    return replace(
        profile,
        name=name,
        strategy=strategy,
        reprovision_policy=policy,
        metadata_fields=(profile.metadata_fields if change.metadata_fields is None else tuple(change.metadata_fields)),
        datastreams=profile.datastreams if change.datastreams is None else tuple(change.datastreams),
        chain=_rules(profile.chain, change),
    )


def _rules(rules: ChainRules, change: ProfileChange) -> ChainRules:
    if change.name_pattern is not None:
        try:
            chain.compile_pattern(change.name_pattern)
        except InvalidPattern as fault:
            raise Refused(
                f"The name pattern is not valid: {fault}. It is an RE2 expression: "
                "https://github.com/google/re2/wiki/Syntax (no look-around, no back-references)."
            ) from None
    return ChainRules(
        change.name_from or rules.name_from,
        rules.name_pattern if change.name_pattern is None else change.name_pattern,
        rules.allow_create if change.allow_create is None else change.allow_create,
    )
