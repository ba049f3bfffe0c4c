"""Requests for attributes, and waiting for their changes: what HTTP and CoAP have in common."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from provserver.services.sessions import Sessions

LINGER = 60.0
MAX_LINGERING = 10_000


class Changes:
    """Keys of a device's shared attributes that have changed and were not told yet."""

    def __init__(self) -> None:
        self._keys: dict[str, None] = {}
        self._any = self.closed = False
        self._news = asyncio.Event()

    def add(self, keys: tuple[str, ...] | None) -> None:
        """Note changes; no keys: any may have changed. None: nothing has, but who waits is to authenticate again."""
        if keys is not None:
            self._keys.update(dict.fromkeys(keys))
            self._any |= not keys
        self._news.set()

    def close(self) -> None:
        """Have who takes them go away."""
        self.closed = True
        self._news.set()

    async def take(self) -> tuple[str, ...] | None:
        """Wait for news, and have the changes; () when any may have changed, None when nothing has or it is closed."""
        await self._news.wait()
        if self.closed:
            return None
        self._news.clear()
        return self.give_up()

    def give_up(self) -> tuple[str, ...] | None:
        """The changes, without waiting."""
        keys = () if self._any else tuple(self._keys) or None
        self._keys, self._any = {}, False
        return keys


@contextmanager
def watching(sessions: Sessions, device_id: UUID) -> Iterator[Changes]:
    """What changes from now on."""
    changes = Changes()
    unwatch = sessions.watch(device_id, changes.add)
    try:
        yield changes
    finally:
        unwatch()


class Polls:
    """Devices that ask for changes again and again, and miss none that come between two polls, of any two processes.

    linger: seconds for which a device that does not poll is remembered.
    """

    def __init__(self, sessions: Sessions, linger: float = LINGER) -> None:
        self._sessions = sessions
        self._linger = linger
        self._closed = False
        self._away: OrderedDict[UUID, tuple[Changes, Callable[[], None], asyncio.TimerHandle]] = OrderedDict()
        self._keep_no_more = sessions.keep(self._hand_over)

    @contextmanager
    def poll(self, device_id: UUID) -> Iterator[Changes]:
        """What has changed since the device's last poll, and changes from now on."""
        if device_id in self._away:
            changes, unwatch, timer = self._away.pop(device_id)
            timer.cancel()
        else:
            changes = Changes()
            unwatch = self._sessions.watch(device_id, changes.add)
            self._sessions.take_over(device_id)
        try:
            yield changes
        finally:
            self._forget(device_id)  # of two at once, the last to end is remembered
            if self._closed:
                unwatch()
            else:
                timer = asyncio.get_running_loop().call_later(self._linger, self._forget, device_id)
                self._away[device_id] = changes, unwatch, timer
                if len(self._away) > MAX_LINGERING:
                    self._forget(next(iter(self._away)))

    def close(self) -> None:
        """Remember none."""
        if not self._closed:
            self._keep_no_more()
        self._closed = True
        for device_id in tuple(self._away):
            self._forget(device_id)

    def _hand_over(self, device_id: UUID) -> tuple[str, ...] | None:
        """The device polls another process now."""
        if device_id not in self._away:
            return None
        changes, _, _ = self._away[device_id]
        self._forget(device_id)
        return changes.give_up()

    def _forget(self, device_id: UUID) -> None:
        if device_id in self._away:
            _, unwatch, timer = self._away.pop(device_id)
            timer.cancel()
            unwatch()
