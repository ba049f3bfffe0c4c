"""CSV of devices to pre-provision: a header row, then a device a row; read as a stream.

Columns: `name`; credentials by `token`, by `clientId` `username` `password`, or by `certificate` (none: the server
generates a token); `gateway` (true/false); `attribute:KEY` and `shared:KEY`, whose cells are JSON or else text.
"""

import csv
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

from provserver.core import credentials as building
from provserver.core import decision
from provserver.core.attributes import from_text
from provserver.core.csvrows import Rows
from provserver.core.model import Credentials

CREDENTIAL_COLUMNS = ("token", "clientId", "username", "password", "certificate")
COLUMNS = ("name", *CREDENTIAL_COLUMNS, "gateway")
MAX_COLUMNS = 250
MAX_HEADER = 255
"""Characters of a column's name."""

_PARTS = {"token": "token", "client id": "clientId", "user name": "username", "password": "password"}
_NOT_UTF8 = re.compile("[\ud800-\udfff]")
"""What `surrogateescape` makes of bytes that are not UTF-8, and what UTF-8 cannot hold."""
_SCOPES = {"attribute": "SERVER", "shared": "SHARED"}


class RowError(NamedTuple):
    """What is wrong where. line: the first of its row, from 1 (the header); column: None for the row as a whole."""

    line: int
    column: str | None
    reason: str


class DeviceRow(NamedTuple):
    """One device. credentials: None when the server is to generate a token; attributes by (scope, key)."""

    line: int
    name: str
    credentials: Credentials | None
    gateway: bool
    attributes: Mapping[tuple[str, str], object] = MappingProxyType({})


class HeaderFault(ValueError):  # noqa: N818
    """The header row cannot be used; the message names the column and the fix."""


def read_devices(lines: Iterable[str]) -> Iterator[DeviceRow | RowError]:
    """Read rows one by one; a bad one is an error and does not stop the next. Raises HeaderFault.

    lines: decoded with `surrogateescape`, so that what is not UTF-8 is an error of its row alone.
    """
    lines = iter(lines)
    if not (first := next(lines, "").removeprefix("\ufeff")):
        raise HeaderFault("The file is empty; its first row must name the columns.")
    rows = Rows(chain([first], lines), MAX_COLUMNS)
    try:
        header = [column.strip() for column in rows.header()]
    except csv.Error as fault:
        raise HeaderFault(f"The header row is not CSV: {fault}.") from None
    _check_header(header)
    row = _Columns(header).row
    for line, cells in rows:
        if isinstance(cells, csv.Error):
            yield RowError(line, None, f"not CSV: {cells}" if type(cells) is csv.Error else str(cells))
        elif len(cells) != len(header):
            yield RowError(line, None, f"{len(cells)} cells where the header has {len(header)}")
        else:
            yield row(line, cells)


def _check_header(header: list[str]) -> None:
    if any(map(_NOT_UTF8.search, header)):
        raise HeaderFault("The header row is not UTF-8. Save the file as CSV in UTF-8.")
    for column in header:
        scope, _, key = column.partition(":")
        if column in COLUMNS or (scope in _SCOPES and key and not building.has_control_characters(key)):
            continue
        if len(column) > MAX_HEADER:
            raise HeaderFault(f"A column of the header is longer than {MAX_HEADER} characters.")
        close = difflib.get_close_matches(column.lower(), [c.lower() for c in COLUMNS], n=1)
        meant = next((c for c in COLUMNS if close and c.lower() == close[0]), None)
        hint = f" Did you mean {meant!r}?" if meant else ""
        raise HeaderFault(
            f"Unknown column {column!r}.{hint} Columns are {', '.join(COLUMNS)}, attribute:KEY and shared:KEY."
        )
    if "name" not in header:
        raise HeaderFault("The column 'name' is missing.")
    if twice := next((column for column in header if header.count(column) > 1), None):
        raise HeaderFault(f"The column {twice!r} is there twice.")


def device_row(line: int, cells: Mapping[str, str]) -> DeviceRow | RowError:
    """Check one row, given as its cells by column."""
    return _Columns(list(cells)).row(line, list(cells.values()))


class _Columns:
    """Where a header has what, looked up once for all rows."""

    def __init__(self, header: Sequence[str]) -> None:
        self._header = header
        self._name = header.index("name")
        self._gateway = header.index("gateway") if "gateway" in header else None
        self._credentials = [(column, header.index(column)) for column in CREDENTIAL_COLUMNS if column in header]
        self._attributes = [
            (place, (_SCOPES[scope], key))
            for place, (scope, _, key) in enumerate(column.partition(":") for column in header)
            if key
        ]

    def row(self, line: int, cells: Sequence[str]) -> DeviceRow | RowError:
        """Check one row: a cell for each column."""
        if not "".join(cells).isascii():
            for column, cell in zip(self._header, cells, strict=True):
                if _NOT_UTF8.search(cell):
                    return RowError(line, column, "not UTF-8")
        name = decision.check_name(cells[self._name])
        if name is None:
            return RowError(line, "name", "the device name is empty")
        if isinstance(name, decision.Refusal):
            return RowError(line, "name", name.reason.text)
        gateway = "" if self._gateway is None else cells[self._gateway].strip().lower()
        if gateway not in ("", "true", "false"):
            return RowError(line, "gateway", "must be true or false")
        given = {column: cells[place] for column, place in self._credentials if cells[place]}
        try:
            credentials = _credentials(given)
        except building.InvalidCredentials as fault:
            return RowError(line, _PARTS.get(fault.part) or next(iter(given)), str(fault))
        if not self._attributes:
            return DeviceRow(line, name, credentials, gateway == "true")
        attributes: dict[tuple[str, str], object] = {}
        for place, scope_and_key in self._attributes:
            if cell := cells[place]:
                if "\0" in cell or "\\u0000" in cell:
                    return RowError(line, self._header[place], "contains a NUL character")
                attributes[scope_and_key] = from_text(cell)
        return DeviceRow(line, name, credentials, gateway == "true", attributes)


def _credentials(given: Mapping[str, str]) -> Credentials | None:
    if not given:
        return None
    if len(given) == 1:
        if token := given.get("token"):
            return building.access_token(token)
        if certificate := given.get("certificate"):
            return building.certificate(certificate)
    if "token" in given or "certificate" in given:
        raise building.InvalidCredentials(f"a device has one kind of credentials, not {' and '.join(given)}")
    return building.mqtt_basic(given.get("clientId", ""), given.get("username", ""), given.get("password", ""))
