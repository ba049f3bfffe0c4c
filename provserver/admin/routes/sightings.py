"""Devices of a network that are none of ours: seen, imported, or merged with one that is."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import Meta

from provserver.admin.fields import PRINTABLE, Answer, Body, Page, PageQuery, paged
from provserver.admin.route import Call, Reply, route
from provserver.admin.routes.devices import DeviceAnswer
from provserver.admin.routes.integrations import NetworkDeviceAnswer
from provserver.core.authorization import Permission
from provserver.core.uplink import MAX_DEVICE_ID

NetworkDeviceId = Annotated[
    str, Meta(min_length=1, max_length=MAX_DEVICE_ID, pattern=PRINTABLE, examples=["eui-0018b20000000101"])
]


class SightingAnswer(Answer, frozen=True):
    """A device that a network has told of, and that is none of yours. times: that it was heard.

    obstacle: why it was not imported, where that is wanted.
    """

    id: UUID
    integration_id: UUID
    network_device_id: str
    device_eui: str | None
    join_eui: str | None
    obstacle: str | None
    times: int
    first_at: datetime
    last_at: datetime


class SightedDevice(Body, frozen=True):
    """Which device, by its id in the network."""

    network_device_id: NetworkDeviceId


class Merge(Body, frozen=True):
    """Which device of the network. confirm: although it was imported as a device of its own, which is deleted then."""

    network_device_id: NetworkDeviceId
    confirm: bool = False


async def list_sightings(call: Call[PageQuery, None]) -> Page[SightingAnswer]:
    """List devices that a network has told of, and that are none of yours."""
    query = call.query
    found = await call.services.sightings.list_(call.principal, call.id, query.after, query.limit + 1)
    return paged(found, query.limit, lambda each: SightingAnswer.of(each, device_eui=each.dev_eui))


async def import_sighting(call: Call[None, SightedDevice]) -> Reply[DeviceAnswer]:
    """Make a device of one that a network has told of."""
    made = await call.services.sightings.import_(call.principal, call.id, call.body.network_device_id)
    return Reply(DeviceAnswer.of(made), revision=made.revision)


async def merge_device(call: Call[None, Merge]) -> NetworkDeviceAnswer:
    """Have a device be another one of its network from now on: its hardware was changed there."""
    body = call.body
    merged = await call.services.sightings.merge(
        call.principal, call.text("device"), body.network_device_id, confirm=body.confirm
    )
    return NetworkDeviceAnswer.of(merged, device_eui=merged.dev_eui)


_MANAGE = Permission.DEVICES_MANAGE

ROUTES = [
    route("GET", "/integrations/{id}/sightings", Permission.DEVICES_VIEW, list_sightings),
    route(
        "POST",
        "/integrations/{id}/import",
        _MANAGE,
        import_sighting,
        creates=True,
        revised=True,
        problems=("conflict",),
        example={"networkDeviceId": "eui-0018b20000000101"},
    ),
    route(
        "POST",
        "/devices/{device}/network/merge",
        _MANAGE,
        merge_device,
        problems=("conflict",),
        example={"networkDeviceId": "eui-0018b20000000101"},
    ),
]
