"""`provserver profile`: device profiles."""

import shlex
import sys
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from provserver.admin.client import Client, given, path
from provserver.cli import options, output
from provserver.cli.organization import OrganizationOption
from provserver.cli.output import Json
from provserver.cli.target import acting
from provserver.core.metadata import TYPES
from provserver.core.model import (
    ClonePolicy,
    Datastream,
    MetadataField,
    NameSource,
    ProvisionStrategy,
    ReprovisionPolicy,
)
from provserver.errors import Refused

cli = typer.Typer(help="Device profiles and their provision keys.", no_args_is_help=True)

CHAINS = "Certificate chains (--strategy x509-chain)"
Reference = Annotated[
    str,
    typer.Argument(metavar="PROFILE", help="Name, template id (TMPL…) or id.", callback=options.reference("profile")),
]
Strategy = Annotated[
    ProvisionStrategy | None,
    typer.Option(
        metavar="STRATEGY",
        parser=options.strategy,
        help=f"One of: {', '.join(options.STRATEGIES)}.",
        show_default=False,
    ),
]
Policy = Annotated[
    ReprovisionPolicy | None,
    typer.Option(help="What a provisioned device gets that asks again.", show_default=False),
]
Accept = Annotated[
    bool,
    typer.Option(
        "--accept-unproven-repeats",
        help="Needed for every policy but deny: see `profile show` for what it costs.",
    ),
]
Metadata = Annotated[
    list[MetadataField] | None,
    typer.Option(
        "--metadata-field",
        metavar="NAME[:TYPE][:unique][=DEFAULT]",
        parser=options.metadata_field,
        help=f"Types: {', '.join(TYPES)}; the options of a list: NAME:list:OPTION,OPTION. May be repeated.",
        show_default=False,
    ),
]
Streams = Annotated[
    list[Datastream] | None,
    typer.Option(
        "--datastream",
        metavar="NAME:PIN[:TYPE[:MIN:MAX]]",
        parser=options.datastream,
        help="May be repeated.",
        show_default=False,
    ),
]
Authorities = Annotated[
    list[bytes] | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        parser=options.file,
        help="A CA to trust, PEM or DER, root or intermediate; one in a file. May be repeated.",
        show_default=False,
        rich_help_panel=CHAINS,
    ),
]
Crls = Annotated[
    list[bytes] | None,
    typer.Option(
        "--crl",
        metavar="FILE",
        parser=options.file,
        help="Revocation lists of the CAs, PEM or DER; one past its nextUpdate lets none of its devices in. "
        "May be repeated.",
        show_default=False,
        rich_help_panel=CHAINS,
    ),
]
NameFrom = Annotated[
    NameSource | None,
    typer.Option(
        help="Where a certificate has the device's name. (at first: cn)", show_default=False, rich_help_panel=CHAINS
    ),
]
NamePattern = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="RE2 expression to find the name with: its first group, or all it matches. (at first: (.*))",
        show_default=False,
        rich_help_panel=CHAINS,
    ),
]
AllowCreate = Annotated[
    bool | None,
    typer.Option(
        "--allow-create/--no-allow-create",
        help="Whether devices that nobody pre-provisioned are made. (at first: yes)",
        show_default=False,
        rich_help_panel=CHAINS,
    ),
]
TwoSidedClaim = Annotated[
    bool | None,
    typer.Option(
        "--two-sided-claim/--no-two-sided-claim",
        help="Whether a claim by QR code waits for the device's word. (at first: no)",
        show_default=False,
    ),
]
Clones = Annotated[
    ClonePolicy | None,
    typer.Option(help="What is done when a device seems to be there twice. (at first: report)", show_default=False),
]
Approval = Annotated[
    bool | None,
    typer.Option(
        "--approval/--no-approval",
        help="Whether new devices wait for an operator: see `provserver approval`. (at first: no)",
        show_default=False,
    ),
]
Lifetime = Annotated[
    int | None,
    typer.Option(
        "--credentials-lifetime",
        metavar="DURATION",
        parser=options.duration,
        help="How long tokens and certificates are good that the server makes, as 90d or 12h; 0: tokens for ever, "
        "certificates for a year. (at first: 0)",
        show_default=False,
    ),
]
Key = Annotated[str | None, typer.Option("--key", help="Provision key. (default: generated)", show_default=False)]
Secret = Annotated[
    str | None, typer.Option("--secret", help="Provision secret. (default: generated)", show_default=False)
]


