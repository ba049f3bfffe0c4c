"""What a provision request deserves: every strategy, retry and conflict (spec thingsboard §4.2, §5; DESIGN §4).

In two steps, since the store is asked between them: `admit` needs the request and its key alone and yields an
`Intent`; `decide` weighs that against the `Situation` it found and yields what to do. Both may refuse.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from ipaddress import ip_address
from typing import NamedTuple

from msgspec import Struct

from provserver.core import credentials as building
from provserver.core import x509
from provserver.core.model import (
    PROVISIONED,
    VACANT,
    ApprovalState,
    Credentials,
    CredentialsType,
    DeviceProfile,
    KeyBudget,
    KnownDevice,
    Network,
    Origin,
    ProvisionKey,
    ProvisionStrategy,
    ReprovisionPolicy,
    SigningRequest,
    Situation,
    StoredCredentials,
)
from provserver.core.wire import LWM2M_CREDENTIALS, ProvisionRequest
from provserver.errors import Outcome

MAX_NAME_LENGTH = 255

# Python 3.11 finds a member of an enumeration by a property, at eight times the cost of a global.
_CHECK = ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES
_CHAIN = ProvisionStrategy.X509_CERTIFICATE_CHAIN
_DISABLED = ProvisionStrategy.DISABLED
_CREATE = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES
_SUPPLIED, _GENERATED = Origin.SUPPLIED, Origin.GENERATED
_X509 = CredentialsType.X509_CERTIFICATE

_NO_DIGEST = bytes(32)
_NONCE = re.compile(r"[A-Za-z0-9_-]{32,128}")
_MARKUP = re.compile(r"<[A-Za-z/!?]|\{\{")
_TRIMMED = "".join(map(chr, range(0x21)))


class Reason(Enum):
    """Why a request was refused: the outcome that the device is told, and the words for the operator."""

    NAME_BLANK = Outcome.FAILURE, "the device name is blank"
    NAME_TOO_LONG = Outcome.FAILURE, f"the device name is longer than {MAX_NAME_LENGTH} characters"
    NAME_MALFORMED = Outcome.FAILURE, "the device name has control characters or markup"
    NAME_REQUIRED = Outcome.FAILURE, "the strategy checks pre-provisioned devices: a device name is needed"
    NAME_TAKEN = Outcome.FAILURE, "a device of this name exists, and was not created by provisioning"
    NAME_ELSEWHERE = Outcome.FAILURE, "a device of this name belongs to another profile"
    KEY_MISSING = Outcome.NOT_FOUND, "the provision key or secret is empty"
    KEY_UNKNOWN = Outcome.NOT_FOUND, "no profile has this provision key"
    SECRET_WRONG = Outcome.NOT_FOUND, "the provision secret is wrong"
    PSK_UNPROVEN = Outcome.FAILURE, "a handshake did not prove the pre-shared key of the identity that it named"
    PROFILE_DISABLED = Outcome.NOT_FOUND, "the profile's strategy is DISABLED"
    KEY_NOT_YET_VALID = Outcome.NOT_FOUND, "the provision key is not valid yet"
    KEY_EXPIRED = Outcome.NOT_FOUND, "the provision key has expired"
    NETWORK_EXCLUDED = Outcome.NOT_FOUND, "the provision key is not valid from this address"
    CHAIN_ONLY = Outcome.NOT_FOUND, "the profile provisions by X.509 certificate chain, not by key and secret"
    KEY_USED_UP = Outcome.NOT_FOUND, "the provision key was used as often as it may be"
    CREDENTIALS_INVALID = Outcome.FAILURE, "the supplied credentials are not valid"
    CREDENTIALS_TAKEN = Outcome.FAILURE, "the supplied credentials are in use by another device"
    NONCE_MALFORMED = Outcome.INVALID, "requestNonce must be 32-128 characters of hex or base64url"
    NONCE_REUSED = Outcome.FAILURE, "requestNonce was used before, for another request"
    NOT_PRE_PROVISIONED = Outcome.FAILURE, "no device of this name was pre-provisioned in this profile"
    STATE_UNKNOWN = Outcome.FAILURE, "the device's provisionState is neither absent nor `provisioned`"
    ALREADY_PROVISIONED = (
        Outcome.FAILURE,
        "the device is provisioned already, and the policy is to deny repeats",
    )
    ALREADY_USED = Outcome.FAILURE, "the device is provisioned already, and has used its credentials"
    OTHER_CREDENTIALS = (
        Outcome.FAILURE,
        "the device is provisioned already, with other credentials than supplied",
    )

    # Of devices that an operator has a say in.
    QUARANTINED = Outcome.FAILURE, "the device is in quarantine"
    APPROVAL_PENDING = Outcome.PENDING, "the request waits for an operator's approval"
    APPROVAL_REJECTED = Outcome.FAILURE, "an operator has rejected the request"
    APPROVAL_UNNAMED = Outcome.INVALID, "deviceName or requestNonce is needed, as an operator approves each device"
    APPROVALS_FULL = Outcome.LIMITED, "too many requests of the profile wait for an operator's approval"

    # Of who asks too often; `services/limits.py` counts.
    ADDRESS_LOCKED = Outcome.LIMITED, "too many wrong guesses came from the address"
    ADDRESS_BUSY = Outcome.LIMITED, "too many requests came from the address"
    REFUSED_OFTEN = Outcome.LIMITED, "too many requests of the address were refused"
    NAME_REPEATED = Outcome.LIMITED, "the device has asked again too often"
    KEY_BUSY = Outcome.LIMITED, "the provision key was used as often as it may be in a minute"
    ORGANIZATION_BUSY = Outcome.LIMITED, "too many requests were for the organization"
    DEVICE_BUSY = Outcome.LIMITED, "the device has asked for other credentials too often"

    # Of client certificates; `core/chain.py` finds most of them.
    CERTIFICATE_MALFORMED = Outcome.FAILURE, "a certificate cannot be read"
    CERTIFICATE_TOO_LARGE = Outcome.FAILURE, "a certificate is too large"
    CHAIN_TOO_LONG = Outcome.FAILURE, "too many certificates were presented"
    SELF_SIGNED = Outcome.FAILURE, "the certificate is self-signed, and no device has it"
    MISSING_INTERMEDIATE = (
        Outcome.FAILURE,
        "the chain has a gap: an issuer was not presented, and is no profile's CA",
    )
    UNTRUSTED = Outcome.FAILURE, "the chain leads to a CA that no profile trusts"
    SIGNATURE_WRONG = Outcome.FAILURE, "a signature is not by the key of the issuer that the certificate names"
    WEAK_SIGNATURE = Outcome.FAILURE, "a signature uses MD5, SHA-1 or another algorithm that is not accepted"
    WEAK_KEY = Outcome.FAILURE, "a key is weak: RSA needs 2048 bits, elliptic curves 256"
    KEY_UNSUPPORTED = Outcome.FAILURE, "a key is of a kind that is not supported"
    CERTIFICATE_EXPIRED = Outcome.FAILURE, "a certificate has expired"
    CERTIFICATE_NOT_YET_VALID = Outcome.FAILURE, "a certificate is not valid yet"
    LEAF_IS_CA = Outcome.FAILURE, "the device's certificate is a CA's"
    ISSUER_NOT_CA = Outcome.FAILURE, "a certificate that is no CA's has issued another"
    PATH_LENGTH = Outcome.FAILURE, "there are more CAs below a CA than it allows"
    KEY_USAGE = Outcome.FAILURE, "a certificate's key usage does not allow this use"
    EXTENDED_KEY_USAGE = Outcome.FAILURE, "a certificate's extended key usage does not include clientAuth"
    NAME_CONSTRAINT = Outcome.FAILURE, "a CA's name constraints exclude the certificate, or cannot be checked"
    CRITICAL_EXTENSION = Outcome.FAILURE, "a certificate has a critical extension that is not understood"
    CHAIN_INVALID = Outcome.FAILURE, "the chain is not valid"
    CERTIFICATE_REVOKED = Outcome.FAILURE, "a certificate is revoked"
    CRL_STALE = Outcome.FAILURE, "a revocation list is past its nextUpdate: who is revoked is not known"
    CHAIN_DISABLED = Outcome.FAILURE, "the profile that trusts the CA does not provision by certificate chain"
    CERTIFICATE_NAMELESS = Outcome.FAILURE, "the certificate has no name where the profile looks for one"
    NAME_MISMATCH = Outcome.FAILURE, "no name in the certificate matches the profile's pattern"
    CREDENTIALS_TYPE = Outcome.FAILURE, "the device has credentials of another type"
    CERTIFICATE_SUPERSEDED = Outcome.FAILURE, "the device has a newer certificate than the one it presents"

    # Of certificates that the server is asked for (`core/signing.py`), and of the life of credentials.
    CSR_MALFORMED = Outcome.FAILURE, "the certificate signing request cannot be read"
    CSR_TOO_LARGE = Outcome.FAILURE, "the certificate signing request is too large"
    CSR_KEY = Outcome.FAILURE, "the certificate signing request is not for an EC P-256 key"
    CSR_SIGNATURE = Outcome.FAILURE, "the certificate signing request is not signed by its own key"
    CSR_EXTENSION = Outcome.FAILURE, "the certificate signing request asks for an extension that is not granted"
    CSR_SUBJECT = Outcome.FAILURE, "the certificate signing request names another device than the one that asks"
    ISSUER_MISSING = Outcome.FAILURE, "the profile has no CA to issue certificates with"
    ISSUER_EXPIRED = Outcome.FAILURE, "the profile's CA to issue certificates with has expired"
    CREDENTIALS_EXPIRED = Outcome.FAILURE, "the device's credentials have expired"
    CREDENTIALS_IMPORTED = Outcome.FAILURE, "an operator imported the device's credentials, and they are his to replace"
    CREDENTIALS_STATIC = Outcome.FAILURE, "the device came of a static token, which stays its token"

    def __init__(self, outcome: Outcome, text: str) -> None:
        self.outcome = outcome
        self.text = text


@dataclass(frozen=True, slots=True)
class Refusal:
    """The request is refused. `detail` is for the operator and holds no secret."""

    reason: Reason
    detail: str = ""

    @property
    def outcome(self) -> Outcome:
        """What the device is told."""
        return self.reason.outcome


class Intent(Struct, frozen=True, gc=False):
    """An admitted request: its key and secret are right, its members are valid.

    name: None when the server is to choose one. supplied: None when it is to generate an access token.
    nonce: proves a repeat, so it is as secret as what the repeat is given.
    csr: what the server is to issue a certificate for, instead of a token.
    metered: the provision key, when its uses are counted.
    """

    profile: DeviceProfile
    name: str | None
    supplied: Credentials | None
    gateway: bool
    nonce: str | None
    csr: SigningRequest | None = None
    metered: str | None = None

    def __repr__(self) -> str:
        return f"<Intent {self.profile.name}>"


class Change(StrEnum):
    """What becomes of a known device's credentials."""

    KEEP = "keep"
    REPLACE = "replace"
    ADD_PENDING = "add_pending"


