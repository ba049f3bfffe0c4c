"""Static tokens: listed and found, made by number or from a file, exported, and each on a page of its own."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from provserver.admin.console.page import Ask, page
from provserver.admin.console.templating import segment
from provserver.admin.messages import Response
from provserver.admin.problem import Malformed
from provserver.admin.route import MAX_CSV
from provserver.core.authorization import Permission
from provserver.errors import NotFound

PREVIEWED = 10
"""Rows of a file that its preview shows, and rows with errors beside them."""

AS_JOB = 1_000
"""Rows of a file from which on a job makes the tokens."""

MAX_LABELS = 5_000
"""Of one PDF."""

SHEETS = (
    ("L7160", "L7160: A4, 21 labels"),
    ("62x29", "Roll, 62 × 29 mm"),
)

DELETE = "DELETE"
"""What people type to delete a token that somebody has claimed."""

_SELECTING = ("profile", "status", "batch")


async def list_tokens(ask: Ask) -> Response:
    """Tokens, those that fit."""
    chosen = ask.chosen("cursor", "search", *_SELECTING)
    found = await ask.api("GET", "/static-tokens", {"limit": 50, **chosen})
    filtered = any(name != "cursor" for name in chosen)
    return ask.show(
        "static_tokens/list.html", found=found, filtered=filtered, profiles=await _profiles(ask), chosen=chosen
    )


async def list_batches(ask: Ask) -> Response:
    """What was made together."""
    found = await ask.api("GET", "/static-tokens/batches", {"limit": 20, **ask.chosen("cursor", "profile")})
    return ask.show("static_tokens/batches.html", found=found, profiles=await _profiles(ask))


async def show_line(ask: Ask) -> Response:
    """A profile's units at the end of the production line."""
    profiles = await _profiles(ask)
    profile = ask.query.get("profile", "").strip() or (profiles[0]["id"] if profiles else "")
    line = None
    if profile:
        chosen = ask.chosen("unit", "state")
        line = await ask.api("GET", "/static-tokens/units", {"limit": 100, "profile": profile, **chosen})
    return ask.show("static_tokens/units.html", line=line, profiles=profiles, profile=profile)


async def ask_how_many(ask: Ask) -> Response:
    """Which profile, how many tokens."""
    profile = ask.query.get("profile", "")
    return ask.show("static_tokens/new.html", profiles=await _profiles(ask), profile=profile)


async def make_tokens(ask: Ask) -> Response:
    """Make tokens by number: a few at once, many by a job."""
    form = await ask.form()
    body = {"profile": form["profile"], "count": form.number("count") or 0}
    made = await ask.api("POST", "/static-tokens", body=body)
    if "job" in made:
        return ask.go(f"/static-tokens/jobs/{made['job']['id']}")
    batch = made["batch"]
    tokens = "1 token was" if batch["count"] == 1 else f"{batch['count']:,} tokens were"
    return ask.go(f"/static-tokens?batch={batch['id']}", said=f"{tokens} made for {batch['profile']}.")


async def show_job(ask: Ask) -> Response:
    """How far a job is that makes tokens, and what came of it."""
    job = await ask.api("GET", f"/jobs/{ask.parameters['id']}")
    if not job["kind"].startswith("static_tokens."):
        raise NotFound("This job makes no static tokens: it is found under Jobs.")
    result = job["result"] if job["state"] == "done" else None
    batch = None
    if isinstance(result, dict):
        batch = result.get("batch") if job["kind"] == "static_tokens.import" else result
    template = "static_tokens/progress.html" if ask.is_part else "static_tokens/job.html"
    show = ask.part if ask.is_part else ask.show
    return show(template, job=job, report=result, batch=batch)


async def ask_for_file(ask: Ask) -> Response:
    """Which profile, which file."""
    profile = ask.query.get("profile", "")
    return ask.show("static_tokens/import.html", profiles=await _profiles(ask), profile=profile, max_bytes=MAX_CSV)


async def check_file(ask: Ask) -> Response:
    """What an import of the file in the body would do: its columns, first rows and errors."""
    report = await _import(ask, {"dryRun": True, "excerpt": PREVIEWED})
    return await _reported(ask, report)


