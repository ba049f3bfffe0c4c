from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core.authorization import ALL, PERMISSIONS, Permission, Principal, Role
from provserver.core.ids import ALPHANUMERIC
from provserver.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from provserver.services.api_keys import _SECRET
from tests.conftest import Space
from tests.services.accounts import Accounts, Tree
from tests.services.conftest import contents

VIEW = Permission.DEVICES_VIEW


@pytest.fixture
def accounts(space: Space, tmp_path: Path) -> Accounts:
    return Accounts(space, tmp_path)


@pytest.fixture
async def tree(accounts: Accounts) -> Tree:
    return await Tree.grow(accounts)


async def test_a_key_is_shown_once_and_stands_for_what_it_may(accounts: Accounts) -> None:
    key, secret = await accounts.api_keys.create(accounts.operator, " ci ", [VIEW, Permission.TOKENS_MANAGE, VIEW])

    assert secret.startswith("psk_")
    assert len(secret) == 44
    assert set(secret[4:]) <= set(ALPHANUMERIC)
    assert (key.name, key.hint, key.created_by) == ("ci", secret[:8], "operator")
    assert key.permissions == (VIEW, Permission.TOKENS_MANAGE)
    assert (key.expires_at, key.last_used_at) == (None, None)
    assert secret not in repr(key)
    assert secret not in repr(await contents(accounts.space))
    assert await accounts.api_keys.authenticate(secret) == Principal(
        f"key:{key.id}", accounts.space.organization_id, frozenset({VIEW, Permission.TOKENS_MANAGE})
    )
    assert await accounts.actions(key.id) == [("operator", "api_key.created")]


@pytest.mark.parametrize("secret", ["", "psk_", "psk_" + "a" * 39, "psk_" + "a" * 40, "psk_" + "a" * 41, "\ud800"])
async def test_others_stand_for_nobody(accounts: Accounts, secret: str) -> None:
    _, real = await accounts.api_keys.create(accounts.operator, "ci", [VIEW])

    for wrong in (secret, real[:-1], real + "x", real.swapcase(), f"{real}\n", f" {real}"):
        with pytest.raises(Unauthenticated):
            await accounts.api_keys.authenticate(wrong)


@given(st.text())
def test_only_what_has_the_form_is_looked_up(text: str) -> None:
    assert not _SECRET.fullmatch(text) or (text.isascii() and len(text) == 44)


async def test_a_key_may_do_a_part_of_what_its_maker_may(accounts: Accounts) -> None:
    maker = Principal("user:1", accounts.space.organization_id, frozenset({VIEW, Permission.KEYS_MANAGE}))
    before = await contents(accounts.space)

    with pytest.raises(Forbidden, match="audit:read, users:manage"):
        await accounts.api_keys.create(maker, "more", [VIEW, Permission.USERS_MANAGE, Permission.AUDIT_READ])
    with pytest.raises(Forbidden):
        await accounts.api_keys.create(maker, "all", ALL)
    with pytest.raises(Invalid):
        await accounts.api_keys.create(maker, "none", [])
    assert await contents(accounts.space) == before
    await accounts.api_keys.create(maker, "same", [VIEW, Permission.KEYS_MANAGE])


async def test_every_act_needs_the_permission(accounts: Accounts) -> None:
    key, _ = await accounts.api_keys.create(accounts.operator, "ci", [VIEW])
    for permissions in (PERMISSIONS[Role.STAFF], PERMISSIONS[Role.USER], ALL - {Permission.KEYS_MANAGE}):
        caller = Principal("user:x", accounts.space.organization_id, permissions)
        for act in (
            accounts.api_keys.create(caller, "mine", [VIEW]),
            accounts.api_keys.list_(caller),
            accounts.api_keys.show(caller, key.id),
            accounts.api_keys.delete(caller, key.id),
        ):
            with pytest.raises(Forbidden):
                await act


@pytest.mark.parametrize("who", ["root", "maker", "left", "right", "leaf"])
async def test_each_has_the_keys_of_his_organization_and_those_below(tree: Tree, who: str) -> None:
    keys = tree.accounts.api_keys
    there = {name: (await keys.create(tree.accounts.operator, f"of {name}", [VIEW], name))[0] for name in tree.by_name
             if name != "root"}  # fmt: skip
    there["root"], _ = await keys.create(tree.accounts.operator, "of root", [VIEW])
    caller = Principal("user:x", tree.by_name[who].id, ALL)

    assert {each.name for each in await keys.list_(caller)} == {f"of {name}" for name in tree.sees(who)}
    for name, key in there.items():
        if name in tree.sees(who):
            assert await keys.show(caller, key.id) == await keys.show(caller, key.name) == key
            assert await keys.list_(caller, organization=tree.by_name[name].id) == [key]
            continue
        for act in (
            keys.show(caller, key.id),
            keys.delete(caller, str(key.id)),
            keys.delete(caller, key.name),
            keys.create(caller, "mine", [VIEW], tree.by_name[name].id),
            keys.list_(caller, organization=name),
        ):
            with pytest.raises(NotFound):
                await act
    assert len(await keys.list_(tree.accounts.operator)) == 5


