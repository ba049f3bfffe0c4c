"""Where devices and operators are served: addresses, sockets, TLS, and how many connections are taken."""

import asyncio
import logging
import resource
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from provserver import metrics
from provserver.config import LISTENERS, Config, join_address, split_address
from provserver.core.decision import Reason
from provserver.core.model import Peer, Transport
from provserver.errors import Misconfigured
from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.datastreams import Datastreams
from provserver.services.enrollment import Enrollment
from provserver.services.est import Est
from provserver.services.limits import Limits, Strangers
from provserver.services.oscore import SequenceNumbers
from provserver.services.placeholders import Placeholders
from provserver.services.provisioning import Provisioning
from provserver.services.sessions import Sessions
from provserver.services.uplinks import Uplinks
from provserver.store.database import Database
from provserver.transports import coaps, tls_stream
from provserver.transports.admission import Admission
from provserver.transports.blynk import listener as blynk_listener
from provserver.transports.blynk.listener import BlynkListener
from provserver.transports.blynk.session import Limits as BlynkLimits
from provserver.transports.coap import CoapTransport
from provserver.transports.http import HttpTransport
from provserver.transports.http_server import ProtocolFactory, Wrap
from provserver.transports.mqtt.listener import MqttListener
from provserver.transports.mqtt.session import Limits as SessionLimits
from provserver.transports.oscore import OscoreSite
from provserver.transports.sockets import shared
from provserver.transports.tls import ServerContext
from provserver.transports.tls_stream import TlsAcceptor

log = logging.getLogger("provserver")

Listen = Callable[..., Awaitable[tuple[str, int]]]
"""Listens on a host and port, and returns them, with the port that was free if 0 was asked. Raises OSError.

sock: bound there already, or None.
"""

EARLY = ("admin", "metrics")
"""Listeners that are bound before there is anything to serve: who connects meanwhile waits in the kernel's queue."""

OTHER_FILES = 256
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
    enrollment: Enrollment
    uplinks: Uplinks
    placeholders: Placeholders


def bind(config: Config, stack: ExitStack) -> dict[str, list[socket.socket]]:
    """The sockets of devices' listeners, one of each for every worker, before there are workers. Raises Misconfigured.

    stack: closes them.
    """
    sockets: dict[str, list[socket.socket]] = {}
    for name in LISTENERS:
        if address := getattr(config, name):
            kind = socket.SOCK_DGRAM if name.startswith("coap") else socket.SOCK_STREAM
            with _listening(name, address):
                sockets[name] = shared(*split_address(address, name), kind, config.workers)
            for each in sockets[name]:
                stack.callback(each.close)
    return sockets


def early_socket(config: Config, name: str) -> socket.socket | None:
    """A socket of `EARLY`, which takes connections from now on; None: there is to be none. Raises Misconfigured."""
    address: str = getattr(config, name)
    if not address:
        return None
    with _listening(name, address):
        (made,) = shared(*split_address(address, name), socket.SOCK_STREAM, 1)
        made.listen(128)
    return made


def tls_contexts(config: Config) -> dict[str, ServerContext]:
    """The TLS context of each listener that has one. Raises Misconfigured."""
    return {
        name: ServerContext(config.certificate_path, config.tls_key_path, datagram=name == "coaps")
        for name in ("https", "mqtts", "coaps", "blynks")
        if getattr(config, name)
    }


