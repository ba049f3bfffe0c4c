"""What must hold whatever happened: no device lost, none half made, no two holders, records match the rows."""

from collections.abc import Mapping

import asyncpg

from provserver.core.model import CredentialsType
from provserver.core.secrets import ServerKeys
from provserver.services.credentials import open_credentials

_WHOLE = """
WITH c AS (
    SELECT device_id, count(*) FILTER (WHERE NOT pending) AS n, count(*) FILTER (WHERE pending) AS pending
    FROM credentials GROUP BY device_id
), s AS (
    SELECT device_id, count(*) AS n FROM attribute WHERE key = 'provisionState' GROUP BY device_id
), t AS (  -- an attempt and its event have one id
    SELECT coalesce(a.device_id, o.device_id) AS device_id, count(a.id) AS attempts, count(o.id) AS events,
        count(*) AS n
    FROM (SELECT * FROM attempt WHERE outcome = 'success' AND reason IS NULL) a
        FULL JOIN (SELECT * FROM outbox WHERE type = 'device.provisioned') o USING (id, device_id)
    GROUP BY 1
)
SELECT d.name, EXISTS (SELECT FROM static_token k WHERE k.id = d.id)
        OR EXISTS (SELECT FROM wifi_session w WHERE w.id = d.id) AS unasked,
    coalesce(c.n, 0) AS credentials, coalesce(c.pending, 0) AS pending, coalesce(s.n, 0) AS states,
    coalesce(t.attempts, 0) AS attempts, coalesce(t.events, 0) AS events, coalesce(t.n, 0) AS records
FROM c FULL JOIN s USING (device_id) FULL JOIN t USING (device_id) FULL JOIN device d ON d.id = device_id
"""
"""Every device, and whatever hangs on one that is not there."""


async def check(dsn: str, keys: ServerKeys, told: Mapping[str, str], *, once: bool = True) -> int:
    """Check the database against what devices were told last (name -> token); returns the number of devices.

    once: every device was made by its one provisioning. Else some were imported, and some provisioned again.
    """
    connection = await asyncpg.connect(dsn)
    try:
        devices = {row["name"]: row for row in await connection.fetch(_WHOLE)}
        for row in devices.values():
            counts = tuple(row)[2:]
            if once:
                whole = counts == (1, 0, 1, 1, 1, 1)
            elif row["unasked"]:  # provisioned by its first connection, which is no attempt
                whole = counts == (1, 0, 1, 0, 1, 1)
            elif row["records"] == 0:  # imported
                whole = counts in ((0, 0, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0))
            else:
                whole = counts[:1] + counts[2:3] == (1, 1) and counts[1] < 2 and len(set(counts[3:])) == 1
            what = "credentials, of them pending, states, attempts, events, of these pairs"
            assert row["name"] is not None, f"an orphan has {counts}: {what}"
            assert whole, f"{row['name']} has {counts}: {what}"
        missing = told.keys() - devices.keys()
        assert not missing, f"{len(missing)} devices were told SUCCESS and are not there"
        holders: dict[str, str] = {}
        for row in await connection.fetch(
            "SELECT d.name, c.* FROM credentials c JOIN device d ON d.id = c.device_id ORDER BY pending"
        ):
            stored = open_credentials(keys, row["device_id"], CredentialsType(row["type"]), row["sealed"])
            assert row["id_digest"] == keys.digest("credentials", stored.id), f"{row['name']} cannot be looked up"
            assert stored.id not in holders, f"{row['name']} and {holders[stored.id]} hold the same credentials"
            holders[stored.id] = row["name"]
        tokens = {token: name for name, token in told.items()}
        assert len(tokens) == len(told), "two devices were told the same token"
        strangers = [name for token, name in tokens.items() if holders.get(token) != name]
        assert not strangers, f"{strangers} were told another token than is stored"
        return len(devices)
    finally:
        await connection.close()
