"""`provserver request-key`: the keys that devices seal their requests to."""

from typing import Annotated

import typer

from provserver.admin.client import Client, given, path
from provserver.cli import options, output
from provserver.cli.organization import OrganizationChoice, OrganizationOption
from provserver.cli.output import Json
from provserver.cli.target import acting

cli = typer.Typer(help="Keys that devices seal their requests to (docs/sealed.md).", no_args_is_help=True)


@cli.command()
@acting()
async def create(api: Client, organization: OrganizationOption = None, json: Json = False) -> None:
    """Make a request key; its publicKey goes into the firmware."""
    made = await api.call("POST", "/request-keys", body=given({"organization": organization}))
    output.print_object(made, json=json)


@cli.command("list")
@acting()
async def list_(api: Client, organization: OrganizationChoice = None, json: Json = False) -> None:
    """List the request keys, by their public side."""
    columns = {"KEY ID": "keyId", "PUBLIC KEY": "publicKey", "ORGANIZATION": "organizationId", "CREATED": "createdAt"}
    await output.print_list(api.items("/request-keys", query={"organization": organization}), columns, json=json)


@cli.command()
@acting()
async def delete(
    api: Client,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Key id or id.", callback=options.reference("request key"))],
    json: Json = False,
) -> None:
    """Delete a request key: what is sealed to it opens no more."""
    deleted = await api.call("DELETE", path("request-keys", key))
    if json:
        output.print_json(deleted)
    output.say(f"Deleted request key {deleted['keyId']}.", quiet=json)
