"""`provserver user`: the people who operate, each in one organization."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from provserver.admin.client import Client, given, path
from provserver.cli import options, output
from provserver.cli.organization import OrganizationChoice, OrganizationOption
from provserver.cli.output import Json
from provserver.cli.target import acting
from provserver.core.accounts import checked_email
from provserver.core.authorization import Role

cli = typer.Typer(help="Users: invite, list, show, update, delete; links to choose passwords by.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(metavar="USER", help="E-mail or id.", callback=options.reference("user"))]


@cli.command()
@acting()
async def invite(
    api: Client,
    email: str,
    role: Annotated[Role, typer.Option(help="What the user may do.")] = Role.USER,
    name: Annotated[str, typer.Option(help="The user's name.", show_default=False)] = "",
    organization: OrganizationOption = None,
    json: Json = False,
) -> None:
    """Invite a user, by a link that is good once and shown once: send it to nobody else."""
    body = {"email": checked_email(email), "role": role, "name": name or None, "organization": organization}
    _print_link(api, await api.call("POST", "/users", body=given(body)), "invitation", json)


@cli.command("list")
@acting()
async def list_(api: Client, organization: OrganizationChoice = None, json: Json = False) -> None:
    """List the users of one's organization and those below it."""
    columns = {
        "E-MAIL": "email",
        "NAME": "name",
        "ROLE": "role",
        "ORGANIZATION": "organizationId",
        "SIGNED IN AT FIRST": "activatedAt",
        "INVITED": "createdAt",
    }
    await output.print_list(api.items("/users", query={"organization": organization}), columns, json=json)


@cli.command()
@acting()
async def show(api: Client, user: Reference, json: Json = False) -> None:
    """Show a user: organization, role, and since when."""
    output.print_object(await api.call("GET", path("users", user)), json=json)


@cli.command()
@acting()
async def update(
    api: Client,
    user: Reference,
    role: Annotated[Role | None, typer.Option(help="What the user may do.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="The user's name.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Change a user; what is not given stays. A role holds from the user's next request on."""
    changed = await api.call("PATCH", path("users", user), body=given({"role": role, "name": name}))
    output.print_object(changed, json=json)


@cli.command()
@acting()
async def delete(api: Client, user: Reference, json: Json = False) -> None:
    """Delete a user, whose sessions end."""
    deleted = await api.call("DELETE", path("users", user))
    if json:
        output.print_json(deleted)
    output.say(f"Deleted user {deleted['email']}.", quiet=json)


@cli.command()
@acting()
async def link(api: Client, user: Reference, json: Json = False) -> None:
    """Make a new link for a user: to accept the invitation, or else to choose another password."""
    accepted = (await api.call("GET", path("users", user)))["accepted"]
    made = await api.call("POST", path("users", user, "reset-password" if accepted else "invite"))
    _print_link(api, made, "password-reset" if accepted else "invitation", json)


def _print_link(api: Client, made: Mapping[str, Any], page: str, json: bool) -> None:
    """What was made, and the console's page that takes the link: behind the `#`, which browsers send to nobody."""
    output.print_object({**made, "page": f"{api.url}/{page}#{made['link']}"}, json=json)
    output.say("The link is shown this once, and good once: send it, or its page, to the user alone.", quiet=json)
