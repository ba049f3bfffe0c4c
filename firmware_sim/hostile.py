"""Devices that mean harm: they guess, come under others' names or with copies of flash, or hold on to sockets.

They do what a device does, over the same transports; what they hear in place of what they hope for is counted.
"""

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from firmware_sim.credentials import TOKEN_LENGTH
from firmware_sim.device import Provisioned
from firmware_sim.errors import NoAnswer, Refused, SimulatorError
from firmware_sim.flash import VolatileFlash
from firmware_sim.links import Line, Login
from firmware_sim.pace import Pace
from firmware_sim.reply import Reply
from firmware_sim.request import Request, new_nonce
from firmware_sim.scenario import Attack, Crime
from firmware_sim.transports import Transport, TransportName, connect, provision_security

LET_IN = "let in"
REFUSED = "refused"
TURNED_AWAY = "turned away"
CLOSED = "closed by the server"
HELD = "held to the end"

_AT_ONCE = 64


class Loot:
    """What thieves get of honest devices: whatever a group was granted so far."""

    def __init__(self) -> None:
        self._granted: list[tuple[TransportName, Provisioned]] = []
        self._first = asyncio.Event()

    def take(self, transport: TransportName, outcome: Provisioned) -> None:
        """One more device has credentials."""
        self._granted.append((transport, outcome))
        self._first.set()

    def close(self) -> None:
        """There will be no more."""
        self._first.set()

    async def steal(self, number: int) -> Provisioned:
        """What one of them has; waits for the first. They come in turn. Raises NoAnswer when there is none."""
        await self._first.wait()
        if not self._granted:
            raise NoAnswer("there is nobody to steal from")
        return self._granted[number % len(self._granted)][1]


@dataclass(frozen=True, slots=True)
class Gang:
    """Who carries out an attack.

    lines: how to reach the server, by transport. key, secret: of honest firmware, which guessers do not have whole.
    loot: the victims'. outcomes: of each try, in the words above. progress: called after each.
    """

    attack: Attack
    lines: Mapping[TransportName, Line]
    key: str = field(repr=False)
    secret: str = field(repr=False)
    loot: Loot | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    progress: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Carry it out to the last try."""
        attack = self.attack
        room = asyncio.Semaphore(attack.count if attack.kind is Crime.SLOW_LORIS else _AT_ONCE)
        async with contextlib.AsyncExitStack() as stack:
            transports: dict[TransportName, Transport] = {}
            for name, line in self.lines.items():
                # A server that asks for a pre-shared key is to be told a wrong one by the guessers.
                secret = _random(24) if attack.kind is Crime.GUESS else self.secret
                security = provision_security(name, self.key, secret, line.trust, by_key=line.by_key)
                way = connect(name, line.server, _AT_ONCE, line.mqtt_version, security)
                transports[name] = await stack.enter_async_context(way)
            numbers = Pace(attack.rate, attack.ramp).each(attack.count)
            await stack.enter_async_context(contextlib.aclosing(numbers))
            async with asyncio.TaskGroup() as gang:
                async for number, _ in numbers:
                    await room.acquire()
                    name = attack.transports[number % len(attack.transports)]
                    gang.create_task(self._try(number, self.lines[name], transports[name], room))

    async def _try(self, number: int, line: Line, transport: Transport, room: asyncio.Semaphore) -> None:
        try:
            self.outcomes[await self._outcome(number, line, transport)] += 1
        finally:
            room.release()
            self.progress()

    async def _outcome(self, number: int, line: Line, transport: Transport) -> str:
        try:
            match self.attack.kind:
                case Crime.GUESS if number // len(self.attack.transports) % 2:
                    await self._enter(line, Login(_random(TOKEN_LENGTH)))
                case Crime.GUESS:
                    await self._ask(transport, line, None, _random(24))
                case Crime.IMPERSONATE:
                    victim = await self._victim(number)
                    await self._ask(transport, line, victim.credentials.device_name, self.secret)
                case Crime.CLONE:
                    victim = await self._victim(number)
                    await self._enter(line, line.login(victim.credentials, victim.private_key))
                case Crime.SLOW_LORIS:
                    return await self._hold_on(line)
        except Refused:
            return REFUSED
        except NoAnswer:
            return TURNED_AWAY
        except SimulatorError as error:
            return error.status
        return LET_IN

    async def _ask(self, transport: Transport, line: Line, name: str | None, secret: str) -> None:
        """To be provisioned, with a nonce of one's own."""
        request = Request(new_nonce(), name or f"guess-{secrets.token_hex(6)}")
        Reply.parse(await transport.provision(request.body(self.key, secret), line.timeout))

    async def _enter(self, line: Line, login: Login) -> None:
        """And leave a message; who has come so far is let in, whatever becomes of it."""
        async with line.open(login, VolatileFlash()) as link:
            with contextlib.suppress(SimulatorError):
                await link.telemetry(msgspec.json.encode({"temperature": -273.15}))

    async def _victim(self, number: int) -> Provisioned:
        assert self.loot is not None  # noqa: S101 - the scenario's parser has seen to it
        return await self.loot.steal(number)

    async def _hold_on(self, line: Line) -> str:
        """Say something that has no end, a byte at a time."""
        try:
            async with asyncio.timeout(line.timeout):
                reader, writer = await asyncio.open_connection(line.server.host, line.server.port)
        except OSError:
            return TURNED_AWAY
        try:
            return await self._dribble(reader, writer, _BEGINNINGS[line.name])
        except OSError:
            return CLOSED
        finally:
            writer.transport.abort()

    async def _dribble(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, beginning: bytes) -> str:
        end = time.monotonic() + self.attack.seconds
        writer.write(beginning)
        while (left := end - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(self.attack.interval, left)):
                    while await reader.read(1024):
                        pass  # what it is told
            except TimeoutError:
                writer.write(b"a")
            else:
                return CLOSED
        return HELD


_BEGINNINGS = {
    TransportName.HTTP: b"POST /api/v1/provision HTTP/1.1\r\nHost: localhost\r\nX-",
    TransportName.MQTT: b"\x10\xff\x7f",  # CONNECT, and 16,383 bytes to come
    # A record of TLS 1.0 with a handshake message, of which 16,384 bytes are to come.
    TransportName.HTTPS: b"\x16\x03\x01\x40\x00",
    TransportName.MQTTS: b"\x16\x03\x01\x40\x00",
}
"""How a conversation begins that never comes to its point."""


def _random(length: int) -> str:
    return secrets.token_urlsafe(length)[:length].replace("-", "0").replace("_", "1")
