"""LoRaWAN networks: how they are reached, whether they answer, and what an API key may do there."""

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from provserver.core import integration
from provserver.core.integration import Settings, Status
from provserver.core.onboarding import Network, Rejected, TryAgain
from provserver.errors import Invalid
from provserver.store.integrations import Integration

if TYPE_CHECKING:
    from provserver.adapters.outgoing import Outgoing

_AWAY = 502
"""The first status of HTTP that speaks for nobody being there behind a proxy."""

Connect = Callable[[str, Settings, str, "Outgoing"], Network]
"""Makes a network's API of the application's id, the settings and the API key."""


def outgoing(private: str) -> "Outgoing":
    """A client that may go to public addresses and to the option `outgoing_private`. Raises Misconfigured."""
    from provserver.adapters.outgoing import Outgoing, networks  # here, as they are slow to load

    return Outgoing(networks(private))


def connect(application_id: str, settings: Settings, api_key: str, outgoing_: "Outgoing") -> Network:
    """A network's API."""
    from provserver.adapters import networks  # here, as it is slow to load

    return networks.connect(application_id, settings, api_key, outgoing_)


class MissingRight(NamedTuple):
    """A right that the API key lacks. title: what the network's console calls it."""

    name: str
    title: str
    needed_for: Literal["onboarding", "uplinks"]


class Component(NamedTuple):
    """An address that was tried. name: of the setting. error: why it did not answer; None: it did."""

    name: str
    address: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Check:
    """What a test of the connection found. error, remedy: None where all is well.

    missing: a right that only MQTT needs is no error: uplinks may come by a webhook.
    """

    status: Status
    error: str | None
    remedy: str | None
    missing: Sequence[MissingRight]
    components: Sequence[Component]

    @property
    def verifies(self) -> bool:
        """Whether the application is the integration's: its key may make devices there."""
        return self.status is Status.CONNECTED and not any(each.needed_for == "onboarding" for each in self.missing)


class NetworkCheck:
    """Asks networks. outgoing: makes the client, once it is needed: most commands have no use for it."""

    def __init__(self, outgoing: Callable[[], "Outgoing"], connect: Connect = connect) -> None:
        self._make = outgoing
        self._outgoing: Outgoing | None = None
        self._connect = connect

    async def close(self) -> None:
        """Let go of the connections."""
        if self._outgoing is not None:
            await self._outgoing.close()

    async def check(self, found: Integration, api_key: str) -> Check:
        """Try the connection of an integration with a key that is its own or to be: nothing is written."""
        components = await self._components(found.settings)
        lacking: list[MissingRight] = []
        error = remedy = None
        try:
            network = self._connect(found.application_id, found.settings, api_key, self._client())
            lacking = [_lacking(name) for name in await network.missing_rights(uplinks=True)]
        except TryAgain as fault:
            error, remedy = fault.reason, "Look whether the address is right and the network up, then test again."
        except Rejected as fault:
            error, remedy = fault.reason, fault.remedy
        if error is None and found.onboarding and any(right.needed_for == "onboarding" for right in lacking):
            error = f"The API key lacks {len(lacking)} rights."
            ticks = ", ".join(f"“{right.title}”" for right in lacking)
            remedy = f"Edit the API key in the settings of this very application and tick {ticks}."
        if error is None and (silent := [each for each in components if each.error is not None]):
            error = "; ".join(f"{each.name} {each.address}: {each.error}" for each in silent) + "."
            remedy = "Set the addresses as the network's console shows them, and test again."
        return Check(Status.BROKEN if error else Status.CONNECTED, error, remedy, lacking, components)

    async def check_addresses(self, settings: Settings) -> None:
        """Whether keys may go to the addresses of an integration: not in clear to a public address. Raises Invalid."""
        from provserver.adapters.outgoing import Unreachable

        for name, address in integration.addresses(settings).items():
            at = integration.broker_endpoint if name == "mqttAddress" else integration.endpoint
            host, port, tls = at(address)
            is_literal = _is_literal(host)
            if tls and not is_literal:
                continue  # its addresses are looked at with every connection
            try:
                goes_to = await self._client().resolve(host, port)
            except Unreachable as fault:
                raise Invalid(f"{name}: {fault}.", [{"field": name, "reason": str(fault)}]) from None
            if not tls and ipaddress.ip_address(goes_to.partition("%")[0]).is_global:
                reason = f"{host} is at a public address, where the API key must not go in clear: leave the scheme out"
                raise Invalid(f"{name}: {reason}.", [{"field": name, "reason": reason}])

    async def _components(self, settings: Settings) -> list[Component]:
        """Whether each address that is called answers at all: without the API key, what it answers says nothing."""
        named = {name: each for name, each in integration.addresses(settings).items() if name != "mqttAddress"}
        hosts = sorted(set(named.values()))
        errors = dict(zip(hosts, await asyncio.gather(*map(self._silence, hosts)), strict=True))
        return [Component(name, address, errors[address]) for name, address in named.items()]

    async def _silence(self, address: str) -> str | None:
        from yarl import URL

        from provserver.adapters.outgoing import Unreachable

        try:
            response = await self._client().request("GET", URL(integration.url(address) + "/"))
        except Unreachable as fault:
            return str(fault)
        return f"it answers {response.status}" if response.status >= _AWAY else None

    def _client(self) -> "Outgoing":
        if self._outgoing is None:
            self._outgoing = self._make()
        return self._outgoing


def _lacking(name: str) -> MissingRight:
    """A right by its name in the network's API."""
    needed_for: Literal["onboarding", "uplinks"] = "uplinks" if name in integration.UPLINK_RIGHTS else "onboarding"
    return MissingRight(name, integration.RIGHTS.get(name, name), needed_for)


def _is_literal(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
