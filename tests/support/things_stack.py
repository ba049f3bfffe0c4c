"""A strict stand-in for The Things Stack: Identity, Join, Network and Application Server, each on its own listener.

Over real HTTP, as the public API says: messages and masks are checked by an extract of it (things_stack_schema.py),
rights, conflicts and errors are the server's own. Stricter than the server in one thing: a member that it would drop
without a word is refused. Faults come on demand, before or after a call had its effect. Its MQTT is a mosquitto's.
"""

import asyncio
import json
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

import aiomqtt
from aiohttp import web

from tests.support import things_stack_errors as errors
from tests.support import things_stack_schema as schema
from tests.support.mosquitto import Broker
from tests.support.things_stack_documents import join_accept, now, up, uplink_message
from tests.support.things_stack_errors import Problem
from tests.support.things_stack_limit import Limit, exceeded
from tests.support.things_stack_schema import Message

READ, WRITE = "RIGHT_APPLICATION_DEVICES_READ", "RIGHT_APPLICATION_DEVICES_WRITE"
READ_KEYS, WRITE_KEYS = "RIGHT_APPLICATION_DEVICES_READ_KEYS", "RIGHT_APPLICATION_DEVICES_WRITE_KEYS"
TRAFFIC_READ, TRAFFIC_DOWN_WRITE = "RIGHT_APPLICATION_TRAFFIC_READ", "RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE"
SEED_RIGHTS = (TRAFFIC_READ, TRAFFIC_DOWN_WRITE, READ_KEYS, WRITE, WRITE_KEYS)
"""Those that operators are told to give a key: not even the right to read devices."""

PLANS = frozenset({"EU_863_870", "EU_863_870_TTN", "US_902_928_FSB_2", "AU_915_928_FSB_2", "AS_923", "IN_865_867"})

Decoder = Callable[[int, bytes], Mapping[str, Any] | None]


class Component(StrEnum):
    """What an end device is registered in."""

    IS = "is"
    JS = "js"
    NS = "ns"
    AS = "as"


_SETTINGS = {
    Component.IS: "identityServer",
    Component.JS: "joinServer",
    Component.NS: "networkServer",
    Component.AS: "applicationServer",
}


class How(StrEnum):
    """The way in which a call fails. …_AFTER: it had its effect."""

    SERVER_ERROR = "500"
    SERVER_ERROR_AFTER = "500 after"
    UNAVAILABLE = "503"
    TIMEOUT = "timeout"
    TIMEOUT_AFTER = "timeout after"
    RESET = "reset"
    RESET_AFTER = "reset after"
    FORBIDDEN = "403"
    LIMITED = "429"
    TAKEN_OURS = "409 ours"
    TAKEN_FOREIGN = "409 foreign"
    ID_TAKEN = "409 id"

    @property
    def after(self) -> bool:
        """Whether the call had its effect."""
        return self.value.endswith("after")


@dataclass(frozen=True, slots=True)
class Call:
    """A request. status: 0 when it was not answered; error: "namespace:name"."""

    component: Component
    method: str
    path: str
    application_id: str
    device_id: str
    status: int
    error: str


