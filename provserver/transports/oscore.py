"""OSCORE (RFC 8613) for CoAP requests, by aiocoap's implementation of it.

What a device and the server agree on without a word (a simulator derives the same):

- ID Context, sent as the `kid context` of every request, in one of two forms:
  the 16 bytes of the device id, for a device that keeps its sequence numbers in flash (RFC 8613 appendix B.1); or
  an identity (the device id as text, or a provision key; UTF-8) and then 16 random bytes, new at every boot, for
  those that start to count at 0. Provisioning needs the second form: devices that share a provision key would
  otherwise share the nonces of one AEAD key, and whoever listens could read what they send.
- Master Secret: HKDF-SHA256 of the access token (or provision secret), no salt, info "provserver oscore master
  secret", 16 bytes. Master Salt: empty.
- Sender ID of the device 01, of the server 02. AES-CCM-16-64-128, HKDF SHA-256, replay window 32: the defaults.

The first request to a server process is answered with 4.01 and an Echo option, under OSCORE (appendix B.1.2,
RFC 9175): the device sends it again with that option.
"""

import asyncio
import hashlib
import logging
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Any, Protocol
from uuid import UUID

from aiocoap import Message, error, oscore
from aiocoap.numbers.codes import Code
from aiocoap.pipe import Pipe
from aiocoap.resource import Resource
from aiocoap.transports.oscore import OSCOREAddress
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from provserver.core.model import Peer, PreSharedKey, Transport
from provserver.errors import Unavailable
from provserver.services.limits import Limits, Trial, retry_after, source_of
from provserver.transports.coap_echo import Echoes

log = logging.getLogger("provserver.oscore")

TOO_MANY_REQUESTS = 157  # RFC 8516; aiocoap has it without a name
CLIENT_ID = b"\x01"
SERVER_ID = b"\x02"
FRESH = 16
"""Random bytes after an identity, and the length of a device id: no ID Context is of both forms."""

_INFO = b"provserver oscore master secret"
_MAX_PARTIAL_IV = 5  # bytes (RFC 8613 §6.1)
_MAX_CONTEXTS = 16_384

_ATTEMPTS = 2
"""Keys that a request is tried with: as many as a device may have, while its token is being rotated."""

SharedKeys = Callable[[str, str], Awaitable[Sequence[PreSharedKey]]]
_Unprotected = tuple[Message, oscore.RequestIdentifiers]


class SequenceNumbers(Protocol):
    """See services/oscore.py."""

    async def provide(self, shard: int) -> None:
        """See to it that `take` finds numbers. Raises Unavailable."""

    def take(self, shard: int) -> int:
        """A number that was never given for this shard. Raises Unavailable."""


def master_secret(key: bytes) -> bytes:
    """The Master Secret that a token or provision secret stands for: 16 bytes."""
    return HKDF(SHA256(), 16, salt=None, info=_INFO).derive(key)


class OscoreRemote(OSCOREAddress):  # type: ignore[misc] # aiocoap has no types
    """Who sent a protected request: a security context, at an address."""

    @property
    def peer(self) -> Peer:
        """What its channel has proved, OSCORE's and the one below."""
        below = _peer(self.underlying_address)
        return Peer(below.transport, below.address, below.certificates, self.security_context.psk, below.proved)

    def prove(self) -> None:
        """A request of it was let in: the channel below hears of it."""
        prove: Callable[[], None] | None = getattr(self.underlying_address, "prove", None)
        if prove is not None:
            prove()


