"""`provserver key`: API keys, for programs that operate."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from provserver.admin.client import Client, given, path
from provserver.cli import options, output
from provserver.cli.organization import OrganizationChoice, OrganizationOption
from provserver.cli.output import Json
from provserver.cli.target import acting
from provserver.core.authorization import Permission

cli = typer.Typer(help="API keys, which programs and --server operate with.", no_args_is_help=True)


def _time(given: datetime | None) -> datetime | None:
    return given if given is None or given.tzinfo is not None else given.replace(tzinfo=UTC)


@cli.command()
@acting()
async def create(
    api: Client,
    name: str,
    permission: Annotated[
        list[Permission] | None,
        typer.Option(
            metavar="PERMISSION",
            help="What it may do; may be repeated. (default: all that its maker may)",
            show_default=False,
        ),
    ] = None,
    organization: OrganizationOption = None,
    expires: Annotated[
        datetime | None, typer.Option(help="Until when it is good, in UTC.", callback=_time, show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Make an API key; its secret is shown this once."""
    permissions = permission or (await api.call("GET", "/session"))["permissions"]
    body = {
        "name": name,
        "permissions": permissions,
        "organization": organization,
        "expiresAt": expires.isoformat() if expires else None,
    }
    output.print_object(await api.call("POST", "/keys", body=given(body)), json=json)
    output.say("The secret is shown this once: keep it.", quiet=json)


@cli.command("list")
@acting()
async def list_(api: Client, organization: OrganizationChoice = None, json: Json = False) -> None:
    """List the API keys, without their secrets."""
    columns = {
        "NAME": "name",
        "BEGINS": "hint",
        "ORGANIZATION": "organizationId",
        "PERMISSIONS": "permissions",
        "EXPIRES": "expiresAt",
        "LAST USED": "lastUsedAt",
    }
    await output.print_list(api.items("/keys", query={"organization": organization}), columns, json=json)


@cli.command()
@acting()
async def delete(
    api: Client,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Name or id.", callback=options.reference("key"))],
    json: Json = False,
) -> None:
    """Delete an API key: it is good no more from now on."""
    deleted = await api.call("DELETE", path("keys", key))
    if json:
        output.print_json(deleted)
    output.say(f"Deleted API key {deleted['name']}.", quiet=json)
