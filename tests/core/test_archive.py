import io
import subprocess
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core.archive import Archive

AT = datetime(2026, 11, 22, 11, 44, 30, tzinfo=UTC)


def opened(data: bytes) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert archive.testzip() is None
    return archive


def test_entries_are_read_back() -> None:
    archive = Archive(AT)
    data = archive.begin("tokens.csv", mode=0o600)
    data += archive.write(b"a" * 1000) + archive.write(b"") + archive.write(b"b" * 10)
    data += archive.end()
    data += archive.add("qr/1.png", b"\x89PNG")
    data += archive.add("qr/ü €.svg", b"<svg/>" * 50, deflate=True)
    data += archive.add("empty", b"")
    data += archive.close()

    with opened(data) as found:
        assert found.namelist() == ["tokens.csv", "qr/1.png", "qr/ü €.svg", "empty"]
        assert found.read("tokens.csv") == b"a" * 1000 + b"b" * 10
        assert found.read("qr/1.png") == b"\x89PNG"
        assert found.read("qr/ü €.svg") == b"<svg/>" * 50
        assert found.read("empty") == b""
        infos = found.infolist()
    assert [info.compress_type for info in infos] == [
        zipfile.ZIP_DEFLATED,
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
        zipfile.ZIP_STORED,
    ]
    assert {info.date_time for info in infos} == {(2026, 11, 22, 11, 44, 30)}
    assert [info.external_attr >> 16 for info in infos] == [0o100600, *[0o100644] * 3]


def test_only_what_is_written_in_pieces_has_its_size_behind_it() -> None:
    """Readers that stream take stored entries only with their size before them."""
    archive = Archive(AT)
    data = archive.begin("a") + archive.write(b"x") + archive.end()
    data += archive.add("b", b"y") + archive.add("c", b"z", deflate=True) + archive.close()

    with opened(data) as found:
        assert [bool(info.flag_bits & 8) for info in found.infolist()] == [True, False, False]


def test_an_archive_may_be_empty() -> None:
    with opened(Archive(AT).close()) as found:
        assert found.namelist() == []


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (datetime(2026, 1, 2, 1, 0, 0, tzinfo=timezone(timedelta(hours=2))), (2026, 1, 1, 23, 0, 0)),
        (datetime(1970, 5, 6, 7, 8, 9, tzinfo=UTC), (1980, 5, 6, 7, 8, 8)),
    ],
)
def test_times_are_utc_from_1980_on_in_steps_of_two_seconds(at: datetime, said: tuple[int, ...]) -> None:
    archive = Archive(at)
    with opened(archive.add("a", b"") + archive.close()) as found:
        assert found.infolist()[0].date_time == said


def test_more_entries_than_16_bits_count() -> None:
    archive = Archive(AT)
    data = b"".join([archive.add(f"{number}", b"%d" % number) for number in range(66_000)]) + archive.close()

    with zipfile.ZipFile(io.BytesIO(data)) as found:
        assert len(found.namelist()) == 66_000
        assert found.read("65999") == b"65999"


@pytest.mark.parametrize("start", [2**32 - 2, 2**32 - 1, 2**32, 2**33])
def test_entries_and_a_directory_beyond_4_gib(tmp_path: Path, tool: Callable[[str], str], start: int) -> None:
    path = tmp_path / "large.zip"
    archive = Archive(AT)
    with path.open("wb") as file:
        file.write(archive.add("near", b"1"))
        # Ours alone know what is here: the file has a hole in place of gigabytes.
        archive._offset = start
        file.seek(start)
        file.write(archive.add("far", b"2"))
        file.write(archive.begin("farther") + archive.write(b"3") + archive.end())
        file.write(archive.close())

    with zipfile.ZipFile(path) as found:
        assert {name: found.read(name) for name in found.namelist()} == {"near": b"1", "far": b"2", "farther": b"3"}
    subprocess.run([tool("unzip"), "-qq", "-t", str(path)], check=True)


def test_unzip_takes_it(tmp_path: Path, tool: Callable[[str], str]) -> None:
    archive = Archive(AT)
    data = archive.begin("tokens.csv", mode=0o600) + archive.write(b"a,b\r\n" * 100) + archive.end()
    data += archive.add("qr/ü.png", b"y") + archive.close()
    path = tmp_path / "a.zip"
    path.write_bytes(data)

    subprocess.run([tool("unzip"), "-qq", str(path), "-d", str(tmp_path / "out")], check=True)

    assert (tmp_path / "out/tokens.csv").read_bytes() == b"a,b\r\n" * 100
    assert (tmp_path / "out/tokens.csv").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "out/qr/ü.png").read_bytes() == b"y"


def test_an_entry_beyond_4_gib_is_refused() -> None:
    archive = Archive(AT)
    archive.begin("a")
    assert archive._open is not None
    archive._open.size = 2**32 - 1

    with pytest.raises(ValueError, match="4 GiB"):
        archive.end()


@pytest.mark.parametrize("method", ["write", "end"])
def test_pieces_belong_to_an_entry_that_was_begun(method: str) -> None:
    archive = Archive(AT)
    archive.begin("a")
    archive.end()

    with pytest.raises(ValueError, match="begun"):
        getattr(archive, method)(*([b""] if method == "write" else []))


@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), st.binary(), st.booleans()),
        unique_by=lambda each: each[0],
    )
)
def test_any_entries(entries: list[tuple[str, bytes, bool]]) -> None:
    archive = Archive(AT)
    data = b"".join([archive.add(name, content, deflate=deflate) for name, content, deflate in entries])

    with opened(data + archive.close()) as found:
        assert [(info.filename, found.read(info)) for info in found.infolist()] == [each[:2] for each in entries]
