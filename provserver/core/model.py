"""The nouns of provisioning: profiles, keys, devices, credentials, and what a request found of them."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias
from uuid import UUID

from msgspec import Struct

RESERVED_IDS = frozenset({"provision", "device", "mgmt_device"})
"""Can never be a token, user name or client id of a device: they mean something at CONNECT."""

PROVISION_STATE = "provisionState"
"""The server attribute that says a device has been provisioned."""

PROVISIONED = "provisioned"

CREDENTIALS_EXPIRE_AT = "credentialsExpireAt"
"""The shared attribute that tells a device when its credentials end (milliseconds since the epoch), before they do."""


class Transport(StrEnum):
    """The device side's protocols."""

    HTTP = "HTTP"
    MQTT = "MQTT"
    COAP = "COAP"
    BLYNK = "BLYNK"  # Blynk's native protocol


class ProvisionStrategy(StrEnum):
    """How a profile checks the devices that present its key."""

    ALLOW_CREATE_NEW_DEVICES = "ALLOW_CREATE_NEW_DEVICES"
    CHECK_PRE_PROVISIONED_DEVICES = "CHECK_PRE_PROVISIONED_DEVICES"
    X509_CERTIFICATE_CHAIN = "X509_CERTIFICATE_CHAIN"
    DISABLED = "DISABLED"


class ReprovisionPolicy(StrEnum):
    """What a provisioned device gets that asks again without a proof of its own."""

    DENY = "deny"
    UNTIL_FIRST_USE = "until_first_use"
    RETURN_SAME = "return_same"
    ROTATE = "rotate"


class ClonePolicy(StrEnum):
    """What is done where a device seems to be there twice. Only two holders of valid credentials cost it its own."""

    IGNORE = "ignore"
    REPORT = "report"
    QUARANTINE = "quarantine"


class ApprovalState(StrEnum):
    """What an operator has said of a request."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class NameSource(StrEnum):
    """Where a client certificate has the device's name: its subject's first CN, or its alternative names of a kind."""

    CN = "cn"
    SAN_DNS = "san-dns"
    SAN_URI = "san-uri"
    SAN_EMAIL = "san-email"


class CredentialsType(StrEnum):
    """What a device authenticates with."""

    ACCESS_TOKEN = "ACCESS_TOKEN"  # noqa: S105 - a type, not a token
    X509_CERTIFICATE = "X509_CERTIFICATE"
    MQTT_BASIC = "MQTT_BASIC"


class Origin(StrEnum):
    """Who chose the credentials. What an operator imported is never replaced by a device."""

    GENERATED = "generated"
    SUPPLIED = "supplied"
    IMPORTED = "imported"


@dataclass(frozen=True, slots=True)
class PreSharedKey:
    """What an identity of DTLS-PSK, TLS-PSK or OSCORE stands for (DESIGN §2).

    identity: the device id, or a provision key. key: the device's access token, or the provision secret.
    id_digest: of the credentials that the token is; None for a provision key.
    """

    identity: str
    key: bytes = field(repr=False)
    id_digest: bytes | None = None


class Peer(Struct, frozen=True, gc=False):
    """Who asked: the transport it came by, its address without the port, and what its channel has proved.

    certificates: DER, leaf first, as presented in the handshake; the leaf's private key is proved, nothing else is.
    psk: the shared key that the channel is protected with. proved: that the address is its own, though datagrams come
    from it; with TCP it always is.
    """

    transport: Transport
    address: str
    certificates: tuple[bytes, ...] = ()
    psk: PreSharedKey | None = None
    proved: bool = False


class Authenticated(Struct, frozen=True, gc=False):
    """A device that has authenticated, as it was then.

    id_digest, issued_at: the credentials it used; those that replace them under the same id are others.
    profile_revision: what was cached of the profile is good for this one.
    """

    device_id: UUID
    name: str
    organization_id: UUID
    profile_id: UUID
    profile_revision: int
    gateway: bool
    id_digest: bytes
    issued_at: datetime


@dataclass(frozen=True, slots=True)
class MqttBasic:
    """MQTT basic credentials; a part that was not given is the empty string."""

    client_id: str = ""
    user_name: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return "<MqttBasic>"


class Credentials(Struct, frozen=True, gc=False):
    """Credentials of a device.

    id: the key they are looked up by, unique across everything (spec thingsboard §5.7).
    value: the token, the normalised certificate text, or the MQTT basic triple.
    """

    type: CredentialsType
    id: str
    value: str | MqttBasic

    def __repr__(self) -> str:  # the id of a token is the token
        return f"<Credentials {self.type}>"


class SigningRequest(Struct, frozen=True, gc=False):
    """A PKCS#10 request that was found good: its key (SubjectPublicKeyInfo, DER) and the common name that it gives."""

    public_key: bytes
    common_name: str = ""


