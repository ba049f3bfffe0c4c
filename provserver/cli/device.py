"""`provserver device`: devices, pre-provisioned or provisioned."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from provserver.admin.client import Client, Query, path
from provserver.cli import files, options, output
from provserver.cli.output import Json
from provserver.cli.target import ServerOrAttribute, acting
from provserver.core import csvfile
from provserver.core.attributes import METADATA, from_text
from provserver.core.lorawan import SECRETS
from provserver.core.telemetry import InvalidData, checked_key
from provserver.errors import Refused

cli = typer.Typer(
    help="Devices: make or import them beforehand, list, show, update, transfer, revoke, re-arm, delete.",
    no_args_is_help=True,
)

SHOWN_FIRST = (
    "id",
    "name",
    "profile",
    "profileId",
    "gateway",
    "provisionState",
    "rearmed",
    "credentialsType",
    "createdAt",
)
SHOWN = 20
"""Telemetry keys that `show` prints for people."""

Reference = Annotated[str, typer.Argument(metavar="DEVICE", help="Name or id.", callback=options.reference("device"))]
ProfileOption = Annotated[
    str,
    typer.Option("--profile", help="Name, template id (TMPL…) or id.", callback=options.reference("profile")),
]


@cli.command()
@acting()
async def create(
    api: Client,
    name: str,
    profile: ProfileOption,
    token: Annotated[str, typer.Option(help="Its access token. (default: generated)", show_default=False)] = "",
    client_id: Annotated[str, typer.Option(help="MQTT basic client id.", show_default=False)] = "",
    username: Annotated[str, typer.Option(help="MQTT basic user name.", show_default=False)] = "",
    password: Annotated[str, typer.Option(help="MQTT basic password.", show_default=False)] = "",
    certificate: Annotated[
        Path | None, typer.Option(help="Its X.509 certificate, a PEM file.", show_default=False)
    ] = None,
    gateway: Annotated[bool, typer.Option("--gateway", help="It is a gateway.")] = False,
    json: Json = False,
) -> None:
    """Make a device beforehand, for a profile that checks pre-provisioned devices."""
    given = {
        "name": name,
        "token": token,
        "clientId": client_id,
        "username": username,
        "password": password,
        "certificate": files.text(certificate) if certificate is not None else "",
    }
    row = csvfile.device_row(1, given | {"gateway": str(gateway)})  # said here, in the words of an import
    if isinstance(row, csvfile.RowError):
        raise Refused(f"{row.column}: {row.reason}.")
    body = {member: text for member, text in given.items() if text}
    device = await api.call("POST", "/devices", body=body | {"profile": profile, "gateway": gateway})
    print_device(device, json=json)


@cli.command("import")
@acting()
async def import_(
    api: Client,
    file: Annotated[Path, typer.Argument(metavar="CSV", help="A file with a header row; - for standard input.")],
    profile: ProfileOption,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, keep nothing.")] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Keep the rows that are right although others are not.")
    ] = False,
    json: Json = False,
) -> None:
    """Import devices beforehand from CSV, all or none; exit code 1 when a row was wrong.

    Columns: name; token, or clientId username password, or certificate (none: a token is generated); gateway;
    attribute:KEY and shared:KEY.
    """
    query: Query = {"profile": profile, "dryRun": dry_run, "partial": partial}
    report = await files.import_(api, "/devices/import", file, query, quiet=json)
    verb = "would be imported" if dry_run else "imported"
    summary = f"{report['imported']} devices {verb}, {report['errorCount']} rows refused."
    output.print_report(report, summary, json=json)


@cli.command("list")
@acting()
async def list_(
    api: Client,
    profile: Annotated[
        str | None,
        typer.Option(help="Only this profile's.", callback=options.reference("profile"), show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """List the devices in order of making."""
    columns = {
        "NAME": "name",
        "PROFILE": "profile",
        "CREDENTIALS": "credentialsType",
        "PROVISION STATE": "provisionState",
        "MADE": "createdAt",
    }
    await output.print_list(api.items("/devices", query={"profile": profile}), columns, json=json)


@cli.command()
@acting()
async def show(
    api: Client,
    device: Reference,
    credentials: Annotated[bool, typer.Option("--credentials", help="Show the credentials in clear, too.")] = False,
    json: Json = False,
) -> None:
    """Show a device with its attributes, its credentials and what it last sent."""
    query = {"credentials": credentials or None}
    _print_details(await api.call("GET", path("devices", device), query=query), json)


@cli.command()
@acting()
async def update(
    api: Client,
    device: Reference,
    shared: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Write a shared attribute.", show_default=False)
    ] = None,
    server: ServerOrAttribute = None,
    key_file: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD[=FILE]",
            help="Write a metadata field from a file that its owner alone may read, as an Application Key. "
            "(without a file: it is asked for)",
            show_default=False,
        ),
    ] = None,
    delete_shared: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Remove a shared attribute.", show_default=False)
    ] = None,
    delete_server: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Remove a server attribute.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Change a device's attributes. Values that are JSON are taken as such, others as text.

    The device reads shared ones and is told when they change; it never sees server ones.
    """
    change = {
        "shared": _values("--shared", shared),
        "server": _values("--server", server) | _keys(key_file),
        "deleteShared": delete_shared or [],
        "deleteServer": delete_server or [],
    }
    changed = dict(await api.call("PATCH", path("devices", device), body=change))
    if not json:
        del changed["online"]  # which this has not changed
    _print_details(changed, json)


