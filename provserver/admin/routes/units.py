"""Units at the end of the production line: held by a station, given a static token, written or failed."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import Answer, Body, Limit, Name, Query, Reference, Text
from provserver.admin.route import Call, Content, route
from provserver.core.authorization import Permission, Principal
from provserver.services.eol import EndOfLine, UnitRow

HEARTBEAT = 0.5
"""Seconds between the line ends that show whether a station is still there."""

MAX_LIFE = 900.0
"""Seconds for which a station may have a unit to itself."""

JSON_LINES = "application/jsonl"

Unit = Annotated[
    str,
    Meta(min_length=1, max_length=100, pattern="^[^\\x00-\\x1f\\x7f]*$", description="A serial number.",
         examples=["SN-0001"]),
]  # fmt: skip


class UnitAnswer(Answer, frozen=True):
    """A unit. token: its static token's number. connectedAt: when it first came with it."""

    unit: str
    state: str
    token: int
    token_id: UUID
    at: datetime
    connected_at: datetime | None


class LineAnswer(Answer, frozen=True):
    """How a line stands: the profile's tokens counted, and its units, the last one touched first."""

    profile: str
    free: int
    reserved: int
    written: int
    failed: int
    units: Sequence[UnitAnswer]


class HeldAnswer(Answer, frozen=True):
    """A unit's profile: what the station is told once it has the unit to itself."""

    profile: str
    template_id: str


class ReservationAnswer(Answer, frozen=True):
    """A token that is to be written to a unit, its secrets in clear. resumed: it was reserved before.

    qrPayload: what its QR code says.
    """

    token_id: UUID
    number: int
    unit: str
    profile: str
    template_id: str
    organization_number: int
    resumed: bool
    auth_token: str
    qr_token: str
    qr_payload: str


class UnitsQuery(Query, frozen=True):
    """Which units of a profile."""

    profile: Reference
    unit: Unit | UnsetType = UNSET
    state: Literal["reserved", "written", "failed"] | UnsetType = UNSET
    limit: Limit = 50


class HoldQuery(Query, frozen=True):
    """Which unit."""

    profile: Reference
    unit: Unit


class NewReservation(Body, frozen=True):
    """For which unit. match: a metadata field; the token's value of it must be the unit."""

    profile: Reference
    unit: Unit
    match: Name | UnsetType = UNSET


class Written(Body, frozen=True):
    """What was reserved, and is in the unit now."""

    token_id: UUID
    unit: Unit


class Failure(Body, frozen=True):
    """Which unit's token is given up. reason: for the audit."""

    profile: Reference
    unit: Unit
    reason: Text = ""


async def list_units(call: Call[UnitsQuery, None]) -> LineAnswer:
    """Show how a production line stands: the tokens that are left, and which unit has which."""
    query = call.query
    found = await call.services.eol.status(
        call.principal, query.profile, unit=query.unit or None, state=query.state or None, limit=query.limit
    )
    return LineAnswer(found.profile, *found.counts, [_unit(each) for each in found.units])


async def hold_unit(call: Call[HoldQuery, None]) -> Content:
    """Have a unit to oneself while the answer is read: its profile, then a line end now and then."""
    return Content(_held(call.services.eol, call.principal, call.query), JSON_LINES)


async def reserve_token(call: Call[None, NewReservation]) -> ReservationAnswer:
    """Reserve a static token for a unit; asked again, the same one. Its AuthToken is in the answer."""
    body = call.body
    made = await call.services.eol.reserve(call.principal, body.profile, body.unit, match=body.match or None)
    return ReservationAnswer.of(made, auth_token=made.auth, qr_token=made.qr, qr_payload=made.payload)


async def record_written(call: Call[None, Written]) -> UnitAnswer:
    """Record that a unit has its token, as was read back; it may be said twice."""
    return _unit(await call.services.eol.written(call.principal, call.body.token_id, call.body.unit))


async def fail_unit(call: Call[None, Failure]) -> UnitAnswer:
    """Give a unit's token up, for good: nobody gets it again."""
    body = call.body
    return _unit(await call.services.eol.fail(call.principal, body.profile, body.unit, body.reason))


async def _held(line: EndOfLine, principal: Principal, query: HoldQuery) -> AsyncGenerator[bytes, None]:
    async with line.hold(principal, query.profile, query.unit) as profile:
        yield msgspec.json.encode(HeldAnswer(profile.name, profile.template_id)) + b"\n"
        ends = asyncio.get_running_loop().time() + MAX_LIFE
        while asyncio.get_running_loop().time() < ends:
            await asyncio.sleep(HEARTBEAT)
            yield b"\n"


def _unit(row: UnitRow) -> UnitAnswer:
    return UnitAnswer.of(row, token=row.number)


_MANAGE = Permission.TOKENS_MANAGE

ROUTES = [
    route("GET", "/static-tokens/units", _MANAGE, list_units, problems=("not_found", "conflict", "invalid")),
    route(
        "GET",
        "/static-tokens/units/hold",
        _MANAGE,
        hold_unit,
        produces=(JSON_LINES,),
        problems=("not_found", "conflict", "invalid", "too_many_requests"),
    ),
    route(
        "POST",
        "/static-tokens/units/reserve",
        _MANAGE,
        reserve_token,
        problems=("not_found", "conflict"),
        example={"profile": "wifi-sensor", "unit": "SN-0001"},
    ),
    route(
        "POST",
        "/static-tokens/units/written",
        _MANAGE,
        record_written,
        problems=("not_found", "conflict"),
        example={"tokenId": "01a2033a-8b07-7a39-a836-849800000001", "unit": "SN-0001"},
    ),
    route(
        "POST",
        "/static-tokens/units/fail",
        _MANAGE,
        fail_unit,
        problems=("not_found", "conflict"),
        example={"profile": "wifi-sensor", "unit": "SN-0001", "reason": "board replaced"},
    ),
]
