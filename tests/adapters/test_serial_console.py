import os
from pathlib import Path

import pytest

from provserver.adapters.serial_console import serial_console
from provserver.core.edgent import Settings
from provserver.errors import Refused
from tests.adapters.edgent_unit import EdgentUnit, Failure

AUTH = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"
SETTINGS = Settings(AUTH, "iot.example.com")
IMPATIENT = 0.2


async def connect(unit: EdgentUnit, settings: Settings = SETTINGS, patience: float = 30) -> None:
    async with serial_console(unit.path, patience=patience) as console:
        await console.connect(settings)


async def test_a_unit_says_what_it_is() -> None:
    with EdgentUnit("TMPLabc") as unit:
        async with serial_console(unit.path, patience=30) as console:
            board = await console.board()

    assert (board.name, board.board, board.template_id) == ("Blynk Meter-8DCF", "Meter", "TMPLabc")
    assert (board.firmware_type, board.firmware_version) == ("TMPLabc", "1.2.3")
    assert unit.faults == []


async def test_a_unit_gets_its_token_and_the_host() -> None:
    with EdgentUnit() as unit:
        await connect(unit)

    assert unit.told == [[AUTH, "iot.example.com"]]
    assert unit.faults == []


async def test_older_firmware_gets_its_token_and_the_wifi() -> None:
    with EdgentUnit(older=True) as unit:
        await connect(unit, Settings(AUTH, ssid="Línea 3", password="a b\\c"))

    assert unit.told == [[AUTH, "Línea 3", "a b\\c"]]


async def test_half_a_line_that_is_there_already_does_no_harm() -> None:
    with EdgentUnit() as unit:
        other = os.open(unit.path, os.O_RDWR | os.O_NOCTTY)
        os.write(other, b"conn")
        await connect(unit)
        os.close(other)

    assert unit.tokens == [AUTH]


async def test_noise_on_the_line_is_noticed_and_the_command_given_again() -> None:
    with EdgentUnit(failure=Failure.NOISY_ONCE) as unit:
        await connect(unit)

    assert set(unit.tokens) == {AUTH}
    assert len(unit.tokens) == 2


@pytest.mark.parametrize(
    ("failure", "patience", "reason"),
    [
        (Failure.SILENT, IMPATIENT, "does not answer"),
        (Failure.SILENT_AFTER_CONNECT, IMPATIENT, "does not answer"),
        (Failure.BABBLING, 30, None),
        (Failure.NOISY, 30, "what it repeats is not what was sent"),
        (Failure.UNPLUGGED, 30, "is gone: the unit or its cable was unplugged"),
        (Failure.RESTARTING, 30, "has restarted since it got its token"),
        (Failure.REFUSING, 30, "does not take its token"),
        (Failure.NO_CONSOLE, 30, "has no command 'devinfo'"),
        (Failure.NOT_JSON, IMPATIENT, "does not answer"),
    ],
    ids=lambda value: value.name.lower() if isinstance(value, Failure) else None,
)
async def test_a_failing_unit_is_told_without_its_token(failure: Failure, patience: float, reason: str | None) -> None:
    with EdgentUnit(failure=failure) as unit:
        if reason is None:
            await connect(unit, patience=patience)
        else:
            with pytest.raises(Refused, match=reason) as refused:
                await connect(unit, patience=patience)
            assert str(unit.path) in str(refused.value)
            assert AUTH not in str(refused.value)

    assert set(unit.tokens) <= {AUTH}


async def test_firmware_that_takes_no_wifi_is_noticed() -> None:
    with EdgentUnit() as unit, pytest.raises(Refused, match="takes no SSID, and has taken it for a host"):
        await connect(unit, Settings(AUTH, ssid="Line"))


async def test_firmware_that_wants_a_wifi_says_so() -> None:
    with EdgentUnit(older=True) as unit, pytest.raises(Refused, match="expected: <auth> <ssid> <pass>"):
        await connect(unit, Settings(AUTH))


async def test_a_port_is_one_program_s_at_a_time() -> None:
    with EdgentUnit() as unit:
        async with serial_console(unit.path):
            with pytest.raises(Refused, match="Another program has"):
                await connect(unit)
        await connect(unit)


@pytest.mark.parametrize(
    ("path", "baud", "reason"),
    [
        ("none", 115_200, "No such file or directory"),
        ("plain", 115_200, "is no serial port"),
        ("plain", 12_345, "no speed of serial ports. The usual one is 115200"),
        ("plain", 0, "no speed of serial ports"),
    ],
)
async def test_what_is_no_port_is_told(tmp_path: Path, path: str, baud: int, reason: str) -> None:
    (tmp_path / "plain").touch()

    with pytest.raises(Refused, match=reason):
        async with serial_console(tmp_path / path, baud):
            pass
