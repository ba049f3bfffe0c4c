"""The phone's side of WiFi provisioning: it hands a device its WiFi and a token, and sees it come online.

How it speaks with the device is a `Way`; what it wants of the server a `Server`, which commands have by the admin API.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from provserver.core import edgent
from provserver.core.board import ENTERPRISE, OPEN, Board, Report, Trouble, WifiNetwork, trouble
from provserver.core.edgent import InvalidSettings, Settings
from provserver.core.wifisession import QUOTA, TEMPLATE_ELSEWHERE, TEMPLATE_UNKNOWN, TEMPLATE_WRONG, WifiState
from provserver.errors import Conflict, Invalid, ProvserverError, Refused, Unavailable
from provserver.services.injection import with_token

DYNAMIC = "DYNAMIC"
"""The template id, or firmware type, of firmware that takes any template (spec B.3)."""


class Way(Protocol):
    """A way to a device that waits to be set up."""

    async def board(self) -> Board:
        """Who it is. Raises Refused."""

    async def networks(self) -> Sequence[WifiNetwork]:
        """The networks that it sees, the strongest first. Raises Refused."""

    async def configure(self, settings: Settings) -> None:
        """Hand its settings over, and have it try them. Raises Refused when it does not take them."""

    async def outcome(self) -> Report:
        """What came of them, once the device says so; that may be never. Raises Refused."""


@dataclass(frozen=True, slots=True)
class Existing:
    """A device that is there already. access_point: the name that its own had. What is empty is not known."""

    id: str
    name: str
    template_id: str = ""
    access_point: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a token is to be for: a device to be, or one that is there. What is None is the server's to choose."""

    organization: str | None = None
    owner: str | None = None
    template: str | None = None
    name: str | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A session of the server, and the token that goes to the device. template_id: as far as it is known yet."""

    session: str
    auth: str
    template_id: str = ""

    def __repr__(self) -> str:
        return f"<Token of {self.session}>"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a session stands. error: the last one, a word for programs, or empty."""

    state: WifiState
    error: str = ""
    device_id: str = ""
    device: str = ""


class Server(Protocol):
    """The server, as who sets a device up sees it. All raise Refused, Unavailable."""

    async def template_id(self, profile: str) -> str:
        """A profile's template id."""

    async def device(self, reference: str) -> Existing:
        """A device, by name or id."""

    async def request(self, wanted: Wanted) -> Token:
        """Begin a session."""

    async def standing(self, session: str) -> Standing:
        """How a session stands."""

    async def saw(self, session: str, event: str, error: str = "") -> None:
        """Write into a session what was seen of the device."""

    async def fail(self, session: str, error: str) -> None:
        """End a session that came to nothing."""

    async def cancel(self, session: str) -> None:
        """End a session that is not wanted any more."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a person chose. name: of the device to be; empty: the server makes one up."""

    ssid: str
    password: str = ""
    name: str = ""

    def __repr__(self) -> str:
        return f"<Choice of {self.ssid!r}>"


Choose = Callable[[Board, Sequence[WifiNetwork]], Choice]
"""Has a person choose, once the device has told what it sees."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done. host, port: where the device finds the server; None: what firmware takes by itself.

    another_unit: the device there may get other hardware than it had. awaited: its access point may be yet to open.
    """

    host: str
    port: int | None = None
    wanted: Wanted = Wanted()
    another_unit: bool = False
    awaited: bool = False


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. whole: from the settings to success: firmware tries WiFi for 50 s, then the server for 50 s, and shows
    its error for 10 s. online: what it may take the server to hear of a device that says it is online. interval:
    between two looks.
    """

    whole: float = 150.0
    online: float = 30.0
    interval: float = 0.5


@dataclass(frozen=True, slots=True)
class Done:
    """A device that is online."""

    session: str
    device_id: str
    device: str
    board: Board
    ssid: str


class NotConnected(Refused):
    """The device did not get where it should. trouble: why, and what to do."""

    def __init__(self, trouble_: Trouble) -> None:
        super().__init__(str(trouble_))
        self.trouble = trouble_


_SERVER_SAYS = {
    TEMPLATE_UNKNOWN: (
        "The device is online, but says it has a template that there is none of here.",
        "See that BLYNK_TEMPLATE_ID in its firmware is the template id of a profile: `provserver profile list`.",
    ),
    TEMPLATE_ELSEWHERE: (
        "The device is online, but its template belongs to another organization.",
        "Name that organization with --organization, or make a profile of your own and build the firmware for it.",
    ),
    TEMPLATE_WRONG: (
        "The device is online, but its template is another than was said.",
        "See that this is the unit that was meant; leave --template out, and it is taken as it says.",
    ),
    QUOTA: (
        "The organization may have no more devices.",
        "Delete some, or have whoever runs the server raise its quota.",
    ),
}
_PASSWORDLESS = (OPEN, "unknown")


async def inject(
    way: Way,
    server: Server,
    work: Work,
    choose: Choose,
    told: Callable[[str], None],
    patience: Patience = Patience(),
) -> Done:
    """Set a device up. told: what happens, a sentence each. Raises Refused, before anything is sent where it can be."""
    _settings(work, Choice(""))
    board = await (_awaited(way, patience) if work.awaited else way.board())
    told(_met(board))
    if board.last_error:
        told(f"It says of its last try: {trouble(board.last_error).what}")
    wanted = await _checked(server, work, board)
    networks = await way.networks() if board.scans else ()
    choice = choose(board, networks)
    settings = _settings(work, choice)
    _check_network(choice, networks, told)
    if wanted.device is None:
        wanted = replace(wanted, name=choice.name or wanted.name)
    token = await server.request(wanted)
    try:
        _check_template(board, token.template_id, "what was asked for")
    except Conflict:
        await server.cancel(token.session)
        raise
    try:
        device = await _Try(way, server, token.session, told, patience).run(with_token(settings, token.auth))
    except asyncio.CancelledError:
        with suppress(ProvserverError):
            await server.cancel(token.session)
        raise
    return Done(token.session, device.device_id, device.device, board, choice.ssid)


async def _awaited(way: Way, patience: Patience) -> Board:
    """A board that comes up in a while. Raises Refused, as the way does, when it does not."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + patience.whole
    while True:
        try:
            return await way.board()
        except Refused:
            if loop.time() >= ends:
                raise
            await asyncio.sleep(patience.interval)


