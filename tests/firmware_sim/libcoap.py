"""libcoap's example server, as a DTLS peer that is none of ours."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware_sim.address import Address
from tests.server import quiet_port


@contextmanager
def libcoap(program: str, *options: str | Path) -> Iterator[Address]:
    """Where it listens with DTLS. It answers every POST with 2.01, every GET of what nobody put there with 4.04."""
    port = _quiet_pair()
    command = ["stdbuf", "-oL", program, "-v", "7", "-d", "100", "-A", "127.0.0.1", "-p", str(port), *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        said = []
        for line in process.stdout:
            said.append(line)
            if "created DTLS endpoint" in line:
                break
        else:
            raise AssertionError(said)
        draining = threading.Thread(target=process.stdout.read)  # a full pipe would stop it
        draining.start()
        try:
            yield Address("127.0.0.1", port + 1)
        finally:
            process.kill()
            draining.join()


def _quiet_pair() -> int:
    """A port and the one above it, where no client's port comes to lie, nor one of another process of the run."""
    while True:
        port = quiet_port() & ~1
        with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
