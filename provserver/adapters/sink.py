"""The two receivers of the sink: an MQTT broker (QoS 1, one PUBACK a message) and an HTTP endpoint (arrays by POST).

`mqtt[s]://[user:password@]broker[:port][/topic/prefix]`, `http[s]://[user:password@]host[:port]/path`. A message is
`{"id", "deviceId", "deviceName", "profileId", "kind", "ts", "data"}`; one that comes twice has the same id.
"""

import asyncio
import base64
import ipaddress
import time
from collections.abc import Sequence
from typing import Any, Self
from uuid import UUID

import aiomqtt
from yarl import URL

from provserver.adapters import broker
from provserver.adapters.broker import BrokerClient
from provserver.adapters.outgoing import Outgoing, Unreachable
from provserver.core.sink import Delivery, QueuedMessage, Receiver, topic
from provserver.errors import Misconfigured

MAX_MESSAGES = 200
MAX_SIZE = 1_000_000
"""Messages and bytes of one POST, unless a single message has more."""

IN_FLIGHT = 100
"""Publishes that wait for their PUBACK at one time, unless the broker takes fewer."""

_REFUSED_STATUSES = frozenset({400, 413, 422})
"""The message is at fault, not the endpoint: anything else is retried until it works."""

_TOO_LARGE = 0x95
_REFUSED_REASONS = frozenset({0x90, _TOO_LARGE, 0x99})
"""Likewise of PUBACK and DISCONNECT: topic name invalid, packet too large, payload format invalid."""

_PUBLISH_OVERHEAD = 10
"""Bytes of a PUBLISH beside topic and payload: header, length, the topic's length, packet id, no properties."""

_UNSUPPORTED_VERSION = frozenset({0x84, 1})

_MAX_RETRY_AFTER = 300

_FORM = "It must be mqtt://[user:password@]broker[:port]/topic/prefix, mqtts://…, http://host/path or https://…"


def receiver(url: str, outgoing: Outgoing) -> Receiver:
    """The receiver that the option `sink_url` names. Raises Misconfigured, which quotes of the URL its host alone."""
    try:
        parsed = URL(url)
        host, port = parsed.host, parsed.port
    except ValueError:
        raise Misconfigured(f"sink_url is not a URL. {_FORM}") from None
    if parsed.scheme not in ("mqtt", "mqtts", "http", "https") or not host:
        raise Misconfigured(f"sink_url is none that messages can be sent to. {_FORM}")
    for address in ("127.0.0.1", "::1") if host == "localhost" else (host,):
        if _is_address(address) and outgoing.allows(address):
            break
    else:
        if host == "localhost" or _is_address(host):
            raise Misconfigured(
                f"sink_url: {host} is not a public address, where requests go only if they are meant to. "
                f'Set outgoing_private = "{"127.0.0.1" if host == "localhost" else host}".'
            )
    if parsed.scheme.startswith("http"):
        return HttpReceiver(parsed, outgoing)
    prefix = parsed.path.strip("/")
    if parsed.raw_query_string or "#" in url or any(sign in prefix for sign in "+#\0"):
        raise Misconfigured(f"sink_url: a topic prefix has no query, no + and no #. {_FORM}")
    return MqttReceiver(
        host,
        port or (8883 if parsed.scheme == "mqtts" else 1883),
        outgoing,
        prefix=prefix,
        username=parsed.user,
        password=parsed.password,
        tls=parsed.scheme == "mqtts",
    )


