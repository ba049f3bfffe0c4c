import pytest

from tests.admin.conftest import Caller

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
