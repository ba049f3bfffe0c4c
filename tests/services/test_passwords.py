import asyncio
import threading
from collections.abc import Iterator

import pytest

from provserver.core import passwords as core
from provserver.errors import TooManyRequests
from provserver.services.passwords import Passwords


async def test_a_password_is_its_own() -> None:
    passwords = Passwords()

    hash_ = await passwords.hash("plum pudding 7")

    assert hash_ != await passwords.hash("plum pudding 7")
    assert await passwords.verify(hash_, "plum pudding 7")
    assert not await passwords.verify(hash_, "plum pudding 8")
    assert not await passwords.verify(None, "plum pudding 7")
    passwords.close()


class Gate:
    """Takes the place of a hash: it lasts until the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.threads: set[str] = set()
        monkeypatch.setattr(core, "hashed", self.hashed)

    def hashed(self, password: str, _salt: bytes) -> str:
        self.threads.add(threading.current_thread().name)
        self.entered.release()
        self.open.wait()
        return password


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.open.set()  # whatever has failed: the interpreter waits for its threads


async def test_two_are_hashed_at_once_some_wait_and_the_others_are_sent_away(gate: Gate) -> None:
    passwords = Passwords(threads=2, waiting=3)

    tasks = [asyncio.create_task(passwords.hash(str(n))) for n in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests) as refused:
        await passwords.hash("6")
    assert refused.value.retry_after > 0
    gate.open.set()
    assert await asyncio.gather(*tasks) == ["0", "1", "2", "3", "4"]
    assert len(gate.threads) <= 2
    assert await passwords.hash("again") == "again"
    passwords.close()


async def test_who_leaves_while_waiting_makes_room_and_who_is_hashed_does_not(gate: Gate) -> None:
    passwords = Passwords(threads=1, waiting=1)

    first = asyncio.create_task(passwords.hash("first"))
    await asyncio.to_thread(gate.entered.acquire)
    second = asyncio.create_task(passwords.hash("second"))
    await asyncio.sleep(0)
    for task in (first, second):
        task.cancel()
    await asyncio.gather(first, second, return_exceptions=True)

    third = asyncio.create_task(passwords.hash("third"))
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests):
        await passwords.hash("fourth")
    gate.open.set()
    assert await third == "third"
    passwords.close()
