"""What permissions and roles are called where people read of them."""

from collections.abc import Collection
from typing import NamedTuple

from provserver.core.authorization import PERMISSIONS, Permission, Role

P = Permission


class Group(NamedTuple):
    """Permissions that are about one noun, with what each allows."""

    noun: str
    permissions: tuple[tuple[Permission, str], ...]


GROUPS = (
    Group(
        "Devices",
        (
            (P.DEVICES_VIEW, "See devices, their data and what became of their requests"),
            (P.DEVICES_CLAIM, "Claim a device by its code"),
            (P.DEVICES_CREATE, "Create devices, and import lists of them"),
            (P.DEVICES_MANAGE, "Change devices: credentials, attributes, quarantine, deletion"),
            (P.DEVICES_TRANSFER, "Give a device to another owner"),
        ),
    ),
    Group("Static tokens", ((P.TOKENS_MANAGE, "Make, import, export and delete static tokens with their QR codes"),)),
    Group(
        "Profiles",
        (
            (P.PROFILES_VIEW, "See device profiles, attempts, jobs and network integrations"),
            (P.PROFILES_MANAGE, "Change device profiles, provision keys and network integrations"),
        ),
    ),
    Group(
        "Organizations",
        (
            (P.ORGANIZATIONS_VIEW, "See the organizations below"),
            (P.ORGANIZATIONS_MANAGE, "Make and change organizations, their quotas and their webhooks"),
        ),
    ),
    Group(
        "People",
        (
            (P.USERS_VIEW, "See users and their roles"),
            (P.USERS_MANAGE, "Invite and remove users, give roles, make links to choose a password by"),
            (P.KEYS_MANAGE, "Make and delete API keys"),
            (P.AUDIT_READ, "Read what was done, by whom"),
        ),
    ),
)
"""All permissions, in the order that people read them."""

ROLES = {
    Role.ADMIN: "Runs the organization, and may do everything in it and below it.",
    Role.STAFF: "Works with devices and tokens every day, and sees how things are set up.",
    Role.USER: "A customer: claims devices, and sees them.",
}
"""What each role is for."""


class ChoosableRole(NamedTuple):
    """A role that may be given, with what it is for."""

    role: Role
    meaning: str


def choosable(permissions: Collection[str]) -> list[ChoosableRole]:
    """The roles that somebody with these permissions may give: those that may do no more than he."""
    return [ChoosableRole(role, text) for role, text in ROLES.items() if PERMISSIONS[role] <= set(permissions)]


def granted(permissions: Collection[str]) -> list[Group]:
    """The groups with what these permissions allow, and nothing else."""
    found = [Group(group.noun, tuple(each for each in group.permissions if each[0] in permissions)) for group in GROUPS]
    return [group for group in found if group.permissions]
