"""A tree of organizations with people in it, and a clock that only the test moves."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid4

from provserver.core.accounts import Organization, User
from provserver.core.authorization import OPERATOR, PERMISSIONS, Permission, Principal, Role
from provserver.services.api_keys import ApiKeys
from provserver.services.audit import Audit
from provserver.services.organizations import Organizations
from provserver.services.passwords import Passwords
from provserver.services.sign_in import SignIn
from provserver.services.users import Users
from tests.conftest import Space

PASSWORD = "plum pudding 7"
ADDRESS = "192.0.2.7"


@dataclass
class Clock:
    """Seconds since the epoch, as the test has them."""

    now: float = field(default_factory=lambda: datetime.now(UTC).timestamp())

    def __call__(self) -> float:
        self.now += 0.001  # so that what is made later has a later id
        return self.now

    def advance(self, **period: float) -> None:
        self.now += timedelta(**period).total_seconds()

    @property
    def time(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)


class Accounts:
    """The services of those who operate, on a test's database."""

    def __init__(self, space: Space, directory: Path) -> None:
        self.space = space
        self.clock = Clock()
        self.set_up_file = directory / "setup-link"
        self.passwords = Passwords()
        self.organizations = Organizations(space.database, os.urandom, self.clock)
        self.users = Users(space.database, space.keys, self.passwords, os.urandom, self.clock, self.clock)
        self.sign_in = self.process()
        self.api_keys = ApiKeys(space.database, space.keys, os.urandom, self.clock)
        self.audit = Audit(space.database, space.keys, os.urandom, self.clock)
        self.operator = Principal(OPERATOR, space.organization_id)

    def process(self) -> SignIn:
        """Signing in, as another process serves it."""
        return SignIn(
            self.space.database,
            self.space.keys,
            self.passwords,
            self.set_up_file,
            os.urandom,
            self.clock,
            self.clock,
        )

    async def organization(self, name: str, parent: Organization | None = None, **options: Any) -> Organization:
        above = None if parent is None else parent.id
        return await self.organizations.create(self.operator, name, above, **options)

    async def user(
        self,
        email: str,
        role: Role = Role.ADMIN,
        organization: Organization | UUID | None = None,
        password: str = PASSWORD,
    ) -> tuple[User, Principal]:
        """A user who has accepted, and the principal of what he does."""
        where = organization.id if isinstance(organization, Organization) else organization
        _, link = await self.users.invite(self.operator, email, role, where)
        user = await self.users.accept_invitation(link, password)
        return user, principal(user)

    async def actions(self, subject: object = None) -> list[tuple[str, str]]:
        """Actor and action of what was recorded, oldest first; of one subject, or all."""
        rows = await self.space.rows("SELECT actor, action, subject_id FROM audit ORDER BY at, id")
        return [(row[0], row[1]) for row in rows if subject is None or row[2] == str(subject)]

    async def device(self, maker: UUID, *, holder: UUID | None = None, owner: UUID | None = None) -> UUID:
        """A device, as rows have it."""
        made = uuid4()
        await self.space.rows(
            "INSERT INTO device (id, organization_id, profile_id, name, holder_id, owner_id)"
            " VALUES ($1, $2, $3, $4, $5, $6)",
            made,
            maker,
            uuid4(),
            str(made),
            holder,
            owner,
        )
        return made


@dataclass
class Tree:
    """root → maker → (left → leaf, right)."""

    accounts: Accounts
    root: Organization
    maker: Organization
    left: Organization
    right: Organization
    leaf: Organization

    @classmethod
    async def grow(cls, accounts: Accounts) -> Self:
        root = await accounts.organizations.show(accounts.operator, accounts.space.organization_id)
        maker = await accounts.organization("maker")
        left, right = await accounts.organization("left", maker), await accounts.organization("right", maker)
        return cls(accounts, root, maker, left, right, await accounts.organization("leaf", left))

    @property
    def by_name(self) -> Mapping[str, Organization]:
        return {"root": self.root, "maker": self.maker, "left": self.left, "right": self.right, "leaf": self.leaf}

    def sees(self, name: str) -> set[str]:
        """The organizations that one reaches, from what the tree is drawn as."""
        return {
            "root": {"root", "maker", "left", "right", "leaf"},
            "maker": {"maker", "left", "right", "leaf"},
            "left": {"left", "leaf"},
            "right": {"right"},
            "leaf": {"leaf"},
        }[name]


def principal(user: User) -> Principal:
    """Who a user is when he has signed in."""
    return Principal(f"user:{user.id}", user.organization_id, PERMISSIONS[user.role], user.id)


def only(organization_id: UUID, *permissions: Permission) -> Principal:
    """A program that may do this and nothing else."""
    return Principal(f"key:{uuid4()}", organization_id, frozenset(permissions))
