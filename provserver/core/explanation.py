"""What came of an attempt, in words: what happened, what the device was told, what an operator can do.

Commands are meant to be copied: names are quoted for a shell, and secrets are in none of them.
"""

import shlex
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from provserver.core.decision import Reason
from provserver.errors import RENDERINGS, Outcome

_SHOW_PROFILE = "provserver profile show {profile}"
_SHOW_DEVICE = "provserver device show {device}"
_REARM = "provserver device rearm {device}"
_NEW_KEY = "provserver profile key add {profile}"


class Advice(NamedTuple):
    """What an operator can do. text: in words. commands: command lines; `{profile}` and `{device}` stand for names."""

    text: str
    commands: Sequence[str] = ()


class Told(NamedTuple):
    """What a device was told, by protocol. status, message: in the reply's body; None when it has none."""

    status: str | None
    message: str | None
    http: int
    coap: str
    mqtt: str


class Explanation(NamedTuple):
    """An attempt in words. commands: what an operator may run, as far as the names in them are known."""

    happened: str
    why: str
    told: Told
    advice: str
    commands: Sequence[str]


class Subject(NamedTuple):
    """Whom an attempt was about, as far as it is known."""

    profile: str | None = None
    device: str | None = None


class Word(Enum):
    """What an attempt may have as its reason beside a `Reason`."""

    GRANTED = "the request was right"
    REPEATED = "the device had been given its answer before, and proved that it may have it again"
    UNDECODABLE = "the body is neither a JSON object nor, on MQTT and CoAP, a protobuf request"
    INVALID = "a member of the request is missing, or of the wrong type"


_NOTHING = Advice("Nothing needs to be done.")
FIRMWARE = "Mend the firmware, or what writes its configuration: "
"""What advice begins with that is for whoever writes firmware."""
_CERTIFICATE = "Have the device's certificate issued anew: "
_WAIT = (
    "Right devices get through when less comes. When it is your own devices behind one address, "
    "raise the limit (docs/limits.md)."
)
_CHAIN_FILES = ("openssl x509 -in device.pem -noout -text", _SHOW_PROFILE)

