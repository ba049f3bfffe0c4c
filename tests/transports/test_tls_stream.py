"""TLS over real sockets, of both event loops and of `transports/tcp.py`: unmodified clients, rude ones, ends."""

import asyncio
import gc
import hashlib
import logging
import os
import socket
import ssl
import sys
import weakref
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop
from aiohttp import web
from OpenSSL import SSL

from provserver.core.model import Peer, PreSharedKey, Transport
from provserver.errors import Outcome, Unavailable
from provserver.services.limits import Limits, Rates, Strangers
from provserver.services.provisioning import Answer, Provisioning
from provserver.transports import tcp, tls_stream
from provserver.transports.admission import Admission
from provserver.transports.mqtt.listener import MqttListener
from provserver.transports.tls import ServerContext
from provserver.transports.tls_stream import TlsAcceptor, over_tls
from tests import pki
from tests.transports.tls_peer import ROOT, TLS_1_2, TLS_1_3, Client, server_files

STREAMS: Final = {"TLS 1.2": TLS_1_2, "TLS 1.3": TLS_1_3}
PYTHON_VERSIONS: Final = {TLS_1_2: ssl.TLSVersion.TLSv1_2, TLS_1_3: ssl.TLSVersion.TLSv1_3}
KEY: Final = PreSharedKey("device-1", bytes(range(16)))
LONE: Final = pki.self_signed("sensor-1")
BIG: Final = os.urandom(6_000_000)
LIMIT: Final = 300.0
"""Seconds after which a test that hangs fails, at the line that it waits in."""

each_stream = pytest.mark.parametrize("version", STREAMS.values(), ids=STREAMS)

Run = Callable[[Coroutine[Any, Any, None]], None]


Serve = Callable[[TlsAcceptor], Awaitable[asyncio.Server | tcp.TcpServer]]


async def by_the_loop(acceptor: TlsAcceptor) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(acceptor, "127.0.0.1", 0)


async def by_epoll(acceptor: TlsAcceptor) -> tcp.TcpServer:
    return await tcp.serve(acceptor, "127.0.0.1", 0, backlog=100)


SERVE: ContextVar[Serve] = ContextVar("SERVE", default=by_the_loop)


