"""What goes to the sink: the messages, what becomes of them, and how a broker's topic names them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import msgspec

from provserver.core.model import Authenticated
from provserver.core.telemetry import Sample, Value

_NONCHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_UNSAFE = re.compile(rf"^\$|[%/+#\x00-\x1f\x7f-\x9f\ufdd0-\ufdef{_NONCHARACTERS}]")
"""What a level must not have, or a broker may refuse (MQTT 5 §1.5.4, §4.7); and the sign of what was replaced."""


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message that waits. body: JSON. refusals: how often the receiver has refused this very message."""

    id: int
    device_id: UUID
    device_name: str
    kind: str
    body: bytes = field(repr=False)
    refusals: int = 0


@dataclass(slots=True)
class Delivery:
    """What became of messages. delivered: ids that the receiver has acknowledged.

    refused: why, by id, of those that it will not have as they are. fault: why the others could not be sent;
    retry_after: seconds for which the receiver asked to be left alone.
    """

    delivered: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    fault: str = ""
    retry_after: float = 0.0


class Receiver(Protocol):
    """Where messages go (`adapters/sink.py`)."""

    async def send(self, messages: Sequence[QueuedMessage]) -> Delivery:
        """Send messages in order, as far as it goes; of a device nothing after what was refused. Raises nothing."""

    async def close(self) -> None:
        """Let go of the connection."""


def encode(id_: UUID, device: Authenticated, kind: str, ts: int, data: Mapping[str, Value] | Sequence[Sample]) -> bytes:
    """The JSON of a message. id_: the same whenever it is sent; ts: when it was accepted, ms since the epoch.

    data: attributes by key, or samples, which become runs of one time: `[{"ts": …, "values": {…}}, …]`.
    """
    body = {
        "id": str(id_),
        "deviceId": str(device.device_id),
        "deviceName": device.name,
        "profileId": str(device.profile_id),
        "kind": kind,
        "ts": ts,
        "data": data if isinstance(data, Mapping) else _runs(data, ts),
    }
    return msgspec.json.encode(body)


def topic(prefix: str, device_name: str, kind: str) -> str:
    """`prefix/device name/kind`; what a topic cannot hold in a level is percent-encoded (MQTT 5 §4.7, RFC 3986)."""
    return "/".join(filter(None, (prefix, topic_level(device_name), topic_level(kind))))


def topic_level(text: str) -> str:
    """A text as one level of a topic; different texts stay different."""
    return _UNSAFE.sub(_percent, text)


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())


def _runs(samples: Sequence[Sample], now: int) -> list[dict[str, object]]:
    runs: list[dict[str, object]] = []
    time, values = None, dict[str, Value]()
    for key, value, ts in samples:
        taken = now if ts is None else ts
        if taken != time or key in values:
            time, values = taken, {}
            runs.append({"ts": time, "values": values})
        values[key] = value
    return runs
