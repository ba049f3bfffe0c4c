"""What WiFi firmware does, without I/O: states, what leads from one to the next, and what it asks of its device.

Two generations: the classic one does one thing at a time, and its access point is gone while it tries what it was
told; the new one (2026) tries beside its access point, as long as the phone stays. Seconds are the device's, since
it was switched on.

What real firmware does is kept where it surprises: the new one forgets its last error when it opens its access point
anew, and adds a network to those it knows before it has tried it.
"""

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address
from typing import Final

from firmware_sim.access_point_name import classic_name, edgent_name
from firmware_sim.config_store import TOKEN_LENGTH, Config, Static, WifiLogin, cut
from firmware_sim.wifi_networks import LastError, Network, Networks


class Generation(StrEnum):
    """Of the firmware."""

    CLASSIC = "classic"
    EDGENT = "edgent"


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
class Board:
    """What the factory made. mac: six bytes, of the WiFi station. template_name: the product's, as in its image."""

    mac: bytes
    template: str
    template_name: str
    generation: Generation = Generation.CLASSIC
    vendor: str = "Blynk"
    firmware_type: str = ""
    firmware_version: str = "0.1.0"

    @property
    def name(self) -> str:
        """Of its access point."""
        named = classic_name if self.generation is Generation.CLASSIC else edgent_name
        return named(self.vendor, self.template_name, self.mac)

    @property
    def type(self) -> str:
        """What the firmware calls itself: its template, unless it was given another name."""
        return self.firmware_type or self.template

    @property
    def access_point_mac(self) -> bytes:
        """The next after the station's."""
        return self.mac[:-1] + bytes([(self.mac[-1] + 1) & 0xFF])


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
SKIP_LIMIT: Final = 10
"""Times that nobody came, after which new firmware starts without an access point."""

_CLASSIC_OPENING, _EDGENT_OPENING = 2.6, 0.15
_SWITCHING = 1.1
_LEAVING = 1.0
_OTA_DELAY = 2.0

_STATE, _ACCESS_POINT, _JOINED, _REDIAL, _LEAVE, _OTA, _RESTART = range(7)


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
        self._timers: dict[int, float] = {}
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
        self._timers[_RESTART] = now + seconds

    def reconfigure_asked(self, now: float) -> None:
        """The server wants it to open its access point; it keeps what it has, until it is told better."""
        self._now = now
        if self.state is State.RUNNING:
            self._enter(State.WAIT_CONFIG)

    def update_asked(self, now: float) -> None:
        """The server has an image for it."""
        self._timers[_OTA] = now + _OTA_DELAY

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
                self._timers[_REDIAL] = now + REDIAL

    @abc.abstractmethod
    def _connected(self) -> None:
        """Logged in: run, and remember what was good."""

    def _elapsed(self, timer: int) -> None:
        match timer:
            case _ if timer == _ACCESS_POINT:
                self.access_point = True
                self._do(OpenAccessPoint())
            case _ if timer == _JOINED:
                self._retries_net = RETRIES
                self._enter(State.CONNECTING_CLOUD)
            case _ if timer == _REDIAL:
                self._dial()
            case _ if timer == _LEAVE:
                self._close()
            case _ if timer == _OTA:
                self._enter(State.OTA_UPGRADE)
                self._enter(State.ERROR)  # there is no image to be had
            case _ if timer == _RESTART:
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
        for timer in (_STATE, _JOINED, _REDIAL):
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
                self._timers[_STATE] = self._now + CONNECT_TIMEOUT
                self._dial()
            case State.ERROR:
                self._timers[_STATE] = self._now + ERROR_PAUSE
            case _:
                pass

    def _join(self) -> None:
        self._timers[_STATE] = self._now + CONNECT_TIMEOUT
        self._network = None
        self._trouble = LastError.NETWORK
        for known in self.config.networks:
            found = self._networks.join(known.ssid, known.password)
            if isinstance(found, Network):
                self._network = found
                self._timers[_JOINED] = self._now + JOINING
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
        if not self.access_point and _ACCESS_POINT not in self._timers:
            self._timers[_ACCESS_POINT] = self._now + seconds

    def _close(self) -> None:
        self._timers.pop(_ACCESS_POINT, None)
        self.stations = 0
        if self.access_point:
            self.access_point = False
            self._do(CloseAccessPoint())

    def _do(self, effect: Effect) -> None:
        self.effects.append(effect)


