"""Whoever does whatever, in any order: nothing comes of it that reaches farther than he does."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provserver.core.authorization import ALL, PERMISSIONS, Permission, Principal, Role
from provserver.errors import Conflict, Forbidden, NotFound
from provserver.services.organizations import OrganizationChange
from provserver.services.users import UserChange
from tests.conftest import Space
from tests.services.accounts import Accounts, Tree
from tests.services.conftest import contents

PLACES = ("root", "maker", "left", "right", "leaf")
MANAGING = (
    Permission.ORGANIZATIONS_MANAGE,
    Permission.USERS_MANAGE,
    Permission.KEYS_MANAGE,
    Permission.USERS_VIEW,
    Permission.ORGANIZATIONS_VIEW,
)

held = st.one_of(
    st.sampled_from([*(PERMISSIONS[role] for role in Role), ALL]),
    st.sampled_from(list(Permission)).map(lambda one: ALL - {one}),
    st.frozensets(st.sampled_from(MANAGING)).map(lambda some: some | PERMISSIONS[Role.USER]),
    st.frozensets(st.sampled_from(MANAGING)).map(lambda some: some | PERMISSIONS[Role.STAFF]),
)


@dataclass(frozen=True)
class Act:
    """What somebody at a place, who may do this, does with something at another place."""

    kind: str
    place: str
    may: Collection[Permission]
    target: str
    role: Role
    permissions: Collection[Permission]
    number: int


acts = st.builds(
    Act,
    st.sampled_from(["invite", "promote", "rename", "address", "reset", "again", "remove", "key", "unkey", "found",
                     "change", "close"]),
    st.sampled_from(["root", "maker", *PLACES]),
    held,
    st.sampled_from(PLACES),
    st.sampled_from(list(Role)),
    st.frozensets(st.sampled_from(list(Permission)), min_size=1, max_size=4),
    st.integers(0, 9**9),
)  # fmt: skip


@pytest.fixture
async def tree(space: Space, tmp_path: Path) -> Tree:
    tree = await Tree.grow(Accounts(space, tmp_path))
    for name, role in zip(PLACES, (Role.ADMIN, Role.ADMIN, Role.STAFF, Role.USER, Role.USER), strict=True):
        await tree.accounts.user(f"{name}@example.com", role, tree.by_name[name])
        await tree.accounts.users.invite(tree.accounts.operator, f"invited@{name}.com", role, tree.by_name[name].id)
    return tree


async def do(tree: Tree, act: Act, principal: Principal) -> None:
    """Act on what is at the target: the organization itself, or its first user or key."""
    accounts, target = tree.accounts, tree.by_name[act.target].id
    there = await accounts.space.value('SELECT id FROM "user" WHERE organization_id = $1 ORDER BY id LIMIT 1', target)
    key = await accounts.space.value("SELECT id FROM api_key WHERE organization_id = $1 ORDER BY id LIMIT 1", target)
    user, some_key = there or UUID(int=1), key or UUID(int=1)
    text = f"n{act.number}"
    match act.kind:
        case "invite":
            await accounts.users.invite(principal, f"{text}@example.com", act.role, target)
        case "promote":
            await accounts.users.update(principal, user, UserChange(role=act.role))
        case "rename":
            await accounts.users.update(principal, user, UserChange(name=text))
        case "address":
            await accounts.users.update(principal, user, UserChange(email=f"{text}@example.com"))
        case "reset":
            await accounts.users.reset_password(principal, user)
        case "again":
            await accounts.users.invite_again(principal, user)
        case "remove":
            await accounts.users.delete(principal, user)
        case "key":
            await accounts.api_keys.create(principal, text, act.permissions, target)
        case "unkey":
            await accounts.api_keys.delete(principal, some_key)
        case "found":
            await accounts.organizations.create(principal, text, target)
        case "change":
            await accounts.organizations.update(
                principal, target, OrganizationChange(device_quota=act.number, token_quota=act.number)
            )
        case "close":
            await accounts.organizations.delete(principal, target)


Rows = dict[str, dict[UUID, tuple[object, ...]]]


async def state(tree: Tree) -> Rows:
    """Rows by id: the organization first, then what counts."""
    rows = tree.accounts.space.rows
    return {
        "user": {
            row["id"]: (row["organization_id"], row["role"], row["email"], row["name"])
            for row in await rows('SELECT * FROM "user"')
        },
        "link": {
            row["user_id"]: (row["organization_id"], row["role"], row["digest"])
            for row in await rows('SELECT * FROM one_time_link l JOIN "user" u ON u.id = l.user_id')
        },
        "key": {
            row["id"]: (row["organization_id"], tuple(row["permissions"]))
            for row in await rows("SELECT * FROM api_key")
        },
        "organization": {row["id"]: (row["id"], *tuple(row)) for row in await rows("SELECT * FROM organization")},
    }


def changes(before: Rows, after: Rows, table: str) -> list[tuple[object, ...]]:
    """The rows of a table that are not in both, as they were and as they are."""
    old, new = before[table], after[table]
    return [
        rows[id_]
        for id_ in old.keys() | new.keys()
        if old.get(id_) != new.get(id_)
        for rows in (old, new)
        if id_ in rows
    ]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(acts, min_size=4, max_size=12))
async def test_nothing_reaches_farther_than_who_does_it(tree: Tree, acts: list[Act]) -> None:
    space = tree.accounts.space
    for act in acts:
        if await space.value("SELECT count(*) FROM organization WHERE id = ANY($1)", ids(tree)) < len(PLACES):
            return  # one was deleted; the drawing ends here
        principal = Principal("user:0", tree.by_name[act.place].id, frozenset(act.may))
        before, everything = await state(tree), await contents(space)
        try:
            await do(tree, act, principal)
        except (Forbidden, NotFound, Conflict):
            assert await contents(space) == everything
            continue
        after = await state(tree)
        own = {tree.by_name[name].id for name in tree.sees(act.place)}
        below = {row[0] for rows in (before, after) for row in rows["organization"].values() if own & set(path(row))}
        for table in before:
            for row in changes(before, after, table):
                assert row[0] in below, act
        for row in changes(before, after, "user") + changes(before, after, "link"):
            assert Permission.USERS_MANAGE in act.may
            assert PERMISSIONS[Role(str(row[1]))] <= set(act.may), act
        for key in after["key"].keys() - before["key"].keys():
            assert Permission.KEYS_MANAGE in act.may
            granted = after["key"][key][1]
            assert isinstance(granted, tuple)
            assert set(granted) <= set(act.may), act
        for row in changes(before, after, "organization"):
            assert Permission.ORGANIZATIONS_MANAGE in act.may
            if act.kind == "change":
                assert row[0] != principal.organization_id or act.place == "root", act
    entries = (await tree.accounts.audit.list_(Principal("key:0", tree.root.id, ALL), limit=1000)).rows
    assert len(entries) == await space.value("SELECT count(*) FROM audit")


def ids(tree: Tree) -> list[UUID]:
    return [organization.id for organization in tree.by_name.values()]


def path(row: tuple[object, ...]) -> list[UUID]:
    """Of an organization's row: the one column that is a list."""
    (found,) = [value for value in row if isinstance(value, list)]
    return found
