"""The SQL of looking for devices: filters over a bounded walk, names by their beginning, what identifies one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from provserver.core import ids
from provserver.core.attributes import Scope
from provserver.core.model import PROVISION_STATE, PROVISIONED
from provserver.core.search import Found
from provserver.store.database import Connection
from provserver.store.devices import SUMMARY, DeviceSummary, id_in

LOOKED = 50_000
"""Devices that one page looks through at most."""

LOOKED_BY_NAME = 5_000
"""The same in order of names."""

_FEW = 20_000
"""Devices of a tree that are gathered first and looked through alone, however many others there are."""

_MAX_ORGANIZATIONS = 500
"""Organizations of a tree whose devices are gathered."""

_MAX_PROFILES = 500
"""Profiles whose unique fields are looked into."""

# Where a walk begins that has no place to go on from: a plan is kept for any parameters, and an index goes straight
# to a bound, not to "a bound, or none".
_LOWEST = "'00000000-0000-0000-0000-000000000000'::uuid"
_HIGHEST = "'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid"

_LAST = "\U0010ffff"
"""Above whatever a name goes on with."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which devices: all that fit. organization_id: that have them, this one or those below it; None: whoever looks.

    claimed: somebody has it who claimed it, or to whom it was transferred. suspected: of being there twice.
    """

    profile_id: UUID | None = None
    organization_id: UUID | None = None
    online: bool | None = None
    claimed: bool | None = None
    provisioned: bool | None = None
    quarantined: bool | None = None
    suspected: bool | None = None


# Each a look by key for one device, not a set to be joined: as scalars they stay that.
_ONLINE = "(SELECT r.online_until > now() FROM presence r WHERE r.device_id = d.id) IS TRUE"
_CLAIMED = """CASE (SELECT t.status FROM static_token t WHERE t.id = d.id)
    WHEN 'CLAIMED' THEN true WHEN 'UNCLAIMED' THEN false ELSE d.holder_id IS NOT NULL OR d.owner_id IS NOT NULL END"""
_PROVISIONED = f"""(SELECT a.value = '"{PROVISIONED}"' FROM attribute a WHERE a.device_id = d.id
    AND a.scope = '{Scope.SERVER}' AND a.key = '{PROVISION_STATE}') IS TRUE"""
_QUARANTINED = "(SELECT true FROM device_quarantine q WHERE q.device_id = d.id) IS TRUE"
_SUSPECTED = "(SELECT true FROM clone_sign s WHERE s.device_id = d.id LIMIT 1) IS TRUE"
_SEEN = """(SELECT h.path @> ARRAY[$1::uuid] AND h.path @> ARRAY[$2::uuid] FROM organization h
    WHERE h.id = coalesce(d.holder_id, d.organization_id)) IS TRUE"""

_COLUMNS = "d.id, d.profile_id, d.organization_id, d.holder_id, d.owner_id"

_OF_EACH = f"CROSS JOIN LATERAL (SELECT {_COLUMNS} FROM device d WHERE d.id = w.id OFFSET 0) AS d"
"""The columns of each device that is walked past; the offset has them looked up one by one, as far as is wanted."""

_TREE = "SELECT id, id = $1 AND parent_id IS NULL FROM organization WHERE path @> ARRAY[$1::uuid] LIMIT $2"

# Of a tree with few devices: all of them, by the indices of who has them and of who made them, which their order asks
# for: of an organization that has none, Postgres guesses that it has as many as any.
_OF_TREE = """
SELECT d.id AS device_id FROM unnest({tree}::uuid[]) AS o(id) CROSS JOIN LATERAL (
    (SELECT id FROM device WHERE holder_id = o.id ORDER BY id LIMIT {limit})
    UNION ALL
    (SELECT id FROM device WHERE organization_id = o.id AND holder_id IS NULL ORDER BY name LIMIT {limit})
) AS d LIMIT {limit}
"""

# Those of one maker each, by the index of names; a maker that has none costs a look.
_NAMED = """
SELECT w.id, w.name FROM organization o JOIN organization r ON r.path @> ARRAY[o.id] OR r.id = ANY(o.path)
CROSS JOIN unnest($4::text[], $5::text[]) AS b(first, last)
CROSS JOIN LATERAL (
    SELECT n.id, n.name FROM device n
    WHERE n.organization_id = r.id AND n.name >= greatest(b.first, $2::text) AND n.name < b.last
        AND ($2::text IS NULL OR n.name > $2::text OR n.id > $3::uuid)
    ORDER BY n.name, n.id LIMIT $6
) AS w
WHERE o.id = $1 ORDER BY w.name, w.id LIMIT $6
"""

_NAMED_OF_TREE = """
SELECT d.id FROM ({gathered}) AS w CROSS JOIN LATERAL (SELECT id, name FROM device WHERE id = w.device_id OFFSET 0) AS d
WHERE EXISTS (SELECT FROM unnest($3::text[]) AS first WHERE starts_with(d.name, first))
    AND ($1::text IS NULL OR (d.name, d.id) > ($1::text, $2::uuid))
