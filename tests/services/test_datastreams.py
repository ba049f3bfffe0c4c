import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from provserver.core.model import Authenticated, Datastream, MetadataField
from provserver.core.telemetry import InvalidData
from provserver.errors import Unavailable
from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.datastreams import LAYOUT_AGE, Datastreams
from provserver.services.profiles import ProfileChange
from tests.conftest import Space
from tests.services.conftest import PEER, Fleet, Outage

NOW = 1_795_323_667.25  # 2026-11-22T05:01:07.250Z

STREAMS = (
    Datastream("Uptime", "V0", "int"),
    Datastream("Temperature", "V1", "double", -40, 125.5),
    Datastream("Terminal", "v2", "string"),
    Datastream("Where", "V3", "location"),
    Datastream("Power", "V4", "bool"),
    Datastream("Mode", "V5", "enum"),
)
FIELDS = (MetadataField("Serial Number"), MetadataField("Height", "number"))


@dataclass
class Bench:
    """A device of a profile with datastreams, and the services it uses."""

    space: Space
    fleet: Fleet
    datastreams: Datastreams
    data: Data
    device: Authenticated
    ticks: list[float] = field(default_factory=lambda: [0.0])

    async def history(self, name: str) -> list[tuple[int, object]]:
        rows = await self.space.rows("SELECT ts, value FROM telemetry_history WHERE key = $1 ORDER BY ts", name)
        return [tuple(row) for row in rows]

    async def latest(self) -> dict[str, object]:
        return await self.data.latest(self.device.device_id)

    async def attributes(self, scope: str) -> dict[str, object]:
        return dict(
            tuple(row) for row in await self.space.rows("SELECT key, value FROM attribute WHERE scope = $1", scope)
        )

    async def says(self, topic: str, payload: bytes | str = b"") -> dict[str, str]:
        data = payload if isinstance(payload, bytes) else payload.encode()
        assert self.datastreams.handles(topic)
        return {topic: text.decode() for topic, text in await self.datastreams.publish(self.device, topic, data)}


async def authenticate(space: Space, token: str) -> Authenticated:
    access = Access(space.database, space.keys)
    device = await access.with_token(token, PEER)
    await access.drain()
    assert isinstance(device, Authenticated)
    return device


@pytest.fixture
async def bench(space: Space, fleet: Fleet) -> AsyncIterator[Bench]:
    await space.profiles.update("sensors", ProfileChange(datastreams=STREAMS, metadata_fields=FIELDS))
    reply = await fleet.ask("heater-1")
    data = Data(space.database, space.keys, clock=lambda: NOW)
    ticks = [0.0]
    datastreams = Datastreams(space.database, data, clock=lambda: NOW, monotonic=lambda: ticks[0])
    yield Bench(space, fleet, datastreams, data, await authenticate(space, reply["credentialsValue"]), ticks)
    await data.drain()


async def refusal(call: Awaitable[object]) -> str:
    with pytest.raises(InvalidData) as refused:
        await call
    return str(refused.value)


async def test_what_http_writes_to_pins_http_reads_and_thingsboard_too(bench: Bench) -> None:
    await bench.datastreams.update(
        bench.device, {"v0": ["7"], "V1": ["200"], "V2": ["a b"], "v3": ["30.5", "50.45"], "v4": ["1"]}
    )
    await bench.datastreams.update_by_id(bench.device, "1", ["21.5"])

    assert await bench.latest() == {
        "Uptime": 7,
        "Temperature": 21.5,
        "Terminal": "a b",
        "Where": [30.5, 50.45],
        "Power": True,
    }
    assert await bench.datastreams.get_all(bench.device) == {
        "v0": 7,
        "v1": 21.5,
        "v2": "a b",
        "v3": [30.5, 50.45],
        "v4": True,
    }
    assert await bench.datastreams.get(bench.device, ["V1", "v0"]) == {"v1": 21.5, "v0": 7}
    assert await bench.datastreams.get_by_id(bench.device, ["3"]) == {"v3": [30.5, 50.45]}
    assert [value for _, value in await bench.history("Temperature")] == [125.5, 21.5]
    await bench.data.telemetry(bench.device, b'{"Uptime":8}')
    assert await bench.datastreams.get(bench.device, ["v0"]) == {"v0": 8}


