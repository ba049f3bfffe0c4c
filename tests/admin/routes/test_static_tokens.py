import csv
import io
import zipfile
from uuid import UUID

import pytest
import zxingcpp
from PIL import Image

from provserver.core.authorization import Role
from tests.admin.conftest import Caller, Site

FIELDS = [{"name": "Serial Number", "unique": True}, {"name": "MAC address"}]
SEED = (
    b"Serial Number,MAC address,Device Name\r\n"
    b"SN000001,2C:54:91:88:C9:E3,Temperature Sense Node AGHJ\r\n"
    b"SN000002,5C:62:91:82:C9:E8,Temperature Sense Node KJGF\r\n"
    b"SN000003,4A:33:54:68:K9:F1,Temperature Sense Node CVBN\r\n"
)


@pytest.fixture
async def profile(admin: Caller) -> str:
    made = await admin.ok("POST", "/profiles", {"name": "node", "metadataFields": FIELDS})
    return str(made["id"])


def scanned(png: bytes) -> str:
    """What a reader reads off an image."""
    found = zxingcpp.read_barcode(Image.open(io.BytesIO(png)))
    assert found is not None
    return found.text


async def test_tokens_are_made_and_listed(admin: Caller, profile: str) -> None:
    made = await admin.ok("POST", "/static-tokens", {"profile": "node", "count": 3})
    listed = await admin.ok("GET", "/static-tokens", profile=profile, status="UNCLAIMED", batch=made["batch"]["id"])
    assert made["batch"]["count"] == 3
    assert made["items"] == listed["items"]
    page = await admin.ok("GET", "/static-tokens", limit=2)
    assert page["nextCursor"] == page["items"][1]["id"] == made["items"][1]["id"]
    assert "authToken" not in listed["items"][0]


async def test_many_are_made_by_a_job(admin: Caller, profile: str) -> None:
    answer = await admin("POST", "/static-tokens", {"profile": profile, "count": 1001})
    assert answer.status == 202
    job = answer.json["job"]
    while job["state"] == "running":
        job = await admin.ok("GET", f"/jobs/{job['id']}")
    assert (job["state"], job["done"], job["total"], job["result"]["count"]) == ("done", 1001, 1001, 1001)


async def test_secrets_are_shown_to_who_asks(admin: Caller, profile: str) -> None:
    (token,) = (await admin.ok("POST", "/static-tokens", {"profile": profile}))["items"]
    shown = await admin.ok("GET", f"/static-tokens/{token['number']}")
    assert (shown["authToken"], shown["qrToken"], shown["qrPayload"]) == (None, None, None)
    opened = await admin.ok("GET", f"/static-tokens/{token['id']}", open=True)
    assert len(opened["authToken"]) == 32
    assert opened["qrPayload"] == f"{opened['qrToken']}+1"
    png = await admin("GET", f"/static-tokens/{token['id']}/qr.png")
    assert png.headers["Content-Type"] == "image/png"
    assert scanned(png.body) == opened["qrPayload"]
    svg = await admin("GET", f"/static-tokens/{token['id']}/qr.svg")
    assert b"<svg" in svg.body
    shown = (await admin.ok("GET", "/audit", subject=token["id"]))["items"]
    actions = [each["action"] for each in shown]  # an image shows no AuthToken, but opens a claim
    assert sorted(actions) == ["static_token.qr_shown", "static_token.qr_shown", "static_token.shown"]


async def test_the_seed_is_imported(admin: Caller, profile: str) -> None:
    report = await admin.ok("POST", "/static-tokens/import", SEED, profile=profile, dryRun=True)
    assert (report["imported"], report["rows"], report["dryRun"], report["batch"]) == (3, 3, True, None)
    assert (await admin.ok("GET", "/static-tokens"))["items"] == []
    report = await admin.ok("POST", "/static-tokens/import", SEED, profile=profile)
    tokens = (await admin.ok("GET", "/static-tokens", batch=report["batch"]["id"]))["items"]
    assert tokens[0]["name"] == "Temperature Sense Node AGHJ"
    assert tokens[2]["metadata"] == {"Serial Number": "SN000003", "MAC address": "4A:33:54:68:K9:F1"}

    again = await admin.ok("POST", "/static-tokens/import", SEED, profile=profile)
    assert (again["imported"], again["errorCount"]) == (0, 6)
    assert again["errors"][0]["kind"] == "taken"
    assert again["errors"][0]["row"] == 1


