"""Static tokens: access tokens made before their devices are, each with the QR token that claims the device.

The ids of a batch are a range: a UUIDv7 whose last 32 bits are zero names the batch, and its tokens count up from it.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from msgspec import Struct

from provserver.core import ids
from provserver.core.secrets import ServerKeys

QR_PREFIX: Final = "sqr_"
QR_LENGTH: Final = 32
"""Characters after the prefix."""

_COUNT: Final = (1 << 32) - 1


class TokenStatus(StrEnum):
    """Whether a customer has claimed what the token was made for."""

    UNCLAIMED = "UNCLAIMED"
    CLAIMED = "CLAIMED"


class StaticToken(Struct, frozen=True, gc=False):
    """A static token without its secrets.

    number: for people. organization: that made it. name, metadata: what its device is to have. unit, unit_state,
    unit_at: the thing on the line that it is written to. has_device: its device is made, and has the token's id;
    device_name, holder_id, owner_id: that device's.
    """

    id: UUID
    number: int
    organization_id: UUID
    organization_number: int
    organization: str
    profile_id: UUID
    profile: str
    template_id: str
    status: TokenStatus
    claimed_at: datetime | None
    name: str | None
    metadata: Mapping[str, str]
    unit: str | None
    unit_state: str | None
    unit_at: datetime | None
    revision: int
    created_at: datetime
    device_name: str | None = None
    holder_id: UUID | None = None
    owner_id: UUID | None = None

    @property
    def has_device(self) -> bool:
        """Whether its device has been made: by its first connection, or by a claim."""
        return self.device_name is not None


class Batch(Struct, frozen=True):
    """Tokens that were made together. first_number, last_number: theirs, though others may have some in between."""

    id: UUID
    organization_id: UUID
    profile_id: UUID
    profile: str
    count: int
    first_number: int
    last_number: int


def qr_token(random: ids.Randomness) -> str:
    """A new QR token; it has nothing to do with the access token beside it."""
    return QR_PREFIX + ids.alphanumeric(QR_LENGTH, random)


def qr_digest(keys: ServerKeys, qr: str) -> bytes:
    """What a QR token is looked up by."""
    return keys.digest("qr-token", qr)


def qr_digests(keys: ServerKeys, qr: str) -> tuple[bytes, ...]:
    """What a QR token may be kept as, under every version of the keys that there is."""
    return keys.digests("qr-token", qr)


def seal_qr(keys: ServerKeys, token_id: UUID, qr: str, random: ids.Randomness) -> bytes:
    """A sealed copy that opens for this static token only."""
    return keys.seal(qr.encode(), qr_context(token_id), random(12))


def open_qr(keys: ServerKeys, token_id: UUID, sealed: bytes) -> str:
    """What `seal_qr` sealed. Raises Unsealable."""
    return keys.unseal(sealed, qr_context(token_id)).decode()


def batch_id(now: float, random: ids.Randomness) -> UUID:
    """The id of a batch that begins. now: seconds since the epoch."""
    return UUID(int=ids.uuid7(now, random).int & ~_COUNT)


def token_id(batch: UUID, place: int) -> UUID:
    """The id of a batch's token, by its place from 1."""
    return UUID(int=batch.int + place)


def batch_range(batch: UUID) -> tuple[UUID, UUID]:
    """The first and the last id that tokens of a batch can have."""
    return UUID(int=batch.int & ~_COUNT | 1), UUID(int=batch.int | _COUNT)


def qr_context(token_id: UUID) -> bytes:
    """What a QR token is sealed for."""
    return b"qr-token:" + token_id.bytes
