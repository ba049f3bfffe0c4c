"""QR codes: what a static token's says, and how codes are drawn.

Symbols are of the smallest version that fits, in byte mode, with error correction M and a quiet zone of 4 modules
(ISO/IEC 18004:2015). segno encodes them; it is loaded when the first is made.
"""

import re
import zlib
from collections.abc import Iterator
from functools import cache
from threading import Lock
from typing import NamedTuple

QUIET_ZONE = 4
"""Modules around a symbol that stay light (ISO/IEC 18004:2015 §6.3.8)."""

MIN_PIXELS = 300
"""What an image has at least on a side."""

_MASK = 3  # one for all: choosing takes segno three times as long, and on claim codes this is the best on average
_PAYLOAD = re.compile(r"(sqr_[A-Za-z0-9_-]{32})(?:[+ ]([0-9]{1,10}))?")
_RUN = re.compile("1+")


class InvalidPayload(ValueError):  # noqa: N818
    """A text is not what a static token's QR code says; the message does not quote it."""


class QrPayload(NamedTuple):
    """What a QR code says. organization_number: of the organization that made the token, when the code has it."""

    token: str
    organization_number: int | None

    def __repr__(self) -> str:
        return "<QrPayload>"


def payload(qr_token: str, organization_number: int) -> str:
    """What a static token's QR code says: `sqr_…+1` (spec static-tokens A.1)."""
    return f"{qr_token}+{organization_number}"


def parse(text: str) -> QrPayload:
    """Read a payload with or without `+number`, also when a form has made a space of its `+`. Raises InvalidPayload."""
    if (match := _PAYLOAD.fullmatch(text.strip())) is None:
        raise InvalidPayload("This is not a claim code: those read sqr_, 32 characters, and perhaps + and a number.")
    token, number = match.groups()
    return QrPayload(token, int(number) if number else None)


def png(text: str) -> bytes:
    """A QR code as a PNG of one bit a pixel, at least 300 × 300."""
    return symbol(text).png()


def svg(text: str) -> bytes:
    """A QR code as an SVG document."""
    return symbol(text).svg()