class OscoreSite(Resource):  # type: ignore[misc]
    """Opens protected requests for another site, and protects its answers; others pass as they are."""

    def __init__(
        self,
        site: Resource,
        shared_keys: SharedKeys,
        numbers: SequenceNumbers,
        *,
        limits: Limits | None = None,
        max_contexts: int = _MAX_CONTEXTS,
    ) -> None:
        """shared_keys: what an identity stands for, the newest first, and whose source (`source_of`) names it; may
        raise Unavailable.

        limits: who guesses too often.
        """
        super().__init__()
        self._site = site
        self._shared_keys = shared_keys
        self._numbers = numbers
        self._limits = limits or Limits()
        self._echoes = Echoes(self._limits)
        self._contexts: OrderedDict[bytes, _Context] = OrderedDict()
        self._max_contexts = max_contexts
        self._nobodys = [PreSharedKey("", secrets.token_bytes(32)) for _ in range(_ATTEMPTS)]

    async def render_to_pipe(self, pipe: Pipe) -> None:
        """Answer the request of a pipe."""
        if pipe.request.opt.oscore is None:
            await self._site.render_to_pipe(pipe)
            return
        try:
            context, request, request_id = await self._open(pipe.request)
            await self._answer(pipe, context, request, request_id)
        except _Refusal as refusal:
            pipe.add_response(refusal.message, is_last=True)
        except Unavailable:
            pipe.add_response(Message(code=Code.SERVICE_UNAVAILABLE, max_age=retry_after()), is_last=True)

    async def _open(self, request: Message) -> "_Opened":
        id_context = _id_context(request)
        context = self._contexts.get(id_context)
        trial = Trial(self._limits, self._sender(request), id_context)
        try:
            if context is not None:
                self._contexts.move_to_end(id_context)
                try:
                    return await self._open_in(context, request, trial)
                except _Refusal as refusal:
                    if not refusal.unproven or not context.may_be_outdated():
                        raise
            return await self._open_anew(id_context, request, context, trial)
        except _Refusal as refusal:
            if refusal.unproven:
                trial.lost()
            raise

    async def _open_anew(
        self, id_context: bytes, request: Message, tried: "_Context | None", trial: Trial
    ) -> "_Opened":
        """Open a request with the keys that its identity has now. tried: in vain."""
        self._listen(trial)
        keys = await self._shared_keys(_identity(id_context), source_of(trial.peer))
        failed: _Refusal | None = None
        # Of an identity that is not known as many keys are tried: no answer tells which there are.
        for psk in [*keys, *self._nobodys[len(keys) :]]:
            context = self._contexts.get(id_context)
            if context is None or context.psk.key != psk.key:
                context = _Context(id_context, psk, self._numbers)
            elif context is tried:
                continue
            try:
                return await self._open_in(context, request, trial)
            except _Refusal as refusal:
                if not refusal.unproven:
                    raise
                failed = refusal
        raise failed or _Refusal.plain(Code.BAD_REQUEST, b"Decryption failed", unproven=True)

    def _sender(self, request: Message) -> Peer:
        """Whom a request came from; an Echo outside of the protection may prove his address (RFC 9175 §2.3)."""
        return self._echoes.proved(_peer(request.remote), request.opt.echo)

    def _listen(self, trial: Trial) -> None:
        """Raises _Refusal when there is to be no verdict now."""
        if not trial.heard():
            if (echo := self._echoes.challenge(trial.peer)) is not None:  # outside, as nothing is agreed on yet
                raise _Refusal(Message(code=Code.UNAUTHORIZED, max_age=retry_after(), echo=echo))
            raise _Refusal(Message(code=Code(TOO_MANY_REQUESTS), max_age=retry_after()))

    async def _open_in(self, context: "_Context", request: Message, trial: Trial) -> "_Opened":
        await self._numbers.provide(context.shard)
        if not (trial.tried or context.is_used_from(request)):
            self._listen(trial)
        try:
            opened, request_id = context.unprotect(request)
        except oscore.ReplayErrorWithEcho as challenge:
            self._keep(context, request)
            trial.proved()
            raise _Refusal(challenge.to_message()) from None
        except oscore.ReplayError:
            raise _Refusal.plain(Code.UNAUTHORIZED, b"Replay detected") from None
        except oscore.DecodeError:
            raise _Refusal.plain(Code.BAD_OPTION, b"Failed to decode COSE") from None
        except oscore.ProtectionInvalid:
            trial.charge()
            raise _Refusal.plain(Code.BAD_REQUEST, b"Decryption failed", unproven=True) from None
        except (error.UnparsableMessage, ValueError, IndexError):  # what was protected is no message
            raise _Refusal.plain(Code.BAD_REQUEST, b"") from None
        self._keep(context, request)
        trial.proved()
        if not opened.code.is_request():
            raise _Refusal.plain(Code.BAD_REQUEST, b"")
        opened.remote = OscoreRemote(context, request.remote)
        return context, opened, request_id

    def _keep(self, context: "_Context", request: Message) -> None:
        """Only what has proved its key is kept, so nobody else can push contexts out."""
        context.used_from = request.remote.blockwise_key
        self._contexts[context.id_context] = context
        self._contexts.move_to_end(context.id_context)
        while len(self._contexts) > self._max_contexts:
            self._contexts.popitem(last=False)

    async def _answer(
        self, pipe: Pipe, context: "_Context", request: Message, request_id: oscore.RequestIdentifiers
    ) -> None:
        inner = _InnerPipe(request)
        rendering = asyncio.ensure_future(self._render(inner))
        try:
            is_last = False
            while not is_last:
                response, is_last = await inner.responses.get()
                no_response, response.opt.no_response = response.opt.no_response, None
                if not is_last:
                    response.opt.observe = 0  # the number is outside (RFC 8613 §4.1.3.5)
                await self._numbers.provide(context.shard)
                protected, _ = context.protect(response, request_id)
                protected.opt.no_response = no_response
                if not is_last:
                    protected.opt.observe = context.latest & 0xFFFFFF
                pipe.add_response(protected, is_last=is_last)
        finally:
            rendering.cancel()

    async def _render(self, inner: "_InnerPipe") -> None:
        try:
            await self._site.render_to_pipe(inner)
            if not inner.ended:
                raise RuntimeError("There was no last response.")
        except error.RenderableError as fault:
            inner.add_response(fault.to_message(), is_last=True)
        except Exception:
            log.exception("a request failed")
            inner.add_response(Message(code=Code.INTERNAL_SERVER_ERROR), is_last=True)


