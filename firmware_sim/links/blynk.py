"""Blynk's native binary protocol: what Edgent's firmware speaks once it has a token.

A message is a header of five bytes, big-endian: type, id (never 0), length of the body; the body is texts with NUL
between. A response has no body: in place of the length is its status. The server does not answer a write that it has
kept, but it answers in order: what came before an answered ping is done.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncGenerator, Mapping
from struct import Struct
from types import TracebackType
from typing import Any, Self

import msgspec

from firmware_sim import power, tls
from firmware_sim.address import Address
from firmware_sim.errors import BadReply, NoAnswer, Refused, SimulatorError, Unauthorized, WrongUsage
from firmware_sim.links import Login
from firmware_sim.tls import Security

RESPONSE, PING, INTERNAL, HARDWARE, LOGIN, REDIRECT = 0, 6, 17, 20, 29, 41
OK, REGISTERED, INVALID_TOKEN, WRONG_BODY = 200, 4, 9, 11

HEART_BEAT = 40.0
"""Seconds between two pings."""

BUFFER = 1024
"""Bytes of a body that the device takes: a server that sends more is hung up on."""

_HEADER = Struct(">BHH")
_REDIRECTS = 3
_PIN = re.compile(r"[vV]([0-9]{1,3})")
_DATASTREAM = re.compile(r"ds/(.+)")

_Message = tuple[int, int, int, list[str]]  # type, id, status of a response, texts


class BlynkLink:
    """One connection, redirected if the server says so. template: what it says it is of, if anything."""

    def __init__(
        self, server: Address, login: Login, security: Security | None, timeout: float, template: str = ""
    ) -> None:
        self._server = server
        self._token = login.token or ""
        self._security = security
        self._timeout = timeout
        self._facts = {"tmpl": template} if template else {}
        self._introduced = False
        self._last_id = 1  # a login's
        self._answers: dict[int, asyncio.Future[int]] = {}
        self._refused: dict[int, int] = {}
        self._news: asyncio.Queue[tuple[str, bytes] | SimulatorError] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for _ in range(_REDIRECTS + 1):
            try:
                async with asyncio.timeout(self._timeout):
                    elsewhere = await self._log_in()
            except (OSError, EOFError) as error:
                await self._close()
                raise _failure(error, self._timeout) from error
            except BaseException:
                await self._close()
                raise
            if elsewhere is None:
                break
            await self._close()
            self._server = elsewhere
        else:
            raise Refused(f"redirected {_REDIRECTS + 1} times")
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._keep_alive())]
        power.reached("logged in")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def info(self, facts: Mapping[str, str]) -> None:
        """Say what the device is (`tmpl`, `fw-type`, …), which goes before all else. Raises a SimulatorError."""
        self._introduced = True
        said = {"mcu": "1.0.0", "h-beat": f"{HEART_BEAT:g}", "buff-in": str(BUFFER), "dev": "firmware-sim", **facts}
        if (status := await self._asked(INTERNAL, *(text for pair in said.items() for text in pair))) != OK:
            raise _refusal(status)

    async def meta(self, name: str, value: str) -> None:
        """Set a metadata field, if the template has it. Raises a SimulatorError."""
        if (status := await self._asked(INTERNAL, "meta", "set", name, value)) not in (OK, WRONG_BODY):
            raise _refusal(status)

    async def telemetry(self, body: bytes) -> None:
        """Write each member to its pin (`v5` to 5; others to 0, 1, … as they come), and wait until that is done."""
        await self._introduce()
        values = msgspec.json.decode(body, type=dict[str, Any])
        written = []
        for number, (name, value) in enumerate(values.items()):
            pin = match[1] if (match := _PIN.fullmatch(name)) else str(number)
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            written.append(await self._send(HARDWARE, "vw", pin, text))
        await self._asked(PING)
        statuses = [status for each in written if (status := self._refused.pop(each, None)) is not None]
        if statuses:
            raise _refusal(statuses[0])

    async def rotate(self, body: bytes) -> bytes:  # noqa: ARG002
        """There is no such request."""
        raise WrongUsage(
            "credentials are not rotated by Blynk's native protocol: --connect-transport mqtt, http or coap"
        )

    async def updates(self) -> AsyncGenerator[Mapping[str, Any], None]:
        """What the server writes to pins: `{"v5": "42"}`."""
        await self._introduce()
        async for name, payload in self.downlinks():
            if (match := _DATASTREAM.fullmatch(name)) is not None:
                yield {match[1]: payload.decode()}

    async def downlinks(self) -> AsyncGenerator[tuple[str, bytes], None]:
        """What the server says: `ds/v5` and a value, `reconfigure`, `reboot`, `ota` and its URL; ends as `updates`."""
        while True:
            news = await self._news.get()
            if isinstance(news, SimulatorError):
                raise news
            yield news

    async def _introduce(self) -> None:
        if not self._introduced:
            await self.info(self._facts)

    async def _log_in(self) -> Address | None:
        """Connect; where to go instead, if the server says so."""
        context = tls.client_context(self._security) if self._security else None
        self._reader, self._writer = await asyncio.open_connection(self._server.host, self._server.port, ssl=context)
        power.reached("connected")
        self._writer.write(_packed(LOGIN, 1, self._token))
        command, message_id, status, texts = await self._receive()
        if command == REDIRECT and texts:
            port = texts[1] if len(texts) > 1 else str(self._server.port)
            try:
                return Address.parse(f"[{texts[0]}]:{port}" if ":" in texts[0] else f"{texts[0]}:{port}", 0)
            except ValueError:
                raise BadReply("redirected to no address") from None
        if command != RESPONSE or message_id != 1:
            raise BadReply("no answer to the login")
        if status not in (OK, REGISTERED):
            raise _refusal(status)
        return None

    async def _asked(self, command: int, *texts: str) -> int:
        """The status that a message is answered with."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        message_id = self._next_id()
        self._answers[message_id] = answer
        try:
            await self._write(_packed(command, message_id, *texts))
            async with asyncio.timeout(self._timeout):
                return await answer
        except TimeoutError as error:
            raise NoAnswer.because(error, self._timeout) from None
        finally:
            self._answers.pop(message_id, None)

    async def _send(self, command: int, *texts: str) -> int:
        message_id = self._next_id()
        await self._write(_packed(command, message_id, *texts))
        return message_id

    async def _write(self, data: bytes) -> None:
        if self._tasks[0].done():
            raise NoAnswer("the server closed the connection")
        self._writer.write(data)
        with _failures(self._timeout):
            await self._writer.drain()

    def _next_id(self) -> int:
        self._last_id = self._last_id % 0xFFFF + 1
        return self._last_id

    async def _receive(self) -> _Message:
        command, message_id, length = _HEADER.unpack(await self._reader.readexactly(_HEADER.size))
        if not message_id:
            raise BadReply("a message id is 0")
        if command == RESPONSE:
            return command, message_id, length, []
        if length > BUFFER:
            raise BadReply("a message is larger than the device takes")
        body = await self._reader.readexactly(length)
        try:
            return command, message_id, 0, body.decode().split("\0")
        except UnicodeDecodeError:
            raise BadReply("a message is no text") from None

    async def _listen(self) -> None:
        """Take what comes, to the end of the connection."""
        loss: SimulatorError
        try:
            while True:
                match await self._receive():
                    case (0, message_id, status, _) if message_id in self._answers:
                        self._answers.pop(message_id).set_result(status)
                    case (0, message_id, status, _):
                        self._refused[message_id] = status
                    case (6, message_id, _, _):
                        await self._write(_HEADER.pack(RESPONSE, message_id, OK))
                    case (20, _, _, ["vw", pin, *values]):
                        self._news.put_nowait((f"ds/v{pin}", "\0".join(values).encode()))
                    case (17, _, _, ["dbg", "config" | "config start"]):
                        self._news.put_nowait(("reconfigure", b""))
                    case (17, _, _, ["dbg", "reboot"]):
                        self._news.put_nowait(("reboot", b""))
                    case (17, _, _, ["ota", url, *_]):
                        self._news.put_nowait(("ota", url.encode()))
                    case (17, _, _, _):
                        pass
                    case _:
                        raise BadReply("a message of an unknown type")
        except (OSError, EOFError, SimulatorError) as error:
            loss = _failure(error, self._timeout)
        self._news.put_nowait(loss)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(loss)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(HEART_BEAT)
            with contextlib.suppress(SimulatorError):
                await self._asked(PING)

    async def _close(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer: asyncio.StreamWriter | None = getattr(self, "_writer", None)
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _packed(command: int, message_id: int, *texts: str) -> bytes:
    body = "\0".join(texts).encode()
    return _HEADER.pack(command, message_id, len(body)) + body


def _refusal(status: int) -> SimulatorError:
    match status:
        case 9:
            return Unauthorized("Blynk status 9 invalid token")
        case 1 | 19:
            return NoAnswer(f"Blynk status {status}, try again later")
        case _:
            return Refused(f"Blynk status {status}")


@contextlib.contextmanager
def _failures(timeout: float) -> Any:
    try:
        yield
    except OSError as error:
        raise _failure(error, timeout) from error


def _failure(error: OSError | EOFError | SimulatorError, timeout: float) -> SimulatorError:
    """What a device makes of it."""
    match error:
        case ssl.SSLError():
            return tls.failure(error)
        case EOFError():
            return NoAnswer("the server closed the connection")
        case OSError():
            return NoAnswer.because(error, timeout)
        case _:
            return error
