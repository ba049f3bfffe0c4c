import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.config_store import (
    Config,
    FileStore,
    Static,
    VolatileStore,
    WifiLogin,
    cut,
    from_values,
    pack,
    to_values,
    unpack,
)
from firmware_sim.errors import FlashError

TOKEN = "abcdefghijklmnopqrstuvwxyz012345"
FULL = Config(
    (WifiLogin("Home", "correct horse"),),
    TOKEN,
    "iot.example.com",
    8443,
    valid=True,
    uses_static=True,
    static=Static("192.168.1.5", "255.255.255.0", "192.168.1.1", "9.9.9.9", "1.1.1.1"),
    last_error=701,
    version="1.2.3",
)


def test_the_structure_is_the_firmwares() -> None:
    packed = pack(FULL)
    assert len(packed) == 212
    assert packed[:4] == bytes.fromhex("6b6e6c62")
    assert packed[4:19] == b"1.2.3".ljust(15, b"\0")
    assert packed[19] == 3
    assert packed[20:54] == b"Home".ljust(34, b"\0")
    assert packed[54:118] == b"correct horse".ljust(64, b"\0")
    assert packed[118:152] == TOKEN.encode().ljust(34, b"\0")
    assert packed[152:186] == b"iot.example.com".ljust(34, b"\0")
    assert packed[186:188] == (8443).to_bytes(2, "little")
    assert packed[188:192] == bytes([192, 168, 1, 5])
    assert struct.unpack("<i", packed[208:]) == (701,)
    assert unpack(packed) == FULL


def test_a_new_device_has_the_defaults() -> None:
    assert unpack(b"") == Config()
    assert unpack(pack(Config()), "9") == Config()
    assert b"invalid token\0" in pack(Config())
    assert b"blynk.cloud\0" in pack(Config())


def test_what_is_too_long_loses_its_end() -> None:
    left = cut(Config((WifiLogin("s" * 40, "p" * 70),), "t" * 40, "h" * 40))
    assert left.networks == (WifiLogin("s" * 33, "p" * 63),)
    assert (left.token, left.host) == ("t" * 33, "h" * 33)


def test_new_firmware_keeps_named_values() -> None:
    config = Config((WifiLogin("A", "a"), WifiLogin("B", "b")), TOKEN, "h", valid=True, skipped=3, uid="u")
    assert from_values(to_values(config)) == config
    assert from_values(b"") == Config()


@given(st.binary(max_size=300))
def test_whatever_is_in_flash_is_a_configuration(content: bytes) -> None:
    assert isinstance(unpack(content), Config)
    assert isinstance(from_values(content), Config)


@given(st.binary(min_size=208, max_size=208))
def test_even_with_the_right_beginning(rest: bytes) -> None:
    config = cut(unpack(bytes.fromhex("6b6e6c62") + rest))  # which ends texts that had no end
    assert cut(config) == config


@pytest.mark.parametrize("size", range(0, 212, 7))
def test_half_a_write_reads_as_nothing_written(size: int) -> None:
    assert unpack(pack(FULL)[:size]) == Config()


async def test_a_file_keeps_it_for_its_owner_alone(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "flash.bin")
    assert await store.read() == b""
    await store.write(pack(FULL))
    assert unpack(await FileStore(store.path).read()) == FULL
    assert store.path.stat().st_mode & 0o777 == 0o600
    store.erase()
    assert await store.read() == b""


async def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(FlashError, match="cannot read"):
        await FileStore(tmp_path).read()


async def test_memory_counts_its_writes() -> None:
    store = VolatileStore()
    await store.write(b"x")
    assert (await store.read(), store.writes) == (b"x", 1)


def test_no_password_is_printed() -> None:
    assert "correct horse" not in repr(FULL)
    assert TOKEN not in repr(FULL)
