"""The other end of a session: bytes in, packets out, and the time is what it says."""

from typing import Any

from provserver.errors import Outcome
from provserver.services.provisioning import Answer
from provserver.transports.mqtt.session import AuthenticationRequested, Limits, Request, Session
from tests.transports.mqtt.wire import Wire, cut, packet, short, string


def connack(wire: Wire, code: int = 0, properties: bytes = b"") -> bytes:
    return packet(0x20, bytes((0, code)) + wire.properties(properties))


def disconnect(code: int, reason: str = "") -> bytes:
    if reason:
        return packet(0xE0, bytes((code,)) + short(b"\x1f" + string(reason)))
    return bytes((0xE0, 1, code))


class Client:
    """The other end of a session."""

    def __init__(self, wire: Wire, limits: Limits | None = None) -> None:
        self.wire = wire
        self.now = 1000.0
        self.session = Session(limits or Limits(), self.now, lambda: "assigned")
        self.requests: list[Request[Any]] = []
        self.authentications: list[AuthenticationRequested] = []

    def send(self, *packets: bytes) -> list[bytes]:
        self.session.receive(b"".join(packets), self.now)
        return self.received()

    def received(self) -> list[bytes]:
        session = self.session
        events, session.events = session.events, []
        for event in events:
            if isinstance(event, AuthenticationRequested):
                self.authentications.append(event)
            else:
                self.requests.append(event)
        output, session.output = session.output, []
        return cut(b"".join(output))

    def answer(self, outcome: Outcome = Outcome.SUCCESS, body: bytes = b"yes", request: int = 0) -> list[bytes]:
        self.session.answer(self.requests.pop(request), Answer(outcome, body), self.now)
        return self.received()

    def fail(self) -> list[bytes]:
        self.session.answer(self.requests.pop(0), None, self.now)
        return self.received()

    def wait(self, seconds: float) -> list[bytes]:
        self.now += seconds
        self.session.expire(self.now)
        return self.received()

    @property
    def closing(self) -> bool:
        return self.session.closing
