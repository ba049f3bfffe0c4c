"""HTTP: Blynk's device API, `/external/api/…` (spec blynk-device-api C.1) and the Particle webhook on it (C.4).

The token is in the query, so no address of a request is ever logged. Paths and names are case-sensitive, pins are
not. What Blynk refuses it refuses with 400 and `{"error":{"message":…}}`, in the words of `core/datastreams.py`.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import msgspec
from aiohttp import web

from provserver.core.authentication import Denial
from provserver.core.datastreams import INVALID_TOKEN, NO_EVENT, NO_EVENT_CODE, UNKNOWN_CONTENT
from provserver.core.model import Authenticated
from provserver.core.telemetry import InvalidData
from provserver.errors import RENDERINGS, Outcome, Unavailable
from provserver.services.access import Access
from provserver.services.datastreams import Datastreams
from provserver.services.placeholders import Placeholders
from provserver.transports.http_server import CORS, LARGE_BODIES, body, peer, retry

log = logging.getLogger("provserver.http")

PATH = "/external/api/"

BODY_TIMEOUT = 10.0
"""Seconds for a body to arrive."""

PARTICLE = frozenset({"event", "data", "coreid", "published_at"})
"""What a Particle webhook adds to the query unless its template says `noDefaults`: ignored."""

_PREFLIGHT = CORS | {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": "*"}

_Call = Callable[[Datastreams, Authenticated, web.Request], Awaitable[web.Response]]

UNBOUND = "The device has to call provision first."
"""To a device of a WiFi session that has not said of which template it is."""


@dataclass(frozen=True, slots=True)
class _Devices:
    """What devices are served by."""

    access: Access
    datastreams: Datastreams
    placeholders: Placeholders | None


def routes(access: Access, datastreams: Datastreams, placeholders: Placeholders | None = None) -> list[web.RouteDef]:
    """The calls of the device API, and a refusal for whatever else is asked below its path.

    placeholders: for devices that are made by `provision`.
    """
    devices = _Devices(access, datastreams, placeholders)

    def get(name: str, call: _Call) -> web.RouteDef:
        return web.get(PATH + name, partial(_answer, devices, call), allow_head=False)

    def post(name: str, call: _Call) -> web.RouteDef:
        return web.post(PATH + name, partial(_answer, devices, call))

    return [
        get("update", _update),
        post("update", _update),
        get("batch/update", _update_batch),
        post("batch/update", _upload),
        get("get", _get),
        get("getAll", _get_all),
        get("isHardwareConnected", _is_connected),
        get("update/property", _update_property),
        get("logEvent", _log_event),
        get("device/meta", _metadata),
        get("device/meta/update", _update_metadata),
        get("provision", _provision),
        web.options(PATH + "{call:.*}", _preflight),
        web.route("*", PATH + "{call:.*}", _unknown),
    ]


async def _answer(devices: _Devices, call: _Call, request: web.Request) -> web.Response:
    """Find out which device asks, and answer it. While Postgres is away no token is called invalid."""
    token = request.query.get("token", "")
    try:
        device = await devices.access.with_token(token, peer(request))
        if device is Denial.LIMITED:
            return _refusal(429, RENDERINGS[Outcome.LIMITED].error or "", retry())
        if device is Denial.UNBOUND and devices.placeholders is not None:
            if call is not _provision:
                return _refusal(400, UNBOUND)
            template_id, facts = _reported(request)
            await devices.placeholders.report(token, template_id, facts, peer(request))
            return _done()
        if isinstance(device, Denial):
            return _refusal(400, INVALID_TOKEN)
        return await call(devices.datastreams, device, request)
    except InvalidData as fault:
        return _refusal(400, str(fault))
    except Unavailable:
        return _refusal(503, RENDERINGS[Outcome.UNAVAILABLE].error or "", retry())


async def _update(datastreams: Datastreams, device: Authenticated, request: web.Request) -> web.Response:
    query = request.query
    if "dataStreamId" in query:
        await datastreams.update_by_id(device, query["dataStreamId"], query.getall("value", []))
    elif "pin" in query:
        await datastreams.update(device, {query["pin"]: query.getall("value", [])})
    else:
        await datastreams.update(device, _given(request))
    return _done()


async def _update_batch(datastreams: Datastreams, device: Authenticated, request: web.Request) -> web.Response:
    await datastreams.update(device, _given(request), batch=True)
    return _done()


async def _upload(datastreams: Datastreams, device: Authenticated, request: web.Request) -> web.Response:
    if request.content_type != "application/json":
        return _refusal(400, UNKNOWN_CONTENT)
    large = request.clone(client_max_size=LARGE_BODIES[request.path])
    await datastreams.upload(device, request.query.get("pin", ""), await body(large, BODY_TIMEOUT))
    return _done("OK")


async def _get(datastreams: Datastreams, device: Authenticated, request: web.Request) -> web.Response:
    query = request.query
    ids = query.getall("dataStreamId", [])
    pins = query.getall("pin", []) or list(_given(request))
    values = await (datastreams.get_by_id(device, ids) if ids else datastreams.get(device, pins))
    if len(values) > 1:
        return _json({pin: value for pin, value in values.items() if value is not None})
    value = next(iter(values.values()))
    return _done(value or "") if value is None or isinstance(value, str) else _json(value)


async def _get_all(datastreams: Datastreams, device: Authenticated, _request: web.Request) -> web.Response:
    return _json(await datastreams.get_all(device))


async def _is_connected(datastreams: Datastreams, device: Authenticated, _request: web.Request) -> web.Response:
    return _json(await datastreams.is_online(device))


async def _update_property(datastreams: Datastreams, device: Authenticated, request: web.Request) -> web.Response:
    properties = {name: values for name, values in _given(request).items() if name != "pin"}
    await datastreams.update_properties(device, request.query.get("pin", ""), properties)
    return _done()


async def _log_event(_datastreams: Datastreams, _device: Authenticated, request: web.Request) -> web.Response:
    raise InvalidData(NO_EVENT if request.query.get("code") else NO_EVENT_CODE)  # profiles have no events


async def _metadata(datastreams: Datastreams, device: Authenticated, request: web.Request) -> web.Response:
    """By `metaFieldId`, `metaFieldName`, or the bare id or name."""
    query = request.query
    if "metaFieldId" in query:
        reference = query["metaFieldId"]
    else:
        reference = query.get("metaFieldName") or next(iter(_given(request)), "")
    field, value = await datastreams.metadata(device, reference)
    # The value goes last: there are clients that take the last string for it.
    return _json({"id": field.id, "name": field.name, "type": field.type, "value": value})


async def _update_metadata(datastreams: Datastreams, device: Authenticated, request: web.Request) -> web.Response:
    query = request.query
    reference = query.get("metaFieldId") or query.get("metaFieldName", "")
    await datastreams.update_metadata(device, reference, query.get("value"))
    return _done()


async def _provision(datastreams: Datastreams, device: Authenticated, request: web.Request) -> web.Response:
    await datastreams.provision(device, *_reported(request))
    return _done()


def _reported(request: web.Request) -> tuple[str, dict[str, str]]:
    """The template that a device says it is of, and what it says of its firmware."""
    facts = {name: request.query[name] for name in Datastreams.FACTS if name in request.query}
    return request.query.get("templateId", ""), facts


def _given(request: web.Request) -> dict[str, list[str]]:
    """The query but the token and what Particle adds: each name with its values, in order."""
    query = request.query
    if not PARTICLE.isdisjoint(query):
        log.debug("a webhook's own query members are ignored")
    return {name: query.getall(name) for name in query if name != "token" and name not in PARTICLE}


def _done(text: str = "") -> web.Response:
    return web.Response(text=text, headers=CORS)


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", headers=CORS)


def _refusal(status: int, message: str, headers: dict[str, str] = CORS) -> web.Response:
    text = msgspec.json.encode({"error": {"message": message}})
    return web.Response(body=text, status=status, content_type="application/json", headers=headers)


async def _unknown(_request: web.Request) -> web.Response:
    return _refusal(404, "There is no such call.")


async def _preflight(_request: web.Request) -> web.Response:
    return web.Response(status=204, headers=_PREFLIGHT)
