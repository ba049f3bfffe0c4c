"""A maker of static tokens."""

import io
from typing import Any

from provserver.core.authorization import OPERATOR, Principal
from provserver.core.model import MetadataField, ProvisionStrategy
from provserver.core.tokenexport import OpenedToken
from provserver.services.organizations import Organizations
from provserver.services.profiles import ProfileChange, Profiles
from provserver.services.static_tokens import Selection, StaticTokens
from provserver.services.token_batch import ImportReport
from tests.conftest import Space

SERIAL = MetadataField("Serial Number", unique=True)
TEXT_MAC = MetadataField("MAC address")
MAC = MetadataField("MAC address", "mac")


class Shop:
    """A maker with a profile, and an organization below it."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.tokens = StaticTokens(space.database, space.keys)
        self.organizations = Organizations(space.database)
        self.maker = Principal(OPERATOR, space.organization_id)

    async def below(self, name: str = "branch", *, token_quota: int | None = None) -> Principal:
        """Whoever may do all in an organization below the maker."""
        made = await self.organizations.create(self.maker, name, token_quota=token_quota)
        return Principal(f"user:{name}", made.id)

    async def profile(self, *fields: MetadataField, name: str = "sensors", of: Principal | None = None) -> None:
        profiles = Profiles(self.space.database, self.space.keys, (of or self.maker).organization_id)
        await profiles.create(
            ProfileChange(name=name, strategy=ProvisionStrategy.DISABLED, metadata_fields=list(fields))
        )

    async def import_(self, text: str, *, by: Principal | None = None, **more: Any) -> ImportReport:
        return await self.tokens.import_(by or self.maker, "sensors", io.StringIO(text, newline=""), **more)

    async def stored(self, of: Principal | None = None) -> list[OpenedToken]:
        return [token async for token in self.tokens.stream(of or self.maker, Selection())]

    async def audited(self, action: str) -> list[tuple[object, ...]]:
        rows = await self.space.rows(
            "SELECT organization_id, actor, subject_id, detail FROM audit WHERE action = $1 ORDER BY at, id", action
        )
        return [tuple(row) for row in rows]


async def nothing_is_there(shop: Shop) -> bool:
    counts = [
        await shop.space.value(f"SELECT count(*) FROM {table}") for table in ("static_token", "static_token_value")
    ]
    return counts == [0, 0] and await shop.audited("static_token.made") == []
