"""`provserver particle`: static tokens into the ledgers of Particle devices."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from provserver.admin.client import Client, given, path
from provserver.cli import options, output
from provserver.cli.options import ConfigFile
from provserver.cli.output import Json
from provserver.cli.target import acting
from provserver.core import particle
from provserver.core.job import JobState
from provserver.core.particle import Acting, InvalidName, Place, Right, Run
from provserver.errors import Invalid, Misconfigured, Refused, Unavailable

if TYPE_CHECKING:  # what is slow to load is loaded by the command that needs it
    from provserver.services.particle_delivery import Report

TOKEN_VARIABLE = "PARTICLE_ACCESS_TOKEN"  # noqa: S105 - a name
PENDING = 5
"""The exit code of a plan by which something would be changed."""

CODES = "Exit codes: 0 all is as it is to be, 1 somebody has to look at a device, or it was refused, "
PLAN_CODES = f"{CODES}{PENDING} something would be changed; else as ever."
RUN_CODES = f"{CODES}4 Particle, Postgres or the server does not answer; else as ever."
TEST_CODES = "Exit codes: 0 nothing is known to be missing, 1 something is, 4 Particle does not answer; else as ever."

WHAT = {
    Right.ACCESS_TOKEN: "use the API",
    Right.DEVICES: "read the product's devices",
    Right.READ_LEDGER: "read the ledger",
    Right.WRITE_LEDGER: "write the ledger",
}

cli = typer.Typer(help="Particle: static tokens for devices, through a ledger.", no_args_is_help=True)
Reference = Annotated[
    str,
    typer.Argument(
        metavar="PRODUCT",
        help="Particle's name or number of it, its id, or the profile.",
        callback=options.reference("Particle product", "particle list"),
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help=f"Holds the access token; or {TOKEN_VARIABLE}, or a file that {TOKEN_VARIABLE}_FILE names.",
        show_default=False,
    ),
]
Org = Annotated[
    str | None,
    typer.Option("--org", metavar="SLUG", help="Organization of Particle's that has the product.", show_default=False),
]
Api = Annotated[
    str | None, typer.Option("--url", metavar="URL", help=f"Of the API. (default: {particle.URL})", show_default=False)
]
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", metavar="ID", help="Only this one; may be repeated.", show_default=False),
]
Group = Annotated[str, typer.Option("--group", help="Only those of a group of Particle's.", show_default=False)]
Serial = Annotated[str, typer.Option("--serial", help="Only the one of a serial number.", show_default=False)]
Force = Annotated[
    bool, typer.Option("--force", help="Also where the ledger has a token that is none of ours, or another's.")
]

Exported = Annotated[
    bool, typer.Option("--exported", help="Also tokens that were exported or shown, if they are in no other unit.")
]


@cli.command()
@acting()
async def connect(
    api: Client,
    profile: Annotated[
        str, typer.Option(help="Whose static tokens devices get.", callback=options.reference("profile"))
    ],
    product: Annotated[str, typer.Option(metavar="PRODUCT", help="Particle's number or slug of it.")],
    ledger: Annotated[str, typer.Option(help="The ledger that firmware reads.")] = particle.LEDGER,
    org: Org = None,
    url: Api = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Have a product's devices get a profile's static tokens. Nothing is changed there before `apply`."""
    body = {
        "profile": profile,
        "product": product,
        "ledger": ledger,
        "org": org,
        "url": url,
        "accessToken": _access_token(token_file),
    }
    output.print_object(await api.call("POST", "/particle", body=given(body)), json=json)


@cli.command("list")
@acting()
async def list_(api: Client, json: Json = False) -> None:
    """List the products."""
    columns = {
        "ID": "id",
        "PRODUCT": "product",
        "LEDGER": "ledger",
        "PROFILE": "profile",
        "TOKEN ENDS": "expiresAt",
    }
    await output.print_list(api.items("/particle"), columns, json=json)


@cli.command()
@acting()
async def show(api: Client, product: Reference, json: Json = False) -> None:
    """Show a product."""
    output.print_object(await api.call("GET", path("particle", product)), json=json)


