"""`provserver profile`: device profiles and their provision keys."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from provserver.cli import options, output
from provserver.cli.options import ConfigFile, DatabaseUrl, DataDir
from provserver.cli.output import Json
from provserver.core.authority import AuthorityFacts
from provserver.core.model import (
    Datastream,
    DeviceProfile,
    MetadataField,
    NameSource,
    ProvisionStrategy,
    ReprovisionPolicy,
)
from provserver.services.profiles import KeyPair, ProfileChange, ProfileDetails, Profiles
from provserver.workspace import workspace

cli = typer.Typer(help="Device profiles and their provision keys.", no_args_is_help=True)
key_cli = typer.Typer(help="A profile's provision keys: several may be valid at a time.", no_args_is_help=True)
cli.add_typer(key_cli, name="key")

Result = TypeVar("Result")
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
        metavar="NAME[:TYPE]",
        parser=options.metadata_field,
        help="May be repeated.",
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
Key = Annotated[str | None, typer.Option("--key", help="Provision key. [default: generated]", show_default=False)]
Secret = Annotated[
    str | None, typer.Option("--secret", help="Provision secret. [default: generated]", show_default=False)
]


@cli.command()
def create(
    name: str,
    strategy: Strategy = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES,
    key: Key = None,
    secret: Secret = None,
    reprovision_policy: Policy = None,
    accept_unproven_repeats: Accept = False,
    metadata_field: Metadata = None,
    datastream: Streams = None,
    ca: Authorities = None,
    crl: Crls = None,
    name_from: NameFrom = None,
    name_pattern: NamePattern = None,
    allow_create: AllowCreate = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Make a profile with a provision key, whose secret is shown this once; with --ca it needs none."""
    change = ProfileChange(
        name=name,
        strategy=strategy,
        reprovision_policy=reprovision_policy,
        metadata_fields=metadata_field or None,
        datastreams=datastream or None,
        accept_unproven_repeats=accept_unproven_repeats,
        authorities=ca or None,
        crls=crl or None,
        name_from=name_from,
        name_pattern=name_pattern,
        allow_create=allow_create,
    )
    if ca and key is None and secret is None:
        profile = _on(config, data_dir, database_url, lambda profiles: profiles.create_keyless(change), make=True)
        output.print_object(_profile(profile), json=json)
        return
    profile, pair = _on(
        config, data_dir, database_url, lambda profiles: profiles.create(change, key, secret), make=True
    )
    output.print_object(_profile(profile) | _pair(pair), json=json)
    output.say("The secret is shown this once: keep it.", quiet=json)


@cli.command("list")
def list_(
    config: ConfigFile = None, data_dir: DataDir = None, database_url: DatabaseUrl = None, json: Json = False
) -> None:
    """List the profiles."""
    found = _on(config, data_dir, database_url, lambda profiles: profiles.all())
    if json:
        output.print_json([_profile(profile) for profile in found])
    else:
        output.print_table(
            ["NAME", "TEMPLATE ID", "STRATEGY", "REPROVISION POLICY"],
            [(p.name, p.template_id, p.strategy, p.reprovision_policy) for p in found],
        )


