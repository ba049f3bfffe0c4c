"""The composition root: build, start, drain, stop."""

import asyncio
import json
import logging
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from provserver.config import Config, join_address, split_address
from provserver.core import ids
from provserver.core.secrets import ServerKeys
from provserver.errors import Misconfigured
from provserver.services.devices import Devices
from provserver.services.profiles import Profiles
from provserver.services.provisioning import Provisioning
from provserver.store import keyfile, profiles, schema
from provserver.store.database import Database
from provserver.store.embedded import EmbeddedPostgres, connectable
from provserver.transports.coap import CoapTransport
from provserver.transports.http import HttpTransport
from provserver.transports.mqtt.listener import MqttListener
from provserver.transports.mqtt.session import Limits

log = logging.getLogger("provserver")

ROOT_ORGANIZATION = "Manufacturer"


@dataclass(frozen=True, slots=True)
class Workspace:
    """What a command works with: the database, opened and up to date, and the keys it was written with."""

    database: Database
    keys: ServerKeys
    profiles: Profiles
    devices: Devices


@asynccontextmanager
async def database(config: Config, *, make: bool = False) -> AsyncIterator[Database]:
    """The configured database as it is, or the embedded one of the data directory, served or not.

    make: whether to make the data directory where there is none. Raises Misconfigured.
    """
    if not make and not config.database_url and not _is_data_dir(config.data_dir):
        raise Misconfigured(
            f"There is no data directory at {config.data_dir.absolute()}. "
            "Start the server there first (provserver serve), or name it with --data-dir."
        )
    async with AsyncExitStack() as stack:
        url = config.database_url or await stack.enter_async_context(connectable(config.data_dir))
        opened = Database(url, size=2)
        await opened.open()
        stack.push_async_callback(opened.close)
        yield opened


@asynccontextmanager
async def workspace(config: Config, *, make: bool = False) -> AsyncIterator[Workspace]:
    """The configured database for a command. Raises Misconfigured, also when it must be upgraded first.

    make: whether to make the data directory and the keys where there are none.
    """
    async with database(config, make=make) as opened:
        if config.database_url and await schema.pending(opened):
            raise Misconfigured("The database is not up to date. Run: provserver db upgrade --database-url …")
        if config.database_url and not make and not config.keys_path.exists():
            raise Misconfigured(
                f"There are no keys at {config.keys_path.absolute()}. "
                "Start the server there first (provserver serve), or name its data directory with --data-dir."
            )
        yield await _workspace(opened, config)


def _is_data_dir(path: Path) -> bool:
    try:
        return not {"lock", "postgres"}.isdisjoint(entry.name for entry in path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # for all we may see; who opens it says what is wrong


async def _workspace(opened: Database, config: Config) -> Workspace:
    if not config.database_url:
        await schema.upgrade(opened)
    keys = keyfile.load_or_create(config.keys_path)
    await keyfile.prove(opened, keys)
    async with opened.connection() as connection:
        root = await profiles.root_organization(connection, ids.uuid7(time.time(), os.urandom), ROOT_ORGANIZATION)
    return Workspace(opened, keys, Profiles(opened, keys, root), Devices(opened, keys, root))


async def serve(config: Config, on_ready: Callable[[Workspace, dict[str, str]], Awaitable[None]]) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is under way and stop. Raises Misconfigured.

    on_ready: called once every listener accepts, with the listeners' addresses ("host:port") by transport.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_, stop.set)
    _raise_file_limit()
    async with AsyncExitStack() as stack:
        url = config.database_url
        if not url:
            url = (await stack.enter_async_context(EmbeddedPostgres(config.data_dir))).dsn
        opened = Database(url, size=config.database_connections, serving=True)
        await opened.open()
        stack.push_async_callback(opened.close)
        for migration in await schema.upgrade(opened):
            log.info("migration applied: %04d_%s", migration.number, migration.name)
        space = await _workspace(opened, config)
        provisioning = Provisioning(opened, space.keys, wait_limit=config.request_timeout)
        stack.push_async_callback(provisioning.drain)
        addresses = await _listen(config, provisioning, opened, stack)
        await on_ready(space, addresses)
        if config.ready_file:
            _write_ready_file(Path(config.ready_file), addresses)
            stack.callback(Path(config.ready_file).unlink, missing_ok=True)
        log.info("serving: %s", ", ".join(f"{name} {address}" for name, address in addresses.items()))
        await stop.wait()
        log.info("stopping: what is under way is answered first")
    log.info("stopped")


async def _listen(
    config: Config, provisioning: Provisioning, opened: Database, stack: AsyncExitStack
) -> dict[str, str]:
    http = HttpTransport(
        provisioning,
        opened.ping,
        max_payload_size=config.max_payload_size,
        connect_timeout=config.connect_timeout,
    )
    mqtt = MqttListener(
        provisioning,
        limits=Limits(
            max_packet_size=config.max_payload_size,
            connect_timeout=config.connect_timeout,
            idle_limit=config.idle_timeout,
        ),
        max_connections=config.max_connections,
    )
    coap = CoapTransport(provisioning, max_payload_size=config.max_payload_size)
    addresses = {}
    for name, transport in (("http", http), ("mqtt", mqtt), ("coap", coap)):
        address: str = getattr(config, name)
        if not address:
            continue
        try:
            bound = await transport.start(*split_address(address, name))
        except OSError as fault:
            raise Misconfigured(
                f"{name}: cannot listen on {address}: {fault.strerror or fault}. "
                f"Choose another address with --{name} HOST:PORT (port 0: any free one)."
            ) from None
        stack.push_async_callback(transport.stop, config.drain_timeout)
        addresses[name] = join_address(*bound)
    return addresses


def _write_ready_file(path: Path, addresses: dict[str, str]) -> None:
    """Whole or not at all, as somebody waits for it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(json.dumps(addresses) + "\n")
        unfinished.replace(path)
    except OSError as fault:
        raise Misconfigured(f"ready_file: {path} cannot be written: {fault.strerror}.") from None


def _raise_file_limit() -> None:
    """A connection is a file; the usual soft limit of 1024 is far below what the machine can do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
