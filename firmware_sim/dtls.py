"""DTLS 1.2, the client's side, sans-IO: OpenSSL between plaintext and datagrams (RFC 6347).

The server proves itself by a certificate, and the device may show its own; or both by a pre-shared key.
"""

import ipaddress
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from OpenSSL._util import ffi, lib  # pyOpenSSL offers no client's side of PSK, and no check of the server's name

from firmware_sim import tls
from firmware_sim.errors import NoAnswer, SimulatorError, Unauthorized, WrongUsage
from firmware_sim.tls import ClientCertificate, PreSharedKey, Security

MTU = 1200  # bytes of a datagram that pass any IPv6 path with room for tunnels
_RECORD_HEADER = 13  # type 1, version 2, epoch 2, sequence number 6, length 2 (RFC 6347 §4.1)
_LONGEST_DATAGRAM = 65_535
_DTLS_1_2 = 0xFEFD

# RFC 7252 §9.1.3.1 demands CCM_8, whose 8 bytes of tag OpenSSL allows at security level 0 alone.
_PSK_CIPHERS = b"ECDHE-PSK-CHACHA20-POLY1305:PSK-AES128-GCM-SHA256:PSK-AES128-CCM:PSK-AES128-CCM8:@SECLEVEL=0"


class Channel:
    """One association with one server.

    After `start`, `receive` and `expire`, send what `datagrams` gives; `failure` says why it is over, once it is.
    """

    def __init__(self, security: Security, server_name: str) -> None:
        """server_name: the host name or address that the server's certificate must be for. Raises WrongUsage."""
        context = SSL.Context(SSL.DTLS_CLIENT_METHOD)
        context.set_min_proto_version(_DTLS_1_2)
        context.set_options(SSL.OP_NO_QUERY_MTU)
        self._by_key = security.key is not None
        if security.key:
            self._use_key(context, security.key)
        else:
            self._use_certificates(context, security)
        self._connection = SSL.Connection(context, None)
        self._connection.set_connect_state()
        self._connection.set_ciphertext_mtu(MTU)
        if not self._by_key:
            self._expect(server_name)
        self._plaintext: list[bytes] = []
        self.established = False
        self.failure: SimulatorError | None = None

    def start(self) -> None:
        """Begin the handshake."""
        self._advance()

    def receive(self, datagram: bytes) -> None:
        """Take in what came from the server; garbage is passed over."""
        if self.failure is None:
            self._connection.bio_write(datagram)
            self._advance()

    def received(self) -> list[bytes]:
        """Plaintext datagrams that have come in since the last call."""
        received, self._plaintext = self._plaintext, []
        return received

    def send(self, plaintext: bytes) -> None:
        """Encrypt one datagram, once established; passed over when the association is over."""
        if self.failure is None:
            try:
                self._connection.send(plaintext)
            except SSL.Error as error:
                self.failure = self._why(error)

    def datagrams(self) -> list[bytes]:
        """What to send to the server now."""
        try:
            flight = self._connection.bio_read(_LONGEST_DATAGRAM)
        except SSL.WantReadError:
            return []
        return _pack(flight)

    def timeout(self) -> float | None:
        """Seconds until `expire` is due; None if nothing waits for an answer."""
        if self.failure or self.established:
            return None
        return self._connection.DTLSv1_get_timeout()

    def expire(self) -> None:
        """Repeat the last flight of the handshake."""
        try:
            self._connection.DTLSv1_handle_timeout()
        except SSL.Error:
            self.give_up("no answer to the DTLS handshake")

    def give_up(self, reason: str) -> None:
        """End a handshake that took too long.

        A server drops what it cannot decrypt (RFC 6347 §4.1.2.7), so silence after the last flight is all that a
        device with a wrong key hears.
        """
        if self._by_key and b"write finished" in self._connection.get_state_string():
            self.failure = Unauthorized("DTLS: the server fell silent once the key was used, as if it had another")
        else:
            self.failure = NoAnswer(reason)

    def close(self) -> None:
        """Say goodbye (close_notify)."""
        if self.failure is None:
            self.failure = NoAnswer("the DTLS connection is closed")
            if self.established:
                self._connection.shutdown()

    def _advance(self) -> None:
        try:
            if not self.established:
                self._connection.do_handshake()
                self.established = True
            while True:
                self._plaintext.append(self._connection.recv(_LONGEST_DATAGRAM))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.failure = NoAnswer("the server closed the DTLS connection")
        except SSL.Error as error:
            self.failure = self._why(error)

    def _why(self, error: SSL.Error) -> SimulatorError:
        reasons = [reason for *_, reason in (error.args[0] if error.args else ())]
        if "certificate verify failed" in reasons:
            result = lib.SSL_get_verify_result(self._connection._ssl)  # noqa: SLF001
            return tls.untrusted(ffi.string(lib.X509_verify_cert_error_string(result)).decode())
        return tls.alert(reasons[0] if reasons else "the connection broke")

    def _use_key(self, context: SSL.Context, key: PreSharedKey) -> None:
        identity = key.identity.encode()

        def show(_ssl: Any, _hint: Any, to: Any, room: int, key_to: Any, key_room: int) -> int:
            if len(identity) >= room or len(key.key) > key_room:
                return 0
            ffi.memmove(to, identity + b"\0", len(identity) + 1)
            ffi.memmove(key_to, key.key, len(key.key))
            return len(key.key)

        signature = "unsigned int(SSL *, const char *, char *, unsigned int, unsigned char *, unsigned int)"
        self._callback = ffi.callback(signature, show)  # OpenSSL keeps no reference
        lib.SSL_CTX_set_psk_client_callback(context._context, self._callback)  # noqa: SLF001
        context.set_cipher_list(_PSK_CIPHERS)

    def _use_certificates(self, context: SSL.Context, security: Security) -> None:
        if security.trust.insecure:
            context.set_verify(SSL.VERIFY_NONE)
        else:
            if security.trust.ca is None:
                raise WrongUsage("a server's certificate can be checked with --ca only, or ignored with --insecure")
            context.set_verify(SSL.VERIFY_PEER)
            try:
                context.load_verify_locations(str(security.trust.ca))
            except SSL.Error:
                raise WrongUsage(f"{security.trust.ca} is no PEM file with certificates") from None
        if security.certificate:
            _show(context, security.certificate)

    def _expect(self, server_name: str) -> None:
        parameters = lib.SSL_get0_param(self._connection._ssl)  # noqa: SLF001
        try:
            address = ipaddress.ip_address(server_name).packed
            lib.X509_VERIFY_PARAM_set1_ip(parameters, address, len(address))
        except ValueError:
            name = server_name.encode("idna")
            lib.X509_VERIFY_PARAM_set1_host(parameters, name, len(name))
            self._connection.set_tlsext_host_name(name)


def _show(context: SSL.Context, certificate: ClientCertificate) -> None:
    try:
        leaf, *others = x509.load_pem_x509_certificates(certificate.chain)
        key = load_pem_private_key(certificate.private_key, None)
        context.use_certificate(leaf)
        for other in others:
            context.add_extra_chain_cert(other)
        context.use_privatekey(key)  # type: ignore[arg-type]
        context.check_privatekey()
    except (ValueError, TypeError, SSL.Error):
        raise WrongUsage("the certificate and the private key cannot be used together") from None


def _pack(flight: bytes) -> list[bytes]:
    """Datagrams of whole records, as few as fit the MTU."""
    datagrams: list[bytes] = []
    begin = end = 0
    while end < len(flight):
        length = _RECORD_HEADER + int.from_bytes(flight[end + 11 : end + 13], "big")
        if end > begin and end + length - begin > MTU:
            datagrams.append(flight[begin:end])
            begin = end
        end += length
    if end > begin:
        datagrams.append(flight[begin:end])
    return datagrams