@cli.command()
def show(
    profile: Reference,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Show a profile: its settings, provision keys, number of devices, and what to beware of."""
    details = _on(config, data_dir, database_url, lambda profiles: profiles.show(profile))
    output.print_object(_details(details), json=json)
    for warning in details.warnings:
        output.say(f"warning: {warning}", quiet=json)


@cli.command()
def update(
    profile: Reference,
    name: Annotated[str | None, typer.Option(help="Rename it.", show_default=False)] = None,
    strategy: Strategy = None,
    reprovision_policy: Policy = None,
    accept_unproven_repeats: Accept = False,
    metadata_field: Metadata = None,
    datastream: Streams = None,
    ca: Authorities = None,
    crl: Crls = None,
    forget_crls: Annotated[
        bool, typer.Option("--forget-crls", help="Do without revocation lists.", rich_help_panel=CHAINS)
    ] = False,
    name_from: NameFrom = None,
    name_pattern: NamePattern = None,
    allow_create: AllowCreate = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Change a profile; what is not given stays. Metadata fields, datastreams and CAs are replaced as a whole."""
    change = ProfileChange(
        name=name,
        strategy=strategy,
        reprovision_policy=reprovision_policy,
        metadata_fields=metadata_field or None,
        datastreams=datastream or None,
        accept_unproven_repeats=accept_unproven_repeats,
        authorities=ca or None,
        crls=crl or None,
        forget_crls=forget_crls,
        name_from=name_from,
        name_pattern=name_pattern,
        allow_create=allow_create,
    )
    changed = _on(config, data_dir, database_url, lambda profiles: profiles.update(profile, change))
    output.print_object(_profile(changed), json=json)


@cli.command()
def delete(
    profile: Reference,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Delete a profile that has no devices; its provision keys die with it."""
    deleted = _on(config, data_dir, database_url, lambda profiles: profiles.delete(profile))
    if json:
        output.print_json(_profile(deleted))
    output.say(f"Deleted profile {deleted.name}.", quiet=json)


@key_cli.command("add")
def add_key(
    profile: Reference,
    key: Key = None,
    secret: Secret = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Add a provision key; the others stay valid. The secret is shown this once."""
    pair = _on(config, data_dir, database_url, lambda profiles: profiles.add_key(profile, key, secret))
    output.print_object(_pair(pair), json=json)
    output.say("The secret is shown this once: keep it.", quiet=json)


@key_cli.command("remove")
def remove_key(
    profile: Reference,
    key: Annotated[
        str, typer.Argument(help="The provision key.", callback=options.reference("provision key", "profile show"))
    ],
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Remove a provision key: devices that present it are refused from then on."""
    _on(config, data_dir, database_url, lambda profiles: profiles.remove_key(profile, key))
    if json:
        output.print_json({"provisionDeviceKey": key})
    output.say("Removed.", quiet=json)


def _on(
    config: ConfigFile,
    data_dir: DataDir,
    database_url: DatabaseUrl,
    work: Callable[[Profiles], Awaitable[Result]],
    *,
    make: bool = False,
) -> Result:
    async def act() -> Result:
        async with workspace(settings, make=make) as space:
            return await work(space.profiles)

    settings = options.load(config, data_dir=data_dir, database_url=database_url)
    return asyncio.run(act())


def _profile(profile: DeviceProfile) -> dict[str, object]:
    members: dict[str, object] = {
        "id": profile.id,
        "name": profile.name,
        "templateId": profile.template_id,
        "strategy": profile.strategy,
        "reprovisionPolicy": profile.reprovision_policy,
        "metadataFields": profile.metadata_fields,
        "datastreams": profile.datastreams,
        "createdAt": profile.created_at,
    }
    if profile.strategy is ProvisionStrategy.X509_CERTIFICATE_CHAIN:
        members |= {
            "nameFrom": profile.chain.name_from,
            "namePattern": profile.chain.name_pattern,
            "allowCreate": profile.chain.allow_create,
        }
    return members


def _details(details: ProfileDetails) -> dict[str, object]:
    members = _profile(details.profile)
    if details.authorities:
        members["certificateAuthorities"] = [_authority(each) for each in details.authorities]
    return members | {
        "provisionDeviceKeys": list(details.keys),
        "deviceCount": details.device_count,
        "warnings": details.warnings,
    }


def _authority(authority: AuthorityFacts) -> dict[str, object]:
    members: dict[str, object] = {
        "subject": authority.subject,
        "fingerprint": authority.fingerprint,
        "notAfter": authority.not_after,
    }
    if authority.crl_this_update is not None:
        members["crl"] = {
            "thisUpdate": authority.crl_this_update,
            "nextUpdate": authority.crl_next_update,
            "revoked": authority.revoked,
        }
    return members


def _pair(pair: KeyPair) -> dict[str, object]:
    return {"provisionDeviceKey": pair.key, "provisionDeviceSecret": pair.secret}
