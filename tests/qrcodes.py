"""Reads QR codes as a scanner does: zxing on what is painted."""

import io
import re

import zxingcpp
from PIL import Image, ImageDraw

_RUN = re.compile(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z")


def read(image: Image.Image) -> list[str]:
    """The texts of all QR codes in an image."""
    return [each.text for each in zxingcpp.read_barcodes(image.convert("L"))]


def read_png(data: bytes) -> list[str]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return read(image)


def read_svg(data: bytes) -> list[str]:
    """Paints what `Symbol.svg` draws: rectangles on white."""
    side = int(re.findall(rb'viewBox="0 0 (\d+)', data)[0])
    image = Image.new("L", (side * 4, side * 4), 255)
    for x, y, length, back in _RUN.findall(data.decode()):
        assert length == back
        _fill(image, int(x) * 4, int(y) * 4, int(length) * 4, 4)
    return read(image)


def _fill(image: Image.Image, x: float, y: float, width: float, height: float) -> None:
    ImageDraw.Draw(image).rectangle((round(x), round(y), round(x + width) - 1, round(y + height) - 1), fill=0)


_PAGE = re.compile(rb"stream\n(.*?)\nendstream", re.DOTALL)
_FILLED = re.compile(rb"([\d.]+) ([\d.]+) ([\d.]+) (-?[\d.]+) re f")


def pages(pdf: bytes, width: float, height: float) -> list[Image.Image]:
    """Paints the filled rectangles of each page; width, height: in mm."""
    import zlib

    scale = 4  # pixels a point
    painted = []
    for stream in _PAGE.findall(pdf):
        try:
            content = zlib.decompress(stream)
        except zlib.error:
            continue
        rectangles = _FILLED.findall(content)
        if not rectangles:
            continue
        image = Image.new("L", (round(width * scale * 72 / 25.4), round(height * scale * 72 / 25.4)), 255)
        for each in rectangles:
            x, y, w, h = (float(number) * scale for number in each)
            _fill(image, x, image.height - y, w, -h)
        painted.append(image)
    return painted