class Create(Struct, frozen=True, gc=False):
    """Make the device, provisioned, with these credentials."""

    name: str
    credentials: Credentials
    origin: Origin


class Provision(NamedTuple):
    """Mark a known device provisioned; its answer is `credentials`, changed or kept."""

    device: KnownDevice
    change: Change
    credentials: Credentials
    origin: Origin


class Repeat(NamedTuple):
    """Give the answer again that the device was given before; nothing changes."""

    device: KnownDevice
    credentials: Credentials


Decision = Create | Provision | Repeat | Refusal


class Fresh(Struct, frozen=True, gc=False):
    """Values generated for one request beforehand, so that deciding it again yields the same.

    issue: the certificate that was asked for, for a device of this name; each time the same.
    """

    token: str
    device_name: str
    issue: Callable[[str], Credentials | Refusal] | None = None

    def __repr__(self) -> str:
        return "<Fresh>"


def check_name(name: str | None) -> str | Refusal | None:
    """Trim as ThingsBoard does; None for a name that the server is to choose."""
    if not name:
        return None
    trimmed = name.strip(_TRIMMED)
    if not trimmed or trimmed.isspace():  # wide and no-break spaces too
        return Refusal(Reason.NAME_BLANK)
    if len(trimmed) > MAX_NAME_LENGTH:
        return Refusal(Reason.NAME_TOO_LONG)
    if building.has_control_characters(trimmed) or _MARKUP.search(trimmed):
        return Refusal(Reason.NAME_MALFORMED)
    return trimmed


