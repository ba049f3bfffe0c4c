"""The SQL of Particle's products, and of static tokens as far as their devices get them.

The token of a device is the one whose `unit` is the device's id: see `eol.py`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from provserver.store.database import Connection
from provserver.store.eol import EXPORTED, FREE


@dataclass(frozen=True, slots=True)
class ParticleProduct:
    """A product, and the profile whose tokens its devices get. org: "": a sandbox. expires_at: of the access token."""

    id: UUID
    organization_id: UUID
    profile_id: UUID
    profile: str
    url: str
    org: str
    product: str
    ledger: str
    expires_at: datetime | None
    created_by: str
    created_at: datetime
    updated_at: datetime
    revision: int


class TokenRow(NamedTuple):
    """A static token without its secrets. unit_state: of its device, or any other unit."""

    id: UUID
    number: int
    unit: str | None
    unit_state: str | None
    status: str


class NamingRow(NamedTuple):
    """A token that names a device. value: in lower case."""

    value: str
    token: TokenRow


_PRODUCT = (
    "p.id, p.organization_id, p.profile_id, f.name, p.url, p.org, p.product, p.ledger, p.expires_at, p.created_by,"
    " p.created_at, p.updated_at, p.revision"
)
_FROM = "particle_product p JOIN device_profile f ON f.id = p.profile_id"
_TOKEN = "t.id, t.number, t.unit, t.unit_state, t.status"  # noqa: S105 - columns

_LONG = 60.0
"""Seconds that a look at all tokens of a profile may take."""


async def insert(
    connection: Connection,
    id_: UUID,
    organization_id: UUID,
    profile_id: UUID,
    *,
    url: str,
    org: str,
    product: str,
    ledger: str,
    sealed: bytes,
    created_by: str,
) -> ParticleProduct:
    """Add one. Raises asyncpg.UniqueViolationError."""
    await connection.execute(
        "INSERT INTO particle_product (id, organization_id, profile_id, url, org, product, ledger, token_sealed,"
        " created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        id_,
        organization_id,
        profile_id,
        url,
        org,
        product,
        ledger,
        sealed,
        created_by,
    )
    found = await get(connection, id_)
    assert found is not None  # noqa: S101 - it was just added
    return found


async def get(connection: Connection, id_: UUID) -> ParticleProduct | None:
    """One by its id."""
    row = await connection.fetchrow(f"SELECT {_PRODUCT} FROM {_FROM} WHERE p.id = $1", id_)
    return None if row is None else ParticleProduct(*row)


async def find(connection: Connection, above: UUID, reference: str, *, lock: bool = False) -> list[ParticleProduct]:
    """Those that an id, a product, or a profile's name or template id means, of an organization and those below it.

    Two at most. lock: nobody else can change them until the transaction ends.
    """
    rows = await connection.fetch(
        f"SELECT {_PRODUCT} FROM {_FROM} JOIN organization o ON o.id = p.organization_id"
        " WHERE o.path @> ARRAY[$1::uuid]"
        " AND (p.id::text = $2 OR p.product = $2 OR f.name = $2 OR f.template_id = $2 OR f.id::text = $2)"
        " ORDER BY p.id::text = $2 DESC, p.id LIMIT 2" + (" FOR NO KEY UPDATE OF p" if lock else ""),
        above,
        reference,
    )
    return [ParticleProduct(*row) for row in rows]


async def list_(
    connection: Connection, above: UUID, *, after: UUID | None, limit: int, organization_id: UUID | None = None
) -> list[ParticleProduct]:
    """Those of an organization and all below it, in order of ids, after one. organization_id: only this one's."""
    rows = await connection.fetch(
        f"SELECT {_PRODUCT} FROM {_FROM} JOIN organization o ON o.id = p.organization_id"
        " WHERE o.path @> ARRAY[$1::uuid] AND ($2::uuid IS NULL OR p.id > $2)"
        " AND ($3::uuid IS NULL OR p.organization_id = $3) ORDER BY p.id LIMIT $4",
        above,
        after,
        organization_id,
        limit,
    )
    return [ParticleProduct(*row) for row in rows]