@cli.command()
@acting()
async def transfer(
    api: Client,
    device: Reference,
    user: Annotated[
        str | None,
        typer.Option("--to-user", help="E-mail or id of who gets it.", callback=options.reference("user")),
    ] = None,
    organization: Annotated[
        str | None,
        typer.Option(
            "--to-organization",
            help="Name, number or id of the organization that gets it.",
            callback=options.reference("organization"),
        ),
    ] = None,
    keep_data: Annotated[
        bool, typer.Option("--keep-data", help="Hand over what the device has sent, and its attributes, too.")
    ] = False,
    json: Json = False,
) -> None:
    """Give a device to another user or organization below one's own; its static token stays claimed.

    Another organization gets it without telemetry, history and attributes.
    """
    if (user is None) == (organization is None):
        raise typer.BadParameter("is needed, or --to-organization; one of them.", param_hint="--to-user")
    body: dict[str, object] = {"user": user} if user is not None else {"organization": organization}
    moved = await api.call("POST", path("devices", device, "transfer"), body=body | {"keepData": keep_data})
    if json:
        output.print_json(moved)
    output.say(f"{moved['name']} is with {user or organization} now.", quiet=json)


@cli.command("erase-data")
@acting()
async def erase_data(api: Client, device: Reference, json: Json = False) -> None:
    """Forget all that a device has sent; its attributes and credentials stay."""
    erased = await api.call("POST", path("devices", device, "erase-data"))
    if json:
        output.print_json(erased)
    output.say(f"What {erased['name']} had sent is erased.", quiet=json)


@cli.command()
@acting()
async def revoke(api: Client, device: Reference, json: Json = False) -> None:
    """Take a device's credentials away: it is cut off, and cannot come back with them."""
    revoked = await api.call("POST", path("devices", device, "revoke"))
    if json:
        output.print_json(revoked)
    output.say(
        f"{revoked['name']} has no credentials any more. "
        f"To let it provision itself again: provserver device rearm {shlex.quote(revoked['name'])}",
        quiet=json,
    )


