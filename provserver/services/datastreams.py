"""Blynk's device API on ThingsBoard's data: what `/external/api/` and Blynk's MQTT topics do (spec blynk-device-api).

A datastream's samples are telemetry of its name. Metadata fields are attributes `meta.<field>` of scope SERVER: both
the operator's and the device's to write; without one the field has the default of its profile. Properties
(`property.<datastream>.<name>`) and what the firmware says of itself (`mcu.<name>`) are client attributes. So either
API sees what came by the other.
"""

import time
import zoneinfo
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import PostgresError

from provserver.core import datastreams as core
from provserver.core import metadata
from provserver.core.attributes import METADATA, Scope
from provserver.core.datastreams import Field, Layout, Verb
from provserver.core.model import Authenticated, Datastream
from provserver.core.telemetry import MAX_AHEAD, InvalidData, Sample, Value
from provserver.services.data import Data
from provserver.store import data as data_store
from provserver.store import datastreams as store
from provserver.store import profiles, wifi_sessions
from provserver.store.database import Database

KIND = "datastreams"
"""What the sink calls a message of values."""

PROPERTY = "property."
MCU = "mcu."

LAYOUT_AGE = 10.0
"""Seconds after which a profile is looked at again: a session may live for months on the revision it began with."""

_MAX_LAYOUTS = 1000
_MAX_FACTS = 32

_FIXED = frozenset({"batch_ds", "info/mcu", "get/ds", "get/ds/all", "get/meta", "get/utc/all/json", "get/loc/all"})
_PREFIXES = ("ds/", "event/", "meta/")
_DOWNLINK = "downlink/"

_TIMES: Mapping[str, Sequence[str]] = {
    "time": ["time"],
    "iso": ["iso8601"],
    "tz": ["tz_offset", "dst_offset"],
    "tz_name": ["tz_name"],
    "tz_rule": ["tz_rule"],
    "rtc": [],
}
"""The members of `_utc` that a device asks for natively."""

_info = msgspec.json.Decoder(dict[str, bool | int | float | str | None])


@dataclass(frozen=True, slots=True)
class _Cached:
    layout: Layout
    revision: int
    until: float


