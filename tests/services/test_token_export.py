import asyncio
import csv
import io
import re
import threading
import zipfile
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from provserver.core import qr
from provserver.core.authorization import OPERATOR, Permission, Principal
from provserver.core.model import MetadataField
from provserver.errors import Forbidden, Invalid, NotFound
from provserver.services import token_export
from provserver.services.profiles import ProfileChange
from provserver.services.static_tokens import Selection, StaticTokens
from provserver.services.token_export import TokenExport
from tests import qrcodes
from tests.conftest import Space

ALL = Selection()


@dataclass
class Factory:
    """A maker with a profile `meters`."""

    space: Space
    principal: Principal
    tokens: StaticTokens
    export: TokenExport

    async def make(self, count: int) -> None:
        await self.tokens.make(self.principal, "meters", count)

    async def import_(self, *rows: str) -> None:
        text = io.StringIO("\n".join(("Device Name,Serial,IMEI", *rows)) + "\n", newline="")
        report = await self.tokens.import_(self.principal, "meters", text)
        assert not report.errors

    async def opened(self, limit: int = 100) -> dict[str, tuple[str, str]]:
        """(AuthToken, QR token) by number, as each token alone is shown."""
        found = {}
        for token in await self.tokens.list_(self.principal, limit=limit):
            details = await self.tokens.show(self.principal, token.id, open_=True)
            assert details.auth_token
            assert details.qr_token
            found[str(token.number)] = (details.auth_token, details.qr_token)
        return found

    async def organization_number(self) -> int:
        return int(await self.space.value("SELECT number FROM organization"))


@pytest.fixture
async def factory(space: Space) -> Factory:
    fields = [MetadataField("Serial"), MetadataField("IMEI")]
    await space.profiles.create(ProfileChange(name="meters", metadata_fields=fields))
    tokens = StaticTokens(space.database, space.keys)
    return Factory(space, Principal(OPERATOR, space.organization_id), tokens, TokenExport(tokens))


async def whole(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True))


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


# CSV


async def test_the_csv_has_every_token(factory: Factory) -> None:
    await factory.make(1200)

    data = await whole(factory.export.csv(factory.principal, ALL))

    assert data.startswith(b"Device Token,QR Token,")
    found = rows(data)
    assert len(found) == 1200
    assert len({row["Device Token"] for row in found}) == 1200
    for number, secrets in (await factory.opened(limit=5)).items():
        assert secrets in {(row["Device Token"], row["QR Token"]) for row in found if row["Number"] == number}
    template = (await factory.space.profiles.show("meters")).profile.template_id
    assert {(row["Template"], row["Template ID"], row["Organization"], row["Status"]) for row in found} == {
        ("meters", template, "Manufacturer", "UNCLAIMED")
    }


async def test_metadata_is_harmless_and_a_name_is_there_when_it_was_chosen(factory: Factory) -> None:
    await factory.import_("Pump 1,=1+1,490154203237518", ',"a,""b""",')

    found = rows(await whole(factory.export.csv(factory.principal, ALL)))

    assert [(row["Device Name"], row["Serial"], row["IMEI"]) for row in found] == [
        ("Pump 1", "'=1+1", "490154203237518"),
        ("", 'a,"b"', ""),
    ]


async def test_a_selection_without_tokens_is_a_header(factory: Factory) -> None:
    data = await whole(factory.export.csv(factory.principal, ALL))

    assert rows(data) == []
    assert data.count(b"\r\n") == 1


# Zip


async def test_the_zip_has_the_csv_and_each_tokens_code_by_number(factory: Factory) -> None:
    await factory.make(40)
    number = await factory.organization_number()

    files = unzipped(await whole(factory.export.zip_(factory.principal, ALL)))

    assert next(iter(files)) == "tokens.csv"
    assert files.pop("tokens.csv") == await whole(factory.export.csv(factory.principal, ALL))
    opened = await factory.opened()
    assert {name: qrcodes.read_png(image) for name, image in files.items()} == {
        f"qr/{each}.png": [f"{qr}+{number}"] for each, (_, qr) in opened.items()
    }
    for auth_token, _ in opened.values():
        assert not any(auth_token.encode() in name.encode() + image for name, image in files.items())


