"""Looking for devices: by the beginning of a name, by what identifies one, and by how it stands."""

from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from provserver.core import metadata
from provserver.core.authorization import Permission, Principal
from provserver.core.definitions import SECRET_TYPES
from provserver.core.lorawan import SECRETS
from provserver.core.model import MetadataField
from provserver.core.search import Found
from provserver.errors import Conflict, NotFound
from provserver.services.organizations import reach
from provserver.store import device_search as store
from provserver.store.database import Connection, Database
from provserver.store.device_search import Filter
from provserver.store.devices import DeviceSummary

_EUI = MetadataField("", "eui64")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which devices: all that fit. search: what a name begins with, or exactly what identifies one: its id, the value
    of a unique metadata field, a unit, a DevEUI or the id in its network. Never a token: whoever looks would leave it
    where addresses are kept.

    profile: by name, template id or id. organization: that has them, or is above the one that does. The others: as of
    `Filter`.
    """

    search: str | None = None
    profile: str | None = None
    organization: UUID | str | None = None
    online: bool | None = None
    claimed: bool | None = None
    provisioned: bool | None = None
    quarantined: bool | None = None
    suspected: bool | None = None


class DeviceSearch:
    """The devices that a principal reaches, page by page, however many there are."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(
        self,
        principal: Principal,
        wanted: Wanted,
        cursor: UUID | None = None,
        limit: int = 50,
        *,
        ascending: bool = False,
    ) -> Found[DeviceSummary]:
        """Devices by when they were made; where there is something to search, by name: who is meant exactly goes first.

        A page may end for having looked at enough, and is gone on with from there. Raises Refused.
        """
        principal.require(Permission.DEVICES_VIEW)
        above = principal.organization_id
        text = (wanted.search or "").strip()
        async with (
            self._database.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            filter_ = await self._filter(connection, principal, wanted)
            if not text:
                return await store.newest(connection, above, filter_, after=cursor, limit=limit, ascending=ascending)
            if cursor is None:
                first = (await self._identified(connection, above, text, filter_))[:limit]
                found = await store.named(connection, above, text, filter_, limit=max(limit - len(first), 1))
                known = {device.id for device in first}
                return replace(found, rows=[*first, *(each for each in found.rows if each.id not in known)])
            name = await store.name_of(connection, above, cursor)
            if name is None:
                raise NotFound("The device that the page before ended with is gone. Search once more from the start.")
            return await store.named(connection, above, text, filter_, after=(name, cursor), limit=limit)

    async def _filter(self, connection: Connection, principal: Principal, wanted: Wanted) -> Filter:
        profile_id = None
        if wanted.profile is not None:
            profile_id = await self._profile(connection, principal.organization_id, wanted.profile)
        organization_id = None
        if wanted.organization is not None:
            organization_id = (await reach(connection, principal, wanted.organization)).id
        return Filter(
            profile_id,
            organization_id,
            wanted.online,
            wanted.claimed,
            wanted.provisioned,
            wanted.quarantined,
            wanted.suspected,
        )

    @staticmethod
    async def _profile(connection: Connection, organization_id: UUID, reference: str) -> UUID:
        found = await store.profiles_named(connection, organization_id, reference)
        if not found:
            raise NotFound(f"There is no profile {reference!r}. Look in the list of profiles.")
        if len(found) > 1:
            raise Conflict(f"Several organizations have a profile {reference!r}. Give its id.")
        return found[0]

    @staticmethod
    async def _identified(
        connection: Connection, organization_id: UUID, text: str, filter_: Filter
    ) -> list[DeviceSummary]:
        profiles = await store.unique_fields(connection, organization_id)
        values = [
            (profile_id, field.name, value)
            for profile_id, fields in profiles
            for field in map(_field, fields)
            if field.type not in SECRET_TYPES and field.name not in SECRETS
            if (value := _read(field, text)) is not None
        ]
        return await store.identified(
            connection,
            organization_id,
            text,
            filter_,
            values=values,
            profile_ids=[profile_id for profile_id, _ in profiles],
            eui=_read(_EUI, text),
        )


def _field(stored: dict[str, Any]) -> MetadataField:
    return MetadataField(stored["name"], stored.get("type", "text"), True, tuple(stored.get("options", ())))


def _read(field: MetadataField, text: str) -> str | None:
    """A text as the field would hold it; None when it would not."""
    try:
        return metadata.check(field, text)
    except metadata.InvalidValue:
        return None
