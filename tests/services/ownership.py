"""A manufacturer with its customers, and another one's: made by SQL, so that nothing of what is tested makes it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple, Self
from uuid import UUID

from provserver.core import credentials, ids, qr, statictoken
from provserver.core.authorization import OPERATOR, PERMISSIONS, Permission, Principal, Role
from provserver.core.secrets import ServerKeys
from provserver.services.credentials import seal_credentials
from provserver.store.database import Connection, Database
from tests.services.conftest import connections


class Token(NamedTuple):
    """A static token in clear. payload: what its QR code says."""

    id: UUID
    number: int
    auth: str
    qr: str
    payload: str


@dataclass
class Estate:
    """Two trees.

    brand is below root, anna and ben are customers below brand; cleo is a customer below root, so not of the brand.
    foreign is another root, with a customer dora. Each organization has a user of each role, by organization and role.
    """

    database: Database
    keys: ServerKeys
    organizations: dict[str, UUID]
    users: dict[tuple[str, Role], UUID]
    profiles: dict[str, UUID]

    @classmethod
    async def make(cls, database: Database, keys: ServerKeys, root: UUID | None = None, prefix: str = "") -> Self:
        """prefix: of all names, where several have to live in one database."""
        made = cls(database, keys, {}, {}, {})
        async with database.transaction() as connection:
            for name, parent in (
                ("root", None),
                ("brand", "root"),
                ("anna", "brand"),
                ("ben", "brand"),
                ("cleo", "root"),
                ("foreign", None),
                ("dora", "foreign"),
            ):
                known = root if name == "root" else None
                above = made.organizations[parent] if parent else None
                id_ = made.organizations[name] = known or await _organization(connection, prefix + name, above)
                for role in Role:
                    made.users[name, role] = await _user(connection, id_, f"{prefix}{role}@{name}.example", role)
            for name in ("brand", "foreign"):
                made.profiles[name] = await _profile(connection, made.organizations[name], "sensors")
        return made

    def __getitem__(self, name: str) -> UUID:
        return self.organizations[name]

    def who(self, name: str, role: Role = Role.USER) -> Principal:
        """The user of an organization who has a role."""
        user_id = self.users[name, role]
        return Principal(f"user:{user_id}", self[name], PERMISSIONS[role], user_id)

    def key(self, name: str, *permissions: Permission) -> Principal:
        """An API key of an organization; without permissions it has all."""
        return Principal(f"key:{name}", self[name], frozenset(permissions or Permission))

    @property
    def operator(self) -> Principal:
        """Who has the database."""
        return Principal(OPERATOR, self["root"])

    async def token(
        self, name: str = "brand", *, device: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Token:
        """A static token of an organization's making. device: the name of the device to be."""
        auth, qr_token, id_ = (
            ids.token(os.urandom),
            statictoken.qr_token(os.urandom),
            ids.uuid7(time.time(), os.urandom),
        )
        given = credentials.access_token(auth)
        async with self.database.connection() as connection:
            number = await connection.fetchval(
                "INSERT INTO static_token"
                " (id, organization_id, profile_id, id_digest, sealed, qr_digest, qr_sealed, name, metadata)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING number",
                id_,
                self[name],
                self.profiles[name],
                self.keys.digest("credentials", given.id),
                seal_credentials(self.keys, id_, given, os.urandom),
                statictoken.qr_digest(self.keys, qr_token),
                statictoken.seal_qr(self.keys, id_, qr_token, os.urandom),
                device,
                dict(metadata or {}),
            )
        return Token(id_, number, auth, qr_token, qr.payload(qr_token, 1))

    async def two_sided(self, name: str = "brand") -> None:
        """Have claims of a maker's tokens wait for their devices."""
        async with self.database.connection() as connection:
            await connection.execute(
                "UPDATE device_profile SET two_sided_claim = true WHERE id = $1", self.profiles[name]
            )


@asynccontextmanager
async def statements(database: Database) -> AsyncIterator[list[str]]:
    """The statements that a database of one connection is sent meanwhile."""
    (connection,) = connections(database)
    made: list[str] = []
    with connection.query_logger(lambda record: made.append(record.query)):
        yield made
        await asyncio.sleep(0)  # it hears of them a step later


async def _organization(connection: Connection, name: str, above: UUID | None) -> UUID:
    id_ = ids.uuid7(time.time(), os.urandom)
    await connection.execute(
        "INSERT INTO organization (id, parent_id, name, path)"
        " SELECT $1, $2, $3, coalesce((SELECT path FROM organization WHERE id = $2), '{}') || ARRAY[$1::uuid]",
        id_,
        above,
        name,
    )
    return id_


async def _user(connection: Connection, organization_id: UUID, email: str, role: Role) -> UUID:
    id_ = ids.uuid7(time.time(), os.urandom)
    await connection.execute(
        'INSERT INTO "user" (id, organization_id, email, role, activated_at) VALUES ($1, $2, $3, $4, now())',
        id_,
        organization_id,
        email,
        role,
    )
    return id_


async def _profile(connection: Connection, organization_id: UUID, name: str) -> UUID:
    id_ = ids.uuid7(time.time(), os.urandom)
    await connection.execute(
        "INSERT INTO device_profile (id, organization_id, name, template_id, strategy, reprovision_policy)"
        " VALUES ($1, $2, $3, $4, 'DISABLED', 'deny')",
        id_,
        organization_id,
        name,
        ids.template_id(os.urandom),
    )
    return id_
