import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import firmware_tag
from provserver.core.firmware_tag import InvalidTag
from tests.core.firmware import ESP32, INFO, TAG

AUTH = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"
VALUES = st.text(
    st.sampled_from("abcXYZ0189_ .,:-()"),
    min_size=1,
    max_size=20,
)
KEYS = st.from_regex(r"[a-z][a-z0-9\-]{0,7}", fullmatch=True)


def found_by_others(firmware: bytes, name: str) -> bytes | None:
    """What blynk-tools finds: its expression, as it is published."""
    match = re.search(name.encode() + rb"\0[\w\s.,:\-()\0]*?\0\0", firmware)
    return match and match[0]


def test_the_stock_tags_are_found() -> None:
    tag = firmware_tag.find(ESP32, firmware_tag.OPTIONS)

    assert tag.values == {"ssid": "Placeholder" * 20, "host": "blynk.cloud", "port": "443"}
    assert ESP32[tag.offset : tag.offset + tag.length] == TAG[:-1]  # the last NUL is the C compiler's
    assert firmware_tag.find(ESP32, firmware_tag.INFO).values == {
        "mcu": "1.2.3",
        "fw-type": "TMPL2feLBENZh",
        "build": "Nov  1 2026 10:00:00",
        "blynk": "1.3.2",
    }


def test_a_patched_tag_has_the_new_values_and_keeps_the_others() -> None:
    tag = firmware_tag.find(ESP32, firmware_tag.OPTIONS)

    new = firmware_tag.patch(tag, {"ssid": "Line 3", "auth": AUTH, "port": None})

    assert new == (b"blnkopt\0ssid\0Line 3\0host\0blynk.cloud\0auth\0" + AUTH.encode() + b"\0\0").ljust(
        len(TAG) - 1, b"\0"
    )
    patched = ESP32.replace(TAG[:-1], new)
    assert firmware_tag.find(patched, firmware_tag.OPTIONS).values == {
        "ssid": "Line 3",
        "host": "blynk.cloud",
        "auth": AUTH,
    }


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=6), st.binary(max_size=50), st.binary(max_size=50))
def test_what_is_patched_is_found_again_by_us_and_by_others(
    values: dict[str, str], before: bytes, after: bytes
) -> None:
    tag = firmware_tag.find(TAG, firmware_tag.OPTIONS)
    changes = {**dict.fromkeys(tag.values), **values}

    new = firmware_tag.patch(tag, changes)

    assert len(new) == tag.length
    found = firmware_tag.find(before + b"\xff" + new + b"\xff" + after, firmware_tag.OPTIONS)
    assert (found.values, found.offset) == (values, len(before) + 1)
    assert found_by_others(new, "blnkopt") == new[: found.length]


@given(st.lists(st.sampled_from([b"blnkopt", b"\0", b"ssid", b"x", b"\0\0", b"\xff", TAG]), max_size=30).map(b"".join))
def test_whatever_comes_has_one_tag_or_is_refused(firmware: bytes) -> None:
    try:
        tag = firmware_tag.find(firmware, firmware_tag.OPTIONS)
    except InvalidTag:
        return
    assert firmware[tag.offset :].startswith(b"blnkopt\0")
    assert tag.values


@pytest.mark.parametrize(
    ("firmware", "reason"),
    [
        (b"", "no tag 'blnkopt'"),
        (INFO, "no tag 'blnkopt'"),
        (TAG[:-3], "not a whole one"),
        (b"blnkopt\0strcmp\0\0", "not a whole one"),
        (b"blnkopt\0ssid\0a\0ssid\0b\0\0", "not a whole one"),
        (b"blnkopt\0ssid\0caf\xc3\xa9\0\0", "not a whole one"),
        (TAG + TAG, "2 tags"),
    ],
)
def test_what_has_no_tag_is_told(firmware: bytes, reason: str) -> None:
    with pytest.raises(InvalidTag, match=reason):
        firmware_tag.find(firmware, firmware_tag.OPTIONS)


def test_a_name_in_passing_is_no_tag() -> None:
    assert firmware_tag.find(b"no blnkopt\0here\0\0" + TAG, firmware_tag.OPTIONS).offset == 17


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ssid": "x" * 300}, "need .* bytes, and the firmware has room for 261"),
        ({"ssid": "Café"}, "the value of ssid has characters that no tool"),
        ({"pass": "a&b"}, "the value of pass has characters that no tool"),
        ({"pass": "a\nb"}, "the value of pass has characters that no tool"),
        ({"pass": "a\0b"}, "the value of pass has characters that no tool"),
        ({"pass": ""}, "the value of pass is empty"),
        ({"Auth": "x"}, "cannot be a key"),
        ({"ssid": None, "host": None, "port": None}, "need"),
    ],
)
def test_what_could_not_be_found_again_is_refused(changes: dict[str, str | None], reason: str) -> None:
    tag = firmware_tag.find(TAG, firmware_tag.OPTIONS)

    with pytest.raises(InvalidTag, match=reason) as refused:
        firmware_tag.patch(tag, changes)

    assert "a&b" not in str(refused.value)


def test_a_tag_does_not_show_its_values() -> None:
    assert "Placeholder" not in repr(firmware_tag.find(TAG, firmware_tag.OPTIONS))
