"""CoAP: `/api/v1/provision` and what a device does afterwards (spec thingsboard §3, §7.3), on aiocoap.

aiocoap answers retransmissions from its deduplication table and sends an empty ACK when the answer takes long.
Block-wise bodies are assembled by `blockwise.py`, with bounds that aiocoap does not have.
"""

import asyncio
import errno
import logging
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any

from aiocoap import Context, Message
from aiocoap.interfaces import MessageInterface
from aiocoap.messagemanager import MessageManager
from aiocoap.numbers.codes import Code
from aiocoap.numbers.constants import Reliable
from aiocoap.numbers.contentformat import ContentFormat
from aiocoap.optiontypes import BlockOption
from aiocoap.pipe import Pipe
from aiocoap.resource import Resource
from aiocoap.transports.udp6 import MessageInterfaceUDP6

from provserver.core.model import Peer, Transport
from provserver.errors import RENDERINGS, RETRY_AFTER_SECONDS, Outcome
from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.provisioning import Answer, Provisioning
from provserver.services.sessions import Sessions
from provserver.transports.blockwise import Block, Progress, RequestBodies, ResponseBodies, cut
from provserver.transports.coap_features import Features, Reply, text_format
from provserver.transports.coap_options import Target, target, unsupported

log = logging.getLogger("provserver.coap")

_ERROR_QUEUES = ((socket.IPPROTO_IPV6, 25), (socket.IPPROTO_IP, 11))
"""IPV6_RECVERR and IP_RECVERR (linux/in6.h, linux/in.h), which aiocoap sets: a client that is gone before its answer
comes back as a socket error, on which uvloop stops to read the socket, for ever."""

BLOCK_EXPONENT = 6  # 1024 bytes, the largest over UDP


