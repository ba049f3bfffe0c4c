"""A device profile as a TOML file: what makes it a template, and nothing that belongs to one server.

So no id, no provision keys and no CAs (a CA belongs to one profile): whoever imports the file adds his own.
"""

import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from provserver.core.model import (
    ChainRules,
    ClonePolicy,
    Datastream,
    DeviceProfile,
    MetadataField,
    NameSource,
    ProvisionStrategy,
    ReprovisionPolicy,
)

STRATEGIES = {
    "allow-create": ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES,
    "check-pre-provisioned": ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES,
    "x509-chain": ProvisionStrategy.X509_CERTIFICATE_CHAIN,
    "disabled": ProvisionStrategy.DISABLED,
}
"""The strategies by their short names. ThingsBoard's are understood too."""

MAX_SIZE = 1 << 20

_SHORT_NAMES = {strategy: name for name, strategy in STRATEGIES.items()}
_CHAINS = (ProvisionStrategy.X509_CERTIFICATE_CHAIN, ProvisionStrategy.DISABLED)
_PLAIN = ChainRules()


class InvalidProfileFile(ValueError):  # noqa: N818
    """No profile can be made of a file; the message says where and why."""


@dataclass(frozen=True, slots=True)
class ProfileTemplate:
    """What a profile shares with its copies."""

    name: str
    strategy: ProvisionStrategy
    reprovision_policy: ReprovisionPolicy = ReprovisionPolicy.DENY
    two_sided_claim: bool = False
    metadata_fields: tuple[MetadataField, ...] = ()
    datastreams: tuple[Datastream, ...] = ()
    chain: ChainRules = _PLAIN
    clone_policy: ClonePolicy = ClonePolicy.REPORT
    approval: bool = False
    credentials_lifetime: timedelta | None = None

    @classmethod
    def of(cls, profile: DeviceProfile) -> "ProfileTemplate":
        """A profile's. Rules for chains that its strategy has no use for are left out."""
        return cls(
            profile.name,
            profile.strategy,
            profile.reprovision_policy,
            profile.two_sided_claim,
            profile.metadata_fields,
            profile.datastreams,
            profile.chain if profile.strategy in _CHAINS else _PLAIN,
            profile.clone_policy,
            profile.approval,
            profile.credentials_lifetime,
        )


class _Field(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    type: str = "text"
    unique: bool = False
    options: tuple[str, ...] = ()
    default: str = ""


class _Datastream(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    pin: str
    type: str = "double"
    minimum: float | None = None
    maximum: float | None = None


class _Chain(Struct, frozen=True, forbid_unknown_fields=True):
    name_from: NameSource = _PLAIN.name_from
    name_pattern: str = _PLAIN.name_pattern
    allow_create: bool = _PLAIN.allow_create


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1)]
    strategy: str
    reprovision_policy: ReprovisionPolicy = ReprovisionPolicy.DENY
    two_sided_claim: bool = False
    clone_policy: ClonePolicy = ClonePolicy.REPORT
    approval: bool = False
    credentials_lifetime: Annotated[int, Meta(ge=60)] | None = None
    metadata_field: tuple[_Field, ...] = ()
    datastream: tuple[_Datastream, ...] = ()
    certificate_chain: _Chain = _Chain()


def read(content: bytes) -> ProfileTemplate:
    """A template from a file's content. Raises InvalidProfileFile."""
    if len(content) > MAX_SIZE:
        raise InvalidProfileFile(f"it is larger than {MAX_SIZE >> 20} MiB")
    try:
        file = msgspec.convert(tomllib.loads(content.decode("utf-8-sig")), _File)
    except UnicodeDecodeError:
        raise InvalidProfileFile("it is not UTF-8") from None
    except msgspec.ValidationError as fault:
        raise InvalidProfileFile(_said(fault)) from None
    except RecursionError:
        raise InvalidProfileFile("it is nested too deeply") from None
    except ValueError as fault:  # tomllib's own, and Python's of numbers with thousands of digits
        raise InvalidProfileFile(f"it is not valid TOML: {fault}") from None
    strategy = STRATEGIES.get(file.strategy) or ProvisionStrategy.__members__.get(file.strategy)
    if strategy is None:
        raise InvalidProfileFile(f"strategy: {file.strategy!r} is none of {', '.join(STRATEGIES)}")
    return ProfileTemplate(
        name=file.name,
        strategy=strategy,
        reprovision_policy=file.reprovision_policy,
        two_sided_claim=file.two_sided_claim,
        metadata_fields=tuple(MetadataField(*_values(each)) for each in file.metadata_field),
        datastreams=tuple(Datastream(*_values(each)) for each in file.datastream),
        chain=ChainRules(*_values(file.certificate_chain)),
        clone_policy=file.clone_policy,
        approval=file.approval,
        credentials_lifetime=(
            None if file.credentials_lifetime is None else timedelta(seconds=file.credentials_lifetime)
        ),
    )


def write(template: ProfileTemplate) -> str:
    """The file of a template; `read` yields the template again."""
    return "\n".join(_lines(template)) + "\n"


def _lines(template: ProfileTemplate) -> Iterator[str]:
    yield f"name = {_text(template.name)}"
    yield f'strategy = "{_SHORT_NAMES[template.strategy]}"'
    yield f'reprovision_policy = "{template.reprovision_policy}"'
    if template.two_sided_claim:
        yield "two_sided_claim = true"
    if template.clone_policy is not ClonePolicy.REPORT:
        yield f'clone_policy = "{template.clone_policy}"'
    if template.approval:
        yield "approval = true"
    if template.credentials_lifetime is not None:
        yield f"credentials_lifetime = {int(template.credentials_lifetime.total_seconds())}"
    for field in template.metadata_fields:
        yield from ("", "[[metadata_field]]", f"name = {_text(field.name)}", f"type = {_text(field.type)}")
        if field.unique:
            yield "unique = true"
        if field.options:
            yield f"options = [{', '.join(map(_text, field.options))}]"
        if field.default:
            yield f"default = {_text(field.default)}"
    for stream in template.datastreams:
        yield from ("", "[[datastream]]", f"name = {_text(stream.name)}", f"pin = {_text(stream.pin)}")
        yield f"type = {_text(stream.type)}"
        for name, bound in (("minimum", stream.minimum), ("maximum", stream.maximum)):
            if bound is not None and math.isfinite(bound):
                yield f"{name} = {float(bound)!r}"
    if template.chain != _PLAIN:
        yield from ("", "[certificate_chain]", f'name_from = "{template.chain.name_from}"')
        yield f"name_pattern = {_text(template.chain.name_pattern)}"
        yield f"allow_create = {'true' if template.chain.allow_create else 'false'}"


def _text(value: str) -> str:
    """A basic string: JSON's escapes are TOML's, which wants U+007F escaped too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _values(struct: Struct) -> tuple[Any, ...]:
    return msgspec.structs.astuple(struct)


def _said(fault: msgspec.ValidationError) -> str:
    """What msgspec says, the place first: `metadata_field[0].uniqe …`."""
    reason, _, place = str(fault).partition(" - at `$")
    place = place.rstrip("`").removeprefix(".")
    return f"{place}: {reason[0].lower()}{reason[1:]}" if place else f"{reason[0].lower()}{reason[1:]}"
