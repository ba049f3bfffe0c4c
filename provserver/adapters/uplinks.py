"""Uplinks and joins of an application of The Things Stack, as its MQTT server publishes them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiomqtt

from provserver.adapters import broker
from provserver.adapters.broker import BrokerClient
from provserver.adapters.outgoing import Outgoing, Unreachable
from provserver.core.integration import ThingsStackSettings, broker_endpoint

TIMEOUT = 10.0
"""Seconds for the broker to answer."""

MAX_WAITING = 10_000
"""Messages that were received and not taken yet; more are lost."""

_REFUSED = frozenset({4, 5, 0x86, 0x87})
"""Of a CONNACK: bad user name or password, not authorized (MQTT 3.1.1 §3.2.2.3, MQTT 5 §3.2.2.2)."""

_FAILURE = 0x80


@asynccontextmanager
async def subscribed(
    outgoing: Outgoing, settings: ThingsStackSettings, application_id: str, api_key: str
) -> AsyncIterator[AsyncIterator[bytes]]:
    """The documents of an application, once it is subscribed to, until the connection ends. Raises Unreachable."""
    host, port, tls = broker_endpoint(settings.broker)
    user = settings.user(application_id)
    client = await broker.client(
        BrokerClient,
        outgoing,
        host,
        port,
        tls=tls,
        timeout=TIMEOUT,
        username=user,
        password=api_key,
        protocol=aiomqtt.ProtocolVersion.V311,
        max_queued_incoming_messages=MAX_WAITING,
    )
    try:
        await client.__aenter__()
        try:
            granted = await client.subscribe([(f"v3/{user}/devices/+/{kind}", 1) for kind in ("up", "join")])
            if any(_value(each) >= _FAILURE for each in granted):
                raise Unreachable("the broker lets this API key not read the application's traffic")
            yield _payloads(client)
        finally:
            await client.leave()
    except aiomqtt.MqttError as fault:
        raise Unreachable(_reason(fault)) from None


async def _payloads(client: BrokerClient) -> AsyncIterator[bytes]:
    async for message in client.messages:
        if isinstance(message.payload, bytes):
            yield message.payload


def _reason(fault: aiomqtt.MqttError) -> str:
    if _value(getattr(fault, "rc", None)) in _REFUSED:
        return "the broker refuses the API key"
    if "timed out" in str(fault).lower():
        return "the broker does not answer"
    return "no connection to the broker"


def _value(code: object) -> int:
    """A reason code, which libraries have as a number or with one inside."""
    value = getattr(code, "value", code)
    return value if isinstance(value, int) else 0
