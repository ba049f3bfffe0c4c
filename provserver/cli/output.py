"""What commands print: tables for people, one JSON value for programs, errors with their fix on stderr."""

import os
import sys
from collections.abc import AsyncIterable, Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from provserver.errors import Invalid, Misconfigured, ProvserverError, Refused, Unavailable

EXIT_CODES: dict[type[ProvserverError], int] = {Refused: 1, Misconfigured: 3, Unavailable: 4}

NARROW = 160
"""Columns of a terminal below which lists leave out what they can spare."""

MAX_CELL = 120
"""Characters of a cell that may be cut off."""

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
    for error in fault.errors if isinstance(fault, Invalid) else ():
        if str(error.get("reason")) not in str(fault):
            say(f"  {_text(error)}")
    return next(code for kind, code in EXIT_CODES.items() if isinstance(fault, kind))


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


def print_lines(lines: Iterable[str]) -> None:
    """Lines as they are, so that commands among them can be copied."""
    for line in lines:
        _out.print(_text(line))


async def print_list(
    items: AsyncIterable[Mapping[str, Any]],
    columns: Mapping[str, str],
    *,
    json: bool,
    spare: Container[str] = (),
    whole: str = "",
    cut: Container[str] = (),
) -> None:
    """A table of items, with the member of each that a column is to show. json: as a JSON array instead.

    spare: columns that a narrow terminal does without. whole: one that is not folded, to be copied. cut: those whose
    cells are cut off at `MAX_CELL` characters, lest one makes all rows long; JSON has all of them.
    """
    if json:
        await print_json_array(items)
    else:
        if _out.is_terminal and _out.width < NARROW:
            columns = {column: member for column, member in columns.items() if column not in spare}
        shown = [(name, column in cut) for column, name in columns.items()]
        rows = [[_cell(name, item.get(name), short) for name, short in shown] async for item in items]
        print_table(columns, rows, whole)


def _cell(name: str, value: object, short: bool = False) -> object:
    """A member as a table has it: times without their fractions, as people read them. short: at most MAX_CELL of it."""
    if short and len(text := _text(value)) > MAX_CELL:
        return text[: MAX_CELL - 1] + "…"
    if isinstance(value, str) and (name in ("time", "at") or name.endswith("At")):
        return value[:19].replace("T", " ")
    return value


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]], whole: str = "") -> None:
    """A table. whole: a column that is not folded."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == whole)
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    (_out if _out.is_terminal else _wide).print(table)  # a program gets a line for each row


def is_watched(*, quiet: bool = False) -> bool:
    """Whether somebody sees what `progress` shows."""
    return not quiet and Console(stderr=True).is_terminal


@contextmanager
def progress(unit: str, *, quiet: bool = False) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal, while the context lasts. Told what is done, and of how much, where that is known.

    unit: what is counted; "bytes" are shown as such.
    """
    if not is_watched(quiet=quiet):
        yield lambda _, __: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn  # slow to load

    count = DownloadColumn() if unit == "bytes" else TextColumn(f"{{task.completed:,.0f}} {unit}")
    share = TextColumn("{task.percentage:>3.0f}%")
    with Progress(count, BarColumn(), share, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


async def save(file: Path, content: AsyncIterable[bytes], told: Callable[[int, int | None], None]) -> int:
    """Write what comes to a file that only its owner may read; all or nothing. Returns the bytes. Raises Misconfigured.

    told: what is written so far.
    """
    partial_file = file.with_name(f".{file.name}.{token_hex(4)}")
    size = 0
    try:
        descriptor = os.open(partial_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as written:
            async for chunk in content:
                written.write(chunk)
                size += len(chunk)
                told(size, None)
            written.flush()
            os.fsync(descriptor)
        partial_file.replace(file)
    except OSError as fault:
        raise Misconfigured(f"{file} cannot be written: {fault.strerror}.") from None
    finally:
        with suppress(OSError):
            partial_file.unlink()
    return size


def print_report(report: Mapping[str, Any], summary: str, *, json: bool) -> None:
    """What an import did or would do, with the rows that were wrong; exits with 1 when there are any."""
    if json:
        print_json(report)
    else:
        for error in report["errors"]:
            say(": ".join(filter(None, [_place(error), error["reason"]])))
        if (more := report["errorCount"] - len(report["errors"])) > 0:
            say(f"… and {more} more errors")
        say(summary)
    if report["errorCount"]:
        raise typer.Exit(1)


def _place(error: Mapping[str, Any]) -> str:
    """Where a row error is, for people: the line, and the column by its header."""
    column = error.get("header") or error["column"]
    return ", ".join(f"{noun} {place}" for noun, place in (("line", error["line"]), ("column", column)) if place)


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
