"""Integrations, for operators: which application of a LoRaWAN network a profile's devices are onboarded into.

The API key is sealed, and shown to nobody. It was given for certain addresses, so others need it anew: who may change
settings could have it sent anywhere otherwise.

Anybody can name an application. It is claimed by the first integration whose key a test has found to have all rights
there; onboarding is for such a one.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from asyncpg import UniqueViolationError
from msgspec import UNSET, Struct, UnsetType

from provserver.core import ids, integration, lorawan
from provserver.core.authorization import Permission, Principal
from provserver.core.integration import (
    ClaimProof,
    NetworkKind,
    NetworkState,
    Settings,
    SettingsChange,
    Status,
)
from provserver.core.lorawan import LorawanVersion
from provserver.core.model import DeviceProfile, MetadataField
from provserver.core.secrets import ServerKeys, Unsealable
from provserver.core.telemetry import Value
from provserver.errors import Conflict, Invalid, NotFound, Unavailable
from provserver.services import devices
from provserver.services.network_check import Check, Connect, NetworkCheck, connect
from provserver.services.organizations import check_revision, reach
from provserver.services.profiles import add_fields, missing
from provserver.store import audit, network_devices, profiles
from provserver.store import devices as store_devices
from provserver.store import integrations as store
from provserver.store.database import Connection, Database
from provserver.store.integrations import Integration
from provserver.store.network_devices import NetworkDevice

if TYPE_CHECKING:
    from provserver.adapters.outgoing import Outgoing

__all__ = [
    "Integration",
    "IntegrationChange",
    "IntegrationDetails",
    "Integrations",
    "NetworkDevice",
    "fields",
    "key_context",
    "opened_key",
    "opened_secret",
    "warnings",
    "webhook_context",
]

SECRET_LENGTH = 32
"""Characters of the secret that a webhook of a network comes with."""

UNIQUE = frozenset({lorawan.DEVICE_EUI, lorawan.NETWORK_DEVICE_ID})
"""Metadata fields of which no two devices of a profile may have the same value."""

_MOVING = frozenset({NetworkState.WAITING, NetworkState.ONBOARDING, NetworkState.REMOVING})


class IntegrationChange(Struct, frozen=True):
    """What to change; what is unset stays. lorawan_profile_id: empty: none, no TR005 codes are read."""

    application_id: str | UnsetType = UNSET
    api_key: str | UnsetType = UNSET
    settings: SettingsChange = SettingsChange()
    onboarding: bool | UnsetType = UNSET
    auto_import: bool | UnsetType = UNSET
    lorawan_profile_id: str | UnsetType = UNSET
    claim_proof: ClaimProof | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class IntegrationDetails:
    """An integration, and how many of its devices are in which state. webhook: whether uplinks may come by one."""

    integration: Integration
    devices: Mapping[NetworkState, int]
    webhook: bool


class Integrations:
    """The integrations, as far down the tree as a principal reaches. outgoing, connect: see NetworkCheck."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        outgoing: Callable[[], "Outgoing"],
        connect: Connect = connect,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keys = keys
        self._networks = NetworkCheck(outgoing, connect)
        self._random = random
        self._clock = clock

    async def close(self) -> None:
        """Let go of the connections."""
        await self._networks.close()

    async def create(
        self,
        principal: Principal,
        profile: str,
        network: NetworkKind,
        change: IntegrationChange,
        organization: UUID | str | None = None,
    ) -> Integration:
        """Have an application serve a profile, of the principal's own organization unless it is given. Raises Refused.

        change: needs the application's id, an API key and the settings. With onboarding, the connection is tested, and
        the profile gets the metadata fields that hold EUIs and keys.
        """
        principal.require(Permission.PROFILES_MANAGE)
        wrong = [name for name in ("application_id", "api_key") if getattr(change, name) is UNSET]
        if wrong:
            raise Invalid("An integration needs the application's id and an API key of it: applicationId, apiKey.")
        blank = _blank(principal.actor, network, integration.changed(network, None, change.settings))
        planned = _planned(blank, change)
        await self._networks.check_addresses(planned.settings)
        assert change.api_key is not UNSET  # noqa: S101 - looked at above
        api_key = integration.checked_api_key(network, change.api_key)
        id_ = ids.uuid7(self._clock(), self._random)
        planned = replace(planned, id=id_)
        if planned.onboarding:
            async with self._database.connection() as connection:  # before a network is asked anything
                await self._place(connection, principal, planned, profile, organization)
            await self._verify(planned, api_key)
            planned = _verified(planned)
        async with self._database.transaction() as connection:
            planned, served = await self._place(connection, principal, planned, profile, organization)
            if planned.onboarding:
                await self._add_fields(connection, principal, served, planned)
            try:
                async with connection.transaction():
                    sealed, host = self._seal(api_key, key_context(id_)), integration.api_host(planned.settings)
                    made = await store.insert(connection, planned, host, sealed)
            except UniqueViolationError:
                raise await self._taken(connection, principal, planned) from None
            await self._record(connection, principal, made, "created", onboarding=made.onboarding)
        return made

    async def list_(
        self,
        principal: Principal,
        cursor: UUID | None = None,
        limit: int = 50,
        *,
        organization: UUID | str | None = None,
        profile: str | None = None,
    ) -> list[Integration]:
        """Those in reach, in the order they were made, after the cursor's. Raises Refused.

        organization: only those of this one. profile: only that of one of this name, template id or id.
        """
        principal.require(Permission.PROFILES_VIEW)
        async with self._database.connection() as connection:
            only = None if organization is None else (await reach(connection, principal, organization)).id
            return await store.list_(
                connection,
                principal.organization_id,
                after=cursor,
                limit=limit,
                organization_id=only,
                profile=profile,
            )

    async def show(self, principal: Principal, id_: UUID) -> IntegrationDetails:
        """One, with its devices in numbers. Raises Refused."""
        principal.require(Permission.PROFILES_VIEW)
        async with self._database.connection() as connection:
            found = await self._find(connection, principal, id_)
            return IntegrationDetails(
                found,
                await network_devices.counts(connection, id_),
                await store.sealed_webhook(connection, id_) is not None,
            )

    async def update(
        self, principal: Principal, id_: UUID, change: IntegrationChange, revision: int | None = None
    ) -> Integration:
        """Change one; revision: which the change was meant for. Raises Refused.

        Other addresses need the API key again. Another application needs one that has no devices of ours in it. Before
        onboarding is switched on, or goes on in another application, the connection is tested.
        """
        principal.require(Permission.PROFILES_MANAGE)
        async with self._database.connection() as connection:
            seen = await self._find(connection, principal, id_)
            check_revision(seen.revision, revision)
            sealed = await store.sealed_key(connection, id_)
        planned = _planned(seen, change)
        _check_key_is_given(seen, planned, change)
        await self._networks.check_addresses(planned.settings)  # outside the transaction, as it may wait for DNS
        tested = planned.onboarding and not (seen.onboarding and planned.verified)
        if tested:
            await self._verify(planned, self._api_key(seen, change, sealed))
        async with self._database.transaction() as connection:
            before = await self._find(connection, principal, id_, lock="NO KEY UPDATE")
            check_revision(before.revision, seen.revision)
            after = _planned(before, change)
            if tested:
                after = _verified(after)
            if _moves(before, after):
                await self._check_free(connection, principal, after)
                if there := await network_devices.live(connection, id_):
                    raise Conflict(
                        f"{there} devices are in the application {before.application_id!r}. Remove them there first, "
                        "or serve the profile of new devices with the other application."
                    )
            if after.onboarding:
                profile = await self._profile(connection, before.organization_id, str(before.profile_id))
                await self._add_fields(connection, principal, profile, after)
            try:
                async with connection.transaction():
                    found = await store.update(connection, id_, self._columns(before, after, change))
            except UniqueViolationError:
                raise await self._taken(connection, principal, after) from None
            names = [name for name in change.__struct_fields__ if name != "settings"]
            changed = [name for name in names if getattr(change, name) is not UNSET]
            if after.settings != before.settings:
                changed.append("settings")
            await self._record(connection, principal, found, "updated", changed=[*changed])
        return found

    async def delete(
        self, principal: Principal, id_: UUID, revision: int | None = None, *, forget: bool = False
    ) -> Integration:
        """Remove one. forget: although it has devices, which stay in the network as they are. Raises Refused."""
        principal.require(Permission.PROFILES_MANAGE)
        async with self._database.transaction() as connection:
            found = await self._find(connection, principal, id_, lock="UPDATE")
            check_revision(found.revision, revision)
            counts = await network_devices.counts(connection, id_)
            if moving := sum(counts.get(state, 0) for state in _MOVING):
                raise Conflict(f"{moving} devices are on their way. Wait for their jobs, or cancel them.")
            if (there := await network_devices.live(connection, id_)) and not forget:
                raise Conflict(
                    f"{there} devices are in the application {found.application_id!r}. Remove them there first, or say "
                    "that they are to stay there and be forgotten here: forget, or --forget."
                )
            await store.delete(connection, id_)
            await self._record(connection, principal, found, "deleted", forgotten=there)
        return found

    async def test(self, principal: Principal, id_: UUID) -> Check:
        """Try the connection: whether the components answer, and what the API key may not do. Raises Refused.

        If all is well and no right is missing, the application is claimed.
        """
        principal.require(Permission.PROFILES_MANAGE)
        async with self._database.connection() as connection:
            found = await self._find(connection, principal, id_)
            sealed = await store.sealed_key(connection, id_)
        check = await self._networks.check(found, self._api_key(found, IntegrationChange(), sealed))
        async with self._database.transaction() as connection:
            try:
                async with connection.transaction():
                    await store.set_status(
                        connection, id_, check.status, check.error, revision=found.revision, verified=check.verifies
                    )
            except UniqueViolationError:
                holder = await self._holder(connection, principal, found)
                check = replace(check, status=Status.BROKEN, error=_serves(found, holder), remedy=_SERVED_REMEDY)
                await store.set_status(connection, id_, check.status, check.error, revision=found.revision)
        return check

    async def make_webhook(self, principal: Principal, id_: UUID) -> tuple[Integration, str]:
        """Have uplinks of the network come by webhook: a new secret, that only this shows, instead of any before it.

        Raises Refused.
        """
        principal.require(Permission.PROFILES_MANAGE)
        secret = ids.alphanumeric(SECRET_LENGTH, self._random)
        async with self._database.transaction() as connection:
            await self._find(connection, principal, id_, lock="NO KEY UPDATE")
            found = await store.update(connection, id_, {"webhook_sealed": self._seal(secret, webhook_context(id_))})
            await self._record(connection, principal, found, "webhook_made")
        return found, secret

    async def devices(
        self,
        principal: Principal,
        id_: UUID,
        cursor: UUID | None = None,
        limit: int = 50,
        *,
        state: NetworkState | None = None,
    ) -> list[NetworkDevice]:
        """The devices of one in the order of their ids, after the cursor's; of one state, or all. Raises Refused."""
        principal.require(Permission.PROFILES_VIEW)
        async with self._database.connection() as connection:
            await self._find(connection, principal, id_)
            return await network_devices.list_(connection, id_, after=cursor, limit=limit, state=state)

    async def device(self, principal: Principal, reference: UUID | str) -> NetworkDevice:
        """How a device that the principal sees stands with its network. Raises Refused.

        A UUID may be of one that was deleted here.
        """
        principal.require(Permission.DEVICES_VIEW)
        async with self._database.connection() as connection:
            id_ = store_devices.id_in(str(reference))
            if id_ is not None and (gone := await left(connection, principal, id_)) is not None:
                return gone
            device = await devices.seen(connection, principal.organization_id, reference)
            found = await network_devices.get(connection, device.id)
        if found is None:
            raise NotFound(
                f"{device.name!r} is in no network. It is onboarded once its profile has an integration with "
                "onboarding, and it has a Device EUI, a Join EUI and an Application Key."
            )
        return found

    async def _verify(self, wanted: Integration, api_key: str) -> None:
        """Look whether a key may onboard into the application. Raises Conflict, which says what is missing."""
        check = await self._networks.check(wanted, api_key)
        if not check.verifies:
            raise Conflict(f"Onboarding is not switched on. {check.error} {check.remedy}")

    def _api_key(self, of: Integration, change: IntegrationChange, sealed: bytes | None) -> str:
        if change.api_key is not UNSET:
            return integration.checked_api_key(of.network, change.api_key)
        if sealed is None:
            raise _missing(of.id)
        try:
            return opened_key(self._keys, of.id, sealed)
        except Unsealable:
            raise Unavailable("The API key cannot be opened. Give the integration one anew.") from None

    async def _place(
        self,
        connection: Connection,
        principal: Principal,
        planned: Integration,
        profile: str,
        organization: UUID | str | None,
    ) -> tuple[Integration, DeviceProfile]:
        """An integration as one of its profile. Raises NotFound, and Conflict if that or the application is served."""
        where = await reach(connection, principal, organization, lock="KEY SHARE")
        served = await self._profile(connection, where.id, profile)
        if await store.of_profile(connection, served.id) is not None:
            raise Conflict(f"The profile {served.name!r} has an integration already. Change that, or delete it.")
        planned = replace(planned, organization_id=served.organization_id, profile_id=served.id, profile=served.name)
        await self._check_free(connection, principal, planned)
        return planned, served

    async def _check_free(self, connection: Connection, principal: Principal, wanted: Integration) -> None:
        """Whether no other profile is served by an application, as far as can be seen. Raises Conflict, which names it.

        What cannot be seen is found out by whoever has a key of the application: others learn nothing of it.
        """
        if (holder := await self._holder(connection, principal, wanted)) is not None:
            raise Conflict(f"{_serves(wanted, holder)} {_SERVED_REMEDY}")

    async def _taken(self, connection: Connection, principal: Principal, wanted: Integration) -> Conflict:
        """Why one could not be written: another has come first."""
        found = await store.of_profile(connection, wanted.profile_id)
        if found is not None and found.id != wanted.id:
            return Conflict("The profile has an integration already. Change that, or delete it.")
        return Conflict(f"{_serves(wanted, await self._holder(connection, principal, wanted))} {_SERVED_REMEDY}")

    async def _holder(self, connection: Connection, principal: Principal, wanted: Integration) -> str | None:
        host = integration.api_host(wanted.settings)
        return await store.server(connection, principal.organization_id, wanted, host)

    async def _profile(self, connection: Connection, organization_id: UUID, reference: str) -> DeviceProfile:
        found = await profiles.find(connection, organization_id, reference, lock="NO KEY UPDATE", below=True)
        if found is None:
            raise missing(reference)
        return found

    async def _add_fields(
        self, connection: Connection, principal: Principal, profile: DeviceProfile, served_by: Integration
    ) -> None:
        changed = await add_fields(connection, profile, fields(served_by))
        if changed is not profile:
            id_ = ids.uuid7(self._clock(), self._random)
            detail: dict[str, Value] = {"name": profile.name, "changed": ["metadata_fields"]}
            await audit.record(
                connection, id_, profile.organization_id, principal.actor, "profile.updated", profile.id, **detail
            )

    def _columns(self, before: Integration, after: Integration, change: IntegrationChange) -> dict[str, object]:
        columns: dict[str, object] = {
            "application_id": after.application_id,
            "host": integration.api_host(after.settings),
            "settings": after.settings,
            "verified": after.verified,
            "onboarding": after.onboarding,
            "auto_import": after.auto_import,
            "lorawan_profile_id": after.lorawan_profile_id,
            "claim_proof": after.claim_proof,
        }
        if change.api_key is not UNSET:
            api_key = integration.checked_api_key(before.network, change.api_key)
            columns["key_sealed"] = self._seal(api_key, key_context(before.id))
        if change.api_key is not UNSET or _connection(after) != _connection(before):
            columns |= {"status": Status.UNCHECKED, "error": None, "checked_at": None}
        if after.checked_at != before.checked_at:  # it was tested for this change
            columns |= {"status": after.status, "error": None, "checked_at": after.checked_at}
        return columns

    def _seal(self, secret: str, context: bytes) -> bytes:
        return self._keys.seal(secret.encode(), context, self._random(12))

    async def _find(
        self, connection: Connection, principal: Principal, id_: UUID, *, lock: profiles.RowLock | None = None
    ) -> Integration:
        found = await store.find(connection, principal.organization_id, id_, lock=lock)
        if found is None:
            raise _missing(id_)
        return found

    async def _record(
        self, connection: Connection, principal: Principal, found: Integration, verb: str, **detail: Value
    ) -> None:
        id_ = ids.uuid7(self._clock(), self._random)
        detail = {
            "network": found.network,
            "host": integration.api_host(found.settings),
            "application_id": found.application_id,
        } | detail
        await audit.record(
            connection, id_, found.organization_id, principal.actor, f"integration.{verb}", found.id, **detail
        )