async def test_columns_are_mapped(admin: Caller, profile: str) -> None:
    given = b"Serial=No,other\r\nSN1,x\r\n"
    unmapped = await admin.ok("POST", "/static-tokens/import", given, profile=profile)
    assert unmapped["errorCount"] > 0
    report = await admin.ok(
        "POST", "/static-tokens/import", given, profile=profile, map=["Serial=No=Serial Number", "other="]
    )
    assert report["imported"] == 1
    assert [column["field"] for column in report["columns"]] == ["Serial Number", None]
    twice = await admin("POST", "/static-tokens/import", given, profile=profile, map=["a=b", "a=c"])
    assert twice.code == "invalid"
    assert (await admin("POST", "/static-tokens/import", given, profile=profile, map="nothing")).code == "malformed"


async def test_an_import_with_errors_as_a_job(admin: Caller, profile: str) -> None:
    job = (await admin.ok("POST", "/static-tokens/import", b"\xff\r\n", profile=profile, asJob=True))["job"]
    while job["state"] == "running":
        job = await admin.ok("GET", f"/jobs/{job['id']}")
    assert (job["state"], job["result"]["imported"]) == ("done", 0)
    assert job["result"]["errorCount"] > 0


async def test_tokens_are_exported(admin: Caller, profile: str) -> None:
    await admin.ok("POST", "/static-tokens/import", SEED, profile=profile)
    exported = await admin("GET", "/static-tokens/export.csv", profile=profile)
    assert exported.headers["Content-Disposition"] == "attachment; filename*=UTF-8''tokens.csv"
    rows = list(csv.DictReader(io.StringIO(exported.body.decode())))
    assert [len(row["Device Token"]) for row in rows] == [32, 32, 32]

    packed = await admin("GET", "/static-tokens/export.zip", nameBy="Serial Number")
    with zipfile.ZipFile(io.BytesIO(packed.body)) as archive:
        assert archive.read("tokens.csv") == exported.body
        assert scanned(archive.read("qr/SN000001.png")) == rows[0]["QR Token"] + "+1"
    assert (await admin("GET", "/static-tokens/export.zip")).body == packed.body
    named = await admin("GET", "/static-tokens/export.zip", nameBy="Device Name")
    assert named.status == 200
    svgs = await admin("GET", "/static-tokens/export.zip", nameBy="auth-token", format="svg")
    with zipfile.ZipFile(io.BytesIO(svgs.body)) as archive:
        assert f"qr/{rows[0]['Device Token']}.svg" in archive.namelist()
    labels = await admin("GET", "/static-tokens/export.pdf", field="Serial Number", status="UNCLAIMED")
    assert (labels.headers["Content-Type"], labels.body[:5]) == ("application/pdf", b"%PDF-")

    assert (await admin("GET", "/static-tokens/export.zip", nameBy="Colour")).code == "invalid"
    gone = "01a2032b-eb30-7021-9532-16b65317106a"
    assert (await admin("GET", "/static-tokens/export.csv", id=gone)).code == "not_found"


async def test_a_customer_claims_by_the_code_and_nobody_else_after(site: Site, admin: Caller, profile: str) -> None:
    (token,) = (await admin.ok("POST", "/static-tokens", {"profile": profile}))["items"]
    path = f"/static-tokens/{token['id']}"
    qr = (await admin.ok("GET", path, open=True))["qrPayload"]
    customers = []
    for name in ("A", "B"):
        made = await admin.ok("POST", "/organizations", {"name": f"Customer {name}"})
        customers.append(await site.caller(Role.ADMIN, UUID(made["id"])))
    a, b = customers

    claimed = await a.ok("POST", "/static-tokens/claim", {"qr": qr.replace("+", " ")})
    assert (claimed["device"]["holder"], claimed["device"]["maker"]) == ("Customer A", None)
    refused = await b("POST", "/static-tokens/claim", {"qr": qr})
    unknown = await b("POST", "/static-tokens/claim", {"qr": "sqr_" + "x" * 32})
    assert (refused.status, refused.json) == (404, unknown.json)
    assert (await a("GET", path)).code == "not_found"
    assert (await a("GET", f"/devices/{token['id']}", credentials=True)).code == "forbidden"

    assert (await admin("DELETE", path)).code == "conflict"
    assert (await admin.ok("POST", f"{path}/disclaim"))["status"] == "UNCLAIMED"
    assert (await a("GET", f"/devices/{token['id']}")).code == "not_found"
    await b.ok("POST", "/static-tokens/claim", {"qr": qr})
    assert (await b("POST", f"/static-tokens/{token['id']}/unclaim")).status == 204
    await a.ok("POST", "/static-tokens/claim", {"qr": qr})
    assert (await admin.ok("DELETE", path, confirm=True))["id"] == token["id"]
    assert (await a("GET", f"/devices/{token['id']}")).code == "not_found"


