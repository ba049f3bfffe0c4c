import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from provserver.core import ids
from provserver.core.authorization import OPERATOR, Permission, Principal
from provserver.core.csvfile import DeviceRow
from provserver.core.model import KeyBudget
from provserver.errors import Forbidden
from provserver.services.claiming import Claiming
from provserver.services.overview import BUCKETS, Funnel, Overview, Series
from provserver.services.profiles import ProfileChange, Profiles
from provserver.services.static_tokens import StaticTokens
from provserver.store import overview as store
from tests.conftest import Space
from tests.services.accounts import Accounts, Clock, Tree, only
from tests.services.conftest import Fleet


@pytest.fixture
async def tree(space: Space, tmp_path: Path) -> Tree:
    return await Tree.grow(Accounts(space, tmp_path))


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.now = clock.now // 7_200 * 7_200 + 100.0  # the parts of all windows begin 100 s ago
    return clock


@pytest.fixture
async def overview(space: Space, clock: Clock) -> AsyncIterator[Overview]:
    overview = Overview(space.database, clock)
    for each in (overview._funnels, *overview._series.values()):
        each._least = 0.0  # newer figures each time
        each._patience = each._first = 60.0
    yield overview
    await overview.stop()


def operator(organization_id: UUID) -> Principal:
    return Principal(OPERATOR, organization_id)


async def attempt(
    space: Space, at: float, profile: UUID | None, outcome: str = "success", reason: str | None = None
) -> None:
    await space.rows(
        "INSERT INTO attempt (id, transport, address, outcome, reason, profile_id) VALUES ($1, 'HTTP', '', $2, $3, $4)",
        ids.uuid7(at, os.urandom),
        outcome,
        reason,
        profile,
    )


async def funnel(overview: Overview, organization_id: UUID) -> tuple[int, ...]:
    overview._funnels._entries.clear()
    found = (await overview.show(operator(organization_id))).funnel
    assert isinstance(found, Funnel)
    return found[1:]


async def series(overview: Overview, organization_id: UUID, hours: int = 1) -> Series:
    for each in overview._series.values():  # what was found is built on, and not told again
        for key, entry in each._entries.items():
            each._entries[key] = type(entry)(entry.value, 0.0)
    found = (await overview.show(operator(organization_id), hours)).attempts
    assert found is not None
    return found


async def test_stages_are_counted_where_devices_are_held(tree: Tree, overview: Overview) -> None:
    space, accounts = tree.accounts.space, tree.accounts
    user, _ = await accounts.user("ada@example.com", organization=tree.left)
    made = [await accounts.device(tree.maker.id) for _ in range(4)]
    held = await accounts.device(tree.maker.id, holder=tree.left.id)
    owned = await accounts.device(tree.maker.id, holder=tree.left.id, owner=user.id)
    for each in (made[0], made[1], held, owned):
        await space.rows(
            "INSERT INTO attribute (device_id, scope, key, value) VALUES ($1, 'SERVER', 'provisionState', $2)",
            each,
            "provisioned",
        )
    await space.rows(  # not what is meant
        "INSERT INTO attribute (device_id, scope, key, value) VALUES ($1, 'SERVER', 'provisionState', $2),"
        " ($1, 'CLIENT', 'provisionState', $3)",
        made[2],
        "odd",
        "provisioned",
    )
    for each, life in ((made[0], 60), (held, 60), (owned, -60)):
        await space.rows(
            "INSERT INTO presence (device_id, online_until, last_seen_at) VALUES ($1, now() + $2, now())",
            each,
            timedelta(seconds=life),
        )
    # made, devices, provisioned, connected, online, claimed
    assert await funnel(overview, tree.root.id) == (6, 6, 4, 3, 2, 2)
    assert await funnel(overview, tree.maker.id) == (6, 6, 4, 3, 2, 2)
    assert await funnel(overview, tree.left.id) == (2, 2, 2, 2, 1, 2)
    assert await funnel(overview, tree.right.id) == (0, 0, 0, 0, 0, 0)


async def test_static_tokens_are_made_until_their_devices_are_there(space: Space, overview: Overview) -> None:
    await space.profiles.create(ProfileChange(name="tags"))
    tokens, me = StaticTokens(space.database, space.keys), operator(space.organization_id)
    await tokens.make(me, "tags", 3)
    token_id = await space.value("SELECT id FROM static_token ORDER BY id LIMIT 1")
    assert await funnel(overview, space.organization_id) == (3, 0, 0, 0, 0, 0)
    opened = await tokens.show(me, token_id, open_=True)
    assert opened.payload is not None
    await Claiming(space.database, space.keys).claim(me, opened.payload)
    assert await funnel(overview, space.organization_id) == (3, 1, 1, 0, 0, 1)