class _InnerPipe:
    """What the site answers into: the responses in order, each with whether it is the last."""

    def __init__(self, request: Message) -> None:
        self.request = request
        self.responses: asyncio.Queue[tuple[Message, bool]] = asyncio.Queue()
        self.ended = False

    def add_response(self, response: Message, is_last: bool = False) -> None:
        self.ended = is_last
        self.responses.put_nowait((response, is_last))


class _Context(oscore.CanProtect, oscore.CanUnprotect, oscore.SecurityContextUtils):  # type: ignore[misc]
    """A security context of a device.

    Its replay window lives in this process and holds for one remote address: another process may have answered what
    came from elsewhere. Where it does not hold, the request must carry an Echo that was made here, and for which no
    window was opened yet: then all that any process answered before has a lower number.
    """

    alg_aead = oscore.algorithms[oscore.DEFAULT_ALGORITHM]
    hashfun = oscore.hashfunctions[oscore.DEFAULT_HASHFUNCTION]
    sender_id = SERVER_ID
    recipient_id = CLIENT_ID

    def __init__(self, id_context: bytes, psk: PreSharedKey, numbers: SequenceNumbers) -> None:
        self.id_context = id_context
        self.psk = psk
        self.derive_keys(b"", master_secret(psk.key))
        self.shard = hashlib.sha256(self.sender_key).digest()[0]
        self.latest = 0
        self.recipient_replay_window = _unopened()
        self.echo_recovery = secrets.token_bytes(8)
        self._numbers = numbers
        self.used_from: object = None  # who has proved its key there is no stranger
        self._remote: object = None
        self._looked_up = -inf

    def __repr__(self) -> str:
        return "<OSCORE context>"

    def is_used_from(self, request: Message) -> bool:
        """Whether a request comes from where its key was proved last."""
        return bool(self.used_from == request.remote.blockwise_key)

    def may_be_outdated(self) -> bool:
        """Whether to look the key up again, as it may have changed: once a second at most."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_up < 1:
            return False
        self._looked_up = now
        return True

    def unprotect(self, request: Message, request_id: oscore.RequestIdentifiers = None) -> _Unprotected:
        """Open a request. Raises what aiocoap's raises."""
        window = self.recipient_replay_window
        remote: object = request.remote.blockwise_key
        if remote != self._remote:
            self.recipient_replay_window = _unopened()
        try:
            opened: _Unprotected = super().unprotect(request, request_id)
        except Exception:
            self.recipient_replay_window = window
            raise
        if self.recipient_replay_window is not window:
            self._remote = remote
            self.echo_recovery = secrets.token_bytes(8)  # opens a window once
        return opened

    def protect(
        self, message: Message, request_id: oscore.RequestIdentifiers = None, *, kid_context: bool | bytes = True
    ) -> _Unprotected:
        """Under a number of our own: the request's nonce may have served in another process (RFC 8613 §8.3)."""
        request_id.can_reuse_nonce = False
        protected: _Unprotected = super().protect(message, request_id, kid_context=kid_context)
        return protected

    def new_sequence_number(self) -> int:
        self.latest = self._numbers.take(self.shard)
        return self.latest

    def post_seqnoincrease(self) -> None:
        """Numbers are recorded before they are given out."""


