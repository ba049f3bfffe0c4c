import asyncio
import os
import pty
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from provserver.adapters.serial_port import MAX_UNREAD, SerialPort, serial_port
from provserver.errors import Refused


@contextmanager
def cable() -> Iterator[tuple[int, Path]]:
    """The far end of a pseudo-terminal, and its near end's path."""
    far, near = pty.openpty()
    tty.setraw(near)
    path = Path(os.ttyname(near))
    os.close(near)
    try:
        yield far, path
    finally:
        os.close(far)


async def test_bytes_go_as_they_are_in_both_directions() -> None:
    everything = bytes(range(256))
    with cable() as (far, path):
        async with serial_port(path, 115_200) as port:
            await port.send(everything)
            sent = b""
            while len(sent) < len(everything):
                sent += await asyncio.to_thread(os.read, far, 1024)
            os.write(far, everything)
            received = b""
            while len(received) < len(everything):
                received += await port.read()

            assert port.taken() == b""

    assert (sent, received) == (everything, everything)


async def test_a_port_that_is_full_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    port = SerialPort(writer, Path("pipe"))
    sending = asyncio.create_task(port.send(bytes(1 << 20)))
    received = 0
    while received < 1 << 20:
        received += len(await asyncio.to_thread(os.read, reader, 1 << 16))
    await sending
    os.close(reader)

    with pytest.raises(Refused, match="is gone"):
        await port.send(b"x")
    os.close(writer)


async def test_what_nobody_reads_is_not_kept_for_ever() -> None:
    reader, writer = os.pipe()
    port = SerialPort(reader, Path("pipe"))
    for number in range(2 * MAX_UNREAD // 4096):
        os.write(writer, bytes((number,)) * 4096)
        port.receive()

    unread = await port.read()

    assert len(unread) == MAX_UNREAD
    assert unread[-1] == 2 * MAX_UNREAD // 4096 - 1
    os.close(reader)
    os.close(writer)


async def test_a_port_that_was_pulled_out_is_told_to_who_reads() -> None:
    with cable() as (far, path):
        async with serial_port(path, 115_200) as port:
            reading = asyncio.create_task(port.read())
            await asyncio.sleep(0)
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, far)
            os.close(nothing)

            with pytest.raises(Refused, match="is gone: the unit or its cable was unplugged"):
                await reading
