"""Who operates, and what they may do: permissions, the roles that hold them, and the principal of a call."""

from enum import StrEnum
from uuid import UUID

from msgspec import Struct, structs

from provserver.errors import Forbidden


class Permission(StrEnum):
    """What may be done, within one's organization and those below it."""

    DEVICES_VIEW = "devices:view"
    DEVICES_CREATE = "devices:create"
    DEVICES_MANAGE = "devices:manage"
    DEVICES_TRANSFER = "devices:transfer"
    DEVICES_CLAIM = "devices:claim"
    TOKENS_MANAGE = "tokens:manage"
    PROFILES_VIEW = "profiles:view"
    PROFILES_MANAGE = "profiles:manage"
    ORGANIZATIONS_VIEW = "organizations:view"
    ORGANIZATIONS_MANAGE = "organizations:manage"
    USERS_VIEW = "users:view"
    USERS_MANAGE = "users:manage"
    KEYS_MANAGE = "keys:manage"
    AUDIT_READ = "audit:read"


class Role(StrEnum):
    """A user's role in the organization that the user belongs to."""

    ADMIN = "admin"
    STAFF = "staff"
    USER = "user"


ALL = frozenset(Permission)

PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.ADMIN: ALL,
    Role.STAFF: ALL
    - {
        Permission.PROFILES_MANAGE,
        Permission.ORGANIZATIONS_MANAGE,
        Permission.USERS_MANAGE,
        Permission.KEYS_MANAGE,
        Permission.AUDIT_READ,
    },
    Role.USER: frozenset({Permission.DEVICES_VIEW, Permission.DEVICES_CLAIM}),
}
"""What each role may do."""

OPERATOR = "operator"
"""The actor who has the database itself: the command line without --server."""


class Principal(Struct, frozen=True):
    """Who makes a call. It reaches what belongs to its organization and to those below it, and nothing else.

    actor: as the audit names it: `user:<id>`, `key:<id>` or `operator`. user_id: of a person. home_id: the organization
    it belongs to, while it reaches no more than one below that; None: it reaches its own.
    """

    actor: str
    organization_id: UUID
    permissions: frozenset[Permission] = ALL
    user_id: UUID | None = None
    home_id: UUID | None = None

    @property
    def home(self) -> "Principal":
        """The same with all that it reaches."""
        if self.home_id is None:
            return self
        return structs.replace(self, organization_id=self.home_id, home_id=None)

    @property
    def owner_id(self) -> UUID | None:
        """The person who owns what is claimed: none in an organization that is not his own."""
        return self.user_id if self.home_id is None else None

    def within(self, organization_id: UUID) -> "Principal":
        """The same with no more than an organization below its own; the caller has checked that it is below."""
        if organization_id == self.organization_id:
            return self
        return structs.replace(self, organization_id=organization_id, home_id=self.home.organization_id)

    def require(self, permission: Permission) -> None:
        """Go on only with this permission. Raises Forbidden."""
        if permission not in self.permissions:
            raise Forbidden(f"This needs the permission {permission}, which you do not have.")