@cli.command()
@acting(make=True)
async def create(
    api: Client,
    name: str,
    strategy: Strategy = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES,
    key: Key = None,
    secret: Secret = None,
    reprovision_policy: Policy = None,
    accept_unproven_repeats: Accept = False,
    metadata_field: Metadata = None,
    datastream: Streams = None,
    two_sided_claim: TwoSidedClaim = None,
    clone_policy: Clones = None,
    approval: Approval = None,
    credentials_lifetime: Lifetime = None,
    ca: Authorities = None,
    crl: Crls = None,
    name_from: NameFrom = None,
    name_pattern: NamePattern = None,
    allow_create: AllowCreate = None,
    organization: OrganizationOption = None,
    json: Json = False,
) -> None:
    """Make a profile with a provision key, whose secret is shown this once; with --ca it needs none."""
    body = {
        "name": name,
        "strategy": strategy,
        "provisionDeviceKey": key,
        "provisionDeviceSecret": secret,
        "reprovisionPolicy": reprovision_policy,
        "acceptUnprovenRepeats": accept_unproven_repeats,
        "metadataFields": _fields(metadata_field),
        "datastreams": _datastreams(datastream),
        "twoSidedClaim": two_sided_claim,
        "clonePolicy": clone_policy,
        "approval": approval,
        "credentialsLifetime": credentials_lifetime,
        "authorities": _files(ca),
        "crls": _files(crl),
        "nameFrom": name_from,
        "namePattern": name_pattern,
        "allowCreate": allow_create,
    }
    made = await api.call("POST", "/profiles", body=given(body), query={"organization": organization})
    if made["provisionDeviceSecret"] is None:
        _print_saved(made, json=json)
        return
    _print_saved(made, pair_in(made), json=json)
    output.say("The secret is shown this once: keep it.", quiet=json)


@cli.command("list")
@acting()
async def list_(api: Client, organization: OrganizationOption = None, json: Json = False) -> None:
    """List the profiles."""
    columns = {
        "NAME": "name",
        "TEMPLATE ID": "templateId",
        "STRATEGY": "strategy",
        "REPROVISION POLICY": "reprovisionPolicy",
    }
    await output.print_list(
        (_profile(each) async for each in api.items("/profiles", query={"organization": organization})),
        columns,
        json=json,
    )


@cli.command()
@acting()
async def show(api: Client, profile: Reference, organization: OrganizationOption = None, json: Json = False) -> None:
    """Show a profile: its settings, provision keys, number of devices, and what to beware of."""
    found = await api.call("GET", path("profiles", profile), query={"organization": organization})
    output.print_object(details(found), json=json)
    for warning in found["warnings"]:
        output.say(f"warning: {warning}", quiet=json)


@cli.command()
@acting()
async def update(
    api: Client,
    profile: Reference,
    name: Annotated[str | None, typer.Option(help="Rename it.", show_default=False)] = None,
    strategy: Strategy = None,
    reprovision_policy: Policy = None,
    accept_unproven_repeats: Accept = False,
    metadata_field: Metadata = None,
    datastream: Streams = None,
    two_sided_claim: TwoSidedClaim = None,
    clone_policy: Clones = None,
    approval: Approval = None,
    credentials_lifetime: Lifetime = None,
    ca: Authorities = None,
    crl: Crls = None,
    forget_crls: Annotated[
        bool, typer.Option("--forget-crls", help="Do without revocation lists.", rich_help_panel=CHAINS)
    ] = False,
    name_from: NameFrom = None,
    name_pattern: NamePattern = None,
    allow_create: AllowCreate = None,
    organization: OrganizationOption = None,
    json: Json = False,
) -> None:
    """Change a profile; what is not given stays. Metadata fields, datastreams and CAs are replaced as a whole."""
    change = {
        "name": name,
        "strategy": strategy,
        "reprovisionPolicy": reprovision_policy,
        "acceptUnprovenRepeats": accept_unproven_repeats,
        "metadataFields": _fields(metadata_field),
        "datastreams": _datastreams(datastream),
        "twoSidedClaim": two_sided_claim,
        "clonePolicy": clone_policy,
        "approval": approval,
        "credentialsLifetime": credentials_lifetime,
        "authorities": _files(ca),
        "crls": _files(crl),
        "forgetCrls": forget_crls,
        "nameFrom": name_from,
        "namePattern": name_pattern,
        "allowCreate": allow_create,
    }
    changed = await api.call(
        "PATCH", path("profiles", profile), body=given(change), query={"organization": organization}
    )
    _print_saved(changed, json=json)


@cli.command()
@acting()
async def delete(api: Client, profile: Reference, organization: OrganizationOption = None, json: Json = False) -> None:
    """Delete a profile that has no devices; its provision keys die with it."""
    deleted = await api.call("DELETE", path("profiles", profile), query={"organization": organization})
    if json:
        output.print_json(_profile(deleted))
    output.say(f"Deleted profile {deleted['name']}.", quiet=json)


@cli.command()
@acting()
async def clone(
    api: Client,
    profile: Reference,
    name: Annotated[str, typer.Argument(help="The new profile's.")],
    organization: OrganizationOption = None,
    json: Json = False,
) -> None:
    """Make a profile like another, but for its name, provision keys and CAs."""
    made = await api.call(
        "POST", path("profiles", profile, "clone"), body={"name": name}, query={"organization": organization}
    )
    _print_saved(made, json=json)
    output.say(_next_step(made, organization), quiet=json)


