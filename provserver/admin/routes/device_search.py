"""The list of devices: searched, filtered, page by page."""

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import PRINTABLE, PageQuery, Reference, SearchedPage, searched
from provserver.admin.route import Call, route
from provserver.admin.routes.devices import DeviceAnswer, device_answer
from provserver.core.authorization import Permission
from provserver.services.device_search import Wanted

Search = Annotated[
    str,
    Meta(
        max_length=255,
        pattern=PRINTABLE,
        description="What the name begins with; or exactly the id, the value of a unique metadata field, the unit, the "
        "DevEUI or the id in its network. Devices are then in order of their names.",
    ),
]
Newest = Annotated[bool, Meta(description="The newest first; else in order of making.")]


class DevicesQuery(PageQuery, frozen=True):
    """Which devices: those that all of it fits.

    profile: by name, template id or id. organization: that has them, this one or those below it. claimed: somebody has
    it who claimed it, or to whom it was transferred. provisioned: it has been; else it is pre-provisioned and waits.
    suspected: something speaks for it being there twice.
    """

    search: Search = ""
    profile: Reference | UnsetType = UNSET
    organization: Reference | UnsetType = UNSET
    online: bool | UnsetType = UNSET
    claimed: bool | UnsetType = UNSET
    provisioned: bool | UnsetType = UNSET
    quarantined: bool | UnsetType = UNSET
    suspected: bool | UnsetType = UNSET
    newest: Newest = False


async def list_devices(call: Call[DevicesQuery, None]) -> SearchedPage[DeviceAnswer]:
    """List devices in order of making, or search them.

    Where few of many devices fit, a page ends for having looked at enough of them: it may hold fewer than `limit`, and
    goes on with `nextCursor`.
    """
    query = call.query
    wanted = Wanted(
        search=query.search or None,
        profile=query.profile or None,
        organization=query.organization or None,
        online=_given(query.online),
        claimed=_given(query.claimed),
        provisioned=_given(query.provisioned),
        quarantined=_given(query.quarantined),
        suspected=_given(query.suspected),
    )
    found = await call.services.device_search.find(
        call.principal, wanted, query.after, query.limit, ascending=not query.newest
    )
    return searched(found, device_answer)


def _given(value: bool | UnsetType) -> bool | None:
    return None if value is UNSET else value


ROUTES = [route("GET", "/devices", Permission.DEVICES_VIEW, list_devices, problems=("not_found", "conflict"))]
