"""A DTLS client on OpenSSL, whose datagrams a test may hold back, change and reorder."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self, cast

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import SSL
from OpenSSL._util import ffi, lib

from provserver.transports.handshake import records
from tests.pki import Issued

Datagrams = list[bytes]


class DtlsClient(asyncio.DatagramProtocol):
    """One socket, and one association at a time on it.

    passing: what becomes of the datagrams that it would send. lose: how many of the next to come are lost.
    """

    def __init__(self, certificate: Issued | None, psk: tuple[str, bytes] | None, mtu: int) -> None:
        self.passing: Callable[[Datagrams], Datagrams] = lambda datagrams: datagrams
        self.lose = 0
        self.came: asyncio.Queue[bytes] = asyncio.Queue()
        self._mtu = mtu
        self._context = SSL.Context(SSL.DTLS_CLIENT_METHOD)
        self._context.set_options(SSL.OP_NO_QUERY_MTU)
        self._context.set_verify(SSL.VERIFY_NONE)
        if certificate is not None:
            assert isinstance(certificate.key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
            self._context.use_certificate(certificate.certificate)
            self._context.use_privatekey(certificate.key)
            for issuer in certificate.issuers:
                self._context.add_extra_chain_cert(issuer.certificate)
        if psk is not None:
            self._context.set_cipher_list(b"PSK-AES128-CCM8:PSK-AES128-GCM-SHA256:@SECLEVEL=0")
            self._callback = _psk_callback(*psk)
            lib.SSL_CTX_set_psk_client_callback(self._context._context, self._callback)
        self.begin()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        port: int,
        *,
        certificate: Issued | None = None,
        psk: tuple[str, bytes] | None = None,
        mtu: int = 1200,
        host: str = "127.0.0.1",
    ) -> AsyncIterator[Self]:
        """host: its own address."""
        loop = asyncio.get_running_loop()
        transport, client = await loop.create_datagram_endpoint(
            lambda: cls(certificate, psk, mtu), remote_addr=("127.0.0.1", port), local_addr=(host, 0)
        )
        try:
            yield client
        finally:
            transport.close()

    @classmethod
    @asynccontextmanager
    async def connected(cls, port: int, **how: Any) -> AsyncIterator[Self]:
        """A client whose handshake is done."""
        async with cls.open(port, **how) as client:
            await client.handshake()
            yield client

    def begin(self) -> None:
        """Forget the association without a word, for a new one."""
        self.connection = SSL.Connection(self._context)
        self.connection.set_connect_state()
        self.connection.set_ciphertext_mtu(self._mtu)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, _addr: object) -> None:
        if self.lose:
            self.lose -= 1
        else:
            self.came.put_nowait(data)

    async def handshake(self) -> None:
        """Raises SSL.Error when the server says no."""
        while True:
            if self.step():
                return
            await self.take()

    def step(self) -> bool:
        """Go on with the handshake as far as what came allows; returns whether it is done."""
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return False
        finally:
            self.flush()
        return True

    async def take(self) -> bytes:
        """Wait for a datagram, and take it; repeat ourselves when the handshake is not answered in time."""
        while True:
            limit = self.connection.DTLSv1_get_timeout()
            try:
                datagram = await asyncio.wait_for(self.came.get(), limit)
            except TimeoutError:
                self.connection.DTLSv1_handle_timeout()
                self.flush()
            else:
                self.connection.bio_write(datagram)
                return datagram

    def flush(self) -> None:
        try:
            written = self.connection.bio_read(65_536)
        except SSL.WantReadError:
            return
        for datagram in self.passing(list(records(written))):
            self.transport.sendto(datagram)

    def send(self, data: bytes) -> None:
        self.connection.send(data)
        self.flush()

    async def receive(self) -> bytes:
        """Raises SSL.ZeroReturnError when the server has ended the association."""
        while True:
            try:
                return self.connection.recv(65_536)
            except SSL.WantReadError:
                await self.take()

    async def ask(self, data: bytes) -> bytes:
        self.send(data)
        return await self.receive()

    def close(self) -> None:
        """Say goodbye."""
        self.connection.shutdown()
        self.flush()


def _psk_callback(identity: str, key: bytes) -> object:
    def answer(_ssl: Any, _hint: Any, identity_: Any, _size: int, key_: Any, _key_size: int) -> int:
        ffi.memmove(identity_, identity.encode() + b"\0", len(identity.encode()) + 1)
        ffi.memmove(key_, key, len(key))
        return len(key)

    signature = "unsigned int (SSL *, const char *, char *, unsigned int, unsigned char *, unsigned int)"
    callback: object = ffi.callback(signature, answer)
    return callback