@cli.command()
@acting()
async def export(
    api: Client,
    profile: Reference,
    file: Annotated[str | None, typer.Argument(help="(default: standard output)", show_default=False)] = None,
    organization: OrganizationOption = None,
) -> None:
    """Write a profile as TOML, for `profile import`: all but its provision keys and CAs."""
    parts = api.stream(
        path("profiles", profile, "export.toml"), query={"organization": organization}, accept="application/toml"
    )
    text = b"".join([part async for part in parts]).decode()
    if file is None:
        sys.stdout.write(text)
        return
    try:
        Path(file).write_text(text, encoding="utf-8")  # noqa: ASYNC240 - nothing else is under way
    except (OSError, ValueError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else "that is no path"
        raise Refused(f"{file!r} cannot be written: {reason}.") from None
    output.say(f"Wrote {file}.")


@cli.command("import")
@acting(make=True)
async def import_(
    api: Client,
    file: Annotated[
        bytes, typer.Argument(metavar="FILE", parser=options.file, help="TOML, as `profile export` writes it.")
    ],
    name: Annotated[str | None, typer.Option(help="Another than the file's.", show_default=False)] = None,
    accept_unproven_repeats: Accept = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, keep nothing.")] = False,
    organization: OrganizationOption = None,
    json: Json = False,
) -> None:
    """Make a profile from a file: config/profiles/ has some to begin with."""
    body = {
        "toml": _toml(file),
        "name": name,
        "acceptUnprovenRepeats": accept_unproven_repeats,
        "dryRun": dry_run,
    }
    made = await api.call("POST", "/profiles/import", body=given(body), query={"organization": organization})
    _print_saved(made, json=json)
    output.say("Nothing was kept: this was a dry run." if dry_run else _next_step(made, organization), quiet=json)


def _print_saved(saved: Mapping[str, Any], pair: Mapping[str, Any] | None = None, *, json: bool) -> None:
    """A profile that was made or changed, with what is to be said of it."""
    warnings = saved["warnings"]
    told = {"warnings": warnings} if warnings and json else {}
    output.print_object(_profile(saved) | dict(pair or {}) | told, json=json)
    for warning in warnings:
        output.say(f"warning: {warning}", quiet=json)


def _profile(profile: Mapping[str, Any]) -> dict[str, Any]:
    """What commands print of a profile: what says something about it."""
    members = (
        "id",
        "name",
        "templateId",
        "strategy",
        "reprovisionPolicy",
        "metadataFields",
        "datastreams",
        "createdAt",
    )
    shown = {name: profile[name] for name in members}
    shown["metadataFields"] = [_field(each) for each in profile["metadataFields"]]
    if profile["twoSidedClaim"]:
        shown["twoSidedClaim"] = True
    if profile["clonePolicy"] != ClonePolicy.REPORT:
        shown["clonePolicy"] = profile["clonePolicy"]
    if profile["approval"]:
        shown["approval"] = True
    if profile["credentialsLifetime"]:
        shown["credentialsLifetime"] = options.shown_duration(profile["credentialsLifetime"])
    if profile["strategy"] == ProvisionStrategy.X509_CERTIFICATE_CHAIN:
        shown |= {name: profile[name] for name in ("nameFrom", "namePattern", "allowCreate")}
    return shown


def _field(field: Mapping[str, Any]) -> dict[str, Any]:
    """What is as usual is left out, but for the type."""
    return {name: value for name, value in field.items() if value or name in ("name", "type")}


def details(profile: Mapping[str, Any]) -> dict[str, Any]:
    """What commands print of a profile with all that belongs to it."""
    shown = _profile(profile)
    if authorities := profile["certificateAuthorities"]:
        shown["certificateAuthorities"] = [_authority(each) for each in authorities]
    if budgets := profile["keyBudgets"]:
        shown["keyBudgets"] = [_budget_shown(each) for each in budgets]
    return shown | {name: profile[name] for name in ("provisionDeviceKeys", "deviceCount", "warnings")}


def _budget_shown(budget: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in budget.items() if value or (name == "uses" and value is not None)}


def _authority(authority: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: authority[name] for name in ("subject", "fingerprint", "notAfter")}
    if authority["crlThisUpdate"] is not None:
        shown["crl"] = {
            "thisUpdate": authority["crlThisUpdate"],
            "nextUpdate": authority["crlNextUpdate"],
            "revoked": authority["revoked"],
        }
    return shown


def _fields(fields: list[MetadataField] | None) -> list[dict[str, Any]] | None:
    return [asdict(field) for field in fields] if fields else None


def _datastreams(datastreams: list[Datastream] | None) -> list[dict[str, Any]] | None:
    return [asdict(datastream) for datastream in datastreams] if datastreams else None


def _files(contents: list[bytes] | None) -> list[str] | None:
    return [b64encode(content).decode() for content in contents] if contents else None


def _toml(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Refused("The file is not UTF-8. Save it as such.") from None


def _next_step(made: Mapping[str, Any], organization: str | None) -> str:
    which = shlex.quote(made["name"])
    if organization is not None:
        which += f" --organization {shlex.quote(organization)}"
    if made["strategy"] == ProvisionStrategy.X509_CERTIFICATE_CHAIN:
        return f"It trusts no CA yet: provserver profile update {which} --ca FILE"
    return f"It has no provision key yet: provserver profile key add {which}"


def pair_in(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The provision key of an answer, with its secret."""
    return {name: answer[name] for name in ("provisionDeviceKey", "provisionDeviceSecret")}
