import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import datastreams
from provserver.core.datastreams import (
    MAX_POINTS,
    MAX_STRING,
    MISMATCH,
    MONTH,
    NO_DATASTREAM,
    TOO_MUCH,
    UNKNOWN_NAME,
    WRONG_BATCH,
    WRONG_ID,
    WRONG_PIN,
    WRONG_POINTS,
    WRONG_PROPERTY,
    WRONG_TIME,
    Layout,
    Verb,
)
from provserver.core.model import Datastream, DeviceProfile, MetadataField, ProvisionStrategy, ReprovisionPolicy
from provserver.core.telemetry import MAX_AHEAD, InvalidData, Sample, checked_value

NOW = 1_760_000_000_000


def stream(type_: str, minimum: float | None = None, maximum: float | None = None) -> Datastream:
    return Datastream("t", "V1", type_, minimum, maximum)


def layout(*streams: Datastream, fields: Sequence[MetadataField] = ()) -> Layout:
    return Layout(
        DeviceProfile(
            id=UUID(int=1),
            organization_id=UUID(int=2),
            name="Heater",
            template_id="TMPL123456789",
            strategy=ProvisionStrategy.DISABLED,
            reprovision_policy=ReprovisionPolicy.DENY,
            revision=1,
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            metadata_fields=tuple(fields),
            datastreams=streams,
        )
    )


@pytest.mark.parametrize(
    ("pin", "number"),
    [
        *((f"{v}{number}", number) for v in "vV" for number in (0, 6, 99, 255)),
        *((pin, None) for pin in ("", "v", "6", "V256", "v-1", "v1.0", "vv1", "v1 ", " v1", "a0", "v0001", "v¹", "v٣")),
    ],
)
def test_a_pin_is_v0_to_v255_in_either_case(pin: str, number: int | None) -> None:
    assert datastreams.pin_number(pin) == number