async def import_file(ask: Ask) -> Response:
    """Make the tokens of the file in the body, or say what is wrong with it."""
    query: dict[str, object] = {"excerpt": PREVIEWED}
    if ask.query.get("rows", "").isdecimal() and int(ask.query["rows"]) > AS_JOB:
        query["asJob"] = True
    report = await _import(ask, query)
    if "job" in report:
        return ask.go(f"/static-tokens/jobs/{report['job']['id']}")
    if report["errorCount"]:
        return await _reported(ask, report)
    tokens = "1 token was" if report["imported"] == 1 else f"{report['imported']:,} tokens were"
    return ask.go(f"/static-tokens?batch={report['batch']['id']}", said=f"{tokens} made from the file.")


async def show_export(ask: Ask) -> Response:
    """What can be had of the tokens that were selected."""
    selection = _selection(ask)
    counted = await ask.api("GET", "/static-tokens/count", selection)
    plain = [each for each in counted["fields"] if each not in counted["secretFields"]]
    return ask.show(
        "static_tokens/export.html",
        selection=selection,
        counted=counted,
        fields=plain,
        sheets=SHEETS,
        max_labels=MAX_LABELS,
    )


async def export_csv(ask: Ask) -> Response:
    """The tokens with their AuthTokens."""
    return await ask.pass_on("GET", "/static-tokens/export.csv", _selection(ask))


async def export_zip(ask: Ask) -> Response:
    """The CSV, and an image of each QR code."""
    return await ask.pass_on("GET", "/static-tokens/export.zip", _selection(ask) | ask.chosen("nameBy", "format"))


async def export_labels(ask: Ask) -> Response:
    """Labels to print."""
    return await ask.pass_on("GET", "/static-tokens/export.pdf", _selection(ask) | ask.chosen("sheet", "field"))


async def show_token(ask: Ask) -> Response:
    """One token, without its secrets."""
    return ask.show("static_tokens/token.html", token=await _token(ask), opened=None, delete_word=DELETE)


async def reveal_token(ask: Ask) -> Response:
    """The same with its secrets, this once: they are in the answer alone, and the audit says who saw them."""
    opened = await ask.api("GET", _path(ask), {"open": True})
    return ask.show("static_tokens/token.html", token=await _token(ask), opened=opened, delete_word=DELETE)


async def show_qr(ask: Ask) -> Response:
    """A token's QR code, large, to be looked at or printed."""
    return ask.show("static_tokens/qr.html", token=await _token(ask))


async def show_qr_svg(ask: Ask) -> Response:
    """The QR code."""
    return await ask.pass_on("GET", f"{_path(ask)}/qr.svg")


async def show_qr_png(ask: Ask) -> Response:
    """The QR code."""
    return await ask.pass_on("GET", f"{_path(ask)}/qr.png")


async def disclaim_token(ask: Ask) -> Response:
    """Take the device from whoever has it."""
    token = await ask.api("POST", f"{_path(ask)}/disclaim")
    said = f"Token {token['number']} is unclaimed: whoever has its QR code may claim it. The device may connect again."
    return ask.go(f"/static-tokens/{token['id']}", said=said)


async def delete_token(ask: Ask) -> Response:
    """Delete a token for ever, with its device."""
    form = await ask.form()
    token = await _token(ask)
    claimed = token["status"] == "CLAIMED"
    if claimed and form["confirm"] != DELETE:
        raise Malformed(
            f"Type {DELETE} to delete a token that is claimed.",
            [{"in": "body", "field": "confirm", "reason": f"{DELETE}, in capitals"}],
        )
    query: dict[str, object] = {"confirm": claimed}
    if form["from_network"]:
        query["fromNetwork"] = True
    await ask.api("DELETE", f"/static-tokens/{token['id']}", query)
    device = f", and with it the device {token['deviceName']}" if token["hasDevice"] else ""
    return ask.go("/static-tokens", said=f"Token {token['number']} was deleted for ever{device}.")


def _path(ask: Ask) -> str:
    return f"/static-tokens/{ask.parameters['token']}"


