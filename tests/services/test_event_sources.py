"""What is told of what: each act, and the events that its transaction leaves."""

from typing import Any

import pytest

from provserver.core.authorization import Role
from provserver.core.model import ReprovisionPolicy
from provserver.services.access import Access
from provserver.services.claiming import Claiming
from provserver.services.handover import Handover
from tests.conftest import Space
from tests.services.conftest import Fleet, use
from tests.services.ownership import Estate


async def told(space: Space) -> list[tuple[str, Any, dict[str, Any]]]:
    """Type, organization and the members beside the device's own of the events since the last look."""
    rows = await space.rows(
        "WITH gone AS (DELETE FROM outbox RETURNING *)"
        " SELECT type, organization_id, payload FROM gone WHERE type <> 'device.provisioned' ORDER BY created_at, id"
    )
    common = ("deviceId", "deviceName", "profileId")
    for _, _, payload in rows:
        assert all(isinstance(payload[name], str) for name in common)
    return [(type_, id_, {k: v for k, v in payload.items() if k not in common}) for type_, id_, payload in rows]


async def test_moves_of_ownership_are_told_to_whom_they_concern(space: Space) -> None:
    estate = await Estate.make(space.database, space.keys, space.organization_id)
    claiming, handover = Claiming(space.database, space.keys), Handover(space.database)
    token = await estate.token()
    anna, ben = estate.who("anna", Role.ADMIN), estate.who("ben", Role.ADMIN)
    await claiming.claim(anna, token.payload)
    assert await told(space) == [
        (
            "device.claimed",
            estate["anna"],
            {"organizationId": str(estate["anna"]), "userId": str(anna.user_id), "transferred": False},
        )
    ]
    await handover.transfer(estate.who("brand", Role.ADMIN), token.id, to_organization=estate["ben"])
    assert await told(space) == [
        ("device.unclaimed", estate["anna"], {"transferred": True}),
        ("device.claimed", estate["ben"], {"organizationId": str(estate["ben"]), "transferred": True}),
    ]
    await handover.transfer(ben, token.id, to_user=ben.user_id)
    assert [each[:2] for each in await told(space)] == [("device.claimed", estate["ben"])]
    await handover.unclaim(ben, token.id)
    assert await told(space) == [("device.unclaimed", estate["ben"], {"transferred": False})]
    await handover.delete_token(estate.who("brand", Role.ADMIN), token.id)
    assert await told(space) == [("credentials.revoked", estate["brand"], {"reason": "deleted"})]


async def test_first_connections_rotation_and_revocation_are_told(space: Space) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.ROTATE)
    access = Access(space.database, space.keys)
    first = (await fleet.ask("sensor-1"))["credentialsValue"]
    assert await told(space) == []
    assert await use(access, first)
    assert await told(space) == [("device.first_connected", space.organization_id, {"credentialsType": "ACCESS_TOKEN"})]
    assert await use(access, first)
    second = (await fleet.ask("sensor-1"))["credentialsValue"]
    assert await told(space) == []
    assert await use(access, second)
    assert await told(space) == [("credentials.rotated", space.organization_id, {"credentialsType": "ACCESS_TOKEN"})]
    await space.devices.revoke("sensor-1")
    assert await told(space) == [("credentials.revoked", space.organization_id, {"reason": "revoked"})]
    await space.devices.revoke("sensor-1")
    await space.devices.delete("sensor-1")
    assert await told(space) == []  # there were none left


@pytest.mark.parametrize("used", [True, False])
async def test_deleting_a_device_takes_its_credentials_away(space: Space, *, used: bool) -> None:
    fleet = await Fleet.make(space)
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    if used:
        assert await use(Access(space.database, space.keys), token)
        await told(space)
    await space.devices.delete("sensor-1")
    assert await told(space) == [("credentials.revoked", space.organization_id, {"reason": "deleted"})]
