"""The form of a backup: a head with the server's keys, sealed under a passphrase; the database's dump; a seal over all.

    magic           16 bytes
    length          4 bytes, big-endian, of the head
    head            JSON (`Head`); its `keys`: nonce (12) and AES-256-GCM of the keys' JSON, base64
    dump            as pg_dump writes it (custom format)
    seal            HMAC-SHA256 over all that is before it, 32 bytes

Both keys are of scrypt (RFC 7914) over the passphrase.
"""

import base64
import hmac
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Struct

from provserver.core.ids import Randomness
from provserver.errors import Refused

if TYPE_CHECKING:
    from hmac import HMAC

MAGIC = b"provserver-back\x01"
SEAL_LENGTH = 32
MAX_HEAD = 1 << 20

_SALT_LENGTH = 16
_NONCE_LENGTH = 12
_COST, _BLOCK, _LANES = 1 << 16, 8, 1
_MAX_COST = 1 << 20


class Head(Struct, frozen=True, rename="camel"):
    """What a backup says of itself. schema: migrations as (number, name, checksum). postgres: major version of both."""

    created_at: str
    release: str
    postgres: int
    schema: list[tuple[int, str, str]]
    salt: str
    keys: str
    cost: int = _COST


class Seal:
    """The keys of a passphrase, and the running seal over a file."""

    def __init__(self, passphrase: str, salt: bytes, cost: int = _COST) -> None:
        made = Scrypt(salt=salt, length=64, n=cost, r=_BLOCK, p=_LANES).derive(passphrase.encode("utf-8", "replace"))
        self._cipher = AESGCM(made[:32])
        self._running: HMAC = hmac.new(made[32:], digestmod=sha256)

    def take(self, data: bytes) -> bytes:
        """Have the seal be over this, too; returns it."""
        self._running.update(data)
        return data

    def finish(self) -> bytes:
        """The seal over all that was taken."""
        return self._running.digest()

    def holds(self, seal: bytes) -> bool:
        """Whether this is the seal, in constant time."""
        return hmac.compare_digest(seal, self.finish())

    def close_keys(self, keys: str, random: Randomness) -> str:
        """The server's keys, sealed."""
        nonce = random(_NONCE_LENGTH)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, keys.encode(), MAGIC)).decode()

    def open_keys(self, sealed: str) -> str:
        """What `close_keys` sealed. Raises Refused."""
        try:
            data = base64.b64decode(sealed, validate=True)
            return self._cipher.decrypt(data[:_NONCE_LENGTH], data[_NONCE_LENGTH:], MAGIC).decode()
        except (InvalidTag, ValueError):
            raise Refused("The passphrase is not the one that this backup was made with.") from None


def begin(
    passphrase: str,
    keys: str,
    schema: list[tuple[int, str, str]],
    *,
    created_at: str,
    release: str,
    postgres: int,
    random: Randomness,
) -> tuple[Seal, bytes]:
    """The seal of a new backup, and what it begins with."""
    salt = random(_SALT_LENGTH)
    seal = Seal(passphrase, salt)
    head = Head(created_at, release, postgres, schema, base64.b64encode(salt).decode(), seal.close_keys(keys, random))
    encoded = msgspec.json.encode(head)
    return seal, seal.take(MAGIC + len(encoded).to_bytes(4) + encoded)


def read_head(start: bytes) -> tuple[Head, int]:
    """The head of a backup, in its first bytes, and where the dump begins. Raises Refused."""
    length = int.from_bytes(start[len(MAGIC) : len(MAGIC) + 4])
    end = len(MAGIC) + 4 + length
    if not start.startswith(MAGIC) or length > MAX_HEAD or len(start) < end:
        raise _malformed()
    try:
        head = msgspec.json.decode(start[len(MAGIC) + 4 : end], type=Head)
        base64.b64decode(head.salt, validate=True)
    except (msgspec.MsgspecError, ValueError):
        raise _malformed() from None
    if not 1 < head.cost <= _MAX_COST or head.cost & (head.cost - 1):
        raise _malformed()
    return head, end


def seal_of(head: Head, passphrase: str) -> Seal:
    """The keys of the passphrase that a backup was made with, or another."""
    return Seal(passphrase, base64.b64decode(head.salt), head.cost)


def _malformed() -> Refused:
    return Refused("This is no backup of provserver, or not all of it.")
