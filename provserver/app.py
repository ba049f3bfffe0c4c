"""The composition root: build, start, drain, stop."""

import asyncio
import gc
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import uvloop

from provserver import listeners, metrics, systemd
from provserver.adapters.outgoing import Outgoing, networks
from provserver.adapters.webhook import WebhookClient
from provserver.admin import set_up
from provserver.config import LISTENERS, Config, join_address, split_address
from provserver.errors import Misconfigured, ProvserverError
from provserver.listeners import Services
from provserver.services import memory
from provserver.services.access import Access
from provserver.services.audit_chain import AuditChain
from provserver.services.data import Data
from provserver.services.datastreams import Datastreams
from provserver.services.enrollment import Enrollment
from provserver.services.expiry import Expiry
from provserver.services.job_runner import JobRunner
from provserver.services.key_watch import KeyWatch
from provserver.services.limits import Limits, Rates
from provserver.services.oscore import SequenceNumbers
from provserver.services.outbox import Outbox
from provserver.services.placeholders import Placeholders
from provserver.services.provisioning import Provisioning
from provserver.services.readiness import Readiness
from provserver.services.retention import Retention
from provserver.services.sessions import Sessions
from provserver.services.sink import Sink
from provserver.services.subscriptions import Subscriptions
from provserver.services.upkeep import Upkeep
from provserver.services.uplinks import Uplinks
from provserver.store import schema, server_keys
from provserver.store.database import Database
from provserver.store.embedded import EmbeddedPostgres
from provserver.supervisor import NotReady, Report, Run, Supervisor
from provserver.transports.tls import ServerContext
from provserver.workspace import Workspace, furnish, head_file, job_kinds, key_source, rights

log = logging.getLogger("provserver")

OnReady = Callable[[Workspace, dict[str, str]], Awaitable[None]]

_STOP_MARGIN = 10.0
"""Seconds that a stop may take beside the requests that it waits for."""

_ADMIN_CONNECTIONS = 4
"""To Postgres, of the admin API."""


def run(config: Config, on_ready: OnReady) -> int:
    """Serve until SIGTERM or SIGINT, then answer what is under way and stop. Raises Misconfigured.

    Returns an exit code.

    on_ready: called once every listener accepts, with the listeners' addresses ("host:port") by transport.
    """
    networks(config.outgoing_private)  # before anything has begun, as it is needed late
    if config.workers > 1:
        return _supervise(config, on_ready)
    uvloop.run(_serve(config, on_ready))
    return 0


async def _serve(config: Config, on_ready: OnReady) -> None:
    """All in one process."""
    admin, watched = listeners.early_socket(config, "admin"), listeners.early_socket(config, "metrics")
    page, limits = metrics.Page(["server"]), _limits(config)
    async with _database(config, _address(admin)) as url:

        async def ready(space: Workspace, addresses: dict[str, str]) -> None:
            await on_ready(space, addresses)
            _say_ready(config, addresses)

        try:
            max_connections = listeners.connection_limit(config, listeners.raise_file_limit())
            await _work(config, url, max_connections, ready, page, "server", limits, admin=admin, watched=watched)
        finally:
            _unsay_ready(config)
    log.info("stopped")


