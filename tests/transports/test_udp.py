import asyncio
import socket

import pytest
import uvloop

from provserver.transports.sockets import shared
from provserver.transports.udp import Address, UdpSocket
from tests.transports.devices import until

LIMIT = 60.0
"""Seconds after which a thread that waits for an answer gives up: nothing else would end it."""


async def asked(listening: str, destination: str, family: int = socket.AF_INET) -> tuple[bytes, str]:
    """What an echo server on one address answers who writes to another, and from where."""
    server: UdpSocket

    def echo(data: bytes, address: Address) -> None:
        server.send(data, address)

    server = UdpSocket(listening, 0, echo)
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(LIMIT)
        client.sendto(b"hello", (destination, server.port))
        data, address = await asyncio.to_thread(client.recvfrom, 100)
    server.close()
    return data, address[0]


CASES = [
    ("127.0.0.1", "127.0.0.1", socket.AF_INET),
    ("0.0.0.0", "127.0.0.1", socket.AF_INET),
    ("0.0.0.0", "127.0.0.2", socket.AF_INET),
    ("::1", "::1", socket.AF_INET6),
    ("::", "::1", socket.AF_INET6),
    ("::", "127.0.0.2", socket.AF_INET),
]


@pytest.mark.parametrize(("listening", "destination", "family"), CASES)
async def test_it_answers_from_the_address_that_was_asked(listening: str, destination: str, family: int) -> None:
    if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")

    assert await asked(listening, destination, family) == (b"hello", destination)


def test_it_runs_on_uvloop() -> None:
    assert uvloop.run(asked("0.0.0.0", "127.0.0.2")) == (b"hello", "127.0.0.2")


async def test_a_port_that_is_taken_is_refused() -> None:
    first = UdpSocket("127.0.0.1", 0, lambda *_: None)
    with pytest.raises(OSError, match="in use"):
        UdpSocket("127.0.0.1", first.port, lambda *_: None)
    first.close()


async def test_a_socket_that_is_bound_already_is_used() -> None:
    bound = shared("127.0.0.1", 0, socket.SOCK_DGRAM, 2)
    came: asyncio.Queue[bytes] = asyncio.Queue()
    servers = [UdpSocket("", 0, lambda data, _: came.put_nowait(data), sock=each) for each in bound]
    assert {server.port for server in servers} == {bound[0].getsockname()[1]}
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.sendto(b"hello", ("127.0.0.1", servers[0].port))
        assert await came.get() == b"hello"
    with pytest.raises(OSError, match="in use"):
        UdpSocket("127.0.0.1", servers[0].port, lambda *_: None)
    for server in servers:
        server.close()


async def test_a_shared_socket_answers_from_the_address_that_was_asked() -> None:
    (bound,) = shared("0.0.0.0", 0, socket.SOCK_DGRAM, 1)
    server: UdpSocket

    def echo(data: bytes, address: Address) -> None:
        server.send(data, address)

    server = UdpSocket("", 0, echo, sock=bound)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(LIMIT)
        client.sendto(b"hello", ("127.0.0.3", server.port))
        _, address = await asyncio.to_thread(client.recvfrom, 100)
    server.close()

    assert address[0] == "127.0.0.3"


async def test_a_burst_waits_to_be_read() -> None:
    server = UdpSocket("127.0.0.1", 0, lambda *_: None)
    with socket.socket(type=socket.SOCK_DGRAM) as usual:
        usual.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)  # or what the kernel allows
        allowed = usual.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert server._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == allowed
    server.close()


async def test_what_cannot_be_sent_is_lost() -> None:
    server = UdpSocket("127.0.0.1", 0, lambda *_: None)
    server.send(bytes(70_000), Address(("127.0.0.1", 9)))
    server.send(b"", Address(("127.0.0.1", 0)))
    server.close()


async def test_a_flood_does_not_keep_others_waiting() -> None:
    came: list[bytes] = []
    server = UdpSocket("127.0.0.1", 0, lambda data, _: came.append(data))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for _ in range(100):
            client.sendto(b"x", ("127.0.0.1", server.port))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 0 < len(came) < 100
        await until(lambda: len(came) == 100)
        server.hush()
        client.sendto(b"late", ("127.0.0.1", server.port))
        for _ in range(5):
            await asyncio.sleep(0)
    server.close()

    assert len(came) == 100
