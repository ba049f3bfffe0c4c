"""Static tokens: made, imported, listed, deleted, and their devices given back."""

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, cast
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import PRINTABLE, Answer, Body, Page, PageQuery, Query, Reference, paged
from provserver.admin.route import Call, Reply, route
from provserver.admin.routes.jobs import Begun, JobAnswer
from provserver.core.authorization import Permission, Principal
from provserver.core.statictoken import Batch, StaticToken, TokenStatus
from provserver.core.tokenfile import Assignment, ErrorKind, text
from provserver.errors import Invalid, NotFound, Unavailable
from provserver.services.jobs import Progress
from provserver.services.static_tokens import StaticTokens
from provserver.services.token_batch import ImportReport

AT_ONCE = 1_000
"""Tokens that are made in a request; more are made by a job."""


class TokenAnswer(Answer, frozen=True):
    """A static token. number: for people. unit…: the thing on the line that it is written to.

    hasDevice: its device has connected or was claimed; it has the token's id. holder…: the organization that has it.
    owner…: the user who owns it.
    """

    id: UUID
    number: int
    organization_id: UUID
    organization: str
    profile_id: UUID
    profile: str
    template_id: str
    status: TokenStatus
    claimed_at: datetime | None
    name: str | None
    metadata: Mapping[str, str]
    unit: str | None
    unit_state: str | None
    unit_at: datetime | None
    has_device: bool
    device_name: str | None
    holder_id: UUID | None
    holder: str | None
    owner_id: UUID | None
    owner: str | None
    revision: int
    created_at: datetime


class OpenedTokenAnswer(TokenAnswer, frozen=True):
    """A static token, with ?open=true its secrets in clear. qrPayload: what its QR code says."""

    auth_token: str | None = None
    qr_token: str | None = None
    qr_payload: str | None = None


class BatchAnswer(Answer, frozen=True):
    """Tokens that were made together: ?batch= selects them."""

    id: UUID
    organization_id: UUID
    profile_id: UUID
    profile: str
    count: int
    first_number: int
    last_number: int


class MadeTokens(Answer, frozen=True):
    """Tokens that were made in the request, without their secrets. items: empty if the database went away then."""

    batch: BatchAnswer
    items: Sequence[TokenAnswer]


class ColumnMember(Answer, frozen=True):
    """A column of the file, from 1, and the metadata field that it fills; null: none."""

    number: int
    header: str
    field: str | None


class FileErrorMember(Answer, frozen=True):
    """What is wrong where. row: of the data, from 1; line: of the file. column: from 1."""

    kind: ErrorKind
    row: int | None
    line: int | None
    column: int | None
    header: str | None
    reason: str


class RowMember(Answer, frozen=True):
    """A row as it was read. row: of the data, from 1; line: of the file. cells: their first 200 characters."""

    row: int
    line: int
    cells: Sequence[str]


class TokenImportAnswer(Answer, frozen=True):
    """What an import did, or would do. errors: the first thousand of errorCount; with any, nothing is imported.

    excerpt: rows of the file, if it was asked for.
    """

    imported: int
    dry_run: bool
    rows: int
    columns: Sequence[ColumnMember]
    error_count: int
    errors: Sequence[FileErrorMember]
    batch: BatchAnswer | None
    excerpt: Sequence[RowMember] = ()


class TokensQuery(PageQuery, frozen=True):
    """Which tokens. profile: by name, template id or id. batch: made together."""

    profile: Reference | UnsetType = UNSET
    status: TokenStatus | UnsetType = UNSET
    batch: UUID | UnsetType = UNSET
    search: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=255,
                pattern=PRINTABLE,
                description="The beginning of a name, of a unit or of a value that is unique, by either case; or a "
                "number or an id. Of very many some are found: say more of it.",
                examples=["SN0000"],
            ),
        ]
        | UnsetType
    ) = UNSET


class BatchesQuery(PageQuery, frozen=True):
    """Which batches. profile: by name, template id or id."""

    profile: Reference | UnsetType = UNSET


class BatchSummaryAnswer(Answer, frozen=True):
    """Tokens that were made together. made: how many, up to the last that is left.

    count, claimed: of those that are left; they are counted up to 10000, and 10001 stands for more.
    """

    id: UUID
    organization_id: UUID
    organization: str
    profile_id: UUID
    profile: str
    created_at: datetime
    made: int
    count: int
    claimed: int
    first_number: int
    last_number: int


