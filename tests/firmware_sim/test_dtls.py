"""Bytes in, bytes out, against OpenSSL's server side in this process."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from OpenSSL._util import ffi, lib

from firmware_sim.dtls import MTU, Channel, _pack
from firmware_sim.errors import NoAnswer, Unauthorized, Untrusted, WrongUsage
from firmware_sim.tls import ClientCertificate, PreSharedKey, Security, Trust
from tests.firmware_sim.conftest import Identity

KEY = PreSharedKey("sensor-1", b"a key that both know")


class Peer:
    """The server's side: DTLS without cookies."""

    def __init__(self, configure: Callable[[SSL.Context], Any]) -> None:
        context = SSL.Context(SSL.DTLS_SERVER_METHOD)
        context.set_options(SSL.OP_NO_QUERY_MTU)
        self.kept = configure(context)
        self.connection = SSL.Connection(context, None)
        self.connection.set_accept_state()
        self.connection.set_ciphertext_mtu(MTU)

    def receive(self, datagram: bytes) -> bytes:
        """What it has to say to that."""
        self.connection.bio_write(datagram)
        with contextlib.suppress(SSL.Error):
            self.connection.do_handshake()
        return self.flight()

    def flight(self) -> bytes:
        try:
            return self.connection.bio_read(65_535)
        except SSL.WantReadError:
            return b""


def with_certificate(identity: Identity) -> Callable[[SSL.Context], None]:
    def configure(context: SSL.Context) -> None:
        context.use_certificate_file(str(identity.certificate))
        context.use_privatekey_file(str(identity.key))
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)

    return configure


def with_key(key: PreSharedKey, ciphers: bytes = b"PSK:@SECLEVEL=0") -> Callable[[SSL.Context], object]:
    def configure(context: SSL.Context) -> object:
        def find(_ssl: Any, identity: Any, to: Any, _room: int) -> int:
            if ffi.string(identity) != key.identity.encode():
                return 0
            ffi.memmove(to, key.key, len(key.key))
            return len(key.key)

        kept = ffi.callback("unsigned int(SSL *, const char *, unsigned char *, unsigned int)", find)
        lib.SSL_CTX_set_psk_server_callback(context._context, kept)
        context.set_cipher_list(ciphers)
        return kept

    return configure


def shake_hands(channel: Channel, peer: Peer) -> None:
    """Exchange flights until both fall silent."""
    channel.start()
    while datagrams := channel.datagrams():
        for datagram in datagrams:
            assert len(datagram) <= MTU
            for answer in _pack(peer.receive(datagram)):
                channel.receive(answer)


@pytest.mark.parametrize("cipher", [b"PSK-AES128-CCM8", b"PSK-AES128-GCM-SHA256", b"ECDHE-PSK-CHACHA20-POLY1305"])
def test_a_pre_shared_key(cipher: bytes) -> None:
    channel, peer = Channel(Security(key=KEY), "localhost"), Peer(with_key(KEY, cipher + b":@SECLEVEL=0"))
    shake_hands(channel, peer)
    assert channel.established
    assert channel.timeout() is None
    channel.send(b"hello")
    for datagram in channel.datagrams():
        peer.connection.bio_write(datagram)
    assert peer.connection.recv(100) == b"hello"
    peer.connection.send(b"one")
    peer.connection.send(b"two")
    channel.receive(peer.flight())
    assert channel.received() == [b"one", b"two"]
    assert channel.received() == []


def test_a_server_that_does_not_know_the_identity_says_so() -> None:
    channel, peer = Channel(Security(key=KEY), "localhost"), Peer(with_key(PreSharedKey("sensor-2", KEY.key)))
    shake_hands(channel, peer)
    assert isinstance(channel.failure, Unauthorized)
    assert not channel.established


def test_a_server_that_has_another_key_falls_silent() -> None:
    channel, peer = Channel(Security(key=KEY), "localhost"), Peer(with_key(PreSharedKey(KEY.identity, b"another")))
    shake_hands(channel, peer)
    assert channel.failure is None
    channel.give_up("no answer")
    assert isinstance(channel.failure, Unauthorized)