async def test_images_are_named_by_a_unique_field_unless_told_otherwise(factory: Factory) -> None:
    fields = [MetadataField("AppKey", "key128", unique=True), MetadataField("IMEI"), MetadataField("S/N", unique=True)]
    await factory.space.profiles.create(ProfileChange(name="nodes", metadata_fields=fields))
    text = f"AppKey,IMEI,S/N,Device Name\n{'0' * 32},1,N-1,Pump 1\n{'1' * 32},2,,\n"
    assert not (await factory.tokens.import_(factory.principal, "nodes", io.StringIO(text))).errors
    await factory.import_(",S-1,1")
    first, second, other = await factory.opened()

    async def names(**naming: str) -> set[str]:
        files = unzipped(await whole(factory.export.zip_(factory.principal, ALL, **naming)))  # type: ignore[arg-type]
        return {name.removeprefix("qr/").removesuffix(".png") for name in files} - {"tokens.csv"}

    assert await names() == {"N-1", second, other}
    assert await names(naming="serial") == {first, second, other}
    assert await names(naming="metadata:Device Name") == {"Pump 1", second, other}


async def test_images_are_named_by_a_field_safely(factory: Factory) -> None:
    await factory.import_(",S-1,", ",../../S-1,", ",s-1,", ",,x", ",CON,")
    numbers = list(await factory.opened())

    files = unzipped(await whole(factory.export.zip_(factory.principal, ALL, naming="metadata:Serial")))

    assert list(files)[1:] == [
        "qr/S-1.png",
        "qr/_.._S-1.png",
        f"qr/s-1 ({numbers[2]}).png",
        f"qr/{numbers[3]}.png",
        "qr/_CON.png",
    ]
    codes = [qrcodes.read_png(image)[0].partition("+")[0] for image in list(files.values())[1:]]
    assert codes == [row["QR Token"] for row in rows(files["tokens.csv"])]


async def test_images_are_named_as_blynks_when_asked(factory: Factory) -> None:
    await factory.make(3)

    files = unzipped(await whole(factory.export.zip_(factory.principal, ALL, naming="auth-token")))

    assert list(files)[1:] == [f"qr/{row['Device Token']}.png" for row in rows(files["tokens.csv"])]


async def test_images_may_be_svg(factory: Factory) -> None:
    await factory.make(3)

    files = unzipped(await whole(factory.export.zip_(factory.principal, ALL, images="svg")))

    found = rows(files["tokens.csv"])
    assert list(files)[1:] == [f"qr/{row['Number']}.svg" for row in found]
    codes = [qrcodes.read_svg(image)[0].partition("+")[0] for image in list(files.values())[1:]]
    assert codes == [row["QR Token"] for row in found]


async def test_others_have_their_turns_while_codes_are_made(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_export, "_TURN", 0)  # over at once, however quick the machine is
    await factory.make(20)
    turns, seen = 0, []

    async def tick() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    class Watched(qr.Encoder):
        def symbol(self, text: str) -> qr.Symbol:
            seen.append(turns)
            return super().symbol(text)

    monkeypatch.setattr(qr, "Encoder", Watched)
    ticking = asyncio.create_task(tick())
    await whole(TokenExport(factory.tokens).zip_(factory.principal, ALL))
    ticking.cancel()

    assert len(set(seen)) == len(seen) == 20


