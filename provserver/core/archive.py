"""Zip archives as a stream, of any number of entries.

Why not the standard library's: into what cannot seek it writes even stored entries with their size behind them, which
readers that stream cannot take; and it keeps some 500 bytes for each entry.
"""

import struct
import zlib
from datetime import UTC, datetime

_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTOR = struct.Struct("<4s3L")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")

_STORED, _DEFLATED = 0, 8
_UTF8 = 0x800  # the name is UTF-8
_SIZES_FOLLOW = 0x8
_VERSION, _VERSION64 = 20, 45
_UNIX = 3 << 8
_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF
_REGULAR_FILE = 0o100000


class Archive:
    """A zip archive: each method returns the bytes that come next. at: the time of all entries.

    What is kept for each entry is its record in the directory: 46 bytes and its name.
    """

    def __init__(self, at: datetime) -> None:
        at = at.astimezone(UTC)
        self._time = at.hour << 11 | at.minute << 5 | at.second // 2
        self._date = max(at.year - 1980, 0) << 9 | at.month << 5 | at.day
        self._offset = 0
        self._count = 0
        self._directory = bytearray()
        self._open: _Open | None = None

    def add(self, name: str, data: bytes, *, deflate: bool = False, mode: int = 0o644) -> bytes:
        """A whole entry. name: with `/` between folders, safe to unpack. mode: its permissions."""
        stored, method = data, _STORED
        if deflate:
            stored, method = _deflated(data), _DEFLATED
        entry = _Entry(name.encode(), method, _UTF8, mode, self._offset)
        entry.count(zlib.crc32(data), len(stored), len(data))
        return self._written(self._local(entry) + stored, entry)

    def begin(self, name: str, *, mode: int = 0o644) -> bytes:
        """Begin an entry that is written piece by piece, deflated; its size comes behind it. It ends below 4 GiB."""
        entry = _Entry(name.encode(), _DEFLATED, _UTF8 | _SIZES_FOLLOW, mode, self._offset)
        self._open = _Open(entry, zlib.compressobj(1, wbits=-zlib.MAX_WBITS))
        return self._written(self._local(entry))

    def write(self, data: bytes) -> bytes:
        """A piece of the entry that was begun; there may be nothing to send of it yet."""
        return self._written(self._begun().piece(data))

    def end(self) -> bytes:
        """The end of the entry that was begun. Raises ValueError when it has grown too large."""
        begun = self._begun()
        self._open = None
        rest = begun.compressor.flush()
        entry = begun.entry
        entry.count(begun.crc, begun.stored + len(rest), begun.size)
        sizes = _DESCRIPTOR.pack(b"PK\7\x08", entry.crc, entry.stored, entry.size)
        return self._written(rest + sizes, entry)

    def close(self) -> bytes:
        """The directory: nothing comes after it."""
        start, size, count = self._offset, len(self._directory), self._count
        end = b""
        if count >= _MAX16 or start >= _MAX32 or size >= _MAX32:
            end += _END64.pack(
                b"PK\6\6", _END64.size - 12, _UNIX | _VERSION64, _VERSION64, 0, 0, count, count, size, start
            )
            end += _LOCATOR64.pack(b"PK\6\7", 0, start + size, 1)
        count, size, start = min(count, _MAX16), min(size, _MAX32), min(start, _MAX32)
        end += _END.pack(b"PK\5\6", 0, 0, count, count, size, start, 0)
        self._directory += end
        return bytes(self._directory)

    def _begun(self) -> "_Open":
        if self._open is None:
            raise ValueError("no entry was begun")
        return self._open

    def _written(self, data: bytes, entry: "_Entry | None" = None) -> bytes:
        self._offset += len(data)
        if entry is not None:
            self._count += 1
            self._directory += self._central(entry)
        return data

    def _local(self, entry: "_Entry") -> bytes:
        return (
            _LOCAL.pack(
                b"PK\3\4",
                _VERSION,
                entry.flags,
                entry.method,
                self._time,
                self._date,
                entry.crc,
                entry.stored,
                entry.size,
                len(entry.name),
                0,
            )
            + entry.name
        )

    def _central(self, entry: "_Entry") -> bytes:
        far = struct.pack("<2HQ", 1, 8, entry.offset) if entry.offset >= _MAX32 else b""
        version = _VERSION64 if far else _VERSION
        return (
            _CENTRAL.pack(
                b"PK\1\2",
                _UNIX | version,
                version,
                entry.flags,
                entry.method,
                self._time,
                self._date,
                entry.crc,
                entry.stored,
                entry.size,
                len(entry.name),
                len(far),
                0,
                0,
                0,
                (_REGULAR_FILE | entry.mode) << 16,
                min(entry.offset, _MAX32),
            )
            + entry.name
            + far
        )


class _Entry:
    """What headers say of an entry. stored, size: bytes as they are in the archive, and before."""

    __slots__ = ("crc", "flags", "method", "mode", "name", "offset", "size", "stored")

    def __init__(self, name: bytes, method: int, flags: int, mode: int, offset: int) -> None:
        self.name = name
        self.method = method
        self.flags = flags
        self.mode = mode
        self.offset = offset
        self.crc = self.stored = self.size = 0

    def count(self, crc: int, stored: int, size: int) -> None:
        if max(stored, size) >= _MAX32:
            raise ValueError("an entry ends below 4 GiB")
        self.crc, self.stored, self.size = crc, stored, size


class _Open:
    """An entry that is being written."""

    def __init__(self, entry: _Entry, compressor: "zlib._Compress") -> None:
        self.entry = entry
        self.compressor = compressor
        self.crc = self.stored = self.size = 0

    def piece(self, data: bytes) -> bytes:
        self.crc = zlib.crc32(data, self.crc)
        self.size += len(data)
        stored = self.compressor.compress(data)
        self.stored += len(stored)
        return stored


def _deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(6, wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()
