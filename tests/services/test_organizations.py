import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from provserver.core.accounts import Organization
from provserver.core.authorization import ALL, Permission, Principal, Role
from provserver.errors import Conflict, Forbidden, Invalid, NotFound, Refused, Stale
from provserver.services.organizations import OrganizationChange, check_quota
from provserver.store.database import Database
from tests.conftest import Space
from tests.services.accounts import Accounts, Tree, only
from tests.services.conftest import contents


@pytest.fixture
async def tree(space: Space, tmp_path: Path) -> Tree:
    return await Tree.grow(Accounts(space, tmp_path))


def admin(organization: Organization) -> Principal:
    return Principal(f"key:{uuid4()}", organization.id, ALL)


async def test_a_tree_knows_who_is_above_whom(tree: Tree) -> None:
    assert tree.root.path == (tree.root.id,)
    assert tree.leaf.path == (tree.root.id, tree.maker.id, tree.left.id, tree.leaf.id)
    assert tree.leaf.parent_id == tree.left.id
    assert len({each.number for each in tree.by_name.values()}) == 5
    assert (tree.leaf.device_quota, tree.leaf.token_quota, tree.leaf.sign_up, tree.leaf.revision) == (
        None,
        None,
        False,
        1,
    )


@pytest.mark.parametrize("who", ["root", "maker", "left", "right", "leaf"])
async def test_each_sees_itself_and_what_is_below_and_nothing_else(tree: Tree, who: str) -> None:
    organizations = tree.accounts.organizations
    principal = admin(tree.by_name[who])

    assert {each.id for each in await organizations.list_(principal)} == {
        tree.by_name[name].id for name in tree.sees(who)
    }
    for name, other in tree.by_name.items():
        for reference in (other.id, str(other.id), str(other.number), other.name):
            if name in tree.sees(who):
                shown = await organizations.show(principal, reference)
                assert (shown.id, shown.name, shown.number) == (other.id, other.name, other.number)
                # The tree begins with one's own: those above are not told.
                assert set(shown.path) <= {tree.by_name[each].id for each in tree.sees(who)}
                assert shown.path == other.path[-len(shown.path) :]
                assert shown.parent_id == (other.parent_id if name != who else None)
                continue
            before = await contents(tree.accounts.space)
            for act in (
                organizations.show(principal, reference),
                organizations.update(principal, reference, OrganizationChange(name="mine")),
                organizations.delete(principal, reference),
                organizations.create(principal, "mine", reference),
                organizations.list_(principal, parent=reference),
            ):
                with pytest.raises(NotFound):
                    await act
            assert await contents(tree.accounts.space) == before


@pytest.mark.parametrize("reference", ["", "nothing", "0", "9" * 40, "a\0b", "\ud800", str(UUID(int=7)), "٣"])
async def test_what_is_not_there_is_not_found(tree: Tree, reference: str) -> None:
    with pytest.raises(NotFound):
        await tree.accounts.organizations.show(tree.accounts.operator, reference)


async def test_a_name_that_several_have_says_nothing(tree: Tree) -> None:
    made = [await tree.accounts.organization("stores", parent) for parent in (tree.left, tree.right)]

    with pytest.raises(Conflict, match="number"):
        await tree.accounts.organizations.show(tree.accounts.operator, "stores")
    assert (await tree.accounts.organizations.show(admin(tree.right), "stores")).id == made[1].id


async def test_lists_go_on_where_the_last_page_ended(tree: Tree) -> None:
    organizations, operator = tree.accounts.organizations, tree.accounts.operator
    whole = await organizations.list_(operator)
    paged: list[Organization] = []
    cursor = None
    while page := await organizations.list_(operator, cursor, 2):
        paged += page
        cursor = page[-1].id

    assert paged == whole
    assert [each.id for each in whole] == sorted(each.id for each in whole)
    assert await organizations.list_(operator, parent="maker") == [tree.left, tree.right]