async def test_a_claim_waits_for_its_device_where_the_profile_wants_it(admin: Caller, profile: str) -> None:
    await admin.ok("PATCH", f"/profiles/{profile}", {"twoSidedClaim": True})
    (token,) = (await admin.ok("POST", "/static-tokens", {"profile": profile}))["items"]
    qr = (await admin.ok("GET", f"/static-tokens/{token['id']}", open=True))["qrPayload"]
    answer = await admin("POST", "/static-tokens/claim", {"qr": qr})
    assert (answer.status, answer.json["device"]) == (202, None)
    assert answer.json["expiresAt"] is not None


async def test_tokens_are_found_by_what_is_on_their_box(admin: Caller, profile: str) -> None:
    await admin.ok("POST", "/static-tokens/import", SEED, profile=profile)
    (numbered,) = (await admin.ok("POST", "/static-tokens", {"profile": profile}))["items"]
    await admin.ok("POST", "/static-tokens/units/reserve", {"profile": profile, "unit": "Unit-7"})

    async def found(search: object, **more: object) -> list[str | None]:
        return [each["name"] for each in (await admin.ok("GET", "/static-tokens", search=search, **more))["items"]]

    everybody = [f"Temperature Sense Node {end}" for end in ("AGHJ", "KJGF", "CVBN")]
    assert await found("temperature sense") == everybody
    assert await found("sn000002") == ["Temperature Sense Node KJGF"]
    assert await found("SN00000") == everybody
    assert await found("2C:54") == []  # not unique: it is in no index
    assert await found(numbered["number"]) == await found(numbered["id"]) == [None]
    assert await found("unit") == ["Temperature Sense Node AGHJ"]
    assert await found("SN00000", status="CLAIMED") == []
    assert await found("SN00000", limit=2) == everybody[:2]
    assert await found("%") == await found("_") == await found("\U0010fffe") == []
    assert (await admin("GET", "/static-tokens", search="a\0b")).code == "malformed"


async def test_batches_are_listed_newest_first_with_what_is_left_of_them(admin: Caller, profile: str) -> None:
    assert await admin.ok("GET", "/static-tokens/batches") == {"items": [], "nextCursor": None}
    made = [(await admin.ok("POST", "/static-tokens", {"profile": profile, "count": n}))["batch"] for n in (3, 1, 2)]
    first, *_ = (await admin.ok("GET", "/static-tokens", batch=made[0]["id"]))["items"]
    await admin.ok("DELETE", f"/static-tokens/{first['id']}")
    last = (await admin.ok("GET", "/static-tokens", batch=made[2]["id"]))["items"][1]
    qr = (await admin.ok("GET", f"/static-tokens/{last['id']}", open=True))["qrPayload"]
    await admin.ok("POST", "/static-tokens/claim", {"qr": qr})

    batches = (await admin.ok("GET", "/static-tokens/batches", profile="node"))["items"]
    assert batches == (await admin.ok("GET", "/static-tokens/batches"))["items"]
    assert [each["id"] for each in batches] == [each["id"] for each in reversed(made)]
    told = [(each["made"], each["count"], each["claimed"], each["lastNumber"]) for each in batches]
    assert told == [(2, 2, 1, made[2]["lastNumber"]), (1, 1, 0, 4), (3, 2, 0, 3)]
    assert batches[2]["firstNumber"] == first["number"] + 1
    assert (batches[0]["profile"], batches[0]["profileId"]) == ("node", profile)
    page = await admin.ok("GET", "/static-tokens/batches", limit=2)
    assert page["items"] == batches[:2]
    assert (await admin.ok("GET", "/static-tokens/batches", cursor=page["nextCursor"]))["items"] == batches[2:]


