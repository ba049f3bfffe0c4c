"""A provision request and its reply as ThingsBoard writes them, in JSON and protobuf (spec thingsboard §4).

Both formats read into `ProvisionRequest`; both are written from a `Reply`. JSON `null` means absent.
"""

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from provserver.core import lenientjson, protobuf, sealed
from provserver.core.model import Credentials, CredentialsType, MqttBasic
from provserver.errors import RENDERINGS, Outcome

LWM2M_CREDENTIALS: Final = "LWM2M_CREDENTIALS"
"""A type ThingsBoard's enumeration has, and nothing can supply here."""

_ACCESS_TOKEN = CredentialsType.ACCESS_TOKEN.value  # found once: see core/decision.py

_TYPE_NAMES = (*("ACCESS_TOKEN", "X509_CERTIFICATE", "MQTT_BASIC"), LWM2M_CREDENTIALS)
_TYPE_NUMBERS = {name: number for number, name in enumerate(_TYPE_NAMES)}
_STATUS_NUMBERS = {"SUCCESS": 1, "NOT_FOUND": 2, "FAILURE": 3}


class Undecodable(ValueError):  # noqa: N818
    """The payload is neither a JSON object nor, where accepted, a protobuf request."""


class InvalidRequest(ValueError):  # noqa: N818
    """A request was read, but a member is missing or wrong. The message names it and quotes no value."""

    def __init__(self, message: str, *, protobuf: bool = False) -> None:
        super().__init__(message)
        self.protobuf = protobuf


class SealedRequest(NamedTuple):
    """A request that only the server's key of this id opens. sealed: bytes of HPKE."""

    key_id: str
    sealed: bytes


class Sealed(Exception):  # noqa: N818
    """A request was read, and is a sealed one."""

    def __init__(self, request: SealedRequest) -> None:
        super().__init__()
        self.request = request


class ProvisionRequest(NamedTuple):
    """What a device asked. A member that was absent or null is None (`gateway`: false; the type: ACCESS_TOKEN).

    `key` and `secret` may be empty: that is decided, not refused. `protobuf`: the format it came in, and
    that the reply must have.
    """

    key: str
    secret: str
    device_name: str | None = None
    credentials_type: str = CredentialsType.ACCESS_TOKEN.value
    token: str | None = None
    username: str | None = None
    password: str | None = None
    client_id: str | None = None
    hash: str | None = None
    gateway: bool = False
    request_nonce: str | None = None
    protobuf: bool = False
    csr: str | None = None
    answer_key: bytes | None = None

    def __repr__(self) -> str:  # members are secrets
        return "<ProvisionRequest>"

    def canonical(self) -> bytes:
        """Every member that a repeat must have again, unambiguously, whatever format it came in."""
        members = self[:11]  # all up to `protobuf`, which is none
        if self.answer_key is not None:
            return msgspec.json.encode((*members, self.csr, self.answer_key))
        return msgspec.json.encode(members if self.csr is None else (*members, self.csr))


class Granted(msgspec.Struct, frozen=True, gc=False):
    """What a device leaves with. repeated: it was given that before. expires_at: when the credentials end."""

    device_id: UUID
    device_name: str
    credentials: Credentials
    repeated: bool = False
    expires_at: datetime | None = None

    @property
    def type(self) -> CredentialsType:
        """The type of the credentials."""
        return self.credentials.type


class _Members(msgspec.Struct):
    """The strict reading, in C: strings are strings. What does not fit is read leniently."""

    provisionDeviceKey: str | None = None  # noqa: N815
    provisionDeviceSecret: str | None = None  # noqa: N815
    deviceName: str | None = None  # noqa: N815
    credentialsType: str | None = None  # noqa: N815
    token: str | None = None
    username: str | None = None
    password: str | None = None
    clientId: str | None = None  # noqa: N815
    hash: str | None = None
    gateway: bool | None = None
    requestNonce: str | None = None  # noqa: N815
    csr: str | None = None
    sealed: str | None = None
    keyId: str | None = None  # noqa: N815
    answerKey: str | None = None  # noqa: N815

    def __repr__(self) -> str:
        return "<_Members>"


