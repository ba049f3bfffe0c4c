"""What systemd wants to hear of a service of `Type=notify` (sd_notify(3)); without systemd nothing is said."""

import os
import socket


def notify(state: str) -> None:
    """Tell systemd, e.g. `READY=1`. It is not waited for, and that nobody listens is no fault."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
        try:
            told.setblocking(False)
            told.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            told.send(state.encode())
        except OSError:
            pass


def watchdog_period() -> float | None:
    """Seconds between two `WATCHDOG=1`, half of what systemd waits for; None: it does not wait for us."""
    microseconds, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1_000_000 / 2
