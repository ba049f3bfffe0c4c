import csv
import io
import re
import zipfile
from typing import Any

import pytest

from provserver.core.authorization import Principal, Role
from provserver.services.jobs import Progress
from tests.admin.conftest import Site
from tests.admin.console.conftest import Visit, Visitor

MARKUP = "<script>alert(1)</script>"
FIELDS = [{"name": "Serial Number", "unique": True}, {"name": "MAC address"}, {"name": "IMEI", "type": "imei"}]


@pytest.fixture
async def profile(visitor: Visitor) -> str:
    made = await visitor.api("POST", "/profiles", {"name": "node", "metadataFields": FIELDS})
    return str(made["id"])


async def made(visitor: Visitor, profile: str, count: int = 1) -> list[Any]:
    found: list[Any] = (await visitor.api("POST", "/static-tokens", {"profile": profile, "count": count}))["items"]
    return found


async def claimed(visitor: Visitor, profile: str) -> Any:
    """A token that the visitor has claimed."""
    (token,) = await made(visitor, profile)
    opened = await visitor.api("GET", f"/static-tokens/{token['id']}", open="true")
    await visitor.api("POST", "/static-tokens/claim", {"qr": opened["qrPayload"]})
    return await visitor.api("GET", f"/static-tokens/{token['id']}")


async def test_without_tokens_pages_say_what_to_do(visitor: Visitor) -> None:
    assert "Create a device profile first" in (await visitor.get("/static-tokens")).text
    assert "There is no device profile yet" in (await visitor.get("/static-tokens/new")).text
    assert "There is no device profile yet" in (await visitor.get("/static-tokens/import")).text
    assert "There is no device profile yet" in (await visitor.get("/static-tokens/units")).text
    assert "There are no batches yet" in (await visitor.get("/static-tokens/batches")).text
    assert "There is nothing to export" in (await visitor.get("/static-tokens/export")).text
    await visitor.api("POST", "/profiles", {"name": "node"})
    assert "Generate tokens" in (await visitor.get("/static-tokens")).text


async def test_a_few_are_generated_at_once(visitor: Visitor, profile: str) -> None:
    went = await visitor.post("/static-tokens", profile=profile, count="3")
    batch = re.fullmatch("/static-tokens\\?batch=([0-9a-f-]{36})", went.location)
    assert batch is not None, went.text
    page = await visitor.get("/static-tokens", batch=batch[1])
    assert "3 tokens were made for node" in page.text
    assert page.text.count("not connected yet") == 3
    assert "1 – 3" in (await visitor.get("/static-tokens/batches")).text
    assert (await visitor.post("/static-tokens", profile=profile, count="none")).status == 400
    refused = await visitor.post("/static-tokens", profile=profile, count="0")
    assert (refused.status, 'data-field="count"' in refused.html) == (400, True)


async def test_what_a_search_has_found_is_not_exported_with_all_others(visitor: Visitor, profile: str) -> None:
    await made(visitor, profile, 2)
    assert 'href="/static-tokens/export' in (await visitor.get("/static-tokens")).html
    found = await visitor.get("/static-tokens", search="1")
    assert 'href="/static-tokens/export' not in found.html
    assert "Export the selected" in found.text


async def test_many_are_generated_by_a_job_whose_page_goes_on(visitor: Visitor, profile: str) -> None:
    path = (await visitor.post("/static-tokens", profile=profile, count="1001")).location
    assert path.startswith("/static-tokens/jobs/")
    page = await visitor.get(path)
    while 'hx-trigger="every 1s"' in page.html:
        page = await visitor.get(path, part=True)
    assert "1,001 tokens are made for node" in page.text
    assert "/static-tokens/export?batch=" in page.html
    assert "<html" in (await visitor.get(path)).html


async def test_the_list_is_searched_and_filtered(visitor: Visitor, profile: str) -> None:
    await visitor.api("PATCH", f"/profiles/{profile}", {"name": MARKUP})
    given = b"Serial Number,Device Name\r\nSN1,one\r\nSN2,other\r\n"
    assert (await visitor.send("/static-tokens/import", given, profile=profile)).location
    page = await visitor.get("/static-tokens", search="sn1")
    assert "one" in page.text
    assert "&lt;script&gt;" in page.html
    assert MARKUP not in page.html
    assert "other" not in page.text
    assert "No static token fits" in (await visitor.get("/static-tokens", status="CLAIMED")).text
    part = await visitor.get("/static-tokens", part=True, search="<b>")
    assert "<html" not in part.html
    assert 'value="&lt;b&gt;"' in part.html


