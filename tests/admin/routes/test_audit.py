import json
from datetime import datetime
from uuid import UUID

from provserver.core import auditchain, ids
from provserver.core.auditchain import Entry, Link, Verifier
from provserver.store import audit, events
from tests.admin.conftest import Caller, Site


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


async def test_details_have_the_names_that_json_has_everywhere(admin: Caller, site: Site) -> None:
    made = await admin.ok("POST", "/profiles", {"name": "wifi-sensor"})
    await admin.ok("PATCH", "/profiles/wifi-sensor", {"twoSidedClaim": True})
    await admin.ok("POST", "/profiles/wifi-sensor/clone", {"name": "copy"})
    await admin.ok("POST", "/organizations", {"name": "Customer"})
    await admin.ok("PATCH", "/organizations/Customer", {"tokenQuota": 5})
    listed = (await admin.ok("GET", "/audit"))["items"]
    details = {each["action"]: each["detail"] for each in reversed(listed)}
    assert details["organization.updated"] == {"tokenQuota": 5}
    assert details["profile.updated"]["changed"] == ["twoSidedClaim"]
    assert details["profile.created"] == {"name": "copy", "cloneOf": made["id"]}

    await admin.ok("GET", "/audit/head")
    lines = [json.loads(line) for line in (await admin("GET", "/audit/export")).body.splitlines()]
    shown = {each["id"]: each["detail"] for each in lines}
    assert {each["id"]: each["detail"] for each in listed}.items() <= shown.items()
    rows = await site.space.rows("SELECT id, detail::text FROM audit")
    assert {each["id"]: each["chained"] for each in lines} == {str(row[0]): row[1] for row in rows}

    verifier = Verifier(auditchain.chain_keys(site.space.keys), {})
    for each in lines[:-1]:  # the last one is the export itself, which is too new to be in the chain
        facts = (UUID(each["id"]), datetime.fromisoformat(each["at"]), UUID(each["organizationId"]))
        entry = Entry(*facts, each["actor"], each["action"], each["subjectId"], each["chained"])
        assert verifier.take(Link(each["seq"], bytes.fromhex(each["mac"]), entry)) is None
    assert (verifier.seq, lines[-1]["seq"]) == (len(lines) - 1, None)

    since = ids.floor(0)
    async with site.space.database.connection() as connection:
        told = await events.audits_since(connection, since, 500)
    assert {str(each.id): each.facts["detail"] for each in told} == shown


def test_only_our_own_names_are_renamed() -> None:
    attributes = ["client_scope:a_key"]
    stored = {"data_kept": True, "changed": ["two_sided_claim"], "written": attributes, "written_count": 3}
    shown = {"dataKept": True, "changed": ["twoSidedClaim"], "written": attributes, "writtenCount": 3}
    assert audit.shown(stored) == shown


async def test_entries_are_filtered_and_actors_have_names(admin: Caller, site: Site) -> None:
    await admin.ok("POST", "/profiles", {"name": "wifi-sensor"})
    listed = (await admin.ok("GET", "/audit", action="profile.created"))["items"]
    (entry,) = listed
    name = await site.space.value("SELECT name FROM api_key WHERE id = $1", UUID(entry["actor"].partition(":")[2]))
    assert entry["actorName"] == name
    for query in ({"actor": entry["actor"]}, {"actor": name}, {"action": "profile"}, {"since": entry["at"]}):
        found = await admin.ok("GET", "/audit", action="profile.created", **({} if "action" in query else query))
        assert found["items"] == listed, query
    assert (await admin.ok("GET", "/audit", actor="nobody"))["items"] == []
    assert (await admin.ok("GET", "/audit", until="2020-01-01T00:00:00Z"))["items"] == []
    assert (await admin("GET", "/audit", until="2020-01-01T00:00:00")).code == "malformed"
    assert (await admin("GET", "/audit", until="0001-01-01T00:00:00Z")).code == "invalid"
