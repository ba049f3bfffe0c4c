"""Devices in their networks, for operators: onboarded when they say so, on other hardware, or removed."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from asyncpg import UniqueViolationError

from provserver.core import ids, lorawan
from provserver.core.attributes import METADATA, Scope
from provserver.core.authorization import Permission, Principal
from provserver.core.onboarding import Identity
from provserver.core.telemetry import Value
from provserver.errors import Conflict, Invalid, NotFound
from provserver.services import onboarding
from provserver.services.devices import seen
from provserver.services.integrations import left
from provserver.services.jobs import Progress
from provserver.store import audit, devices, integrations
from provserver.store import onboarding as store
from provserver.store.database import Connection, Database
from provserver.store.devices import DeviceSummary
from provserver.store.onboarding import Subject

BATCH = 100
"""Devices that are looked at, and held, at once."""


@dataclass(frozen=True, slots=True)
class Queued:
    """How many of a profile's devices have a job that onboards them, of how many that have a DevEUI and were not there.

    The others lack a Join EUI or a key, or another device has their DevEUI or id.
    """

    queued: int
    examined: int


class NetworkDevices:
    """What has to be done is done by jobs; their ids are returned. All raise Refused."""

    def __init__(
        self,
        database: Database,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._random = random
        self._clock = clock

    async def start(self, principal: Principal, device: UUID | str, *, adopt: bool = False) -> UUID | None:
        """Have a device be in its network as its metadata say, also if it is there; None: it came from there.

        adopt: what is there under its id and EUIs, and was not made by us, is taken over.
        """
        async with self._database.transaction() as connection:
            found, subject = await self._hold(connection, principal, device)
            job = await self._want(connection, principal, subject, adopt=adopt)
            await self._record(connection, principal, found, "onboarding_started", adopt=adopt)
        return job

    async def check_all(self, principal: Principal, integration_id: UUID) -> None:
        """Whether the principal may have all devices of an integration's profile be onboarded."""
        async with self._database.connection() as connection:
            await self._onboarding(connection, principal, integration_id)

    async def start_all(self, principal: Principal, integration_id: UUID, progress: Progress) -> Queued:
        """Have all devices of an integration's profile be in the network that are not, and whose metadata say how.

        In batches, each for itself: what is queued stays so, and who asks again goes on. Devices that were removed
        from the network are left out.
        """
        async with self._database.transaction() as connection:
            of = await self._onboarding(connection, principal, integration_id)
            await audit.record(
                connection, self._uuid(), of.organization_id, principal.actor, "integration.onboarded_all", of.id
            )
        after: UUID | None = None
        queued = examined = 0
        while True:
            async with self._database.transaction() as connection:
                of = await self._onboarding(connection, principal, integration_id)
                found = await store.candidates(connection, of.profile_id, of.id, after, BATCH)
                for id_ in found:
                    await devices.lock(connection, id_)
                    wanted = await onboarding.wanted(
                        connection, id_, principal.actor, random=self._random, clock=self._clock
                    )
                    queued += wanted is not None
            examined += len(found)
            progress(examined)
            if len(found) < BATCH:
                return Queued(queued, examined)
            after = found[-1]

    async def replace(
        self,
        principal: Principal,
        device: UUID | str,
        *,
        dev_eui: str,
        join_eui: str | None = None,
        application_key: str,
        network_key: str | None = None,
        network_device_id: str | None = None,
    ) -> UUID | None:
        """Have a device be other hardware from now on, with its name, owner, settings and data.

        It gets a new device in the network; when that is there, the former is removed if we have made it. What is not
        given stays, but for the id there, which is made of the DevEUI.
        """
        values = _values(dev_eui, join_eui, application_key, network_key, network_device_id)
        async with self._database.transaction() as connection:
            found, subject = await self._hold(connection, principal, device)
            written: dict[tuple[Scope, str], Value] = {
                (Scope.SERVER, METADATA + name): value for name, value in values.items()
            }
            gone = [] if network_device_id is not None else [lorawan.NETWORK_DEVICE_ID]
            deleted = [(Scope.SERVER, METADATA + name) for name in gone]
            await devices.change_attributes(connection, found.id, written, deleted)
            await store.forget_token_metadata(connection, found.id, gone)
            await onboarding.keep_token_metadata(connection, subject.profile_id, found.id, values)
            subject = await store.subject(connection, found.id) or subject
            job = await self._want(connection, principal, subject)
            await self._record(connection, principal, found, "hardware_replaced", dev_eui=values[lorawan.DEVICE_EUI])
        return job

    async def remove(self, principal: Principal, device: UUID | str) -> UUID | None:
        """Remove what we have made of a device in its network; the device stays. None: nothing is left to remove.

        A UUID may be of one that was deleted here.
        """
        async with self._database.transaction() as connection:
            id_ = devices.id_in(str(device))
            if id_ is not None and (gone := await left(connection, principal, id_)) is not None:
                principal.require(Permission.DEVICES_MANAGE)
                try:
                    job = await onboarding.remove(connection, id_, principal.actor, self._uuid())
                except UniqueViolationError:
                    raise Conflict("Another device has its DevEUI or id there by now: remove that one.") from None
                await audit.record(
                    connection,
                    self._uuid(),
                    principal.organization_id,
                    principal.actor,
                    "device.removed_from_network",
                    id_,
                    network_device_id=gone.network_device_id,
                )
                return job
            found, _ = await self._hold(connection, principal, device, made=True)
            job = await onboarding.remove(connection, found.id, principal.actor, self._uuid())
            await self._record(connection, principal, found, "removed_from_network")
        return job

    async def _onboarding(
        self, connection: Connection, principal: Principal, integration_id: UUID
    ) -> integrations.Integration:
        principal.require(Permission.DEVICES_MANAGE)
        found = await integrations.find(connection, principal.organization_id, integration_id)
        if found is None:
            raise NotFound(f"There is no integration {str(integration_id)!r} that you can see. Look in the list.")
        if not found.onboarding:
            raise Conflict("Onboarding is off: provserver integration update --onboarding.")
        return found

    async def _hold(
        self, connection: Connection, principal: Principal, reference: UUID | str, *, made: bool = False
    ) -> tuple[DeviceSummary, Subject]:
        principal.require(Permission.DEVICES_MANAGE)
        found = await seen(connection, principal.organization_id, reference, made=made)
        await devices.lock(connection, found.id)
        found = await seen(connection, principal.organization_id, found.id, made=made)
        await onboarding.check_reach(connection, principal.organization_id, found.id)
        subject = await store.subject(connection, found.id)
        if subject is None:
            raise Conflict("The device's profile has no integration. Make one: provserver integration create.")
        return found, subject

    async def _want(
        self, connection: Connection, principal: Principal, subject: Subject, *, adopt: bool = False
    ) -> UUID | None:
        if not subject.onboarding:
            raise Conflict("Onboarding is off for the device's profile: provserver integration update --onboarding.")
        identity = Identity.of(subject.values)
        if identity is None:
            names = f"{lorawan.DEVICE_EUI}, {lorawan.JOIN_EUI}, {lorawan.APPLICATION_KEY}"
            raise Conflict(f"The device lacks some of its metadata: it needs {names}.")
        return await onboarding.want(
            connection, subject, identity, principal.actor, anew=True, job_id=self._uuid(), adopt=adopt
        )

    async def _record(
        self, connection: Connection, principal: Principal, device: DeviceSummary, verb: str, **detail: Value
    ) -> None:
        await audit.record(
            connection,
            self._uuid(),
            device.holder_id,
            principal.actor,
            f"device.{verb}",
            device.id,
            name=device.name,
            **detail,
        )

    def _uuid(self) -> UUID:
        return ids.uuid7(self._clock(), self._random)


def _values(
    dev_eui: str, join_eui: str | None, application_key: str, network_key: str | None, network_device_id: str | None
) -> Mapping[str, str]:
    """What is given, by metadata field, in normal form. Raises Invalid, which quotes nothing."""
    values: dict[str, str] = {}
    for name, given, read in (
        (lorawan.DEVICE_EUI, dev_eui, lorawan.eui),
        (lorawan.JOIN_EUI, join_eui, lorawan.eui),
        (lorawan.APPLICATION_KEY, application_key, lorawan.key),
        (lorawan.NETWORK_KEY, network_key, lorawan.key),
    ):
        if given is not None:
            try:
                values[name] = read(given)
            except lorawan.InvalidIdentifier as fault:
                raise Invalid(f"{name}: {fault}.") from None
    if network_device_id is not None:
        if not lorawan.is_device_id(network_device_id):
            raise Invalid(onboarding.BAD_ID)
        values[lorawan.NETWORK_DEVICE_ID] = network_device_id
    return values