def test_a_datastream_is_found_by_pin_by_the_number_of_its_pin_and_by_name() -> None:
    first, second, loose = Datastream("t", "V6"), Datastream("u", "v14"), Datastream("no pin", "GPIO4")
    heater = layout(first, second, loose, Datastream("late", "v6"))
    assert heater.on_pin("v6") is heater.on_pin("V6") is heater.with_id("6") is heater.names["t"] is first
    assert heater.with_id("14") is second
    assert heater.names["no pin"] is loose
    assert heater.on_pin("v7") is heater.with_id("7") is None
    with pytest.raises(InvalidData, match=WRONG_PIN):
        heater.on_pin("7")
    for id_ in ("", "v7", "-7", "7.0", "٣", "9" * 400):
        with pytest.raises(InvalidData, match=WRONG_ID):
            heater.with_id(id_)


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        ("int", "42", 42),
        ("int", " -7\n", -7),
        ("integer", "+7", 7),
        ("int", "1.000000", 1),  # what %f makes of it
        ("int", "1e3", 1000),
        ("int", "4294967295", 2**32 - 1),  # millis() of a device that runs for 49 days
        ("Integer", "3", 3),
        ("int", "25.7", None),
        ("int", "", None),
        ("int", "true", None),
        ("int", "1_000", None),
        ("int", "0x10", None),
        ("int", "٣", None),
        ("int", "9" * 25, None),
        ("int", "1e400", None),
        ("double", "21.3", 21.3),
        ("double", "-.5", -0.5),
        ("double", "5.", 5.0),
        ("double", "1", 1.0),
        ("double", "nan", None),
        ("double", "inf", None),
        ("double", "1e400", None),
        ("double", "1,5", None),
        ("double", "", None),
        ("double", "--1", None),
        ("double", "1" * 1025, None),
        ("string", "2026-11-22T05:01:07.000Z", "2026-11-22T05:01:07.000Z"),
        ("string", "", ""),
        ("string", "a\nb\x1b", "a\nb\x1b"),
        ("string", "a\0b\0", ["a", "b", ""]),
        ("string", "ü" * (MAX_STRING // 2), "ü" * (MAX_STRING // 2)),
        ("string", "ü" * (MAX_STRING // 2) + "x", None),
        ("string", "x" * (MAX_STRING + 1), None),
        ("string", "\ud800", None),
        ("enum", "2", 2),
        ("enum", "Heating", "Heating"),
        ("enum", "9" * 25, "9" * 25),
        ("bool", "1", True),
        ("boolean", "FALSE", False),
        ("bool", "2", None),
        ("bool", "yes", None),
        ("location", "30.5,50.45", [30.5, 50.45]),
        ("location", "30.5\x0050.45", [30.5, 50.45]),
        ("location", "50.45,130", None),  # exchanged
        ("location", "30.5", None),
        ("location", "1,2,3", None),
        ("location", "a,b", None),
        ("no such type", "it is text", "it is text"),
    ],
)
def test_a_text_means_what_the_type_makes_of_it(type_: str, text: str, value: object) -> None:
    fitted = datastreams.fit(stream(type_), [text])
    assert fitted == value
    assert type(fitted) is type(value)


def test_several_texts_are_a_location_or_a_list_of_strings() -> None:
    assert datastreams.fit(stream("location"), ["30.5", "50.45"]) == [30.5, 50.45]
    assert datastreams.fit(stream("string"), ["a", "b"]) == ["a", "b"]
    for type_ in ("int", "double", "enum", "bool"):
        assert datastreams.fit(stream(type_), ["1", "2"]) is None
        assert datastreams.fit(stream(type_), []) is None
    assert datastreams.fit(stream("string"), []) is None


@pytest.mark.parametrize(
    ("type_", "minimum", "maximum", "text", "value"),
    [
        ("int", 0, 100, "1000000000000000", 100),  # how clients find the range out
        ("int", 0, 100, "-1000000000000000", 0),
        ("int", 0, 100, "9" * 400, 100),
        ("int", 0.5, 9.5, "0", 1),
        ("int", 0.5, 9.5, "10", 9),
        ("int", -40, None, "-273", -40),
        ("double", -40, 125.5, "126", 125.5),
        ("double", -40, 125.5, "-273.15", -40.0),
        ("double", None, 10, "10.5", 10.0),
        ("string", 0, 1, "5", "5"),
    ],
)
def test_a_number_outside_the_range_is_taken_for_its_end(
    type_: str, minimum: float | None, maximum: float | None, text: str, value: object
) -> None:
    fitted = datastreams.fit(stream(type_, minimum, maximum), [text])
    assert fitted == value
    assert type(fitted) is type(value)


@pytest.mark.parametrize(
    ("type_", "given_", "value"),
    [
        ("int", 5, 5),
        ("int", 5.0, 5),
        ("int", 5.5, None),
        ("int", True, None),
        ("int", "5", None),
        ("int", None, None),
        ("int", 2**63, None),
        ("double", 5, 5.0),
        ("double", 10**400, None),
        ("double", False, None),
        ("double", [1.0], None),
        ("string", "x", "x"),
        ("string", "x\0y", ["x", "y"]),
        ("string", 5, None),
        ("enum", 1, 1),
        ("enum", "Off", "Off"),
        ("enum", True, None),
        ("enum", 1.5, None),
        ("bool", True, True),
        ("bool", 0, False),
        ("bool", "true", None),
        ("bool", 2, None),
        ("location", [30.5, 50], [30.5, 50.0]),
        ("location", [30.5], None),
        ("location", [30.5, "50"], None),
        ("location", [200, 50], None),
        ("location", 30.5, None),
        ("location", [True, False], None),
    ],
)
def test_a_json_value_must_be_of_the_type(type_: str, given_: object, value: object) -> None:
    fitted = datastreams.fit_json(stream(type_), given_)
    assert fitted == value
    assert type(fitted) is type(value)


@given(
    st.sampled_from(["int", "double", "string", "enum", "bool", "location"]),
    st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
    st.lists(st.one_of(st.text(), st.floats().map(str), st.integers().map(str)), max_size=3),
)
def test_whatever_is_said_the_value_is_in_range_and_storable(
    type_: str, maximum: float | None, texts: list[str]
) -> None:
    value = datastreams.fit(stream(type_, None, maximum), texts)
    if value is None:
        return
    assert checked_value(value) == value
    assert json.loads(json.dumps(value)) == value
    assert len(datastreams.text(value).encode()) <= MAX_STRING or isinstance(value, int | float | list)
    if isinstance(value, int | float) and type_ in ("int", "double"):
        assert math.isfinite(value)
        assert maximum is None or value <= maximum
    again = datastreams.fit(stream(type_, None, maximum), [datastreams.text(value)])
    assert again == value or type_ in ("enum", "string")  # "1" and "01" are one number, and a list of one is a text


def _points(body: bytes) -> list[Sample]:
    return datastreams.points(stream("double"), body, NOW)


def _batch(body: bytes) -> list[Sample]:
    return datastreams.batch(layout(stream("double")), body)


@pytest.mark.parametrize("read", [_points, _batch])
@given(body=st.binary(max_size=200))
def test_no_bytes_break_the_readers(read: Callable[[bytes], list[Sample]], body: bytes) -> None:
    message = ""
    try:
        read(body)
    except InvalidData as refused:
        message = str(refused)
    assert message in ("", WRONG_POINTS, WRONG_TIME, WRONG_BATCH, MISMATCH, UNKNOWN_NAME)


def test_a_timestamped_batch_is_samples() -> None:
    body = json.dumps([[NOW - 5, 1.0], [NOW, 2], [NOW - MONTH, 3.5], [NOW + MAX_AHEAD, 4]]).encode()
    assert datastreams.points(stream("double"), body, NOW) == [
        Sample("t", 1.0, NOW - 5),
        Sample("t", 2.0, NOW),
        Sample("t", 3.5, NOW - MONTH),
        Sample("t", 4.0, NOW + MAX_AHEAD),
    ]
    assert datastreams.points(stream("location"), b"[[%d,[32.1,49.1]]]" % NOW, NOW) == [Sample("t", [32.1, 49.1], NOW)]
    assert datastreams.points(stream("bool"), b"[[%d,true]]" % NOW, NOW) == [Sample("t", True, NOW)]
    assert datastreams.points(stream("double"), b"[]", NOW) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", WRONG_POINTS),
        (b"{}", WRONG_POINTS),
        (b"[1]", WRONG_POINTS),
        (b"[[1]]", WRONG_POINTS),
        (b"[[1,2,3]]", WRONG_POINTS),
        (b"[[1,{}]]", WRONG_POINTS),
        (b'[["1",2]]', WRONG_POINTS),
        (b"[[1,1e400]]", WRONG_POINTS),
        (b"[" * 100_000, WRONG_POINTS),
        (b"\xff", WRONG_POINTS),
        (b"[[1,2]]", WRONG_TIME),
        (b"[[%d,2]]" % (NOW // 1000), WRONG_TIME),  # seconds
        (b"[[%d,2]]" % (NOW - MONTH - 1), WRONG_TIME),
        (b"[[%d,2]]" % (NOW + MAX_AHEAD + 1), WRONG_TIME),
        (b"[[%d,null]]" % NOW, MISMATCH),
        (b'[[%d,1],[%d,"2"]]' % (NOW, NOW), MISMATCH),
        (b"[%s]" % b",".join([b"[%d,1]" % NOW] * (MAX_POINTS + 1)), TOO_MUCH),
    ],
    ids=lambda value: None if isinstance(value, str) else f"{len(value)} bytes",
)
def test_a_batch_that_is_not_right_is_refused_as_a_whole(body: bytes, message: str) -> None:
    with pytest.raises(InvalidData) as refused:
        datastreams.points(stream("double"), body, NOW)
    assert str(refused.value) == message


def test_the_largest_batch_is_taken() -> None:
    body = b"[%s]" % b",".join([b"[%d,1]" % NOW] * MAX_POINTS)
    assert len(datastreams.points(stream("double"), body, NOW)) == MAX_POINTS


def test_a_batch_by_name_is_samples() -> None:
    heater = layout(
        Datastream("Name", "V0", "string"),
        Datastream("Temperature", "V1", "double", -40, 125),
        Datastream("Location", "V2", "location"),
        Datastream("Device On", "V3", "bool"),
    )
    body = b'{"Name":"Uplink","Temperature":200,"Location":[30.523333,50.450001],"Device On":true}'
    assert datastreams.batch(heater, body) == [
        Sample("Name", "Uplink"),
        Sample("Temperature", 125.0),
        Sample("Location", [30.523333, 50.450001]),
        Sample("Device On", True),
    ]


def test_of_a_batch_by_name_what_is_no_datastream_is_left_out() -> None:
    assert datastreams.batch(layout(stream("double")), b'{"unknown":2,"t":1}') == [Sample("t", 1.0)]
    assert datastreams.batch(layout(stream("double")), b'{"unknown":2}') == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", WRONG_BATCH),
        (b"[]", WRONG_BATCH),
        (b'{"t":{}}', WRONG_BATCH),
        (b'{"t":"1"}', MISMATCH),
        (b'{"t":null}', MISMATCH),
    ],
)
def test_a_batch_by_name_that_is_not_right_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidData) as refused:
        datastreams.batch(layout(stream("double")), body)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("topic", "name", "verb", "property_"),
    [
        ("Set Temperature", "Set Temperature", Verb.WRITE, ""),
        ("Set Temperature/timestamped_batch", "Set Temperature", Verb.UPLOAD, ""),
        ("Set Temperature/erase", "Set Temperature", Verb.ERASE, ""),
        ("Set Temperature/prop/isDisabled", "Set Temperature", Verb.WRITE_PROPERTY, "isDisabled"),
        ("Set Temperature/prop/color/erase", "Set Temperature", Verb.ERASE_PROPERTY, "color"),
        ("a/prop/b", "a/prop/b", Verb.WRITE, ""),
        ("a/prop/b/prop/color", "a/prop/b", Verb.WRITE_PROPERTY, "color"),
        ("a/erase", "a/erase", Verb.WRITE, ""),
        ("a/erase/erase", "a/erase", Verb.ERASE, ""),
    ],
)
def test_a_topic_names_datastream_and_deed(topic: str, name: str, verb: Verb, property_: str) -> None:
    heater = layout(*(Datastream(each, "V1") for each in ("Set Temperature", "a/prop/b", "a/erase")))
    assert datastreams.addressed(heater, topic) == (heater.names[name], verb, property_)


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        ("u", UNKNOWN_NAME),
        ("u/erase", UNKNOWN_NAME),
        ("t/", UNKNOWN_NAME),
        ("t/delete", UNKNOWN_NAME),
        ("t/prop", UNKNOWN_NAME),
        ("/erase", UNKNOWN_NAME),
        ("T", UNKNOWN_NAME),
        ("t/prop/", UNKNOWN_NAME),
        ("t/prop/a/b", UNKNOWN_NAME),
        ("t/prop/1a", WRONG_PROPERTY),
        ("t/prop/" + "a" * 33, WRONG_PROPERTY),
    ],
)
def test_a_topic_of_nothing_is_refused(topic: str, message: str) -> None:
    with pytest.raises(InvalidData) as refused:
        datastreams.addressed(layout(stream("double")), topic)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1.0"),
        (True, "true"),
        ("x", "x"),
        ([30.5, 50.0], "30.5\x0050.0"),
        (["a", "b"], "a\0b"),
        ({"a": 1}, '{"a":1}'),
    ],
)
def test_a_value_as_text(value: object, text: str) -> None:
    assert datastreams.text(value) == text