async def test_a_search_finds_nothing_that_is_not_below(tree: Tree) -> None:
    organizations = tree.accounts.organizations
    for who in ("root", "maker", "left", "right", "leaf"):
        principal = admin(tree.by_name[who])
        for name, other in tree.by_name.items():
            found = await organizations.list_(principal, search=other.name.upper())
            assert (other.id in {each.id for each in found}) == (name in tree.sees(who))
            listed = await organizations.list_(principal, ids=[other.id])
            assert [each.id for each in listed] == ([other.id] if name in tree.sees(who) else [])
            if name in tree.sees(who):
                assert await organizations.contents(principal, other.id)
                continue
            with pytest.raises(NotFound):
                await organizations.contents(principal, other.id)
    operator = tree.accounts.operator
    assert await organizations.parents(operator, tree.by_name.values()) == {
        tree.root.id,
        tree.maker.id,
        tree.left.id,
    }


async def test_every_act_needs_its_permission(tree: Tree) -> None:
    organizations = tree.accounts.organizations
    nobody = Principal("key:x", tree.root.id, ALL - {Permission.ORGANIZATIONS_VIEW, Permission.ORGANIZATIONS_MANAGE})
    before = await contents(tree.accounts.space)

    for act in (
        organizations.list_(nobody),
        organizations.show(nobody, tree.leaf.id),
        organizations.create(nobody, "new"),
        organizations.update(nobody, tree.leaf.id, OrganizationChange(name="new")),
        organizations.delete(nobody, tree.leaf.id),
    ):
        with pytest.raises(Forbidden):
            await act
    viewer = only(tree.root.id, Permission.ORGANIZATIONS_VIEW)
    with pytest.raises(Forbidden):
        await organizations.delete(viewer, tree.leaf.id)
    assert await contents(tree.accounts.space) == before


async def test_the_tree_has_four_levels(tree: Tree) -> None:
    with pytest.raises(Conflict, match="4 levels"):
        await tree.accounts.organization("too deep", tree.leaf)
    with pytest.raises(Conflict, match="sign up"):
        await tree.accounts.organization("open", tree.right, sign_up=True)
    with pytest.raises(Conflict, match="sign up"):
        await tree.accounts.organizations.update(tree.accounts.operator, tree.leaf.id, OrganizationChange(sign_up=True))
    assert (await tree.accounts.organization("open", tree.maker, sign_up=True)).sign_up


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "12", str(UUID(int=7)), "x" * 256])
async def test_names_that_mislead_are_refused(tree: Tree, name: str) -> None:
    before = await contents(tree.accounts.space)
    with pytest.raises(Invalid):
        await tree.accounts.organization(name)
    with pytest.raises(Invalid):
        await tree.accounts.organizations.update(tree.accounts.operator, "leaf", OrganizationChange(name=name))
    assert await contents(tree.accounts.space) == before


async def test_a_name_is_one_among_its_sisters(tree: Tree) -> None:
    with pytest.raises(Conflict, match="'left'"):
        await tree.accounts.organization("left", tree.maker)
    with pytest.raises(Conflict, match="'left'"):
        await tree.accounts.organizations.update(tree.accounts.operator, "right", OrganizationChange(name=" left "))
    assert (await tree.accounts.organization("left", tree.right)).name == "left"


async def test_of_equal_names_at_once_one_is_made(tree: Tree) -> None:
    made = await asyncio.gather(*(tree.accounts.organization("one") for _ in range(6)), return_exceptions=True)

    assert sum(isinstance(each, Conflict) for each in made) == 5


async def test_only_what_is_given_is_changed(tree: Tree) -> None:
    organizations, operator = tree.accounts.organizations, tree.accounts.operator

    changed = await organizations.update(operator, "right", OrganizationChange(name="new", device_quota=5))
    assert (changed.name, changed.device_quota, changed.token_quota, changed.revision) == ("new", 5, None, 2)
    changed = await organizations.update(operator, "new", OrganizationChange(token_quota=7, sign_up=True))
    assert (changed.device_quota, changed.token_quota, changed.sign_up) == (5, 7, True)
    changed = await organizations.update(operator, "new", OrganizationChange(device_quota=None, sign_up=False))
    assert (changed.device_quota, changed.token_quota, changed.sign_up) == (None, 7, False)
    assert await organizations.show(operator, "new") == changed
    assert changed.path == tree.right.path


