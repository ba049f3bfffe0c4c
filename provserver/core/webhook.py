"""Webhooks: where events go, and how they are signed (Standard Webhooks 1.0: https://www.standardwebhooks.com)."""

import base64
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address
from urllib.parse import urlsplit
from uuid import UUID

from msgspec import Struct

from provserver.core.events import EventType
from provserver.errors import Invalid

SECRET_LENGTH = 32
"""Bytes."""

MAX_URL = 2000

_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


class DeliveryState(StrEnum):
    """What has become of an event on its way to a webhook. dead: given up, until somebody replays it."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


class Webhook(Struct, frozen=True):
    """Where an organization wants to be told. types: of events; none: all. failing_since: None while it is reached."""

    id: UUID
    organization_id: UUID
    url: str
    types: Sequence[EventType]
    enabled: bool
    failing_since: datetime | None
    error: str | None
    created_by: str
    created_at: datetime
    revision: int


class Delivery(Struct, frozen=True):
    """An event on its way to a webhook. id: the event's. status: of HTTP, that the last try was answered with."""

    id: UUID
    type: str
    device_id: UUID | None
    state: DeliveryState
    tries: int
    status: int | None
    error: str | None
    queued_at: datetime
    tried_at: datetime | None
    not_before: datetime | None


class Answer(Struct, frozen=True):
    """What became of a try. error: why it failed; empty when it was delivered. status: None when there was no answer.

    refused: it may be for the event itself, others may get through. retry_after: seconds asked for.
    """

    status: int | None
    error: str = ""
    refused: bool = False
    retry_after: float = 0.0


def shown(secret: bytes) -> str:
    """A secret as receivers are given it."""
    return "whsec_" + base64.b64encode(secret).decode()


def headers(secret: bytes, id_: UUID, now: int, body: bytes) -> Mapping[str, str]:
    """What a request says of itself. now: seconds since the epoch, signed with the body, so that none can be kept."""
    signed = hmac.digest(secret, f"{id_}.{now}.".encode() + body, "sha256")
    return {
        "Content-Type": "application/json",
        "webhook-id": str(id_),
        "webhook-timestamp": str(now),
        "webhook-signature": "v1," + base64.b64encode(signed).decode(),
    }


def checked_url(url: str) -> str:
    """A URL that events can be sent to. Raises Invalid, which does not quote it: it may hold a token."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise Invalid(f"The URL must be like https://host/path, of {MAX_URL} characters at most.")
    if parts.username is not None or parts.password is not None or "#" in url:
        raise Invalid("The URL has a user name, a password or a fragment. Leave it out; requests are signed.")
    _check_host(parts.hostname or "")
    return url


def _check_host(name: str) -> None:
    """A host whose last label is a number, also hexadecimal, is an IPv4 address (WHATWG URL), and written as one."""
    if _NUMBER.fullmatch(name.rstrip(".").rpartition(".")[2]):
        try:
            IPv4Address(name)
        except ValueError:
            raise Invalid("The URL's host is no name, and no IPv4 address like 192.0.2.1.") from None


def host(url: str) -> str:
    """Of a URL, what may be shown to whoever may not see all of it."""
    return urlsplit(url).hostname or ""