ADVICE: Mapping[Reason | Word, Advice] = {
    Word.GRANTED: Advice(_NOTHING.text, (_SHOW_DEVICE,)),
    Word.REPEATED: Advice("Nothing needs to be done: an answer was lost, and was given again.", (_SHOW_DEVICE,)),
    Word.UNDECODABLE: Advice(
        FIRMWARE + "it is to send a JSON object with provisionDeviceKey and provisionDeviceSecret."
    ),
    Word.INVALID: Advice(FIRMWARE + "the member that is named must be there, and be a string."),
    Reason.NAME_BLANK: Advice(FIRMWARE + "send a name, or leave deviceName out to be given one."),
    Reason.NAME_TOO_LONG: Advice(FIRMWARE + "names have at most 255 characters."),
    Reason.NAME_MALFORMED: Advice(FIRMWARE + "names have no control characters, and nothing that reads as markup."),
    Reason.NAME_REQUIRED: Advice(
        "Have the firmware send deviceName, or let the profile create devices.",
        ("provserver profile update {profile} --strategy allow-create",),
    ),
    Reason.NAME_TAKEN: Advice(
        "An operator made the device of this name, and this profile only lets devices be made anew. Delete it if it "
        "was made by mistake, or have the profile check pre-provisioned devices.",
        (
            _SHOW_DEVICE,
            "provserver device delete {device}",
            "provserver profile update {profile} --strategy check-pre-provisioned",
        ),
    ),
    Reason.NAME_ELSEWHERE: Advice(
        "Names are unique in an organization, whatever the profile. Give one of the two another name, or have the "
        "firmware carry the key of the device's own profile.",
        (_SHOW_DEVICE,),
    ),
    Reason.KEY_MISSING: Advice(FIRMWARE + "its provision key and secret are empty.", (_SHOW_PROFILE,)),
    Reason.KEY_UNKNOWN: Advice(
        "Compare the key in the firmware with those of its profile: it may be misspelt, removed, or of another server. "
        "Of an unknown key nothing is kept, as it may be a secret in the wrong member.",
        ("provserver profile list", "provserver profile show PROFILE"),
    ),
    Reason.SECRET_WRONG: Advice(
        "The key is known, the secret is not its own. Secrets are shown when they are made and never again: if it is "
        "lost, add a key and put that into the firmware.",
        (_NEW_KEY,),
    ),
    Reason.PSK_UNPROVEN: Advice(
        "The device named a provision key or a device id as its identity, and has another secret or token than it has "
        "here; or nothing here has that id. Which one it was is not kept: it may be a secret in the wrong place. "
        "All that it was told is that the handshake ended.",
        (_SHOW_PROFILE, "provserver device show DEVICE"),
    ),
    Reason.PROFILE_DISABLED: Advice(
        "Give the profile a strategy again, if devices are to be provisioned with it.",
        (
            "provserver profile update {profile} --strategy allow-create",
            "provserver profile update {profile} --strategy check-pre-provisioned",
        ),
    ),
    Reason.QUARANTINED: Advice(
        "See why it is in quarantine, and release it when that is settled; with --rotate a clone stays out.",
        (_SHOW_DEVICE, "provserver device release {device}"),
    ),
    Reason.APPROVAL_PENDING: Advice(
        "Accept or reject it; the device asks again by itself.",
        ("provserver approval list", "provserver approval accept {device}"),
    ),
    Reason.APPROVAL_REJECTED: Advice(
        "Accept it, if that was a mistake; the device asks again by itself.",
        ("provserver approval list --state rejected", "provserver approval accept {device}"),
    ),
    Reason.APPROVAL_UNNAMED: Advice(
        FIRMWARE + "whoever is to approve a device must be able to tell it from others, and it from itself when it "
        "asks again: send deviceName or requestNonce."
    ),
    Reason.APPROVALS_FULL: Advice(
        "Decide on those that wait: each that is accepted or rejected makes room. When they are not yours, somebody "
        "has the provision key and secret: give the firmware another one, remove that, and reject them.",
        ("provserver approval list", "provserver approval reject --all --profile {profile}", _NEW_KEY),
    ),
    Reason.KEY_NOT_YET_VALID: Advice(
        "Wait until the key is valid, or add one that is. Compare the server's clock, too.",
        (_SHOW_PROFILE, _NEW_KEY, "date --utc"),
    ),
    Reason.KEY_EXPIRED: Advice("Add a key, and put it into the firmware.", (_SHOW_PROFILE, _NEW_KEY)),
    Reason.NETWORK_EXCLUDED: Advice(
        "The device asked from outside the networks of its key. If the address is right, add a key for its network; "
        "if it is nowhere you have devices, the key may have leaked: replace it.",
        (_SHOW_PROFILE, _NEW_KEY + " --network CIDR"),
    ),
    Reason.KEY_USED_UP: Advice(
        "The key has made as many devices as it may. Add a key for the next lot.", (_SHOW_PROFILE, _NEW_KEY)
    ),
    Reason.CHAIN_ONLY: Advice(
        "Have the device present its certificate chain over TLS or DTLS, or give the profile another strategy.",
        (_SHOW_PROFILE, "provserver profile update {profile} --strategy allow-create"),
    ),
    Reason.CREDENTIALS_INVALID: Advice(FIRMWARE + "the credentials that it supplies are not such as can be taken."),
    Reason.CREDENTIALS_TAKEN: Advice(
        "Two devices supply the same credentials: a copied firmware image with its flash, as a rule. Erase the flash "
        "of one, or find who has them.",
        ("provserver attempt list --device {device}",),
    ),
    Reason.NONCE_MALFORMED: Advice(FIRMWARE + "requestNonce is to be 32 hexadecimal digits of 16 random bytes."),
    Reason.NONCE_REUSED: Advice(
        "A nonce stands for one request. Firmware that asks for something else, or for another name, is to make a new "
        "one; devices that share one have copied flash.",
        ("provserver attempt list --device {device}",),
    ),
    Reason.NOT_PRE_PROVISIONED: Advice(
        "Make the device beforehand, under exactly the name that it sends, or import it with its lot.",
        (
            "provserver device create {device} --profile {profile}",
            "provserver device import devices.csv --profile {profile}",
        ),
    ),
    Reason.STATE_UNKNOWN: Advice(
        "Somebody wrote another value into the device's provisionState. Re-arm the device: it is provisioned anew.",
        (_SHOW_DEVICE, _REARM),
    ),
    Reason.ALREADY_PROVISIONED: Advice(
        "If the device has lost its credentials, re-arm it: the next request gets fresh ones. If it did not ask, "
        "somebody else did, who has the fleet's key. Firmware with a requestNonce helps itself (docs/retries.md).",
        (_REARM, "provserver attempt list --device {device}"),
    ),
    Reason.ALREADY_USED: Advice(
        "The credentials are in use: the device has lost them since, or another one asks in its name. Re-arm it if it "
        "is the device.",
        (_SHOW_DEVICE, _REARM),
    ),
    Reason.OTHER_CREDENTIALS: Advice(
        "The device supplies other credentials than it was provisioned with. Re-arm it if they are to be replaced.",
        (_SHOW_DEVICE, _REARM),
    ),
    Reason.ADDRESS_LOCKED: Advice(
        "Wrong keys, secrets or tokens came from this address, so few of its requests are looked at until it stops. "
        "Look what was guessed; nobody else is locked out.",
        ("provserver attempt list --refused",),
    ),
    Reason.ADDRESS_BUSY: Advice(_WAIT, ("provserver attempt list --refused",)),
    Reason.REFUSED_OFTEN: Advice(_WAIT, ("provserver attempt list --refused",)),
    Reason.NAME_REPEATED: Advice(
        "The device asks in a loop, or several have one name. Look what it is refused for.",
        ("provserver attempt list --device {device}",),
    ),
    Reason.KEY_BUSY: Advice(
        "More devices come with this key than it may serve in a minute: a storm that passes, or a key that leaked.",
        (_SHOW_PROFILE, "provserver attempt list --profile {profile}"),
    ),
    Reason.ORGANIZATION_BUSY: Advice(_WAIT, ("provserver attempt list --refused",)),
    Reason.DEVICE_BUSY: Advice(
        "The device rotates its credentials in a loop, or tries which ones others have. Look what it was refused for.",
        ("provserver attempt list --device {device}",),
    ),
    Reason.CERTIFICATE_MALFORMED: Advice(_CERTIFICATE + "it is to be X.509 in DER.", _CHAIN_FILES[:1]),
    Reason.CERTIFICATE_TOO_LARGE: Advice(
        _CERTIFICATE + "shorter names and fewer extensions; elliptic curves instead of RSA.", _CHAIN_FILES[:1]
    ),
    Reason.CHAIN_TOO_LONG: Advice("Have the device present its certificate and its intermediates, and nothing else."),
    Reason.SELF_SIGNED: Advice(
        "A self-signed certificate is a device's only when it supplied or an operator imported it. Provision the "
        "device with it, or have it signed by a CA of the profile.",
        (*_CHAIN_FILES, "provserver device list"),
    ),
    Reason.MISSING_INTERMEDIATE: Advice(
        "Have the device present the intermediates between its certificate and the profile's CA, or give the profile "
        "the intermediate as a CA of its own.",
        (_SHOW_PROFILE, "provserver profile update PROFILE --ca ca.pem --ca intermediate.pem"),
    ),
    Reason.UNTRUSTED: Advice(
        "If the CA is yours, give it to the profile of these devices.",
        ("provserver profile list", "provserver profile update PROFILE --strategy x509-chain --ca ca.pem"),
    ),
    Reason.SIGNATURE_WRONG: Advice(
        "A certificate was altered, or its issuer has a new key under the old name. Give the profile the CA "
        "that signed.",
        ("openssl verify -CAfile ca.pem -untrusted intermediates.pem device.pem", _SHOW_PROFILE),
    ),
    Reason.WEAK_SIGNATURE: Advice(_CERTIFICATE + "signed with SHA-256 or better.", _CHAIN_FILES[:1]),
    Reason.WEAK_KEY: Advice(_CERTIFICATE + "with RSA of 2048 bits or P-256.", _CHAIN_FILES[:1]),
    Reason.KEY_UNSUPPORTED: Advice(_CERTIFICATE + "with a key of RSA, P-256, P-384 or Ed25519.", _CHAIN_FILES[:1]),
    Reason.CERTIFICATE_EXPIRED: Advice(
        _CERTIFICATE + "it is past its notAfter. Compare the server's clock first.", (*_CHAIN_FILES[:1], "date --utc")
    ),
    Reason.CERTIFICATE_NOT_YET_VALID: Advice(
        "The factory's clock or the server's is wrong, or the certificate is for later.",
        (*_CHAIN_FILES[:1], "date --utc"),
    ),
    Reason.LEAF_IS_CA: Advice(_CERTIFICATE + "without CA:TRUE.", _CHAIN_FILES[:1]),
    Reason.ISSUER_NOT_CA: Advice(
        "A certificate in the chain signed another without being a CA: issue it anew with CA:TRUE, or issue the "
        "device's by a CA.",
        _CHAIN_FILES[:1],
    ),
    Reason.PATH_LENGTH: Advice("Issue from a CA that is nearer to the root, or have its pathlen raised.", _CHAIN_FILES),
    Reason.KEY_USAGE: Advice(_CERTIFICATE + "digitalSignature for the device, keyCertSign for CAs.", _CHAIN_FILES[:1]),
    Reason.EXTENDED_KEY_USAGE: Advice(_CERTIFICATE + "with clientAuth, or without the extension.", _CHAIN_FILES[:1]),
    Reason.NAME_CONSTRAINT: Advice(
        "The CA may not issue for this name. Issue from another, or have its constraints changed.", _CHAIN_FILES
    ),
    Reason.CRITICAL_EXTENSION: Advice(_CERTIFICATE + "without the extension, or with it not critical."),
    Reason.CHAIN_INVALID: Advice(
        "The detail says what is wrong with the chain.",
        ("openssl verify -CAfile ca.pem -untrusted intermediates.pem device.pem",),
    ),
    Reason.CERTIFICATE_REVOKED: Advice(
        "The certificate is on the CA's revocation list: the device was lost or its key leaked. If it was listed by "
        "mistake, issue a new certificate.",
        (_SHOW_PROFILE,),
    ),
    Reason.CRL_STALE: Advice(
        "Fetch the CA's current revocation list and give it to the profile; until then nobody of this CA gets in.",
        ("provserver profile update {profile} --ca ca.pem --crl ca.crl",),
    ),
    Reason.CHAIN_DISABLED: Advice(
        "The CA belongs to a profile of another strategy.",
        (_SHOW_PROFILE, "provserver profile update {profile} --strategy x509-chain"),
    ),
    Reason.CERTIFICATE_NAMELESS: Advice(
        "Have the profile look elsewhere in the certificate for the name, or issue certificates with it.",
        (_SHOW_PROFILE, "provserver profile update {profile} --name-from cn"),
    ),
    Reason.NAME_MISMATCH: Advice(
        "Compare the certificate's names with the profile's pattern; the first group of the pattern is the name.",
        (*_CHAIN_FILES, "provserver profile update {profile} --name-pattern '(.*)'"),
    ),
    Reason.CREDENTIALS_TYPE: Advice(
        "The device has a token or a password, and a certificate does not take over from those. Re-arm it if it is to "
        "change to certificates, or delete imported credentials with the device.",
        (_SHOW_DEVICE, _REARM),
    ),
    Reason.CERTIFICATE_SUPERSEDED: Advice(
        "An older certificate than the device's newest was presented: a device put back to old flash, or one whose old "
        "certificate somebody else has. Revoke the old certificate at its CA.",
        (_SHOW_DEVICE,),
    ),
    Reason.CSR_MALFORMED: Advice(FIRMWARE + "the request is PKCS#10, in base64 of DER or in PEM."),
    Reason.CSR_TOO_LARGE: Advice(FIRMWARE + "the request has a subject and a key, and needs no more."),
    Reason.CSR_KEY: Advice(FIRMWARE + "make an EC key on P-256 (secp256r1)."),
    Reason.CSR_SIGNATURE: Advice(FIRMWARE + "sign the request with the private key that belongs to its public key."),
    Reason.CSR_EXTENSION: Advice(FIRMWARE + "ask for no extensions: the profile's CA sets them."),
    Reason.CSR_SUBJECT: Advice(FIRMWARE + "the subject is to be CN= and the device's own name, or empty."),
    Reason.ISSUER_MISSING: Advice("Give the profile a CA to issue with (docs/certificates.md).", (_SHOW_PROFILE,)),
    Reason.ISSUER_EXPIRED: Advice(
        "Renew the CA that the profile issues with (docs/certificates.md).", (_SHOW_PROFILE,)
    ),
    Reason.CREDENTIALS_EXPIRED: Advice(
        "The device did not renew its credentials in time. Re-arm it: it is provisioned anew.", (_SHOW_DEVICE, _REARM)
    ),
    Reason.CREDENTIALS_IMPORTED: Advice(
        "What an operator imported, an operator replaces: the device cannot do it itself.", (_SHOW_DEVICE,)
    ),
    Reason.CREDENTIALS_STATIC: Advice(
        "A static token is written in the unit and on its label; it is replaced by a new token.",
        ("provserver token show {device}",),
    ),
}
"""For every reason that an attempt can have."""


