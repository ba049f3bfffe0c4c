"""WiFi sessions of an estate, and devices that come by their tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from provserver.core.authentication import Denial
from provserver.core.authorization import Principal, Role
from provserver.core.limits import Buckets
from provserver.core.model import Authenticated
from provserver.core.wifisession import WifiSession
from provserver.services.access import Access
from provserver.services.claiming import ClaimLimits
from provserver.services.data import Data
from provserver.services.datastreams import Datastreams
from provserver.services.placeholders import Placeholders
from provserver.services.wifi_sessions import Requested, Wanted, WifiSessions
from provserver.store.database import Database
from tests.services.conftest import PEER
from tests.services.ownership import Estate


@dataclass
class Wifi:
    """What people ask for, and what their devices talk to. database: of the devices."""

    estate: Estate
    sessions: WifiSessions
    access: Access
    placeholders: Placeholders

    @classmethod
    def of(cls, estate: Estate, database: Database | None = None, **options: Any) -> "Wifi":
        """options: of the sessions, of which anybody may ask for as many as he likes."""
        opened, keys = database or estate.database, estate.keys
        access = Access(opened, keys)
        datastreams = Datastreams(opened, Data(opened, keys))
        plenty = Buckets(10**6, 10**6)
        sessions = WifiSessions(estate.database, keys, **{"limits": ClaimLimits(plenty, plenty)} | options)
        return cls(estate, sessions, access, Placeholders(opened, keys, access, datastreams))

    @property
    def anna(self) -> Principal:
        """A customer of the brand's, who owns what she puts onto WiFi."""
        return self.estate.who("anna")

    async def request(self, principal: Principal | None = None, **wanted: Any) -> Requested:
        return await self.sessions.request(principal or self.anna, Wanted(**wanted))

    async def login(self, token: str) -> Authenticated | Denial:
        return await self.access.with_token(token, PEER)

    async def let_in(self, token: str) -> Authenticated:
        found = await self.login(token)
        assert isinstance(found, Authenticated)
        return found

    async def report(self, token: str, template: str | None = None, **facts: str) -> Authenticated:
        given: Mapping[str, str] = facts
        return await self.placeholders.report(token, template or await self.template(), given, PEER)

    async def template(self, maker: str = "brand") -> str:
        """The template id of a maker's profile."""
        async with self.estate.database.connection() as connection:
            found: str = await connection.fetchval(
                "SELECT template_id FROM device_profile WHERE id = $1", self.estate.profiles[maker]
            )
        return found

    async def shown(self, id_: UUID) -> WifiSession:
        """A session, as the manufacturer sees it."""
        return await self.sessions.show(self.estate.who("root", Role.ADMIN), id_)

    async def execute(self, statement: str, *arguments: object) -> None:
        async with self.estate.database.connection() as connection:
            await connection.execute(statement, *arguments)

    async def expire(self, id_: UUID) -> None:
        """Let a session's time be over."""
        await self.execute("UPDATE wifi_session SET expires_at = now() - interval '1 s' WHERE id = $1", id_)


def words(session: WifiSession) -> list[str]:
    """What its log says."""
    return [each["event"] for each in session.log]
