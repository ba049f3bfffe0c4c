"""Hashing people's passwords in threads of its own, few and with few waiting: it is meant to be slow."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from provserver.core import ids, passwords
from provserver.errors import TooManyRequests

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 2
WAITING = 16
"""Hashes that may wait for a thread: less than a second for the last of them."""

RETRY_AFTER = 1.0


class Passwords:
    """Hashes and verifies passwords. threads: at once; waiting: how many more may wait, before others are sent away."""

    def __init__(self, *, threads: int = THREADS, waiting: int = WAITING, random: ids.Randomness = os.urandom) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="password")
        self._places = threading.BoundedSemaphore(threads + waiting)
        self._random = random

    async def hash(self, password: str) -> str:
        """The hash to keep of a password that was checked (`core/passwords.py`). Raises TooManyRequests."""
        return await self._run(passwords.hashed, password, self._random(passwords.SALT_LENGTH))

    async def verify(self, hash_: str | None, password: str) -> bool:
        """Whether it is the password of this hash, None being nobody's. Raises TooManyRequests."""
        return await self._run(passwords.verify, hash_, password)

    def close(self) -> None:
        """Wait for what is under way, and begin nothing more."""
        self._executor.shutdown(cancel_futures=True)

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if not self._places.acquire(blocking=False):
            raise TooManyRequests("Too many sign in just now. Try again in a moment.", RETRY_AFTER)
        try:
            future = self._executor.submit(function, *args, **kwargs)
        except BaseException:
            self._places.release()
            raise
        # Not when the waiting ends: a requester who leaves does not make the thread any freer.
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)
