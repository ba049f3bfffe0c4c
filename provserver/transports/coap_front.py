"""The datagram front of CoAP: RFC 7252's message layer (§4), and the answers to plain requests that are one datagram.

What needs more is handed to whoever is behind (aiocoap, by `coap_udp.py`): block-wise bodies, observations, OSCORE, and
the acknowledgements of its messages. Which side a request goes to depends on its options alone. Repeated requests are
known here, for both sides.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec

from provserver.core.model import Peer, Transport
from provserver.transports.coap_exchanges import Answers, Confirmations, exchange
from provserver.transports.coap_message import Code, Malformed, Message, Type, assemble, decode, empty
from provserver.transports.coap_options import Reply, requested
from provserver.transports.coap_resources import Call, Resources, busy
from provserver.transports.udp import Address

ACK_DELAY = 0.5
"""Seconds after which a request whose answer is not ready is acknowledged without it (spec thingsboard §3)."""

_MAX_UNDER_WAY = 16_384
_MAX_GRANTED = 128 * 1024 * 1024
_MAX_OTHERS = 32 * 1024 * 1024
"""Bytes of answers remembered. Those that made something have their own: that takes credentials, so that no flood of
other requests makes them forgotten, without which a device whose answer was lost would be told that it asks again."""

_CON, _NON, _ACK, _CREATED = int(Type.CON), int(Type.NON), int(Type.ACK), int(Code.CREATED)
_COAP = Transport.COAP


class Behind(Protocol):
    """Who takes what is not answered here."""

    def take(self, message: Message, address: Address) -> bool:
        """Take a request, acknowledgement or reset; False if it is dropped, and may come again."""

    def next_id(self) -> int:
        """An id for a message of ours: of one sequence, as there is one socket."""


class Front:
    """Takes the datagrams of one socket.

    send: sends one. resources: without them everything is handed on.
    """

    def __init__(
        self,
        send: Callable[[bytes, Address], None],
        behind: Behind,
        resources: Resources | None,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._send = send
        self._behind = behind
        self._resources = resources
        self._loop = asyncio.get_running_loop()
        self._clock = clock or self._loop.time
        self._granted = Answers(_MAX_GRANTED)
        self._others = Answers(_MAX_OTHERS)
        self._confirmations = Confirmations(send)
        self._under_way: dict[bytes, _Exchange] = {}
        self._unacknowledged: deque[_Exchange] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None  # who drains waits for it

    def received(self, datagram: bytes, address: Address) -> None:
        """Take a datagram."""
        try:
            message = decode(datagram)
        except Malformed as fault:
            if fault.id is not None:
                self._send(empty(Type.RST, fault.id), address)
            return
        if 0 < message.code < 32:
            self._request(message, address)
        elif message.type >= _ACK:
            if not self._confirmations.settle(exchange(address, message.id)):
                self._behind.take(message, address)
        elif message.type == _CON:  # a ping, or a response that nobody waits for
            self._send(empty(Type.RST, message.id), address)

    def send(self, datagram: bytes, address: Address) -> None:
        """Send what comes from behind; what acknowledges a request is remembered."""
        if datagram[0] >> 4 & 3 == _ACK:
            self._remember(exchange(address, datagram[2] << 8 | datagram[3]), datagram[1], datagram)
        self._send(datagram, address)

    async def drain(self, grace: float) -> None:
        """Wait until the requests under way are answered, up to `grace` seconds."""
        if self._under_way:
            self._idle = self._loop.create_future()
            try:
                await asyncio.wait_for(self._idle, grace)
            except TimeoutError:
                return

    async def close(self) -> None:
        """Answer nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._confirmations.close()
        tasks = [one.task for one in self._under_way.values() if one.task is not None]
        self._under_way.clear()  # what provisioning answers from now on is dropped
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _request(self, message: Message, address: Address) -> None:
        id_ = message.id
        key = exchange(address, id_)
        if (  # hardly ever
            key in self._under_way or key in self._granted or key in self._others
        ) and self._repeated(key, id_, address):
            return
        resources, request = self._resources, requested(message.code, message.options)
        if resources is None or not request.plain:
            self._hand_over(key, message, address)
            return
        begun = resources.begin(request, message.payload, address)
        confirmable = message.type == _CON
        one = _Exchange(key, address, id_, message.token, confirmable, request.unwanted[confirmable])
        if isinstance(begun, Reply) or len(self._under_way) >= _MAX_UNDER_WAY:
            # Not remembered: nothing came of it, nor will when it comes again.
            self._answer(one, begun if isinstance(begun, Reply) else busy())
            return
        self._under_way[key] = one
        if confirmable:
            one.due = due = self._loop.time() + ACK_DELAY
            self._unacknowledged.append(one)
            if self._timer is None:
                self._timer = self._loop.call_at(due, self._acknowledge)
        peer = Peer(_COAP, address.host)
        if request.echo is not None:
            peer = resources.proved(peer, request)
        if begun.target.feature == "provision":
            resources.provision(begun, peer, partial(self._finish, one))
        else:
            one.task = self._loop.create_task(self._decide(one, begun, peer, resources))

    def _repeated(self, key: bytes, id_: int, address: Address) -> bool:
        """Whether a request came before; then what was said is said again."""
        one = self._under_way.get(key)
        if one is not None:
            if one.acknowledged:
                self._send(empty(Type.ACK, id_), address)
            return True
        now = self._clock()
        answer = self._granted.find(key, now)
        if answer is None:
            answer = self._others.find(key, now)
        if answer:
            self._send(answer, address)
        return answer is not None

    def _hand_over(self, key: bytes, message: Message, address: Address) -> None:
        self._others.keep(key, b"", self._clock())
        if not self._behind.take(message, address):
            self._others.forget(key)

    def _remember(self, key: bytes, code: int, datagram: bytes) -> None:
        (self._granted if code == _CREATED else self._others).keep(key, datagram, self._clock())

    async def _decide(self, one: "_Exchange", call: Call, peer: Peer, resources: Resources) -> None:
        self._finish(one, await resources.answer(call, peer))

    def _finish(self, one: "_Exchange", reply: Reply) -> None:
        """Answer a request that was under way; not after the end."""
        if self._under_way.pop(one.key, None) is None:
            return
        self._remember(one.key, reply.code, self._answer(one, reply))
        if self._idle is not None and not self._under_way and not self._idle.done():
            self._idle.set_result(None)

    def _answer(self, one: "_Exchange", reply: Reply) -> bytes:
        """Send an answer; returns what is to be sent when the request comes again (§4.2, §5.2)."""
        code, address, type_, id_ = reply.code, one.address, _ACK, one.id
        piggybacked = one.confirmable and not one.acknowledged
        if one.unwanted >> (code >> 5) - 1 & 1:
            acknowledgement = empty(Type.ACK, id_) if one.confirmable else b""
            if piggybacked:
                self._send(acknowledgement, address)
            return acknowledgement
        if not piggybacked:
            type_, id_ = _CON if one.confirmable else _NON, self._behind.next_id()
        datagram = assemble(type_, code, id_, one.token, reply.encoded_options, reply.body)
        if type_ == _CON:
            self._confirmations.send(exchange(address, id_), datagram, address)
            return empty(Type.ACK, one.id)
        self._send(datagram, address)
        return datagram if piggybacked else b""

    def _acknowledge(self) -> None:
        """Acknowledge the requests whose answers take long."""
        now, waiting, under_way = self._loop.time(), self._unacknowledged, self._under_way
        while waiting and (waiting[0].due <= now or waiting[0].key not in under_way):
            one = waiting.popleft()
            if under_way.get(one.key) is one:
                one.acknowledged = True
                self._send(empty(Type.ACK, one.id), one.address)
        self._timer = self._loop.call_at(waiting[0].due, self._acknowledge) if waiting else None


class _Exchange(msgspec.Struct, gc=False):  # 5 % less for a request; a task that ends lets go of it, so no cycle lasts
    """A request that is being decided. unwanted: see Request; due: when it is to be acknowledged without an answer."""

    key: bytes
    address: Address
    id: int
    token: bytes
    confirmable: bool
    unwanted: int
    due: float = 0.0
    acknowledged: bool = False
    task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:  # tokens and payloads are secrets
        return f"<Exchange {self.id}>"