def _supervise(config: Config, on_ready: OnReady) -> int:
    """A process for the database and several for the devices, which share every address."""
    files = listeners.raise_file_limit() * config.workers
    max_connections = max(listeners.connection_limit(config, files) // config.workers, 1)
    with ExitStack() as stack:
        sockets = listeners.bind(config, stack)
        early = {name: made for name in listeners.EARLY if (made := listeners.early_socket(config, name)) is not None}
        for each in early.values():
            stack.callback(each.close)
        admin = early.get("admin")
        page = metrics.Page([*early, *(f"worker {n + 1}" for n in range(config.workers))])
        contexts, limits = listeners.tls_contexts(config), _limits(config)
        beat = partial(systemd.notify, "WATCHDOG=1")
        stop_timeout = config.drain_timeout + _STOP_MARGIN
        supervisor = stack.enter_context(
            Supervisor(stop_timeout=stop_timeout, beat=beat, period=systemd.watchdog_period())
        )
        try:
            bound = [each for name in sockets for each in sockets[name]] + list(early.values())
            keep = partial(_keep, config, _address(admin))
            embedded = not config.database_url
            url = _told(supervisor.start("database", _child(keep, bound), vital=embedded, late=True))
            operators = {}
            for name, own_socket in early.items():
                main = partial(_monitor_alone, config, url, own_socket, page)
                if name == "admin":
                    devices = {each: made[0].getsockname()[:2] for each, made in sockets.items()}
                    main = partial(_administer_alone, config, url, own_socket, page, limits, devices)
                others = [each for each in bound if each is not own_socket]
                operators[name] = _told(supervisor.start(name, _child(main, others), late=name == "metrics"))
            for n in range(config.workers):
                own = {name: each[n] for name, each in sockets.items()}
                title = f"worker {n + 1}"
                work = partial(_work_alone, config, url, max_connections, own, contexts, page, title, limits)
                others = [each for each in bound if each not in own.values()]
                addresses = _told(supervisor.start(title, _child(work, others)))
        except NotReady as fault:
            log.error("%s", fault)  # noqa: TRY400 - it has said why itself
            return fault.code or 1
        if not supervisor.stopping:
            addresses |= operators
            uvloop.run(_announce(config, url, addresses, on_ready))
            stack.callback(_unsay_ready, config)
            _say_ready(config, addresses)
        code = supervisor.watch()
        systemd.notify("STOPPING=1")
        log.info("stopping: what is under way is answered first")
        for each in bound:
            each.close()
    log.info("stopped")
    return code


def _child(main: Callable[[Report], Coroutine[Any, Any, None]], foreign: Iterable[socket.socket]) -> Run:
    """What a child does; a fault that a person can mend is reported, for its supervisor to say.

    foreign: sockets that it has no use for; while anybody has one open, the kernel accepts connections for nobody.
    """

    def run(report: Report) -> None:
        for each in foreign:
            each.close()
        try:
            uvloop.run(main(report))
        except ProvserverError as fault:
            log.error("%s", fault)  # noqa: TRY400 - it says what is to be done
            report({"fault": type(fault).__name__, "message": str(fault)})

    return run


def _told(reported: Any) -> Any:
    """What a child reported. Raises the fault that it could not start for."""
    if isinstance(reported, dict) and "fault" in reported:
        raise next(kind for kind in ProvserverError.__subclasses__() if kind.__name__ == reported["fault"])(
            reported["message"]
        )
    return reported


async def _keep(config: Config, admin: tuple[str, int] | None, report: Report) -> None:
    stop = _stop_signal()
    async with _database(config, admin, os.getppid()) as url:
        report(url)
        await stop.wait()


async def _work_alone(
    config: Config,
    url: str,
    max_connections: int,
    sockets: Mapping[str, socket.socket],
    contexts: Mapping[str, ServerContext],
    page: metrics.Page,
    title: str,
    limits: Limits,
    report: Report,
) -> None:
    async def ready(_space: Workspace, addresses: dict[str, str]) -> None:
        report(addresses)

    await _work(config, url, max_connections, ready, page, title, limits, sockets, contexts)


async def _announce(config: Config, url: str, addresses: dict[str, str], on_ready: OnReady) -> None:
    opened = Database(url, size=1)
    await opened.open()
    try:
        await on_ready(await furnish(opened, config), addresses)
    finally:
        await opened.close()


@asynccontextmanager
async def _database(config: Config, admin: tuple[str, int] | None, pid: int | None = None) -> AsyncIterator[str]:
    """The URL of a database that runs and is up to date. pid: as the embedded one has it.

    admin: where operators are served, if they are: there the first user can be made.
    """
    async with AsyncExitStack() as stack:
        url = config.database_url
        if not url:
            embedded = EmbeddedPostgres(config.data_dir, pid=pid, connections=_connections(config))
            url = (await stack.enter_async_context(embedded)).dsn
        opened = Database(url, size=1)
        await opened.open()
        try:
            with rights():
                _say_upgraded(await schema.upgrade(opened))
                space = await furnish(opened, config)
                if admin is not None:
                    await set_up.offer(space, config, *admin)
        finally:
            await opened.close()
        yield url


def _connections(config: Config) -> int:
    """To Postgres, of all processes: besides their pools those that listen or hold a lock, and commands."""
    return config.workers * (config.database_connections + 8) + 32


async def _work(
    config: Config,
    url: str,
    max_connections: int,
    on_ready: OnReady,
    page: metrics.Page,
    title: str,
    limits: Limits,
    sockets: Mapping[str, socket.socket] | None = None,
    contexts: Mapping[str, ServerContext] | None = None,
    admin: socket.socket | None = None,
    watched: socket.socket | None = None,
) -> None:
    """Serve devices until SIGTERM or SIGINT. sockets: bound already; contexts: of TLS, made already.

    page, title: where this process writes what it counts. admin, watched: where to serve operators and those who
    watch, beside them.
    """
    stop, drained = _stop_signal(), asyncio.Event()
    async with AsyncExitStack() as stack:
        watching: list[asyncio.Task[None]] = []
        stack.push_async_callback(_ended, watching, drained)  # last of all: it tells of the stop
        beside: list[asyncio.Task[None]] = []
        stack.push_async_callback(_ended, beside, stop)  # last: devices do not wait for operators
        opened = Database(url, size=config.database_connections, serving=True)
        await opened.open()
        stack.push_async_callback(opened.close)
        stack.enter_context(rights())
        space = await furnish(opened, config)
        slot = page.join(title)
        slot.start()
        stack.callback(slot.stop)
        services = await _start(config, opened, space, limits, stack)
        contexts = contexts or listeners.tls_contexts(config)
        addresses = await listeners.listen(
            config, services, opened, max_connections, sockets or {}, contexts, limits, stack
        )
        metrics.LISTENERS.cell().value = len(addresses)
        slot.publish()
        if admin is not None:
            addresses["admin"] = join_address(*admin.getsockname()[:2])
            # Loading it takes longer than all the rest: who connects meanwhile waits in the kernel's queue.
            devices = {
                name: split_address(each, name) for name, each in addresses.items() if name not in listeners.EARLY
            }
            administering = _administer(config, url, admin, stop, limits, devices)
            beside.append(asyncio.create_task(_go_on_without("the admin API", administering, admin)))
        if watched is not None:
            addresses["metrics"] = join_address(*watched.getsockname()[:2])
            monitoring = _monitor(config, url, watched, page, drained)
            watching.append(asyncio.create_task(_go_on_without("the listener for metrics", monitoring, watched)))
        _spare_collector()
        await on_ready(space, addresses)
        if sockets is None:
            await _beating(stop)
            systemd.notify("STOPPING=1")
            log.info("stopping: what is under way is answered first")
        else:
            await stop.wait()
        metrics.LISTENERS.cell().value = 0
        slot.publish()


async def _beating(stop: asyncio.Event) -> None:
    """Wait for the end, and tell systemd meanwhile that the loop goes round."""
    period = systemd.watchdog_period()
    while not stop.is_set():
        systemd.notify("WATCHDOG=1")
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), period)


