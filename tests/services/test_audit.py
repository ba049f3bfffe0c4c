from pathlib import Path

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