async def test_a_pin_without_a_value_has_none(bench: Bench) -> None:
    assert await bench.datastreams.get(bench.device, ["v1"]) == {"v1": None}
    assert await bench.datastreams.get_all(bench.device) == {}


async def test_an_update_is_all_or_nothing(bench: Bench) -> None:
    call = bench.datastreams.update(bench.device, {"v0": ["7"], "v1": ["hot"]})
    assert await refusal(call) == "Value doesn't match the Datastream data type."
    call = bench.datastreams.update(bench.device, {"v0": ["7"], "v1": ["hot"]}, batch=True)
    assert await refusal(call) == "Value doesn't match the Datastream data type"
    assert await bench.latest() == {}
    assert not await bench.datastreams.is_online(bench.device)


async def test_a_batch_leaves_pins_as_they_are_whose_values_are_empty(bench: Bench) -> None:
    await bench.datastreams.update(bench.device, {"V0": ["1"], "V2": ["before"]}, batch=True)
    await bench.datastreams.update(bench.device, {"V0": ["2"], "V1": [""], "V2": [""], "V99": [""]}, batch=True)
    assert await bench.latest() == {"Uptime": 2, "Terminal": "before"}
    await bench.datastreams.update(bench.device, {"V2": [""]})
    assert await bench.latest() == {"Uptime": 2, "Terminal": ""}


async def test_a_batch_leaves_out_what_has_no_datastream(bench: Bench) -> None:
    await bench.datastreams.update(bench.device, {"V99": ["x"], "V0": ["1"]}, batch=True)
    assert await bench.says("batch_ds", '{"Nothing":1,"Temperature":2}') == {}
    assert await bench.latest() == {"Uptime": 1, "Temperature": 2.0}
    assert await refusal(bench.datastreams.update(bench.device, {"V99": ["x"], "V0": ["2"]}))
    assert (await bench.latest())["Uptime"] == 1


async def test_calls_of_pins_are_refused_in_blynks_words(bench: Bench) -> None:
    api, device = bench.datastreams, bench.device
    for call in (api.update(device, {"x1": ["1"]}), api.update(device, {}), api.get(device, [])):
        assert await refusal(call) == "Wrong pin format."
    for call in (
        api.upload(device, "1", b"[]"),
        api.get(device, ["v256"]),
        api.update(device, {"y": [""]}, batch=True),
    ):
        assert await refusal(call) == "Wrong pin format."
    for call in (
        api.update(device, {"v9": ["1"]}),
        api.update_by_id(device, "9", ["1"]),
        api.upload(device, "v9", b""),
    ):
        assert await refusal(call) == "No datastream setup for that pin."
    for call in (api.update_by_id(device, "V1", ["1"]), api.get_by_id(device, ["1.5"])):
        assert await refusal(call) == "Wrong dataStreamId format."
    for read in (api.get(device, ["v1", "v9"]), api.get_by_id(device, ["9"])):
        assert await refusal(read) == "Requested dataStream doesn't exist in the product sensors"
    assert await bench.latest() == {}


async def test_what_is_written_shows_the_device_online_for_a_while(bench: Bench) -> None:
    assert not await bench.datastreams.is_online(bench.device)
    await bench.datastreams.get_all(bench.device)
    assert not await bench.datastreams.is_online(bench.device)
    await bench.datastreams.update(bench.device, {"v0": [""]}, batch=True)
    assert await bench.datastreams.is_online(bench.device)
    await bench.space.rows("UPDATE presence SET online_until = now()")
    assert not await bench.datastreams.is_online(bench.device)


