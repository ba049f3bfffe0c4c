"""TLS 1.2, TLS 1.3 and DTLS 1.2, the server's side, without any I/O: bytes in, bytes out.

`ServerContext` is what connections share, `Channel` is one connection. OpenSSL does the protocol, through pyOpenSSL's
memory BIOs. A client may show any certificate: the handshake proves that it has the key, and who it is gets judged by
the services. Or it has a pre-shared key.
"""

import logging
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from OpenSSL import SSL

from provserver.errors import Misconfigured
from provserver.transports import certificates, openssl
from provserver.transports.handshake import (
    MAX_MESSAGE_SIZE,
    ClientHello,
    MessageType,
    StreamReader,
    TooLarge,
    fragments,
    read_client_hello,
    read_key_exchange,
    records,
)

logger = logging.getLogger("provserver.tls")

MTU: Final = 1200
"""Bytes of a datagram at most: what passes everywhere (RFC 9000 §14)."""

MAX_HANDSHAKE_SIZE: Final = 32_768
"""Bytes that a client may send before its handshake is done: certificates of a few kB, not of 64."""

MAX_UNREAD_SIZE: Final = 262_144
"""Bytes that may be fed and not read."""

CHUNK_SIZE: Final = 16_384
"""What `read` returns at most, and what to write at once: a record (RFC 8446 §5.1)."""

_HANDSHAKE_TOO_LARGE: Final = "the handshake is too large"
_MESSAGE_TOO_LARGE: Final = "a handshake message is too large"
_SIZE_FAILURES: Final = frozenset({_HANDSHAKE_TOO_LARGE, _MESSAGE_TOO_LARGE, "excessive message size"})  # OpenSSL's
_DTLS_1_2: Final = 0xFEFD
_MAX_WAITING_DATAGRAMS: Final = 32
_SESSION_LIFETIME: Final = 24 * 3600  # seconds
_CHECK_INTERVAL: Final = 5.0
_MAX_CHAINS_SIZE: Final = 8 * 2**20

# Who has a pre-shared key means it to be used, so those come first.
_SHARED_KEY_CIPHERS: Final = (
    "ECDHE-PSK-CHACHA20-POLY1305:PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384:PSK-CHACHA20-POLY1305:"
    "PSK-AES128-CCM:PSK-AES256-CCM"
)
_CERTIFICATE_CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:"
    "ECDHE-ECDSA-AES128-CCM:ECDHE-ECDSA-AES256-CCM"
)
_TLS_1_3_CIPHERS: Final = b"TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
# Mandatory for CoAP (RFC 7252 §9.1.3), and all that some small stacks have. OpenSSL counts their 64-bit tag as 64 bits
# of security, so they need level 0, and what that lets in beside is kept out by name.
_CONSTRAINED_CIPHERS: Final = "PSK-AES128-CCM8:PSK-AES256-CCM8:ECDHE-ECDSA-AES128-CCM8:ECDHE-ECDSA-AES256-CCM8"
_SIGNATURE_ALGORITHMS: Final = (
    "ecdsa_secp256r1_sha256:ecdsa_secp384r1_sha384:ecdsa_secp521r1_sha512:ed25519:ed448:"
    "rsa_pss_rsae_sha256:rsa_pss_rsae_sha384:rsa_pss_rsae_sha512:RSA+SHA256:RSA+SHA384:RSA+SHA512"
)


