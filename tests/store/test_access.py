"""What is looked up of those who come back."""

import pytest

from provserver.store import access
from provserver.store.database import Database


@pytest.mark.parametrize("statement", ["_SHARED", "_HELD"])
async def test_a_plan_made_on_empty_tables_serves_when_they_are_large(own_database_url: str, statement: str) -> None:
    """As plans are kept for the life of a connection."""
    where = {"_SHARED": "", "_HELD": " WHERE c.id_digest = ANY($1::bytea[])"}[statement]
    database = Database(own_database_url, size=1, serving=True)
    await database.open()
    try:
        async with database.connection() as connection:
            await connection.execute("ANALYZE")
            await connection.execute(f"PREPARE s AS {getattr(access, statement)}{where}")
            parameters = await connection.fetchval(
                "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 's'"
            )
            rows = await connection.fetch(f"EXPLAIN EXECUTE s ({', '.join(['NULL'] * parameters)})")
    finally:
        await database.close()
    plan = "\n".join(row[0] for row in rows)
    for table in ("device", "credentials", "provision_key", "device_profile"):
        assert f"Seq Scan on {table} " not in plan
    assert "Hash Join" not in plan
    assert "Merge" not in plan
