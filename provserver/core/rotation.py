"""What a device deserves that asks, over its own session, for other credentials than those it came with.

The new ones are pending until they are first used, and those before stay good until then. Asking again before that
gives the same ones: a lost answer costs nothing.
"""

from collections.abc import Sequence
from enum import Enum

import msgspec

from provserver.core import credentials as building
from provserver.core import signing, x509
from provserver.core.decision import Reason, Refusal
from provserver.core.model import Credentials, CredentialsType, Origin, SigningRequest, StoredCredentials


class Generated(Enum):
    """What the server is to make by itself."""

    TOKEN = "token"  # noqa: S105 - a kind, not a token


Wanted = Generated | SigningRequest | Credentials
"""A token that the server makes, a certificate that it issues, or what the device brings."""


class _Members(msgspec.Struct):
    """As in a provision request."""

    credentialsType: CredentialsType = CredentialsType.ACCESS_TOKEN  # noqa: N815
    csr: str | None = None
    token: str | None = None
    username: str | None = None
    password: str | None = None
    clientId: str | None = None  # noqa: N815
    hash: str | None = None

    def __repr__(self) -> str:  # members are secrets
        return "<_Members>"


class InvalidRotation(ValueError):  # noqa: N818
    """The payload is no request; the message says why and quotes nothing."""


_decoder = msgspec.json.Decoder(_Members)


def read(payload: bytes) -> Wanted | Refusal:
    """What is asked for; nothing at all is a token. Raises InvalidRotation."""
    try:
        members = _decoder.decode(payload or b"{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidRotation("The payload is not a JSON object with credentialsType and csr, or nothing") from None
    given = members.token or members.hash or members.username or members.password or members.clientId
    certified = members.credentialsType is CredentialsType.X509_CERTIFICATE
    if members.csr is not None:
        if given or not certified:
            return Refusal(Reason.CREDENTIALS_INVALID, "a csr goes with X509_CERTIFICATE and no other credentials")
        return signing.read_request(members.csr)
    if not given:
        if members.credentialsType is CredentialsType.ACCESS_TOKEN:
            return Generated.TOKEN
        return Refusal(Reason.CREDENTIALS_INVALID, "a csr is needed" if certified else "they must be given")
    try:
        if certified:
            return building.certificate(members.hash or "")
        if members.credentialsType is CredentialsType.ACCESS_TOKEN:
            return building.access_token(members.token or "")
        return building.mqtt_basic(members.clientId or "", members.username or "", members.password or "")
    except building.InvalidCredentials as fault:
        return Refusal(Reason.CREDENTIALS_INVALID, str(fault))


def decide(wanted: Wanted, held: Sequence[StoredCredentials], *, static: bool) -> StoredCredentials | Refusal | None:
    """The pending credentials that the device was told of before, a refusal, or None: new ones are to be made.

    static: whether the device came of a static token.
    """
    if static:
        return Refusal(Reason.CREDENTIALS_STATIC)
    if any(each.origin is Origin.IMPORTED for each in held):
        return Refusal(Reason.CREDENTIALS_IMPORTED)
    if CredentialsType.X509_CERTIFICATE in {each.credentials.type for each in held if not each.pending} and not (
        isinstance(wanted, SigningRequest)
        or (isinstance(wanted, Credentials) and wanted.type is CredentialsType.X509_CERTIFICATE)
    ):
        return Refusal(Reason.CREDENTIALS_TYPE, "who has a certificate sends a csr, or another certificate")
    for each in held:
        if each.pending and _is(wanted, each):
            return each
    if isinstance(wanted, Credentials) and any(each.credentials.id == wanted.id for each in held if not each.pending):
        return Refusal(Reason.OTHER_CREDENTIALS, "one id cannot be both the old and the new")
    return None


def _is(wanted: Wanted, held: StoredCredentials) -> bool:
    credentials = held.credentials
    if isinstance(wanted, Credentials):
        return credentials == wanted
    if held.origin is not Origin.GENERATED:
        return False
    if isinstance(wanted, SigningRequest):
        certified = credentials.type is CredentialsType.X509_CERTIFICATE
        return certified and x509.public_key(str(credentials.value)) == wanted.public_key
    return credentials.type is CredentialsType.ACCESS_TOKEN
