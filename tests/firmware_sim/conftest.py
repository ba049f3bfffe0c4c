import socket

import pytest


@pytest.fixture
def free_port() -> int:
    """A port on 127.0.0.1 free for TCP and UDP a moment ago."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        port: int = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        return port
