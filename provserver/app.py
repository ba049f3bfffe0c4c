"""The composition root: build, start, drain, stop."""

import asyncio
import json
import logging
import os
import resource
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from provserver.adapters.outgoing import Outgoing, networks
from provserver.adapters.sink import receiver
from provserver.config import Config, join_address, split_address
from provserver.errors import Misconfigured
from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.datastreams import Datastreams
from provserver.services.oscore import SequenceNumbers
from provserver.services.provisioning import Provisioning
from provserver.services.sessions import Sessions
from provserver.services.sink import Sink
from provserver.store import schema
from provserver.store.database import Database
from provserver.store.embedded import EmbeddedPostgres
from provserver.transports import coaps, tls_stream
from provserver.transports.coap import CoapTransport
from provserver.transports.http import HttpTransport
from provserver.transports.http_server import ProtocolFactory
from provserver.transports.mqtt.listener import MqttListener
from provserver.transports.mqtt.session import Limits
from provserver.transports.oscore import OscoreSite
from provserver.transports.tls import ServerContext
from provserver.transports.tls_stream import TlsAcceptor
from provserver.workspace import Workspace, furnish, rights

log = logging.getLogger("provserver")

Listen = Callable[[str, int], Awaitable[tuple[str, int]]]
"""Listens on a host and port, and returns them, with the port that was free if 0 was asked. Raises OSError."""

_OTHER_FILES = 256
"""Files for all but the devices' connections."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the transports call."""

    provisioning: Provisioning
    access: Access
    sessions: Sessions
    data: Data
    datastreams: Datastreams
    sequence_numbers: SequenceNumbers


async def serve(config: Config, on_ready: Callable[[Workspace, dict[str, str]], Awaitable[None]]) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is under way and stop. Raises Misconfigured.

    on_ready: called once every listener accepts, with the listeners' addresses ("host:port") by transport.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_, stop.set)
    max_connections = _max_connections(config, _raise_file_limit())
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
        services = await _start(config, opened, space, stack)
        addresses = await _listen(config, services, opened, max_connections, stack)
        await on_ready(space, addresses)
        if config.ready_file:
            _write_ready_file(Path(config.ready_file), addresses)
            stack.callback(Path(config.ready_file).unlink, missing_ok=True)
        log.info("serving: %s", ", ".join(f"{name} {address}" for name, address in addresses.items()))
        await stop.wait()
        log.info("stopping: what is under way is answered first")
    log.info("stopped")


async def _start(config: Config, opened: Database, space: Workspace, stack: AsyncExitStack) -> Services:
    sink = None
    if config.sink_url:
        outgoing = Outgoing(private=networks(config.outgoing_private))
        stack.push_async_callback(outgoing.close)
        sink = Sink(opened, receiver(config.sink_url, outgoing), limit=config.sink_limit)
        await sink.start()
        stack.push_async_callback(sink.stop, config.drain_timeout)
    sessions = Sessions(opened)
    await sessions.start()
    stack.push_async_callback(sessions.stop)
    provisioning = Provisioning(opened, space.keys, wait_limit=config.request_timeout)
    stack.push_async_callback(provisioning.drain)
    access = Access(opened, space.keys, wait_limit=config.request_timeout)
    stack.push_async_callback(access.drain)
    data = Data(opened, space.keys, sink, history_limit=config.history_limit, online_period=config.online_period)
    stack.push_async_callback(data.drain)
    return Services(provisioning, access, sessions, data, Datastreams(opened, data), SequenceNumbers(opened))


async def _listen(
    config: Config, services: Services, opened: Database, max_connections: int, stack: AsyncExitStack
) -> dict[str, str]:
    access, data, sessions, datastreams = services.access, services.data, services.sessions, services.datastreams
    http = HttpTransport(
        services.provisioning,
        opened.ping,
        access=access,
        data=data,
        sessions=sessions,
        datastreams=datastreams,
        max_payload_size=config.max_payload_size,
        max_connections=max_connections,
        connect_timeout=config.connect_timeout,
        request_timeout=config.request_timeout,
    )
    mqtt = MqttListener(
        services.provisioning,
        access=access,
        sessions=sessions,
        data=data,
        datastreams=datastreams,
        limits=Limits(
            max_packet_size=config.max_payload_size,
            connect_timeout=config.connect_timeout,
            idle_limit=config.idle_timeout,
        ),
        max_connections=max_connections,
    )
    coap = CoapTransport(
        services.provisioning,
        access=access,
        data=data,
        sessions=sessions,
        wrap=partial(OscoreSite, shared_key=access.shared_key, numbers=services.sequence_numbers),
        max_payload_size=config.max_payload_size,
        request_timeout=config.request_timeout,
    )

    def over_tls(make_protocol: ProtocolFactory) -> TlsAcceptor:
        return tls_stream.over_tls(
            ServerContext(config.certificate_path, config.tls_key_path),
            make_protocol,
            asyncio.get_running_loop(),
            shared_key=access.shared_key,
            handshake_timeout=config.connect_timeout,
        )

    async def over_dtls(host: str, port: int) -> tuple[str, int]:
        context = ServerContext(config.certificate_path, config.tls_key_path, datagram=True)
        interface = await coap.add(
            partial(coaps.listen, host=host, port=port, context=context, shared_key=access.shared_key)
        )
        address: tuple[str, int] = interface.address
        return address

    listeners: dict[str, tuple[HttpTransport | MqttListener | CoapTransport, Listen]] = {
        "http": (http, http.start),
        "https": (http, partial(http.start, wrap=over_tls)),
        "mqtt": (mqtt, mqtt.start),
        "mqtts": (mqtt, partial(mqtt.start, wrap=over_tls)),
        "coap": (coap, coap.start),
        "coaps": (coap, over_dtls),
    }
    addresses = {}
    begun: set[object] = set()
    for name, (transport, listen) in listeners.items():
        address: str = getattr(config, name)
        if not address:
            continue
        if transport not in begun:
            begun.add(transport)
            stack.push_async_callback(transport.stop, config.drain_timeout)
        try:
            bound = await listen(*split_address(address, name))
        except OSError as fault:
            raise Misconfigured(
                f"{name}: cannot listen on {address}: {fault.strerror or fault}. "
                f"Choose another address with --{name} HOST:PORT (port 0: any free one)."
            ) from None
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


def _max_connections(config: Config, files: int) -> int:
    """As configured, or as many as the machine allows."""
    possible = max(files - _OTHER_FILES, 1)
    if possible < config.max_connections:
        log.info("at most %d connections are taken: that is what the limit of open files leaves", possible)
    return min(config.max_connections, possible)
