"""One connection of Blynk's native protocol without I/O: bytes and the time go in; bytes, events and a deadline out.

A device logs in with its token, says what it is (INTERNAL, `info`), and from then on writes pins, asks for their values
and pings. What wants a service becomes a `Request`; answers go out in the order in which they were asked for, so that
the answer to a PING says that all before it is done. A write that is kept is not answered: there are clients that read
one message of what comes at once, and lose the rest.

A device whose token waits for its template is let in as a placeholder: it may ping, and say its template.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf
from typing import Final

from msgspec import Struct

from provserver.transports.blynk.codec import Command, Decoder, MalformedMessage, Message, Status, encode, response

HEART_BEAT: Final = 45
"""Seconds between two pings of a device that has not said how many."""

BUFFER: Final = 256
"""Bytes of a body that a device takes which has not said how many: Arduino's."""

TEMPLATE: Final = "tmpl"
"""What a device calls the id of its template."""

_LONGEST_HEART_BEAT: Final = 3600
_MAX_BUFFER: Final = 65_535
_COMMANDS: Final = frozenset({"meta", "utc", "rtc", "dbg", "ota", "vfs", "acon", "adis"})
"""INTERNAL messages that are none of a device's facts."""

RECONFIGURE: Final = ("dbg", "config start")
"""What Edgent's console takes for a command to open the access point."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may take. Times are in seconds.

    max_body: of a device's message, in bytes. max_login: of the one with the token. login_timeout: from the connection
    to the answered login. first_report: a placeholder is cut off that did not say its template so long after its login.
    in_flight: requests of one session; while so many are worked on, no more is read.
    """

    max_body: int = 4096
    max_login: int = 512
    login_timeout: float = 10
    first_report: float = 600
    in_flight: int = 16


class Verb(Enum):
    """What a device asks for, and its arguments."""

    WRITE = auto()  # pin, values
    SYNC = auto()  # pins; none: all
    PROPERTY = auto()  # pin, name, values
    INFO = auto()  # names and values in turn
    SET_FIELD = auto()  # name, value
    GET_FIELD = auto()  # name
    UTC = auto()  # which part of it
    RTC = auto()
    ANSWERED = auto()  # as it came


class LoginRequested(Struct, eq=False):
    """A device wants to be let in: nothing is read until `Session.accept`, `refuse` or `redirect`."""

    token: str

    def __repr__(self) -> str:
        return "<LoginRequested>"


Told = Sequence[tuple[Command, Sequence[str]]]
"""Messages with a body."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request. status None: it has no RESPONSE. told: sent before that, under the request's id."""

    status: Status | None = None
    told: Told = field(default=(), repr=False)


KEPT: Final = Answer()
DONE: Final = Answer(Status.OK)
WRONG: Final = Answer(Status.ILLEGAL_COMMAND_BODY)
UNAVAILABLE: Final = Answer(Status.SERVER_EXCEPTION)
_UNKNOWN: Final = Answer(Status.ILLEGAL_COMMAND)
_NOT_ALLOWED: Final = Answer(Status.NOT_ALLOWED)


class Request(Struct, eq=False):
    """What a device asks for: give it to `Session.answer`. ts: of a write in a group, in ms since the epoch."""

    verb: Verb
    id: int
    arguments: Sequence[str] = ()
    ts: int | None = None
    answer: Answer | None = None

    def __repr__(self) -> str:
        return f"<Request {self.verb.name}>"

    @property
    def facts(self) -> Mapping[str, str]:
        """Of INFO: what the device says of itself, by name."""
        return dict(zip(self.arguments[::2], self.arguments[1::2], strict=True))


Event = LoginRequested | Request


