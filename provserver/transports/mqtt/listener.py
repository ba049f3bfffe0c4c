"""MQTT on TCP or TLS: drives one `Session` per connection.

Cheap on purpose: no task and no timer per connection, and none per provision request. Nothing that a client sends is
logged or makes a stack trace; how a connection ended is logged for debugging.
"""

import asyncio
import itertools
import logging
import secrets
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Final, Unpack

from provserver import metrics
from provserver.core import attributes, authentication
from provserver.core.authentication import Denial
from provserver.core.model import Authenticated, Transport
from provserver.core.telemetry import InvalidData
from provserver.errors import Outcome, Unavailable
from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.datastreams import Datastreams
from provserver.services.placeholders import Placeholders
from provserver.services.provisioning import Answer, Provisioning
from provserver.services.sessions import Cause, LiveSession, Sessions
from provserver.transports.connections import Connection, Listener, Options
from provserver.transports.mqtt import device, topics
from provserver.transports.mqtt.device import DeviceAnswer, DeviceBehaviour, DeviceRequested
from provserver.transports.mqtt.packets import Connect, ReasonCode
from provserver.transports.mqtt.session import (
    AuthenticationRequested,
    Event,
    Limits,
    ProvisionRequested,
    Session,
    later,
)
from provserver.transports.mqtt.topics import Feature

logger = logging.getLogger("provserver.mqtt")


@dataclass(frozen=True, slots=True)
class _Services:
    """What devices with credentials of their own are served by."""

    access: Access
    sessions: Sessions
    data: Data
    datastreams: Datastreams | None
    placeholders: Placeholders | None


_MQTT: Final = Transport.MQTT  # members of an Enum are slow to look up
_ACCEPTED: Final = metrics.AUTHENTICATIONS.cell(_MQTT.value, metrics.ACCEPTED)
_UNAVAILABLE: Final = metrics.AUTHENTICATIONS.cell(_MQTT.value, metrics.UNAVAILABLE)
_SUCCESS: Final = Outcome.SUCCESS
_DEFAULT_LIMITS: Final = Limits()


_END_CODES: Final = {
    Cause.TAKEN_OVER: ReasonCode.SESSION_TAKEN_OVER,
    Cause.REVOKED: ReasonCode.ADMINISTRATIVE_ACTION,
}


