import json

from tests.admin.conftest import Caller


async def test_the_chain_is_verified(admin: Caller) -> None:
    await admin.ok("POST", "/profiles", {"name": "wifi-sensor"})
    head = await admin.ok("GET", "/audit/head")
    assert set(head) == {"seq", "mac", "time", "signature"}
    found = await admin.ok("POST", "/audit/verify", {"head": head})
    assert found == {"entries": head["seq"], "waiting": 0, "broken": None}
    found = await admin.ok("POST", "/audit/verify", {})
    assert found["broken"] is None

    refused = await admin("POST", "/audit/verify", {"head": head | {"mac": "00"}})
    assert (refused.status, refused.code) == (422, "invalid")
    for wrong in ({"time": "2026-11-22T00:00:00"}, {"mac": "xyz"}, {"seq": 0}, {"time": "0001-01-01T00:00:00+23:59"}):
        refused = await admin("POST", "/audit/verify", {"head": head | wrong})
        assert refused.status in (400, 422), wrong


async def test_it_is_exported_line_by_line(admin: Caller) -> None:
    await admin.ok("POST", "/profiles", {"name": "wifi-sensor"})
    answer = await admin("GET", "/audit/export")
    assert answer.headers["Content-Type"] == "application/jsonl"
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert [each["action"] for each in lines][-3:] == ["profile.created", "provision_key.added", "audit.exported"]
    refused = await admin("GET", "/audit/export", organization="nothing")
    assert (refused.status, refused.code) == (404, "not_found")
