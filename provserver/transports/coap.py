"""CoAP: `POST /api/v1/provision` and its path variants (spec thingsboard §3), on aiocoap.

aiocoap answers retransmissions from its deduplication table and sends an empty ACK when the answer takes long.
Block-wise bodies are assembled by `blockwise.py`, with bounds that aiocoap does not have.
"""

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Hashable

from aiocoap import Context, Message
from aiocoap.numbers.codes import Code
from aiocoap.numbers.contentformat import ContentFormat
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.numbers.types import Type
from aiocoap.optiontypes import BlockOption
from aiocoap.resource import Resource

from provserver.core.model import Peer, Transport
from provserver.errors import RENDERINGS, RETRY_AFTER_SECONDS, Outcome
from provserver.services.provisioning import Answer, Provisioning
from provserver.transports.blockwise import Block, Progress, RequestBodies, ResponseBodies, cut

log = logging.getLogger("provserver.coap")

FEATURE = "provision"
_ERROR_QUEUES = ((socket.IPPROTO_IPV6, 25), (socket.IPPROTO_IP, 11))
"""IPV6_RECVERR and IP_RECVERR (linux/in6.h, linux/in.h), which aiocoap sets: a client that is gone before its answer
comes back as a socket error, on which uvloop stops to read the socket, for ever."""

BLOCK_EXPONENT = 6  # 1024 bytes, the largest over UDP

_PROXYING = frozenset({OptionNumber.PROXY_URI, OptionNumber.PROXY_SCHEME})
_CRITICAL = _PROXYING | {
    OptionNumber.URI_HOST,
    OptionNumber.URI_PORT,
    OptionNumber.URI_PATH,
    OptionNumber.URI_QUERY,
    OptionNumber.ACCEPT,  # one that cannot be met is answered in JSON
    OptionNumber.BLOCK1,
    OptionNumber.BLOCK2,
}
"""The critical options that are understood. Not If-Match nor If-None-Match: a condition that is not looked at must
not be taken as met (RFC 7252 §5.10.8)."""

_NO_4XX = 8
"""No-Response (RFC 7967 §2.1) to the class 4.xx."""


