"""LoRaWAN device identification QR codes (LoRa Alliance TR005), read as leniently as printers are careless, and made.

`LW:D0:<JoinEUI>:<DevEUI>:<ProfileID>[:O<owner token>][:S<serial number>][:P<proprietary>][:C<checksum>]`. The two forms
of its drafts are read too, and a DevEUI alone. What is not known is passed over; a wrong checksum is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from provserver.core import lorawan

MAX_LENGTH: Final = 512
"""Characters of a code: more than fits one that a telephone reads from a label."""

_PREFIX = "LW:D0:"
_DRAFT_2, _DRAFT_3 = "URN:LW:DP:", "URN:DEV:LW:"
_HEXADECIMAL = frozenset("0123456789ABCDEF")
_ALLOWED = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ$%*+-./")  # ISO/IEC 18004's alphanumerics but blank and colon
_DRAFT_TAGS: Mapping[str, str] = MappingProxyType({"V": "O", "S": "S", "P": "P"})
"""Tags of the drafts and what they became: the validation code is the owner token."""


class InvalidCode(ValueError):  # noqa: N818
    """A text is no such code; the message says why and quotes none of it."""


class WrongChecksum(InvalidCode):
    """A text would be a code, but was misread."""


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """What a code says, in capitals. join_eui, profile_id: empty when the code is a DevEUI alone; the rest may be."""

    join_eui: str
    dev_eui: str
    profile_id: str
    owner_token: str = field(default="", repr=False)
    serial_number: str = ""
    proprietary: str = ""


def parse(text: str) -> DeviceCode:
    """Read a code, whatever its case and the order of its extensions. Raises InvalidCode."""
    given = text.strip()
    if len(given) > MAX_LENGTH:
        raise InvalidCode(f"longer than {MAX_LENGTH} characters")
    if not given.isascii():
        raise InvalidCode("a character that no such code has")
    code = given.upper()
    if code.startswith(_PREFIX):
        identity, extensions = _divided(code.removeprefix(_PREFIX).split(":"))
        _verify(given)
        return _code(identity, _values(extensions))
    if code.startswith(_DRAFT_2):
        identity, rest = _divided(code.removeprefix(_DRAFT_2).split(":", 3))
        extensions = "".join(rest).replace("%25", "%").split("%")
        return _code(identity, _values(extensions, _DRAFT_TAGS))
    if code.startswith(_DRAFT_3):
        identity, extensions = _divided(code.removeprefix(_DRAFT_3).split("_"))
        return _code(identity, _values(extensions, _DRAFT_TAGS))
    try:
        return DeviceCode("", lorawan.eui(code), "")
    except lorawan.InvalidIdentifier:
        raise InvalidCode(f"a device's code begins with {_PREFIX}") from None


def encode(code: DeviceCode, *, checksum: bool = True) -> str:
    """The code in the order of the recommendation, its checksum last. Raises InvalidCode."""
    try:
        identity = lorawan.eui(code.join_eui), lorawan.eui(code.dev_eui), lorawan.profile_id(code.profile_id)
    except lorawan.InvalidIdentifier as fault:
        raise InvalidCode(str(fault)) from None
    text = _PREFIX + ":".join(identity)
    for tag, value in (("O", code.owner_token), ("S", code.serial_number), ("P", code.proprietary)):
        if value:
            if not _ALLOWED.issuperset(value):
                raise InvalidCode("an extension has capitals, digits and $%*+-./ only")
            text += f":{tag}{value}"
    text = f"{text}:C{_crc(text)}" if checksum else text
    if len(text) > MAX_LENGTH:
        raise InvalidCode(f"longer than {MAX_LENGTH} characters")
    return text


def checksum(text: str) -> str:
    """CRC-16/MODBUS of a code without its checksum and the colon before that: four digits."""
    return _crc(text)


def _crc(text: str) -> str:
    value = 0xFFFF
    for byte in text.encode():
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return f"{value:04X}"


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0xA001 if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_remainder, range(256)))


def _verify(given: str) -> None:
    """Whether the checksum, if there is one, fits what is left without it. Raises InvalidCode.

    Encoders disagree on where it goes, and some made it of small letters.
    """
    parts = given.split(":")
    places = [place for place, part in enumerate(parts[5:], 5) if part[:1] in ("C", "c") and len(part) > 1]
    if not places:
        return
    if len(places) > 1:
        raise InvalidCode("there are several checksums")
    rest = ":".join(parts[: places[0]] + parts[places[0] + 1 :])
    told = parts[places[0]][1:].upper()
    if told not in {_crc(each) for each in (rest, rest.upper(), rest.rstrip(":"), rest.upper().rstrip(":"))}:
        raise WrongChecksum("the checksum does not fit: read the code once more")


def _divided(parts: list[str]) -> tuple[list[str], list[str]]:
    return parts[:3], parts[3:]


def _values(extensions: Iterable[str], tags: Mapping[str, str] | None = None) -> dict[str, str]:
    """Extensions by tag, without those that are empty. Raises InvalidCode."""
    values: dict[str, str] = {}
    for each in extensions:
        tag, value = each[:1], each[1:]
        tag = tag if tags is None else tags.get(tag, "")
        if not tag or not value:
            continue
        if tag in "OSP" and tag in values:
            raise InvalidCode("an extension is there twice")
        values[tag] = value
    return values


def _code(identity: list[str], values: Mapping[str, str]) -> DeviceCode:
    if len(identity) < 3:
        raise InvalidCode("a JoinEUI, a DevEUI and a Profile ID are needed")
    join_eui, dev_eui, profile_id = identity
    for digits, length, noun in ((join_eui, 16, "JoinEUI"), (dev_eui, 16, "DevEUI"), (profile_id, 8, "Profile ID")):
        if len(digits) != length or not _HEXADECIMAL.issuperset(digits):
            raise InvalidCode(f"the {noun} must have {length} hexadecimal digits")
    return DeviceCode(join_eui, dev_eui, profile_id, values.get("O", ""), values.get("S", ""), values.get("P", ""))