def admit(
    request: ProvisionRequest,
    key: ProvisionKey | None,
    secret_matches: Callable[[bytes, str], bool],
    address: str,
    clock: Callable[[], float],
) -> Intent | Refusal:
    """Check what needs no look at devices, in ThingsBoard's order (spec thingsboard §5.1).

    secret_matches: (digest of the right secret, presented secret) -> bool, in constant time.
    address: where it came from. clock: seconds since the epoch; read only for a key with a budget.
    """
    name = check_name(request.device_name)
    if isinstance(name, Refusal) and name.reason is Reason.NAME_BLANK:
        return name
    if not request.key or not request.secret:
        return Refusal(Reason.KEY_MISSING)
    if key is None:
        secret_matches(_NO_DIGEST, request.secret)  # takes as long as for a key that is known
        return Refusal(Reason.KEY_UNKNOWN)
    if not secret_matches(key.secret_digest, request.secret):
        return Refusal(Reason.SECRET_WRONG)
    if key.budget is not None and (outside := _outside(key.budget, address, clock())) is not None:
        return Refusal(outside)
    profile = key.profile
    if profile.strategy is _DISABLED:
        return Refusal(Reason.PROFILE_DISABLED)
    if profile.strategy is _CHAIN:
        return Refusal(Reason.CHAIN_ONLY)
    if isinstance(name, Refusal):
        return name
    if name is None and profile.strategy is _CHECK:
        return Refusal(Reason.NAME_REQUIRED)
    if request.request_nonce is not None and not _NONCE.fullmatch(request.request_nonce):
        return Refusal(Reason.NONCE_MALFORMED)
    if profile.approval and name is None and request.request_nonce is None:
        return Refusal(Reason.APPROVAL_UNNAMED)
    try:
        supplied = _supplied(request)
    except building.InvalidCredentials as fault:
        return Refusal(Reason.CREDENTIALS_INVALID, str(fault))
    metered = key.key if key.budget is not None and key.budget.max_uses is not None else None
    return Intent(profile, name, supplied, request.gateway, request.request_nonce, metered=metered)


