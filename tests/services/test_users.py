import asyncio
import itertools
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from provserver.core.authorization import ALL, PERMISSIONS, Permission, Principal, Role
from provserver.errors import Conflict, Forbidden, Invalid, NotFound, Refused, Stale, TooManyRequests
from provserver.services.organizations import OrganizationChange
from provserver.services.users import INVITATION_PERIOD, UserChange
from tests.conftest import Space
from tests.services.accounts import ADDRESS, PASSWORD, Accounts, Tree, only, principal
from tests.services.conftest import contents


@pytest.fixture
def accounts(space: Space, tmp_path: Path) -> Accounts:
    return Accounts(space, tmp_path)


@pytest.fixture
async def tree(accounts: Accounts) -> Tree:
    return await Tree.grow(accounts)


async def test_who_is_invited_chooses_a_password_once(accounts: Accounts) -> None:
    user, link = await accounts.users.invite(accounts.operator, " Ann@Example.com ", Role.STAFF, name="Ann")
    assert (user.email, user.name, user.role) == ("ann@example.com", "Ann", Role.STAFF)
    assert (user.accepted, user.activated_at, user.organization_id) == (False, None, accounts.space.organization_id)

    accepted = await accounts.users.accept_invitation(link, PASSWORD, "Ann Miller")

    assert (accepted.id, accepted.accepted, accepted.activated_at) == (user.id, True, None)
    assert accepted.name == "Ann Miller"
    with pytest.raises(NotFound, match="not good"):
        await accounts.users.accept_invitation(link, "another password")
    _, _, signed_in = await accounts.sign_in.password("ann@example.com", PASSWORD, ADDRESS)
    assert signed_in.id == user.id
    assert await accounts.actions(user.id) == [
        ("operator", "user.invited"),
        (f"user:{user.id}", "user.accepted"),
        (f"user:{user.id}", "user.signed_in"),
    ]


async def test_nothing_secret_is_kept(accounts: Accounts) -> None:
    user, link = await accounts.users.invite(accounts.operator, "ann@example.com", Role.ADMIN)
    kept = repr(await contents(accounts.space))
    await accounts.users.accept_invitation(link, PASSWORD)
    reset = await accounts.users.reset_password(accounts.operator, user.id)
    token, csrf, _ = await accounts.sign_in.password("ann@example.com", PASSWORD, ADDRESS)

    kept += repr(await contents(accounts.space))
    for secret in (link, reset, token, csrf, PASSWORD):
        assert secret not in kept
    assert "$argon2id$v=19$m=19456,t=2,p=1$" in kept


async def test_a_name_stays_unless_another_is_given(accounts: Accounts) -> None:
    _, link = await accounts.users.invite(accounts.operator, "ann@example.com", Role.USER, name="Ann")

    assert (await accounts.users.accept_invitation(link, PASSWORD)).name == "Ann"


async def test_of_two_who_accept_at_once_one_does(accounts: Accounts) -> None:
    _, link = await accounts.users.invite(accounts.operator, "ann@example.com", Role.USER)
    chosen = [f"{PASSWORD} {n}" for n in range(6)]

    done = await asyncio.gather(
        *(accounts.users.accept_invitation(link, each) for each in chosen), return_exceptions=True
    )

    assert sum(isinstance(each, NotFound) for each in done) == 5
    (winner,) = [n for n, each in enumerate(done) if not isinstance(each, BaseException)]
    await accounts.sign_in.password("ann@example.com", chosen[winner], ADDRESS)
    assert [action for _, action in await accounts.actions()].count("user.accepted") == 1


