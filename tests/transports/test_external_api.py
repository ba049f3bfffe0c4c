import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
import pytest
import yarl

from provserver.core.model import Datastream, MetadataField
from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.datastreams import Datastreams
from provserver.services.profiles import ProfileChange
from provserver.store.database import Database
from provserver.transports.http import HttpTransport
from tests.conftest import Space
from tests.services.conftest import Fleet, Outage
from tests.transports import WAITS

STREAMS = (
    Datastream("Uptime", "V0", "int", 0, 1000),
    Datastream("Temperature", "V1", "double"),
    Datastream("Where", "V4", "location"),
    Datastream("Published at", "V6", "string"),
    Datastream("Millis", "V14", "int"),
    Datastream("Voltage", "V15", "double"),
    Datastream("LED", "V16", "int", 0, 1),
    Datastream("Button", "V17", "int", 0, 1),
)

GET_CALLS = (
    "get",
    "getAll",
    "isHardwareConnected",
    "update/property",
    "logEvent",
    "device/meta",
    "device/meta/update",
    "provision",
)

WEBHOOK = "/external/api/batch/update?token={t}&V6={at}&V14={v14}&V15={v15}&V16={v16}&V17={v17}"
"""The template of seed 002, as Particle fills it in (spec blynk-device-api C.4)."""


@dataclass
class Response:
    status: int
    headers: "dict[str, str]"
    body: str


@dataclass
class Site:
    """The API on a socket, and a provisioned device's token."""

    space: Space
    data: Data
    session: aiohttp.ClientSession
    token: str
    address: str

    async def get(self, path: str, method: str = "GET", **options: object) -> Response:
        """Ask for a path below the API, with the device's token; `path` is on the wire as it is here."""
        call, _, query = path.partition("?")
        return await self.ask(
            f"/external/api/{call}?token={self.token}" + (f"&{query}" if query else ""), method, **options
        )

    async def ask(self, path: str, method: str = "GET", **options: object) -> Response:
        url = yarl.URL(self.address + path, encoded=True)
        async with self.session.request(method, url, **options) as response:  # type: ignore[arg-type]
            return Response(response.status, dict(response.headers), await response.text())

    async def refused(self, path: str, method: str = "GET", **options: object) -> str:
        response = await self.get(path, method, **options)
        assert response.status == 400
        return message(response)

    async def latest(self) -> dict[str, object]:
        (device,) = await self.space.rows("SELECT id FROM device")
        return await self.data.latest(device["id"])


def message(response: Response) -> str:
    """What a refusal says; it is of Blynk's shape, to the byte."""
    assert response.headers["Content-Type"].startswith("application/json")
    text = json.loads(response.body)["error"]["message"]
    assert response.body == json.dumps({"error": {"message": text}}, separators=(",", ":"))
    return str(text)


@asynccontextmanager
async def serve(space: Space, database: Database) -> AsyncIterator[Site]:
    """The API on a database, for a device of the space."""
    fleet = await Fleet.make(space)
    fields = (MetadataField("Serial Number"), MetadataField("Height", "number"))
    await space.profiles.update("sensors", ProfileChange(datastreams=STREAMS, metadata_fields=fields))
    token = (await fleet.ask("heater-1"))["credentialsValue"]
    access, data = Access(database, space.keys), Data(database, space.keys)
    datastreams = Datastreams(database, data)
    http = HttpTransport(space.provisioning, space.database.ping, access=access, datastreams=datastreams)
    host, port = await http.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        yield Site(space, data, session, token, f"http://{host}:{port}")
    await http.stop(0)
    await access.drain()
    await data.drain()


@pytest.fixture
async def site(space: Space) -> AsyncIterator[Site]:
    async with serve(space, space.database) as served:
        yield served


async def test_the_particle_webhook_of_the_seed_is_taken_and_shows_the_device_online(site: Site) -> None:
    assert (await site.get("isHardwareConnected")).body == "false"
    at = quote("2026-11-22T05:01:07.250Z")
    filled = WEBHOOK.format(t=site.token, at=at, v14="123456789", v15="3.700000", v16="1", v17="0")

    response = await site.ask(filled)

    assert (response.status, response.body) == (200, "")
    assert await site.latest() == {
        "Published at": "2026-11-22T05:01:07.250Z",
        "Millis": 123456789,
        "Voltage": 3.7,
        "LED": 1,
        "Button": 0,
    }
    assert (await site.get("isHardwareConnected")).body == "true"


