"""The seed's story (spec static-tokens): from a CSV to a device in a customer's hands, and on to the next's."""

import asyncio
import csv
import io
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.firmware_sim.test_cli import Result, simulate
from tests.qrcodes import read_png
from tests.server import Server

CSV = """\
Serial Number,MAC address,Device Name
SN000001,2C:54:91:88:C9:E3,Temperature Sense Node AGHJ
SN000002,5C:62:91:82:C9:E8,Temperature Sense Node KJGF
SN000003,4A:33:54:68:K9:F1,Temperature Sense Node CVBN
"""
PASSWORD = "correct horse battery staple"
FIELDS: list[dict[str, object]] = [{"name": "Serial Number", "unique": True}, {"name": "MAC address"}]


@dataclass
class Person:
    """Somebody with a browser of his own. csrf: the token that unsafe requests carry."""

    session: aiohttp.ClientSession
    url: str
    csrf: str = field(default="", repr=False)

    async def ask(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        """Status and content: JSON where it is."""
        content: dict[str, Any] = {}
        headers = {"X-CSRF-Token": self.csrf} if self.csrf else {}
        if isinstance(body, str):
            content, headers = {"data": body.encode()}, headers | {"Content-Type": "text/csv"}
        elif body is not None:
            content = {"json": body}
        url = f"{self.url}/api/admin{path}"
        async with self.session.request(method, url, params=query, headers=headers, **content) as response:
            raw = await response.read()
            return response.status, json.loads(raw) if "json" in response.content_type else raw

    async def get(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """The content of an answer that must be good."""
        status, content = await self.ask(method, path, body, **query)
        assert status < 300, (method, path, status, content)
        return content

    async def sign_in(self, email: str) -> None:
        self.csrf = (await self.get("POST", "/session", {"email": email, "password": PASSWORD}))["csrfToken"]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    running = Server(tmp_path / "data")
    await asyncio.to_thread(running.start)
    yield running
    await asyncio.to_thread(running.stop)


async def test_from_the_factory_to_the_second_customer(server: Server) -> None:
    async with browser() as one, browser() as two, browser() as three:
        maker, customer, other = (Person(each, f"http://{server.admin}") for each in (one, two, three))

        # The first user, by the link that the first start has left.
        link = (server.data_dir / "setup-link").read_text().strip()
        person = {"link": link.partition("#")[2], "email": "maker@example.com", "password": PASSWORD, "name": "Maker"}
        await maker.get("POST", "/setup", person)
        assert not (server.data_dir / "setup-link").exists()
        await maker.sign_in("maker@example.com")

        # A profile, and the CSV of the seed. Its third MAC address is none, which only a field of that type minds.
        strict = [FIELDS[0], FIELDS[1] | {"type": "mac"}]
        await maker.get("POST", "/profiles", {"name": "strict", "metadataFields": strict, "keyless": True})
        refused = await maker.get("POST", "/static-tokens/import", CSV, profile="strict")
        assert (refused["imported"], refused["errorCount"]) == (0, 1)
        assert (refused["errors"][0]["row"], refused["errors"][0]["column"]) == (3, 2)
        assert refused["errors"][0]["header"] == "MAC address"
        nodes = {"name": "nodes", "metadataFields": FIELDS, "datastreams": [{"name": "Temperature", "pin": "V1"}]}
        await maker.get("POST", "/profiles", nodes | {"keyless": True})
        dry = await maker.get("POST", "/static-tokens/import", CSV, profile="nodes", dryRun="true")
        assert (dry["imported"], dry["errorCount"]) == (3, 0)
        assert (await maker.get("GET", "/static-tokens"))["items"] == []
        assert (await maker.get("POST", "/static-tokens/import", CSV, profile="nodes"))["imported"] == 3

        # The zip: tokens to flash, codes to print.
        archive = zipfile.ZipFile(io.BytesIO(await maker.get("GET", "/static-tokens/export.zip")))
        (name,) = (each for each in archive.namelist() if each.endswith(".csv"))
        rows = list(csv.DictReader(io.StringIO(archive.read(name).decode())))
        assert archive.read(name).startswith(b"Device Token,")
        assert [row["Serial Number"] for row in rows] == ["SN000001", "SN000002", "SN000003"]
        codes = {
            Path(each).stem: read_png(archive.read(each))[0] for each in archive.namelist() if each.endswith(".png")
        }
        number = (await maker.get("GET", "/organizations"))["items"][0]["number"]
        assert codes == {row["Serial Number"]: f"{row['QR Token']}+{number}" for row in rows}
        tokens = [row["Device Token"] for row in rows]

        # The devices connect as they are flashed, and are the maker's, unclaimed. The third one stays in its box.
        for token, transport in zip(tokens, ("mqtt", "http"), strict=False):
            result = await flashed(server, transport, token)
            assert result.code == 0, result.stderr
        devices = {each["name"]: each for each in (await maker.get("GET", "/devices"))["items"]}
        assert set(devices) == {"Temperature Sense Node AGHJ", "Temperature Sense Node KJGF"}
        first = devices["Temperature Sense Node AGHJ"]
        assert (first["staticToken"], first["ownerId"], first["holder"]) == ("UNCLAIMED", None, first["maker"])
        assert await latest(maker, first["id"])

        # The exported token works at once everywhere.
        update = {"token": tokens[1], "V1": "21.5"}
        async with one.get(f"http://{server.http}/external/api/batch/update", params=update) as response:
            assert response.status == 200
        for login in (("device", tokens[1]), (tokens[1], None)):
            async with mqtt(server, *login) as session:
                assert session.code == 0

        # Two customers are invited, each into an organization below the maker's.
        for person_, email in ((customer, "customer@example.com"), (other, "other@example.com")):
            organization = await maker.get("POST", "/organizations", {"name": email})
            invitation = {"email": email, "role": "user", "organization": organization["id"]}
            invited = await maker.get("POST", "/users", invitation)
            accepted = {"link": invited["link"].rpartition("#")[2], "password": PASSWORD}
            await person_.get("POST", "/invitations/accept", accepted)
            await person_.sign_in(email)
            assert (await person_.get("GET", "/devices"))["items"] == []

        # The customer scans the code; whoever scans it next hears no more than about a code that was never made.
        claimed = (await customer.get("POST", "/static-tokens/claim", {"qr": codes["SN000001"]}))["device"]
        assert (claimed["id"], claimed["holder"]) == (first["id"], "customer@example.com")
        status, refusal = await other.ask("POST", "/static-tokens/claim", {"qr": codes["SN000001"]})
        unknown = await other.ask("POST", "/static-tokens/claim", {"qr": "sqr_" + "x" * 32})
        assert (status, refusal) == unknown
        assert status == 404
        assert [each["id"] for each in (await customer.get("GET", "/devices"))["items"]] == [first["id"]]
        assert (await other.ask("GET", f"/devices/{first['id']}"))[0] == 404
        shown = await customer.get("GET", f"/devices/{first['id']}")
        assert tokens[0] not in json.dumps(shown)
        assert tokens[0] not in json.dumps(
            (await customer.ask("GET", f"/devices/{first['id']}", credentials="true"))[1]
        )
        assert (await customer.ask("GET", f"/static-tokens/{first['id']}", open="true"))[0] in (403, 404)
        assert (await flashed(server, "mqtt", tokens[0])).code == 0
        assert await latest(customer, first["id"])

        # A code in a box that was never opened is claimed as well.
        boxed = await customer.get("POST", "/static-tokens/claim", {"qr": codes["SN000003"].partition("+")[0]})
        assert boxed["device"]["holder"] == "customer@example.com"

        # Returned: the maker disclaims it, and what the customer's device has sent is gone.
        await maker.get("POST", f"/static-tokens/{first['id']}/disclaim")
        assert (await customer.ask("GET", f"/devices/{first['id']}"))[0] == 404
        assert await latest(maker, first["id"]) == {}
        assert (await flashed(server, "coap", tokens[0])).code == 0
        returned = await maker.get("GET", f"/devices/{first['id']}")
        assert (returned["staticToken"], returned["holder"]) == ("UNCLAIMED", returned["maker"])
        again = await other.get("POST", "/static-tokens/claim", {"qr": codes["SN000001"]})
        assert again["device"]["holder"] == "other@example.com"

        # Deleted: whoever is connected is cut, and nobody comes in with it again.
        async with mqtt(server, tokens[0]) as session:
            assert session.code == 0
            await maker.get("DELETE", f"/static-tokens/{first['id']}", confirm="true")
            assert await session.reader.read() == b""
        async with mqtt(server, tokens[0]) as session:
            assert session.code == 5
        assert (await flashed(server, "http", tokens[0])).code != 0
        assert (await other.ask("GET", f"/devices/{first['id']}"))[0] == 404

        # All of it is in the audit, and no secret.
        entries = (await maker.get("GET", "/audit", subject=first["id"]))["items"]
        actions = [each["action"] for each in reversed(entries)]
        assert actions.index("static_token.claimed") < actions.index("static_token.disclaimed")
        assert actions[-1] == "static_token.deleted"
        for token in tokens:
            assert token not in json.dumps(entries)
            assert token not in server.log


@dataclass
class Session:
    """code: of the CONNACK of MQTT 3.1.1."""

    code: int
    reader: asyncio.StreamReader


@asynccontextmanager
async def mqtt(server: Server, user: str, password: str | None = None) -> AsyncIterator[Session]:
    """A session, as long as it is needed."""
    texts = ["", user, *([password] if password is not None else [])]
    flags = 0x82 | (0x40 if password is not None else 0)
    body = b"\0\4MQTT\4" + bytes((flags, 0, 60)) + b"".join(len(t).to_bytes(2) + t.encode() for t in texts)
    reader, writer = await asyncio.open_connection(*server.mqtt.rsplit(":", 1))
    try:
        writer.write(b"\x10" + bytes((len(body),)) + body)
        yield Session((await reader.readexactly(4))[3], reader)
    finally:
        writer.close()
        await writer.wait_closed()


def browser() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))  # takes those of an address, too


async def flashed(server: Server, transport: str, token: str) -> Result:
    """A simulated device with a token from the factory: connects, sends one message."""
    command = ("device", "--transport", transport, "--server", server.addresses[transport], "--credentials", "static")
    return await asyncio.to_thread(simulate, *command, "--attempts", "1", FIRMWARE_SIM_TOKEN=token)


async def latest(person: Person, device_id: str) -> dict[str, Any]:
    """What a device last sent."""
    shown = await person.get("GET", f"/devices/{device_id}")
    return {sample["key"]: sample["value"] for sample in shown["telemetry"]}
