"""What we are compared with, each in a process of its own."""

import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import AMQTT_PYTHON, Broken, Processes, accepts, coap_server, find, free_port, wait_until

_MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_connections -1
persistence false
log_type error
"""


@dataclass(frozen=True, slots=True)
class Reference:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def pid(self) -> int:
        """Of its process."""
        return self.process.pid


def mosquitto(
    processes: Processes,
    folder: Path,
    *,
    core: int | None = None,
    tls: tuple[Path, Path] | None = None,
    trusted: Path | None = None,
) -> Reference:
    """Debian's mosquitto, without authentication. tls: its certificate and key; trusted: whom clients must be of."""
    port = free_port()
    configuration = folder / f"mosquitto-{port}.conf"
    lines = _MOSQUITTO.format(port=port)
    if tls is not None:
        lines += f"certfile {tls[0]}\nkeyfile {tls[1]}\n"
    if trusted is not None:
        lines += f"cafile {trusted}\nrequire_certificate true\n"
    configuration.write_text(lines)
    configuration.chmod(0o644)
    process = processes.start(find("mosquitto"), "-c", configuration, core=core, log="mosquitto")
    _wait(process, port, processes, "mosquitto")
    return Reference(process, port)


def libcoap(processes: Processes) -> Reference:
    """The coap-server of libcoap."""
    program = coap_server()
    port = free_port(socket.SOCK_DGRAM)
    process = processes.start(program, "-A", "127.0.0.1", "-p", port, "-v", 0, log="coap-server")
    wait_until(lambda: _bound(port) or process.poll() is not None, "coap-server")
    return Reference(process, port)


def ours(processes: Processes, name: str, *, core: int | None = None) -> Reference:
    """One of `servers/`."""
    python = AMQTT_PYTHON if name == "amqtt_broker" else sys.executable
    process = processes.start(python, "-m", f"benchmarks.servers.{name}", output=subprocess.PIPE, core=core, log=name)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Broken(f"{name} did not start: {processes.log(name)}")
    return Reference(process, int(line))


def _wait(process: subprocess.Popen[bytes], port: int, processes: Processes, name: str) -> None:
    wait_until(lambda: accepts(port) or process.poll() is not None, name)
    if process.poll() is not None:
        raise Broken(f"{name} did not start: {processes.log(name)}")


def _bound(port: int) -> bool:
    """Whether somebody has this UDP port."""
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