@pytest.mark.parametrize("quota", [-1, 2**31])
async def test_quotas_are_numbers_that_can_be_kept(tree: Tree, quota: int) -> None:
    with pytest.raises(Invalid):
        await tree.accounts.organization("new", device_quota=quota)
    with pytest.raises(Invalid):
        await tree.accounts.organizations.update(tree.accounts.operator, "leaf", OrganizationChange(token_quota=quota))


async def test_a_change_meant_for_another_revision_is_refused(tree: Tree) -> None:
    organizations, operator = tree.accounts.organizations, tree.accounts.operator
    changes = [organizations.update(operator, "leaf", OrganizationChange(name=f"n{n}"), 1) for n in range(4)]

    done = await asyncio.gather(*changes, return_exceptions=True)

    # Those that look after the first is done no longer find the name they were given.
    assert sum(isinstance(each, Organization) for each in done) == 1
    assert all(isinstance(each, Organization | Stale | NotFound) for each in done)
    with pytest.raises(Stale):
        await organizations.delete(operator, tree.leaf.id, 1)
    await organizations.delete(operator, tree.leaf.id, 2)


async def test_nobody_below_the_root_sets_his_own_quotas(tree: Tree) -> None:
    organizations = tree.accounts.organizations
    await organizations.update(tree.accounts.operator, "left", OrganizationChange(device_quota=5))

    for change in (OrganizationChange(device_quota=6), OrganizationChange(device_quota=None, name="x")):
        with pytest.raises(Forbidden, match="above"):
            await organizations.update(admin(tree.left), "left", change)
    unchanged = await organizations.update(admin(tree.left), "left", OrganizationChange(name="west", device_quota=5))
    assert (unchanged.name, unchanged.device_quota) == ("west", 5)
    assert (await organizations.update(admin(tree.left), "leaf", OrganizationChange(device_quota=9))).device_quota == 9
    own = await organizations.update(tree.accounts.operator, tree.root.id, OrganizationChange(device_quota=100))
    assert own.device_quota == 100


async def test_what_has_nothing_is_deleted(tree: Tree) -> None:
    organizations, operator = tree.accounts.organizations, tree.accounts.operator
    key, secret = await tree.accounts.api_keys.create(operator, "k", [Permission.DEVICES_VIEW], tree.leaf.id)
    assert (await tree.accounts.api_keys.authenticate(secret)).organization_id == tree.leaf.id

    assert await organizations.delete(operator, "leaf") == tree.leaf

    with pytest.raises(NotFound):
        await organizations.show(operator, tree.leaf.id)
    with pytest.raises(Refused):
        await tree.accounts.api_keys.authenticate(secret)
    entries = (await tree.accounts.audit.list_(operator, organization="left")).rows
    assert [(each.action, each.subject_id) for each in entries] == [
        ("organization.deleted", str(tree.leaf.id)),
        ("api_key.created", str(key.id)),
        ("organization.created", str(tree.leaf.id)),
        ("organization.created", str(tree.left.id)),
    ]
    assert entries[0].detail == {"name": "leaf"}
    assert key.organization_id == tree.leaf.id


async def test_what_has_something_is_not_deleted(tree: Tree) -> None:
    accounts = tree.accounts
    organizations, operator = accounts.organizations, accounts.operator
    space = accounts.space

    with pytest.raises(Conflict, match="still has organizations"):
        await organizations.delete(operator, "left")
    await accounts.users.invite(operator, "ann@example.com", Role.USER, "leaf")
    with pytest.raises(Conflict, match="still has users"):
        await organizations.delete(operator, "leaf")
    await accounts.users.delete(operator, "ann@example.com")
    made = await accounts.device(space.organization_id, holder=tree.leaf.id)
    with pytest.raises(Conflict, match="still has devices"):
        await organizations.delete(operator, "leaf")
    await space.rows("DELETE FROM device WHERE id = $1", made)
    await space.rows(
        "INSERT INTO device_profile (id, organization_id, name, template_id, strategy, reprovision_policy)"
        " VALUES ($1, $2, 'p', 't', 'DISABLED', 'deny')",
        uuid4(),
        tree.leaf.id,
    )
    await accounts.device(tree.leaf.id)
    with pytest.raises(Conflict, match="device profiles and devices"):
        await organizations.delete(operator, "leaf")


