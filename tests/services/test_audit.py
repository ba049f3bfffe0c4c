import os
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from provserver.core.accounts import Organization
from provserver.core.authorization import ALL, Permission, Principal, Role
from provserver.core.ids import time_of, uuid7
from provserver.core.search import Span
from provserver.errors import Forbidden, NotFound
from provserver.services.audit import AuditRow, Wanted
from provserver.services.organizations import OrganizationChange
from provserver.store import audit as store
from tests.conftest import Space
from tests.services.accounts import Accounts, Tree, only


async def record(tree: Tree, organization_id: UUID, actor: str, action: str) -> None:
    accounts = tree.accounts
    async with accounts.space.database.connection() as connection:
        await store.record(connection, uuid7(accounts.clock(), os.urandom), organization_id, actor, action, "x")


@pytest.fixture
async def tree(space: Space, tmp_path: Path) -> Tree:
    return await Tree.grow(Accounts(space, tmp_path))


@pytest.mark.parametrize("who", ["root", "maker", "left", "right", "leaf"])
async def test_each_reads_what_was_done_in_his_organization_and_those_below(tree: Tree, who: str) -> None:
    audit = tree.accounts.audit
    caller = only(tree.by_name[who].id, Permission.AUDIT_READ)

    entries = (await audit.list_(caller)).rows

    seen = {tree.by_name[name].id for name in tree.sees(who)}
    assert {each.organization_id for each in entries} == seen - {tree.root.id}
    for name, organization in tree.by_name.items():
        if name in tree.sees(who):
            below = {tree.by_name[each].id for each in tree.sees(name)} - {tree.root.id}
            listed = (await audit.list_(caller, organization=organization.id)).rows
            assert {each.organization_id for each in listed} == below
        else:
            with pytest.raises(NotFound):
                await audit.list_(caller, organization=organization.id)


async def test_it_is_read_from_the_newest_on_page_by_page(tree: Tree) -> None:
    audit, operator = tree.accounts.audit, tree.accounts.operator
    found = await audit.list_(operator)
    whole = list(found.rows)
    assert (found.cursor, found.searched_to) == (None, None)

    first = await audit.list_(operator, limit=3)
    rest = await audit.list_(operator, Wanted(Span.of(None, None, first.cursor)))

    assert [*first.rows, *rest.rows] == whole
    assert [each.subject_id for each in whole] == [
        str(each.id) for each in (tree.leaf, tree.right, tree.left, tree.maker)
    ]
    assert (await audit.list_(operator, Wanted(subject_id=str(tree.left.id)))).rows == [whole[2]]
    assert (whole[0].actor, whole[0].action, whole[0].detail) == ("operator", "organization.created", {"name": "leaf"})


async def test_entries_are_found_by_actor_action_and_time(tree: Tree) -> None:
    audit, operator = tree.accounts.audit, tree.accounts.operator
    await tree.accounts.organizations.update(operator, tree.left.id, OrganizationChange(name="west"))
    user, _ = await tree.accounts.users.invite(operator, "ada@example.com", Role.STAFF)
    await record(tree, tree.left.id, f"user:{user.id}", "device.created")
    await record(tree, tree.right.id, "key:x", "device.claimed")
    await record(tree, tree.right.id, "key:x", "devices.imported")

    async def found(who: Organization | None = None, **wanted: str) -> list[str]:
        caller = operator if who is None else only(who.id, Permission.AUDIT_READ)
        return [each.action for each in (await audit.list_(caller, Wanted(**wanted))).rows]  # type: ignore[arg-type]

    assert await found(actor="key:x") == ["devices.imported", "device.claimed"]
    assert await found(actor="ADA@example.com") == ["device.created"]
    assert await found(actor="nobody@example.com") == []
    assert await found(action="device") == ["device.claimed", "device.created"]
    assert await found(action="organization.updated") == ["organization.updated"]
    assert await found(action="device.created", actor="key:x") == []
    assert await found(tree.left, action="device") == ["device.created"]
    assert await found(tree.maker, action="device", actor="ada@example.com") == []  # who is above
    whole = (await audit.list_(operator)).rows
    middle = datetime.fromtimestamp(time_of(whole[2].id), UTC)
    later, sooner = Wanted(Span.of(middle, None)), Wanted(Span.of(None, middle))
    rows = [*(await audit.list_(operator, later)).rows, *(await audit.list_(operator, sooner)).rows]
    assert rows == whole