async def test_labels_are_drawn_beside_the_loop(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    await factory.make(30)
    seen = []

    class Watched(qr.Encoder):
        def symbol(self, text: str) -> qr.Symbol:
            seen.append(threading.get_ident())
            return super().symbol(text)

    monkeypatch.setattr(qr, "Encoder", Watched)
    await whole(TokenExport(factory.tokens).labels(factory.principal, ALL))

    assert len(seen) == 30
    assert threading.get_ident() not in seen


# Labels


async def test_labels_have_code_name_and_a_field(factory: Factory) -> None:
    await factory.import_("Pump 1,S-1,", ",S-2,", ",,x")
    number = await factory.organization_number()

    data = await whole(factory.export.labels(factory.principal, ALL, field="Serial"))

    opened = await factory.opened()
    (page,) = qrcodes.pages(data, 210, 297)
    assert sorted(qrcodes.read(page)) == sorted(f"{qr}+{number}" for _, qr in opened.values())
    contents = b"".join(map(_inflated, re.findall(rb"stream\n(.*?)\nendstream", data, re.DOTALL)))
    first, second, third = opened
    assert [each.decode() for each in re.findall(rb"\((.*)\) Tj", contents)] == [
        *("Pump 1", f"No. {first}", "Serial: S-1"),
        *(f"meters {second}", f"No. {second}", "Serial: S-2"),
        *(f"meters {third}", f"No. {third}"),
    ]
    assert not any(auth_token.encode() in contents + data for auth_token, _ in opened.values())


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


async def test_one_document_has_so_many_labels(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_export, "MAX_LABELS", 3)
    await factory.make(3)
    assert await whole(factory.export.labels(factory.principal, ALL))

    await factory.make(1)
    with pytest.raises(Invalid, match="at most 3 labels"):
        await anext(factory.export.labels(factory.principal, ALL))


# What is common to all


@pytest.mark.parametrize(("method", "count"), [("csv", 1100), ("zip_", 200), ("labels", 30)])
async def test_progress_ends_with_all(factory: Factory, method: str, count: int) -> None:
    await factory.make(count)
    told: list[int] = []

    await whole(getattr(factory.export, method)(factory.principal, ALL, progress=told.append))

    assert told == sorted(told)
    assert told[-1] == count
    assert len(told) > 1


@pytest.mark.parametrize("method", ["csv", "zip_", "labels"])
async def test_what_is_wrong_is_known_before_the_first_chunk(factory: Factory, method: str) -> None:
    await factory.make(1)
    user = Principal("user:1", factory.space.organization_id, frozenset({Permission.DEVICES_VIEW}))

    with pytest.raises(Forbidden):
        await anext(getattr(factory.export, method)(user, ALL))
    with pytest.raises(NotFound):
        await anext(getattr(factory.export, method)(factory.principal, Selection(profile="pumps")))


@pytest.mark.parametrize(
    ("method", "options", "fix"),
    [
        ("zip_", {"naming": "metadata:serial"}, "There are 'Serial', 'IMEI'"),
        ("zip_", {"naming": "metadata:"}, "There are 'Serial', 'IMEI'"),
        ("zip_", {"naming": "name"}, "'serial', 'auth-token' or 'metadata:'"),
        ("zip_", {"images": "gif"}, "png or svg"),
        ("labels", {"sheet": "A4"}, "There are L7160, 62x29"),
        ("labels", {"field": "serial"}, "There are 'Serial', 'IMEI'"),
    ],
)
async def test_what_there_is_not_is_refused_with_what_there_is(
    factory: Factory, method: str, options: dict[str, str], fix: str
) -> None:
    await factory.make(1)

    with pytest.raises(Invalid, match=fix):
        await anext(getattr(factory.export, method)(factory.principal, ALL, **options))


async def test_who_stops_reading_leaves_nothing_behind(factory: Factory) -> None:
    await factory.make(3000)

    for _ in range(8):  # the pool has four connections
        async with aclosing(factory.export.zip_(factory.principal, ALL)) as chunks:
            await anext(chunks)

    assert await factory.space.value("SELECT count(*) FROM static_token") == 3000