async def test_the_whole_tree_is_counted_as_its_parts_are(tree: Tree) -> None:
    """At the top, each table is read alone; below, joined: both must come to the same."""
    space, accounts = tree.accounts.space, tree.accounts
    profile, _ = await space.profiles.create(ProfileChange(name="all"))
    for place in range(12):
        holder = (None, tree.left.id, tree.leaf.id)[place % 3]
        device = await accounts.device(space.organization_id, holder=holder)
        if place % 2:
            await space.rows(
                "INSERT INTO attribute (device_id, scope, key, value) VALUES ($1, 'SERVER', 'provisionState', $2)",
                device,
                "provisioned",
            )
        if place % 4:
            await space.rows(
                "INSERT INTO presence (device_id, online_until, last_seen_at) VALUES ($1, now() + $2, now())",
                device,
                timedelta(minutes=place - 6),
            )
    await space.rows(
        "INSERT INTO static_token (id, organization_id, profile_id, id_digest, sealed, qr_digest, qr_sealed, status)"
        " SELECT coalesce(d.id, gen_random_uuid()), $1, $2, uuid_send(gen_random_uuid()), '',"
        " uuid_send(gen_random_uuid()), '',"
        " CASE WHEN n % 2 = 0 THEN 'CLAIMED' ELSE 'UNCLAIMED' END"
        " FROM generate_series(1, 15) AS n"
        " LEFT JOIN (SELECT id, row_number() OVER (ORDER BY created_at) AS n FROM device) AS d USING (n)",
        space.organization_id,
        profile.id,
    )
    async with space.database.connection() as connection:
        whole = await store.stages(connection, space.organization_id)
        other = uuid4()
        await connection.execute(
            "INSERT INTO organization (id, name, path) VALUES ($1::uuid, 'another root', ARRAY[$1::uuid])", other
        )
        assert not (await store.seen(connection, space.organization_id)).whole
        assert await store.stages(connection, space.organization_id) == whole
        assert await store.stages(connection, other) == store.Stages(0, 0, 0, 0, 0, 0)
    assert (whole.devices, whole.tokens, whole.provisioned) == (12, 3, 6)
    assert whole.claimed > 8


@pytest.mark.parametrize("hours", BUCKETS)
async def test_attempts_are_counted_in_parts_of_the_time(
    space: Space, overview: Overview, clock: Clock, hours: int
) -> None:
    fleet = await Fleet.make(space)
    step, now = BUCKETS[hours], clock.now
    begin = now // step * step - hours * 3600 + step
    await attempt(space, begin - 1, fleet.profile.id)  # before
    await attempt(space, begin, fleet.profile.id)
    await attempt(space, begin + step - 1, fleet.profile.id, "failure", "NAME_TAKEN")
    await attempt(space, begin + step, fleet.profile.id, "pending", "APPROVAL_PENDING")
    await attempt(space, now - 1, fleet.profile.id, "success", "REPEATED")
    found = await series(overview, space.organization_id, hours)
    assert (found.begin, found.step, found.hours) == (begin, step, hours)
    parts = hours * 3600 // step
    assert {name: (len(counts), sum(counts)) for name, counts in found.outcomes.items()} == {
        "success": (parts, 2),
        "failure": (parts, 1),
        "pending": (parts, 1),
    }
    assert (found.outcomes["success"][0], found.outcomes["success"][-1]) == (1, 1)
    assert (found.reasons["NAME_TAKEN"][0], found.reasons["APPROVAL_PENDING"][1]) == (1, 1)
    assert set(found.reasons) == {"NAME_TAKEN", "APPROVAL_PENDING"}  # what was granted has no reason to be refused


async def test_only_what_is_new_is_counted_and_nothing_twice(space: Space, overview: Overview, clock: Clock) -> None:
    fleet = await Fleet.make(space)
    for age in (3_000, 100, 20, 3):
        await attempt(space, clock.now - age, fleet.profile.id)
    assert sum((await series(overview, space.organization_id)).outcomes["success"]) == 4
    await attempt(space, clock.now - 10, fleet.profile.id)  # committed late
    await attempt(space, clock.now, fleet.profile.id, "failure", "NAME_TAKEN")
    found = await series(overview, space.organization_id)
    assert (sum(found.outcomes["success"]), sum(found.outcomes["failure"])) == (5, 1)
    await space.rows("DELETE FROM attempt WHERE id < $1", ids.floor(clock.now - 60))  # as is done when they are old
    clock.advance(minutes=5)
    await attempt(space, clock.now, fleet.profile.id)
    found = await series(overview, space.organization_id)
    assert (sum(found.outcomes["success"]), sum(found.outcomes["failure"])) == (6, 1)
    clock.advance(minutes=6)  # past the first
    assert sum((await series(overview, space.organization_id)).outcomes["success"]) == 5
    clock.advance(hours=2)
    assert (await series(overview, space.organization_id)).outcomes == {}