async def _checked(server: Server, work: Work, board: Board) -> Wanted:
    """What is wanted, for a board that it may be for. Raises Refused."""
    wanted = work.wanted
    if wanted.device is not None:
        there = await server.device(wanted.device)
        _check_template(board, there.template_id, there.name)
        if (
            not work.another_unit
            and _unit(there.access_point) != _unit(board.name)
            and there.access_point
            and board.name
        ):
            raise Conflict(
                f"This is the wrong device: its access point is {board.name!r}, and that of {there.name} was "
                f"{there.access_point!r}. Nothing was sent to it. If this unit is to take its place: --another-unit."
            )
        return replace(wanted, device=there.id)
    if wanted.template is None:
        return wanted if _takes_any(board) else replace(wanted, template=board.template_id)
    template_id = await server.template_id(wanted.template)
    _check_template(board, template_id, wanted.template)
    return replace(wanted, template=template_id)


def _check_template(board: Board, template_id: str, of: str) -> None:
    """Raises Conflict for a board of another template. of: whose it is, for people."""
    if template_id and not _takes_any(board) and template_id != board.template_id:
        raise Conflict(
            f"This is the wrong device: it has the template {board.template_id}, and {of} has {template_id}. "
            "Nothing was sent to it. Join the access point of the right one."
        )


def _takes_any(board: Board) -> bool:
    return not board.template_id or DYNAMIC in (board.template_id, board.firmware_type)


def _unit(access_point: str) -> str:
    """The part of a name that comes of the hardware: the rest changes with the template's name."""
    return access_point.rpartition("-")[2]


def _settings(work: Work, choice: Choice) -> Settings:
    try:
        return Settings(edgent.BLANK, work.host, work.port, choice.ssid, choice.password)
    except InvalidSettings as fault:
        text = str(fault)
        fix = " Firmware would cut it, silently." if "bytes" in text or "characters" in text else ""
        raise Invalid(f"{text[:1].upper()}{text[1:]}.{fix}") from None


def _check_network(choice: Choice, networks: Sequence[WifiNetwork], told: Callable[[str], None]) -> None:
    """Whether the device can join what was chosen. Raises Invalid."""
    if not choice.ssid:
        raise Invalid("No WiFi network was chosen. Name one with --ssid.")
    if "\N{REPLACEMENT CHARACTER}" in choice.ssid:
        raise Invalid("The network's name is not text in UTF-8, so it cannot be handed over. Give the network another.")
    seen = next((each for each in networks if each.ssid == choice.ssid), None)
    if seen is None:
        if networks:
            told(
                f"warning: the device does not see {choice.ssid!r}. If it is hidden, all is well; else check its name, "
                "and that it is on a band that the device has (most have 2.4 GHz alone)."
            )
    elif seen.security in ENTERPRISE:
        raise Invalid(
            f"{choice.ssid!r} wants a user name, too, which firmware cannot be given. Choose another network."
        )
    elif not choice.password and seen.security not in _PASSWORDLESS:
        raise Invalid(f"{choice.ssid!r} wants a password. Give it with --password-file.")
    elif choice.password and seen.security == OPEN:
        told(f"warning: {choice.ssid!r} is open. Many devices do not join an open network with a password.")


def _met(board: Board) -> str:
    name = f"{board.name!r}" if board.name else "a device"
    template = f", template {board.template_id}" if board.template_id else ""
    version = f", firmware {board.firmware_version}" if board.firmware_version else ""
    return f"Found {name}{template}{version}."


