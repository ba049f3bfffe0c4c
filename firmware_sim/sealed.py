"""Sealed requests and answers, the device's side: HPKE (RFC 9180) in base mode, from its parts.

DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM. The request is sealed to the server's key in the firmware,
the answer to a key that the device draws, and sends within.
"""

import base64
import hashlib
import hmac

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from firmware_sim.errors import BadReply, NoAnswer

_KEM = b"KEM\x00\x20"
_SUITE = b"HPKE\x00\x20\x00\x01\x00\x01"
_LENGTH = 32

_REQUEST = b"provserver sealed request v1"
_ANSWER = b"provserver sealed answer v1"


class Envelope:
    """One exchange: seals the request, opens its answer.

    server: the server's public key, base64url; None: only the answer is sealed, and the request goes in the clear.
    private: the device's own key, 32 bytes, the same for each repeat of a request. Raises ValueError for a bad key.
    """

    def __init__(self, server: str | None, private: bytes) -> None:
        self._server = None if server is None else public_key(server)
        self._private = private
        self._sent = b""

    def request(self, members: dict[str, object]) -> bytes:
        """The body to send: other bytes each time, as a fresh key is drawn for each."""
        own = X25519PrivateKey.from_private_bytes(self._private).public_key().public_bytes_raw()
        body = msgspec.json.encode(members | {"answerKey": encode(own)})
        if self._server is None:
            return body
        self._sent = seal(body, self._server, _REQUEST, X25519PrivateKey.generate())
        return msgspec.json.encode({"sealed": encode(self._sent), "keyId": key_id(self._server)})

    def answer(self, body: bytes) -> bytes:
        """What is in an answer. Raises BadReply; NoAnswer when it came in the clear, as anybody may have sent it."""
        try:
            members = msgspec.json.decode(body)
            sealed = members.get("sealed")
        except (msgspec.DecodeError, UnicodeDecodeError, AttributeError):
            raise BadReply("the reply is not a JSON object") from None
        if sealed is None:
            error, wait = members.get("errorMsg"), members.get("retryAfter")
            raise NoAnswer(f"an answer in the clear: {error}", float(wait) if isinstance(wait, int) else None)
        try:
            return unseal(decode(sealed), self._private, _ANSWER + hashlib.sha256(self._sent).digest())
        except (InvalidTag, ValueError, TypeError):
            raise BadReply("the sealed answer does not open") from None


def new_key() -> bytes:
    """A private key, 32 bytes."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_key(text: str) -> bytes:
    """A public key's bytes, from base64url. Raises ValueError."""
    raw = decode(text)
    if len(raw) != _LENGTH:
        raise ValueError("not an X25519 public key in base64url")
    return raw


def key_id(public: bytes) -> str:
    """What the server knows its key by."""
    return hashlib.sha256(public).hexdigest()[:16]


def seal(plaintext: bytes, public: bytes, info: bytes, ephemeral: X25519PrivateKey, aad: bytes = b"") -> bytes:
    """RFC 9180 §6.1, SealBase: the ephemeral public key, then the ciphertext."""
    enc = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    key, nonce = _schedule(shared, enc + public, info)
    return enc + AESGCM(key).encrypt(nonce, plaintext, aad)


def unseal(sealed: bytes, private: bytes, info: bytes, aad: bytes = b"") -> bytes:
    """RFC 9180 §6.1, OpenBase. Raises InvalidTag, ValueError."""
    own = X25519PrivateKey.from_private_bytes(private)
    enc = sealed[:_LENGTH]
    shared = own.exchange(X25519PublicKey.from_public_bytes(enc))
    key, nonce = _schedule(shared, enc + own.public_key().public_bytes_raw(), info)
    return AESGCM(key).decrypt(nonce, sealed[_LENGTH:], aad)


def encode(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """The bytes of base64url without padding. Raises ValueError."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise ValueError("not base64url") from None


def _schedule(shared: bytes, kem_context: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Key and nonce of the only message (RFC 9180 §4.1 and §5.1, mode_base, no pre-shared key)."""
    secret = _expand(_KEM, _extract(_KEM, b"", b"eae_prk", shared), b"shared_secret", kem_context, 32)
    context = b"\0" + _extract(_SUITE, b"", b"psk_id_hash", b"") + _extract(_SUITE, b"", b"info_hash", info)
    secret = _extract(_SUITE, secret, b"secret", b"")
    return _expand(_SUITE, secret, b"key", context, 16), _expand(_SUITE, secret, b"base_nonce", context, 12)


def _extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + material, "sha256")


def _expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 §2.3, of one block: no more is asked."""
    return hmac.digest(key, length.to_bytes(2) + b"HPKE-v1" + suite + label + info + b"\x01", "sha256")[:length]
