"""What the runs of all cases share: profiles and devices that are made beforehand, and neighbours on each channel."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import UUID

from provserver.cli import options
from provserver.core.model import ProvisionStrategy, ReprovisionPolicy
from provserver.services.profiles import KeyPair, ProfileChange
from tests import chains
from tests.conformance.bench import Bench
from tests.conformance.channels.model import MQTT, Case, Channel, Profile
from tests.conformance.channels.programs.base import Answer
from tests.conformance.channels.programs.paho import Session
from tests.conformance.channels.stage import Stage
from tests.pki import Issued

SHARED_CHAINS = "channels: chains"
"""The profile that trusts the CAs of `tests/chains.py`: of one profile only, so all cases with them share it."""

_DEVICE_TABLES = ("credentials", "attribute", "telemetry", "telemetry_history", "presence", "claim")
_BYSTANDER = Case(id="any/bystander", says="", cites="", steps=())


class Premises:
    """Where all cases run."""

    def __init__(self, bench: Bench, directory: Path, tool: Callable[[str], str]) -> None:
        self._bench = bench
        self._directory = directory
        self._tool = tool
        self._profiles: list[UUID] = []
        self._shared: dict[Profile, tuple[str, UUID, KeyPair, str]] = {}
        self._bystanders: dict[Channel, Stage] = {}
        self._sessions: dict[Channel, Session] = {}

    @asynccontextmanager
    async def opened(self, cells: Sequence[tuple[Case, Channel]]) -> AsyncIterator[list[Stage]]:
        """Make what they share; their stages in the same order. All is taken away at the end, as ids exist once."""
        channels = sorted({channel for _, channel in cells})
        stages = [self._stage(case, channel) for case, channel in cells]
        self._bystanders = {channel: self._stage(_BYSTANDER, channel) for channel in channels}
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._clear)
            await self._make_shared([*stages, *self._bystanders.values()])
            for channel in channels:
                if channel in MQTT:
                    await self._connect(channel, stack)
            yield stages

    async def prepare(self, stage: Stage) -> None:
        """Make what a run has for itself: certificates, a profile that is not like others, and its device."""
        if stage.case.pki is not None:
            issued = {name: device.pem for name, device in stage.pki.devices.items() if isinstance(device, Issued)}
            stage.values.add(**{f"{name}.pem": pem for name, pem in issued.items()})
        if stage.profile or stage.case.profile is None:
            return
        profile_id, pair, template = await self._make(stage.values.tag, stage.case.profile, stage)
        self._move_in(stage, stage.values.tag, profile_id, pair, template)
        if stage.device is not None:
            summary = await self._bench.operator.devices.create(stage.row(1), stage.profile)
            token = None
            if stage.device.generated:
                details = await self._bench.operator.devices.show(str(summary.id), open_=True)
                token = str(details.opened[0].value)
            stage.made(summary.id, token)

    async def send_as_bystander(self, channel: Channel) -> Answer:
        """Have the neighbour on a channel send something; returns what it is told. On MQTT it stays connected."""
        if channel not in MQTT:
            return await self._bystanders[channel].client().send("telemetry", b'{"here":true}')
        session = self._sessions[channel]
        session.publish("v1/devices/me/telemetry", b'{"here":true}', qos=1, retain=False)
        return Answer((await session.receive()).packet)

    def _stage(self, case: Case, channel: Channel) -> Stage:
        return Stage(self._bench, case, channel, self._directory, self._tool)

    async def _connect(self, channel: Channel, stack: AsyncExitStack) -> None:
        stage = self._bystanders[channel]
        session = await Session.to(stage.place, stage.presented(None), channel)
        stack.push_async_callback(session.close)
        assert (await session.receive()).packet.startswith("CONNACK 0")
        self._sessions[channel] = session

    async def _make_shared(self, stages: Sequence[Stage]) -> None:
        """Profiles that differ in nothing are one, and their devices come by one import."""
        trusting = ProfileChange(
            SHARED_CHAINS, ProvisionStrategy.X509_CERTIFICATE_CHAIN, authorities=[each.der for each in chains.TRUSTED]
        )
        self._profiles.append((await self._bench.operator.profiles.create_keyless(trusting)).id)
        of: dict[Profile, list[Stage]] = {}
        for stage in stages:
            wanted = stage.case.profile
            if wanted is None:
                stage.profile = SHARED_CHAINS
            elif wanted.sharable:
                of.setdefault(wanted, []).append(stage)
        for number, (wanted, sharing) in enumerate(of.items()):
            name = f"channels: {number}"
            made = await self._make(name, wanted, None)
            for stage in sharing:
                self._move_in(stage, name, *made)
            having = {stage.values.tag: stage for stage in sharing if stage.device is not None}
            rows = [stage.row(line) for line, stage in enumerate(having.values(), 1)]
            report = await self._bench.operator.devices.import_(rows, name)
            assert not report.errors
            for id_, tag in await self._bench.rows("SELECT id, name FROM device WHERE profile_id = $1", made[0]):
                having[tag].made(id_)

    async def _make(self, name: str, wanted: Profile, stage: Stage | None) -> tuple[UUID, KeyPair, str]:
        """A profile. stage: whose PKI it trusts."""
        change = ProfileChange(
            name,
            ProvisionStrategy(wanted.strategy),
            ReprovisionPolicy(wanted.policy),
            accept_unproven_repeats=True,
            datastreams=[options.datastream(each) for each in wanted.datastreams],
            metadata_fields=[options.metadata_field(each) for each in wanted.metadata],
            authorities=[stage.pki.authorities[each].der for each in wanted.trusts] or None if stage else None,
            crls=[stage.pki.crls[each] for each in wanted.crls] or None if stage else None,
            name_from=wanted.name_from,
            name_pattern=wanted.name_pattern,
            allow_create=wanted.allow_create,
        )
        profile, pair = await self._bench.operator.profiles.create(change)
        self._profiles.append(profile.id)
        return profile.id, pair, profile.template_id

    @staticmethod
    def _move_in(stage: Stage, name: str, profile_id: UUID, pair: KeyPair, template: str) -> None:
        stage.profile, stage.profile_id = name, profile_id
        stage.values.add(key=pair.key, secret=pair.secret, template=template)

    async def _clear(self) -> None:
        """Remove the profiles with all that hangs on them, without waiting for the disk."""
        async with self._bench.operator.database.transaction() as connection:
            await connection.execute("SET LOCAL synchronous_commit = off")
            for table in _DEVICE_TABLES:
                await connection.execute(
                    f"DELETE FROM {table} t USING device d WHERE d.id = t.device_id AND d.profile_id = ANY($1)",
                    self._profiles,
                )
            await connection.execute("DELETE FROM device WHERE profile_id = ANY($1)", self._profiles)
            await connection.execute("DELETE FROM device_profile WHERE id = ANY($1)", self._profiles)