ORDER BY d.name, d.id
"""

# What says exactly which device is meant: values that are unique, the unit it was put into, what its network knows.
_IDENTIFIED = """
SELECT s.token_id FROM unnest($1::uuid[], $2::text[], $3::text[]) AS g(profile_id, field, value)
JOIN static_token_value s ON s.profile_id = g.profile_id AND s.field = g.field AND s.value = g.value
UNION
SELECT t.id FROM unnest($4::uuid[]) AS g(profile_id)
JOIN static_token t ON t.profile_id = g.profile_id AND t.unit = $5 AND t.unit_state IN ('reserved', 'written')
UNION
SELECT n.device_id FROM integration i JOIN network_device n ON n.integration_id = i.id AND n.state <> 'removed'
    AND (n.state <> 'failed' OR n.made <> '[]') AND n.network_device_id = $5
WHERE i.profile_id = ANY($4::uuid[])
UNION
SELECT n.device_id FROM integration i JOIN network_device n ON n.integration_id = i.id AND n.state <> 'removed'
    AND (n.state <> 'failed' OR n.made <> '[]') AND n.dev_eui = $6::text
WHERE i.profile_id = ANY($4::uuid[])
LIMIT 100
"""

_PROFILES_NAMED = """
SELECT p.id, p.organization_id = o.id AS own FROM organization o
JOIN device_profile p ON p.id = $3 OR p.template_id = $2 OR p.name = $2
JOIN organization r ON r.id = p.organization_id
WHERE o.id = $1 AND r.path @> ARRAY[o.id]
ORDER BY p.id = $3 DESC NULLS LAST, p.template_id = $2 DESC LIMIT 100
"""

_RELATED_PROFILES = """
SELECT p.id, coalesce(jsonb_agg(f) FILTER (WHERE f -> 'unique' = 'true'), '[]')
FROM organization o JOIN organization r ON r.path @> ARRAY[o.id] OR r.id = ANY(o.path)
JOIN device_profile p ON p.organization_id = r.id
LEFT JOIN LATERAL jsonb_array_elements(p.metadata_fields) AS f ON true
WHERE o.id = $1 GROUP BY p.id ORDER BY p.id LIMIT $2
"""


async def newest(
    connection: Connection,
    organization_id: UUID,
    filter_: Filter,
    *,
    after: UUID | None = None,
    limit: int = 50,
    ascending: bool = False,
) -> Found[DeviceSummary]:
    """Devices that an organization sees and that fit, by when they were made, from after one on.

    Inside a transaction with one snapshot: a walk that ends for being long is gone on with from where it ended.
    """
    above = filter_.organization_id or organization_id
    walk = _Walk(filter_, await _small_tree(connection, above), after, ascending)
    conditions, values = _conditions(filter_, 6)
    rows = await connection.fetch(
        f"SELECT d.id {walk.sql(3)} WHERE {conditions} ORDER BY d.id {walk.order} LIMIT {limit + 1:d}",
        organization_id,
        above,
        *walk.arguments,
        *values,
    )
    found = [id_ for (id_,) in rows]
    devices = await summaries(connection, organization_id, found[:limit])
    if len(found) > limit:
        return Found(devices, found[limit - 1])
    stop = await walk.stop(connection)
    if stop is None:
        return Found(devices)
    return Found(devices, stop, datetime.fromtimestamp(ids.time_of(stop), UTC))


async def named(
    connection: Connection,
    organization_id: UUID,
    text: str,
    filter_: Filter,
    *,
    after: tuple[str, UUID] | None = None,
    limit: int = 50,
) -> Found[DeviceSummary]:
    """Devices that an organization sees, that fit, and whose name begins with a text, by name, from after one on.

    With the text as it is, in small letters, in capitals, or with a capital first.
    """
    firsts = list(dict.fromkeys([text, text.lower(), text.upper(), text.capitalize()]))
    name, id_ = after or (None, None)
    tree = await _small_tree(connection, filter_.organization_id or organization_id)
    if tree is None:
        lasts = [first + _LAST for first in firsts]
        rows = await connection.fetch(_NAMED, organization_id, name, id_, firsts, lasts, LOOKED_BY_NAME)
    else:
        statement = _NAMED_OF_TREE.format(gathered=_gathered("$4"))
        rows = await connection.fetch(statement, name, id_, firsts, tree)
    passed = [row["id"] for row in rows]
    found = await _fitting(connection, organization_id, filter_, passed, limit + 1)
    devices = await summaries(connection, organization_id, found[:limit])
    if len(found) > limit:
        return Found(devices, found[limit - 1])
    return Found(devices, passed[-1] if tree is None and len(passed) == LOOKED_BY_NAME else None)


async def identified(
    connection: Connection,
    organization_id: UUID,
    text: str,
    filter_: Filter,
    *,
    values: Sequence[tuple[UUID, str, str]],
    profile_ids: Sequence[UUID],
    eui: str | None,
) -> list[DeviceSummary]:
    """The devices that an organization sees, that fit, and that a text identifies.

    values: (profile, field, value) of unique metadata fields; profile_ids: those whose units and networks are looked
    into; eui: the text as a DevEUI, if it may be one.
    """
    profiles, fields, contents = [list(each) for each in zip(*values, strict=True)] or ([], [], [])
    rows = await connection.fetch(_IDENTIFIED, profiles, fields, contents, profile_ids, text, eui)
    meant = [id_ for (id_,) in rows]
    if (id_ := id_in(text.lower())) is not None:
        meant.append(id_)
    found = await _fitting(connection, organization_id, filter_, meant, len(meant)) if meant else []
    return await summaries(connection, organization_id, found)


async def name_of(connection: Connection, organization_id: UUID, device_id: UUID) -> str | None:
    """The name of a device of a maker whose devices an organization may be among: where its walk by name goes on."""
    name: str | None = await connection.fetchval(
        "SELECT d.name FROM device d JOIN organization r ON r.id = d.organization_id"
        " JOIN organization o ON o.id = $1 AND (r.path @> ARRAY[o.id] OR r.id = ANY(o.path)) WHERE d.id = $2",
        organization_id,
        device_id,
    )
    return name


async def profiles_named(connection: Connection, organization_id: UUID, reference: str) -> list[UUID]:
    """The profiles that a name, template id or id means: an organization's own, else those below it."""
    rows = await connection.fetch(_PROFILES_NAMED, organization_id, reference, id_in(reference.lower()))
    own = [row["id"] for row in rows if row["own"]]
    return own[:1] or [row["id"] for row in rows]


