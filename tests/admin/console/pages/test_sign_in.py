"""Signing in and out."""

import pytest

from tests.admin.console.conftest import Visit


async def test_signing_in_and_out(visit: Visit) -> None:
    somebody = await visit()
    assert (await somebody.get("/")).status == 200
    assert (await somebody.get("/sign-in")).location == "/"
    assert (await somebody.post("/sign-out")).location == "/sign-in"
    assert (await somebody.get("/")).status == 303


async def test_a_wrong_password_is_told_in_the_form(visit: Visit) -> None:
    nobody = await visit(None)
    refused = await nobody.post("/sign-in", email="nobody@example.com", password="wrong", next="/")
    assert refused.status == 401
    assert "<html" not in refused.html
    assert "wrong" in refused.text
    assert "new tab" not in refused.text  # this is where people sign in
    assert "new tab" in (await nobody.post("/claim", code="sqr_" + "x" * 32)).text


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "evil",
        "/a\tb",
        "/\t/evil.example",
        "\\\\evil",
        "/ä",
        "//[",
    ],
)
async def test_signing_in_leads_nowhere_else(visit: Visit, path: str) -> None:
    somebody = await visit()
    assert (await somebody.get("/sign-in", next=path)).location == "/"