@dataclass(slots=True)
class Held:
    """A call that waits. reached: it is there, and with `after` has had its effect."""

    component: Component
    after: bool
    method: str | None
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    _free: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let it go on."""
        self._free.set()

    async def wait(self) -> None:
        """Until it may go on."""
        self.reached.set()
        await self._free.wait()


@dataclass(slots=True)
class _Application:
    id: str
    tenant: str
    servers: Mapping[str, str]
    decoder: Decoder | None


@dataclass(slots=True)
class _Request:
    component: Component
    method: str
    application_id: str
    device_id: str
    body: bytes
    mask: str
    authorization: str


class ThingsStack:
    """The four components. limit: (accesses, seconds) of each API key; clock: seconds, for the limit.

    devices: what each component keeps, keys included, by (application id, device id).
    """

    def __init__(
        self,
        limit: tuple[int, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
        mosquitto: Broker | None = None,
    ) -> None:
        self.devices: dict[Component, dict[tuple[str, str], Message]] = {component: {} for component in Component}
        self.calls: list[Call] = []
        self.addresses: dict[str, str] = {}
        self._applications: dict[str, _Application] = {}
        self._keys: dict[str, tuple[str, frozenset[str]]] = {}
        self._faults: list[tuple[Component, How, str | None]] = []
        self._held: list[Held] = []
        self._limit = Limit(*limit, clock) if limit else None
        self._broker = mosquitto
        self._client: aiomqtt.Client | None = None
        self._runners: list[web.AppRunner] = []
        self._stopping = asyncio.Event()
        self._frames: Counter[tuple[str, str]] = Counter()

    async def start(self) -> None:
        """Returns once all four accept."""
        for component in Component:
            application = web.Application()
            application.router.add_route("*", "/{path:.*}", self._handler(component))
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self._runners.append(runner)
            self.addresses[_SETTINGS[component]] = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def stop(self) -> None:
        """End whatever is under way."""
        self._stopping.set()
        for held in self._held:
            held.release()
        if self._client is not None:
            client, self._client = self._client, None
            await client.__aexit__(None, None, None)
        for runner in self._runners:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """The Identity Server's."""
        return self.addresses["identityServer"]

    @property
    def mqtt_address(self) -> str:
        """Of the mosquitto that was given."""
        assert self._broker is not None
        return f"127.0.0.1:{self._broker.port}"

    def application(
        self,
        application_id: str,
        *,
        tenant: str = "ttn",
        servers: Mapping[str, str] | None = None,
        decoder: Decoder | None = None,
    ) -> str:
        """Make an application. servers: the `…_server_address` it is bound to; decoder: of its uplinks."""
        self._applications[application_id] = _Application(application_id, tenant, servers or {}, decoder)
        return application_id

    def api_key(self, application_id: str, rights: Iterable[str] = SEED_RIGHTS) -> str:
        """Make a key. With it the application's user can come by MQTT, once `settle` has returned."""
        key = f"NNSXS.{_letters(39)}.{_letters(52)}"
        self._keys[key] = (application_id, frozenset(rights))
        assert self._keys[key][1] <= set(schema.RIGHTS)
        return key

    def revoke(self, key: str) -> None:
        """The key is none from now on, but on MQTT only after `settle`."""
        del self._keys[key]

    def given(self, component: Component | str, application_id: str, device: Message) -> None:
        """A device that is there already, in one component or in "all"."""
        device = schema.read("EndDevice", device)
        device["ids"]["application_ids"] = {"application_id": application_id}
        for each in Component if component == "all" else [Component(component)]:
            self.devices[each][application_id, device["ids"]["device_id"]] = _copy(device)

    def fail(
        self,
        component: Component | str,
        times: int = 1,
        how: How = How.SERVER_ERROR,
        *,
        method: str | None = None,
    ) -> None:
        """Have the next calls of a component fail, or its next ones of that HTTP method."""
        self._faults += [(Component(component), how, method)] * times

    def hold(self, component: Component | str, *, after: bool = False, method: str | None = None) -> Held:
        """Have the next call of a component wait until it is released."""
        self._held.append(Held(Component(component), after, method))
        return self._held[-1]

    # Requests

    def _handler(self, component: Component) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        prefix = "" if component is Component.IS else f"/{component}"
        device = re.compile(rf"/api/v3{prefix}/applications/([^/]+)/devices(?:/([^/]+))?")
        rights = re.compile(r"/api/v3/applications/([^/]+)/rights")

        async def handle(request: web.Request) -> web.StreamResponse:
            if found := device.fullmatch(request.path):
                allowed = ("GET", "PUT", "DELETE") if found[2] else ("POST",)
            elif component is Component.IS and (found := rights.fullmatch(request.path)):
                allowed = ("GET",)
            else:
                return errors.bare(errors.NOT_FOUND, "Not Found")
            if request.method not in allowed:
                return errors.bare(errors.UNIMPLEMENTED, "Method Not Allowed")
            asked = _Request(
                component,
                request.method,
                found[1],
                (found[2] or "") if found.re is device else "",
                await request.read(),
                request.query.get("field_mask", ""),
                request.headers.get("Authorization", ""),
            )
            return await self._answer(request, asked, "rights" if found.re is rights else "")

        return handle

    async def _answer(self, request: web.Request, asked: _Request, what: str) -> web.StreamResponse:
        fault = None if what else self._fault(asked)
        held = None if what else self._holding(asked)
        if held and not held.after:
            await held.wait()
        response: web.Response | None = None
        problem = ""
        if fault is None or fault.after:
            try:
                headers = self._limit.take(asked.authorization) if self._limit else {}
                answer = self._rights(asked) if what else self._do(asked)
                response = web.json_response(answer, headers=headers)
            except Problem as raised:
                problem, response = raised.name, raised.response()
            except schema.Malformed as wrong:
                response = errors.bare(errors.INVALID_ARGUMENT, str(wrong))
        if held and held.after:
            await held.wait()
        if fault is not None:
            try:
                response = await self._fail(request, asked, fault)
            except Problem as raised:
                problem, response = raised.name, raised.response()
        self.calls.append(
            Call(
                asked.component,
                asked.method,
                request.path,
                asked.application_id,
                asked.device_id,
                0 if response is None else response.status,
                problem,
            )
        )
        return response or web.Response()

    def _fault(self, asked: _Request) -> How | None:
        for n, (component, how, method) in enumerate(self._faults):
            if component is asked.component and method in (None, asked.method):
                del self._faults[n]
                return how
        return None

    def _holding(self, asked: _Request) -> Held | None:
        for held in self._held:
            if held.component is asked.component and held.method in (None, asked.method) and not held.reached.is_set():
                return held
        return None

    async def _fail(self, request: web.Request, asked: _Request, how: How) -> web.Response | None:
        """The answer that the fault is; None: there is none. Raises Problem."""
        match how:
            case How.TIMEOUT | How.TIMEOUT_AFTER:
                await self._stopping.wait()
                return None
            case How.RESET | How.RESET_AFTER:
                if request.transport is not None:
                    request.transport.abort()
                return None
            case How.SERVER_ERROR | How.SERVER_ERROR_AFTER:
                raise Problem(errors.INTERNAL, "pkg/errors:internal", "on demand")
            case How.UNAVAILABLE:
                raise Problem(errors.UNAVAILABLE, "pkg/util/store:database_unavailable", "on demand")
            case How.FORBIDDEN:
                raise errors.insufficient(asked.application_id, WRITE)
            case How.LIMITED:
                raise exceeded(60, {"X-Rate-Limit-Retry": "0"})
            case How.ID_TAKEN:
                raise errors.id_taken()
        ids = json.loads(asked.body)["end_device"]["ids"]
        device_id = asked.device_id or ids["device_id"]
        holder = (device_id, asked.application_id) if how is How.TAKEN_OURS else ("theirs", "others")
        raise errors.ids_taken(asked.component, ids["join_eui"], ids["dev_eui"], *holder)

    def _allowed(self, asked: _Request) -> frozenset[str]:
        """The rights that the key has on the application. Raises Problem."""
        kind, _, key = asked.authorization.partition(" ")
        if not key:
            return frozenset()
        if kind.lower() != "bearer":
            raise errors.unauthenticated("unsupported_authorization")
        parts = key.split(".")
        if len(parts) != 3 or parts[0] != "NNSXS":
            raise Problem(errors.INVALID_ARGUMENT, "pkg/auth:token", "no token")
        if key not in self._keys:
            known = any(parts[1] == each.split(".")[1] for each in self._keys)
            raise errors.unauthenticated("invalid_authorization" if known else "api_key_not_found")
        application_id, rights = self._keys[key]
        return rights if application_id == asked.application_id else frozenset()

    def _require(self, asked: _Request, *rights: str) -> None:
        allowed = self._allowed(asked)
        if not allowed:
            raise errors.no_rights(asked.application_id)
        if missing := [right for right in rights if right not in allowed]:
            raise errors.insufficient(asked.application_id, *missing)

    def _rights(self, asked: _Request) -> Message:
        allowed = self._allowed(asked)
        return {"rights": sorted(allowed)} if allowed else {}

    def _do(self, asked: _Request) -> Message:
        """The call's effect and its answer. Raises Problem and schema.Malformed."""
        if asked.method == "GET":
            return self._get(asked)
        if asked.method == "DELETE":
            return self._delete(asked)
        creating = asked.component is Component.IS and asked.method == "POST"
        device, mask = self._body(asked, masked=not creating)
        if creating:
            return self._create(asked, device)
        if asked.component is Component.IS:
            return self._update(asked, device, mask)
        return self._set(asked, device, mask)

    def _body(self, asked: _Request, *, masked: bool) -> tuple[Message, list[str]]:
        """The end device, with the ids that the path says, and the paths of its mask."""
        try:
            document = json.loads(asked.body)
        except ValueError:
            raise schema.Malformed("no JSON") from None
        if not isinstance(document, dict):
            raise schema.Malformed("no object")
        for member in document:
            if member not in (("end_device", "field_mask") if masked else ("end_device",)):
                raise schema.Unknown(member)
        mask = _paths(document.get("field_mask", {}))
        device = schema.read("EndDevice", document.get("end_device", {}))
        ids = device.setdefault("ids", {})
        ids["application_ids"] = {"application_id": asked.application_id}
        if asked.device_id:
            ids["device_id"] = asked.device_id
        allowed = schema.MASKS[asked.component]["set"]
        if forbidden := [path for path in mask if path not in allowed]:
            raise errors.forbidden_paths(forbidden)
        try:
            schema.check("EndDevice", device)
        except schema.Violation as violation:
            raise errors.invalid(violation.field, violation.reason) from None
        return device, mask

    def _get(self, asked: _Request) -> Message:
        mask = [path for path in asked.mask.split(",") if path]
        allowed = schema.MASKS[asked.component]["get"]
        if forbidden := [path for path in mask if path not in allowed]:
            raise errors.forbidden_paths(forbidden)
        self._require(asked, READ)
        if any(path.startswith("root_keys") for path in mask):
            self._require(asked, READ_KEYS)
        return _shown(self._stored(asked), mask)

    def _delete(self, asked: _Request) -> Message:
        self._require(asked, WRITE)
        self._stored(asked)
        del self.devices[asked.component][asked.application_id, asked.device_id]
        return {}

    def _stored(self, asked: _Request) -> Message:
        try:
            return self.devices[asked.component][asked.application_id, asked.device_id]
        except KeyError:
            raise errors.not_found(asked.component, asked.application_id, asked.device_id) from None

    def _create(self, asked: _Request, device: Message) -> Message:
        for member in device:
            if member != "ids" and member not in schema.MASKS[Component.IS]["set"]:
                raise schema.Unknown(f"end_device.{member}")
        self._require(asked, WRITE)
        for name, expected in self._applications[asked.application_id].servers.items():
            address = device.get(name, "")
            if address and address.partition(":")[0] != expected.partition(":")[0]:
                text = "`{address}` is not `{expected}`"
                problem = f"pkg/identityserver:{name.removesuffix('_address')}_address_mismatch"
                raise Problem(errors.INVALID_ARGUMENT, problem, text, address=address, expected=expected)
        ids = device["ids"]
        key = (asked.application_id, ids["device_id"])
        if key in self.devices[Component.IS]:
            raise errors.id_taken()  # whatever its EUIs are: the first index that Postgres finds it in is reported
        self._unique(Component.IS, ids)
        device["created_at"] = device["updated_at"] = now()
        self.devices[Component.IS][key] = device
        return _copy(device)

    def _unique(self, component: Component, ids: Mapping[str, Any]) -> None:
        """EUIs are of one device, in whatever application. Raises Problem."""
        pair = (ids.get("join_eui"), ids.get("dev_eui"))
        if not all(pair):
            return
        for (application_id, device_id), other in self.devices[component].items():
            if (other["ids"].get("join_eui"), other["ids"].get("dev_eui")) == pair:
                raise errors.ids_taken(component, str(pair[0]), str(pair[1]), device_id, application_id)

    def _update(self, asked: _Request, device: Message, mask: list[str]) -> Message:
        self._require(asked, WRITE)
        stored = self._stored(asked)
        if "activated_at" in mask and not device.get("activated_at"):
            mask.remove("activated_at")  # it is not unset again
        schema.assign(stored, device, mask)
        stored["updated_at"] = now()
        return _shown(stored, [*mask, "ids", "created_at", "updated_at"])

    def _set(self, asked: _Request, device: Message, mask: list[str]) -> Message:
        component, ids = asked.component, device["ids"]
        if component is Component.JS:
            for name, problem in (("join_eui", "no_join_eui"), ("dev_eui", "no_dev_eui")):
                if not ids.get(name):
                    raise Problem(errors.INVALID_ARGUMENT, f"pkg/joinserver:{problem}", "an EUI is missing")
            if schema.within(mask, "root_keys.app_key.key") and not _key(device, "app_key"):
                raise errors.field_value(component, "root_keys.app_key.key")
        rights = {WRITE}
        if component is Component.JS and any(path.startswith("root_keys") for path in mask):
            rights.add(WRITE_KEYS)
        self._require(asked, *sorted(rights))
        if component is Component.NS:
            _check_network(device, mask)
        asked.device_id = ids["device_id"]
        key = (asked.application_id, asked.device_id)
        stored = self.devices[component].get(key)
        if stored is None:
            self._unique(component, ids)
            self.devices[component][key] = stored = {"ids": dict(ids), "created_at": now()}
        else:
            for name in ("join_eui", "dev_eui"):
                if name in ids and ids[name] != stored["ids"].get(name):
                    raise errors.read_only(component, f"ids.{name}")
            for name in ("multicast", "supports_join") if component is Component.NS else ():
                if name in mask and device.get(name, False) != stored.get(name, False):
                    raise errors.field_value(component, name)
        schema.assign(stored, device, [path for path in mask if not path.startswith("ids")])
        stored["updated_at"] = now()
        return _shown(stored, mask)

    # MQTT and webhooks

    def tenant(self, application_id: str) -> str:
        """`application@tenant`: the application's user, and part of its topics."""
        return f"{application_id}@{self._applications[application_id].tenant}"

    async def settle(self) -> None:
        """Have the mosquitto know the keys that there are, and be there to publish."""
        assert self._broker is not None
        users = {"stack": "stack"}
        rules = {"stack": ["topic readwrite #"]}
        for key, (application_id, rights) in self._keys.items():
            name = self.tenant(application_id)
            users.pop(name, None)
            if TRAFFIC_READ not in rights:  # there, to subscribe is refused; mosquitto can refuse a connection
                continue
            users[name] = key
            rules[name] = [f"topic read v3/{name}/devices/+/#"]
            if TRAFFIC_DOWN_WRITE in rights:
                rules[name].append(f"topic write v3/{name}/devices/+/down/#")
        await self._broker.admit(users, rules)
        if self._client is None:
            client = aiomqtt.Client("127.0.0.1", self._broker.port, username="stack", password=users["stack"])
            self._client = await client.__aenter__()

    @property
    def publishing(self) -> bool:
        """Whether there is a mosquitto that uplinks and joins go to."""
        return self._client is not None

    async def publish(self, document: Message) -> None:
        """An uplink or a join, to whoever has subscribed."""
        assert self._client is not None, "settle() comes first"
        ids = document["end_device_ids"]
        name = self.tenant(ids["application_ids"]["application_id"])
        kind = "up" if "uplink_message" in document else "join"
        await self._client.publish(f"v3/{name}/devices/{ids['device_id']}/{kind}", json.dumps(document), qos=1)

    def uplink(
        self,
        application_id: str,
        device_id: str,
        *,
        f_port: int = 1,
        payload: bytes = b"",
        decoded: Mapping[str, Any] | None = None,
        gateways: Sequence[tuple[float, float]] = ((-60.0, 9.5),),
        f_cnt: int | None = None,
    ) -> Message:
        """An uplink message as its application gets it. gateways: (RSSI in dBm, SNR in dB) of each that heard it."""
        key = (application_id, device_id)
        decoder = self._applications[application_id].decoder
        if decoded is None and decoder is not None:
            decoded = decoder(f_port, payload)
        count = self._frames[key] if f_cnt is None else f_cnt
        self._frames[key] = count + 1
        message = uplink_message(f_port, count, payload, decoded, gateways, self._applications[application_id].tenant)
        return self._up(application_id, device_id) | {"uplink_message": message}

    def joined(self, application_id: str, device_id: str) -> Message:
        """A join accept as its application gets it."""
        return self._up(application_id, device_id) | {"join_accept": join_accept()}

    def _up(self, application_id: str, device_id: str) -> Message:
        stored = self.devices[Component.AS].get((application_id, device_id))
        return up({"ids": {}} if stored is None else stored, application_id, device_id)


