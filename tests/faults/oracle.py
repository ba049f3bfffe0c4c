"""What must hold whatever happened: no device lost, none half made, no two holders, records match the rows."""

import asyncpg

from provserver.core.model import CredentialsType
from provserver.core.secrets import ServerKeys
from provserver.services.settlement import open_credentials

_WHOLE = """
WITH c AS (SELECT device_id, count(*) AS n FROM credentials GROUP BY device_id),
    s AS (SELECT device_id, count(*) AS n FROM attribute WHERE key = 'provisionState' GROUP BY device_id),
    t AS (SELECT device_id, count(*) AS n FROM attempt WHERE outcome = 'success' GROUP BY device_id),
    o AS (SELECT device_id, count(*) AS n FROM outbox GROUP BY device_id)
SELECT d.name, coalesce(d.id, device_id) AS id, c.n AS credentials, s.n AS states, t.n AS attempts, o.n AS events
FROM c FULL JOIN s USING (device_id) FULL JOIN t USING (device_id) FULL JOIN o USING (device_id)
    FULL JOIN device d ON d.id = device_id
"""
"""Every device, and whatever hangs on one that is not there."""


async def check(dsn: str, keys: ServerKeys, told: dict[str, str]) -> int:
    """Check the database against what devices were told (name -> token); returns the number of devices."""
    connection = await asyncpg.connect(dsn)
    try:
        devices = {row["name"]: row for row in await connection.fetch(_WHOLE)}
        for row in devices.values():
            counts = (row["credentials"], row["states"], row["attempts"], row["events"])
            assert counts == (1, 1, 1, 1), f"{row['name']} has {counts} credentials, states, attempts, events"
        missing = told.keys() - devices.keys()
        assert not missing, f"{len(missing)} devices were told SUCCESS and are not there"
        sealed = {row["device_id"]: row["sealed"] for row in await connection.fetch("SELECT * FROM credentials")}
        for name, token in told.items():
            id_ = devices[name]["id"]
            stored = open_credentials(keys, id_, CredentialsType.ACCESS_TOKEN, sealed[id_])
            assert stored.value == token, f"{name} was told another token than is stored"
        return len(devices)
    finally:
        await connection.close()
