"""The jobs that have devices be in their network, or not be there (spec/lorawan.md D.5).

Before anything is sent it is written down whether the device was there. So what was begun and not heard of is known for
ours when it is found, and what an attempt did not make it does not undo. What cannot be told from it is a device that
somebody registers by hand, with our id and EUIs, between a request of ours that was lost without effect and the next.
"""

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import msgspec
from asyncpg import UniqueViolationError

from provserver.core import ids
from provserver.core.attributes import METADATA, Scope
from provserver.core.events import EventType
from provserver.core.integration import RIGHTS, NetworkState, Status
from provserver.core.lorawan import NETWORK_DEVICE_ID, NETWORK_KEY, LorawanVersion
from provserver.core.onboarding import Denied, EndDevice, Found, Identity, Made, Network, Rejected, TryAgain
from provserver.core.secrets import ServerKeys, Unsealable
from provserver.services.integrations import opened_key
from provserver.services.job_runner import Failed, JobKind, Retry, Steps
from provserver.services.network_check import Connect, connect
from provserver.services.onboarding import Order, Removal, enqueue_removal, is_there, removal_key, tell_failed
from provserver.store import devices, integrations, network_devices, outbox
from provserver.store import onboarding as store
from provserver.store.database import Connection, Database
from provserver.store.integrations import Integration
from provserver.store.jobs import Job
from provserver.store.network_devices import NetworkDevice
from provserver.store.onboarding import ONBOARD, REMOVE, Subject

if TYPE_CHECKING:
    from provserver.adapters.outgoing import Outgoing

TRIES = 1000
AGE = 7 * 86_400.0
"""Of a job: a network may be away for days, or let little through."""

RIGHTS_AGE = 60.0
"""Seconds for which an API key is taken to have the rights that it had."""

LOOK = "look"
"""The step before all others."""

_ABSENT, _PRESENT = "absent", "present"
_OURS = "ours"
"""A first step found what an earlier attempt had made for this device."""

_OVER: dict[str, object] = {"outcome": "not wanted any more"}
_COLLISION = "Correct the EUIs of this device, or delete the other one, then have this one onboarded again."
_T = TypeVar("_T")


def kinds(database: Database, keys: ServerKeys, outgoing: "Outgoing") -> dict[str, JobKind]:
    """The kinds of jobs about devices in networks. outgoing: stays the caller's to close."""
    return {ONBOARD: Onboard(database, keys, outgoing), REMOVE: Remove(database, keys, outgoing)}


