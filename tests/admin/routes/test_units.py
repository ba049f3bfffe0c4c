import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from provserver.admin.routes import units
from provserver.core.authorization import Role
from provserver.services import eol
from provserver.store import eol as store
from tests.admin.conftest import Caller, Site

UNITS = "/static-tokens/units"
UNIT = {"profile": "node", "unit": "SN-1"}


@pytest.fixture(autouse=True)
async def tokens(admin: Caller) -> list[Any]:
    """Of a profile with two."""
    await admin.ok("POST", "/profiles", {"name": "node"})
    made = await admin.ok("POST", "/static-tokens", {"profile": "node", "count": 2})
    return list(made["items"])


@asynccontextmanager
async def holding(site: Site, caller: Caller, unit: str = "SN-1") -> AsyncIterator[aiohttp.ClientResponse]:
    headers = {"Authorization": f"Bearer {caller.key}"}
    url = f"{site.url}/api/admin{UNITS}/hold"
    async with site.session.get(url, params=UNIT | {"unit": unit}, headers=headers) as response:
        yield response


async def test_a_unit_gets_its_token_through_the_api(admin: Caller, tokens: list[Any]) -> None:
    reserved = await admin.ok("POST", f"{UNITS}/reserve", UNIT)
    again = await admin.ok("POST", f"{UNITS}/reserve", UNIT)
    said = {"tokenId": reserved["tokenId"], "unit": "SN-1"}
    written = await admin.ok("POST", f"{UNITS}/written", said)
    twice = await admin.ok("POST", f"{UNITS}/written", said)

    assert again == reserved | {"resumed": True}
    assert (reserved["tokenId"], reserved["number"]) == (tokens[0]["id"], tokens[0]["number"])
    assert (reserved["profile"], reserved["templateId"]) == ("node", tokens[0]["templateId"])
    assert twice == written
    assert (written["unit"], written["state"], written["token"]) == ("SN-1", "written", reserved["number"])
    assert (await admin("POST", f"{UNITS}/reserve", UNIT)).code == "conflict"
    shown = await admin.ok("GET", f"/static-tokens/{reserved['tokenId']}", open=True)
    for secret in ("authToken", "qrToken", "qrPayload"):
        assert shown[secret] == reserved[secret]
    entries = (await admin.ok("GET", "/audit", subject=reserved["tokenId"]))["items"]
    actions = [entry["action"].partition(".")[2] for entry in entries]
    assert actions == ["shown", "written", "reserved", "reserved"]
    assert all(entry["actor"].startswith("key:") for entry in entries)
    assert reserved["authToken"] not in json.dumps(entries)


async def test_a_token_that_was_exported_is_not_given(admin: Caller, tokens: list[Any]) -> None:
    await admin("GET", "/static-tokens/export.csv", id=tokens[0]["id"])

    assert (await admin.ok("POST", f"{UNITS}/reserve", UNIT))["tokenId"] == tokens[1]["id"]
    refused = await admin("POST", f"{UNITS}/reserve", UNIT | {"unit": "SN-2"})
    assert refused.code == "conflict"
    assert "1 may be in units already" in refused.json["detail"]


async def test_a_line_is_looked_at_and_a_token_given_up(admin: Caller) -> None:
    reserved = await admin.ok("POST", f"{UNITS}/reserve", UNIT)
    failed = await admin.ok("POST", f"{UNITS}/fail", UNIT | {"reason": "a dead board"})
    found = await admin.ok("GET", UNITS, profile="node")

    assert (failed["state"], failed["tokenId"]) == ("failed", reserved["tokenId"])
    counts = {name: found[name] for name in ("free", "reserved", "written", "failed")}
    assert counts == {"free": 1, "reserved": 0, "written": 0, "failed": 1}
    assert found["units"] == [failed]
    assert (await admin.ok("GET", UNITS, profile="node", state="written"))["units"] == []
    assert (await admin("POST", f"{UNITS}/fail", UNIT)).code == "not_found"
    assert (await admin("POST", f"{UNITS}/written", {"tokenId": reserved["tokenId"], "unit": "SN-1"})).status == 409


async def test_a_unit_is_one_station_s_while_it_reads(
    site: Site, admin: Caller, tokens: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with holding(site, admin) as held:
        assert (held.status, held.headers["Content-Type"]) == (200, "application/jsonl")
        assert json.loads(await held.content.readline()) == {"profile": "node", "templateId": tokens[0]["templateId"]}
        async with holding(site, admin) as second:
            assert (second.status, (await second.json())["code"]) == (409, "conflict")
        async with holding(site, admin, "SN-2") as other:
            assert other.status == 200
        assert await held.content.readline() == b"\n"
    assert 2 * units.HEARTBEAT < store.PATIENCE
    monkeypatch.setattr(store, "PATIENCE", 7.0)  # a machine that stalls notices later
    async with holding(site, admin) as next_:  # at once: it waits until the server has noticed
        assert next_.status == 200


async def test_a_unit_is_not_held_for_ever(site: Site, admin: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "MAX_LIFE", 0)
    async with holding(site, admin) as held:
        await held.content.read()
    assert site.api.services.eol._held == 0


async def test_not_more_units_are_held_than_there_are_connections(
    site: Site, admin: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eol, "MAX_HELD", 1)
    async with holding(site, admin) as held, holding(site, admin, "SN-2") as second:
        assert (held.status, second.status) == (200, 429)


async def test_it_takes_the_permission_to_manage_tokens(site: Site) -> None:
    user = await site.caller(Role.USER)

    async with holding(site, user) as held:
        assert held.status == 403
    assert (await user("POST", f"{UNITS}/reserve", UNIT)).code == "forbidden"
