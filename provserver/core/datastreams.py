"""Blynk's datastreams: pins, types, ranges, and what the device API says of them (spec blynk-device-api C.1, C.2).

A profile's datastream has a name, by which MQTT knows it and its samples are stored, and a virtual pin, by which
HTTP knows it. Blynk also numbers datastreams: ours have the number of their pin. A type that is none of `_KINDS`
is taken for a string.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeGuard

import msgspec

from provserver.core.model import Datastream, DeviceProfile, MetadataField
from provserver.core.telemetry import MAX_AHEAD, InvalidData, Sample, Value, checked_key, checked_value

INVALID_TOKEN = "Invalid token."  # noqa: S105 - a message
WRONG_PIN = "Wrong pin format."
WRONG_ID = "Wrong dataStreamId format."
MISMATCH = "Value doesn't match the Datastream data type."
MISMATCH_IN_BATCH = "Value doesn't match the Datastream data type"
NO_DATASTREAM = "No datastream setup for that pin."
NOT_IN_PRODUCT = "Requested dataStream doesn't exist in the product {}"
UNKNOWN_CONTENT = "Unknown content type."
TOO_MUCH = "Too much data in batch. Maximum batch size is 10000 points."
NO_EVENT_CODE = "Event code is not provided."
NO_EVENT = "Can't find Event with this code in Product template"
WRONG_FIELD = "Wrong metaField format."
NO_FIELD = "MetaField doesn't exist."
WRONG_FIELD_VALUE = "Wrong value"

# What Blynk's documentation has no message for; the words are ours.
WRONG_POINTS = "Wrong data format. Expected [[timestamp, value], ...]."
WRONG_BATCH = "Wrong data format. Expected a JSON object of datastream names and values."
WRONG_TIME = "Timestamps must be in milliseconds, a month old at most, and not in the future."
UNKNOWN_NAME = "No datastream with that name."
WRONG_PROPERTY = "Wrong property format."
WRONG_TEMPLATE = "The device is of another template."
WRONG_INFO = "Wrong data format. Expected a JSON object of texts and numbers."
UNKNOWN_TOPIC = "There is no such topic."

MAX_STRING = 1024
"""Bytes of a value as text."""

MAX_POINTS = 10_000
MONTH = 31 * 24 * 60 * 60 * 1000
"""Milliseconds that a point may be old. Blynk takes points as far ahead too; we take MAX_AHEAD, as in telemetry."""

MAX_PIN = 255

_PIN = re.compile(r"[vV]([0-9]{1,3})")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_PROPERTY = re.compile(r"[A-Za-z][A-Za-z0-9]{0,31}")
_OPERATION = re.compile(r"(.+?)/(?:(timestamped_batch|erase)|prop/([^/]+)(/erase)?)", re.DOTALL)
_BOOLEANS: Mapping[object, bool] = {"true": True, "1": True, "false": False, "0": False}
_NUMERIC = frozenset({"int", "integer", "double", "number"})
_INT64 = 2**63

_Json = bool | int | float | str | list[bool | int | float | str | None] | None
_POINTS = msgspec.json.Decoder(list[tuple[int | float, _Json]])
_BATCH = msgspec.json.Decoder(dict[str, _Json])


class Kind(Enum):
    """What a datastream's values are."""

    INTEGER = auto()
    DOUBLE = auto()
    STRING = auto()
    ENUM = auto()
    BOOLEAN = auto()
    LOCATION = auto()


class Verb(Enum):
    """What a message does to a datastream."""

    WRITE = auto()
    UPLOAD = auto()
    ERASE = auto()
    WRITE_PROPERTY = auto()
    ERASE_PROPERTY = auto()


_KINDS = {
    "int": Kind.INTEGER,
    "integer": Kind.INTEGER,
    "double": Kind.DOUBLE,
    "float": Kind.DOUBLE,
    "string": Kind.STRING,
    "enum": Kind.ENUM,
    "enumerable": Kind.ENUM,
    "bool": Kind.BOOLEAN,
    "boolean": Kind.BOOLEAN,
    "location": Kind.LOCATION,
}
TYPES = frozenset(_KINDS)