class HttpReceiver:
    """POSTs arrays of messages; 2xx acknowledges all of them.

    What is refused for its content (400, 413, 422) is sent again in halves, down to the message that is at fault.
    """

    def __init__(self, url: URL, outgoing: Outgoing) -> None:
        self._url = url.with_user(None).with_fragment(None)
        self._outgoing = outgoing
        self._headers = {"Content-Type": "application/json"}
        if url.user is not None or url.password is not None:
            pair = f"{url.user or ''}:{url.password or ''}".encode()
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()

    async def send(self, messages: Sequence[QueuedMessage]) -> Delivery:
        """One POST at a time, in order."""
        delivery = Delivery()
        parts = _parts(messages)
        parts.reverse()
        held: set[UUID] = set()
        while parts and not delivery.fault:
            part = [message for message in parts.pop() if message.device_id not in held]
            if not part:
                continue
            if not (why := await self._post(part, delivery)):
                delivery.delivered += [message.id for message in part]
            elif not delivery.fault and len(part) > 1:
                parts += [part[len(part) // 2 :], part[: len(part) // 2]]
            elif not delivery.fault:
                delivery.refused[part[0].id] = why
                held.add(part[0].device_id)
        return delivery

    async def close(self) -> None:
        """The client is not ours."""

    async def _post(self, part: Sequence[QueuedMessage], delivery: Delivery) -> str:
        body = b"[" + b",".join(message.body for message in part) + b"]"
        try:
            response = await self._outgoing.request("POST", self._url, headers=self._headers, body=body)
        except Unreachable as fault:
            delivery.fault = str(fault)
            return delivery.fault
        if 200 <= response.status < 300:
            return ""
        why = f"HTTP {response.status}"
        if response.status not in _REFUSED_STATUSES:
            delivery.fault = why
            delivery.retry_after = response.retry_after(time.time(), _MAX_RETRY_AFTER)
        return why


class MqttReceiver:
    """Publishes messages to a broker, MQTT 5 where it has that, as only there a PUBACK can say no."""

    def __init__(
        self,
        host: str,
        port: int,
        outgoing: Outgoing,
        *,
        prefix: str = "",
        username: str | None = None,
        password: str | None = None,
        tls: bool = False,
        timeout: float = 10.0,
    ) -> None:
        self._host = host
        self._port = port
        self._outgoing = outgoing
        self._prefix = prefix
        self._username = username
        self._password = password
        self._tls = tls
        self._timeout = timeout
        self._version = aiomqtt.ProtocolVersion.V5
        self._suspects = 0  # messages to send one by one, as one of them makes the broker end the connection
        self._publisher: _Publisher | None = None

    async def send(self, messages: Sequence[QueuedMessage]) -> Delivery:
        """Publish in order; what is not acknowledged is published again next time."""
        delivery = Delivery()
        rest = list(messages)
        held: set[UUID] = set()
        try:
            while rest and not delivery.fault:
                width = 1 if self._suspects else len(rest)
                part, rest = rest[:width], rest[width:]
                part = [message for message in part if message.device_id not in held]
                await self._publish(part, delivery)
                held.update(message.device_id for message in part if message.id in delivery.refused)
        except (Unreachable, aiomqtt.MqttError, OSError) as fault:
            delivery.fault = str(fault)
        return delivery

    async def close(self) -> None:
        """Disconnect."""
        if self._publisher is not None:
            publisher, self._publisher = self._publisher, None
            await publisher.leave()

    async def _publish(self, part: Sequence[QueuedMessage], delivery: Delivery) -> None:
        publisher = await self._connect()
        outcomes = await asyncio.gather(
            *(publisher.deliver(topic(self._prefix, each.device_name, each.kind), each.body) for each in part),
            return_exceptions=True,
        )
        for message, outcome in zip(part, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                continue
            if outcome < 0x80:
                delivery.delivered.append(message.id)
            elif outcome in _REFUSED_REASONS:
                delivery.refused[message.id] = f"reason code 0x{outcome:02X}"
            else:
                delivery.fault = f"the broker refuses to publish: reason code 0x{outcome:02X}"
        lost = next((outcome for outcome in outcomes if isinstance(outcome, BaseException)), None)
        if lost is None:
            self._suspects = max(0, self._suspects - len(part))
            return
        if not isinstance(lost, aiomqtt.MqttError):
            raise lost
        await self.close()
        if publisher.reason not in _REFUSED_REASONS:
            delivery.fault = f"the connection to the broker broke: {lost}"
        elif len(part) == 1:
            delivery.refused[part[0].id] = f"reason code 0x{publisher.reason:02X}"
            self._suspects = 0
        else:
            self._suspects = len(part)
            delivery.fault = f"the broker ended the connection: reason code 0x{publisher.reason:02X}"

    async def _connect(self) -> "_Publisher":
        if self._publisher is not None and not self._publisher.lost:
            return self._publisher
        await self.close()
        publisher = await broker.client(
            _Publisher,
            self._outgoing,
            self._host,
            self._port,
            tls=self._tls,
            timeout=self._timeout,
            username=self._username,
            password=self._password,
            protocol=self._version,
            max_inflight_messages=0,  # `_Publisher` counts them
        )
        try:
            self._publisher = await publisher.__aenter__()
        except aiomqtt.MqttError as fault:
            self._version = _next_version(self._version, fault)
            raise
        return self._publisher


class _Publisher(BrokerClient):
    """A connection that tells what each PUBACK said, and at once when it is lost.

    In MQTT 5, reason: of the DISCONNECT that ended it; largest: bytes of a packet that the broker takes.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self.reason = 0
        self.largest = 1 << 28
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._mute = False  # a PUBACK did not come in time

    @property
    def lost(self) -> bool:
        return self._mute or super().lost

    async def __aenter__(self) -> Self:
        try:
            await super().__aenter__()
        except BaseException:
            self._end(self._disconnected)
            raise
        self._disconnected.add_done_callback(self._end)
        return self

    async def deliver(self, topic_: str, payload: bytes) -> int:
        """Publish with QoS 1; returns the PUBACK's reason code, or what it would be. Raises MqttError."""
        if len(topic_.encode()) + len(payload) + _PUBLISH_OVERHEAD > self.largest:
            return _TOO_LARGE
        async with self._room:  # which those who wait enter in their order
            if self.lost or (info := self._client.publish(topic_, payload, qos=1)).rc != 0:
                raise aiomqtt.MqttError("not connected")
            acknowledged = self._waiting[info.mid] = asyncio.get_running_loop().create_future()
            try:
                return await self._wait_for(acknowledged, None)
            except aiomqtt.MqttError:
                self._mute = True
                raise
            finally:
                self._waiting.pop(info.mid, None)

    def _on_connect(self, *arguments: Any, **options: Any) -> None:
        properties = arguments[4]
        self.largest = getattr(properties, "MaximumPacketSize", self.largest)
        self._room = asyncio.Semaphore(min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT)))
        super()._on_connect(*arguments, **options)

    def _on_publish(self, *arguments: Any, **_: Any) -> None:
        mid, reason_code = arguments[2:4]
        acknowledged = self._waiting.get(mid)
        if acknowledged is not None and not acknowledged.done():
            acknowledged.set_result(reason_code.value)

    def _end(self, disconnected: "asyncio.Future[None]") -> None:
        fault = disconnected.exception() if disconnected.done() and not disconnected.cancelled() else None
        self.reason = int(getattr(getattr(fault, "rc", None), "value", 0))
        for acknowledged in self._waiting.values():
            if not acknowledged.done():
                acknowledged.set_exception(aiomqtt.MqttError(str(fault or "disconnected")))


def _next_version(version: aiomqtt.ProtocolVersion, fault: aiomqtt.MqttError) -> aiomqtt.ProtocolVersion:
    """The other version after a failure that may be the version's: an old broker may not even answer MQTT 5."""
    reason = getattr(fault, "rc", None)
    mute = not isinstance(fault, aiomqtt.MqttCodeError) and "timed out" in str(fault)
    if not mute and getattr(reason, "value", reason) not in _UNSUPPORTED_VERSION:
        return version
    other = {aiomqtt.ProtocolVersion.V5: aiomqtt.ProtocolVersion.V311}
    return other.get(version, aiomqtt.ProtocolVersion.V5)


def _parts(messages: Sequence[QueuedMessage]) -> list[Sequence[QueuedMessage]]:
    parts: list[Sequence[QueuedMessage]] = []
    part: list[QueuedMessage] = []
    size = 0
    for message in messages:
        if part and (len(part) == MAX_MESSAGES or size + len(message.body) > MAX_SIZE):
            parts.append(part)
            part, size = [], 0
        part.append(message)
        size += len(message.body)
    return [*parts, part] if part else parts


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
