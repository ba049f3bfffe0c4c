"""`provserver organization`: the tree of organizations."""

from typing import Annotated

import typer

from provserver.admin.client import Client, given, path
from provserver.cli import options, output
from provserver.cli.output import Json
from provserver.cli.target import acting

cli = typer.Typer(help="Organizations: the manufacturer's, and below it those of its customers.", no_args_is_help=True)

Reference = Annotated[
    str,
    typer.Argument(metavar="ORGANIZATION", help="Name, number or id.", callback=options.reference("organization")),
]
OrganizationOption = Annotated[
    str | None,
    typer.Option(
        "--organization",
        metavar="ORGANIZATION",
        help="Name, number or id. (default: one's own)",
        callback=options.reference("organization"),
        show_default=False,
    ),
]
OrganizationChoice = Annotated[
    str | None,
    typer.Option(
        "--organization",
        metavar="ORGANIZATION",
        help="Only those of this one: name, number or id.",
        callback=options.reference("organization"),
        show_default=False,
    ),
]
Parent = Annotated[
    str | None,
    typer.Option(
        "--parent",
        metavar="ORGANIZATION",
        help="Name, number or id of the one above it. (default: one's own)",
        callback=options.reference("organization"),
        show_default=False,
    ),
]
DeviceQuota = Annotated[
    int | None,
    typer.Option(min=0, help="Devices that it and those below it may have.", show_default=False),
]
TokenQuota = Annotated[
    int | None,
    typer.Option(min=0, help="Static tokens that it and those below it may have.", show_default=False),
]
SignUp = Annotated[
    bool | None,
    typer.Option(
        "--sign-up/--no-sign-up",
        help="Whether anybody may make an organization of their own below it. (at first: no)",
        show_default=False,
    ),
]


@cli.command()
@acting()
async def create(
    api: Client,
    name: str,
    parent: Parent = None,
    device_quota: DeviceQuota = None,
    token_quota: TokenQuota = None,
    sign_up: SignUp = None,
    json: Json = False,
) -> None:
    """Make an organization below another."""
    body = {
        "name": name,
        "parent": parent,
        "deviceQuota": device_quota,
        "tokenQuota": token_quota,
        "signUp": sign_up,
    }
    output.print_object(await api.call("POST", "/organizations", body=given(body)), json=json)


@cli.command("list")
@acting()
async def list_(
    api: Client,
    parent: Annotated[
        str | None,
        typer.Option(
            metavar="ORGANIZATION",
            help="Only those right below this one.",
            callback=options.reference("organization"),
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List one's organization and those below it, in order of making."""
    columns = {"NUMBER": "number", "NAME": "name", "LEVEL": "level", "SIGN-UP": "signUp", "MADE": "createdAt"}
    found = api.items("/organizations", query={"parent": parent})
    if not json:
        found = (each | {"level": len(each["path"])} async for each in found)
    await output.print_list(found, columns, json=json)


@cli.command()
@acting()
async def show(api: Client, organization: Reference, json: Json = False) -> None:
    """Show an organization: who is above it, its quotas, whether anybody may sign up below it."""
    output.print_object(await api.call("GET", path("organizations", organization)), json=json)


@cli.command()
@acting()
async def update(
    api: Client,
    organization: Reference,
    name: Annotated[str | None, typer.Option(help="Rename it.", show_default=False)] = None,
    device_quota: DeviceQuota = None,
    token_quota: TokenQuota = None,
    no_device_quota: Annotated[bool, typer.Option("--no-device-quota", help="Lift the limit on devices.")] = False,
    no_token_quota: Annotated[bool, typer.Option("--no-token-quota", help="Lift the limit on tokens.")] = False,
    sign_up: SignUp = None,
    json: Json = False,
) -> None:
    """Change an organization; what is not given stays."""
    change: dict[str, object] = given(
        {"name": name, "deviceQuota": device_quota, "tokenQuota": token_quota, "signUp": sign_up}
    )
    if no_device_quota:
        change["deviceQuota"] = None
    if no_token_quota:
        change["tokenQuota"] = None
    changed = await api.call("PATCH", path("organizations", organization), body=change)
    output.print_object(changed, json=json)


@cli.command()
@acting()
async def delete(api: Client, organization: Reference, json: Json = False) -> None:
    """Delete an organization that has nothing left: no devices, no tokens, nothing below it."""
    deleted = await api.call("DELETE", path("organizations", organization))
    if json:
        output.print_json(deleted)
    output.say(f"Deleted organization {deleted['name']}.", quiet=json)
