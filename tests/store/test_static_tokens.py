import os
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from provserver.core import statictoken
from provserver.core.statictoken import TokenStatus
from provserver.store import static_tokens as store
from provserver.store.database import Connection
from provserver.store.static_tokens import Filter, StagedToken, StagedValue, Taken
from tests.conftest import Space
from tests.store.test_devices import make_devices
from tests.store.test_profiles import make_profile


def staged(batch: UUID, place: int, name: str | None = None, **metadata: str) -> StagedToken:
    id_ = statictoken.token_id(batch, place)
    return StagedToken(place, place + 1, id_, id_.bytes + b"a", b"sealed", id_.bytes + b"q", b"qr", name, metadata)


async def add(
    space: Space, profile_id: UUID, tokens: Sequence[StagedToken], organization_id: UUID | None = None
) -> tuple[int, int]:
    """Make tokens; every value of theirs is unique."""
    async with space.database.transaction() as connection:
        await store.begin_staging(connection)
        await store.stage(connection, tokens, [value for token in tokens for value in values(token)])
        return await store.add_staged(connection, organization_id or space.organization_id, profile_id)


def values(token: StagedToken) -> list[StagedValue]:
    return [StagedValue(token.place, token.line, name, text, token.id) for name, text in token.metadata.items()]


def batch(now: float = 1.0) -> UUID:
    return statictoken.batch_id(now, os.urandom)


async def numbers(connection: Connection, filter_: Filter, after: UUID | None = None, limit: int = 100) -> list[int]:
    return [row.token.number for row in await store.list_(connection, filter_, after=after, limit=limit)]


async def test_what_is_staged_is_added_in_its_order(space: Space) -> None:
    profile = await make_profile(space)
    first = batch()
    tokens = [staged(first, place, f"n{place}", serial=f"s{place}") for place in (3, 1, 2)]

    low, high = await add(space, profile.id, tokens)

    assert high - low == 2
    async with space.database.connection() as connection:
        rows = await store.list_(connection, Filter([space.organization_id]), after=None, limit=10)
        found = await store.find(connection, space.organization_id, id_=None, number=low + 1)
    assert [(row.token.number, row.token.name) for row in rows] == [(low, "n1"), (low + 1, "n2"), (high, "n3")]
    assert found == rows[1]
    token = rows[0].token
    assert (rows[0].sealed, rows[0].qr_sealed) == (b"sealed", b"qr")
    assert (token.id, token.organization_id, token.organization) == (
        statictoken.token_id(first, 1),
        space.organization_id,
        "Manufacturer",
    )
    assert (token.profile_id, token.profile, token.template_id) == (profile.id, "sensors", profile.template_id)
    assert (token.status, token.metadata, token.revision) == (TokenStatus.UNCLAIMED, {"serial": "s1"}, 1)
    assert (token.claimed_at, token.unit, token.unit_state, token.unit_at) == (None, None, None, None)
    assert (token.has_device, token.device_name, token.holder_id, token.owner_id) == (False, None, None, None)


async def test_nobody_has_made_tokens_where_there_are_none(space: Space) -> None:
    async with space.database.connection() as connection:
        assert await store.makers(connection, space.organization_id) == []


async def test_a_token_is_told_with_its_device(space: Space) -> None:
    profile = await make_profile(space)
    made = staged(batch(), 1)
    await add(space, profile.id, [made])
    holder, owner = uuid4(), uuid4()
    await space.rows(
        "INSERT INTO device (id, organization_id, profile_id, name, holder_id, owner_id)"
        " VALUES ($1, $2, $3, 'meter', $4, $5)",
        made.id,
        space.organization_id,
        profile.id,
        holder,
        owner,
    )

    async with space.database.connection() as connection:
        row = await store.find(connection, space.organization_id, id_=made.id, number=None)

    assert row is not None
    assert (row.token.has_device, row.token.device_name) == (True, "meter")
    assert (row.token.holder_id, row.token.owner_id) == (holder, owner)