@pytest.fixture(params=["asyncio", "uvloop", "epoll"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs to the end on a loop of its own, and wants nothing to be left there."""
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop
    context = copy_context()
    context.run(SERVE.set, by_epoll if request.param == "epoll" else by_the_loop)

    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            faults: list[dict[str, Any]] = []
            runner.get_loop().set_exception_handler(lambda _, fault: faults.append(fault))
            runner.run(asyncio.wait_for(main, LIMIT), context=context)
            assert faults == []

    return run


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    server_files(folder)
    LONE.write(folder)
    (folder / "ca.pem").write_text(ROOT.pem)
    return folder


@pytest.fixture(scope="session")
def context(folder: Path) -> ServerContext:
    return ServerContext(folder / "server.pem", folder / "server.key")


# The server's side


@dataclass(eq=False)
class Inner(asyncio.Protocol):
    """Keeps what it hears; answers with what it got when `echo` is set."""

    echo: bool = False
    half_open: bool = False
    data: bytearray = field(default_factory=bytearray)
    heard: list[str] = field(default_factory=list)
    error: BaseException | None = None
    writable: bool = True
    pauses: int = 0

    def __post_init__(self) -> None:
        self.changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._note("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.echo:
            self.transport.write(data)
        self.changed.set()

    def eof_received(self) -> bool:
        self._note("eof")
        return self.half_open

    def connection_lost(self, exc: BaseException | None) -> None:
        self.error = exc
        self._note("lost")

    def pause_writing(self) -> None:
        self.writable = False
        self.pauses += 1
        if self.echo:
            self.transport.pause_reading()
        self.changed.set()

    def resume_writing(self) -> None:
        self.writable = True
        if self.echo:
            self.transport.resume_reading()
        self.changed.set()

    def _note(self, what: str) -> None:
        self.heard.append(what)
        self.changed.set()

    async def until(self, condition: Callable[["Inner"], object]) -> None:
        while not condition(self):
            self.changed.clear()
            await self.changed.wait()


class BufferedInner(asyncio.BufferedProtocol):
    """An `Inner` with a buffer that is smaller than a record, and that changes."""

    def __init__(self, inner: Inner) -> None:
        self.inner = inner
        self.buffer = bytearray()
        self.connection_made = inner.connection_made  # type: ignore[method-assign]
        self.connection_lost = inner.connection_lost  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> bytearray:
        assert sizehint > 0
        self.buffer = bytearray(1000)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.inner.data_received(bytes(self.buffer[:nbytes]))


class Listening:
    """A server, and the inner protocols of its connections in order."""

    def __init__(self, acceptor: TlsAcceptor, port: int, made: "asyncio.Queue[Inner]") -> None:
        self.acceptor = acceptor
        self.port = port
        self.made = made

    async def until(self, condition: Callable[[TlsAcceptor], object]) -> None:
        """Of what only the acceptor knows; it tells nobody when it changes."""
        while not condition(self.acceptor):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def one_key(identity: str, _source: str) -> PreSharedKey | None:
    await asyncio.sleep(0)
    return KEY if identity == KEY.identity else None


@asynccontextmanager
async def listening(
    context: ServerContext,
    make: Callable[[], Inner] = Inner,
    *,
    buffered: bool = False,
    shared_key: Callable[[str, str], Awaitable[PreSharedKey | None]] = one_key,
    **options: Any,
) -> AsyncIterator[Listening]:
    made: asyncio.Queue[Inner] = asyncio.Queue()
    inners: weakref.WeakSet[Inner] = weakref.WeakSet()

    def protocol() -> asyncio.BaseProtocol:
        inner = make()
        made.put_nowait(inner)
        inners.add(inner)
        return BufferedInner(inner) if buffered else inner

    loop = asyncio.get_running_loop()
    acceptor = over_tls(context, protocol, loop, shared_key=shared_key, **options)
    server = await SERVE.get()(acceptor)
    try:
        yield Listening(acceptor, server.sockets[0].getsockname()[1], made)
    finally:
        server.close()
        acceptor.abort()
        for inner in tuple(inners):
            inner.transport.abort()
        await server.wait_closed()


# The client's side


def trusting(folder: Path, version: int = TLS_1_3, certificate: bool = False) -> ssl.SSLContext:
    client = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    client.check_hostname = False
    client.minimum_version = client.maximum_version = PYTHON_VERSIONS[version]
    if certificate:
        client.load_cert_chain(folder / "client.pem", folder / "client.key")
    return client


class Wire:
    """A client in memory on a socket: everything it does is on purpose."""

    def __init__(self, client: Client, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.client = client
        self.reader = reader
        self.writer = writer
        self.ended = False

    @classmethod
    async def open(cls, port: int, client: Client | None = None) -> "Wire":
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        return cls(client or Client(), reader, writer)

    async def handshake(self) -> "Wire":
        await self.until(lambda client: client.done or client.error)
        return self

    async def until(self, condition: Callable[[Client], object]) -> bytes:
        """Go on until it holds, or the server has ended the stream; returns what was received."""
        while True:
            self.flush()
            if condition(self.client) or self.ended:
                return self.client.received
            self.feed(await self.reader.read(65_536))

    def feed(self, data: bytes) -> None:
        if data:
            self.client.feed(data)
        else:
            self.ended = True

    def flush(self) -> None:
        if sent := self.client.step():
            self.writer.writelines(sent)

    def say(self, data: bytes) -> None:
        self.client.ssl.sendall(data)
        self.flush()

    def close_notify(self) -> None:
        self.client.ssl.shutdown()
        self.flush()

    @property
    def heard_close_notify(self) -> bool:
        return bool(self.client.ssl.get_shutdown() & SSL.RECEIVED_SHUTDOWN)

    async def close(self) -> None:
        self.writer.close()
        with_errors = await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)
        assert all(error is None or isinstance(error, OSError) for error in with_errors)


# Conversations


@pytest.mark.parametrize("buffered", [False, True], ids=["Protocol", "BufferedProtocol"])
@each_stream
def test_data_passes_and_the_inner_protocol_knows_the_peer(
    run: Run, folder: Path, context: ServerContext, version: int, buffered: bool
) -> None:
    async def main() -> None:
        async with listening(context, partial(Inner, echo=True), buffered=buffered) as server:
            client = trusting(folder, version, certificate=True)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=client)
            for size in (1, 100, 16_384, 100_000):
                writer.write(BIG[:size])
                assert await reader.readexactly(size) == BIG[:size]
            inner = await server.made.get()
            known = inner.transport.get_extra_info
            assert known("certificates") == (LONE.der,)
            assert known("psk") is None
            assert known("peername") == writer.get_extra_info("sockname")
            assert SERVE.get() is by_epoll or known("socket").family == socket.AF_INET
            assert known("nothing of the kind", 7) == 7
            writer.close()
            await writer.wait_closed()
            await inner.until(lambda inner: inner.heard[-1] == "lost")
            assert (inner.heard, inner.error) == (["made", "eof", "lost"], None)
            assert inner.transport.is_closing()
            assert server.acceptor.handshakes == 0

    run(main())


@each_stream
def test_a_shared_key_is_shown(run: Run, context: ServerContext, version: int) -> None:
    async def main() -> None:
        async with listening(context) as server:
            wire = await Wire.open(server.port, Client(version, psk=(KEY.identity, KEY.key)))
            await wire.handshake()
            wire.say(b"hello")
            inner = await server.made.get()
            await inner.until(lambda inner: inner.data == b"hello")
            assert inner.transport.get_extra_info("psk") is KEY
            assert inner.transport.get_extra_info("certificates") == ()
            await wire.close()

    run(main())


def test_the_answer_leaves_with_the_end_of_the_handshake(run: Run, context: ServerContext) -> None:
    async def main() -> None:
        async with listening(context, partial(Inner, echo=True)) as server:
            wire = await Wire.open(server.port, client := Client())
            wire.flush()
            while not client.done:
                wire.feed(await wire.reader.read(65_536))
                finished = client.step()
            client.ssl.sendall(b"CONNECT")
            wire.writer.write(b"".join(finished + client.output()))
            assert await wire.until(lambda client: client.received) == b"CONNECT"
            await wire.close()

    run(main())


# Unmodified clients


async def program(*command: object) -> bytes:
    process = await asyncio.create_subprocess_exec(*map(str, command), stdout=PIPE, stderr=PIPE)
    out, err = await process.communicate()
    assert process.returncode == 0, (out, err)
    return out


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl(run: Run, folder: Path, context: ServerContext, tool: Callable[..., str], version: str) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        shown = request.transport.get_extra_info("certificates")
        body = await request.content.read()
        assert request.scheme == "https"
        assert shown == (LONE.der,)
        return web.Response(body=body[::-1])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        http = web.Server(handle)
        server = await loop.create_server(over_tls(context, http, loop, shared_key=one_key), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        (folder / "big").write_bytes(BIG)
        url = f"https://localhost:{port}/"
        options = ("-sS", f"--tlsv{version}", "--tls-max", version, "--cacert", folder / "ca.pem", "-H", "Expect:")
        client = ("--cert", folder / "client.pem", "--key", folder / "client.key")
        upload = ("--data-binary", f"@{folder / 'big'}")
        got = await program(tool("curl"), *options, *client, *upload, url)
        assert hashlib.sha256(got).digest() == hashlib.sha256(BIG[::-1]).digest()
        server.close()
        await http.shutdown(1)
        await server.wait_closed()

    run(main())


class Echoing(Provisioning):
    def __init__(self) -> None:
        self.peers: list[Peer] = []

    def request(
        self,
        payload: bytes,
        peer: Peer,  # noqa: ARG002
        done: Callable[[Answer], None],
        *,
        accept_protobuf: bool = True,  # noqa: ARG002
        opened: bytes | None = None,  # noqa: ARG002
        heard: bool = False,  # noqa: ARG002
    ) -> None:
        done(Answer(Outcome.SUCCESS, b"answer to " + payload))


@pytest.mark.parametrize("credentials", ["none", "certificate", "psk"])
@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
def test_mosquitto(
    run: Run, folder: Path, context: ServerContext, tool: Callable[..., str], version: str, credentials: str
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = MqttListener(Echoing())
        wrap = partial(over_tls, context, loop=loop, shared_key=one_key)
        _, port = await listener.start("127.0.0.1", 0, wrap=wrap)
        options: tuple[object, ...] = ("--cafile", folder / "ca.pem", "--tls-version", version)
        if credentials == "certificate":
            options += ("--cert", folder / "client.pem", "--key", folder / "client.key")
        elif credentials == "psk":
            options = ("--psk", KEY.key.hex(), "--psk-identity", KEY.identity, "--tls-version", version)
        topics = ("-t", "/provision/request", "-e", "/provision/response", "-m", "hello", "-u", "provision")
        got = await program(tool("mosquitto_rr"), "-h", "localhost", "-p", port, *options, *topics)
        assert got == b"answer to hello\n"
        await listener.stop(1)

    run(main())


@pytest.mark.parametrize("key", ["00" * 16, KEY.key.hex()], ids=["wrong key", "unknown identity"])
def test_mosquitto_is_refused(run: Run, context: ServerContext, tool: Callable[..., str], key: str) -> None:
    async def main() -> None:
        async with listening(context) as server:
            identity = KEY.identity if key != KEY.key.hex() else "device-2"
            options = ("-h", "localhost", "-p", server.port, "--psk", key, "--psk-identity", identity)
            process = await asyncio.create_subprocess_exec(
                tool("mosquitto_pub"), *map(str, options), "-t", "x", "-m", "x", stderr=PIPE
            )
            _, said = await process.communicate()
            assert process.returncode  # which it is depends on when it hears of it
            assert b"TLS error" in said
            assert server.made.empty()

    run(main())


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_resumes(
    run: Run, folder: Path, context: ServerContext, tool: Callable[..., str], tmp_path: Path, version: str
) -> None:
    async def main() -> None:
        async with listening(context, partial(Inner, echo=True)) as server:
            session = tmp_path / "session"
            command: tuple[str, ...] = (tool("openssl"), "s_client", "-connect", f"127.0.0.1:{server.port}", version)
            command += ("-CAfile", str(folder / "ca.pem"), "-verify_return_error")
            command += ("-cert", str(folder / "client.pem"), "-key", str(folder / "client.key"))
            for how, said in (("-sess_out", b"New, TLSv1"), ("-sess_in", b"Reused, TLSv1")):
                process = await asyncio.create_subprocess_exec(*command, how, session, stdin=PIPE, stdout=PIPE)
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(b"hello\n")
                out = b""
                while b"hello\n" not in out:
                    line = await process.stdout.readline()
                    assert line, out
                    out += line
                process.stdin.write_eof()
                await process.wait()
                assert said in out
                inner = await server.made.get()
                assert inner.transport.get_extra_info("certificates") == (LONE.der,)
                await inner.until(lambda inner: inner.heard[-1] == "lost")

    run(main())


# Handshakes that come to nothing


@pytest.mark.parametrize("sent", [0, 1, 100], ids="{} bytes".format)
def test_a_slow_handshake_is_cut(run: Run, context: ServerContext, sent: int) -> None:
    async def main() -> None:
        async with listening(context, handshake_timeout=0.05) as server:
            wire = await Wire.open(server.port)
            (hello,) = wire.client.step()
            wire.writer.write(hello[:sent])
            assert await end(wire.reader) == b""
            assert server.made.empty()
            await server.until(lambda acceptor: not acceptor.handshakes)
            await wire.close()

    run(main())


async def end(reader: asyncio.StreamReader) -> bytes:
    """What comes before the end, however rude that is."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def test_handshakes_are_bounded_in_number(run: Run, context: ServerContext) -> None:
    async def main() -> None:
        async with listening(context, max_handshakes=2) as server:
            idle = [await Wire.open(server.port) for _ in range(2)]
            await server.until(lambda acceptor: acceptor.handshakes == 2)
            refused = await Wire.open(server.port)
            assert await end(refused.reader) == b""
            assert server.acceptor.refused == 1
            await idle[0].handshake()
            await server.made.get()
            assert server.acceptor.handshakes == 1  # who is through counts no more
            third = await (await Wire.open(server.port)).handshake()
            assert third.client.done
            for wire in (*idle, refused, third):
                await wire.close()

    run(main())


def test_handshakes_count_among_those_that_are_not_let_in_yet(run: Run, context: ServerContext) -> None:
    admission = Admission(10, 2)

    async def main() -> None:
        async with listening(context, admission=admission) as server:
            idle = [await Wire.open(server.port) for _ in range(2)]
            await server.until(lambda acceptor: acceptor.handshakes == 2)
            refused = await Wire.open(server.port)
            assert await end(refused.reader) == b""
            assert server.acceptor.refused == 1
            await idle[0].handshake()
            await server.made.get()
            assert admission.waiting == 1  # who is through counts no more
            for wire in (*idle, refused):
                await wire.close()
            await server.until(lambda acceptor: acceptor.handshakes == 0)
            assert admission.waiting == 0

    run(main())


async def knocking(server: Listening) -> "Wire":
    """A client that has sent its hello, and heard nothing."""
    wire = await Wire.open(server.port)
    before = server.acceptor.waiting
    (hello,) = wire.client.step()
    wire.writer.write(hello)
    await server.until(lambda acceptor: acceptor.waiting == before + 1)
    return wire


def test_handshakes_take_turns_in_order(run: Run, context: ServerContext) -> None:
    async def main() -> None:
        async with listening(context, at_once=0) as server:
            wires = [await knocking(server) for _ in range(5)]
            server.acceptor.at_once = 1
            ports = [wire.writer.get_extra_info("sockname")[1] for wire in wires]
            for wire, port in zip(wires, ports, strict=True):
                await wire.handshake()  # which only its own turn lets it do
                inner = await server.made.get()
                assert inner.transport.get_extra_info("peername")[1] == port
            assert server.acceptor.handshakes == server.acceptor.waiting == 0
            for wire in wires:
                await wire.close()

    run(main())


def test_a_turn_that_fails_is_nobody_else_s_affair(
    run: Run, context: ServerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        failed = asyncio.Event()
        asyncio.get_running_loop().set_exception_handler(lambda *_: failed.set())
        async with listening(context, at_once=0) as server:
            broken, other = await knocking(server), await knocking(server)

            def fail(_: object) -> None:
                monkeypatch.undo()
                raise LookupError

            monkeypatch.setattr(tls_stream._Connection, "take_turn", fail)
            server.acceptor.at_once = 2
            await failed.wait()
            assert (await other.handshake()).client.done
            for wire in (broken, other):
                await wire.close()

    run(main())


def test_time_counts_from_the_turn(run: Run, context: ServerContext) -> None:
    async def main() -> None:
        # Long enough for the hello to come, as it counts from the connection until then.
        async with listening(context, at_once=0, handshake_timeout=1) as server:
            waiting = await knocking(server)
            silent = await Wire.open(server.port)
            assert await end(silent.reader) == b""
            assert (server.acceptor.handshakes, server.acceptor.waiting) == (1, 1)  # though it came first
            server.acceptor.handshake_timeout = 60
            server.acceptor.at_once = 1
            assert (await waiting.handshake()).client.done
            for wire in (waiting, silent):
                await wire.close()

    run(main())


def test_who_is_slow_keeps_nobody_waiting(run: Run, context: ServerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with listening(context, at_once=0) as server:
            slow, other = await knocking(server), await knocking(server)
            server.acceptor.at_once = 1
            await slow.reader.read(1)  # it has its turn, and says no more
            assert server.acceptor.waiting == 1
            monkeypatch.setattr(tls_stream, "_SLOW", 0)
            assert (await other.handshake()).client.done
            for wire in (slow, other):
                await wire.close()

    run(main())


@pytest.mark.parametrize("extra", [None, b"x" * 40_000], ids=["leaves", "says too much"])
def test_who_waits_and_cannot_be_served_is_forgotten(run: Run, context: ServerContext, extra: bytes | None) -> None:
    async def main() -> None:
        async with listening(context, at_once=0) as server:
            wire = await knocking(server)
            if extra is None:
                await wire.close()
            else:
                wire.writer.write(extra)
                assert await end(wire.reader) == b""
                await wire.close()
            await server.until(lambda acceptor: acceptor.handshakes == acceptor.waiting == 0)

    run(main())


def test_those_who_are_through_are_served_while_others_wait(run: Run, context: ServerContext) -> None:
    async def main() -> None:
        async with listening(context, partial(Inner, echo=True)) as server:
            served = await (await Wire.open(server.port)).handshake()
            server.acceptor.at_once = 0
            waiting = [await knocking(server) for _ in range(20)]
            served.say(b"hello")
            assert await served.until(lambda client: client.received) == b"hello"
            for wire in (served, *waiting):
                await wire.close()

    run(main())


def test_all_of_a_storm_get_through(run: Run, context: ServerContext) -> None:
    async def main() -> None:
        async with listening(context, at_once=4) as server:
            wires = await asyncio.gather(*(Wire.open(server.port) for _ in range(100)))
            await asyncio.gather(*(wire.handshake() for wire in wires))
            assert all(wire.client.done for wire in wires)
            await server.until(lambda acceptor: not acceptor.handshakes)
            for wire in wires:
                await wire.close()

    run(main())


def test_aborting_ends_handshakes_only(run: Run, context: ServerContext) -> None:
    async def main() -> None:
        async with listening(context) as server:
            done, idle = await (await Wire.open(server.port)).handshake(), await Wire.open(server.port)
            inner = await server.made.get()
            await server.until(lambda acceptor: acceptor.handshakes == 1)
            server.acceptor.abort()
            assert await end(idle.reader) == b""
            done.say(b"still there")
            await inner.until(lambda inner: inner.data == b"still there")
            await done.close()
            await idle.close()

    run(main())


@each_stream
def test_certificates_that_are_too_large_are_told_of(run: Run, context: ServerContext, version: int) -> None:
    async def main() -> None:
        told: list[tuple[str, str]] = []
        async with listening(context, oversized=lambda *what: told.append(what)) as server:
            wire = await Wire.open(server.port, Client(version, certificate=pki.self_signed("x" * 65_536)))
            await wire.until(lambda client: client.error)
            await server.until(lambda acceptor: not acceptor.handshakes)
            await wire.close()
            stranger = await Wire.open(server.port, Client(version, ciphers="AES128-SHA"))
            stranger.writer.write(b"no TLS at all" * 4096)
            await end(stranger.reader)
            await stranger.close()
        assert told == [("127.0.0.1", "excessive message size")]

    run(main())


def test_a_client_hears_why_it_is_refused(run: Run, context: ServerContext, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with listening(context) as server:
            wire = await Wire.open(server.port, Client(TLS_1_2, ciphers="AES128-SHA"))
            await wire.until(lambda client: client.error)
            assert "handshake failure" in str(wire.client.error)
            assert await end(wire.reader) == b""
            assert server.made.empty()
            await wire.close()

    with caplog.at_level(logging.DEBUG, "provserver.tls"):
        run(main())
    assert "127.0.0.1: no shared cipher" in caplog.messages


@pytest.mark.parametrize("bytes_", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x16\x03\x01\xff\xff" + bytes(100)])
def test_what_is_no_tls_is_cut(run: Run, context: ServerContext, bytes_: bytes) -> None:
    async def main() -> None:
        async with listening(context) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(bytes_)
            assert len(await end(reader)) <= 7  # an alert
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
            await server.until(lambda acceptor: not acceptor.handshakes)

    run(main())


@pytest.mark.parametrize("fault", [Unavailable("Postgres is away."), LookupError("device-1 s3cret")], ids=repr)
def test_when_no_key_can_be_looked_up_nothing_is_said_of_it(
    run: Run, context: ServerContext, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    async def failing(_identity: str, _source: str) -> PreSharedKey | None:
        raise fault

    async def main() -> None:
        async with listening(context, shared_key=failing) as server:
            wire = await Wire.open(server.port, Client(psk=(KEY.identity, KEY.key)))
            wire.flush()
            assert await end(wire.reader) == b""
            assert server.made.empty()
            await wire.close()

    run(main())
    assert "s3cret" not in caplog.text
    assert [record.levelname for record in caplog.records] == (["ERROR"] if type(fault) is LookupError else [])


def test_who_does_not_prove_the_key_it_names_guesses(run: Run, context: ServerContext) -> None:
    limits = Limits(Rates(guess_limit=3, guess_interval=1e6, locked_interval=1e6))
    asked: list[str] = []
    noted: list[Peer] = []

    async def key(identity: str, source: str) -> PreSharedKey | None:
        asked.append(identity)
        return await one_key(identity, source)

    async def main() -> None:
        strangers = Strangers(limits, Transport.MQTT, noted.append)
        async with listening(context, shared_key=key, strangers=strangers) as server:
            right = await (await Wire.open(server.port, Client(psk=(KEY.identity, KEY.key)))).handshake()
            for identity in [KEY.identity, "nobody", *["another"] * 8]:
                wire = await Wire.open(server.port, Client(psk=(identity, b"a guess")))
                wire.flush()
                await end(wire.reader)
                await wire.close()
                await server.until(lambda acceptor: acceptor.handshakes == 0)
            await right.close()

    run(main())
    # Of a locked address one more is heard at once, and one that comes back.
    assert asked == [KEY.identity, KEY.identity, "nobody", "another", "another"]
    assert [(peer.transport, peer.address) for peer in noted] == [(Transport.MQTT, "127.0.0.1")] * 4


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
@pytest.mark.parametrize(("right", "many"), [(False, 400), (True, 300)], ids=["wrong", "right"])
def test_however_many_handshakes_go_on_at_once_guesses_are_limited_and_the_right_are_not(
    run: Run, context: ServerContext, version: int, right: bool, many: int
) -> None:
    """Of 400 that guess, all at the last step, 20 get a verdict, and the one that a locked address is heard."""
    limits = Limits(Rates(guess_limit=20, guess_interval=1e6, locked_interval=1e6))
    asked = 0
    looked_up = asyncio.Event()

    async def key(identity: str, source: str) -> PreSharedKey | None:
        nonlocal asked
        asked += 1
        if asked == many:
            looked_up.set()
        await looked_up.wait()
        return await one_key(identity, source)

    async def shake_hands(port: int, client: Client) -> bool:
        wire = await Wire.open(port, client)
        await wire.handshake()
        await wire.close()
        return client.done or client.error is not None

    async def main() -> None:
        async with listening(
            context,
            shared_key=key,
            strangers=Strangers(limits, Transport.MQTT),
            at_once=many,
            handshake_timeout=100,
        ) as server:
            clients = [Client(version, psk=(KEY.identity, KEY.key if right else b"guess %d" % n)) for n in range(many)]
            told = await asyncio.gather(*(shake_hands(server.port, client) for client in clients))
            assert sum(told) == (many if right else 21)
            assert limits.watchful() is not right

    run(main())


def test_a_client_may_leave_while_its_key_is_looked_up(run: Run, context: ServerContext) -> None:
    async def main() -> None:
        asked, cancelled = asyncio.Event(), asyncio.Event()

        async def slow(_identity: str, _source: str) -> PreSharedKey | None:
            asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return None

        async with listening(context, shared_key=slow) as server:
            wire = await Wire.open(server.port, Client(psk=(KEY.identity, KEY.key)))
            wire.flush()
            await asked.wait()
            wire.writer.write(b"more of it")
            await wire.close()
            await cancelled.wait()
            await server.until(lambda acceptor: not acceptor.handshakes)

    run(main())


# Back-pressure


@pytest.mark.parametrize("buffered", [False, True], ids=["Protocol", "BufferedProtocol"])
@each_stream
def test_who_does_not_read_is_not_read_to(
    run: Run, folder: Path, context: ServerContext, version: int, buffered: bool
) -> None:
    async def main() -> None:
        async with listening(context, buffered=buffered) as server:
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
            reader, writer = await asyncio.open_connection(
                sock=connection, ssl=trusting(folder, version), server_hostname="localhost"
            )
            inner = await server.made.get()
            writer.write(BIG)
            for _ in range(3):
                await inner.until(lambda inner: len(inner.data) > 100_000)
                inner.transport.pause_reading()
                assert not inner.transport.is_reading()
                had = len(inner.data)
                for _ in range(50):
                    await asyncio.sleep(0)
                assert len(inner.data) == had
                inner.transport.resume_reading()
            await inner.until(lambda inner: len(inner.data) == len(BIG))
            assert inner.data == BIG
            writer.close()
            await writer.wait_closed()
            assert await reader.read() == b""

    run(main())


@each_stream
def test_who_does_not_take_is_not_written_to(run: Run, context: ServerContext, version: int) -> None:
    async def main() -> None:
        async with listening(context) as server:
            wire = await (await Wire.open(server.port, Client(version))).handshake()
            inner = await server.made.get()
            high = 65_536  # of `transports/tcp.py`, always
            if SERVE.get() is by_the_loop:
                high = 100_000
                inner.transport.set_write_buffer_limits(high=high, low=1000)
                assert inner.transport.get_write_buffer_limits() == (1000, high)
            written = 0
            while inner.writable:
                assert written < len(BIG) * 3, "the socket takes everything"
                inner.transport.write(BIG[: 1 << 20])
                written += 1 << 20
            assert inner.transport.get_write_buffer_size() > high
            wire.say(b"unheard")  # as answers could not be sent either
            for _ in range(50):
                await asyncio.sleep(0)
            assert inner.data == b""
            received = await wire.until(lambda client: len(client.received) == written)
            assert received == BIG[: 1 << 20] * (written >> 20)
            await inner.until(lambda inner: inner.writable and inner.data == b"unheard")
            await wire.close()

    run(main())


@each_stream
def test_big_data_passes_both_ways_at_once(run: Run, folder: Path, context: ServerContext, version: int) -> None:
    async def main() -> None:
        async with listening(context, partial(Inner, echo=True)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusting(folder, version))

            async def write() -> None:
                for start in range(0, len(BIG), 50_000):
                    writer.write(BIG[start : start + 50_000])
                    await writer.drain()

            got, _ = await asyncio.gather(reader.readexactly(len(BIG)), write())
            assert hashlib.sha256(got).digest() == hashlib.sha256(BIG).digest()
            writer.close()
            await writer.wait_closed()

    run(main())


def test_reading_may_be_paused_from_the_start(run: Run, context: ServerContext) -> None:
    class Shy(Inner):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.pause_reading()

    async def main() -> None:
        async with listening(context, Shy) as server:
            wire = await Wire.open(server.port, client := Client())
            wire.flush()
            while not client.done:
                wire.feed(await wire.reader.read(65_536))
                finished = client.step()
            client.ssl.sendall(b"with the end of the handshake")
            wire.writer.write(b"".join(finished + client.output()))
            inner = await server.made.get()
            await asyncio.sleep(0)
            assert inner.data == b""
            inner.transport.resume_reading()
            await inner.until(lambda inner: inner.data == b"with the end of the handshake")
            await wire.close()

    run(main())


# Ends


@each_stream
def test_an_end_without_close_notify_is_told_from_one_with(run: Run, context: ServerContext, version: int) -> None:
    async def main() -> None:
        async with listening(context) as server:
            for polite in (True, False):
                wire = await (await Wire.open(server.port, Client(version))).handshake()
                inner = await server.made.get()
                wire.say(b"all?")
                if polite:
                    wire.close_notify()
                wire.writer.write_eof()
                await inner.until(lambda inner: inner.heard[-1] == "lost")
                assert inner.data == b"all?"
                assert inner.heard == (["made", "eof", "lost"] if polite else ["made", "lost"])
                assert isinstance(inner.error, ConnectionAbortedError) is not polite
                await wire.until(lambda _: False)
                assert wire.heard_close_notify is polite
                await wire.close()

    run(main())


@each_stream
def test_the_last_words_arrive_though_the_client_still_talks(run: Run, context: ServerContext, version: int) -> None:
    async def main() -> None:
        async with listening(context) as server:
            wire = await (await Wire.open(server.port, Client(version))).handshake()
            inner = await server.made.get()
            wire.say(BIG[:1_000_000])  # of which much is unread when the server closes
            await inner.until(lambda inner: inner.data)
            inner.transport.write(BIG[:3_000_000])
            inner.transport.write(b"goodbye")
            inner.transport.close()
            assert inner.transport.is_closing()
            inner.transport.close()
            inner.transport.write(b"too late")
            received = await wire.until(lambda _: False)
            assert received == BIG[:3_000_000] + b"goodbye"
            assert wire.heard_close_notify
            await wire.close()
            await inner.until(lambda inner: inner.heard[-1] == "lost")
            assert inner.error is None

    run(main())


def test_a_client_that_neither_takes_nor_closes_is_cut_off(run: Run, context: ServerContext) -> None:
    async def main() -> None:
        async with listening(context, close_timeout=0.02) as server:
            for size in (0, len(BIG) * 2):
                wire = await (await Wire.open(server.port)).handshake()
                inner = await server.made.get()
                inner.transport.write(bytes(size))
                inner.transport.close()
                await inner.until(lambda inner: inner.heard[-1] == "lost")
                await wire.close()

    run(main())


def test_aborting_is_at_once(run: Run, context: ServerContext) -> None:
    async def main() -> None:
        async with listening(context) as server:
            wire = await (await Wire.open(server.port)).handshake()
            inner = await server.made.get()
            inner.transport.write(BIG)
            inner.transport.abort()
            await inner.until(lambda inner: inner.heard[-1] == "lost")
            inner.transport.close()
            inner.transport.write(b"to nobody")
            await wire.close()

    run(main())


def test_the_other_direction_may_stay_open(run: Run, context: ServerContext) -> None:
    async def main() -> None:
        async with listening(context, partial(Inner, half_open=True)) as server:
            wire = await (await Wire.open(server.port)).handshake()
            inner = await server.made.get()
            wire.close_notify()
            wire.writer.write_eof()
            await inner.until(lambda inner: inner.heard[-1] == "eof")
            inner.transport.write(b"more")
            assert await wire.until(lambda client: client.received) == b"more"
            inner.transport.close()
            await wire.until(lambda _: False)
            assert wire.heard_close_notify
            await inner.until(lambda inner: inner.heard == ["made", "eof", "lost"])
            await wire.close()

    run(main())


def test_a_changed_record_ends_the_connection(run: Run, context: ServerContext) -> None:
    async def main() -> None:
        async with listening(context) as server:
            wire = await (await Wire.open(server.port)).handshake()
            inner = await server.made.get()
            wire.client.ssl.send(b"x" * 50)
            record = bytearray(b"".join(wire.client.output()))
            record[-1] ^= 1
            wire.writer.write(record)
            await wire.until(lambda client: client.error)
            assert "bad record mac" in str(wire.client.error)
            await wire.close()
            await inner.until(lambda inner: inner.heard[-1] == "lost")
            assert isinstance(inner.error, ConnectionAbortedError)
            assert inner.data == b""

    run(main())


def test_the_end_of_tls_is_the_end_of_the_stream(run: Run, context: ServerContext) -> None:
    async def main() -> None:
        async with listening(context) as server:
            wire = await (await Wire.open(server.port)).handshake()
            inner = await server.made.get()
            assert not inner.transport.can_write_eof()
            with pytest.raises(NotImplementedError):
                inner.transport.write_eof()
            other = Inner()
            inner.transport.set_protocol(other)
            assert inner.transport.get_protocol() is other
            inner.transport.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
            assert await wire.until(lambda client: len(client.received) == 3) == b"abc"
            wire.say(b"to the other")
            await other.until(lambda other: other.data == b"to the other")
            await wire.close()
            await other.until(lambda other: other.heard == ["lost"])

    run(main())


def test_connections_leave_nothing(run: Run, context: ServerContext) -> None:
    """Not even a cycle for the garbage collector, which would keep OpenSSL's memory for a while."""

    async def main() -> None:
        async with listening(context, partial(Inner, echo=True)) as server:
            gc.collect()
            gc.disable()
            try:
                wire = await (await Wire.open(server.port)).handshake()
                inner = await server.made.get()
                wire.say(b"x")
                await wire.until(lambda client: client.received)
                connection = weakref.ref(inner.transport._channel._connection)  # type: ignore[attr-defined]
                await wire.close()
                await inner.until(lambda inner: inner.heard[-1] == "lost")
                del inner
                while connection() is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            finally:
                gc.enable()

    if sys.implementation.name == "cpython":
        run(main())
