"""The console's frame: who is let in, what is said when something is wrong, and what browsers are told."""

from tests.admin.console.conftest import Visit, Visitor


async def test_who_is_not_signed_in_signs_in_first(visit: Visit) -> None:
    nobody = await visit(None)
    asked = await nobody.get("/devices", search="a b")
    assert (asked.status, asked.location) == (303, "/sign-in?next=/devices%3Fsearch%3Da%2Bb")
    page = await nobody.get(asked.location)
    assert page.status == 200
    assert 'name="next" value="/devices?search=a+b"' in page.html
    part = await nobody.get("/devices", part=True)
    assert part.status == 401
    assert "Sign in" in part.text


async def test_a_link_from_elsewhere_is_asked_for_once_more_by_our_own_page(visit: Visit) -> None:
    nobody = await visit(None)
    asked = await nobody.get("/devices", headers={"Sec-Fetch-Site": "cross-site"})
    assert (asked.status, asked.headers["Refresh"]) == (200, "0;url=/devices")


async def test_a_query_that_is_none_is_told_to_who_is_known(visitor: Visitor) -> None:
    page = await visitor.get("/devices?search=%ff")
    assert page.status == 400
    assert "percent-encoded" in page.text
    assert "Sign out" in page.text


async def test_what_is_not_there_is_told_as_a_page(visitor: Visitor) -> None:
    page = await visitor.get("/no-such-page")
    assert page.status == 404
    assert "<html" in page.html
    assert "Not found" in page.text
    assert (await visitor.get("/o/999/")).status == 404


async def test_every_page_tells_browsers_to_run_our_scripts_alone(visitor: Visitor) -> None:
    page = await visitor.get("/no-such-page")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["X-Frame-Options"] == "DENY"
    assert page.headers["Cache-Control"] == "no-store"
