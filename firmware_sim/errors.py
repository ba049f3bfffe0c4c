"""Why a device has no credentials, or no use of them: one exception per exit code.

SimulatorError
 ├── Refused       the server said no; the same request would get the same answer
 │    └── Unauthorized  it does not accept the credentials that the device connected with
 ├── WrongUsage    what was asked of the simulator cannot work, whatever the server says
 ├── NoAnswer      nothing came, or "try again later"; asking again is right
 │    └── Pending       an operator is to approve the device first
 ├── BadReply      an answer that no device should act on
 ├── FlashError    the device's own memory is unreadable or holds another device
 └── Untrusted     the device does not accept the server's certificate
"""

import os
import ssl
from typing import ClassVar, Self


class SimulatorError(Exception):
    """Root of the tree. The message is one line, without secrets, and alike for devices that fail alike."""

    exit_code: ClassVar[int]
    status: ClassVar[str]


class Refused(SimulatorError):  # noqa: N818 - reads as what it says
    """A verdict other than SUCCESS, or a protocol's own refusal."""

    exit_code = 1
    status = "refused"


class WrongUsage(SimulatorError):  # noqa: N818
    """A combination of options, credentials and files that cannot work."""

    exit_code = 2
    status = "wrong usage"


class NoAnswer(SimulatorError):  # noqa: N818
    """No verdict. retry_after: seconds the server asked to wait, None when it said nothing."""

    exit_code = 3
    status = "unreachable"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @classmethod
    def because(cls, cause: BaseException, timeout: float) -> Self:
        """Name a timeout or an operating system's error in the same words on every transport."""
        if isinstance(cause, ssl.SSLError):  # its errno is OpenSSL's
            return cls(f"TLS: {(cause.reason or str(cause)).replace('_', ' ').lower()}")
        if isinstance(cause, TimeoutError) and not cause.errno:
            return cls(f"no answer within {timeout:g} s")
        if isinstance(cause, OSError) and cause.errno:
            text = os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)  # below 0: a resolver's
            return cls(text.lower())
        return cls(str(cause) or type(cause).__name__)


class Pending(NoAnswer):
    """The server waits for an operator: asking again is right for as long as it takes."""

    status = "waiting for approval"


class BadReply(SimulatorError):  # noqa: N818
    """A reply that cannot be read, or that grants something else than was asked for."""

    exit_code = 4
    status = "bad reply"


class FlashError(SimulatorError):
    """The flash file cannot be read, written or understood."""

    exit_code = 5
    status = "flash error"


class Unauthorized(Refused):
    """CONNACK 2, 4, 5, 0x85 to 0x87, HTTP 401, CoAP 4.01, or a TLS alert about the device's certificate or key."""

    exit_code = 6
    status = "credentials refused"


class Untrusted(SimulatorError):  # noqa: N818
    """The server's certificate is not from the CA, or for another name. Nothing was sent to it."""

    exit_code = 7
    status = "server not trusted"
