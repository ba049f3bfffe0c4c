import os
import time
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from provserver.core.accounts import User
from provserver.core.authorization import Role
from provserver.services import sign_in_failures
from provserver.services.sign_in_failures import SignInFailures
from tests.conftest import Space
from tests.services.conftest import Outage

ADDRESS = "192.0.2.7"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failures(space: Space, clock: Clock) -> SignInFailures:
    return SignInFailures(space.database, os.urandom, time.time, clock)


def user(space: Space) -> User:
    at = datetime.now(UTC)
    return User(uuid4(), space.organization_id, "a@example.com", "", Role.ADMIN, True, at, 1, at)


async def written(space: Space, failures: SignInFailures) -> list[tuple[str, int]]:
    await failures.drain()
    rows = await space.rows("SELECT * FROM audit ORDER BY at, id")
    assert {(row["action"], row["actor"], row["organization_id"]) for row in rows} <= {
        ("user.sign_in_failed", "nobody", space.organization_id)
    }
    return [(row["subject_id"], row["detail"]["count"]) for row in rows]


async def test_many_failures_are_few_entries(space: Space, failures: SignInFailures, clock: Clock) -> None:
    one, other = user(space), user(space)
    for _ in range(1000):
        failures.note(one, ADDRESS)
        failures.note(None, ADDRESS)
    failures.note(other, ADDRESS)
    first = [(str(one.id), 1), ("unknown", 1), (str(other.id), 1)]
    assert sorted(await written(space, failures)) == sorted(first)

    clock.now = 61.0
    failures.note(one, ADDRESS)
    failures.note(None, ADDRESS)
    assert sorted(await written(space, failures)) == sorted([*first, (str(one.id), 1000), ("unknown", 1000)])


async def test_memory_is_bounded(space: Space, failures: SignInFailures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in_failures, "MAX_USERS", 2)
    users = [user(space) for _ in range(3)]
    for each in (*users, users[0]):
        failures.note(each, ADDRESS)
    assert sorted(await written(space, failures)) == sorted((str(each.id), 1) for each in (*users, users[0]))
    assert len(failures._windows) == 2


async def test_what_cannot_be_recorded_is_told_of(
    space: Space, outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    failures = SignInFailures(outage.database, os.urandom, time.time, time.monotonic)
    await outage.begin()
    failures.note(user(space), ADDRESS)
    await failures.drain()
    assert "1 sign-ins that failed were not recorded" in caplog.text
    outage.end()
