"""A hand for a simulated device: lines of text in, a line of JSON out for each, over TCP or a Unix socket."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator

from firmware_sim.address import Address
from firmware_sim.edgent_state import State
from firmware_sim.wifi_device import WifiDevice

Member = str | int | bool


def described(device: WifiDevice) -> dict[str, Member]:
    """What is to be seen of it."""
    return {
        "state": device.state,
        "lastError": device.last_error,
        "accessPoint": device.access_point_open,
        "phone": device.phone,
        "led": str(device.light),
        "connections": device.connections,
        "boots": device.boots,
    }


async def obey(device: WifiDevice, line: str) -> dict[str, Member]:
    """Do what a line says; the answer to it."""
    command, _, argument = line.strip().partition(" ")
    match command:
        case "state":
            pass
        case "wait":
            try:
                states = [State(name) for name in argument.split(",")]
            except ValueError:
                return {"error": f"a state is one of {', '.join(State)}"}
            await device.wait(*states)
        case "press":
            try:
                seconds = float(argument)
            except ValueError:
                seconds = math.nan
            if not 0 <= seconds < math.inf:
                return {"error": "press SECONDS"}
            await device.hold(seconds)
        case "down":
            device.press()
        case "up":
            device.release()
        case "join":
            device.joined()
        case "leave":
            device.left()
        case "off":
            device.power_off()
            await device.wait(State.OFF)
        case "on":
            device.power_on()
        case "reboot":
            device.reboot()
        case _:
            return {"error": "state, wait STATE[,STATE], press SECONDS, down, up, join, leave, off, on, reboot, watch"}
    return described(device)


@contextlib.asynccontextmanager
async def served(where: str, device: WifiDevice) -> AsyncIterator[str]:
    """Obey whoever connects. where: HOST:PORT, or the path of a Unix socket. Yields it, with the port taken."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await _converse(reader, writer, device)
        writer.close()

    if "/" in where:
        server = await asyncio.start_unix_server(connected, where)
        shown = where
    else:
        host, _, port = where.rpartition(":")
        server = await asyncio.start_server(connected, host.strip("[]"), int(port))
        shown = str(Address(*server.sockets[0].getsockname()[:2]))
    try:
        yield shown
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, device: WifiDevice) -> None:
    while True:
        try:
            line = await reader.readline()
        except ValueError:  # the reader has thrown away what it had of it
            await _say(writer, {"error": "a line is shorter"})
            continue
        if not line:
            return
        text = line.decode(errors="replace").strip()
        if text == "watch":
            await _watch(reader, writer, device)
            return
        await _say(writer, await obey(device, text))


async def _watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, device: WifiDevice) -> None:
    """Tell each change, until they hang up."""
    changes: asyncio.Queue[dict[str, Member] | None] = asyncio.Queue()
    changes.put_nowait(described(device))
    end = device.watch(lambda *_: changes.put_nowait(described(device)))
    gone = asyncio.create_task(reader.read())
    gone.add_done_callback(lambda _: changes.put_nowait(None))
    try:
        while (change := await changes.get()) is not None:
            await _say(writer, change)
    finally:
        end()
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)


async def _say(writer: asyncio.StreamWriter, answer: dict[str, Member]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    await writer.drain()
