"""The server's verdict, read as leniently as the device SDKs do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec

from firmware_sim.errors import BadReply, NoAnswer, Pending, Refused

_SNIPPET = 80


@dataclass(frozen=True, slots=True)
class Reply:
    """A SUCCESS.

    credentials_value: the token, the certificate, or for MQTT_BASIC {clientId, userName, password}.
    device_name and device_id are None on servers that do not tell them.
    """

    credentials_type: str
    credentials_value: str | Mapping[str, str | None] = field(repr=False)
    device_name: str | None = None
    device_id: str | None = None

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Read a reply.

        `status` may be called `provisionDeviceStatus`, and a token `accessToken`; other members are ignored.
        Raises Refused for any other verdict, NoAnswer if it has `retryAfter` (seconds), Pending if it waits for an
        operator, else BadReply.
        """
        try:
            members = msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise BadReply(f"the reply is not JSON: {snippet(payload)}") from None
        if not isinstance(members, dict):
            raise BadReply(f"the reply is not a JSON object: {snippet(payload)}")
        status = members.get("status", members.get("provisionDeviceStatus"))
        if status != "SUCCESS":
            raise _refusal(status, members)
        kind, value = _credentials(members)
        return cls(kind, value, _text(members, "deviceName"), _text(members, "deviceId"))


def snippet(payload: bytes) -> str:
    """The first characters of something unexpected, quoted so that no terminal acts on it."""
    return repr(payload[:_SNIPPET].decode(errors="replace"))


def _refusal(status: object, members: Mapping[str, Any]) -> Refused | NoAnswer | BadReply:
    error = members.get("errorMsg", members.get("message"))
    if status is None and error is None:
        return BadReply("the reply has neither status nor errorMsg")
    verdict = status if isinstance(status, str) and status else "FAILURE"
    reason = f"{verdict}: {error}" if error else verdict
    retry_after = members.get("retryAfter")
    if members.get("provisionDeviceStatus") == "PENDING":
        return Pending(reason, float(retry_after) if isinstance(retry_after, int | float) else None)
    if isinstance(retry_after, int | float) and retry_after >= 0:
        return NoAnswer(reason, float(retry_after))
    return Refused(reason)


def _credentials(members: Mapping[str, Any]) -> tuple[str, str | Mapping[str, str | None]]:
    value = members.get("credentialsValue", members.get("accessToken"))
    match members.get("credentialsType", "ACCESS_TOKEN"):
        case "ACCESS_TOKEN" | "X509_CERTIFICATE" as kind if isinstance(value, str) and value:
            return kind, value
        case "MQTT_BASIC" as kind if isinstance(value, dict):
            parts = {name: value.get(name) for name in ("clientId", "userName", "password")}
            if all(part is None or isinstance(part, str) for part in parts.values()) and any(parts.values()):
                return kind, parts
    raise BadReply("the reply says SUCCESS but carries no credentials that a device can use")


def _text(members: Mapping[str, Any], name: str) -> str | None:
    value = members.get(name)
    return value if isinstance(value, str) else None