class MqttListener(Listener):
    """Accepts MQTT connections, answers their provision requests, and takes what devices send.

    access, sessions, data: what devices come back with needs all three; without, they are told that the server is
        unavailable. datastreams: Blynk's topics, if they are to be had; placeholders: devices of WiFi sessions, which
        say in them what they are.
    options: as `Options` has them.
    """

    logger = logger

    def __init__(
        self,
        provisioning: Provisioning,
        *,
        access: Access | None = None,
        sessions: Sessions | None = None,
        data: Data | None = None,
        datastreams: Datastreams | None = None,
        placeholders: Placeholders | None = None,
        limits: Limits = _DEFAULT_LIMITS,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.provisioning = provisioning
        self.services: _Services | None = None
        if access is not None and sessions is not None and data is not None:
            self.services = _Services(access, sessions, data, datastreams, placeholders)
        self.limits = limits
        client_ids = (f"auto-{secrets.token_hex(4)}-{number}" for number in itertools.count(1))
        self.assign_client_id = client_ids.__next__

    def connection(self, loop: asyncio.AbstractEventLoop) -> "_Connection":
        """One of MQTT."""
        return _Connection(self, loop)


class _Connection(Connection):
    """One of MQTT.

    _waiting: what a device has published and is worked on, one after the other, so that nothing of one device
    overtakes; None when there is nothing. _changed: shared attributes it is about to be told of, likewise. _token: of a
    device that is yet to say what it is.
    """

    TRANSPORT = _MQTT

    __slots__ = (
        "_changed",
        "_token",
        "_waiting",
    )

    _listener: MqttListener
    _session: Session
    _device: DeviceBehaviour | None

    def __init__(self, listener: MqttListener, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(listener, loop, Session(listener.limits, loop.time(), listener.assign_client_id))
        self._token = ""
        self._waiting: deque[DeviceRequested] | None = None
        self._changed: list[tuple[str, ...]] | None = None

    def handle(self, event: Event) -> None:
        """A request, or a CONNECT."""
        if isinstance(event, ProvisionRequested):
            self._provision(event)
        elif isinstance(event, DeviceRequested):
            self._enqueue(event)
        elif isinstance(event, AuthenticationRequested):
            self._authenticate(event.connect)

    # What follows is for the device's live session.

    def end(self, cause: Cause) -> None:
        """Close, and forget what was not yet begun."""
        if self._waiting is not None:
            self._waiting.clear()
        if self._device is not None:
            self._session.disconnect(_END_CODES[cause], cause.value)
        elif cause is Cause.REVOKED:
            self._session.refuse(ReasonCode.NOT_AUTHORIZED, cause.value)
        self._advance()  # who was taken over before he was let in is still let in, and ended by `_let_in`

    def attributes_changed(self, keys: tuple[str, ...]) -> None:
        """Tell the device, if it wants to know."""
        if self._changed is not None:
            self._changed.append(keys)
        elif self._device is not None and self._device.awaits_updates and self._listener.services is not None:
            self._changed = [keys]
            self._listener.run(self._update(self._device, self._listener.services.data))

    def reconfigure(self) -> None:
        """Have the device open its access point."""
        if self._device is not None:
            self._device.reconfigure()
            self._advance()

    async def still_welcome(self) -> bool:
        """Judge the client's certificate again, if it has one; while nobody can, it stays."""
        peer, services = self._peer(), self._listener.services
        if not peer.certificates or services is None:
            return True
        try:
            found = await services.access.with_channel(peer)
        except Unavailable:
            return True
        if isinstance(found, Denial):
            return False
        return self._live is None or self._live.device.device_id == found.device_id

    def _provision(self, request: ProvisionRequested) -> None:
        listener = self._listener
        listener.undecided += 1
        try:
            listener.provisioning.request(request.payload, self._peer(), partial(self._provisioned, request))
        except Exception as error:
            self._log_failure("a provision request", error)
            self._provisioned(request, None)

    def _provisioned(self, request: ProvisionRequested, answer: Answer | None) -> None:
        self._listener.decided()
        if answer is not None and answer.outcome is _SUCCESS:
            self._admit()
        self._session.answer(request, answer, self._loop.time())
        self._advance()

    # The live session comes first: a client that hears that it is let in has taken over from any other.

    def _authenticate(self, connect: Connect) -> None:
        services = self._listener.services
        if services is None:
            self._refuse(None)
            return
        peer = self._peer()
        try:
            presented = None  # the usual cases, without a task
            if peer.certificates:
                presented = services.access.certificate_in(peer)
            elif peer.psk is None:
                presented = services.access.token_in(connect.client_id, connect.username, connect.password, peer)
            if presented is None:
                self._listener.run(self._judge(connect, services))
            else:
                self._live = services.sessions.enter(presented, self, partial(self._entered, connect, services))
        except Exception as error:
            self._refuse(error)

    def _entered(self, connect: Connect, services: _Services, verdict: bool | Exception) -> None:
        peer = self._peer()
        if isinstance(verdict, Exception):
            self._live = None
            _UNAVAILABLE.value += 1
            self._refuse(verdict)
        elif not verdict:  # its first use, other credentials, or bad ones
            self._live = None
            self._listener.run(self._judge(connect, services))
        elif self._live is not None and not peer.certificates and services.access.doubtful(peer):
            self._live.close()
            self._live = None
            self._listener.run(self._judge(connect, services))
        elif self._live is not None:
            _ACCEPTED.value += 1  # what `Access` judges it counts itself
            self._let_in(connect, services, self._live)

    async def _judge(self, connect: Connect, services: _Services) -> None:
        session = self._session
        try:
            found = await services.access.with_mqtt(connect.client_id, connect.username, connect.password, self._peer())
            if found is Denial.UNBOUND and services.placeholders is not None:
                if not session.closing:
                    self._let_in_unbound(connect, services, services.placeholders)
            elif isinstance(found, Denial):
                session.refuse(found.reason_code, found.text, found.return_code)
                self._advance()
            elif not session.closing:
                live = await services.sessions.open(found, self)
                if session.closing:
                    live.close()
                else:
                    self._live = live
                    self._let_in(connect, services, live)
        except Exception as error:
            self._refuse(error)

    def _let_in(self, connect: Connect, services: _Services, live: LiveSession) -> None:
        session, now = self._session, self._loop.time()
        self._admit()
        if live.closed:
            code, reason = _END_CODES[Cause.TAKEN_OVER], Cause.TAKEN_OVER.value
            session.dismiss(connect, DeviceBehaviour(session, connect, None, services.datastreams), now, code, reason)
        else:
            self._device = DeviceBehaviour(session, connect, live.device, services.datastreams)
            session.accept(connect, self._device, now)
        self._advance()

    def _let_in_unbound(self, connect: Connect, services: _Services, placeholders: Placeholders) -> None:
        """Hear what it is; it is nobody's live session yet."""
        session, now = self._session, self._loop.time()
        self._admit()
        self._token = authentication.presented_token(connect.username, connect.password)
        self._device = DeviceBehaviour(session, connect, None, services.datastreams)
        session.accept(connect, self._device, now, now + session.limits.first_verdict)
        if (oldest := placeholders.enter(self._token, self)) is not None:
            oldest.end(Cause.TAKEN_OVER)
        self._advance()

    def _leave(self) -> None:
        """Be the device's live session no more, nor a placeholder; what that has said is still done."""
        services = self._listener.services
        if self._token and services is not None and services.placeholders is not None:
            services.placeholders.leave(self._token, self)
        super()._leave()

    def _refuse(self, error: Exception | None) -> None:
        """Have the device come again later."""
        if error is not None and not isinstance(error, Unavailable):
            self._log_failure("an authentication", error)
        self._session.refuse(ReasonCode.SERVER_UNAVAILABLE, later("the server is unavailable"))
        self._advance()

    def _enqueue(self, request: DeviceRequested) -> None:
        if self._waiting is not None:
            self._waiting.append(request)
        elif self._device is not None and self._listener.services is not None:
            self._waiting = deque((request,))
            self._listener.run(self._work(self._device.device, self._waiting, self._listener.services))

    async def _work(self, who: Authenticated | None, waiting: deque[DeviceRequested], services: _Services) -> None:
        """Do what the device asks for, also when it has left behind its last message."""
        while waiting:
            request = waiting.popleft()
            answer: DeviceAnswer | None
            if who is None:
                who, answer = await self._bind(request, services)
            else:
                answer = await self._perform(who, request, services.data, services.datastreams)
            if answer is device.UNAVAILABLE and request.qos:
                waiting.clear()  # it is disconnected, and sends again what follows
            self._session.answer(request, answer, self._loop.time())
            if who is None and not self._token:
                waiting.clear()
                away = answer is device.UNAVAILABLE
                code = ReasonCode.SERVER_BUSY if away else ReasonCode.NOT_AUTHORIZED
                self._session.disconnect(code, "the device cannot be made" if away else "there is no such device")
            self._advance()
        self._waiting = None

    async def _bind(
        self, request: DeviceRequested, services: _Services
    ) -> tuple[Authenticated | None, DeviceAnswer | None]:
        """Find out of which template a device is. One of none that will do has to leave: its token is forgotten."""
        session, placeholders, datastreams = self._session, services.placeholders, services.datastreams
        if placeholders is None or datastreams is None or self._device is None:
            return None, None
        try:
            facts = datastreams.facts(request.payload) if request.topic == device.INFO_TOPIC else {}
            template_id = facts.pop("tmpl", None)
            if not isinstance(template_id, str):
                return None, device.invalid(device.UNBOUND)
        except InvalidData as error:
            return None, device.invalid(str(error))
        answer: DeviceAnswer | None = device.UNAVAILABLE
        try:
            found = await placeholders.report(self._token, template_id, facts, self._peer())
            live = await services.sessions.open(found, self)
        except InvalidData as error:
            answer = device.invalid(str(error))
        except Exception as error:
            if not isinstance(error, Unavailable):
                self._log_failure("what a device says it is", error)
        else:
            placeholders.leave(self._token, self)
            self._token = ""
            if session.closing:
                live.close()
            else:
                self._live, self._device.device = live, found
                session.stay()
            return found, device.DONE
        placeholders.leave(self._token, self)
        self._token = ""
        return None, answer

    async def _perform(
        self, who: Authenticated, request: DeviceRequested, data: Data, datastreams: Datastreams | None
    ) -> DeviceAnswer | None:
        try:
            match request.feature:
                case Feature.TELEMETRY:
                    await data.telemetry(who, request.payload)
                case Feature.ATTRIBUTES:
                    await data.publish_attributes(who, request.payload)
                case Feature.ATTRIBUTE_REQUEST:
                    found = await data.attributes(who, *attributes.decode_request(request.payload))
                    return DeviceAnswer(messages=[(topics.reply_topic(request.topic), device.encoded(found))])
                case Feature.CLAIM:
                    await data.claim(who, request.payload)
                case Feature.CREDENTIALS:
                    given = await data.credentials(who, request.payload, self._peer())
                    return DeviceAnswer(messages=[(topics.reply_topic(request.topic), given.body)])
                case Feature.DATASTREAM if datastreams is not None:
                    return DeviceAnswer(messages=await datastreams.publish(who, request.topic, request.payload))
        except InvalidData as error:
            return device.invalid(str(error))
        except Unavailable:
            return device.UNAVAILABLE
        except Exception as error:
            self._log_failure("a device's message", error)
            return None
        return device.DONE

    async def _update(self, behaviour: DeviceBehaviour, data: Data) -> None:
        """Tell the device of the shared attributes that have changed, as they are now."""
        while self._changed and not self._session.closing:
            changed, self._changed = self._changed, []
            assert behaviour.device is not None  # noqa: S101 - only who is let in is told
            keys = () if () in changed else tuple(dict.fromkeys(key for each in changed for key in each))
            try:
                found = await data.changed_attributes(behaviour.device.device_id, keys)
            except Exception as error:
                if not isinstance(error, Unavailable):
                    self._log_failure("an update of attributes", error)
                # What it has is out of date: it asks for all of them when it comes back.
                self._session.disconnect(ReasonCode.SERVER_BUSY, "attributes could not be read")
            else:
                if found:
                    behaviour.update_attributes(found)
            self._advance()
        self._changed = None
