"""Profiles on pages: what is written, what is shown once, what is refused."""

import pytest

from provserver.core.authorization import Role
from tests.admin.console.conftest import Visit, Visitor
from tests.admin.console.pages.profiles import BASIC, key_and_secret, made

XSS = "<script>alert(1)</script>"


async def test_without_profiles_there_is_a_way_to_one(visitor: Visitor) -> None:
    shown = await visitor.get("/profiles")

    assert shown.status == 200
    assert "No profile yet" in shown.text
    assert 'href="/profiles/new"' in shown.html


async def test_a_profile_is_made_with_all_there_is(visitor: Visitor) -> None:
    assert (await visitor.get("/profiles/new")).status == 200
    rows = [
        ("fieldName", "Serial Number"),
        ("fieldType", "text"),
        ("fieldUnique", "yes"),
        ("fieldOptions", ""),
        ("fieldDefault", ""),
        ("fieldName", "Model"),
        ("fieldType", "list"),
        ("fieldUnique", "no"),
        ("fieldOptions", "A\r\nB, C\r\n"),
        ("fieldDefault", "A"),
        ("fieldName", ""),
        ("fieldType", "text"),
        ("fieldUnique", "no"),
        ("fieldOptions", ""),
        ("fieldDefault", ""),
        ("streamName", "Temperature"),
        ("streamPin", "v0"),
        ("streamType", "double"),
        ("streamMinimum", "-40"),
        ("streamMaximum", ""),
    ]

    shown = await visitor.post(
        "/profiles", rows, name="Wi-Fi sensor", key="generated", lifetime="90", approval="on", **BASIC
    )

    assert shown.status == 200, shown.text
    key, secret = key_and_secret(shown)
    profile = await visitor.api("GET", "/profiles/Wi-Fi sensor")
    assert profile["provisionDeviceKeys"] == [key]
    assert [
        (each["name"], each["type"], each["unique"], each["options"], each["default"])
        for each in profile["metadataFields"]
    ] == [
        ("Serial Number", "text", True, [], ""),
        ("Model", "list", False, ["A", "B, C"], "A"),
    ]
    assert profile["datastreams"] == [
        {"name": "Temperature", "pin": "V0", "type": "double", "minimum": -40.0, "maximum": None}
    ]
    assert profile["credentialsLifetime"] == 90 * 86_400
    assert profile["approval"]
    for path in ("", "/keys", "/firmware", "/settings", "/fields", "/datastreams", "/certificates"):
        page = await visitor.get(f"/profiles/{profile['id']}{path}")
        assert page.status == 200, page.text
        assert secret not in page.html


async def test_a_key_of_ones_own_and_none(visitor: Visitor) -> None:
    own = await visitor.post(
        "/profiles", name="own", key="own", provisionDeviceKey="it's", provisionDeviceSecret="s", **BASIC
    )
    assert "it&#39;s" in own.html
    assert (await visitor.api("GET", "/profiles/own"))["provisionDeviceKeys"] == ["it's"]

    none = await visitor.post("/profiles", name="none", key="none", **BASIC)
    profile = await visitor.api("GET", "/profiles/none")
    assert none.location == f"/profiles/{profile['id']}"
    assert "no provision key" in (await visitor.get(none.location)).text


async def test_what_is_wrong_is_said(visitor: Visitor) -> None:
    unproven = BASIC | {"reprovisionPolicy": "return_same"}
    refused = await visitor.post("/profiles", name="x", key="generated", **unproven)
    assert refused.status == 422
    assert (await visitor.post("/profiles", name="x", key="generated", accept="on", **unproven)).status == 200
    taken = await visitor.post("/profiles", name="x", key="generated", **BASIC)
    assert taken.status == 409
    assert "exists already" in taken.text
    bad = [
        ("streamName", "T"),
        ("streamPin", "V0"),
        ("streamType", "double"),
        ("streamMinimum", "low"),
        ("streamMaximum", ""),
    ]
    assert "a number" in (await visitor.post("/profiles", bad, name="y", key="none", **BASIC)).text
    odd = [("fieldName", "T"), ("fieldType", "text")]
    assert "load the page again" in (await visitor.post("/profiles", odd, name="y", key="none", **BASIC)).text
    assert (
        "unit of time"
        in (await visitor.post("/profiles", name="y", key="none", lifetime="1", **BASIC | {"lifetimeUnit": "x"})).text
    )


async def test_settings_fields_and_datastreams_are_changed(visitor: Visitor) -> None:
    profile = await made(
        visitor, credentialsLifetime=7200, metadataFields=[{"name": "Color", "type": "list", "options": ["red"]}]
    )
    at = f"/profiles/{profile['id']}"
    revision = str((await visitor.api("GET", at))["revision"])
    page = await visitor.get(f"{at}/settings")
    assert 'value="2"' in page.html
    assert '<option value="3600" selected>' in page.html

    saved = await visitor.post(
        f"{at}/settings",
        name="renamed",
        revision=revision,
        twoSidedClaim="on",
        lifetime="",
        **BASIC | {"strategy": "DISABLED"},
    )

    assert saved.location == at
    changed = await visitor.api("GET", at)
    assert (changed["name"], changed["strategy"], changed["twoSidedClaim"], changed["credentialsLifetime"]) == (
        "renamed",
        "DISABLED",
        True,
        0,
    )
    stale = await visitor.post(f"{at}/settings", name="again", revision=revision, **BASIC)
    assert stale.status == 412, stale.status
    assert "has changed meanwhile" in stale.text

    assert "red" in (await visitor.get(f"{at}/fields")).html
    now = {"revision": str(changed["revision"])}
    row = [
        ("fieldName", "IMEI"),
        ("fieldType", "imei"),
        ("fieldUnique", "yes"),
        ("fieldOptions", "left over"),
        ("fieldDefault", ""),
    ]
    assert (await visitor.post(f"{at}/fields", row, **now)).location == at
    changed = await visitor.api("GET", at)
    assert changed["metadataFields"] == [{"name": "IMEI", "type": "imei", "unique": True, "options": [], "default": ""}]
    assert (await visitor.post(f"{at}/datastreams", revision=str(changed["revision"]))).location == at
    assert "IMEI" in (await visitor.get(at)).text