async def test_what_is_taken_is_told(space: Space) -> None:
    await make_devices(space, "device", profile="meters")
    profile = await make_profile(space)
    other = await make_profile(space, "others")
    await add(space, profile.id, [staged(batch(), 1, "token", serial="s1", rack="r1")])
    await add(space, other.id, [staged(batch(), 1, None, serial="s2")])
    tokens = [
        staged(batch(2), place, name, **metadata)
        for place, (name, metadata) in enumerate(
            [
                ("free", {"serial": "s2"}),
                ("device", {"serial": "s1"}),
                ("token", {}),
                (None, {"serial": "s3", "rack": "r1"}),
                (None, {"serial": "r1", "rack": "s1"}),
            ],
            1,
        )
    ]
    async with space.database.transaction() as connection:
        await store.begin_staging(connection)
        assert [each async for each in store.taken(connection, space.organization_id, profile.id, 2)] == []
        await store.stage(connection, tokens, [value for token in tokens for value in values(token)])
        pages = [each async for each in store.taken(connection, space.organization_id, profile.id, 2)]
        elsewhere = [each async for each in store.taken(connection, uuid4(), other.id, 9)]

    assert [len(page) for page in pages] == [2, 2]
    assert [each for page in pages for each in page] == [
        Taken(2, 3, None, by_device=True),
        Taken(2, 3, "serial", by_device=False),
        Taken(3, 4, None, by_device=False),
        Taken(4, 5, "rack", by_device=False),
    ]
    assert elsewhere == [[Taken(1, 2, "serial", by_device=False)]]


@pytest.mark.parametrize(
    "more",
    [staged(batch(2), 1, "token"), staged(batch(2), 1, None, serial="s1")],
    ids=["name", "value"],
)
async def test_adding_what_is_there_adds_nothing(space: Space, more: StagedToken) -> None:
    profile = await make_profile(space)
    await add(space, profile.id, [staged(batch(), 1, "token", serial="s1")])

    with pytest.raises(asyncpg.UniqueViolationError):
        await add(space, profile.id, [staged(batch(3), 1), more])

    assert await space.value("SELECT count(*) FROM static_token") == 1
    assert await space.value("SELECT count(*) FROM static_token_value") == 1


async def test_only_what_fits_is_listed_and_counted(space: Space) -> None:
    sensors, meters = await make_profile(space), await make_profile(space, "meters")
    first, second, third = batch(1), batch(2), batch(3)
    below = uuid4()
    await space.rows(
        "INSERT INTO organization (id, parent_id, name, path)"
        " VALUES ($1::uuid, $2::uuid, 'below', ARRAY[$2, $1]::uuid[])",
        below,
        space.organization_id,
    )
    one, two = await add(space, sensors.id, [staged(first, 1), staged(first, 2)])
    three, _ = await add(space, meters.id, [staged(second, 1)])
    four, _ = await add(space, sensors.id, [staged(third, 1)], below)
    await space.rows("UPDATE static_token SET status = 'CLAIMED' WHERE number = $1", two)
    low, high = statictoken.batch_range(first)
    root = [space.organization_id, below]
    async with space.database.connection() as connection:
        assert await store.makers(connection, space.organization_id) == sorted(root)
        assert await store.makers(connection, below) == [below]
        assert await store.makers(connection, uuid4()) == []
        for filter_, wanted in (
            (Filter(root), [one, two, three, four]),
            (Filter([below]), [four]),
            (Filter([uuid4()]), []),
            (Filter([]), []),
            (Filter(root, profile_id=sensors.id), [one, two, four]),
            (Filter(root, status=TokenStatus.CLAIMED), [two]),
            (Filter(root, first=low, last=high), [one, two]),
            (Filter(root, ids=[statictoken.token_id(first, 2), statictoken.token_id(third, 1), uuid4()]), [two, four]),
            (Filter([below], ids=[statictoken.token_id(first, 2)]), []),
            (Filter(root, ids=[]), []),
            (Filter(root, None, sensors.id, TokenStatus.UNCLAIMED, low, high), [one]),
        ):
            assert await numbers(connection, filter_) == wanted
            assert await store.count(connection, filter_) == len(wanted)
        assert await numbers(connection, Filter(root), limit=2) == [one, two]
        assert await numbers(connection, Filter(root), statictoken.token_id(first, 2), 1) == [three]
        both = await store.profiles_of(connection, Filter(root))
        assert sorted(both, key=lambda each: each.name) == [meters, sensors]
        assert await store.profiles_of(connection, Filter([below])) == [sensors]
        assert await store.find(connection, below, id_=statictoken.token_id(first, 1), number=None) is None
        assert await store.find(connection, below, id_=None, number=one) is None


