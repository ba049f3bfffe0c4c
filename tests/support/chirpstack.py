"""A strict stand-in for ChirpStack 4 behind its REST API: devices and their root keys.

As the server does: a device that is there already is a fault of its database, code 13 and HTTP 500, and so is a EUI or
key of another length. Stricter in one thing: a member that it would drop without a word is refused.
"""

import json
import re
import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web

from tests.support.things_stack import How

INVALID_ARGUMENT, NOT_FOUND, INTERNAL, UNIMPLEMENTED, UNAVAILABLE, UNAUTHENTICATED = 3, 5, 13, 12, 14, 16
_HTTP = {3: 400, 5: 404, 12: 501, 13: 500, 14: 503, 16: 401}

_DEVICE = {
    "devEui": str,
    "name": str,
    "description": str,
    "applicationId": str,
    "deviceProfileId": str,
    "skipFcntCheck": bool,
    "isDisabled": bool,
    "variables": dict,
    "tags": dict,
    "joinEui": str,
}
_KEYS = {"devEui": str, "nwkKey": str, "appKey": str}


@dataclass(frozen=True, slots=True)
class Call:
    """A request. status: 0 when it was not answered."""

    method: str
    path: str
    status: int


class _Fault(Exception):  # noqa: N818
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class ChirpStack:
    """devices, keys: what it keeps, by DevEUI (lower case, as it shows them)."""

    def __init__(self) -> None:
        self.devices: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, dict[str, str]] = {}
        self.calls: list[Call] = []
        self.applications: dict[str, str] = {}
        self.device_profiles: dict[str, str] = {}
        self.url = ""
        self._tokens: set[str] = set()
        self._faults: list[tuple[str, How]] = []
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Returns once it accepts."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def api_key(self) -> str:
        """Make a key of the tenant."""
        key = f"eyJ0eXAiOiJKV1QifQ.{secrets.token_urlsafe(24)}.{secrets.token_urlsafe(32)}"
        self._tokens.add(key)
        return key

    def application(self, name: str) -> str:
        """Make an application; its id."""
        self.applications[made := str(uuid.uuid4())] = name
        return made

    def device_profile(self, name: str) -> str:
        """Make a device profile; its id."""
        self.device_profiles[made := str(uuid.uuid4())] = name
        return made

    def fail(self, call: str, times: int = 1, how: How = How.SERVER_ERROR) -> None:
        """Have the next calls about a "device" or about "keys" fail."""
        self._faults += [(call, how)] * times

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if found := re.fullmatch(r"/api/applications/([^/]+)", request.path):
            return self._answered(request, self._application(request, found[1]))
        found = re.fullmatch(r"/api/devices(?:/([^/]+)(/keys)?)?", request.path)
        if not found:
            return self._answered(request, _Fault(NOT_FOUND, "Not Found"))
        about = "keys" if found[2] else "device"
        how = next((how for call, how in self._faults if call == about), None)
        if how is not None:
            self._faults.remove((about, how))
        body = await request.read()
        answer: _Fault | dict[str, Any] = {}
        if how is None or how.after:
            try:
                answer = self._do(request, found[1] or "", about, body)
            except _Fault as fault:
                answer = fault
        if how in (How.RESET, How.RESET_AFTER):
            if request.transport is not None:
                request.transport.abort()
            self.calls.append(Call(request.method, request.path, 0))
            return web.Response()
        if how is not None:
            answer = _Fault(UNAVAILABLE if how is How.UNAVAILABLE else INTERNAL, "on demand")
        return self._answered(request, answer)

    def _answered(self, request: web.Request, answer: "_Fault | dict[str, Any]") -> web.Response:
        if isinstance(answer, _Fault):
            status = _HTTP[answer.code]
            body: dict[str, Any] = {"code": answer.code, "message": str(answer), "details": []}
        else:
            status, body = 200, answer
        self.calls.append(Call(request.method, request.path, status))
        return web.json_response(body, status=status)

    def _require_key(self, request: web.Request) -> None:
        """By either header, as its gateway to gRPC does."""
        for name in ("Grpc-Metadata-Authorization", "Authorization"):
            kind, _, key = request.headers.get(name, "").partition(" ")
            if kind == "Bearer" and key in self._tokens:
                return
        raise _Fault(UNAUTHENTICATED, "not a key of this server")

    def _application(self, request: web.Request, application_id: str) -> "_Fault | dict[str, Any]":
        try:
            self._require_key(request)
        except _Fault as fault:
            return fault
        if request.method != "GET":
            return _Fault(UNIMPLEMENTED, "Method Not Allowed")
        if application_id not in self.applications:
            return _Fault(NOT_FOUND, "no such application")
        return {"application": {"id": application_id, "name": self.applications[application_id]}}

    def _do(self, request: web.Request, dev_eui: str, about: str, body: bytes) -> dict[str, Any]:
        self._require_key(request)
        kind = (request.method, about, bool(dev_eui))
        calls: Mapping[tuple[str, str, bool], Callable[[], dict[str, Any]]] = {
            ("POST", "device", False): lambda: self._create(body),
            ("GET", "device", True): lambda: {"device": self.devices[self._known(dev_eui)]},
            ("DELETE", "device", True): lambda: self._delete(dev_eui),
            ("POST", "keys", True): lambda: self._set_keys(dev_eui, body, new=True),
            ("PUT", "keys", True): lambda: self._set_keys(dev_eui, body, new=False),
        }
        if kind not in calls:
            raise _Fault(UNIMPLEMENTED, "Method Not Allowed")
        return calls[kind]()

    def _create(self, body: bytes) -> dict[str, Any]:
        device = _member(body, "device", _DEVICE)
        dev_eui = _digits(device.get("devEui", ""), 16)
        if device.get("joinEui"):
            device["joinEui"] = _digits(device["joinEui"], 16)
        for name, known in (("applicationId", self.applications), ("deviceProfileId", self.device_profiles)):
            try:
                uuid.UUID(device.get(name, ""))
            except ValueError:
                raise _Fault(INVALID_ARGUMENT, f"{name} is no UUID") from None
            if device[name] not in known:
                code = UNAUTHENTICATED if name == "applicationId" else INTERNAL
                raise _Fault(code, f"no such {name}")
        if not device.get("name"):
            raise _Fault(INVALID_ARGUMENT, "a device needs a name")
        if dev_eui in self.devices:
            raise _Fault(INTERNAL, 'duplicate key, unique constraint "device_pkey"')
        self.devices[dev_eui] = device | {"devEui": dev_eui}
        return {}

    def _delete(self, dev_eui: str) -> dict[str, Any]:
        known = self._known(dev_eui)
        del self.devices[known]
        self.keys.pop(known, None)
        return {}

    def _set_keys(self, dev_eui: str, body: bytes, *, new: bool) -> dict[str, Any]:
        keys = _member(body, "deviceKeys", _KEYS)
        known = self._known(dev_eui)
        made = {"nwkKey": _digits(keys.get("nwkKey", ""), 32), "appKey": _digits(keys.get("appKey") or "0" * 32, 32)}
        if new and known in self.keys:
            raise _Fault(INTERNAL, 'duplicate key, unique constraint "device_keys_pkey"')
        if not new and known not in self.keys:
            raise _Fault(NOT_FOUND, "no keys of that device")
        self.keys[known] = made
        return {}

    def _known(self, dev_eui: str) -> str:
        normal = _digits(dev_eui, 16)
        if normal not in self.devices:
            raise _Fault(NOT_FOUND, "no such device")
        return normal


def _member(body: bytes, name: str, fields: Mapping[str, type]) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        raise _Fault(INVALID_ARGUMENT, "no JSON") from None
    if not isinstance(document, dict) or set(document) != {name} or not isinstance(document[name], dict):
        raise _Fault(INVALID_ARGUMENT, f"an object with the member {name} and no other")
    for key, value in document[name].items():
        if key not in fields:
            raise _Fault(INVALID_ARGUMENT, f"no member {key!r}: ChirpStack would drop it without a word")
        if not isinstance(value, fields[key]):
            raise _Fault(INVALID_ARGUMENT, f"{key} is of another type")
    found: dict[str, Any] = document[name]
    return found


def _digits(text: str, count: int) -> str:
    if len(text) != count:
        raise _Fault(INTERNAL, "Invalid string length")
    try:
        return bytes.fromhex(text).hex()
    except ValueError:
        raise _Fault(INTERNAL, "no hexadecimal digits") from None