async def test_actors_are_named_to_those_above_them(tree: Tree) -> None:
    audit, operator = tree.accounts.audit, tree.accounts.operator
    user, _ = await tree.accounts.users.invite(operator, "ada@example.com", Role.STAFF, organization=tree.left.id)
    actors = [f"user:{user.id}", "operator", "user:x", f"key:{user.id}"]

    assert await audit.names(operator, actors) == {f"user:{user.id}": "ada@example.com"}
    assert await audit.names(only(tree.leaf.id, Permission.AUDIT_READ), actors) == {}


@pytest.mark.parametrize("few", [0, 20])
async def test_a_search_that_finds_little_stops_and_is_gone_on_with(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(store, "LOOKED", 10)
    monkeypatch.setattr(store, "_FEW", few)
    audit, caller = tree.accounts.audit, only(tree.maker.id, Permission.AUDIT_READ)
    await record(tree, tree.left.id, "key:x", "device.claimed")
    for number in range(30):
        await record(tree, (tree.left, tree.right)[number % 3 == 0].id, "operator", "device.created")

    seen: list[AuditRow] = []
    cursor, rounds = None, 0
    while True:
        found = await audit.list_(caller, Wanted(Span.of(None, None, cursor), actor="key:x"))
        seen += found.rows
        rounds, cursor = rounds + 1, found.cursor
        assert (cursor is None) == (found.searched_to is None)
        if cursor is None:
            break
    assert [each.action for each in seen] == ["device.claimed"]
    assert rounds > 2


async def test_it_needs_the_permission(tree: Tree) -> None:
    with pytest.raises(Forbidden):
        await tree.accounts.audit.list_(Principal("key:x", tree.root.id, ALL - {Permission.AUDIT_READ}))


async def test_an_export_has_what_can_be_seen_and_is_in_the_audit(tree: Tree) -> None:
    audit = tree.accounts.audit
    caller = only(tree.left.id, Permission.AUDIT_READ)
    await audit.head(tree.accounts.operator)

    lines = [line async for part in audit.export(caller) for line in part.splitlines()]

    entries = [msgspec.json.decode(line) for line in lines]
    assert [(each["action"], each["organizationId"]) for each in entries] == [
        ("organization.created", str(tree.left.id)),
        ("organization.created", str(tree.leaf.id)),
        ("audit.exported", str(tree.left.id)),
    ]
    assert [len(each["mac"] or "") for each in entries] == [66, 66, 0]
    with pytest.raises(NotFound):
        await anext(audit.export(caller, tree.right.id))
    with pytest.raises(Forbidden):
        await anext(audit.export(only(tree.left.id, Permission.DEVICES_VIEW)))


async def test_the_chain_is_for_the_top_of_the_tree(tree: Tree) -> None:
    audit, operator = tree.accounts.audit, tree.accounts.operator
    head = await audit.head(operator)
    assert (await audit.verify(operator, head)).broken is None
    for caller in (only(tree.maker.id, Permission.AUDIT_READ), only(tree.root.id, Permission.DEVICES_VIEW)):
        with pytest.raises(Forbidden):
            await audit.head(caller)
        with pytest.raises(Forbidden):
            await audit.verify(caller)


async def test_what_a_deleted_organization_did_is_read_above_it(tree: Tree) -> None:
    audit, operator = tree.accounts.audit, tree.accounts.operator
    await audit.head(operator)
    await tree.accounts.organizations.delete(operator, tree.leaf.id)

    for who in (tree.left, tree.root):
        listed = (await audit.list_(only(who.id, Permission.AUDIT_READ))).rows
        assert tree.leaf.id in {each.organization_id for each in listed}
    assert tree.leaf.id not in {
        each.organization_id for each in (await audit.list_(only(tree.right.id, Permission.AUDIT_READ))).rows
    }
    assert (await audit.verify(operator)).broken is None
