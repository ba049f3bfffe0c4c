"""What permissions and roles are called: each has its words, and nobody gives more than he may."""

import pytest

from provserver.admin.console.permissions import GROUPS, ROLES, choosable, granted
from provserver.core.authorization import ALL, PERMISSIONS, Permission, Role


def test_every_permission_and_role_has_its_words() -> None:
    named = [permission for group in GROUPS for permission, _ in group.permissions]
    assert sorted(named) == sorted(Permission)
    assert set(ROLES) == set(Role)
    assert granted(ALL) == list(GROUPS)
    assert [group.noun for group in granted(PERMISSIONS[Role.USER])] == ["Devices"]


@pytest.mark.parametrize("role", Role)
def test_nobody_gives_more_than_he_may(role: Role) -> None:
    given = [each.role for each in choosable(PERMISSIONS[role])]
    assert given == [each for each in Role if PERMISSIONS[each] <= PERMISSIONS[role]]


def test_what_is_granted_is_what_is_held_in_the_order_of_reading() -> None:
    held = [Permission.AUDIT_READ, Permission.DEVICES_VIEW, Permission.USERS_VIEW]

    found = granted([str(each) for each in held])

    assert [(group.noun, [permission for permission, _ in group.permissions]) for group in found] == [
        ("Devices", [Permission.DEVICES_VIEW]),
        ("People", [Permission.USERS_VIEW, Permission.AUDIT_READ]),
    ]
    assert granted([]) == []
    assert granted(["no:such"]) == []


def test_who_has_nothing_gives_nothing() -> None:
    assert choosable([]) == []
    assert all(each.meaning == ROLES[each.role] for each in choosable(ALL))
