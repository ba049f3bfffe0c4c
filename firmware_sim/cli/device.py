"""`firmware-sim device`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from firmware_sim.address import Address
from firmware_sim.cli.loop import run, until_stopped
from firmware_sim.cli.options import (
    Attempts,
    Ca,
    Connect,
    ConnectTransport,
    Dtls,
    DtlsMode,
    Insecure,
    Interval,
    Json,
    Key,
    Offer,
    Secret,
    SecretFile,
    StaticToken,
    Telemetry,
    Timeout,
    Version,
    address,
    check_link,
    check_trust,
    key_of,
    print_json,
    sealed_key,
    secret_of,
    speaks_by_key,
    trust_of,
)
from firmware_sim.device import Device, Firmware, Provisioned, factory_outcome
from firmware_sim.errors import NoAnswer, SimulatorError
from firmware_sim.flash import Credentials, FileFlash, Flash, Memory, VolatileFlash
from firmware_sim.links import Line, Login
from firmware_sim.log import SerialLog, mask
from firmware_sim.retry import Retry
from firmware_sim.rotation import rotate
from firmware_sim.session import Session
from firmware_sim.tls import ClientCertificate, Trust
from firmware_sim.transports import DEFAULT_PORTS, MqttVersion, TransportName, connect, provision_security

_LIFE = "After provisioning"


@dataclass(frozen=True, slots=True)
class Flashed:
    """A token that was made before its device, and flashed in the factory."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a device is to do, from power-on to power-off. brought: from the factory."""

    transport: TransportName
    server: Address
    brought: Firmware | ClientCertificate | Flashed
    flash: Flash
    trust: Trust
    dtls: Dtls
    retry: Retry
    timeout: float
    mqtt_version: MqttVersion
    link: TransportName
    link_server: Address
    connecting: bool
    telemetry: int | None
    interval: float
    stay: bool
    rotating: bool

    async def boot(self, log: SerialLog) -> tuple[Provisioned, Session | None]:
        """Live this life. Raises a SimulatorError."""
        if isinstance(self.brought, ClientCertificate):
            return await self._enroll(self.brought, log)
        if isinstance(self.brought, Flashed):
            credentials = Credentials("ACCESS_TOKEN", self.brought.token)
            session = self._session(self._line.login(credentials, None), log)
            await self._live(session, log)
            return Provisioned(credentials, None, 0), session
        outcome = await self._provision(self.brought, log)
        log.info("boot", "provisioned")
        if not self.connecting:
            return outcome, None
        if self.rotating:
            outcome = await self._rotate(outcome, log)
        login = self._line.login(outcome.credentials, outcome.private_key)
        session = self._session(login, log)
        await self._live(session, log)
        return outcome, session

    async def _provision(self, firmware: Firmware, log: SerialLog) -> Provisioned:
        by_key = speaks_by_key(self.transport, self.dtls)
        security = provision_security(self.transport, firmware.key, firmware.secret, self.trust, by_key=by_key)
        async with connect(self.transport, self.server, mqtt_version=self.mqtt_version, security=security) as transport:
            return await Device(firmware, self.flash, transport, log, self.retry, self.timeout).boot()

    async def _rotate(self, outcome: Provisioned, log: SerialLog) -> Provisioned:
        """Connect, and ask for the credentials to connect with from now on."""
        login = self._line.login(outcome.credentials, outcome.private_key)

        async def ask(_: int) -> Memory:
            async with self._line.open(login, self.flash) as link:
                return await rotate(link, self.flash, log)

        def waiting(failure: NoAnswer, delay: float) -> None:
            log.warning("rotate", f"{failure}; asking again in {delay:.1f} s")

        memory = await self.retry.run(ask, waiting)
        credentials = memory.credentials or outcome.credentials
        return Provisioned(credentials, memory.private_key, outcome.attempts)

    async def _enroll(self, certificate: ClientCertificate, log: SerialLog) -> tuple[Provisioned, Session]:
        """With a factory certificate the first connection that is accepted provisions the device."""
        session = self._session(Login(certificate=certificate), log)

        def accepted(_: float) -> None:
            if session.connections == 1:
                log.info("boot", "certificate accepted: provisioned")

        session.accepted = accepted
        await self._live(session, log)
        return factory_outcome(None, certificate, session.attempts), session

    async def _live(self, session: Session, log: SerialLog) -> None:
        if not self.stay:
            await session.run()
            return
        await until_stopped(session.run())
        log.info("boot", f"switched off after {session.sent} messages")

    @property
    def _line(self) -> Line:
        by_key = self.dtls is Dtls.PSK
        return Line(self.link, self.link_server, self.trust, by_key, self.mqtt_version, self.timeout)

    def _session(self, login: Login, log: SerialLog) -> Session:
        line = self._line
        return Session(
            lambda: line.open(login, self.flash),
            line.name,
            log,
            self.retry,
            self.telemetry,
            self.interval,
            self.stay,
        )


