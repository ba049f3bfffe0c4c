"""ESP-IDF's unified provisioning, the phone's part: the messages, and what protects them.

Sans-IO: bytes for an endpoint, and the bytes that it answered. Messages are protobuf (protocomm's session, sec1, sec2;
wifi_provisioning's wifi_scan, wifi_config, wifi_ctrl, which the newer network_provisioning has with the same numbers).
Security 2 is SRP-6a and AES-256-GCM, security 1 X25519, a proof of possession and AES-256-CTR. Security 0 is none, and
is not spoken here; nor is security 2 as it was before patch 1, when all messages shared one nonce.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from provserver.core import protobuf, srp6a
from provserver.core.board import Board, NotABoard, WifiNetwork, read_board
from provserver.core.edgent import Settings

VERSION, SESSION, SCAN, CONFIG, CONTROL, CUSTOM = (
    "proto-ver",
    "prov-session",
    "prov-scan",
    "prov-config",
    "prov-ctrl",
    "custom-data",
)
"""The endpoints. custom-data is ours to fill: see `hand_over`."""

ASK_VERSION = b"---"
"""What to send to proto-ver: anything but nothing."""

MAX_SECRET = 256
"""Bytes of a user name, and of a proof of possession."""

PAGE = 16
"""Networks asked for at a time."""

MAX_NETWORKS = 64
"""More than a board keeps of a scan."""

_STATUSES = (
    "Success",
    "InvalidSecScheme",
    "InvalidProto",
    "TooManySessions",
    "InvalidArgument",
    "InternalError",
    "CryptoError",
    "InvalidSession",
)
_SECURITY = ("OPEN", "WEP", "WPA", "WPA2", "WPA+WPA2", "WPA2-EAP", "WPA3", "WPA2+WPA3", "WAPI")
_KEY_LENGTH = 32
_NONCE_LENGTH = 12
_PROOF_LENGTH = 64
_MAX_SALT = 256
_GROUP_CHANNELS = 5  # between which the access point's own station is served
_PERIOD = 120  # ms on a channel


class Malformed(ValueError):  # noqa: N818
    """What came is not what the protocol has there. Holds nothing of it."""


class Unproven(ValueError):  # noqa: N818
    """The board cannot show that it knows the proof of possession: it may be another one that plays it."""


class Unsuitable(ValueError):  # noqa: N818
    """The board does not speak it as it is asked to. Says what to do."""


class InvalidPossession(ValueError):  # noqa: N818
    """A file that is to hold a proof of possession does not. Says what belongs there."""


class Declined(ValueError):  # noqa: N818
    """The board understood, and will not. status: as its protocol has it."""

    def __init__(self, status: int) -> None:
        super().__init__(_STATUSES[status] if status < len(_STATUSES) else str(status))
        self.status = status


@dataclass(frozen=True, slots=True)
class Possession:
    """What shows that somebody holds the board. username: of security 2, "" is security 1. name: the access point's."""

    proof: str = field(repr=False)
    username: str = ""
    name: str = ""

    @property
    def security(self) -> int:
        """The security scheme that it is for."""
        return 2 if self.username else 1


def possession(data: bytes) -> Possession:
    """Read a file: the JSON of the QR code, or a line with the user name and one with the proof, or the proof alone.

    Raises InvalidPossession.
    """
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise InvalidPossession("a proof of possession is text, in UTF-8") from None
    if text.startswith("{"):
        return _checked(_from_qr(text))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not 1 <= len(lines) <= 2:
        raise InvalidPossession("give the QR code's JSON, or a line with the user name and a line with the proof")
    return _checked(Possession(lines[-1], lines[0] if len(lines) == 2 else ""))


def _from_qr(text: str) -> Possession:
    try:
        members = msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise InvalidPossession("the QR code's JSON cannot be read: copy it as a whole") from None
    known: dict[str, str] = {}
    for name in ("pop", "username", "name", "transport", "network"):
        value = members.get(name, "")
        if not isinstance(value, str):
            raise InvalidPossession(f"`{name}` of the QR code's JSON must be text")
        known[name] = value
    if known["transport"] not in ("", "softap"):
        raise InvalidPossession("the board is provisioned over Bluetooth, says the QR code: use another way")
    if known["network"] not in ("", "wifi"):
        raise InvalidPossession("the board is for a network that is not WiFi, says the QR code")
    return Possession(known["pop"], known["username"], known["name"])


def _checked(found: Possession) -> Possession:
    if not found.proof:
        raise InvalidPossession(
            "there is no proof of possession: it stands on the board's label, as `pop` in its QR code"
        )
    if len(found.proof.encode()) > MAX_SECRET or len(found.username.encode()) > MAX_SECRET:
        raise InvalidPossession(f"the user name and the proof of possession have at most {MAX_SECRET} bytes each")
    return found


