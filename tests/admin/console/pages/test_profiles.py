"""Profiles and their keys on pages: what is written, what is shown once, what is refused."""

import re
from typing import Any

import pytest

from provserver.core.authorization import Role
from provserver.core.model import MAX_USES
from provserver.errors import Outcome
from tests.admin.conftest import Site
from tests.admin.console.conftest import Shown, Visit, Visitor
from tests.pki import Authority
from tests.services.conftest import PEER

XSS = "<script>alert(1)</script>"

BASIC = {
    "strategy": "ALLOW_CREATE_NEW_DEVICES",
    "reprovisionPolicy": "deny",
    "clonePolicy": "report",
    "lifetimeUnit": "86400",
}


async def made(visitor: Visitor, name: str = "wifi-sensor", **more: Any) -> dict[str, Any]:
    profile: dict[str, Any] = await visitor.api("POST", "/profiles", {"name": name} | more)
    return profile


def key_and_secret(shown: Shown) -> tuple[str, str]:
    key = re.search(r"Key <span class=\"copy\"><code>([^<]+)</code>", shown.html)
    secret = re.search(r"class=\"secret\".*?<code>([^<]+)</code>", shown.html, re.DOTALL)
    assert key, shown.text
    assert secret, shown.text
    return key[1], secret[1]


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


async def test_keys_are_added_bounded_and_removed(visitor: Visitor) -> None:
    profile = await made(visitor)
    at = f"/profiles/{profile['id']}/keys"
    added = await visitor.post(
        at, networks="192.0.2.0/24\n2001:db8::/32", maxUses="10", perMinute="3", notAfter="2099-01-31T12:00"
    )
    key, secret = key_and_secret(added)
    assert secret in added.html
    page = await visitor.get(at)
    assert "0 of 10 uses" in page.text
    assert "2099-01-31 12:00:00 UTC" in page.text
    assert secret not in page.html

    bound = await visitor.post(f"{at}/bounds", key=key, counted="on")
    assert bound.location == at
    held = {
        each["provisionDeviceKey"]: each for each in (await visitor.api("GET", f"/profiles/{profile['id']}"))["keys"]
    }
    assert (held[key]["maxUses"], held[key]["networks"], held[key]["perMinute"]) == (MAX_USES, [], None)
    assert "0 devices while counted" in (await visitor.get(at)).text
    wrong = await visitor.post(f"{at}/bounds", key=key, networks="here")
    assert "CIDR" in wrong.text

    assert (await visitor.post(f"{at}/removal", key=profile["provisionDeviceKey"])).location == at
    assert "It is the last key of wifi-sensor" in (await visitor.get(at)).text
    await visitor.post(f"{at}/removal", key=key)
    assert "No provision key" in (await visitor.get(at)).text


async def test_seconds_of_a_bound_outlive_a_change_of_another(visitor: Visitor) -> None:
    profile = await made(visitor)
    at = f"/profiles/{profile['id']}/keys"
    until = "2099-01-31T12:00:59Z"
    await visitor.api("POST", f"/profiles/{profile['id']}/keys", {"notAfter": until, "provisionDeviceKey": "second"})
    page = await visitor.get(at)
    shown = re.search(r'name="notAfter"[^>]*value="([^"]+)"|value="(2099[^"]+)"[^>]*name="notAfter"', page.html)
    assert shown is not None
    await visitor.post(f"{at}/bounds", key="second", notAfter=shown[1] or shown[2], perMinute="7")
    held = (await visitor.api("GET", f"/profiles/{profile['id']}"))["keys"]
    assert next(each["notAfter"] for each in held if each["provisionDeviceKey"] == "second") == until


async def test_odd_keys_are_in_no_path(visitor: Visitor) -> None:
    key = "a/b?c#d %41 <b>'\"é"
    profile = await made(visitor, provisionDeviceKey=key, provisionDeviceSecret="s")
    at = f"/profiles/{profile['id']}/keys"

    assert (await visitor.get(at)).status == 200
    assert (await visitor.post(f"{at}/bounds", key=key, perMinute="7")).location == at
    (held,) = (await visitor.api("GET", f"/profiles/{profile['id']}"))["keys"]
    assert held["perMinute"] == 7
    await visitor.post(f"{at}/removal", key=key)
    assert (await visitor.api("GET", f"/profiles/{profile['id']}"))["keys"] == []


