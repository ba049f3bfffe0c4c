"""The server's keys: keyed digests to look secrets up by, and sealed copies of what must be shown again.

DESIGN §4, "Secrets". Keys live outside the database and have versions, so that they can be rotated.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

if TYPE_CHECKING:
    from hashlib import _Hash

KEY_LENGTH = 32
_NONCE_LENGTH = 12
_BLOCK_LENGTH = 64  # of SHA-256


class Unsealable(ValueError):  # noqa: N818
    """A sealed copy does not open: other keys, another row, or altered bytes."""


@dataclass(frozen=True)
class ServerKeys:
    """Digest and sealing keys (32 bytes each) by version, 1-255; the highest version is the current one."""

    digest_keys: Mapping[int, bytes]
    sealing_keys: Mapping[int, bytes]
    _begun: dict[str, tuple["_Hash", "_Hash"]] = field(default_factory=dict, init=False, compare=False)
    _ciphers: dict[int, AESGCM] = field(default_factory=dict, init=False, compare=False)

    def __repr__(self) -> str:
        return f"<ServerKeys digest {sorted(self.digest_keys)} sealing {sorted(self.sealing_keys)}>"

    def digest(self, purpose: str, *parts: str | bytes) -> bytes:
        """HMAC-SHA256 over a purpose and its parts, each with its length: 32 bytes, under the current key.

        A digest for one purpose is none for another.
        """
        begun = self._begun.get(purpose)
        if begun is None:
            begun = self._begun[purpose] = self._begin(purpose)
        inner, outer = begun[0].copy(), begun[1].copy()
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            inner.update(len(data).to_bytes(4) + data)
        outer.update(inner.digest())
        return outer.digest()

    def verify(self, expected: bytes, purpose: str, *parts: str | bytes) -> bool:
        """Whether `expected` is the digest of the parts, in constant time."""
        return hmac.compare_digest(expected, self.digest(purpose, *parts))

    def seal(self, plaintext: bytes, context: bytes, nonce: bytes) -> bytes:
        """AES-256-GCM: version byte, nonce (12 random bytes), ciphertext with tag. Opens in its context only."""
        version = max(self.sealing_keys)
        return bytes((version,)) + nonce + self._cipher(version).encrypt(nonce, plaintext, context)

    def unseal(self, sealed: bytes, context: bytes) -> bytes:
        """Open what `seal` made. Raises Unsealable."""
        if not sealed or sealed[0] not in self.sealing_keys:
            raise Unsealable("sealed under a key that this server does not have")
        nonce, ciphertext = sealed[1 : 1 + _NONCE_LENGTH], sealed[1 + _NONCE_LENGTH :]
        try:
            return self._cipher(sealed[0]).decrypt(nonce, ciphertext, context)
        except (InvalidTag, ValueError):
            raise Unsealable("sealed under another key or for another row") from None

    def _begin(self, purpose: str) -> tuple["_Hash", "_Hash"]:
        """HMAC's two hashes (RFC 2104 §4) with key and purpose in them: a copy costs a third of beginning anew."""
        key = self.digest_keys[max(self.digest_keys)].ljust(_BLOCK_LENGTH, b"\0")
        inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        inner.update(len(purpose.encode()).to_bytes(4) + purpose.encode())
        return inner, hashlib.sha256(bytes(byte ^ 0x5C for byte in key))

    def _cipher(self, version: int) -> AESGCM:
        cipher = self._ciphers.get(version)
        if cipher is None:
            cipher = self._ciphers[version] = AESGCM(self.sealing_keys[version])
        return cipher
