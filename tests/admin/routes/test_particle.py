from uuid import UUID

from tests.admin.conftest import Caller, Site

TOKEN = "pl4nted0123456789"


async def test_a_product_from_its_making_to_its_end(admin: Caller, site: Site) -> None:
    profile = await admin.ok("POST", "/profiles", {"name": "meters"})
    body = {"profile": "meters", "product": "my-product-v1", "accessToken": TOKEN}
    answer = await admin("POST", "/particle", body)
    assert (answer.status, answer.headers["ETag"]) == (201, '"1"')
    made = answer.json
    assert b"pl4nted" not in answer.body
    assert (made["profileId"], made["ledger"], made["url"]) == (
        profile["id"],
        "blynk-tokens-c2d",
        "https://api.particle.io",
    )
    assert await admin.ok("GET", "/particle") == {"items": [made], "nextCursor": None}
    for reference in (made["id"], "my-product-v1", "meters", profile["id"]):
        assert await admin.ok("GET", f"/particle/{reference}") == made
    changed = await admin("PATCH", "/particle/meters", {"ledger": "other", "accessToken": TOKEN}, {"If-Match": '"1"'})
    assert (changed.json["ledger"], changed.headers["ETag"]) == ("other", '"2"')
    stale = await admin("DELETE", "/particle/meters", None, {"If-Match": '"1"'})
    assert (stale.status, stale.code) == (412, "stale")
    assert await admin.ok("DELETE", "/particle/meters") == changed.json
    assert (await admin("GET", "/particle/meters")).status == 404
    rows = await site.space.rows("SELECT detail FROM audit WHERE action LIKE 'particle.%'")
    assert len(rows) == 3
    assert "pl4nted" not in str([dict(row) for row in rows])


async def test_runs_are_jobs(admin: Caller) -> None:
    profile = await admin.ok("POST", "/profiles", {"name": "meters"})
    await admin.ok("POST", "/particle", {"profile": profile["id"], "product": "p", "accessToken": TOKEN})
    for acting in ("plan", "apply", "verify", "revoke"):
        answer = await admin("POST", f"/particle/p/{acting}", {"group": "pilot"})
        assert (answer.status, answer.json["job"]["kind"]) == (202, f"particle.{acting}")
        shown = await admin.ok("GET", f"/jobs/{answer.json['job']['id']}")
        assert UUID(shown["subjectId"])
        assert b"pl4nted" not in answer.body
        assert (await admin("POST", f"/particle/p/{acting}", {"group": "pilot"})).code == "conflict"


async def test_what_begins_nothing(admin: Caller) -> None:
    await admin.ok("POST", "/profiles", {"name": "meters"})
    for body, code in (
        ({"profile": "meters", "product": "a/b", "accessToken": TOKEN}, "invalid"),
        ({"profile": "meters", "product": "p", "accessToken": TOKEN, "ledger": "No"}, "invalid"),
        ({"profile": "meters", "product": "p", "accessToken": "two pl4nted words"}, "invalid"),
        ({"profile": "meters", "product": "p", "accessToken": TOKEN, "url": "ftp://x"}, "invalid"),
        ({"profile": "nobody-s", "product": "p", "accessToken": TOKEN}, "not_found"),
        ({"profile": "meters", "product": "p"}, "malformed"),
    ):
        answer = await admin("POST", "/particle", body)
        assert answer.code == code, body
        assert b"pl4nted" not in answer.body
    await admin.ok("POST", "/particle", {"profile": "meters", "product": "p", "accessToken": TOKEN})
    assert (await admin("POST", "/particle/p/revoke", {})).code == "invalid"
    assert (await admin("POST", "/particle/p/plan", {"devices": ["x"]})).code == "invalid"
    assert (await admin("POST", "/particle/p/plan", {"all": True})).code == "malformed"
    assert (await admin("POST", "/particle/q/plan", {})).code == "not_found"


async def test_a_test_says_what_is_missing(admin: Caller, site: Site) -> None:
    await admin.ok("POST", "/profiles", {"name": "meters"})
    await admin.ok("POST", "/particle", {"profile": "meters", "product": "p", "accessToken": TOKEN})
    await site.space.rows("UPDATE particle_product SET url = 'http://127.0.0.1:9'")  # where it may not go
    answer = await admin("POST", "/particle/p/test")
    assert (answer.status, answer.json["ready"], answer.json["expiresAt"]) == (200, False, None)
    first, *others = answer.json["findings"]
    assert (first["name"], first["state"]) == ("accessToken", "no")
    assert "outgoing_private" in first["reason"]
    assert first["remedy"]
    assert {each["state"] for each in others} == {"unknown"}
    assert b"pl4nted" not in answer.body
    assert (await admin("POST", "/particle/q/test")).code == "not_found"
