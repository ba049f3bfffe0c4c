"""What networks say of their devices: an uplink or a join, from a message of MQTT or a webhook.

The Things Stack sends the same document by both (`ApplicationUp`); ChirpStack says what it is beside it (`?event=up`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from provserver.core import lorawan
from provserver.core.credentials import has_control_characters
from provserver.core.integration import NetworkKind
from provserver.core.moment import FIRST_YEAR, LAST_YEAR
from provserver.core.telemetry import InvalidData

MAX_DOCUMENT = 262_144
"""Bytes: one that ten gateways have heard has some ten thousand."""

MAX_DEVICE_ID = 64
"""Characters that a network's id of a device may have here; The Things Stack has 36."""


class HeardKind(StrEnum):
    """What a device did."""

    JOIN = "join"
    UPLINK = "uplink"


@dataclass(frozen=True, slots=True)
class Heard:
    """A device that was heard. at: aware; None where the network does not say. dev_eui: 16 digits in capitals, as is
    join_eui, where it is known.

    values: what the network's decoder made of the payload. rssi, snr: dBm and dB at the gateway that heard it best.
    """

    kind: HeardKind
    application_id: str
    network_device_id: str
    dev_eui: str
    join_eui: str | None
    at: datetime | None
    values: Mapping[str, object]
    rssi: float | None = None
    snr: float | None = None


class _Gateway(Struct, frozen=True):
    rssi: float | None = None
    snr: float | None = None


class _Application(Struct, frozen=True):
    application_id: str = ""


class _Ids(Struct):
    device_id: str
    application_ids: _Application = _Application()
    dev_eui: str = ""
    join_eui: str = ""


class _Uplink(Struct):
    decoded_payload: dict[str, Any] | None = None
    rx_metadata: list[_Gateway] = []


class _ThingsStack(Struct):
    end_device_ids: _Ids
    received_at: str = ""
    uplink_message: _Uplink | None = None
    join_accept: dict[str, Any] | None = None


class _DeviceInfo(Struct, rename="camel"):
    dev_eui: str
    application_id: str = ""


class _ChirpStack(Struct, rename="camel"):
    device_info: _DeviceInfo
    time: str = ""
    object: dict[str, Any] | None = None
    rx_info: list[_Gateway] = []


_THINGS_STACK = msgspec.json.Decoder(_ThingsStack)
_CHIRPSTACK = msgspec.json.Decoder(_ChirpStack)

_EVENTS = {"up": HeardKind.UPLINK, "join": HeardKind.JOIN}


def decode(network: NetworkKind, document: bytes, event: str = "") -> Heard | None:
    """What a document says; None when that is neither an uplink nor a join. Raises InvalidData.

    event: what ChirpStack says that it is.
    """
    if len(document) > MAX_DOCUMENT:
        raise InvalidData(f"The message is longer than {MAX_DOCUMENT} bytes.")
    try:
        return _things_stack(document) if network is NetworkKind.THINGS_STACK else _chirpstack(document, event)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, lorawan.InvalidIdentifier):
        raise InvalidData(f"This is no message of {network.label}.") from None


def _things_stack(document: bytes) -> Heard | None:
    given = _THINGS_STACK.decode(document)
    ids, uplink = given.end_device_ids, given.uplink_message
    if uplink is None and given.join_accept is None:
        return None
    if not ids.device_id or len(ids.device_id) > MAX_DEVICE_ID or has_control_characters(ids.device_id):
        raise InvalidData("The message names no device.")
    best = _best(uplink.rx_metadata if uplink else ())
    return Heard(
        HeardKind.JOIN if uplink is None else HeardKind.UPLINK,
        ids.application_ids.application_id,
        ids.device_id,
        lorawan.eui(ids.dev_eui) if ids.dev_eui else "",
        lorawan.eui(ids.join_eui) if ids.join_eui else None,
        _moment(given.received_at),
        (uplink.decoded_payload if uplink else None) or {},
        best.rssi,
        best.snr,
    )


def _chirpstack(document: bytes, event: str) -> Heard | None:
    kind = _EVENTS.get(event)
    if kind is None:
        return None
    given = _CHIRPSTACK.decode(document)
    dev_eui = lorawan.eui(given.device_info.dev_eui)
    best = _best(given.rx_info)
    return Heard(
        kind,
        given.device_info.application_id,
        lorawan.device_id_of(dev_eui),
        dev_eui,
        None,
        _moment(given.time),
        given.object or {},
        best.rssi,
        best.snr,
    )


def _best(gateways: Sequence[_Gateway]) -> _Gateway:
    """The one of the best SNR; signal strength decides between equals, and where none says its SNR."""
    lowest = float("-inf")

    def quality(each: _Gateway) -> tuple[float, float]:
        return lowest if each.snr is None else each.snr, lowest if each.rssi is None else each.rssi

    return max(gateways, key=quality, default=_Gateway())


def _moment(text: str) -> datetime | None:
    """RFC 3339, in nanoseconds as Go writes it; None where it is not given, or none that can be kept."""
    if not text:
        return None
    moment = msgspec.convert(text, datetime)
    if moment.tzinfo is None or not FIRST_YEAR <= moment.year <= LAST_YEAR:
        return None
    return moment.astimezone(UTC)
