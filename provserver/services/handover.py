"""Devices that somebody has change hands: given back, taken back, transferred, and deleted with their tokens."""

from uuid import UUID

from provserver.core import ids
from provserver.core.authorization import Permission, Principal
from provserver.core.events import EventType
from provserver.core.telemetry import Value
from provserver.errors import Conflict, Forbidden, Invalid, NotFound
from provserver.services import onboarding
from provserver.services.organizations import check_revision, reach
from provserver.services.ownership import Ownership, Recipient, no_device, owned
from provserver.store import claiming as store
from provserver.store import outbox
from provserver.store.claiming import Holding
from provserver.store.database import Connection
from provserver.store.devices import DeviceSummary


class Handover(Ownership):
    """Moves of what is there already (spec static-tokens A.4)."""

    async def unclaim(self, principal: Principal, token_id: UUID) -> None:
        """Give a claimed device back, as its owner or its maker; nothing of the owner's stays. Raises Refused."""
        async with self._transaction() as connection:
            holding = await self._visible(connection, principal, token_id)
            if holding.status is None:
                raise NotFound(f"There is no static token {str(token_id)!r}. Look it up in the list.")
            _require_say(principal, holding)
            await self._release(connection, principal, holding, "static_token.unclaimed")

    async def disclaim(self, principal: Principal, token_id: UUID) -> None:
        """Take a claimed device away from whoever has it, as its maker. It may come back. Raises Refused."""
        principal.require(Permission.TOKENS_MANAGE)
        async with self._transaction() as connection:
            holding = await self._made(connection, principal, token_id)
            await self._release(connection, principal, holding, "static_token.disclaimed")

    async def release_device(self, principal: Principal, device_id: UUID, revision: int | None = None) -> None:
        """Delete a device from one's account, as its owner: it goes back to its maker. Raises Refused.

        revision: that the device must have; Stale is raised when it has another.
        """
        async with self._transaction() as connection:
            holding = await self._visible(connection, principal, device_id)
            if not holding.has_device:
                raise no_device(device_id)
            _require_say(principal, holding)
            check_revision(holding.revision, revision)
            action = "device.released" if holding.status is None else "static_token.unclaimed"
            await self._release(connection, principal, holding, action)

    async def transfer(
        self,
        principal: Principal,
        device_id: UUID,
        *,
        to_user: UUID | str | None = None,
        to_organization: UUID | str | None = None,
        keep_data: bool = False,
        revision: int | None = None,
    ) -> DeviceSummary:
        """Have a user, or an organization with no user in particular, have a device. Raises Refused.

        Both must be within the principal's tree and the maker's. A static token counts as claimed from then on.
        keep_data: another organization gets the device with what the one before left on it, which is wiped otherwise.
        revision: that the device must still have.
        """
        principal.require(Permission.DEVICES_TRANSFER)
        if (to_user is None) == (to_organization is None):
            raise Invalid("Name either a user or an organization to transfer the device to.")
        async with self._transaction() as connection:
            if to_user is not None:
                recipient = await self._user(connection, principal, to_user)
            else:
                recipient = Recipient((await reach(connection, principal, to_organization)).id, None)
            holding = await self._visible(connection, principal, device_id)
            if not holding.has_device:
                raise no_device(device_id)
            check_revision(holding.revision, revision)
            if (holding.holder_id, holding.owner_id) == (recipient.organization_id, recipient.user_id):
                raise Conflict("Can't transfer to the same owner. Name another.")
            if not await store.is_below(connection, recipient.organization_id, holding.maker_id):
                raise Conflict("A device stays with its maker and the organizations below it. Name one of those.")
            await self._check_quota(connection, recipient, holding.holder_id)
            await store.give(connection, device_id, recipient.organization_id, recipient.user_id)
            if recipient.organization_id != holding.holder_id:
                await outbox.record_of_device(
                    connection, EventType.DEVICE_UNCLAIMED, device_id, holding.holder_id, transferred=True
                )
            await self._tell_claimed(connection, device_id, recipient, transferred=True)
            await self._onboard(connection, device_id, principal.actor)
            arrived: dict[str, Value] = {**owned(recipient)}
            if recipient.organization_id != holding.holder_id:
                if not keep_data:
                    await store.wipe(connection, holding)
                arrived["data_kept"] = keep_data
                left = arrived | {"organization": str(recipient.organization_id)}
                await self._record(
                    connection, holding.holder_id, principal.actor, "device.transferred", device_id, **left
                )
                await self._record(
                    connection, recipient.organization_id, principal.actor, "device.received", device_id, **arrived
                )
            else:
                await self._record(
                    connection, holding.holder_id, principal.actor, "device.transferred", device_id, **arrived
                )
            return await self._seen(connection, principal, device_id)

    async def delete_token(
        self, principal: Principal, token_id: UUID, *, confirm: bool = False, from_network: bool = False
    ) -> None:
        """Remove a static token for ever, with the device that came of it, which is cut. Raises Refused.

        confirm: also one that is claimed, whose owner loses the device. from_network: what we have made of it in its
        network goes, too, by a job.
        """
        principal.require(Permission.TOKENS_MANAGE)
        if from_network:
            principal.require(Permission.DEVICES_MANAGE)
        async with self._transaction() as connection:
            holding = await self._made(connection, principal, token_id)
            if holding.claimed and not confirm:
                raise Conflict(
                    "This token is claimed: its owner would lose the device for ever. Confirm that, or disclaim it."
                )
            if from_network:
                await onboarding.remove(connection, token_id, principal.actor, ids.uuid7(self._clock(), self._random))
            await store.delete(connection, token_id)
            detail: dict[str, Value] = {"claimed": holding.claimed}
            if from_network:
                detail["from_network"] = True
            await self._record(
                connection, holding.holder_id, principal.actor, "static_token.deleted", token_id, **detail
            )

    async def _visible(self, connection: Connection, principal: Principal, id_: UUID) -> Holding:
        """What has this id, held, if the principal may see it. Raises NotFound."""
        holding = await store.hold(connection, id_)
        if holding is None or principal.organization_id not in holding.holder_path:
            raise no_device(id_)
        return holding

    async def _made(self, connection: Connection, principal: Principal, token_id: UUID) -> Holding:
        """The static token of this id, held, if it is of the principal's making. Raises NotFound."""
        holding = await store.hold(connection, token_id)
        if holding is None or holding.status is None or principal.organization_id not in holding.maker_path:
            raise NotFound(f"There is no static token {str(token_id)!r}. Look it up in the list.")
        return holding

    async def _release(self, connection: Connection, principal: Principal, holding: Holding, action: str) -> None:
        if not holding.claimed:
            raise Conflict("This device is not claimed. There is nobody to take it from.")
        await store.release(connection, holding)
        await outbox.record_of_device(
            connection, EventType.DEVICE_UNCLAIMED, holding.id, holding.holder_id, transferred=False
        )
        await self._record(connection, holding.holder_id, principal.actor, action, holding.id)


def _require_say(principal: Principal, holding: Holding) -> None:
    """Whether the principal may give a device back: its owner, its maker, or its holder if no user owns it."""
    if holding.owner_id is not None and holding.owner_id == principal.user_id:
        principal.require(Permission.DEVICES_CLAIM)
    elif principal.home.organization_id in holding.maker_path:  # wherever it looks from
        static = holding.status is not None
        principal.require(Permission.TOKENS_MANAGE if static else Permission.DEVICES_MANAGE)
    elif holding.owner_id is None:
        principal.require(Permission.DEVICES_MANAGE)
    else:
        raise Forbidden("Only the device's owner or its maker may give it back. To have it yourself, transfer it.")