async def test_a_deleted_key_is_good_for_nothing(accounts: Accounts) -> None:
    key, secret = await accounts.api_keys.create(accounts.operator, "ci", [VIEW])

    assert await accounts.api_keys.delete(accounts.operator, "ci") == key

    with pytest.raises(Unauthenticated):
        await accounts.api_keys.authenticate(secret)
    with pytest.raises(NotFound):
        await accounts.api_keys.delete(accounts.operator, key.id)
    assert await accounts.actions(key.id) == [("operator", "api_key.created"), ("operator", "api_key.deleted")]


async def test_a_key_ends_when_it_was_to(accounts: Accounts) -> None:
    end = accounts.clock.time + timedelta(days=30)
    key, secret = await accounts.api_keys.create(accounts.operator, "ci", [VIEW], expires_at=end)
    assert key.expires_at == end

    accounts.clock.advance(days=29, hours=23, minutes=59)
    await accounts.api_keys.authenticate(secret)
    accounts.clock.advance(minutes=1)
    with pytest.raises(Unauthenticated):
        await accounts.api_keys.authenticate(secret)
    with pytest.raises(Invalid, match="expired already"):
        await accounts.api_keys.create(accounts.operator, "late", [VIEW], expires_at=end)
    with pytest.raises(Invalid, match="needs a time zone"):
        await accounts.api_keys.create(accounts.operator, "when", [VIEW], expires_at=end.replace(tzinfo=None))


async def test_a_key_makes_none_that_outlives_it(accounts: Accounts) -> None:
    end = accounts.clock.time + timedelta(days=30)
    _, secret = await accounts.api_keys.create(accounts.operator, "ci", [VIEW, Permission.KEYS_MANAGE], expires_at=end)
    caller = await accounts.api_keys.authenticate(secret)

    for late in (None, end + timedelta(seconds=1)):
        with pytest.raises(Forbidden, match="expires at"):
            await accounts.api_keys.create(caller, "child", [VIEW], expires_at=late)
    child, _ = await accounts.api_keys.create(caller, "child", [VIEW], expires_at=end)
    assert child.created_by == caller.actor
    _, everlasting = await accounts.api_keys.create(accounts.operator, "root", [VIEW, Permission.KEYS_MANAGE])
    await accounts.api_keys.create(await accounts.api_keys.authenticate(everlasting), "grandchild", [VIEW])


async def test_a_key_that_was_deleted_meanwhile_makes_none(accounts: Accounts) -> None:
    key, secret = await accounts.api_keys.create(accounts.operator, "ci", [VIEW, Permission.KEYS_MANAGE])
    caller = await accounts.api_keys.authenticate(secret)
    await accounts.api_keys.delete(accounts.operator, key.id)

    with pytest.raises(Unauthenticated):
        await accounts.api_keys.create(caller, "child", [VIEW])


async def test_its_use_is_noted_once_a_minute(accounts: Accounts) -> None:
    key, secret = await accounts.api_keys.create(accounts.operator, "ci", [VIEW])

    async def noted() -> object:
        await accounts.api_keys.authenticate(secret)
        return (await accounts.api_keys.show(accounts.operator, key.id)).last_used_at

    first = await noted()
    assert first is not None
    accounts.clock.advance(seconds=55)
    assert await noted() == first
    accounts.clock.advance(seconds=5)
    assert await noted() != first


async def test_a_name_is_one_in_its_organization(tree: Tree) -> None:
    keys, operator = tree.accounts.api_keys, tree.accounts.operator
    await keys.create(operator, "ci", [VIEW])
    with pytest.raises(Conflict, match="'ci'"):
        await keys.create(operator, "ci", [VIEW])
    with pytest.raises(Invalid):
        await keys.create(operator, "", [VIEW])
    with pytest.raises(Invalid, match="id"):
        await keys.create(operator, str(UUID(int=1)), [VIEW])
    below, _ = await keys.create(operator, "ci", [VIEW], tree.leaf.id)

    with pytest.raises(Conflict, match="by its id"):
        await keys.delete(operator, "ci")
    assert (await keys.show(operator, below.id)).organization_id == tree.leaf.id
    with pytest.raises(NotFound):
        await keys.show(operator, UUID(int=1))


async def test_a_permission_that_this_release_does_not_know_is_none(accounts: Accounts) -> None:
    key, secret = await accounts.api_keys.create(accounts.operator, "ci", [VIEW])
    await accounts.space.rows("UPDATE api_key SET permissions = '{devices:view,world:rule}' WHERE id = $1", key.id)

    assert (await accounts.api_keys.authenticate(secret)).permissions == {VIEW}