def read(reason: str | None) -> Reason | Word:
    """The reason of an attempt, as it was recorded. Raises KeyError for one of another version."""
    if reason is None:
        return Word.GRANTED
    return Word[reason] if reason in Word.__members__ else Reason[reason]


def explain(
    outcome: Outcome, reason: Reason | Word, subject: Subject, *, detail: str | None = None, rehearsed: bool = False
) -> Explanation:
    """Put an attempt into words. detail: what was recorded beside the reason. rehearsed: it would be so."""
    who = f"the device {subject.device!r}" if subject.device else "a device"
    where = f" with the profile {subject.profile!r}" if subject.profile else ""
    why = reason.value if isinstance(reason, Word) else reason.text
    if detail:
        why += f" ({detail})"
    does = _WOULD[outcome] if rehearsed else _DID[outcome]
    advice = ADVICE[reason]
    return Explanation(
        f"{who[0].upper()}{who[1:]} {does}{where}.",
        why,
        told(outcome, reason, detail),
        advice.text,
        [] if rehearsed and reason is Word.GRANTED else commands(advice, subject),  # there is no such device yet
    )


def told(outcome: Outcome, reason: Reason | Word, detail: str | None = None) -> Told:
    """What a device is told of an outcome, on each protocol."""
    rendering = RENDERINGS[outcome]
    message = rendering.error
    if outcome is Outcome.INVALID:
        message = f"{reason.text}!" if isinstance(reason, Reason) else detail
    coap = f"{rendering.coap >> 5}.{rendering.coap & 31:02}"
    body = rendering.status is not None
    mqtt = "a reply on /provision/response" if body else f"no reply; MQTT 5: reason code 0x{rendering.mqtt:02x}"
    return Told(rendering.status, message if body else None, rendering.http, coap, mqtt)


