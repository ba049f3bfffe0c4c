import asyncio

import pytest

from provserver.errors import Unavailable
from provserver.services import oscore
from provserver.services.oscore import SequenceNumbers
from provserver.store.database import Database
from tests.conftest import Space


async def taken(numbers: SequenceNumbers, shard: int, count: int) -> list[int]:
    found = []
    for _ in range(count):
        await numbers.provide(shard)
        found.append(numbers.take(shard))
    return found


async def test_no_number_comes_twice_in_any_process(database: Database) -> None:
    processes = [SequenceNumbers(database) for _ in range(4)]

    runs = await asyncio.gather(*(taken(process, 7, 3000) for process in processes))
    after_restart = await taken(SequenceNumbers(database), 7, 10)

    numbers = [number for run in (*runs, after_restart) for number in run]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) < oscore.MAX_NUMBER


async def test_numbers_of_a_process_rise(database: Database) -> None:
    run = await taken(SequenceNumbers(database), 0, 3000)

    assert run == sorted(run)


async def test_what_a_restored_database_has_forgotten_is_not_given_again(space: Space) -> None:
    before = await taken(SequenceNumbers(space.database), 3, 1)
    await space.rows("UPDATE oscore_block SET number = 17")

    after = await taken(SequenceNumbers(space.database), 3, 1)

    assert before[0] >> 10 > 1_000_000
    assert after[0] >> 10 >= before[0] >> 10


async def test_a_clock_that_was_set_back_changes_nothing(space: Space) -> None:
    await taken(SequenceNumbers(space.database), 3, 1)
    await space.rows("UPDATE oscore_block SET number = number + 1000000")
    ahead = await taken(SequenceNumbers(space.database), 3, 1)

    after = await taken(SequenceNumbers(space.database), 3, 1)

    assert after[0] > ahead[0]


async def test_numbers_that_are_at_hand_serve_while_postgres_is_away(space: Space) -> None:
    numbers = SequenceNumbers(space.database)
    await taken(numbers, 1, 1)
    await space.database.close()

    assert len(set(await taken(numbers, 1, 1023))) == 1023
    with pytest.raises(Unavailable):
        await numbers.provide(1)
    with pytest.raises(Unavailable):
        numbers.take(1)


async def test_the_last_number_is_not_passed(space: Space) -> None:
    numbers = SequenceNumbers(space.database)
    await taken(numbers, 1, 1)
    await space.rows("UPDATE oscore_block SET number = $1", oscore.MAX_NUMBER // 1024)

    with pytest.raises(Unavailable, match="used up"):
        await SequenceNumbers(space.database).provide(1)