class NewTokens(Body, frozen=True):
    """How many tokens to make, for which device profile. More than a thousand are made by a job."""

    profile: Reference
    count: Annotated[int, Meta(ge=1, le=1_000_000)] = 1


class TokenImportQuery(Query, frozen=True):
    """How to read the file. map: COLUMN=FIELD, or COLUMN= to leave it out; what is not named goes by its own name."""

    profile: Reference
    map: Annotated[
        tuple[Annotated[str, Meta(max_length=600, pattern="^[^\\x00-\\x1f]*=[^\\x00-\\x1f]*$")], ...],
        Meta(max_length=100),
    ] = ()
    dry_run: Annotated[bool, Meta(description="Check everything, make nothing.")] = False
    as_job: Annotated[bool, Meta(description="Answer at once with a job that does it.")] = False
    excerpt: Annotated[
        int,
        Meta(ge=0, le=100, description="Of how many rows, and of how many with errors, the cells are told; by no job."),
    ] = 0


class OpenQuery(Query, frozen=True):
    """open: with the secrets in clear, which the audit keeps."""

    open: bool = False


class DeleteQuery(Query, frozen=True):
    """confirm: also one that is claimed, whose owner loses the device for ever.

    from_network: also what the server has made of its device in the device's network.
    """

    confirm: bool = False
    from_network: bool = False


def _token(token: StaticToken) -> TokenAnswer:
    return TokenAnswer.of(token)


def _batch(batch: Batch) -> BatchAnswer:
    return BatchAnswer.of(batch)


async def list_static_tokens(call: Call[TokensQuery, None]) -> Page[TokenAnswer]:
    """List static tokens in the order they were made."""
    query = call.query
    found = await call.services.tokens.list_(
        call.principal,
        query.profile or None,
        query.status or None,
        query.after,
        query.limit + 1,
        batch=query.batch or None,
        search=query.search or None,
    )
    return paged(found, query.limit, _token)


async def list_batches(call: Call[BatchesQuery, None]) -> Page[BatchSummaryAnswer]:
    """List what was made together, newest first, as far as tokens of it are left."""
    query = call.query
    found = await call.services.tokens.batches(call.principal, query.profile or None, query.after, query.limit + 1)
    return paged(found, query.limit, BatchSummaryAnswer.of)


async def make_static_tokens(call: Call[None, NewTokens]) -> Reply[MadeTokens]:
    """Make static tokens."""
    tokens, principal, body = call.services.tokens, call.principal, call.body
    if body.count > AT_ONCE:

        async def work(progress: Progress) -> BatchAnswer:
            return _batch(await tokens.make(principal, body.profile, body.count, progress))

        job = await call.services.jobs.start(principal, "static_tokens.make", work, body.count)
        return cast("Reply[MadeTokens]", Reply(Begun(JobAnswer.of(job)), status=202))
    batch = await tokens.make(principal, body.profile, body.count)
    made: list[StaticToken] = []
    with suppress(Unavailable):  # they are made, and told to be
        made = await tokens.list_(principal, batch=batch.id, limit=AT_ONCE)
    return Reply(MadeTokens(_batch(batch), [_token(each) for each in made]))


async def import_static_tokens(call: Call[TokenImportQuery, bytes]) -> Reply[TokenImportAnswer]:
    """Make static tokens from CSV, all rows or none; the answer is a report, also of a file that is refused.

    A file with errors is no problem of HTTP: it is answered with 200 (by a job: it is done) and the report of what is
    wrong. Look at `errorCount`: unless it is 0, nothing was made and `imported` is 0.
    """
    tokens, principal, query, data = call.services.tokens, call.principal, call.query, call.body
    mapping = _mapping(query.map)

    async def work(progress: Progress) -> TokenImportAnswer:
        with text(io.BytesIO(data)) as lines:
            report = await tokens.import_(
                principal,
                query.profile,
                lines,
                mapping,
                dry_run=query.dry_run,
                excerpt=0 if query.as_job else query.excerpt,
                progress=progress,
            )
        progress(report.rows, report.rows)
        return _report(report, dry_run=query.dry_run)

    if query.as_job:  # as many as there are lines below the header, or fewer: cells may have line breaks
        total = max(data.count(b"\n"), 1)
        job = await call.services.jobs.start(principal, "static_tokens.import", work, total)
        return cast("Reply[TokenImportAnswer]", Reply(Begun(JobAnswer.of(job)), status=202))
    return Reply(await work(Progress()))