def kind(datastream: Datastream) -> Kind:
    """The kind that a datastream's type names."""
    return _KINDS.get(datastream.type.lower(), Kind.STRING)


@dataclass(frozen=True, slots=True)
class Field:
    """A metadata field. id: by which HTTP knows it too; None: by its name alone. own: as its profile defines it."""

    id: int | None
    name: str
    type: str = "text"
    writable: bool = True
    own: MetadataField | None = None


DEVICE_NAME = Field(1, "Device Name", "DeviceName", writable=False)  # our devices are known by their name
DEVICE_OWNER = Field(2, "Device Owner", "DeviceOwner", writable=False)
HOTSPOT_NAME = Field(None, "Hotspot Name")
TIME_ZONE = Field(None, "Time Zone")
LOCATION = Field(None, "loc.latlon", "Location", writable=False)
_SYSTEM_FIELDS = (DEVICE_NAME, DEVICE_OWNER, HOTSPOT_NAME, TIME_ZONE, LOCATION)
_FIRST_FIELD = 3


class Layout:
    """What the devices of a profile have: datastreams by name and by the number of their pin, and metadata fields.

    A profile's own fields are numbered from 3, in their order; the ids 1 and 2 are those that Blynk's clients use.
    """

    def __init__(self, profile: DeviceProfile) -> None:
        self.product = profile.name
        self.template_id = profile.template_id
        own = (
            Field(id_, field.name, field.type, own=field)
            for id_, field in enumerate(profile.metadata_fields, _FIRST_FIELD)
        )
        self._fields: dict[object, Field] = {}
        for field in (*_SYSTEM_FIELDS, *own):
            self._fields.setdefault(field.name, field)
            if field.id is not None:
                self._fields[field.id] = field
        self.names = {datastream.name: datastream for datastream in profile.datastreams}
        self.pins: dict[int, Datastream] = {}
        for datastream in profile.datastreams:
            number = pin_number(datastream.pin)
            if number is not None:
                self.pins.setdefault(number, datastream)

    def on_pin(self, pin: str) -> Datastream | None:
        """The datastream on a pin; None when the pin has none. Raises InvalidData when it is no pin."""
        number = pin_number(pin)
        if number is None:
            raise InvalidData(WRONG_PIN)
        return self.pins.get(number)

    def with_id(self, id_: str) -> Datastream | None:
        """The datastream of an id, which is the number of its pin. Raises InvalidData when it is no number."""
        if not id_.isascii() or not id_.isdigit() or len(id_) > 9:
            raise InvalidData(WRONG_ID)
        return self.pins.get(int(id_))

    def field(self, reference: str) -> Field | None:
        """The metadata field of an id or exact name; None when there is none."""
        is_id = reference.isascii() and reference.isdigit() and len(reference) <= 9
        return self._fields.get(int(reference) if is_id else reference)

    @property
    def location(self) -> Datastream | None:
        """The datastream that says where the device is: the first location."""
        return next((each for each in self.names.values() if kind(each) is Kind.LOCATION), None)


def pin_number(pin: str) -> int | None:
    """The number of a virtual pin, `v0` to `V255`; None when this is none."""
    match = _PIN.fullmatch(pin)
    number = int(match[1]) if match else -1
    return number if 0 <= number <= MAX_PIN else None


def is_property(name: str) -> bool:
    """Whether this can be the name of a property of a datastream or widget, such as `color` or `onLabel`."""
    return _PROPERTY.fullmatch(name) is not None


