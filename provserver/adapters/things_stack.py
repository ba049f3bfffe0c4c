"""The Things Stack's API for devices that join over the air (spec/lorawan.md D.5), for one application and API key.

A device has a component on each of four servers. Only the Identity Server refuses one that is there already; the others
write over it. The recommended key may not read devices: an update that changes nothing, which it may make, tells at
least whether a device is there, and its EUIs.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from provserver.adapters.network_call import call, succeeded
from provserver.adapters.outgoing import Outgoing, Response
from provserver.core.integration import UPLINK_RIGHTS, ThingsStackSettings, hostname, url
from provserver.core.onboarding import Denied, EndDevice, Found, Made, Rejected, TryAgain, shown

IDENTITY, JOIN, NETWORK, APPLICATION = "identity server", "join server", "network server", "application server"

STEPS: Final = (IDENTITY, JOIN, NETWORK, APPLICATION)
REMOVAL: Final = (NETWORK, APPLICATION, JOIN, IDENTITY)

RIGHTS: Final = (
    "RIGHT_APPLICATION_DEVICES_READ_KEYS",
    "RIGHT_APPLICATION_DEVICES_WRITE",
    "RIGHT_APPLICATION_DEVICES_WRITE_KEYS",
)
"""What onboarding needs: view device keys, create devices, edit device keys."""

_ALL_RIGHTS: Final = frozenset({"RIGHT_ALL", "RIGHT_APPLICATION_ALL"})
_PREFIXES: Mapping[str, str] = {JOIN: "/js", NETWORK: "/ns", APPLICATION: "/as"}
_MAX_NAME = 50
_ABORTED = 10
"""The code of gRPC for what ran into something else: HTTP says 409 of that, too."""

_IDS = ("ids.device_id", "ids.dev_eui", "ids.join_eui")


class _Detail(Struct):
    namespace: str = ""
    name: str = ""
    attributes: dict[str, object] = {}


class _Error(Struct):
    code: int = 0
    details: list[_Detail] = []


class _Rights(Struct):
    rights: list[str] = []


class _Ids(Struct):
    dev_eui: str = ""
    join_eui: str = ""


class _Device(Struct):
    ids: _Ids


_Answer = TypeVar("_Answer", _Rights, _Device)


class ThingsStack:
    """One application. clock: seconds since the epoch, for servers that say until when they want to be left alone."""

    steps: Sequence[str] = STEPS
    removal: Sequence[str] = REMOVAL

    def __init__(
        self,
        application_id: str,
        settings: ThingsStackSettings,
        api_key: str,
        outgoing: Outgoing,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._application_id = application_id
        self._settings = settings
        self._outgoing = outgoing
        self._clock = clock
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._addresses = {
            IDENTITY: settings.identity_server,
            JOIN: settings.join_server,
            NETWORK: settings.network_server,
            APPLICATION: settings.application_server,
        }

    async def missing_rights(self, *, uplinks: bool = False) -> list[str]:
        """Those of RIGHTS that the key does not have; uplinks: of UPLINK_RIGHTS, too."""
        response = await self._call("GET", IDENTITY, f"/applications/{self._application_id}/rights")
        if not succeeded(response):
            raise self._refusal(IDENTITY, response)
        held = _read(response, _Rights).rights
        wanted = (*RIGHTS, *sorted(UPLINK_RIGHTS)) if uplinks else RIGHTS
        return [] if _ALL_RIGHTS & set(held) else [right for right in wanted if right not in held]

    async def look(self, network_device_id: str) -> Found | None:
        """By an update of `activated_at` without a value, which the Identity Server drops."""
        ids = {"device_id": network_device_id, "application_ids": {"application_id": self._application_id}}
        body = {"end_device": {"ids": ids}, "field_mask": {"paths": ["activated_at"]}}
        response = await self._call("PUT", IDENTITY, self._path(IDENTITY, network_device_id), body)
        if response.status == 404:
            return None
        if not succeeded(response):
            raise self._refusal(IDENTITY, response)
        there = _read(response, _Device).ids
        return Found(there.dev_eui.upper(), there.join_eui.upper())

    async def make(self, step: str, device: EndDevice, *, again: bool) -> Made:
        """As the seam has it."""
        if step == IDENTITY:
            return await self._identify(device, again=again)
        response = await self._call("PUT", step, self._path(step, device.network_device_id), self._body(step, device))
        if succeeded(response):
            return Made.CREATED
        if response.status == 409 and self._is_ours(_error(response), device):
            raise TryAgain(f"The {step} had the device under way already.")
        raise self._refusal(step, response)

    async def unmake(self, step: str, network_device_id: str) -> None:
        """As the seam has it."""
        response = await self._call("DELETE", step, self._path(step, network_device_id))
        if not succeeded(response) and response.status != 404:
            raise self._refusal(step, response)

    async def _identify(self, device: EndDevice, *, again: bool) -> Made:
        path = f"/applications/{self._application_id}/devices"
        response = await self._call("POST", IDENTITY, path, self._body(IDENTITY, device))
        if succeeded(response):
            return Made.CREATED
        error = _error(response)
        if response.status != 409 or error.code == _ABORTED:
            raise self._refusal(IDENTITY, response)
        if _name(error) != "id_taken" and not self._is_ours(error, device):
            raise self._taken(error)
        # It is of a lost answer, or somebody has registered this very device, or another one has its id.
        found = await self.look(device.network_device_id)
        if found is None:
            raise TryAgain("The device's id was taken a moment ago, and is free now.")
        if (found.dev_eui, found.join_eui) != (device.dev_eui, device.join_eui):
            raise Rejected(
                f"The application has another device of the id {device.network_device_id}.",
                "Remove that one there if it is of no use, or give this device another TheThingsNetwork Device ID.",
            )
        return Made.CREATED if again else Made.ADOPTED

    def _body(self, step: str, device: EndDevice) -> dict[str, object]:
        ids = {
            "device_id": device.network_device_id,
            "dev_eui": device.dev_eui,
            "join_eui": device.join_eui,
            "application_ids": {"application_id": self._application_id},
        }
        if step == IDENTITY:  # which takes no mask
            marks = {name: value for name, value in device.marks.items() if value}
            name = device.name[:_MAX_NAME]
            return {"end_device": {"ids": ids, "name": name, "attributes": marks, **self._servers(*STEPS[1:])}}
        fields, paths = self._fields(step, device)
        return {"end_device": {"ids": ids, **fields}, "field_mask": {"paths": [*paths, *_IDS]}}

    def _fields(self, step: str, device: EndDevice) -> tuple[dict[str, object], list[str]]:
        """What the Join, Network or Application Server is to have beside the ids, and the paths of it."""
        settings = self._settings
        if step == JOIN:
            keys, servers = {"app_key": {"key": device.app_key}}, self._servers(NETWORK, APPLICATION)
            if device.nwk_key is not None:
                keys["nwk_key"] = {"key": device.nwk_key}
            return {**servers, "root_keys": keys}, [*servers, *(f"root_keys.{name}.key" for name in keys)]
        fields: dict[str, object] = {}
        if step == NETWORK:
            fields = {
                "multicast": False,
                "supports_join": True,
                "lorawan_version": settings.lorawan_version,
                "lorawan_phy_version": settings.regional_parameters,
                "frequency_plan_id": settings.frequency_plan,
                "supports_class_b": settings.class_b,
                "supports_class_c": settings.class_c,
            }
        return fields, list(fields)

    def _servers(self, *steps: str) -> dict[str, str]:
        """The addresses of servers as members of a device: hosts alone."""
        return {f"{step.replace(' ', '_')}_address": hostname(self._addresses[step]) for step in steps}

    def _path(self, step: str, network_device_id: str) -> str:
        return f"{_PREFIXES.get(step, '')}/applications/{self._application_id}/devices/{network_device_id}"

    async def _call(self, method: str, step: str, path: str, body: object = None) -> Response:
        """Raises TryAgain for what may do another time, Rejected for what never will."""
        address = f"{url(self._addresses[step])}/api/v3{path}"
        return await call(self._outgoing, method, address, self._headers, body, step, self._clock)

    def _is_ours(self, error: _Error, device: EndDevice) -> bool:
        """Whether what has the EUIs already is this very device."""
        attributes = error.details[0].attributes if error.details else {}
        named = (attributes.get("application_id"), attributes.get("device_id"))
        return named == (self._application_id, device.network_device_id)

    def _taken(self, error: _Error) -> Rejected:
        attributes = error.details[0].attributes if error.details else {}
        there = ""
        if device := attributes.get("device_id"):
            there = f" as {shown(device)} of the application {shown(attributes.get('application_id'))}"
        return Rejected(
            f"The network has a device of these EUIs already{there}.",
            "Remove that one there if it is of no use, or correct this device's EUIs. Nothing was changed.",
        )

    def _refusal(self, step: str, response: Response) -> Exception:
        """What to raise for an answer that is no success."""
        error, status = _error(response), response.status
        name = _name(error)
        if status == 401:
            return Denied(
                f"The {step} does not accept the API key.",
                "Make a key in The Things Stack, set it with `provserver integration update`, and try again.",
            )
        if status == 403:
            return Denied(
                f"The API key may not do this on the {step}, or there is no application {self._application_id}.",
                f"Give it the rights {', '.join(RIGHTS)}, and look up the application's id.",
            )
        if status == 409 and error.code == _ABORTED:
            return TryAgain(f"The {step} was busy with this device.")
        if status == 409:
            return self._taken(error)
        if name == "read_only_field":
            return Rejected(
                f"The {step} has another device of this id.",
                "Remove that one there if it is of no use, or give this device another TheThingsNetwork Device ID.",
            )
        if name.endswith("_address_mismatch"):
            return Rejected(
                f"The application is bound to other servers ({name}).",
                "Set the integration's server addresses to those that the application has in The Things Stack.",
            )
        return Rejected(
            f"The {step} refuses the device: HTTP {status}, {name}.",
            "Check the integration's application, addresses, versions and frequency plan, and the device's EUIs.",
        )


def _read(response: Response, type_: type[_Answer]) -> _Answer:
    try:
        return msgspec.json.decode(response.body, type=type_)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Rejected(
            "What answers there is not The Things Stack.", "Check the integration's server addresses."
        ) from None


def _error(response: Response) -> _Error:
    try:
        return msgspec.json.decode(response.body, type=_Error)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _Error()


def _name(error: _Error) -> str:
    return shown(error.details[0].name) if error.details else "no reason"
