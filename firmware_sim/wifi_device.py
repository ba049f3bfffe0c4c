"""A WiFi device: power, flash, access point and server around the state machine of its firmware.

One device is one object; hundreds live in one process. Without an address for its access point it is told what to do
by `configure` alone.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from firmware_sim import power
from firmware_sim.access_point import AccessPoint
from firmware_sim.address import Address
from firmware_sim.board import Board, Generation
from firmware_sim.button import Button, Hold
from firmware_sim.config_store import NO_TOKEN, Config, Store, from_values, pack, to_values, unpack
from firmware_sim.edgent_state import (
    CONFIG_TIMEOUT,
    CloseAccessPoint,
    Dial,
    Edgent,
    Effect,
    Entered,
    HangUp,
    OpenAccessPoint,
    Restart,
    Save,
    State,
    Tell,
)
from firmware_sim.errors import SimulatorError, Unauthorized, Untrusted
from firmware_sim.generations import firmware
from firmware_sim.led import Light, light
from firmware_sim.links.cloud import Cloud, CloudLink
from firmware_sim.log import SerialLog
from firmware_sim.onboarding import Identity, Settings
from firmware_sim.onboarding import Tell as Watcher
from firmware_sim.softap import SCANNING, Request, SoftAp, dotted
from firmware_sim.wifi_networks import LastError, Network, Networks

STATION_IDLE = 60.0
"""Seconds of the phone's time without a request, after which it is taken to have left."""

BUILD = "Jan  1 2026 00:00:00"