class CoapTransport:
    """Serves devices over CoAP on UDP, and on what else is added.

    access, data, sessions: for devices that have been provisioned; without them there is provisioning alone.
    wrap: puts a site before ours, for OSCORE; it passes the requests on by `render_to_pipe`. The remote address of a
        request may have a `peer`, when its channel proves something.
    request_timeout, notification_interval: see Features.
    """

    def __init__(
        self,
        provisioning: Provisioning,
        *,
        access: Access | None = None,
        data: Data | None = None,
        sessions: Sessions | None = None,
        wrap: Callable[[Resource], Resource] | None = None,
        max_payload_size: int = 65_536,
        request_timeout: float = 10.0,
        notification_interval: float = 1.0,
    ) -> None:
        features = None
        if access is not None and data is not None and sessions is not None:
            features = Features(
                access,
                data,
                sessions,
                request_timeout=request_timeout,
                notification_interval=notification_interval,
            )
        self._site = _Site(provisioning, features, max_payload_size)
        self._outer_site = wrap(self._site) if wrap is not None else self._site
        self._context: Context | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address, with the port that was free if 0 was asked. Raises OSError."""
        _check_address(host, port)
        interface = await self.add(partial(_Udp.create_server_transport_endpoint, bind=(host, port), multicast=[]))
        return host, interface.listen()

    async def add(self, make: Callable[..., Awaitable[MessageInterface]]) -> Any:
        """Take messages from another interface, too; returns it.

        make: called with aiocoap's message manager and the keywords log and loop. Where it reads from the network,
        it should use `guarded`. A method `hush`, if it has one, is called before the interface is shut down: it must
        then take no more datagrams.
        """
        context = self._context or Context(serversite=self._outer_site, loggername="provserver.coap.protocol")

        async def made(manager: MessageManager) -> MessageInterface:
            return await make(manager, log=context.log, loop=context.loop)

        await context._append_tokenmanaged_messagemanaged_transport(made)  # noqa: SLF001 - as its own constructors do
        self._context = context
        return context.request_interfaces[-1].token_interface.message_interface

    async def stop(self, grace: float) -> None:
        """Let requests under way be answered within `grace` seconds, then close."""
        await self._site.drain(grace)
        context, self._context = self._context, None
        if context is not None:
            _silence(context)
            await context.shutdown()


class _Site(Resource):  # type: ignore[misc] # aiocoap has no types
    """The root: every request arrives here with its whole path."""

    def __init__(self, provisioning: Provisioning, features: Features | None, max_payload_size: int) -> None:
        super().__init__()
        self._provisioning = provisioning
        self._features = features
        self._requests = RequestBodies(max_payload_size)
        self._responses: ResponseBodies[tuple[Code, int | None]] = ResponseBodies()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def render_to_pipe(self, pipe: Pipe) -> None:
        async with aclosing(self._responses_to(pipe.request)) as responses:
            with self._working():
                response = await anext(responses)
            pipe.add_response(response, is_last=response.opt.observe is None)
            if response.opt.observe is None:
                return
            async for notification in responses:
                notification.transport_tuning = Reliable()
                pipe.add_response(notification, is_last=notification.opt.observe is None)

    async def drain(self, grace: float) -> None:
        try:
            await asyncio.wait_for(self._idle.wait(), grace)
        except TimeoutError:
            return  # what is left is cut off by the shutdown

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def _responses_to(self, request: Message) -> AsyncGenerator[Message]:
        """The response, and further ones if it has an Observe option."""
        try:
            refusal, wanted = unsupported(request), target(request)
            if refusal is not None:
                yield refusal
            elif isinstance(wanted, Message):
                yield wanted
            elif isinstance(payload := self._payload(request), Message):
                yield payload
            else:
                async with aclosing(self._replies(wanted, request, payload)) as replies:
                    async for reply in replies:
                        yield self._response(reply, request)
        except Exception:
            log.exception("a request failed")
            yield Message(code=Code.INTERNAL_SERVER_ERROR)

    def _payload(self, request: Message) -> bytes | Message:
        """The whole body, or what is answered while it is not complete or its answer is fetched block by block."""
        block1: BlockOption.BlockwiseTuple | None = request.opt.block1
        block2: BlockOption.BlockwiseTuple | None = request.opt.block2
        if any(block is not None and block.size_exponent == 7 for block in (block1, block2)):
            return Message(code=Code.BAD_REQUEST)  # reserved (RFC 7959 §2.2)
        now = time.monotonic()
        if block2 is not None and block2.block_number > 0:
            kept = self._responses.fetch(_exchange(request), now)
            if kept is None:
                return Message(code=Code.REQUEST_ENTITY_INCOMPLETE)
            body, (code, format_) = kept
            return _part(body, code, format_, block2.block_number, block2.size_exponent)
        payload: bytes = request.payload
        if block1 is None:
            return payload
        whole = self._requests.feed(_exchange(request), Block(*block1), payload, now)
        return _progress(whole, request) if isinstance(whole, Progress) else whole

    async def _replies(self, wanted: Target, request: Message, payload: bytes) -> AsyncGenerator[Reply]:
        peer = _peer(request)
        if wanted.feature == "provision":
            yield _reply(await self._provisioning.answer(payload, peer), request)
        elif self._features is None:
            yield Reply(Code.BAD_REQUEST)
        elif wanted.feature == "attributes" and request.code is Code.GET and request.opt.observe == 0:
            async with aclosing(self._features.observe(wanted, request, peer)) as replies:
                async for reply in replies:
                    yield reply
        else:
            yield await self._features.answer(wanted, request, payload, peer)

    def _response(self, reply: Reply, request: Message) -> Message:
        block2: BlockOption.BlockwiseTuple | None = request.opt.block2
        exponent = min(block2.size_exponent, BLOCK_EXPONENT) if block2 is not None else BLOCK_EXPONENT
        if len(reply.body) > 1 << exponent + 4:
            self._responses.keep(_exchange(request), reply.body, (reply.code, reply.format), time.monotonic())
            response = _part(reply.body, reply.code, reply.format, 0, exponent)
        else:
            response = Message(code=reply.code, payload=reply.body)
            response.opt.content_format = reply.format
            response.opt.max_age = reply.max_age
        response.opt.observe = reply.observe
        response.opt.block1 = request.opt.block1
        return response


class _Udp(MessageInterfaceUDP6):  # type: ignore[misc]
    """Plain UDP."""

    def listen(self) -> int:
        """Do without the errors of the network; returns the port."""
        listening: socket.socket = self.transport.get_extra_info("socket")
        for level, option in _ERROR_QUEUES:
            listening.setsockopt(level, option, 0)
        port: int = listening.getsockname()[1]
        return port

    def datagram_msg_received(self, *args: Any) -> None:
        guarded(super().datagram_msg_received)(*args)

    def hush(self) -> None:
        asyncio.get_running_loop().remove_reader(self.transport.get_extra_info("socket"))


def _exchange(request: Message) -> Hashable:
    return request.remote.blockwise_key, request.code, request.opt.uri_path, request.opt.uri_query


def _peer(request: Message) -> Peer:
    proved: Peer | None = getattr(request.remote, "peer", None)
    return proved or Peer(Transport.COAP, _address(request))


def _address(request: Message) -> str:
    host: str = request.remote.hostinfo
    if host.startswith("["):
        return host[1:].partition("]")[0].removeprefix("::ffff:")
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _reply(answer: Answer, request: Message) -> Reply:
    format_ = None
    if answer.body:
        format_ = ContentFormat.OCTETSTREAM if answer.protobuf else text_format(request)
    max_age = RETRY_AFTER_SECONDS if answer.outcome is Outcome.UNAVAILABLE else None
    return Reply(Code(RENDERINGS[answer.outcome].coap), answer.body, format_, max_age)


def _part(body: bytes, code: Code, format_: int | None, number: int, exponent: int) -> Message:
    part = cut(body, number, exponent)
    if part is None:
        return Message(code=Code.BAD_OPTION)
    payload, block = part
    response = Message(code=code, payload=payload)
    response.opt.content_format = format_
    response.opt.block2 = BlockOption.BlockwiseTuple(block.number, block.more, block.exponent)
    if block.number == 0:
        response.opt.size2 = len(body)
    return response


def _progress(progress: Progress, request: Message) -> Message:
    code = {
        Progress.CONTINUE: Code.CONTINUE,
        Progress.INCOMPLETE: Code.REQUEST_ENTITY_INCOMPLETE,
        Progress.TOO_LARGE: Code.REQUEST_ENTITY_TOO_LARGE,
    }[progress]
    response = Message(code=code)
    response.opt.block1 = request.opt.block1
    return response


def guarded(receive: Callable[..., None]) -> Callable[..., None]:
    """Take a datagram; some that are malformed make aiocoap raise into the event loop, which logs them as ours."""

    def receive_guarded(*args: object) -> None:
        try:
            receive(*args)
        except Exception as fault:
            log.debug("a datagram could not be read (%s)", type(fault).__name__)

    return receive_guarded


def _silence(context: Context) -> None:
    """Hear nothing more, and forget whom to send an empty ACK: aiocoap leaves those timers to a closed socket."""
    for interface in context.request_interfaces:
        manager = interface.token_interface
        hush = getattr(manager.message_interface, "hush", None)
        if hush is not None:
            hush()
        for _, timer in manager._piggyback_opportunities.values():  # noqa: SLF001 - there is no other way to them
            timer.cancel()


def _check_address(host: str, port: int) -> None:
    """Refuse an address that is not ours, and a port in use. Raises OSError.

    aiocoap binds with SO_REUSEPORT, so a second server would take half of the datagrams.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, port))
        except OSError as fault:
            raise OSError(fault.errno or errno.EADDRINUSE, f"{host}:{port}/udp: {fault.strerror}") from None