async def test_each_sees_the_attempts_with_its_profiles(tree: Tree, overview: Overview, clock: Clock) -> None:
    space = tree.accounts.space
    profiles = Profiles(space.database, space.keys, tree.left.id, actor=OPERATOR)
    profile, _ = await profiles.create(ProfileChange(name="of left"))
    await attempt(space, clock.now - 5, profile.id)
    await attempt(space, clock.now - 5, None, "not_found", "KEY_UNKNOWN")
    totals = {}
    for name, organization in tree.by_name.items():
        found = await series(overview, organization.id)
        totals[name] = {each: sum(counts) for each, counts in found.outcomes.items()}
    assert totals == {
        "root": {"success": 1, "not_found": 1},
        "maker": {"success": 1},
        "left": {"success": 1},
        "right": {},
        "leaf": {},
    }


async def test_keys_that_end_come_first(space: Space, overview: Overview, clock: Clock) -> None:
    now = clock.time
    for name, budget, uses in (
        ("unbounded", KeyBudget(), 0),
        ("rate", KeyBudget(per_minute=60), 0),
        ("later", KeyBudget(not_after=now + timedelta(days=90)), 0),
        ("soon", KeyBudget(not_after=now + timedelta(days=2)), 0),
        ("nearly", KeyBudget(max_uses=10), 8),
        ("half", KeyBudget(max_uses=10), 5),
        ("used", KeyBudget(max_uses=10), 10),
        ("over", KeyBudget(not_after=now + timedelta(hours=1)), 0),
        ("forgotten", KeyBudget(not_after=now + timedelta(hours=2)), 0),
        ("coming", KeyBudget(not_before=now + timedelta(days=1), max_uses=10), 0),
    ):
        await space.profiles.create(ProfileChange(name=name), name, "s")
        await space.rows(
            "UPDATE provision_key SET not_before = $2, not_after = $3, max_uses = $4, per_minute = $5, uses = $6"
            " WHERE key = $1",
            name,
            budget.not_before,
            budget.not_after,
            budget.max_uses,
            budget.per_minute,
            uses,
        )
    for key, period in (("over", timedelta(hours=1)), ("forgotten", timedelta(days=15))):
        await space.rows("UPDATE provision_key SET not_after = now() - $2::interval WHERE key = $1", key, period)
    keys = (await overview.show(operator(space.organization_id))).keys
    assert keys is not None
    assert [(each.key, each.state) for each in keys] == [
        ("nearly", "ending"),
        ("soon", "ending"),
        ("over", "expired"),
        ("used", "used_up"),
        ("coming", "not_yet_valid"),
        ("half", "valid"),
        ("later", "valid"),
        ("rate", "valid"),
    ]
    assert (keys[0].uses, keys[0].max_uses, keys[0].profile) == (8, 10, "nearly")


async def test_who_may_not_see_profiles_sees_devices_alone(space: Space, overview: Overview) -> None:
    found = await overview.show(only(space.organization_id, Permission.DEVICES_VIEW))
    assert found.funnel is not None
    assert (found.attempts, found.keys) == (None, None)
    with pytest.raises(Forbidden):
        await overview.show(only(space.organization_id, Permission.PROFILES_VIEW))


async def test_devices_that_come_are_in_the_figures(space: Space, overview: Overview) -> None:
    fleet = await Fleet.make(space)
    await fleet.ask("one")
    await fleet.ask("one")
    await space.devices.create(DeviceRow(1, "by hand", None, False), fleet.profile.name)
    await space.provisioning.drain()
    overview._clock = Clock()
    assert (await funnel(overview, space.organization_id))[:3] == (2, 2, 1)
    found = await series(overview, space.organization_id)
    assert {name: sum(counts) for name, counts in found.outcomes.items()} == {"success": 1, "failure": 1}
    assert {name: sum(counts) for name, counts in found.reasons.items()} == {"ALREADY_PROVISIONED": 1}
