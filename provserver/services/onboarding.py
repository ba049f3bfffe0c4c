"""When devices are onboarded into their network, or removed there: in the transaction of what makes it so.

A device is what its metadata say. Claims and changes of these have a job see to it that it is there (network_jobs.py);
as long as a device that is there is to become another one (its hardware was replaced), it stays the one that it was.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import UniqueViolationError
from msgspec import Struct

from provserver.core import ids
from provserver.core.attributes import METADATA, Scope
from provserver.core.events import EventType
from provserver.core.integration import NetworkState
from provserver.core.lorawan import DEVICE_EUI, JOIN_EUI, NETWORK_DEVICE_ID, is_device_id
from provserver.core.onboarding import Identity, free_id
from provserver.core.telemetry import Value
from provserver.errors import Conflict, Forbidden, Invalid
from provserver.store import devices, integrations, jobs, network_devices, outbox
from provserver.store import onboarding as store
from provserver.store.database import Connection
from provserver.store.network_devices import NetworkDevice
from provserver.store.onboarding import ONBOARD, REMOVE, Subject

FIELDS: Final = store.FIELDS
"""Metadata fields that say what a device is to its network."""

NOT_OURS: Final = (
    "This device was in its network before provserver knew it, so it is not removed there. "
    "Remove it in the network's console if it is of no use."
)


class Order(Struct, frozen=True, rename="camel"):
    """What a job is to onboard. Keys are read when it runs.

    adopt: an operator has said that a device that is there, and that we did not make, is to be this one.
    """

    integration: UUID
    network_device_id: str
    dev_eui: str
    join_eui: str
    adopt: bool = False


class Removal(Struct, frozen=True, rename="camel"):
    """What a job is to remove. made: the steps whose components are ours there."""

    integration: UUID
    network_device_id: str
    dev_eui: str
    join_eui: str
    made: tuple[str, ...]

    @property
    def key(self) -> str:
        """One removal of it at a time."""
        return removal_key(self.integration, self.network_device_id)


def removal_key(integration_id: UUID, network_device_id: str) -> str:
    """Of the job that removes a device of this id."""
    return f"{integration_id}:{network_device_id}"


async def wanted(
    connection: Connection,
    device_id: UUID,
    actor: str,
    *,
    anew: bool = False,
    random: ids.Randomness = os.urandom,
    clock: Callable[[], float] = time.time,
) -> UUID | None:
    """Have a device be in its network as its metadata say, if its profile is onboarded and it has all three.

    Inside the transaction that gave it to somebody or changed them, which holds the device. anew: also if it is there
    as far as we know, as its key may be another. Returns the job, if there is something to do; raises nothing of it.
    """
    subject = await store.subject(connection, device_id)
    if subject is None or not subject.onboarding:
        return None
    identity = Identity.of(subject.values)
    if identity is None:
        return None
    try:
        return await want(connection, subject, identity, actor, anew=anew, job_id=ids.uuid7(clock(), random))
    except Collision as fault:
        await _note(connection, subject, identity, fault)
        return None


async def keep_token_metadata(
    connection: Connection, profile_id: UUID, device_id: UUID, values: Mapping[str, str]
) -> None:
    """Have the static token of a device, if it came of one, keep values of metadata fields, too.

    Raises Conflict when another token of the profile, claimed or not, has one that must be unique.
    """
    try:
        async with connection.transaction():
            if await store.is_of_token(connection, profile_id, device_id, values):
                raise Conflict(_HELD_ALREADY)
            await store.put_token_metadata(connection, device_id, values)
    except UniqueViolationError:
        raise Conflict(_HELD_ALREADY) from None


async def check_typed(connection: Connection, device_id: UUID, given: Mapping[str, str]) -> None:
    """Whether metadata fields may be so that an operator writes, by what the network's other devices are.

    Raises Invalid, and Conflict, which says what to do instead.
    """
    subject = await store.subject(connection, device_id)
    if subject is None:
        return
    eui_, id_ = given.get(DEVICE_EUI), given.get(NETWORK_DEVICE_ID)
    if id_ is not None and not is_device_id(id_):
        raise Invalid(BAD_ID)
    found = [
        await network_devices.by_eui(connection, subject.integration_id, eui_) if eui_ else None,
        await network_devices.by_network_id(connection, subject.integration_id, id_) if id_ else None,
    ]
    for name, other in zip((DEVICE_EUI, NETWORK_DEVICE_ID), found, strict=True):
        if other is not None and other.device_id != device_id:
            raise Collision(f"Another device of the profile has the same {name}.", _remedy(other))
    row = await network_devices.get(connection, device_id)
    if row is None or row.integration_id != subject.integration_id or not is_there(row) or id_ is None:
        return
    same = (row.dev_eui, row.join_eui) == (given.get(DEVICE_EUI, row.dev_eui), given.get(JOIN_EUI, row.join_eui))
    if same and id_ != row.network_device_id:
        raise Conflict(
            f"This device is {row.network_device_id!r} in its network. If it is {id_!r} from now on, which is there: "
            "provserver sighting merge. If it is other hardware: provserver device replace-hardware."
        )


async def check_reach(connection: Connection, organization_id: UUID, device_id: UUID) -> None:
    """Whether an organization may say what a device is to its network: the integration is its, or one's below it.

    Others that have the device could have any other device of that network be overwritten. Raises Forbidden.
    """
    subject = await store.subject(connection, device_id)
    if subject is None or await integrations.find(connection, organization_id, subject.integration_id) is not None:
        return
    raise Forbidden(
        "What a device is to its network is for the device's maker to say, who has the integration. "
        "Ask the maker, or give the device back: release it."
    )


class Collision(Conflict):
    """Another device has the id or the DevEUI. reason, remedy: as a job's."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason} {remedy}")
        self.reason = reason
        self.remedy = remedy


