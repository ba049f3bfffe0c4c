"""A network between devices and their server: it loses, delays, doubles and reorders what they send, and can be cut.

A datagram meets each of these as it is. Of a stream, TCP mends them before anybody sees more than time go by: a
segment that is lost costs a retransmission, one that comes twice or too early nothing. What remains is a connection
that breaks.
"""

import abc
import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Annotated, Any, Self, cast

import msgspec

from firmware_sim.access_point import bound
from firmware_sim.address import Address
from firmware_sim.transports import TransportName

RETRANSMISSION = 0.2
"""Seconds that a lost segment costs: the least that Linux waits for its acknowledgement."""

HELD_BACK = 0.05
"""Seconds that a datagram is held back, so that those behind it arrive first."""

PEERS = 4096
"""Devices that a UDP proxy knows at one time; the one that was silent longest is forgotten, as by a NAT."""

Chance = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


Judge = Callable[[bytes, bool], Sequence[float]]
"""Decides what becomes of bytes on their way, to the device (true) or to the server: the seconds after which each copy
arrives. None at all: they are lost; of a stream, the connection breaks.
"""


def unharmed(_bytes: bytes, _to_device: bool) -> Sequence[float]:
    """What arrives at once."""
    return (0.0,)


class Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network's manners.

    loss, duplication, reordering: the chance of each datagram or segment, either way. breaks: the chance of a
    connection to break at each segment. delay: seconds one way, at least and at most.
    """

    loss: Chance = 0.0
    duplication: Chance = 0.0
    reordering: Chance = 0.0
    breaks: Chance = 0.0
    delay: tuple[Seconds, Seconds] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.delay[0] > self.delay[1]:
            raise ValueError("delay is [at least, at most], in seconds")

    def datagram(self, chance: Random) -> list[float]:
        """When each copy of a datagram arrives."""
        if chance.random() < self.loss:
            return []
        copies = 2 if chance.random() < self.duplication else 1
        return [
            chance.uniform(*self.delay) + (HELD_BACK if chance.random() < self.reordering else 0.0)
            for _ in range(copies)
        ]

    def segment(self, chance: Random) -> list[float]:
        """When a part of a stream arrives; never when the connection breaks."""
        if chance.random() < self.breaks:
            return []
        return [chance.uniform(*self.delay) + (RETRANSMISSION if chance.random() < self.loss else 0.0)]


class Proxy(abc.ABC):
    """Listens on 127.0.0.1, on a port that it keeps, and stands there for the server.

    counts: what it did, in words. source: the address of this machine that the server sees, None for the usual one.
    """

    def __init__(self, judge: Judge = unharmed, source: str | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._judge = judge
        self._local = (source, 0) if source else None
        self._port = 0

    @property
    def address(self) -> Address:
        """Where it stands in for the server; while it is open."""
        return Address("127.0.0.1", self._port)

    @abc.abstractmethod
    async def cut(self) -> None:
        """End all that is under way, and let nothing pass: the network is gone."""

    @abc.abstractmethod
    async def restore(self) -> None:
        """Let everything pass again."""

    @abc.abstractmethod
    async def close(self) -> None:
        """End for good."""

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class StreamProxy(Proxy):
    """TCP, whatever is spoken over it. server: a str is the path of a unix socket."""

    def __init__(self, server: Address | str, judge: Judge = unharmed, source: str | None = None) -> None:
        super().__init__(judge, source)
        self._target = server
        self._server: asyncio.Server | None = None
        self._kept: socket.socket | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    async def restore(self) -> None:
        """Accept connections, again if need be, and let bytes pass."""
        self._flowing.set()
        if self._kept is None:
            self._kept = bound(socket.AF_INET, "127.0.0.1", self._port)
            self._port = self._kept.getsockname()[1]
        if self._server is None:
            self._server = await asyncio.start_server(
                self._link, sock=bound(socket.AF_INET, "127.0.0.1", self._port), backlog=1024
            )

    async def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task, writers in list(self._links.items()):
            for writer in writers:
                writer.transport.abort()
            task.cancel()
        if self._links:
            await asyncio.wait(list(self._links))

    def freeze(self) -> None:
        """Let no byte pass, and close nothing."""
        self._flowing.clear()

    async def close(self) -> None:
        """As cut, and give the port back."""
        await self.cut()
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._links[task] = [writer]
        task.add_done_callback(self._links.pop)
        try:
            inner_reader, inner_writer = await self._connect()
            self._links[task].append(inner_writer)
            async with asyncio.TaskGroup() as pipes:
                pipes.create_task(self._pipe(reader, inner_writer, to_device=False))
                pipes.create_task(self._pipe(inner_reader, writer, to_device=True))
        except (asyncio.CancelledError, OSError, ExceptionGroup):
            pass  # an end that broke off ends the link
        finally:
            for each in self._links[task]:
                if not each.is_closing():  # else it still has to send what came before the end
                    each.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, str):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection(self._target.host, self._target.port, local_addr=self._local)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_device: bool) -> None:
        while data := await reader.read(65_536):
            await self._flowing.wait()
            arrivals = self._judge(data, to_device)
            if not arrivals:
                self.counts["connections broken"] += 1
                raise ConnectionError
            if arrivals[0] > 0:
                self.counts["segments late"] += 1
                await asyncio.sleep(arrivals[0])
            writer.write(data)
            await writer.drain()
        writer.close()
        raise ConnectionError


class DatagramProxy(Proxy):
    """UDP: the server sees each device at a port of its own."""

    def __init__(self, server: Address, judge: Judge = unharmed, source: str | None = None) -> None:
        super().__init__(judge, source)
        self._target = (server.host, server.port)
        self._outer: asyncio.DatagramTransport | None = None
        self._inner: dict[Any, asyncio.DatagramTransport] = {}
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = True

    async def restore(self) -> None:
        """Let datagrams pass."""
        self._passing = True
        if self._outer is None:
            self._outer, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Datagrams(self._ask), local_addr=("127.0.0.1", self._port)
            )
            self._port = self._outer.get_extra_info("sockname")[1]

    async def cut(self) -> None:
        """Drop every datagram, those on their way too."""
        self._passing = False

    async def close(self) -> None:
        """Close every port."""
        self._passing = False
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in (self._outer, *self._inner.values()):
            if each is not None:
                each.close()
        self._outer = None
        self._inner.clear()
        await asyncio.sleep(0)  # until they are

    def _ask(self, data: bytes, device: Any) -> None:
        for after in self._arrivals(data, to_device=False):
            self._later(after, self._to_server, data, device)

    def _answer(self, data: bytes, device: Any) -> None:
        for after in self._arrivals(data, to_device=True):
            self._later(after, self._to_device, data, device)

    def _arrivals(self, data: bytes, *, to_device: bool) -> Sequence[float]:
        if not self._passing:
            return ()
        arrivals = self._judge(data, to_device)
        if not arrivals:
            self.counts["datagrams lost"] += 1
        elif len(arrivals) > 1:
            self.counts["datagrams doubled"] += 1
        return arrivals

    def _later(self, after: float, send: Callable[[bytes, Any], None], data: bytes, device: Any) -> None:
        if after > 0:
            self.counts["datagrams late"] += 1
            asyncio.get_running_loop().call_later(after, send, data, device)
        else:
            send(data, device)

    def _to_device(self, data: bytes, device: Any) -> None:
        if self._passing and self._outer is not None:
            with contextlib.suppress(OSError):
                self._outer.sendto(data, device)

    def _to_server(self, data: bytes, device: Any) -> None:
        if not self._passing:
            return
        if (known := self._inner.pop(device, None)) is not None:
            self._inner[device] = known  # the last one to be forgotten
            with contextlib.suppress(OSError):
                known.sendto(data)
            return
        task = asyncio.get_running_loop().create_task(self._open(data, device))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, data: bytes, device: Any) -> None:
        async with self._opening:
            if device not in self._inner:
                try:
                    self._inner[device], _ = await asyncio.get_running_loop().create_datagram_endpoint(
                        lambda: _Datagrams(lambda answer, _: self._answer(answer, device)),
                        remote_addr=self._target,
                        local_addr=self._local,
                    )
                except OSError:  # no such address, too many files: the device hears nothing
                    self.counts["datagrams lost"] += 1
                    return
            if len(self._inner) > PEERS:
                self._inner.pop(next(iter(self._inner))).close()
        self._to_server(data, device)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, Any], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._received(data, addr)


def over_datagrams(name: TransportName) -> bool:
    """Whether this one is spoken over UDP."""
    return name in (TransportName.COAP, TransportName.COAPS, TransportName.OSCORE)


def before(name: TransportName, server: Address, judge: Judge = unharmed, source: str | None = None) -> Proxy:
    """A proxy of the kind that this transport needs, not yet open."""
    return (DatagramProxy if over_datagrams(name) else StreamProxy)(server, judge, source)


def judged(name: TransportName, conditions: Conditions, chance: Random) -> Judge:
    """Have a transport meet these conditions. chance: drawn from."""
    draw = conditions.datagram if over_datagrams(name) else conditions.segment

    return lambda _bytes, _to_device: draw(chance)