@dataclass(frozen=True, slots=True)
class Version:
    """What proto-ver tells everybody. security: the scheme, None if it does not say; patch: of the scheme."""

    version: str
    security: int | None = None
    patch: int = 0
    capabilities: frozenset[str] = frozenset()

    def check(self, proof: Possession) -> None:
        """Whether the board can be spoken with, in private. Raises Unsuitable."""
        if self.security == 0:
            raise Unsuitable(
                "the board speaks without protection (security 0), and WiFi password and token would cross the air in "
                "clear: give it a firmware with security 2"
            )
        if self.security not in (1, 2):
            raise Unsuitable("the board does not say which security scheme it speaks: give it a newer firmware")
        if self.security != proof.security:
            remedy = (
                "give the user name, too (`username` of its QR code)"
                if self.security == 2
                else "it takes a proof of possession without a user name; if its label has one, this is another board"
            )
            raise Unsuitable(f"the board speaks security {self.security}, not {proof.security}: {remedy}")
        if self.security == 2 and self.patch < 1:
            raise Unsuitable(
                "the board's security 2 uses one nonce for all messages, so that others on the air can read them: "
                "give it a firmware of a newer ESP-IDF (sec_patch_ver 1)"
            )
        if self.version.startswith("netprov") and "wifi_prov" not in self.capabilities:
            raise Unsuitable("the board cannot be provisioned for WiFi, only for another network")


def read_version(answer: bytes) -> Version:
    """What proto-ver answered: JSON, or of old firmware a bare version. Raises Malformed."""
    try:
        text = answer.decode()
    except UnicodeDecodeError:
        raise Malformed("the board's version is not text") from None
    if not text.lstrip().startswith("{"):
        return Version(text.strip()[:32])
    prov = _object(answer).get("prov")
    if not isinstance(prov, dict):
        raise Malformed("the board's version says nothing of provisioning")
    listed = prov.get("cap")
    capabilities = (
        frozenset(word for word in listed if isinstance(word, str)) if isinstance(listed, list) else frozenset()
    )
    version, security, patch = prov.get("ver"), prov.get("sec_ver"), prov.get("sec_patch_ver", 0)
    if security is None:  # as before security 2 was
        security = 0 if "no_sec" in capabilities else 1
    if not (isinstance(version, str) and isinstance(security, int) and isinstance(patch, int)):
        raise Malformed("the board's version is not as it should be")
    return Version(version[:32], security, patch, capabilities)


class Channel(Protocol):
    """What an agreed session is spoken through: one message, then its answer, in turns."""

    def seal(self, message: bytes) -> bytes:
        """What goes to an endpoint."""
        ...

    def open(self, answer: bytes) -> bytes:
        """What came from it. Raises Malformed."""
        ...


class Handshake(Protocol):
    """How a session is agreed on, over prov-session: `hello`, its answer to `prove`, the answer of that to `agreed`."""

    def hello(self) -> bytes:
        """The first request."""
        ...

    def prove(self, answer: bytes) -> bytes:
        """The second one. Raises Malformed, Declined."""
        ...

    def agreed(self, answer: bytes) -> Channel:
        """What goes on from here. Raises Malformed, Declined, Unproven."""
        ...


def handshake(proof: Possession, entropy: srp6a.Entropy) -> Handshake:
    """Of the scheme that the proof is for."""
    if proof.security == 2:
        return _Security2(proof, entropy)
    return _Security1(proof)


class _Security2:
    def __init__(self, proof: Possession, entropy: srp6a.Entropy) -> None:
        self._username = proof.username.encode()
        self._srp = srp6a.Client.fresh(srp6a.ESP, self._username, proof.proof.encode(), entropy)
        self._agreement: srp6a.Agreement | None = None

    def hello(self) -> bytes:
        return _session(2, 12, 0, 20, protobuf.encode([(1, self._username), (2, self._srp.public)]))

    def prove(self, answer: bytes) -> bytes:
        message = _answered(answer, 2, 12, 1, 21)
        public, salt = message.data(2), message.data(3)
        if not public or len(public) > srp6a.ESP.length or not 1 <= len(salt) <= _MAX_SALT:
            raise Malformed("the board's public key or its salt has a length that cannot be")
        try:
            self._agreement = self._srp.agree(salt, public)
        except srp6a.Unsafe:
            raise Malformed("the board's public key would give the proof away") from None
        return _session(2, 12, 2, 22, protobuf.encode([(1, self._agreement.proof)]))

    def agreed(self, answer: bytes) -> Channel:
        message = _answered(answer, 2, 12, 3, 23)
        if self._agreement is None or message.data(2) != self._agreement.answer:
            raise Unproven("the board could not show that it knows the proof of possession")
        nonce = message.data(3)
        if len(nonce) != _NONCE_LENGTH:
            raise Malformed(f"the board's nonce is not of {_NONCE_LENGTH} bytes")
        return _Gcm(self._agreement.key[:_KEY_LENGTH], nonce)