async def test_an_invitation_is_good_for_a_week(accounts: Accounts) -> None:
    user, link = await accounts.users.invite(accounts.operator, "ann@example.com", Role.USER)
    accounts.clock.now += INVITATION_PERIOD.total_seconds()
    with pytest.raises(NotFound):
        await accounts.users.accept_invitation(link, PASSWORD)
    assert timedelta(days=7) == INVITATION_PERIOD

    again = await accounts.users.invite_again(accounts.operator, user.id)
    newest = await accounts.users.invite_again(accounts.operator, user.id)
    with pytest.raises(NotFound):
        await accounts.users.accept_invitation(again, PASSWORD)
    accounts.clock.advance(days=6, hours=23)
    await accounts.users.accept_invitation(newest, PASSWORD)
    with pytest.raises(Conflict, match="accepted already"):
        await accounts.users.invite_again(accounts.operator, user.id)


@pytest.mark.parametrize("link", ["", "x", "\ud800", "\0", "a" * 100_000])
async def test_whatever_is_no_link_is_not_good(accounts: Accounts, link: str) -> None:
    with pytest.raises(NotFound):
        await accounts.users.accept_invitation(link, PASSWORD)
    with pytest.raises(NotFound):
        await accounts.sign_in.choose_password(link, PASSWORD, ADDRESS)
    with pytest.raises(NotFound):
        await accounts.sign_in.set_up(link, "ann@example.com", PASSWORD)


async def test_a_link_is_good_for_its_purpose_only(accounts: Accounts) -> None:
    user, _ = await accounts.user("ann@example.com")
    _, invitation = await accounts.users.invite(accounts.operator, "bob@example.com", Role.USER)
    reset = await accounts.users.reset_password(accounts.operator, user.id)

    for act in (
        accounts.users.accept_invitation(reset, PASSWORD),
        accounts.sign_in.set_up(reset, "eve@example.com", PASSWORD),
        accounts.sign_in.choose_password(invitation, PASSWORD, ADDRESS),
        accounts.sign_in.set_up(invitation, "eve@example.com", PASSWORD),
    ):
        with pytest.raises(NotFound):
            await act


async def test_a_bad_password_does_not_cost_the_link(accounts: Accounts) -> None:
    _, link = await accounts.users.invite(accounts.operator, "ann.miller@example.com", Role.USER)
    for password in ("short", "password123", "Ann.Miller@example.com"):
        with pytest.raises(Invalid):
            await accounts.users.accept_invitation(link, password)

    await accounts.users.accept_invitation(link, PASSWORD)


async def test_an_address_is_of_one_user(accounts: Accounts) -> None:
    await accounts.users.invite(accounts.operator, "ann@example.com", Role.USER)
    await accounts.users.invite(accounts.operator, "bob@example.com", Role.USER)

    with pytest.raises(Conflict, match="already"):
        await accounts.users.invite(accounts.operator, "ANN@example.COM", Role.USER)
    with pytest.raises(Conflict, match="already"):
        await accounts.users.update(accounts.operator, "bob@example.com", UserChange(email="Ann@example.com"))
    done = await asyncio.gather(
        *(accounts.users.invite(accounts.operator, email, Role.USER) for email in ("eve@x.de", "Eve@x.de") * 3),
        return_exceptions=True,
    )
    assert sum(isinstance(each, Conflict) for each in done) == 5


@pytest.mark.parametrize("who", ["root", "maker", "left", "right", "leaf"])
async def test_each_sees_the_users_below_and_acts_on_them_only(tree: Tree, who: str) -> None:
    users = tree.accounts.users
    there = {name: (await users.invite(tree.accounts.operator, f"{name}@example.com", Role.USER, each.id))[0]
             for name, each in tree.by_name.items()}  # fmt: skip
    caller = Principal("key:x", tree.by_name[who].id, ALL)

    assert {each.email for each in await users.list_(caller)} == {f"{name}@example.com" for name in tree.sees(who)}
    for name, user in there.items():
        if name in tree.sees(who):
            assert await users.show(caller, user.id) == await users.show(caller, user.email.upper()) == user
            assert await users.list_(caller, organization=tree.by_name[name].id) == [user]
            continue
        before = await contents(tree.accounts.space)
        for act in (
            users.show(caller, user.id),
            users.show(caller, user.email),
            users.update(caller, user.id, UserChange(name="x")),
            users.update(caller, user.id, UserChange(role=Role.ADMIN)),
            users.delete(caller, user.id),
            users.invite_again(caller, user.id),
            users.reset_password(caller, user.id),
            users.list_(caller, organization=tree.by_name[name].id),
            users.invite(caller, "new@example.com", Role.USER, tree.by_name[name].id),
        ):
            with pytest.raises(NotFound):
                await act
        assert await contents(tree.accounts.space) == before