def _outside(budget: KeyBudget, address: str, now: float) -> Reason | None:
    """What of a key's budget a request does not keep to."""
    if budget.not_before is not None and now < budget.not_before.timestamp():
        return Reason.KEY_NOT_YET_VALID
    if budget.not_after is not None and now >= budget.not_after.timestamp():
        return Reason.KEY_EXPIRED
    if budget.networks and not _is_within(budget.networks, address):
        return Reason.NETWORK_EXCLUDED
    return None


def _is_within(networks: Sequence[Network], address: str) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    plain = getattr(found, "ipv4_mapped", None) or found  # what a socket of both families calls an IPv4 address
    return any(plain in network for network in networks)


def decide(intent: Intent, situation: Situation, request_digest: bytes | None, fresh: Fresh) -> Decision:
    """Weigh an intent against what was found. request_digest: of this request; None when it has no nonce."""
    if situation is not VACANT and _is_quarantined(situation):
        return Refusal(Reason.QUARANTINED)
    decision = _deserved(intent, situation, request_digest, fresh)
    if intent.profile.approval and _is_unproven(intent, situation, request_digest, decision):
        if situation.approval is ApprovalState.REJECTED:
            return Refusal(Reason.APPROVAL_REJECTED)
        if situation.approval is not ApprovalState.ACCEPTED:
            return Refusal(Reason.APPROVAL_PENDING)
    return decision


def _is_quarantined(situation: Situation) -> bool:
    named, holder = situation.named, situation.nonce_holder
    return (named is not None and named.quarantined) or (holder is not None and holder.quarantined)


def _is_unproven(intent: Intent, situation: Situation, request_digest: bytes | None, decision: Decision) -> bool:
    """Whether it would give credentials to somebody of whom nothing is known but that he has the fleet's key."""
    if isinstance(decision, Refusal):
        return False
    if isinstance(decision, Create):
        return True
    device, holder = decision.device, situation.nonce_holder
    if device.rearmed:  # as an operator wants it
        return False
    if intent.profile.strategy is _CHAIN:  # the CA vouches for the next certificate of a device that is known
        return device.provision_state is None
    if intent.csr is not None and isinstance(decision, Repeat):
        return False
    return holder is None or request_digest is None or holder.request_digest != request_digest


