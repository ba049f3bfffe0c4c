"""Secrets that are used on every way there is appear nowhere but where they belong: no log line, metric, audit entry,
event, error, row, file name or command line holds one.
"""

import asyncio
import json
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest

from provserver.store.embedded import connectable
from tests.firmware_sim.test_cli import simulate
from tests.server import Server
from tests.test_story import Person, browser, mqtt

PLANTED = "Pl4nted"
"""What begins each secret that a test may choose: what is found of one says which it is."""

LISTS = (
    *("/audit", "/attempts", "/devices", "/profiles", "/users", "/keys", "/static-tokens", "/webhooks", "/jobs"),
    *("/integrations", "/particle", "/wifi-sessions"),
)


class Planted:
    """Every secret of the test, by what it is."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def choose(self, what: str, length: int = 32) -> str:
        """A secret of our own choice."""
        return self.know(what, f"{PLANTED}{secrets.token_hex(length)}"[:length])

    def know(self, what: str, secret: str) -> str:
        """A secret that the server has made."""
        assert len(secret) >= 16, what
        self._found[secret] = what
        return secret

    def within(self, text: str) -> list[str]:
        """What of it a text holds, in clear or in hex."""
        return [what for secret, what in self._found.items() if secret in text or secret.encode().hex() in text]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One that tells all it can: every listener, at the level of debugging."""
    options = ("--metrics", "127.0.0.1:0")
    with Server(tmp_path / "data", *options, env={"PROVSERVER_LOG_LEVEL": "debug"}, tls=True, fresh=True) as running:
        yield running


async def test_no_secret_is_anywhere_it_does_not_belong(server: Server, tmp_path: Path) -> None:
    planted = Planted()
    told: list[str] = []  # every answer that must hold none
    async with browser() as one, browser() as two:
        maker, customer = Person(one, f"http://{server.admin}"), Person(two, f"http://{server.admin}")
        await people(server, planted, maker, customer)
        await devices(server, planted, maker, one, tmp_path, told)
        await tokens(server, planted, maker, customer, one)
        await networks(planted, maker, told)
        await wifi(server, planted, maker, one, told)
        attempts = (await maker.get("GET", "/attempts"))["items"]
        paths = [*LISTS, *(f"/attempts/{attempt['id']}/explanation" for attempt in attempts)]
        told += [json.dumps(await maker.get("GET", path)) for path in paths]
        async with one.get(f"http://{server.addresses['metrics']}/metrics") as response:
            told.append(await response.text())

    for text in told:
        assert planted.within(text) == [], text
    assert await rows(server, planted) == {}
    assert planted.within(command_lines()) == []
    assert server.stop() == 0
    assert planted.within(server.log) == []
    assert "[redacted]" not in server.log  # the net under it all had nothing to catch
    assert planted.within(file_names(tmp_path)) == []