async def test_a_timestamped_batch_keeps_its_times(bench: Bench) -> None:
    now = int(NOW * 1000)
    body = json.dumps([[now - 1000, 1], [now - 3000, 3], [now - 2000, 2]]).encode()
    await bench.datastreams.upload(bench.device, "V1", body)
    assert await bench.history("Temperature") == [(now - 3000, 3.0), (now - 2000, 2.0), (now - 1000, 1.0)]
    assert await bench.latest() == {"Temperature": 1.0}
    message = await refusal(bench.datastreams.upload(bench.device, "V1", b"[[1,1]]"))
    assert "month" in message


async def test_the_largest_batch_is_kept_as_far_as_the_history_goes(bench: Bench) -> None:
    now = int(NOW * 1000)
    body = json.dumps([[now - 10_000 + number, number] for number in range(10_000)]).encode()
    await bench.datastreams.upload(bench.device, "V0", body)
    assert await bench.latest() == {"Uptime": 9_999}
    assert [value for _, value in await bench.history("Uptime")] == list(range(9_900, 10_000))


async def test_metadata_is_read_and_written_by_id_and_by_name(bench: Bench) -> None:
    api, device = bench.datastreams, bench.device
    name, value = await api.metadata(device, "1")
    assert (name.name, name.type, value) == ("Device Name", "DeviceName", "heater-1")
    assert (await api.metadata(device, "Device Owner"))[1] == ""

    await api.update_metadata(device, "3", "SN 1")
    await api.update_metadata(device, "Height", "2.5")
    await api.update_metadata(device, "Hotspot Name", "")

    assert (await api.metadata(device, "Serial Number"))[1] == "SN 1"
    assert (await api.metadata(device, "4"))[1] == "2.5"
    server = await bench.attributes("SERVER")
    assert {key: server[key] for key in server if key.startswith("meta.")} == {
        "meta.Serial Number": "SN 1",
        "meta.Height": "2.5",
        "meta.Hotspot Name": "",
    }
    assert (await bench.data.attributes(device, ["meta.Height"], ["meta.Height"])) == {}


TYPED = (
    MetadataField("MAC", "mac"),
    MetadataField("Model", "list", options=("A", "B"), default="A"),
    MetadataField("On", "boolean", default="yes"),
)


async def test_a_field_without_a_value_has_its_default(bench: Bench) -> None:
    await bench.space.profiles.update("sensors", ProfileChange(metadata_fields=TYPED))
    bench.ticks[0] += LAYOUT_AGE
    api, device = bench.datastreams, bench.device
    assert [(await api.metadata(device, name))[1] for name in ("MAC", "Model", "On")] == ["", "A", "true"]
    assert await bench.says("get/meta", "MAC,Model") == {"downlink/meta/Model": "A"}

    await bench.says("meta/Model", "B")

    assert (await api.metadata(device, "Model"))[1] == "B"
    assert await bench.says("get/meta", "Model,On") == {"downlink/meta/Model": "B", "downlink/meta/On": "true"}


async def test_a_device_writes_what_the_fields_type_holds(bench: Bench) -> None:
    await bench.space.profiles.update("sensors", ProfileChange(metadata_fields=TYPED))
    bench.ticks[0] += LAYOUT_AGE
    api, device = bench.datastreams, bench.device

    await api.update_metadata(device, "MAC", "2c-54-91-88-c9-e3")
    assert (await api.metadata(device, "MAC"))[1] == "2C:54:91:88:C9:E3"
    for name, value in (("MAC", "2C:54:91"), ("Model", "C"), ("Model", "a"), ("On", "maybe")):
        assert await refusal(api.update_metadata(device, name, value)) == "Wrong value"
    await api.update_metadata(device, "MAC", "")
    assert (await api.metadata(device, "MAC"))[1] == ""


async def test_metadata_is_refused_in_blynks_words(bench: Bench) -> None:
    api, device = bench.datastreams, bench.device
    assert await refusal(api.metadata(device, "")) == "Wrong metaField format."
    assert await refusal(api.metadata(device, "99")) == "MetaField doesn't exist."
    assert await refusal(api.metadata(device, "serial number")) == "MetaField doesn't exist."
    assert await refusal(api.update_metadata(device, "", "x")) == "Wrong metaField format"
    assert await refusal(api.update_metadata(device, "99", "x")) == "MetaField doesn't exist"
    for reference, value in (("4", "high"), ("3", None), ("3", "\0"), ("3", "x" * 1025), ("1", "mine"), ("2", "me")):
        assert await refusal(api.update_metadata(device, reference, value)) == "Wrong value"
    assert [key for key in await bench.attributes("SERVER") if key.startswith("meta.")] == []


