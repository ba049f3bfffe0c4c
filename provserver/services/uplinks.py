"""Uplinks and joins that networks tell of, by MQTT (`services/subscriptions.py`) or webhook: the data of our devices.

What is none of ours is noted for operators, and imported where an integration wants that. Two devices are never made
of one: what has the DevEUI of one of ours, and another id there, waits for an operator (`services/sightings.py`).
"""

import hmac
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from asyncpg import PostgresError

from provserver import metrics
from provserver.core import ids, uplink
from provserver.core.attributes import METADATA, Scope
from provserver.core.csvfile import DeviceRow
from provserver.core.integration import NetworkKind, NetworkState
from provserver.core.lorawan import DEVICE_EUI, JOIN_EUI, NETWORK_DEVICE_ID
from provserver.core.model import Authenticated, DeviceProfile
from provserver.core.secrets import ServerKeys
from provserver.core.telemetry import InvalidData
from provserver.core.uplink import Heard, HeardKind
from provserver.errors import Conflict, Refused, Unavailable
from provserver.services.claiming import Claiming
from provserver.services.datastreams import Datastreams
from provserver.services.devices import Devices
from provserver.services.integrations import opened_secret
from provserver.store import integrations, network_devices, profiles
from provserver.store import sightings as store
from provserver.store.database import Connection, Database
from provserver.store.devices import DeviceSummary
from provserver.store.integrations import Integration
from provserver.store.network_devices import NetworkDevice
from provserver.store.sightings import Known

log = logging.getLogger("provserver.uplinks")

RSSI, SNR = "RSSI", "SNR"
"""Telemetry that every uplink brings: dBm and dB, of the gateway that heard it best."""

CLAIM = "claim"
"""What a decoder makes true of a payload by which a device confirms a claim that waits for it."""

_TAKEN, _UNKNOWN, _INVALID = (metrics.UPLINKS.cell(result) for result in ("taken", "unknown", "invalid"))

_AHEAD = timedelta(minutes=5)
"""By which a network's clock may be ahead of ours."""