_strict = msgspec.json.Decoder(_Members)


_Proved = tuple[str, str] | None


def decode(payload: bytes, *, accept_protobuf: bool, proved: tuple[str, str] | None = None) -> ProvisionRequest:
    """Read a request: JSON first, then, where accepted, protobuf. Raises Undecodable, InvalidRequest, Sealed.

    proved: the provision key and secret that the channel is protected with, for a request that names neither.
    """
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return _decode_protobuf(payload, accept_protobuf, proved)
    try:
        members = _strict.decode(payload)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _decode_leniently(text, payload, accept_protobuf, proved)
    return _request(members, proved)


def encode_granted(granted: Granted, *, protobuf: bool) -> bytes:
    """The reply of a SUCCESS: ThingsBoard's members first, then those of its document (DESIGN §4)."""
    credentials = granted.credentials
    value: str | dict[str, str] = credentials.value if isinstance(credentials.value, str) else _basic(credentials.value)
    if protobuf:
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        return _encode_protobuf("SUCCESS", credentials.type, text)
    reply: dict[str, object] = {
        "credentialsValue": value,
        "credentialsType": credentials.type,
        "status": "SUCCESS",
        "provisionDeviceStatus": "SUCCESS",
        "deviceId": str(granted.device_id),
        "deviceName": granted.device_name,
    }
    if credentials.type == _ACCESS_TOKEN:
        reply["accessToken"] = value
    if granted.expires_at is not None:
        reply["credentialsExpireAt"] = int(granted.expires_at.timestamp() * 1000)
    return msgspec.json.encode(reply)


def encode_refusal(outcome: Outcome, *, protobuf: bool, message: str | None = None, retry_after: int = 0) -> bytes:
    """The reply of any other outcome; `message` replaces the outcome's own `errorMsg`.

    Empty for an outcome that has no reply (UNDECODABLE, TOO_LARGE). retry_after: seconds; 0 to say nothing of it.
    """
    rendering = RENDERINGS[outcome]
    if rendering.status is None:
        return b""
    if protobuf:
        return _encode_protobuf(rendering.status)
    reply: dict[str, object] = {
        "errorMsg": message or rendering.error,
        "status": rendering.status,
        "provisionDeviceStatus": rendering.stage or rendering.status,
    }
    if retry_after:
        reply["retryAfter"] = retry_after  # MQTT has no place of its own for it
    return msgspec.json.encode(reply)


def _request(members: _Members, proved: _Proved, *, protobuf: bool = False) -> ProvisionRequest:
    if members.sealed is not None:
        raise Sealed(_sealed(members.sealed, members.keyId or ""))
    if proved is not None and not members.provisionDeviceKey and not members.provisionDeviceSecret:
        members.provisionDeviceKey, members.provisionDeviceSecret = proved
    if members.provisionDeviceKey is None:
        raise InvalidRequest("Failed to find the field provisionDeviceKey!", protobuf=protobuf)
    if members.provisionDeviceSecret is None:
        raise InvalidRequest("Failed to find the field provisionDeviceSecret!", protobuf=protobuf)
    type_ = _ACCESS_TOKEN if members.credentialsType is None else members.credentialsType
    if type_ not in _TYPE_NUMBERS:
        raise InvalidRequest(f"credentialsType must be one of {', '.join(_TYPE_NAMES)}!", protobuf=protobuf)
    return ProvisionRequest(
        members.provisionDeviceKey,
        members.provisionDeviceSecret,
        members.deviceName or None,
        type_,
        members.token or None,
        members.username or None,
        members.password or None,
        members.clientId or None,
        members.hash or None,
        bool(members.gateway),
        members.requestNonce,
        protobuf,
        members.csr,
        None if members.answerKey is None else _answer_key(members.answerKey),
    )


def _sealed(text: str, key_id: str) -> SealedRequest:
    try:
        data = sealed.decode(text)
    except ValueError:
        raise InvalidRequest("sealed must be base64url!") from None
    if not key_id.isalnum() or not key_id.isascii():
        raise InvalidRequest("Failed to find the field keyId!")
    return SealedRequest(key_id, data)


