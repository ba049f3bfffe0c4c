"""What a profile may say that its devices have: metadata fields and datastreams, checked when it is saved."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from provserver.core import datastreams, metadata
from provserver.core.credentials import has_control_characters
from provserver.core.model import Datastream, MetadataField

MAX_NAME_LENGTH = 250
"""Characters: with `meta.` before it a field's name is the key of an attribute."""

SECRET_TYPES = frozenset({"key128"})
"""Of metadata fields that are nobody's to see but their device's and its maker's, as those of `lorawan.SECRETS` are."""


class InvalidDefinition(ValueError):  # noqa: N818
    """No profile can have this; the message names what is at fault, and the fix."""


def metadata_fields(given: Iterable[MetadataField]) -> tuple[MetadataField, ...]:
    """Metadata fields as they are kept: types in lower case, defaults in normal form. Raises InvalidDefinition."""
    fields = tuple(map(_field, given))
    _check_distinct("metadata field", [field.name for field in fields])
    return fields


def check_datastreams(given: Sequence[Datastream]) -> None:
    """Whether datastreams have names of their own, and pins, types and ranges that exist. Raises InvalidDefinition."""
    for stream in given:
        _check_name("datastream", stream.name)
        called, low, high = f"The datastream {stream.name!r}", stream.minimum, stream.maximum
        if datastreams.pin_number(stream.pin) is None:
            raise InvalidDefinition(f"{called}: {stream.pin!r} is no pin: V0 to V{datastreams.MAX_PIN}.")
        if stream.type.lower() not in datastreams.TYPES:
            types = ", ".join(sorted(datastreams.TYPES))
            raise InvalidDefinition(f"{called}: {stream.type!r} is no type: {types}.")
        if not all(bound is None or math.isfinite(bound) for bound in (low, high)):
            raise InvalidDefinition(f"{called}: its minimum and maximum must be finite numbers.")
        if low is not None and high is not None and low > high:
            raise InvalidDefinition(f"{called}: its minimum is above its maximum.")
    _check_distinct("datastream", [stream.name for stream in given])


def _field(given: MetadataField) -> MetadataField:
    _check_name("metadata field", given.name)
    field = replace(given, type=given.type.lower())
    try:
        metadata.check_field(field)
        if not field.default:
            return field
        if field.type in SECRET_TYPES:
            raise metadata.InvalidValue("a key is one device's own, so it has no default")
        return replace(field, default=metadata.check(field, field.default))
    except metadata.InvalidValue as fault:
        raise InvalidDefinition(f"The metadata field {given.name!r}: {fault}.") from None


def _check_name(noun: str, name: str) -> None:
    if not name or name != name.strip() or len(name) > MAX_NAME_LENGTH or has_control_characters(name):
        raise InvalidDefinition(
            f"A {noun}'s name must be 1-{MAX_NAME_LENGTH} printable characters, with no blanks around them."
        )


def _check_distinct(noun: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidDefinition(f"The {noun} {name!r} is there twice. Leave one out.")
        seen.add(name)