async def test_a_webhook_whose_event_lacks_variables_leaves_those_as_they_are(site: Site) -> None:
    await site.ask(WEBHOOK.format(t=site.token, at="before", v14="1", v15="2", v16="0", v17="1"))
    response = await site.ask(WEBHOOK.format(t=site.token, at="after", v14="", v15="", v16="1", v17=""))
    assert (response.status, response.body) == (200, "")
    assert await site.latest() == {"Published at": "after", "Millis": 1, "Voltage": 2.0, "LED": 1, "Button": 1}
    assert (await site.ask(WEBHOOK.format(t=site.token, at="", v14="", v15="", v16="", v17=""))).status == 200


async def test_a_webhook_before_its_ledger_is_there_has_no_token(site: Site) -> None:
    response = await site.ask(WEBHOOK.format(t="", at="now", v14="1", v15="2", v16="0", v17="1"))
    assert (response.status, message(response)) == (400, "Invalid token.")
    assert await site.latest() == {}


async def test_what_particle_adds_to_a_webhook_is_ignored(site: Site) -> None:
    added = "event=blynk_https_get&data=%7B%7D&coreid=0123456789abcdef&published_at=2026-11-22T05%3A01%3A07.250Z"
    assert (await site.get(f"batch/update?{added}&V16=1")).status == 200
    assert await site.latest() == {"LED": 1}
    assert (await site.get("update?V17=1&event=x")).status == 200
    assert (await site.get("get?V17&event=x")).body == "1"


async def test_who_has_no_token_is_told_so_by_every_call(site: Site) -> None:
    calls = [("GET", call) for call in (*GET_CALLS, "update", "batch/update")]
    for method, call in (*calls, ("POST", "update"), ("POST", "batch/update")):
        tokens = ("", "wrong", "device", "%00", "%ED%A0%80", f"x&token={site.token}")
        for query in (*(f"?token={token}&v1=1" for token in tokens), f"?Token={site.token}&v1=1", ""):
            response = await site.ask(f"/external/api/{call}{query}", method)
            assert (response.status, message(response)) == (400, "Invalid token.")
    assert await site.latest() == {}


UPDATES: tuple[tuple[str, dict[str, object]], ...] = (
    ("v1=100", {"Temperature": 100.0}),
    ("V1=100", {"Temperature": 100.0}),
    ("dataStreamId=1&value=-2.5", {"Temperature": -2.5}),
    ("pin=V1&value=3", {"Temperature": 3.0}),
    ("pin=v4&value=30.5&value=50.45", {"Where": [30.5, 50.45]}),
    ("dataStreamId=4&value=30.5&value=50.45", {"Where": [30.5, 50.45]}),
    ("v4=30.5&v4=50.45", {"Where": [30.5, 50.45]}),
    ("v6=a+b%20c%2B%C3%BC", {"Published at": "a b c+ü"}),
    ("v6=", {"Published at": ""}),
    ("v0=1000000000000000", {"Uptime": 1000}),
    ("v0=-1", {"Uptime": 0}),
    ("v0=1&v1=2", {"Uptime": 1, "Temperature": 2.0}),
)


async def test_update(site: Site) -> None:
    for method in ("GET", "POST"):
        for query, expected in UPDATES:
            response = await site.get(f"update?{query}", method)
            assert (response.status, response.body) == (200, "")
            assert await site.latest() == expected
            await site.space.rows("DELETE FROM telemetry")


