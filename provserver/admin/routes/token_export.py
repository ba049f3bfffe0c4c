"""Static tokens as files, and their QR codes as images."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Literal
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import Answer, Name, Query, Reference
from provserver.admin.route import CSV, Call, Content, route
from provserver.core import qr
from provserver.core.authorization import Permission
from provserver.core.statictoken import TokenStatus
from provserver.services.static_tokens import Selection
from provserver.services.token_export import AUTH_TOKEN, METADATA, SERIAL

ZIP, PDF, PNG, SVG = "application/zip", "application/pdf", "image/png", "image/svg+xml"


class SelectionAnswer(Answer, frozen=True):
    """How many tokens a selection has. fields: the metadata fields of their profiles; secretFields: keys among them."""

    count: int
    fields: Sequence[str]
    secret_fields: Sequence[str]


class SelectionQuery(Query, frozen=True):
    """Which tokens: all that fit. id: may be repeated."""

    id: Annotated[tuple[UUID, ...], Meta(max_length=1000)] = ()
    profile: Reference | UnsetType = UNSET
    status: TokenStatus | UnsetType = UNSET
    batch: UUID | UnsetType = UNSET

    def selection(self) -> Selection:
        """As the services have it."""
        return Selection(self.id or None, self.profile or None, self.status or None, self.batch or None)


class ZipQuery(SelectionQuery, frozen=True):
    """How to name the images: serial (the number), auth-token (which tells it), a metadata field or Device Name.

    By default by a metadata field that is unique, and tokens without one by number.
    """

    name_by: Name | UnsetType = UNSET
    format: Literal["png", "svg"] = "png"


class LabelsQuery(SelectionQuery, frozen=True):
    """How to print the labels. field: a metadata field whose value is on each."""

    sheet: Name = "L7160"
    field: Name | UnsetType = UNSET


async def count_static_tokens(call: Call[SelectionQuery, None]) -> SelectionAnswer:
    """Count the static tokens that an export would have, and name their metadata fields."""
    found = await call.services.tokens.summary(call.principal, call.query.selection())
    return SelectionAnswer.of(found, secret_fields=sorted(found.secret_fields))


async def export_tokens_csv(call: Call[SelectionQuery, None]) -> Content:
    """Static tokens with their AuthTokens as CSV."""
    parts = call.services.export.csv(call.principal, call.query.selection())
    return Content(parts, f"{CSV}; charset=utf-8; header=present", "tokens.csv")


async def export_tokens_zip(call: Call[ZipQuery, None]) -> Content:
    """Static tokens as a zip: the CSV, and an image of each QR code."""
    query = call.query
    naming = query.name_by or None
    if naming is not None and naming not in (SERIAL, AUTH_TOKEN) and not naming.startswith(METADATA):
        naming = METADATA + naming
    parts = call.services.export.zip_(call.principal, query.selection(), naming, query.format)
    return Content(parts, ZIP, "tokens.zip")


async def export_token_labels(call: Call[LabelsQuery, None]) -> Content:
    """Labels with QR codes to print."""
    query = call.query
    parts: AsyncIterator[bytes] = call.services.export.labels(
        call.principal, query.selection(), query.sheet, query.field or None
    )
    return Content(parts, PDF, "labels.pdf")


async def show_qr_png(call: Call[None, None]) -> Content:
    """A QR code as PNG."""
    return Content(qr.png(await _payload(call)), PNG)


async def show_qr_svg(call: Call[None, None]) -> Content:
    """A QR code as SVG."""
    return Content(qr.svg(await _payload(call)), SVG)


async def _payload(call: Call[None, None]) -> str:
    details = await call.services.tokens.show_qr(call.principal, call.text("token"))
    return details.payload or ""


_MANAGE = Permission.TOKENS_MANAGE

ROUTES = [
    route("GET", "/static-tokens/count", _MANAGE, count_static_tokens, problems=("not_found", "conflict", "invalid")),
    route(
        "GET",
        "/static-tokens/export.csv",
        _MANAGE,
        export_tokens_csv,
        produces=(CSV,),
        problems=("not_found", "conflict", "invalid"),
    ),
    route(
        "GET",
        "/static-tokens/export.zip",
        _MANAGE,
        export_tokens_zip,
        produces=(ZIP,),
        problems=("not_found", "conflict", "invalid"),
    ),
    route(
        "GET",
        "/static-tokens/export.pdf",
        _MANAGE,
        export_token_labels,
        produces=(PDF,),
        problems=("not_found", "conflict", "invalid"),
    ),
    route("GET", "/static-tokens/{token}/qr.png", _MANAGE, show_qr_png, produces=(PNG,)),
    route("GET", "/static-tokens/{token}/qr.svg", _MANAGE, show_qr_svg, produces=(SVG,)),
]