async def test_nobody_deletes_his_own_nor_the_root(tree: Tree) -> None:
    for who in (tree.root, tree.left):
        with pytest.raises(Conflict, match="belongs to"):
            await tree.accounts.organizations.delete(admin(who), who.id)


async def test_what_was_done_is_recorded(tree: Tree) -> None:
    principal = admin(tree.left)
    made = await tree.accounts.organizations.create(principal, "new")
    await tree.accounts.organizations.update(tree.accounts.operator, made.id, OrganizationChange(device_quota=None))
    await tree.accounts.organizations.delete(principal, made.id)

    assert await tree.accounts.actions(made.id) == [
        (principal.actor, "organization.created"),
        ("operator", "organization.updated"),
        (principal.actor, "organization.deleted"),
    ]


# Quotas


async def allowed(tree: Tree, organization: Organization, *, devices: int = 0, tokens: int = 0) -> bool:
    async with tree.accounts.space.database.transaction() as connection:
        try:
            await check_quota(connection, organization.id, devices, tokens)
        except Conflict:
            return False
        return True


async def token(tree: Tree, organization: Organization) -> None:
    space = tree.accounts.space
    profile = await space.value("SELECT id FROM device_profile WHERE organization_id = $1", organization.id)
    if profile is None:
        profile = await space.value(
            "INSERT INTO device_profile (id, organization_id, name, template_id, strategy, reprovision_policy)"
            " VALUES ($1, $2, 'p', $3, 'DISABLED', 'deny') RETURNING id",
            uuid4(),
            organization.id,
            str(uuid4()),
        )
    made = uuid4()
    await space.rows(
        "INSERT INTO static_token (id, organization_id, profile_id, id_digest, sealed, qr_digest, qr_sealed)"
        " VALUES ($1, $2, $3, $4, '', $4, '')",
        made,
        organization.id,
        profile,
        made.bytes,
    )


async def test_without_quotas_everything_is_allowed(tree: Tree) -> None:
    assert await allowed(tree, tree.leaf, devices=10**9, tokens=10**9)


async def test_a_quota_counts_the_organization_and_all_below(tree: Tree) -> None:
    accounts = tree.accounts
    await accounts.organizations.update(accounts.operator, "left", OrganizationChange(device_quota=4, token_quota=3))
    await accounts.device(tree.left.id)  # made there, and still there
    await accounts.device(tree.maker.id, holder=tree.leaf.id)  # made elsewhere, held there
    await accounts.device(tree.leaf.id, holder=tree.left.id)
    await accounts.device(tree.left.id, holder=tree.right.id)  # made there, and gone
    await accounts.device(tree.right.id)
    await token(tree, tree.left)
    await token(tree, tree.leaf)
    await token(tree, tree.right)

    assert await allowed(tree, tree.left, devices=1, tokens=1)
    assert await allowed(tree, tree.leaf, devices=1)
    assert not await allowed(tree, tree.leaf, devices=2)
    assert not await allowed(tree, tree.left, tokens=2)
    assert not await allowed(tree, tree.leaf, devices=1, tokens=2)
    assert await allowed(tree, tree.right, devices=100, tokens=100)
    assert await allowed(tree, tree.maker, devices=100, tokens=100)


async def test_every_quota_on_the_way_down_counts(tree: Tree) -> None:
    accounts = tree.accounts
    for organization, quota in ((tree.root, 3), (tree.left, 2), (tree.leaf, 5)):
        await accounts.organizations.update(accounts.operator, organization.id, OrganizationChange(device_quota=quota))

    assert await allowed(tree, tree.leaf, devices=2)
    assert not await allowed(tree, tree.leaf, devices=3)
    await accounts.device(tree.right.id)
    await accounts.device(tree.right.id)
    assert await allowed(tree, tree.leaf, devices=1)
    assert not await allowed(tree, tree.leaf, devices=2)