class _Gcm:
    """AES-256-GCM. Each message, whoever sent it, has the nonce's counter one higher than the message before."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._cipher = AESGCM(key)
        self._session = nonce[:8]
        self._counter = int.from_bytes(nonce[8:])

    def seal(self, message: bytes) -> bytes:
        return self._cipher.encrypt(self._next(), message, None)

    def open(self, answer: bytes) -> bytes:
        try:
            return self._cipher.decrypt(self._next(), answer, None)
        except InvalidTag:
            raise Malformed("the board's answer is not of this session") from None

    def _next(self) -> bytes:
        if self._counter > 0xFFFF_FFFF:
            raise Malformed("the session has lasted too long")
        nonce = self._session + self._counter.to_bytes(4)
        self._counter += 1
        return nonce


class _Security1:
    def __init__(self, proof: Possession) -> None:
        self._proof = proof.proof.encode()
        self._key = X25519PrivateKey.generate()
        self._public = self._key.public_key().public_bytes_raw()
        self._channel: _Ctr | None = None

    def hello(self) -> bytes:
        return _session(1, 11, 0, 20, protobuf.encode([(1, self._public)]))

    def prove(self, answer: bytes) -> bytes:
        message = _answered(answer, 1, 11, 1, 21)
        public, random = message.data(2), message.data(3)
        if len(public) != _KEY_LENGTH or len(random) != 16:
            raise Malformed("the board's public key or its random number has a length that cannot be")
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise Malformed("the board's public key agrees on nothing") from None
        key = bytes(s ^ p for s, p in zip(shared, hashlib.sha256(self._proof).digest(), strict=True))
        self._channel = _Ctr(key, random)
        return _session(1, 11, 2, 22, protobuf.encode([(2, self._channel.seal(public))]))

    def agreed(self, answer: bytes) -> Channel:
        message = _answered(answer, 1, 11, 3, 23)
        if self._channel is None or self._channel.open(message.data(3)) != self._public:
            raise Unproven("the board could not show that it knows the proof of possession")
        return self._channel


class _Ctr:
    """AES-256-CTR: one key stream for both directions, and nothing that tells a changed message from a true one."""

    def __init__(self, key: bytes, counter: bytes) -> None:
        # Counter mode is the same both ways; the one context is what keeps the place in the stream.
        self._stream: CipherContext = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()

    def seal(self, message: bytes) -> bytes:
        return self._stream.update(message)

    def open(self, answer: bytes) -> bytes:
        return self._stream.update(answer)


def scan_start() -> bytes:
    """For prov-scan: look around, and answer when that is done."""
    return _payload(0, 10, protobuf.encode([(1, 1), (3, _GROUP_CHANNELS), (4, _PERIOD)]))


def read_scan_start(answer: bytes) -> None:
    """Raises Malformed, Declined."""
    _scan_answer(answer, 1, 11)


def scan_status() -> bytes:
    """For prov-scan: how many networks there are."""
    return _payload(2, 12)


def read_scan_status(answer: bytes) -> int:
    """The networks, at most MAX_NETWORKS; 0 while the scan goes on. Raises Malformed, Declined."""
    status = _scan_answer(answer, 3, 13)
    return min(status.number(2), MAX_NETWORKS) if status.number(1) else 0


def scan_result(first: int, count: int) -> bytes:
    """For prov-scan: some of the networks."""
    return _payload(4, 14, protobuf.encode([(1, first), (2, count)]))


def read_scan_result(answer: bytes) -> list[WifiNetwork]:
    """Raises Malformed, Declined."""
    return [_network(entry) for entry in _scan_answer(answer, 5, 15).messages(1)]


def set_config(ssid: str, password: str) -> bytes:
    """For prov-config: the network to join."""
    return _payload(2, 12, protobuf.encode([(1, ssid), (2, password)]))


def read_set_config(answer: bytes) -> None:
    """Raises Malformed, Declined."""
    _config_answer(answer, 3, 13)


def apply_config() -> bytes:
    """For prov-config: join it."""
    return _payload(4, 14)


def read_apply_config(answer: bytes) -> None:
    """Raises Malformed, Declined."""
    _config_answer(answer, 5, 15)


class Station(Enum):
    """What became of joining the network."""

    CONNECTED = "connected"
    CONNECTING = "connecting"
    DISCONNECTED = "disconnected"
    WRONG_PASSWORD = "wrong password"  # noqa: S105 - the name of a state
    NOT_FOUND = "not found"


def get_status() -> bytes:
    """For prov-config: what became of it."""
    return _payload(0, 10)


def read_status(answer: bytes) -> Station:
    """Raises Malformed, Declined."""
    status = _config_answer(answer, 1, 11)
    state = status.number(2)
    if state == 3:
        return Station.NOT_FOUND if status.number(10) == 1 else Station.WRONG_PASSWORD
    states = (Station.CONNECTED, Station.CONNECTING, Station.DISCONNECTED)
    if state >= len(states):
        raise Malformed("the board is in a state that there is not")
    return states[state]


def reset() -> bytes:
    """For prov-ctrl: forget the network that it could not join, and take another."""
    return _payload(1, 11)


def read_reset(answer: bytes) -> None:
    """Raises Malformed, Declined."""
    _typed(answer, 2).succeeded(2)


def ask_info() -> bytes:
    """For custom-data: who the board is. It answers with the members of board_info.json, and `status`: "ok"."""
    return b"{}"


def hand_over(settings: Settings) -> bytes:
    """For custom-data: what the board logs in with, where. It answers as it does to `ask_info`."""
    members: dict[str, Any] = {"token": settings.auth}
    if settings.host:
        members["host"] = settings.host
    if settings.port is not None:
        members["port"] = settings.port
    return msgspec.json.encode(members)


def read_custom(answer: bytes) -> Board:
    """What custom-data answered. Raises Malformed; Unsuitable: it is not taken."""
    if _object(answer).get("status") != "ok":
        raise Unsuitable(
            "the board does not take the token: give it a firmware that has custom-data as this server does"
        )
    try:
        return read_board(answer)
    except NotABoard as fault:
        raise Malformed(f"the board answers strangely: {fault}") from None


class _Message:
    """Fields by number, of which the last of a number counts, and of numbers and bytes what should be there."""

    def __init__(self, message: bytes) -> None:
        self._fields: dict[int, list[int | bytes]] = {}
        try:
            for number, value in protobuf.fields(message):
                self._fields.setdefault(number, []).append(value)
        except protobuf.SyntaxFault:
            raise Malformed("the board's answer cannot be read") from None

    def number(self, number: int) -> int:
        value = self._fields.get(number, [0])[-1]
        if not isinstance(value, int):
            raise Malformed(f"field {number} of the board's answer is no number")
        return value

    def data(self, number: int) -> bytes:
        value = self._fields.get(number, [b""])[-1]
        if not isinstance(value, bytes):
            raise Malformed(f"field {number} of the board's answer is a number")
        return value

    def messages(self, number: int) -> Iterator["_Message"]:
        for value in self._fields.get(number, []):
            if not isinstance(value, bytes):
                raise Malformed(f"field {number} of the board's answer is a number")
            yield _Message(value)

    def member(self, number: int) -> "_Message":
        return _Message(self.data(number))

    def succeeded(self, number: int) -> None:
        if status := self.number(number):
            raise Declined(status)


def _payload(kind: int, number: int, body: bytes = b"") -> bytes:
    return protobuf.encode([(1, kind)]) + protobuf.embedded(number, body)


def _session(security: int, scheme: int, kind: int, number: int, body: bytes) -> bytes:
    return protobuf.encode([(2, security)]) + protobuf.embedded(scheme, _payload(kind, number, body))


def _answered(answer: bytes, security: int, scheme: int, kind: int, number: int) -> _Message:
    """The innermost message of prov-session's answer, with its status looked at."""
    message = _Message(answer)
    if message.number(2) != security:
        raise Malformed("the board answers in another security scheme")
    payload = message.member(scheme)
    if payload.number(1) != kind:
        raise Malformed("the board answers what was not asked")
    found = payload.member(number)
    found.succeeded(1)
    return found


