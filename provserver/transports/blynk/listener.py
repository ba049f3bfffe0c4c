"""Blynk's native protocol on TCP or TLS: drives one `Session` per connection (spec blynk-device-api C.3).

Cheap as MQTT's listener is: no timer per connection, and a task only while something is worked on. Nothing that a
client sends is logged; how a connection ended is logged for debugging.

A token is called invalid only when it is definitely unknown, revoked or over: firmware throws away what it is told is
invalid, and opens its access point. Whatever else goes wrong closes the connection without a word.
"""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Final, Unpack

from provserver.core.authentication import Denial
from provserver.core.datastreams import INVALID_TOKEN, is_property
from provserver.core.model import Authenticated, Transport
from provserver.core.telemetry import InvalidData
from provserver.errors import Unavailable
from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.datastreams import Datastreams
from provserver.services.placeholders import Placeholders
from provserver.services.sessions import Cause, Sessions
from provserver.transports.blynk import session as protocol
from provserver.transports.blynk.codec import Command, Status
from provserver.transports.blynk.session import (
    RECONFIGURE,
    TEMPLATE,
    Answer,
    Limits,
    LoginRequested,
    Request,
    Session,
    Verb,
)
from provserver.transports.connections import Connection, Listener, Options

logger = logging.getLogger("provserver.blynk")

_DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Services:
    """What devices are served by. placeholders: those whose template nobody knows yet."""

    access: Access
    sessions: Sessions
    data: Data
    datastreams: Datastreams
    placeholders: Placeholders