async def want(
    connection: Connection,
    subject: Subject,
    identity: Identity,
    actor: str,
    *,
    anew: bool,
    job_id: UUID,
    adopt: bool = False,
) -> UUID | None:
    """The same of a device that was looked up; adopt: see Order. Raises Collision."""
    row = await network_devices.get(connection, subject.id, lock=True)
    if row is None:
        left = identity.network_device_id or free_id(identity.dev_eui, None), identity.dev_eui, identity.join_eui
        row = await network_devices.take_over(connection, subject.integration_id, *left, device_id=subject.id)
    if row is not None and row.integration_id != subject.integration_id:
        row = None
    same = row is not None and (row.dev_eui, row.join_eui) == (identity.dev_eui, identity.join_eui)
    if row is not None and row.state is NetworkState.IMPORTED and same:
        return None
    if row is not None and same and row.state in _GOING and not anew:
        if row.state is NetworkState.ONBOARDED and identity.network_device_id is None:  # who had it before is forgotten
            value = {(Scope.SERVER, METADATA + NETWORK_DEVICE_ID): row.network_device_id}
            await devices.change_attributes(connection, subject.id, value, ())
        return None
    id_ = _id(row, identity, same=same)
    order = Order(subject.integration_id, id_, identity.dev_eui, identity.join_eui, adopt)
    await check_free(connection, subject.id, order)
    named = {DEVICE_EUI: order.dev_eui, NETWORK_DEVICE_ID: order.network_device_id}
    if await store.is_of_token(connection, subject.profile_id, subject.id, named):
        raise Collision("A static token of the profile has the same EUIs or id.", _COLLISION_REMEDY)
    job = await jobs.enqueue(
        connection,
        job_id,
        subject.organization_id,
        ONBOARD,
        actor,
        subject_id=subject.id,
        input=msgspec.to_builtins(order),
    )
    if row is not None and is_there(row):
        await network_devices.change(connection, subject.id, {"job_id": job_id, "error": None, "remedy": None})
    else:
        await _put(connection, subject.id, order, job_id)
    return None if job is None else job.id


async def remove(connection: Connection, device_id: UUID, actor: str, job_id: UUID) -> UUID | None:
    """Have a device be removed from its network that was made there by us, inside a transaction. Raises Conflict.

    Returns the job. None: there is nothing to remove; what is under way undoes itself as soon as it sees this.
    """
    row = await network_devices.get(connection, device_id, lock=True)
    if row is None:
        raise Conflict("This device is in no network.")
    if row.state is NetworkState.REMOVING:
        return row.job_id
    if not row.made and is_there(row):
        raise Conflict(NOT_OURS)
    job = await enqueue_removal(connection, row, actor, job_id) if row.made else None
    state = NetworkState.REMOVING if row.made else NetworkState.REMOVED
    await network_devices.change(connection, device_id, {"state": state, "job_id": job, "error": None, "remedy": None})
    return job