def fields(of: Integration) -> list[MetadataField]:
    """The metadata fields that a profile has whose devices are onboarded."""
    wanted = dict(lorawan.FIELDS)
    if of.network is not NetworkKind.THINGS_STACK:  # elsewhere a device has no other id than its DevEUI
        del wanted[lorawan.NETWORK_DEVICE_ID]
    if of.settings.lorawan_version is LorawanVersion.V1_1:
        wanted[lorawan.NETWORK_KEY] = "key128"
    return [MetadataField(name, type_, unique=name in UNIQUE) for name, type_ in wanted.items()]


def warnings(of: Integration) -> list[str]:
    """What the operator should know about an integration's settings."""
    found = [*integration.hints(of.network, of.settings)]
    if of.onboarding and of.lorawan_profile_id is None:
        found.append("Without a LoRaWAN Profile ID no TR005 codes are made, and none can be claimed by.")
    if of.onboarding and of.lorawan_profile_id is not None and of.claim_proof is ClaimProof.NONE:
        found.append(
            "A TR005 code is no secret: a device says its EUIs in clear with every join. Who may have heard one can "
            "claim its device first, unless claimProof asks for the owner token or the device itself."
        )
    return found


def opened_key(keys: ServerKeys, id_: UUID, sealed: bytes) -> str:
    """The API key of an integration. Raises Unsealable."""
    return keys.unseal(sealed, key_context(id_)).decode()


