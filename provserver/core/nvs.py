"""A partition of ESP-IDF's non-volatile storage: keys and values by namespace, as firmware finds them in flash.

The layout is the library's version 2, in which a blob may go over several pages; version 1 is read as well.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

SIZE = 0x6000
"""Bytes of the partition `nvs` in the usual partition tables."""

PAGE = 4096
ENTRY = 32
ENTRIES = 126
"""Entries of a page, after a header and the bits that tell which are in use, an entry's length each."""

MAX_KEY = 15
MAX_STRING = 4000
"""Bytes of a string, with the NUL at its end."""

MAX_NAMESPACES = 254

_ACTIVE = 0xFFFFFFFE
_FULL = 0xFFFFFFFC
_FREEING = 0xFFFFFFF8
_UNUSED = 0xFFFFFFFF
_VERSION_1 = 0xFF
_VERSION_2 = 0xFE

_ANY_CHUNK = 0xFF
_CHUNK = 0x42
_INDEX = 0x48
_WRITTEN = 0b10
_EMPTY = 0b11
_ERASED = 0b00


class InvalidPartition(ValueError):  # noqa: N818
    """What is to be written does not fit, or what was read is no such partition. Holds no value."""


class Type(IntEnum):
    """Types of values, with the library's numbers."""

    U8 = 0x01
    U16 = 0x02
    U32 = 0x04
    U64 = 0x08
    I8 = 0x11
    I16 = 0x12
    I32 = 0x14
    I64 = 0x18
    STRING = 0x21
    BLOB = 0x41


_INTEGERS = {
    Type.U8: "<B",
    Type.U16: "<H",
    Type.U32: "<I",
    Type.U64: "<Q",
    Type.I8: "<b",
    Type.I16: "<h",
    Type.I32: "<i",
    Type.I64: "<q",
}


@dataclass(frozen=True, slots=True)
class Item:
    """A value under its key: an int, a str for STRING, bytes for BLOB."""

    namespace: str
    key: str
    type: Type
    value: int | str | bytes = field(repr=False)