class Symbol(NamedTuple):
    """A QR code's modules.

    size: modules on a side. rows: for each row its quiet zone and its modules, most significant bit first and dark
    being 1, filled up to whole bytes.
    """

    size: int
    rows: bytes

    @property
    def side(self) -> int:
        """Modules on a side, with the quiet zone."""
        return self.size + 2 * QUIET_ZONE

    def png(self) -> bytes:
        """As an image of one bit a pixel, at least 300 × 300: all modules have as many pixels."""
        scale = -(-MIN_PIXELS // self.side)
        pixels = self.side * scale
        length = (pixels + 7) // 8
        stride = len(self.rows) // self.size
        magnified = _magnified(scale)
        same = b"\2" + bytes(length)  # a line equal to the one above it, by the filter Up
        quiet = b"\0" + b"\xff" * length + same * (QUIET_ZONE * scale - 1)
        lines = [quiet]
        for start in range(0, len(self.rows), stride):
            line = b"".join([magnified[modules] for modules in self.rows[start : start + stride]])
            lines.append(b"\0" + line[:length] + same * (scale - 1))
        lines.append(quiet)
        header = pixels.to_bytes(4) * 2 + b"\1\0\0\0\0"  # one bit, greyscale; the usual compression; not interlaced
        return b"".join(
            (
                b"\x89PNG\r\n\x1a\n",
                _chunk(b"IHDR", header),
                _chunk(b"IDAT", zlib.compress(b"".join(lines), 1)),
                _chunk(b"IEND", b""),
            )
        )

    def svg(self) -> bytes:
        """As a document of one path on white; a module is one unit."""
        pixels = self.side * -(-MIN_PIXELS // self.side)
        path = "".join([f"M{x} {y}h{length}v1h-{length}z" for x, y, length in self.runs()])
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{pixels}" height="{pixels}"'
            f' viewBox="0 0 {self.side} {self.side}" shape-rendering="crispEdges">'
            f'<path fill="#fff" d="M0 0h{self.side}v{self.side}H0z"/><path d="{path}"/></svg>\n'
        ).encode()

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Dark modules as horizontal runs (x, y, length), counted from the corner of the quiet zone."""
        stride = len(self.rows) // self.size
        for row in range(self.size):
            modules = int.from_bytes(self.rows[row * stride : (row + 1) * stride])
            for run in _RUN.finditer(f"{modules:0{8 * stride}b}"):
                yield run.start(), row + QUIET_ZONE, run.end() - run.start()


def symbol(text: str) -> Symbol:
    """The QR code of one text. Raises ValueError when it is too long for any (2,331 bytes)."""
    return _encode(text.encode())


class Encoder:
    """Makes the QR codes of many texts of few lengths: after some hundred, each in microseconds.

    With version and mask fixed, encoding is linear: each bit of a text flips the same modules, whatever the others are,
    as error correction and masking are sums modulo 2. So a symbol is the one of a text of zeros, with what each bit of
    its own flips. What a bit flips is learned from segno, one with each text until all are known.
    """

    def __init__(self) -> None:
        self._lengths: dict[int, _Linear] = {}
        self._lock = Lock()  # labels are drawn in threads

    def symbol(self, text: str) -> Symbol:
        """The QR code of a text, the same as `symbol(text)`."""
        data = text.encode()
        with self._lock:
            linear = self._lengths.get(len(data))
            if linear is None:
                linear = self._lengths[len(data)] = _Linear(len(data))
            return linear.symbol(data)


class _Linear:
    """What is known of encoding texts of one length, in bytes."""

    def __init__(self, length: int) -> None:
        self._length = length
        zero = _encode(bytes(length))
        self._size = zero.size
        self._zero = int.from_bytes(zero.rows)
        self._flips: list[int] = []  # by bit of the text, from its end
        self._tables: list[list[int]] = []  # by byte of the text, and its value; once all flips are known

    def symbol(self, data: bytes) -> Symbol:
        if not self._tables:
            self._learn()
            return _encode(data)
        modules = self._zero
        for table, value in zip(self._tables, data, strict=True):
            modules ^= table[value]
        stride = _stride(self._size)
        return Symbol(self._size, modules.to_bytes(self._size * stride))

    def _learn(self) -> None:
        if len(self._flips) < 8 * self._length:
            one = _encode((1 << len(self._flips)).to_bytes(self._length))
            self._flips.append(int.from_bytes(one.rows) ^ self._zero)
            return
        for place in reversed(range(self._length)):
            table = [0]
            for flips in self._flips[8 * place : 8 * place + 8]:
                table += [each ^ flips for each in table]
            self._tables.append(table)


def _encode(data: bytes) -> Symbol:
    import segno  # here: most processes and commands make no QR code

    made = segno.make(data, error="m", mode="byte", mask=_MASK, micro=False, boost_error=False)
    size = len(made.matrix)
    stride = _stride(size)
    shift = 8 * stride - QUIET_ZONE - size
    digits = bytes.maketrans(b"\0\1", b"01")
    rows = (int(row.translate(digits), 2) << shift for row in made.matrix)
    return Symbol(size, b"".join([row.to_bytes(stride) for row in rows]))


def _stride(size: int) -> int:
    """Bytes of a row, quiet zone on both sides included."""
    return (size + 2 * QUIET_ZONE + 7) // 8


@cache
def _magnified(scale: int) -> list[bytes]:
    """By eight modules: their pixels, light being 1."""
    pixels = (1 << scale) - 1
    return [
        sum(pixels << scale * place for place in range(8) if not modules >> place & 1).to_bytes(scale)
        for modules in range(256)
    ]


def _chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG (§5.3)."""
    return len(data).to_bytes(4) + kind + data + zlib.crc32(data, zlib.crc32(kind)).to_bytes(4)
