"""`provserver serve --workers 2`: several processes behind the same addresses."""

import asyncio
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import pytest

from provserver.store.embedded import connectable
from tests import processes
from tests.conformance.clients.mqtt import V3_1_1, Connect, Pingreq, encode
from tests.server import LIMIT, STOP_LIMIT, CommandFailed, Server, children, until
from tests.services.conftest import Lock

PEERS = 40
"""So many are not all of one worker."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("workers") / "data", "--workers", "2", tls=True) as running:
        running.cli("profile", "create", "sensors", "--key", "key", "--secret", "secret")
        yield running


def workers(server: Server) -> list[int]:
    """The first child keeps the database, the second serves operators."""
    assert server.process is not None
    return children(server.process.pid)[2:]


def kill_one(server: Server, worker: int) -> int:
    """Kill a worker; returns the pid of its successor, once it is there."""
    before = workers(server)
    os.kill(worker, signal.SIGKILL)
    until(lambda: len(now := workers(server)) == 2 and worker not in now, "a worker that died has a successor")
    (successor,) = set(workers(server)) - set(before)
    return successor


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", f"{pid} stands still")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def connected(stack: ExitStack, address: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    host, _, port = address.rpartition(":")
    made = stack.enter_context(socket.socket(type=kind))
    made.settimeout(60)
    made.connect((host, int(port)))
    return made


def accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def session(stack: ExitStack, server: Server) -> socket.socket | None:
    """A session of MQTT, of a device that came to be provisioned; None when the connection was closed instead."""
    made = connected(stack, server.mqtt)
    try:
        made.sendall(encode(Connect(), V3_1_1))
        return made if made.recv(4) == b"\x20\x02\0\0" else None
    except ConnectionError:
        return None


def ping(peers: list[socket.socket], message_id: int) -> None:
    """An empty confirmable message of CoAP, which is answered by a reset (RFC 7252 §4.3)."""
    for peer in peers:
        peer.send(b"\x40\0" + message_id.to_bytes(2))


def answered(peer: socket.socket, message_id: int) -> bool:
    """Whether a reset of this id comes, or is there already where the socket does not wait."""
    try:
        while peer.recv(64) != b"\x70\0" + message_id.to_bytes(2):
            pass
    except BlockingIOError:
        return False
    return True


def served(peers: list[socket.socket], message_id: int) -> set[socket.socket]:
    """Those that are answered while one of the workers stands still. Takes two message ids."""
    ping(peers, message_id)
    for peer in peers:
        peer.setblocking(False)
    found: set[socket.socket] = set()
    while not found:  # what comes first may be late answers to other messages
        found = {peer for peer in select.select(peers, [], [], 60)[0] if answered(peer, message_id)}
    first = next(iter(found))
    first.settimeout(60)
    ping([first], message_id + 1)
    assert answered(first, message_id + 1)  # so all that its worker had before is answered
    for peer in peers:
        if peer not in found and answered(peer, message_id):
            found.add(peer)
        peer.settimeout(60)
    return found


def fleet(server: Server, count: int, transport: str) -> None:
    """Provision so many devices, which come back and send something."""
    addresses = [f"--{name}={address}" for name, address in server.devices.items()]
    words = ["fleet", "--count", str(count), "--transport", transport]
    words += [*addresses, "--telemetry", "1", "--key", "key", "--secret", "secret", "--ca", str(server.ca)]
    done = processes.firmware_sim().run(words, os.environ, None, 300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("transport", ["mix", "mix-tls"])
def test_devices_are_served_on_every_address(server: Server, transport: str) -> None:
    assert len(workers(server)) == 2

    fleet(server, 60, transport)


def test_the_newer_session_wins_whatever_worker_has_it(server: Server, tool: Callable[..., str]) -> None:
    tool("mosquitto_sub")
    host, port = server.mqtt.split(":")
    device = server.cli("device", "create", "taken-over", "--profile", "sensors", "--token", "taken-over-token")
    assert device["name"] == "taken-over"
    command = ["stdbuf", "-oL", "mosquitto_sub", "-h", host, "-p", port, "-u", "taken-over-token", "-V", "5"]
    command += ["-t", "v1/devices/me/attributes", "-d"]
    with ExitStack() as stack:
        older: subprocess.Popen[str] | None = None
        for _ in range(8):  # so many are not all of one worker
            session = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )
            stack.callback(session.kill)
            assert session.stdout is not None
            while "SUBACK" not in (line := session.stdout.readline()):
                assert line, "the session was refused"
            if older is not None:
                older.wait(LIMIT)
                assert older.stdout is not None
                assert "DISCONNECT (142)" in older.stdout.read()
            older = session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_ticket_is_good_in_every_worker(server: Server, version: ssl.TLSVersion) -> None:
    host, port = server.https.split(":")
    context = ssl.create_default_context(cafile=str(server.ca))
    context.minimum_version = context.maximum_version = version
    session = None
    for number in range(9):
        with (
            socket.create_connection((host, int(port))) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as secured,
        ):
            assert secured.session_reused is (number > 0)
            secured.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert secured.recv(12) == b"HTTP/1.1 200"  # tickets of TLS 1.3 come before it
            session = secured.session


def test_peers_stay_with_their_worker_when_another_dies(server: Server) -> None:
    with ExitStack() as stack:
        peers = [connected(stack, server.coap, socket.SOCK_DGRAM) for _ in range(PEERS)]
        dying, _ = workers(server)
        with standing_still(dying):
            others = served(peers, 1)
        assert 0 < len(others) < PEERS

        with standing_still(kill_one(server, dying)):
            assert served(peers, 3) == others

        ping(peers, 5)
        assert all(answered(peer, 5) for peer in peers)


def test_connections_outlive_another_worker_and_no_new_one_is_lost(server: Server) -> None:
    with ExitStack() as stack:
        before = [peer for _ in range(PEERS) if (peer := session(stack, server)) is not None]
        assert len(before) == PEERS
        os.kill(workers(server)[0], signal.SIGKILL)
        meanwhile = [connected(stack, server.mqtt) for _ in range(PEERS)]  # half of them of the one that is dead
        for each in meanwhile:
            each.sendall(encode(Connect(), V3_1_1))

        outlived = 0
        for each in before:
            try:
                each.sendall(encode(Pingreq(), V3_1_1))
                outlived += each.recv(2) == b"\xd0\0"
            except ConnectionError:
                pass
        assert 0 < outlived < PEERS
        assert all(each.recv(4) == b"\x20\x02\0\0" for each in meanwhile)


def test_a_worker_that_dies_is_replaced_and_the_others_serve_on(server: Server) -> None:
    dying, other = workers(server)
    successor = kill_one(server, dying)

    fleet(server, 40, "mix")

    assert set(workers(server)) == {other, successor}
    assert "was started again" in server.log


def test_connections_are_limited_in_all(tmp_path: Path) -> None:
    options = {"PROVSERVER_MAX_CONNECTIONS": "6"}
    with Server(tmp_path / "data", "--workers", "2", env=options) as server, ExitStack() as stack:
        sessions = [session(stack, server) for _ in range(PEERS)]

        assert sum(each is not None for each in sessions) == 6


def test_whatever_is_left_of_a_supervisor_that_is_killed_ends(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", "--workers", "2").start(restartable=True)
    assert server.process is not None
    ends = [os.pidfd_open(pid) for pid in children(server.process.pid)]
    assert len(ends) == 4

    server.process.kill()
    server.process.wait()

    for end in ends:
        assert select.select([end], [], [], 60)[0]
        os.close(end)
    server.start()
    assert server.stop() == 0


async def test_sigterm_answers_what_is_under_way_and_refuses_what_comes(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", "--workers", "2")
    await asyncio.to_thread(server.start)
    try:
        pair = await asyncio.to_thread(server.cli, "profile", "create", "sensors")
        body = {name: pair[name] for name in ("provisionDeviceKey", "provisionDeviceSecret")}

        def ask() -> str:
            request = urllib.request.Request(f"http://{server.http}/api/v1/provision", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=60) as response:
                status: str = json.load(response)["status"]
                return status

        async with connectable(server.data_dir) as dsn:
            connection = await asyncpg.connect(dsn)
            await connection.execute("BEGIN; LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE")
            asking = asyncio.create_task(asyncio.to_thread(ask))
            await Lock(connection).until_waiting()

            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            while await asyncio.to_thread(accepts, server.http):
                pass
            await connection.execute("ROLLBACK")
            await connection.close()
            assert await asking == "SUCCESS"
        assert await asyncio.to_thread(server.process.wait, STOP_LIMIT) == 0
    finally:
        await asyncio.to_thread(server.__exit__)


def test_what_keeps_a_worker_from_starting_is_said(tmp_path: Path) -> None:
    options = {"PROVSERVER_SINK_URL": "http://127.0.0.1:1/", "PROVSERVER_OUTGOING_PRIVATE": "everywhere"}
    server = Server(tmp_path / "data", "--workers", "2", env=options)

    with pytest.raises(CommandFailed, match="outgoing_private: 'everywhere'") as raised:
        server.start()

    assert raised.value.code == 3


def test_what_watches_a_postgres_of_yours_is_replaced(tmp_path: Path, own_database_url: str) -> None:
    with Server(tmp_path / "data", "--workers", "2", "--database-url", own_database_url) as server:
        assert server.process is not None
        watching, *others = children(server.process.pid)
        os.kill(watching, signal.SIGKILL)
        pid = server.process.pid
        until(lambda: watching not in (now := children(pid)) and len(now) > len(others), "it is replaced")
        assert set(others) < set(children(pid))
        assert "database (pid" in server.log
        assert accepts(server.http)
