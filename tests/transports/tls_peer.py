"""A TLS or DTLS client in memory, on pyOpenSSL, and what lies between it and a `Channel`."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from OpenSSL import SSL
from OpenSSL._util import ffi, lib

from provserver.transports.dtls_cookie import CookieExchange, Hello
from provserver.transports.handshake import records
from provserver.transports.tls import Channel, ServerContext
from tests.pki import SERVER_AUTH, Authority, Issued

TLS_1_2: Final = 0x0303
TLS_1_3: Final = 0x0304
DTLS_1_2: Final = 0xFEFD

SharedKey = tuple[str, bytes]
LookUp = Callable[[str], bytes | None]

ROOT: Final = Authority.root("tests")
ADDRESS: Final = b"127.0.0.1:1"


def server_files(folder: Path, issued: Issued | None = None) -> tuple[Path, Path]:
    """A server's certificate and key."""
    return (issued or ROOT.leaf("localhost", eku=[SERVER_AUTH])).write(folder, "server")


class Client:
    """One connection from the client's side; `version` says whether it is of datagrams."""

    def __init__(
        self,
        version: int = TLS_1_3,
        *,
        certificate: Issued | None = None,
        chain: tuple[Issued, ...] = (),
        psk: SharedKey | None = None,
        ciphers: str = "",
        groups: str = "",
        mtu: int = 1200,
        session: "Client | None" = None,
    ) -> None:
        """session: an earlier connection to resume, whose settings are used."""
        self.datagram = version >> 8 == 0xFE
        self.done = False
        self.received = b""
        self.error: SSL.Error | None = None
        self._context: SSL.Context = session._context if session is not None else self._make_context(version)
        self._kept: list[object] = [session, session and session._kept]
        if session is None:
            self._set_up(certificate, chain, psk, ciphers, groups)
        self.ssl = SSL.Connection(self._context)
        self.ssl.set_connect_state()
        if self.datagram:
            self.ssl.set_ciphertext_mtu(mtu)
        if session is not None and (known := session.ssl.get_session()) is not None:
            self.ssl.set_session(known)

    def _make_context(self, version: int) -> SSL.Context:
        context = SSL.Context(SSL.DTLS_CLIENT_METHOD if self.datagram else SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        context.set_options(SSL.OP_NO_QUERY_MTU)
        context.set_verify(SSL.VERIFY_NONE)
        return context

    def _set_up(
        self, certificate: Issued | None, chain: tuple[Issued, ...], psk: SharedKey | None, ciphers: str, groups: str
    ) -> None:
        context = self._context
        if ciphers:
            context.set_cipher_list(ciphers.encode())
        if groups:
            assert lib.SSL_CTX_set1_curves_list(context._context, groups.encode()) == 1
        if certificate is not None:
            context.use_certificate(certificate.certificate)
            context.use_privatekey(certificate.key)
            for issuer in chain:
                context.add_extra_chain_cert(issuer.certificate)
        if psk is not None:
            self._kept.append(_use_key(context, psk))

    def step(self) -> list[bytes]:
        """Go on as far as possible; returns what is to be sent: a piece of the stream, or datagrams."""
        with suppress(SSL.WantReadError):
            try:
                if not self.done:
                    self.ssl.do_handshake()
                    self.done = True
                while True:
                    self.received += self.ssl.recv(65_536)
            except SSL.ZeroReturnError:
                pass
            except SSL.WantReadError:
                raise
            except SSL.Error as error:
                self.error = error
        return self.output()

    def output(self) -> list[bytes]:
        data = b""
        with suppress(SSL.WantReadError):
            while True:
                data += self.ssl.bio_read(1 << 20)
        if not data:
            return []
        return list(records(data)) if self.datagram else [data]

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.ssl.bio_write(piece)


def _use_key(context: SSL.Context, psk: SharedKey) -> object:
    identity, key = psk[0].encode() + b"\0", psk[1]

    @ffi.callback("unsigned int (SSL *, const char *, char *, unsigned int, unsigned char *, unsigned int)")  # type: ignore[untyped-decorator]
    def answer(_ssl: Any, _hint: Any, where: Any, _size: int, key_where: Any, _key_size: int) -> int:
        ffi.memmove(where, identity, len(identity))
        ffi.memmove(key_where, key, len(key))
        return len(key)

    lib.SSL_CTX_set_psk_client_callback(context._context, answer)
    return answer


def no_keys(_identity: str) -> None:
    return None


class Link:
    """A client and a channel, and what went over the wire to the client.

    look_up: finds the keys of identities; None: leaves them waiting. piece: bytes of the stream to feed at a time.
    """

    def __init__(
        self, context: ServerContext, client: Client, look_up: LookUp | None = no_keys, piece: int = 1 << 20
    ) -> None:
        self.client = client
        self.channel = Channel(context)
        self.asked: list[str] = []
        self.to_client: list[bytes] = []
        self._look_up = look_up
        self._piece = piece
        self._cookies = None if not client.datagram else CookieExchange(b"a secret of tests")

    def run(self) -> "Link":
        """Until nobody has anything more to say."""
        while (sent := self.client.step()) or self._pending():
            self.deliver(*sent)
        return self

    def deliver(self, *sent: bytes) -> None:
        """To the channel, and its answers to the client."""
        for datagram in sent:
            if self._cookies is not None:
                judged = self._cookies.judge(datagram, ADDRESS, 0)
                if isinstance(judged, bytes):
                    self.client.feed(judged)
                    continue
                assert judged is Hello.VERIFIED
                self._cookies = None
            for start in range(0, len(datagram), self._piece):
                self.channel.feed(datagram[start : start + self._piece])
                self._answer()
        self.return_()

    def return_(self) -> None:
        answers = self.channel.data_to_send()
        self.to_client += answers
        self.client.feed(*answers)

    def say(self, data: bytes) -> bytes:
        """From the client to the channel; returns what it reads."""
        self.client.ssl.sendall(data)
        self.deliver(*self.client.output())
        return b"".join(self.read())

    def read(self) -> Iterator[bytes]:
        while data := self.channel.read():
            yield data

    def answer(self, data: bytes) -> bytes:
        """From the channel to the client; returns what it reads."""
        self.channel.write(data)
        self.return_()
        self.client.received = b""
        self.client.step()
        return self.client.received

    def _pending(self) -> bool:
        self._answer()
        before = len(self.to_client)
        self.return_()
        return len(self.to_client) > before

    def _answer(self) -> None:
        if self._look_up is not None and (identity := self.channel.wanted_identity) is not None:
            self.asked.append(identity)
            self.channel.resume_with(self._look_up(identity))


def connect(
    context: ServerContext, client: Client | None = None, look_up: LookUp | None = no_keys, piece: int = 1 << 20
) -> Link:
    """A link whose handshake has ended, one way or the other."""
    return Link(context, client or Client(), look_up, piece).run()