async def test_lists_go_on_where_the_last_page_ended(accounts: Accounts) -> None:
    for n in range(5):
        await accounts.users.invite(accounts.operator, f"u{n}@example.com", Role.USER)
    whole = await accounts.users.list_(accounts.operator)

    first = await accounts.users.list_(accounts.operator, limit=2)
    rest = await accounts.users.list_(accounts.operator, first[-1].id, 50)
    assert first + rest == whole
    assert [user.email for user in whole] == [f"u{n}@example.com" for n in range(5)]


async def test_every_act_needs_its_permission(accounts: Accounts) -> None:
    users = accounts.users
    user, own = await accounts.user("ann@example.com", Role.USER)
    other, _ = await accounts.user("bob@example.com", Role.USER)
    blind = Principal("key:x", accounts.space.organization_id, ALL - {Permission.USERS_VIEW, Permission.USERS_MANAGE})
    staff = Principal("key:x", accounts.space.organization_id, PERMISSIONS[Role.STAFF])
    before = await contents(accounts.space)

    for caller in (own, blind, staff):
        for act in (
            users.invite(caller, "new@example.com", Role.USER),
            users.invite_again(caller, other.id),
            users.update(caller, other.id, UserChange(name="x")),
            users.delete(caller, other.id),
            users.reset_password(caller, other.id),
        ):
            with pytest.raises(Forbidden):
                await act
    for caller in (own, blind):
        for refused in (users.list_(caller), users.show(caller, other.id), users.show(caller, uuid4())):
            with pytest.raises(Forbidden):
                await refused
    assert await contents(accounts.space) == before
    assert await users.show(own, user.id) == user
    assert len(await users.list_(staff)) == 2


async def test_everyone_may_change_his_own_name_and_no_more(accounts: Accounts) -> None:
    user, own = await accounts.user("ann@example.com", Role.USER)

    changed = await accounts.users.update(own, user.id, UserChange(name="Ann"))

    assert (changed.name, changed.revision) == ("Ann", user.revision + 1)
    for change in (UserChange(role=Role.ADMIN), UserChange(email="x@example.com"), UserChange("x", role=Role.USER)):
        with pytest.raises(Forbidden):
            await accounts.users.update(own, user.id, change)
    with pytest.raises(Forbidden):
        await accounts.users.delete(own, user.id)


@pytest.mark.parametrize(("mine", "role"), list(itertools.product([*Role, None], Role)))
async def test_nobody_gives_more_than_he_has(accounts: Accounts, mine: Role | None, role: Role) -> None:
    """mine: a role's permissions and that of managing users; None: that alone."""
    own = (PERMISSIONS[mine] if mine else frozenset()) | {Permission.USERS_MANAGE, Permission.USERS_VIEW}
    caller = only(accounts.space.organization_id, *own)
    allowed = PERMISSIONS[role] <= own
    there, _ = await accounts.user("there@example.com", Role.USER)
    target, _ = await accounts.user("target@example.com", role)
    await accounts.user("other@example.com", Role.ADMIN)
    before = await contents(accounts.space)

    acts = [
        accounts.users.invite(caller, "new@example.com", role),
        accounts.users.reset_password(caller, target.id),
        accounts.users.update(caller, target.id, UserChange(email="mine@example.com")),
        accounts.users.update(caller, target.id, UserChange(name="mine")),
        accounts.users.update(caller, there.id, UserChange(role=role)),
        accounts.users.delete(caller, target.id),
    ]
    for act in acts:
        if allowed:
            await act
        else:
            with pytest.raises(Forbidden):
                await act
    assert (await contents(accounts.space) == before) == (not allowed)


