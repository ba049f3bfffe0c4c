"""The SQL of users: who they are, what they sign in with, and which of them can run the whole."""

from datetime import datetime
from uuid import UUID

import asyncpg

from provserver.core.accounts import User
from provserver.core.authorization import Role
from provserver.store.database import Connection

_USER = """u.id, u.organization_id, u.email, u.name, u.role, u.password_hash IS NOT NULL AS accepted, u.activated_at,
    u.revision, u.created_at"""


async def insert(
    connection: Connection,
    id_: UUID,
    organization_id: UUID,
    email: str,
    name: str,
    role: Role,
    password_hash: str | None = None,
) -> User:
    """Add a user; without a password he is invited. Raises asyncpg.UniqueViolationError when the e-mail is taken."""
    row = await connection.fetchrow(
        'INSERT INTO "user" AS u (id, organization_id, email, name, role, password_hash)'
        f" VALUES ($1, $2, $3, $4, $5, $6) RETURNING {_USER}",
        id_,
        organization_id,
        email,
        name,
        role,
        password_hash,
    )
    assert row is not None  # noqa: S101 - RETURNING
    return _user(row)


async def find(connection: Connection, above: UUID, *, id_: UUID | None, email: str | None) -> User | None:
    """A user of an organization or of one below it, by id or e-mail."""
    row = await connection.fetchrow(
        f'SELECT {_USER} FROM "user" u JOIN organization o ON o.id = u.organization_id'
        " WHERE (u.id = $2 OR lower(u.email) = lower($3)) AND o.path @> ARRAY[$1::uuid]",
        above,
        id_,
        email,
    )
    return None if row is None else _user(row)


async def get(connection: Connection, id_: UUID) -> User | None:
    """A user by id, wherever he belongs."""
    row = await connection.fetchrow(f'SELECT {_USER} FROM "user" u WHERE u.id = $1', id_)
    return None if row is None else _user(row)


async def lock(connection: Connection, id_: UUID) -> User | None:
    """A user whose row nobody else changes until the transaction ends."""
    row = await connection.fetchrow(f'SELECT {_USER} FROM "user" u WHERE u.id = $1 FOR NO KEY UPDATE', id_)
    return None if row is None else _user(row)


async def list_(
    connection: Connection,
    above: UUID,
    *,
    after: UUID | None,
    limit: int,
    organization_id: UUID | None = None,
    search: str | None = None,
) -> list[User]:
    """The users of an organization and those below it, in order of ids.

    organization_id: only this one's. search: only those with this in the e-mail address or the name.
    """
    rows = await connection.fetch(
        f'SELECT {_USER} FROM "user" u JOIN organization o ON o.id = u.organization_id'
        " WHERE o.path @> ARRAY[$1::uuid] AND ($2::uuid IS NULL OR u.id > $2)"
        " AND ($3::uuid IS NULL OR u.organization_id = $3)"
        " AND ($5::text IS NULL OR strpos(lower(u.email), lower($5)) > 0 OR strpos(lower(u.name), lower($5)) > 0)"
        " ORDER BY u.id LIMIT $4",
        above,
        after,
        organization_id,
        limit,
        search,
    )
    return [_user(row) for row in rows]


async def update(connection: Connection, user: User) -> User:
    """Write what can change, under a new revision. Raises asyncpg.UniqueViolationError when the e-mail is taken."""
    row = await connection.fetchrow(
        'UPDATE "user" u SET email = $2, name = $3, role = $4, revision = revision + 1'
        f" WHERE u.id = $1 RETURNING {_USER}",
        user.id,
        user.email,
        user.name,
        user.role,
    )
    assert row is not None  # noqa: S101 - the row is locked
    return _user(row)


async def delete(connection: Connection, id_: UUID) -> None:
    """Remove a user, with sessions and links; devices stay where they are, without an owner."""
    await connection.execute("UPDATE device SET owner_id = NULL WHERE owner_id = $1", id_)
    await connection.execute("DELETE FROM pending_claim WHERE user_id = $1", id_)
    await connection.execute('DELETE FROM "user" WHERE id = $1', id_)


async def credentials(connection: Connection, email: str) -> tuple[User, str | None] | None:
    """A user by e-mail, with the hash of the password; None for the hash: not chosen yet."""
    row = await connection.fetchrow(
        f'SELECT u.password_hash, {_USER} FROM "user" u WHERE lower(u.email) = lower($1)', email
    )
    return None if row is None else (_user(row), row["password_hash"])


async def password_hash(connection: Connection, id_: UUID) -> str | None:
    """The hash of a user's password."""
    found: str | None = await connection.fetchval('SELECT password_hash FROM "user" WHERE id = $1', id_)
    return found


async def replace_hash(connection: Connection, id_: UUID, old: str, new: str) -> bool:
    """Have another hash in place of this one; False when it was changed meanwhile."""
    status = await connection.execute(
        'UPDATE "user" SET password_hash = $3 WHERE id = $1 AND password_hash = $2', id_, old, new
    )
    return status == "UPDATE 1"


async def set_password(connection: Connection, id_: UUID, hash_: str, name: str | None = None) -> User | None:
    """Give a user a password, and a name; None when the user is gone."""
    row = await connection.fetchrow(
        'UPDATE "user" u SET password_hash = $2, name = coalesce($3, name), revision = revision + 1'
        f" WHERE u.id = $1 RETURNING {_USER}",
        id_,
        hash_,
        name,
    )
    return None if row is None else _user(row)


async def activate(connection: Connection, id_: UUID, now: datetime) -> User | None:
    """Note when a user signed in first; None when the user is gone."""
    row = await connection.fetchrow(
        f'UPDATE "user" u SET activated_at = coalesce(activated_at, $2) WHERE u.id = $1 RETURNING {_USER}', id_, now
    )
    return None if row is None else _user(row)


async def any_(connection: Connection) -> bool:
    """Whether there is a user at all."""
    there: bool = await connection.fetchval('SELECT EXISTS (SELECT FROM "user")')
    return there


async def has_other_admin(connection: Connection, organization_id: UUID, other_than: UUID) -> bool:
    """Whether an organization has an admin who can sign in, beside this user."""
    there: bool = await connection.fetchval(
        'SELECT EXISTS (SELECT FROM "user" WHERE organization_id = $1 AND id <> $2 AND role = $3'
        " AND password_hash IS NOT NULL)",
        organization_id,
        other_than,
        Role.ADMIN,
    )
    return there


def _user(row: asyncpg.Record) -> User:
    return User(
        id=row["id"],
        organization_id=row["organization_id"],
        email=row["email"],
        name=row["name"],
        role=Role(row["role"]),
        accepted=row["accepted"],
        activated_at=row["activated_at"],
        revision=row["revision"],
        created_at=row["created_at"],
    )
