"""The server's keys: keyed digests to look secrets up by, and sealed copies of what must be shown again.

DESIGN §4, "Secrets". Keys live outside the database and have versions, so that they can be rotated: a version is a
digest key and a sealing key, and the first byte of what is sealed tells the version of the whole row.
"""

import hashlib
import hmac
import math
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


CONVERTED = frozenset({"credentials", "qr-token", "provision-secret"})
"""Purposes whose digests a rotation makes anew from sealed copies; after that only the current version counts."""


@dataclass
class ServerKeys:
    """Digest and sealing keys (32 bytes each) by version, 1-255; one version writes, all of them are looked up by.

    It is shared by all who digest and seal: `take_up` changes it in place. current: the version that writes; the
    highest unless it is given. settled: whether everything that can be converted is under the current version.
    good_until: `time.monotonic()` after which a version may be in use that this process has not heard of.
    """

    digest_keys: Mapping[int, bytes]
    sealing_keys: Mapping[int, bytes]
    current: int = 0
    settled: bool = False
    good_until: float = field(default=math.inf, compare=False)
    epoch: int = field(default=0, init=False, compare=False)
    several: bool = field(default=False, init=False, compare=False)
    _sealing: int = field(default=0, init=False, compare=False)
    _begun: dict[str, tuple["_Hash", "_Hash"]] = field(default_factory=dict, init=False, compare=False)
    _others: list["ServerKeys"] = field(default_factory=list, init=False, compare=False)
    _ciphers: dict[int, AESGCM] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        self.take_up(self.digest_keys, self.sealing_keys, self.current, settled=self.settled)

    def __repr__(self) -> str:
        return f"<ServerKeys digest {sorted(self.digest_keys)} sealing {sorted(self.sealing_keys)}>"

    def take_up(
        self,
        digest_keys: Mapping[int, bytes],
        sealing_keys: Mapping[int, bytes],
        current: int = 0,
        *,
        settled: bool = False,
    ) -> None:
        """Work with these from now on. `epoch` counts how often that was done; `several`: whether there are others."""
        self.digest_keys, self.sealing_keys = dict(digest_keys), dict(sealing_keys)
        self.current = current or max(self.digest_keys or self.sealing_keys, default=0)
        self._sealing = self.current if self.current in self.sealing_keys else max(self.sealing_keys, default=0)
        self.settled = settled
        self.epoch += 1
        self._begun = {}
        self._ciphers = {}
        others = sorted(self.digest_keys.keys() - {self.current}, reverse=True)
        self._others = [ServerKeys({version: self.digest_keys[version]}, {}) for version in others]
        self.several = bool(others)

    @property
    def unsettled(self) -> bool:
        """Whether look-ups of credentials have to be made under several versions."""
        return self.several and not self.settled

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

    def digests(self, purpose: str, *parts: str | bytes) -> tuple[bytes, ...]:
        """What the parts may be kept as: a digest under every version there is, the current one's first."""
        if not self.several or (self.settled and purpose in CONVERTED):
            return (self.digest(purpose, *parts),)
        return (self.digest(purpose, *parts), *(other.digest(purpose, *parts) for other in self._others))

    def verify(self, expected: bytes, purpose: str, *parts: str | bytes) -> bool:
        """Whether `expected` is the digest of the parts under any version, each in constant time."""
        if hmac.compare_digest(expected, self.digest(purpose, *parts)):
            return True
        return any([other.verify(expected, purpose, *parts) for other in self._others])  # noqa: C419 - never short

    def seal(self, plaintext: bytes, context: bytes, nonce: bytes) -> bytes:
        """AES-256-GCM: version byte, nonce (12 random bytes), ciphertext with tag. Opens in its context only."""
        version = self._sealing
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
        key = self.digest_keys[self.current].ljust(_BLOCK_LENGTH, b"\0")
        inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        inner.update(len(purpose.encode()).to_bytes(4) + purpose.encode())
        return inner, hashlib.sha256(bytes(byte ^ 0x5C for byte in key))

    def _cipher(self, version: int) -> AESGCM:
        cipher = self._ciphers.get(version)
        if cipher is None:
            cipher = self._ciphers[version] = AESGCM(self.sealing_keys[version])
        return cipher