def fit(datastream: Datastream, texts: Sequence[str]) -> Value | None:
    """The value that texts mean, within the datastream's range; None when they do not match its type.

    A location is [longitude, latitude]; several texts are a list. One may hold several, NUL-separated, as on MQTT.
    """
    parts = _parts(texts)
    if parts is None:
        return None
    match kind(datastream):
        case Kind.STRING:
            return _string(parts)
        case Kind.LOCATION:
            return _location([_number(part) for part in (parts[0].split(",") if len(parts) == 1 else parts)])
        case _ if len(parts) > 1:
            return None
        case Kind.INTEGER:
            return _integer(datastream, _number(parts[0]))
        case Kind.DOUBLE:
            return _double(datastream, _number(parts[0]))
        case Kind.BOOLEAN:
            return _BOOLEANS.get(parts[0].strip().lower())
        case Kind.ENUM:
            number = _number(parts[0])
            return number if isinstance(number, int) and -_INT64 <= number < _INT64 else _string(parts)


def string(texts: Sequence[str]) -> Value | None:
    """What a string datastream or a property holds; None when it is too long, or no Unicode."""
    parts = _parts(texts)
    return None if parts is None else _string(parts)


def fit_json(datastream: Datastream, given: object) -> Value | None:
    """The value that a JSON value means, within the datastream's range; None when it does not match its type."""
    match kind(datastream):
        case Kind.STRING:
            return fit(datastream, [given]) if isinstance(given, str) else None
        case Kind.LOCATION:
            return _location(given) if isinstance(given, list) else None
        case Kind.BOOLEAN:
            return bool(given) if isinstance(given, int) and given in (0, 1) else None
        case Kind.INTEGER:
            return _integer(datastream, given)
        case Kind.DOUBLE:
            return _double(datastream, given)
        case Kind.ENUM:
            is_known = isinstance(given, int | str) and not isinstance(given, bool)
            return fit(datastream, [str(given)]) if is_known else None


def points(datastream: Datastream, body: bytes, now: int) -> list[Sample]:
    """The samples of a timestamped batch, `[[ms, value], …]`. now: ms since the epoch. Raises InvalidData."""
    try:
        given = _POINTS.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidData(WRONG_POINTS) from None
    if len(given) > MAX_POINTS:
        raise InvalidData(TOO_MUCH)
    samples: list[Sample] = []
    for time, value in given:
        if not now - MONTH <= time <= now + MAX_AHEAD:
            raise InvalidData(WRONG_TIME)
        fitted = fit_json(datastream, value)
        if fitted is None:
            raise InvalidData(MISMATCH)
        samples.append(Sample(datastream.name, fitted, int(time)))
    return samples


def batch(layout: Layout, body: bytes) -> list[Sample]:
    """The samples of a `batch_ds` message, `{name: value, …}`; unknown names are left out. Raises InvalidData."""
    try:
        given = _BATCH.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidData(WRONG_BATCH) from None
    samples: list[Sample] = []
    for name, value in given.items():
        if name not in layout.names:
            continue
        fitted = fit_json(layout.names[name], value)
        if fitted is None:
            raise InvalidData(MISMATCH)
        samples.append(Sample(name, fitted))
    return samples


def uplink(layout: Layout, values: Mapping[str, object], ts: int | None) -> tuple[list[Sample], list[str]]:
    """The samples of values by datastream's name or pin, and the names of those that cannot be taken.

    What is no datastream's is telemetry of its own name. ts: milliseconds since the epoch; None: now.
    """
    samples: list[Sample] = []
    left_out: list[str] = []
    for name, value in values.items():
        datastream = layout.names.get(name)
        if datastream is None and (number := pin_number(name)) is not None:
            datastream = layout.pins.get(number)
        try:
            fitted = checked_value(value) if datastream is None else fit_json(datastream, value)
            if fitted is None:
                raise InvalidData(MISMATCH)
            samples.append(Sample(checked_key(name) if datastream is None else datastream.name, fitted, ts))
        except InvalidData:
            left_out.append(name)
    return samples, left_out


