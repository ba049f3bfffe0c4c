"""The ways in which a token gets into a unit. Each reads back what it has written."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import Protocol

from provserver.adapters.serial_console import PATIENCE, serial_console
from provserver.core import edgent, esp_image, firmware_tag, labels, nvs, qr
from provserver.core.edgent import InvalidSettings, Settings
from provserver.core.esp_image import InvalidImage
from provserver.core.firmware_tag import InvalidTag, Tag
from provserver.core.nvs import InvalidPartition
from provserver.errors import Conflict, Invalid, Refused

MAX_FIRMWARE = 64 << 20
LABEL_SHEET = "62x29"
LABEL_FORMS = (".pdf", ".png")


class Way(Protocol):
    """A way into a unit."""

    def check(self, settings: Settings, template_id: str | None = None) -> None:
        """What can be said without the unit and its token; settings have a blank one. Raises Refused.

        template_id: of the profile, once it is known.
        """

    async def inject(self, settings: Settings, template_id: str) -> Mapping[str, str]:
        """Write the settings, and read them back. Returns what is known of the unit. Raises Refused."""


@dataclass(frozen=True, slots=True)
class NvsPartition:
    """A file that is flashed to the partition `nvs`. size: of the partition, in bytes."""

    out: Path
    size: int = nvs.SIZE

    def check(self, settings: Settings, template_id: str | None = None) -> None:  # noqa: ARG002 - nothing tells
        """See `Way`."""
        self._image(settings)
        check_file(self.out)

    async def inject(self, settings: Settings, template_id: str) -> Mapping[str, str]:  # noqa: ARG002
        """See `Way`."""
        image = self._image(settings)
        save(self.out, image)
        try:
            found = nvs.read(read(self.out, self.size))
        except InvalidPartition:
            found = []
        if found != edgent.nvs_items(settings):
            raise _not_as_written(self.out)
        return {}

    def _image(self, settings: Settings) -> bytes:
        try:
            return nvs.build(edgent.nvs_items(settings), self.size)
        except (InvalidSettings, InvalidPartition) as fault:
            raise _invalid(fault) from None


@dataclass(frozen=True, slots=True)
class FirmwareImage:
    """A firmware for all units, and the file with the one unit's, which has its settings in the tag of options."""

    source: Path
    out: Path

    def check(self, settings: Settings, template_id: str | None = None) -> None:
        """See `Way`."""
        firmware = self._source()
        self._patched(firmware, settings)
        check_file(self.out)
        if self.out.exists() and self.out.samefile(self.source):
            raise Invalid(f"{self.source} is what the next unit needs, too: write to another file.")
        with suppress(InvalidTag):
            type_ = firmware_tag.find(firmware, firmware_tag.INFO).values.get("fw-type", "")
            if template_id is not None and type_.startswith("TMPL") and type_ != template_id:
                raise Conflict(f"{self.source} is for the template {type_}, and the profile's is {template_id}.")

    async def inject(self, settings: Settings, template_id: str) -> Mapping[str, str]:  # noqa: ARG002 - was checked
        """See `Way`."""
        patched, expected = self._patched(self._source(), settings)
        save(self.out, patched)
        written = read(self.out, MAX_FIRMWARE)
        try:
            esp_image.inspect(written)
            found = firmware_tag.find(written, firmware_tag.OPTIONS).values
        except (InvalidImage, InvalidTag):
            found = {}
        if found != expected:
            raise _not_as_written(self.out)
        return {}

    def _source(self) -> bytes:
        return read(self.source, MAX_FIRMWARE)

    def _patched(self, firmware: bytes, settings: Settings) -> tuple[bytes, Mapping[str, str]]:
        """The firmware with the settings, and what its tag has then."""
        try:
            esp_image.inspect(firmware)
            tag = firmware_tag.find(firmware, firmware_tag.OPTIONS)
        except (InvalidImage, InvalidTag) as fault:
            raise Invalid(f"{self.source} cannot be patched: {fault}.") from None
        try:
            changes = edgent.tag_values(settings, tag.values)
            content = firmware_tag.patch(tag, changes)
            expected = _merged(tag, changes)
            return esp_image.replace(firmware, tag.offset, content), expected
        except (InvalidSettings, InvalidTag, InvalidImage) as fault:
            raise _invalid(fault) from None