class CoapTransport:
    """Serves devices over CoAP on UDP."""

    def __init__(self, provisioning: Provisioning, *, max_payload_size: int = 65_536) -> None:
        self._resource = _ProvisionResource(provisioning, max_payload_size)
        self._context: Context | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address, with the port that was free if 0 was asked. Raises OSError."""
        _check_address(host, port)
        self._context = await Context.create_server_context(
            self._resource, bind=(host, port), loggername="provserver.coap.protocol", transports=["udp6"]
        )
        interface = self._context.request_interfaces[0].token_interface.message_interface
        interface.datagram_msg_received = _guarded(interface.datagram_msg_received)
        listening: socket.socket = interface.transport.get_extra_info("socket")
        for level, option in _ERROR_QUEUES:
            listening.setsockopt(level, option, 0)
        return host, listening.getsockname()[1]

    async def stop(self, grace: float) -> None:
        """Let requests under way be answered within `grace` seconds, then close."""
        await self._resource.drain(grace)
        context, self._context = self._context, None
        if context is not None:
            _silence(context)
            await context.shutdown()


class _ProvisionResource(Resource):  # type: ignore[misc] # aiocoap has no types
    """The root: every request arrives here with its whole path."""

    def __init__(self, provisioning: Provisioning, max_payload_size: int) -> None:
        super().__init__()
        self._provisioning = provisioning
        self._requests = RequestBodies(max_payload_size)
        self._responses: ResponseBodies[tuple[Code, int | None]] = ResponseBodies()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def needs_blockwise_assembly(self, _request: Message) -> bool:
        return False

    async def render(self, request: Message) -> Message:
        self._under_way += 1
        self._idle.clear()
        try:
            return await self._render(request)
        except Exception:
            log.exception("a request failed")
            return Message(code=Code.INTERNAL_SERVER_ERROR)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def drain(self, grace: float) -> None:
        try:
            await asyncio.wait_for(self._idle.wait(), grace)
        except TimeoutError:
            return  # what is left is cut off by the shutdown

    async def _render(self, request: Message) -> Message:
        refused = _unsupported(request)
        if refused is not None:
            return refused
        refusal = _route(request)
        if refusal is not None:
            return Message(code=refusal)
        now = time.monotonic()
        key = _exchange(request)
        block2: BlockOption.BlockwiseTuple | None = request.opt.block2
        if any(block is not None and block.size_exponent == 7 for block in (request.opt.block1, block2)):
            return Message(code=Code.BAD_REQUEST)  # reserved (RFC 7959 §2.2)
        if block2 is not None and block2.block_number > 0:
            kept = self._responses.fetch(key, now)
            if kept is None:
                return Message(code=Code.REQUEST_ENTITY_INCOMPLETE)
            body, (code, format_) = kept
            return _part(body, code, format_, block2.block_number, block2.size_exponent)
        payload: bytes | Progress = request.payload
        if request.opt.block1 is not None:
            block = Block(*request.opt.block1)
            payload = self._requests.feed(key, block, request.payload, now)
        if isinstance(payload, Progress):
            return _progress(payload, request)
        answer = await self._provisioning.answer(payload, Peer(Transport.COAP, _address(request)))
        response = self._response(answer, request, key)
        if request.opt.block1 is not None:
            response.opt.block1 = request.opt.block1
        return response

    def _response(self, answer: Answer, request: Message, key: Hashable) -> Message:
        code = Code(RENDERINGS[answer.outcome].coap)
        format_ = _content_format(answer, request)
        block2: BlockOption.BlockwiseTuple | None = request.opt.block2
        exponent = min(block2.size_exponent, BLOCK_EXPONENT) if block2 is not None else BLOCK_EXPONENT
        if len(answer.body) > 1 << exponent + 4:
            self._responses.keep(key, answer.body, (code, format_), time.monotonic())
            return _part(answer.body, code, format_, 0, exponent)
        response = Message(code=code, payload=answer.body)
        response.opt.content_format = format_
        if answer.outcome is Outcome.UNAVAILABLE:
            response.opt.max_age = RETRY_AFTER_SECONDS
        return response


def _unsupported(request: Message) -> Message | None:
    """The answer to a request with a critical option that is not known (RFC 7252 §5.4.1) or to be proxied (§5.10.2)."""
    numbers = {option.number for option in request.opt.option_list()}
    unknown = sorted(int(number) for number in numbers - _CRITICAL if number.is_critical())
    if unknown:
        response = Message(code=Code.BAD_OPTION, payload=f"Unknown option {unknown[0]}".encode())
        if request.mtype is Type.NON:  # is rejected (§5.4.1), which is to say nothing (§4.3)
            response.opt.no_response = _NO_4XX
        return response
    return Message(code=Code.PROXYING_NOT_SUPPORTED) if numbers & _PROXYING else None


def _route(request: Message) -> Code | None:
    """Where the path and method lead: None to provisioning, else the refusal."""
    path: tuple[str, ...] = request.opt.uri_path
    if len(path) == 1 and "/" in path[0]:  # the whole path in one option
        path = tuple(path[0].removeprefix("/").split("/"))
    if path[:2] != ("api", "v1"):
        return Code.NOT_FOUND
    if request.code in (Code.PUT, Code.DELETE, Code.PATCH, Code.iPATCH, Code.FETCH):
        return Code.METHOD_NOT_ALLOWED
    if request.code is not Code.POST:
        return Code.BAD_REQUEST
    features = path[2:]
    if len(features) > 1 and not features[1].isdigit():  # …/{token}/provision
        features = features[1:]
    if not features or features[0].lower() != FEATURE:
        return Code.BAD_REQUEST
    return None


def _exchange(request: Message) -> Hashable:
    return request.remote.blockwise_key, request.code, request.opt.uri_path, request.opt.uri_query


def _address(request: Message) -> str:
    host: str = request.remote.hostinfo
    if host.startswith("["):
        return host[1:].partition("]")[0].removeprefix("::ffff:")
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _content_format(answer: Answer, request: Message) -> ContentFormat | None:
    if not answer.body:
        return None
    if answer.protobuf:
        return ContentFormat.OCTETSTREAM
    asked = request.opt.accept if request.opt.accept is not None else request.opt.content_format
    return ContentFormat.TEXT if asked == ContentFormat.TEXT else ContentFormat.JSON


def _part(body: bytes, code: Code, format_: int | None, number: int, exponent: int) -> Message:
    part = cut(body, number, exponent)
    if part is None:
        return Message(code=Code.BAD_OPTION)
    payload, block = part
    response = Message(code=code, payload=payload)
    response.opt.content_format = format_
    response.opt.block2 = BlockOption.BlockwiseTuple(block.number, block.more, block.exponent)
    if block.number == 0:
        response.opt.size2 = len(body)
    return response


def _progress(progress: Progress, request: Message) -> Message:
    code = {
        Progress.CONTINUE: Code.CONTINUE,
        Progress.INCOMPLETE: Code.REQUEST_ENTITY_INCOMPLETE,
        Progress.TOO_LARGE: Code.REQUEST_ENTITY_TOO_LARGE,
    }[progress]
    response = Message(code=code)
    response.opt.block1 = request.opt.block1
    return response


def _guarded(receive: Callable[..., None]) -> Callable[..., None]:
    """Take a datagram; some that are malformed make aiocoap raise into the event loop, which logs them as ours."""

    def guarded(*args: object) -> None:
        try:
            receive(*args)
        except Exception as fault:
            log.debug("a datagram could not be read (%s)", type(fault).__name__)

    return guarded


def _silence(context: Context) -> None:
    """Hear nothing more, and forget whom to send an empty ACK: aiocoap leaves those timers to a closed socket."""
    manager = context.request_interfaces[0].token_interface
    asyncio.get_running_loop().remove_reader(manager.message_interface.transport.get_extra_info("socket"))
    for _, timer in manager._piggyback_opportunities.values():  # noqa: SLF001 - there is no other way to them
        timer.cancel()


def _check_address(host: str, port: int) -> None:
    """Refuse an address that is not ours, and a port in use. Raises OSError.

    aiocoap binds with SO_REUSEPORT, so a second server would take half of the datagrams.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, port))
        except OSError as fault:
            raise OSError(fault.errno or errno.EADDRINUSE, f"{host}:{port}/udp: {fault.strerror}") from None
