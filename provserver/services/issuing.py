"""The CAs that an organization's profiles issue their devices' certificates with: made or imported, and shown."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec

from provserver.core import ids, pki, signing, x509
from provserver.core.authority import facts
from provserver.core.authorization import OPERATOR
from provserver.core.credentials import has_control_characters
from provserver.core.model import CertificateAuthority, DeviceProfile, ProvisionStrategy
from provserver.core.secrets import ServerKeys
from provserver.core.signing import InvalidIssuer, Issuer
from provserver.errors import Conflict, Invalid, NotFound
from provserver.services.credentials import issuer_context
from provserver.services.profiles import missing
from provserver.store import audit, issuing, profiles
from provserver.store.database import Connection, Database
from provserver.store.issuing import IssuerRow

LIFETIME = pki.AUTHORITY_LIFETIME
"""Of a CA that is made here, unless it is said."""


@dataclass(frozen=True, slots=True)
class IssuingAuthority:
    """A profile's CA as it is shown. fingerprint: hex SHA-256 of its DER. certificates: PEM, its own first."""

    profile: str
    template_id: str
    subject: str
    fingerprint: str
    not_after: datetime
    certificates: str


class IssuingAuthorities:
    """Those of one organization. actor: who the audit says it was."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        organization_id: UUID,
        random: ids.Randomness = os.urandom,
        actor: str = OPERATOR,
    ) -> None:
        self._database = database
        self._keys = keys
        self._organization_id = organization_id
        self._random = random
        self._actor = actor

    async def create(
        self, profile: str, name: str | None = None, lifetime: timedelta | None = None, *, replace: bool = False
    ) -> IssuingAuthority:
        """Make a CA for a profile, which is its own root. Raises Refused.

        name: its common name. replace: the one that the profile has; certificates that it issued stay good.
        """
        if name is not None and (not 0 < len(name) <= signing.MAX_COMMON_NAME or has_control_characters(name)):
            raise Invalid(f"A CA's name must be 1-{signing.MAX_COMMON_NAME} printable characters.")
        now = datetime.now(UTC).replace(microsecond=0)
        key = ec.generate_private_key(ec.SECP256R1())
        serial = int.from_bytes(self._random(20)) >> 1
        title = name or f"{profile[:40]} devices {serial % 2**32:08x}"  # two CAs are to be told apart
        made = pki.make_authority(title, key, serial, now, lifetime or LIFETIME)
        return await self._put(profile, Issuer(made.certificate, key), "made", replace=replace)

    async def import_(
        self, profile: str, certificates: bytes, key: bytes, *, replace: bool = False
    ) -> IssuingAuthority:
        """Have a profile issue with a CA from files (`core/signing.py`). Raises Refused."""
        try:
            issuer = signing.import_issuer(certificates, key, datetime.now(UTC))
        except InvalidIssuer as fault:
            raise Invalid(f"{fault}.") from None
        return await self._put(profile, issuer, "imported", replace=replace)

    async def show(self, profile: str) -> IssuingAuthority:
        """The CA of a profile. Raises Refused."""
        async with self._database.connection() as connection:
            found = await self._find(connection, profile)
            row = (await issuing.find(connection, [found.id]))[found.id].authority
        if row is None:
            raise NotFound(
                f"The profile {found.name!r} has no CA to issue with. Make one: provserver profile ca create."
            )
        return _shown(found, row.certificates)

    async def _put(self, profile: str, issuer: Issuer, how: str, *, replace: bool) -> IssuingAuthority:
        async with self._database.transaction() as connection:
            found = await self._find(connection, profile, lock="NO KEY UPDATE")
            if found.strategy is ProvisionStrategy.X509_CERTIFICATE_CHAIN:
                raise Conflict("The devices of this profile have certificates of the CAs that it trusts (--ca).")
            held = (await issuing.find(connection, [found.id]))[found.id].authority
            if held is not None and not replace:
                raise Conflict(f"The profile {found.name!r} has a CA to issue with. To have another, add --replace.")
            context = issuer_context(found.id)
            sealed = self._keys.seal(signing.private_bytes(issuer), context, self._random(12))
            await issuing.put(connection, found.id, IssuerRow(issuer.chain, sealed))
            await profiles.touch(connection, found.id)
            shown = _shown(found, issuer.chain)
            await audit.record(
                connection,
                ids.uuid7(datetime.now(UTC).timestamp(), self._random),
                found.organization_id,
                self._actor,
                f"issuing_ca.{how}",
                found.id,
                name=found.name,
                fingerprint=shown.fingerprint,
                replaced=held is not None,
            )
        return shown

    async def _find(
        self, connection: Connection, reference: str, *, lock: profiles.RowLock | None = None
    ) -> DeviceProfile:
        profile = await profiles.find(connection, self._organization_id, reference, lock=lock, below=True)
        if profile is None:
            raise missing(reference)
        return profile


def _shown(profile: DeviceProfile, certificates: Sequence[bytes]) -> IssuingAuthority:
    told = facts(CertificateAuthority(certificates[0]))
    text = "".join(map(x509.pem, certificates))
    return IssuingAuthority(profile.name, profile.template_id, told.subject, told.fingerprint, told.not_after, text)
