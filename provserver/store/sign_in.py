"""The SQL of one-time links and of sessions. Both are kept as digests; times are the caller's."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from provserver.core.authorization import Role
from provserver.store.database import Connection

_SET_UP_LOCK = 0x70726F77


class Purpose(StrEnum):
    """What a one-time link is good for."""

    SETUP = "setup"
    INVITATION = "invitation"
    PASSWORD = "password"  # noqa: S105 - a purpose, not a password


class Link(NamedTuple):
    """A link that is still good. user_id: None for the set-up link."""

    user_id: UUID | None


class Session(NamedTuple):
    """A session that lives, and whose it is."""

    user_id: UUID
    organization_id: UUID
    role: Role
    last_seen_at: datetime


async def insert_link(
    connection: Connection, digest: bytes, purpose: Purpose, user_id: UUID | None, expires_at: datetime
) -> None:
    """Add a link; those for the same purpose and user cease to be good."""
    await connection.execute(
        "DELETE FROM one_time_link WHERE purpose = $1 AND user_id IS NOT DISTINCT FROM $2", purpose, user_id
    )
    await connection.execute(
        "INSERT INTO one_time_link (digest, purpose, user_id, expires_at) VALUES ($1, $2, $3, $4)",
        digest,
        purpose,
        user_id,
        expires_at,
    )


async def link(connection: Connection, digest: bytes, purpose: Purpose, now: datetime) -> Link | None:
    """A link that is still good, left so."""
    row = await connection.fetchrow(
        "SELECT user_id FROM one_time_link WHERE digest = $1 AND purpose = $2 AND expires_at > $3", digest, purpose, now
    )
    return None if row is None else Link(*row)


async def use_link(connection: Connection, digest: bytes, purpose: Purpose, now: datetime) -> Link | None:
    """A link that was good until this transaction: of several who use it at once, one has it."""
    row = await connection.fetchrow(
        "DELETE FROM one_time_link WHERE digest = $1 AND purpose = $2 AND expires_at > $3 RETURNING user_id",
        digest,
        purpose,
        now,
    )
    return None if row is None else Link(*row)


async def delete_links(connection: Connection, user_id: UUID) -> None:
    """Have no link of a user be good any more."""
    await connection.execute("DELETE FROM one_time_link WHERE user_id = $1", user_id)


async def delete_set_up_links(connection: Connection) -> None:
    """Have no set-up link be good any more."""
    await connection.execute("DELETE FROM one_time_link WHERE purpose = 'setup'")


async def lock_set_up(connection: Connection) -> None:
    """Wait until no other transaction sets the server up, and keep others waiting until this one ends."""
    await connection.execute("SET LOCAL lock_timeout = 0")
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _SET_UP_LOCK)


async def insert_session(
    connection: Connection, digest: bytes, user_id: UUID, hash_: str, now: datetime, expires_at: datetime
) -> bool:
    """Open a session of a user whose password has still this hash; False when it has not. Expired ones go.

    Whoever changes the password comes before, or after: then he ends this session with the others.
    """
    await connection.execute("DELETE FROM user_session WHERE user_id = $1 AND expires_at <= $2", user_id, now)
    status = await connection.execute(
        "INSERT INTO user_session (digest, user_id, expires_at, last_seen_at)"
        ' SELECT $1, id, $5, $4 FROM "user" WHERE id = $2 AND password_hash = $3 FOR NO KEY UPDATE',
        digest,
        user_id,
        hash_,
        now,
        expires_at,
    )
    return status == "INSERT 0 1"


async def session(connection: Connection, digest: bytes, now: datetime) -> Session | None:
    """A session that has not expired, with its user as he is now."""
    row = await connection.fetchrow(
        'SELECT u.id, u.organization_id, u.role, s.last_seen_at FROM user_session s JOIN "user" u ON u.id = s.user_id'
        " WHERE s.digest = $1 AND s.expires_at > $2",
        digest,
        now,
    )
    return None if row is None else Session(row[0], row[1], Role(row[2]), row[3])


async def prolong_session(connection: Connection, digest: bytes, now: datetime, expires_at: datetime) -> None:
    """Note that a session was used, and let it live on."""
    await connection.execute(
        "UPDATE user_session SET last_seen_at = $2, expires_at = $3 WHERE digest = $1", digest, now, expires_at
    )


async def delete_session(connection: Connection, digest: bytes) -> UUID | None:
    """End a session; whose it was, None when there is none."""
    user_id: UUID | None = await connection.fetchval(
        "DELETE FROM user_session WHERE digest = $1 RETURNING user_id", digest
    )
    return user_id


async def delete_sessions(connection: Connection, user_id: UUID, but: bytes | None = None) -> None:
    """End the sessions of a user; but: the digest of one that stays."""
    await connection.execute(
        "DELETE FROM user_session WHERE user_id = $1 AND ($2::bytea IS NULL OR digest <> $2)", user_id, but
    )