async def test_a_search_finds_beginnings_within_its_makers(space: Space) -> None:
    await make_profile(space, "meters")
    sensors = await make_profile(space)
    await space.rows(
        "UPDATE device_profile SET metadata_fields = $1::jsonb WHERE id = $2",
        [
            {"name": "Serial", "type": "text", "unique": True},
            {"name": "Key", "type": "key128", "unique": True},
            {"name": "Rack", "type": "text"},
        ],
        sensors.id,
    )
    made = batch()
    tokens = [
        staged(made, 1, "North 1", Serial="n-1", Key="N0", Rack="north"),
        staged(made, 2, "NORTH 2", Serial="x_1"),
        staged(made, 3, None, Serial="x%1"),
    ]
    await add(space, sensors.id, tokens)
    await space.rows("UPDATE static_token SET unit = 'Nut', unit_state = 'failed' WHERE id = $1", tokens[2].id)
    async with space.database.connection() as connection:

        async def found(text: str, makers: Sequence[UUID] = (space.organization_id,)) -> set[int]:
            ids = await store.search(connection, makers, text, number=None, id_=None)
            return {statictoken.place_of(each) for each in ids}

        assert await found("n") == {1, 2, 3}
        assert await found("north") == {1, 2}
        assert await found("NORTH 2") == {2}
        assert await found("N0") == set()
        assert await found("x_") == {2}
        assert await found("x%") == {3}
        assert await found("orth") == set()
        assert await found("n", [uuid4()]) == set()
        by_id = await store.search(connection, [space.organization_id], "?", number=None, id_=tokens[1].id)
        assert by_id == [tokens[1].id]
        assert await store.search(connection, [uuid4()], "?", number=None, id_=tokens[1].id) == []


async def test_batches_of_several_makers_are_told_newest_first(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BOUND", 2)
    sensors, meters = await make_profile(space), await make_profile(space, "meters")
    below = uuid4()
    await space.rows(
        "INSERT INTO organization (id, parent_id, name, path)"
        " VALUES ($1::uuid, $2::uuid, 'below', ARRAY[$2, $1]::uuid[])",
        below,
        space.organization_id,
    )
    first, second, third = batch(1), batch(2), batch(3)
    await add(space, sensors.id, [staged(first, place) for place in range(1, 6)])
    await add(space, meters.id, [staged(second, 1)])
    await add(space, sensors.id, [staged(third, 1), staged(third, 2)], below)
    await space.rows("UPDATE static_token SET status = 'CLAIMED' WHERE number <= 4")
    async with space.database.connection() as connection:

        async def told(makers: Sequence[UUID], **more: Any) -> list[tuple[UUID, int, int]]:
            rows = await store.batches(connection, makers, **({"limit": 10} | more))
            return [(statictoken.batch_of(row.last), row.left, row.claimed) for row in rows]

        root = [space.organization_id, below]
        assert await told(root) == [(third, 2, 0), (second, 1, 0), (first, 3, 3)]
        assert await told([below]) == [(third, 2, 0)]
        assert await told(root, profile_id=sensors.id) == [(third, 2, 0), (first, 3, 3)]
        assert await told(root, limit=1) == [(third, 2, 0)]
        assert await told(root, before=third, limit=1) == [(second, 1, 0)]
        assert await told(root, before=first) == await told([]) == await told([uuid4()]) == []


async def test_a_profile_is_found_as_far_as_one_reaches(space: Space) -> None:
    profile = await make_profile(space)
    async with space.database.connection() as connection:
        for reference in ("sensors", profile.template_id, str(profile.id)):
            assert await store.find_profile(connection, space.organization_id, reference) == [profile]
            assert await store.find_profile(connection, uuid4(), reference) == []
        assert await store.find_profile(connection, space.organization_id, "nothing") == []
