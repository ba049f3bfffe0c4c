"""Proxies before the server that lose answers: what is granted is committed, and the device never hears of it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self, cast

GRANTED = b"credentialsValue"


class LosingStream:
    """TCP, for HTTP and MQTT: the connection of each of the first `losses` answers that grant something breaks."""

    def __init__(self, target: str, losses: int) -> None:
        self._target = target.split(":")
        self._losses = losses
        self.lost = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._link, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        """Where it stands in for the server."""
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        inner_reader, inner_writer = await asyncio.open_connection(self._target[0], int(self._target[1]))
        try:
            async with asyncio.TaskGroup() as pipes:
                pipes.create_task(self._pipe(reader, inner_writer, lossy=False))
                pipes.create_task(self._pipe(inner_reader, writer, lossy=True))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # one end broke off, or the answer is to be lost
        finally:
            writer.transport.abort()
            inner_writer.transport.abort()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, lossy: bool) -> None:
        while data := await reader.read(65_536):
            if lossy and GRANTED in data and self.lost < self._losses:
                self.lost += 1
                raise ConnectionError
            writer.write(data)
            await writer.drain()
        raise ConnectionError


class LosingDatagrams:
    """UDP, for CoAP: the first `losses` datagrams that grant something are lost."""

    def __init__(self, target: str, losses: int) -> None:
        host, port = target.split(":")
        self._target = host, int(port)
        self._losses = losses
        self.lost = 0
        self._inner: dict[Any, asyncio.DatagramTransport] = {}
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._outer, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self._forward), local_addr=("127.0.0.1", 0)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in (self._outer, *self._inner.values()):
            each.close()
        await asyncio.sleep(0)  # until they are

    @property
    def address(self) -> str:
        """Where it stands in for the server."""
        return f"127.0.0.1:{self._outer.get_extra_info('sockname')[1]}"

    def _forward(self, data: bytes, sender: Any) -> None:
        task = asyncio.get_running_loop().create_task(self._send(data, sender))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, data: bytes, sender: Any) -> None:
        async with self._opening:
            if sender not in self._inner:
                self._inner[sender], _ = await asyncio.get_running_loop().create_datagram_endpoint(
                    lambda: _Datagrams(lambda answer, _: self._answer(answer, sender)), remote_addr=self._target
                )
        self._inner[sender].sendto(data)

    def _answer(self, data: bytes, device: Any) -> None:
        if GRANTED in data and self.lost < self._losses:
            self.lost += 1
            return
        with suppress(OSError):
            self._outer.sendto(data, device)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, Any], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._received(data, addr)