async def test_a_file_is_checked_mapped_and_imported(visitor: Visitor, profile: str) -> None:
    await visitor.send("/static-tokens/import", b"Serial Number\r\nSN2\r\n", profile=profile)
    given = f"serial number;Colour;IMEI\r\nSN1;red;1\r\nSN2;{MARKUP};\r\n".encode()
    report = await visitor.send("/static-tokens/import/check", given, profile=profile)
    assert report.status == 200
    assert "2 errors" in report.text
    assert "it differs by case from 'Serial Number'" in report.text
    assert "disabled" in report.html
    assert MARKUP not in report.html
    assert "&lt;script&gt;" in report.html

    mapping = [("profile", profile), ("map", "serial number=Serial Number"), ("map", "Colour=")]
    async with visitor.session.post(
        f"{visitor.url}/static-tokens/import/check",
        params=mapping,
        data=given,
        headers={"X-CSRF-Token": visitor.csrf, "HX-Request": "true", "Content-Type": "text/csv"},
    ) as answer:
        html = await answer.text()
    assert re.findall('<td class="wrong">([^<]*)<', html) == ["1", "SN2"]
    assert "Not an IMEI: 1 digits where it has 15." in html
    assert re.search('<option value="" selected>Leave this column out', html)

    right = b"Serial Number\r\nSN7\r\nSN8\r\n"
    report = await visitor.send("/static-tokens/import/check", right, profile=profile)
    assert "2 rows are right." in report.text
    went = await visitor.send("/static-tokens/import", right, profile=profile, rows="2")
    assert "SN7" in (await visitor.get("/static-tokens/2")).text
    assert went.location.startswith("/static-tokens?batch=")
    again = await visitor.send("/static-tokens/import", right, profile=profile, rows="2")
    assert (again.status, again.location) == (200, "")
    assert again.text.count("another static token") == 0
    assert again.text.count("Another static token of the profile has this value already.") == 4  # cells, and the list


async def test_a_large_file_is_imported_by_a_job(visitor: Visitor, profile: str) -> None:
    rows = "".join(f"SN{number}\r\n" for number in range(1001))
    given = f"Serial Number\r\n{rows}".encode()
    path = (await visitor.send("/static-tokens/import", given, profile=profile, rows="1001")).location
    page = await visitor.get(path)
    while 'hx-trigger="every 1s"' in page.html:
        page = await visitor.get(path, part=True)
    assert "1,001 tokens are made" in page.text
    path = (await visitor.send("/static-tokens/import", given, profile=profile, rows="1001")).location
    page = await visitor.get(path)
    while 'hx-trigger="every 1s"' in page.html:
        page = await visitor.get(path, part=True)
    assert "Nothing was made: the file has 1,001 errors" in page.text
    assert "The first 100 of 1,001 errors are shown." in page.text


async def test_what_is_selected_is_exported(visitor: Visitor, profile: str) -> None:
    tokens = await made(visitor, profile, 3)
    chosen = f"id={tokens[0]['id']}&id={tokens[2]['id']}"
    page = await visitor.get(f"/static-tokens/export?{chosen}")
    assert "Export 2 static tokens" in page.text
    assert page.html.count(f'name="id" value="{tokens[2]["id"]}"') == 3
    assert 'value="metadata:Serial Number"' in page.html
    async with visitor.session.get(f"{visitor.url}/static-tokens/export.csv?{chosen}") as answer:
        assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''tokens.csv"
        rows = list(csv.DictReader(io.StringIO(await answer.text())))
    assert [len(row["Device Token"]) for row in rows] == [32, 32]
    async with visitor.session.get(
        f"{visitor.url}/static-tokens/export.zip?{chosen}&nameBy=serial&format=svg"
    ) as answer:
        names = zipfile.ZipFile(io.BytesIO(await answer.read())).namelist()
    assert names == ["tokens.csv", "qr/1.svg", "qr/3.svg"]
    async with visitor.session.get(f"{visitor.url}/static-tokens/export.pdf?sheet=62x29") as answer:
        assert (await answer.read())[:5] == b"%PDF-"
    refused = await visitor.get("/static-tokens/export.zip", nameBy="Colour")
    assert refused.status == 422
    assert "There is no metadata field" in refused.text


async def test_a_token_is_opened_once_by_a_post(visitor: Visitor, profile: str) -> None:
    (token,) = await made(visitor, profile)
    page = await visitor.get(f"/static-tokens/{token['number']}")
    assert "No device has connected with it yet" in page.text
    opened = await visitor.post(f"/static-tokens/{token['id']}/reveal")
    secret = (await visitor.api("GET", f"/static-tokens/{token['id']}", open="true"))["authToken"]
    assert secret in opened.text
    assert secret not in (await visitor.get(f"/static-tokens/{token['id']}")).html
    assert (await visitor.get(f"/static-tokens/{token['id']}/reveal")).status == 405