async def _go_on_without(what: str, serving: Coroutine[Any, Any, None], bound: socket.socket) -> None:
    """Serve beside devices, in their process, which goes on without it if it must."""
    try:
        await serving
    except Exception:
        log.exception("%s has ended", what)
        bound.close()


async def _ended(tasks: list[asyncio.Task[None]], stop: asyncio.Event) -> None:
    stop.set()
    await asyncio.gather(*tasks)


def _address(bound: socket.socket | None) -> tuple[str, int] | None:
    return None if bound is None else bound.getsockname()[:2]


async def _administer_alone(
    config: Config,
    url: str,
    admin: socket.socket,
    page: metrics.Page,
    limits: Limits,
    addresses: Mapping[str, tuple[str, int]],
    report: Report,
) -> None:
    stop = _stop_signal()
    slot = page.join("admin")
    slot.start()
    report(join_address(*admin.getsockname()[:2]))
    await _administer(config, url, admin, stop, limits, addresses)
    slot.stop()


async def _monitor_alone(config: Config, url: str, watched: socket.socket, page: metrics.Page, report: Report) -> None:
    stop = _stop_signal()
    page.join("metrics")
    report(join_address(*watched.getsockname()[:2]))
    await _monitor(config, url, watched, page, stop)


async def _monitor(config: Config, url: str, watched: socket.socket, page: metrics.Page, stop: asyncio.Event) -> None:
    """Serve metrics and probes, whatever is up and what is not."""
    await asyncio.to_thread(import_module, "provserver.admin.monitor")
    from provserver.admin.monitor import Monitor

    async with AsyncExitStack() as stack:
        database = Database(url, size=1)
        stack.push_async_callback(database.close)
        listeners = config.workers * sum(bool(getattr(config, name)) for name in LISTENERS)
        readiness = Readiness(database, page, listeners)
        stack.push_async_callback(readiness.stop)
        monitor = Monitor(page, readiness)
        stack.push_async_callback(monitor.stop)
        await monitor.start(watched)
        await stop.wait()


