"""Metadata fields: what their types hold. A value is a text in one normal form, so that equal values are equal texts.

Reasons name places and lengths, never what was given: a field may hold a key.
"""

import re
import zoneinfo
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from provserver.core import datastreams, decision
from provserver.core.credentials import has_control_characters
from provserver.core.model import MetadataField

MAX_TEXT: Final = 255
"""Characters of a text."""

MAX_DIGITS: Final = 15
"""Significant digits of a number: as many as a double keeps."""

MAX_URL: Final = 1000

DEVICE_NAME: Final = datastreams.DEVICE_NAME.name
"""The field that every device has without its profile naming it."""

TYPES: Mapping[str, str] = MappingProxyType(
    {
        "text": f"up to {MAX_TEXT} characters",
        "number": f"a decimal number of up to {MAX_DIGITS} digits, such as -12.5",
        "integer": f"a whole number of up to {MAX_DIGITS} digits",
        "boolean": "true or false",
        "mac": "a MAC address, such as 2C:54:91:88:C9:E3",
        "imei": "15 digits, of which the last is the check digit",
        "iccid": "19 or 20 digits from 89 on, of which the last is the check digit",
        "eui64": "16 hexadecimal digits: a DevEUI or JoinEUI",
        "key128": "32 hexadecimal digits: an AppKey",
        "list": "one of the field's options",
        "email": "an e-mail address",
        "phone": "a telephone number with its country code, such as +493012345678",
        "url": "an http or https address",
        "timezone": "a time zone's name, such as Europe/Berlin",
        "blues-device": "a device of Notehub, such as dev:864475046552567",
        "device-reference": "the name or id of another device",
    }
)
"""What there is, with what it holds."""


class InvalidValue(ValueError):  # noqa: N818
    """A value is not of its field's type, or a field is not well defined; the text says why and quotes no value."""


def check(field: MetadataField, text: str) -> str:
    """A value in its normal form. Raises InvalidValue. A type that is not known, as older profiles have, is text."""
    text = text.strip()
    if not text:
        raise InvalidValue("empty")
    if has_control_characters(text):
        raise InvalidValue("contains control characters")
    if field.type == "list":
        return _option(field, text)
    return _CHECKS.get(field.type, _text)(text)


def default(field: MetadataField) -> str:
    """What a device gets that brings no value; "" for nothing."""
    try:
        return check(field, field.default) if field.default and not field.unique else ""
    except InvalidValue:  # as an older profile may have it
        return ""