def _check_network(device: Message, mask: Sequence[str]) -> None:
    """What the Network Server looks at beyond types. Raises Problem."""
    if "frequency_plan_id" in mask:
        plan = device.get("frequency_plan_id", "")
        if not plan:
            raise errors.field_value(Component.NS, "frequency_plan_id")
        if plan not in PLANS:
            raise Problem(errors.NOT_FOUND, "pkg/frequencyplans:not_found", "no frequency plan `{id}`", id=plan)
    for name, unknown in (("lorawan_version", "MAC_UNKNOWN"), ("lorawan_phy_version", "PHY_UNKNOWN")):
        if name in mask and device.get(name, unknown) == unknown:
            raise errors.field_value(Component.NS, name)
    if "supports_join" in mask:
        needed = ("join_eui", "dev_eui") if device.get("supports_join") else ()
        for name in needed:
            if not device["ids"].get(name):
                raise errors.field_value(Component.NS, f"ids.{name}")
        if not device.get("supports_join"):
            raise errors.field_value(Component.NS, "session.dev_addr")


def _key(device: Message, name: str) -> bool:
    """Whether a root key is there, and not zero."""
    return bool(str(schema.get(device, f"root_keys.{name}.key") or "").strip("0"))


def _paths(mask: object) -> list[str]:
    """Of a field mask, in either of its two forms."""
    if isinstance(mask, str):
        return [path for path in mask.split(",") if path]
    if not isinstance(mask, dict) or set(mask) - {"paths"} or not isinstance(mask.get("paths", []), list):
        raise schema.Malformed("field_mask is none")
    return [str(path) for path in mask.get("paths", [])]


def _shown(stored: Message, mask: Sequence[str]) -> Message:
    shown: Message = {}
    schema.assign(shown, stored, [path for path in mask if schema.get(stored, path) is not None])
    return _copy(shown)


def _copy(message: Message) -> Message:
    copied: Message = json.loads(json.dumps(message))
    return copied


def _letters(count: int) -> str:
    return "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(count))