class _NetworkJob(JobKind):
    """What both have: a network, and what becomes of what it says."""

    tries = TRIES
    age = AGE

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        outgoing: "Outgoing",
        connect: Connect = connect,
        *,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._keys = keys
        self._outgoing = outgoing
        self._connect = connect
        self._random = random
        self._clock = clock
        self._monotonic = monotonic
        self._allowed: dict[UUID, tuple[int, float]] = {}

    def lane(self, job: Job) -> str:
        """An integration's jobs share its API key's limits."""
        return f"network:{_member(job, 'integration')}"

    async def _network(self, connection: Connection, integration: Integration) -> Network:
        sealed = await integrations.sealed_key(connection, integration.id)
        try:
            key = opened_key(self._keys, integration.id, sealed or b"")
        except Unsealable:
            raise Failed("The API key cannot be opened.", "Set it anew: provserver integration update.") from None
        return self._connect(integration.application_id, integration.settings, key, self._outgoing)

    async def _ask(self, integration: Integration, network: Network, call: Awaitable[_T]) -> _T:
        """What a network says, or why the job goes on another time, or not at all."""
        try:
            return await call
        except TryAgain as fault:
            raise Retry(fault.reason, fault.after) from None
        except Denied as fault:
            reason, remedy = await self._denied(integration, network, fault)
            raise Failed(reason, remedy) from None
        except Rejected as fault:
            raise Failed(fault.reason, fault.remedy) from None

    async def _unmake(self, integration: Integration, network: Network, step: str, network_device_id: str) -> None:
        await self._ask(integration, network, network.unmake(step, network_device_id))

    async def _denied(self, integration: Integration, network: Network, fault: Denied) -> tuple[str, str]:
        """Why, by the names of the rights that are missing if that is it; the integration is known to be broken."""
        self._allowed.pop(integration.id, None)
        reason, remedy = fault.reason, fault.remedy
        try:
            missing = await network.missing_rights()
        except (TryAgain, Rejected):
            missing = []
        if missing:
            reason, remedy = _lacking(missing)
        async with self._database.connection() as connection:
            await integrations.set_status(connection, integration.id, Status.BROKEN, reason)
        return reason, remedy

    async def _works(self, integration: Integration) -> None:
        """The integration is known to be in order again, if its key was at fault before."""
        async with self._database.connection() as connection:
            await integrations.works(connection, integration.id, integration.revision)

    async def _check_rights(self, integration: Integration, network: Network) -> None:
        """Raises Failed with the names of those that are missing. Looked at once in a while, not for each device."""
        revision, until = self._allowed.get(integration.id, (0, 0.0))
        if revision == integration.revision and self._monotonic() < until:
            return
        if missing := await self._ask(integration, network, network.missing_rights()):
            reason, remedy = _lacking(missing)
            async with self._database.connection() as connection:
                await integrations.set_status(connection, integration.id, Status.BROKEN, reason)
            raise Failed(reason, remedy)
        self._allowed[integration.id] = integration.revision, self._monotonic() + RIGHTS_AGE

    def _uuid(self) -> UUID:
        return ids.uuid7(self._clock(), self._random)