async def test_a_role_holds_from_the_next_call_on(accounts: Accounts) -> None:
    user, _ = await accounts.user("ann@example.com", Role.STAFF)
    token, _, _ = await accounts.sign_in.password("ann@example.com", PASSWORD, ADDRESS)
    assert (await accounts.sign_in.authenticate(token)).permissions == PERMISSIONS[Role.STAFF]

    await accounts.users.update(accounts.operator, user.id, UserChange(role=Role.USER))

    assert (await accounts.sign_in.authenticate(token)).permissions == PERMISSIONS[Role.USER]


async def test_a_change_meant_for_another_revision_is_refused(accounts: Accounts) -> None:
    user, _ = await accounts.user("ann@example.com")
    changes = [
        accounts.users.update(accounts.operator, user.id, UserChange(name=f"n{n}"), user.revision) for n in range(4)
    ]

    done = await asyncio.gather(*changes, return_exceptions=True)

    assert sum(isinstance(each, Stale) for each in done) == 3
    with pytest.raises(Stale):
        await accounts.users.delete(accounts.operator, user.id, user.revision)


async def test_the_root_keeps_an_admin_who_can_sign_in(accounts: Accounts) -> None:
    ann, own = await accounts.user("ann@example.com")
    await accounts.users.invite(accounts.operator, "invited@example.com", Role.ADMIN)
    await accounts.user("staff@example.com", Role.STAFF)
    before = await contents(accounts.space)

    for caller in (own, accounts.operator):
        with pytest.raises(Conflict, match="last admin"):
            await accounts.users.delete(caller, ann.id)
        with pytest.raises(Conflict, match="last admin"):
            await accounts.users.update(caller, ann.id, UserChange(role=Role.STAFF))
    assert await contents(accounts.space) == before
    await accounts.users.update(own, ann.id, UserChange(name="Ann", role=Role.ADMIN))
    await accounts.users.delete(own, "invited@example.com")
    await accounts.users.update(own, "staff@example.com", UserChange(role=Role.ADMIN))
    await accounts.users.delete(own, ann.id)


async def test_two_admins_who_remove_each_other_at_once_do_not_both_succeed(accounts: Accounts) -> None:
    users = [await accounts.user(f"u{n}@example.com") for n in range(4)]

    done = await asyncio.gather(
        *(
            accounts.users.delete(users[n - 1][1], user.id)
            if n % 2
            else accounts.users.update(users[n - 1][1], user.id, UserChange(role=Role.USER))
            for n, (user, _) in enumerate(users)
        ),
        return_exceptions=True,
    )

    assert sum(isinstance(each, Conflict) for each in done) == 1
    left = [user for user in await accounts.users.list_(accounts.operator) if user.role is Role.ADMIN]
    assert len(left) == 1


async def test_other_organizations_may_be_left_without_an_admin(tree: Tree) -> None:
    user, _ = await tree.accounts.user("ann@example.com", Role.ADMIN, tree.left)

    await tree.accounts.users.delete(tree.accounts.operator, user.id)


async def test_who_is_deleted_leaves_his_devices_where_they_are(tree: Tree) -> None:
    accounts = tree.accounts
    user, _ = await accounts.user("ann@example.com", Role.USER, tree.left)
    made = await accounts.device(tree.maker.id, holder=tree.left.id, owner=user.id)
    token, _, _ = await accounts.sign_in.password("ann@example.com", PASSWORD, ADDRESS)

    await accounts.users.delete(accounts.operator, user.id)

    (row,) = await accounts.space.rows("SELECT holder_id, owner_id FROM device WHERE id = $1", made)
    assert tuple(row) == (tree.left.id, None)
    for act in (accounts.sign_in.authenticate(token), accounts.sign_in.password("ann@example.com", PASSWORD, ADDRESS)):
        with pytest.raises(Refused):
            await act


