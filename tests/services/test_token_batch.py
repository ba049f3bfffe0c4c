import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest

from provserver.core import credentials as building
from provserver.core import ids
from provserver.core.authorization import OPERATOR
from provserver.core.ids import ALPHANUMERIC
from provserver.core.model import MetadataField
from provserver.core.statictoken import QR_PREFIX, TokenStatus, qr_digest
from provserver.core.tokenfile import Column, ErrorKind
from provserver.errors import Conflict, Invalid
from provserver.services import token_batch
from provserver.services.profiles import ProfileChange
from provserver.services.static_tokens import MAX_COUNT, Selection
from provserver.services.token_batch import ImportReport
from provserver.store import static_tokens as store
from provserver.store.database import Connection
from provserver.store.static_tokens import Taken
from tests.conftest import Space
from tests.core.test_tokenfile import SEED
from tests.services.conftest import Fleet, Locking
from tests.services.shop import MAC, SERIAL, TEXT_MAC, Shop, nothing_is_there


@pytest.fixture
def shop(space: Space) -> Shop:
    return Shop(space)


# --- by number


async def test_tokens_are_made_by_number(shop: Shop) -> None:
    await shop.profile()
    heard: list[int] = []

    batch = await shop.tokens.make(shop.maker, "sensors", token_batch.SLICE + 7, heard.append)

    made = await shop.stored()
    assert heard == [250, 253, 506, 507]  # half of it when all are staged; all of it once they are kept
    assert (batch.count, batch.profile, batch.organization_id) == (len(made), "sensors", shop.space.organization_id)
    assert (batch.first_number, batch.last_number) == (made[0].number, made[-1].number)
    assert [token.number for token in made] == list(range(batch.first_number, batch.last_number + 1))
    for token in made:
        assert len(token.auth_token) == ids.TOKEN_LENGTH
        assert set(token.auth_token) <= set(ALPHANUMERIC)
        assert token.qr_token.startswith(QR_PREFIX)
        assert len(token.qr_token) == 36
        assert (token.status, token.name, token.metadata) == (TokenStatus.UNCLAIMED, None, {})
        assert (token.organization_name, token.profile_name) == ("Manufacturer", "sensors")
    secrets = {token.auth_token for token in made} | {token.qr_token[4:] for token in made}
    assert len(secrets) == 2 * len(made)


async def test_what_is_stored_opens_for_the_device_to_come(shop: Shop) -> None:
    """As `credentials` needs it: the same digest, and sealed for the same id."""
    await shop.profile()
    await shop.tokens.make(shop.maker, "sensors", 2)

    for token in await shop.stored():
        row = (await shop.space.rows("SELECT id_digest, qr_digest FROM static_token WHERE id = $1", token.id))[0]
        assert row["id_digest"] == shop.space.keys.digest("credentials", building.access_token(token.auth_token).id)
        assert row["qr_digest"] == qr_digest(shop.space.keys, token.qr_token)


async def test_no_secret_is_anywhere_in_clear(shop: Shop) -> None:
    await shop.profile()
    batch = await shop.tokens.make(shop.maker, "sensors", 1)
    (token,) = await shop.stored()
    details = await shop.tokens.show(shop.maker, token.id, open_=True)
    rows = [dict(row) for table in ("static_token", "audit") for row in await shop.space.rows(f"SELECT * FROM {table}")]
    for secret in (token.auth_token, token.qr_token, token.qr_token[4:]):
        for said in (repr(rows), repr(batch), repr(token), repr(details)):
            assert secret not in said


async def test_making_is_audited_once_a_batch(shop: Shop) -> None:
    await shop.profile(of=(branch := await shop.below()))
    batch = await shop.tokens.make(shop.maker, "sensors", 3)

    assert await shop.audited("static_token.made") == [
        (
            branch.organization_id,
            OPERATOR,
            str(batch.id),
            {"count": 3, "source": "count", "profile_id": str(batch.profile_id)},
        )
    ]


@pytest.mark.parametrize("count", [0, -1, MAX_COUNT + 1])
async def test_there_are_bounds_to_a_batch(shop: Shop, count: int) -> None:
    await shop.profile()
    with pytest.raises(Invalid, match="Between 1 and 1,000,000"):
        await shop.tokens.make(shop.maker, "sensors", count)


