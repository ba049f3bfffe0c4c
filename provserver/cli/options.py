"""Options that several commands share."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

import typer

from provserver import config
from provserver.config import Config
from provserver.core import metadata, profilefile
from provserver.core.credentials import has_control_characters
from provserver.core.datastreams import MAX_PIN, TYPES, pin_number
from provserver.core.model import Datastream, MetadataField, Network, ProvisionStrategy
from provserver.errors import Misconfigured, Refused

STRATEGIES = profilefile.STRATEGIES

MAX_FILE_SIZE = 32 << 20

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Options as in config/provserver.toml.", show_default=False)
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Keys and embedded Postgres. (default: provserver-data)", show_default=False),
]
DatabaseUrl = Annotated[
    str | None, typer.Option(help="Your own Postgres instead of the embedded one.", show_default=False)
]


def load(file: Path | None, **overrides: object) -> Config:
    """The configuration of this call. Raises Misconfigured."""
    return config.load(file, overrides=overrides)


def listener(given: str | None) -> str | None:
    """An address to listen on, or "" for none. Raises BadParameter."""
    if given:
        try:
            config.split_address(given)
        except Misconfigured:
            raise typer.BadParameter(f'must be "host:port" (port 0: any free one), not {given!r}.') from None
    return given


def strategy(name: str) -> ProvisionStrategy:
    """A strategy by its short or its ThingsBoard name. Raises BadParameter."""
    found = STRATEGIES.get(name.lower()) or ProvisionStrategy.__members__.get(name.upper())
    if found is None:
        raise typer.BadParameter(f"must be one of {', '.join(STRATEGIES)}, not {name!r}.")
    return found


def metadata_field(text: str) -> MetadataField:
    """A metadata field from NAME[:TYPE][:OPTION,…][:unique][=DEFAULT]. Raises BadParameter."""
    definition, _, default = text.partition("=")
    parts = definition.split(":")
    unique = len(parts) > 1 and parts[-1] == "unique"
    if unique:
        parts.pop()
    name, type_, options = [*parts, "", ""][:3]
    if not name or len(parts) > 3 or has_control_characters(text):
        raise typer.BadParameter(
            f"must be NAME[:TYPE][:unique][=DEFAULT], for a list NAME:list:OPTION,OPTION, not {text!r}."
        )
    type_ = type_.lower() or "text"
    if type_ not in metadata.TYPES:
        raise typer.BadParameter(f"{type_!r} is no type: {', '.join(metadata.TYPES)}.")
    chosen = tuple(option.strip() for option in options.split(",")) if options else ()
    return MetadataField(name.strip(), type_, unique, chosen, default)


def datastream(text: str) -> Datastream:
    """A datastream from NAME:PIN[:TYPE[:MIN:MAX]]. Raises BadParameter."""
    parts = text.split(":")
    try:
        name, pin, type_, minimum, maximum = (parts + ["", "", "", ""][len(parts) - 1 :])[:5]
        if not name or not pin or len(parts) > 5 or has_control_characters(text):
            raise ValueError
        if pin_number(pin) is None:
            raise typer.BadParameter(f"{pin!r} is no pin: V0 to V{MAX_PIN}.")
        if type_ and type_.lower() not in TYPES:
            raise typer.BadParameter(f"{type_!r} is no type: {', '.join(sorted(TYPES))}.")
        return Datastream(name, pin, type_ or "double", _bound(minimum), _bound(maximum))
    except ValueError:
        raise typer.BadParameter(
            f"must be NAME:PIN[:TYPE[:MIN:MAX]], MIN and MAX being finite numbers, not {text!r}."
        ) from None


def _bound(text: str) -> float | None:
    if not text:
        return None
    if not math.isfinite(bound := float(text)):
        raise ValueError
    return bound


def moment(text: str) -> datetime:
    """A date, which begins at midnight UTC, or a time with its zone. Raises BadParameter."""
    try:
        given = datetime.fromisoformat(text)
        if given.tzinfo is None and len(text) > len("2027-01-31"):
            raise ValueError
        return given if given.tzinfo is not None else given.replace(tzinfo=UTC)
    except ValueError:
        raise typer.BadParameter(f"must be as 2027-01-31 or 2027-01-31T12:00:00Z, not {text!r}.") from None


def duration(text: str) -> int:
    """Seconds, from days, hours, minutes or seconds as 90d, 12h, 30m, 45s; 0 is none. Raises BadParameter."""
    number, unit = (text[:-1], text[-1:].lower()) if text[-1:].isalpha() else (text, "s")
    if not (number.isascii() and number.isdigit() and len(number) <= 10 and unit in _UNITS) or (
        number == text and int(number)
    ):
        raise typer.BadParameter(f"must be as 90d, 12h, 30m or 45s, or 0, not {text!r}.")
    return int(number) * _UNITS[unit]


def shown_duration(seconds: int) -> str:
    """The same for people: in the largest unit that it is a whole number of."""
    unit = next(unit for unit, length in _UNITS.items() if seconds % length == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


def network(text: str) -> Network:
    """A network in CIDR notation, or one address. Raises BadParameter."""
    try:
        return ip_network(text)
    except ValueError:
        raise typer.BadParameter(
            f"must be a network as 192.0.2.0/24 or 2001:db8::/32, the bits after the prefix being 0, not {text!r}."
        ) from None


def networks(given: list[str] | None) -> list[str] | None:
    """A callback that checks each: typer has no lists of what is one of two classes. Raises BadParameter."""
    for text in given or ():
        network(text)
    return given


def file(path: str) -> bytes:
    """What a file holds. Raises BadParameter."""
    try:
        with Path(path).open("rb") as opened:
            content = opened.read(MAX_FILE_SIZE + 1)
    except (OSError, ValueError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else "that is no path"
        raise typer.BadParameter(f"{path!r} cannot be read: {reason}.") from None
    if len(content) > MAX_FILE_SIZE:
        raise typer.BadParameter(f"{path!r} is larger than {MAX_FILE_SIZE >> 20} MiB.")
    return content


def reference(kind: str, command: str = "") -> Callable[[str | None], str | None]:
    """A callback that spares Postgres what it cannot hold, and what is therefore nothing's name. Raises Refused."""

    def check(given: str | None) -> str | None:
        if given is not None and has_control_characters(given):
            raise Refused(f"There is no {kind} {given!r}. `provserver {command or f'{kind} list'}` names them.")
        return given

    return check