async def test_loc_latlon_is_where_the_first_location_says(bench: Bench) -> None:
    assert (await bench.datastreams.metadata(bench.device, "loc.latlon"))[1] == ""
    assert await bench.says("get/loc/all") == {}
    await bench.datastreams.update(bench.device, {"v3": ["30.5", "50.45"]})
    assert (await bench.datastreams.metadata(bench.device, "loc.latlon"))[1] == "50.45 30.5"
    assert await bench.says("get/loc/all") == {"downlink/loc/all": "50.45,30.5"}
    await bench.data.telemetry(bench.device, b'{"Where":"somewhere"}')
    assert await bench.says("get/loc/all") == {}


async def test_provision_takes_the_devices_own_template_and_what_the_firmware_says(bench: Bench) -> None:
    own = bench.fleet.profile.template_id
    await bench.datastreams.provision(bench.device, own, {"ver": "1.0.0", "boType": "ESP32"})
    assert await bench.attributes("CLIENT") == {"mcu.tmpl": own, "mcu.ver": "1.0.0", "mcu.boType": "ESP32"}
    for other in ("", "TMPLother", own.lower()):
        assert "template" in await refusal(bench.datastreams.provision(bench.device, other, {}))
    assert "format" in await refusal(bench.datastreams.provision(bench.device, own, {"ver": "x" * 1025}))


async def test_a_changed_profile_is_known_at_once_to_who_comes_and_soon_to_who_stayed(bench: Bench) -> None:
    await bench.datastreams.update(bench.device, {"v0": ["1"]})
    await bench.space.profiles.update("sensors", ProfileChange(datastreams=[*STREAMS, Datastream("New", "V9", "int")]))
    assert "No datastream" in await refusal(bench.datastreams.update(bench.device, {"v9": ["1"]}))

    revision = await bench.space.value("SELECT revision FROM device_profile")
    newcomer = replace(bench.device, profile_revision=revision)
    await bench.datastreams.update(newcomer, {"v9": ["1"]})
    await bench.datastreams.update(bench.device, {"v9": ["2"]})

    await bench.space.profiles.update("sensors", ProfileChange(datastreams=[Datastream("Newest", "V10")]))
    bench.ticks[0] += LAYOUT_AGE
    await bench.datastreams.update(bench.device, {"v10": ["3"]})
    assert await bench.latest() == {"Uptime": 1, "New": 2, "Newest": 3.0}


async def test_a_device_that_is_gone_has_no_token_any_more(bench: Bench) -> None:
    await bench.space.devices.delete("heater-1")
    await bench.space.profiles.delete("sensors")
    assert await refusal(bench.datastreams.update(bench.device, {"v0": ["1"]})) == "Invalid token."


async def test_values_by_topic(bench: Bench) -> None:
    assert await bench.says("ds/Temperature", "21.3") == {}
    assert await bench.says("ds/Where", "30.5\x0050.45") == {}
    assert await bench.says("ds/Terminal", "First\0Second\0Third") == {}
    assert await bench.says("batch_ds", '{"Uptime":5,"Power":true,"Mode":"Heating"}') == {}
    assert await bench.latest() == {
        "Temperature": 21.3,
        "Where": [30.5, 50.45],
        "Terminal": ["First", "Second", "Third"],
        "Uptime": 5,
        "Power": True,
        "Mode": "Heating",
    }
    assert await bench.says("get/ds", "Temperature, Power,Nothing,Terminal,") == {
        "downlink/ds/Temperature": "21.3",
        "downlink/ds/Power": "true",
        "downlink/ds/Terminal": "First\0Second\0Third",
    }
    now = int(NOW * 1000)
    assert await bench.says("ds/Uptime/timestamped_batch", f"[[{now - 1},6],[{now + 1},7]]") == {}
    assert await bench.says("get/ds/all") == {
        "downlink/ds/Uptime": "7",
        "downlink/ds/Temperature": "21.3",
        "downlink/ds/Terminal": "First\0Second\0Third",
        "downlink/ds/Where": "30.5\x0050.45",
        "downlink/ds/Power": "true",
        "downlink/ds/Mode": "Heating",
    }
    assert await bench.datastreams.is_online(bench.device)