async def update(connection: Connection, id_: UUID, changes: Mapping[str, object]) -> ParticleProduct:
    """Change one that is there, by its columns; another access token ends at another time, which nobody knows yet."""
    names = ("url", "org", "product", "ledger", "token_sealed")
    await connection.execute(
        "UPDATE particle_product SET url = coalesce($2, url), org = coalesce($3, org), product = coalesce($4, product),"
        " ledger = coalesce($5, ledger), token_sealed = coalesce($6, token_sealed),"
        " expires_at = CASE WHEN $6::bytea IS NULL THEN expires_at END, updated_at = now(), revision = revision + 1"
        " WHERE id = $1",
        id_,
        *(changes.get(name) for name in names),
    )
    found = await get(connection, id_)
    assert found is not None  # noqa: S101 - it is held
    return found


async def set_expiry(connection: Connection, id_: UUID, expires_at: datetime | None) -> None:
    """Keep when the access token ends."""
    await connection.execute(
        "UPDATE particle_product SET expires_at = $2 WHERE id = $1 AND expires_at IS DISTINCT FROM $2", id_, expires_at
    )


async def delete(connection: Connection, id_: UUID) -> None:
    """Remove one; devices keep their tokens."""
    await connection.execute("DELETE FROM particle_product WHERE id = $1", id_)


async def sealed(connection: Connection, id_: UUID) -> bytes | None:
    """Its sealed access token."""
    found: bytes | None = await connection.fetchval("SELECT token_sealed FROM particle_product WHERE id = $1", id_)
    return found


async def lock(connection: Connection, profile_id: UUID) -> bool:
    """Have a profile's devices to oneself until the connection ends; False while another has."""
    won: bool = await connection.fetchval(
        "SELECT pg_try_advisory_lock(hashtextextended($1, 0))", f"particle:{profile_id}"
    )
    return won


# --- tokens


async def held(connection: Connection, profile_id: UUID, units: Sequence[str]) -> list[TokenRow]:
    """The tokens that are reserved for these units, or written to them."""
    rows = await connection.fetch(
        f"SELECT {_TOKEN} FROM static_token t WHERE t.profile_id = $1 AND t.unit = ANY($2::text[])"
        " AND t.unit_state IN ('reserved', 'written')",
        profile_id,
        units,
    )
    return [TokenRow(*row) for row in rows]


async def given_up(connection: Connection, profile_id: UUID, units: Sequence[str]) -> set[str]:
    """Those units with which a token was given up."""
    rows = await connection.fetch(
        "SELECT DISTINCT t.unit FROM static_token t"
        " WHERE t.profile_id = $1 AND t.unit = ANY($2::text[]) AND t.unit_state = 'failed'",
        profile_id,
        units,
        timeout=_LONG,
    )
    return {row["unit"] for row in rows}


async def naming(connection: Connection, profile_id: UUID, field: str, values: Sequence[str]) -> list[NamingRow]:
    """The tokens that have one of these values, in lower case, in a metadata field."""
    rows = await connection.fetch(
        f"SELECT lower(t.metadata ->> $2), {_TOKEN} FROM static_token t"
        " WHERE t.profile_id = $1 AND lower(t.metadata ->> $2) = ANY($3::text[]) ORDER BY t.id",
        profile_id,
        field,
        values,
        timeout=_LONG,
    )
    return [NamingRow(row[0], TokenRow(*tuple(row)[1:])) for row in rows]


