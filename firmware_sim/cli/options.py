"""What several commands have in common: their options, and what these mean together."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from firmware_sim.address import Address
from firmware_sim.credentials import Kind
from firmware_sim.tls import Trust
from firmware_sim.transports import DEFAULT_PORTS, MqttVersion, TransportName

EXIT_CODES = (
    "Exit codes: 0 provisioned (and, if asked to, connected); 1 refused by the server; 2 wrong usage; 3 server "
    "unreachable, silent or unavailable; 4 a reply that no device should act on; 5 flash unreadable or another "
    "device's; 6 credentials refused, several times in a row; 7 the server's certificate is not trusted; "
    "8 a limit of the scenario does not hold; "
    "130 interrupted."
)


class Offer(StrEnum):
    """A `Kind`, or what the factory has put in and is accepted without asking: a certificate (`chain`), a token."""

    GENERATED = "generated"
    TOKEN = "token"  # noqa: S105 - the name of a kind
    BASIC = "basic"
    X509 = "x509"
    CSR = "csr"
    CHAIN = "chain"
    STATIC = "static"

    @property
    def kind(self) -> Kind | None:
        """What to ask with; None for those that do not ask."""
        return None if self in (Offer.CHAIN, Offer.STATIC) else Kind(self)

    @property
    def with_certificate(self) -> bool:
        """Whether the device connects with a certificate of its own."""
        return self in (Offer.X509, Offer.CSR, Offer.CHAIN)


class Dtls(StrEnum):
    """How a device without a certificate and its server know each other on CoAPS."""

    PSK = "psk"
    CERTIFICATE = "certificate"


_TLS = "TLS and DTLS"
_LIFE = "After provisioning"

Key = Annotated[
    str | None,
    typer.Option("--key", envvar="FIRMWARE_SIM_KEY", help="Provision key (not for chain).", show_default=False),
]
Secret = Annotated[
    str | None,
    typer.Option(
        envvar="FIRMWARE_SIM_SECRET",
        help="Provision secret. Other users can read a command line, but not the environment or a file.",
        show_default=False,
    ),
]
SecretFile = Annotated[
    Path | None,
    typer.Option(help="File whose first line is the provision secret.", exists=True, dir_okay=False),
]
StaticToken = Annotated[
    str | None,
    typer.Option(
        "--token", envvar="FIRMWARE_SIM_TOKEN", help="Static: the token flashed in the factory.", show_default=False
    ),
]
Attempts = Annotated[int, typer.Option(min=1, help="Requests (or connections) to try at most while no answer comes.")]
Timeout = Annotated[float, typer.Option(min=0.01, help="Seconds to wait for each answer.")]
Version = Annotated[MqttVersion, typer.Option(help="MQTT version to speak.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; all else goes to stderr.")]

Ca = Annotated[
    Path | None,
    typer.Option(
        help="PEM file of the CA that the server's certificate must be from.",
        exists=True,
        dir_okay=False,
        rich_help_panel=_TLS,
    ),
]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Accept any server: whoever listens learns the secrets.", rich_help_panel=_TLS),
]
DtlsMode = Annotated[
    Dtls,
    typer.Option(
        "--dtls",
        help="On coaps, without a certificate of its own: psk takes the provision key and secret, then device id and "
        "token; certificate checks the server's with --ca.",
        rich_help_panel=_TLS,
    ),
]

Connect = Annotated[bool, typer.Option("--connect", help="Connect with the credentials.", rich_help_panel=_LIFE)]
Telemetry = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="N", help="Connect and send N messages.", show_default="1 for chain", rich_help_panel=_LIFE
    ),
]
Interval = Annotated[
    float,
    typer.Option(
        min=0.01,
        metavar="S",
        help="Seconds between two messages; the shared attribute telemetryInterval changes it.",
        rich_help_panel=_LIFE,
    ),
]
ConnectTransport = Annotated[
    TransportName | None,
    typer.Option(help="Connect by this one.", show_default="as provisioned", rich_help_panel=_LIFE),
]


def secret_of(ctx: typer.Context, secret: str | None, file: Path | None) -> str:
    """The provision secret, from where it was given."""
    if file:
        source = ctx.get_parameter_source("secret")
        if source and source.name == "COMMANDLINE":
            raise typer.BadParameter("give either --secret or --secret-file", param_hint="--secret-file")
        secret = file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    if not secret:
        raise typer.BadParameter(
            "needs --secret, --secret-file or the environment variable FIRMWARE_SIM_SECRET",
            param_hint="--secret",
        )
    return secret


def sealed_key(given: str | None) -> str | None:
    """A public key, if it is one."""
    from firmware_sim.sealed import public_key  # here, as few ask for it

    try:
        if given is not None:
            public_key(given)
    except ValueError as fault:
        raise typer.BadParameter(f"{fault}") from None
    return given


def key_of(key: str | None) -> str:
    """The provision key."""
    if not key:
        raise typer.BadParameter("needs --key or the environment variable FIRMWARE_SIM_KEY", param_hint="--key")
    return key


def address(option: str, text: str, transport: TransportName) -> Address:
    """The server that an option names."""
    try:
        return Address.parse(text, DEFAULT_PORTS[transport])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def trust_of(ca: Path | None, *, insecure: bool) -> Trust:
    """Which servers to trust."""
    if ca and insecure:
        raise typer.BadParameter("give either --ca or --insecure", param_hint="--ca")
    return Trust(ca, insecure)


def check_trust(transport: TransportName, trust: Trust, *, by_key: bool) -> None:
    """Refuse a way on which the server shows a certificate that there is nothing to check with."""
    if transport.over_tls and not by_key and not trust.given:
        raise typer.BadParameter(
            f"{transport} needs --ca with the CA of the server's certificate, or --insecure to accept any",
            param_hint="--ca",
        )


def check_link(transport: TransportName, offer: Offer, trust: Trust, dtls: Dtls) -> None:
    """Refuse a way on which such credentials are of no use."""
    if offer.with_certificate and not transport.by_certificate:
        raise typer.BadParameter(
            f"a certificate opens no {transport} connection: mqtts, https or coaps", param_hint="--connect-transport"
        )
    if offer is Offer.BASIC and transport not in (TransportName.MQTT, TransportName.MQTTS):
        raise typer.BadParameter(
            f"MQTT basic credentials open no {transport} connection: mqtt or mqtts", param_hint="--connect-transport"
        )
    check_trust(transport, trust, by_key=speaks_by_key(transport, dtls) and not offer.with_certificate)


def speaks_by_key(transport: TransportName, dtls: Dtls) -> bool:
    """Whether a device without a certificate and its server know each other by a key."""
    return transport is TransportName.COAPS and dtls is Dtls.PSK


def print_json(value: object) -> None:
    """What `--json` promises."""
    typer.echo(msgspec.json.encode(value))
