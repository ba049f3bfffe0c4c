"""What answers the requests of CoAP, whichever way they came: provisioning, and what devices do afterwards."""

import logging
import time
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import aclosing

from msgspec import Struct
from msgspec.structs import replace

from provserver.core.model import Peer
from provserver.errors import RENDERINGS, Outcome
from provserver.services.limits import retry_after
from provserver.services.provisioning import Answer, Provisioning
from provserver.transports.blockwise import Progress, RequestBodies, ResponseBodies, cut
from provserver.transports.coap_echo import Echoes
from provserver.transports.coap_features import Features
from provserver.transports.coap_message import Code
from provserver.transports.coap_options import Format, Option, Reply, Request, Target

log = logging.getLogger("provserver.coap")

BLOCK_EXPONENT = 6  # 1024 bytes, the largest over UDP
_BLOCK = 1 << BLOCK_EXPONENT + 4

_PROGRESS = {
    Progress.CONTINUE: Code.CONTINUE,
    Progress.INCOMPLETE: Code.REQUEST_ENTITY_INCOMPLETE,
    Progress.TOO_LARGE: Code.REQUEST_ENTITY_TOO_LARGE,
}

_BLOCKS = frozenset({Option.BLOCK1, Option.BLOCK2})
_LIMITED = Outcome.LIMITED


def busy() -> Reply:
    """To whom there is no room for."""
    return Reply(Code.SERVICE_UNAVAILABLE, max_age=retry_after())


class Call(Struct, frozen=True):
    """A request that leads somewhere, and whose body is complete. remote: whoever may ask for more of the answer."""

    target: Target
    request: Request
    payload: bytes
    remote: Hashable

    def __repr__(self) -> str:  # payloads are secrets
        return f"<Call {self.target.feature}>"

    @property
    def observes(self) -> bool:
        """Whether further replies may follow."""
        return self.target.feature == "attributes" and self.request.code == Code.GET and self.request.observe == 0


