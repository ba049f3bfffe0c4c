"""Where a command acts: on the database, as ever, or with --server on a server, through the same admin API."""

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec
from urllib.parse import urlsplit

import typer

from provserver.admin import client
from provserver.admin.client import Client
from provserver.cli import options, output
from provserver.cli.options import ConfigFile, DatabaseUrl, DataDir
from provserver.errors import Misconfigured

Given = ParamSpec("Given")

KEY_VARIABLE = "PROVSERVER_API_KEY"
LOCAL = ("localhost", "127.0.0.1", "::1")
SCHEMES = ("http://", "https://")


def _url(given: str | None) -> str | None:
    if given is None:
        return None
    try:
        parts = urlsplit(given)
        usable = given.startswith(SCHEMES) and parts.hostname and parts.port != 0 and given.isprintable()
    except ValueError:
        usable = False
    if not usable or parts.username is not None or parts.query or parts.fragment:
        raise typer.BadParameter(f"must be like https://host:port, not {given!r}.")
    return given


ServerUrl = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Act on a server through its admin API, instead of on the database.",
        callback=_url,
        show_default=False,
    ),
]
ServerOrAttribute = Annotated[
    list[str] | None,
    typer.Option(
        "--server",
        metavar="KEY=VALUE|URL",
        help="Write a server attribute; or, given a URL, act on that server as the other commands do.",
        show_default=False,
    ),
]
"""What `device update` has instead, which had --server first. `acting` takes the URLs out."""
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        help=f"For --server. {KEY_VARIABLE}, or a file that {KEY_VARIABLE}_FILE names, hides it from other users.",
        show_default=False,
    ),
]

_OPTIONS: dict[str, Any] = {
    "config": ConfigFile,
    "data_dir": DataDir,
    "database_url": DatabaseUrl,
    "server": ServerUrl,
    "api_key": ApiKey,
}


def acting(
    *, make: bool = False
) -> Callable[[Callable[Concatenate[Client, Given], Awaitable[None]]], Callable[..., None]]:
    """Make a command of a coroutine: give it the options that say where it acts, and the client that they lead to.

    make: whether it makes the data directory and the keys where there are none.
    """

    def decorate(command: Callable[Concatenate[Client, Given], Awaitable[None]]) -> Callable[..., None]:
        _, *own = inspect.signature(command).parameters.values()
        shared = "server" in (each.name for each in own)

        @wraps(command)
        def run(**given: Any) -> None:
            where = {name: given.pop(name) for name in _OPTIONS}
            if shared:
                where["server"], given["server"] = _split(where["server"])
            connected = _connect(**where, make=make)

            async def act() -> None:
                async with connected as api:
                    await command(api, **given)  # type: ignore[call-arg] # as typer has read them from its signature

            asyncio.run(act())

        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in _OPTIONS.items()
            if not (shared and name == "server")
        ]
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *added)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def _split(given: Sequence[str] | None) -> tuple[str | None, list[str]]:
    urls = [each for each in given or () if each.startswith(SCHEMES)]
    if len(urls) > 1:
        raise typer.BadParameter("can name one server.", param_hint="--server")
    return (_url(urls[0]) if urls else None), [each for each in given or () if each not in urls]


def _connect(
    config: Path | None,
    data_dir: Path | None,
    database_url: str | None,
    server: str | None,
    api_key: str | None,
    *,
    make: bool,
) -> AbstractAsyncContextManager[Client]:
    if server is None:
        if api_key is not None:
            raise typer.BadParameter("needs --server.", param_hint="--api-key")
        settings = options.load(config, data_dir=data_dir, database_url=database_url)
        return client.on_database(settings, make=make)
    if (config, data_dir, database_url) != (None, None, None):
        raise typer.BadParameter("goes without --config, --data-dir and --database-url.", param_hint="--server")
    key = _key(api_key)
    if server.startswith("http://") and urlsplit(server).hostname not in LOCAL:
        output.say(f"warning: the API key goes to {server} in clear. Use https://.")
    return client.on_server(server, key)


def _key(given: str | None) -> str:
    """The API key, given or from the environment. Raises Misconfigured."""
    key = given or os.environ.get(KEY_VARIABLE, "")
    if not key and (file := os.environ.get(f"{KEY_VARIABLE}_FILE")):
        try:
            key = Path(file).read_text().strip()
        except OSError as fault:
            raise Misconfigured(f"{KEY_VARIABLE}_FILE: {file} cannot be read: {fault.strerror}.") from None
        except UnicodeDecodeError:
            raise Misconfigured(f"{KEY_VARIABLE}_FILE: {file} cannot be read: it is not UTF-8.") from None
    if not key or not key.isascii() or not key.isprintable():
        raise Misconfigured(
            f"--server needs an API key: set {KEY_VARIABLE}, or {KEY_VARIABLE}_FILE to a file that holds it. "
            "`provserver key create` makes one."
        )
    return key