def _deserved(intent: Intent, situation: Situation, request_digest: bytes | None, fresh: Fresh) -> Decision:
    """What it comes to when no operator has a say in it."""
    if intent.profile.strategy is _CHAIN:
        return _by_chain(intent, situation, fresh)
    device = situation.named
    holder = situation.nonce_holder
    if holder is not None and holder.request_digest is not None and not holder.rearmed:
        if holder.request_digest != request_digest:
            return Refusal(Reason.NONCE_REUSED)
        if (newest := holder.newest) is not None and not newest.used:
            if holder.provision_state is None:  # the operator took it away: it is set again
                return Provision(holder, Change.KEEP, newest.credentials, newest.origin)
            return Repeat(holder, newest.credentials)
    if intent.name is None:
        device = holder  # a nonce that is spent still names its device, so no second one is made
    if holder is not None and (device is None or holder.id != device.id):
        return Refusal(Reason.NONCE_REUSED)

    if device is None:
        if intent.profile.strategy is _CHECK:
            return Refusal(Reason.NOT_PRE_PROVISIONED)
        if situation.credentials_holder is not None:
            return Refusal(Reason.CREDENTIALS_TAKEN)
        return _create(intent, fresh)

    if device.profile_id != intent.profile.id:
        return Refusal(Reason.NAME_ELSEWHERE)
    if device.rearmed:
        decision = _reissue(intent, device, fresh)
    elif device.provision_state is None:
        if intent.profile.strategy is _CREATE:
            return Refusal(Reason.NAME_TAKEN)
        decision = _first(intent, device, fresh)
    elif device.provision_state != PROVISIONED:
        return Refusal(Reason.STATE_UNKNOWN)
    else:
        decision = _again(intent, device, fresh)
    new = isinstance(decision, Provision) and decision.change is not Change.KEEP
    if new and situation.credentials_holder not in (None, device.id):
        return Refusal(Reason.CREDENTIALS_TAKEN)
    return decision


def _by_chain(intent: Intent, situation: Situation, fresh: Fresh) -> Decision:
    """A verified chain: the CA vouches for the name, so the certificate is the device's, on its word and no other's.

    That includes taking over from a certificate that an operator imported, once the new one is used.
    """
    device, certificate = situation.named, intent.supplied
    if device is None:
        if not intent.profile.chain.allow_create:
            return Refusal(Reason.NOT_PRE_PROVISIONED)
        if situation.credentials_holder is not None:
            return Refusal(Reason.CREDENTIALS_TAKEN)
        return _create(intent, fresh)
    if device.profile_id != intent.profile.id:
        return Refusal(Reason.NAME_ELSEWHERE)
    if device.provision_state not in (None, PROVISIONED):
        return Refusal(Reason.STATE_UNKNOWN)
    for held in device.credentials:
        if held.credentials == certificate and not device.rearmed:
            if device.provision_state is None:
                return Provision(device, Change.KEEP, held.credentials, held.origin)
            return Repeat(device, held.credentials)
    if situation.credentials_holder not in (None, device.id):
        return Refusal(Reason.CREDENTIALS_TAKEN)
    held_types = {held.credentials.type for held in device.credentials}
    if held_types <= {CredentialsType.X509_CERTIFICATE}:
        if device.rearmed or not held_types:
            return _replace(intent, device, Change.REPLACE, fresh)
        if certificate is not None and _superseded(certificate, device):
            return Refusal(Reason.CERTIFICATE_SUPERSEDED)
        return _replace(intent, device, Change.ADD_PENDING, fresh)
    unused = all(held.origin is _GENERATED and not held.used for held in device.credentials)
    imported = any(held.origin is Origin.IMPORTED for held in device.credentials)
    if (device.rearmed and not imported) or (device.provision_state is None and unused):
        return _replace(intent, device, Change.REPLACE, fresh)
    return Refusal(Reason.CREDENTIALS_TYPE)


def _superseded(certificate: Credentials, device: KnownDevice) -> bool:
    """Whether the device has a certificate that was issued later, lest an old one, maybe stolen, takes over again."""
    presented = x509.issued_at(str(certificate.value))
    held = [x509.issued_at(str(each.credentials.value)) for each in device.credentials]
    return presented is not None and any(issued is not None and issued > presented for issued in held)


def _supplied(request: ProvisionRequest) -> Credentials | None:
    """The table of spec thingsboard §4.2: no member of any type means a generated token, whatever type is named."""
    if not (request.token or request.hash or request.username or request.password or request.client_id):
        return None
    match request.credentials_type:
        case CredentialsType.ACCESS_TOKEN:
            return building.access_token(request.token or "")
        case CredentialsType.X509_CERTIFICATE:
            return building.certificate(request.hash or "")
        case CredentialsType.MQTT_BASIC:
            return building.mqtt_basic(request.client_id or "", request.username or "", request.password or "")
        case _:
            raise building.InvalidCredentials(f"{LWM2M_CREDENTIALS} cannot be supplied")


