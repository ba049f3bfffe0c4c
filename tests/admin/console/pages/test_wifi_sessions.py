"""Pages of WiFi sessions: begun with a token that is shown once, told in words, ended."""

import pytest

from provserver.core.authorization import Role
from tests.admin.console.conftest import Visit, Visitor

EVIL = "Hall <script>alert(1)</script>"


@pytest.fixture(autouse=True)
async def profile(visitor: Visitor) -> str:
    made = await visitor.api("POST", "/profiles", {"name": "lamp", "keyless": True})
    return str(made["id"])


async def test_a_session_from_its_start_to_its_end(visitor: Visitor, profile: str) -> None:
    assert "No WiFi session yet" in (await visitor.get("/wifi-sessions")).text
    form = await visitor.get("/wifi-sessions/new", profile=profile)
    assert f'<option value="{profile}" selected>' in form.html

    begun = await visitor.post("/wifi-sessions", template=profile, name=EVIL, device="", owner="", organization="")

    (made,) = (await visitor.api("GET", "/wifi-sessions"))["items"]
    assert (made["client"], made["profile"], made["deviceName"]) == ("console", "lamp", EVIL)
    assert "Token for the device" in begun.text
    assert "Blynk lamp" in begun.text
    assert 'src="data:image/svg+xml;base64,' in begun.html
    assert EVIL not in begun.html
    page = await visitor.get(f"/wifi-sessions/{made['id']}")
    assert "The session was started" in page.text
    assert 'hx-trigger="every 2s"' in page.html
    assert "Token" not in page.text.replace("Its token", "")

    ended = await visitor.post(f"/wifi-sessions/{made['id']}/cancel")

    assert ended.location == f"/wifi-sessions/{made['id']}"
    after = await visitor.get(ended.location)
    assert "Cancelled" in after.text
    assert "The session was ended" in after.text
    assert 'hx-trigger="every 2s"' not in after.html


async def test_its_last_error_is_told_in_words_with_what_to_do(visitor: Visitor) -> None:
    made = await visitor.api("POST", "/wifi-sessions", {"name": "Hall"})
    await visitor.api("POST", f"/wifi-sessions/{made['id']}/fail", {"error": "wifi_wrong_password"})

    page, listed = await visitor.get(f"/wifi-sessions/{made['id']}"), await visitor.get("/wifi-sessions")

    for shown in (page, listed):
        assert "The WiFi did not take that password." in shown.text
        assert "Type it anew." in shown.text
        assert "wifi_wrong_password" not in shown.text
    assert "0.0 % of those that are over" in listed.text


async def test_a_word_of_the_phone_side_is_shown_as_it_is(visitor: Visitor) -> None:
    made = await visitor.api("POST", "/wifi-sessions", {"name": "Hall"})
    await visitor.api("POST", f"/wifi-sessions/{made['id']}/events", {"event": "app_closed", "error": "app_closed"})

    part = await visitor.get(f"/wifi-sessions/{made['id']}", part=True, headers={"HX-Target": "session"})

    assert "App closed" in part.text
    assert "<html" not in part.html
    assert "<h1" not in part.html


async def test_states_are_filtered(visitor: Visitor) -> None:
    one = await visitor.api("POST", "/wifi-sessions", {"name": "Hall"})
    await visitor.api("POST", "/wifi-sessions", {"name": "Kitchen"})
    await visitor.api("POST", f"/wifi-sessions/{one['id']}/cancel")

    shown = await visitor.get("/wifi-sessions", state="CANCELED", since="")

    assert "Hall" in shown.text
    assert "Kitchen" not in shown.text
    assert "No session is in this state" in (await visitor.get("/wifi-sessions", state="SUCCESS")).text
    assert (await visitor.get("/wifi-sessions", state="nonsense")).status == 400


async def test_another_wifi_for_a_device_that_is_there(visitor: Visitor) -> None:
    device = await visitor.api("POST", "/devices", {"name": "Kitchen", "profile": "lamp"})
    form = await visitor.get("/wifi-sessions/new", device=device["id"])
    assert "Another WiFi for Kitchen" in form.text

    begun = await visitor.post("/wifi-sessions", device=device["id"])

    assert "Token for the device" in begun.text
    (made,) = (await visitor.api("GET", "/wifi-sessions"))["items"]
    assert (made["deviceId"], made["reprovisioning"]) == (device["id"], True)
    told = await visitor.post(f"/wifi-sessions/{made['id']}/reconfigure")
    assert "offline" in (await visitor.get(told.location)).text


async def test_what_is_wrong_is_told_at_the_form(visitor: Visitor) -> None:
    shown = await visitor.post("/wifi-sessions", template="unknown")

    assert shown.status == 404
    assert "no profile" in shown.text.lower() or "no template" in shown.text.lower()


async def test_a_customer_starts_one_by_a_template_id(visit: Visit) -> None:
    user = await visit(Role.USER)

    form = await user.get("/wifi-sessions/new")

    assert "Template id" in form.text
    assert "For somebody else" in form.text
    assert (await user.post("/wifi-sessions", name="Porch")).status == 200