class Onboard(_NetworkJob):
    """Has a device be in its network as its metadata say."""

    async def run(self, job: Job, steps: Steps) -> object:
        """Step by step, for as long as it is wanted."""
        order, device_id = msgspec.convert(job.input, Order), _subject(job)
        async with self._database.connection() as connection:
            key = removal_key(order.integration, order.network_device_id)
            if await store.is_earlier(connection, job.id, device_id, key):
                raise Retry("What was asked for before is still to be done for this device.")
            row = await network_devices.get(connection, device_id)
            subject = await store.subject(connection, device_id)
            integration = await integrations.get(connection, order.integration)
            if integration is None:
                return _OVER
            network = await self._network(connection, integration)
        if subject is None or row is None or row.job_id != job.id:
            return _abandoned(steps, network)
        if not subject.onboarding:
            raise Failed(
                "Onboarding was switched off meanwhile.",
                "Switch it on (provserver integration update --onboarding), then have the job tried again.",
            )
        device = _end_device(job, order, subject, integration)
        known = order.adopt or _is_ours(row, order)
        if not is_there(row):
            await self._begin(job, device_id)
        await self._check_rights(integration, network)
        await steps.do(LOOK, partial(self._look, integration, network, device))
        for place, step in enumerate(network.steps):
            if place and not await self._is_wanted(job):
                return _abandoned(steps, network)
            again = steps.begun(step) and steps.result(LOOK) == _ABSENT
            work = partial(self._make, integration, network, step, device, first=not place, again=again, known=known)
            await steps.do(step, work)
            steps.progress(place + 1, len(network.steps))
        first = steps.result(network.steps[0])
        if not await self._keep(job, order, None if first == Made.ADOPTED else tuple(network.steps)):
            return _abandoned(steps, network)
        await self._works(integration)
        return {"outcome": "onboarded", "networkDeviceId": order.network_device_id}

    async def give_up(self, job: Job, steps: Steps) -> None:
        """Remove what this attempt has made, and say why."""
        order, device_id = msgspec.convert(job.input, Order), _subject(job)
        try:
            async with self._database.connection() as connection:
                integration = await integrations.get(connection, order.integration)
                network = None if integration is None else await self._network(connection, integration)
        except Failed:
            await self._tell(job, order, device_id, ())
            raise
        if integration is None or network is None:
            await self._tell(job, order, device_id, ())
            return
        identity = steps.result(network.steps[0])
        ours = identity == Made.CREATED or (identity is None and steps.result(LOOK) == _ABSENT)
        begun = tuple(step for step in network.steps if steps.begun(step)) if ours else ()
        await self._tell(job, order, device_id, begun)
        await self._undo(job, order, steps, integration, network, ours=bool(begun))
        if not begun:
            return
        async with self._database.transaction() as connection:
            row = await network_devices.get(connection, device_id, lock=True)
            if (
                row is not None
                and row.state is NetworkState.FAILED
                and row.network_device_id == order.network_device_id
            ):
                await network_devices.change(connection, device_id, {"made": ()}, job_id=job.id)

    async def _look(self, integration: Integration, network: Network, device: EndDevice) -> str:
        found = await self._ask(integration, network, network.look(device.network_device_id))
        return _ABSENT if found is None else _PRESENT

    async def _make(
        self,
        integration: Integration,
        network: Network,
        step: str,
        device: EndDevice,
        *,
        first: bool,
        again: bool,
        known: bool,
    ) -> str:
        """What a step did. known: a device that is there is this one, by our records or an operator's word."""
        made = await self._ask(integration, network, network.make(step, device, again=again))
        if not first or made is Made.CREATED:
            return made
        found = await self._ask(integration, network, network.look(device.network_device_id))
        if found is not None and found.reference is not None:
            if found.reference == device.reference:
                return _OURS
            async with self._database.connection() as connection:
                other = await network_devices.get(connection, _id(found.reference))
            if other is not None and other.integration_id == integration.id and not _is_over(other):
                raise Failed(
                    "The device in the network is that of another one of yours.",
                    "Correct the EUIs of this device or of the other one, then have it onboarded again.",
                )
        if not known:
            raise Failed(
                "The application has a device of this id and these EUIs that provserver did not make.",
                "If it is this one, take it over: provserver device onboard --adopt. Else correct this device's EUIs, "
                "or remove the other one there, where nothing was changed.",
            )
        return made

    async def _begin(self, job: Job, device_id: UUID) -> None:
        state = {"state": NetworkState.ONBOARDING, "error": None, "remedy": None}
        try:
            async with self._database.connection() as connection:
                await network_devices.change(connection, device_id, state, job_id=job.id)
        except UniqueViolationError:
            raise Failed("Another device of the profile has the same DevEUI or id by now.", _COLLISION) from None

    async def _is_wanted(self, job: Job) -> bool:
        async with self._database.connection() as connection:
            row = await network_devices.get(connection, _subject(job))
        return row is not None and row.job_id == job.id

    async def _keep(self, job: Job, order: Order, made: tuple[str, ...] | None) -> bool:
        """Have the device be the one that is there now, and what it was go; False when it is not wanted any more.

        made: by us; None: it was there.
        """
        device_id = _subject(job)
        try:
            async with self._database.transaction() as connection:
                await devices.lock(connection, device_id)
                subject = await store.subject(connection, device_id)
                row = await network_devices.get(connection, device_id, lock=True)
                if subject is None or row is None or row.job_id != job.id:
                    return False
                same = row.network_device_id == order.network_device_id
                if made is None:
                    made = row.made if same else ()
                if row.made and not same:
                    await enqueue_removal(connection, row, job.actor, self._uuid())
                now = NetworkDevice(
                    device_id,
                    order.integration,
                    order.network_device_id,
                    order.dev_eui,
                    order.join_eui,
                    NetworkState.ONBOARDED,
                    made,
                    job_id=job.id,
                )
                await network_devices.put(connection, now)
                if subject.values.get(NETWORK_DEVICE_ID) != order.network_device_id:
                    value = {(Scope.SERVER, METADATA + NETWORK_DEVICE_ID): order.network_device_id}
                    await devices.change_attributes(connection, device_id, value, ())
                await outbox.record_of_device(
                    connection,
                    EventType.NETWORK_ONBOARDED,
                    device_id,
                    integrationId=str(order.integration),
                    networkDeviceId=order.network_device_id,
                )
        except UniqueViolationError:
            raise Failed("Another device has the same DevEUI or id in the network by now.", _COLLISION) from None
        return True

    async def _tell(self, job: Job, order: Order, device_id: UUID, begun: tuple[str, ...]) -> None:
        """Have it be seen why a device is not in its network; one that is there stays what it is."""
        reason = job.error or ("It was cancelled." if job.ending == "cancelled" else None)
        said: dict[str, object] = {"error": reason, "remedy": job.remedy}
        async with self._database.transaction() as connection:
            row = await network_devices.get(connection, device_id, lock=True)
            if row is None or row.job_id != job.id or (row.error, row.remedy) == (reason, job.remedy):
                return
            if not is_there(row):
                said |= {"state": NetworkState.FAILED, "made": begun}
            await network_devices.change(connection, device_id, said)
            await tell_failed(connection, device_id, order.integration, reason, job.remedy)

    async def _undo(
        self, job: Job, order: Order, steps: Steps, integration: Integration, network: Network, *, ours: bool
    ) -> None:
        """Remove what was begun, if the device that is there is by this attempt; what is not, stays."""
        if ours:
            found = await self._ask(integration, network, network.look(order.network_device_id))
            ours = _is_it(found, order) and (found is None or found.attempt in (None, str(job.id)))
        for step in network.removal:
            work = partial(self._unmake, integration, network, step, order.network_device_id)
            await steps.undo(step, work if ours else _nothing)
        await steps.undo(LOOK, _nothing)