def opened_secret(keys: ServerKeys, id_: UUID, sealed: bytes) -> str:
    """The secret that an integration's webhook comes with. Raises Unsealable."""
    return keys.unseal(sealed, webhook_context(id_)).decode()


def key_context(id_: UUID) -> bytes:
    """What the API key of an integration is sealed for."""
    return b"integration-key:" + id_.bytes


def webhook_context(id_: UUID) -> bytes:
    """What the secret of an integration's webhook is sealed for."""
    return b"integration-webhook:" + id_.bytes


def _blank(actor: str, network: NetworkKind, settings: Settings) -> Integration:
    """One to be; whose it is, is filled in later."""
    now, nobody = datetime.now(UTC), UUID(int=0)
    return Integration(
        id=nobody,
        organization_id=nobody,
        profile_id=nobody,
        profile="",
        network=network,
        application_id="",
        settings=settings,
        verified=False,
        onboarding=False,
        auto_import=False,
        lorawan_profile_id=None,
        claim_proof=ClaimProof.NONE,
        status=Status.UNCHECKED,
        error=None,
        checked_at=None,
        created_by=actor,
        created_at=now,
        updated_at=now,
        revision=1,
    )


def _planned(before: Integration, change: IntegrationChange) -> Integration:
    """An integration with a change. Raises Invalid."""
    network = before.network
    application_id, profile_id = before.application_id, before.lorawan_profile_id
    if change.application_id is not UNSET:
        application_id = integration.checked_application_id(network, change.application_id)
    if change.lorawan_profile_id is not UNSET:
        given = change.lorawan_profile_id
        profile_id = integration.checked_profile_id(given) if given.strip() else None
    after = replace(
        before,
        application_id=application_id,
        settings=integration.changed(network, before.settings, change.settings),
        onboarding=before.onboarding if change.onboarding is UNSET else change.onboarding,
        auto_import=before.auto_import if change.auto_import is UNSET else change.auto_import,
        lorawan_profile_id=profile_id,
        claim_proof=before.claim_proof if change.claim_proof is UNSET else change.claim_proof,
    )
    return replace(after, verified=before.verified and not _moves(before, after))