def check_field(field: MetadataField) -> None:
    """Whether a profile may have this field. Raises InvalidValue."""
    if field.name in _BUILT_IN:
        raise InvalidValue(f"{field.name!r} is there without being named")
    if field.type not in TYPES:
        close = get_close_matches(field.type.lower(), TYPES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InvalidValue(f"there is no type {field.type!r}.{hint} Types are {', '.join(TYPES)}")
    if bool(field.options) != (field.type == "list"):
        raise InvalidValue("a list needs options, and nothing else has them")
    for option in field.options:
        if not option or option != option.strip() or len(option) > MAX_TEXT or has_control_characters(option):
            raise InvalidValue(f"an option must be 1-{MAX_TEXT} printable characters without blanks around them")
    if len(set(field.options)) < len(field.options):
        raise InvalidValue("an option is there twice")
    if field.default:
        if field.unique:
            raise InvalidValue("what is unique cannot have a default")
        try:
            check(field, field.default)
        except InvalidValue as fault:
            raise InvalidValue(f"its default is no {field.type}: {fault}") from None


def _text(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise InvalidValue(f"longer than {MAX_TEXT} characters")
    return text


def _number(text: str) -> str:
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise InvalidValue("not a number: write a decimal point, no comma" if "," in text else "not a number")
    sign, whole, fraction = match[1], match[2].lstrip("0"), (match[3] or "").rstrip("0")
    if len((whole + fraction).lstrip("0")) > MAX_DIGITS or len(fraction) > MAX_DIGITS:
        raise InvalidValue(f"has more than {MAX_DIGITS} digits")
    size = (whole or "0") + (f".{fraction}" if fraction else "")
    return f"-{size}" if sign == "-" and size != "0" else size


def _integer(text: str) -> str:
    if not _WHOLE.fullmatch(text):
        raise InvalidValue(f"not a whole number{_spoiled(text)}")
    return _number(text)


def _boolean(text: str) -> str:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise InvalidValue("must be true or false") from None


def _mac(text: str) -> str:
    digits = hexadecimal(text, 12, "a MAC address")
    return ":".join(digits[place : place + 2] for place in range(0, 12, 2))


def _eui64(text: str) -> str:
    return hexadecimal(text, 16, "an EUI-64")


def _key128(text: str) -> str:
    return hexadecimal(text, 32, "a key of 128 bits")


def _imei(text: str) -> str:
    digits = _digits(text, "an IMEI")
    if len(digits) == 16:
        raise InvalidValue("not an IMEI: 16 digits are an IMEISV, which ends in a software version")
    if len(digits) != 15:
        raise InvalidValue(f"not an IMEI: {len(digits)} digits where it has 15")
    return _luhn(digits, "an IMEI")


def _iccid(text: str) -> str:
    if _FILLED.fullmatch(text):
        text = text[:-1]  # 20 half-bytes on a SIM: 19 digits, and one that says nothing
    digits = _digits(text, "an ICCID")
    if len(digits) not in (19, 20):
        raise InvalidValue(f"not an ICCID: {len(digits)} digits where it has 19 or 20")
    if not digits.startswith("89"):
        raise InvalidValue("not an ICCID: it begins with 89")
    return _luhn(digits, "an ICCID")


def _option(field: MetadataField, text: str) -> str:
    if text in field.options:
        return text
    if same := next((option for option in field.options if option.casefold() == text.casefold()), None):
        raise InvalidValue(f"not one of the options: it differs by case from {same!r}")
    shown = ", ".join(map(repr, field.options[:_SHOWN_OPTIONS]))
    raise InvalidValue(f"not one of the options: {shown}{', …' if len(field.options) > _SHOWN_OPTIONS else ''}")


def _email(text: str) -> str:
    local, _, domain = text.rpartition("@")
    if len(text) > _MAX_EMAIL or not _LOCAL.fullmatch(local) or not _DOMAIN.fullmatch(domain):
        raise InvalidValue("not an e-mail address")
    return f"{local}@{domain.lower()}"


def _phone(text: str) -> str:
    digits = text.translate(_GROUPING)
    if not digits.startswith("+"):
        raise InvalidValue(f"not a telephone number: it begins with + and the country code{_spoiled(text)}")
    if not _E164.fullmatch(digits):
        raise InvalidValue(f"not a telephone number: after the + come 7 to 15 digits{_spoiled(text)}")
    return digits


def _url(text: str) -> str:
    if len(text) > MAX_URL:
        raise InvalidValue(f"longer than {MAX_URL} characters")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InvalidValue("not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or any(map(str.isspace, text)):
        raise InvalidValue("not a URL: it begins with http:// or https:// and has a host and no blanks")
    if "@" in parts.netloc:
        raise InvalidValue("a URL with a user name or password in it")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return urlunsplit(parts._replace(netloc=host if port is None else f"{host}:{port}"))


def _timezone(text: str) -> str:
    if not _is_timezone(text):
        raise InvalidValue("not a time zone's name, such as Europe/Berlin")
    return text


@lru_cache(maxsize=1024)
def _is_timezone(name: str) -> bool:
    try:
        return zoneinfo.ZoneInfo(name).key == name
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return False


def _blues_device(text: str) -> str:
    if not _BLUES.fullmatch(text):
        raise InvalidValue("not a device of Notehub: it begins with dev: and goes on with letters and digits")
    return text


def _device_reference(text: str) -> str:
    name = decision.check_name(text)
    if isinstance(name, decision.Refusal):
        raise InvalidValue(f"not a device's name: {name.reason.text}")
    return name or text


def hexadecimal(text: str, count: int, noun: str) -> str:
    """So many digits in capitals; they may come after 0x, or in groups of two or four with one sign between.

    Raises InvalidValue, which calls what it should be by the noun.
    """
    text = text[2:] if text[:2] in ("0x", "0X") else text
    separator = next((each for each in ":-. " if each in text), "")
    if place := next((n for n, each in enumerate(text, 1) if each not in _HEXADECIMAL and each != separator), None):
        raise InvalidValue(f"not {noun}: character {place} is not a hexadecimal digit{_spoiled(text)}")
    groups = text.split(separator) if separator else [text]
    digits = "".join(groups)
    if len(digits) != count:
        raise InvalidValue(f"not {noun}: {len(digits)} hexadecimal digits where it has {count}")
    if separator and {len(group) for group in groups} not in ({2}, {4}):
        raise InvalidValue(f"not {noun}: its digits are not in equal groups")
    return digits.upper()


def _digits(text: str, noun: str) -> str:
    digits = text.replace(" ", "").replace("-", "")
    if not _DIGITS.fullmatch(digits):
        raise InvalidValue(f"not {noun}: it has digits only{_spoiled(text)}")
    return digits


def _luhn(digits: str, noun: str) -> str:
    """ISO/IEC 7812-1 annex B: from the right, every second digit counts double."""
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    if (doubled + sum(map(int, digits[::-2]))) % 10:
        raise InvalidValue(f"not {noun}: its check digit does not fit, so a digit is wrong")
    return digits


def _spoiled(text: str) -> str:
    """A hint for what spreadsheets make of long numbers."""
    return ". A spreadsheet has rounded it: format the column as text" if _SCIENTIFIC.fullmatch(text) else ""


_BUILT_IN = frozenset(each.name for each in (datastreams.DEVICE_NAME, datastreams.DEVICE_OWNER, datastreams.LOCATION))
_BOOLEANS = {"true": "true", "yes": "true", "1": "true", "false": "false", "no": "false", "0": "false"}
_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")
_SHOWN_OPTIONS = 10
_MAX_EMAIL = 254
_GROUPING = str.maketrans("", "", " -./()")
_DECIMAL = re.compile(r"([+-]?)(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_DIGITS = re.compile(r"[0-9]+")
_FILLED = re.compile(r"[0-9]{19}[Ff]")
_SCIENTIFIC = re.compile(r"[0-9](?:[.,][0-9]+)?[eE]\+?[0-9]+")
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_LOCAL = re.compile(r"(?=.{1,64}\Z)[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})+")
_BLUES = re.compile(r"dev:[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")

_CHECKS: Mapping[str, Callable[[str], str]] = {
    "text": _text,
    "number": _number,
    "integer": _integer,
    "boolean": _boolean,
    "mac": _mac,
    "imei": _imei,
    "iccid": _iccid,
    "eui64": _eui64,
    "key128": _key128,
    "email": _email,
    "phone": _phone,
    "url": _url,
    "timezone": _timezone,
    "blues-device": _blues_device,
    "device-reference": _device_reference,
}
