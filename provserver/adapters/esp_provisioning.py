"""ESP-IDF's unified provisioning over HTTP: the phone's side of a board with an access point of its own.

Speaks with whatever address it is given: the access point's network is the phone's, and knows no names of ours.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import aiohttp
from yarl import URL

from provserver.adapters.access_point import USUAL, checked
from provserver.core import espprov
from provserver.core.board import Board, Report, WifiNetwork, strongest
from provserver.core.edgent import Settings
from provserver.core.espprov import Declined, Malformed, Possession, Station, Unproven, Unsuitable, Version
from provserver.errors import Refused

TIMEOUT = 60.0
"""Seconds for one answer: the board looks for networks in the time of one."""

CONNECT_TIME = 5.0

POLL = 1.0
"""Seconds from one question what became of it to the next."""

MAX_ANSWER = 64 << 10

_CODES = {Station.WRONG_PASSWORD: 722, Station.NOT_FOUND: 720}


class _Lost(Exception):  # noqa: N818
    """No answer. during: what was asked."""

    def __init__(self, during: str) -> None:
        super().__init__()
        self.during = during


class _Missing(Exception):  # noqa: N818
    """There is no such endpoint."""


@asynccontextmanager
async def esp_provisioning(
    address: str | None, possession: Possession, *, poll: float = POLL
) -> AsyncIterator["EspProvisioning"]:
    """A way to the board at host[:port], or where they usually are. poll: see POLL. Raises Invalid."""
    client = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1),  # the board has one socket
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT, sock_connect=CONNECT_TIME),
    )
    async with client:
        yield EspProvisioning(client, checked(address or USUAL), possession, poll)


class EspProvisioning:
    """One board. Nothing but its version and the handshake is ever said in clear."""

    def __init__(self, client: aiohttp.ClientSession, address: str, possession: Possession, poll: float) -> None:
        self._client = client
        self._address = address
        self._possession = possession
        self._poll = poll
        self._cookie = ""
        self._version: Version | None = None
        self._channel: espprov.Channel | None = None
        self._known: bool | None = None  # whether the board knows the proof, once it was shown it

    async def board(self) -> Board:
        """Who it is. Raises Refused: it is no such board, or not ours to set up."""
        async with self._in_words():
            return await self._board()

    async def networks(self) -> list[WifiNetwork]:
        """The networks around it, strongest first. Raises Refused."""
        async with self._in_words():
            espprov.read_scan_start(await self._say(espprov.SCAN, espprov.scan_start()))
            count = espprov.read_scan_status(await self._say(espprov.SCAN, espprov.scan_status()))
            found: list[WifiNetwork] = []
            for first in range(0, count, espprov.PAGE):
                some = espprov.scan_result(first, min(espprov.PAGE, count - first))
                found += espprov.read_scan_result(await self._say(espprov.SCAN, some))
        return strongest(found)

    async def configure(self, settings: Settings) -> None:
        """Hand the token and the network over, and have the board try it. Raises Refused: it does not take them."""
        async with self._in_words():
            before = espprov.read_status(await self._say(espprov.CONFIG, espprov.get_status()))
            if before not in (Station.CONNECTING, Station.CONNECTED):  # after a failure it takes no other network
                with suppress(Declined):  # there was none
                    espprov.read_reset(await self._say(espprov.CONTROL, espprov.reset()))
            espprov.read_custom(await self._say(espprov.CUSTOM, espprov.hand_over(settings)))
            config = espprov.set_config(settings.ssid, settings.password)
            espprov.read_set_config(await self._say(espprov.CONFIG, config))
            espprov.read_apply_config(await self._say(espprov.CONFIG, espprov.apply_config()))

    async def outcome(self) -> Report:
        """What came of it, as soon as the board says so. A board that is away may come back: that is waited for.

        With the network a board is not yet at the server; if it gets there, it ends all this, and answers no longer.
        """
        connected = False
        while True:
            try:
                station = espprov.read_status(await self._say(espprov.CONFIG, espprov.get_status()))
                connected = connected or station is Station.CONNECTED
                if station not in (Station.CONNECTED, Station.CONNECTING):
                    last_error = (await self._board()).last_error or _CODES.get(station, 0)
                    if last_error:
                        return Report(online=False, last_error=last_error)
            except (_Lost, _Missing, Malformed, Declined, Unproven, Unsuitable):
                self._forget()
                if connected:
                    return Report(online=True)
            await asyncio.sleep(self._poll)

    async def _board(self) -> Board:
        found = espprov.read_custom(await self._say(espprov.CUSTOM, espprov.ask_info()))
        scans = self._version is not None and "wifi_scan" in self._version.capabilities
        return replace(found, name=found.name or self._possession.name, scans=scans)

    async def _say(self, endpoint: str, message: bytes) -> bytes:
        """One message in an agreed session, and what is answered."""
        if self._channel is None:
            self._channel = await self._agree()
        channel = self._channel
        return channel.open(await self._ask(endpoint, channel.seal(message), endpoint))

    async def _agree(self) -> espprov.Channel:
        if self._known is False:  # a board counts wrong proofs: one is enough
            raise _Lost("proof")
        self._version = espprov.read_version(await self._ask(espprov.VERSION, espprov.ASK_VERSION, "version"))
        self._version.check(self._possession)
        handshake = espprov.handshake(self._possession, secrets.token_bytes)
        answer = await self._ask(espprov.SESSION, handshake.hello(), "hello")
        try:
            answer = await self._ask(espprov.SESSION, handshake.prove(answer), "proof")
        except _Lost:
            self._known = self._known or False
            raise
        channel = handshake.agreed(answer)
        self._known = True
        return channel

    async def _ask(self, endpoint: str, body: bytes, during: str) -> bytes:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if self._cookie:
            headers["Cookie"] = self._cookie
        try:
            async with self._client.post(
                URL(f"http://{self._address}/{endpoint}"), data=body, headers=headers, allow_redirects=False
            ) as response:
                if response.status == 404:
                    raise _Missing
                if response.status != 200:
                    raise _Lost(during)
                if cookie := response.headers.get("Set-Cookie"):
                    self._cookie = cookie.partition(";")[0]
                answer = b""
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > MAX_ANSWER:
                        raise Malformed("the board answers without an end")
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise _Lost(during) from None

    def _forget(self) -> None:
        """After an answer that did not come the two sides no longer know which message is next."""
        self._channel = None
        self._cookie = ""

    @asynccontextmanager
    async def _in_words(self) -> AsyncIterator[None]:
        try:
            yield
        except (_Lost, _Missing, Malformed, Declined, Unproven, Unsuitable) as fault:
            self._forget()
            raise Refused(self._words(fault)) from None

    def _words(self, fault: Exception) -> str:
        board = f"The board at {self._address}"
        match fault:
            case _Lost(during="version"):
                name = f" {self._possession.name!r}" if self._possession.name else ""
                return (
                    f"{board} does not answer. Join its access point{name}, see that it waits to be set up, and check "
                    "--access-point."
                )
            case _Lost(during="hello"):
                return (
                    f"{board} takes no proof of possession. After some wrong ones boards do not until they are "
                    "switched off and on: do that, and run this again."
                )
            case _Lost(during="proof"):
                return (
                    f"{board} did not take the proof of possession. Check user name and proof against its label; after "
                    "some wrong ones it takes none until it is switched off and on."
                )
            case _Lost():
                return f"{board} does not answer any longer. Stay in its access point's network, and run this again."
            case _Missing():
                return (
                    f"{board} lacks one of ESP-IDF's endpoints, or {espprov.CUSTOM}, which takes the token. Use "
                    "another --way, or give it a firmware that has them."
                )
            case Unproven():
                return (
                    f"{board} may be somebody else's, as it does not know the proof of possession itself. Give it no "
                    "password; look for the access point that is named on the label."
                )
            case Declined():
                return (
                    f"{board} does not take it ({fault}). Check name and password of the network; or switch the board "
                    "off and on, and run this again."
                )
        return f"{board} cannot be set up: {fault}."
