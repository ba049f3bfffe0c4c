"""What pyOpenSSL has no public name for, on the binding below it: everything private of it that we use is here.

The names below `_util` are not promised to stay; the lock file keeps the version that was tested.
"""

import os
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from OpenSSL._util import ffi, lib


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


def forget_errors() -> None:
    """Empty the thread's error queue, in which a call that wants more bytes would see somebody else's fault."""
    lib.ERR_clear_error()
