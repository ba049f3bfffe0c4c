"""Tags in firmware binaries: a name and pairs of key and value, each with a NUL behind it, and one more at the end.

`blnkinf` says what a firmware is. `blnkopt` has what it starts with when nothing is configured: tools find and patch it
in the finished binary.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

INFO = "blnkinf"
OPTIONS = "blnkopt"

MAX_LENGTH = 4096
"""Bytes of a tag. The stock one of options has 300."""

_TEXT = r"[\w .,:\-()]+"
_KEY = re.compile(r"[a-z][a-z0-9\-]*")
_VALUE = re.compile(_TEXT, re.ASCII)


class InvalidTag(ValueError):  # noqa: N818
    """There is no such tag, or it cannot be what is wanted. Holds no value."""


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag where it was found: its first byte, and how many it has with its end."""

    name: str
    offset: int
    length: int
    values: Mapping[str, str] = field(repr=False)


def find(firmware: bytes, name: str) -> Tag:
    """The tag of this name. Raises InvalidTag when there is none, or several: firmware may read any of them."""
    pattern = re.compile(rb"%b\0([\w\s.,:\-()\0]{0,%d}?)\0\0" % (name.encode(), MAX_LENGTH))
    tags = []
    for match in pattern.finditer(firmware):
        values = _parsed(match[1])
        if values is not None:
            tags.append(Tag(name, match.start(), match.end() - match.start(), values))
    if not tags:
        raise InvalidTag(f"it has no tag {name!r}, or not a whole one")
    if len(tags) > 1:
        raise InvalidTag(f"it has {len(tags)} tags {name!r}")
    return tags[0]


def patch(tag: Tag, changes: Mapping[str, str | None]) -> bytes:
    """The bytes to put in a tag's place, exactly as many, zeroes behind its end. Raises InvalidTag.

    changes: values by key, None for a key to leave out; other keys stay as they are, new ones come at the end.
    """
    values = {key: value for key, value in ({**tag.values, **changes}).items() if value is not None}
    for key, value in values.items():
        if not _KEY.fullmatch(key):
            raise InvalidTag(f"{key!r} cannot be a key: keys are lower-case letters, digits and '-'")
        if not value:
            raise InvalidTag(f"the value of {key} is empty, which would end the tag there: leave it out")
        if not _VALUE.fullmatch(value):
            raise InvalidTag(
                f"the value of {key} has characters that no tool would find again in a tag: "
                "it may have letters of ASCII, digits, spaces and _ . , : - ( ) only"
            )
    content = "".join(f"{key}\0{value}\0" for key, value in values.items())
    data = f"{tag.name}\0{content}\0".encode()
    if not content or len(data) > tag.length:
        raise InvalidTag(f"the new values need {len(data)} bytes, and the firmware has room for {tag.length}")
    return data.ljust(tag.length, b"\0")


def _parsed(content: bytes) -> dict[str, str] | None:
    """The pairs of a tag, or None when it is something else that begins like one."""
    words = content.decode("ascii").split("\0")
    keys, values = words[::2], words[1::2]
    if len(keys) != len(values) or len(set(keys)) != len(keys) or not all(values):
        return None
    return dict(zip(keys, values, strict=True)) if all(map(_KEY.fullmatch, keys)) else None
