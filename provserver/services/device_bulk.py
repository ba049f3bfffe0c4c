"""The same done to many devices: each in a transaction of its own, so that one that refuses stops no other."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

from provserver.core.authorization import Permission, Principal
from provserver.core.model import Credentials
from provserver.core.secrets import ServerKeys
from provserver.errors import Invalid, ProvserverError, Refused, Unavailable
from provserver.services.devices import Devices
from provserver.services.handover import Handover
from provserver.store import network_devices
from provserver.store.database import Database

MAX_DEVICES = 500
"""Devices that are acted on at once."""


class Act(StrEnum):
    """What may be done to many devices."""

    REVOKE = "revoke"
    ROTATE = "rotate"
    REARM = "rearm"
    QUARANTINE = "quarantine"
    RELEASE = "release"
    TRANSFER = "transfer"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Deed:
    """What is to be done. reason: of a quarantine. overlap: of a rotation. rotate: release with a new token.

    user, organization: who gets them; keep_data: with what they have sent. from_network: also what was made of them
    in their network goes, where something was.
    """

    act: Act
    reason: str = ""
    overlap: timedelta | None = None
    rotate: bool = False
    user: str | None = None
    organization: str | None = None
    keep_data: bool = False
    from_network: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it for one device. name: None where it was not found. problem: why not; None when it was done.

    token: a new one, which is shown this once.
    """

    device_id: UUID
    name: str | None
    problem: ProvserverError | None = None
    token: Credentials | None = field(default=None, repr=False)


class DeviceBulk:
    """Acts on many devices, as the principal may on each."""

    def __init__(self, database: Database, keys: ServerKeys, handover: Handover) -> None:
        self._database = database
        self._keys = keys
        self._handover = handover

    async def do(self, principal: Principal, deed: Deed, device_ids: Sequence[UUID]) -> list[Outcome]:
        """Do it to each, in their order; a device that is named twice is acted on once.

        What hinders one is in its outcome. Raises Forbidden, Invalid.
        """
        principal.require(Permission.DEVICES_TRANSFER if deed.act is Act.TRANSFER else Permission.DEVICES_MANAGE)
        meant = list(dict.fromkeys(device_ids))
        if not meant or len(meant) > MAX_DEVICES:
            raise Invalid(f"Name 1 to {MAX_DEVICES} devices.")
        if deed.act is Act.QUARANTINE and not deed.reason.strip():
            reason = "say why, for whoever is to release them"
            raise Invalid(f"reason: {reason}.", [{"in": "body", "field": "reason", "reason": reason}])
        if deed.act is Act.TRANSFER and (deed.user is None) == (deed.organization is None):
            raise Invalid("Name either a user or an organization to transfer the devices to.")
        devices = Devices(self._database, self._keys, principal.organization_id, actor=principal.actor)
        return [await self._one(principal, devices, deed, id_) for id_ in meant]

    async def _one(self, principal: Principal, devices: Devices, deed: Deed, id_: UUID) -> Outcome:
        name: str | None = None
        try:
            name = await devices.name_of(id_)
            token = await self._act(principal, devices, deed, id_)
        except (Refused, Unavailable) as fault:
            return Outcome(id_, name, fault)
        return Outcome(id_, name, token=token)

    async def _act(self, principal: Principal, devices: Devices, deed: Deed, id_: UUID) -> Credentials | None:
        match deed.act:
            case Act.REVOKE:
                await devices.revoke(id_)
            case Act.ROTATE:
                return (await devices.rotate(id_, deed.overlap)).credentials
            case Act.REARM:
                await devices.rearm(id_)
            case Act.QUARANTINE:
                await devices.quarantine(id_, deed.reason)
            case Act.RELEASE:
                return (await devices.release(id_, rotate=deed.rotate))[1]
            case Act.TRANSFER:
                await self._handover.transfer(
                    principal,
                    id_,
                    to_user=deed.user,
                    to_organization=deed.organization,
                    keep_data=deed.keep_data,
                )
            case Act.DELETE:
                await devices.delete(id_, from_network=deed.from_network and await self._was_made(id_))
        return None

    async def _was_made(self, id_: UUID) -> bool:
        """Whether anything of a device in its network is of our making."""
        async with self._database.connection() as connection:
            row = await network_devices.get(connection, id_)
        return row is not None and bool(row.made)