async def enqueue_removal(connection: Connection, row: NetworkDevice, actor: str, job_id: UUID) -> UUID | None:
    """Have what we made of a device in its network be removed; None: that is under way already, or cannot be."""
    integration = await integrations.get(connection, row.integration_id)
    if integration is None:
        return None
    removal = Removal(row.integration_id, row.network_device_id, row.dev_eui, row.join_eui or "", row.made)
    job = await jobs.enqueue(
        connection,
        job_id,
        integration.organization_id,
        REMOVE,
        actor,
        subject_id=row.device_id,
        input=msgspec.to_builtins(removal),
        key=removal.key,
    )
    return None if job is None else job.id


def is_there(row: NetworkDevice) -> bool:
    """Whether a device is in its network, or part of it may be: it stays what it is until it is another one."""
    return row.state in _THERE or (row.state is NetworkState.FAILED and bool(row.made))


async def _put(connection: Connection, device_id: UUID, order: Order, job_id: UUID) -> None:
    row = NetworkDevice(
        device_id,
        order.integration,
        order.network_device_id,
        order.dev_eui,
        order.join_eui,
        NetworkState.WAITING,
        job_id=job_id,
    )
    try:
        async with connection.transaction():
            await network_devices.put(connection, row)
    except UniqueViolationError:
        raise Collision("Another device of the profile has the same DevEUI.", _COLLISION_REMEDY) from None


async def check_free(connection: Connection, device_id: UUID, order: Order) -> None:
    """Whether no other device of the integration has these EUIs or this id. Raises Collision."""
    for what, other in (
        ("DevEUI", await network_devices.by_eui(connection, order.integration, order.dev_eui)),
        (
            "TheThingsNetwork Device ID",
            await network_devices.by_network_id(connection, order.integration, order.network_device_id),
        ),
    ):
        if other is not None and other.device_id != device_id:
            raise Collision(f"Another device of the profile has the same {what}.", _remedy(other))


def _remedy(other: NetworkDevice) -> str:
    """What to do about another device that has the EUIs or the id."""
    if other.state is NetworkState.IMPORTED:
        return f"It was imported from there. If the two are one: provserver sighting merge {other.network_device_id}."
    return _COLLISION_REMEDY


async def _note(connection: Connection, subject: Subject, identity: Identity, fault: Collision) -> None:
    """Have it be seen that a device cannot be onboarded."""
    row = await network_devices.get(connection, subject.id, lock=True)
    if row is not None and row.error == fault.reason:
        return
    if row is not None and is_there(row):
        await network_devices.change(connection, subject.id, {"error": fault.reason, "remedy": fault.remedy})
    else:
        await network_devices.put(
            connection,
            NetworkDevice(
                subject.id,
                subject.integration_id,
                _id(row, identity, same=False),
                identity.dev_eui,
                identity.join_eui,
                NetworkState.FAILED,
                error=fault.reason,
                remedy=fault.remedy,
            ),
        )
    await tell_failed(connection, subject.id, subject.integration_id, fault.reason, fault.remedy)


async def tell_failed(
    connection: Connection, device_id: UUID, integration_id: UUID, reason: str | None, remedy: str | None
) -> None:
    """Record the event that a device could not be onboarded."""
    members: dict[str, Value] = {"integrationId": str(integration_id)}
    members |= {name: text for name, text in (("reason", reason), ("remedy", remedy)) if text}
    await outbox.record_of_device(connection, EventType.NETWORK_ONBOARDING_FAILED, device_id, None, **members)


def _id(row: NetworkDevice | None, identity: Identity, *, same: bool) -> str:
    """The id that a device is to have in its network. same: the row is of the same hardware."""
    given = identity.network_device_id
    if row is None or not is_there(row):
        return given or free_id(identity.dev_eui, None)
    if same:
        return row.network_device_id
    if given is not None and given != row.network_device_id:
        return given
    return free_id(identity.dev_eui, row.network_device_id)


_GOING: Final = frozenset({NetworkState.WAITING, NetworkState.ONBOARDING, NetworkState.ONBOARDED})
_THERE: Final = frozenset({NetworkState.ONBOARDED, NetworkState.IMPORTED})
BAD_ID: Final = "An id in the network has 3 to 36 small letters, digits and single dashes between them."
_HELD_ALREADY: Final = "Another static token has these EUIs or this id: its device is that hardware. Delete it first."
_COLLISION_REMEDY: Final = (
    "Correct the EUIs of this device, or delete the other one, then have this one onboarded: provserver device onboard."
)
