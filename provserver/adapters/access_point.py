"""A device's own access point, over HTTP: who it is, which networks it sees, its settings (spec wifi-inject B.2).

It is the person's machine that speaks here, in the device's network: nothing guards where to, and nothing encrypts it.
What goes there is in no message and no log.
"""

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import aiohttp
from yarl import URL

from provserver.core.board import Board, Generation, NotABoard, Report, WifiNetwork, read_board, read_networks
from provserver.core.edgent import PORT, Settings
from provserver.errors import Invalid, Refused

USUAL = "192.168.4.1"
"""Where firmware has its access point."""

ROUTES = Path("/proc/net/route")

MAX_ANSWER = 65_536
TRIES = 3
ANSWER_TIME = 5.0
SCAN_TIME = 30.0
"""Seconds that an answer may take: to look for networks takes firmware up to 20."""

INTERVAL = 0.5
"""Seconds between two looks whether an access point is there again."""

PAUSE = 0.25
"""Seconds before a question is put again."""


class _Silent(Exception):  # noqa: N818
    """No answer came. sent: the request may have arrived all the same."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__()
        self.sent = sent


class _Answer(NamedTuple):
    status: int
    body: bytes


class AccessPoint:
    """A device that is reached by its access point: a way for `services.inject`. address: host, or host:port."""

    def __init__(self, session: aiohttp.ClientSession, address: str, interval: float = INTERVAL) -> None:
        self.address = address
        self._session = session
        self._interval = interval
        self._board: Board | None = None

    async def board(self) -> Board:
        """See `services.inject.Way`. Its firmware takes that for a phone that is there."""
        try:
            answer = await self._got("/board_info.json")
            self._board = _board(answer)
        except _Silent:
            raise Refused(
                f"No device answers at {self.address}. Join its access point, a WiFi network whose name ends in a dash "
                "and four characters; if there is none, hold the device's button for 10 s until its LED blinks "
                "quickly. One at another address is named with --access-point."
            ) from None
        except NotABoard as fault:
            raise Refused(
                f"What answers at {self.address} is no device that waits to be set up: {fault}. Is this machine in the "
                "device's network, and not in another with the same addresses?"
            ) from None
        return self._board

    async def networks(self) -> Sequence[WifiNetwork]:
        """See `services.inject.Way`; none, if firmware cannot tell."""
        try:
            answer = await self._got("/wifi_scan.json", SCAN_TIME)
        except _Silent:
            raise Refused(
                f"The device at {self.address} has gone silent as it looked for networks. Go nearer to it, join its "
                "access point again, and run this again."
            ) from None
        try:
            return read_networks(answer.body) if answer.status == 200 else ()
        except NotABoard:
            return ()

    async def configure(self, settings: Settings) -> None:
        """See `services.inject.Way`. An answer that got lost may be of settings that arrived: `outcome` tells."""
        board = self._board or await self.board()
        values = {"ssid": settings.ssid, "pass": settings.password, "blynk": settings.auth, "host": settings.host}
        if board.generation is Generation.EDGENT:
            values = {"if": "wifi", **values}
        else:  # what came before takes one of the two, or wants both
            values |= {name: str(settings.port or PORT) for name in ("port", "port_ssl")}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in values.items())
        try:
            answer = await self._got(f"/config?{query}", once=True)
        except _Silent as fault:
            if fault.sent:
                return
            raise Refused(
                f"The device at {self.address} went away before it had its settings. Join its access point again, and "
                "run this again."
            ) from None
        if answer.status != 200 or not _accepted(answer.body):
            raise Refused(
                f"The device at {self.address} does not take its settings (HTTP {answer.status}). See that its "
                "firmware is Edgent's, or speaks as it does: it must take a token of 32 characters."
            )

    async def outcome(self) -> Report:
        """See `services.inject.Way`.

        Older firmware closes its access point to try, and opens it when it has failed. Newer may keep it open, with an
        error of 0 as long as it tries.
        """
        known = self._board
        before: int | None = known.last_error if known is not None else 0
        while True:
            await asyncio.sleep(self._interval)
            try:
                board = _board(await self.once("/board_info.json"))
            except (_Silent, NotABoard):
                before = None
                continue
            if known is not None and (board.mac, board.uid) != (known.mac, known.uid):
                continue  # another device, at the same address in its own network
            if board.generation is Generation.CLASSIC or (board.last_error and board.last_error != before):
                return Report(online=False, last_error=board.last_error)
            before = board.last_error if before is not None and board.last_error == before else 0

    async def _got(self, target: str, patience: float = ANSWER_TIME, *, once: bool = False) -> _Answer:
        """The answer, if need be to a question that was put again. Raises _Silent.

        once: a question that may have arrived is not put again.
        """
        for _ in range(TRIES - 1):
            try:
                return await self.once(target, patience)
            except _Silent as fault:
                if once and fault.sent:
                    raise
                await asyncio.sleep(PAUSE)
        return await self.once(target, patience)

    async def once(self, target: str, patience: float = ANSWER_TIME) -> _Answer:
        """The answer. Raises _Silent."""
        url = URL(f"http://{self.address}{target}", encoded=True)
        timeout = aiohttp.ClientTimeout(total=patience, sock_connect=ANSWER_TIME)
        sent: list[bool] = []
        try:
            async with self._session.get(
                url, timeout=timeout, allow_redirects=False, trace_request_ctx=sent
            ) as response:
                body = b""
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise _Silent(sent=True)
                return _Answer(response.status, body)
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise _Silent(sent=bool(sent)) from None


@asynccontextmanager
async def access_point(address: str | None = None, interval: float = INTERVAL) -> AsyncIterator[AccessPoint]:
    """The device at an address, or at that where they usually are. interval: see INTERVAL. Raises Refused."""
    connector = aiohttp.TCPConnector(force_close=True)
    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(_sent)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trace_configs=[tracing]
    ) as session:
        if address is None:
            address = await _found(session, interval)
        yield AccessPoint(session, checked(address), interval)


async def _sent(_: aiohttp.ClientSession, context: Any, __: object) -> None:
    """Note that a request has gone out: aiohttp puts a GET again whose connection broke, and fails of the second."""
    context.trace_request_ctx.append(True)


def checked(address: str) -> str:
    """An address as `host` or `host:port`. Raises Invalid."""
    with suppress(ValueError):
        parts = urlsplit(f"http://{address}")
        if parts.hostname and parts.netloc == address and "@" not in address and parts.port != 0:
            return address
    raise Invalid(f"An access point is named as {USUAL} or {USUAL}:80, not {address!r}.")


async def _found(session: aiohttp.ClientSession, interval: float) -> str:
    """The address of the device in whose network this machine is, or else the usual one, for who asks to be told."""
    candidates = list(dict.fromkeys((USUAL, *gateways(_read(ROUTES)))))

    async def answers(address: str) -> bool:
        try:
            _board(await AccessPoint(session, address, interval).once("/board_info.json"))
        except (_Silent, NotABoard):
            return False
        return True

    there = await asyncio.gather(*map(answers, candidates))
    return next((each for each, is_there in zip(candidates, there, strict=True) if is_there), USUAL)


def gateways(routes: str) -> list[str]:
    """The gateways of Linux' table of routes, as /proc/net/route has it."""
    found = []
    for line in routes.splitlines()[1:]:
        columns = line.split()
        with suppress(IndexError, ValueError):
            gateway = int.from_bytes(bytes.fromhex(columns[2]), "little")
            if int(columns[1], 16) == 0 and gateway:
                found.append(str(ipaddress.IPv4Address(gateway)))
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # another system than Linux
        return ""


def _board(answer: _Answer) -> Board:
    if answer.status != 200:
        raise NotABoard(f"it answers {answer.status}")
    return read_board(answer.body)


def _accepted(body: bytes) -> bool:
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and str(answer.get("status", "")).lower() == "ok"