class Resources:
    """Provisioning and, where there are features, those. max_payload_size: bytes of a request's body.

    echoes: by which who sends plain datagrams proves his address; None: nobody does.
    """

    def __init__(
        self,
        provisioning: Provisioning,
        features: Features | None,
        max_payload_size: int,
        *,
        echoes: Echoes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provisioning = provisioning
        self._features = features
        self._max_payload_size = max_payload_size
        self._echoes = echoes
        self._clock = clock
        self._requests = RequestBodies(max_payload_size)
        self._responses: ResponseBodies[tuple[int, int | None]] = ResponseBodies()

    def begin(self, request: Request, payload: bytes, remote: Hashable) -> Call | Reply:
        """What is to be done, or the reply where nothing is: to a refused request, to a block that is not the last,
        to one for a later block of an answer. remote: whoever may send blocks of the same body.
        """
        target = request.target
        if request.refusal is not None:
            return request.refusal
        if isinstance(target, Reply):
            return target
        if not request.plain and not _BLOCKS.isdisjoint(request.values):
            body = self._payload(request, payload, _exchange(request, remote))
            return body if isinstance(body, Reply) else Call(target, request, body, remote)
        if len(payload) > self._max_payload_size:
            return Reply(Code.REQUEST_ENTITY_TOO_LARGE)
        return Call(target, request, payload, remote)

    def proved(self, peer: Peer, request: Request) -> Peer:
        """Who asks, with its address proved if the request does that."""
        return peer if request.echo is None or self._echoes is None else self._echoes.proved(peer, request.echo)

    def provision(self, call: Call, peer: Peer, done: Callable[[Reply], None]) -> None:
        """Answer a call that provisions as `answer` does, but through `done`, at once or later, and without a task."""

        def answered(answer: Answer) -> None:
            reply = self._reply(call, answer)
            done(reply if answer.outcome is not _LIMITED else self._challenged(reply, call, peer))

        try:
            self._provisioning.request(call.payload, peer, answered)
        except Exception:
            log.exception("a request failed")
            done(Reply(Code.INTERNAL_SERVER_ERROR))

    async def answer(self, call: Call, peer: Peer, let_in: Callable[[], None] | None = None) -> Reply:
        """The one reply to a call. A fault of ours is logged, and told without its words.

        let_in: hears of it when the peer was provisioned, or is a device.
        """
        try:
            if call.target.feature == "provision":
                answer = await self._provisioning.answer(call.payload, peer)
                if let_in is not None and answer.outcome is Outcome.SUCCESS:
                    let_in()
                return self._challenged(self._reply(call, answer), call, peer)
            if self._features is None:
                return Reply(Code.BAD_REQUEST)
            reply = await self._features.answer(call.target, call.request, call.payload, peer, let_in)
            return self._challenged(self._fitting(reply, call), call, peer)
        except Exception:
            log.exception("a request failed")
            return Reply(Code.INTERNAL_SERVER_ERROR)

    async def observe(self, call: Call, peer: Peer, let_in: Callable[[], None] | None = None) -> AsyncGenerator[Reply]:
        """The replies to a call that observes. let_in: see `answer`."""
        if self._features is None:
            yield Reply(Code.BAD_REQUEST)
            return
        try:
            async with aclosing(self._features.observe(call.target, call.request, peer, let_in)) as replies:
                async for reply in replies:
                    yield self._challenged(self._fitting(reply, call), call, peer)
        except Exception:
            log.exception("a request failed")
            yield Reply(Code.INTERNAL_SERVER_ERROR)

    def _challenged(self, reply: Reply, call: Call, peer: Peer) -> Reply:
        """The reply; who is not heard, and might be if it proved its address, is told how (RFC 9175 §2.3)."""
        if reply.code != Code.TOO_MANY_REQUESTS or self._echoes is None:
            return reply
        echo = self._echoes.challenge(peer)
        if echo is None:
            return reply
        block1 = call.request.block1
        if block1 is not None and block1.number:  # its last block is what comes again
            self._requests.keep(_exchange(call.request, call.remote), call.payload[: block1.start], self._clock())
        if len(reply.body) > len(call.payload):  # lest much is sent to whoever is forged (RFC 9175 §2.4)
            reply = replace(reply, body=b"", format=None)
        # Firmware that does not know Echo takes a 4.01 for its token to be wrong; a provision request presents none.
        code = Code.UNAUTHORIZED if call.target.feature == "provision" else reply.code
        return replace(reply, code=code, echo=echo)

    def _reply(self, call: Call, answer: Answer) -> Reply:
        outcome, body, format_ = answer.outcome, answer.body, None
        if body:
            format_ = Format.OCTETSTREAM if answer.protobuf else call.request.json_format
        reply = Reply(RENDERINGS[outcome].coap, body, format_, answer.retry_after or None)
        return reply if call.request.plain and len(body) <= _BLOCK else self._fitting(reply, call)

    def _payload(self, request: Request, payload: bytes, key: Hashable) -> bytes | Reply:
        """The whole body, or what is answered while it is not complete or its answer is fetched block by block."""
        block1, block2 = request.block1, request.block2
        if any(block is not None and block.exponent == 7 for block in (block1, block2)):
            return Reply(Code.BAD_REQUEST)  # reserved (RFC 7959 §2.2)
        if block2 is not None and block2.number > 0:
            kept = self._responses.fetch(key, self._clock())
            if kept is None:
                return Reply(Code.REQUEST_ENTITY_INCOMPLETE)
            body, (code, format_) = kept
            return _part(Reply(code, body, format_), block2.number, block2.exponent)
        if block1 is None:
            return payload if len(payload) <= self._max_payload_size else Reply(Code.REQUEST_ENTITY_TOO_LARGE)
        whole = self._requests.feed(key, block1, payload, self._clock())
        return Reply(_PROGRESS[whole], block1=block1) if isinstance(whole, Progress) else whole

    def _fitting(self, reply: Reply, call: Call) -> Reply:
        """The reply as it fits into a datagram: its first block when it does not, and the others are kept."""
        exponent = BLOCK_EXPONENT
        if not call.request.plain and not _BLOCKS.isdisjoint(call.request.values):
            block2 = call.request.block2
            reply = replace(reply, block1=call.request.block1)
            exponent = min(block2.exponent, exponent) if block2 is not None else exponent
        if len(reply.body) <= 1 << exponent + 4:
            return reply
        key = _exchange(call.request, call.remote)
        self._responses.keep(key, reply.body, (reply.code, reply.format), self._clock())
        return _part(reply, 0, exponent)


def _exchange(request: Request, remote: Hashable) -> Hashable:
    """What the blocks of one body have in common."""
    return remote, request.code, request.path, request.query


def _part(reply: Reply, number: int, exponent: int) -> Reply:
    """A block of a reply."""
    part = cut(reply.body, number, exponent)
    if part is None:
        return Reply(Code.BAD_OPTION)
    body, block = part
    return replace(reply, body=body, block2=block, size2=len(reply.body) if number == 0 else None)