@dataclass(frozen=True, slots=True)
class MetadataField:
    """A typed field that every device of a profile has; see core/metadata.py for the types.

    unique: no two devices of a profile have the same value. options: of the type `list`, what may be chosen.
    default: what a device gets that brings no value; the empty string is none.
    """

    name: str
    type: str = "text"
    unique: bool = False
    options: tuple[str, ...] = ()
    default: str = ""


@dataclass(frozen=True, slots=True)
class Datastream:
    """A named channel of a profile's devices: a virtual pin, its type and its range."""

    name: str
    pin: str
    type: str = "double"
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class ChainRules:
    """What a profile makes of certificate chains that lead to one of its CAs (spec thingsboard §6.2).

    name_pattern: an RE2 expression that is searched for: its first group is the device's name, or all it matches.
    """

    name_from: NameSource = NameSource.CN
    name_pattern: str = "(.*)"
    allow_create: bool = True


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A CA that a profile trusts: its certificate and, if there is one, its newest revocation list; DER."""

    certificate: bytes
    crl: bytes | None = None


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A device profile. `revision` changes with everything that a decision could depend on, keys included.

    two_sided_claim: a claim by QR code waits until the device confirms it.
    approval: who asks for credentials without a proof that they are his waits for an operator.
    credentials_lifetime: how long credentials are good that the server makes; None: tokens for ever.
    """

    id: UUID
    organization_id: UUID
    name: str
    template_id: str
    strategy: ProvisionStrategy
    reprovision_policy: ReprovisionPolicy
    revision: int
    created_at: datetime
    metadata_fields: tuple[MetadataField, ...] = ()
    datastreams: tuple[Datastream, ...] = ()
    chain: ChainRules = ChainRules()
    two_sided_claim: bool = False
    clone_policy: ClonePolicy = ClonePolicy.REPORT
    approval: bool = False
    credentials_lifetime: timedelta | None = None


Network: TypeAlias = IPv4Network | IPv6Network


MAX_USES = 1_000_000_000
"""The most that a budget may allow."""


@dataclass(frozen=True, slots=True)
class KeyBudget:
    """When, from where and how often a provision key is good; what is not given bounds nothing.

    not_before: from this moment on. not_after: until just before this moment. networks: from these addresses alone.
    max_uses: for so many provisionings in all; a repeat that is given what was given before is none. per_minute: for
    so many requests a minute.
    """

    not_before: datetime | None = None
    not_after: datetime | None = None
    networks: tuple[Network, ...] = ()
    max_uses: int | None = None
    per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class ProvisionKey:
    """A provision key of a profile, with the keyed digest of its secret. budget: None when nothing bounds it."""

    key: str
    secret_digest: bytes
    profile: DeviceProfile
    budget: KeyBudget | None = None

    def __repr__(self) -> str:
        return f"<ProvisionKey of {self.profile.name}>"


@dataclass(frozen=True, slots=True)
class StoredCredentials:
    """Credentials as a device has them; `pending` ones wait for their first use (policy `rotate`)."""

    credentials: Credentials
    origin: Origin
    pending: bool
    used: bool
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """What the store knows of a device when a request about it is decided.

    provision_state: the attribute of that name; None when it is absent.
    request_digest: of the request whose nonce this device holds; None once that nonce is spent.
    quarantined: it gets nothing until an operator releases it.
    """

    id: UUID
    profile_id: UUID
    name: str
    revision: int
    provision_state: str | None
    rearmed: bool
    request_digest: bytes | None
    credentials: tuple[StoredCredentials, ...]
    quarantined: bool = False

    @property
    def newest(self) -> StoredCredentials | None:
        """The credentials that the device was told last."""
        pending = [held for held in self.credentials if held.pending]
        return next(iter(pending or self.credentials), None)

    def expires_at(self, credentials: Credentials) -> datetime | None:
        """When credentials of it end; None when they do not."""
        return next((held.expires_at for held in self.credentials if held.credentials == credentials), None)


@dataclass(frozen=True, slots=True)
class Situation:
    """What a request found.

    named: the device of the name it gives; nonce_holder: the one provisioned with its nonce;
    credentials_holder: the id of the one that has credentials of the id it supplies. approval: what an operator has
    said of this request; None: nothing, as nobody was asked.
    """

    named: KnownDevice | None = None
    nonce_holder: KnownDevice | None = None
    credentials_holder: UUID | None = None
    approval: ApprovalState | None = None


VACANT = Situation()
"""Nothing found: what a request under ALLOW_CREATE_NEW_DEVICES is taken to find until a write says otherwise."""