async def test_an_erased_value_is_gone(bench: Bench) -> None:
    await bench.says("ds/Temperature", "21.3")
    await bench.says("ds/Uptime", "1")
    await bench.says("ds/Temperature/erase")
    assert await bench.latest() == {"Uptime": 1}
    assert await bench.says("get/ds", "Temperature") == {}
    assert await bench.history("Temperature") == []
    await bench.says("ds/Temperature", "22")
    assert [value for _, value in await bench.history("Temperature")] == [22.0]


async def test_properties_are_client_attributes(bench: Bench) -> None:
    await bench.says("ds/Temperature/prop/color", "red")
    await bench.says("ds/Mode/prop/labels", "Off\0On")
    await bench.datastreams.update_properties(bench.device, "v0", {"isDisabled": ["1"], "label": ["Up"]})
    properties = {
        "property.Temperature.color": "red",
        "property.Mode.labels": ["Off", "On"],
        "property.Uptime.isDisabled": "1",
        "property.Uptime.label": "Up",
    }
    assert await bench.attributes("CLIENT") == properties
    await bench.says("ds/Temperature/prop/color/erase")
    del properties["property.Temperature.color"]
    assert await bench.attributes("CLIENT") == properties

    api = bench.datastreams
    assert await refusal(api.update_properties(bench.device, "v9", {"color": ["red"]})) == (
        "No datastream setup for that pin."
    )
    assert await refusal(api.update_properties(bench.device, "9", {"color": ["red"]})) == "Wrong pin format."
    wrong: list[dict[str, list[str]]] = [{}, {"1st": ["x"]}, {"color": []}, {"color": ["x" * 1025]}]
    for given in wrong:
        assert "property" in await refusal(api.update_properties(bench.device, "v0", given))


async def test_the_firmware_says_what_it_is(bench: Bench) -> None:
    info = {"tmpl": "TMPLabcd1234", "ver": "0.1.2", "build": "Jan 19 2024 12:25:30", "rxbuff": 1024, "type": None}
    assert await bench.says("info/mcu", json.dumps(info)) == {}
    assert await bench.attributes("CLIENT") == {
        "mcu.tmpl": "TMPLabcd1234",
        "mcu.ver": "0.1.2",
        "mcu.build": "Jan 19 2024 12:25:30",
        "mcu.rxbuff": 1024,
    }


async def test_metadata_by_topic(bench: Bench) -> None:
    await bench.says("meta/Serial Number", "12345")
    asked = await bench.says("get/meta", "Serial Number,Height,Device Name,Nothing")
    assert asked == {"downlink/meta/Serial Number": "12345", "downlink/meta/Device Name": "heater-1"}
    assert await bench.says("get/meta") == {}