class ServerContext:
    """The certificate, the settings and the ticket keys of a listener, shared by its channels.

    datagram: for DTLS. Raises Misconfigured when the files cannot be used.
    """

    def __init__(self, certificate: Path, key: Path, *, datagram: bool = False) -> None:
        self.datagram = datagram
        self.chains = _Chains()
        self._files = (certificate, key)
        self._stamp = certificates.stamp(*self._files)
        self._pair = certificates.load(*self._files, datetime.now(UTC))
        self._shared_key: SharedKey | None = None
        self._next_check = self._renewal = 0.0
        self._renew()

    def reload_if_changed(self) -> bool:
        """Use the files as they are now, if they have changed, for the handshakes to come.

        Raises Misconfigured, once a change, when they cannot be used; what was in use stays so.
        """
        stamp = certificates.stamp(*self._files)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self._pair = certificates.load(*self._files, datetime.now(UTC))
        self._renew()
        return True

    def refresh(self, now: float) -> None:
        """Look after the files and the ticket keys; cheap enough for every handshake. now: a monotonic clock's."""
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_INTERVAL
        if not self._renewal:
            self._renewal = now + _SESSION_LIFETIME
        try:
            if self.reload_if_changed():
                logger.info("the TLS certificate was reloaded")
            elif now >= self._renewal:
                self._renew()
                self._renewal = now + _SESSION_LIFETIME
        except Misconfigured as fault:
            logger.error("the TLS certificate was not reloaded: %s", fault)  # noqa: TRY400 - says all

    def open(self) -> SSL.Connection:
        """OpenSSL's side of a new connection."""
        connection = SSL.Connection(self._context)
        connection.set_accept_state()
        if self.datagram:
            connection.set_ciphertext_mtu(MTU)
        return connection

    def handshake(self, connection: SSL.Connection, shared_key: "SharedKey | None") -> bool:
        """Let OpenSSL go on with a handshake; whether it is done. Raises SSL.Error."""
        self._shared_key = shared_key
        try:
            return openssl.shake_hands(connection)
        finally:
            self._shared_key = None

    def _renew(self) -> None:
        """A context takes its ticket keys with it: the binding has no way to set them."""
        context = SSL.Context(SSL.DTLS_SERVER_METHOD if self.datagram else SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(_DTLS_1_2 if self.datagram else SSL.TLS1_2_VERSION)
        context.set_max_proto_version(_DTLS_1_2 if self.datagram else SSL.TLS1_3_VERSION)
        context.set_options(
            SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_QUERY_MTU
        )
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        ciphers = f"{_SHARED_KEY_CIPHERS}:{_CERTIFICATE_CIPHERS}"
        if self.datagram:
            ciphers += f":{_CONSTRAINED_CIPHERS}:@SECLEVEL=0"
            openssl.set_signature_algorithms(context, _SIGNATURE_ALGORITHMS)
            context.set_cookie_verify_callback(lambda _, __: True)  # `CookieExchange` has judged it
        context.set_cipher_list(ciphers.encode())
        context.set_tls13_ciphersuites(_TLS_1_3_CIPHERS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # tickets, which cost us no memory
        context.set_session_id(b"provserver")
        context.set_timeout(_SESSION_LIFETIME)
        openssl.accept_any_certificate(context)
        context.set_verify_depth(0)  # whose verdict is not asked need not verify the issuers' signatures
        context.set_app_data(openssl.use_shared_keys(context, self._answer))  # lives as long as handshakes with it
        context.use_certificate(self._pair.certificates[0])
        for issuer in self._pair.certificates[1:]:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(self._pair.key)
        self._context = context

    def _answer(self, identity: str) -> bytes | None:
        """For OpenSSL, within `handshake`. An identity that is unknown gets a key that cannot be right."""
        shared_key = self._shared_key
        if shared_key is None or shared_key.identity != identity:
            return None
        return shared_key.key or b""


@dataclass(frozen=True, slots=True)
class SharedKey:
    """The answer to `Channel.wanted_identity`."""

    identity: str
    key: bytes | None = field(repr=False)


class Channel:
    """The server's side of one TLS connection or DTLS association.

    Feed it what comes from the network, then `read` until b"", then send `data_to_send`. No input makes it raise.

    established: the handshake is done. closed: nothing more will be read: the peer has said so, or it failed.
    failure: what went wrong, for a log. wanted_identity: the handshake waits for `resume_with` and this identity's
    key. psk_identity: the one whose key protects the channel. only_tickets: nothing is to be sent but tickets for
    later sessions, if anything, which may wait for what is written first.
    """

    __slots__ = (
        "_begun",
        "_certificates",
        "_connection",
        "_context",
        "_fed",
        "_held",
        "_inbox",
        "_looking",
        "_reader",
        "_shared_key",
        "_unread",
        "closed",
        "established",
        "failure",
        "only_tickets",
        "psk_identity",
        "wanted_identity",
    )

    _connection: SSL.Connection  # once it has begun, with a whole ClientHello: it is what takes memory

    def __init__(self, context: ServerContext) -> None:
        self.established = False
        self.closed = False
        self.failure = ""
        self.only_tickets = False
        self.psk_identity = ""
        self.wanted_identity: str | None = None
        self._context = context
        self._begun = False
        self._certificates: tuple[bytes, ...] | None = None
        self._shared_key: SharedKey | None = None
        self._looking = True  # for the identity of a pre-shared key
        self._reader = StreamReader()
        self._held = bytearray()
        self._inbox: deque[bytes] = deque()
        self._fed = self._unread = 0

    # To and from the peer

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes of the stream, or one datagram."""
        if self.closed:
            return
        openssl.forget_errors()
        if self._context.datagram:
            self._feed_datagram(bytes(data))
        elif self.established:
            self._unread += len(data)
            if self._unread > MAX_UNREAD_SIZE:
                self._fail("more was sent than is read")
            else:
                self._write_in(data)
        else:
            self._feed_stream(data)
        if not self.established:
            self._fed += len(data)
            if self._fed > MAX_HANDSHAKE_SIZE:
                self._fail(_HANDSHAKE_TOO_LARGE)

    def data_to_send(self) -> list[bytes]:
        """What is to be sent now: one piece of the stream, or datagrams."""
        if not self._begun:
            return []
        pieces = []
        while piece := openssl.take(self._connection):
            pieces.append(piece)
        if self._context.datagram:
            return _datagrams(b"".join(pieces))
        return [b"".join(pieces)] if pieces else []

    # To and from the application

    def read(self, size: int = CHUNK_SIZE) -> bytes:
        """The next plaintext: at most so many bytes of a stream, or one datagram's; b"" when there is none."""
        while self.established and not self.closed:
            try:
                if data := openssl.receive(self._connection, min(size, CHUNK_SIZE)):
                    return data
                self._unread = 0
                if not self._inbox:
                    break
                self._write_in(self._inbox.popleft())
            except SSL.ZeroReturnError:
                self.closed = True
            except SSL.Error as error:
                self._fail(_reason(error))
        return b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Plaintext to send: of a stream best CHUNK_SIZE at a time, as memory is kept for the largest; a datagram."""
        self.only_tickets = False
        if not self.established or self.failure or not data:
            return
        try:
            openssl.send(self._connection, data)
        except SSL.Error as error:
            self._fail(_reason(error))

    def close(self) -> None:
        """Say that nothing more will be written (close_notify)."""
        self.only_tickets = False
        if not self.established or self.failure:
            return
        try:
            self._connection.shutdown()
        except SSL.Error as error:
            self._fail(_reason(error))

    def resume_with(self, key: bytes | None) -> None:
        """Go on with the key of `wanted_identity`; None: there is none, which the peer cannot tell from a wrong one."""
        if self.wanted_identity is None or self.closed:
            return
        self._shared_key = SharedKey(self.wanted_identity, key)
        self.wanted_identity = None
        openssl.forget_errors()
        if self._context.datagram:
            while self._inbox and not self.established and self.wanted_identity is None:
                self._handshake_with(self._inbox.popleft())
        else:
            self._release()

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """What the peer showed, DER, leaf first. It has the leaf's key; nothing else is proved.

        Of a resumed session the issuers are known as long as this process remembers them.
        """
        if not self.established:
            return ()
        if self._certificates is None:
            self._certificates = self._context.chains.of(self._connection)
        return self._certificates

    @property
    def oversized(self) -> bool:
        """Whether the handshake failed by the size of what followed its ClientHello: certificates, that is."""
        return self._begun and not self.established and self.failure in _SIZE_FAILURES

    @property
    def resumed(self) -> bool:
        """Whether the handshake used an earlier session, or a pre-shared key of TLS 1.3."""
        return self.established and openssl.is_resumed(self._connection)

    # Time, for datagrams

    def timeout(self, now: float) -> float | None:
        """When `handle_timeout` is due, by the clock that `now` is of; None: it is not."""
        if not self._begun or self.closed or self.wanted_identity is not None:
            return None
        left = self._connection.DTLSv1_get_timeout()
        return None if left is None else now + left

    def handle_timeout(self) -> None:
        """Repeat what the peer has not answered."""
        if not self._begun or self.closed:
            return
        openssl.forget_errors()
        try:
            self._connection.DTLSv1_handle_timeout()
        except SSL.Error as error:
            self._fail(_reason(error))

    # The handshake

    def _feed_stream(self, data: bytes | memoryview) -> None:
        self._held += data
        if self.wanted_identity is not None:
            return
        try:
            if self._looking and self._look(data):
                return
        except TooLarge:
            self._fail(_MESSAGE_TOO_LARGE)
            return
        self._release()

    def _look(self, data: bytes | memoryview) -> bool:
        """Read along for an identity; returns whether OpenSSL has to wait."""
        wait = True
        for kind, body in self._reader.feed(data):
            if kind == MessageType.CLIENT_HELLO and not self._begun:
                hello = self._open(read_client_hello(body))
                if hello is not None and self._want(hello.identity):
                    return True
                wait = False
            elif kind == MessageType.CLIENT_HELLO:
                wait = False  # the answer to a HelloRetryRequest
            else:
                self._looking = False
                return kind == MessageType.CLIENT_KEY_EXCHANGE and self._want(read_key_exchange(body))
        if self._reader.over:
            self._looking = False
        return wait and self._looking

    def _want(self, identity: str | None) -> bool:
        known = self._shared_key.identity if self._shared_key is not None else None
        if identity is None or identity == known:
            return False
        self.wanted_identity = identity
        return True

    def _open(self, hello: ClientHello | None) -> ClientHello | None:
        self._connection = self._context.open()
        self._begun = True
        self._looking = hello is not None and (hello.psk_suites or hello.identity is not None)
        if self._looking:
            # A session would outlive the key it was agreed with: who has a key that was revoked could come back.
            self._connection.set_options(SSL.OP_NO_TICKET)
        return hello

    def _release(self) -> None:
        held, self._held = bytes(self._held), bytearray()
        if held:
            self._handshake(held)

    def _handshake(self, data: bytes) -> None:
        if not self._begun:
            self._open(None)
        self._write_in(data)
        try:
            self.established = self._context.handshake(self._connection, self._shared_key)
        except SSL.Error as error:
            self._fail(_reason(error))
        if not self.established:
            return
        self.only_tickets = not self._context.datagram and openssl.is_tls_1_3(self._connection)
        if self._shared_key is not None and ("PSK" in (self._connection.get_cipher_name() or "") or self.resumed):
            self.psk_identity = self._shared_key.identity
        self._shared_key = None

    def _feed_datagram(self, datagram: bytes) -> None:
        if self.established or self.wanted_identity is not None:
            if len(self._inbox) < _MAX_WAITING_DATAGRAMS:  # else it is lost, as datagrams are
                self._inbox.append(datagram)
        else:
            self._handshake_with(datagram)

    def _handshake_with(self, datagram: bytes) -> None:
        for fragment in fragments(datagram):
            if fragment.length > MAX_MESSAGE_SIZE:
                return  # OpenSSL would make room for it
            if self._looking and fragment.type == MessageType.CLIENT_KEY_EXCHANGE and not fragment.offset:
                if self._want(read_key_exchange(fragment.body)):
                    self._inbox.appendleft(datagram)
                    return
                break
        if self._begun:
            self._handshake(datagram)
        elif self._listen(datagram):
            self._handshake(b"")
        else:
            self._fail("not a ClientHello with a cookie")

    def _listen(self, datagram: bytes) -> bool:
        """Begin with the hello that has the cookie, which is the peer's second."""
        first = next(fragments(datagram), None)
        if first is None or first.type != MessageType.CLIENT_HELLO:
            return False
        self._open(read_client_hello(first.body, datagram=True))
        self._write_in(datagram)
        try:
            self._connection.DTLSv1_listen()
        except SSL.Error:
            return False
        return True

    def _write_in(self, data: bytes | memoryview) -> None:
        if data:
            openssl.put(self._connection, data)

    def _fail(self, failure: str) -> None:
        self.failure = self.failure or failure
        self.only_tickets = False
        self.closed = True
        self.wanted_identity = None
        self._held.clear()
        self._inbox.clear()


class _Chains:
    """The issuers that certificates came with, for resumed sessions: a ticket holds the leaf alone.

    Keyed by the leaf, so that only who has its key can say what they are.
    """

    def __init__(self) -> None:
        self._issuers: OrderedDict[bytes, tuple[bytes, ...]] = OrderedDict()
        self._size = 0

    def of(self, connection: SSL.Connection) -> tuple[bytes, ...]:
        """The peer's certificates, DER, leaf first."""
        certificates = openssl.peer_certificates(connection)
        if not certificates:
            return ()
        leaf, *issuers = certificates
        if openssl.is_resumed(connection):
            if leaf in self._issuers:
                self._issuers.move_to_end(leaf)
            return (leaf, *self._issuers.get(leaf, ()))
        self._remember(leaf, tuple(issuers))
        return certificates

    def _remember(self, leaf: bytes, issuers: tuple[bytes, ...]) -> None:
        if (known := self._issuers.pop(leaf, None)) is not None:
            self._size -= _size(leaf, known)
        if issuers:
            self._issuers[leaf] = issuers
            self._size += _size(leaf, issuers)
        while self._size > _MAX_CHAINS_SIZE:
            self._size -= _size(*self._issuers.popitem(last=False))


def _size(leaf: bytes, issuers: tuple[bytes, ...]) -> int:
    return len(leaf) + sum(map(len, issuers)) + 256


def _datagrams(data: bytes) -> list[bytes]:
    """As many records in each as fit."""
    datagrams: list[bytes] = []
    for record in records(data):
        if datagrams and len(datagrams[-1]) + len(record) <= MTU:
            datagrams[-1] += record
        else:
            datagrams.append(record)
    return datagrams


def _reason(error: SSL.Error) -> str:
    """What OpenSSL says, without its numbers."""
    for argument in error.args:
        if isinstance(argument, list):
            return ", ".join(fault[2] for fault in argument if fault[2]) or "unknown"
    return "the stream ended" if isinstance(error, SSL.SysCallError) else "unknown"