async def test_a_corrected_address_makes_the_link_that_was_sent_worthless(accounts: Accounts) -> None:
    user, link = await accounts.users.invite(accounts.operator, "amm@example.com", Role.USER)

    await accounts.users.update(accounts.operator, user.id, UserChange(email="ann@example.com"))

    with pytest.raises(NotFound):
        await accounts.users.accept_invitation(link, PASSWORD)


async def test_an_invited_user_has_no_password_to_reset(accounts: Accounts) -> None:
    user, _ = await accounts.users.invite(accounts.operator, "ann@example.com", Role.USER)

    with pytest.raises(Conflict, match="Invite again"):
        await accounts.users.reset_password(accounts.operator, user.id)


# Signing up


async def test_who_signs_up_has_an_organization_of_his_own_and_claims(tree: Tree) -> None:
    accounts = tree.accounts
    await accounts.organizations.update(accounts.operator, "maker", OrganizationChange(sign_up=True))

    user = await accounts.users.sign_up(tree.maker.number, "Ann@example.com", PASSWORD, "Ann")

    organization = await accounts.organizations.show(accounts.operator, user.organization_id)
    assert (organization.parent_id, organization.name) == (tree.maker.id, "ann@example.com")
    assert (user.role, user.accepted) == (Role.USER, True)
    await accounts.sign_in.password("ann@example.com", PASSWORD, ADDRESS)
    own = principal(user)
    for act in (
        accounts.users.invite(own, "bob@example.com", Role.USER),
        accounts.organizations.create(own, "below"),
        accounts.api_keys.create(own, "key", [Permission.DEVICES_VIEW]),
    ):
        with pytest.raises(Forbidden):
            await act


async def test_nobody_signs_up_where_it_is_not_allowed(tree: Tree) -> None:
    accounts = tree.accounts
    before = await contents(accounts.space)

    for number in (tree.maker.number, 0, -1, 999_999, 2**31, 10**30):
        with pytest.raises(NotFound):
            await accounts.users.sign_up(number, "ann@example.com", PASSWORD)
    assert await contents(accounts.space) == before


async def test_an_address_that_has_a_user_does_not_sign_up(tree: Tree) -> None:
    accounts = tree.accounts
    await accounts.organizations.update(accounts.operator, "maker", OrganizationChange(sign_up=True))
    await accounts.users.invite(accounts.operator, "ann@example.com", Role.USER)

    with pytest.raises(Conflict):
        await accounts.users.sign_up(tree.maker.number, "ANN@example.com", PASSWORD)
    done = await asyncio.gather(
        *(accounts.users.sign_up(tree.maker.number, "bob@example.com", PASSWORD, address=str(n)) for n in range(4)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, Conflict) for each in done) == 3
    assert len(await accounts.organizations.list_(accounts.operator, parent="maker")) == 3


async def test_an_organization_that_has_the_name_already_does_not_hinder(tree: Tree) -> None:
    accounts = tree.accounts
    await accounts.organizations.update(accounts.operator, "maker", OrganizationChange(sign_up=True))
    await accounts.organization("ann@example.com", tree.maker)

    user = await accounts.users.sign_up(tree.maker.number, "ann@example.com", PASSWORD)

    made = await accounts.organizations.show(accounts.operator, user.organization_id)
    assert made.name.startswith("ann@example.com (")


async def test_sign_ups_from_an_address_are_few(tree: Tree) -> None:
    accounts = tree.accounts
    await accounts.organizations.update(accounts.operator, "maker", OrganizationChange(sign_up=True))

    async def sign_up(n: int, address: str) -> UUID:
        user = await accounts.users.sign_up(tree.maker.number, f"u{n}@example.com", PASSWORD, address=address)
        return user.id

    for n in range(5):
        await sign_up(n, ADDRESS)
    with pytest.raises(TooManyRequests) as refused:
        await sign_up(5, ADDRESS)
    await sign_up(6, "192.0.2.8")
    accounts.clock.now += refused.value.retry_after
    await sign_up(7, ADDRESS)
