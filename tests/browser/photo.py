"""A picture of a QR code as a phone takes it: large, turned, on a table, badly lit, noisy and not quite sharp."""

import io
import random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIZE = (1600, 1200)


def taken(code: bytes, *, turned: float = 17, seed: int = 1) -> bytes:
    """A JPEG of it. code: a PNG; turned: degrees."""
    with Image.open(io.BytesIO(code)) as image:
        label = image.convert("RGB").resize((620, 620), Image.Resampling.NEAREST)
    sheet = Image.new("RGB", (760, 760), (236, 233, 226))
    sheet.paste(label, (70, 70))
    turned_sheet = sheet.rotate(turned, Image.Resampling.BICUBIC, expand=True, fillcolor=(121, 94, 66))
    table = Image.new("RGB", SIZE, (121, 94, 66))
    grain = ImageDraw.Draw(table)
    chance = random.Random(seed)
    for _ in range(220):
        y = chance.randrange(SIZE[1])
        shade = chance.randrange(-14, 14)
        grain.line((0, y, SIZE[0], y + chance.randrange(-30, 30)), (121 + shade, 94 + shade, 66 + shade), 3)
    table.paste(turned_sheet, (430, 110))
    light = Image.linear_gradient("L").resize(SIZE).point(lambda value: 120 + value // 2)
    lit = ImageChops.multiply(table, Image.merge("RGB", (light, light, light)))
    noise = Image.frombytes("L", SIZE, chance.randbytes(SIZE[0] * SIZE[1])).point(lambda value: 96 + value // 4)
    noisy = ImageChops.overlay(lit, Image.merge("RGB", (noise, noise, noise)))
    target = io.BytesIO()
    noisy.filter(ImageFilter.GaussianBlur(1.6)).save(target, "JPEG", quality=72)
    return target.getvalue()
