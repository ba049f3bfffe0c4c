"""Static tokens: access tokens made before their devices are, each with the QR token that claims the device.

The ids of a batch are a range: a UUIDv7 whose last 32 bits are zero names the batch, and its tokens count up from it.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from msgspec import Struct

from provserver.core import ids, lorawan, qr, tr005
from provserver.core.secrets import ServerKeys

QR_PREFIX: Final = "sqr_"
QR_LENGTH: Final = 32
"""Characters after the prefix."""

OWNER_TOKEN_LENGTH: Final = 20
"""Hexadecimal digits."""

_COUNT: Final = (1 << 32) - 1


class TokenStatus(StrEnum):
    """Whether a customer has claimed what the token was made for."""

    UNCLAIMED = "UNCLAIMED"
    CLAIMED = "CLAIMED"


class StaticToken(Struct, frozen=True, gc=False):
    """A static token without its secrets.

    number: for people. organization: that made it. name, metadata: what its device is to have. unit, unit_state,
    unit_at: the thing on the line that it is written to. has_device: its device is made, and has the token's id;
    device_name, holder_id, owner_id: that device's. holder, owner: their names, or e-mail.
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
    holder: str | None = None
    owner: str | None = None

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


class LorawanForm(NamedTuple):
    """How the codes of a profile's tokens are written that are LoRaWAN devices'. owner_token: with it."""

    profile_id: str
    owner_token: bool


class Labelled(Protocol):
    """Of a token what its QR code is made of, beside the QR token."""

    @property
    def organization_number(self) -> int:
        """Of its maker."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """See `StaticToken`."""


def payload(token: Labelled, qr_token: str, form: LorawanForm | None = None) -> str:
    """What a token's QR code says: a TR005 code in that form, if the token has EUIs; else `sqr_…+1`."""
    eui, join_eui = token.metadata.get(lorawan.DEVICE_EUI), token.metadata.get(lorawan.JOIN_EUI)
    if form is not None and eui and join_eui:
        proof = owner_token(token.metadata, qr_token) if form.owner_token else ""
        with suppress(tr005.InvalidCode):  # an owner token that no such code can have
            return tr005.encode(tr005.DeviceCode(join_eui, eui, form.profile_id, proof))
    return qr.payload(qr_token, token.organization_number)


def owner_token(metadata: Mapping[str, str], qr_token: str) -> str:
    """What a token's TR005 code proves ownership with: the printer's, or 80 bits that come of the QR token.

    Those do not tell it.
    """
    given = metadata.get(lorawan.OWNER_TOKEN, "").upper()
    return given or hashlib.sha256(b"owner-token:" + qr_token.encode()).hexdigest()[:OWNER_TOKEN_LENGTH].upper()


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


def batch_of(token: UUID) -> UUID:
    """The batch of a token, by its id."""
    return UUID(int=token.int & ~_COUNT)


def place_of(token: UUID) -> int:
    """A token's place in its batch, from 1."""
    return token.int & _COUNT


def batch_range(batch: UUID) -> tuple[UUID, UUID]:
    """The first and the last id that tokens of a batch can have."""
    return UUID(int=batch.int & ~_COUNT | 1), UUID(int=batch.int | _COUNT)


def qr_context(token_id: UUID) -> bytes:
    """What a QR token is sealed for."""
    return b"qr-token:" + token_id.bytes
