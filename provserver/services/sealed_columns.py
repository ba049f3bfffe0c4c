"""Every column that holds something sealed: what it is sealed for, and which digests are made of what it holds.

A rotation of the server's keys (`services/key_rotation.py`) makes all of them anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from provserver.core import statictoken
from provserver.core.model import CredentialsType
from provserver.core.secrets import ServerKeys
from provserver.services import credentials, idempotency, integrations, particle, profiles, request_keys
from provserver.store.server_keys import Sealed


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A sealed column of a table.

    context: of a row's key and the columns beside. digests: of the plaintext, one for each of the digest columns.
    """

    where: Sealed
    context: Callable[[Sequence[Any]], bytes]
    digests: Callable[[ServerKeys, bytes], Sequence[bytes]] = lambda _keys, _plaintext: ()

    def anew(
        self, keys: ServerKeys, row: Sequence[Any], nonce: bytes
    ) -> tuple[tuple[object, ...], bytes, tuple[bytes, ...]]:
        """A row, (key, beside, sealed), under the current version: key, sealed, digests. Raises Unsealable."""
        *values, sealed = row
        context = self.context(values)
        plaintext = keys.unseal(sealed, context)
        key = tuple(values[: len(self.where.key)])
        return key, keys.seal(plaintext, context, nonce), tuple(self.digests(keys, plaintext))


def _of_credentials(keys: ServerKeys, plaintext: bytes) -> Sequence[bytes]:
    return (keys.digest("credentials", credentials.id_in(plaintext)),)


def _id(value: object) -> bytes:
    return UUID(str(value)).bytes


COLUMNS = (
    # Static tokens and WiFi sessions go first: until none is under an old version, credentials may be made that are.
    SealedColumn(
        Sealed("static_token", "sealed", {"id": "uuid"}, digests=("id_digest",)),
        lambda row: credentials.credentials_context(_id(row[0]), CredentialsType.ACCESS_TOKEN),
        _of_credentials,
    ),
    SealedColumn(
        Sealed("static_token", "qr_sealed", {"id": "uuid"}, digests=("qr_digest",)),
        lambda row: statictoken.qr_context(UUID(str(row[0]))),
        lambda keys, plaintext: (statictoken.qr_digest(keys, plaintext.decode()),),
    ),
    SealedColumn(
        Sealed("wifi_session", "sealed", {"id": "uuid"}, digests=("id_digest",)),
        lambda row: credentials.credentials_context(_id(row[0]), CredentialsType.ACCESS_TOKEN),
        _of_credentials,
    ),
    SealedColumn(
        Sealed("credentials", "sealed", {"id_digest": "bytea"}, ("device_id", "type"), digests=("id_digest",)),
        lambda row: credentials.credentials_context(_id(row[1]), row[2]),
        _of_credentials,
    ),
    SealedColumn(
        Sealed("provision_key", "secret_sealed", {"key": "text"}, digests=("secret_digest",)),
        lambda row: profiles.secret_context(row[0]),
        lambda keys, plaintext: (keys.digest("provision-secret", plaintext),),
    ),
    SealedColumn(
        Sealed("idempotency_key", "answer", {"actor": "text", "key": "text"}),
        lambda row: idempotency.answer_context(row[0], row[1]),
    ),
    SealedColumn(Sealed("webhook", "sealed", {"id": "uuid"}), lambda row: b"webhook:" + _id(row[0])),
    SealedColumn(
        Sealed("integration", "key_sealed", {"id": "uuid"}), lambda row: integrations.key_context(UUID(str(row[0])))
    ),
    SealedColumn(
        Sealed("integration", "webhook_sealed", {"id": "uuid"}),
        lambda row: integrations.webhook_context(UUID(str(row[0]))),
    ),
    SealedColumn(
        Sealed("particle_product", "token_sealed", {"id": "uuid"}),
        lambda row: particle.token_context(UUID(str(row[0]))),
    ),
    SealedColumn(
        Sealed("issuing_ca", "key_sealed", {"profile_id": "uuid"}),
        lambda row: credentials.issuer_context(UUID(str(row[0]))),
    ),
    SealedColumn(
        Sealed("request_key", "sealed", {"id": "uuid"}), lambda row: request_keys.key_context(UUID(str(row[0])))
    ),
    SealedColumn(Sealed("audit_key", "sealed", {"version": "smallint"}), lambda row: b"audit-key:" + bytes((row[0],))),
)
"""All of them, in the order in which they are made anew."""
