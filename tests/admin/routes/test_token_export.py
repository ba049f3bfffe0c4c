import csv
import io
import zipfile

import pytest
import zxingcpp
from PIL import Image

from tests.admin.conftest import Caller
from tests.admin.routes.test_static_tokens import FIELDS, SEED


@pytest.fixture
async def profile(admin: Caller) -> str:
    made = await admin.ok("POST", "/profiles", {"name": "node", "metadataFields": FIELDS})
    return str(made["id"])


def scanned(png: bytes) -> str:
    """What a reader reads off an image."""
    found = zxingcpp.read_barcode(Image.open(io.BytesIO(png)))
    assert found is not None
    return found.text


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
