import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import edgent
from provserver.core.edgent import InvalidSettings, Settings
from provserver.core.nvs import Item, Type
from tests.adapters.edgent_unit import split

AUTH = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"
PLAIN = Settings(AUTH, "iot.example.com")
WIFI = Settings(AUTH, "iot.example.com", 8443, "Line 3", "pass word")


def test_a_unit_without_wifi_gets_strings() -> None:
    assert edgent.nvs_items(PLAIN) == [
        Item("blynk", "auth", Type.STRING, AUTH),
        Item("blynk", "host", Type.STRING, "iot.example.com"),
    ]
    assert edgent.nvs_items(Settings(AUTH)) == [Item("blynk", "auth", Type.STRING, AUTH)]


def test_a_unit_with_wifi_gets_the_older_structure_too() -> None:
    *strings, config = edgent.nvs_items(WIFI)

    assert strings == edgent.nvs_items(PLAIN)
    assert (config.namespace, config.key, config.type) == ("blynk", "config", Type.BLOB)
    value = config.value
    assert isinstance(value, bytes)
    assert len(value) == 212
    assert value[:4] == bytes.fromhex("6b6e6c62")  # 0x626c6e6b, little-endian
    assert value[4:19] == bytes(15)
    assert value[19] == 1  # valid, no static address
    assert value[20:54] == b"Line 3".ljust(34, b"\0")
    assert value[54:118] == b"pass word".ljust(64, b"\0")
    assert value[118:152] == AUTH.encode() + b"\0\0"
    assert value[152:186] == b"iot.example.com".ljust(34, b"\0")
    assert struct.unpack("<H", value[186:188]) == (8443,)
    assert value[188:] == bytes(24)  # addresses, and the last error


def test_the_usual_port_is_443() -> None:
    value = edgent.nvs_items(replace(WIFI, port=None))[-1].value
    assert isinstance(value, bytes)
    assert struct.unpack("<H", value[186:188]) == (443,)


def test_a_tag_gets_what_is_given_and_keeps_the_rest() -> None:
    found = {"ssid": "Placeholder" * 20, "host": "blynk.cloud", "port": "443"}

    assert edgent.tag_values(WIFI, found) == {
        "auth": AUTH,
        "ssid": "Line 3",
        "pass": "pass word",
        "host": "iot.example.com",
        "port": "8443",
    }
    assert edgent.tag_values(Settings(AUTH, ssid="Open"), found) == {"auth": AUTH, "ssid": "Open", "pass": None}
    assert edgent.tag_values(Settings(AUTH), {"ssid": "Built in"}) == {"auth": AUTH}


@pytest.mark.parametrize("ssid", ["Placeholder" * 20, ""])
def test_a_tag_without_an_ssid_is_of_no_use(ssid: str) -> None:
    with pytest.raises(InvalidSettings, match="there is no SSID"):
        edgent.tag_values(Settings(AUTH), {"ssid": ssid})


def test_the_console_is_told_a_host_or_a_wifi() -> None:
    assert edgent.connect_line(Settings(AUTH)) == f"connect {AUTH}"
    assert edgent.connect_line(PLAIN) == f"connect {AUTH} iot.example.com"
    assert edgent.connect_line(Settings(AUTH, ssid="Line 3", password="a\\b")) == (f"connect {AUTH} Line\\x203 a\\\\b")


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=10).filter(
    lambda text: len(text.encode()) <= 32
)


@given(TEXT, TEXT)
def test_the_console_reads_what_was_meant(ssid: str, password: str) -> None:
    try:
        line = edgent.connect_line(Settings(AUTH, ssid=ssid, password=password))
    except InvalidSettings as fault:
        assert "longer than the console takes" in str(fault)  # noqa: PT017
        return

    assert line.isascii()
    assert line.isprintable()
    assert split(line.encode()) == [b"connect", AUTH.encode(), ssid.encode(), password.encode()]


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        ({"auth": "short"}, "not of the 32 characters"),
        ({"auth": AUTH[:-1] + " "}, "not of the 32 characters"),
        ({"host": "x" * 34}, "1-33 characters"),
        ({"host": "a b"}, "1-33 characters"),
        ({"host": "-a"}, "1-33 characters"),
        ({"port": 0}, "1-65535"),
        ({"port": 65536}, "1-65535"),
        ({"ssid": "x" * 33}, "SSID must be at most 32 bytes"),
        ({"ssid": "é" * 17}, "SSID must be at most 32 bytes"),
        ({"ssid": "a\nb"}, "without control characters"),
        ({"ssid": "a", "password": "pl4nted" * 10}, "password must be at most 63 bytes"),
        ({"password": "pl4nted"}, "but no SSID"),
    ],
)
def test_what_firmware_would_cut_is_refused(given_: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidSettings, match=reason) as refused:
        Settings(**({"auth": AUTH} | given_))  # type: ignore[arg-type]

    assert "pl4nted" not in str(refused.value)
    assert AUTH not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (Settings(AUTH, ssid="a"), "there must be a host"),
        (Settings(AUTH, "h", port=80), "the port goes with an SSID"),
    ],
)
def test_what_a_partition_cannot_say_is_refused(settings: Settings, reason: str) -> None:
    with pytest.raises(InvalidSettings, match=reason):
        edgent.nvs_items(settings)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (Settings(AUTH, "h", ssid="a"), "a host, or an SSID"),
        (Settings(AUTH, "h", port=80), "never a port"),
        (Settings(AUTH, ssid="é" * 16, password="é" * 31), "longer than the console takes"),
    ],
)
def test_what_the_console_cannot_be_told_is_refused(settings: Settings, reason: str) -> None:
    with pytest.raises(InvalidSettings, match=reason):
        edgent.connect_line(settings)


def test_settings_do_not_show_their_secrets() -> None:
    assert AUTH not in repr(WIFI)
    assert "pass word" not in repr(WIFI)
