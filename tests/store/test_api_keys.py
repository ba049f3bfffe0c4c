from datetime import UTC, datetime, timedelta
from uuid import uuid4

from provserver.core.authorization import Permission
from provserver.store import api_keys
from tests.conftest import Space

NOW = datetime(2026, 5, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


async def test_a_key_is_recognised_by_its_digest_until_it_expires(space: Space) -> None:
    async with space.database.connection() as connection:
        made = [
            await api_keys.insert(
                connection,
                uuid4(),
                space.organization_id,
                name,
                name.encode(),
                "psk_abcd",
                [Permission.AUDIT_READ, Permission.DEVICES_VIEW],
                "operator",
                expires_at,
            )
            for name, expires_at in (("ever", None), ("once", NOW + MINUTE))
        ]

        assert await api_keys.recognise(connection, b"ever", NOW) == made[0]
        assert await api_keys.recognise(connection, b"once", NOW) == made[1]
        assert await api_keys.recognise(connection, b"once", NOW + MINUTE) is None
        assert await api_keys.recognise(connection, b"else", NOW) is None
        assert await api_keys.hold(connection, made[1].id) == made[1]
        assert made[1].permissions == (Permission.AUDIT_READ, Permission.DEVICES_VIEW)
        assert await api_keys.delete(connection, made[1].id)
        assert not await api_keys.delete(connection, made[1].id)


async def test_a_use_is_noted_unless_it_was_just_now(space: Space) -> None:
    async with space.database.connection() as connection:
        key = await api_keys.insert(
            connection, uuid4(), space.organization_id, "k", b"k", "psk_abcd", [Permission.AUDIT_READ], "operator", None
        )
        noted = []
        for now in (NOW, NOW + MINUTE, NOW + 2 * MINUTE + timedelta(seconds=1)):
            await api_keys.touch(connection, key.id, now, now - MINUTE)
            found = await api_keys.recognise(connection, b"k", now)
            assert found is not None
            noted.append(found.last_used_at)

    assert noted == [NOW, NOW, NOW + 2 * MINUTE + timedelta(seconds=1)]
