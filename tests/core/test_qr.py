import io
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import segno
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from provserver.core import ids, qr
from provserver.core.qr import InvalidPayload, QrPayload
from tests import qrcodes

TOKEN = "sqr_gCCsLSydh3d0ArmZj50l9zr79JXVooBR"


def payloads(count: int, number: int = 1) -> list[str]:
    return [qr.payload("sqr_" + ids.alphanumeric(32, os.urandom), number) for _ in range(count)]


# What it says


def test_a_payload_is_the_token_and_its_makers_number() -> None:
    assert qr.payload(TOKEN, 17) == f"{TOKEN}+17"


@pytest.mark.parametrize("text", ["{}+17", "{} 17", "  {}+17\n", "{} 17\t", "\ufeff{}+17"[1:]])
def test_a_payload_is_read_in_every_form_it_comes_in(text: str) -> None:
    assert qr.parse(text.format(TOKEN)) == QrPayload(TOKEN, 17)


@pytest.mark.parametrize("text", ["{}", " {} ", "{}\r\n"])
def test_a_payload_may_lack_the_number(text: str) -> None:
    assert qr.parse(text.format(TOKEN)) == QrPayload(TOKEN, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        TOKEN[:-1],
        TOKEN + "x",
        TOKEN[4:],
        "SQR_" + TOKEN[4:],
        TOKEN + "+",
        TOKEN + "++1",
        TOKEN + "+-1",
        TOKEN + "+1x",
        TOKEN + "+1+1",
        TOKEN + "+١",
        TOKEN + "+" + "1" * 11,
        "https://x/?t=" + TOKEN,
        TOKEN[:-1] + "é",
        TOKEN[:-1] + "\0",
        TOKEN + "\n" + TOKEN,
    ],
)
def test_what_is_no_payload_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(InvalidPayload) as raised:
        qr.parse(text)
    assert TOKEN[4:] not in str(raised.value)


def test_a_payload_is_not_shown_by_accident() -> None:
    assert TOKEN not in repr(qr.parse(TOKEN))


@given(st.text(st.sampled_from(ids.ALPHANUMERIC + "_-"), min_size=32, max_size=32), st.integers(1, 2**31 - 1))
def test_what_is_built_is_read(token: str, number: int) -> None:
    assert qr.parse(qr.payload("sqr_" + token, number)) == QrPayload("sqr_" + token, number)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = qr.parse(text)
    except InvalidPayload:
        return
    assert found.token in text


# How it is drawn


@pytest.mark.parametrize("text", [f"{TOKEN}+1", f"{TOKEN}+99999", f"{TOKEN}+2147483647", "a", "ü" * 100, "x" * 400])
def test_a_symbol_is_segnos(text: str) -> None:
    made = qr.symbol(text)

    expected = segno.make(text.encode(), error="m", mode="byte", mask=3, micro=False, boost_error=False)
    assert expected.error == "M"
    assert expected.version == segno.make(text.encode(), error="m", micro=False).version
    drawn = {(x + i, y) for x, y, length in made.runs() for i in range(length)}
    assert drawn == {(x + 4, y + 4) for y, row in enumerate(expected.matrix) for x, dark in enumerate(row) if dark}


@pytest.mark.parametrize("text", [f"{TOKEN}+1", f"{TOKEN}+2147483647", "a", "x" * 400])
def test_images_are_read_back(text: str) -> None:
    assert qrcodes.read_png(qr.png(text)) == [text]
    assert qrcodes.read_svg(qr.svg(text)) == [text]


@pytest.mark.parametrize("text", ["a", f"{TOKEN}+1", "x" * 200, "x" * 2331])
def test_a_png_has_at_least_300_pixels_of_one_bit_and_a_quiet_zone(text: str) -> None:
    with Image.open(io.BytesIO(qr.png(text))) as image:
        assert image.mode == "1"
        assert image.width == image.height >= 300
        image.load()
        modules = qr.symbol(text).side
        module, rest = divmod(image.width, modules)
        assert rest == 0
        dark = image.convert("L").point(lambda value: 255 - value)
        assert dark.getbbox() == (4 * module, 4 * module, image.width - 4 * module, image.height - 4 * module)
        assert image.info == {}


def test_an_svg_needs_nothing_from_elsewhere_and_has_a_size() -> None:
    text = qr.svg(f"{TOKEN}+1").decode()

    width, height = map(int, re.findall(r' (?:width|height)="(\d+)"', text))
    assert width == height >= 300
    assert text.count("http") == 1  # its namespace
    assert TOKEN not in text


def test_what_no_code_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        qr.png("x" * 2332)


# Many


def test_many_are_the_same_as_each_alone() -> None:
    encoder = qr.Encoder()
    first, other = payloads(340), payloads(5, number=10)

    made = [encoder.symbol(text) for text in (*first, *other, *first)]

    for text, symbol in zip((*first[:5], *first[-5:], *other), (*made[:5], *made[335:345]), strict=True):
        assert symbol == qr.symbol(text)
    assert made[345:] == made[:340]  # what was encoded by segno is now added up


def test_many_are_made_by_several_threads_at_once() -> None:
    encoder, texts = qr.Encoder(), payloads(600)
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(encoder.symbol, texts))
    assert [each.rows for each in made[::20]] == [qr.symbol(text).rows for text in texts[::20]]


def test_many_are_read_back() -> None:
    encoder = qr.Encoder()
    texts = payloads(200)

    for text in texts:
        assert qrcodes.read_png(encoder.symbol(text).png()) == [text]


@settings(max_examples=20)
@given(st.lists(st.text(max_size=2), max_size=60))
def test_texts_of_any_length_may_be_mixed(texts: list[str]) -> None:
    encoder = qr.Encoder()

    for text in texts:
        assert encoder.symbol(text) == qr.symbol(text)


def test_segno_is_loaded_when_a_code_is_made() -> None:
    script = (
        "import sys; from provserver.core import labels, qr; assert not {'segno', 'fpdf', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