def _typed(answer: bytes, kind: int) -> _Message:
    message = _Message(answer)
    if message.number(1) != kind:
        raise Malformed("the board answers what was not asked")
    return message


def _scan_answer(answer: bytes, kind: int, number: int) -> _Message:
    message = _typed(answer, kind)
    message.succeeded(2)
    return message.member(number)


def _config_answer(answer: bytes, kind: int, number: int) -> _Message:
    found = _typed(answer, kind).member(number)
    found.succeeded(1)
    return found


def _network(entry: _Message) -> WifiNetwork:
    security = entry.number(5)
    rssi = entry.number(3)
    return WifiNetwork(
        ssid=entry.data(1).rstrip(b"\0").decode(errors="replace"),
        rssi=rssi - (1 << 64) if rssi >> 63 else rssi - (1 << 32) if rssi >> 31 == 1 else rssi,
        security=_SECURITY[security] if security < len(_SECURITY) else "unknown",
        channel=entry.number(2),
        bssid=entry.data(4).hex(":").upper(),
    )


def _object(answer: bytes) -> dict[str, Any]:
    try:
        members = msgspec.json.decode(answer)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Malformed("the board's answer is not JSON") from None
    if not isinstance(members, dict):
        raise Malformed("the board's answer is not a JSON object")
    return members
