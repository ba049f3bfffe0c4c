"""`provserver integration`: applications of LoRaWAN networks that devices are onboarded into."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from provserver.admin.client import Client, given, path
from provserver.cli import files, options, output
from provserver.cli.organization import OrganizationChoice, OrganizationOption
from provserver.cli.output import Json
from provserver.cli.target import acting
from provserver.core.integration import ClaimProof, NetworkKind, NetworkState
from provserver.core.lorawan import LorawanVersion, PhyVersion

cli = typer.Typer(
    help="Integrations: which application of The Things Stack or ChirpStack a profile's devices are onboarded into.",
    no_args_is_help=True,
)

Reference = Annotated[
    str, typer.Argument(metavar="INTEGRATION", help="Its id.", callback=options.reference("integration"))
]


def _option(help_: str, *names: str, metavar: str | None = None) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*names, metavar=metavar, help=help_, show_default=False)
    return option


def _switch(name: str, help_: str) -> typer.models.OptionInfo:
    return _option(help_, f"--{name}/--no-{name}")


ApplicationId = Annotated[str | None, _option("The application's id in the network.", "--application")]
KeyFile = Annotated[
    Path | None,
    _option("A file that holds the API key of the network; - is standard input.", "--key-file", metavar="FILE"),
]
Version = Annotated[LorawanVersion | None, _option("LoRaWAN version of the devices.")]
Parameters = Annotated[
    PhyVersion | None, _option("Regional parameters; may be left out where the version leaves no choice.")
]
Plan = Annotated[str | None, _option("Id of the frequency plan, such as EU_863_870_TTN.")]
ClassB = Annotated[bool | None, _switch("class-b", "Whether devices support class B.")]
ClassC = Annotated[bool | None, _switch("class-c", "Whether devices support class C.")]
Address = Annotated[
    str | None, _option("Host or host:port of the network: of ChirpStack's REST API, or of all components.")
]
IdentityServer = Annotated[str | None, _option("The Identity Server's, where it differs.")]
NetworkServer = Annotated[str | None, _option("The Network Server's, where it differs.")]
JoinServer = Annotated[str | None, _option("The Join Server's, where it differs.")]
ApplicationServer = Annotated[str | None, _option("The Application Server's, where it differs.")]
MqttAddress = Annotated[str | None, _option("Of its MQTT, where it is not the Application Server's host.")]
MqttUser = Annotated[str | None, _option("User name for its MQTT: application@tenant.")]
DeviceProfileId = Annotated[str | None, _option("Id of the device profile in ChirpStack.")]
Onboarding = Annotated[bool | None, _switch("onboarding", "Whether devices are made in the network by themselves.")]
AutoImport = Annotated[bool | None, _switch("auto-import", "Whether unknown devices of the network are made here.")]
LorawanProfileId = Annotated[
    str | None, _option("LoRaWAN Profile ID of TR005 codes, 8 hexadecimal digits; empty: no such codes.")
]
Proof = Annotated[ClaimProof | None, _option("What a claim by a TR005 code takes besides.")]


@cli.command()
@acting()
async def create(
    api: Client,
    profile: Annotated[
        str,
        typer.Option(help="Profile: name, template id (TMPL…) or id.", callback=options.reference("profile")),
    ],
    application: Annotated[str, typer.Option(help="The application's id in the network.")],
    network: Annotated[NetworkKind, typer.Option(help="What the network runs.")] = NetworkKind.THINGS_STACK,
    key_file: KeyFile = None,
    lorawan_version: Version = None,
    regional_parameters: Parameters = None,
    frequency_plan: Plan = None,
    class_b: ClassB = None,
    class_c: ClassC = None,
    address: Address = None,
    identity_server: IdentityServer = None,
    network_server: NetworkServer = None,
    join_server: JoinServer = None,
    application_server: ApplicationServer = None,
    mqtt_address: MqttAddress = None,
    mqtt_user: MqttUser = None,
    device_profile_id: DeviceProfileId = None,
    onboarding: Onboarding = None,
    auto_import: AutoImport = None,
    lorawan_profile_id: LorawanProfileId = None,
    claim_proof: Proof = None,
    organization: OrganizationOption = None,
    json: Json = False,
) -> None:
    """Have an application of a network serve a profile; without --key-file the API key is asked for."""
    settings = {
        "lorawanVersion": lorawan_version,
        "regionalParameters": regional_parameters,
        "frequencyPlan": frequency_plan,
        "classB": class_b,
        "classC": class_c,
        "address": address,
        "identityServer": identity_server,
        "networkServer": network_server,
        "joinServer": join_server,
        "applicationServer": application_server,
        "mqttAddress": mqtt_address,
        "mqttUser": mqtt_user,
        "deviceProfileId": device_profile_id,
    }
    body = {
        "profile": profile,
        "network": network,
        "applicationId": application,
        "apiKey": _key(key_file, ask=True),
        "settings": given(settings),
        "onboarding": onboarding,
        "autoImport": auto_import,
        "lorawanProfileId": lorawan_profile_id,
        "claimProof": claim_proof,
        "organization": organization,
    }
    made = await api.call("POST", "/integrations", body=given(body))
    _print(made, json=json)
    output.say(f"To test the connection: provserver integration test {made['id']}", quiet=json)


@cli.command("list")
@acting()
async def list_(api: Client, organization: OrganizationChoice = None, json: Json = False) -> None:
    """List the integrations."""
    columns = {
        "ID": "id",
        "NETWORK": "network",
        "APPLICATION": "applicationId",
        "PROFILE": "profileId",
        "ONBOARDING": "onboarding",
        "STATUS": "status",
        "ERROR": "error",
    }
    await output.print_list(api.items("/integrations", query={"organization": organization}), columns, json=json)


@cli.command()
@acting()
async def show(api: Client, integration: Reference, json: Json = False) -> None:
    """Show an integration, never its API key, and how many of its devices are in which state."""
    shown = await api.call("GET", path("integrations", integration))
    _print(shown, json=json)


@cli.command()
@acting()
async def update(
    api: Client,
    integration: Reference,
    application: ApplicationId = None,
    key_file: KeyFile = None,
    lorawan_version: Version = None,
    regional_parameters: Parameters = None,
    frequency_plan: Plan = None,
    class_b: ClassB = None,
    class_c: ClassC = None,
    address: Address = None,
    identity_server: IdentityServer = None,
    network_server: NetworkServer = None,
    join_server: JoinServer = None,
    application_server: ApplicationServer = None,
    mqtt_address: MqttAddress = None,
    mqtt_user: MqttUser = None,
    device_profile_id: DeviceProfileId = None,
    onboarding: Onboarding = None,
    auto_import: AutoImport = None,
    lorawan_profile_id: LorawanProfileId = None,
    claim_proof: Proof = None,
    json: Json = False,
) -> None:
    """Change an integration; what is not given stays. Other addresses need --key-file."""
    settings = {
        "lorawanVersion": lorawan_version,
        "regionalParameters": regional_parameters,
        "frequencyPlan": frequency_plan,
        "classB": class_b,
        "classC": class_c,
        "address": address,
        "identityServer": identity_server,
        "networkServer": network_server,
        "joinServer": join_server,
        "applicationServer": application_server,
        "mqttAddress": mqtt_address,
        "mqttUser": mqtt_user,
        "deviceProfileId": device_profile_id,
    }
    body = {
        "applicationId": application,
        "apiKey": _key(key_file),
        "settings": given(settings) or None,
        "onboarding": onboarding,
        "autoImport": auto_import,
        "lorawanProfileId": lorawan_profile_id,
        "claimProof": claim_proof,
    }
    _print(await api.call("PATCH", path("integrations", integration), body=given(body)), json=json)


@cli.command()
@acting()
async def delete(
    api: Client,
    integration: Reference,
    forget: Annotated[
        bool, typer.Option("--forget", help="Although it has devices, which stay in the network as they are.")
    ] = False,
    json: Json = False,
) -> None:
    """Delete an integration; nothing is removed from the network."""
    deleted = await api.call("DELETE", path("integrations", integration), query={"forget": forget or None})
    if json:
        output.print_json(deleted)
    output.say(f"Deleted the integration of {deleted['applicationId']}.", quiet=json)


@cli.command("test")
@acting()
async def try_(api: Client, integration: Reference, json: Json = False) -> None:
    """Test the connection, and list the rights that the API key lacks; exit code 1 when something is wrong."""
    check = await api.call("POST", path("integrations", integration, "test"))
    if json:
        output.print_json(check)
    else:
        columns = ["COMPONENT", "ADDRESS", "ANSWERS"]
        rows = [[each["name"], each["address"], each["error"] or "yes"] for each in check["components"]]
        output.print_table(columns, rows)
        if check["missingRights"]:
            needs = {"onboarding": "onboarding", "uplinks": "uplinks by MQTT"}
            rows = [[each["title"], each["name"], needs[each["neededFor"]]] for each in check["missingRights"]]
            output.print_table(["RIGHT TO TICK", "NAME", "FOR"], rows)
        output.say(f"The connection is {'in order' if check['status'] == 'connected' else check['status']}.")
        for line in filter(None, (check["error"], check["remedy"])):
            output.say(line)
    if check["status"] != "connected":
        raise typer.Exit(1)


@cli.command()
@acting()
async def onboard(api: Client, integration: Reference, json: Json = False) -> None:
    """Have all devices of the profile be onboarded that are here already, and have EUIs and a key."""
    with output.progress("devices", quiet=json) as told:
        begun = await api.call("POST", path("integrations", integration, "onboard"))
        done = await api.finished(begun["job"], told)
    if json:
        output.print_json(done)
    left = done["examined"] - done["queued"]
    more = f" {left} others lack metadata, or another has theirs." if left else ""
    output.say(f"Queued {done['queued']} devices.{more}", quiet=json)
    output.say(f"To see how they stand: provserver integration devices {integration}", quiet=json)


@cli.command()
@acting()
async def webhook(api: Client, integration: Reference, json: Json = False) -> None:
    """Have uplinks come by webhook, and show what the network needs for it; a secret made before is good no more."""
    output.print_object(await api.call("POST", path("integrations", integration, "webhook")), json=json)
    output.say("The secret is shown this once: set it in the network as that header.", quiet=json)


@cli.command()
@acting()
async def devices(
    api: Client,
    integration: Reference,
    state: Annotated[NetworkState | None, typer.Option(help="Only those.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """List the devices of an integration, as they stand with the network."""
    columns = {
        "DEVICE": "deviceId",
        "NETWORK ID": "networkDeviceId",
        "STATE": "state",
        "ERROR": "error",
        "REMEDY": "remedy",
        "LAST UPLINK": "lastUplinkAt",
    }
    found = api.items(path("integrations", integration, "devices"), query={"state": state})
    await output.print_list(found, columns, json=json)


def _key(file: Path | None, *, ask: bool = False) -> str | None:
    """The API key: an option would show it to other users of the machine."""
    if file is None:
        if not ask:
            return None
        asked: str = typer.prompt("API key of the network", hide_input=True, err=True)
        return asked.strip()
    return sys.stdin.read().strip() if str(file) == "-" else files.secret(file)


def _print(integration: dict[str, Any], *, json: bool) -> None:
    if json:
        output.print_json(integration)
        return
    members = {name: value for name, value in integration.items() if name not in ("settings", "warnings")}
    output.print_object(members | integration["settings"])
    for warning in integration["warnings"]:
        output.say(f"warning: {warning}")