async def test_a_qr_code_is_shown_large(visitor: Visitor, profile: str) -> None:
    (token,) = await made(visitor, profile)
    page = await visitor.get(f"/static-tokens/{token['id']}/qr")
    assert f'src="/static-tokens/{token["id"]}/qr.svg"' in page.html
    assert "<svg" in (await visitor.get(f"/static-tokens/{token['id']}/qr.svg")).html
    async with visitor.session.get(f"{visitor.url}/static-tokens/{token['id']}/qr.png") as answer:
        assert (await answer.read())[:4] == b"\x89PNG"


async def test_a_claimed_token_is_disclaimed_naming_what_is_lost(visitor: Visitor, profile: str) -> None:
    token = await claimed(visitor, profile)
    page = await visitor.get(f"/static-tokens/{token['id']}")
    assert f"{token['owner']} of {token['holder']} has claimed its device" in page.text
    assert f"loses the device {token['deviceName']} now" in page.text
    went = await visitor.post(f"/static-tokens/{token['id']}/disclaim")
    assert "is unclaimed" in (await visitor.get(went.location)).text
    assert "waits to be claimed" in (await visitor.get(f"/static-tokens/{token['id']}")).text


async def test_a_claimed_token_is_deleted_for_who_types_the_word(visitor: Visitor, profile: str) -> None:
    token = await claimed(visitor, profile)
    page = await visitor.get(f"/static-tokens/{token['id']}")
    assert f"loses the device {token['deviceName']} for ever" in page.text
    refused = await visitor.post(f"/static-tokens/{token['id']}/delete", confirm="delete")
    assert (refused.status, 'data-field="confirm"' in refused.html) == (400, True)
    went = await visitor.post(f"/static-tokens/{token['id']}/delete", confirm="DELETE")
    assert went.location == "/static-tokens"
    assert f"and with it the device {token['deviceName']}" in (await visitor.get("/static-tokens")).text
    assert (await visitor.get(f"/static-tokens/{token['id']}")).status == 404
    (unclaimed,) = await made(visitor, profile)
    assert (await visitor.post(f"/static-tokens/{unclaimed['id']}/delete")).location == "/static-tokens"


async def test_units_of_a_line_are_shown(visitor: Visitor, profile: str) -> None:
    await made(visitor, profile, 2)
    assert "No token of node was written to a unit yet" in (await visitor.get("/static-tokens/units")).text
    await visitor.api("POST", "/static-tokens/units/reserve", {"profile": profile, "unit": MARKUP})
    page = await visitor.get("/static-tokens/units", profile=profile)
    assert "reserved" in page.text
    assert MARKUP not in page.html
    assert "No unit fits" in (await visitor.get("/static-tokens/units", profile=profile, state="failed")).text
    assert "reserved" in (await visitor.get("/static-tokens")).text


@pytest.mark.parametrize("path", ["", "/new", "/import", "/batches", "/units", "/export", "/export.csv", "/1", "/1/qr"])
async def test_who_may_not_manage_tokens_sees_none(visit: Visit, path: str) -> None:
    user = await visit(Role.USER)
    assert (await user.get(f"/static-tokens{path}")).status == 403


async def test_another_organization_s_token_is_not_there(
    site: Site, visit: Visit, visitor: Visitor, profile: str
) -> None:
    (token,) = await made(visitor, profile)
    below = await site.api.services.organizations.create(site.operator, "Customer")
    other = await visit(Role.ADMIN, below.id)
    assert (await other.get(f"/static-tokens/{token['id']}")).status == 404
    assert (await other.post(f"/static-tokens/{token['id']}/reveal")).status == 404
    assert (await other.post(f"/static-tokens/{token['id']}/delete")).status == 404
    assert (await visitor.get(f"/static-tokens/{token['id']}")).status == 200


async def test_a_post_without_the_page_s_token_does_nothing(visitor: Visitor, profile: str) -> None:
    (token,) = await made(visitor, profile)
    visitor.csrf = ""
    assert (await visitor.post(f"/static-tokens/{token['id']}/delete")).status == 403
    assert (await visitor.send("/static-tokens/import", b"Device Name\r\nx\r\n", profile=profile)).status == 403


async def test_a_job_of_another_kind_is_not_shown_as_one_of_tokens(visitor: Visitor, site: Site) -> None:
    async def work(progress: Progress) -> object:
        progress(1, 1)
        return {"imported": 1}

    principal = Principal(f"user:{visitor.id}", site.space.organization_id)
    job = await site.api.services.jobs.start(principal, "devices.import", work)
    page = await visitor.get(f"/static-tokens/jobs/{job.id}")
    assert page.status == 404
    assert "under Jobs" in page.text