REFUSALS = (
    ("update", "Wrong pin format."),
    ("update?x=1", "Wrong pin format."),
    ("update?v256=1", "Wrong pin format."),
    ("update?pin=1&value=1", "Wrong pin format."),
    ("update?v2=1", "No datastream setup for that pin."),
    ("update?v1=hot", "Value doesn't match the Datastream data type."),
    ("update?v1=", "Value doesn't match the Datastream data type."),
    ("update?v1", "Value doesn't match the Datastream data type."),
    ("update?pin=v1", "Value doesn't match the Datastream data type."),
    ("update?v1=1&v1=2", "Value doesn't match the Datastream data type."),
    ("update?v6=" + "x" * 1025, "Value doesn't match the Datastream data type."),
    ("update?dataStreamId=V1&value=1", "Wrong dataStreamId format."),
    ("update?dataStreamId=1&value=hot", "Value doesn't match the Datastream data type"),
    ("batch/update", "Wrong pin format."),
    ("batch/update?pin=V1&value=2", "Wrong pin format."),
    ("batch/update?v0=1&v1=hot", "Value doesn't match the Datastream data type"),
    ("get", "Wrong pin format."),
    ("get?1", "Wrong pin format."),
    ("get?v2", "Requested dataStream doesn't exist in the product sensors"),
    ("get?v1&v2", "Requested dataStream doesn't exist in the product sensors"),
    ("get?dataStreamId=2", "Requested dataStream doesn't exist in the product sensors"),
    ("get?dataStreamId=x", "Wrong dataStreamId format."),
    ("update/property?color=red", "Wrong pin format."),
    ("update/property?pin=v2&color=red", "No datastream setup for that pin."),
    ("update/property?pin=v1", "Wrong property format."),
    ("logEvent", "Event code is not provided."),
    ("logEvent?code=", "Event code is not provided."),
    ("logEvent?code=hot&description=It+burns", "Can't find Event with this code in Product template"),
    ("device/meta", "Wrong metaField format."),
    ("device/meta?metaFieldId=", "Wrong metaField format."),
    ("device/meta?metaFieldId=77", "MetaField doesn't exist."),
    ("device/meta?metaFieldName=serial", "MetaField doesn't exist."),
    ("device/meta/update?value=1", "Wrong metaField format"),
    ("device/meta/update?metaFieldId=77&value=1", "MetaField doesn't exist"),
    ("device/meta/update?metaFieldId=4&value=high", "Wrong value"),
    ("device/meta/update?metaFieldId=3", "Wrong value"),
    ("provision", "The device is of another template."),
    ("provision?templateId=TMPLother", "The device is of another template."),
)


async def test_a_refusal_is_in_blynks_words(site: Site) -> None:
    for path, expected in REFUSALS:
        assert await site.refused(path) == expected, path
    assert await site.latest() == {}


async def test_get(site: Site) -> None:
    assert (await site.get("get?v1")).body == ""
    assert (await site.get("getAll")).body == "{}"
    await site.get("batch/update?v0=1&v1=2&v6=string&v4=12&v4=11")

    for path, body, type_ in (
        ("get?v0", "1", "application/json"),
        ("get?V1", "2.0", "application/json"),
        ("get?v1&V1", "2.0", "application/json"),
        ("get?pin=V1", "2.0", "application/json"),
        ("get?v6", "string", "text/plain; charset=utf-8"),
        ("get?v4", "[12.0,11.0]", "application/json"),
        ("get?dataStreamId=1", "2.0", "application/json"),
        ("get?v1&V6&v17", '{"v1":2.0,"v6":"string"}', "application/json"),
        ("get?dataStreamId=0&dataStreamId=1", '{"v0":1,"v1":2.0}', "application/json"),
        ("getAll", '{"v0":1,"v1":2.0,"v4":[12.0,11.0],"v6":"string"}', "application/json"),
    ):
        response = await site.get(path)
        assert (response.status, response.body, response.headers["Content-Type"]) == (200, body, type_)


async def test_asking_does_not_make_a_device_online(site: Site) -> None:
    for path in ("get?v1", "getAll", "isHardwareConnected", "device/meta?metaFieldId=1"):
        assert (await site.get(path)).status == 200
    connected = await site.get("isHardwareConnected")
    assert (connected.body, connected.headers["Content-Type"]) == ("false", "application/json")


async def test_a_timestamped_batch(site: Site) -> None:
    now = int(await site.space.value("SELECT extract(epoch FROM now())") * 1000)
    points = [[now - 2000, 1.0], [now - 1000, 2.0]]
    response = await site.get("batch/update?pin=v1", "POST", json=points)
    assert (response.status, response.body) == (200, "OK")
    assert await site.latest() == {"Temperature": 2.0}
    assert [tuple(row) for row in await site.space.rows("SELECT ts, value FROM telemetry_history ORDER BY ts")] == [
        (now - 2000, 1.0),
        (now - 1000, 2.0),
    ]
    assert (await site.get("isHardwareConnected")).body == "true"


async def test_the_largest_batch_is_taken_and_one_point_more_is_not(site: Site) -> None:
    now = int(await site.space.value("SELECT extract(epoch FROM now())") * 1000)
    points = [[now - number, -number / 3] for number in range(10_000)]
    response = await site.get("batch/update?pin=v1", "POST", json=points)
    assert (response.status, response.body) == (200, "OK")
    refused = await site.refused("batch/update?pin=v1", "POST", json=[*points, [now, 1]])
    assert refused == "Too much data in batch. Maximum batch size is 10000 points."