def device(
    ctx: typer.Context,
    transport: Annotated[TransportName, typer.Option(help="Protocol to ask by.", show_default=False)],
    key: Key = None,
    secret: Secret = None,
    secret_file: SecretFile = None,
    server: Annotated[
        str,
        typer.Option(metavar="H:P", help="Port if absent: 8080, 1883, 5683; with TLS 8443, 8883, 5684."),
    ] = "127.0.0.1",
    token: StaticToken = None,
    name: Annotated[str | None, typer.Option(help="Device name; the server chooses one if absent.")] = None,
    credentials: Annotated[
        Offer | None,
        typer.Option(
            help="Let the server generate a token, bring own credentials, or connect with what the factory put in:"
            " a certificate (chain) or a token (static).",
            show_default="generated",
        ),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Chain: the device's certificate and those above it, PEM.", show_default=False)
    ] = None,
    private_key: Annotated[
        Path | None, typer.Option(help="Chain: the certificate's private key, PEM.", show_default=False)
    ] = None,
    csr: Annotated[
        bool, typer.Option("--csr", help="Make a key, and have the server sign a certificate: --credentials csr.")
    ] = False,
    gateway: Annotated[bool, typer.Option("--gateway", help="Register as a gateway.")] = False,
    sealed: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Seal the request to this public key of the server's.", callback=sealed_key),
    ] = None,
    sealed_answer: Annotated[
        bool, typer.Option("--sealed-answer", help="Have the answer sealed, the request being sent in the clear.")
    ] = False,
    flash: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="The device's memory; a second boot finds its credentials there."),
    ] = None,
    erase: Annotated[bool, typer.Option("--erase", help="Erase the flash file before booting.")] = False,
    attempts: Attempts = 5,
    timeout: Timeout = 10.0,
    mqtt_version: Version = MqttVersion.V311,
    ca: Ca = None,
    insecure: Insecure = False,
    dtls: DtlsMode = Dtls.PSK,
    connecting: Connect = False,
    telemetry: Telemetry = None,
    interval: Interval = 1.0,
    stay: Annotated[
        bool,
        typer.Option(
            "--stay",
            help="Stay connected until Ctrl-C: after the last message, or without --telemetry sending all the time.",
            rich_help_panel=_LIFE,
        ),
    ] = False,
    rotate_: Annotated[
        bool,
        typer.Option("--rotate", help="Connect, ask for the next credentials, use these.", rich_help_panel=_LIFE),
    ] = False,
    connect_transport: ConnectTransport = None,
    connect_server: Annotated[
        str | None,
        typer.Option(metavar="H:P", help="Connect there.", show_default="the --server's host", rich_help_panel=_LIFE),
    ] = None,
    show_credentials: Annotated[
        bool,
        typer.Option("--show-credentials", help="Print credentials in clear, private key included in --json."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Boot one device: find its credentials in flash, or ask for them and save them there; then connect if asked to."""
    trust = trust_of(ca, insecure=insecure)
    if csr and credentials not in (None, Offer.CSR):
        raise typer.BadParameter(f"goes without --credentials {credentials}", param_hint="--csr")
    credentials = Offer.CSR if csr else credentials
    chain = credentials is Offer.CHAIN
    link = connect_transport or transport
    flashed = credentials is Offer.STATIC
    if rotate_ and (chain or flashed):
        raise typer.BadParameter("a device keeps what the factory put in", param_hint="--rotate")
    connecting = connecting or stay or telemetry is not None or chain or flashed or rotate_
    if connecting:
        check_link(link, credentials or Offer.GENERATED, trust, dtls)
    log = SerialLog(Console(stderr=as_json, highlight=False), show=show_credentials)
    brought: Firmware | Flashed | None = None
    if (sealed or sealed_answer) and (chain or flashed):
        raise typer.BadParameter("is for devices that ask to be provisioned", param_hint="--sealed")
    if flashed:
        if not token:
            raise typer.BadParameter("static needs --token or the environment variable FIRMWARE_SIM_TOKEN")
        brought = Flashed(token)
    elif chain:
        files = _factory_files(
            certificate, private_key, {"--name": name, "--flash": flash, "--connect-transport": connect_transport}
        )
    else:
        if certificate or private_key:
            raise typer.BadParameter("is for --credentials chain", param_hint="--certificate")
        kind = credentials.kind if credentials else None
        image = (key_of(key), secret_of(ctx, secret, secret_file), name, kind, gateway)
        brought = Firmware(*image, sealed=sealed, sealed_answer=sealed_answer)
        check_trust(transport, trust, by_key=speaks_by_key(transport, dtls))
    there = address("--server", server, transport)
    try:
        plan = _Plan(
            transport,
            there,
            brought or ClientCertificate.read(*files),
            FileFlash(flash) if flash else VolatileFlash(),
            trust,
            dtls,
            Retry(attempts),
            timeout,
            mqtt_version,
            link,
            _link_server(connect_server, link, transport, there),
            connecting,
            telemetry if telemetry is not None else None if stay else int(chain or flashed),
            interval,
            stay,
            rotate_,
        )
        _greet(plan, log, erase=erase)
        outcome, session = run(plan.boot(log))
    except SimulatorError as error:
        log.failure("boot", f"{error.status}: {error}")
        if as_json:
            print_json({"status": error.status, "reason": str(error), "transport": transport})
        raise typer.Exit(error.exit_code) from None
    if as_json:
        print_json(_describe(outcome, transport, link, session, show=show_credentials))


def _factory_files(
    certificate: Path | None, private_key: Path | None, senseless: Mapping[str, object]
) -> tuple[Path, Path]:
    """The two files that `chain` needs. senseless: options that do not go with it, and what they were given."""
    if not (certificate and private_key):
        raise typer.BadParameter("chain needs --certificate and --private-key", param_hint="--credentials")
    for option, given in senseless.items():
        if given is not None:
            raise typer.BadParameter(
                "a device with a factory certificate has its name in it, saves nothing, and need not ask first",
                param_hint=option,
            )
    return certificate, private_key


def _link_server(given: str | None, link: TransportName, transport: TransportName, server: Address) -> Address:
    if given is not None:
        return address("--connect-server", given, link)
    return server if link is transport else Address(server.host, DEFAULT_PORTS[link])


def _greet(plan: _Plan, log: SerialLog, *, erase: bool) -> None:
    if isinstance(plan.brought, ClientCertificate):
        log.info("boot", f"{plan.transport} device with a factory certificate")
        return
    if isinstance(plan.brought, Flashed):
        log.info("boot", f"{plan.transport} device with token {log.secret(plan.brought.token)}, flashed in the factory")
        return
    log.info("boot", f"{plan.transport} device, provision key {log.secret(plan.brought.key)}")
    if isinstance(plan.flash, FileFlash):
        if erase:
            plan.flash.erase()
    else:
        log.warning("flash", "no --flash file: all is forgotten at power-off")


def _describe(
    outcome: Provisioned, transport: TransportName, link: TransportName, session: Session | None, *, show: bool
) -> dict[str, object]:
    granted = outcome.credentials
    value = granted.credentials_value
    if not show:
        value = mask(value) if isinstance(value, str) else {name: part and mask(part) for name, part in value.items()}
    described: dict[str, object] = {
        "status": "provisioned",
        "source": "server" if outcome.attempts else "flash",
        "transport": transport,
        "attempts": outcome.attempts,
        "deviceName": granted.device_name,
        "deviceId": granted.device_id,
        "credentialsType": granted.credentials_type,
        "credentialsValue": value,
    }
    if show and outcome.private_key:
        described["privateKey"] = outcome.private_key
    if session:
        described["connection"] = {
            "transport": link,
            "connections": session.connections,
            "attempts": session.attempts,
            "messages": session.sent,
            "attributes": session.attributes,
        }
    return described