@dataclass(frozen=True, slots=True)
class SerialPort:
    """A unit on a serial port, whose firmware has Edgent's console."""

    path: Path
    baud: int = edgent.BAUD
    patience: float = PATIENCE

    def check(self, settings: Settings, template_id: str | None = None) -> None:  # noqa: ARG002 - the unit tells
        """See `Way`."""
        try:
            edgent.connect_line(settings)
        except InvalidSettings as fault:
            raise _invalid(fault) from None

    async def inject(self, settings: Settings, template_id: str) -> Mapping[str, str]:
        """See `Way`."""
        async with serial_console(self.path, self.baud, self.patience) as console:
            board = await console.board()
            if board.template_id != template_id:
                raise Conflict(
                    f"The unit on {self.path} is for the template {board.template_id or '(none)'}, "
                    f"and the profile's is {template_id}. Nothing was sent to it."
                )
            await console.connect(settings)
        return {
            "boardName": board.name,
            "board": board.board,
            "firmwareType": board.firmware_type,
            "firmwareVersion": board.firmware_version,
        }


def with_token(settings: Settings, auth: str) -> Settings:
    """The settings with an AuthToken. Raises Refused."""
    try:
        return replace(settings, auth=auth)
    except InvalidSettings as fault:
        raise _invalid(fault) from None


def check_label(out: Path) -> None:
    """Whether a label can go to a file. Raises Refused."""
    if out.suffix.lower() not in LABEL_FORMS:
        raise Invalid(f"A label is a file with one of the endings {', '.join(LABEL_FORMS)}, which {out} has not.")
    check_file(out)


def print_label(out: Path, payload: str, lines: tuple[str, ...]) -> None:
    """Write a unit's label to a file, by its ending. Raises Refused.

    payload: what its QR code says. lines: what stands beside it.
    """
    if out.suffix.lower() == ".png":
        save(out, qr.png(payload))
    else:
        save(out, labels.pdf([labels.Label(payload, lines)], labels.SHEETS[LABEL_SHEET]))


def check_file(out: Path) -> None:
    """Whether a file can be written, as far as that can be told. Raises Refused."""
    if out.is_dir() or not out.parent.is_dir():
        raise Invalid(
            f"{out} cannot be written: {'it is a directory' if out.is_dir() else 'its directory is not there'}."
        )
    if not os.access(out.parent, os.W_OK):
        raise Invalid(f"{out} cannot be written: its directory cannot be written to.")


def save(out: Path, content: bytes) -> None:
    """Write a file that has a secret in it, for its owner alone; all or nothing. Raises Refused."""
    unfinished = out.with_name(f".{out.name}.{token_hex(4)}")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(out)
    except OSError as fault:
        raise Refused(f"{out} cannot be written: {fault.strerror}.") from None
    finally:
        unfinished.unlink(missing_ok=True)


def read(file: Path, limit: int) -> bytes:
    """What a file holds, up to so many bytes. Raises Refused."""
    try:
        with file.open("rb") as opened:
            content = opened.read(limit + 1)
    except OSError as fault:
        raise Refused(f"{file} cannot be read: {fault.strerror}.") from None
    if len(content) > limit:
        raise Refused(f"{file} is larger than {limit} bytes.")
    return content


def _merged(tag: Tag, changes: Mapping[str, str | None]) -> dict[str, str]:
    return {key: value for key, value in {**tag.values, **changes}.items() if value is not None}


def _invalid(fault: ValueError) -> Invalid:
    text = str(fault)
    return Invalid(f"{text[:1].upper()}{text[1:]}.")


def _not_as_written(out: Path) -> Refused:
    return Refused(f"{out} does not read back as it was written. Look at the disk, and run the unit again.")
