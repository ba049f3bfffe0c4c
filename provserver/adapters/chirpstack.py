"""ChirpStack's REST API (chirpstack-rest-api, https://www.chirpstack.io/docs/chirpstack/api/), for one application.

A device has its DevEUI for an id, and its root keys are a thing of their own. What is there already is answered with
500, as any fault is, so it is looked for.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from provserver.adapters.network_call import call, succeeded
from provserver.adapters.outgoing import Outgoing, Response
from provserver.core.integration import ChirpStackSettings, url
from provserver.core.lorawan import LorawanVersion
from provserver.core.onboarding import ATTEMPT, REFERENCE, Denied, EndDevice, Found, Made, Rejected, TryAgain

DEVICE, KEYS = "device", "keys"

STEPS: Final = (DEVICE, KEYS)
REMOVAL: Final = (KEYS, DEVICE)

_ABSENT = frozenset({401, 403, 404})
_SERVER = "ChirpStack server"
_MAX_NAME = 100


class _Device(Struct, rename="camel"):
    dev_eui: str = ""
    join_eui: str = ""
    application_id: str = ""
    tags: dict[str, str] = {}


class _Answer(Struct):
    device: _Device


class ChirpStack:
    """One application. clock: seconds since the epoch, for servers that say until when they want to be left alone."""

    steps: Sequence[str] = STEPS
    removal: Sequence[str] = REMOVAL

    def __init__(
        self,
        application_id: str,
        settings: ChirpStackSettings,
        api_key: str,
        outgoing: Outgoing,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._application_id = application_id
        self._settings = settings
        self._outgoing = outgoing
        self._clock = clock
        self._headers = {"Grpc-Metadata-Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}

    async def missing_rights(self, *, uplinks: bool = False) -> list[str]:  # noqa: ARG002 - it has no MQTT of ours
        """None: a key may do all or nothing with an application."""
        response = await self._call("GET", f"/applications/{self._application_id}")
        if not succeeded(response):
            raise _refusal(response)
        return []

    async def look(self, network_device_id: str) -> Found | None:
        """As the seam has it."""
        found = await self._find(_eui(network_device_id))
        if found is None:
            return None
        return Found(found.dev_eui.upper(), found.join_eui.upper(), found.tags.get(REFERENCE), found.tags.get(ATTEMPT))

    async def make(self, step: str, device: EndDevice, *, again: bool) -> Made:  # noqa: ARG002 - it can be read
        """As the seam has it."""
        if step == DEVICE:
            return await self._add(device)
        path, body = f"/devices/{device.dev_eui.lower()}/keys", self._keys(device)
        fault: TryAgain | None = None
        try:
            response = await self._call("POST", path, body)
        except TryAgain as known:
            fault = known
        if fault is not None or response.status == 409:
            response = await self._call("PUT", path, body)
        if response.status == 404 and fault is not None:
            raise fault
        if not succeeded(response):
            raise _refusal(response)
        return Made.CREATED

    async def unmake(self, step: str, network_device_id: str) -> None:
        """As the seam has it: a device's keys go with it."""
        if step == KEYS:
            return
        eui = _eui(network_device_id)
        response = await self._call("DELETE", f"/devices/{eui}")
        if succeeded(response) or response.status == 404:
            return
        if response.status in _ABSENT and await self._find(eui) is None:
            await self.missing_rights()  # which tells whether it is the key that is at fault
            return
        raise _refusal(response)

    async def _add(self, device: EndDevice) -> Made:
        body = {
            "device": {
                "devEui": device.dev_eui.lower(),
                "joinEui": device.join_eui.lower(),
                "name": (device.name or device.network_device_id)[:_MAX_NAME],
                "applicationId": self._application_id,
                "deviceProfileId": self._settings.device_profile_id,
                "tags": dict(device.marks),
            }
        }
        try:
            response = await self._call("POST", "/devices", body)
        except TryAgain:
            found = await self._find(device.dev_eui.lower())
            if found is None:
                raise
        else:
            if succeeded(response):
                return Made.CREATED
            if response.status != 409:
                raise _refusal(response)
            found = await self._find(device.dev_eui.lower())
        if found is None or found.application_id != self._application_id:
            raise Rejected(
                "ChirpStack has a device of this DevEUI already, in another application.",
                "Remove that one there if it is of no use, or correct this device's DevEUI. Nothing was changed.",
            )
        if found.join_eui and found.join_eui.upper() != device.join_eui:
            raise Rejected(
                "The application has a device of this DevEUI with another JoinEUI.",
                "Correct this device's EUIs, or those of the other one there. Nothing was changed.",
            )
        return Made.CREATED if found.tags.get(ATTEMPT) == device.attempt else Made.ADOPTED

    async def _find(self, eui: str) -> _Device | None:
        response = await self._call("GET", f"/devices/{eui}")
        if response.status in _ABSENT:
            return None
        if not succeeded(response):
            raise _refusal(response)
        try:
            return msgspec.json.decode(response.body, type=_Answer).device
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise Rejected("What answers there is not ChirpStack.", "Check the integration's address.") from None

    def _keys(self, device: EndDevice) -> dict[str, object]:
        """Before LoRaWAN 1.1 there is one root key, the AppKey, which ChirpStack has where 1.1 has the NwkKey."""
        keys = {"devEui": device.dev_eui.lower(), "nwkKey": device.app_key.lower()}
        if self._settings.lorawan_version == LorawanVersion.V1_1:
            keys |= {"nwkKey": (device.nwk_key or "").lower(), "appKey": device.app_key.lower()}
        return {"deviceKeys": keys}

    async def _call(self, method: str, path: str, body: object = None) -> Response:
        address = f"{url(self._settings.address)}/api{path}"
        return await call(self._outgoing, method, address, self._headers, body, _SERVER, self._clock)


def _eui(network_device_id: str) -> str:
    """What ChirpStack knows a device by, from the id that we know it by."""
    return network_device_id.removeprefix("eui-")


def _refusal(response: Response) -> Exception:
    """What to raise for an answer that is no success."""
    if response.status in _ABSENT:
        return Denied(
            "ChirpStack does not accept the API key, or it does not reach the application or device profile.",
            "Make a key for the tenant in ChirpStack, set it with `provserver integration update`, and check the ids.",
        )
    if response.status == 409:
        return TryAgain("The ChirpStack server was busy with this device.")
    return Rejected(
        f"ChirpStack refuses the device: HTTP {response.status}.",
        "Check the integration's application and device profile, and the device's EUIs.",
    )