class Classic(Edgent):
    """Firmware as it has been since 2021. Its memory is one structure, in `config`, of which the flash has a copy."""

    def __init__(
        self, board: Board, flash: Config, networks: Networks, now: float = 0.0, window: float = CONFIG_TIMEOUT
    ) -> None:
        super().__init__(board, flash, networks, now, window)
        self._enter(State.CONNECTING_NET if flash.valid else State.WAIT_CONFIG)

    @property
    def last_error(self) -> int:
        """Kept in flash."""
        return self.config.last_error

    def configure(self, arguments: Mapping[str, str], now: float) -> str | None:
        """Take it, and leave the access point to try it."""
        self._now = now
        ssid = arguments.get("ssidManual") or arguments.get("ssid", "")
        token = arguments.get("blynk", "")
        if len(token.encode()) != TOKEN_LENGTH or not ssid:
            return None
        config = replace(
            Config(version=self.board.firmware_version),
            networks=(WifiLogin(ssid, arguments.get("pass", "")),),
            token=token,
        )
        if host := arguments.get("host"):
            config = replace(config, host=host)
        if port := arguments.get("port_ssl"):
            config = replace(config, port=leading_number(port))
        self.config = cut(_with_addresses(config, arguments))
        saving = bool(leading_number(arguments.get("save", "")))
        if saving:
            self.config = replace(self.config, valid=True)
            self._do(Save(self.config))
        self._retries_net = self._retries_cloud = 1
        self._enter(State.SWITCH_TO_STA)
        return "Configuration saved" if saving else "Trying to connect..."

    def asked(self, now: float) -> None:
        """Whoever reads the board's description begins to configure it."""
        self._now = now
        if self.state is State.WAIT_CONFIG:
            self._enter(State.CONFIGURING)

    def left(self, now: float) -> None:
        """Nobody configures it any more."""
        super().left(now)
        if self.state is State.CONFIGURING:
            self._enter(State.WAIT_CONFIG)

    def reset_asked(self, now: float) -> None:
        """Forget everything."""
        self._now = now
        self._enter(State.RESET_CONFIG)

    button_reset = reset_asked

    def rejected(self, now: float) -> None:
        """Wait for another token, whether this one was good once or not."""
        self._now = now
        self._dialling = False
        if self.state in (State.CONNECTING_CLOUD, State.RUNNING):
            self._remember(LastError.TOKEN)
            self._enter(State.WAIT_CONFIG)

    def _connected(self) -> None:
        self._enter(State.RUNNING)
        if not self.config.valid:
            self.config = replace(self.config, last_error=LastError.NONE, valid=True)
            self._do(Save(self.config))
            self._do(Tell("Hotspot Name", self.board.name))

    def _fail_net(self) -> None:
        self._remember(LastError.NETWORK)
        self._enter(State.ERROR)

    def _fail_cloud(self) -> None:
        self._remember(LastError.CLOUD)
        self._enter(State.ERROR)

    def _remember(self, error: LastError) -> None:
        """Only a device that never was online forgets what did not work."""
        if not self.config.valid:
            self.config = Config(version=self.board.firmware_version, last_error=error)
            self._do(Save(self.config))

    def _enter(self, state: State) -> None:
        if state in (State.WAIT_CONFIG, State.CONFIGURING):
            self._set(state)
            self._open_in(_CLASSIC_OPENING)
            return
        self._close()
        self._set(state)
        if state is State.SWITCH_TO_STA:
            self._timers[_STATE] = self._now + _SWITCHING
        elif state is State.RESET_CONFIG:
            self.config = Config(version=self.board.firmware_version)
            self._do(Save(self.config))
            self._enter(State.WAIT_CONFIG)

    def _state_timed_out(self) -> None:
        if self.state is State.SWITCH_TO_STA:
            self._enter(State.CONNECTING_NET)
        else:
            super()._state_timed_out()


