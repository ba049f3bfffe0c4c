"""Sealed requests and answers: HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM.

A request is sealed to a key of the server's that its firmware carries, the answer to a key of the device's that stands
in the request (docs/sealed.md). What is sealed for one direction, or one version of this, opens in no other.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

KEY_LENGTH = 32
OVERHEAD = KEY_LENGTH + 16
"""Bytes that a sealed text has more than what is in it: the sender's ephemeral key, and the tag."""

_REQUEST = b"provserver sealed request v1"
_ANSWER = b"provserver sealed answer v1"

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM)
_TRIAL = X25519PrivateKey.from_private_bytes(b"\1" * KEY_LENGTH)


@dataclass(frozen=True, slots=True)
class RequestKey:
    """A key of the server's, its public side. key_id: what requests name it by. public_key: 32 bytes, X25519."""

    id: UUID
    organization_id: UUID
    key_id: str
    public_key: bytes
    created_at: datetime


class Unopenable(ValueError):  # noqa: N818
    """What is sealed does not open: another key, another direction, or altered bytes."""


class NoKey(ValueError):  # noqa: N818
    """These are no X25519 public key in base64url, or one that keeps no secret."""


def key_id(public: bytes) -> str:
    """What a public key is named by: 16 hex digits, the first of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def new_key(seed: bytes) -> tuple[bytes, bytes]:
    """(private, public) key, of 32 random bytes."""
    return seed, X25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def public_key(text: str) -> bytes:
    """The bytes of a public key in base64url. Raises NoKey."""
    try:
        raw = decode(text)
        _TRIAL.exchange(X25519PublicKey.from_public_bytes(raw))  # of small order: the answer would be anybody's
    except ValueError:
        raise NoKey from None
    return raw


def open_request(sealed: bytes, private: bytes) -> bytes:
    """The request in it. Raises Unopenable."""
    return _open(sealed, private, _REQUEST)


def seal_request(plaintext: bytes, public: bytes) -> bytes:
    """As a device does it."""
    return _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(public), _REQUEST)


def seal_answer(plaintext: bytes, public: bytes, request: bytes) -> bytes:
    """An answer's body: {"sealed": …}. request: the sealed one it answers; empty for one that came in the clear."""
    sealed = _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(public), _of(request))
    return msgspec.json.encode({"sealed": encode(sealed)})


def open_answer(sealed: bytes, private: bytes, request: bytes) -> bytes:
    """As a device does it. Raises Unopenable."""
    return _open(sealed, private, _of(request))


def encode(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """The bytes of base64url, with padding or without. Raises ValueError."""
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("not base64url") from None


def _of(request: bytes) -> bytes:
    return _ANSWER + hashlib.sha256(request).digest()


def _open(sealed: bytes, private: bytes, info: bytes) -> bytes:
    try:
        return _SUITE.decrypt(sealed, X25519PrivateKey.from_private_bytes(private), info)
    except (InvalidTag, ValueError):
        raise Unopenable from None