def test_a_server_that_never_speaks_is_no_answer() -> None:
    channel = Channel(Security(key=KEY), "localhost")
    channel.start()
    assert channel.datagrams()
    assert channel.timeout()
    channel.give_up("no answer within 1 s")
    assert isinstance(channel.failure, NoAnswer)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_certificates(identity: Identity, certificate: ClientCertificate, name: str) -> None:
    channel, peer = Channel(Security(identity.trust, certificate), name), Peer(with_certificate(identity))
    shake_hands(channel, peer)
    assert channel.established
    leaf = peer.connection.get_peer_certificate(as_cryptography=True)
    issuers = peer.connection.get_peer_cert_chain(as_cryptography=True)  # on this side, without the leaf
    assert leaf
    assert issuers
    assert leaf.subject.rfc4514_string() == "CN=sensor-1"
    assert [issuer.subject for issuer in issuers] == [leaf.issuer]


def test_a_server_of_another_ca_is_not_trusted(identity: Identity, stranger: Identity) -> None:
    channel, peer = Channel(Security(identity.trust), "127.0.0.1"), Peer(with_certificate(stranger))
    shake_hands(channel, peer)
    assert isinstance(channel.failure, Untrusted)
    assert "--ca" in str(channel.failure)


@pytest.mark.parametrize("name", ["127.0.0.1", "example.org"])
def test_a_server_of_another_name_is_not_trusted(stranger: Identity, name: str) -> None:
    channel, peer = Channel(Security(stranger.trust), name), Peer(with_certificate(stranger))
    shake_hands(channel, peer)
    assert isinstance(channel.failure, Untrusted)
    assert "mismatch" in str(channel.failure)


def test_insecure_trusts_any(stranger: Identity) -> None:
    channel, peer = Channel(Security(Trust(insecure=True)), "127.0.0.1"), Peer(with_certificate(stranger))
    shake_hands(channel, peer)
    assert channel.established


def test_neither_key_nor_ca_is_wrong_usage() -> None:
    with pytest.raises(WrongUsage, match=r"--ca .*--insecure"):
        Channel(Security(), "localhost")


def test_a_goodbye_is_heard_and_said(identity: Identity) -> None:
    channel, peer = Channel(Security(identity.trust), "127.0.0.1"), Peer(with_certificate(identity))
    shake_hands(channel, peer)
    peer.connection.shutdown()
    channel.receive(peer.flight())
    assert isinstance(channel.failure, NoAnswer)
    other, peer = Channel(Security(identity.trust), "127.0.0.1"), Peer(with_certificate(identity))
    shake_hands(other, peer)
    other.close()
    for datagram in other.datagrams():
        peer.connection.bio_write(datagram)
    with pytest.raises(SSL.ZeroReturnError):
        peer.connection.recv(1)


@given(st.lists(st.binary(min_size=1, max_size=2000), max_size=20))
def test_garbage_breaks_nothing(datagrams: list[bytes]) -> None:
    channel, peer = Channel(Security(key=KEY), "localhost"), Peer(with_key(KEY))
    channel.start()
    for datagram in datagrams:
        channel.receive(datagram)
    shake_hands(channel, peer)
    assert channel.established
    for datagram in datagrams:
        channel.receive(datagram)
    peer.connection.send(b"hello")
    channel.receive(peer.flight())
    assert channel.received() == [b"hello"]


@given(st.lists(st.binary(max_size=3 * MTU), max_size=20))
def test_records_are_packed_whole(bodies: list[bytes]) -> None:
    records = [b"\x16\xfe\xfd" + bytes(8) + len(body).to_bytes(2, "big") + body for body in bodies]
    datagrams = _pack(b"".join(records))
    assert b"".join(datagrams) == b"".join(records)
    for datagram in datagrams:
        assert datagram in records or len(datagram) <= MTU
