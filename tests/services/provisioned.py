"""What provision requests leave in the database."""

from collections import Counter

from tests.conftest import Space


async def successes(space: Space) -> Counter[str]:
    """Successful attempts by device name."""
    rows = await space.rows("SELECT device_name FROM attempt WHERE outcome = 'success'")
    return Counter(row["device_name"] for row in rows)


async def whole(space: Space) -> None:
    """Each device has its credentials, state, success attempts and events; nothing hangs on none."""
    rows = await space.rows("""
        SELECT (SELECT count(*) FROM credentials c WHERE c.device_id = d.id),
            (SELECT count(*) FROM attribute a WHERE a.device_id = d.id),
            (SELECT count(*) FROM attempt t WHERE t.device_id = d.id AND t.outcome = 'success' AND t.reason IS NULL),
            (SELECT count(*) FROM outbox o WHERE o.device_id = d.id AND o.type = 'device.provisioned')
        FROM device d""")
    assert {tuple(row) for row in rows} <= {(1, 1, 1, 1)}
    for table in ("credentials", "attribute", "outbox WHERE type <> 'provision.failed'"):
        assert await space.value(f"SELECT count(*) FROM {table}") == len(rows)
