import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from provserver.core import edgent, esp_image, firmware_tag, nvs
from provserver.core.edgent import BLANK, Settings
from provserver.errors import Conflict, Invalid, Refused
from provserver.services import injection
from provserver.services.injection import FirmwareImage, NvsPartition, SerialPort
from tests import qrcodes
from tests.adapters.edgent_unit import EdgentUnit, Failure
from tests.core.firmware import ESP32, INFO, TAG, esp8266

AUTH = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"
TEMPLATE = "TMPL2feLBENZh"
HOST = Settings(AUTH, "iot.example.com")
WIFI = Settings(AUTH, "iot.example.com", 8443, "Line 3", "pass word")


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    path = tmp_path / "firmware.bin"
    path.write_bytes(ESP32)
    return path


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_partition_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    out = tmp_path / "nvs.bin"

    assert await NvsPartition(out).inject(WIFI, TEMPLATE) == {}

    assert nvs.read(out.read_bytes()) == edgent.nvs_items(WIFI)
    assert (len(out.read_bytes()), mode(out)) == (0x6000, 0o600)
    assert names(tmp_path) == ["nvs.bin"]


async def test_a_partition_is_as_large_as_the_unit_s(tmp_path: Path) -> None:
    out = tmp_path / "nvs.bin"
    await NvsPartition(out, 0x5000).inject(HOST, TEMPLATE)

    assert len(out.read_bytes()) == 0x5000


@pytest.mark.parametrize("source", [ESP32, esp8266(TAG + INFO)], ids=["ESP32", "ESP8266"])
async def test_a_firmware_is_copied_with_the_unit_s_values(tmp_path: Path, source: bytes) -> None:
    (tmp_path / "in.bin").write_bytes(source)
    out = tmp_path / "out.bin"
    way = FirmwareImage(tmp_path / "in.bin", out)

    way.check(WIFI, TEMPLATE)
    await way.inject(WIFI, TEMPLATE)

    written = out.read_bytes()
    esp_image.inspect(written)
    assert firmware_tag.find(written, firmware_tag.OPTIONS).values == {
        "ssid": "Line 3",
        "host": "iot.example.com",
        "port": "8443",
        "auth": AUTH,
        "pass": "pass word",
    }
    assert len(written) == len(source)
    assert (tmp_path / "in.bin").read_bytes() == source
    assert mode(out) == 0o600


async def test_a_unit_on_a_port_is_told_and_tells_what_it_is() -> None:
    with EdgentUnit(TEMPLATE) as unit:
        about = await SerialPort(unit.path).inject(HOST, TEMPLATE)

    assert unit.told == [[AUTH, "iot.example.com"]]
    assert about == {
        "boardName": "Blynk Meter-8DCF",
        "board": "Meter",
        "firmwareType": TEMPLATE,
        "firmwareVersion": "1.2.3",
    }


async def test_a_wrong_board_is_told_nothing() -> None:
    wrong = pytest.raises(Conflict, match=r"for the template TMPLother, .* Nothing was sent to it")
    with EdgentUnit("TMPLother") as unit, wrong:
        await SerialPort(unit.path).inject(HOST, TEMPLATE)

    assert unit.told == []
    assert not unit.asked_to_connect.is_set()


async def test_a_silent_unit_is_refused() -> None:
    with EdgentUnit(TEMPLATE, Failure.SILENT) as unit, pytest.raises(Refused, match="does not answer"):
        await SerialPort(unit.path, patience=0.05).inject(HOST, TEMPLATE)


@pytest.mark.parametrize("damage", [bytes(0x6000), b"", nvs.build([])], ids=["zeroes", "nothing", "another"])
async def test_a_partition_that_does_not_read_back_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    monkeypatch.setattr(injection, "read", lambda *_: damage)

    with pytest.raises(Refused, match="does not read back"):
        await NvsPartition(tmp_path / "nvs.bin").inject(HOST, TEMPLATE)


@pytest.mark.parametrize("damage", ["flipped", "unpatched", "none"])
async def test_a_firmware_that_does_not_read_back_is_refused(
    tmp_path: Path, firmware: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    plain = injection.read
    out = tmp_path / "out.bin"

    def reading(file: Path, limit: int) -> bytes:
        content = plain(file, limit)
        if file == out:
            return {"flipped": content[:-1] + b"\0", "unpatched": ESP32, "none": b""}[damage]
        return content

    monkeypatch.setattr(injection, "read", reading)

    with pytest.raises(Refused, match="does not read back"):
        await FirmwareImage(firmware, out).inject(WIFI, TEMPLATE)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"host": "", "port": None}, "there must be a host"),
        ({"ssid": "", "password": ""}, "The port goes with an SSID"),
    ],
)
def test_a_partition_that_cannot_be_is_told_before(
    tmp_path: Path, change: Mapping[str, str | None], reason: str
) -> None:
    settings = Settings(**({"auth": BLANK, "host": "h", "port": 80, "ssid": "a", "password": "b"} | dict(change)))  # type: ignore[arg-type]

    with pytest.raises(Invalid, match=reason):
        NvsPartition(tmp_path / "out").check(settings)


