"""The server's keys: keyed digests to look secrets up by, and sealed copies of what must be shown again.

DESIGN §4, "Secrets". Keys live outside the database and have versions, so that they can be rotated.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_LENGTH = 32
_NONCE_LENGTH = 12


class Unsealable(ValueError):  # noqa: N818
    """A sealed copy does not open: other keys, another row, or altered bytes."""


@dataclass(frozen=True)
class ServerKeys:
    """Digest and sealing keys (32 bytes each) by version, 1-255; the highest version is the current one."""

    digest_keys: Mapping[int, bytes]
    sealing_keys: Mapping[int, bytes]

    def __repr__(self) -> str:
        return f"<ServerKeys digest {sorted(self.digest_keys)} sealing {sorted(self.sealing_keys)}>"

    def digest(self, purpose: str, *parts: str | bytes) -> bytes:
        """HMAC-SHA256 over a purpose and its parts, each with its length: 32 bytes, under the current key.

        A digest for one purpose is none for another.
        """
        message = bytearray()
        for part in (purpose, *parts):
            data = part.encode() if isinstance(part, str) else part
            message += len(data).to_bytes(4) + data
        return hmac.digest(self.digest_keys[max(self.digest_keys)], message, "sha256")

    def verify(self, expected: bytes, purpose: str, *parts: str | bytes) -> bool:
        """Whether `expected` is the digest of the parts, in constant time."""
        return hmac.compare_digest(expected, self.digest(purpose, *parts))

    def seal(self, plaintext: bytes, context: bytes, nonce: bytes) -> bytes:
        """AES-256-GCM: version byte, nonce (12 random bytes), ciphertext with tag. Opens in its context only."""
        version = max(self.sealing_keys)
        return bytes([version]) + nonce + AESGCM(self.sealing_keys[version]).encrypt(nonce, plaintext, context)

    def unseal(self, sealed: bytes, context: bytes) -> bytes:
        """Open what `seal` made. Raises Unsealable."""
        key = self.sealing_keys.get(sealed[0]) if sealed else None
        if key is None:
            raise Unsealable("sealed under a key that this server does not have")
        nonce, ciphertext = sealed[1 : 1 + _NONCE_LENGTH], sealed[1 + _NONCE_LENGTH :]
        try:
            return AESGCM(key).decrypt(nonce, ciphertext, context)
        except (InvalidTag, ValueError):
            raise Unsealable("sealed under another key or for another row") from None
