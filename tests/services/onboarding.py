"""A profile whose devices are onboarded into a fake The Things Stack, for tests."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from provserver.adapters.outgoing import Outgoing, networks
from provserver.core.attributes import METADATA, Scope
from provserver.core.authorization import OPERATOR, Principal
from provserver.core.csvfile import DeviceRow
from provserver.core.integration import NetworkKind, SettingsChange
from provserver.core.lorawan import APPLICATION_KEY, DEVICE_EUI, JOIN_EUI, LorawanVersion, PhyVersion
from provserver.core.telemetry import Value
from provserver.services import network_jobs
from provserver.services.claiming import Claiming
from provserver.services.devices import DeviceChange
from provserver.services.handover import Handover
from provserver.services.integrations import IntegrationChange, Integrations
from provserver.services.job_runner import Job
from provserver.services.network_devices import NetworkDevices
from provserver.services.profiles import ProfileChange
from provserver.store import devices, network_devices
from provserver.store.integrations import Integration
from provserver.store.network_devices import NetworkDevice
from tests.conftest import Space
from tests.services.jobs import Yard
from tests.services.ownership import Estate, Token
from tests.support.things_stack import Component, ThingsStack

APPLICATION = "my-app"
JOIN = "70B3D57ED0000010"
PROFILE = "lora"


def eui(number: int) -> str:
    return f"0018B2{number:010X}"


def key(number: int) -> str:
    return f"{number:032X}"


def values(number: int, **other: str) -> dict[str, str]:
    """The metadata of a device."""
    return {DEVICE_EUI: eui(number), JOIN_EUI: JOIN, APPLICATION_KEY: key(number)} | other


def client(deadline: float = 10.0) -> Outgoing:
    return Outgoing(networks("127.0.0.0/8"), deadline=deadline)


@dataclass
class Site:
    """The profile, its network, and runners of its jobs."""

    space: Space
    stack: ThingsStack
    yard: Yard
    outgoing: Outgoing
    integration: Integration
    principal: Principal
    api_key: str

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        space: Space,
        stack: ThingsStack,
        *,
        deadline: float = 10.0,
        version: LorawanVersion = LorawanVersion.V1_0_3,
        phy: PhyVersion = PhyVersion.V1_0_3_REV_A,
        rights: Any = None,
    ) -> AsyncIterator[Self]:
        stack.application(APPLICATION)
        api_key = stack.api_key(APPLICATION)
        principal = Principal(OPERATOR, space.organization_id)
        await space.profiles.create(ProfileChange(name=PROFILE))
        outgoing = client(deadline)
        settings = SettingsChange(
            lorawan_version=version,
            regional_parameters=phy,
            frequency_plan="EU_863_870_TTN",
            identity_server=stack.addresses["identityServer"],
            network_server=stack.addresses["networkServer"],
            join_server=stack.addresses["joinServer"],
            application_server=stack.addresses["applicationServer"],
        )
        integrations = Integrations(space.database, space.keys, lambda: outgoing)
        integration = await integrations.create(
            principal,
            PROFILE,
            NetworkKind.THINGS_STACK,
            IntegrationChange(application_id=APPLICATION, api_key=api_key, settings=settings, onboarding=True),
        )
        if rights is not None:  # somebody gives it a lesser key afterwards
            api_key = stack.api_key(APPLICATION, rights)
            integration = await integrations.update(principal, integration.id, IntegrationChange(api_key=api_key))
        try:
            async with Yard.open(space) as yard:
                yield cls(space, stack, yard, outgoing, integration, principal, api_key)
        finally:
            await outgoing.close()

    @property
    def network(self) -> NetworkDevices:
        return NetworkDevices(self.space.database)

    async def run(self, **more: Any) -> None:
        """Run jobs from now on."""
        kinds = network_jobs.kinds(self.space.database, self.space.keys, self.outgoing)
        await self.yard.runner(kinds, **more)

    async def kill(self) -> None:
        """End whoever runs jobs, wherever he is."""
        while self.yard.runners:
            await self.yard.runners.pop().stop(0)

    async def device(self, number: int = 1, **other: str) -> UUID:
        """A device whose metadata are typed in, with whatever that starts."""
        made = await self.space.devices.create(DeviceRow(1, f"device {number}", None, gateway=False), PROFILE)
        await self.type(made.id, values(number, **other))
        return made.id

    async def known(self, number: int = 1, *, adopt: bool) -> UUID:
        """A device that is onboarded on an operator's word; adopt: and takes over what is there."""
        if not adopt:
            return await self.device(number)
        made = await self.bare(f"device {number}")
        written: dict[tuple[Scope, str], Value] = {
            (Scope.SERVER, METADATA + name): each for name, each in values(number).items()
        }
        async with self.space.database.transaction() as connection:  # which starts nothing
            await devices.change_attributes(connection, made, written, ())
        await self.network.start(self.principal, made, adopt=True)
        return made

    async def bare(self, name: str = "bare") -> UUID:
        """A device without metadata."""
        return (await self.space.devices.create(DeviceRow(1, name, None, gateway=False), PROFILE)).id

    async def token(self, number: int) -> Token:
        """A static token."""
        estate = Estate(
            self.space.database,
            self.space.keys,
            {PROFILE: self.space.organization_id},
            {},
            {PROFILE: self.integration.profile_id},
        )
        made = await estate.token(PROFILE, metadata=values(number))
        await self.space.rows(
            "INSERT INTO static_token_value (profile_id, field, value, token_id) VALUES ($1, $2, $3, $4)",
            self.integration.profile_id,
            DEVICE_EUI,
            eui(number),
            made.id,
        )
        return made

    @property
    def claiming(self) -> Claiming:
        return Claiming(self.space.database, self.space.keys)

    @property
    def handover(self) -> Handover:
        return Handover(self.space.database)

    async def type(self, device_id: UUID, given: dict[str, str]) -> None:
        texts = {f"meta.{name}": value for name, value in given.items()}
        await self.space.devices.update(device_id, DeviceChange(server=texts))

    async def value(self, device_id: UUID, field: str) -> object:
        """Of a metadata field."""
        shown = await self.space.devices.show(device_id)
        return next((each.value for each in shown.attributes if each.key == f"meta.{field}"), None)

    async def row(self, device_id: UUID) -> NetworkDevice:
        async with self.space.database.connection() as connection:
            found = await network_devices.get(connection, device_id)
        assert found is not None
        return found

    async def job(self, device_id: UUID) -> UUID:
        """The newest job of a device."""
        found: UUID = await self.space.value(
            "SELECT id FROM job WHERE subject_id = $1 ORDER BY id DESC LIMIT 1", device_id
        )
        return found

    async def ended(self, device_id: UUID, holds: Callable[[Job], bool] = lambda _: True) -> NetworkDevice:
        """How a device stands once all its jobs have ended."""
        for (job,) in await self.space.rows("SELECT id FROM job WHERE subject_id = $1 ORDER BY id", device_id):
            assert holds(await self.yard.ended(job))
        left = await self.space.value(
            "SELECT count(*) FROM job WHERE state IN ('waiting', 'running') AND subject_id = $1", device_id
        )
        return await self.ended(device_id) if left else await self.row(device_id)

    async def jobs_of(self, device_id: UUID) -> int:
        found: int = await self.space.value("SELECT count(*) FROM job WHERE subject_id = $1", device_id)
        return found

    async def all_ended(self) -> None:
        """Wait until no job is left to do."""
        while await self.space.value("SELECT count(*) FROM job WHERE state IN ('waiting', 'running')"):
            pass

    async def again(self, device_id: UUID) -> NetworkDevice:
        """Have its newest job, which failed, be tried again; how the device stands then."""
        await self.yard.jobs.retry(self.principal, await self.job(device_id))
        return await self.ended(device_id)

    def there(self, network_device_id: str) -> set[Component]:
        """The components that have a device of this id."""
        return {each for each in Component if (APPLICATION, network_device_id) in self.stack.devices[each]}

    def root_key(self, network_device_id: str) -> object:
        device = self.stack.devices[Component.JS][APPLICATION, network_device_id]
        return device["root_keys"]["app_key"]["key"]

    def give(self, number: int, device_id: str, application_id: str = APPLICATION) -> None:
        """A device that somebody has registered by hand."""
        ids = {"device_id": device_id, "dev_eui": eui(number), "join_eui": JOIN}
        self.stack.given("all", application_id, {"ids": ids, "name": "by hand", "supports_join": True})

    async def events(self) -> list[str]:
        rows = await self.space.rows("SELECT type FROM outbox WHERE type LIKE 'network.%' ORDER BY created_at, id")
        return [row["type"] for row in rows]