@pytest.mark.parametrize(
    ("content", "settings", "template_id", "fault", "reason"),
    [
        (b"", WIFI, None, Invalid, "cannot be patched: it is no image"),
        (esp8266(INFO), WIFI, None, Invalid, "has no tag 'blnkopt'"),
        (ESP32, HOST, None, Invalid, "There is no SSID"),
        (ESP32, Settings(AUTH, ssid="Café"), None, Invalid, "The value of ssid has characters"),
        (ESP32, WIFI, "TMPLother", Conflict, "is for the template TMPL2feLBENZh"),
    ],
)
def test_a_firmware_that_cannot_be_patched_is_told_before(
    tmp_path: Path, content: bytes, settings: Settings, template_id: str | None, fault: type[Refused], reason: str
) -> None:
    (tmp_path / "in.bin").write_bytes(content)

    with pytest.raises(fault, match=reason):
        FirmwareImage(tmp_path / "in.bin", tmp_path / "out.bin").check(settings, template_id)
    assert names(tmp_path) == ["in.bin"]


def test_firmware_that_does_not_say_what_it_is_is_taken(tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(esp8266(TAG))

    FirmwareImage(tmp_path / "in.bin", tmp_path / "out.bin").check(WIFI, "TMPLany")


def test_the_firmware_of_all_units_is_not_overwritten(firmware: Path) -> None:
    for out in (firmware, firmware.parent / "." / firmware.name):
        with pytest.raises(Invalid, match="what the next unit needs"):
            FirmwareImage(firmware, out).check(WIFI)


def test_a_firmware_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"none\.bin cannot be read: No such file"):
        FirmwareImage(tmp_path / "none.bin", tmp_path / "out.bin").check(WIFI)


def test_a_file_that_is_too_large_is_told(firmware: Path) -> None:
    with pytest.raises(Refused, match="larger than 10 bytes"):
        injection.read(firmware, 10)


def test_a_token_that_firmware_does_not_take_is_refused() -> None:
    assert injection.with_token(HOST, BLANK).auth == BLANK
    with pytest.raises(Invalid, match="not of the 32 characters") as refused:
        injection.with_token(HOST, "pl4nted")
    assert "pl4nted" not in str(refused.value)


def test_the_console_s_limits_are_told_before() -> None:
    with pytest.raises(Invalid, match="never a port"):
        SerialPort(Path("/dev/null")).check(WIFI)


@pytest.mark.parametrize(("name", "reason"), [(".", "it is a directory"), ("none/out", "its directory is not there")])
def test_where_nothing_can_be_written_is_told_before(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        injection.check_file(tmp_path / name)


def test_a_file_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    injection.save(tmp_path / "out", b"before")
    with pytest.raises(Refused, match="cannot be written"):
        injection.save(tmp_path / "none" / "out", b"after")
    (tmp_path / "directory").mkdir()
    with pytest.raises(Refused, match="cannot be written"):
        injection.save(tmp_path / "directory", b"after")

    assert names(tmp_path) == ["directory", "out"]
    assert (tmp_path / "out").read_bytes() == b"before"


def test_a_label_is_an_image_that_claims_the_device(tmp_path: Path) -> None:
    out = tmp_path / "label.png"
    injection.check_label(out)
    injection.print_label(out, "sqr_" + "a" * 32 + "+7", ("SN-1", "meters"))

    assert qrcodes.read_png(out.read_bytes()) == ["sqr_" + "a" * 32 + "+7"]
    assert mode(out) == 0o600


def test_a_label_is_a_page_for_a_label_printer(tmp_path: Path) -> None:
    out = tmp_path / "label.PDF"
    injection.check_label(out)
    injection.print_label(out, "sqr_" + "a" * 32 + "+7", ("SN-1", "meters"))

    (page,) = qrcodes.pages(out.read_bytes(), 62, 29)
    assert qrcodes.read(page) == ["sqr_" + "a" * 32 + "+7"]


def test_a_label_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"endings \.pdf, \.png"):
        injection.check_label(tmp_path / "label.svg")
