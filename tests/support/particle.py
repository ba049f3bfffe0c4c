"""A strict stand-in for Particle over real HTTP: its API for ledgers, its device service, and its webhooks.

It takes nothing that the API's reference does not describe, pages devices by 25 unless it is asked for more, answers
in an order of its own, and fails on demand. What the device service speaks to real devices is binary; here it is HTTP
under `/device-service`, which `firmware-sim particle` speaks, too. A device's published event sets off the webhooks
whose name it has: the template is the JSON that goes into Particle's console, as it stands.
"""

import asyncio
import json
import re
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Self
from uuid import uuid4

import aiohttp
from aiohttp import web

TOKEN = "0123456789abcdef0123456789abcdef01234567"
PRODUCT = "wifi-sensor-v1"

BLYNK_WEBHOOK = {
    "name": "blynk_particle",
    "event": "blynk_https_get",
    "url": "https://ny3.blynk.cloud/external/api/batch/update",
    "requestType": "GET",
    "noDefaults": True,
    "rejectUnauthorized": True,
    "query": {
        "token": "{{t}}",
        "V6": "{{PARTICLE_PUBLISHED_AT}}",
        "V14": "{{v14}}",
        "V15": "{{v15}}",
        "V16": "{{v16}}",
        "V17": "{{v17}}",
    },
}
"""The webhook of shared/seeds/002, from which a test takes all but the host."""

MAX_INSTANCE = 16_384

_DEVICE_QUERY = {"deviceId", "deviceName", "groups", "serialNumber", "sortAttr", "sortDir", "page", "perPage"}
_LEDGER_NAME = re.compile("[a-z0-9-]{1,32}")
_VARIABLE = re.compile(r"{{\s*([A-Za-z0-9_]+)\s*}}")


class Call(StrEnum):
    """What a request is about."""

    CURRENT = "current"
    DEVICES = "devices"
    DEFINITION = "definition"
    CREATE = "create"
    INSTANCES = "instances"
    READ = "read"
    WRITE = "write"


class How(StrEnum):
    """How a request fails."""

    SERVER_ERROR = "500"
    SERVER_ERROR_AFTER = "500 after its effect"
    LIMITED = "429"
    RESET = "connection cut"
    RESET_AFTER = "connection cut after its effect"
    FORBIDDEN = "403"


