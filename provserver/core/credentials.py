"""Building credentials from their parts, by the rules of spec thingsboard §5.7."""

from provserver.core import x509
from provserver.core.model import RESERVED_IDS, Credentials, CredentialsType, MqttBasic

_ACCESS_TOKEN = CredentialsType.ACCESS_TOKEN  # found once: see core/decision.py

MAX_LENGTH = 512
"""Characters of a token, user name, client id or password."""

MAX_CERTIFICATE_LENGTH = 32_768
"""Characters of a certificate's text."""


class InvalidCredentials(ValueError):  # noqa: N818
    """These parts make no credentials; the message says why and holds none. part: the one at fault, or empty."""

    def __init__(self, message: str, part: str = "") -> None:
        super().__init__(message)
        self.part = part


def access_token(token: str) -> Credentials:
    """Access token credentials: the id is the token. Raises InvalidCredentials."""
    if not token:
        raise InvalidCredentials("the token is empty", "token")
    _check("token", token)
    return Credentials(_ACCESS_TOKEN, token, token)


def mqtt_basic(client_id: str = "", user_name: str = "", password: str = "") -> Credentials:
    """MQTT basic credentials by client id, user name, or both; a password needs a user name.

    The id is the user name, or SHA3-256 of the client id or of `clientId|userName`. Raises InvalidCredentials.
    """
    if not client_id and not user_name:
        raise InvalidCredentials("both MQTT client id and user name are empty")
    if client_id and password and not user_name:
        raise InvalidCredentials("a password cannot go with a client id alone")
    for name, value in (("client id", client_id), ("user name", user_name), ("password", password)):
        _check(name, value, reserved=name != "password")
    combined = f"{client_id}|{user_name}" if user_name else client_id
    id_ = x509.fingerprint(combined) if client_id else user_name
    return Credentials(CredentialsType.MQTT_BASIC, id_, MqttBasic(client_id, user_name, password))


def certificate(text: str) -> Credentials:
    """X.509 credentials from a PEM text or its base64 body; the id is its fingerprint. Raises InvalidCredentials."""
    value = x509.normalise(text)
    if not value:
        raise InvalidCredentials("the certificate is empty")
    if len(value) > MAX_CERTIFICATE_LENGTH:
        raise InvalidCredentials(f"the certificate is longer than {MAX_CERTIFICATE_LENGTH} characters")
    return Credentials(CredentialsType.X509_CERTIFICATE, x509.fingerprint(value), value)


def has_control_characters(text: str) -> bool:
    """Whether the text has a character of U+0000-U+001F or U+007F, or half a surrogate pair, which UTF-8 has not."""
    return not text.isprintable() and any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in text)


def _check(name: str, value: str, *, reserved: bool = True) -> None:
    if len(value) > MAX_LENGTH:
        raise InvalidCredentials(f"the {name} is longer than {MAX_LENGTH} characters", name)
    if has_control_characters(value):
        raise InvalidCredentials(f"the {name} contains control characters", name)
    if reserved and value in RESERVED_IDS:
        raise InvalidCredentials(f"the {name} is a reserved id", name)