_Opened = tuple[_Context, Message, oscore.RequestIdentifiers]


def _peer(remote: Any) -> Peer:
    """Who a datagram came from, by what is below OSCORE."""
    found: Peer | None = getattr(remote, "peer", None)
    if found is not None:
        return found
    host: str = remote.hostinfo
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    return Peer(Transport.COAP, host.removeprefix("::ffff:"))


class _Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """The answer to a request that is not let in. unproven: it did not prove that it knows the key."""

    def __init__(self, message: Message, *, unproven: bool = False) -> None:
        super().__init__()
        self.message = message
        self.unproven = unproven

    @classmethod
    def plain(cls, code: Code, diagnostic: bytes, *, unproven: bool = False) -> "_Refusal":
        """An answer without protection (RFC 8613 §8.2)."""
        return cls(Message(code=code, payload=diagnostic, max_age=0), unproven=unproven)


def _unopened() -> oscore.ReplayWindow:
    return oscore.ReplayWindow(oscore.DEFAULT_WINDOWSIZE, lambda: None)


def _id_context(request: Message) -> bytes:
    """The ID Context that a request names. Raises _Refusal."""
    if request.code not in (Code.POST, Code.FETCH):
        raise _Refusal.plain(Code.METHOD_NOT_ALLOWED, b"")
    if request.opt.proxy_uri is not None or request.opt.proxy_scheme is not None:  # those that are not encrypted
        raise _Refusal.plain(Code.PROXYING_NOT_SUPPORTED, b"")
    try:
        header = oscore.verify_start(request)
    except (oscore.ProtectionInvalid, IndexError):
        header = {oscore.COSE_PIV: b""}
    number = header.get(oscore.COSE_PIV, b"")
    if not 0 < len(number) <= _MAX_PARTIAL_IV or oscore.COSE_COUNTERSIGNATURE0 in header:
        raise _Refusal.plain(Code.BAD_OPTION, b"Failed to decode COSE")
    id_context: bytes = header.get(oscore.COSE_KID_CONTEXT, b"")
    if header.get(oscore.COSE_KID) != CLIENT_ID or len(id_context) < FRESH:
        raise _Refusal.plain(Code.UNAUTHORIZED, b"Security context not found")
    return id_context


def _identity(id_context: bytes) -> str:
    """Whom an ID Context names; one that cannot be is nobody's."""
    if len(id_context) == FRESH:
        return str(UUID(bytes=id_context))
    return id_context[:-FRESH].decode(errors="replace")