def addressed(layout: Layout, topic: str) -> tuple[Datastream, Verb, str]:
    """What a topic below `ds/` is about: the datastream, what to do, and the property's name. Raises InvalidData.

    A name may hold slashes; who names a datastream `x/erase` can write it and never erase `x`.
    """
    if topic in layout.names:
        return layout.names[topic], Verb.WRITE, ""
    match = _OPERATION.fullmatch(topic)
    datastream = layout.names.get(match[1]) if match else None
    if match is None or datastream is None:
        raise InvalidData(UNKNOWN_NAME)
    if match[2]:
        return datastream, Verb.UPLOAD if match[2] == "timestamped_batch" else Verb.ERASE, ""
    if not is_property(match[3]):
        raise InvalidData(WRONG_PROPERTY)
    return datastream, Verb.ERASE_PROPERTY if match[4] else Verb.WRITE_PROPERTY, match[3]


def fitting(layout: Layout, values: Mapping[str, object]) -> dict[str, Value]:
    """Of values by datastream's name, those that its type can take, within its range."""
    fitted = {name: fit_json(layout.names[name], value) for name, value in values.items() if name in layout.names}
    return {name: value for name, value in fitted.items() if value is not None}


def on_pins(layout: Layout, values: Mapping[str, object]) -> list[tuple[int, str]]:
    """Values by datastream's name as texts for its pin, in the order of the pins; firmware reads 1 or 0 for truth."""
    return [
        (pin, str(int(value)) if isinstance(value, bool) else text(value))
        for pin, each in sorted(layout.pins.items())
        if (value := values.get(each.name)) is not None
    ]


def text(value: object) -> str:
    """A value as plain text, the parts of a list NUL-separated, as `downlink/ds` carries it."""
    if isinstance(value, list):
        return "\0".join(map(text, value))
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def fits_field(field: Field, given: str) -> bool:
    """Whether a metadata field can hold a text: of 1024 bytes at most, a number where one is wanted."""
    if field.type.lower() in _NUMERIC and _number(given) is None:
        return False
    return "\0" not in given and _string([given]) is not None


def _parts(texts: Sequence[str]) -> list[str] | None:
    parts = [part for text in texts for part in text.split("\0")]
    return parts if parts and sum(map(len, parts)) + len(parts) - 1 <= MAX_STRING else None


def _number(given: str) -> int | float | None:
    given = given.strip()
    if len(given) > MAX_STRING:
        return None
    if _INTEGER.fullmatch(given):
        return int(given)
    return float(given) if _NUMBER.fullmatch(given) else None


def _is_number(given: object) -> TypeGuard[int | float]:
    return isinstance(given, int | float) and not isinstance(given, bool)


def _integer(datastream: Datastream, given: object) -> int | None:
    """`1.0` is an integer, `1.5` is none: Blynk skips it."""
    if not _is_number(given) or (isinstance(given, float) and not given.is_integer()):
        return None
    number = int(given)
    if datastream.minimum is not None:
        number = max(number, math.ceil(datastream.minimum))
    if datastream.maximum is not None:
        number = min(number, math.floor(datastream.maximum))
    return number if -_INT64 <= number < _INT64 else None


def _double(datastream: Datastream, given: object) -> float | None:
    if not _is_number(given):
        return None
    try:
        number = float(given)
    except OverflowError:
        return None
    if not math.isfinite(number):
        return None
    if datastream.minimum is not None:
        number = max(number, float(datastream.minimum))
    if datastream.maximum is not None:
        number = min(number, float(datastream.maximum))
    return number


def _string(parts: Sequence[str]) -> Value | None:
    try:
        size = len("\0".join(parts).encode())
    except UnicodeEncodeError:
        return None
    if size > MAX_STRING:
        return None
    return parts[0] if len(parts) == 1 else [*parts]


def _location(given: Sequence[object]) -> Value | None:
    """Longitude and latitude, in this order. What is on no map is refused: mostly it is the two exchanged."""
    longitude, latitude = given if len(given) == 2 else (None, None)
    if not _is_number(longitude) or not _is_number(latitude):
        return None
    return [float(longitude), float(latitude)] if abs(longitude) <= 180 and abs(latitude) <= 90 else None
