"""An MQTT session, packet by packet, by paho."""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any, Self

from paho.mqtt.client import Client, MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion

from tests.conformance.channels.model import Channel
from tests.conformance.channels.programs.base import TIME_LIMIT, Place, Presented
from tests.conformance.channels.rendering import NO_HANDSHAKE

_RETURN_CODES = {0x00: 0, 0x84: 1, 0x85: 2, 0x88: 3, 0x86: 4, 0x87: 5}
"""paho says those of MQTT 3.1.1 in the words of MQTT 5."""


@dataclass(frozen=True, slots=True)
class Received:
    """A packet: its name and code, for a message its topic and payload."""

    packet: str
    topic: str = ""
    payload: bytes = b""


class Session:
    """One connection. Packets come in the order in which the server sent them."""

    def __init__(self, place: Place, presented: Presented, channel: Channel) -> None:
        self._place = place
        self._channel = channel
        self._v5 = channel is not Channel.MQTT3
        self._loop = asyncio.get_running_loop()
        self._received: asyncio.Queue[Received] = asyncio.Queue()
        self._over = False
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=presented.client_id,
            protocol=MQTTv5 if self._v5 else MQTTv311,
            reconnect_on_failure=False,
        )
        if presented.username or presented.token or presented.password:
            client.username_pw_set(presented.username or presented.token or None, presented.password or None)
        if channel is Channel.MQTTS:
            context = ssl.create_default_context(cafile=place.server.ca)
            if presented.certificate is not None:
                context.load_cert_chain(*presented.certificate)
            client.tls_set_context(context)
        client.connect_timeout = TIME_LIMIT
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        self._client = client

    @classmethod
    async def to(cls, place: Place, presented: Presented, channel: Channel) -> Self:
        """Connect, and send CONNECT."""
        session = cls(place, presented, channel)
        address = place.server.mqtts if channel is Channel.MQTTS else place.server.mqtt
        host, _, port = address.rpartition(":")
        try:
            await asyncio.to_thread(session._client.connect, host, int(port), 60, place.address)
        except (ssl.SSLError, ConnectionError):
            session._over = True
            session._received.put_nowait(Received(NO_HANDSHAKE))
        else:
            session._client.loop_start()
        return session

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """PUBLISH."""
        self._client.publish(topic, payload, qos, retain)

    def subscribe(self, filter_: str, qos: int) -> None:
        """SUBSCRIBE."""
        self._client.subscribe(filter_, qos)

    async def receive(self) -> Received:
        """The next packet, or the end of the connection."""
        async with asyncio.timeout(TIME_LIMIT):
            return await self._received.get()

    async def close(self) -> None:
        """DISCONNECT, and the socket closed."""
        if not self._over:
            self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        code = f"0x{reason.value:02X}" if self._v5 else str(_RETURN_CODES[reason.value])
        self._put(f"CONNACK {code}")

    def _on_disconnect(self, _client: Any, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        self._over = True
        self._put(f"DISCONNECT 0x{reason.value:02X}" if flags.is_disconnect_packet_from_server else "closed")

    def _on_publish(self, _client: Any, _data: Any, _mid: Any, reason: Any, _properties: Any) -> None:
        self._put(f"PUBACK 0x{reason.value:02X}" if self._v5 else "PUBACK")

    def _on_subscribe(self, _client: Any, _data: Any, __mid: Any, reasons: Any, _properties: Any) -> None:
        self._put("SUBACK " + " ".join(f"{reason.value:02X}" for reason in reasons))

    def _on_message(self, _client: Any, _data: Any, message: MQTTMessage) -> None:
        self._put("PUBLISH", message.topic, bytes(message.payload))

    def _put(self, packet: str, topic: str = "", payload: bytes = b"") -> None:
        self._loop.call_soon_threadsafe(self._received.put_nowait, Received(packet, topic, payload))
