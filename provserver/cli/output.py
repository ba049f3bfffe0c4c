"""What commands print: tables for people, one JSON value for programs, errors with their fix on stderr."""

import sys
from collections.abc import AsyncIterable, Iterable, Mapping
from functools import partial
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from provserver.errors import Misconfigured, ProvserverError, Refused, Unavailable

EXIT_CODES: dict[type[ProvserverError], int] = {Refused: 1, Misconfigured: 3, Unavailable: 4}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of text.")]

# What is printed is data, and part of it was chosen by devices: no markup, no emoji codes, no control characters.
_plain = partial(Console, highlight=False, soft_wrap=True, markup=False, emoji=False)
_out = _plain()
_wide = _plain(width=1_000_000)
_err = _plain(stderr=True)


def report(fault: ProvserverError) -> int:
    """Say what is wrong and how to mend it; returns the exit code."""
    _err.print("error:", style="red", end=" ")
    say(str(fault))
    return EXIT_CODES[type(fault)]


def say(message: str, *, quiet: bool = False) -> None:
    """A line for the person, on stderr so that stdout stays what was asked for."""
    if not quiet:
        _err.print(_text(message))


def print_json(value: object) -> None:
    """One JSON value."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


async def print_json_array(values: AsyncIterable[object]) -> None:
    """A JSON array of any length, an element a line, each as it comes."""
    before = "[\n "
    async for value in values:
        sys.stdout.write(before + msgspec.json.encode(value).decode())
        before = ",\n "
    sys.stdout.write("\n]\n" if before.startswith(",") else "[\n]\n")


def print_object(members: Mapping[str, object], *, json: bool = False) -> None:
    """An object, a member a line; of a list of objects, an object a line. json: as one JSON value instead."""
    if json:
        print_json(members)
        return
    width = max(map(len, members))
    for name, value in members.items():
        objects = isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value)
        for n, each in enumerate(value if objects else [value]):  # type: ignore[arg-type,var-annotated]
            _out.print(f"{'' if n else name:<{width}}  {_text(each)}")


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    (_out if _out.is_terminal else _wide).print(table)  # a program gets a line for each row


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_text(member)}" for name, member in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "-"
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)
    return _text(msgspec.json.encode(value).decode().strip('"'))
