"""`provserver explain`: why a device was refused, or would be."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from provserver.admin.client import Client, given, path
from provserver.cli import files, options, output
from provserver.cli.output import Json
from provserver.cli.target import acting


@acting()
async def explain(
    api: Client,
    attempt: Annotated[
        str | None,
        typer.Argument(
            help="An attempt's id: `provserver attempt list` has them.",
            callback=options.reference("attempt"),
            show_default=False,
        ),
    ] = None,
    request: Annotated[
        Path | None,
        typer.Option(
            help="Instead of an attempt: the JSON that a device would send; - is standard input. Key and secret may be "
            "left out.",
            allow_dash=True,
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Whose key it would come with.", callback=options.reference("profile"), show_default=False),
    ] = None,
    transport: Annotated[str, typer.Option(help="http, mqtt or coap.")] = "http",
    address: Annotated[str | None, typer.Option(help="Where it would come from.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Explain why a device was refused, and what can be done; or, with --request, what would come of a request."""
    if (attempt is None) == (request is None) or (request is None) != (profile is None):
        raise typer.BadParameter("name an attempt, or give --request FILE with --profile PROFILE.")
    if transport not in ("http", "mqtt", "coap"):
        raise typer.BadParameter("must be http, mqtt or coap.", param_hint="--transport")
    if request is None:
        found = await api.call("GET", path("attempts", attempt, "explanation"))
    else:
        body = {
            "profile": profile,
            "request": sys.stdin.read() if str(request) == "-" else files.text(request),
            "transport": transport,
            "address": address,
        }
        found = await api.call("POST", "/explain", body=given(body))
    if json:
        output.print_json(found)
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    """A paragraph a line, and commands by themselves, so that they can be copied."""
    told = found["told"]
    said = f"{told['status']}: {told['message'] or 'its credentials'}" if told["status"] else "nothing but a code"
    lines = [("what", found["happened"]), ("why", found["why"])]
    if found["credentialsType"]:
        lines.append(("gets", f"credentials of type {found['credentialsType']}"))
    lines.append(("told", f"{said} (HTTP {told['http']}, CoAP {told['coap']}, MQTT: {told['mqtt']})"))
    if found["attempt"]:
        when = found["time"][:19].replace("T", " ")
        lines.append(("when", f"{when} UTC, by {found['transport']} from {found['address']}"))
    lines += [("assumed", each) for each in found["assumed"]]
    lines += [("now", each) for each in found["present"]]
    lines.append(("do", found["advice"]))
    lines += [("", each) for each in found["commands"]]
    output.print_lines(f"{name:<8} {text}" for name, text in lines)
