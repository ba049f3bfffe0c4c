import os
import stat
from pathlib import Path

import pytest

from firmware_sim.errors import FlashError
from firmware_sim.flash import Credentials, FileFlash, Memory, VolatileFlash
from firmware_sim.request import Request, new_nonce

FULL = Memory(
    Request(new_nonce(), "sensor-1", "MQTT_BASIC", username="u", password="p", client_id="c", gateway=True),
    "-----BEGIN PRIVATE KEY-----",
    Credentials("MQTT_BASIC", {"clientId": "c", "userName": "u", "password": "p"}, "sensor-1", "id"),
)


@pytest.fixture
def flash(tmp_path: Path) -> FileFlash:
    return FileFlash(tmp_path / "flash.json")


async def test_a_new_device_has_an_empty_memory(flash: FileFlash) -> None:
    assert await flash.read() == Memory()
    assert not flash.path.exists()


async def test_keeps_everything(flash: FileFlash) -> None:
    await flash.write(FULL)
    assert await FileFlash(flash.path).read() == FULL


async def test_volatile_flash_keeps_everything_too() -> None:
    flash = VolatileFlash()
    assert await flash.read() == Memory()
    await flash.write(FULL)
    assert await flash.read() == FULL


async def test_is_readable_by_its_owner_alone(flash: FileFlash) -> None:
    flash.path.write_text("{}")
    flash.path.chmod(0o644)
    before = os.umask(0)
    try:
        await flash.write(FULL)
    finally:
        os.umask(before)
    assert stat.S_IMODE(flash.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
async def test_a_cut_before_the_rename_leaves_the_old_content(
    flash: FileFlash, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    await flash.write(FULL)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if call == "replace":
            patch.setattr(Path, "replace", fail)
        elif call == "fsync":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr(os, "open", fail)
        with pytest.raises(FlashError, match="No space left"):
            await flash.write(Memory())
    assert await flash.read() == FULL


async def test_syncs_file_then_renames_then_syncs_directory(flash: FileFlash, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(descriptor: int) -> None:
        calls.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def recorded_replace(source: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    await flash.write(FULL)
    assert calls == ["file", "rename", "directory"]


async def test_what_a_cut_left_behind_does_not_pile_up(flash: FileFlash) -> None:
    flash.path.with_name(".flash.json.new").write_text('{"half": ')
    await flash.write(FULL)
    assert [path.name for path in flash.path.parent.iterdir()] == ["flash.json"]
    assert await flash.read() == FULL


async def test_never_writes_through_a_planted_link(flash: FileFlash, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    flash.path.with_name(".flash.json.new").symlink_to(victim)
    await flash.write(FULL)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"credentials": 1}',
        b'{"unknown": 1}',
        b'{"request": {"token": "t"}}',
    ],
)
async def test_corrupted_content_is_named(flash: FileFlash, content: bytes) -> None:
    flash.path.write_bytes(content)
    with pytest.raises(FlashError, match=r"flash\.json is corrupted .*--erase"):
        await flash.read()
    assert flash.path.read_bytes() == content


async def test_a_directory_in_its_place_is_named(flash: FileFlash) -> None:
    flash.path.mkdir()
    with pytest.raises(FlashError, match="cannot read"):
        await flash.read()
    with pytest.raises(FlashError, match="cannot write"):
        await flash.write(FULL)
    with pytest.raises(FlashError, match="cannot erase"):
        flash.erase()


async def test_erase(flash: FileFlash) -> None:
    flash.erase()
    await flash.write(FULL)
    flash.erase()
    assert await flash.read() == Memory()
