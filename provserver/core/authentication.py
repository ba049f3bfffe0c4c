"""Who a device is that comes back with its credentials (spec thingsboard §7.1, §7.2; Blynk's login)."""

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from provserver.core import x509
from provserver.core.credentials import MAX_LENGTH, has_control_characters
from provserver.core.model import RESERVED_IDS, Authenticated, CredentialsType, MqttBasic

BLYNK_USER = "device"
"""The user name of Blynk's MQTT clients: the password is the token, and nothing else counts."""


class Denial(Enum):
    """Why a device is not let in.

    return_code: of CONNACK in MQTT 3.1 and 3.1.1; reason_code: in MQTT 5. HTTP says 401 to each, CoAP 4.01; but to
    LIMITED, which says nothing of the credentials, 429 and 4.29. UNBOUND is no denial to a transport that can ask the
    device for its template (`services/placeholders.py`).
    """

    CREDENTIALS = 5, 0x86, "bad user name or password"
    CLIENT_ID = 2, 0x85, "no credentials have this client id"
    NOTHING = 5, 0x87, "no credentials were presented"
    CERTIFICATE = 5, 0x87, "the client certificate is not accepted"
    SHARED_KEY = 5, 0x87, "the pre-shared key is good no more"
    LIMITED = 3, 0x9F, "too many wrong guesses came from this address, try again later"
    EXPIRED = 5, 0x87, "the credentials have expired"
    UNBOUND = 5, 0x87, "the device has to say of which template it is first"

    def __init__(self, return_code: int, reason_code: int, text: str) -> None:
        self.return_code = return_code
        self.reason_code = reason_code
        self.text = text


@dataclass(frozen=True, slots=True)
class Held:
    """Credentials that a look-up found, and whose they are. basic: the parts of MQTT basic ones."""

    device: Authenticated
    type: CredentialsType
    used: bool
    basic: MqttBasic | None = field(default=None, repr=False)
    expired: bool = False


Found = Mapping[str, Held]
"""What there is under the ids that were looked up."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a device presents. ids: to look up; judge: what it deserves, given what they are the ids of.

    provisional: the verdict is not the last word, so what it lets in is not used yet.
    """

    ids: Sequence[str] = field(repr=False)
    judge: Callable[[Found], Held | Denial] = field(repr=False)
    provisional: bool = False


def with_token(token: str) -> Claim:
    """An access token, as HTTP and CoAP carry it."""

    def judge(found: Found) -> Held | Denial:
        held = found.get(token)
        return held if held is not None and held.type is CredentialsType.ACCESS_TOKEN else Denial.CREDENTIALS

    return Claim((token,) if _possible(token) else (), judge)


def certificate_id(certificate: bytes) -> str:
    """Of the credentials that a certificate (DER) is."""
    return x509.fingerprint(x509.text_of(certificate))


def with_certificate(certificate: bytes) -> Claim:
    """A client certificate (DER). That the device has its key is proved by the handshake."""
    id_ = certificate_id(certificate)

    def judge(found: Found) -> Held | Denial:
        held = found.get(id_)
        return held if held is not None and held.type is CredentialsType.X509_CERTIFICATE else Denial.CERTIFICATE

    return Claim((id_,), judge)


def token_in(client_id: str, username: str | None, password: bytes | None) -> tuple[str, str | None] | None:
    """The access token that a CONNECT presents, in its usual forms, and the id of what would be meant before it.

    None when it presents none, or does it in another way: `with_mqtt` tells.
    """
    if username == BLYNK_USER:
        try:
            token = (password or b"").decode()
        except UnicodeDecodeError:
            return None
        return (token, None) if _possible(token) else None
    # A password is what MQTT basic credentials have, and tokens hardly ever.
    return (username, _combined(client_id, username)) if username and not password else None


def with_mqtt(client_id: str, username: str | None, password: bytes | None) -> Claim:
    """User name, password and client id of a CONNECT, in ThingsBoard's order; Blynk's user first."""
    if username == BLYNK_USER:
        try:
            return with_token((password or b"").decode())
        except UnicodeDecodeError:
            return with_token("")
    if not username:
        return _with_client_id(client_id, password)
    combined = _combined(client_id, username)
    name: str = username

    def judge(found: Found) -> Held | Denial:
        held = found.get(combined)
        if held is not None and held.type is CredentialsType.MQTT_BASIC:
            return held if _matches(held.basic, client_id, name, password) else Denial.CREDENTIALS
        held = found.get(name)
        if held is not None and held.type is CredentialsType.ACCESS_TOKEN:
            return held  # whatever the password and the client id are
        if held is not None and held.type is CredentialsType.MQTT_BASIC:
            return held if _matches(held.basic, "", name, password) else Denial.CREDENTIALS
        return Denial.CREDENTIALS

    return Claim((combined, username), judge)


def presented_token(username: str | None, password: bytes | None) -> str:
    """The access token of a CONNECT that was found to have one."""
    return (password or b"").decode() if username == BLYNK_USER else username or ""


def _possible(token: str) -> bool:
    return bool(token and len(token) <= MAX_LENGTH and token not in RESERVED_IDS and not has_control_characters(token))


def _combined(client_id: str, username: str) -> str:
    """The id of MQTT basic credentials that name both."""
    return x509.fingerprint(f"{client_id}|{username}")


def _with_client_id(client_id: str, password: bytes | None) -> Claim:
    if not client_id:
        return Claim((), lambda _: Denial.CREDENTIALS if password else Denial.NOTHING)
    id_ = x509.fingerprint(client_id)

    def judge(found: Found) -> Held | Denial:
        held = found.get(id_)
        if held is None or held.type is not CredentialsType.MQTT_BASIC:
            return Denial.CREDENTIALS if password else Denial.CLIENT_ID
        return held if _matches(held.basic, client_id, "", password) else Denial.CREDENTIALS

    return Claim((id_,), judge)


def _matches(basic: MqttBasic | None, client_id: str, user_name: str, password: bytes | None) -> bool:
    """Each part that is stored must be as presented; a password that is not stored may be any."""
    if basic is None or (basic.client_id or client_id) != client_id or basic.user_name != user_name:
        return False
    return not basic.password or hmac.compare_digest(basic.password.encode(), password or b"")
