"""Sign-ins that failed, for the audit: one entry a minute for each user, and one for all whom nobody knows.

Nobody waits for it, lest the time of an answer tell whether there is such a user.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from asyncpg import PostgresError

from provserver.core import ids
from provserver.core.accounts import User
from provserver.errors import Unavailable
from provserver.services.grouping import Grouper
from provserver.store import audit, organizations
from provserver.store.database import Database

log = logging.getLogger("provserver.sign_in")

PERIOD = 60.0
"""Seconds for which the failures after one are only counted."""

MAX_USERS = 10_000
"""Users whose failures are counted at once; of the longest forgotten, a count begins anew."""

NOBODY = "nobody"
"""Who tries to sign in, as the audit names the actor."""

UNKNOWN = "unknown"
"""The subject of tries with e-mail addresses that no user has. The addresses are not kept."""


class _Failure(NamedTuple):
    """What is written. user: None when there is none. number: with those that were only counted before."""

    user: User | None
    address: str
    number: int


class SignInFailures:
    """Records them. Each process counts for itself."""

    def __init__(
        self,
        database: Database,
        random: ids.Randomness,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._random = random
        self._clock = clock
        self._monotonic = monotonic
        self._windows: OrderedDict[UUID | None, tuple[float, int]] = OrderedDict()
        self._rows = Grouper("sign-in-failure", self._record)

    def note(self, user: User | None, address: str) -> None:
        """Have it recorded, or counted. user: whose password was wrong; None: nobody has the e-mail address."""
        key = None if user is None else user.id
        now = self._monotonic()
        until, count = self._windows.pop(key, (now, 0))
        if now < until:
            self._windows[key] = until, count + 1
            return
        self._windows[key] = now + PERIOD, 0
        if len(self._windows) > MAX_USERS:
            self._windows.popitem(last=False)
        if not self._rows.post(_Failure(user, address, count + 1)):
            log.warning("a sign-in that failed was not recorded: too many wait")

    async def drain(self) -> None:
        """Wait until everything is recorded."""
        await self._rows.drain()

    async def _record(self, failures: Sequence[_Failure]) -> list[None]:
        try:
            async with self._database.transaction() as connection:
                root = (await organizations.root(connection)).id
                for user, address, number in failures:
                    id_ = ids.uuid7(self._clock(), self._random)
                    where, subject = (root, UNKNOWN) if user is None else (user.organization_id, str(user.id))
                    await audit.record(
                        connection, id_, where, NOBODY, "user.sign_in_failed", subject, address=address, count=number
                    )
        except (Unavailable, PostgresError) as fault:
            log.warning("%d sign-ins that failed were not recorded: %s", len(failures), type(fault).__name__)
        return [None] * len(failures)
