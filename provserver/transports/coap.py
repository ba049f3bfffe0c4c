"""CoAP: `/api/v1/provision` and what a device does afterwards (spec thingsboard §3, §7.3).

Over UDP, plain requests are answered by our front; what needs more, and all other channels, by aiocoap.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any

from aiocoap import Context, Message
from aiocoap.interfaces import MessageInterface
from aiocoap.messagemanager import MessageManager
from aiocoap.numbers.codes import Code
from aiocoap.numbers.constants import Reliable
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.numbers.types import Type
from aiocoap.pipe import Pipe
from aiocoap.resource import Resource

from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.limits import Limits
from provserver.services.provisioning import Provisioning
from provserver.services.sessions import Sessions
from provserver.transports.coap_echo import Echoes
from provserver.transports.coap_features import Features
from provserver.transports.coap_options import Reply, Request
from provserver.transports.coap_resources import Resources
from provserver.transports.coap_udp import UdpInterface, listen


class CoapTransport:
    """Serves devices over CoAP on UDP, and on what else is added.

    access, data, sessions: for devices that have been provisioned; without them there is provisioning alone.
    wrap: puts a site before ours, for OSCORE; it passes the requests on by `render_to_pipe`. The remote address of a
        request has a `peer`, who may have proved something by its channel. Plain requests do not come by it.
    front: whether plain requests over UDP are answered without aiocoap.
    limits: who guesses too often; to them who sends plain datagrams may prove its address. None: nobody does.
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
        limits: Limits | None = None,
        front: bool = True,
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
        echoes = Echoes(limits) if limits is not None else None
        self._resources = Resources(provisioning, features, max_payload_size, echoes=echoes)
        self._site = _Site(self._resources)
        self._outer_site = wrap(self._site) if wrap is not None else self._site
        self._front = front
        self._udp: list[UdpInterface] = []
        self._context: Context | None = None

    async def start(self, host: str, port: int, *, sock: socket.socket | None = None) -> tuple[str, int]:
        """Listen; returns the address, with the port that was free if 0 was asked. Raises OSError.

        sock: bound to it already, by a supervisor that shares the address between processes.
        """
        resources = self._resources if self._front else None
        interface: UdpInterface = await self.add(partial(listen, host=host, port=port, resources=resources, sock=sock))
        self._udp.append(interface)
        return interface.address

    async def add(self, make: Callable[..., Awaitable[MessageInterface]]) -> Any:
        """Take messages from another interface, too; returns it.

        make: called with aiocoap's message manager and the keywords log and loop. A method `hush`, if it has one, is
        called before the interface is shut down: it must then take no more datagrams.
        """
        context = self._context or Context(serversite=self._outer_site, loggername="provserver.coap.protocol")

        async def made(manager: MessageManager) -> MessageInterface:
            return await make(manager, log=context.log, loop=context.loop)

        await context._append_tokenmanaged_messagemanaged_transport(made)  # noqa: SLF001 - as its own constructors do
        self._context = context
        return context.request_interfaces[-1].token_interface.message_interface

    async def stop(self, grace: float) -> None:
        """Let requests under way be answered within `grace` seconds, then close."""
        udp, self._udp = self._udp, []
        for interface in udp:
            interface.hush()  # what comes from now on waits for who has the socket next
        await asyncio.gather(self._site.drain(grace), *(interface.front.drain(grace) for interface in udp))
        context, self._context = self._context, None
        if context is not None:
            _silence(context)
            await context.shutdown()


class _Site(Resource):  # type: ignore[misc] # aiocoap has no types
    """The root: every request to aiocoap arrives here with its whole path."""

    def __init__(self, resources: Resources) -> None:
        super().__init__()
        self._resources = resources
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def render_to_pipe(self, pipe: Pipe) -> None:
        request = Request(
            int(pipe.request.code),
            [(int(option.number), option.encode()) for option in pipe.request.opt.option_list()],
        )
        async with aclosing(self._replies(request, pipe.request.payload, pipe.request.remote)) as replies:
            with self._working():
                reply = await anext(replies)
            response = _response(reply)
            response.opt.no_response = request.unwanted[pipe.request.mtype is not Type.NON] or None
            pipe.add_response(response, is_last=reply.observe is None)
            if reply.observe is None:
                return
            async for reply in replies:
                notification = _response(reply)
                notification.transport_tuning = Reliable()
                pipe.add_response(notification, is_last=reply.observe is None)

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

    async def _replies(self, request: Request, payload: bytes, remote: Any) -> AsyncGenerator[Reply]:
        """The reply, and further ones if it is a notification."""
        begun = self._resources.begin(request, payload, remote.blockwise_key)
        let_in = getattr(remote, "prove", None)
        if isinstance(begun, Reply):
            yield begun
            return
        peer = self._resources.proved(remote.peer, request)
        if begun.observes:
            async with aclosing(self._resources.observe(begun, peer, let_in)) as replies:
                async for reply in replies:
                    yield reply
        else:
            yield await self._resources.answer(begun, peer, let_in)


def _response(reply: Reply) -> Message:
    response = Message(code=Code(reply.code), payload=reply.body)
    for number, value in reply.options:
        response.opt.add_option(OptionNumber(number).create_option(decode=value))
    return response


def _silence(context: Context) -> None:
    """Hear nothing more, and forget whom to send an empty ACK: aiocoap leaves those timers to a closed socket."""
    for interface in context.request_interfaces:
        manager = interface.token_interface
        hush = getattr(manager.message_interface, "hush", None)
        if hush is not None:
            hush()
        for _, timer in manager._piggyback_opportunities.values():  # noqa: SLF001 - there is no other way to them
            timer.cancel()