class Remove(_NetworkJob):
    """Removes what we have made of a device in its network."""

    async def run(self, job: Job, steps: Steps) -> object:
        """Unless it is somebody else's by now, or wanted again."""
        removal, device_id = msgspec.convert(job.input, Removal), _subject(job)
        async with self._database.connection() as connection:
            if await store.is_earlier(connection, job.id, device_id, removal.key):
                raise Retry("What was asked for before is still to be done for this device.")
            integration = await integrations.get(connection, removal.integration)
            if integration is None:
                return _OVER
            network = await self._network(connection, integration)
            live = await network_devices.by_network_id(connection, removal.integration, removal.network_device_id)
        if live is not None and live.state is not NetworkState.REMOVING and live.job_id != job.id and is_there(live):
            raise Failed("The device was onboarded again meanwhile: it is not removed.", "There is nothing to do.")
        found = await self._ask(integration, network, network.look(removal.network_device_id))
        if not _is_it(found, removal) or (found is not None and found.reference not in (None, str(device_id))):
            raise Failed(
                "The device of this id in the network is not the one that we made: it is not removed.",
                "Look at it in the network's console, and remove it there if it is of no use.",
            )
        wanted = [step for step in network.removal if step in removal.made]
        for place, step in enumerate(wanted, 1):
            work = partial(self._unmake, integration, network, step, removal.network_device_id)
            await steps.do(f"remove: {step}", work)
            steps.progress(place, len(wanted))
        await self._forget(job, removal, device_id, integration)
        await self._works(integration)
        return {"outcome": "removed", "networkDeviceId": removal.network_device_id}

    async def give_up(self, job: Job, steps: Steps) -> None:
        """What is gone is gone; what is not stays ours."""
        removal, device_id = msgspec.convert(job.input, Removal), _subject(job)
        left = tuple(step for step in removal.made if not steps.done(f"remove: {step}"))
        reason = job.error or ("It was cancelled." if job.ending == "cancelled" else None)
        state = {"state": NetworkState.FAILED, "made": left, "error": reason, "remedy": job.remedy}
        async with self._database.transaction() as connection:
            await network_devices.change(connection, device_id, state, job_id=job.id)
            if left and await network_devices.get(connection, device_id) is None:  # it was deleted with this
                ids_ = removal.network_device_id, removal.dev_eui, removal.join_eui or None
                row = NetworkDevice(device_id, removal.integration, *ids_, NetworkState.REMOVED, left)
                await network_devices.put(connection, row)
            await network_devices.leave(connection, device_id)

    async def _forget(self, job: Job, removal: Removal, device_id: UUID, integration: Integration) -> None:
        async with self._database.transaction() as connection:
            await devices.lock(connection, device_id)
            subject = await store.subject(connection, device_id)
            row = await network_devices.get(connection, device_id, lock=True)
            if row is not None and row.job_id == job.id:
                state = {"state": NetworkState.REMOVED, "made": (), "error": None, "remedy": None}
                await network_devices.change(connection, device_id, state)
                await network_devices.leave(connection, device_id)
            if subject is not None and subject.values.get(NETWORK_DEVICE_ID) == removal.network_device_id:
                key = (Scope.SERVER, METADATA + NETWORK_DEVICE_ID)
                await devices.change_attributes(connection, device_id, {}, [key])
            await outbox.record(
                connection,
                EventType.NETWORK_REMOVED,
                device_id,
                integration.organization_id,
                deviceId=str(device_id),
                integrationId=str(removal.integration),
                networkDeviceId=removal.network_device_id,
            )