@cli.command()
@acting()
async def rotate(
    api: Client,
    device: Reference,
    overlap: Annotated[
        int | None,
        typer.Option(
            metavar="DURATION",
            parser=options.duration,
            help="How long its present credentials stay good, as 7d or 12h; 0: no longer.",
            show_default="7d",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Have a device's credentials give way to others: it is told, and asks for them itself, or gets the token here.

    The next ones are good at once and take over when they are first used; asking again before gives the same.
    """
    body = {} if overlap is None else {"overlap": overlap}
    rotated = await api.call("POST", path("devices", device, "rotate"), body=body)
    if json:
        output.print_json(rotated)
        return
    shown = {
        "name": rotated["device"]["name"],
        "credentialsType": rotated["credentialsType"],
        "credentialsValue": rotated["credentialsValue"],
        "expireAt": rotated["expireAt"],
    }
    output.print_object({name: value for name, value in shown.items() if value is not None})
    if rotated["credentialsType"] is None:
        output.say("The device itself has others made: it is told by the shared attribute credentialsExpireAt.")


@cli.command()
@acting()
async def quarantine(
    api: Client,
    device: Reference,
    reason: Annotated[str, typer.Option(help="Why, for whoever is to release it.")],
    json: Json = False,
) -> None:
    """Let nobody in with a device's credentials, and give it none, until it is released: for one with a clone."""
    held = await api.call("POST", path("devices", device, "quarantine"), body={"reason": reason})
    if json:
        output.print_json(held)
    output.say(
        f"{held['name']} is in quarantine. To let it out: provserver device release {shlex.quote(held['name'])}",
        quiet=json,
    )


@cli.command()
@acting()
async def release(
    api: Client,
    device: Reference,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="With a new token instead of what it has: a clone stays out.")
    ] = False,
    json: Json = False,
) -> None:
    """Let a device out of quarantine; a new token is shown this once."""
    released = await api.call("POST", path("devices", device, "release"), body={"rotate": rotate})
    if json:
        output.print_json(released)
        return
    name, token = released["device"]["name"], released["accessToken"]
    if token is not None:
        output.print_object({"name": name, "accessToken": token})
        output.say("The token is shown this once: put it into the device.")
    else:
        output.say(f"{name} is out of quarantine, with the credentials that it has.")


@cli.command()
@acting()
async def rearm(api: Client, device: Reference, json: Json = False) -> None:
    """Let a device provision itself once more, with fresh credentials: for one that lost its own."""
    rearmed = await api.call("POST", path("devices", device, "rearm"))
    if json:
        output.print_json(rearmed)
    output.say(f"{rearmed['name']} may provision itself once more.", quiet=json)


@cli.command()
@acting()
async def delete(
    api: Client,
    device: Reference,
    from_network: Annotated[
        bool, typer.Option("--from-network", help="Also what was made of it in its LoRaWAN network.")
    ] = False,
    json: Json = False,
) -> None:
    """Delete a device; its credentials die with it."""
    deleted = await api.call("DELETE", path("devices", device), query={"fromNetwork": from_network})
    if json:
        output.print_json(deleted)
    output.say(f"Deleted {deleted['name']}.", quiet=json)
    if not from_network and not json:
        await say_left(api, deleted["id"])


async def say_left(api: Client, id_: str) -> None:
    """Say that a device that was deleted stays in its network, if it does."""
    try:
        left = await api.call("GET", path("devices", id_, "network"))
    except Refused:  # there is nothing, or it is for others to know
        return
    if left["made"]:
        output.say(
            f"It stays in its network as {left['networkDeviceId']}. "
            f"To remove it there, too: provserver device leave-network {id_}"
        )


def print_device(device: Mapping[str, Any], *, json: bool) -> None:
    """A device; for people who has it, too, where that is not simply its maker."""
    if json:
        output.print_json(device)
        return
    left_out = {"makerId", "holderId", "ownerId", "revision"}
    if device["holderId"] == device["makerId"] and device["ownerId"] is None and device["staticToken"] is None:
        left_out |= {"maker", "holder", "owner", "staticToken"}
    left_out |= {name for name in ("accessToken", "quarantined", "suspected") if not device.get(name)}
    rest = [name for name in device if name not in left_out]
    output.print_object({name: device[name] for name in (*SHOWN_FIRST, *rest)})


def _print_details(details: Mapping[str, Any], json: bool) -> None:
    members = dict(details)
    if not json:
        telemetry = details["telemetry"]
        lines = [f"{sample['key']}={msgspec.json.encode(sample['value']).decode()}" for sample in telemetry[:SHOWN]]
        for name in ("quarantine", "cloneSigns"):  # of most devices there is nothing to say
            if not members[name]:
                del members[name]
        more = len(telemetry) - SHOWN
        members["telemetry"] = lines + ([f"… and {more} more"] if more > 0 else [])
    print_device(members, json=json)


def _keys(fields: list[str] | None) -> dict[str, object]:
    """Metadata that are secrets: options would show them to other users of the machine."""
    values: dict[str, object] = {}
    for each in fields or []:
        name, _, file = each.partition("=")
        values[METADATA + name] = (
            files.secret(Path(file)) if file else typer.prompt(name, hide_input=True, err=True, prompt_suffix=": ")
        )
    return values


def _values(option: str, texts: list[str] | None) -> dict[str, object]:
    values = {}
    for text in texts or []:
        key, sign, value = text.partition("=")
        if not sign:
            raise typer.BadParameter(f"must be KEY=VALUE, not {text!r}.", param_hint=option)
        try:
            checked_key(key)
        except InvalidData as fault:
            raise Refused(f"{key!r}: {fault}") from None
        text_only = option == "--server" and key.startswith(METADATA)  # digits with an E among them are no number there
        values[key] = value if text_only else from_text(value)
        if text_only and value and key.removeprefix(METADATA) in SECRETS:
            name = shlex.quote(key.removeprefix(METADATA))
            output.say(f"Others on this machine can read that key in the command. Better: --key-file {name}, or =FILE.")
    return values
