import socket

import pytest

from provserver.transports.sockets import shared

KINDS = [socket.SOCK_STREAM, socket.SOCK_DGRAM]


@pytest.mark.parametrize("kind", KINDS)
def test_all_have_the_same_free_port(kind: socket.SocketKind) -> None:
    sockets = shared("127.0.0.1", 0, kind, 3)
    try:
        assert len({each.getsockname() for each in sockets}) == 1
        assert sockets[0].getsockname()[1] != 0
    finally:
        for each in sockets:
            each.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_address_that_another_would_share_is_refused(kind: socket.SocketKind) -> None:
    first = shared("127.0.0.1", 0, kind, 2)
    if kind == socket.SOCK_STREAM:
        first[0].listen()
    try:
        with pytest.raises(OSError, match="in use"):
            shared("127.0.0.1", first[0].getsockname()[1], kind, 2)
    finally:
        for each in first:
            each.close()


def test_a_peer_stays_with_its_socket() -> None:
    sockets = shared("127.0.0.1", 0, socket.SOCK_DGRAM, 4)
    try:
        for _ in range(20):
            with socket.socket(type=socket.SOCK_DGRAM) as peer:
                peer.connect(sockets[0].getsockname())
                for _ in range(5):
                    peer.send(b"x")
                got = [each for each in sockets if _waiting(each) == 5]
                assert len(got) == 1
    finally:
        for each in sockets:
            each.close()


def _waiting(bound: socket.socket) -> int:
    count = 0
    try:
        while bound.recv(10):
            count += 1
    except BlockingIOError:
        return count
    return count