async def test_the_time_is_utc_or_that_of_the_devices_zone(bench: Bench) -> None:
    async def told() -> dict[str, Any]:
        answer: dict[str, Any] = json.loads((await bench.says("get/utc/all/json"))["downlink/utc/all/json"])
        return answer

    in_utc = {
        "tz_name": "UTC",
        "tz_rule": "UTC0",
        "tz_offset": 0,
        "dst_offset": 0,
        "time": int(NOW * 1000),
        "iso8601": "2026-11-22T05:01:07+00:00",
    }
    assert await told() == in_utc
    await bench.says("meta/Time Zone", "America/Goose_Bay")
    assert await told() == in_utc | {
        "tz_name": "America/Goose_Bay",
        "tz_rule": "AST4ADT,M3.2.0,M11.1.0",
        "tz_offset": -240,
        "iso8601": "2026-11-22T01:01:07-04:00",
    }
    await bench.says("meta/Time Zone", "Australia/Melbourne")
    summer = await told()
    assert (summer["tz_offset"], summer["dst_offset"], summer["iso8601"]) == (600, 60, "2026-11-22T16:01:07+11:00")
    for nowhere in ("Mars/Olympus", "../../etc/passwd", "/etc/passwd", "America", "x" * 1000):
        await bench.says("meta/Time Zone", nowhere)
        assert await told() == in_utc


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("ds/Temperature", b"hot"),
        ("ds/Temperature", b"\xff"),
        ("ds/Nothing", b"1"),
        ("ds/Temperature/prop/1", b"x"),
        ("ds/Temperature/timestamped_batch", b"[[1,2]]"),
        ("batch_ds", b"not JSON"),
        ("event/overheated", b"it burns"),
        ("meta/Nothing", b"1"),
        ("meta/Height", b"high"),
        ("info/mcu", b"not JSON"),
        ("info/mcu", b'{"a":{}}'),
        ("info/mcu", b'{"a b":1}'),
        ("info/mcu", b'{"ver":"%s"}' % (b"x" * 1025)),
        ("info/mcu", json.dumps({f"a{number}": 1 for number in range(33)}).encode()),
        ("get/ds", b"\xff"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
async def test_a_message_that_is_not_right_changes_nothing(bench: Bench, topic: str, payload: bytes) -> None:
    assert await refusal(bench.datastreams.publish(bench.device, topic, payload))
    assert await bench.latest() == await bench.attributes("CLIENT") == {}


async def test_a_name_that_no_topic_can_hold_is_not_published(bench: Bench) -> None:
    await bench.space.profiles.update(
        "sensors", ProfileChange(datastreams=[Datastream("#", "V1"), Datastream("a+", "V2")])
    )
    bench.ticks[0] += LAYOUT_AGE
    await bench.datastreams.update(bench.device, {"v1": ["1"], "v2": ["2"]})
    assert await bench.says("get/ds/all") == {}
    assert await bench.datastreams.get_all(bench.device) == {"v1": 1.0, "v2": 2.0}


@pytest.mark.parametrize(
    ("topic", "handled"),
    [
        *((topic, True) for topic in ("batch_ds", "info/mcu", "get/ds", "get/ds/all", "get/meta")),
        *((topic, True) for topic in ("get/utc/all/json", "get/loc/all", "ds/a", "ds/a/prop/b", "event/x", "meta/a b")),
        *((topic, False) for topic in ("ds/", "event/", "meta/", "ds", "get/", "get/all", "info/ncp", "DS/a", "")),
        *((topic, False) for topic in ("v1/devices/me/telemetry", "downlink/ds/a", "/ds/a", "batch_ds/x")),
    ],
)
async def test_the_topics_that_are_taken(space: Space, topic: str, handled: bool) -> None:
    api = Datastreams(space.database, Data(space.database, space.keys))
    assert api.handles(topic) is handled


@pytest.mark.parametrize(
    ("topic_filter", "allowed"),
    [
        *((topic, True) for topic in ("downlink/#", "downlink/ds/#", "downlink/ds/Set Temperature", "downlink/ping")),
        *((topic, False) for topic in ("#", "downlink", "downlink/", "downlink/+", "downlink/+/x", "downlink/#/x")),
        *((topic, False) for topic in ("downlink/ds#", "downlink/a/#/#", "ds/#", "/downlink/#", "$share/g/downlink/#")),
    ],
)
async def test_the_filters_that_are_granted(space: Space, topic_filter: str, allowed: bool) -> None:
    api = Datastreams(space.database, Data(space.database, space.keys))
    assert api.subscribable(topic_filter) is allowed


async def test_while_the_database_is_away_nothing_is_refused_for_good(
    bench: Bench, outage: Outage, space: Space
) -> None:
    data = Data(outage.database, space.keys)
    api = Datastreams(outage.database, data)
    await outage.begin()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: api.update(bench.device, {"v0": ["1"]}),
        lambda: api.update(bench.device, {"nonsense": ["1"]}),
        lambda: api.get_all(bench.device),
        lambda: api.is_online(bench.device),
        lambda: api.update_metadata(bench.device, "3", "x"),
        lambda: api.publish(bench.device, "ds/Nothing", b""),
    ]
    for call in calls:
        with pytest.raises(Unavailable):
            await call()
    outage.end()
    await api.update(bench.device, {"v0": ["1"]})
    await data.drain()