def raise_file_limit() -> int:
    """A connection is a file; the usual soft limit of 1024 is far below what the machine can do. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def connection_limit(config: Config, files: int) -> int:
    """As configured, or as many as the machine allows: worth a word to who wanted more than the default."""
    possible = max(files - OTHER_FILES, 1)
    if possible < config.max_connections:
        level = logging.DEBUG if config.max_connections == Config().max_connections else logging.INFO
        log.log(level, "at most %d connections are taken: that is what the limit of open files leaves", possible)
    return min(config.max_connections, possible)


async def listen(
    config: Config,
    services: Services,
    opened: Database,
    max_connections: int,
    sockets: Mapping[str, socket.socket],
    contexts: Mapping[str, ServerContext],
    limits: Limits,
    stack: AsyncExitStack,
) -> dict[str, str]:
    """Serve devices; returns the listeners' addresses ("host:port") by name. Raises Misconfigured.

    sockets: bound already, of some listeners or none. contexts: of those over TLS. stack: stops them, all at once.
    """
    access, data, sessions, datastreams = services.access, services.data, services.sessions, services.datastreams
    admission = Admission(config.max_unauthenticated, config.max_unauthenticated_per_address)
    http = HttpTransport(
        services.provisioning,
        opened.ping,
        access=access,
        data=data,
        sessions=sessions,
        datastreams=datastreams,
        placeholders=services.placeholders,
        est=Est(opened, services.provisioning, access, data),
        uplinks=services.uplinks,
        max_payload_size=config.max_payload_size,
        max_connections=max_connections,
        connect_timeout=config.connect_timeout,
        request_timeout=config.request_timeout,
        front=config.http_front,
    )
    mqtt = MqttListener(
        services.provisioning,
        access=access,
        sessions=sessions,
        data=data,
        datastreams=datastreams,
        placeholders=services.placeholders,
        limits=SessionLimits(
            max_packet_size=config.max_payload_size,
            connect_timeout=config.connect_timeout,
            idle_limit=config.idle_timeout,
        ),
        max_connections=max_connections,
        admission=admission,
    )
    blynk = BlynkListener(
        blynk_listener.Services(access, sessions, data, datastreams, services.placeholders),
        limits=BlynkLimits(login_timeout=config.connect_timeout),
        redirect=split_address(config.blynk_redirect) if config.blynk_redirect else None,
        max_connections=max_connections,
        admission=admission,
    )
    coap = CoapTransport(
        services.provisioning,
        access=access,
        data=data,
        sessions=sessions,
        wrap=partial(OscoreSite, shared_keys=access.shared_keys, numbers=services.sequence_numbers, limits=limits),
        limits=limits,
        front=config.coap_front,
        max_payload_size=config.max_payload_size,
        request_timeout=config.request_timeout,
    )

    metrics.CONNECTIONS.cell(Transport.HTTP.value).follow(partial(getattr, http, "connections"))
    metrics.CONNECTIONS.cell(Transport.MQTT.value).follow(partial(getattr, mqtt, "connections"))
    metrics.CONNECTIONS.cell(Transport.BLYNK.value).follow(partial(getattr, blynk, "connections"))

    unproven = partial(services.enrollment.refuse, reason=Reason.PSK_UNPROVEN)

    def over_tls(name: str, transport: Transport) -> Wrap:
        def oversized(address: str, failure: str) -> None:
            services.enrollment.refuse(Peer(transport, address), Reason.CERTIFICATE_TOO_LARGE, failure)

        def wrap(make_protocol: ProtocolFactory) -> TlsAcceptor:
            return tls_stream.over_tls(
                contexts[name],
                make_protocol,
                asyncio.get_running_loop(),
                shared_key=access.shared_key,
                handshake_timeout=config.connect_timeout,
                oversized=oversized,
                admission=admission,
                strangers=Strangers(limits, transport, unproven),
            )

        return wrap

    async def over_dtls(host: str, port: int, **shared_socket: socket.socket) -> tuple[str, int]:
        listen = partial(coaps.listen, host=host, port=port, context=contexts["coaps"], shared_key=access.shared_key)
        listen = partial(listen, strangers=Strangers(limits, Transport.COAP, unproven), **shared_socket)
        address: tuple[str, int] = (await coap.add(listen)).address
        return address

    listeners: dict[str, tuple[HttpTransport | MqttListener | CoapTransport | BlynkListener, Listen]] = {
        "http": (http, http.start),
        "https": (http, partial(http.start, wrap=over_tls("https", Transport.HTTP))),
        "mqtt": (mqtt, mqtt.start),
        "mqtts": (mqtt, partial(mqtt.start, wrap=over_tls("mqtts", Transport.MQTT))),
        "coap": (coap, coap.start),
        "coaps": (coap, over_dtls),
        "blynk": (blynk, blynk.start),
        "blynks": (blynk, partial(blynk.start, wrap=over_tls("blynks", Transport.BLYNK))),
    }
    addresses = {}
    begun: set[HttpTransport | MqttListener | CoapTransport | BlynkListener] = set()
    stack.push_async_callback(_stop_all, begun, config.drain_timeout)
    for name, (transport, listen) in listeners.items():
        address: str = getattr(config, name)
        if not address:
            continue
        begun.add(transport)
        with _listening(name, address):
            shared_socket = {"sock": sockets[name]} if name in sockets else {}
            bound = await listen(*split_address(address, name), **shared_socket)
        addresses[name] = join_address(*bound)
    return addresses


async def _stop_all(
    transports: Collection[HttpTransport | MqttListener | CoapTransport | BlynkListener], grace: float
) -> None:
    """At once: else one would take requests for as long as another answers its last."""
    ends = await asyncio.gather(*(each.stop(grace) for each in transports), return_exceptions=True)
    for fault in filter(None, ends):
        raise fault


@contextmanager
def _listening(name: str, address: str) -> Iterator[None]:
    """Say what to do where an address cannot be had."""
    try:
        yield
    except OSError as fault:
        raise Misconfigured(
            f"{name}: cannot listen on {address}: {fault.strerror or fault}. "
            f"Choose another address with --{name} HOST:PORT (port 0: any free one)."
        ) from None