class Modern(Edgent):
    """The new firmware. `config` is what it works with, `flash` what it has written: names and values, one by one."""

    def __init__(
        self, board: Board, flash: Config, networks: Networks, now: float = 0.0, window: float = CONFIG_TIMEOUT
    ) -> None:
        super().__init__(board, flash, networks, now, window)
        self.flash = flash
        self._last_error = LastError.NONE
        self._configuring = False
        self._rejected = False
        self._introduced = False
        if self._configured:
            self._enter(State.CONNECTING_NET)
        elif SKIP_LIMIT and flash.skipped >= SKIP_LIMIT:
            self._enter(State.IDLE)
        else:
            self._enter(State.WAIT_CONFIG)

    @property
    def last_error(self) -> int:
        """Of the attempts since the access point was opened."""
        return self._last_error

    def configure(self, arguments: Mapping[str, str], now: float) -> str | None:
        """Take it, and try it beside the access point."""
        self._now = now
        ssid = arguments.get("ssidManual") or arguments.get("ssid", "")
        token = arguments.get("blynk", "")
        if len(token.encode()) != TOKEN_LENGTH or arguments.get("if") != "wifi" or not ssid:
            return None
        others = tuple(known for known in self.flash.networks if known.ssid != ssid)
        added = _with_addresses(self.flash, arguments)
        added = replace(added, networks=(WifiLogin(ssid, arguments.get("pass", "")), *others))
        self._save(added)
        self.config = replace(added, host=arguments.get("host", ""), token=token, valid=False)
        if leading_number(arguments.get("save", "")):
            self._commit()
        self._rejected = False
        self._last_error = LastError.NONE
        self._retries_net = self._retries_cloud = 1
        self._enter(State.CONNECTING_NET)
        return "Trying to connect..."

    def asked(self, now: float) -> None:
        """Whoever reads the board's description begins to configure it."""
        self._now = now
        self._configuring = True

    def left(self, now: float) -> None:
        """The phone is gone: no access point is needed any more, unless nothing was configured."""
        super().left(now)
        if not self._configuring:
            return
        self._configuring = False
        if self.state in (State.RUNNING, State.CONNECTING_NET, State.CONNECTING_CLOUD):
            self._timers[_LEAVE] = now + _LEAVING
        else:
            self._start_over()

    def reset_asked(self, now: float) -> None:
        """A phone's reset forgets the networks, and nothing else."""
        self._now = now
        self.config = replace(self.config, networks=())
        self._save(replace(self.flash, networks=()))

    def button_reset(self, now: float) -> None:
        """Forget everything but who it is."""
        self._now = now
        if self.state is not State.WAIT_CONFIG:
            self._enter(State.RESET_CONFIG)

    def rejected(self, now: float) -> None:
        """Wait for another token, whether this one was good once or not."""
        self._now = now
        self._dialling = False
        if self.state in (State.CONNECTING_CLOUD, State.RUNNING):
            if not self.config.valid:
                self._last_error = LastError.TOKEN
            self._start_over()
            self._rejected = True

    @property
    def _configured(self) -> bool:
        return self.config.valid and bool(self.config.networks)

    def _connected(self) -> None:
        if not self.config.valid:
            self._commit()
        self._enter(State.RUNNING)
        if not self._introduced:
            self._introduced = True
            self._do(Tell("Device UID", self.config.uid))
            self._do(Tell("Hotspot Name", self.board.name))

    def _commit(self) -> None:
        """Host, then token: one value at a time."""
        self.config = replace(self.config, valid=True)
        self._save(replace(self.flash, host=self.config.host))
        self._save(replace(self.flash, token=self.config.token, valid=True))

    def _save(self, config: Config) -> None:
        self.flash = config
        self._do(Save(config))

    def _fail_net(self) -> None:
        self._last_error = self._trouble
        self._give_up()

    def _fail_cloud(self) -> None:
        self._last_error = self._trouble
        self._give_up()

    def _give_up(self) -> None:
        if self.config.valid:
            self._enter(State.ERROR)
        else:
            self._start_over()

    def _start_over(self) -> None:
        self._rejected = False
        self._enter(State.WAIT_CONFIG)

    def _enter(self, state: State) -> None:
        if state is State.WAIT_CONFIG and self.state is State.WAIT_CONFIG:
            return
        self._set(state)
        if state is State.WAIT_CONFIG:
            self._timers.pop(_LEAVE, None)
            if not self.access_point:
                self._last_error = LastError.NONE
                self._open_in(_EDGENT_OPENING)
            self._timers[_STATE] = self._now + self._window
        elif state is State.IDLE:
            self._close()
        elif state is State.RESET_CONFIG:
            self._save(Config(version=self.board.firmware_version, uid=self.flash.uid))
            self.config = self.flash
            self._enter(State.WAIT_CONFIG)

    def _state_timed_out(self) -> None:
        if self.state is not State.WAIT_CONFIG:
            super()._state_timed_out()
        elif self._configuring and self.stations:
            self._timers[_STATE] = self._now + self._window
        else:
            if SKIP_LIMIT:
                self._save(replace(self.flash, skipped=self.flash.skipped + 1))
            self.config = replace(self.config, skipped=self.flash.skipped)
            self._enter(State.CONNECTING_NET if self._configured and not self._rejected else State.IDLE)


def firmware(
    board: Board, flash: Config, networks: Networks, now: float = 0.0, window: float = CONFIG_TIMEOUT
) -> Edgent:
    """That board at power-on."""
    made = Classic if board.generation is Generation.CLASSIC else Modern
    return made(board, flash, networks, now, window)


def leading_number(text: str) -> int:
    """As C reads one: the digits at the beginning, 0 if there are none."""
    text = text.strip()
    sign = -1 if text[:1] == "-" else 1
    digits = "".join(_leading_digits(text.lstrip("+-")))
    return sign * int(digits) if digits else 0


def _leading_digits(text: str) -> Iterator[str]:
    for character in text[:10]:
        if not ("0" <= character <= "9"):
            return
        yield character


def _with_addresses(config: Config, arguments: Mapping[str, str]) -> Config:
    """The addresses of those arguments that are addresses; the others are as if they had not been given."""
    given = {}
    for name, argument in (("ip", "ip"), ("mask", "mask"), ("gateway", "gw"), ("dns", "dns"), ("dns2", "dns2")):
        try:
            given[name] = str(IPv4Address(arguments.get(argument, "")))
        except AddressValueError:
            continue
    return replace(config, uses_static="ip" in given, static=Static(**given))
