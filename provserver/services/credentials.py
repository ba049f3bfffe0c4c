"""Devices' credentials, and the CAs that issue them, as the server keeps them: sealed; and when they end."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from provserver.core import ids, signing, x509
from provserver.core.model import Credentials, CredentialsType, MqttBasic
from provserver.core.secrets import ServerKeys
from provserver.core.signing import Issuer
from provserver.store.issuing import IssuerRow

_sealed_value = msgspec.json.Decoder(tuple[str, str | MqttBasic])


def seal_credentials(keys: ServerKeys, device_id: UUID, credentials: Credentials, random: ids.Randomness) -> bytes:
    """A sealed copy that opens for this device and type only."""
    plaintext = msgspec.json.encode((credentials.id, credentials.value))
    return keys.seal(plaintext, credentials_context(device_id.bytes, credentials.type), random(12))


def credentials_context(device_id: bytes, type_: str) -> bytes:
    """What credentials are sealed for."""
    return device_id + type_.encode()


def id_in(plaintext: bytes) -> str:
    """The id of credentials, as they were before they were sealed."""
    return _sealed_value.decode(plaintext)[0]


def open_credentials(keys: ServerKeys, device_id: UUID, type_: CredentialsType, sealed: bytes) -> Credentials:
    """What `seal_credentials` sealed. Raises Unsealable."""
    id_, value = _sealed_value.decode(keys.unseal(sealed, credentials_context(device_id.bytes, type_)))
    return Credentials(type_, id_, value)


def open_issuer(keys: ServerKeys, profile_id: UUID, row: IssuerRow) -> Issuer:
    """A profile's issuing CA. Raises ValueError, Unsealable among them."""
    return signing.load_issuer(row.certificates, keys.unseal(row.key_sealed, issuer_context(profile_id)))


def issuer_context(profile_id: UUID) -> bytes:
    """What the key of a profile's issuing CA is sealed for."""
    return b"issuing-ca:" + profile_id.bytes


def expiry(credentials: Credentials, lifetime: timedelta | None, now: float) -> datetime | None:
    """When credentials end that the server makes now (seconds since the epoch): a certificate as it says itself."""
    if credentials.type is CredentialsType.X509_CERTIFICATE:
        return x509.expires_at(str(credentials.value))
    return None if lifetime is None else datetime.fromtimestamp(int(now), UTC) + lifetime
