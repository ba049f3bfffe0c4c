import hashlib
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import edgent, nvs
from provserver.core.edgent import Settings
from provserver.core.nvs import InvalidPartition, Item, Type

AUTH = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"
STRINGS = [Item("blynk", "auth", Type.STRING, AUTH), Item("blynk", "host", Type.STRING, "iot.example.com")]
ALL_TYPES = [
    Item("a", "u8", Type.U8, 255),
    Item("a", "i8", Type.I8, -128),
    Item("a", "u16", Type.U16, 65535),
    Item("a", "i16", Type.I16, -2),
    Item("a", "u32", Type.U32, 2**32 - 1),
    Item("a", "i32", Type.I32, -3),
    Item("b", "u64", Type.U64, 2**64 - 1),
    Item("b", "i64", Type.I64, -(2**63)),
    Item("b", "empty", Type.STRING, ""),
    Item("b", "long", Type.STRING, "é" * 1000),
    Item("c" * 15, "k" * 15, Type.BLOB, bytes(range(256)) * 40),
    Item("c" * 15, "after", Type.STRING, "x" * 31),
]


@pytest.mark.parametrize(
    ("items", "digest"),
    [
        (STRINGS, "9c80f48d59e0741121b7b25fae545c523443921231ee18f0465404f393052bc1"),
        (
            edgent.nvs_items(Settings(AUTH, "iot.example.com", 8443, "Line 3", "pass word")),
            "230c53314f10d0a538cce2e14f09b7e6ab0e099d0684a9a388524c45f0dc7b02",
        ),
        (ALL_TYPES, "8c438c83f0743db23b88e368c8c7ea201f71facc395dd0629a91c1cdbf7c67f3"),
    ],
    ids=["strings", "edgent", "all types"],
)
def test_a_partition_is_the_one_that_the_vendor_s_generator_makes(items: list[Item], digest: str) -> None:
    image = nvs.build(items)

    assert len(image) == 0x6000
    assert hashlib.sha256(image).hexdigest() == digest  # of esp-idf-nvs-partition-gen 0.3.0 with the same items
    assert nvs.read(image) == items


KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=15)
VALUES = st.one_of(
    st.tuples(st.just(Type.STRING), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)),
    st.tuples(st.just(Type.BLOB), st.binary(min_size=1, max_size=200) | st.just(bytes(range(256)) * 20)),
    st.tuples(st.just(Type.U8), st.integers(0, 255)),
    st.tuples(st.just(Type.I32), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.just(Type.U64), st.integers(0, 2**64 - 1)),
)
ITEMS = st.dictionaries(st.tuples(KEYS, KEYS), VALUES, max_size=8).map(
    lambda found: [Item(namespace, key, *value) for (namespace, key), value in found.items()]
)


@given(ITEMS)
def test_what_is_written_is_read(items: list[Item]) -> None:
    assert nvs.read(nvs.build(items, 0x10000)) == items


@given(ITEMS.filter(bool), st.data())
def test_a_flipped_bit_is_found_or_changes_nothing(items: list[Item], data: st.DataObject) -> None:
    image = bytearray(nvs.build(items, 0x10000))
    used = len(bytes(image).rstrip(b"\xff"))
    image[data.draw(st.integers(0, used - 1))] ^= 1 << data.draw(st.integers(0, 7))

    try:
        found = nvs.read(bytes(image))
    except InvalidPartition:
        return
    assert all(item in items for item in found)


@given(st.binary(max_size=200), st.integers(0, 2))
def test_whatever_is_read_is_a_partition_or_is_none(start: bytes, pages: int) -> None:
    image = start.ljust(pages * nvs.PAGE, b"\xff")
    try:
        nvs.read(image)
    except InvalidPartition:
        return
    assert len(image) in (nvs.PAGE, 2 * nvs.PAGE)


def test_an_empty_partition_has_nothing() -> None:
    assert nvs.read(b"\xff" * 0x6000) == nvs.read(nvs.build([])) == []


@pytest.mark.parametrize(
    ("items", "size", "reason"),
    [
        ([], 0x6001, "multiple of 4096"),
        ([], 0x2000, "at least 12288"),
        ([Item("a", "k", Type.U8, 1), Item("a", "k", Type.U8, 2)], 0x6000, "there twice"),
        ([Item("a", "k" * 16, Type.U8, 1)], 0x6000, "1-15 printable"),
        ([Item("", "k", Type.U8, 1)], 0x6000, "1-15 printable"),
        ([Item("a", "ä", Type.U8, 1)], 0x6000, "1-15 printable"),
        ([Item("a", "k", Type.U8, 256)], 0x6000, "does not fit into U8"),
        ([Item("a", "k", Type.STRING, b"bytes")], 0x6000, "not of the type STRING"),
        ([Item("a", "k", Type.U8, "text")], 0x6000, "not of the type U8"),
        ([Item("a", "k", Type.STRING, "x" * 4000)], 0x6000, "longer than 3999"),
        ([Item("a", "k", Type.STRING, "x\0y")], 0x6000, "a NUL"),
        ([Item("a", "k", Type.BLOB, b"")], 0x6000, "is empty"),
        ([Item("a", "k", Type.BLOB, bytes(10_000))], 0x3000, "it must be larger"),
        ([Item("a", "k", Type.BLOB, bytes(600_000))], 0x100000, "too long"),
        ([Item(f"n{n}", "k", Type.U8, 1) for n in range(255)], 0x40000, "more than 254"),
    ],
)
def test_what_firmware_could_not_read_is_refused(items: list[Item], size: int, reason: str) -> None:
    with pytest.raises(InvalidPartition, match=reason):
        nvs.build(items, size)


