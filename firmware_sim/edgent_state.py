"""What WiFi firmware does, without I/O: states, what leads from one to the next, and what it asks of its device.

Here is what every firmware does alike; `generations.py` has what tells the two apart. Seconds are the device's, since
it was switched on.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Final

from firmware_sim.board import Board
from firmware_sim.config_store import Config
from firmware_sim.wifi_networks import LastError, Network, Networks


class State(StrEnum):
    """OFF: without power."""

    OFF = "OFF"
    IDLE = "IDLE"
    WAIT_CONFIG = "WAIT_CONFIG"
    CONFIGURING = "CONFIGURING"
    SWITCH_TO_STA = "SWITCH_TO_STA"
    CONNECTING_NET = "CONNECTING_NET"
    CONNECTING_CLOUD = "CONNECTING_CLOUD"
    RUNNING = "RUNNING"
    OTA_UPGRADE = "OTA_UPGRADE"
    RESET_CONFIG = "RESET_CONFIG"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Entered:
    """The state that the device is in now."""

    state: State


@dataclass(frozen=True, slots=True)
class Save:
    """Write that into flash."""

    config: Config


@dataclass(frozen=True, slots=True)
class OpenAccessPoint:
    """From now on phones can join."""


@dataclass(frozen=True, slots=True)
class CloseAccessPoint:
    """They cannot any more, and those that had are not joined."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Log in at the server; say what came of it: `logged_in`, `rejected`, `not_reached`."""

    token: str = field(repr=False)
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class HangUp:
    """End the connection to the server, or the attempt."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Set a metadata field at the server."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Restart:
    """As if the power had been off for a moment."""


Effect = Entered | Save | OpenAccessPoint | CloseAccessPoint | Dial | HangUp | Tell | Restart

RETRIES: Final = 500
CONNECT_TIMEOUT: Final = 50.0
ERROR_PAUSE: Final = 10.0
JOINING: Final = 3.0
"""Until a network has let the device in and given it an address."""
REDIAL: Final = 5.0
CONFIG_TIMEOUT: Final = 600.0

_OTA_DELAY = 2.0


class Timer(Enum):
    """What is due. STATE: whatever the present state waits for."""

    STATE = auto()
    ACCESS_POINT = auto()
    JOINED = auto()
    REDIAL = auto()
    LEAVE = auto()
    OTA = auto()
    RESTART = auto()


class Edgent(abc.ABC):
    """The part that both generations have in common.

    `effects`: what the device is to do next, in that order; it takes them out. What it learns it says by calling the
    methods, `now` first being never less than before; `due` is when `tick` is wanted. window: how long new firmware
    waits for somebody to configure it.
    """

    def __init__(
        self, board: Board, flash: Config, networks: Networks, now: float = 0.0, window: float = CONFIG_TIMEOUT
    ) -> None:
        self.board = board
        self._window = window
        self.config = flash
        self.effects: list[Effect] = []
        self.state = State.OFF
        self.stations = 0
        self.access_point = False
        self._networks = networks
        self._timers: dict[Timer, float] = {}
        self._retries_net = self._retries_cloud = RETRIES
        self._network: Network | None = None
        self._dialling = self._overdue = False
        self._trouble = LastError.NETWORK
        self._now = now

    @property
    @abc.abstractmethod
    def last_error(self) -> int:
        """As the board tells it."""

    @abc.abstractmethod
    def configure(self, arguments: Mapping[str, str], now: float) -> str | None:
        """What a phone hands over; the message to answer with, None if it is of no use."""

    @abc.abstractmethod
    def asked(self, now: float) -> None:
        """Somebody reads who the board is."""

    @abc.abstractmethod
    def reset_asked(self, now: float) -> None:
        """A phone wants it to forget."""

    @abc.abstractmethod
    def button_reset(self, now: float) -> None:
        """The button was held as long as that takes, and let go."""

    @abc.abstractmethod
    def rejected(self, now: float) -> None:
        """The server knows no such token, definitely."""

    @abc.abstractmethod
    def _enter(self, state: State) -> None:
        """Be in that state."""

    @abc.abstractmethod
    def _fail_net(self) -> None:
        """No network, and no retry is left."""

    @abc.abstractmethod
    def _fail_cloud(self) -> None:
        """No server, and no retry is left."""

    @property
    def due(self) -> float | None:
        """When `tick` is wanted; None: not by itself."""
        return min(self._timers.values(), default=None)

    def tick(self, now: float) -> None:
        """Time has passed."""
        while self._timers:
            timer, moment = min(self._timers.items(), key=lambda item: item[1])
            if moment > now:
                break
            del self._timers[timer]
            self._now = moment
            self._elapsed(timer)
        self._now = now

    def joined(self, now: float) -> None:
        """A phone is on the access point."""
        self._now = now
        if self.access_point:
            self.stations = 1

    def left(self, now: float) -> None:
        """No phone is, any more."""
        self._now = now
        self.stations = 0

    def reboot_asked(self, now: float) -> None:
        """A phone or the server wants it to start anew."""
        self._now = now
        self._do(Restart())

    def restart_in(self, seconds: float, now: float) -> None:
        """After what needs a restart: an update."""
        self._now = now
        self._timers[Timer.RESTART] = now + seconds

    def reconfigure_asked(self, now: float) -> None:
        """The server wants it to open its access point; it keeps what it has, until it is told better."""
        self._now = now
        if self.state is State.RUNNING:
            self._enter(State.WAIT_CONFIG)

    def update_asked(self, now: float) -> None:
        """The server has an image for it."""
        self._timers[Timer.OTA] = now + _OTA_DELAY

    def logged_in(self, now: float) -> None:
        """The server has accepted the token."""
        self._now = now
        self._dialling = self._overdue = False
        if self.state is State.CONNECTING_CLOUD:
            self._retries_cloud = RETRIES
            self._connected()

    def not_reached(self, trouble: LastError, now: float) -> None:
        """No login came about, or the connection has ended."""
        self._now = now
        self._dialling = False
        if self.state is State.RUNNING:
            self._enter(State.CONNECTING_CLOUD)
        elif self.state is State.CONNECTING_CLOUD:
            self._trouble = trouble
            if self._overdue:
                self._cloud_timed_out()
            else:
                self._timers[Timer.REDIAL] = now + REDIAL

    @abc.abstractmethod
    def _connected(self) -> None:
        """Logged in: run, and remember what was good."""

    def _elapsed(self, timer: Timer) -> None:
        match timer:
            case Timer.ACCESS_POINT:
                self.access_point = True
                self._do(OpenAccessPoint())
            case Timer.JOINED:
                self._retries_net = RETRIES
                self._enter(State.CONNECTING_CLOUD)
            case Timer.REDIAL:
                self._dial()
            case Timer.LEAVE:
                self._close()
            case Timer.OTA:
                self._enter(State.OTA_UPGRADE)
                self._enter(State.ERROR)  # there is no image to be had
            case Timer.RESTART:
                self._do(Restart())
            case _:
                self._state_timed_out()

    def _state_timed_out(self) -> None:
        match self.state:
            case State.CONNECTING_NET:
                self._retries_net -= 1
                if self._retries_net <= 0:
                    self._fail_net()
                else:
                    self._enter(State.CONNECTING_NET)
            case State.CONNECTING_CLOUD if self._dialling:
                self._overdue = True  # a server that answers slowly is not one that does not
            case State.CONNECTING_CLOUD:
                self._cloud_timed_out()
            case State.ERROR:
                self._do(Restart())
            case _:
                pass

    def _cloud_timed_out(self) -> None:
        self._overdue = False
        self._retries_cloud -= 1
        if self._retries_cloud <= 0:
            self._fail_cloud()
        else:
            self._enter(State.CONNECTING_CLOUD)

    def _set(self, state: State) -> None:
        """What entering any state means."""
        for timer in (Timer.STATE, Timer.JOINED, Timer.REDIAL):
            self._timers.pop(timer, None)
        if self.state in (State.CONNECTING_CLOUD, State.RUNNING) and state is not State.RUNNING:
            self._dialling = self._overdue = False
            self._do(HangUp())
        self.state = state
        self._do(Entered(state))
        match state:
            case State.CONNECTING_NET:
                self._join()
            case State.CONNECTING_CLOUD:
                self._timers[Timer.STATE] = self._now + CONNECT_TIMEOUT
                self._dial()
            case State.ERROR:
                self._timers[Timer.STATE] = self._now + ERROR_PAUSE
            case _:
                pass

    def _join(self) -> None:
        self._timers[Timer.STATE] = self._now + CONNECT_TIMEOUT
        self._network = None
        self._trouble = LastError.NETWORK
        for known in self.config.networks:
            found = self._networks.join(known.ssid, known.password)
            if isinstance(found, Network):
                self._network = found
                self._timers[Timer.JOINED] = self._now + JOINING
                return
            self._trouble = found

    def _dial(self) -> None:
        trouble = self._network.cloud_trouble if self._network else LastError.CLOUD
        if trouble is None:
            self._trouble = LastError.CLOUD
            self._dialling = True
            self._do(Dial(self.config.token, self.config.host, self.config.port))
        else:
            self._trouble = trouble

    def _open_in(self, seconds: float) -> None:
        if not self.access_point and Timer.ACCESS_POINT not in self._timers:
            self._timers[Timer.ACCESS_POINT] = self._now + seconds

    def _close(self) -> None:
        self._timers.pop(Timer.ACCESS_POINT, None)
        self.stations = 0
        if self.access_point:
            self.access_point = False
            self._do(CloseAccessPoint())

    def _do(self, effect: Effect) -> None:
        self.effects.append(effect)
