"""The two generations of WiFi firmware, and what tells them apart.

The classic one does one thing at a time, and its access point is gone while it tries what it was told; the new one
(2026) tries beside its access point, as long as the phone stays.

What real firmware does is kept where it surprises: the new one forgets its last error when it opens its access point
anew, and adds a network to those it knows before it has tried it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address
from typing import Final

from firmware_sim.board import Board, Generation
from firmware_sim.config_store import TOKEN_LENGTH, Config, Static, WifiLogin, cut
from firmware_sim.edgent_state import CONFIG_TIMEOUT, Edgent, Save, State, Tell, Timer
from firmware_sim.wifi_networks import LastError, Networks

SKIP_LIMIT: Final = 10
"""Times that nobody came, after which new firmware starts without an access point."""

_CLASSIC_OPENING, _EDGENT_OPENING = 2.6, 0.15
_SWITCHING = 1.1
_LEAVING = 1.0


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
            self._timers[Timer.STATE] = self._now + _SWITCHING
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
            self._timers[Timer.LEAVE] = now + _LEAVING
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
            self._timers.pop(Timer.LEAVE, None)
            if not self.access_point:
                self._last_error = LastError.NONE
                self._open_in(_EDGENT_OPENING)
            self._timers[Timer.STATE] = self._now + self._window
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
            self._timers[Timer.STATE] = self._now + self._window
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
