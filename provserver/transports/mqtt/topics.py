"""ThingsBoard's topics of a device: what a PUBLISH to one asks for, and which may be subscribed to (spec §7.3).

Long ones under `v1/devices/me`, short ones under `v2`. A short one may name its payload's format: `j` is JSON, which
is also what one has that names none; `p` is protobuf, which is not read here.
"""

import re
from enum import Enum, auto
from typing import Final


class Feature(Enum):
    """What a device asks for."""

    TELEMETRY = auto()
    ATTRIBUTES = auto()
    ATTRIBUTE_REQUEST = auto()
    CLAIM = auto()
    CREDENTIALS = auto()
    RPC_REQUEST = auto()
    PROTOBUF = auto()
    DATASTREAM = auto()  # in Blynk's topics


UPDATES: Final = ("v1/devices/me/attributes", "v2/a", "v2/a/j")
"""Where a device hears of changes of its shared attributes, if it has subscribed."""

_FEATURES: Final = {
    "v1/devices/me/telemetry": Feature.TELEMETRY,
    "v2/t": Feature.TELEMETRY,
    "v2/t/j": Feature.TELEMETRY,
    "v2/t/p": Feature.PROTOBUF,
    **dict.fromkeys(UPDATES, Feature.ATTRIBUTES),
    "v2/a/p": Feature.PROTOBUF,
    "v1/devices/me/claim": Feature.CLAIM,
}
_NUMBERED: Final = {
    "v1/devices/me/attributes/request/": Feature.ATTRIBUTE_REQUEST,
    "v2/a/req/": Feature.ATTRIBUTE_REQUEST,
    "v2/a/req/j/": Feature.ATTRIBUTE_REQUEST,
    "v2/a/req/p/": Feature.PROTOBUF,
    "v1/devices/me/rpc/request/": Feature.RPC_REQUEST,
    "v1/devices/me/credentials/request/": Feature.CREDENTIALS,
}
_REQUEST: Final = re.compile(r"(.+/)[0-9]{1,10}", re.ASCII)

# Calls to the device are subscribed to by every SDK, and granted, though none will come.
_SUBSCRIBABLE: Final = re.compile(
    r"v1/devices/me/attributes|v2/a(?:/j)?"
    r"|(?:v1/devices/me/(?:attributes/response|credentials/response|rpc/request|rpc/response)"
    r"|v2/(?:a/res|r/req|r/res)(?:/j)?)"
    r"/(?:\+|[0-9]{1,10})"
)


def feature(topic: str) -> Feature | None:
    """What a PUBLISH to this topic asks for; None if it is none of ThingsBoard's."""
    found = _FEATURES.get(topic)
    if found is None and (match := _REQUEST.fullmatch(topic)):
        found = _NUMBERED.get(match[1])
    return found


def reply_topic(topic: str) -> str:
    """Where the answer to a numbered request goes."""
    return topic.replace("/request/", "/response/").replace("/req/", "/res/")


def subscribable(topic_filter: str) -> bool:
    """Whether a device may subscribe to this one."""
    return _SUBSCRIBABLE.fullmatch(topic_filter) is not None