async def test_a_batch_that_says_it_is_too_large_is_not_waited_for(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", yarl.URL(site.address).port)
    target = f"/external/api/batch/update?pin=v1&token={site.token}"
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2097153\r\n\r\n"
    writer.write(head.encode())
    assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 413 Request Entity Too Large\r\n"
    writer.close()
    await writer.wait_closed()


async def test_a_timestamped_batch_that_is_not_right_is_refused(site: Site) -> None:
    url = "batch/update?pin=v1"
    assert await site.refused(url, "POST", data=b"[[1,2]]") == "Unknown content type."
    text = {"Content-Type": "text/plain"}
    assert await site.refused(url, "POST", data=b"[[1,2]]", headers=text) == "Unknown content type."
    assert "Expected" in await site.refused(url, "POST", json={"v1": 1})
    assert "month" in await site.refused(url, "POST", json=[[1, 2]])
    assert await site.refused("batch/update", "POST", json=[]) == "Wrong pin format."
    assert await site.refused("batch/update?pin=v2", "POST", json=[]) == "No datastream setup for that pin."
    assert await site.latest() == {}


async def test_metadata(site: Site) -> None:
    name = await site.get("device/meta?metaFieldId=1")
    assert name.body == '{"id":1,"name":"Device Name","type":"DeviceName","value":"heater-1"}'
    assert (await site.get("device/meta?1")).body == name.body
    assert (await site.get("device/meta?metaFieldName=Device%20Name")).body == name.body
    assert (await site.get("device/meta?metaFieldId=3")).body == (
        '{"id":3,"name":"Serial Number","type":"text","value":""}'
    )

    for update in ("metaFieldId=3&value=Sample+value", "metaFieldName=Serial%20Number&value=Sample%20value"):
        response = await site.get(f"device/meta/update?{update}")
        assert (response.status, response.body) == (200, "")
        assert json.loads((await site.get("device/meta?metaFieldId=3")).body)["value"] == "Sample value"
        await site.get("device/meta/update?metaFieldId=3&value=")

    await site.get("update?v4=30.5&v4=50.45")
    where = await site.get("device/meta?metaFieldId=loc.latlon")
    assert json.loads(where.body)["value"] == "50.45 30.5"


async def test_properties_and_provision(site: Site) -> None:
    template = await site.space.value("SELECT template_id FROM device_profile")
    for path in ("update/property?pin=v1&color=%23D3435C&isDisabled=1", f"provision?templateId={template}&ver=1.0.0"):
        response = await site.get(path)
        assert (response.status, response.body) == (200, "")
    kept = await site.space.rows("SELECT key, value FROM attribute WHERE scope = 'CLIENT' ORDER BY key")
    assert [tuple(row) for row in kept] == [
        ("mcu.tmpl", template),
        ("mcu.ver", "1.0.0"),
        ("property.Temperature.color", "#D3435C"),
        ("property.Temperature.isDisabled", "1"),
    ]


async def test_there_is_no_other_call(site: Site) -> None:
    unknown = ("", "nonsense", "Update", "getall", "get/", "update/v1", "data/get")
    wrong = (("PUT", "update"), ("DELETE", "update"), ("HEAD", "update"), ("HEAD", "batch/update"), ("POST", "getAll"))
    for method, call in (*(("GET", call) for call in unknown), *wrong, ("POST", "upload")):
        response = await site.get(f"{call}?v1=1", method)
        assert response.status == 404
        assert method == "HEAD" or message(response) == "There is no such call."
    assert await site.latest() == {}


async def test_a_browser_may_ask(site: Site) -> None:
    for response in (await site.get("getAll"), await site.get("get"), await site.get("batch/update", "OPTIONS")):
        assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_while_the_database_is_away_no_token_is_invalid(space: Space, database_url: str) -> None:
    async with Outage.prepare(database_url) as outage, serve(space, outage.database) as site:
        await outage.begin()
        for token in (site.token, "wrong"):
            response = await site.ask(WEBHOOK.format(t=token, at="now", v14="1", v15="2", v16="0", v17="1"))
            assert response.status == 503
            assert int(response.headers["Retry-After"]) in WAITS
            assert "try again" in message(response)
        outage.end()
        assert (await site.get("update?v1=1")).status == 200


async def test_no_token_is_ever_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for path in ("update?v1=1", "update?v1=hot", "nonsense", "batch/update?event=x&V16=1"):
        await site.get(path)
    await site.ask("/external/api/getAll?token=guess4Efe2r5")
    for secret in (site.token, "guess4Efe2r5"):
        assert secret not in caplog.text
