"""The composition root: build, start, drain, stop."""

import asyncio
import json
import logging
import os
import resource
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from provserver.config import Config, join_address, split_address
from provserver.errors import Misconfigured
from provserver.services.provisioning import Provisioning
from provserver.store import schema
from provserver.store.database import Database
from provserver.store.embedded import EmbeddedPostgres
from provserver.transports.coap import CoapTransport
from provserver.transports.http import HttpTransport
from provserver.transports.mqtt.listener import MqttListener
from provserver.transports.mqtt.session import Limits
from provserver.workspace import Workspace, furnish, rights

log = logging.getLogger("provserver")


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
        stack.enter_context(rights())
        for migration in await schema.upgrade(opened):
            log.info("migration applied: %04d_%s", migration.number, migration.name)
        space = await furnish(opened, config)
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


def _raise_file_limit() -> int:
    """A connection is a file; the usual soft limit of 1024 is far below what the machine can do. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