def command_lines() -> str:
    """What every process of the machine was started with."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended just now
            found.append(path.read_bytes().decode(errors="replace"))
    return "\n".join(found)


def file_names(directory: Path) -> str:
    """Of all that is below a directory."""
    return "\n".join(str(path) for path in directory.rglob("*"))


async def people(server: Server, planted: Planted, maker: Person, customer: Person) -> None:
    """The first user by her link, one who is invited, a program; wrong passwords and keys beside right ones."""
    link = planted.know("set-up link", (server.data_dir / "setup-link").read_text().strip().partition("#")[2])
    password = planted.choose("password")
    await maker.get("POST", "/setup", {"link": link, "email": "maker@example.com", "password": password, "name": "M"})
    wrong = {"email": "maker@example.com", "password": planted.choose("wrong password")}
    assert (await maker.ask("POST", "/session", wrong))[0] == 401
    signed_in = await maker.get("POST", "/session", {"email": "maker@example.com", "password": password})
    maker.csrf = planted.know("CSRF token", signed_in["csrfToken"])
    for cookie in maker.session.cookie_jar:
        planted.know("session", cookie.value)

    organization = await maker.get("POST", "/organizations", {"name": "Customer"})
    invited = {"email": "customer@example.com", "role": "user", "organization": organization["id"]}
    link = planted.know("invitation", (await maker.get("POST", "/users", invited))["link"].rpartition("#")[2])
    chosen = planted.choose("customer's password")
    await customer.get("POST", "/invitations/accept", {"link": link, "password": chosen})
    await customer.get("POST", "/session", {"email": "customer@example.com", "password": chosen})
    assert (await customer.ask("POST", "/invitations/accept", {"link": link, "password": chosen}))[0] >= 400

    key = await maker.get("POST", "/keys", {"name": "factory", "permissions": ["devices:view"]})
    secret = planted.know("API key", key["secret"])
    for given in (secret, planted.choose("wrong API key")):
        headers = {"Authorization": f"Bearer {given}"}
        async with maker.session.get(f"{maker.url}/api/admin/devices?token={given}", headers=headers) as response:
            await response.read()


async def devices(
    server: Server, planted: Planted, maker: Person, session: aiohttp.ClientSession, directory: Path, told: list[str]
) -> None:
    """Each kind of credentials on each transport, right and wrong, in bodies, URLs, user names and keys."""
    secret = planted.choose("provision secret")
    key = (await maker.get("POST", "/profiles", {"name": "any", "provisionDeviceSecret": secret}))["provisionDeviceKey"]
    environment = {"FIRMWARE_SIM_KEY": key, "FIRMWARE_SIM_SECRET": secret}
    for transport in ("http", "mqtt", "coap", "https", "mqtts", "coaps"):
        for kind in ("generated", "token", "basic") if transport == "mqtt" else ("generated",):
            flash = directory / f"{transport}-{kind}.json"
            done = await asyncio.to_thread(
                simulate, "device", "--transport", transport, "--server", server.addresses[transport],
                "--credentials", kind, "--flash", flash, "--json", "--show-credentials", "--telemetry", "1",
                *(["--ca", str(server.ca)] if transport.endswith("s") else []), **environment,
            )  # fmt: skip
            assert done.code == 0, done.stderr
            value = done.json["credentialsValue"]
            for each in value.values() if isinstance(value, dict) else [value]:
                planted.know(f"credentials over {transport}", each)
            if nonce := json.loads(flash.read_text()).get("requestNonce"):
                planted.know("request nonce", nonce)

    url = f"http://{server.http}/api/v1"
    refused: list[dict[str, object]] = [
        {"provisionDeviceKey": key, "provisionDeviceSecret": planted.choose("wrong secret")},
        {"provisionDeviceKey": planted.choose("secret as key"), "provisionDeviceSecret": "x"},
        {"deviceName": planted.choose("secret as name"), "provisionDeviceKey": key, "provisionDeviceSecret": "x"},
        {"provisionDeviceKey": key, "provisionDeviceSecret": secret, "deviceName": "a", "credentialsType": "MQTT_BASIC",
         "username": {}, "password": planted.choose("password of the wrong type")},
        {"provisionDeviceKey": key, "provisionDeviceSecret": secret, "requestNonce": planted.choose("odd nonce") + "!"},
    ]  # fmt: skip
    for body in refused:
        async with session.post(f"{url}/provision", json=body) as response:
            told.append(await response.text())
    async with session.post(f"{url}/provision", data=planted.choose("no JSON").encode()) as response:
        told.append(await response.text())
    token = planted.choose("unknown token")
    for path in (f"{url}/{token}/telemetry", f"http://{server.http}/external/api/get?token={token}&V1"):
        async with session.get(path) as response:
            told.append(await response.text())
    for user, password in ((token, None), ("device", planted.choose("wrong MQTT password"))):
        async with mqtt(server, user, password) as refusal:
            assert refusal.code != 0
    odd = {"name": "b", "profile": "any", "token": planted.choose("token with a control character") + "\x01"}
    status, problem = await maker.ask("POST", "/devices", odd)
    assert status == 400
    told.append(json.dumps(problem))


async def tokens(
    server: Server, planted: Planted, maker: Person, customer: Person, session: aiohttp.ClientSession
) -> None:
    """Static tokens, made, exported, connected with, claimed, and claimed in vain."""
    await maker.get("POST", "/profiles", {"name": "boxed", "keyless": True})
    await maker.get("POST", "/static-tokens", {"profile": "boxed", "count": 2})
    for line in (await maker.get("GET", "/static-tokens/export.csv")).decode().splitlines()[1:]:
        token, qr = line.split(",")[:2]
        planted.know("AuthToken", token)
        planted.know("QR token", qr)
        async with mqtt(server, token) as connected:
            assert connected.code == 0
    for code in (qr, qr, "sqr_" + planted.choose("unknown QR token")[:32]):
        await customer.ask("POST", "/static-tokens/claim", {"qr": code})
    url = f"http://{server.http}/external/api/batch/update"
    async with session.get(url, params={"token": token, "V1": "1"}) as response:
        assert response.status in (200, 400)


async def wifi(
    server: Server, planted: Planted, maker: Person, session: aiohttp.ClientSession, told: list[str]
) -> None:
    """Devices of WiFi sessions: of a template that will do and of none, and one that is put onto another WiFi."""
    template = (await maker.get("POST", "/profiles", {"name": "WiFi", "keyless": True}))["templateId"]
    for each in (template, "TMPLnowhere00"):
        made = await maker.get("POST", "/wifi-sessions", {})
        token = planted.know("token of a WiFi session", made["token"])
        async with mqtt(server, "device", token):
            pass
        query = {"token": token, "templateId": each}
        async with session.get(f"http://{server.http}/external/api/provision", params=query) as response:
            told.append(await response.text())
    (done,) = (await maker.get("GET", "/wifi-sessions", state="SUCCESS"))["items"]
    again = await maker.get("POST", "/wifi-sessions", {"device": done["deviceId"]})
    planted.know("next token of a device", again["token"])


async def networks(planted: Planted, maker: Person, told: list[str]) -> None:
    """The API key of a network, and the secret that its uplinks come with."""
    await maker.get("POST", "/profiles", {"name": "lora", "keyless": True})
    integration = {
        "profile": "lora",
        "network": "chirpstack",
        "applicationId": str(uuid4()),
        "apiKey": planted.choose("API key of a network"),
        "settings": {"lorawanVersion": "MAC_V1_0_3", "address": "network.invalid", "deviceProfileId": str(uuid4())},
    }
    made = await maker.get("POST", "/integrations", integration)
    path = f"/integrations/{made['id']}"
    planted.know("secret of a network's webhook", (await maker.get("POST", path + "/webhook"))["secret"])
    told += [json.dumps(await maker.get("POST", path + "/test")), json.dumps(await maker.get("GET", path))]
    odd = {"apiKey": planted.choose("API key with a blank") + " x"}
    told.append(json.dumps((await maker.ask("PATCH", path, odd))[1]))


async def rows(server: Server, planted: Planted) -> dict[str, list[str]]:
    """What of it the tables of the database hold, by table."""
    found: dict[str, list[str]] = {}
    async with connectable(server.data_dir) as url:
        connection = await asyncpg.connect(url)
        try:
            for (table,) in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
                content: list[Any] = [text for (text,) in await connection.fetch(f'SELECT t::text FROM "{table}" t')]
                if held := planted.within("\n".join(content)):
                    found[table] = held
        finally:
            await connection.close()
    return found
