"""The SQL of static tokens that are found by what a LoRaWAN device's code says (TR005)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from provserver.core.integration import ClaimProof
from provserver.core.lorawan import DEVICE_EUI, JOIN_EUI
from provserver.core.statictoken import LorawanForm
from provserver.store.database import Connection


class Coded(NamedTuple):
    """A static token that a code may be of. proof: what who has the code must prove besides."""

    id: UUID
    qr_digest: bytes
    qr_sealed: bytes
    metadata: Mapping[str, str]
    proof: ClaimProof


async def forms(connection: Connection, profile_ids: Sequence[UUID]) -> dict[UUID, LorawanForm]:
    """How codes of these profiles' tokens are written, of those whose devices are onboarded."""
    rows = await connection.fetch(
        "SELECT profile_id, lorawan_profile_id, claim_proof FROM integration"
        " WHERE profile_id = ANY($1::uuid[]) AND onboarding AND lorawan_profile_id IS NOT NULL",
        profile_ids,
    )
    return {id_: LorawanForm(code, proof == ClaimProof.OWNER_TOKEN) for id_, code, proof in rows}


async def coded(
    connection: Connection, organization_id: UUID, profile_id: str, join_eui: str, dev_eui: str
) -> list[Coded]:
    """Unclaimed tokens with these EUIs, of profiles whose devices are onboarded under this Profile ID.

    Those that an organization can claim: made by itself or by one above, the nearest maker's first.
    """
    rows = await connection.fetch(
        "SELECT t.id, t.qr_digest, t.qr_sealed, t.metadata, i.claim_proof"
        " FROM organization o CROSS JOIN LATERAL unnest(o.path) WITH ORDINALITY AS m(id, depth)"
        " JOIN integration i ON i.organization_id = m.id AND i.onboarding AND i.lorawan_profile_id = $2"
        " JOIN static_token_value v ON v.profile_id = i.profile_id AND v.field = $3 AND v.value = $4"
        " JOIN static_token t ON t.id = v.token_id AND t.status = 'UNCLAIMED' AND t.metadata ->> $5 = $6"
        " WHERE o.id = $1 ORDER BY m.depth DESC, t.id",
        organization_id,
        profile_id,
        DEVICE_EUI,
        dev_eui,
        JOIN_EUI,
        join_eui,
    )
    return [Coded(id_, digest, sealed, metadata, ClaimProof(proof)) for id_, digest, sealed, metadata, proof in rows]
