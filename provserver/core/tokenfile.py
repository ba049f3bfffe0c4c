"""CSV of static tokens to make: a header row that names metadata fields, then a token a row; read as a stream.

A column fills the field of exactly its name, or what the caller maps it to. `Device Name` is every profile's. The file
that The Things Stack exchanges devices by is taken as it is, where a profile has the fields for it.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from itertools import chain, islice
from typing import BinaryIO, Final, NamedTuple, TextIO, TypeAlias

from provserver.core import decision, lorawan, metadata
from provserver.core.csvrows import MAX_BLANK_ROWS, MAX_CHARACTERS, Rows, RowTooLong, RowTooWide, TooManyBlankRows
from provserver.core.metadata import DEVICE_NAME, InvalidValue
from provserver.core.model import MetadataField

MAX_COLUMNS: Final = 100
MAX_ROWS: Final = 1_000_000
MAX_HEADER: Final = 255
"""Characters of a column's name."""

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_STRANGE = "|:^~"
"""What some separate cells with, and we do not take."""

MAX_CELL: Final = 200
"""Characters of a cell that an excerpt has."""

_COMPARED = 40
"""Characters by which a header is likened to fields: that takes as long as the square of them."""

_NOT_UTF8 = re.compile("[\ud800-\udfff]")
"""What `surrogateescape` makes of bytes that are not UTF-8."""

Assignment: TypeAlias = Mapping[str, str | None]
"""What the columns of these headers fill; None: nothing."""


class ErrorKind(StrEnum):
    """What is wrong with a file, in words for programs."""

    EMPTY_FILE = "empty_file"
    NO_ROWS = "no_rows"
    TOO_MANY_ROWS = "too_many_rows"
    NOT_UTF8 = "not_utf8"
    WRONG_DELIMITER = "wrong_delimiter"
    BAD_QUOTE = "bad_quote"
    TOO_MANY_COLUMNS = "too_many_columns"
    EMPTY_HEADER = "empty_header"
    DUPLICATE_HEADER = "duplicate_header"
    UNKNOWN_HEADER = "unknown_header"
    UNKNOWN_COLUMN = "unknown_column"
    UNKNOWN_FIELD = "unknown_field"
    FIELD_TWICE = "field_twice"
    RAGGED_ROW = "ragged_row"
    INVALID_VALUE = "invalid_value"
    DUPLICATE_VALUE = "duplicate_value"
    TAKEN = "taken"
    QUOTA = "quota"


class FileError(NamedTuple):
    """What is wrong where.

    row: of the data, from 1; None for the header or the file as a whole. line: the first of that row in the file, from
    1, which is the header's; None for the file. column: from 1, with its header; None for a whole row.
    """

    kind: ErrorKind
    row: int | None
    line: int | None
    column: int | None
    header: str | None
    reason: str

    def __str__(self) -> str:
        places = [f"row {self.row}"] if self.row else ["header"] if self.line else []
        if self.line and self.row:
            places[-1] += f" (line {self.line})"
        if self.column:
            places.append(f"column {self.column}" + (f" ({self.header})" if self.header else ""))
        return ": ".join([", ".join(places), self.reason] if places else [self.reason])


class TokenRow(NamedTuple):
    """A token to make. name: its device's to be; None for the server to choose. values: by metadata field."""

    row: int
    line: int
    name: str | None
    values: dict[str, str]


class Column(NamedTuple):
    """A column of the file. number: from 1. field: what it fills; None for nothing."""

    number: int
    header: str
    field: str | None


class Excerpt(NamedTuple):
    """A row as it was read. cells: the beginnings of them; what is not UTF-8 is replaced."""

    row: int
    line: int
    cells: tuple[str, ...]


def text(file: BinaryIO) -> TextIO:
    """A file's lines as `TokenFile` takes them: what is not UTF-8 becomes an error of its cell."""
    return io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")


