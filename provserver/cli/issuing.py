"""`provserver profile ca`: the CAs that profiles issue their devices' certificates with."""

from base64 import b64encode
from typing import Annotated, Any

import typer

from provserver.admin.client import Client, given, path
from provserver.cli import options, output
from provserver.cli.organization import OrganizationOption
from provserver.cli.output import Json
from provserver.cli.target import acting

cli = typer.Typer(
    help="The CA that a profile issues certificates with, to devices that send a signing request.", no_args_is_help=True
)

Reference = Annotated[
    str,
    typer.Argument(metavar="PROFILE", help="Name, template id (TMPL…) or id.", callback=options.reference("profile")),
]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Instead of the one that the profile has; what that one issued stays good."),
]


@cli.command()
@acting()
async def create(
    api: Client,
    profile: Reference,
    name: Annotated[str | None, typer.Option(help="Its common name.", show_default=False)] = None,
    days: Annotated[int | None, typer.Option(min=1, help="How long it is good.", show_default="3650")] = None,
    replace: Replace = False,
    organization: OrganizationOption = None,
    json: Json = False,
) -> None:
    """Make a CA, which is its own root; its key stays in the database, sealed."""
    body = given({"name": name, "days": days}) | {"replace": replace}
    query = {"organization": organization}
    _print(await api.call("POST", path("profiles", profile, "ca"), body=body, query=query), json)


@cli.command("import")
@acting()
async def import_(
    api: Client,
    profile: Reference,
    certificate: Annotated[
        bytes,
        typer.Option(
            metavar="FILE",
            parser=options.file,
            help="Its certificate, and behind it those above it that devices are to present, PEM.",
        ),
    ],
    key: Annotated[
        bytes,
        typer.Option(metavar="FILE", parser=options.file, help="Its key: EC P-256, PEM or DER, without a password."),
    ],
    replace: Replace = False,
    organization: OrganizationOption = None,
    json: Json = False,
) -> None:
    """Issue with a CA that there is: better one below your root than the root itself."""
    body = {
        "certificates": b64encode(certificate).decode(),
        "key": b64encode(key).decode(),
        "replace": replace,
    }
    query = {"organization": organization}
    _print(await api.call("POST", path("profiles", profile, "ca", "import"), body=body, query=query), json)


@cli.command()
@acting()
async def show(api: Client, profile: Reference, organization: OrganizationOption = None, json: Json = False) -> None:
    """Show the CA, with its certificate; never its key."""
    query = {"organization": organization}
    _print(await api.call("GET", path("profiles", profile, "ca"), query=query), json)


def _print(authority: dict[str, Any], json: bool) -> None:
    if json:
        output.print_json(authority)
        return
    output.print_object({name: value for name, value in authority.items() if name != "certificates"})
    typer.echo(authority["certificates"], nl=False)