# What Blynk's native protocol asks for


async def test_writes_have_the_time_that_they_were_measured_at(bench: Bench) -> None:
    at = int(NOW * 1000) - 60_000
    await bench.datastreams.update(bench.device, {"V1": ["1.5"]}, ts=at)
    assert await bench.history("Temperature") == [(at, 1.5)]
    for wrong in (at - 40 * 24 * 3600 * 1000, at + 24 * 3600 * 1000 * 400):
        with pytest.raises(InvalidData, match="Timestamps"):
            await bench.datastreams.update(bench.device, {"V1": ["1.5"]}, ts=wrong)


async def test_a_pin_has_what_an_operator_has_set_else_what_was_written(bench: Bench) -> None:
    streams, device = bench.datastreams, bench.device
    assert await streams.values(device, []) == []
    await streams.update(device, {"V0": ["7"], "V2": ["a", "b"], "V4": ["true"]})
    for key, value in {"Uptime": 8, "Temperature": "no number", "other": 1}.items():
        await bench.space.rows(
            "INSERT INTO attribute (device_id, scope, key, value) VALUES ($1, 'SHARED', $2, $3)",
            device.device_id,
            key,
            value,
        )
    assert await streams.values(device, []) == [(0, "8"), (2, "a\0b"), (4, "1")]
    assert await streams.values(device, ["V4", "V200"]) == [(4, "1")]
    with pytest.raises(InvalidData, match="Wrong pin"):
        await streams.values(device, ["4"])


async def test_shared_attributes_are_pins_where_a_datastream_has_their_name(bench: Bench) -> None:
    shared = {"Temperature": 500, "Power": False, "Mode": "eco", "Uptime": None, "deleted": ["Terminal"]}
    assert await bench.datastreams.on_pins(bench.device, shared) == [(1, "125.5"), (4, "0"), (5, "eco")]


@pytest.mark.parametrize(
    ("part", "texts"),
    [
        ("time", ["1795323667250"]),
        ("iso", ["2026-11-22T05:01:07+00:00"]),
        ("tz", ["0", "0"]),
        ("tz_name", ["UTC"]),
        ("tz_rule", ["UTC0"]),
        ("rtc", ["1795323667"]),
    ],
)
async def test_the_time_in_parts(bench: Bench, part: str, texts: list[str]) -> None:
    assert await bench.datastreams.time(bench.device, part) == texts


async def test_the_local_clock_knows_its_zone_and_summer(bench: Bench) -> None:
    await bench.datastreams.update_metadata(bench.device, "Time Zone", "Australia/Sydney")
    assert await bench.datastreams.time(bench.device, "tz") == ["600", "60"]
    assert await bench.datastreams.time(bench.device, "rtc") == [str(1795323667 + 11 * 3600)]
    with pytest.raises(InvalidData):
        await bench.datastreams.time(bench.device, "dst_next")


async def test_the_firmware_says_natively_what_it_is(bench: Bench) -> None:
    await bench.datastreams.report(bench.device, {"ver": "1", "fwType": "HEATER"})
    assert await bench.attributes("CLIENT") == {"mcu.ver": "1", "mcu.fwType": "HEATER"}
    for wrong in ({"h-beat": "1"}, {f"f{number}": "1" for number in range(33)}, {"ver": "x" * 2000}):
        with pytest.raises(InvalidData):
            await bench.datastreams.report(bench.device, wrong)