async def test_a_key_is_replaced_without_a_gap(visitor: Visitor, site: Site) -> None:
    profile = await made(visitor)
    at = f"/profiles/{profile['id']}/keys"
    old, old_secret = profile["provisionDeviceKey"], profile["provisionDeviceSecret"]
    await visitor.post(f"{at}/bounds", key=old, networks="192.0.2.0/24")

    added = await visitor.post(f"{at}/replacement", key=old)
    new, new_secret = key_and_secret(added)
    assert f"The old key, {old} , stays good" in added.text
    for number, (key, secret) in enumerate([(old, old_secret), (new, new_secret), (new, new_secret)]):
        body = f'{{"deviceName":"d{number}","provisionDeviceKey":"{key}","provisionDeviceSecret":"{secret}"}}'
        answer = await site.space.provisioning.answer(body.encode(), PEER)
        assert answer.outcome is Outcome.SUCCESS

    first, second = (await visitor.api("GET", f"/profiles/{profile['id']}"))["keys"]
    assert (first["uses"], second["uses"]) == (1, 2)
    assert first["networks"] == second["networks"] == ["192.0.2.0/24"]
    page = await visitor.get(at)
    assert "Replacing a key" in page.text
    assert "1 device while counted" in page.text
    assert "2 devices while counted" in page.text
    assert (await visitor.post(f"{at}/removal", key=old)).location == at
    gone = await visitor.post(f"{at}/replacement", key=old)
    assert gone.location == at
    await visitor.post(f"{at}/bounds", key=new, notAfter="2020-01-01T00:00")
    after = await visitor.post(f"{at}/replacement", key=new)
    assert "stays good" not in after.text
    assert f"The old key, {new} , has expired" in after.text


async def test_firmware_is_filled_in_for_the_key_that_was_chosen(visitor: Visitor) -> None:
    profile = await made(visitor)
    await visitor.api("POST", f"/profiles/{profile['id']}/keys", {"provisionDeviceKey": "second"})

    shown = await visitor.get(f"/profiles/{profile['id']}/firmware", key="2")

    assert shown.status == 200
    assert '<option value="2" selected>second' in shown.html
    for odd in ("0", "3", "-1", "x", "²"):
        assert (await visitor.get(f"/profiles/{profile['id']}/firmware", key=odd)).status == 200


async def test_certificates(visitor: Visitor) -> None:
    root, other = Authority.root("Factory"), Authority.root("Other factory")
    body = BASIC | {"strategy": "X509_CERTIFICATE_CHAIN", "nameFrom": "cn", "namePattern": "", "allowCreate": "on"}
    created = await visitor.post("/profiles", name="chain", authorities=f"{root.pem}\n{other.pem}", **body)
    assert created.location.startswith("/profiles/"), created.text
    at = f"{created.location}/certificates"
    assert "Other factory" in (await visitor.get(at)).text

    saved = await visitor.post(at, authorities=root.pem, nameFrom="san-dns", namePattern="x(.*)", crls="")
    assert saved.location == at
    profile = await visitor.api("GET", "/profiles/chain")
    assert [each["subject"] for each in profile["certificateAuthorities"]] == ["CN=Factory"]
    assert (profile["nameFrom"], profile["namePattern"], profile["allowCreate"]) == ("san-dns", "x(.*)", False)
    assert "PEM" in (await visitor.post(at, authorities="nonsense!", nameFrom="cn")).text


async def test_a_profile_issues_certificates(visitor: Visitor) -> None:
    profile = await made(visitor)
    at = f"/profiles/{profile['id']}/certificates"
    assert "It issues no certificates" in (await visitor.get(at)).text
    assert (await visitor.post(f"{at}/authority", name="My CA", days="30")).location == at
    shown = await visitor.get(at)
    assert "CN=My CA" in shown.text
    assert "PRIVATE KEY-----" not in shown.html
    assert (await visitor.post(f"{at}/authority", name="Other CA")).status == 409
    assert (await visitor.post(f"{at}/authority", name="Other CA", replace="on")).location == at
    assert (await visitor.post(f"{at}/import", certificates="x", key="y")).status >= 400


async def test_request_keys(visitor: Visitor) -> None:
    assert "No request key yet" in (await visitor.get("/request-keys")).text
    assert (await visitor.post("/request-keys")).location == "/request-keys"
    (key,) = (await visitor.api("GET", "/request-keys"))["items"]
    assert key["publicKey"] in (await visitor.get("/request-keys")).html
    assert (await visitor.post(f"/request-keys/{key['id']}/delete")).location == "/request-keys"
    assert (await visitor.api("GET", "/request-keys"))["items"] == []


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
