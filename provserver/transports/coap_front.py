"""The datagram front of CoAP: RFC 7252's message layer (§4), and the answers to plain requests that are one datagram.

What needs more is handed to whoever is behind (aiocoap, by `coap_udp.py`): block-wise bodies, observations, OSCORE, and
the acknowledgements of its messages. Which side a request goes to depends on its options alone. Repeated requests are
known here, for both sides.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from provserver.core.model import Peer, Transport
from provserver.transports.coap_exchanges import Answers, Confirmations, exchange
from provserver.transports.coap_message import Code, Malformed, Message, Type, decode, empty, encode
from provserver.transports.coap_options import Option, Reply, Request
from provserver.transports.coap_resources import BUSY, Call, Resources
from provserver.transports.udp import Address

ACK_DELAY = 0.5
"""Seconds after which a request whose answer is not ready is acknowledged without it (spec thingsboard §3)."""

_MAX_UNDER_WAY = 16_384
_MAX_GRANTED = 128 * 1024 * 1024
_MAX_OTHERS = 32 * 1024 * 1024
"""Bytes of answers remembered. Those that made something have their own: that takes credentials, so that no flood of
other requests makes them forgotten, without which a device whose answer was lost would be told that it asks again."""

_NOT_PLAIN = frozenset({Option.OSCORE, Option.BLOCK1, Option.BLOCK2})
_CON, _NON, _ACK = int(Type.CON), int(Type.NON), int(Type.ACK)


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
        self._unacknowledged: deque[tuple[float, _Exchange]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()

    def received(self, datagram: bytes, address: Address) -> None:
        """Take a datagram."""
        try:
            message = decode(datagram)
        except Malformed as fault:
            if fault.id is not None:
                self._send(empty(Type.RST, fault.id), address)
            return
        if message.type >= _ACK:
            if not self._confirmations.settle(exchange(address, message.id)):
                self._behind.take(message, address)
        elif 0 < message.code < 32:
            self._request(message, address)
        elif message.type == _CON:  # a ping, or a response that nobody waits for
            self._send(empty(Type.RST, message.id), address)

    def send(self, datagram: bytes, address: Address) -> None:
        """Send what comes from behind; what acknowledges a request is remembered."""
        if datagram[0] >> 4 & 3 == _ACK:
            self._remember(exchange(address, datagram[2] << 8 | datagram[3]), datagram[1], datagram)
        self._send(datagram, address)

    async def drain(self, grace: float) -> None:
        """Wait until the requests under way are answered, up to `grace` seconds."""
        self._idle.clear()
        if self._under_way:
            try:
                await asyncio.wait_for(self._idle.wait(), grace)
            except TimeoutError:
                return

    async def close(self) -> None:
        """Answer nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._confirmations.close()
        tasks = [one.task for one in self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _request(self, message: Message, address: Address) -> None:
        key = exchange(address, message.id)
        if self._repeated(key, message, address):
            return
        if self._resources is None:
            self._hand_over(key, message, address)
            return
        type_, code, id_, token, options, payload = message
        request = Request(code, options, payload, confirmable=type_ == _CON)
        values = request.values
        if not _NOT_PLAIN.isdisjoint(values) or (code == Code.GET and Option.OBSERVE in values):
            self._hand_over(key, message, address)
            return
        begun = self._resources.begin(request, address)
        one = _Exchange(key, address, id_, token, type_ == _CON, request.no_response)
        if isinstance(begun, Reply) or len(self._under_way) >= _MAX_UNDER_WAY:
            # Not remembered: nothing came of it, nor will when it comes again.
            self._answer(one, begun if isinstance(begun, Reply) else BUSY)
            return
        self._under_way[key] = one
        one.task = self._loop.create_task(self._decide(one, begun, self._resources))
        if one.confirmable:
            due = self._loop.time() + ACK_DELAY
            self._unacknowledged.append((due, one))
            if self._timer is None:
                self._timer = self._loop.call_at(due, self._acknowledge)

    def _repeated(self, key: bytes, message: Message, address: Address) -> bool:
        """Whether a request came before; then what was said is said again."""
        one = self._under_way.get(key)
        if one is not None:
            if one.acknowledged:
                self._send(empty(Type.ACK, message.id), address)
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
        (self._granted if code == Code.CREATED else self._others).keep(key, datagram, self._clock())

    async def _decide(self, one: "_Exchange", call: Call, resources: Resources) -> None:
        try:
            reply = await resources.answer(call, Peer(Transport.COAP, one.address.host))
            self._remember(one.key, reply.code, self._answer(one, reply))
        finally:
            one.decided = True
            del self._under_way[one.key]
            if not self._under_way:
                self._idle.set()

    def _answer(self, one: "_Exchange", reply: Reply) -> bytes:
        """Send an answer; returns what is to be sent when the request comes again (§4.2, §5.2)."""
        wanted = not one.unwanted >> (reply.code >> 5) - 1 & 1
        piggybacked = one.confirmable and not one.acknowledged
        if piggybacked and not wanted:
            acknowledgement = empty(Type.ACK, one.id)
            self._send(acknowledgement, one.address)
            return acknowledgement
        if not wanted:
            return empty(Type.ACK, one.id) if one.confirmable else b""
        type_, id_ = (_ACK, one.id) if piggybacked else (_CON if one.confirmable else _NON, self._behind.next_id())
        datagram = encode(Message(type_, reply.code, id_, one.token, reply.options, reply.body))
        if type_ == _CON:
            self._confirmations.send(exchange(one.address, id_), datagram, one.address)
            return empty(Type.ACK, one.id)
        self._send(datagram, one.address)
        return datagram if piggybacked else b""

    def _acknowledge(self) -> None:
        """Acknowledge the requests whose answers take long."""
        now, waiting = self._loop.time(), self._unacknowledged
        while waiting and (waiting[0][1].decided or waiting[0][0] <= now):
            _, one = waiting.popleft()
            if not one.decided:
                one.acknowledged = True
                self._send(empty(Type.ACK, one.id), one.address)
        self._timer = self._loop.call_at(waiting[0][0], self._acknowledge) if waiting else None


class _Exchange:
    """A request that is being decided. unwanted: see Request.no_response; acknowledged: without an answer."""

    __slots__ = ("acknowledged", "address", "confirmable", "decided", "id", "key", "task", "token", "unwanted")

    def __init__(self, key: bytes, address: Address, id_: int, token: bytes, confirmable: bool, unwanted: int) -> None:
        self.key = key
        self.address = address
        self.id = id_
        self.token = token
        self.confirmable = confirmable
        self.unwanted = unwanted
        self.acknowledged = False
        self.decided = False
        self.task: asyncio.Task[None]
