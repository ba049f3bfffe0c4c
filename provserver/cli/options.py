"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from provserver import config
from provserver.config import Config
from provserver.core.model import ProvisionStrategy
from provserver.errors import Misconfigured

STRATEGIES = {
    "allow-create": ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES,
    "check-pre-provisioned": ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES,
    "x509-chain": ProvisionStrategy.X509_CERTIFICATE_CHAIN,
    "disabled": ProvisionStrategy.DISABLED,
}

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Options as in config/provserver.toml.", show_default=False)
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Keys and embedded Postgres. [default: provserver-data]", show_default=False),
]
DatabaseUrl = Annotated[
    str | None, typer.Option(help="Your own Postgres instead of the embedded one.", show_default=False)
]


def load(file: Path | None, **overrides: object) -> Config:
    """The configuration of this call. Raises Misconfigured."""
    return config.load(file, overrides=overrides)


def strategy(name: str) -> ProvisionStrategy:
    """A strategy by its short or its ThingsBoard name. Raises Misconfigured."""
    found = STRATEGIES.get(name.lower()) or ProvisionStrategy.__members__.get(name.upper())
    if found is None:
        raise Misconfigured(f"--strategy must be one of {', '.join(STRATEGIES)}, not {name!r}.")
    return found
