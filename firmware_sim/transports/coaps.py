"""CoAP over DTLS: an aiocoap context whose one way out is a DTLS association of ours (RFC 7252 §9.1)."""

import asyncio
from typing import Any

import aiocoap
from aiocoap import interfaces
from aiocoap.numbers.constants import MAX_REGULAR_BLOCK_SIZE_EXP
from aiocoap.util import hostportjoin

from firmware_sim.address import Address
from firmware_sim.dtls import Channel
from firmware_sim.errors import NoAnswer
from firmware_sim.tls import Security


async def coaps_context(server: Address, security: Security, timeout: float) -> aiocoap.Context:
    """Shake hands with the server within `timeout` seconds; then requests with `coaps:` URIs go there.

    Raises NoAnswer, Unauthorized, Untrusted or WrongUsage.
    """
    association = _Association(server, Channel(security, server.host))
    await association.open(timeout)
    context = aiocoap.Context()

    async def interface(manager: interfaces.MessageManager) -> _Interface:
        return _Interface(manager, association)

    await context._append_tokenmanaged_messagemanaged_transport(interface)  # noqa: SLF001 - the only way in
    return context


class _Association(asyncio.DatagramProtocol):
    """A UDP socket with a DTLS channel on it, and the timer of its handshake."""

    def __init__(self, server: Address, channel: Channel) -> None:
        self.server = server
        self.channel = channel
        self.interface: _Interface | None = None
        self._settled = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.DatagramTransport | None = None

    async def open(self, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                await loop.create_datagram_endpoint(lambda: self, remote_addr=(self.server.host, self.server.port))
                self.channel.start()
                self._pump()
                await self._settled.wait()
        except TimeoutError:
            self.channel.give_up(f"no answer within {timeout:g} s")
        except OSError as error:
            raise NoAnswer.because(error, timeout) from error
        except asyncio.CancelledError:
            self.close()
            raise
        if self.channel.failure:
            self.close()
            raise self.channel.failure

    def send(self, datagram: bytes) -> None:
        self.channel.send(datagram)
        if self.channel.failure:  # told later: aiocoap is not done with the message yet
            asyncio.get_running_loop().call_soon(self._pump)
        else:
            self._pump()

    def close(self) -> None:
        self.channel.close()
        self._pump()
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ARG002
        self.channel.receive(data)
        if self.interface:
            for message in self.channel.received():
                self.interface.received(message)
        self._pump()

    def error_received(self, exc: Exception) -> None:
        if self.interface:
            self.interface.failed(exc)
        elif self.channel.failure is None:
            self.channel.failure = NoAnswer.because(exc, 0)
            self._settled.set()

    def _pump(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._transport is None or self._transport.is_closing():
            return
        for datagram in self.channel.datagrams():
            self._transport.sendto(datagram)
        if self.channel.established or self.channel.failure:
            self._settled.set()
        if self.channel.failure and self.interface:
            self.interface.failed(self.channel.failure)
        wait = self.channel.timeout()
        if wait is not None:
            self._timer = asyncio.get_running_loop().call_later(wait, self._expire)

    def _expire(self) -> None:
        self.channel.expire()
        self._pump()


class _Remote(interfaces.EndpointAddress):  # type: ignore[misc]
    """The one server at the other end."""

    is_multicast = False
    is_multicast_locally = False
    scheme = "coaps"
    maximum_block_size_exp = MAX_REGULAR_BLOCK_SIZE_EXP

    def __init__(self, server: Address) -> None:
        self._hostinfo: str = hostportjoin(server.host, server.port)

    @property
    def hostinfo(self) -> str:
        return self._hostinfo

    hostinfo_local = blockwise_key = hostinfo

    @property
    def uri_base(self) -> str:
        return f"coaps://{self._hostinfo}"

    uri_base_local = uri_base


class _Interface(interfaces.MessageInterface):  # type: ignore[misc]
    """Between aiocoap's message layer and the association."""

    def __init__(self, manager: interfaces.MessageManager, association: _Association) -> None:
        self._manager = manager
        self._association = association
        self._remote = _Remote(association.server)
        association.interface = self

    def received(self, datagram: bytes) -> None:
        try:
            message = aiocoap.Message.decode(datagram, remote=self._remote)
        except aiocoap.error.UnparsableMessage:
            return
        self._manager.dispatch_message(message)

    def failed(self, error: Exception) -> None:
        self._manager.dispatch_error(error, self._remote)

    def send(self, message: aiocoap.Message) -> None:
        self._association.send(message.encode())

    async def recognize_remote(self, remote: object) -> bool:
        return remote is self._remote

    async def determine_remote(self, request: aiocoap.Message) -> _Remote | None:
        return self._remote if request.requested_scheme == "coaps" else None

    async def shutdown(self) -> None:
        self._association.interface = None
        self._association.close()