async def test_others_are_served_while_tokens_are_made(shop: Shop) -> None:
    await shop.profile()
    turns: list[int] = []
    done = 0

    def note(made: int) -> None:
        nonlocal done
        done = made

    async def other() -> None:
        while done < 4 * token_batch.SLICE:
            turns.append(done)
            await asyncio.sleep(0)

    await asyncio.gather(shop.tokens.make(shop.maker, "sensors", 4 * token_batch.SLICE, note), other())

    assert {n * token_batch.SLICE // 2 for n in range(4)} <= set(turns)


async def test_all_are_done_only_when_they_are_there(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_PART", 300)
    await shop.profile()
    heard: list[int] = []

    await shop.tokens.make(shop.maker, "sensors", 1000, heard.append)

    assert heard == [250, 500, 649, 799, 949, 999, 1000]


async def test_making_that_is_cancelled_makes_nothing(shop: Shop) -> None:
    await shop.profile()
    making: asyncio.Task[object] | None = None

    def cancel(_: int) -> None:
        assert making is not None
        making.cancel()

    making = asyncio.create_task(shop.tokens.make(shop.maker, "sensors", 5 * token_batch.SLICE, cancel))
    with pytest.raises(asyncio.CancelledError):
        await making

    assert await nothing_is_there(shop)
    await shop.tokens.make(shop.maker, "sensors", 1)


async def test_after_a_large_batch_postgres_knows_of_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_batch, "ANALYSED", 10)
    known = "SELECT reltuples FROM pg_class WHERE oid = 'static_token'::regclass"
    await shop.profile()
    await shop.tokens.make(shop.maker, "sensors", 9)
    before = await shop.space.value(known)

    await shop.tokens.make(shop.maker, "sensors", 10)

    assert before <= 0
    assert await shop.space.value(known) == 19


async def test_tokens_are_made_when_postgres_cannot_look(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(connection: Connection) -> None:
        await connection.execute("SELECT 1 / 0")

    monkeypatch.setattr(token_batch, "ANALYSED", 1)
    monkeypatch.setattr(store, "analyse", fail)
    await shop.profile()

    await shop.tokens.make(shop.maker, "sensors", 1)

    assert len(await shop.stored()) == 1


# --- quotas


async def test_no_more_are_made_than_the_quota_allows(shop: Shop) -> None:
    branch = await shop.below(token_quota=5)
    await shop.profile(SERIAL, of=branch)
    await shop.tokens.make(branch, "sensors", 3)

    heard: list[int] = []
    with pytest.raises(Conflict, match="may have 5 static tokens"):
        await shop.tokens.make(branch, "sensors", 3, heard.append)
    assert heard == []  # it is told before the work is done
    report = await shop.import_("Serial Number\na\nb\nc\n", by=branch)
    assert [(error.kind, error.row) for error in report.errors] == [(ErrorKind.QUOTA, None)]
    assert "may have 5 static tokens" in report.errors[0].reason
    assert (report.rows, report.batch) == (3, None)
    await shop.import_("Serial Number\na\nb\n", by=branch)

    assert len(await shop.stored(branch)) == 5


async def test_two_who_make_at_once_share_the_quota(shop: Shop) -> None:
    branch = await shop.below(token_quota=700)
    await shop.profile(of=branch)

    found = await asyncio.gather(*(shop.tokens.make(branch, "sensors", 400) for _ in range(2)), return_exceptions=True)

    assert sorted(type(each).__name__ for each in found) == ["Batch", "Conflict"]
    assert await shop.tokens.count(branch, Selection()) == 400


# --- from a file


async def test_the_document_s_file_imports_when_its_addresses_are_text(shop: Shop) -> None:
    await shop.profile(SERIAL, TEXT_MAC)

    report = await shop.import_(SEED)

    assert report.batch is not None
    assert (report.rows, report.error_count, report.batch.count) == (3, 0, 3)
    assert report.columns == [
        Column(1, "Serial Number", "Serial Number"),
        Column(2, "MAC address", "MAC address"),
        Column(3, "Device Name", "Device Name"),
    ]
    assert [(token.name, token.metadata) for token in await shop.stored()] == [
        ("Temperature Sense Node AGHJ", {"Serial Number": "SN000001", "MAC address": "2C:54:91:88:C9:E3"}),
        ("Temperature Sense Node KJGF", {"Serial Number": "SN000002", "MAC address": "5C:62:91:82:C9:E8"}),
        ("Temperature Sense Node CVBN", {"Serial Number": "SN000003", "MAC address": "4A:33:54:68:K9:F1"}),
    ]
    ((_, _, subject, detail),) = await shop.audited("static_token.made")
    assert (subject, detail["count"], detail["source"]) == (str(report.batch.id), 3, "file")  # type: ignore[index]


async def test_typed_mac_the_same_file_fails_naming_row_3(shop: Shop) -> None:
    await shop.profile(SERIAL, MAC)

    report = await shop.import_(SEED)

    assert [str(error) for error in report.errors] == [
        "row 3 (line 4), column 2 (MAC address): not a MAC address: character 13 is not a hexadecimal digit"
    ]
    assert (report.rows, report.error_count, report.batch) == (3, 1, None)
    assert await nothing_is_there(shop)


async def test_a_dry_run_keeps_nothing_and_finds_all(shop: Shop) -> None:
    await shop.profile(SERIAL, MAC)

    right = await shop.import_("Serial Number\na\n", dry_run=True)
    wrong = await shop.import_("Serial Number\na\na\n", dry_run=True)

    assert (right.rows, right.error_count, right.batch) == (1, 0, None)
    assert [(error.kind, error.row) for error in wrong.errors] == [(ErrorKind.DUPLICATE_VALUE, 2)]
    assert await nothing_is_there(shop)


async def test_columns_go_where_they_are_mapped_to(shop: Shop) -> None:
    await shop.profile(SERIAL, MAC)
    text = "serial;Notes;Who\nSN1;x;node\n"

    refused = await shop.import_(text, dry_run=True)
    report = await shop.import_(text, mapping={"serial": "Serial Number", "Notes": None, "Who": "Device Name"})

    assert [(error.kind, error.column) for error in refused.errors] == [
        (ErrorKind.UNKNOWN_HEADER, 1),
        (ErrorKind.UNKNOWN_HEADER, 2),
        (ErrorKind.UNKNOWN_HEADER, 3),
    ]
    assert refused.rows == 0
    assert report.error_count == 0
    assert [(token.name, token.metadata) for token in await shop.stored()] == [("node", {"Serial Number": "SN1"})]


async def test_what_others_have_is_told_by_row(shop: Shop, fleet: Fleet) -> None:
    """fleet: of the profile `sensors`; its device and the tokens share an organization."""
    await fleet.import_("device")
    await shop.space.profiles.update("sensors", ProfileChange(metadata_fields=[SERIAL, MAC]))
    await shop.import_("Device Name,Serial Number\ntoken,SN1\n")

    report = await shop.import_(
        "Serial Number,MAC address,Device Name\nSN1,,token\nSN2,2c549188c9e3,new\nSN3,,device\nSN4,x,more\n"
    )

    assert [tuple(error[:5]) for error in report.errors] == [
        (ErrorKind.TAKEN, 1, 2, 1, "Serial Number"),
        (ErrorKind.TAKEN, 1, 2, 3, "Device Name"),
        (ErrorKind.TAKEN, 3, 4, 3, "Device Name"),
        (ErrorKind.INVALID_VALUE, 4, 5, 2, "MAC address"),
    ]
    assert [error.reason for error in report.errors[:3]] == [
        "another static token of the profile has this value already",
        "a static token of this name exists already",
        "a device of this name exists already",
    ]
    assert (report.rows, report.error_count) == (4, 4)
    assert len(await shop.stored()) == 1


async def test_other_organizations_and_profiles_may_have_the_same(shop: Shop) -> None:
    branch = await shop.below()
    await shop.profile(SERIAL)
    await shop.profile(SERIAL, name="meters")
    await shop.profile(SERIAL, of=branch)
    text = "Serial Number,Device Name\nSN1,node\n"

    assert (await shop.import_(text)).error_count == 0
    assert (await shop.import_(text, by=branch)).error_count == 0
    again = await shop.tokens.import_(shop.maker, "meters", io.StringIO("Serial Number\nSN1\n"))
    assert again.error_count == 0


async def test_a_value_in_another_form_is_the_same(shop: Shop) -> None:
    await shop.profile(MetadataField("MAC", "mac", unique=True))
    await shop.import_("MAC\n2c-54-91-88-c9-e3\n")

    report = await shop.import_("MAC\n2C549188C9E3\n")

    assert [(error.kind, error.row) for error in report.errors] == [(ErrorKind.TAKEN, 1)]


async def test_the_first_errors_are_kept_and_the_rest_counted(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_batch, "MAX_ERRORS", 3)
    await shop.profile(SERIAL, MAC)
    await shop.import_("Serial Number\ntaken\n")
    lines = ["Serial Number,MAC address\n", "taken,\n", *(f"SN{n},x\n" for n in range(10)), "taken,\n"]

    report = await shop.import_("".join(lines))

    assert [(error.kind, error.row) for error in report.errors] == [
        (ErrorKind.TAKEN, 1),
        (ErrorKind.INVALID_VALUE, 2),
        (ErrorKind.INVALID_VALUE, 3),
    ]
    assert (report.error_count, report.rows) == (12, 12)  # the last of them has what the first row has


async def test_a_long_file_is_read_in_slices(shop: Shop) -> None:
    await shop.profile(SERIAL)
    rows = 2 * token_batch.SLICE + 1
    heard: list[int] = []

    def lines() -> Iterator[str]:
        yield "Serial Number,Device Name\n"
        for n in range(rows):
            yield f"SN{n},node {n}\n"

    report = await shop.tokens.import_(shop.maker, "sensors", lines(), progress=heard.append)

    assert report.batch is not None
    assert (report.batch.count, heard) == (rows, [token_batch.SLICE, 2 * token_batch.SLICE, rows])
    assert [token.name for token in await shop.stored()] == [f"node {n}" for n in range(rows)]
    assert await shop.space.value("SELECT count(*) FROM static_token_value") == rows


async def test_a_profile_that_changes_meanwhile_stops_the_import(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.profile(SERIAL)
    real = store.taken

    def late(*arguments: Any) -> AsyncIterator[list[Taken]]:
        async def changed() -> AsyncIterator[list[Taken]]:
            await shop.space.profiles.update("sensors", ProfileChange(metadata_fields=[MAC]))
            async for found in real(*arguments):
                yield found

        return changed()

    monkeypatch.setattr(store, "taken", late)
    with pytest.raises(Conflict, match="changed meanwhile"):
        await shop.import_("Serial Number\nSN1\n")

    assert await nothing_is_there(shop)


async def test_two_imports_of_one_file_make_it_once(shop: Shop) -> None:
    await shop.profile(SERIAL)
    text = "Serial Number,Device Name\n" + "".join(f"SN{n},node {n}\n" for n in range(50))

    found = await asyncio.gather(*(shop.import_(text) for _ in range(3)), return_exceptions=True)

    made = [each for each in found if isinstance(each, ImportReport) and each.batch is not None]
    assert len(made) == 1
    for each in found:
        assert each in made or isinstance(each, Conflict) or (isinstance(each, ImportReport) and each.error_count)
    assert len(await shop.stored()) == 50


async def test_who_takes_a_name_meanwhile_is_told_of(shop: Shop, lock: Locking) -> None:
    await shop.profile(SERIAL)
    batch = await shop.import_("Device Name\nother\n")
    assert batch.batch is not None
    profile_id = batch.batch.profile_id
    async with lock(
        "INSERT INTO static_token (id, organization_id, profile_id, id_digest, sealed, qr_digest, qr_sealed, name)"
        " VALUES ($1, $2, $3, 'a', '', 'b', '', 'node')",
        uuid4(),
        shop.space.organization_id,
        profile_id,
    ) as held:
        importing = asyncio.create_task(shop.import_("Device Name\nnode\n"))
        await held.until_waiting()
        await held.commit()
        with pytest.raises(Conflict, match="no token was made"):
            await importing
