import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core.board import (
    MAX_NETWORKS,
    Board,
    Generation,
    NotABoard,
    WifiNetwork,
    read_board,
    read_networks,
    strongest,
    template_name_limit,
    template_name_warning,
    trouble,
)
from tests.support.access_point import CLASSIC, EDGENT, SCAN, TEMPLATE

CODES = (700, 701, 702, 703, 704, 705, 710, 711, 712, 720, 721, 722, 723, 730, 731, 732)
"""Of both generations (spec wifi-inject B.5)."""


def test_a_classic_board_is_read() -> None:
    assert read_board(CLASSIC % (TEMPLATE.encode(), 701)) == Board(
        "Blynk Thermostat-8DCF",
        TEMPLATE,
        template_name="Thermostat",
        firmware_type="ESP32",
        firmware_version="1.2.0",
        mac="AA:BB:CC:DD:EE:FF",
        last_error=701,
    )


def test_a_board_of_the_new_firmware_is_read() -> None:
    assert read_board(EDGENT % (TEMPLATE.encode(), 722)) == Board(
        "Blynk Thermostat-8DCF",
        TEMPLATE,
        firmware_type="ESP32",
        firmware_version="2.0.0",
        mac="AA:BB:CC:DD:EE:FF",
        uid="0d5ac1ce-6f2d-4c36-a2a4-2f1d6c3dfd0a",
        last_error=722,
        generation=Generation.EDGENT,
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Not found: /board_info.json",
        b"<html><body>Router</body></html>",
        b"[]",
        b'{"status":"ok"}',
        b'{"tmpl_id":"TMPL","ifs":[{"name":"eth"}]}',
        b"{" * 3000,
        b'{"tmpl_id":"TMPL"',
        b'{"tmpl_id" "TMPL"}',
    ],
)
def test_what_is_no_board_is_told_apart(content: bytes) -> None:
    with pytest.raises(NotABoard):
        read_board(content)


@pytest.mark.parametrize(
    "name", ['The "best" one', "back\\slash", "C:\\new", 'ends in "', '"', "tab\tand \\t", "Café ☕", 'a"},b', "{[:,]}"]
)
def test_names_that_make_it_no_json_are_read_as_they_are(name: str) -> None:
    printed = '{"board":"%s","tmpl_id":"TMPL1","fw_ver":"1","ssid":"%s-8DCF","last_error":0,"wifi_scan":true}'
    found = read_board((printed % (name, name)).encode())
    assert (found.template_name, found.name, found.template_id) == (name, f"{name}-8DCF", "TMPL1")
    networks = (
        '[ {"ssid":"%s","bssid":"AA:BB:CC:DD:EE:FF","rssi":-40,"sec":"WPA2","ch":6},{"ssid":"x","rssi":-41} ]\r\n'
    )
    assert [each.ssid for each in read_networks((networks % name).encode())] == [name, "x"]
    swapped = '[{"rssi":-40,"ssid":"%s"}]'
    assert [each.ssid for each in read_networks((swapped % name).encode())] == [name]


_harmless = st.text(
    st.characters(min_codepoint=0x20, exclude_categories=["Cs"], exclude_characters="\\"), min_size=1, max_size=32
)


@given(st.lists(_harmless.filter(lambda name: not re.search(r'"\s*[,}\]]', name)), unique=True, max_size=6))
def test_printed_networks_are_read(names: list[str]) -> None:
    """Whatever they are called, but for what would be structure itself."""
    printed = ",".join(
        f'{{"ssid":"{name}","bssid":"","rssi":{-n},"sec":"OPEN","ch":1}}' for n, name in enumerate(names)
    )
    assert [each.ssid for each in read_networks(f"[{printed}]".encode())] == names


@given(st.lists(st.text(min_size=1, max_size=32), unique=True, max_size=6))
def test_proper_json_is_read(names: list[str]) -> None:
    names = [name for name in names if name.isprintable()]
    networks = [{"ssid": name, "rssi": -n} for n, name in enumerate(names)]
    assert [each.ssid for each in read_networks(json.dumps(networks).encode())] == names


@given(st.binary(max_size=300) | st.text('{}[]",:\\ab1 ', max_size=100).map(str.encode))
def test_anything_else_is_refused(content: bytes) -> None:
    for read in (read_board, read_networks):
        with suppress(NotABoard):
            read(content)


def test_networks_come_once_and_strongest_first() -> None:
    assert [(each.ssid, each.rssi, each.security) for each in read_networks(SCAN)] == [
        ("Home", -50, "WPA2"),
        ('Bob"s "attic"', -70, "WPA2"),
        ("Cafe", -80, "OPEN"),
    ]
    same = [WifiNetwork("a", -70), WifiNetwork("b", -60), WifiNetwork("a", -50), WifiNetwork("", -10, hidden=True)]
    assert strongest(same) == [same[2], same[1]]
    assert read_networks(b"[]") == []
    many = [{"ssid": str(n), "rssi": "-40", "hidden": False} for n in range(500)]
    assert len(read_networks(json.dumps(many).encode())) == MAX_NETWORKS
    with pytest.raises(NotABoard):
        read_networks(b"{}")


def test_each_error_is_told_in_words_of_its_own() -> None:
    told = [trouble(code) for code in (0, *CODES)]
    assert [each.code for each in told] == [0, *CODES]
    assert len({each.word for each in told}) == len({each.what for each in told}) == len(told)
    assert all(each.what.endswith(".") and each.remedy.endswith(".") for each in told)
    assert (trouble(722).word, trouble(701).word) == ("wifi_wrong_password", "wifi_not_connected")
    page = (Path(__file__).parents[2] / "docs" / "wifi.md").read_text()
    assert [each for each in told if str(each.code) not in page or f"`{each.word}`" not in page] == []
    unknown = trouble(799)
    assert unknown.word == "unknown"
    assert "799" in str(unknown)


def test_names_too_long_for_an_access_point_are_warned_of() -> None:
    assert template_name_limit(Generation.CLASSIC) == 20
    assert template_name_limit(Generation.EDGENT) == 18
    assert template_name_limit(Generation.CLASSIC, "Acme Home") == 16
    assert template_name_warning("x" * 18) is None
    between = template_name_warning("x" * 19)
    assert between is not None
    assert "Edgent of 2026" in between
    warning = template_name_warning("Thermostat with display")
    assert warning is not None
    assert "'Blynk Thermostat with disp-…'" in warning
    cut = template_name_warning("Thermostat für Räume")  # 20 characters, 22 bytes
    assert cut is not None
    assert "'Blynk Thermostat für Räu-…'" in cut
