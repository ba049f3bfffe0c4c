"""Connections to MQTT brokers that are not ours: to addresses that are allowed, under the name that was given."""

import asyncio
import logging
import socket
import ssl
from contextlib import suppress
from typing import Any, Self, TypeVar

import aiomqtt

from provserver.adapters.outgoing import Outgoing

KEEPALIVE = 30
"""Seconds."""

_quiet = logging.getLogger("provserver.broker")
_quiet.setLevel(logging.ERROR)


class BrokerClient(aiomqtt.Client):
    """A client whose failed attempt to connect leaves nothing open."""

    context: "NamedContext | None" = None

    async def __aenter__(self) -> Self:
        try:
            await super().__aenter__()
        except BaseException:
            self._client.disconnect()
            if self.context is not None and self.context.opened is not None:
                self.context.opened.close()
            raise
        return self

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._disconnected.done()

    async def leave(self) -> None:
        """Disconnect, or note that it has happened."""
        with suppress(aiomqtt.MqttError):
            await self.__aexit__(None, None, None)


_Client = TypeVar("_Client", bound=BrokerClient)


async def client(
    kind: type[_Client], outgoing: Outgoing, host: str, port: int, *, tls: bool, timeout: float, **options: Any
) -> _Client:
    """A client of a broker, not yet connected. options: as aiomqtt has them. Raises Unreachable."""
    address = await outgoing.resolve(host, port)
    context = await asyncio.to_thread(NamedContext.make, host) if tls else None
    made = kind(
        address,
        port,
        tls_context=context,
        timeout=timeout,
        keepalive=KEEPALIVE,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        logger=_quiet,
        **options,
    )
    made.context = context
    return made


class NamedContext(ssl.SSLContext):
    """Verifies the broker's certificate for its name, although the connection goes to an address."""

    name: str
    opened: ssl.SSLSocket | None = None  # which paho forgets when the handshake fails

    @classmethod
    def make(cls, name: str) -> Self:
        """With the system's certificate authorities, or those of SSL_CERT_FILE."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.load_default_certs()
        context.name = name
        return context

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """A socket that is to be the broker's."""
        self.opened = super().wrap_socket(*arguments, **options | {"server_hostname": self.name})
        return self.opened
