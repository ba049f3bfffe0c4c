import asyncio

import pytest

from provserver import metrics
from provserver.metrics import Page
from provserver.services.readiness import Readiness, Unready
from provserver.store.database import Database
from tests.faults.proxy import PostgresProxy


@pytest.fixture
def page() -> Page:
    made = Page(["server"])
    made.join("server")
    return made


def listening(page: Page, listeners: int) -> None:
    metrics.LISTENERS.cell().value = listeners
    page.join("server").publish()
    metrics.LISTENERS.cell().value = 0


async def test_it_is_ready_with_postgres_and_all_listeners(database_url: str, page: Page) -> None:
    database = Database(database_url, size=1)
    readiness = Readiness(database, page, 3)
    assert await readiness.look() is Unready.LISTENERS

    listening(page, 3)
    assert await readiness.look() is None

    listening(page, 2)
    assert await readiness.look() is Unready.LISTENERS
    await readiness.stop()
    await database.close()


async def test_postgres_that_is_not_there_or_comes_later_is_told(
    database_url: str, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provserver.services.readiness._GOOD_FOR", 0.0)
    listening(page, 1)
    async with PostgresProxy(database_url) as proxy:
        await proxy.cut()
        database = Database(proxy.dsn, size=1)
        readiness = Readiness(database, page, 1)
        assert await readiness.look() is Unready.DATABASE

        await proxy.restore()
        while await readiness.look() is not None:
            pass

        proxy.freeze()
        assert await readiness.look_at_database(patience=0.01) is Unready.DATABASE
        await readiness.stop()
        await proxy.restore()
        while await readiness.look() is not None:
            pass
        await readiness.stop()
        await database.close()


async def test_a_standby_is_not_ready(database_url: str, page: Page) -> None:
    listening(page, 1)
    joint = "&" if "?" in database_url else "?"
    database = Database(f"{database_url}{joint}options=-c%20default_transaction_read_only%3Don", size=1)
    readiness = Readiness(database, page, 1)

    assert await readiness.look() is Unready.READ_ONLY

    await readiness.stop()
    await database.close()


async def test_of_many_who_ask_one_looks(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    async def writable(_database: Database) -> bool:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)
        return True

    async def open_(_database: Database) -> None:
        pass

    monkeypatch.setattr(Database, "writable", writable)
    monkeypatch.setattr(Database, "open", open_)
    readiness = Readiness(Database("postgresql://nowhere"), page, 0)

    assert await asyncio.gather(*(readiness.look() for _ in range(50))) == [None] * 50

    assert looks == 1


def test_nothing_is_told_but_fixed_words() -> None:
    assert all(word.isalpha() for why in Unready for word in why.value.split())
