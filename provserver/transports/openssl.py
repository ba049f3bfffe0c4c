"""What pyOpenSSL has no public name for, on the binding below it: everything private of it that we use is here.

The names below `_util` are not promised to stay; the lock file keeps the version that was tested.

What connections do all the time is here, too, without an exception for "nothing yet" and a buffer for each call: for a
handshake those cost as much as its records' ciphers.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from OpenSSL import SSL
from OpenSSL._util import ffi, lib

_SIZE: Final = 32_768
_BUFFER: Final = ffi.new("char[]", _SIZE)  # for what is copied out of it at once
_ENCODED: Final = lib.BIO_new(lib.BIO_s_mem())  # likewise


@ffi.callback("int (int, X509_STORE_CTX *)")  # type: ignore[untyped-decorator]
def _accept(_ok: int, _store: Any) -> int:
    return 1


def accept_any_certificate(context: SSL.Context) -> None:
    """Ask clients for a certificate and take any, or none: only that they have its key is proved.

    pyOpenSSL's own callback would make objects of every certificate and every fault, in each handshake.
    """
    lib.SSL_CTX_set_verify(context._context, SSL.VERIFY_PEER, _accept)  # noqa: SLF001


def use_shared_keys(context: SSL.Context, key: Callable[[str], bytes | None]) -> object:
    """Let handshakes use pre-shared keys. What is returned must live as long as the context.

    key: from an identity to its key; None: it cannot be an identity of a key (but a session ticket).
    """

    @ffi.callback("unsigned int (SSL *, const char *, unsigned char *, unsigned int)")  # type: ignore[untyped-decorator]
    def answer(_ssl: Any, identity: Any, buffer: Any, size: int) -> int:
        found = key(ffi.string(identity).decode(errors="replace")) if identity else None
        if found is None:
            return 0
        if not 0 < len(found) <= size:
            found = os.urandom(32)  # cannot be used, and so looks like a wrong one
        ffi.memmove(buffer, found, len(found))
        return len(found)

    lib.SSL_CTX_set_psk_server_callback(context._context, answer)  # noqa: SLF001
    return answer


def set_signature_algorithms(context: SSL.Context, algorithms: str) -> None:
    """Those that peers may sign with; the names are OpenSSL's."""
    if lib.SSL_CTX_set1_sigalgs_list(context._context, algorithms.encode()) != 1:  # noqa: SLF001
        raise ValueError(algorithms)


def is_resumed(connection: SSL.Connection) -> bool:
    """Whether the handshake used an earlier session, or a pre-shared key of TLS 1.3."""
    return bool(lib.SSL_session_reused(connection._ssl))  # noqa: SLF001


def is_tls_1_3(connection: SSL.Connection) -> bool:
    """Whether that is what was agreed upon."""
    return bool(lib.SSL_version(connection._ssl) == SSL.TLS1_3_VERSION)  # noqa: SLF001


def shake_hands(connection: SSL.Connection) -> bool:
    """Go on with a handshake; whether it is done, or more of it has to come. Raises SSL.Error."""
    ssl = connection._ssl  # noqa: SLF001
    result = lib.SSL_do_handshake(ssl)
    if result > 0:
        return True
    if lib.SSL_get_error(ssl, result) != lib.SSL_ERROR_WANT_READ:
        connection._raise_ssl_error(ssl, result)  # noqa: SLF001
    return False


def receive(connection: SSL.Connection, size: int) -> bytes:
    """Plaintext, so many bytes at most; b"" when more has to come. Raises SSL.Error."""
    ssl = connection._ssl  # noqa: SLF001
    result = lib.SSL_read(ssl, _BUFFER, min(size, _SIZE))
    if result > 0:
        return ffi.buffer(_BUFFER, result)[:]  # type: ignore[no-any-return]
    if lib.SSL_get_error(ssl, result) != lib.SSL_ERROR_WANT_READ:
        connection._raise_ssl_error(ssl, result)  # noqa: SLF001
    return b""


def send(connection: SSL.Connection, data: bytes | bytearray | memoryview) -> None:
    """Plaintext, in records. Raises SSL.Error."""
    ssl = connection._ssl  # noqa: SLF001
    start, size, sent = ffi.from_buffer(data), len(data), 0
    while sent < size:
        if (result := lib.SSL_write(ssl, start + sent, size - sent)) <= 0:
            connection._raise_ssl_error(ssl, result)  # noqa: SLF001
        sent += result


def put(connection: SSL.Connection, data: bytes | memoryview) -> None:
    """What the peer has sent."""
    lib.BIO_write(connection._into_ssl, ffi.from_buffer(data), len(data))  # noqa: SLF001


def take(connection: SSL.Connection) -> bytes:
    """What is to be sent to the peer, 32 KiB at most; b"" when nothing is."""
    return _read(connection._from_ssl)  # noqa: SLF001


def peer_certificates(connection: SSL.Connection) -> tuple[bytes, ...]:
    """What the client has shown, DER, leaf first; of a resumed session the leaf alone."""
    ssl = connection._ssl  # noqa: SLF001
    leaf = lib.SSL_get_peer_certificate(ssl)
    if leaf == ffi.NULL:
        return ()
    try:
        found = [_der(leaf)]
    finally:
        lib.X509_free(leaf)
    issuers = lib.SSL_get_peer_cert_chain(ssl)
    if issuers != ffi.NULL:
        found += [_der(lib.sk_X509_value(issuers, index)) for index in range(lib.sk_X509_num(issuers))]
    return tuple(found)


def _der(certificate: Any) -> bytes:
    lib.i2d_X509_bio(_ENCODED, certificate)
    return b"".join(iter(partial(_read, _ENCODED), b""))


def _read(bio: Any) -> bytes:
    size = lib.BIO_read(bio, _BUFFER, _SIZE)
    return ffi.buffer(_BUFFER, size)[:] if size > 0 else b""


def forget_errors() -> None:
    """Empty the thread's error queue, in which a call that wants more bytes would see somebody else's fault."""
    lib.ERR_clear_error()