async def free(
    connection: Connection, profile_id: UUID, naming_fields: Sequence[str], limit: int, *, exported: bool = False
) -> list[TokenRow]:
    """The first tokens that nobody has had, and that have no value of these metadata fields.

    exported: also those that were only exported or shown.
    """
    rows = await connection.fetch(
        f"SELECT {_TOKEN} FROM static_token t WHERE t.profile_id = $1 AND {_available(exported=exported)}"
        " AND NOT t.metadata ?| $2::text[] ORDER BY t.id LIMIT $3",
        profile_id,
        naming_fields,
        limit,
        timeout=_LONG,
    )
    return [TokenRow(*row) for row in rows]


async def exported(connection: Connection, profile_id: UUID, naming_fields: Sequence[str]) -> int:
    """How many more tokens `free` would find if it took exported ones."""
    found: int = await connection.fetchval(
        f"SELECT count(*) FROM static_token t WHERE t.profile_id = $1 AND {EXPORTED} AND NOT t.metadata ?| $2::text[]",
        profile_id,
        naming_fields,
        timeout=_LONG,
    )
    return found


async def by_digest(connection: Connection, profile_id: UUID, digests: Sequence[bytes]) -> dict[bytes, TokenRow]:
    """The tokens of a profile with these digests of their ids."""
    rows = await connection.fetch(
        f"SELECT t.id_digest, {_TOKEN} FROM static_token t WHERE t.id_digest = ANY($2::bytea[]) AND t.profile_id = $1",
        profile_id,
        digests,
    )
    return {row[0]: TokenRow(*tuple(row)[1:]) for row in rows}


async def bind(
    connection: Connection,
    profile_id: UUID,
    ids: Sequence[UUID],
    units: Sequence[str],
    free_ids: Collection[UUID],
    *,
    exported: bool = False,
) -> set[UUID]:
    """Reserve each token for the unit beside it; those that could be. free_ids: that nobody may have had meanwhile.

    exported: as of `free`.

    Raises asyncpg.UniqueViolationError when a unit has got another meanwhile.
    """
    await connection.execute(  # in one order, as two may want the same ones
        "SELECT FROM static_token WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE", ids
    )
    rows = await connection.fetch(
        "UPDATE static_token t SET unit = g.unit, unit_state = 'reserved', unit_at = now(), revision = t.revision + 1"
        " FROM unnest($2::uuid[], $3::text[]) AS g (id, unit)"
        " WHERE t.id = g.id AND t.profile_id = $1 AND t.unit IS NULL"
        f" AND (t.id <> ALL($4::uuid[]) OR {_available(exported=exported)}) RETURNING t.id",
        profile_id,
        ids,
        units,
        list(free_ids),
    )
    return {row["id"] for row in rows}


async def give_up(connection: Connection, profile_id: UUID, id_: UUID, unit: str) -> bool | None:
    """Give a token up that a unit has, or that is recorded for none; None when it is claimed, False when it is gone."""
    row = await connection.fetchrow(
        "UPDATE static_token t SET unit = $3, unit_state = 'failed', unit_at = now(), revision = t.revision + 1"
        " WHERE t.id = $2 AND t.profile_id = $1 AND t.status = 'UNCLAIMED'"
        " AND (t.unit IS NULL OR (t.unit = $3 AND t.unit_state IN ('reserved', 'written'))) RETURNING t.id",
        profile_id,
        id_,
        unit,
    )
    if row is not None:
        return True
    claimed: bool | None = await connection.fetchval(
        "SELECT t.status = 'CLAIMED' FROM static_token t WHERE t.id = $2 AND t.profile_id = $1"
        " AND (t.unit IS NULL OR t.unit = $3)",
        profile_id,
        id_,
        unit,
    )
    return None if claimed else False


def _available(*, exported: bool) -> str:
    return f"(({FREE}) OR ({EXPORTED}))" if exported else f"({FREE})"


async def sealed_token(connection: Connection, profile_id: UUID, id_: UUID) -> bytes | None:
    """A token's sealed access token."""
    found: bytes | None = await connection.fetchval(
        "SELECT sealed FROM static_token WHERE id = $2 AND profile_id = $1", profile_id, id_
    )
    return found