def test_an_item_does_not_show_its_value() -> None:
    assert AUTH not in repr(STRINGS)


class Page:
    """A page by hand, as firmware leaves it after some life."""

    def __init__(self, number: int, state: int = 0xFFFFFFFE, version: int = 0xFE) -> None:
        numbered = struct.pack("<IB19s", number, version, b"\xff" * 19)
        self.header = struct.pack("<I", state) + numbered + self.crc(numbered)
        self.states = ""
        self.entries = b""

    @staticmethod
    def crc(data: bytes) -> bytes:
        return zlib.crc32(data, 0xFFFFFFFF).to_bytes(4, "little")

    def add(self, head: bytes, key: bytes, data: bytes, payload: bytes = b"", states: str = "10") -> "Page":
        rest = key.ljust(16, b"\0") + data.ljust(8, b"\xff")
        self.entries += head + self.crc(head + rest) + rest + payload.ljust((len(payload) + 31) // 32 * 32, b"\xff")
        self.states = states * (len(self.entries) // 32 - len(self.states) // 2) + self.states
        return self

    def bytes_(self) -> bytes:
        bits = int(self.states.rjust(256, "1"), 2).to_bytes(32, "little")
        return (self.header + bits + self.entries).ljust(4096, b"\xff")


NAMESPACE = (b"\0\1\1\xff", b"blynk", b"\1")


def test_the_newest_value_is_read_and_erased_ones_are_not() -> None:
    old = Page(0, 0xFFFFFFFC).add(*NAMESPACE).add(b"\1\1\1\xff", b"n", b"\1").add(b"\1\1\1\xff", b"m", b"\7")
    new = Page(1).add(b"\1\1\1\xff", b"gone", b"\1", states="00").add(b"\1\2\1\xff", b"n", b"\2\0")

    found = nvs.read(new.bytes_() + b"\xff" * 4096 + old.bytes_())

    assert found == [Item("blynk", "m", Type.U8, 7), Item("blynk", "n", Type.U16, 2)]


def test_a_blob_of_version_1_is_read() -> None:
    blob = b"\x05\0\xff\xff" + Page.crc(b"12345")
    page = Page(0, version=0xFF).add(*NAMESPACE).add(b"\1\x41\2\xff", b"b", blob, b"12345")

    assert nvs.read(page.bytes_()) == [Item("blynk", "b", Type.BLOB, b"12345")]


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (Page(0, 0), "in no state"),
        (Page(0, version=0x7F), "another version"),
        (Page(0).add(b"\1\1\1\xff", b"n", b"\1"), "has no name"),
        (Page(0).add(*NAMESPACE).add(b"\1\x33\1\xff", b"n", b"\1"), "unknown type"),
        (Page(0).add(*NAMESPACE).add(b"\1\1\3\xff", b"n", b"\1"), "goes over others"),
        (Page(0).add(*NAMESPACE).add(b"\1\1\1\xff", b"n", b"\1", states="01"), "does not match its checksum"),
        (Page(0).add(*NAMESPACE).add(b"\1\1\1\xff", b"", b"\1"), "no proper key"),
        (Page(0).add(*NAMESPACE).add(b"\1\x48\1\xff", b"b", b"\5\0\0\0\1\0"), "part of the blob 'b' is missing"),
        (
            Page(0)
            .add(*NAMESPACE)
            .add(b"\1\x42\2\0", b"b", b"\x05\0\xff\xff" + Page.crc(b"12345"), b"12345")
            .add(b"\1\x48\1\xff", b"b", b"\6\0\0\0\1\0"),
            "not as long",
        ),
        (
            Page(0).add(*NAMESPACE).add(b"\1\x21\2\xff", b"s", b"\x02\0\xff\xff" + Page.crc(b"ab"), b"ab"),
            "does not end",
        ),
        (
            Page(0).add(*NAMESPACE).add(b"\1\x21\2\xff", b"s", b"\x02\0\xff\xff" + Page.crc(b"\xff\0"), b"\xff\0"),
            "not UTF-8",
        ),
        (
            Page(0).add(*NAMESPACE).add(b"\1\x21\2\xff", b"s", b"\xff\0\xff\xff" + Page.crc(b"ab\0"), b"ab\0"),
            "'s' does not match its checksum",
        ),
    ],
)
def test_what_is_damaged_is_told(page: Page, reason: str) -> None:
    with pytest.raises(InvalidPartition, match=reason):
        nvs.read(page.bytes_())
