import logging
from collections import Counter

import pytest

from provserver.core.model import ProvisionStrategy
from provserver.errors import RENDERINGS, Outcome
from tests.conftest import Space
from tests.services.conftest import Fleet, Locking
from tests.services.provisioned import successes, whole

CHECK = ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES
BOTH = pytest.mark.parametrize("strategy", [ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES, CHECK])


@pytest.fixture
async def poisoned(space: Space) -> str:
    """A name that no statement can write, for no reason of ours."""
    await space.rows("""
        CREATE FUNCTION obstacle() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF NEW.device_name = 'poison' THEN RAISE 'planted-in-postgres'; END IF; RETURN NEW; END $$""")
    await space.rows("CREATE TRIGGER poison BEFORE INSERT ON attempt FOR EACH ROW EXECUTE FUNCTION obstacle()")
    return "poison"


@BOTH
async def test_a_row_that_fails_spares_its_neighbours(
    space: Space, lock: Locking, poisoned: str, caplog: pytest.LogCaptureFixture, strategy: ProvisionStrategy
) -> None:
    fleet = await Fleet.make(space, strategy)
    anyone = await Fleet.make(space, name="anyone")
    names = ["sensor-1", poisoned, "sensor-2", "sensor-3"]
    for name in names:
        if strategy is CHECK:
            await fleet.import_(name)

    replies = await anyone.as_one_group(lock, *(fleet.ask(name) for name in names))

    assert [reply["status"] for reply in replies] == ["SUCCESS", "FAILURE", "SUCCESS", "SUCCESS"]
    assert replies[1]["errorMsg"] == RENDERINGS[Outcome.UNAVAILABLE].error
    assert await successes(space) - Counter(["sensor-1", "sensor-2", "sensor-3"]) == await under_way(space)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "planted" not in caplog.text
    assert "Traceback" not in caplog.text
    if strategy is not CHECK:
        assert await space.value("SELECT count(*) FROM device WHERE name = $1", poisoned) == 0


async def under_way(space: Space) -> Counter[str]:
    rows = await space.rows("SELECT name FROM device WHERE name LIKE 'under way %'")
    return Counter(row["name"] for row in rows)


async def test_a_row_that_always_breaks_a_constraint_ends_and_spares_its_neighbours(
    fleet: Fleet, lock: Locking
) -> None:
    await fleet.space.rows("""
        CREATE FUNCTION obstacle() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'check_violation'; END $$""")
    await fleet.space.rows(
        "CREATE TRIGGER poison BEFORE INSERT ON device FOR EACH ROW WHEN (NEW.name = 'poison')"
        " EXECUTE FUNCTION obstacle()"
    )

    replies = await fleet.as_one_group(lock, *(fleet.ask(name) for name in ("sensor-1", "poison", "sensor-2")))

    assert [reply["status"] for reply in replies] == ["SUCCESS", "FAILURE", "SUCCESS"]
    assert replies[1]["errorMsg"] == RENDERINGS[Outcome.UNAVAILABLE].error
    await whole(fleet.space)