class Session:
    """The server's end of one connection.

    After each call the driver takes what is in `events`, writes what is in `output`, then ends the connection if
    `closing`; it reads only while `reading`, and calls `expire` once `deadline` has passed.

    reading: whether more bytes are wanted; while not, those received are kept. closing: nothing more is sent or read.
    close_reason: why, in words for a log. crowded: there is no room for it: its login is refused, for now.
    placeholder: it was let in to say its template.
    """

    __slots__ = (
        "_buffer",
        "_decoder",
        "_draining",
        "_last_id",
        "_logged_in",
        "_login_id",
        "_requests",
        "_silence",
        "_silent_at",
        "_ts",
        "_until",
        "close_reason",
        "closing",
        "crowded",
        "deadline",
        "events",
        "left",
        "limits",
        "output",
        "placeholder",
        "reading",
    )

    def __init__(self, limits: Limits, now: float) -> None:
        self.limits = limits
        self.closing = self.left = self.crowded = self.placeholder = self._logged_in = self._draining = False
        self.reading = True
        self.close_reason = ""
        self.events: list[Event] = []
        self.output: list[bytes] = []
        self.deadline = self._until = now + limits.login_timeout
        self._decoder = Decoder(limits.max_login)
        self._requests: list[Request] = []
        self._silence, self._silent_at = 1.5 * HEART_BEAT, inf
        self._buffer = BUFFER
        self._last_id = self._login_id = 0
        self._ts: int | None = None

    @property
    def busy(self) -> bool:
        """Whether an answer is owed."""
        return bool(self._requests)

    def receive(self, data: bytes, now: float) -> None:
        """Take what the client sent."""
        if not self.closing:
            self._decoder.feed(data)
            self._proceed(now)

    def receive_eof(self) -> None:
        """The client sends no more: whatever it was still owed is dropped."""
        self.close("the client closed the connection")

    def expire(self, now: float) -> None:
        """Close if `deadline` has passed."""
        if now < self.deadline:
            return
        if not self._logged_in:
            self.close("no login in time")
        elif now >= self._silent_at:
            self.close("nothing was received in time")
        else:
            self.close("a placeholder did not say its template in time")

    def accept(self, now: float, *, placeholder: bool = False) -> None:
        """Let the device in, and go on with what came behind its login."""
        if self.closing:
            return
        self._logged_in, self.placeholder, self.reading = True, placeholder, not self._draining
        self._until = now + self.limits.first_report if placeholder else inf
        self._silent_at = now + self._silence
        self._decoder.max_body = self.limits.max_body
        self.output.append(response(self._login_id, Status.OK))
        self._settle()
        self._proceed(now)

    def refuse(self, status: Status) -> None:
        """Refuse the login. INVALID_TOKEN makes the firmware throw its token away, and open its access point."""
        if not self.closing:
            self.output.append(response(self._login_id, status))
            self.close(f"refused with {status.value}")

    def redirect(self, host: str, port: int) -> None:
        """Send the device to another server."""
        if not self.closing:
            self.output.append(encode(Command.REDIRECT, self._login_id, (host, str(port))))
            self.close("sent to another server")

    def bind(self) -> None:
        """The placeholder is a device now."""
        self.placeholder, self._until = False, inf

    def answer(self, request: Request, answer: Answer, now: float) -> None:
        """Answer a request. What is sent keeps the order of the requests."""
        request.answer = answer
        if self.closing:
            return
        self._silent_at = now + self._silence
        self._flush()
        self._settle()
        if self._draining and not self._requests:
            self.shut_down()
        elif self._decoder.buffered:
            self._proceed(now)

    def write(self, values: Sequence[tuple[int, str]]) -> None:
        """Tell the device the values of pins."""
        for pin, value in values:
            self.tell(Command.HARDWARE, ("vw", str(pin), value))

    def tell(self, command: Command, texts: Sequence[str], message_id: int = 0) -> None:
        """Send a message, unless the device has no room for it. message_id 0: one of our own."""
        if self.closing or not self._logged_in:
            return
        if not message_id:
            message_id = self._last_id = self._last_id % 0xFFFF + 1
        if sum(len(text.encode()) + 1 for text in texts) <= self._buffer:  # of exactly its size, some take none
            self.output.append(encode(command, message_id, texts))

    def drain(self) -> None:
        """Read no more, and end when nothing is owed."""
        self._draining, self.reading = True, False
        if not self._requests:
            self.shut_down()

    def shut_down(self) -> None:
        """End because the server does: the protocol has no word for it, and the device comes again."""
        self.close("the server is shutting down")

    def close(self, reason: str) -> None:
        """Close without a word."""
        if not self.closing:
            self.closing, self.reading, self.close_reason = True, False, reason
            self.deadline = inf
            self._requests.clear()

    def _proceed(self, now: float) -> None:
        """Handle the messages there are, as far as may be read."""
        try:
            if self.reading:
                for message in self._decoder:
                    self._silent_at = now + self._silence if self._logged_in else inf
                    self._receive(message)
                    if not self.reading:
                        break
        except MalformedMessage as error:
            self.close(str(error))
        self._settle()

    def _settle(self) -> None:
        """What is in flight decides about more."""
        if self.closing:
            return
        if self._logged_in:
            self.deadline = min(self._silent_at, self._until)
            placing = self.placeholder and bool(self._requests)  # what it has sent behind is the device's
            self.reading = not (self._draining or placing or len(self._requests) >= self.limits.in_flight)

    def _flush(self) -> None:
        """Send the answers that are next in order."""
        while self._requests and (answer := self._requests[0].answer) is not None:
            request = self._requests.pop(0)
            for command, texts in answer.told:
                self.tell(command, texts, request.id)
            if answer.status is not None:
                self.output.append(response(request.id, answer.status))

    def _receive(self, message: Message) -> None:
        if not self._logged_in:
            self._login(message)
        elif message.command != Command.RESPONSE:  # we ask nothing
            request = self._request(message)
            self._requests.append(request)
            if request.answer is None:
                self.events.append(request)
            else:
                self._flush()
            self._settle()

    def _login(self, message: Message) -> None:
        if message.command not in (Command.HARDWARE_LOGIN, Command.LOGIN):
            self.close("the first message is not a login")
            return
        self._login_id = message.id
        texts = message.texts
        if self.crowded:
            self.refuse(Status.QUOTA_LIMIT)
        elif texts is None or len(texts) != 1:
            self.refuse(Status.INVALID_TOKEN)  # no token of ours
        else:
            self.reading = False
            self.events.append(LoginRequested(texts[0]))

    def _request(self, message: Message) -> Request:
        """What a message asks for; answered already when that takes no service."""
        texts, id_ = message.texts, message.id
        if texts is None:
            return _answered(id_, WRONG)
        match message.command:
            case Command.PING:
                return _answered(id_, DONE)
            case Command.LOGIN | Command.HARDWARE_LOGIN:
                return _answered(id_, Answer(Status.ALREADY_REGISTERED))
            case Command.INTERNAL if texts and texts[0] not in _COMMANDS:
                return self._info(id_, texts)
        if self.placeholder:
            return _answered(id_, _NOT_ALLOWED)
        match message.command, texts:
            case Command.HARDWARE, ["vw", pin, _, *_]:
                return Request(Verb.WRITE, id_, [pin, *texts[2:]], self._ts)
            case Command.HARDWARE_SYNC, [] | ["vr", _, *_]:
                return Request(Verb.SYNC, id_, texts[1:])
            case Command.PROPERTY, [_, _, _, *_]:
                return Request(Verb.PROPERTY, id_, texts)
            case Command.GROUP, _:
                return self._group(id_, texts)
            case Command.INTERNAL, ["meta", "set", name, *value]:
                return Request(Verb.SET_FIELD, id_, [name, "\0".join(value)])
            case Command.INTERNAL, ["meta", "get", name]:
                return Request(Verb.GET_FIELD, id_, [name])
            case Command.INTERNAL, ["utc", part]:
                return Request(Verb.UTC, id_, [part])
            case Command.INTERNAL, ["rtc", *_]:
                return Request(Verb.RTC, id_)
            case (Command.HARDWARE_SYNC | Command.PROPERTY | Command.INTERNAL, _) | (Command.HARDWARE, ["vw", *_]):
                return _answered(id_, WRONG)
            case ((Command.EVENT_LOG | Command.EVENT_CLEAR), _):
                return _answered(id_, WRONG)  # profiles have no events
            case _:
                return _answered(id_, _UNKNOWN)

    def _info(self, id_: int, texts: list[str]) -> Request:
        """Of which the connection's own part is done here: heart beat and buffer."""
        if len(texts) % 2:
            return _answered(id_, WRONG)
        request = Request(Verb.INFO, id_, texts)
        facts = request.facts
        if heart_beat := _number(facts.get("h-beat", "")):
            self._silent_at += 1.5 * min(heart_beat, _LONGEST_HEART_BEAT) - self._silence
            self._silence = 1.5 * min(heart_beat, _LONGEST_HEART_BEAT)
        if buffer := _number(facts.get("buff-in", "")):
            self._buffer = min(buffer, _MAX_BUFFER)
        if self.placeholder and not facts.get(TEMPLATE):
            request.answer = DONE  # it may still say it
        return request

    def _group(self, id_: int, texts: list[str]) -> Request:
        """A group of writes, which may have a time of their own."""
        match texts:
            case ["b"] | ["e"]:
                self._ts = None
            case ["t", ts] if (number := _number(ts)) is not None:
                self._ts = number
            case _:
                return _answered(id_, WRONG)
        return _answered(id_, KEPT)


def _answered(id_: int, answer: Answer) -> Request:
    return Request(Verb.ANSWERED, id_, answer=answer)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None