class Datastreams:
    """Blynk's calls of a device. All raise InvalidData in Blynk's words, and Unavailable."""

    FACTS: Final = ("build", "ver", "type", "fwType", "blVer", "boType")
    """What `provision` may say of the firmware."""

    def __init__(
        self,
        database: Database,
        data: Data,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._data = data
        self._clock = clock
        self._monotonic = monotonic
        self._layouts: dict[UUID, _Cached] = {}

    async def update(
        self,
        device: Authenticated,
        given: Mapping[str, Sequence[str]],
        *,
        batch: bool = False,
        ts: int | None = None,
    ) -> None:
        """Write the values of pins, all or none.

        batch: a pin without a datastream is left out, as Blynk has no such refusal there (C.1), and one whose value
        is empty is left as it is. ts: when they were measured, in milliseconds since the epoch; None: now.
        """
        layout = await self._layout(device)
        if not given:
            raise InvalidData(core.WRONG_PIN)
        now = int(self._clock() * 1000)
        if ts is not None and not now - core.MONTH <= ts <= now + MAX_AHEAD:
            raise InvalidData(core.WRONG_TIME)
        samples = []
        for pin, texts in given.items():
            datastream = layout.on_pin(pin)
            if batch and (datastream is None or not any(texts)):
                continue
            if datastream is None:
                raise InvalidData(core.NO_DATASTREAM)
            samples.append(_sample(datastream, texts, core.MISMATCH_IN_BATCH if batch else core.MISMATCH, ts))
        await self._data.record(device, samples, kind=KIND)

    async def update_by_id(self, device: Authenticated, id_: str, texts: Sequence[str]) -> None:
        """Write the value of the datastream of an id."""
        datastream = (await self._layout(device)).with_id(id_)
        if datastream is None:
            raise InvalidData(core.NO_DATASTREAM)
        await self._data.record(device, [_sample(datastream, texts, core.MISMATCH_IN_BATCH)], kind=KIND)

    async def upload(self, device: Authenticated, pin: str, body: bytes) -> None:
        """Write a timestamped batch, `[[ms, value], …]`, of a pin."""
        datastream = (await self._layout(device)).on_pin(pin)
        if datastream is None:
            raise InvalidData(core.NO_DATASTREAM)
        await self._upload(device, datastream, body)

    async def uplink(self, device: Authenticated, values: Mapping[str, object], at: int | None) -> int:
        """Write what a network has decoded for a device, by datastream's name or pin; how many values were left out.

        at: when it was heard, in milliseconds since the epoch; None: now.
        """
        now = int(self._clock() * 1000)
        ts = at if at is not None and now - core.MONTH <= at <= now + MAX_AHEAD else None
        samples, left_out = core.uplink(await self._layout(device), values, ts)
        await self._data.record(device, samples, kind="telemetry")
        return len(left_out)

    async def get(self, device: Authenticated, pins: Sequence[str]) -> dict[str, object]:
        """The values of pins by `v<number>`; None for those that have none yet."""
        layout = await self._layout(device)
        if not pins:
            raise InvalidData(core.WRONG_PIN)
        return await self._values(device, layout, [layout.on_pin(pin) for pin in pins])

    async def get_by_id(self, device: Authenticated, ids: Sequence[str]) -> dict[str, object]:
        """The values of the datastreams of these ids, as `get` gives them."""
        layout = await self._layout(device)
        return await self._values(device, layout, [layout.with_id(id_) for id_ in ids])

    async def get_all(self, device: Authenticated) -> dict[str, object]:
        """The values of all pins that have one, by `v<number>`."""
        layout = await self._layout(device)
        latest = await self._data.latest(device.device_id, [each.name for each in layout.pins.values()])
        return {f"v{pin}": latest[each.name] for pin, each in sorted(layout.pins.items()) if each.name in latest}

    async def values(self, device: Authenticated, pins: Sequence[str]) -> list[tuple[int, str]]:
        """What pins are to have, or all when none is named: (number, text), without those that have no value.

        That is the shared attribute of the datastream's name where there is one, as an operator has set it; else the
        newest value.
        """
        layout = await self._layout(device)
        wanted = [layout.on_pin(pin) for pin in pins] if pins else list(layout.pins.values())
        names = [each.name for each in wanted if each is not None]
        if not names:
            return []
        async with self._database.connection() as connection:
            shared = await data_store.attributes(connection, device.device_id, Scope.SHARED, names)
        latest = await self._data.latest(device.device_id, names)
        return core.on_pins(layout, latest | core.fitting(layout, shared))

    async def on_pins(self, device: Authenticated, shared: Mapping[str, object]) -> list[tuple[int, str]]:
        """What shared attributes with a datastream's name mean for its pin: (number, text)."""
        layout = await self._layout(device)
        return core.on_pins(layout, core.fitting(layout, shared))

    async def time(self, device: Authenticated, part: str) -> list[str]:
        """The time where the device is, as it asks for it natively.

        part: `time` (milliseconds since the epoch), `iso`, `tz` (offset and daylight saving, in minutes), `tz_name`,
        `tz_rule`; or `rtc`: seconds of the local clock.
        """
        if part not in _TIMES:
            raise InvalidData(core.UNKNOWN_TOPIC)
        zone = (await self._field_values(device, await self._layout(device), [core.TIME_ZONE])).get(
            core.TIME_ZONE.name, ""
        )
        now = _utc(zone, self._clock())
        if part == "rtc":
            return [str(int(now["time"]) // 1000 + (int(now["tz_offset"]) + int(now["dst_offset"])) * 60)]
        return [str(now[member]) for member in _TIMES[part]]

    async def report(self, device: Authenticated, facts: Mapping[str, object]) -> None:
        """Write what the firmware says of itself."""
        if len(facts) > _MAX_FACTS or not all(map(core.is_property, facts)):
            raise InvalidData(core.WRONG_INFO)
        await self._write_facts(device, facts)

    async def is_online(self, device: Authenticated) -> bool:
        """Whether the device has a live session, or sent something not long ago."""
        async with self._database.connection() as connection:
            return await store.is_online(connection, device.device_id)

    async def update_properties(self, device: Authenticated, pin: str, properties: Mapping[str, Sequence[str]]) -> None:
        """Write properties of the datastream of a pin."""
        datastream = (await self._layout(device)).on_pin(pin)
        if datastream is None:
            raise InvalidData(core.NO_DATASTREAM)
        if not properties:
            raise InvalidData(core.WRONG_PROPERTY)
        await self._write_properties(device, datastream, properties)

    async def metadata(self, device: Authenticated, reference: str) -> tuple[Field, str]:
        """A metadata field by its id or name, with its value; the empty text when it has none."""
        layout = await self._layout(device)
        if not reference:
            raise InvalidData(core.WRONG_FIELD)
        field = layout.field(reference)
        if field is None:
            raise InvalidData(core.NO_FIELD)
        return field, (await self._field_values(device, layout, [field])).get(field.name, "")

    async def update_metadata(self, device: Authenticated, reference: str, value: str | None) -> None:
        """Write a metadata field by its id or name."""
        layout = await self._layout(device)
        if not reference:
            raise InvalidData(core.WRONG_FIELD.rstrip("."))
        field = layout.field(reference)
        if field is None:
            raise InvalidData(core.NO_FIELD.rstrip("."))
        if value is None or not field.writable or not core.fits_field(field, value):
            raise InvalidData(core.WRONG_FIELD_VALUE)
        if field.own is not None and value:
            try:
                value = metadata.check(field.own, value)
            except metadata.InvalidValue:
                raise InvalidData(core.WRONG_FIELD_VALUE) from None
        async with self._database.connection() as connection:
            await store.put_attribute(connection, device.device_id, Scope.SERVER, METADATA + field.name, value)

    async def provision(self, device: Authenticated, template_id: str, facts: Mapping[str, object]) -> None:
        """End a WiFi provisioning: the device says of which template it is, which must be its own, and its firmware.

        A device gets its profile when it is made, so there is nothing to set.
        """
        if template_id != (await self._layout(device)).template_id:
            await self._note_mismatch(device)
            raise InvalidData(core.WRONG_TEMPLATE)
        await self._write_facts(device, {"tmpl": template_id} | dict(facts))

    @staticmethod
    def facts(payload: bytes) -> dict[str, bool | int | float | str]:
        """What a device says of itself in a message to `info/mcu`."""
        return _facts(payload)

    def handles(self, topic: str) -> bool:
        """Whether a device may publish to this topic here."""
        return topic in _FIXED or any(topic.startswith(prefix) and topic != prefix for prefix in _PREFIXES)

    def subscribable(self, filter_: str) -> bool:
        """Whether a device may subscribe: below `downlink/`, with no wildcard but a `#` at the end."""
        below = filter_.removeprefix(_DOWNLINK)
        if below in (filter_, "") or "+" in below:
            return False
        return "#" not in below or below == "#" or (below.endswith("/#") and below.count("#") == 1)

    async def publish(self, device: Authenticated, topic: str, payload: bytes) -> list[tuple[str, bytes]]:
        """Take a message to one of Blynk's topics; returns what to send back: (topic, payload)."""
        layout = await self._layout(device)
        match topic.split("/", 1):
            case ["batch_ds"]:
                await self._data.record(device, core.batch(layout, payload), kind=KIND)
            case ["ds", rest]:
                await self._publish(device, layout, rest, payload)
            case ["meta", name]:
                await self.update_metadata(device, name, _text(payload))
            case ["event", _]:
                raise InvalidData(core.NO_EVENT)  # profiles have no events
            case ["info", "mcu"]:
                facts = _facts(payload)
                if facts.get("tmpl", layout.template_id) != layout.template_id:
                    await self._note_mismatch(device)
                await self._write_facts(device, facts)
            case ["get", what]:
                return [
                    (_DOWNLINK + below, text.encode())
                    for below, text in await self._asked(device, layout, what, _text(payload))
                    if "#" not in below and "+" not in below  # which an operator's name may hold, but no topic
                ]
            case _:
                raise InvalidData(core.UNKNOWN_TOPIC)
        return []

    async def _publish(self, device: Authenticated, layout: Layout, topic: str, payload: bytes) -> None:
        datastream, verb, name = core.addressed(layout, topic)
        match verb:
            case Verb.WRITE:
                sample = _sample(datastream, [_text(payload)], core.MISMATCH)
                await self._data.record(device, [sample], kind=KIND)
            case Verb.UPLOAD:
                await self._upload(device, datastream, payload)
            case Verb.ERASE:
                async with self._database.transaction() as connection:
                    await store.erase(connection, device.device_id, datastream.name)
            case Verb.WRITE_PROPERTY:
                await self._write_properties(device, datastream, {name: [_text(payload)]})
            case Verb.ERASE_PROPERTY:
                async with self._database.connection() as connection:
                    key = _property_key(datastream, name)
                    await store.delete_attribute(connection, device.device_id, Scope.CLIENT, key)

    async def _asked(self, device: Authenticated, layout: Layout, what: str, text: str) -> list[tuple[str, str]]:
        """The answers to `get/<what>`, below `downlink/`. What has no value, or does not exist, gets none."""
        names = [name.strip() for name in text.split(",")]
        match what:
            case "ds" | "ds/all":
                wanted = list(layout.names) if what == "ds/all" else [name for name in names if name in layout.names]
                latest = await self._data.latest(device.device_id, wanted) if wanted else {}
                return [(f"ds/{name}", core.text(latest[name])) for name in wanted if name in latest]
            case "meta":
                fields = [field for name in names if (field := layout.field(name)) is not None]
                values = await self._field_values(device, layout, fields)
                return [(f"meta/{name}", value) for name, value in values.items()]
            case "utc/all/json":
                zone = (await self._field_values(device, layout, [core.TIME_ZONE])).get(core.TIME_ZONE.name, "")
                return [("utc/all/json", msgspec.json.encode(_utc(zone, self._clock())).decode())]
            case "loc/all":
                values = await self._field_values(device, layout, [core.LOCATION])
                return [("loc/all", value.replace(" ", ",")) for value in values.values()]
            case _:
                raise InvalidData(core.UNKNOWN_TOPIC)

    async def _values(
        self, device: Authenticated, layout: Layout, found: Sequence[Datastream | None]
    ) -> dict[str, object]:
        there = [each for each in found if each is not None]
        if len(there) < len(found):
            raise InvalidData(core.NOT_IN_PRODUCT.format(layout.product))
        latest = await self._data.latest(device.device_id, [each.name for each in there])
        return {f"v{core.pin_number(each.pin)}": latest.get(each.name) for each in there}

    async def _field_values(self, device: Authenticated, layout: Layout, fields: Sequence[Field]) -> dict[str, str]:
        """The values of those of these metadata fields that have one, by name; else their defaults."""
        values = {each.name: default for each in fields if each.own and (default := metadata.default(each.own))}
        keys = {METADATA + field.name: field.name for field in fields if field.writable}
        if keys:
            async with self._database.connection() as connection:
                stored = await data_store.attributes(connection, device.device_id, Scope.SERVER, list(keys))
            values |= {keys[key]: core.text(value) for key, value in stored.items()}
        if core.DEVICE_NAME in fields:
            values[core.DEVICE_NAME.name] = device.name
        if core.LOCATION in fields and (where := layout.location) is not None:
            match (await self._data.latest(device.device_id, [where.name])).get(where.name):
                case [longitude, latitude]:
                    values[core.LOCATION.name] = f"{latitude} {longitude}"
        return values

    async def _upload(self, device: Authenticated, datastream: Datastream, body: bytes) -> None:
        samples = core.points(datastream, body, int(self._clock() * 1000))
        await self._data.record(device, samples, kind=KIND)

    async def _write_properties(
        self, device: Authenticated, datastream: Datastream, properties: Mapping[str, Sequence[str]]
    ) -> None:
        values: dict[str, Value] = {}
        for name, texts in properties.items():
            value = core.string(texts)
            if value is None or not core.is_property(name):
                raise InvalidData(core.WRONG_PROPERTY)
            values[_property_key(datastream, name)] = value
        await self._data.publish_attributes(device, msgspec.json.encode(values))

    async def _write_facts(self, device: Authenticated, facts: Mapping[str, object]) -> None:
        if not all(core.string([core.text(value)]) is not None for value in facts.values()):
            raise InvalidData(core.WRONG_INFO)
        values = {MCU + name: value for name, value in facts.items()}
        await self._data.publish_attributes(device, msgspec.json.encode(values))

    async def _note_mismatch(self, device: Authenticated) -> None:
        """Have the WiFi session that it came by be told as one that failed."""
        with suppress(PostgresError):  # the device is told all the same
            async with self._database.transaction() as connection:
                await wifi_sessions.mismatched(connection, device.device_id)

    async def _layout(self, device: Authenticated) -> Layout:
        """Of the device's profile: from memory, unless that is older than the device's knowledge, or just old."""
        now = self._monotonic()
        cached = self._layouts.get(device.profile_id)
        if cached is not None and cached.revision >= device.profile_revision and now < cached.until:
            return cached.layout
        async with self._database.connection() as connection:
            profile = await profiles.get(connection, device.profile_id)
        if profile is None:
            raise InvalidData(core.INVALID_TOKEN)  # which goes with its last device, so this one is gone
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        layout = Layout(profile)
        self._layouts[device.profile_id] = _Cached(layout, profile.revision, now + LAYOUT_AGE)
        return layout


def _sample(datastream: Datastream, texts: Sequence[str], mismatch: str, ts: int | None = None) -> Sample:
    value = core.fit(datastream, texts)
    if value is None:
        raise InvalidData(mismatch)
    return Sample(datastream.name, value, ts)


def _property_key(datastream: Datastream, name: str) -> str:
    return f"{PROPERTY}{datastream.name}.{name}"


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise InvalidData(core.MISMATCH) from None


def _facts(payload: bytes) -> dict[str, bool | int | float | str]:
    try:
        facts = {name: value for name, value in _info.decode(payload).items() if value is not None}
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidData(core.WRONG_INFO) from None
    if len(facts) > _MAX_FACTS or not all(map(core.is_property, facts)):
        raise InvalidData(core.WRONG_INFO)
    return facts


def _utc(name: str, now: float) -> dict[str, int | str]:
    """The time as Blynk tells it, in the zone of this name; UTC when there is none. Offsets are in minutes."""
    zone: tzinfo
    try:
        zone, rule = _zone(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        name, zone, rule = "UTC", UTC, "UTC0"
    local = datetime.fromtimestamp(now, zone)
    dst = local.dst() or timedelta()
    offset = (local.utcoffset() or timedelta()) - dst
    return {
        "tz_name": name,
        "tz_rule": rule,
        "tz_offset": offset // timedelta(minutes=1),
        "dst_offset": dst // timedelta(minutes=1),
        "time": int(now * 1000),
        "iso8601": local.isoformat(timespec="seconds"),
    }


@lru_cache(maxsize=64)
def _zone(name: str) -> tuple[zoneinfo.ZoneInfo, str]:
    """A time zone and its POSIX rule, which ends its file (RFC 8536 §3.3)."""
    zone = zoneinfo.ZoneInfo(name)
    paths = (Path(root) / name for root in zoneinfo.TZPATH)
    file = next((path for path in paths if path.is_file()), None)
    return zone, file.read_bytes().rstrip(b"\n").rpartition(b"\n")[2].decode() if file else ""
