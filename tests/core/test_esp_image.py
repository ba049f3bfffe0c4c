import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import esp_image, firmware_tag
from provserver.core.esp_image import InvalidImage
from tests.core.firmware import ESP32, TAG, esp32, esp8266, mpeg2

AUTH = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"


def test_a_patched_image_is_one_that_the_vendor_s_tool_finds_valid() -> None:
    tag = firmware_tag.find(ESP32, firmware_tag.OPTIONS)
    new = firmware_tag.patch(tag, {"ssid": "Line 3", "pass": "pass word", "auth": AUTH})

    patched = esp_image.replace(ESP32, tag.offset, new)

    # `esptool image-info` said of these bytes: checksum valid, validation hash valid.
    assert hashlib.sha256(patched).hexdigest() == "8843b5abe000c922316a9ef140c4d82dc952f74b8c2a951f972ef069b06fe932"
    assert esp_image.inspect(patched) == esp_image.inspect(ESP32)


def test_the_crc_is_the_one_of_the_catalogue() -> None:
    assert mpeg2(b"123456789") == 0x0376E6E7


SEGMENTS = st.lists(st.binary(min_size=64, max_size=120), min_size=1, max_size=4)
IMAGES = st.one_of(
    SEGMENTS.map(lambda segments: esp32(*segments)),
    SEGMENTS.map(lambda segments: (image := esp32(*segments, hashed=True)) + hashlib.sha256(image).digest()),
    SEGMENTS.map(lambda segments: esp8266(*segments)),
    SEGMENTS.map(lambda segments: esp8266(*segments, place=0x0FF8)),
)


@given(IMAGES, st.data())
def test_what_is_replaced_leaves_the_image_whole(image: bytes, data: st.DataObject) -> None:
    found = esp_image.inspect(image)
    start, end = data.draw(st.sampled_from(found.segments))
    first = data.draw(st.integers(max(start, 0x1018 if found.crc == 0x1010 else 0), end - 1))
    new = data.draw(st.binary(max_size=end - first))

    changed = esp_image.replace(image, first, new)

    assert len(changed) == len(image)
    assert esp_image.inspect(changed) == found
    assert changed[first : first + len(new)] == new
    assert esp_image.replace(changed, first, image[first : first + len(new)]) == image


@given(IMAGES, st.data())
def test_a_flipped_bit_of_a_segment_is_found(image: bytes, data: st.DataObject) -> None:
    start, end = data.draw(st.sampled_from(esp_image.inspect(image).segments))
    damaged = bytearray(image)
    damaged[data.draw(st.integers(start, end - 1))] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(InvalidImage):
        esp_image.inspect(bytes(damaged))


@given(st.binary(max_size=100), st.integers(0, 40))
def test_whatever_comes_is_an_image_or_is_none(body: bytes, zeroes: int) -> None:
    for data in (body, b"\xe9" + body, b"\xe9\x01" + bytes(zeroes) + body):
        try:
            esp_image.inspect(data)
        except InvalidImage:
            continue


def test_a_chip_is_told_by_its_image() -> None:
    assert esp_image.inspect(ESP32).chip == "ESP32"
    assert esp_image.inspect(esp8266(TAG)).chip == "ESP8266"


HASHED = esp32(TAG, hashed=True)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "no image"),
        (b"\xff" * 0x1000 + ESP32, "not one that is merged"),
        (b"\x1f\x8b\x08" + bytes(30), "compressed"),
        (ESP32[:-1], "cut off at the end"),
        (ESP32[:-33], "cut off at the end"),
        (ESP32[:-40], "cut off in a segment"),
        (ESP32[:100], "cut off in a segment"),
        (ESP32 + bytes(4096), "behind its end, such as a signature"),
        (HASHED + bytes(32), "does not match its SHA-256"),
        (HASHED[:-1] + b"\0" + bytes(32), "does not match its checksum"),
        (b"\xe9\0" + bytes(30), "number of segments"),
        (b"\xe9\x11" + bytes(30), "number of segments"),
        (esp32(b"x" * 20)[:30], "cut off in a segment"),
        (esp8266(TAG) + bytes(16), "cut off in a segment"),
    ],
)
def test_what_cannot_be_patched_is_told(image: bytes, reason: str) -> None:
    with pytest.raises(InvalidImage, match=reason):
        esp_image.inspect(image)


def test_an_esp8266_s_damage_is_told() -> None:
    image = bytearray(esp8266(TAG))
    struct.pack_into("<I", image, 0x1014, 0)
    with pytest.raises(InvalidImage, match="does not match its CRC"):
        esp_image.inspect(bytes(image))

    long = bytearray(esp8266(TAG) + bytes(16))
    struct.pack_into("<I", long, 0x1010, len(long))
    with pytest.raises(InvalidImage, match="does not end where it should"):
        esp_image.inspect(bytes(long))


@pytest.mark.parametrize(("offset", "length"), [(0, 4), (24, 4), (447, 2), (450, 2), (800, 1)])
def test_only_what_lies_in_one_segment_is_replaced(offset: int, length: int) -> None:
    with pytest.raises(InvalidImage, match="does not lie in one segment"):
        esp_image.replace(ESP32, offset, bytes(length))