class WifiDevice:
    """A device with its power on.

    time_scale: what the firmware's waits are multiplied by, but for those for people: window, real seconds that new
    firmware waits for somebody to configure it. `changed` hears of each state.
    """

    def __init__(
        self,
        board: Board,
        store: Store,
        networks: Networks,
        cloud: Cloud,
        log: SerialLog,
        time_scale: float = 1.0,
        access_point: Address | None = None,
        window: float = CONFIG_TIMEOUT,
    ) -> None:
        """Raises OSError: the access point's port is taken."""
        self.hardware = board
        self.networks = networks
        self.button = Button(board.generation)
        self.boots = self.connections = 0
        self.changed: Callable[[WifiDevice], None] = lambda _: None
        self._store = store
        self._cloud = cloud
        self._log = log
        self._scale = time_scale
        self._window = window
        self._air = AccessPoint(access_point)
        self._edgent: Edgent | None = None
        self._power = asyncio.Event()
        self._power.set()
        self._wake = asyncio.Event()
        self._acting = asyncio.Lock()  # what a phone is answered goes out before anything comes of it
        self._life: asyncio.Task[None] | None = None
        self._session: asyncio.Task[None] | None = None
        self._link: CloudLink | None = None
        self._failure: BaseException | None = None
        self._begin = time.monotonic()
        self._entered = 0.0
        self._last_request = 0.0
        self._waiting: list[tuple[frozenset[State], asyncio.Future[None]]] = []
        self._watchers: list[Watcher] = []

    async def run(self) -> None:
        """Live, from one power-on to the next, until cancelled. Raises FlashError; WrongUsage: its port is taken."""
        try:
            while True:
                await self._power.wait()
                self._life = asyncio.create_task(self._live())
                try:
                    await asyncio.wait({self._life})
                finally:
                    self._life.cancel()
                    await asyncio.wait({self._life})
                if not self._life.cancelled():
                    self._life.result()
        finally:
            self._life = None
            await self.give_up_port()

    async def give_up_port(self) -> None:
        """Give the access point's port back, for good."""
        await self._air.release()

    # What is to be seen of it

    @property
    def access_point(self) -> Address | None:
        """Where its access point is, open or not."""
        return self._air.address

    @property
    def access_point_open(self) -> bool:
        """Whether phones can join."""
        return self._edgent is not None and self._edgent.access_point and self._air.listens

    @property
    def phone(self) -> bool:
        """Whether one has."""
        return self._edgent is not None and bool(self._edgent.stations)

    @property
    def state(self) -> State:
        """What it does."""
        return self._edgent.state if self._edgent else State.OFF

    @property
    def last_error(self) -> int:
        """Why it could not connect the last time, 0 if it could."""
        return int(self._edgent.last_error) if self._edgent else 0

    @property
    def token(self) -> str:
        """The one that it was let in with, "" for none."""
        config = self._edgent.config if self._edgent else None
        return config.token if config and config.valid and config.token != NO_TOKEN else ""

    @property
    def light(self) -> Light:
        """What its LED does."""
        hold = self.button.hold(self._now()) if self._edgent else Hold.UP
        return light(self.hardware.generation, self.state, hold)

    @property
    def in_state(self) -> float:
        """Real seconds since it entered its state."""
        return time.monotonic() - self._entered

    @property
    def board(self) -> Identity:
        """Who it says it is."""
        made = self.hardware
        uid = self._edgent.config.uid if self._edgent else ""
        return Identity(
            made.vendor,
            made.template,
            made.template_name,
            made.name,
            made.type,
            made.firmware_version,
            dotted(made.mac),
            uid or None,
        )

    async def wait(self, *states: State) -> None:
        """Return as soon as it enters one of them, at once if it is in one."""
        if self.state in states:
            return
        entered = asyncio.get_running_loop().create_future()
        entry = (frozenset(states), entered)
        self._waiting.append(entry)
        try:
            await entered
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(entry)

    def watch(self, tell: Watcher) -> Callable[[], None]:
        """Have each change of state told. Returns what ends that."""
        self._watchers.append(tell)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._watchers.remove(tell)

        return end

    # What can be done to it

    def submit(self, arguments: Mapping[str, str]) -> int:
        """What a phone hands over, by the names of `/config`; the HTTP status that this would have."""
        if self._edgent is None:
            return 503
        taken = self._edgent.configure(arguments, self._now())
        self._wake.set()
        return 500 if taken is None else 200

    def configure(self, settings: Settings) -> None:
        """Begin to connect with these."""
        self.submit(_arguments(settings))

    def asked(self) -> None:
        """Somebody looks at the device, and is going to configure it."""
        if self._edgent:
            self._edgent.asked(self._now())
            self._wake.set()

    async def scan(self) -> Sequence[Network]:
        """The networks around, the strongest first."""
        await asyncio.sleep(SCANNING * self._scale)
        return [network for network in self.networks.by_strength() if not network.hidden]

    def reset(self) -> None:
        """Forget everything, as the button does."""
        if self._edgent:
            self._edgent.button_reset(self._now())
            self._wake.set()

    def reboot(self) -> None:
        """Start anew."""
        if self._edgent:
            self._edgent.reboot_asked(self._now())
            self._wake.set()

    def joined(self) -> None:
        """A phone is on the access point."""
        self._last_request = time.monotonic()
        if self._edgent:
            self._edgent.joined(self._now())
            self._wake.set()

    def left(self) -> None:
        """No phone is."""
        if self._edgent:
            self._edgent.left(self._now())
            self._wake.set()

    def press(self) -> None:
        """A finger is on the button."""
        self.button.press(self._now())
        self._wake.set()

    def release(self) -> None:
        """It is taken away."""
        self._let_go(self._now())

    async def hold(self, seconds: float) -> None:
        """Hold the button for so many of the device's seconds, and no longer, however slow this machine is."""
        since = self._now()
        self.button.press(since)
        self._wake.set()
        while (left := since + seconds - self._now()) > 0:  # noqa: ASYNC110 - a finger waits for no event
            await asyncio.sleep(left * self._scale)
        self._let_go(since + seconds)

    def power_off(self) -> None:
        """Take the power away, wherever the device is."""
        if not self._power.is_set():
            return
        self._power.clear()
        if self._life:
            self._life.cancel()

    def power_on(self) -> None:
        """Give it back."""
        self._power.set()

    def _let_go(self, moment: float) -> None:
        if self.button.release(moment):
            self._log.warning("button", "configuration reset")
            self.reset()
        self._wake.set()

    # Its life

    async def _live(self) -> None:
        """From power-on to a restart."""
        self.boots += 1
        self._begin = time.monotonic()
        self._failure = None
        try:
            config = await self._load()
            self._edgent = edgent = firmware(
                self.hardware, config, self.networks, self._now(), self._window / self._scale
            )
            self._log.info("boot", f"{self.hardware.generation} firmware, {_printable(self.hardware.name)}")
            while True:
                if await self._act(edgent):
                    self._log.info("boot", "restarting")
                    return
                if self._failure:
                    raise self._failure
                await self._pause(edgent)
                if edgent.stations and time.monotonic() - self._last_request > STATION_IDLE:
                    self.left()
                edgent.tick(self._now())
        finally:
            await self._hang_up()
            await self._air.close()
            self._edgent = None
            self._tell(State.OFF)

    async def _pause(self, edgent: Edgent) -> None:
        """Until something is to be done."""
        moments = [moment for moment in (edgent.due, self.button.next_step(self._now())) if moment is not None]
        waits = [max(min(moments) - self._now(), 0.0) * self._scale] if moments else []
        if edgent.stations:
            waits.append(STATION_IDLE)
        try:
            async with asyncio.timeout(min(waits, default=None)):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _act(self, edgent: Edgent) -> bool:
        """Do what the firmware wants done; whether it wants to start anew."""
        async with self._acting:
            while edgent.effects:
                effect = edgent.effects.pop(0)
                if isinstance(effect, Restart):
                    return True
                await self._do(edgent, effect)
        return False

    async def _do(self, edgent: Edgent, effect: Effect) -> None:
        match effect:
            case Entered(state):
                self._entered = time.monotonic()
                self._log.info("state", state)
                self._tell(state)
                power.reached(f"state {state}")
            case Save(config):
                await self._store.write(self._encoded(config))
                self._log.info("flash", "configuration saved")
                power.reached("configuration saved")
            case OpenAccessPoint():
                self._air.open(self.joined, self._answer)
                where = f" at {self._air.address}" if self._air.address else ""
                self._log.info("wifi", f"access point {_printable(self.hardware.name)}{where}")
                self._tell(self.state)
                power.reached("access point open")
            case CloseAccessPoint():
                await self._air.close()
                power.reached("access point closed")
            case Dial():
                await self._hang_up()
                self._session = asyncio.create_task(self._connect(edgent, effect))
            case HangUp():
                await self._hang_up()
            case Tell(name, value):
                await self._set_meta(name, value)
            case Restart():
                pass

    async def _answer(self, request: Request) -> bytes | None:
        """One request of a phone's. What it has saved is in flash before it hears so."""
        edgent = self._edgent
        if edgent is None:
            return None
        self._last_request = time.monotonic()
        try:
            async with self._acting:
                response = SoftAp(edgent, self.networks).respond(request, self._now())
                while edgent.effects and isinstance(saved := edgent.effects[0], Save):
                    del edgent.effects[0]
                    await self._do(edgent, saved)
                power.reached(f"asked {request.path}")
            if response is None:
                return None
            if response.after:
                await asyncio.sleep(response.after * self._scale)
            if response.restarts is not None:
                edgent.restart_in(response.restarts, self._now())
            return response.encode(request.version)
        except asyncio.CancelledError:
            raise
        except BaseException as failure:  # it is the device's end, not the request's
            self._failure = failure
            return None
        finally:
            asyncio.get_running_loop().call_soon(self._wake.set)

    async def _connect(self, edgent: Edgent, dial: Dial) -> None:
        """A session with the server, to its end."""
        facts = {
            "tmpl": self.hardware.template,
            "ver": self.hardware.firmware_version,
            "build": BUILD,
            "type": self.hardware.type,
            "fw-type": self.hardware.type,
            "rxbuff": "1024",
        }
        try:
            async with self._cloud.open(dial.token, dial.host, dial.port) as link:
                power.reached("logged in")
                await link.info(facts)
                power.reached("introduced")
                self._link = link
                self.connections += 1
                self._log.info("cloud", f"connected with token {self._log.secret(dial.token)}")
                edgent.logged_in(self._now())
                self._wake.set()
                async with contextlib.aclosing(link.downlinks()) as downlinks:
                    async for command, _ in downlinks:
                        self._commanded(edgent, command)
        except Unauthorized as refusal:
            self._log.failure("cloud", f"invalid token ({refusal})")
            edgent.rejected(self._now())
        except SimulatorError as loss:
            self._log.warning("cloud", str(loss))
            trouble = LastError.CERTIFICATE if isinstance(loss, Untrusted) else LastError.CLOUD
            edgent.not_reached(trouble, self._now())
        except asyncio.CancelledError:
            raise
        except (OSError, ValueError) as error:  # a host that is none
            self._log.warning("cloud", f"{type(error).__name__}: {error}")
            edgent.not_reached(LastError.CLOUD, self._now())
        except BaseException as failure:
            self._failure = failure
        finally:
            self._link = None
            self._wake.set()

    def _commanded(self, edgent: Edgent, command: str) -> None:
        match command:
            case "reconfigure":
                self._log.info("cloud", "to be configured anew")
                edgent.reconfigure_asked(self._now())
            case "reboot":
                edgent.reboot_asked(self._now())
            case "ota" | "ota/json":
                edgent.update_asked(self._now())
            case _:
                return
        self._wake.set()

    async def _set_meta(self, name: str, value: str) -> None:
        if self._link is None:
            return
        try:
            await self._link.meta(name, _printable(value))
            power.reached("metadata set")
        except SimulatorError as refusal:  # of a template without that field
            self._log.warning("cloud", f"metadata {name}: {refusal}")

    async def _hang_up(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.cancel()
            await asyncio.wait({session})

    async def _load(self) -> Config:
        content = await self._store.read()
        version = self.hardware.firmware_version
        if self.hardware.generation is Generation.CLASSIC:
            return unpack(content, version)
        config = from_values(content, version)
        if not config.uid:
            config = replace(config, uid=str(uuid.uuid4()))
            await self._store.write(self._encoded(config))
        return config

    def _encoded(self, config: Config) -> bytes:
        return pack(config) if self.hardware.generation is Generation.CLASSIC else to_values(config)

    def _tell(self, state: State) -> None:
        for states, entered in self._waiting:
            if state in states and not entered.done():
                entered.set_result(None)
        for tell in list(self._watchers):
            tell(state, self.last_error)
        self.changed(self)

    def _now(self) -> float:
        """The device's seconds since it was switched on."""
        return (time.monotonic() - self._begin) / self._scale


def _arguments(settings: Settings) -> dict[str, str]:
    given = {
        "if": "wifi",
        "ssid": settings.ssid,
        "pass": settings.password,
        "blynk": settings.token,
        "host": settings.host,
        "port_ssl": "" if settings.port is None else str(settings.port),
        "ip": settings.ip,
        "mask": settings.mask,
        "gw": settings.gateway,
        "dns": settings.dns,
        "dns2": settings.dns2,
        "save": "1" if settings.save else "",
    }
    # JSON can name halves of characters, which no memory holds.
    return {name: value.encode(errors="replace").decode() for name, value in given.items()}


def _printable(name: str) -> str:
    return name.encode(errors="surrogateescape").decode(errors="replace")