async def _token(ask: Ask) -> Any:
    return await ask.api("GET", _path(ask))


async def _profiles(ask: Ask) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = (await ask.api("GET", "/profiles", {"limit": 500}))["items"]
    return found


def _pairs(ask: Ask, name: str) -> list[str]:
    """A member of the query that may be there more than once."""
    return [value for each, value in parse_qsl(ask.request.query, keep_blank_values=True) if each == name]


def _selection(ask: Ask) -> dict[str, object]:
    chosen: dict[str, object] = {**ask.chosen(*_SELECTING)}
    if ids := _pairs(ask, "id"):
        chosen["id"] = ids
    return chosen


async def _import(ask: Ask, query: Mapping[str, object]) -> Any:
    data = await ask.body(MAX_CSV)
    once = ask.request.headers.get("idempotency-key")
    given = {"profile": ask.query.get("profile", ""), "map": _pairs(ask, "map"), **query}
    headers = {"idempotency-key": once} if once and "dryRun" not in query else None
    return await ask.api("POST", "/static-tokens/import", given, data, headers)


async def _reported(ask: Ask, report: Mapping[str, Any]) -> Response:
    """The report of a file that is not imported yet: its errors are told at its columns, its cells, and in a list."""
    profile = await ask.api("GET", f"/profiles/{segment(ask.query.get('profile', ''))}")
    columns: dict[int, str] = {}
    cells: dict[tuple[int, int], str] = {}
    rows: dict[int, str] = {}
    general: list[str] = []
    for each in report["errors"]:
        if each["row"] is None and each["column"] is not None:
            columns.setdefault(each["column"], each["reason"])
        elif each["row"] is None:
            general.append(each["reason"])
        elif each["column"] is None:
            rows.setdefault(each["row"], each["reason"])
        else:
            cells.setdefault((each["row"], each["column"]), each["reason"])
    fields = [each["name"] for each in profile["metadataFields"] if each["name"] != "Device Name"]
    return ask.part(
        "static_tokens/report.html",
        report=report,
        column_errors=columns,
        cell_errors=cells,
        row_errors=rows,
        general=general,
        fields=["Device Name", *fields],
        as_job=report["rows"] > AS_JOB,
        left_out=_left_out(ask),
    )


def _left_out(ask: Ask) -> set[str]:
    """Headers of columns that were said to fill nothing."""
    return {column for column, _, field in (each.rpartition("=") for each in _pairs(ask, "map")) if not field}


_MANAGE = Permission.TOKENS_MANAGE

PAGES = [
    page("GET", "/static-tokens", list_tokens, _MANAGE),
    page("POST", "/static-tokens", make_tokens, _MANAGE),
    page("GET", "/static-tokens/batches", list_batches, _MANAGE),
    page("GET", "/static-tokens/units", show_line, _MANAGE),
    page("GET", "/static-tokens/new", ask_how_many, _MANAGE),
    page("GET", "/static-tokens/jobs/{id}", show_job, _MANAGE),
    page("GET", "/static-tokens/import", ask_for_file, _MANAGE),
    page("POST", "/static-tokens/import", import_file, _MANAGE),
    page("POST", "/static-tokens/import/check", check_file, _MANAGE),
    page("GET", "/static-tokens/export", show_export, _MANAGE),
    page("GET", "/static-tokens/export.csv", export_csv, _MANAGE),
    page("GET", "/static-tokens/export.zip", export_zip, _MANAGE),
    page("GET", "/static-tokens/export.pdf", export_labels, _MANAGE),
    page("GET", "/static-tokens/{token}", show_token, _MANAGE),
    page("POST", "/static-tokens/{token}/reveal", reveal_token, _MANAGE),
    page("GET", "/static-tokens/{token}/qr", show_qr, _MANAGE),
    page("GET", "/static-tokens/{token}/qr.svg", show_qr_svg, _MANAGE),
    page("GET", "/static-tokens/{token}/qr.png", show_qr_png, _MANAGE),
    page("POST", "/static-tokens/{token}/disclaim", disclaim_token, _MANAGE),
    page("POST", "/static-tokens/{token}/delete", delete_token, _MANAGE),
]
