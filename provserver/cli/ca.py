"""`provserver ca`: certificates to try TLS with."""

import os
import shlex
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from provserver.cli import options, output
from provserver.cli.options import ConfigFile, DataDir
from provserver.cli.output import Json
from provserver.core import pki
from provserver.errors import Misconfigured, Refused

cli = typer.Typer(help="Make a development CA and server certificate, for TLS and DTLS.", no_args_is_help=True)

_LOCAL = ("localhost", "127.0.0.1", "::1")


@cli.callback()
def _group() -> None:
    """Keep `init` a command of its own, although it is the only one."""


@cli.command()
def init(
    name: Annotated[
        list[str] | None,
        typer.Option(help="A host name or IP address that devices reach the server by; may be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there; devices must trust anew.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make a CA and a server certificate for this machine's names, where `serve` looks for them."""
    settings = options.load(config, data_dir=data_dir)
    folder = settings.data_dir.absolute() / "tls"
    paths = {part: folder / part for part in ("ca.pem", "ca.key", "server.pem", "server.key")}
    there = [str(path) for path in paths.values() if path.exists()]
    if there and not force:
        raise Refused(f"There is already {there[0]}. Use it, or replace it with --force.")
    names = (*(name or ()), *_LOCAL, *_host_name())
    contents = _make(names)
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        for part, content in contents.items():
            _write(paths[part], content)
    except OSError as fault:
        raise Misconfigured(f"{fault.filename or folder} cannot be written: {fault.strerror}.") from None
    if json:
        output.print_json(
            {
                "ca": str(paths["ca.pem"]),
                "caKey": str(paths["ca.key"]),
                "certificate": str(paths["server.pem"]),
                "key": str(paths["server.key"]),
                "names": list(dict.fromkeys(names)),
            }
        )
    else:
        typer.echo("\n".join(_next_lines(paths["ca.pem"], settings.data_dir.absolute(), (name or ["localhost"])[0])))


def _host_name() -> tuple[str, ...]:
    """What this machine is called, if it can stand in a certificate."""
    name = socket.gethostname()
    try:
        pki.general_name(name)
    except ValueError:
        return ()
    return (name,)


def _make(names: tuple[str, ...]) -> dict[str, bytes]:
    """The files' contents, by their names. Raises Refused."""
    now = datetime.now(UTC)
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    serial_number = x509.random_serial_number()
    # A name of its own: clients tell authorities apart by it, and one that was replaced is another.
    title = f"provserver development CA {serial_number % 2**32:08x}"
    authority = pki.make_authority(title, authority_key, serial_number, now)
    try:
        certificate = pki.issue_server(authority, server_key, names, x509.random_serial_number(), now)
    except ValueError as fault:
        raise Refused(f"--name: {fault}.") from None
    issuer = authority.certificate.public_bytes(Encoding.PEM)
    return {
        "ca.pem": issuer,
        "ca.key": _pem(authority_key),
        "server.key": _pem(server_key),
        "server.pem": certificate.public_bytes(Encoding.PEM),
    }


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; a key for its owner only, from the first byte on."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if path.suffix == ".key" else 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    unfinished.replace(path)


def _next_lines(authority: Path, data_dir: Path, host: str) -> list[str]:
    program = sys.argv[0] if Path(sys.argv[0]).name == "provserver" else "provserver"
    bracketed = f"[{host}]" if ":" in host else host
    listeners = ("--mqtts", "0.0.0.0:8883", "--https", "0.0.0.0:8443", "--coaps", "0.0.0.0:5684")
    request = '{"deviceName":"sensor-1","provisionDeviceKey":"…","provisionDeviceSecret":"…"}'
    trusts = ("--cafile", str(authority))
    asks = ("-u", "provision", "-q", "1", "-t", "/provision/request", "-m", request)
    url = f"https://{bracketed}:8443/api/v1/provision"
    return [
        f"# Made a CA and a server certificate in {authority.parent}. For development: its key is on this machine.",
        "# Serve with it",
        shlex.join((program, "serve", "--data-dir", str(data_dir), *listeners)),
        "# Devices trust it by the file ca.pem",
        shlex.join(("mosquitto_pub", "-h", host, "-p", "8883", *trusts, *asks)),
        shlex.join(("curl", "--cacert", str(authority), url, "-d", request)),
    ]