async def test_an_export_is_counted_before_it_is_made(admin: Caller) -> None:
    fields = [*FIELDS, {"name": "Application Key", "type": "key128"}]
    await admin.ok("POST", "/profiles", {"name": "keyed", "metadataFields": fields})
    batch = (await admin.ok("POST", "/static-tokens", {"profile": "keyed", "count": 4}))["batch"]["id"]
    counted = await admin.ok("GET", "/static-tokens/count", batch=batch)
    names = ["Serial Number", "MAC address", "Application Key"]
    assert counted == {"count": 4, "fields": names, "secretFields": ["Application Key"]}
    assert (await admin.ok("GET", "/static-tokens/count", status="CLAIMED"))["count"] == 0
    shown = (await admin.ok("GET", "/audit"))["items"]
    assert "static_token.exported" not in [each["action"] for each in shown]


async def test_a_key_is_not_guessed_by_its_beginning(admin: Caller) -> None:
    fields = [{"name": "Secret", "type": "key128", "unique": True}, {"name": "Serial", "unique": True}]
    await admin.ok("POST", "/profiles", {"name": "keyed", "metadataFields": fields})
    given = b"Secret,Serial\r\n00112233445566778899AABBCCDDEEFF,0011\r\n"
    assert (await admin.ok("POST", "/static-tokens/import", given, profile="keyed"))["imported"] == 1
    assert len((await admin.ok("GET", "/static-tokens", search="0011"))["items"]) == 1  # by the serial number
    assert (await admin.ok("GET", "/static-tokens", search="00112"))["items"] == []


async def test_a_check_tells_rows_as_they_are_in_the_file(admin: Caller, profile: str) -> None:
    ask = {"profile": profile, "dryRun": True, "excerpt": 2}
    rows = b"".join(b"SN%d,x,\r\n" % number for number in range(10)) + b"SN3,\xff,\r\n"
    report = await admin.ok("POST", "/static-tokens/import", b"Serial Number,MAC address,Device Name\r\n" + rows, **ask)
    assert [(each["row"], each["line"], each["cells"]) for each in report["excerpt"]] == [
        (1, 2, ["SN0", "x", ""]),
        (2, 3, ["SN1", "x", ""]),
        (11, 12, ["SN3", "�", ""]),
    ]
    wrong = await admin.ok("POST", "/static-tokens/import", b"serial,other\r\n1,2\r\n3,4\r\n5,6\r\n", **ask)
    assert wrong["errorCount"] == 2
    assert [each["cells"] for each in wrong["excerpt"]] == [["1", "2"], ["3", "4"]]
    plain = await admin.ok("POST", "/static-tokens/import", SEED, profile=profile, dryRun=True)
    assert plain["excerpt"] == []


async def test_what_comes_of_a_claim_is_told_to_who_claims(site: Site, admin: Caller, profile: str) -> None:
    await admin.ok("PATCH", f"/profiles/{profile}", {"twoSidedClaim": True})
    (token,) = (await admin.ok("POST", "/static-tokens", {"profile": profile}))["items"]
    opened = await admin.ok("GET", f"/static-tokens/{token['id']}", open=True)
    made = await admin.ok("POST", "/organizations", {"name": "Customer"})
    customer = await site.caller(Role.ADMIN, UUID(made["id"]))
    path = f"/static-tokens/claims/{token['id']}"
    over = {"state": "over", "expiresAt": None, "device": None}
    assert await customer.ok("GET", path) == over

    begun = await customer.ok("POST", "/static-tokens/claim", {"qr": opened["qrPayload"]})
    waiting = {"state": "waiting", "expiresAt": begun["expiresAt"], "device": None}
    assert await customer.ok("GET", path) == waiting
    assert await admin.ok("GET", path) == over  # it is not his
    await site.space.rows("UPDATE pending_claim SET expires_at = now()")
    assert await customer.ok("GET", path) == over

    await site.space.rows("DELETE FROM pending_claim")
    await site.space.rows("UPDATE device_profile SET two_sided_claim = false")
    await customer.ok("POST", "/static-tokens/claim", {"qr": opened["qrPayload"]})
    outcome = await customer.ok("GET", path)
    assert (outcome["state"], outcome["device"]["holder"]) == ("claimed", "Customer")
    assert (await admin.ok("GET", f"/static-tokens/{token['id']}"))["holder"] == "Customer"
