"""SRP-6a (RFC 5054): the client's part, and the proofs as ESP-IDF's protocomm makes them.

k and u are hashed over numbers padded to the prime's length (RFC 5054), while the session key and both proofs are
hashed over numbers without leading zeros, and over public keys as they were sent.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

Entropy = Callable[[int], bytes]
"""So many random bytes."""

SECRET_LENGTH = 32


class Unsafe(ValueError):  # noqa: N818
    """What the other side sent would give the secret away (RFC 5054, 2.5.4)."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A group and a hash function. prime: safe; digest: as hashlib names it."""

    prime: int
    generator: int
    digest: str

    @property
    def length(self) -> int:
        """Bytes of the prime."""
        return (self.prime.bit_length() + 7) // 8

    def hash(self, *parts: bytes) -> bytes:
        """The digest of all parts in a row."""
        return hashlib.new(self.digest, b"".join(parts)).digest()

    def number(self, *parts: bytes) -> int:
        """The digest, as a number."""
        return int.from_bytes(self.hash(*parts))

    def pad(self, value: int) -> bytes:
        """A number, as long as the prime is."""
        return value.to_bytes(self.length)

    def multiplier(self) -> int:
        """The number that is called k."""
        return self.number(self.pad(self.prime), self.pad(self.generator))


ESP = Suite(
    int(
        "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74"
        "020bbea63b139b22514a08798e3404ddef9519b3cd3a431b302b0a6df25f1437"
        "4fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed"
        "ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf05"
        "98da48361c55d39a69163fa8fd24cf5f83655d23dca3ad961c62f356208552bb"
        "9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b"
        "e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf695581718"
        "3995497cea956ae515d2261898fa051015728e5a8aaac42dad33170d04507a33"
        "a85521abdf1cba64ecfb850458dbef0a8aea71575d060c7db3970f85a6e1e4c7"
        "abf5ae8cdb0933d71e8c94e04a25619dcee3d2261ad2ee6bf12ffa06d98a0864"
        "d87602733ec86a64521f2b18177b200cbbe117577a615d6c770988c0bad946e2"
        "08e24fa074e5ab3143db5bfce0fd108e4b82d120a93ad2caffffffffffffffff",
        16,
    ),
    5,
    "sha512",
)
"""The 3072-bit group of RFC 5054 with SHA-512: the only one that ESP-IDF has."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """key: known to both sides if both know the password. proof: for the server; answer: what it has to answer it."""

    key: bytes = field(repr=False)
    proof: bytes = field(repr=False)
    answer: bytes = field(repr=False)


class Client:
    """One run. username, password: as the server's verifier was made of. secret: `a`, never used twice.

    public: what the server is to get.
    """

    def __init__(self, suite: Suite, username: bytes, password: bytes, secret: int) -> None:
        self._suite = suite
        self._username = username
        self._password = password
        self._secret = secret
        self._value = pow(suite.generator, secret, suite.prime)
        self.public = _shortest(self._value)

    @classmethod
    def fresh(cls, suite: Suite, username: bytes, password: bytes, entropy: Entropy) -> Self:
        """A run whose public key is as long as the prime: ESP-IDF refuses one that is shorter."""
        while True:
            client = cls(suite, username, password, int.from_bytes(entropy(SECRET_LENGTH)))
            if len(client.public) == suite.length:
                return client

    def premaster(self, salt: bytes, server: bytes) -> int:
        """S. server: its public key. Raises Unsafe."""
        suite = self._suite
        theirs = int.from_bytes(server)
        if not 0 < theirs < suite.prime:
            raise Unsafe("the server's public key is out of range")
        scrambler = suite.number(suite.pad(self._value), suite.pad(theirs))
        if not scrambler:
            raise Unsafe("the public keys cancel each other out")
        private = suite.number(salt, suite.hash(self._username, b":", self._password))
        verifier = pow(suite.generator, private, suite.prime)
        base = (theirs - suite.multiplier() * verifier) % suite.prime
        return pow(base, self._secret + scrambler * private, suite.prime)

    def agree(self, salt: bytes, server: bytes) -> Agreement:
        """What comes of the server's salt and public key. Raises Unsafe."""
        suite = self._suite
        key = suite.hash(_shortest(self.premaster(salt, server)))
        group = bytes(
            p ^ g
            for p, g in zip(suite.hash(suite.pad(suite.prime)), suite.hash(suite.pad(suite.generator)), strict=True)
        )
        proof = suite.hash(group, suite.hash(self._username), salt, self.public, server, key)
        return Agreement(key, proof, suite.hash(self.public, proof, key))


def _shortest(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8 or 1)