def _verified(of: Integration) -> Integration:
    """One whose key a test has just found to have all rights."""
    return replace(of, verified=True, status=Status.CONNECTED, error=None, checked_at=datetime.now(UTC))


def _moves(before: Integration, after: Integration) -> bool:
    """Whether one is to be of another application."""
    return _application(before) != _application(after)


def _check_key_is_given(before: Integration, after: Integration, change: IntegrationChange) -> None:
    """Whether the API key was given for all addresses. Raises Invalid."""
    if change.api_key is UNSET and (elsewhere := _hosts(after.settings) - _hosts(before.settings)):
        raise Invalid(
            f"The API key was not given for {', '.join(sorted(elsewhere))}: give it again with that.",
            [{"field": "apiKey", "reason": "must be given again with other addresses"}],
        )


def _application(of: Integration) -> tuple[str, str]:
    return integration.api_host(of.settings), of.application_id


def _connection(of: Integration) -> tuple[object, ...]:
    """What its status depends on."""
    return of.application_id, of.settings, of.onboarding


async def left(connection: Connection, principal: Principal, id_: UUID) -> NetworkDevice | None:
    """A device that was deleted here and stays in its network, for who reaches its integration."""
    found = await network_devices.left(connection, id_)
    if found is None or await store.find(connection, principal.organization_id, found.integration_id) is None:
        return None
    return found


def _hosts(settings: Settings) -> set[str]:
    """The hosts that the API key goes to, with their schemes and ports."""
    return set(integration.addresses(settings).values())


def _serves(wanted: Integration, holder: str | None) -> str:
    other = "a profile that you do not see" if holder is None else f"the profile {holder!r}"
    return f"The application {wanted.application_id!r} serves {other} already, and one application serves one profile."


_SERVED_REMEDY = "Make another application for this one, or delete the other's integration."


def _missing(id_: UUID) -> NotFound:
    return NotFound(f"There is no integration {str(id_)!r} that you can see. Look in the list.")