def _answer_key(text: str) -> bytes:
    try:
        return sealed.public_key(text)
    except sealed.NoKey:
        raise InvalidRequest("answerKey must be an X25519 public key in base64url!") from None


def _decode_leniently(text: str, payload: bytes, accept_protobuf: bool, proved: _Proved) -> ProvisionRequest:
    try:
        value = lenientjson.parse(text)
    except lenientjson.SyntaxFault:
        return _decode_protobuf(payload, accept_protobuf, proved)
    if not isinstance(value, dict):
        return _decode_protobuf(payload, accept_protobuf, proved)
    members = _Members()
    for name in _Members.__struct_fields__:
        member = value.get(name)
        if isinstance(member, list) and len(member) == 1:  # as Gson reads an array of one
            member = member[0]
        if name == "gateway":
            members.gateway = member is True or (isinstance(member, str) and member.lower() == "true")
        elif member is not None:
            setattr(members, name, _text(name, member))
    return _request(members, proved)


def _text(name: str, member: lenientjson.Value) -> str:
    if isinstance(member, bool):
        return "true" if member else "false"
    if not isinstance(member, str):
        raise InvalidRequest(f"{name} must be a string!")
    if any("\ud800" <= c <= "\udfff" for c in member):
        raise InvalidRequest(f"{name} is not valid Unicode!")
    return str(member)


def _decode_protobuf(payload: bytes, accept: bool, proved: _Proved) -> ProvisionRequest:
    """ProvisionDeviceRequestMsg (spec thingsboard §4.5; our fields: 100 requestNonce, 101 csr)."""
    if not accept:
        raise Undecodable
    try:
        top = _collect(payload, messages=(3, 4))
        keys = _collect(_submessage(top, 3))
        data = _collect(_submessage(top, 4), messages=(1, 2, 3))
        token, certificate, basic = (_collect(_submessage(data, n)) for n in (1, 2, 3))
        number = top.get(2, 0)
        members = _Members(
            provisionDeviceKey=_string(keys, 1) or "",  # absent is empty in proto3: NOT_FOUND, no decoding error
            provisionDeviceSecret=_string(keys, 2) or "",
            deviceName=_string(top, 1),
            credentialsType=_TYPE_NAMES[number] if isinstance(number, int) and number < 4 else "?",
            token=_string(token, 1),
            hash=_string(certificate, 1),
            clientId=_string(basic, 1),
            username=_string(basic, 2),
            password=_string(basic, 3),
            gateway=bool(top.get(5)),
            requestNonce=_string(top, 100),
            csr=_string(top, 101),
        )
    except (protobuf.SyntaxFault, UnicodeDecodeError):
        raise Undecodable from None
    return _request(members, proved, protobuf=True)


def _collect(message: bytes, messages: tuple[int, ...] = ()) -> dict[int, int | bytes]:
    """Fields by number; of a repeated scalar the last counts, repeated `messages` merge by concatenation."""
    found: dict[int, int | bytes] = {}
    parts: dict[int, list[bytes]] = {number: [] for number in messages}
    for number, value in protobuf.fields(message):
        if number in parts and isinstance(value, bytes):
            parts[number].append(value)
        else:
            found[number] = value
    return {number: b"".join(some) for number, some in parts.items()} | found


def _submessage(message: dict[int, int | bytes], number: int) -> bytes:
    value = message.get(number, b"")
    if isinstance(value, int):
        raise protobuf.SyntaxFault("a message is expected")
    return value


def _string(message: dict[int, int | bytes], number: int) -> str | None:
    value = message.get(number)
    if isinstance(value, int):
        raise protobuf.SyntaxFault("a string is expected")
    return value.decode() if value else None


def _encode_protobuf(status: str, type_: str = "ACCESS_TOKEN", value: str = "") -> bytes:
    return protobuf.encode([(1, _STATUS_NUMBERS[status]), (2, _TYPE_NUMBERS[type_]), (3, value)])


def _basic(value: MqttBasic) -> dict[str, str]:
    return {"clientId": value.client_id, "userName": value.user_name, "password": value.password}
