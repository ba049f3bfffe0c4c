"""Short ways to write the steps of cases."""

from dataclasses import dataclass
from pathlib import Path

from tests import chains
from tests.conformance.channels.model import Channel, Come, Login, Step, Verdict

Steps = tuple[Step, ...]

CREDENTIALS, CLIENT_ID, NOTHING, CERTIFICATE, KEY = (
    Verdict.CREDENTIALS,
    Verdict.CLIENT_ID,
    Verdict.NOTHING,
    Verdict.CERTIFICATE,
    Verdict.KEY,
)


@dataclass(frozen=True)
class Showing:
    """A device that shows other certificates than its chain, with files of its own."""

    shown: chains.Shown

    def write(self, directory: Path, stem: str) -> tuple[Path, Path]:
        """As `model.Certified` has it."""
        own = directory / stem
        own.mkdir(exist_ok=True)
        return self.shown.write(own)


def of(name: str, *, gnutls: bool = False) -> Login:
    """What a device presents that was given a token by the reply of this name."""
    return Login(token=f"«{name}.token»", identity=f"«{name}.id»", key=f"«{name}.token»", gnutls=gnutls)


def connect(client_id: str = "", username: str = "", password: str = "") -> Login:
    """A CONNECT."""
    return Login(client_id=client_id, username=username, password=password)


def comes(login: Login | None = None) -> Come:
    """It is let in."""
    return Come(login=login)


def refused(login: Login | None = None, expect: Verdict = CREDENTIALS) -> Come:
    """It is not let in."""
    return Come(login=login, expect=expect)


def each(channels: tuple[Channel, ...], *steps: Step) -> dict[Channel, Steps]:
    """The same steps on some channels; joined with | for several."""
    return dict.fromkeys(channels, steps)