async def test_a_list_is_searched(visitor: Visitor) -> None:
    await made(visitor, "meter")
    await made(visitor, "Wi-Fi sensor")

    shown = await visitor.get("/profiles", search="METE")
    assert "meter" in shown.text
    assert "Wi-Fi sensor" not in shown.text
    assert "No profile is called that" in (await visitor.get("/profiles", search="nothing")).text


async def test_copies_files_and_the_end(visitor: Visitor) -> None:
    profile = await made(visitor, metadataFields=[{"name": "Serial", "unique": True}])
    at = f"/profiles/{profile['id']}"
    copy = await visitor.post(f"{at}/clone", name="copy")
    assert copy.location.startswith("/profiles/")
    file = await visitor.get(f"{at}/export.toml")
    assert file.headers["Content-Type"].startswith("application/toml")
    assert 'name = "wifi-sensor"' in file.html

    dry = await visitor.post("/profiles/import", toml=file.html, name="from a file")
    assert "This would be made" in dry.text
    assert "Serial : text, unique" in dry.text
    assert len((await visitor.api("GET", "/profiles"))["items"]) == 2
    done = await visitor.post("/profiles/import", toml=file.html, name="from a file", make="yes")
    assert done.location.endswith("/keys")
    assert "is no profile" in (await visitor.post("/profiles/import", toml="name =")).text

    revision = str((await visitor.api("GET", at))["revision"])
    gone = await visitor.post(f"{at}/delete", revision=revision)
    assert gone.location == "/profiles"
    assert (await visitor.get(at)).status == 404


async def test_what_would_be_lost_is_named(visitor: Visitor) -> None:
    profile = await made(visitor)
    at = f"/profiles/{profile['id']}"
    assert "1 provision key: firmware that has it is refused" in (await visitor.get(at)).text
    await visitor.api("POST", "/devices", {"name": "sensor-1", "profile": profile["id"]})

    shown = await visitor.get(at)

    assert "This one has 1 device and 0 static tokens" in shown.text
    assert f'action="{at}/delete"' not in shown.html


async def test_firmware_is_filled_in_for_the_key_that_was_chosen(visitor: Visitor) -> None:
    profile = await made(visitor)
    await visitor.api("POST", f"/profiles/{profile['id']}/keys", {"provisionDeviceKey": "second"})

    shown = await visitor.get(f"/profiles/{profile['id']}/firmware", key="2")

    assert shown.status == 200
    assert '<option value="2" selected>second' in shown.html
    for odd in ("0", "3", "-1", "x", "²"):
        assert (await visitor.get(f"/profiles/{profile['id']}/firmware", key=odd)).status == 200


@pytest.mark.parametrize("role", [Role.STAFF, Role.USER])
async def test_who_may_not_change_sees_no_way_to(visitor: Visitor, visit: Visit, role: Role) -> None:
    profile = await made(visitor)
    other = await visit(role)
    at = f"/profiles/{profile['id']}"
    seen = 200 if role is Role.STAFF else 403
    for path in (
        "/profiles",
        at,
        f"{at}/keys",
        f"{at}/firmware",
        f"{at}/certificates",
        "/request-keys",
        f"{at}/export.toml",
    ):
        shown = await other.get(path)
        assert shown.status == seen, path
        assert 'method="post"' not in shown.html.replace('action="/sign-out"', "").replace(
            '<form method="post"  hx-post="/sign-out"', ""
        )
    for path in ("/profiles/new", "/profiles/import", f"{at}/settings", f"{at}/fields", f"{at}/datastreams"):
        assert (await other.get(path)).status == 403
    for path in (
        "/profiles",
        f"{at}/settings",
        f"{at}/keys",
        f"{at}/keys/removal",
        f"{at}/delete",
        f"{at}/clone",
        "/request-keys",
    ):
        assert (await other.post(path, name="x", key="x")).status == 403


async def test_names_are_only_text(visitor: Visitor) -> None:
    profile = await made(
        visitor,
        XSS,
        metadataFields=[{"name": XSS, "type": "list", "options": [XSS], "default": XSS}],
        datastreams=[{"name": XSS, "pin": "V0"}],
        provisionDeviceKey=XSS,
        provisionDeviceSecret="s",
    )
    for path in ("", "/keys", "/firmware", "/settings", "/fields", "/datastreams", "/certificates"):
        shown = await visitor.get(f"/profiles/{profile['id']}{path}")
        assert shown.status == 200
        assert XSS not in shown.html
        assert "&lt;script&gt;" in shown.html
    assert XSS not in (await visitor.get("/profiles")).html
    assert XSS not in (await visitor.get(f"/profiles/{profile['id']}/firmware", device=XSS)).html
