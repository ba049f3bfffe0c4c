import json

import pytest

from provserver.admin.console.pages import audit
from provserver.core.authorization import Role
from tests.admin.conftest import Site
from tests.admin.console.conftest import Visit, Visitor

MARKUP = "<script>alert(1)</script>"


async def tamper(site: Site, statement: str) -> None:
    """As somebody does who has the database."""
    async with site.space.database.connection() as connection:
        await connection.execute(
            f"ALTER TABLE audit DISABLE TRIGGER USER; {statement}; ALTER TABLE audit ENABLE TRIGGER USER"
        )


async def test_what_was_done_is_read_and_filtered(visitor: Visitor) -> None:
    profile = await visitor.api("POST", "/profiles", {"name": MARKUP})
    await visitor.api("PATCH", f"/profiles/{profile['id']}", {"twoSidedClaim": True})
    page = await visitor.get("/audit")
    assert page.status == 200
    assert MARKUP not in page.html
    assert "&lt;script&gt;" in page.html
    assert "profile: updated" in page.text
    assert "changed: twoSidedClaim" in page.text
    assert f'href="/profiles/{profile["id"]}"' in page.html
    assert "you" in page.text
    shown = await visitor.get("/audit", part=True, action="provision_key")
    assert "provision key: added" in shown.text
    assert "profile: updated" not in shown.text
    shown = await visitor.get("/audit", subject=profile["id"])
    assert "profile: updated" in shown.text
    assert "user: signed in" not in shown.text
    for query in ({"actor": "person-1@example.com", "action": "profile"}, {"since": "2020-01-01T00:00"}):
        assert "profile: updated" in (await visitor.get("/audit", part=True, headers=None, **query)).text
    for query in ({"actor": "operator", "action": "profile"}, {"until": "2020-01-01T00:00"}):
        assert "Nothing fits" in (await visitor.get("/audit", part=True, headers=None, **query)).text
    assert (await visitor.get("/audit", since="x")).status == 400


async def test_a_search_that_stopped_early_says_so(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        await visitor.api("POST", "/profiles", {"name": name})
    monkeypatch.setattr("provserver.store.audit.LOOKED", 2)
    page = await visitor.get("/audit", action="user")
    assert "Searched back to" in page.text
    assert "Search further back" in page.text


async def test_the_chain_is_verified_in_words(visitor: Visitor) -> None:
    page = await visitor.get("/audit/chain", part=True)
    assert "ends where it was signed to end" in page.text
    verified = await visitor.post("/audit/verify", head="")
    assert "entries are as they were made" in verified.text
    head = await visitor.get("/audit/head.json")
    assert "attachment" in head.headers["Content-Disposition"]
    verified = await visitor.post("/audit/verify", head=head.html)
    assert "The head that you saved is among them" in verified.text
    for wrong in ("{", "[]", "{}"):
        refused = await visitor.post("/audit/verify", head=wrong)
        assert refused.status == 400, wrong
        assert "seq" in refused.text


async def test_an_entry_that_was_altered_is_told_loudly(visitor: Visitor, site: Site) -> None:
    await visitor.get("/audit/chain", part=True)
    await tamper(site, "UPDATE audit SET actor = 'nobody' WHERE seq = 1")
    verified = await visitor.post("/audit/verify", head="")
    assert verified.status == 200
    assert "The audit is broken at entry 1" in verified.text
    assert "Altered, or put here from another place" in verified.text
    assert "The 0 entries before it" in verified.text
    assert 'role="alert"' in verified.html


async def test_a_chain_that_was_cut_off_is_told_loudly(visitor: Visitor, site: Site) -> None:
    await visitor.get("/audit/chain", part=True)
    await tamper(site, "DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)")
    page = await visitor.get("/audit/chain", part=True)
    assert page.status == 200
    assert "The audit is broken" in page.text
    assert "Keep a copy of the database" in page.text
    verified = await visitor.post("/audit/verify")
    assert "Cut off" in verified.text


async def test_it_is_exported(visitor: Visitor) -> None:
    exported = await visitor.get("/audit/export.jsonl")
    assert exported.headers["Content-Type"] == "application/jsonl"
    assert [json.loads(line)["action"] for line in exported.html.splitlines()][-1] == "audit.exported"


async def test_who_may_read_it(visit: Visit, site: Site) -> None:
    staff = await visit(Role.STAFF)
    for path in ("/audit", "/audit/chain", "/audit/head.json", "/audit/export.jsonl"):
        assert (await staff.get(path)).status == 403
    customer = await site.api.services.organizations.create(site.operator, "customer")
    below = await visit(Role.ADMIN, customer.id)
    page = await below.get("/audit")
    assert page.status == 200
    assert "organization: created" in page.text  # its own, and nothing from above
    assert "person-1@example.com" not in page.text
    assert "The chain is the whole server's" in (await below.get("/audit/chain", part=True)).text
    assert (await below.post("/audit/verify")).status == 403


def test_details_are_put_into_words() -> None:
    detail = {"dataKept": True, "changed": ["a", "b"], "count": 7, "name": "", "none": None, "more": {"x": [1]}}
    assert audit._members(detail) == [
        ("data kept", "yes"),
        ("changed", "a, b"),
        ("count", "7"),
        ("name", "empty"),
        ("none", "none"),
        ("more", "x: 1"),
    ]
