"""The CSV of an export of static tokens, as far as Particle devices get their tokens from it."""

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from provserver.core.csvrows import Rows
from provserver.core.particle import Field, field_of, same

TOKEN = "Device Token"  # noqa: S105 - a header
MAX_COLUMNS = 100

_TOKEN = re.compile("[A-Za-z0-9_-]{32}")
_DELIMITERS = ",;\t"


class FileToken(NamedTuple):
    """A row. line: of the file. names: what its cells name a device by, in the form of `same`."""

    token: str
    line: int
    names: dict[Field, str]

    def __repr__(self) -> str:
        return f"<FileToken of line {self.line}>"


class InvalidFile(ValueError):  # noqa: N818
    """A file is not such a CSV; the text says where and why, and quotes no cell."""


def read(lines: Iterable[str]) -> Iterator[FileToken]:
    """The rows of a file that have a token; rows without anything in them are passed over. Raises InvalidFile."""
    lines = iter(lines)
    first = next(lines, "").removeprefix("\ufeff")
    if not first.strip():
        raise InvalidFile("it is empty: its first row must name the columns")
    delimiter = max(_DELIMITERS, key=first.count)
    rows = Rows(chain([first], lines), MAX_COLUMNS, spaces=True, delimiter=delimiter)
    try:
        headers = [header.strip() for header in rows.header()]
    except csv.Error as fault:
        raise InvalidFile(f"its first row: {fault}") from None
    if headers.count(TOKEN) != 1:
        raise InvalidFile(f"one of its columns must be called {TOKEN!r}, as `provserver token export` calls it")
    place = headers.index(TOKEN)
    fields = {number: field for number, header in enumerate(headers) if (field := field_of(header))}
    for line, cells in rows:
        if isinstance(cells, csv.Error):
            raise InvalidFile(f"line {line}: {cells}")
        if len(cells) != len(headers):
            raise InvalidFile(f"line {line}: {len(cells)} cells where the header has {len(headers)}")
        token = cells[place].strip()
        if not _TOKEN.fullmatch(token):
            raise InvalidFile(f"line {line}: its {TOKEN!r} is none: that has 32 letters, digits, - and _")
        names = {field: same(cells[number].removeprefix("'")) for number, field in fields.items()}
        yield FileToken(token, line, {field: name for field, name in names.items() if name})