async def _administer(
    config: Config,
    url: str,
    admin: socket.socket,
    stop: asyncio.Event,
    limits: Limits,
    addresses: Mapping[str, tuple[str, int]],
) -> None:
    """Serve operators, on connections to the database of their own: what they ask holds up no device.

    addresses: where devices are served, by listener.
    """
    memory.settle()
    for name in ("build", "listener", "console.pages"):
        await asyncio.to_thread(import_module, f"provserver.admin.{name}")
    from provserver.admin.build import build
    from provserver.admin.console.console import Console
    from provserver.admin.console.pages import PAGES
    from provserver.admin.listener import AdminListener

    async with AsyncExitStack() as stack:
        opened = Database(url, size=_ADMIN_CONNECTIONS)
        await opened.open()
        stack.push_async_callback(opened.close)
        space = await furnish(opened, config)
        watch = KeyWatch(opened, space.keys, key_source(config), listens=True)
        await watch.start()
        stack.push_async_callback(watch.stop)
        await _deliver(config, opened, space, stack)
        await _run_jobs(config, space, stack)
        api = build(space, config, limits.people)
        authority = config.certificate_path.with_name("ca.pem").exists()
        console = Console(api, PAGES, addresses, authority=authority)
        listener = AdminListener(api, console, hosts=config.admin_hosts, proxies=config.admin_proxies)
        stack.push_async_callback(listener.stop, config.drain_timeout)
        await listener.start(*split_address(config.admin, "admin"), sock=admin)
        await stop.wait()


async def _deliver(config: Config, database: Database, space: Workspace, stack: AsyncExitStack) -> None:
    """Tell webhooks of events, when no other process does: beside operators, where it holds up no device."""
    outbox = Outbox(
        database,
        space.keys,
        WebhookClient(Outgoing(networks(config.outgoing_private))),
        tries=config.webhook_tries,
        give_up=config.webhook_give_up,
        retention=config.event_retention,
    )
    await outbox.start()
    stack.push_async_callback(outbox.stop, config.drain_timeout)


async def _run_jobs(config: Config, space: Workspace, stack: AsyncExitStack) -> None:
    """Run durable jobs, as other processes do: beside operators, where it holds up no device."""
    runner = JobRunner(space.database, job_kinds(space, config, stack))
    await runner.start()
    stack.push_async_callback(runner.stop, config.drain_timeout)


