"""`provserver serve`."""

import gc
from pathlib import Path
from typing import Annotated

import typer

from provserver.cli import options, welcome
from provserver.cli.options import ConfigFile, DatabaseUrl, DataDir
from provserver.workspace import Workspace

Listener = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Address to listen on; port 0: any free one; empty: off.",
        show_default=False,
        callback=options.listener,
    ),
]
SecureListener = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Address under TLS (coaps: DTLS); off by default; needs a certificate (provserver ca init).",
        show_default=False,
        callback=options.listener,
    ),
]
BlynkListener = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Address of Blynk's native protocol, e.g. 0.0.0.0:8442; off by default.",
        show_default=False,
        callback=options.listener,
    ),
]
AdminListener = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Address of the admin API; empty: off. (default: 127.0.0.1:8081)",
        show_default=False,
        callback=options.listener,
    ),
]

MetricsListener = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Address of the metrics and probes, e.g. 127.0.0.1:9464; off by default.",
        show_default=False,
        callback=options.listener,
    ),
]


def serve(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    http: Listener = None,
    mqtt: Listener = None,
    coap: Listener = None,
    https: SecureListener = None,
    mqtts: SecureListener = None,
    coaps: SecureListener = None,
    blynk: BlynkListener = None,
    blynks: SecureListener = None,
    admin: AdminListener = None,
    metrics: MetricsListener = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(help="Write the listeners' addresses here, as JSON, once they accept.", show_default=False),
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.", show_default=False)] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that serve devices, on the same addresses.", show_default=False),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Make a demo profile and print the lines that provision a device.")
    ] = False,
) -> None:
    """Serve devices on HTTP, MQTT and CoAP; without a database URL, on an embedded Postgres."""
    settings = options.load(
        config,
        data_dir=data_dir,
        database_url=database_url,
        http=http,
        mqtt=mqtt,
        coap=coap,
        https=https,
        mqtts=mqtts,
        coaps=coaps,
        blynk=blynk,
        blynks=blynks,
        admin=admin,
        metrics=metrics,
        workers=workers,
        ready_file=str(ready_file) if ready_file else None,
        log_level=log_level,
    )
    gc.disable()  # as in `provserver.cli`
    from provserver import app, observability  # here, as the other commands need neither protocols nor logs

    gc.freeze()
    gc.enable()
    observability.set_up(settings.log_level, settings.log_format)

    async def on_ready(space: Workspace, addresses: dict[str, str]) -> None:
        if demo:
            await welcome.greet(space.profiles, addresses, settings)

    raise typer.Exit(app.run(settings, on_ready))
