"""Devices in the networks that they are onboarded into: how each stands, onboarded, on other hardware, or removed."""

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import PRINTABLE, Answer, Body, Name
from provserver.admin.route import Call, Reply, route
from provserver.admin.routes.integrations import NetworkDeviceAnswer, device_answer
from provserver.admin.routes.jobs import Begun, JobAnswer
from provserver.core.authorization import Permission
from provserver.services.jobs import Progress

Eui = Annotated[
    str, Meta(max_length=64, pattern=PRINTABLE, description="16 hexadecimal digits.", examples=["0018B20000000101"])
]
Key = Annotated[str, Meta(max_length=96, pattern=PRINTABLE, description="32 hexadecimal digits.")]


class Hardware(Body, frozen=True):
    """What a device's other hardware has. joinEui: as before if it is left out. networkKey: of LoRaWAN 1.1.

    networkDeviceId: made of the DevEUI if it is left out.
    """

    device_eui: Eui
    application_key: Key
    join_eui: Eui | UnsetType = UNSET
    network_key: Key | UnsetType = UNSET
    network_device_id: Name | UnsetType = UNSET


class Onboarding(Body, frozen=True):
    """adopt: what is there under the device's id and EUIs, and was not made by this server, is taken over."""

    adopt: bool = False


class QueuedAnswer(Answer, frozen=True):
    """How many devices will be onboarded by jobs, of how many that have a DevEUI and were not in the network.

    The others lack a Join EUI or a key, or another device has their DevEUI or id.
    """

    queued: int
    examined: int


async def show_network_device(call: Call[None, None]) -> NetworkDeviceAnswer:
    """Show how a device stands with the network that it is onboarded into."""
    return await _shown(call)


async def onboard_device(call: Call[None, Onboarding]) -> Reply[NetworkDeviceAnswer]:
    """Have a device be in its network as its metadata say; a job sees to it."""
    await call.services.network_devices.start(call.principal, call.text("device"), adopt=call.body.adopt)
    return Reply(await _shown(call))


async def onboard_all(call: Call[None, None]) -> Begun:
    """Have all devices of an integration's profile be in the network that are not there yet, and have what it takes.

    The job's result says how many jobs it has queued, and how many devices it has examined.
    """
    service, principal, id_ = call.services.network_devices, call.principal, call.id

    async def work(progress: Progress) -> QueuedAnswer:
        return QueuedAnswer.of(await service.start_all(principal, id_, progress))

    await service.check_all(principal, id_)
    return Begun(JobAnswer.of(await call.services.jobs.start(principal, "network.onboard_all", work)))


async def replace_hardware(call: Call[None, Hardware]) -> Reply[NetworkDeviceAnswer]:
    """Have a device be other hardware from now on; it keeps its name, owner, settings and data.

    A job makes the new device in the network. When that is there, the former one is removed if we have made it.
    """
    body = call.body
    await call.services.network_devices.replace(
        call.principal,
        call.text("device"),
        dev_eui=body.device_eui,
        join_eui=None if body.join_eui is UNSET else body.join_eui,
        application_key=body.application_key,
        network_key=None if body.network_key is UNSET else body.network_key,
        network_device_id=None if body.network_device_id is UNSET else body.network_device_id,
    )
    return Reply(await _shown(call))


async def leave_network(call: Call[None, None]) -> Reply[NetworkDeviceAnswer]:
    """Remove from a device's network what was made of it there; a job sees to it, and the device stays."""
    await call.services.network_devices.remove(call.principal, call.text("device"))
    return Reply(await _shown(call))


async def _shown(call: "Call[None, None] | Call[None, Hardware] | Call[None, Onboarding]") -> NetworkDeviceAnswer:
    return device_answer(await call.services.integrations.device(call.principal, call.text("device")))


_MANAGE = Permission.DEVICES_MANAGE

ROUTES = [
    route("GET", "/devices/{device}/network", Permission.DEVICES_VIEW, show_network_device, problems=("conflict",)),
    route(
        "POST",
        "/devices/{device}/network",
        _MANAGE,
        onboard_device,
        status=202,
        problems=("conflict",),
        example={"adopt": False},
    ),
    route("POST", "/integrations/{id}/onboard", _MANAGE, onboard_all, status=202, problems=("conflict",)),
    route("DELETE", "/devices/{device}/network", _MANAGE, leave_network, status=202, problems=("conflict",)),
    route(
        "POST",
        "/devices/{device}/network/replace",
        _MANAGE,
        replace_hardware,
        status=202,
        problems=("conflict", "invalid"),
        example={"deviceEui": "0018B20000000109", "applicationKey": "2B7E151628AED2A6ABF7158809CF4F3C"},
    ),
]