def build(items: Iterable[Item], size: int = SIZE) -> bytes:
    """The image of a partition that holds the items, in their order. size: in bytes. Raises InvalidPartition."""
    if size % PAGE or size < 3 * PAGE:
        raise InvalidPartition(f"the size of a partition is a multiple of {PAGE} bytes, at least {3 * PAGE}")
    writer = _Writer(size // PAGE - 1)  # the library needs a free page to move entries to
    namespaces: dict[str, int] = {}
    keys: set[tuple[str, str]] = set()
    for item in items:
        if (item.namespace, item.key) in keys:
            raise InvalidPartition(f"the key {item.key!r} is there twice")
        keys.add((item.namespace, item.key))
        index = namespaces.get(item.namespace)
        if index is None:
            index = namespaces[item.namespace] = len(namespaces) + 1
            if index > MAX_NAMESPACES:
                raise InvalidPartition(f"there are more than {MAX_NAMESPACES} namespaces")
            writer.add_integer(0, item.namespace, Type.U8, index)
        writer.add(index, item)
    return writer.image().ljust(size, b"\xff")


def read(image: bytes) -> list[Item]:
    """What a partition holds, by its newest entries, in their order. Raises InvalidPartition."""
    if not image or len(image) % PAGE:
        raise InvalidPartition(f"a partition is a multiple of {PAGE} bytes")
    pages = sorted(filter(None, map(_page, (image[at : at + PAGE] for at in range(0, len(image), PAGE)))))
    entries = [entry for _, page in pages for entry in _entries(page)]
    namespaces = {entry.data[0]: entry.key for entry in entries if entry.namespace == 0 and entry.type == Type.U8}
    chunks = {(e.namespace, e.key, e.chunk): e for e in entries if e.type == _CHUNK}
    found: dict[tuple[str, str], Item] = {}
    for entry in entries:
        if entry.namespace == 0 or entry.type == _CHUNK:
            continue
        namespace = namespaces.get(entry.namespace)
        if namespace is None:
            raise InvalidPartition(f"an entry is of namespace {entry.namespace}, which has no name")
        if entry.type == _INDEX:
            item = Item(namespace, entry.key, Type.BLOB, _joined(entry, chunks))
        else:
            item = Item(namespace, entry.key, *_value(entry))
        found.pop((namespace, entry.key), None)
        found[namespace, entry.key] = item
    return list(found.values())


class _Writer:
    def __init__(self, pages: int) -> None:
        """pages: how many may be used."""
        self._limit = pages
        self._pages = [bytearray()]

    def add(self, namespace: int, item: Item) -> None:
        if item.type is Type.STRING and isinstance(item.value, str):
            self._add_string(namespace, item.key, item.value)
        elif item.type is Type.BLOB and isinstance(item.value, bytes):
            self._add_blob(namespace, item.key, item.value)
        elif item.type in _INTEGERS and isinstance(item.value, int):
            self.add_integer(namespace, item.key, item.type, item.value)
        else:
            raise InvalidPartition(f"the value of {item.key!r} is not of the type {item.type.name}")

    def add_integer(self, namespace: int, key: str, type_: Type, value: int) -> None:
        try:
            data = struct.pack(_INTEGERS[type_], value)
        except struct.error:
            raise InvalidPartition(f"the value of {key!r} does not fit into {type_.name}") from None
        if self._left < 1:
            self._turn()
        self._put(_entry(namespace, type_, 1, _ANY_CHUNK, key, data))

    def image(self) -> bytes:
        last = len(self._pages) - 1
        return b"".join(_page_image(n, bytes(page), full=n < last) for n, page in enumerate(self._pages))

    def _add_string(self, namespace: int, key: str, value: str) -> None:
        data = value.encode() + b"\0"
        if len(data) > MAX_STRING or "\0" in value:
            raise InvalidPartition(f"the string {key!r} is longer than {MAX_STRING - 1} bytes, or has a NUL in it")
        span = 1 + _rows(data)
        if self._left <= span:
            self._turn()
        self._put(_entry(namespace, Type.STRING, span, _ANY_CHUNK, key, _measures(data)) + _padded(data))

    def _add_blob(self, namespace: int, key: str, value: bytes) -> None:
        if not value:
            raise InvalidPartition(f"the blob {key!r} is empty")
        rest, count = value, 0
        while rest:
            if self._left < 2:
                self._turn()
            room = (self._left - 1) * ENTRY
            chunk, rest = rest[:room], rest[room:]
            self._put(_entry(namespace, _CHUNK, 1 + _rows(chunk), count, key, _measures(chunk)) + _padded(chunk))
            count += 1
            if count >= _ANY_CHUNK // 2:
                raise InvalidPartition(f"the blob {key!r} is too long")
        if self._left < 1:
            self._turn()
        self._put(_entry(namespace, _INDEX, 1, _ANY_CHUNK, key, struct.pack("<IBB", len(value), count, 0)))

    @property
    def _left(self) -> int:
        return ENTRIES - len(self._pages[-1]) // ENTRY

    def _put(self, entries: bytes) -> None:
        self._pages[-1] += entries

    def _turn(self) -> None:
        if len(self._pages) == self._limit:
            raise InvalidPartition("the items do not fit into the partition: it must be larger")
        self._pages.append(bytearray())


@dataclass(frozen=True, slots=True)
class _Entry:
    namespace: int
    type: int
    chunk: int
    key: str
    data: bytes  # the 8 bytes of its header
    payload: bytes = field(repr=False)  # the entries that follow the header


def _entry(namespace: int, type_: int, span: int, chunk: int, key: str, data: bytes) -> bytes:
    if not key or len(key) > MAX_KEY or not key.isascii() or not key.isprintable():
        raise InvalidPartition(f"keys and namespaces are 1-{MAX_KEY} printable ASCII characters, not {key!r}")
    head = bytes((namespace, type_, span, chunk))
    rest = key.encode().ljust(16, b"\0") + data.ljust(8, b"\xff")
    return head + _crc(head + rest) + rest


def _measures(data: bytes) -> bytes:
    return struct.pack("<HH", len(data), 0xFFFF) + _crc(data)


def _rows(data: bytes) -> int:
    return -(-len(data) // ENTRY)


def _padded(data: bytes) -> bytes:
    return data.ljust(_rows(data) * ENTRY, b"\xff")


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data, 0xFFFFFFFF).to_bytes(4, "little")


def _page_image(number: int, entries: bytes, *, full: bool) -> bytes:
    numbered = struct.pack("<IB19s", number, _VERSION_2, b"\xff" * 19)
    header = struct.pack("<I", _FULL if full else _ACTIVE) + numbered + _crc(numbered)
    used = len(entries) // ENTRY
    states = (
        (1 << 256) - 1 - ((1 << 2 * used) - 1) // 3
    )  # two bits an entry: 10 where it is written, 11 where nothing is
    return (header + states.to_bytes(ENTRY, "little") + entries).ljust(PAGE, b"\xff")


def _page(page: bytes) -> tuple[int, bytes] | None:
    """The number of a page that is in use, and the page."""
    state, number, version = struct.unpack_from("<IIB", page)
    if state == _UNUSED:
        return None
    if state not in (_ACTIVE, _FULL, _FREEING):
        raise InvalidPartition("a page is in no state that it can be in")
    if page[28:32] != _crc(page[4:28]):
        raise InvalidPartition("the header of a page does not match its checksum")
    if version not in (_VERSION_1, _VERSION_2):
        raise InvalidPartition("a page is of another version than 1 and 2")
    return number, page


def _entries(page: bytes) -> Iterator[_Entry]:
    states = int.from_bytes(page[ENTRY : 2 * ENTRY], "little")
    number = 0
    while number < ENTRIES:
        state = states >> 2 * number & 0b11
        if state in (_EMPTY, _ERASED):
            number += 1
            continue
        at = (2 + number) * ENTRY
        header = page[at : at + ENTRY]
        namespace, type_, span, chunk = header[:4]
        if state != _WRITTEN or header[4:8] != _crc(header[:4] + header[8:]):
            raise InvalidPartition("an entry does not match its checksum")
        if not 1 <= span <= ENTRIES - number or any(
            states >> 2 * each & 0b11 != _WRITTEN for each in range(number, number + span)
        ):
            raise InvalidPartition("an entry goes over others")
        key = header[8:24].partition(b"\0")[0]
        if not key or len(key) > MAX_KEY or not key.isascii():
            raise InvalidPartition("an entry has no proper key")
        yield _Entry(namespace, type_, chunk, key.decode(), header[24:], page[at + ENTRY : at + span * ENTRY])
        number += span


def _value(entry: _Entry) -> tuple[Type, int | str | bytes]:
    try:
        type_ = Type(entry.type)
    except ValueError:
        raise InvalidPartition(f"the key {entry.key!r} is of an unknown type") from None
    if layout := _INTEGERS.get(type_):
        (number,) = struct.unpack_from(layout, entry.data)
        return type_, int(number)
    data = _measured(entry)
    if type_ is Type.BLOB:
        return type_, data
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InvalidPartition(f"the string {entry.key!r} is not UTF-8") from None
    if text.find("\0") != len(text) - 1:
        raise InvalidPartition(f"the string {entry.key!r} does not end where it should")
    return type_, text[:-1]


def _measured(entry: _Entry) -> bytes:
    size = int.from_bytes(entry.data[:2], "little")
    data = entry.payload[:size]
    if len(data) != size or entry.data[4:] != _crc(data):
        raise InvalidPartition(f"the value of {entry.key!r} does not match its checksum")
    return data


def _joined(index: _Entry, chunks: dict[tuple[int, str, int], _Entry]) -> bytes:
    size, count, start = struct.unpack_from("<IBB", index.data)
    data = b""
    for number in range(start, start + count):
        chunk = chunks.get((index.namespace, index.key, number))
        if chunk is None:
            raise InvalidPartition(f"a part of the blob {index.key!r} is missing")
        data += _measured(chunk)
    if len(data) != size:
        raise InvalidPartition(f"the blob {index.key!r} is not as long as it should be")
    return data