def test_metadata_fields_have_ids_from_3_and_names() -> None:
    fields = (MetadataField("Serial Number"), MetadataField("Height", "number"), MetadataField("7"))
    heater = layout(fields=fields)
    assert heater.field("1") == heater.field("Device Name") == datastreams.DEVICE_NAME
    assert heater.field("2") == heater.field("Device Owner") == datastreams.DEVICE_OWNER
    serial, height = heater.field("Serial Number"), heater.field("Height")
    assert serial is not None
    assert height is not None
    assert (heater.field("3"), heater.field("4")) == (serial, height)
    assert (serial.id, serial.writable, height.type) == (3, True, "number")
    assert heater.field("loc.latlon") == datastreams.LOCATION
    assert heater.field("serial number") is heater.field("6") is heater.field("9" * 400) is heater.field("") is None
    assert datastreams.fits_field(serial, "x" * MAX_STRING)
    assert not datastreams.fits_field(serial, "x" * (MAX_STRING + 1))
    assert not datastreams.fits_field(serial, "a\0b")
    assert not datastreams.fits_field(serial, "\ud800")
    assert datastreams.fits_field(height, "2.5")
    assert not datastreams.fits_field(height, "high")
    assert not datastreams.fits_field(height, "1" * 2000)


def test_the_first_location_says_where_the_device_is() -> None:
    assert layout(stream("double")).location is None
    where = Datastream("where", "V9", "Location")
    assert layout(stream("double"), where, Datastream("home", "V10", "location")).location is where


