"""Sightings, for operators: devices that a network tells of and that are none of ours, to import or to merge.

A device that was changed for another stays what it is here: it gets the other one's place in the network. What was
imported meanwhile as a device of its own goes, on the operator's word.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from asyncpg import UniqueViolationError

from provserver.core import ids
from provserver.core.attributes import METADATA, Scope
from provserver.core.authorization import Permission, Principal
from provserver.core.integration import NetworkState
from provserver.core.lorawan import APPLICATION_KEY, NETWORK_KEY
from provserver.core.secrets import ServerKeys
from provserver.core.telemetry import Value
from provserver.core.uplink import Heard, HeardKind
from provserver.errors import Conflict, NotFound
from provserver.services.devices import Devices, seen
from provserver.services.onboarding import enqueue_removal
from provserver.services.uplinks import import_, metadata_of
from provserver.store import audit, devices, integrations, network_devices, onboarding, profiles
from provserver.store import sightings as store
from provserver.store.database import Connection, Database
from provserver.store.devices import DeviceSummary
from provserver.store.integrations import Integration
from provserver.store.network_devices import NetworkDevice
from provserver.store.sightings import Sighting

_ON_THEIR_WAY = frozenset({NetworkState.WAITING, NetworkState.ONBOARDING, NetworkState.REMOVING})


class Sightings:
    """The sightings of the integrations that a principal reaches."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keys = keys
        self._random = random
        self._clock = clock

    async def list_(
        self, principal: Principal, integration_id: UUID, cursor: UUID | None = None, limit: int = 50
    ) -> list[Sighting]:
        """Those of an integration, in the order in which they were first heard, after the cursor's. Raises Refused."""
        principal.require(Permission.DEVICES_VIEW)
        async with self._database.connection() as connection:
            await self._integration(connection, principal, integration_id)
            return await store.list_(connection, integration_id, after=cursor, limit=limit)

    async def import_(self, principal: Principal, integration_id: UUID, network_device_id: str) -> DeviceSummary:
        """Make a device of one, for the organization of its integration. Raises Refused."""
        principal.require(Permission.DEVICES_MANAGE)
        try:
            async with self._database.transaction() as connection:
                integration = await self._integration(connection, principal, integration_id, lock=True)
                sighting = await self._find(connection, integration, network_device_id)
                owner = integration.organization_id
                made = Devices(self._database, self._keys, owner, self._random, principal.actor)
                return await import_(connection, made, integration, _heard(integration, sighting))
        except UniqueViolationError:
            raise Conflict("Something else made this device just now. Look at it.") from None

    async def merge(
        self, principal: Principal, reference: UUID | str, network_device_id: str, *, confirm: bool = False
    ) -> NetworkDevice:
        """Have a device of ours be the one of this id in its network from now on. Raises Refused.

        confirm: although a device was imported for it, which goes, with what it has sent. What we had made of the
        device in the network before is removed there, by a job; what we had not stays.
        """
        principal.require(Permission.DEVICES_MANAGE)
        try:
            async with self._database.transaction() as connection:
                return await self._merge(connection, principal, reference, network_device_id, confirm=confirm)
        except UniqueViolationError:
            raise Conflict("Another device has this DevEUI already. Look which of them it is.") from None

    async def _merge(
        self,
        connection: Connection,
        principal: Principal,
        reference: UUID | str,
        network_device_id: str,
        *,
        confirm: bool,
    ) -> NetworkDevice:
        device = await seen(connection, principal.organization_id, reference, made=True)
        await devices.lock(connection, device.id)
        integration = await integrations.of_profile(connection, device.profile_id)
        profile = await profiles.get(connection, device.profile_id)
        if integration is None or profile is None:
            raise Conflict(f"The profile of {device.name!r} has no integration: its devices are in no network.")
        heard = await self._freed(connection, principal, integration, network_device_id, device, confirm=confirm)
        before = await network_devices.get(connection, device.id, lock=True)
        if before is not None and before.state in _ON_THEIR_WAY:
            raise Conflict(f"{device.name!r} is on its way there or back. Wait for its job, or cancel it.")
        if before is not None and heard.join_eui is None:
            heard = replace(heard, join_eui=before.join_eui)
        after = NetworkDevice(
            device.id, integration.id, network_device_id, heard.dev_eui, heard.join_eui, NetworkState.IMPORTED
        )
        await network_devices.put(connection, after)
        values = metadata_of(profile, heard)
        written: dict[tuple[Scope, str], Value] = {
            (Scope.SERVER, METADATA + name): each for name, each in values.items()
        }
        former = before if before is not None and before.dev_eui != heard.dev_eui else None
        gone = [APPLICATION_KEY, NETWORK_KEY] if former is not None else []  # which were the former hardware's
        await devices.change_attributes(
            connection, device.id, written, [(Scope.SERVER, METADATA + name) for name in gone]
        )
        await onboarding.put_token_metadata(connection, device.id, values)
        await onboarding.forget_token_metadata(connection, device.id, gone)
        if before is not None and before.made and before.network_device_id != network_device_id:
            await enqueue_removal(connection, before, principal.actor, ids.uuid7(self._clock(), self._random))
        await store.forget(connection, integration.id, network_device_id)
        told: dict[str, Value] = {} if before is None else {"before": before.network_device_id}
        await self._record(connection, principal, device, "merged", network_device_id=network_device_id, **told)
        return await network_devices.get(connection, device.id) or after

    async def _freed(
        self,
        connection: Connection,
        principal: Principal,
        integration: Integration,
        network_device_id: str,
        device: DeviceSummary,
        *,
        confirm: bool,
    ) -> Heard:
        """What is known of a device of the network that is to be one of ours, and no other's any more."""
        holder = await network_devices.by_network_id(connection, integration.id, network_device_id)
        if holder is None:
            return _heard(integration, await self._find(connection, integration, network_device_id))
        if holder.device_id == device.id:
            raise Conflict(f"{device.name!r} is {network_device_id!r} already.")
        other = await seen(connection, principal.organization_id, holder.device_id, made=True)
        if holder.state is not NetworkState.IMPORTED:
            raise Conflict(
                f"{network_device_id!r} is {other.name!r}, which was onboarded. Remove that from there first."
            )
        if not confirm:
            raise Conflict(
                f"{network_device_id!r} was imported as {other.name!r}, which would be deleted with what it has sent. "
                "Confirm that: confirm, or --yes."
            )
        await network_devices.delete(connection, other.id)
        await devices.delete(connection, other.id)
        await self._record(connection, principal, other, "deleted")
        return Heard(
            HeardKind.JOIN,
            integration.application_id,
            network_device_id,
            holder.dev_eui,
            holder.join_eui,
            None,
            {},
        )

    async def _integration(
        self, connection: Connection, principal: Principal, id_: UUID, *, lock: bool = False
    ) -> Integration:
        found = await integrations.find(
            connection, principal.organization_id, id_, lock="NO KEY UPDATE" if lock else None
        )
        if found is None:
            raise NotFound(f"There is no integration {str(id_)!r} that you can see. Look it up in the list.")
        return found

    async def _find(self, connection: Connection, integration: Integration, network_device_id: str) -> Sighting:
        found = await store.by_network_id(connection, integration.id, network_device_id.replace("\0", ""))
        if found is None:
            raise NotFound(f"No device {network_device_id!r} that is none of yours was heard. Look it up in the list.")
        return found

    async def _record(
        self, connection: Connection, principal: Principal, device: DeviceSummary, verb: str, **detail: Value
    ) -> None:
        id_ = ids.uuid7(self._clock(), self._random)
        detail = {"name": device.name} | detail
        await audit.record(connection, id_, device.holder_id, principal.actor, f"device.{verb}", device.id, **detail)


def _heard(integration: Integration, sighting: Sighting) -> Heard:
    """What is known of a sighting. Raises Conflict: without a DevEUI nobody knows which device it is."""
    if sighting.dev_eui is None:
        raise Conflict("The network does not tell its DevEUI. Have the device join or send once more.")
    return Heard(
        HeardKind.JOIN,
        integration.application_id,
        sighting.network_device_id,
        sighting.dev_eui,
        sighting.join_eui,
        None,
        {},
    )