@cli.command()
@acting()
async def update(
    api: Client,
    product: Reference,
    new_product: Annotated[
        str | None, typer.Option("--product", help="Another number or slug.", show_default=False)
    ] = None,
    ledger: Annotated[str | None, typer.Option(help="Another ledger.", show_default=False)] = None,
    org: Org = None,
    url: Api = None,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Another access token, as `connect` takes it.")
    ] = False,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Change a product, or its access token."""
    token = _access_token(token_file) if new_token or token_file else None
    body = {"product": new_product, "ledger": ledger, "org": org, "url": url, "accessToken": token}
    output.print_object(await api.call("PATCH", path("particle", product), body=given(body)), json=json)


@cli.command()
@acting()
async def disconnect(api: Client, product: Reference, json: Json = False) -> None:
    """Forget a product and its access token; its devices keep what they have."""
    gone = await api.call("DELETE", path("particle", product))
    if json:
        output.print_json(gone)
    output.say(f"The product {gone['product']} is not connected any more.", quiet=json)


@cli.command("test", epilog=TEST_CODES)
@acting()
async def try_(api: Client, product: Reference, json: Json = False) -> None:
    """Say what the access token may do, and until when; nothing is changed at Particle."""
    check = await api.call("POST", path("particle", product, "test"))
    if json:
        output.print_json(check)
    else:
        rows = [[WHAT[each["name"]], each["state"]] for each in check["findings"]]
        output.print_table(["MAY IT", "ANSWER"], rows)
        for each in check["findings"]:
            said = " ".join(filter(None, (each["reason"], each["remedy"])))
            if said:
                output.say(f"{WHAT[each['name']]}: {said}")
        output.say(f"The access token ends: {check['expiresAt'] or 'never, or nobody says'}.")
    if not check["ready"]:
        raise typer.Exit(1)


@cli.command(epilog=PLAN_CODES)
@acting()
async def plan(
    api: Client,
    product: Reference,
    devices: Devices = None,
    group: Group = "",
    serial: Serial = "",
    force: Force = False,
    exported: Exported = False,
    json: Json = False,
) -> None:
    """Say which device would get which token, and change nothing."""
    run = _run(devices, group, serial, force=force, exported=exported)
    _tell(await _job(api, product, Acting.PLAN, run, quiet=json), json=json)


@cli.command(epilog=RUN_CODES)
@acting()
async def apply(
    api: Client,
    product: Reference,
    devices: Devices = None,
    group: Group = "",
    serial: Serial = "",
    force: Force = False,
    exported: Exported = False,
    json: Json = False,
) -> None:
    """Give each device its token. Run it as often as you like: who has one keeps it."""
    run = _run(devices, group, serial, force=force, exported=exported)
    _tell(await _job(api, product, Acting.APPLY, run, quiet=json), json=json)


@cli.command(epilog=RUN_CODES)
@acting()
async def verify(
    api: Client,
    product: Reference,
    devices: Devices = None,
    group: Group = "",
    serial: Serial = "",
    json: Json = False,
) -> None:
    """Look whether each device's ledger has the token that is kept for it."""
    _tell(await _job(api, product, Acting.VERIFY, _run(devices, group, serial), quiet=json), json=json)


@cli.command(epilog=RUN_CODES)
@acting()
async def revoke(
    api: Client,
    product: Reference,
    devices: Devices = None,
    group: Group = "",
    serial: Serial = "",
    force: Force = False,
    json: Json = False,
) -> None:
    """Take tokens out of the ledger, and give them up: nobody gets them again."""
    _tell(await _job(api, product, Acting.REVOKE, _run(devices, group, serial, force=force), quiet=json), json=json)


# --- without a server

Files = Annotated[
    list[Path],
    typer.Option(
        "--csv",
        metavar="FILE",
        help="An export of static tokens, or a folder of them; may be repeated.",
        show_default=False,
    ),
]
Bindings = Annotated[
    Path, typer.Option(metavar="FILE", help="The record of which device has which token. Keep it; it has no token.")
]
ProductOption = Annotated[
    str, typer.Option("--product", envvar="PARTICLE_PRODUCT_ID", help="Particle's number or slug of the product.")
]
LedgerOption = Annotated[
    str, typer.Option("--ledger", envvar="PARTICLE_LEDGER_NAME", help="The ledger that firmware reads.")
]
BINDINGS = Path("particle-bindings.jsonl")