async def unique_fields(connection: Connection, organization_id: UUID) -> list[tuple[UUID, list[dict[str, Any]]]]:
    """Profiles of an organization, those below it and those above it, with their metadata fields that are unique."""
    rows = await connection.fetch(_RELATED_PROFILES, organization_id, _MAX_PROFILES)
    return [(row[0], row[1]) for row in rows]


async def summaries(connection: Connection, organization_id: UUID, device_ids: Sequence[UUID]) -> list[DeviceSummary]:
    """These devices, as an organization sees them, in this order."""
    rows = await connection.fetch(f"{SUMMARY} WHERE d.id = ANY($2::uuid[])", organization_id, device_ids)
    found = {row[0]: DeviceSummary(*row) for row in rows}
    return [found[id_] for id_ in device_ids if id_ in found]


class _Walk:
    """A way past devices in order of their ids, LOOKED of them at most: the narrowest that has all that fit."""

    def __init__(self, filter_: Filter, tree: Sequence[UUID] | None, after: UUID | None, ascending: bool) -> None:
        self.order, self._beyond, self._edge = ("ASC", ">", _LOWEST) if ascending else ("DESC", "<", _HIGHEST)
        self.arguments = (after, LOOKED, tree)
        self._source: str | None = None
        self._fits = "true"
        if tree is not None:
            self._source = f"({_gathered('{given}')})"
        elif filter_.quarantined:
            self._source = "device_quarantine"
        elif filter_.suspected:
            self._source = "(SELECT device_id FROM clone_sign GROUP BY device_id)"
        elif filter_.online:
            self._source, self._fits = "presence", "s.online_until > now()"

    def sql(self, place: int, *, everything: bool = False) -> str:
        """A FROM with the devices as d; its three arguments are at this place and after it.

        everything: also those that are seen not to fit before they are looked up.
        """
        after, far, given = f"${place}::uuid", f"${place + 1}::bigint", f"${place + 2}::uuid[]"
        known = f"({given} IS NULL OR true)"  # so that it has a type
        if self._source is None:
            bound = f"d.id {self._beyond} coalesce({after}, {self._edge}) AND {known}"
            return f"FROM (SELECT {_COLUMNS} FROM device d WHERE {bound} ORDER BY d.id {self.order} LIMIT {far}) AS d"
        bound = f"s.device_id {self._beyond} coalesce({after}, {self._edge}) AND {known}"
        walk = (
            f"SELECT s.device_id AS id, {self._fits} AS fits FROM {self._source.format(given=given)} AS s WHERE {bound}"
            f" ORDER BY s.device_id {self.order} LIMIT {far}"
        )
        if everything:
            return f"FROM ({walk}) AS d"
        return f"FROM (SELECT id FROM ({walk}) AS passed WHERE fits) AS w {_OF_EACH}"

    async def stop(self, connection: Connection) -> UUID | None:
        """The last that was passed, where it stopped for having gone far enough."""
        row = await connection.fetchrow(
            f"SELECT count(*), (array_agg(d.id))[count(*)] {self.sql(1, everything=True)}", *self.arguments
        )
        assert row is not None  # noqa: S101 - of an aggregate
        last: UUID | None = row[1]
        return last if row[0] >= LOOKED else None