class _Try:
    """One try: from the settings to the end of the session."""

    def __init__(self, way: Way, server: Server, session: str, told: Callable[[str], None], patience: Patience) -> None:
        self._way = way
        self._server = server
        self._session = session
        self._told = told
        self._patience = patience
        self._silence = ""

    async def run(self, settings: Settings) -> Standing:
        """Hand the settings over and see what comes of them. Raises Refused."""
        try:
            await self._way.configure(settings)
        except Refused:
            with suppress(ProvserverError):
                await self._server.fail(self._session, trouble(700).word)
            raise
        await self._saw("config_sent")
        self._told(f"It has its settings, and joins {settings.ssid!r} now.")
        hearing = asyncio.ensure_future(self._way.outcome())
        try:
            return await self._until_over(hearing, settings)
        finally:
            hearing.cancel()
            with suppress(asyncio.CancelledError, Refused):
                await hearing

    async def _until_over(self, hearing: "asyncio.Future[Report]", settings: Settings) -> Standing:
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._patience.whole
        online, logged_in = False, False
        while True:
            standing = await self._standing()
            if standing is not None and (over := _judged(standing)):
                return over
            if standing is not None and standing.state is WifiState.CONNECTED and not logged_in:
                logged_in = True
                self._told("It has logged in; the server waits for it to say which template it has.")
            if hearing.done() and not online:
                report = hearing.result()
                if not report.online:
                    return await self._failed(report)
                online = True
                await self._saw("device_says_connected")
                self._told("It says that it is connected.")
                ends = min(ends, loop.time() + self._patience.online)
            left = ends - loop.time()
            if left <= 0:
                await self._saw("timeout", "timeout")
                raise self._nothing(settings, online=online, logged_in=logged_in)
            pause = min(self._patience.interval, left)
            if online:
                await asyncio.sleep(pause)
            else:
                await asyncio.wait({hearing}, timeout=pause)

    async def _failed(self, report: Report) -> Standing:
        """The device has given up, unless the server knows better. Raises NotConnected."""
        standing = await self._standing()
        if standing is not None and (over := _judged(standing)):
            return over
        why = trouble(report.last_error)
        with suppress(ProvserverError):
            await self._server.fail(self._session, why.word)
        raise NotConnected(why)

    async def _standing(self) -> Standing | None:
        """How the session stands; None when the server cannot be asked just now."""
        try:
            standing = await self._server.standing(self._session)
        except Unavailable as fault:
            if not self._silence:
                self._told(f"The server cannot be asked just now: {fault}")
            self._silence = str(fault)
            return None
        self._silence = ""
        return standing

    async def _saw(self, event: str, error: str = "") -> None:
        with suppress(ProvserverError):  # a session without that line is as good
            await self._server.saw(self._session, event, error)

    def _nothing(self, settings: Settings, *, online: bool, logged_in: bool) -> ProvserverError:
        """Patience is over: what is known, and what to do."""
        if self._silence:
            return Unavailable(
                f"What became of the device is not known, as the server could not be asked: {self._silence} Once it "
                f"can be, `provserver wifi-session show {self._session}` tells."
            )
        if logged_in:
            return NotConnected(
                Trouble(
                    0,
                    "no_template",
                    "The device has logged in, but has not said which template it has.",
                    "Firmware must publish info/mcu with tmpl (MQTT), or send tmpl in its info (Blynk's protocol). Or "
                    "name the profile with --template, and run this again.",
                )
            )
        address = settings.host if settings.port is None else f"{settings.host}:{settings.port}"
        if online:
            return NotConnected(
                Trouble(
                    0,
                    "not_heard_of",
                    f"The device says that it is connected, but the server at {address} has not heard of it.",
                    "See that --host and --port are this server's listener for that firmware. Then run this again.",
                )
            )
        return NotConnected(
            Trouble(
                0,
                "timeout",
                f"For {self._patience.whole:.0f} s, neither the device nor the server has told anything.",
                "Look at its LED: if it blinks quickly, its access point is back: join it and run this again, which "
                "tells what went wrong. If it keeps on trying, hold its button for 10 s first. Its token stays good "
                "for a while, should it come online yet: `provserver wifi-session show "
                f"{self._session}` tells.",
            )
        )


def _judged(standing: Standing) -> Standing | None:
    """A session that has succeeded; None: it goes on. Raises Refused when it has ended otherwise."""
    match standing.state:
        case WifiState.SUCCESS:
            return standing
        case WifiState.FAILED:
            what, remedy = _SERVER_SAYS.get(
                standing.error,
                (
                    f"The server has ended the session: {standing.error or 'no reason given'}.",
                    "`provserver wifi-session show` tells what came before.",
                ),
            )
            raise NotConnected(Trouble(0, standing.error or "unknown", what, remedy))
        case WifiState.CANCELED:
            raise Conflict("Somebody has cancelled the session. Run this again.")
        case WifiState.EXPIRED:
            raise Conflict("The token has ended unused. Run this again, which gives the device a new one.")
    return None
