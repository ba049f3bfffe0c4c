from pathlib import Path

import msgspec
import pytest

from provserver.core.authorization import ALL, Permission, Principal
from provserver.errors import Forbidden, NotFound
from tests.conftest import Space
from tests.services.accounts import Accounts, Tree, only


@pytest.fixture
async def tree(space: Space, tmp_path: Path) -> Tree:
    return await Tree.grow(Accounts(space, tmp_path))


@pytest.mark.parametrize("who", ["root", "maker", "left", "right", "leaf"])
async def test_each_reads_what_was_done_in_his_organization_and_those_below(tree: Tree, who: str) -> None:
    audit = tree.accounts.audit
    caller = only(tree.by_name[who].id, Permission.AUDIT_READ)

    entries = await audit.list_(caller)

    seen = {tree.by_name[name].id for name in tree.sees(who)}
    assert {each.organization_id for each in entries} == seen - {tree.root.id}
    for name, organization in tree.by_name.items():
        if name in tree.sees(who):
            below = {tree.by_name[each].id for each in tree.sees(name)} - {tree.root.id}
            listed = await audit.list_(caller, organization=organization.id)
            assert {each.organization_id for each in listed} == below
        else:
            with pytest.raises(NotFound):
                await audit.list_(caller, organization=organization.id)


async def test_it_is_read_from_the_newest_on_page_by_page(tree: Tree) -> None:
    audit, operator = tree.accounts.audit, tree.accounts.operator
    whole = await audit.list_(operator)

    first = await audit.list_(operator, limit=3)
    rest = await audit.list_(operator, first[-1].id)

    assert first + rest == whole
    assert [each.subject_id for each in whole] == [
        str(each.id) for each in (tree.leaf, tree.right, tree.left, tree.maker)
    ]
    assert await audit.list_(operator, subject_id=str(tree.left.id)) == [whole[2]]
    assert (whole[0].actor, whole[0].action, whole[0].detail) == ("operator", "organization.created", {"name": "leaf"})


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
        listed = await audit.list_(only(who.id, Permission.AUDIT_READ))
        assert tree.leaf.id in {each.organization_id for each in listed}
    assert tree.leaf.id not in {
        each.organization_id for each in await audit.list_(only(tree.right.id, Permission.AUDIT_READ))
    }
    assert (await audit.verify(operator)).broken is None
