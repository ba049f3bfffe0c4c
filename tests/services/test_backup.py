"""What a copy is made to leave alone; that it is restored is in tests/cli/test_backup.py."""

from uuid import uuid4

from provserver.core.authorization import OPERATOR
from provserver.services import backup
from provserver.services.profiles import ProfileChange
from provserver.store import jobs
from tests.conftest import Space


async def test_a_copy_that_is_only_tried_calls_nobody(space: Space) -> None:
    profile, _ = await space.profiles.create(ProfileChange(name="sensors"))
    integration, waiting = uuid4(), uuid4()
    async with space.database.transaction() as connection:
        await connection.execute(
            "INSERT INTO integration (id, organization_id, profile_id, network, host, application_id, settings,"
            " key_sealed, webhook_sealed, verified, onboarding, auto_import, claim_proof, created_by) VALUES"
            " ($1, $2, $3, 'chirpstack', 'network', 'app', $5, '\\x01', '\\x01', true, true, true, 'none', $4)",
            integration,
            space.organization_id,
            profile.id,
            OPERATOR,
            {"lorawanVersion": "MAC_V1_0_2", "address": "network", "deviceProfileId": str(uuid4())},
        )
        await jobs.enqueue(connection, waiting, space.organization_id, "network.onboard", OPERATOR, key="a")

    async with space.database.transaction() as connection:
        await backup._silence(connection)

    rows = await space.rows("SELECT key_sealed, webhook_sealed, onboarding, auto_import FROM integration")
    assert [tuple(row) for row in rows] == [(b"\xff", None, False, False)]
    rows = await space.rows("SELECT state, remedy <> '' FROM job")
    assert [tuple(row) for row in rows] == [("failed", True)]
    rows = await space.rows("SELECT subject_id FROM audit WHERE action = 'integration.updated'")
    assert [row[0] for row in rows] == [str(integration)]
    async with space.database.transaction() as connection:
        assert await jobs.retry(connection, space.organization_id, None, waiting)