async def _nothing() -> None:
    """Undoes a step that has made nothing."""


def _abandoned(steps: Steps, network: Network) -> object:
    """What becomes of a job whose device was changed, removed or deleted meanwhile."""
    if any(steps.begun(step) for step in network.steps):
        raise Failed(
            "The device was changed, removed or deleted meanwhile; what was made of it is undone.",
            "There is nothing to do.",
        )
    return _OVER


def _end_device(job: Job, order: Order, subject: Subject, integration: Integration) -> EndDevice:
    """Raises Failed when its metadata are others by now, without anybody having wanted it to be onboarded so."""
    identity = Identity.of(subject.values)
    if identity is None or (identity.dev_eui, identity.join_eui) != (order.dev_eui, order.join_eui):
        raise Failed(
            "The device's EUIs or key were taken away or changed meanwhile.",
            "Look at its metadata, then have it onboarded: provserver device onboard.",
        )
    nwk_key = identity.nwk_key if integration.settings.lorawan_version == LorawanVersion.V1_1 else None
    if nwk_key is None and integration.settings.lorawan_version == LorawanVersion.V1_1:
        raise Failed(
            "LoRaWAN 1.1 has two root keys, and the device has one.",
            f"Set its metadata field {NETWORK_KEY!r}, or the integration's LoRaWAN version.",
        )
    return EndDevice(
        order.network_device_id,
        order.dev_eui,
        order.join_eui,
        identity.app_key,
        nwk_key,
        subject.name,
        str(subject.id),
        str(job.id),
    )


def _lacking(missing: Sequence[str]) -> tuple[str, str]:
    called = ", ".join(RIGHTS.get(right, right) for right in missing)
    return f"The API key lacks rights: {called}.", "Give it these in the network's console, and have it tried again."


def _is_it(found: Found | None, wanted: Order | Removal) -> bool:
    """Whether a device that is there, if one is, has the EUIs that it should have, as far as the network says."""
    return found is None or (found.dev_eui in ("", wanted.dev_eui) and found.join_eui in ("", wanted.join_eui))


def _is_ours(row: NetworkDevice, order: Order) -> bool:
    """Whether a device is in its network by our making, or was taken over on an operator's word."""
    this = (row.network_device_id, row.dev_eui, row.join_eui) == (
        order.network_device_id,
        order.dev_eui,
        order.join_eui,
    )
    return this and (bool(row.made) or row.state is NetworkState.ONBOARDED)


def _is_over(row: NetworkDevice) -> bool:
    """Whether nothing of a device is in its network, nor is to be."""
    return row.state is NetworkState.REMOVED or (row.state is NetworkState.FAILED and not row.made)


def _subject(job: Job) -> UUID:
    assert job.subject_id is not None  # noqa: S101 - onboarding enqueues none without
    return job.subject_id


def _id(text: str) -> UUID:
    """A reference as an id; the nil UUID, which no device has, when it is none."""
    try:
        return UUID(text)
    except ValueError:
        return UUID(int=0)


def _member(job: Job, name: str) -> object:
    return job.input.get(name) if isinstance(job.input, dict) else None
