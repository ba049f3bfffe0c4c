"""Devices that are made beforehand, of a CSV file: checked first, then made all or none."""

from typing import Any

from provserver.admin.console.page import Ask, page
from provserver.admin.console.pages.devices import profiles
from provserver.admin.messages import Response
from provserver.admin.route import MAX_CSV
from provserver.core.authorization import Permission

AS_JOB = 1_000
"""Rows of a file from which on a job makes the devices."""


async def ask_for_file(ask: Ask) -> Response:
    """Which profile, which file."""
    wanted = ask.query.get("profile", "").strip()
    return ask.show("devices/import.html", profiles=await profiles(ask), wanted=wanted, max_bytes=MAX_CSV)


async def check_file(ask: Ask) -> Response:
    """What an import of the file in the body would do."""
    report = await _import(ask, {"dryRun": True})
    return ask.part("devices/report.html", report=report, rows=report["imported"], as_job=report["imported"] > AS_JOB)


async def import_file(ask: Ask) -> Response:
    """Make the devices of the file in the body, or say what is wrong with it."""
    many = ask.query.get("rows", "").isdecimal() and int(ask.query["rows"]) > AS_JOB
    report = await _import(ask, {"asJob": True} if many else {})
    if "job" in report:
        return ask.go(f"/jobs/{report['job']['id']}")
    if report["errorCount"]:
        return ask.part("devices/report.html", report=report, rows=0, as_job=False)
    made = "1 device was" if report["imported"] == 1 else f"{report['imported']:,} devices were"
    return ask.go("/devices", said=f"{made} made from the file.")


async def _import(ask: Ask, query: dict[str, object]) -> Any:
    once = ask.request.headers.get("idempotency-key")
    headers = {"idempotency-key": once} if once and "dryRun" not in query else None
    data = await ask.body(MAX_CSV)
    return await ask.api("POST", "/devices/import", {"profile": ask.query.get("profile", ""), **query}, data, headers)


_CREATE = Permission.DEVICES_CREATE

PAGES = [
    page("GET", "/devices/import", ask_for_file, _CREATE),
    page("POST", "/devices/import/check", check_file, _CREATE),
    page("POST", "/devices/import", import_file, _CREATE),
]
