"""A device that waits for its WiFi, and that goes through the states it is told to."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from firmware_sim.onboarding import Identity, Settings, Tell
from firmware_sim.wifi_networks import Network

SUCCESS = (("SWITCH_TO_STA", 0), ("CONNECTING_NET", 0), ("CONNECTING_CLOUD", 0), ("RUNNING", 0))


def failure(last_error: int) -> tuple[tuple[str, int], ...]:
    """The states of a try that ends with this error."""
    cloud = [("CONNECTING_CLOUD", 0)] if last_error in (702, 703, 705, 710, 711, 712) else []
    return (("SWITCH_TO_STA", 0), ("CONNECTING_NET", 0), *cloud, ("ERROR", last_error), ("WAIT_CONFIG", last_error))


IDENTITY = Identity(
    vendor="Blynk",
    template="TMPL2feLBENZh",
    template_name="Meter",
    name="Blynk Meter-8DCF",
    firmware_type="TMPL2feLBENZh",
    version="1.2.3",
    mac="AA:BB:CC:DD:EE:FF",
    uid="7f1a4c1e-3d5b-4a8e-9a53-6f2b1d9c0e77",
)


@dataclass
class WifiBoard:
    """outcomes: of the tries to come, in turn. did: what was asked of it, but for the settings."""

    networks: Sequence[Network] = (
        Network("Home", "02:00:00:00:00:01"),
        Network('a "quoted\\ name', "02:00:00:00:00:02", rssi=-70, sec="OPEN"),
    )
    outcomes: list[tuple[tuple[str, int], ...]] = field(default_factory=lambda: [SUCCESS])
    board: Identity = IDENTITY
    state: str = "WAIT_CONFIG"
    last_error: int = 0
    token: str = ""
    phones: int = 0
    did: list[str] = field(default_factory=list)
    configured: list[Settings] = field(default_factory=list)
    _watching: list[Tell] = field(default_factory=list)

    def joined(self) -> None:
        self.phones += 1

    def left(self) -> None:
        self.phones -= 1

    def asked(self) -> None:
        self.did.append("asked")

    async def scan(self) -> Sequence[Network]:
        await asyncio.sleep(0)
        self.did.append("scan")
        return self.networks

    def configure(self, settings: Settings) -> None:
        self.configured.append(settings)
        for state, last_error in self.outcomes.pop(0):
            asyncio.get_running_loop().call_soon(self.become, state, last_error)

    def become(self, state: str, last_error: int = 0) -> None:
        self.state, self.last_error = state, last_error
        for tell in tuple(self._watching):
            tell(state, last_error)

    def watch(self, tell: Tell) -> Callable[[], None]:
        self._watching.append(tell)
        return lambda: self._watching.remove(tell)

    def reset(self) -> None:
        self.did.append("reset")

    def reboot(self) -> None:
        self.did.append("reboot")
