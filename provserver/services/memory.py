"""Memory that is given back to the system: what one operator had done once is not to be held for ever.

glibc learns from each large block that is freed to keep the next one, and keeps what threads and documents have freed.
Where another libc is, nothing is done.
"""

import ctypes
from functools import cache

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE = 1 << 18  # bytes; such blocks are mapped alone, and gone once they are freed
_ARENAS = 2


def settle() -> None:
    """Have this process keep no large blocks, and few arenas for its threads; before it has done anything large."""
    libc = _libc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Give back what is free. It takes milliseconds: call it in a thread, after what was large."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _libc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
