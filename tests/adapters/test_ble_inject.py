import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from firmware_sim.address import Address
from firmware_sim.ble_inject import served
from firmware_sim.log import SerialLog
from provserver.adapters.ble_inject import BleInject, ble_inject
from provserver.core.board import Generation, Report
from provserver.core.edgent import Settings
from provserver.errors import Refused
from tests.support.wifi_board import SUCCESS, WifiBoard, failure

AUTH = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"
SETTINGS = Settings(AUTH, "iot.example.com", 8443, "Home", "wrong password")
IMPATIENT = 0.2


@asynccontextmanager
async def phone(board: WifiBoard) -> AsyncIterator[BleInject]:
    async with (
        served(Address("127.0.0.1", 0), board, SerialLog(None)) as address,
        ble_inject(address.host, address.port) as way,
    ):
        yield way


@asynccontextmanager
async def device(*answers: bytes | None) -> AsyncIterator[int]:
    """One that answers so, message by message, and then is gone; None: not at all."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
            if answer is None:
                await reader.read()
            else:
                writer.write(len(answer).to_bytes(2) + answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_from_the_first_look_to_success_with_a_wrong_password_between() -> None:
    board = WifiBoard(outcomes=[failure(722), SUCCESS])
    async with phone(board) as way:
        found = await way.board()
        networks = await way.networks()
        await way.configure(SETTINGS)
        wrong = await way.outcome()
        await way.configure(Settings(AUTH, "iot.example.com", None, "Home", "right"))
        right = await way.outcome()

    assert (found.name, found.template_id, found.generation) == (
        "Blynk Meter-8DCF",
        "TMPL2feLBENZh",
        Generation.EDGENT,
    )
    assert [each.ssid for each in networks] == ["Home", 'a "quoted\\ name']
    assert wrong == Report(online=False, last_error=722)
    assert right == Report(online=True)
    assert board.did == ["asked", "scan"]
    assert [each.password for each in board.configured] == ["wrong password", "right"]
    assert {each.token for each in board.configured} == {AUTH}


async def test_a_device_that_runs_is_told_of() -> None:
    async with phone(WifiBoard(state="RUNNING")) as way:
        with pytest.raises(Refused, match=r"does not wait to be set up\. Hold its button"):
            await way.board()


async def test_nobody_is_there() -> None:
    async with device() as port:
        pass
    with pytest.raises(Refused, match="Nothing is there"):
        async with ble_inject("127.0.0.1", port):
            pass


async def test_a_device_that_does_not_answer() -> None:
    async with device(None) as port, ble_inject("127.0.0.1", port) as way:
        way._patience = IMPATIENT
        with pytest.raises(Refused, match="does not answer"):
            await way.board()


IFS = b'{"t":"ifs_end"}'
WIFI = b'{"t":"if","name":"wifi"}'


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([b'{"t":"error","msg":"invalid command"}'], "does not understand"),
        ([IFS], "has no WiFi"),
        ([], "has ended"),
    ],
)
async def test_why_a_device_cannot_be_set_up(answers: list[bytes], reason: str) -> None:
    async with device(*answers) as port, ble_inject("127.0.0.1", port) as way:
        with pytest.raises(Refused, match=reason) as refused:
            await way.configure(SETTINGS)

    assert AUTH not in str(refused.value)
    assert "wrong password" not in str(refused.value)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([b'{"t":"set_fail"}'], "does not know all that it was sent"),
        ([b'{"t":"set_ok"}', b'{"t":"connect_fail","msg":"configuration invalid"}'], "found its settings invalid"),
    ],
)
async def test_settings_that_a_device_does_not_take(answers: list[bytes], reason: str) -> None:
    both = len(WIFI).to_bytes(2) + WIFI + len(IFS).to_bytes(2) + IFS

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in [both, *(len(each).to_bytes(2) + each for each in answers)]:
            await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
            writer.write(answer)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with ble_inject("127.0.0.1", port) as way:
            with pytest.raises(Refused, match=reason):
                await way.configure(SETTINGS)


async def test_a_device_without_wifi_sees_no_networks() -> None:
    async with device(b'{"t":"error","msg":"no wifi"}') as port, ble_inject("127.0.0.1", port) as way:
        assert await way.networks() == ()


async def test_a_connection_that_ends_in_a_try_is_no_verdict() -> None:
    reader = asyncio.StreamReader()
    reader.feed_eof()
    async with device() as port, ble_inject("127.0.0.1", port) as connected:
        outcome = asyncio.create_task(BleInject(reader, connected._writer, "here").outcome())
        for _ in range(10):
            await asyncio.sleep(0)

        assert not outcome.done()
        outcome.cancel()