def commands(advice: Advice, subject: Subject) -> list[str]:
    """The command lines of advice, with their names put in; those whose names nobody knows are left out."""
    names = {name: shlex.quote(value) for name, value in subject._asdict().items() if value is not None}
    found = []
    for command in advice.commands:
        try:
            found.append(command.format_map(names))
        except KeyError:
            continue
    return found


_DID = {
    Outcome.SUCCESS: "was provisioned",
    Outcome.NOT_FOUND: "was refused",
    Outcome.FAILURE: "was refused",
    Outcome.INVALID: "sent a request that is not valid",
    Outcome.UNDECODABLE: "sent what cannot be read",
    Outcome.TOO_LARGE: "sent more than is taken",
    Outcome.UNAVAILABLE: "was told to come back",
    Outcome.LIMITED: "was told to come back, as too much was asked",
    Outcome.PENDING: "was told to come back: it waits for an operator",
}

_WOULD = {
    Outcome.SUCCESS: "would be provisioned",
    Outcome.NOT_FOUND: "would be refused",
    Outcome.FAILURE: "would be refused",
    Outcome.INVALID: "would have sent a request that is not valid",
    Outcome.UNDECODABLE: "would have sent what cannot be read",
    Outcome.TOO_LARGE: "would have sent more than is taken",
    Outcome.UNAVAILABLE: "would be told to come back",
    Outcome.LIMITED: "would be told to come back, as too much was asked",
    Outcome.PENDING: "would be told to come back: it waits for an operator",
}