async def show_static_token(call: Call[OpenQuery, None]) -> Reply[OpenedTokenAnswer]:
    """Show a static token, by id or number."""
    details = await call.services.tokens.show(call.principal, call.text("token"), open_=call.query.open)
    token = details.token
    secrets = {"auth_token": details.auth_token, "qr_token": details.qr_token, "qr_payload": details.payload}
    return Reply(OpenedTokenAnswer.of(token, **secrets), revision=token.revision)


async def delete_static_token(call: Call[DeleteQuery, None]) -> TokenAnswer:
    """Delete a static token for ever, with its device."""
    token = await _found(call.services.tokens, call.principal, call.text("token"))
    query = call.query
    await call.services.handover.delete_token(
        call.principal, token.id, confirm=query.confirm, from_network=query.from_network
    )
    return _token(token)


async def unclaim_static_token(call: Call[None, None]) -> None:
    """Give a claimed device back, as its owner or its maker."""
    await call.services.handover.unclaim(call.principal, await _id(call))


async def disclaim_static_token(call: Call[None, None]) -> TokenAnswer:
    """Take a claimed device away from whoever has it, as its maker."""
    await call.services.handover.disclaim(call.principal, await _id(call))
    return _token(await _found(call.services.tokens, call.principal, call.text("token")))


async def _found(tokens: StaticTokens, principal: Principal, reference: str) -> StaticToken:
    return (await tokens.show(principal, reference)).token


async def _id(call: Call[None, None]) -> UUID:
    """A token's id; who may manage tokens may name it by its number. Raises NotFound."""
    reference = call.text("token")
    try:
        return UUID(reference)
    except ValueError:
        if Permission.TOKENS_MANAGE not in call.principal.permissions:
            raise NotFound(f"There is no static token {reference!r}. Name it by its device's id.") from None
    return (await _found(call.services.tokens, call.principal, reference)).id


def _mapping(given: Sequence[str]) -> Assignment:
    """Fields by columns. The last = divides, as fields are called by us."""
    mapping: dict[str, str | None] = {}
    for each in given:
        column, _, field = each.rpartition("=")
        if column in mapping:
            raise Invalid(f"The column {column!r} is mapped twice.")
        mapping[column] = field or None
    return mapping


def _report(report: ImportReport, *, dry_run: bool) -> TokenImportAnswer:
    return TokenImportAnswer(
        imported=0 if report.error_count else report.rows,
        dry_run=dry_run,
        rows=report.rows,
        columns=[ColumnMember.of(each) for each in report.columns],
        error_count=report.error_count,
        errors=[FileErrorMember.of(each) for each in report.errors],
        batch=None if report.batch is None else _batch(report.batch),
        excerpt=[RowMember.of(each) for each in report.excerpt],
    )


_MANAGE, _VIEW = Permission.TOKENS_MANAGE, Permission.DEVICES_VIEW
_TOKEN_PROBLEMS = ("conflict",)

ROUTES = [
    route(
        "GET",
        "/static-tokens",
        _MANAGE,
        list_static_tokens,
        problems=("not_found", "conflict"),
    ),
    route(
        "POST",
        "/static-tokens",
        _MANAGE,
        make_static_tokens,
        creates=True,
        also={202: Begun},
        problems=("not_found", "conflict", "invalid", "too_many_requests"),
        example={"profile": "wifi-sensor", "count": 3},
    ),
    route(
        "POST",
        "/static-tokens/import",
        _MANAGE,
        import_static_tokens,
        status=200,
        creates=True,
        also={202: Begun},
        problems=("not_found", "conflict", "invalid", "too_many_requests"),
        example="Serial Number,MAC address,Device Name\r\nSN000001,2C:54:91:88:C9:E3,Temperature Sense Node AGHJ\r\n",
    ),
    route("GET", "/static-tokens/batches", _MANAGE, list_batches, problems=("not_found", "conflict")),
    route(
        "GET",
        "/static-tokens/{token}",
        _MANAGE,
        show_static_token,
        revised=True,
    ),
    route(
        "DELETE",
        "/static-tokens/{token}",
        _MANAGE,
        delete_static_token,
        problems=_TOKEN_PROBLEMS,
    ),
    route(
        "POST",
        "/static-tokens/{token}/unclaim",
        _VIEW,
        unclaim_static_token,
        problems=_TOKEN_PROBLEMS,
    ),
    route(
        "POST",
        "/static-tokens/{token}/disclaim",
        _MANAGE,
        disclaim_static_token,
        problems=_TOKEN_PROBLEMS,
    ),
]
