"""A brand whose sensors are onboarded into an application of The Things Stack."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from provserver.adapters.outgoing import Outgoing, Response, networks
from provserver.core import tokenfile
from provserver.core.authorization import Principal
from provserver.core.integration import ClaimProof, NetworkKind, SettingsChange
from provserver.core.lorawan import LorawanVersion
from provserver.core.statictoken import StaticToken
from provserver.services.integrations import IntegrationChange, Integrations
from provserver.services.static_tokens import StaticTokens
from provserver.store.integrations import Integration
from tests.conftest import Space
from tests.services.ownership import Estate

PROFILE_ID = "000AF8BE"
API_KEY = "NNSXS.PL4NTED"
APPLICATION = "my-app"
SETTINGS = SettingsChange(
    lorawan_version=LorawanVersion.V1_0_3, frequency_plan="EU_863_870_TTN", address="stack.example"
)

SEED = """Device EUI,Join EUI,Application Key
0018B20000000101,70B3D57ED0000010,2B7E151628AED2A6ABF7158809CF4F3C
0018B20000000102,70B3D57ED0000011,3B7E151628AED2A6ABF7158809CF4F3D
0018B20000000103,70B3D57ED0000012,4B7E151628AED2A6ABF7158809CF4F3E
"""
CODES = (
    "LW:D0:70B3D57ED0000010:0018B20000000101:000AF8BE",
    "LW:D0:70B3D57ED0000011:0018B20000000102:000AF8BE",
    "LW:D0:70B3D57ED0000012:0018B20000000103:000AF8BE",
)


class Reached(Outgoing):
    """A client to which every address answers."""

    async def request(self, *_: object, **__: object) -> Response:
        return Response(404, {}, b"", complete=True)


class Willing:
    """A network that lets every API key do everything."""

    @classmethod
    def connect(cls, *_: object) -> Any:
        return cls()

    async def missing_rights(self, *, uplinks: bool = False) -> list[str]:  # noqa: ARG002
        return []


@dataclass
class Brand:
    """The brand of an estate, with its integration."""

    space: Space
    estate: Estate
    integrations: Integrations
    integration: Integration
    tokens: StaticTokens

    @classmethod
    async def make(cls, space: Space, estate: Estate, **change: Any) -> Self:
        """change: of the integration, beside what makes codes be read."""
        integrations = Integrations(space.database, space.keys, lambda: Reached(networks("127.0.0.1")), Willing.connect)
        wanted: dict[str, Any] = {"onboarding": True, "lorawan_profile_id": PROFILE_ID}
        made = await integrations.create(
            estate.key("brand"),
            "sensors",
            NetworkKind.THINGS_STACK,
            IntegrationChange(application_id=APPLICATION, api_key=API_KEY, settings=SETTINGS, **wanted | change),
        )
        return cls(space, estate, integrations, made, StaticTokens(space.database, space.keys))

    @property
    def principal(self) -> Principal:
        return self.estate.key("brand")

    async def import_(self, text: str = SEED) -> list[StaticToken]:
        """The static tokens that a file makes."""
        with tokenfile.text(io.BytesIO(text.encode())) as lines:
            report = await self.tokens.import_(self.principal, "sensors", lines)
        assert not report.errors, report.errors
        assert report.batch is not None
        return await self.tokens.list_(self.principal, batch=report.batch.id)

    async def code(self, token: StaticToken) -> str:
        """What a token's QR code says."""
        return (await self.tokens.show_qr(self.principal, token.id)).payload or ""

    async def update(self, **change: Any) -> None:
        """Change the integration."""
        self.integration = await self.integrations.update(
            self.principal, self.integration.id, IntegrationChange(**change)
        )

    async def demand(self, proof: ClaimProof) -> None:
        await self.update(claim_proof=proof)

    async def values(self, device_id: UUID) -> Mapping[str, object]:
        """A device's latest telemetry."""
        rows = await self.space.rows("SELECT key, value FROM telemetry WHERE device_id = $1 ORDER BY key", device_id)
        return {row["key"]: row["value"] for row in rows}