class TokenFile:
    """A file that is being read: its header is by then, its rows are as they are asked for.

    lines: decoded with `surrogateescape`, their ends kept (`text`). fields: the profile's. mapping: from headers to
    fields, or to None for a column that is left out; what it does not name goes to the field of exactly its name.
    errors: of the header; with any, no rows are read. keep: of how many rows, and of how many with errors, the cells
    are kept, in `kept`, by row.
    """

    def __init__(
        self,
        lines: Iterable[str],
        fields: Sequence[MetadataField],
        mapping: Assignment | None = None,
        *,
        keep: int = 0,
    ) -> None:
        self.errors: list[FileError] = []
        self.kept: dict[int, Excerpt] = {}
        self._keep, self._room = keep, 2 * keep
        self.columns: list[Column] = []
        self.delimiter = ","
        self._fields = {field.name: field for field in fields if field.name != DEVICE_NAME}
        self._mapping = {header.strip(): field for header, field in (mapping or {}).items()}
        self._header_line = 1
        lines = iter(lines)
        first = next(lines, "").removeprefix("\ufeff")
        while first and not first.strip() and self._header_line <= MAX_BLANK_ROWS:
            first = next(lines, "")
            self._header_line += 1
        if not first.strip():
            reason = "the file is empty: its first row must name the columns"
            self.errors.append(FileError(ErrorKind.EMPTY_FILE, None, None, None, None, reason))
            return
        self.delimiter = self._detect(first)
        self._rows = Rows(
            chain([first], lines),
            MAX_COLUMNS,
            line=self._header_line,
            spaces=True,
            delimiter=self.delimiter,
            skip_initial_space=True,
        )
        try:
            headers = [header.strip() for header in self._rows.header()]
        except csv.Error as fault:
            self._fault(*_fault_of(fault))
            return
        taken = set(self._mapping.values())
        usual = lorawan.assignment(headers, self._fields)
        self._usual = {header: None if field in taken else field for header, field in usual.items()}
        self._read_header(headers)

    def __iter__(self) -> Iterator[TokenRow | FileError]:
        """Each row as a token, or as the errors that it has; first those of the header."""
        yield from self.errors
        if self.errors:
            self._keep_first()
            return
        count = 0
        table = _Table(self.columns, self._fields)
        for line, cells in self._rows:
            if isinstance(cells, csv.Error):
                kind, reason = _fault_of(cells)
                yield FileError(kind, count + 1, line, None, None, reason)
                return
            count += 1
            if count > MAX_ROWS:
                reason = f"more than {MAX_ROWS:,} rows: divide the file"
                yield FileError(ErrorKind.TOO_MANY_ROWS, count, line, None, None, reason)
                return
            if len(cells) != len(self.columns):
                read: Iterator[TokenRow | FileError] = iter([self._ragged(count, line, cells)])
            else:
                read = table.read(count, line, cells)
            yield from read if not self._room else self._kept(read, count, line, cells)
        if not count:
            yield FileError(ErrorKind.NO_ROWS, None, None, None, None, "there are no rows below the header")

    def _kept(
        self, read: Iterator[TokenRow | FileError], row: int, line: int, cells: Sequence[str]
    ) -> Iterator[TokenRow | FileError]:
        """What was read; its cells are kept if it is one of the first, or has an error."""
        for each in read:
            if self._room and row not in self.kept and (row <= self._keep or isinstance(each, FileError)):
                self.kept[row] = _excerpt(row, line, cells)
                self._room -= 1
            yield each

    def _keep_first(self) -> None:
        """Keep the first rows of a file whose header is wrong, for who is to see what its columns hold."""
        if not self.columns:
            return
        for row, (line, cells) in enumerate(islice(self._rows, self._keep), 1):
            if isinstance(cells, csv.Error):
                return
            self.kept[row] = _excerpt(row, line, cells)

    def _detect(self, first: str) -> str:
        """The delimiter by which the header has the most known columns, then the most columns."""

        def fit(delimiter: str) -> tuple[int, int]:
            try:
                cells = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
                headers = [header.strip() for header in cells[: MAX_COLUMNS + 1]]
            except csv.Error:
                return 0, 0
            usual = lorawan.assignment(headers, self._fields)
            known = sum(self._is_known(header) or header in usual for header in headers)
            return known, len(headers)

        if len(first) > MAX_CHARACTERS:
            return ","
        return max(_DELIMITERS, key=fit)  # the first of equals

    def _read_header(self, headers: list[str]) -> None:
        if any(map(_NOT_UTF8.search, headers)):
            utf16 = headers[0].startswith(("\udcff\udcfe", "\udcfe\udcff"))
            self._fault(
                ErrorKind.NOT_UTF8, f"the file is {'UTF-16' if utf16 else 'not UTF-8'}: save it as CSV in UTF-8"
            )
            return
        if len(headers) == 1 and not self._is_known(headers[0]) and (odd := set(_STRANGE) & set(headers[0])):
            self._fault(
                ErrorKind.WRONG_DELIMITER,
                f"the header is one column with {min(odd)!r} in it: separate cells with commas, semicolons or tabs",
            )
            return
        places: dict[str, int] = {}
        filled: dict[str, int] = {}
        for number, whole in enumerate(headers, 1):
            header = whole[:MAX_HEADER]
            field = self._mapping.get(header, self._usual.get(header, header))
            known = field is not None and self._is_field(field)
            self.columns.append(Column(number, header, field if known else None))
            if header != whole:
                self._fault(ErrorKind.UNKNOWN_HEADER, f"longer than {MAX_HEADER} characters", number, header)
            elif not header:
                self._fault(ErrorKind.EMPTY_HEADER, "the column has no header: name it or delete it", number)
            elif (earlier := places.setdefault(header, number)) != number:
                self._fault(ErrorKind.DUPLICATE_HEADER, f"column {earlier} has the same header", number, header)
            elif field is not None and not known:
                self._unknown(number, header, field)
            elif field is not None and (earlier := filled.setdefault(field, number)) != number:
                reason = f"column {earlier} fills the metadata field {field!r} already: map one of them to another"
                self._fault(ErrorKind.FIELD_TWICE, reason, number, header)
        for header in self._mapping:
            if header not in places:
                self._fault(ErrorKind.UNKNOWN_COLUMN, f"the mapping names a column {header!r}, which the file has not")

    def _unknown(self, number: int, header: str, field: str) -> None:
        names = [DEVICE_NAME, *self._fields]
        if header in self._mapping:
            reason = f"it is mapped to {field!r}, which is no metadata field of the profile"
            kind = ErrorKind.UNKNOWN_FIELD
        else:
            reason, kind = "no metadata field of the profile has this name", ErrorKind.UNKNOWN_HEADER
        if same := next((name for name in names if name.casefold() == field.casefold()), None):
            reason += f": it differs by case from {same!r}. Map it to that, or write it so"
        elif close := get_close_matches(
            field.casefold()[:_COMPARED], {name.casefold()[:_COMPARED]: 0 for name in names}, n=1
        ):
            meant = next(name for name in names if name.casefold()[:_COMPARED] == close[0])
            reason += f". Did you mean {meant!r}? Else map it to a field, or leave it out"
        else:
            reason += f". Map it to a field, or leave it out. Fields are {', '.join(map(repr, names))}"
        self._fault(kind, reason, number, header)

    def _ragged(self, row: int, line: int, cells: Sequence[str]) -> FileError:
        width = len(self.columns)
        if len(cells) == 1:
            for delimiter, noun in _DELIMITERS.items():
                if delimiter != self.delimiter and cells[0].count(delimiter) == width - 1:
                    reason = f"its cells are separated by {noun} where the header has {_DELIMITERS[self.delimiter]}"
                    return FileError(ErrorKind.WRONG_DELIMITER, row, line, None, None, reason)
        cell = "cell" if len(cells) == 1 else "cells"
        reason = f"{len(cells)} {cell} where the header has {width}"
        return FileError(ErrorKind.RAGGED_ROW, row, line, None, None, reason)

    def _is_known(self, header: str) -> bool:
        return header in self._mapping or self._is_field(header)

    def _is_field(self, name: str) -> bool:
        return name == DEVICE_NAME or name in self._fields

    def _fault(self, kind: ErrorKind, reason: str, column: int | None = None, header: str | None = None) -> None:
        self.errors.append(FileError(kind, None, self._header_line, column, header, reason))


