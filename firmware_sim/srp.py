"""SRP-6a as a device with ESP-IDF does it: it keeps a salt and a verifier, and never the password itself."""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Self

LENGTH = 384
"""Bytes of the prime, and of the public key that a client must send."""

G = 5
N = int(
    """
    FFFFFFFF FFFFFFFF C90FDAA2 2168C234 C4C6628B 80DC1CD1 29024E08 8A67CC74 020BBEA6 3B139B22 514A0879 8E3404DD
    EF9519B3 CD3A431B 302B0A6D F25F1437 4FE1356D 6D51C245 E485B576 625E7EC6 F44C42E9 A637ED6B 0BFF5CB6 F406B7ED
    EE386BFB 5A899FA5 AE9F2411 7C4B1FE6 49286651 ECE45B3D C2007CB8 A163BF05 98DA4836 1C55D39A 69163FA8 FD24CF5F
    83655D23 DCA3AD96 1C62F356 208552BB 9ED52907 7096966D 670C354E 4ABC9804 F1746C08 CA18217C 32905E46 2E36CE3B
    E39E772C 180E8603 9B2783A2 EC07A28F B5C55DF0 6F4C52C9 DE2BCBF6 95581718 3995497C EA956AE5 15D22618 98FA0510
    15728E5A 8AAAC42D AD33170D 04507A33 A85521AB DF1CBA64 ECFB8504 58DBEF0A 8AEA7157 5D060C7D B3970F85 A6E1E4C7
    ABF5AE8C DB0933D7 1E8C94E0 4A25619D CEE3D226 1AD2EE6B F12FFA06 D98A0864 D8760273 3EC86A64 521F2B18 177B200C
    BBE11757 7A615D6C 770988C0 BAD946E2 08E24FA0 74E5AB31 43DB5BFC E0FD108E 4B82D120 A93AD2CA FFFFFFFF FFFFFFFF
    """.translate({ord(blank): None for blank in " \n"}),
    16,
)
"""RFC 5054's group of 3072 bits."""


class Refused(ValueError):  # noqa: N818
    """A public key that would make the session's key one that everybody knows."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a factory writes into the device."""

    salt: bytes
    value: int

    @classmethod
    def of(cls, username: str, password: str, salt: bytes) -> Self:
        """From what is on the label."""
        inner = _sha512(f"{username}:{password}".encode())
        return cls(salt, pow(G, int.from_bytes(_sha512(salt + inner)), N))


class Exchange:
    """One client's attempt. client: its public key. secret: `b`. Raises Refused."""

    def __init__(self, verifier: Verifier, client: bytes, secret: int) -> None:
        a = int.from_bytes(client)
        if a % N == 0:
            raise Refused("the client's public key is a multiple of the prime")
        k = int.from_bytes(_sha512(N.to_bytes(LENGTH) + G.to_bytes(LENGTH)))
        b = (k * verifier.value + pow(G, secret, N)) % N
        u = int.from_bytes(_sha512(a.to_bytes(LENGTH) + b.to_bytes(LENGTH)))
        premaster = pow(a * pow(verifier.value, u, N), secret, N)
        self._salt = verifier.salt
        self._client = client
        self.public = _bytes(b)
        self.key = _sha512(_bytes(premaster))

    def answer(self, username: bytes, proof: bytes) -> bytes | None:
        """What shows the client that the device knows the verifier; None: the client's proof is wrong."""
        group = int.from_bytes(_sha512(N.to_bytes(LENGTH))) ^ int.from_bytes(_sha512(G.to_bytes(LENGTH)))
        right = _sha512(group.to_bytes(64) + _sha512(username) + self._salt + self._client + self.public + self.key)
        if not hmac.compare_digest(right, proof):
            return None
        return _sha512(self._client + proof + self.key)


def _sha512(data: bytes) -> bytes:
    return hashlib.sha512(data).digest()


def _bytes(number: int) -> bytes:
    return number.to_bytes(max(1, -(-number.bit_length() // 8)))