def _spare_collector() -> None:
    """Collect garbage seldom, and never look again at what was made until now: hardly anything is in cycles.

    A look at 2,000 new objects takes 0.7 ms; one at 20,000, ten times less often, held a group up for 13.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 20, 50)


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_, stop.set)
    return stop


def _limits(config: Config) -> Limits:
    """What all processes count together, so it is made before there are several."""
    return Limits(Rates(**{each.name: getattr(config, each.name) for each in fields(Rates)}))


async def _start(config: Config, opened: Database, space: Workspace, limits: Limits, stack: AsyncExitStack) -> Services:
    sink = None
    outgoing = Outgoing(networks(config.outgoing_private))
    stack.push_async_callback(outgoing.close)
    if config.sink_url:
        from provserver.adapters.sink import receiver  # here, as it brings a broker's client along

        sink = Sink(opened, receiver(config.sink_url, outgoing), limit=config.sink_limit)
        await sink.start()
        stack.push_async_callback(sink.stop, config.drain_timeout)
        metrics.SINK_WAITING.cell().follow(partial(getattr, sink, "waiting"))
    watch = KeyWatch(opened, space.keys, key_source(config))
    await watch.start()
    stack.push_async_callback(watch.stop)
    if not config.admin:
        await _deliver(config, opened, space, stack)
        await _run_jobs(config, space, stack)
    sessions = Sessions(opened, wait_limit=config.request_timeout, told={server_keys.CHANNEL: watch.heard})
    await sessions.start()
    stack.push_async_callback(sessions.stop)
    expiry = Expiry(opened)
    await expiry.start()
    stack.push_async_callback(expiry.stop, config.drain_timeout)
    with suppress(OSError):  # it may be of no other use; the upkeep says what it cannot write
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    upkeep = Upkeep(opened, AuditChain(opened, space.keys, file=head_file(config)), Retention(config.attempt_retention))
    await upkeep.start()
    stack.push_async_callback(upkeep.stop, config.drain_timeout)
    metrics.SESSIONS.cell().follow(sessions.__len__)
    provisioning = Provisioning(opened, space.keys, limits=limits, wait_limit=config.request_timeout)
    stack.push_async_callback(provisioning.drain)
    enrollment = Enrollment(opened, space.keys, wait_limit=config.request_timeout)
    stack.push_async_callback(enrollment.drain)
    access = Access(opened, space.keys, enrollment, limits=limits, wait_limit=config.request_timeout)
    stack.push_async_callback(access.drain)
    data = Data(
        opened,
        space.keys,
        sink,
        history_limit=config.history_limit,
        online_period=config.online_period,
        wait_limit=config.request_timeout,
        limits=limits.rotations,
    )
    stack.push_async_callback(data.drain)
    datastreams = Datastreams(opened, data)
    uplinks = Uplinks(opened, space.keys, datastreams)
    subscriptions = Subscriptions(opened, space.keys, uplinks, outgoing)
    await subscriptions.start()
    stack.push_async_callback(subscriptions.stop, config.drain_timeout)
    placeholders = Placeholders(opened, space.keys, access, datastreams)
    return Services(
        provisioning, access, sessions, data, datastreams, SequenceNumbers(opened), enrollment, uplinks, placeholders
    )


def _say_upgraded(applied: Sequence[schema.Migration]) -> None:
    if applied and applied[0].number == 1:
        log.info("database made, %d migrations", len(applied))
        return
    for migration in applied:
        log.info("migration applied: %04d_%s", migration.number, migration.name)


def _say_ready(config: Config, addresses: dict[str, str]) -> None:
    if config.ready_file:
        _write_ready_file(Path(config.ready_file), addresses)
    systemd.notify("READY=1\nSTATUS=serving devices")
    log.info("serving: %s", ", ".join(f"{name} {address}" for name, address in addresses.items()))


def _unsay_ready(config: Config) -> None:
    if config.ready_file:
        Path(config.ready_file).unlink(missing_ok=True)


def _write_ready_file(path: Path, addresses: dict[str, str]) -> None:
    """Whole or not at all, as somebody waits for it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(json.dumps(addresses) + "\n")
        unfinished.replace(path)
    except OSError as fault:
        raise Misconfigured(f"ready_file: {path} cannot be written: {fault.strerror}.") from None