@cli.command("csv", epilog=f"{CODES}{PENDING} a plan that would change something, 4 Particle does not answer.")
def csv(
    acting_: Annotated[Acting, typer.Argument(metavar="ACTION", help="plan, apply, verify or revoke.")],
    files: Files,
    product: ProductOption,
    ledger: LedgerOption = particle.LEDGER,
    bindings: Bindings = BINDINGS,
    org: Org = None,
    url: Api = None,
    token_file: TokenFile = None,
    devices: Devices = None,
    group: Group = "",
    serial: Serial = "",
    force: Force = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Plan, apply, verify or revoke with exported CSV files, without a server: the record of who has what is a file."""
    place = _place(url, product, ledger, org)
    run = _run(devices, group, serial, force=force)
    _tell(_by_file(acting_, files, bindings, place, run, token_file, config, quiet=json), json=json)


async def _job(api: Client, product: str, acting_: Acting, run: Run, *, quiet: bool) -> Mapping[str, Any]:
    """What a job's run came to."""
    body = msgspec.to_builtins(run)
    begun = await api.call("POST", path("particle", product, acting_.value), body=body)
    id_ = begun["job"]["id"]

    def waits(why: str, until: str) -> None:
        output.say(f"The job {id_} waits until {until}, then it is tried again: {why}")

    try:
        with output.progress("requests", quiet=quiet) as told:
            job = await api.watched(begun["job"], told, waits)
    except Exception as fault:
        from provserver.store.database import Database

        if not isinstance(fault, Unavailable) and not Database.is_away(fault):
            raise
        why = str(fault) if isinstance(fault, Unavailable) else f"Postgres is not available: {type(fault).__name__}."
        raise Unavailable(f"{why} The job may go on: provserver job watch {id_}") from None
    if job["state"] == JobState.CANCELLED:
        raise Refused(f"The job was cancelled. What it did before: provserver job show {id_}")
    if job["state"] != JobState.DONE:
        kind = Unavailable if job["remedy"] == particle.UNANSWERED else Refused
        raise kind(" ".join(filter(None, (job["error"], job["remedy"]))))
    report: Mapping[str, Any] = job["result"]
    return report


def _by_file(
    acting_: Acting,
    files: list[Path],
    bindings: Path,
    place: Place,
    run: Run,
    token_file: Path | None,
    config: Path | None,
    *,
    quiet: bool,
) -> Mapping[str, Any]:
    """What a run on files came to. Raises ProvserverError."""
    from provserver.adapters.particle import Denied, Later, ParticleCloud
    from provserver.services.particle import connect as connect_
    from provserver.services.particle_delivery import Delivery
    from provserver.services.particle_file import FileTokens

    access_token = _access_token(token_file)
    private = options.load(config).outgoing_private

    async def work() -> "Report":
        cloud = ParticleCloud(connect_(private), place, access_token)
        try:
            with (
                FileTokens(files, bindings, place, keep=acting_ in (Acting.APPLY, Acting.REVOKE)) as tokens,
                output.progress("requests", quiet=quiet) as told,
            ):
                return await Delivery(cloud, place, tokens).run(acting_, run, told)
        finally:
            await cloud.close()

    try:
        report = asyncio.run(work())
    except Later as fault:
        raise Unavailable(f"{fault.reason}. What was done is kept: run it again.") from None
    except Denied as fault:
        raise (Misconfigured if fault.status == 401 else Refused)(f"{fault.reason} {fault.remedy}") from None
    return report.to_json()


def _tell(report: Mapping[str, Any], *, json: bool) -> None:
    """Print what a run came to, and exit by it."""
    if json:
        output.print_json(report)
    else:
        output.print_lines(map(_line, report["entries"]))
        if report["omitted"]:
            output.say(f"… and {report['omitted']} more devices")
        if report["ledgerMissing"]:
            made = "was made" if report["action"] == Acting.APPLY else "is not there; apply makes it"
            output.say(f"The ledger {report['ledger']} {made}.")
        for warning in report["warnings"]:
            output.say(f"warning: {warning}")
        counts = ", ".join(f"{count} {action}" for action, count in report["counts"].items()) or "none"
        output.say(f"{report['devices']} devices of {report['product']}: {counts}.")
    if not report["settled"]:
        raise typer.Exit(1)
    if report["action"] == Acting.PLAN and report["changes"]:
        raise typer.Exit(PENDING)


_SIGNS = {"write": "+", "adopt": "=", "revoke": "-", "revoked": " "}


def _line(entry: Mapping[str, Any]) -> str:
    """A device, as a line of a diff: what its ledger has, and what it is to have."""
    sign = _SIGNS.get(entry["action"], "!")
    if sign == "+" and entry["before"]:
        sign = "~"
    before = f"{entry['before']} → " if entry["before"] else ""
    after = "nothing" if entry["action"] == "revoke" else entry["token"] or "-"
    name = f" ({entry['name']})" if entry["name"] else ""
    reason = f"  {entry['action']}: {entry['reason']}" if entry["reason"] else f"  {entry['action']}"
    return f"{sign} {entry['device']}{name}: {before}{after}{reason}"


def _run(devices: list[str] | None, group: str, serial: str, *, force: bool = False, exported: bool = False) -> Run:
    return Run(tuple(devices or ()), group, serial, force, exported)


def _place(url: str | None, product: str, ledger: str, org: str | None) -> Place:
    try:
        return Place(
            particle.api_url(url or particle.URL),
            particle.slug(product),
            particle.ledger_name(ledger),
            particle.slug(org) if org else "",
        )
    except InvalidName as fault:
        raise Invalid(str(fault)) from None


def _access_token(file: Path | None) -> str:
    """From a file or the environment: what a command is called with is seen by all on the machine."""
    text = os.environ.get(TOKEN_VARIABLE, "")
    named = file or (Path(name) if not text and (name := os.environ.get(f"{TOKEN_VARIABLE}_FILE")) else None)
    if named is not None:
        try:
            text = named.read_text()
        except OSError as fault:
            raise Misconfigured(f"{named} cannot be read: {fault.strerror}.") from None
        except UnicodeDecodeError:
            raise Misconfigured(f"{named} cannot be read: it is not UTF-8.") from None
    if not text.strip():
        raise Misconfigured(
            f"There is no access token for Particle: set {TOKEN_VARIABLE}, or name a file that holds it with "
            "--token-file. `particle token create` makes one."
        )
    try:
        return particle.access_token(text)
    except InvalidName as fault:
        raise Misconfigured(str(fault)) from None
