"""`provserver profile key`: the provision keys of a profile, and what bounds them."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from provserver.admin.client import Client, given, path
from provserver.cli import options, output
from provserver.cli.organization import OrganizationOption
from provserver.cli.output import Json
from provserver.cli.profile import Key, Reference, Secret, details, pair_in
from provserver.cli.target import acting
from provserver.core.model import MAX_USES

cli = typer.Typer(help="A profile's provision keys: several may be valid at a time.", no_args_is_help=True)

_MOMENT = "2027-01-31[T12:00:00Z]"
NotBefore = Annotated[
    datetime | None,
    typer.Option(
        "--not-before", metavar=_MOMENT, parser=options.moment, help="From when on it is valid.", show_default=False
    ),
]
NotAfter = Annotated[
    datetime | None,
    typer.Option("--not-after", metavar=_MOMENT, parser=options.moment, help="When it expires.", show_default=False),
]
Networks = Annotated[
    list[str] | None,
    typer.Option(
        "--network",
        metavar="CIDR",
        callback=options.networks,
        help="Valid for devices of this network alone, as 192.0.2.0/24. May be repeated.",
        show_default=False,
    ),
]
MaxUses = Annotated[
    int | None,
    typer.Option(
        "--max-uses",
        min=1,
        max=MAX_USES,
        help="How many devices it may provision, counted from when this is set.",
        show_default=False,
    ),
]
PerMinute = Annotated[
    int | None,
    typer.Option(
        "--per-minute", min=1, max=MAX_USES, help="How many requests it is good for in a minute.", show_default=False
    ),
]
KeyReference = Annotated[
    str, typer.Argument(help="The provision key.", callback=options.reference("provision key", "profile show"))
]


@cli.command("add")
@acting()
async def add_key(
    api: Client,
    profile: Reference,
    key: Key = None,
    secret: Secret = None,
    not_before: NotBefore = None,
    not_after: NotAfter = None,
    network: Networks = None,
    max_uses: MaxUses = None,
    per_minute: PerMinute = None,
    organization: OrganizationOption = None,
    json: Json = False,
) -> None:
    """Add a provision key; the others stay valid. The secret is shown this once."""
    budget = _budget(not_before, not_after, network, max_uses, per_minute)
    body = given({"provisionDeviceKey": key, "provisionDeviceSecret": secret}) | budget
    pair = await api.call("POST", path("profiles", profile, "keys"), body=body, query={"organization": organization})
    output.print_object(pair_in(pair) | budget, json=json)
    output.say("The secret is shown this once: keep it.", quiet=json)


@cli.command("update")
@acting()
async def update_key(
    api: Client,
    profile: Reference,
    key: KeyReference,
    not_before: NotBefore = None,
    not_after: NotAfter = None,
    network: Networks = None,
    max_uses: MaxUses = None,
    per_minute: PerMinute = None,
    organization: OrganizationOption = None,
    json: Json = False,
) -> None:
    """Bound a provision key anew: what is not given bounds it no more. What was counted of its uses stays."""
    budget = _budget(not_before, not_after, network, max_uses, per_minute)
    changed = await api.call(
        "PUT", path("profiles", profile, "keys", key, "budget"), body=budget, query={"organization": organization}
    )
    output.print_object(details(changed), json=json)
    if max_uses is not None:
        said = "Uses are counted from now on: what the key provisioned while it had no --max-uses is not among them."
        output.say(said, quiet=json)


@cli.command("remove")
@acting()
async def remove_key(
    api: Client,
    profile: Reference,
    key: KeyReference,
    organization: OrganizationOption = None,
    json: Json = False,
) -> None:
    """Remove a provision key: devices that present it are refused from then on."""
    removed = await api.call("DELETE", path("profiles", profile, "keys", key), query={"organization": organization})
    if json:
        output.print_json(removed)
    output.say("Removed.", quiet=json)


def _budget(
    not_before: datetime | None,
    not_after: datetime | None,
    networks: list[str] | None,
    max_uses: int | None,
    per_minute: int | None,
) -> dict[str, Any]:
    members = {
        "notBefore": _utc(not_before),
        "notAfter": _utc(not_after),
        "networks": [str(options.network(each)) for each in networks or ()],
        "maxUses": max_uses,
        "perMinute": per_minute,
    }
    return {name: value for name, value in members.items() if value}


def _utc(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