def test_the_messages_are_blynks() -> None:
    assert NO_DATASTREAM == "No datastream setup for that pin."
    assert MISMATCH == "Value doesn't match the Datastream data type."
    assert TOO_MUCH == "Too much data in batch. Maximum batch size is 10000 points."


def test_what_a_network_has_decoded_is_of_the_datastream_of_its_name_or_pin() -> None:
    known = layout(Datastream("temperature", "V1"), Datastream("count", "V3", "int", 0, 10))
    values = {"temperature": 21, "v3": 99, "battery": {"mV": 3100}, "V7": True, "count": "many", "a\0": 1, "none": None}
    assert datastreams.uplink(known, values, 5) == (
        [
            Sample("temperature", 21.0, 5),
            Sample("count", 10, 5),
            Sample("battery", {"mV": 3100}, 5),
            Sample("V7", True, 5),
        ],
        ["count", "a\0", "none"],
    )


def test_values_are_texts_for_pins_in_their_order() -> None:
    known = layout(
        Datastream("count", "V3", "int", 0, 10),
        Datastream("power", "V1", "bool"),
        Datastream("words", "V2", "string"),
        Datastream("no pin", "A1", "string"),
    )
    values = {"count": 99, "power": True, "words": ["a", "b"], "other": 1, "no pin": "x"}
    fitted = datastreams.fitting(known, values)
    assert fitted == {"count": 10, "power": True, "no pin": "x"}
    assert datastreams.on_pins(known, values | fitted) == [(1, "1"), (2, "a\0b"), (3, "10")]
    assert datastreams.on_pins(known, {}) == []