class Uplinks:
    """Takes what networks tell of their devices."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        datastreams: Datastreams,
        *,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keys = keys
        self._datastreams = datastreams
        self._claiming = Claiming(database, keys, random=random, clock=clock)
        self._random = random
        self._clock = clock

    async def sender(self, integration_id: UUID, secret: str) -> Integration | None:
        """The integration whose webhook has this secret; None: it has another, or there is none. Raises Unavailable."""
        async with self._database.connection() as connection:
            integration = await integrations.get(connection, integration_id)
            sealed = None if integration is None else await integrations.sealed_webhook(connection, integration_id)
        if integration is None or sealed is None:
            return None
        expected = opened_secret(self._keys, integration_id, sealed)
        return integration if hmac.compare_digest(expected.encode(), secret.encode(errors="replace")) else None

    async def take(self, integration: Integration, document: bytes, event: str = "") -> None:
        """Take a message of a network; event: what ChirpStack calls it.

        Raises InvalidData, and Unavailable: the network may send it again.
        """
        try:
            heard = uplink.decode(integration.network, document, event)
            if heard is not None and heard.application_id not in ("", integration.application_id):
                raise InvalidData("This is of another application.")
        except InvalidData:
            _INVALID.value += 1
            raise
        if heard is None:
            return
        try:
            known = await self._known(integration, heard) or await self._imported(integration, heard)
            if known is not None:
                await self._keep(known, heard)
        except PostgresError as fault:
            log.warning("an uplink was not stored: %s", type(fault).__name__)
            raise Unavailable("The uplink could not be stored.") from None

    async def _known(self, integration: Integration, heard: Heard) -> Known | None:
        by_eui = heard.dev_eui if integration.network is NetworkKind.CHIRPSTACK else None
        async with self._database.connection() as connection:
            return await store.known(connection, integration.id, heard.network_device_id, by_eui)

    async def _keep(self, known: Known, heard: Heard) -> None:
        now = datetime.fromtimestamp(self._clock(), UTC)
        at = now if heard.at is None or heard.at > now + _AHEAD else heard.at
        joined = heard.kind is HeardKind.JOIN
        if known.quarantined or (not joined and known.last_at == at):  # the latter came by the other way in, too
            return
        if not joined and known.device is not None:
            values = dict(heard.values)
            values |= {name: each for name, each in ((RSSI, heard.rssi), (SNR, heard.snr)) if each is not None}
            await self._datastreams.uplink(known.device, values, int(at.timestamp() * 1000))
            if heard.values.get(CLAIM) is True:
                await self._confirm(known.device)
        _TAKEN.value += 1
        async with self._database.connection() as connection:
            if joined:
                await network_devices.saw_join(connection, known.device_id, at)
            else:
                await network_devices.saw_uplink(connection, known.device_id, at, heard.rssi, heard.snr)

    async def _confirm(self, device: Authenticated) -> None:
        """A device has said that whoever claims it may have it."""
        try:
            await self._claiming.confirm(device)
        except Refused as fault:  # a quota that is used up: the uplink was taken all the same
            log.info("a claim of %s could not be completed: %s", device.device_id, fault)

    async def _imported(self, integration: Integration, heard: Heard) -> Known | None:
        """What of ours a device is from now on that was none of ours; None: it still is not, and is noted."""
        _UNKNOWN.value += 1
        obstacle = None
        if integration.auto_import:
            try:
                async with self._database.transaction() as connection:
                    await import_(connection, self._devices(integration), integration, heard)
                return await self._known(integration, heard)
            except Unavailable:
                raise
            except Refused as fault:  # a quota, say
                obstacle = str(fault)
            except PostgresError as fault:
                if not self._database.is_race(fault):
                    raise
                return await self._known(integration, heard)  # another process was faster
        async with self._database.connection() as connection:
            id_ = ids.uuid7(self._clock(), self._random)
            await store.note(connection, id_, integration.id, heard, obstacle)
        return None

    def _devices(self, integration: Integration) -> Devices:
        actor = f"integration:{integration.id}"
        return Devices(self._database, self._keys, integration.organization_id, self._random, actor)


async def import_(connection: Connection, devices: Devices, integration: Integration, heard: Heard) -> DeviceSummary:
    """Make a device of what was heard, in the caller's transaction. Raises Refused; asyncpg.UniqueViolationError."""
    if not heard.dev_eui:
        raise Conflict("The network does not tell its DevEUI.")
    namesake = await store.namesake(connection, integration.id, integration.profile_id, heard.dev_eui)
    if namesake is not None:
        raise Conflict(
            f"{namesake} has this DevEUI, and is another device there or not onboarded yet. If the two are one, merge "
            "them: provserver sighting merge."
        )
    profile = await profiles.get(connection, integration.profile_id)
    if profile is None:
        raise Conflict("The profile is gone.")
    attributes: dict[tuple[str, str], object] = {
        (Scope.SERVER, METADATA + name): value for name, value in metadata_of(profile, heard).items()
    }
    row = DeviceRow(1, heard.network_device_id, None, False, attributes)
    made = await devices.add(connection, row, str(profile.id))
    entry = NetworkDevice(
        made.id, integration.id, heard.network_device_id, heard.dev_eui, heard.join_eui, NetworkState.IMPORTED
    )
    await network_devices.put(connection, entry)
    await store.forget(connection, integration.id, heard.network_device_id)
    return made


def metadata_of(profile: DeviceProfile, heard: Heard) -> dict[str, str]:
    """What a network tells of a device, by those fields that its profile has."""
    told = {
        DEVICE_EUI: heard.dev_eui,
        JOIN_EUI: heard.join_eui,
        NETWORK_DEVICE_ID: heard.network_device_id,
    }
    fields = {field.name for field in profile.metadata_fields}
    return {name: value for name, value in told.items() if value and name in fields}