async def test_a_quota_of_those_above_is_not_told(tree: Tree) -> None:
    accounts = tree.accounts
    await accounts.organizations.update(accounts.operator, "maker", OrganizationChange(device_quota=41))
    async with accounts.space.database.transaction() as connection:
        with pytest.raises(Conflict) as refused:
            await check_quota(connection, tree.leaf.id, devices=42)
        with pytest.raises(Conflict, match="41"):
            await check_quota(connection, tree.maker.id, devices=42)
    assert "41" not in str(refused.value)
    assert "maker" not in str(refused.value)


async def test_what_moves_is_not_counted_twice_by_who_is_above_both(tree: Tree) -> None:
    accounts = tree.accounts
    await accounts.organizations.update(accounts.operator, "maker", OrganizationChange(device_quota=1))
    await accounts.organizations.update(accounts.operator, "left", OrganizationChange(device_quota=0))
    await accounts.device(tree.maker.id)

    async def move(where: Organization) -> None:
        async with accounts.space.database.transaction() as connection:
            await check_quota(connection, where.id, devices=1, coming_from=tree.maker.id)

    await move(tree.right)
    with pytest.raises(Conflict):
        await move(tree.left)
    assert not await allowed(tree, tree.right, devices=1)


async def test_an_organization_that_is_gone_has_no_room(tree: Tree) -> None:
    async with tree.accounts.space.database.transaction() as connection:
        with pytest.raises(NotFound):
            await check_quota(connection, uuid4())


async def test_of_many_at_once_no_more_are_let_in_than_the_quota_allows(tree: Tree) -> None:
    accounts = tree.accounts
    await accounts.organizations.update(accounts.operator, "maker", OrganizationChange(device_quota=5))
    await accounts.organizations.update(accounts.operator, "left", OrganizationChange(device_quota=2))

    async def make(organization: Organization) -> bool:
        async with accounts.space.database.transaction() as connection:
            try:
                await check_quota(connection, organization.id, devices=1)
            except Conflict:
                return False
            await connection.execute(
                "INSERT INTO device (id, organization_id, profile_id, name) VALUES ($1, $2, $1, $3)",
                made := uuid4(),
                organization.id,
                str(made),
            )
            return True

    done = await asyncio.gather(*(make(each) for each in (tree.leaf, tree.right, tree.left) * 4))

    assert sum(done) == 5
    assert sum(done[0::3]) + sum(done[2::3]) <= 2


async def test_who_cannot_wait_for_a_quota_is_told_to_try_again(tree: Tree, database_url: str) -> None:
    accounts = tree.accounts
    await accounts.organizations.update(accounts.operator, "maker", OrganizationChange(device_quota=5))
    serving = Database(database_url, size=1, serving=True)
    await serving.open()
    try:
        async with accounts.space.database.transaction() as connection:
            await check_quota(connection, tree.left.id, devices=1)
            with pytest.raises(Conflict, match="again"):
                async with serving.transaction() as other:
                    await check_quota(other, tree.right.id, devices=1)
        async with serving.transaction() as other:
            await check_quota(other, tree.right.id, devices=1)
    finally:
        await serving.close()


async def test_what_is_counted_is_not_deleted_meanwhile(tree: Tree) -> None:
    accounts = tree.accounts
    async with accounts.space.database.transaction() as connection:
        await check_quota(connection, tree.leaf.id, devices=1)
        deleting = asyncio.create_task(accounts.organizations.delete(accounts.operator, "leaf"))
        await connection.execute(
            "INSERT INTO device (id, organization_id, profile_id, name, holder_id) VALUES ($1, $2, $1, 'd', $3)",
            uuid4(),
            tree.maker.id,
            tree.leaf.id,
        )
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await connection.execute("SELECT pg_stat_clear_snapshot()")
    with pytest.raises(Conflict, match="still has devices"):
        await deleting
