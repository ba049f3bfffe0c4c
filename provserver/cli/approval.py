"""`provserver approval`: devices that ask for credentials, and wait for an operator."""

from typing import Annotated

import typer

from provserver.admin.client import Client, given, path
from provserver.cli import options, output
from provserver.cli.output import Json
from provserver.cli.target import acting
from provserver.core.model import ApprovalState

cli = typer.Typer(
    help="Devices that wait for an operator, of profiles made with --approval: list, accept, reject.",
    no_args_is_help=True,
)

Reference = Annotated[
    str | None,
    typer.Argument(
        metavar="[REQUEST]",
        help="Its id, or the device's name.",
        callback=options.reference("request", "approval list"),
        show_default=False,
    ),
]
All = Annotated[bool, typer.Option("--all", help="All that wait now, or those of --profile.")]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        help="Only this profile's: name, template id (TMPL…) or id.",
        callback=options.reference("profile"),
        show_default=False,
    ),
]


@cli.command("list")
@acting()
async def list_(
    api: Client,
    state: Annotated[ApprovalState, typer.Option(help="Those that wait, or what was decided on.")] = (
        ApprovalState.PENDING
    ),
    profile: ProfileOption = None,
    json: Json = False,
) -> None:
    """List the requests in order of their first asking."""
    columns = {
        "ID": "id",
        "DEVICE": "deviceName",
        "PROFILE": "profile",
        "FROM": "address",
        "TRANSPORT": "transport",
        "ASKED": "asks",
        "SINCE": "firstAskedAt",
        "LAST": "lastAskedAt",
    }
    await output.print_list(api.items("/approvals", query={"state": state, "profile": profile}), columns, json=json)


@cli.command()
@acting()
async def accept(
    api: Client, request: Reference = None, all_: All = False, profile: ProfileOption = None, json: Json = False
) -> None:
    """Accept a request: the device gets its credentials when it asks the next time."""
    await _decide(api, "accept", request, all_=all_, profile=profile, json=json)


@cli.command()
@acting()
async def reject(
    api: Client, request: Reference = None, all_: All = False, profile: ProfileOption = None, json: Json = False
) -> None:
    """Reject a request: the device is refused, unless somebody accepts it after all."""
    await _decide(api, "reject", request, all_=all_, profile=profile, json=json)


async def _decide(api: Client, verb: str, request: str | None, *, all_: bool, profile: str | None, json: bool) -> None:
    if (request is None) != all_:
        raise typer.BadParameter("is needed, or --all; one of them.", param_hint="REQUEST")
    if request is not None and profile is not None:
        raise typer.BadParameter("goes with --all.", param_hint="--profile")
    if request is None:
        decided = await api.call("POST", path("approvals", verb), body=given({"profile": profile}))
        said = f"{decided['count']} requests {verb}ed."
    else:
        decided = await api.call("POST", path("approvals", request, verb))
        said = f"{decided['deviceName'] or decided['id']} is {decided['state']}."
    if json:
        output.print_json(decided)
    output.say(said, quiet=json)
