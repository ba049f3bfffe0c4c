"""What an export of static tokens holds: rows of a CSV, and the names of the images' files."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from provserver.core.metadata import DEVICE_NAME

COLUMNS = (
    "Device Token",
    "QR Token",
    "Template",
    "Template ID",
    "Organization",
    "Status",
    "Created",
    "Number",
    DEVICE_NAME,
)
"""The CSV's columns before those of the metadata: the first is what scripts for Blynk's exports look for, by the number
an image is named unless another naming was asked for, and with the name the file can be imported again."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a spreadsheet may take a cell for a formula by, full-width forms included."""

_UNSAFE = re.compile(r'[/\\:*?"<>|]')
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?:\.|$)", re.IGNORECASE)  # Windows
_MAX_NAME = 120  # bytes; with folder and suffix it fits everywhere


class OpenedToken(NamedTuple):
    """A static token with its secrets in clear.

    payload: what its QR code says. organization_*: its maker. name: of the device to be; None: made from the number.
    metadata: values by field.
    """

    id: UUID
    number: int
    auth_token: str
    qr_token: str
    payload: str
    organization_number: int
    organization_name: str
    profile_name: str
    template_id: str
    status: str
    created_at: datetime
    name: str | None
    metadata: Mapping[str, str]

    def __repr__(self) -> str:
        return f"<OpenedToken {self.number}>"


def header(fields: Sequence[str]) -> list[str]:
    """The first row. fields: of the metadata; one that is called as another column gets a suffix."""
    return [*COLUMNS, *(harmless(f"{field} (metadata)" if field in COLUMNS else field) for field in fields)]


def row(token: OpenedToken, fields: Sequence[str]) -> list[str]:
    """A token's row: the tokens as they are (they begin with no sign), all other cells harmless."""
    created = token.created_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    said = (token.profile_name, token.template_id, token.organization_name, token.status, created)
    values = [token.metadata.get(field, "") for field in fields]
    cells = (*said, str(token.number), token.name or "", *values)
    return [token.auth_token, token.qr_token, *map(harmless, cells)]


def encode(rows: Iterable[Sequence[str]]) -> bytes:
    """Rows as CSV (RFC 4180), in UTF-8 without a byte order mark."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


def harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: what begins like one gets an apostrophe before it."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


class FileNames:
    """Names for a token's files, without suffix: safe on every system, and none twice where case does not count.

    fields: by the first of them that a token has a value for; else by the number. `Device Name` is the device's.
    """

    def __init__(self, *fields: str) -> None:
        self._fields = fields
        self._taken: set[str] = set()

    def name(self, token: OpenedToken) -> str:
        """The name for a token that has none yet."""
        number = str(token.number)
        if not self._fields:
            return number
        values = (token.name if field == DEVICE_NAME else token.metadata.get(field) for field in self._fields)
        name = safe_name(next(filter(None, values), "")) or number
        while (key := unicodedata.normalize("NFKC", name).casefold()) in self._taken:
            name = f"{name} ({number})"  # numbers are unique, but others' values may look like this
        self._taken.add(key)
        return name


def safe_name(text: str) -> str:
    """A text as a file's name that stays in its folder and is valid everywhere; empty when nothing is left of it."""
    visible = "".join(" " if unicodedata.category(each)[0] in "CZ" else each for each in text)
    name = _UNSAFE.sub("_", visible).strip(" .")
    name = name.encode()[:_MAX_NAME].decode(errors="ignore").rstrip(" .")
    if name.startswith("-"):
        name = f"_{name}"  # no option of any command
    return f"_{name}" if _DEVICES.match(name) else name