@dataclass
class Held:
    """A request that is there, and waits."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    free: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Instance:
    """What a ledger has for a device."""

    data: dict[str, Any]
    version: str = field(default_factory=lambda: str(uuid4()))


class Particle:
    """One product. Use it as a context; url: of the API."""

    def __init__(
        self, *, org: str = "", product: str = PRODUCT, expires: timedelta | None = timedelta(days=90)
    ) -> None:
        self.org, self.product = org, product
        self.devices: dict[str, dict[str, Any]] = {}
        self.ledgers: dict[str, dict[str, Any]] = {}
        self.instances: dict[str, dict[str, Instance]] = {}
        self.webhooks: list[dict[str, Any]] = []
        self.hooked: list[tuple[int, str]] = []
        self.events: list[dict[str, Any]] = []
        self.calls: list[tuple[Call, str]] = []
        self.tokens = {TOKEN: None if expires is None else datetime.now(UTC) + expires}
        self.busiest = 0
        self.url = ""
        self._busy = 0
        self._faults: dict[Call, deque[tuple[How, str | None]]] = {call: deque() for call in Call}
        self._holds: dict[Call, deque[tuple[Held, bool]]] = {call: deque() for call in Call}
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    def add(self, *numbers: int, **more: Any) -> list[str]:
        """Devices by number, `more` being members of each; their ids."""
        made = []
        for number in numbers:
            id_ = f"e00fce68{number:016x}"
            self.devices[id_] = {"id": id_, "name": f"sensor-{number}", "serial_number": f"P{number:06}"} | more
            made.append(id_)
        return made

    def reorder(self) -> None:
        """List the devices the other way round, where no order is asked for."""
        self.devices = dict(reversed(self.devices.items()))

    def data(self, device: str, ledger: str = "blynk-tokens-c2d") -> dict[str, Any]:
        """What a ledger has for a device; {} for nothing."""
        instance = self.instances.get(ledger, {}).get(device)
        return {} if instance is None else instance.data

    def tokens_given(self, ledger: str = "blynk-tokens-c2d") -> dict[str, str]:
        """The token of each device that has one."""
        found = {device: self.data(device, ledger).get("blynk_token") for device in self.devices}
        return {device: token for device, token in found.items() if token}

    def fail(self, call: Call, times: int = 1, how: How = How.SERVER_ERROR, *, device: str | None = None) -> None:
        """Have the next calls fail; device: only those about it."""
        self._faults[call].extend([(how, device)] * times)

    def hold(self, call: Call, *, after: bool = False) -> Held:
        """Have the next call wait; after: when it has had its effect."""
        self._holds[call].append((held := Held(), after))
        return held

    def count(self, call: Call) -> int:
        """How many there were."""
        return sum(each is call for each, _ in self.calls)

    async def __aenter__(self) -> Self:
        application = web.Application()
        scope = f"/v1/orgs/{self.org}/ledgers" if self.org else "/v1/ledgers"
        routes: list[tuple[str, str, Call, Any]] = [
            ("GET", "/v1/access_tokens/current", Call.CURRENT, self._current),
            ("GET", f"/v1/products/{self.product}/devices", Call.DEVICES, self._list_devices),
            ("POST", scope, Call.CREATE, self._create),
            ("GET", scope + "/{ledger}", Call.DEFINITION, self._definition),
            ("GET", scope + "/{ledger}/instances", Call.INSTANCES, self._list_instances),
            ("GET", scope + "/{ledger}/instances/{device}", Call.READ, self._read),
            ("PUT", scope + "/{ledger}/instances/{device}", Call.WRITE, self._write),
        ]
        for method, path, call, handler in routes:
            application.router.add_route(method, path, self._guarded(call, handler))
        application.router.add_get("/device-service/{device}/ledgers/{ledger}", self._sync)
        application.router.add_post("/device-service/{device}/events", self._publish)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        for holds in self._holds.values():
            for held, _after in holds:
                held.free.set()
        assert self._session is not None
        assert self._runner is not None
        await self._session.close()
        await self._runner.cleanup()

    # --- how requests are taken

    def _guarded(self, call: Call, handler: Any) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            device = request.match_info.get("device", "")
            self.calls.append((call, device))
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
            try:
                return await self._answer(call, device, handler, request)
            finally:
                self._busy -= 1

        return handle

    async def _answer(self, call: Call, device: str, handler: Any, request: web.Request) -> web.StreamResponse:
        held, after = self._holds[call].popleft() if self._holds[call] else (None, False)
        if held is not None and not after:
            held.reached.set()
            await held.free.wait()
        how = self._fault(call, device)
        match how:
            case How.SERVER_ERROR:
                return _error(500, "internal_error")
            case How.LIMITED:
                return _error(429, "rate_limited", {"Retry-After": "0"})
            case How.FORBIDDEN:
                return _error(403, "permission_denied")
            case How.RESET:
                return _cut(request)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            return _error(401, "invalid_token")
        response: web.StreamResponse = await handler(request, token) if call is Call.CURRENT else await handler(request)
        if held is not None and after:
            held.reached.set()
            await held.free.wait()
        if how is How.SERVER_ERROR_AFTER:
            return _error(500, "internal_error")
        return _cut(request) if how is How.RESET_AFTER else response

    def _fault(self, call: Call, device: str) -> How | None:
        faults = self._faults[call]
        if faults and faults[0][1] in (None, device):
            return faults.popleft()[0]
        return None

    # --- the API

    async def _current(self, _request: web.Request, token: str) -> web.Response:
        ends = self.tokens[token]
        shown = None if ends is None else ends.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return web.json_response({"expires_at": shown, "client_id": "particle", "scopes": ["*:*"], "orgs": []})

    async def _list_devices(self, request: web.Request) -> web.Response:
        query = request.query
        if unknown := set(query) - _DEVICE_QUERY:
            return _error(400, f"unknown parameters {sorted(unknown)}")
        found = list(self.devices.values())
        if "sortAttr" in query:
            if query["sortAttr"] not in ("deviceId", "deviceName", "firmwareVersion", "lastConnection"):
                return _error(400, "sortAttr")
            if query["sortAttr"] == "deviceId":
                found.sort(key=lambda each: str(each["id"]), reverse=query.get("sortDir") == "desc")
        size = int(query.get("perPage", 25))
        part, pages = _page(found, int(query.get("page", 1)), size)
        meta = {"total_records": len(found), "total_pages": pages}
        return web.json_response({"devices": part, "customers": [], "meta": meta})

    async def _create(self, request: web.Request) -> web.Response:
        body = await _json(request)
        if set(body) != {"ledger"} or not isinstance(body["ledger"], dict):
            return _error(400, "the body has a ledger")
        definition = body["ledger"]
        if set(definition) - {"name", "scope", "direction", "description"}:
            return _error(400, "unknown members of the definition")
        if not _LEDGER_NAME.fullmatch(str(definition.get("name"))):
            return _error(400, "name")
        if definition.get("scope") not in ("Device", "Product", "Owner"):
            return _error(400, "scope")
        if definition.get("direction") not in ("Downstream", "Upstream"):
            return _error(400, "direction")
        if definition["name"] in self.ledgers:
            return _error(409, "a ledger of this name exists")
        self.ledgers[definition["name"]] = definition | {"archived_at": None}
        self.instances[definition["name"]] = {}
        return web.json_response({"ledger": self.ledgers[definition["name"]]}, status=201)

    async def _definition(self, request: web.Request) -> web.Response:
        found = self.ledgers.get(request.match_info["ledger"])
        return _error(404, "ledger_not_found") if found is None else web.json_response({"ledger": found})

    async def _list_instances(self, request: web.Request) -> web.Response:
        if unknown := set(request.query) - {"page", "per_page"}:
            return _error(400, f"unknown parameters {sorted(unknown)}")
        instances = self.instances.get(request.match_info["ledger"])
        if instances is None:
            return _error(404, "ledger_not_found")
        page, size = int(request.query.get("page", 1)), int(request.query.get("per_page", 100))
        part, pages = _page(sorted(instances, reverse=True), page, size)
        shown = [
            {"scope": {"type": "Device", "value": id_, "name": None}, "version": instances[id_].version} for id_ in part
        ]
        return web.json_response({"instances": shown, "meta": {"page": page, "per_page": size, "total_pages": pages}})

    async def _read(self, request: web.Request) -> web.Response:
        ledger, device = request.match_info["ledger"], request.match_info["device"]
        instance = self.instances.get(ledger, {}).get(device)
        return _error(404, "instance_not_found") if instance is None else _shown(ledger, device, instance)

    async def _write(self, request: web.Request) -> web.Response:
        ledger, device = request.match_info["ledger"], request.match_info["device"]
        if set(request.query) - {"set_mode"}:
            return _error(400, "unknown parameters")
        mode = request.query.get("set_mode", "Replace")
        if mode not in ("Replace", "Merge"):
            return _error(400, "set_mode")
        if ledger not in self.ledgers or device not in self.devices:
            return _error(404, "not found")
        body = await _json(request)
        if (
            set(body) != {"instance"}
            or set(body["instance"]) != {"data"}
            or not isinstance(body["instance"]["data"], dict)
        ):
            return _error(400, "the body has an instance with data")
        before = self.data(device, ledger) if mode == "Merge" else {}
        data = {**before, **body["instance"]["data"]}
        if len(json.dumps(data)) > MAX_INSTANCE:
            return _error(400, "too large")
        self.instances[ledger][device] = instance = Instance(data)
        return _shown(ledger, device, instance)

    # --- devices, and what their events set off

    async def _sync(self, request: web.Request) -> web.Response:
        ledger, device = request.match_info["ledger"], request.match_info["device"]
        if device not in self.devices or ledger not in self.ledgers:
            return _error(404, "not found")
        return web.json_response({"data": self.data(device, ledger)})

    async def _publish(self, request: web.Request) -> web.Response:
        device = request.match_info["device"]
        if device not in self.devices:
            return _error(404, "not found")
        event = await _json(request)
        assert set(event) == {"name", "data"}
        published = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.events.append(event | {"coreid": device, "published_at": published})
        for webhook in self.webhooks:
            if event["name"].startswith(webhook["event"]):
                await self._hook(webhook, event["data"], device, published)
        return web.json_response({"ok": True})

    async def _hook(self, webhook: Mapping[str, Any], data: str, device: str, published: str) -> None:
        values = {"PARTICLE_PUBLISHED_AT": published, "PARTICLE_DEVICE_ID": device, "PARTICLE_EVENT_VALUE": data}
        with suppress(ValueError):
            values |= {name: str(value) for name, value in json.loads(data).items()}
        query = {
            name: _VARIABLE.sub(lambda match: values.get(match[1], ""), template)
            for name, template in webhook["query"].items()
        }
        if not webhook.get("noDefaults"):
            query |= {"event": webhook["event"], "data": data, "coreid": device, "published_at": published}
        assert self._session is not None
        async with self._session.request(webhook["requestType"], webhook["url"], params=query) as response:
            self.hooked.append((response.status, await response.text()))


def _page(found: list[Any], page: int, size: int) -> tuple[list[Any], int]:
    return found[(page - 1) * size : page * size], max(1, -(-len(found) // size))


def _shown(ledger: str, device: str, instance: Instance) -> web.Response:
    shown = {
        "name": ledger,
        "scope": {"type": "Device", "value": device, "name": None},
        "size_bytes": len(json.dumps(instance.data)),
        "data": instance.data,
        "version": instance.version,
    }
    return web.json_response({"instance": shown})


def _error(status: int, error: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"ok": False, "error": error, "error_description": error}, status=status, headers=headers)


def _cut(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _json(request: web.Request) -> dict[str, Any]:
    assert request.content_type == "application/json", request.headers
    body = json.loads(await request.read())
    assert isinstance(body, dict)
    return body
