"""Sockets that are bound before there are processes to share them."""

import socket


def shared(host: str, port: int, kind: socket.SocketKind, count: int) -> list[socket.socket]:
    """So many sockets of one address; the kernel sends each peer to the same one, as long as none is closed.

    Port 0: a free one, the same for all. Raises OSError, also when another process has the address and would share it.
    """
    family, _, protocol, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)[0]
    with socket.socket(family, kind, protocol) as probe:  # who binds with SO_REUSEPORT does not see others who did
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    bound: list[socket.socket] = []
    try:
        for _ in range(count):
            made = socket.socket(family, kind, protocol)
            bound.append(made)
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if kind == socket.SOCK_STREAM:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            address = made.getsockname()
    except OSError:
        for made in bound:
            made.close()
        raise
    return bound