def _create(intent: Intent, fresh: Fresh) -> Create | Refusal:
    name = intent.name or fresh.device_name
    credentials = _chosen(intent, fresh, name)
    if isinstance(credentials, Refusal):
        return credentials
    return Create(name, credentials, _SUPPLIED if intent.supplied is not None else _GENERATED)


def _chosen(intent: Intent, fresh: Fresh, name: str) -> Credentials | Refusal:
    if intent.supplied is not None:
        return intent.supplied
    return building.access_token(fresh.token) if fresh.issue is None else fresh.issue(name)


def _is_offered(intent: Intent, held: Credentials) -> bool:
    """Whether credentials are those that the request offers, or the certificate for the key that it proves."""
    if intent.csr is not None:
        return held.type is _X509 and x509.public_key(str(held.value)) == intent.csr.public_key
    return held == intent.supplied


def _first(intent: Intent, device: KnownDevice, fresh: Fresh) -> Decision:
    """The first provisioning of a device that an operator made: only generated credentials give way."""
    held = device.newest
    if held is None:
        return _replace(intent, device, Change.REPLACE, fresh)
    choosing = intent.supplied is not None or intent.csr is not None
    if not choosing or held.origin is Origin.IMPORTED or _is_offered(intent, held.credentials):
        return Provision(device, Change.KEEP, held.credentials, held.origin)
    return _replace(intent, device, Change.REPLACE, fresh)


def _reissue(intent: Intent, device: KnownDevice, fresh: Fresh) -> Decision:
    """After `device rearm`: fresh credentials, and the old ones die at once, as a stranger may hold them."""
    held = device.newest
    if held is not None and (held.origin is Origin.IMPORTED or held.credentials == intent.supplied):
        return Provision(device, Change.KEEP, held.credentials, held.origin)
    return _replace(intent, device, Change.REPLACE, fresh)


def _again(intent: Intent, device: KnownDevice, fresh: Fresh) -> Decision:
    """A provisioned device asks again with nothing but the fleet's key: the profile's policy decides."""
    policy = intent.profile.reprovision_policy
    held = device.newest
    proven = intent.csr is not None and held is not None and _is_offered(intent, held.credentials)
    if proven and held is not None and held.origin is _GENERATED and policy is not ReprovisionPolicy.ROTATE:
        return Repeat(device, held.credentials)  # nobody else can use a certificate of this key: as good as a nonce
    if policy is ReprovisionPolicy.DENY or held is None:
        return Refusal(Reason.ALREADY_PROVISIONED)
    if policy is ReprovisionPolicy.UNTIL_FIRST_USE and any(each.used for each in device.credentials):
        return Refusal(Reason.ALREADY_USED)
    if policy is ReprovisionPolicy.ROTATE:
        return _rotate(intent, device, held, fresh)
    choosing = intent.supplied is not None or intent.csr is not None
    if choosing and held.origin is not Origin.IMPORTED and not _is_offered(intent, held.credentials):
        return Refusal(Reason.OTHER_CREDENTIALS)
    return Repeat(device, held.credentials)


def _rotate(intent: Intent, device: KnownDevice, held: StoredCredentials, fresh: Fresh) -> Decision:
    if held.origin is Origin.IMPORTED:
        return Repeat(device, held.credentials)
    for each in device.credentials:
        if intent.csr is not None and not each.used and _is_offered(intent, each.credentials):
            return Repeat(device, each.credentials)
        if intent.supplied is not None and each.credentials.id == intent.supplied.id:
            if each.credentials == intent.supplied:
                return Repeat(device, each.credentials)
            return Refusal(Reason.OTHER_CREDENTIALS)  # one id cannot be both the old and the new
    return _replace(intent, device, Change.ADD_PENDING, fresh)


def _replace(intent: Intent, device: KnownDevice, change: Change, fresh: Fresh) -> Provision | Refusal:
    credentials = _chosen(intent, fresh, device.name)
    if isinstance(credentials, Refusal):
        return credentials
    return Provision(device, change, credentials, _SUPPLIED if intent.supplied is not None else _GENERATED)
