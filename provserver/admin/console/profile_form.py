"""Forms of profiles ⇄ what the admin API takes: strategies and policies in words, rows of fields, files as text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from provserver.admin.console.page import Form
from provserver.admin.problem import Malformed
from provserver.core.datastreams import TYPES as STREAM_TYPES
from provserver.core.metadata import TYPES as FIELD_TYPES
from provserver.core.model import ClonePolicy, NameSource, ProvisionStrategy, ReprovisionPolicy

STRATEGIES = {
    ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES: (
        "Create new devices",
        "Whoever has the key and the secret becomes a device. For firmware that is the same on all devices.",
    ),
    ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES: (
        "Only devices that are listed",
        "Key and secret provision the devices that you have created or imported beforehand, each once, by its name.",
    ),
    ProvisionStrategy.X509_CERTIFICATE_CHAIN: (
        "Certificates of a factory",
        "A device shows a certificate of a CA that you trust. No key, no secret; over MQTTS, HTTPS or CoAPS.",
    ),
    ProvisionStrategy.DISABLED: (
        "No provisioning",
        "No device provisions itself: you create them, or they have static tokens from the factory.",
    ),
}
"""Each strategy: its title, and what it means."""

POLICIES = {
    ReprovisionPolicy.DENY: (
        "It is refused",
        "The default. A device whose answer was lost gets it again by its requestNonce, or you re-arm it.",
    ),
    ReprovisionPolicy.UNTIL_FIRST_USE: (
        "It gets the same answer, until that is used",
        "Until the device has used its credentials for the first time.",
    ),
    ReprovisionPolicy.RETURN_SAME: (
        "It gets the same answer, always",
        "As ThingsBoard did before 4.2.1.1.",
    ),
    ReprovisionPolicy.ROTATE: (
        "It gets new credentials",
        "The old ones die when the new ones are used for the first time.",
    ),
}
"""What a device gets that is provisioned already and asks again, without a nonce."""

CLONES = {
    ClonePolicy.IGNORE: "do nothing",
    ClonePolicy.REPORT: "report it",
    ClonePolicy.QUARANTINE: "report it, and put it into quarantine when both hold valid credentials",
}

NAMES_FROM = {
    NameSource.CN: "the common name (CN)",
    NameSource.SAN_DNS: "an alternative name: DNS",
    NameSource.SAN_URI: "an alternative name: URI",
    NameSource.SAN_EMAIL: "an alternative name: e-mail",
}

UNITS = ((86_400, "days"), (3_600, "hours"), (60, "minutes"))

FIELD_TYPES_SHOWN = [(name, f"{name}: {holds}") for name, holds in FIELD_TYPES.items()]
STREAM_TYPES_SHOWN = [(name, name) for name in sorted(STREAM_TYPES)]

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?-----END [A-Z0-9 ]+-----", re.DOTALL)


def settings(form: Form) -> dict[str, Any]:
    """What every profile has, as far as the form asks for it."""
    members: dict[str, Any] = {
        "name": form["name"],
        "strategy": form["strategy"],
        "reprovisionPolicy": form["reprovisionPolicy"],
        "acceptUnprovenRepeats": form["accept"] == "on",
        "twoSidedClaim": form["twoSidedClaim"] == "on",
        "approval": form["approval"] == "on",
        "clonePolicy": form["clonePolicy"],
        "credentialsLifetime": _lifetime(form),
    }
    return {name: value for name, value in members.items() if value != ""}


def fields(form: Form) -> list[dict[str, Any]]:
    """The rows of metadata fields; one whose name is empty is none."""
    columns = ("fieldName", "fieldType", "fieldUnique", "fieldOptions", "fieldDefault")
    return [
        {
            "name": name,
            "type": type_,
            "unique": unique == "yes",
            "options": _lines(options) if type_ == "list" else [],
            "default": default,
        }
        for name, type_, unique, options, default in _rows(form, columns)
        if name
    ]


def datastreams(form: Form) -> list[dict[str, Any]]:
    """The rows of datastreams; one whose name and pin are empty is none."""
    columns = ("streamName", "streamPin", "streamType", "streamMinimum", "streamMaximum")
    return [
        {
            "name": name,
            "pin": pin.upper(),
            "type": type_,
            "minimum": _bound(low, "streamMinimum"),
            "maximum": _bound(high, "streamMaximum"),
        }
        for name, pin, type_, low, high in _rows(form, columns)
        if name or pin
    ]


def naming(form: Form) -> dict[str, Any]:
    """How a device's name is found in its certificate."""
    return {
        "nameFrom": form["nameFrom"],
        "namePattern": form["namePattern"] or "(.*)",
        "allowCreate": form["allowCreate"] == "on",
    }


def files(text: str) -> list[str]:
    """The PEM blocks of a text, one by one; what is between them is DER in base64, by paragraphs."""
    return [each.strip() for each in (*_PEM.findall(text), *_PEM.sub("\n\n", text).split("\n\n")) if each.strip()]


def lifetime_shown(seconds: int) -> tuple[str, int]:
    """A lifetime as a number and the largest unit that it is a multiple of; an empty text for one without end."""
    if not seconds:
        return "", UNITS[0][0]
    size = next((size for size, _ in UNITS if seconds % size == 0), 1)
    return str(seconds // size), size


def field_rows(profile: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Metadata fields as the rows of a form have them."""
    return [each | {"options": "\n".join(each["options"])} for each in profile["metadataFields"]]


def _lifetime(form: Form) -> int:
    number = form.number("lifetime")
    if number is None:
        return 0
    unit = form["lifetimeUnit"]
    if unit not in {str(size) for size, _ in UNITS} | {"1"}:
        raise _wrong("lifetimeUnit", "a unit of time")
    return number * int(unit)


def _rows(form: Form, columns: Sequence[str]) -> list[tuple[str, ...]]:
    found = [form.all(name) for name in columns]
    if len({len(each) for each in found}) != 1:
        raise Malformed("The rows of the form are not complete: load the page again.")
    return list(zip(*found, strict=True))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _bound(text: str, field: str) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise _wrong(field, "a number, with a decimal point") from None


def _wrong(field: str, reason: str) -> Malformed:
    return Malformed(f"This must be {reason}.", [{"in": "body", "field": field, "reason": reason}])