async def _small_tree(connection: Connection, organization_id: UUID) -> list[UUID] | None:
    """An organization and those below it, if they have few devices beside those of others: these are gathered then."""
    rows = await connection.fetch(_TREE, organization_id, _MAX_ORGANIZATIONS + 1)
    if len(rows) > _MAX_ORGANIZATIONS or any(at_the_top for _, at_the_top in rows):
        return None
    tree = [id_ for id_, _ in rows]
    count: int = await connection.fetchval(f"SELECT count(*) FROM ({_gathered('$1', 1)}) AS few", tree)
    return None if count > _FEW else tree


def _gathered(tree: str, more: int = 0) -> str:
    """SQL of the devices that some organizations have. tree: the parameter with their ids."""
    return _OF_TREE.format(tree=tree, limit=_FEW + more)


def _conditions(filter_: Filter, place: int) -> tuple[str, list[object]]:
    """SQL of what is asked of a device, and the values of its parameters from a place on."""
    found: list[str] = []
    values: list[object] = []
    if filter_.profile_id is not None:
        found.append(f"d.profile_id = ${place}")
        values.append(filter_.profile_id)
    found.append(_SEEN)
    for wanted, condition in (
        (filter_.quarantined, _QUARANTINED),
        (filter_.suspected, _SUSPECTED),
        (filter_.online, _ONLINE),
        (filter_.claimed, _CLAIMED),
        (filter_.provisioned, _PROVISIONED),
    ):
        if wanted is not None:
            found.append(f"({condition})" if wanted else f"NOT ({condition})")
    return " AND ".join(found), values


async def _fitting(
    connection: Connection, organization_id: UUID, filter_: Filter, device_ids: Sequence[UUID], limit: int
) -> list[UUID]:
    """Those of these that the organization sees and that fit, in their order, and so many at most."""
    conditions, values = _conditions(filter_, 5)
    rows = await connection.fetch(
        f"SELECT d.id FROM unnest($3::uuid[]) WITH ORDINALITY AS w(id, place) {_OF_EACH} WHERE {conditions}"
        " ORDER BY w.place LIMIT $4",
        organization_id,
        filter_.organization_id or organization_id,
        device_ids,
        limit,
        *values,
    )
    return list(dict.fromkeys(id_ for (id_,) in rows))
