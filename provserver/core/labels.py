"""Labels to print: a QR code and lines of text beside it, on sheets of labels or one a page; PDF, drawn as vectors.

fpdf2 draws them; it takes a third of a second to load, so it is loaded with the first document.
"""

from collections.abc import Iterable
from typing import NamedTuple

from provserver.core import qr

_PADDING = 2.0  # mm that stay free inside a label: cutters and printers are off by about one
_OVERLAP = 0.01  # mm by which rows of modules overlap: else viewers draw hairlines between them
_SIZES = (5.0, 9.0)  # points of text: it shrinks to fit, then it is cut
_LEADING = 1.3
_MM = 72 / 25.4  # points
_ENCODING = "cp1252"  # what the fonts that every reader has can show


class Label(NamedTuple):
    """What one label shows. payload: what its QR code says. lines: the first is printed bold."""

    payload: str
    lines: tuple[str, ...]

    def __repr__(self) -> str:
        return "<Label>"


class Sheet(NamedTuple):
    """Where labels are on a page, in mm. left, top: of the first label. gap_x, gap_y: between labels."""

    page_width: float
    page_height: float
    columns: int
    rows: int
    width: float
    height: float
    left: float = 0
    top: float = 0
    gap_x: float = 0
    gap_y: float = 0

    def corner(self, place: int) -> tuple[float, float]:
        """The upper left corner of a label, counted from 0 along the rows."""
        row, column = divmod(place % (self.columns * self.rows), self.columns)
        return self.left + column * (self.width + self.gap_x), self.top + row * (self.height + self.gap_y)


SHEETS = {
    "L7160": Sheet(210, 297, 3, 7, 63.5, 38.1, 7.21, 15.15, 2.54),  # Avery's number; 21 on A4
    "62x29": Sheet(62, 29, 1, 1, 62, 29),  # continuous or die-cut rolls for label printers
}
"""By name."""


class LabelDocument:
    """A PDF of labels, filled in order."""

    def __init__(self, sheet: Sheet, encoder: qr.Encoder | None = None) -> None:
        from fpdf import FPDF
        from fpdf.enums import RenderStyle

        self._sheet = sheet
        self._encoder = encoder or qr.Encoder()
        self._count = 0
        self._filled = RenderStyle.F  # its name would be looked up for each rectangle
        self._pdf = FPDF(unit="mm", format=(sheet.page_width, sheet.page_height))
        self._pdf.core_fonts_encoding = _ENCODING
        self._pdf.set_auto_page_break(False)
        self._pdf.set_title("Labels")

    def add(self, label: Label) -> None:
        """Draw the next label."""
        if self._count % (self._sheet.columns * self._sheet.rows) == 0:
            self._pdf.add_page()
        x, y = self._sheet.corner(self._count)
        self._count += 1
        side = self._sheet.height - 2 * _PADDING
        self._draw(self._encoder.symbol(label.payload), x + _PADDING, y + _PADDING, side)
        left = x + _PADDING + side
        self._write(label.lines, left, y + self._sheet.height / 2, x + self._sheet.width - _PADDING - left)

    def add_all(self, labels: Iterable[Label]) -> None:
        """Draw the next labels."""
        for label in labels:
            self.add(label)

    def finish(self) -> bytes:
        """The document; nothing can be added any more."""
        return bytes(self._pdf.output())

    def _draw(self, symbol: qr.Symbol, x: float, y: float, side: float) -> None:
        module = side / symbol.side
        for column, row, length in symbol.runs():
            self._pdf.rect(x + column * module, y + row * module, length * module, module + _OVERLAP, self._filled)

    def _write(self, lines: Iterable[str], x: float, middle: float, width: float) -> None:
        """Write lines around a middle, each as large as fits its width."""
        fitting = [self._fitting(line, width, bold=not place) for place, line in enumerate(filter(None, lines))]
        y = middle - sum(size for _, size in fitting) * _LEADING / _MM / 2
        for place, (text, size) in enumerate(fitting):
            y += size * _LEADING / _MM
            self._pdf.set_font("helvetica", "" if place else "B", size)
            self._pdf.text(x, y - size * (_LEADING - 1) / _MM, text)

    def _fitting(self, line: str, width: float, *, bold: bool) -> tuple[str, float]:
        """A line as it can be printed within a width (mm), and its size (points)."""
        least, most = _SIZES
        text = "".join(each if each.isprintable() else " " for each in line)
        text = text.encode(_ENCODING, "replace").decode(_ENCODING)
        self._pdf.set_font("helvetica", "B" if bold else "", most)
        wanted = self._pdf.get_string_width(text)
        if wanted * least / most > width:
            text = text[: max(int(len(text) * width * most / (wanted * least)) - 2, 1)] + "…"
            wanted = self._pdf.get_string_width(text)
        return text, max(min(most, most * width / wanted), least) if wanted else most


def pdf(labels: Iterable[Label], sheet: Sheet) -> bytes:
    """A PDF of labels."""
    document = LabelDocument(sheet)
    document.add_all(labels)
    return document.finish()