class _Table:
    """What the columns hold, and what they held so far of that which may be there once."""

    def __init__(self, columns: Sequence[Column], fields: Mapping[str, MetadataField]) -> None:
        self._columns = columns
        self._used = [
            (column, None if column.field == DEVICE_NAME else fields[column.field])
            for column in columns
            if column.field is not None
        ]
        self._seen: dict[str, dict[str, int]] = {
            name: {} for name in (DEVICE_NAME, *(name for name, field in fields.items() if field.unique))
        }

    def read(self, row: int, line: int, cells: Sequence[str]) -> Iterator[TokenRow | FileError]:
        """The token of a row, with a cell for each column, or all that is wrong with it."""
        ascii_ = "".join(cells).isascii()
        values: dict[str, str] = {}
        wrong = False
        for column, field in self._used:
            cell = cells[column.number - 1]
            if not cell or cell.isspace():
                continue
            try:
                if not ascii_ and _NOT_UTF8.search(cell):
                    raise _Wrong(ErrorKind.NOT_UTF8, "not UTF-8: save the file as CSV in UTF-8")
                name = DEVICE_NAME if field is None else field.name
                value = _device_name(cell) if field is None else metadata.check(field, cell)
                seen = self._seen.get(name)
                if seen is not None and (earlier := seen.setdefault(value, row)) != row:
                    raise _Wrong(ErrorKind.DUPLICATE_VALUE, f"row {earlier} has the same value")
            except InvalidValue as fault:
                wrong = True
                kind = fault.kind if isinstance(fault, _Wrong) else ErrorKind.INVALID_VALUE
                yield FileError(kind, row, line, column.number, column.header, str(fault))
            else:
                values[name] = value
        if not wrong:
            device_name = values.pop(DEVICE_NAME, None)
            yield TokenRow(row, line, device_name, values)


class _Wrong(InvalidValue):
    def __init__(self, kind: ErrorKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def _excerpt(row: int, line: int, cells: Sequence[str]) -> Excerpt:
    return Excerpt(row, line, tuple(_NOT_UTF8.sub("\ufffd", cell[:MAX_CELL]) for cell in cells))


def _device_name(cell: str) -> str:
    name = decision.check_name(cell)
    if isinstance(name, decision.Refusal):
        raise InvalidValue(name.reason.text)
    return name or ""


def _fault_of(fault: csv.Error) -> tuple[ErrorKind, str]:
    match fault:
        case RowTooWide():
            return ErrorKind.TOO_MANY_COLUMNS, str(fault)
        case TooManyBlankRows():
            return ErrorKind.TOO_MANY_ROWS, str(fault)
        case RowTooLong():
            return ErrorKind.BAD_QUOTE, str(fault)
        case _:
            return ErrorKind.BAD_QUOTE, _quote_fault(fault)


def _quote_fault(fault: csv.Error) -> str:
    match str(fault):
        case "unexpected end of data":
            return "a quotation mark that is opened here is never closed"
        case reason if "field larger" in reason:
            return "a cell is longer than can be: a quotation mark may be missing"
        case reason:
            return f"its quotation marks are wrong: {reason}"