class BlynkListener(Listener):
    """Accepts connections of Blynk's native protocol, and takes what devices send.

    redirect: host and port that every device is sent to in place of being let in; None: nobody is.
    options: as `Options` has them.
    """

    logger = logger

    def __init__(
        self,
        services: Services,
        *,
        limits: Limits = _DEFAULT_LIMITS,
        redirect: tuple[str, int] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.services = services
        self.limits = limits
        self.redirect = redirect

    def connection(self, loop: asyncio.AbstractEventLoop) -> "_Connection":
        """One of Blynk's native protocol."""
        return _Connection(self, loop)


class _Connection(Connection):
    """One of Blynk's native protocol.

    _waiting: what the device asks for and is worked on, one after the other, so that nothing of one device overtakes;
    None when there is nothing. _changed: shared attributes it is about to be told of, likewise.
    _token: a placeholder's.
    """

    TRANSPORT = Transport.BLYNK

    __slots__ = (
        "_changed",
        "_token",
        "_waiting",
    )

    _listener: BlynkListener
    _session: Session
    _device: Authenticated | None

    def __init__(self, listener: BlynkListener, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(listener, loop, Session(listener.limits, loop.time()))
        self._token = ""
        self._waiting: deque[Request] | None = None
        self._changed: list[tuple[str, ...]] | None = None

    def handle(self, event: LoginRequested | Request) -> None:
        """A request, or a login."""
        if isinstance(event, Request):
            self._enqueue(event)
        elif self._listener.redirect is not None:
            self._session.redirect(*self._listener.redirect)
        else:
            self._listener.run(self._authenticate(event))

    # What follows is for the device's live session.

    def end(self, cause: Cause) -> None:
        """Close, and forget what was not yet begun."""
        if self._waiting is not None:
            self._waiting.clear()
        self._session.close(cause.value)
        self._advance()

    def attributes_changed(self, keys: tuple[str, ...]) -> None:
        """Write those to the device that have a pin."""
        if self._changed is not None:
            self._changed.append(keys)
        elif self._device is not None:
            self._changed = [keys]
            self._listener.run(self._update(self._device))

    def reconfigure(self) -> None:
        """Tell the device to open its access point."""
        self._session.tell(Command.INTERNAL, RECONFIGURE)
        self._advance()

    async def still_welcome(self) -> bool:
        """A token has no certificate to judge again."""
        return True

    def _leave(self) -> None:
        """Be the device's live session no more, nor a placeholder."""
        if self._token:
            self._listener.services.placeholders.leave(self._token, self)
            self._token = ""
        super()._leave()

    # The live session comes first: a client that hears that it is let in has taken over from any other.

    async def _authenticate(self, login: LoginRequested) -> None:
        session = self._session
        try:
            found = await self._listener.services.access.with_token(login.token, self._peer())
            if found is Denial.UNBOUND:
                if not session.closing:
                    self._let_in_unbound(login.token)
            elif isinstance(found, Denial):
                session.refuse(Status.QUOTA_LIMIT if found is Denial.LIMITED else Status.INVALID_TOKEN)
            elif await self._open(found):
                self._admit()
                session.accept(self._loop.time())
        except Exception as error:
            self._fail("a login", error)
        self._advance()

    def _let_in_unbound(self, token: str) -> None:
        """Hear what it is; it is nobody's live session yet."""
        self._token = token
        self._admit()
        self._session.accept(self._loop.time(), placeholder=True)
        if (oldest := self._listener.services.placeholders.enter(token, self)) is not None:
            oldest.end(Cause.TAKEN_OVER)

    async def _open(self, found: Authenticated) -> bool:
        """Make this the device's live session; whether it still is."""
        if self._session.closing:
            return False
        live = await self._listener.services.sessions.open(found, self)
        if self._session.closing:
            live.close()
            return False
        self._live, self._device = live, found
        return True

    def _fail(self, what: str, error: Exception) -> None:
        """Have the device come again later."""
        if not isinstance(error, Unavailable):
            self._log_failure(what, error)
        self._session.close(f"{what} could not be handled")

    def _enqueue(self, request: Request) -> None:
        if self._waiting is not None:
            self._waiting.append(request)
        else:
            self._waiting = deque((request,))
            self._listener.run(self._work(self._device, self._waiting))

    async def _work(self, device: Authenticated | None, waiting: deque[Request]) -> None:
        """Do what the device asks for, also when it has left behind its last message."""
        while waiting:
            request = waiting.popleft()
            try:
                answer = await self._bind(request) if device is None else await self._perform(device, request)
            except InvalidData:
                answer = protocol.WRONG
            except Unavailable:
                answer = protocol.UNAVAILABLE
            except Exception as error:
                self._fail("a device's message", error)
                break
            device = device or self._device
            self._session.answer(request, answer, self._loop.time())
            self._advance()
        self._waiting = None
        self._advance()

    async def _bind(self, request: Request) -> Answer:
        """A placeholder says its template, which makes it a device."""
        token, facts = self._token, dict(request.facts)
        template = facts.pop(TEMPLATE)
        if not token:  # it has left
            return protocol.UNAVAILABLE
        session, placeholders = self._session, self._listener.services.placeholders
        try:
            device = await placeholders.report(token, template, _named(facts), self._peer())
        except InvalidData as refusal:
            known = str(refusal) != INVALID_TOKEN
            session.answer(request, protocol.WRONG if known else Answer(Status.INVALID_TOKEN), self._loop.time())
            session.close("the template is not accepted")
        except Unavailable:
            session.close("the device cannot be made now")
        else:
            if await self._open(device):
                placeholders.leave(token, self)
                session.bind()
        return protocol.DONE

    async def _perform(self, device: Authenticated, request: Request) -> Answer:
        """What a device asks for. Raises InvalidData, Unavailable."""
        services, given = self._listener.services.datastreams, request.arguments
        match request.verb:
            case Verb.WRITE:
                await services.update(device, {f"V{given[0]}": given[1:]}, ts=request.ts)
                return protocol.KEPT
            case Verb.SYNC:
                values = await services.values(device, [f"V{pin}" for pin in given])
                return Answer(told=[(Command.HARDWARE, ("vw", str(pin), value)) for pin, value in values])
            case Verb.PROPERTY:
                await services.update_properties(device, f"V{given[0]}", {given[1]: given[2:]})
            case Verb.INFO:
                await self._report(device, dict(request.facts))
            case Verb.SET_FIELD:
                await services.update_metadata(device, *given)
            case Verb.GET_FIELD:
                _, value = await services.metadata(device, given[0])
                return Answer(told=[(Command.INTERNAL, ("meta", given[0], value))])
            case Verb.UTC:
                parts = await services.time(device, given[0])
                return Answer(told=[(Command.INTERNAL, ("utc", given[0], *parts))])
            case Verb.RTC:
                return Answer(told=[(Command.INTERNAL, ("rtc", *await services.time(device, "rtc")))])
        return protocol.DONE

    async def _report(self, device: Authenticated, facts: dict[str, str]) -> None:
        datastreams, template = self._listener.services.datastreams, facts.pop(TEMPLATE, "")
        if template:
            await datastreams.provision(device, template, _named(facts))
        else:
            await datastreams.report(device, _named(facts))

    async def _update(self, device: Authenticated) -> None:
        """Tell the device of the shared attributes that have changed, as they are now."""
        services = self._listener.services
        while self._changed and not self._session.closing:
            changed, self._changed = self._changed, []
            keys = () if () in changed else tuple(dict.fromkeys(key for each in changed for key in each))
            try:
                found = await services.data.changed_attributes(device.device_id, keys)
                self._session.write(await services.datastreams.on_pins(device, found))
            except Exception as error:  # it asks for all of them when it comes back
                self._fail("an update of attributes", error)
            self._advance()
        self._changed = None


def _named(facts: dict[str, str]) -> dict[str, str]:
    """With names as the other ways to say this have them: `fw-type` is `fwType`, the firmware's version `ver`."""
    named = {camel: value for name, value in facts.items() if is_property(camel := _camel(name))}
    for name in ("mcu", "ncp", "fw"):
        if name in named:
            named["ver"] = named.pop(name)
    return named


def _camel(name: str) -> str:
    first, *rest = name.split("-")
    return first + "".join(word.capitalize() for word in rest)
