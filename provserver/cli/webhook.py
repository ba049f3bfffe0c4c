"""`provserver webhook`: telling other programs what happens to devices."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from provserver.admin.client import Client, given, path
from provserver.cli import options, output
from provserver.cli.organization import OrganizationChoice, OrganizationOption
from provserver.cli.output import Json
from provserver.cli.target import acting
from provserver.core.events import EventType
from provserver.core.webhook import DeliveryState

cli = typer.Typer(help="Webhooks: events of devices, sent to a URL of yours.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its id.", callback=options.reference("webhook"))]


def _time(given_: datetime | None) -> datetime | None:
    return given_ if given_ is None or given_.tzinfo is not None else given_.replace(tzinfo=UTC)


def _types(help_: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option("--type", metavar="TYPE", help=help_, show_default=False)
    return option


def _moment(help_: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=help_, callback=_time, show_default=False)
    return option


@cli.command()
@acting()
async def create(
    api: Client,
    url: str,
    types: Annotated[list[EventType] | None, _types("Of events; may be repeated. (default: all)")] = None,
    organization: OrganizationOption = None,
    json: Json = False,
) -> None:
    """Have an organization be told of events; the secret that they are signed with is shown this once."""
    body = {"url": url, "types": types or [], "organization": organization}
    output.print_object(await api.call("POST", "/webhooks", body=given(body)), json=json)
    output.say("The secret is shown this once: keep it.", quiet=json)


@cli.command("list")
@acting()
async def list_(api: Client, organization: OrganizationChoice = None, json: Json = False) -> None:
    """List the webhooks."""
    columns = {
        "ID": "id",
        "URL": "url",
        "ORGANIZATION": "organizationId",
        "TYPES": "types",
        "ENABLED": "enabled",
        "FAILING SINCE": "failingSince",
    }
    await output.print_list(api.items("/webhooks", query={"organization": organization}), columns, json=json)


@cli.command()
@acting()
async def show(api: Client, webhook: Reference, json: Json = False) -> None:
    """Show a webhook, and how much waits for it."""
    output.print_object(await api.call("GET", path("webhooks", webhook)), json=json)


@cli.command()
@acting()
async def update(
    api: Client,
    webhook: Reference,
    url: Annotated[str | None, typer.Option(help="Where to send events.", show_default=False)] = None,
    types: Annotated[list[EventType] | None, _types("Of events, instead of those of now; may be repeated.")] = None,
    all_types: Annotated[bool, typer.Option("--all-types", help="Send events of all types.")] = False,
    enabled: Annotated[
        bool | None, typer.Option("--enable/--disable", help="Whether to send any.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Change a webhook."""
    body = {"url": url, "types": [] if all_types else types or None, "enabled": enabled}
    if types and all_types:
        raise typer.BadParameter("goes without --type.", param_hint="--all-types")
    output.print_object(await api.call("PATCH", path("webhooks", webhook), body=given(body)), json=json)


@cli.command()
@acting()
async def delete(api: Client, webhook: Reference, json: Json = False) -> None:
    """Delete a webhook, with what waits for it."""
    deleted = await api.call("DELETE", path("webhooks", webhook))
    if json:
        output.print_json(deleted)
    output.say(f"Deleted the webhook to {deleted['url']}.", quiet=json)


@cli.command("test")
@acting()
async def try_(api: Client, webhook: Reference, json: Json = False) -> None:
    """Send an event of the type webhook.test at once, and say what came of it."""
    tried = await api.call("POST", path("webhooks", webhook, "test"))
    output.print_object(tried, json=json)
    if not tried["delivered"]:
        raise typer.Exit(1)


@cli.command()
@acting()
async def deliveries(
    api: Client,
    webhook: Reference,
    state: Annotated[DeliveryState | None, typer.Option(help="Only those.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    json: Json = False,
) -> None:
    """List what is, or was, sent to a webhook, the newest event first."""
    columns = {
        "EVENT": "id",
        "TYPE": "type",
        "DEVICE": "deviceId",
        "STATE": "state",
        "TRIES": "tries",
        "ERROR": "error",
        "TRIED": "triedAt",
    }
    found = api.items(path("webhooks", webhook, "deliveries"), query={"state": state}, limit=limit)
    await output.print_list(found, columns, json=json)


@cli.command()
@acting()
async def replay(
    api: Client,
    webhook: Reference,
    event: Annotated[UUID | None, typer.Option(help="One event.", show_default=False)] = None,
    since: Annotated[datetime | None, _moment("Those from a time on, in UTC.")] = None,
    until: Annotated[datetime | None, _moment("Up to when, in UTC. (default: now)")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All that were given up.")] = False,
    json: Json = False,
) -> None:
    """Send events again, behind all that waits."""
    body = {
        "event": str(event) if event else None,
        "since": since.isoformat() if since else None,
        "until": until.isoformat() if until else None,
        "dead": dead or None,
    }
    replayed = await api.call("POST", path("webhooks", webhook, "replay"), body=given(body))
    if json:
        output.print_json(replayed)
    output.say(f"{replayed['replayed']} events are sent again.", quiet=json)
