"""Integrations: which application of a LoRaWAN network a profile's devices are onboarded into."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType, structs

from provserver.admin.fields import PRINTABLE, Answer, Body, Page, PageQuery, Query, Reference, paged
from provserver.admin.route import Call, Reply, route
from provserver.core.authorization import Permission
from provserver.core.integration import (
    MAX_ADDRESS,
    MAX_API_KEY,
    WEBHOOK_HEADER,
    ClaimProof,
    NetworkKind,
    NetworkState,
    SettingsChange,
    Status,
    ThingsStackSettings,
)
from provserver.core.lorawan import LorawanVersion, PhyVersion
from provserver.services.integrations import Integration, IntegrationChange, NetworkDevice, warnings

ApplicationId = Annotated[str, Meta(min_length=1, max_length=64, pattern=PRINTABLE, examples=["my-app"])]
ApiKey = Annotated[str, Meta(min_length=1, max_length=MAX_API_KEY, pattern=PRINTABLE)]
ProfileId = Annotated[
    str, Meta(max_length=32, pattern=PRINTABLE, description="8 hexadecimal digits.", examples=["000AF8BE"])
]
Address = Annotated[
    str,
    Meta(
        max_length=MAX_ADDRESS + 10,
        pattern=PRINTABLE,
        description="host or host:port; http:// (MQTT: mqtt://) before it for one without TLS.",
    ),
]


class SettingsAnswer(Answer, frozen=True):
    """Settings, those of the network's kind. mqtt…: as they are used, also where they were not given."""

    lorawan_version: LorawanVersion
    regional_parameters: PhyVersion | UnsetType = UNSET
    frequency_plan: str | UnsetType = UNSET
    class_b: bool | UnsetType = UNSET
    class_c: bool | UnsetType = UNSET
    identity_server: str | UnsetType = UNSET
    network_server: str | UnsetType = UNSET
    join_server: str | UnsetType = UNSET
    application_server: str | UnsetType = UNSET
    mqtt_address: str | UnsetType = UNSET
    mqtt_user: str | UnsetType = UNSET
    address: str | UnsetType = UNSET
    device_profile_id: str | UnsetType = UNSET


class IntegrationAnswer(Answer, frozen=True):
    """An integration; its API key is shown to nobody. error: why it is broken. checkedAt: when that was found out.

    verified: its API key was seen to have all rights, so the application is its own, and onboarding may be switched on.
    warnings: what its operator should know about its settings.
    """

    id: UUID
    organization_id: UUID
    profile_id: UUID
    profile: str
    network: NetworkKind
    application_id: str
    settings: SettingsAnswer
    verified: bool
    onboarding: bool
    auto_import: bool
    lorawan_profile_id: str | None
    claim_proof: ClaimProof
    status: Status
    error: str | None
    checked_at: datetime | None
    created_by: str
    created_at: datetime
    updated_at: datetime
    revision: int
    warnings: Sequence[str]


class IntegrationDetailsAnswer(IntegrationAnswer, frozen=True, kw_only=True):
    """An integration. devices: how many are in which state. webhook: whether uplinks may come by it."""

    devices: Mapping[NetworkState, int]
    webhook: bool


class RightMember(Answer, frozen=True):
    """A right that the API key lacks. title: what to tick in the network's console. neededFor: uplinks: by MQTT."""

    name: str
    title: str
    needed_for: Literal["onboarding", "uplinks"]


class ComponentMember(Answer, frozen=True):
    """An address that was tried. error: why it did not answer; null: it did."""

    name: str
    address: str
    error: str | None


class CheckAnswer(Answer, frozen=True):
    """What a test found. error, remedy: what is wrong, and what to do; null where all is well."""

    status: Status
    error: str | None
    remedy: str | None
    missing_rights: Sequence[RightMember]
    components: Sequence[ComponentMember]


class UplinkWebhookAnswer(Answer, frozen=True):
    """How a network sends uplinks: a POST to the path on the HTTP port for devices, with the secret in the header.

    secret: shown this once.
    """

    path: str
    header: str
    secret: str


class NetworkDeviceAnswer(Answer, frozen=True):
    """A device in its network. deviceName: null while it is not here. made: the components that were created for it.

    error, remedy: why it failed, and what to do. rssi, snr: of the gateway that heard the last uplink best, in dBm and
    dB.
    """

    device_id: UUID
    device_name: str | None
    integration_id: UUID
    network_device_id: str
    device_eui: str
    join_eui: str | None
    state: NetworkState
    made: Sequence[str]
    error: str | None
    remedy: str | None
    job_id: UUID | None
    last_join_at: datetime | None
    last_uplink_at: datetime | None
    rssi: float | None
    snr: float | None
    created_at: datetime
    updated_at: datetime


class IntegrationQuery(PageQuery, frozen=True):
    """Which integrations. organization: only those of this one. profile: only that of this one."""

    organization: Reference | UnsetType = UNSET
    profile: Reference | UnsetType = UNSET


class NetworkDeviceQuery(PageQuery, frozen=True):
    """Which devices. state: all unless it is given."""

    state: NetworkState | UnsetType = UNSET


class ForgetQuery(Query, frozen=True):
    """forget: although it has devices in the network, which stay there as they are."""

    forget: bool = False


class SettingsMember(Body, frozen=True):
    """Settings; what is left out stays, or is as usual.

    address: of ChirpStack's REST API; of The Things Stack: of all components that are not given. regionalParameters:
    may be left out where lorawanVersion leaves no choice. deviceProfileId: of ChirpStack.
    """

    lorawan_version: LorawanVersion | UnsetType = UNSET
    regional_parameters: PhyVersion | UnsetType = UNSET
    frequency_plan: Annotated[str, Meta(max_length=64, pattern=PRINTABLE)] | UnsetType = UNSET
    class_b: bool | UnsetType = UNSET
    class_c: bool | UnsetType = UNSET
    address: Address | UnsetType = UNSET
    identity_server: Address | UnsetType = UNSET
    network_server: Address | UnsetType = UNSET
    join_server: Address | UnsetType = UNSET
    application_server: Address | UnsetType = UNSET
    mqtt_address: Address | UnsetType = UNSET
    mqtt_user: Annotated[str, Meta(max_length=255, pattern=PRINTABLE)] | UnsetType = UNSET
    device_profile_id: Annotated[str, Meta(max_length=64, pattern=PRINTABLE)] | UnsetType = UNSET

    @property
    def change(self) -> SettingsChange:
        """The same for the service."""
        return SettingsChange(**structs.asdict(self))


class NewIntegration(Body, frozen=True):
    """An integration to be. organization: the one whose profile is named; the caller's own if it is left out.

    onboarding: devices of the profile that have EUIs and a key are made in the network, for which the connection is
    tested, and all rights have to be there. autoImport: devices that are
    found there are made here. claimProof: what a claim by a TR005 code takes besides.
    """

    profile: Reference
    network: NetworkKind
    application_id: ApplicationId
    api_key: ApiKey
    settings: SettingsMember
    onboarding: bool = False
    auto_import: bool = False
    lorawan_profile_id: ProfileId = ""
    claim_proof: ClaimProof = ClaimProof.NONE
    organization: Reference | UnsetType = UNSET


class IntegrationChanges(Body, frozen=True):
    """What to change; what is left out stays. apiKey: needed with other addresses. lorawanProfileId: "": none."""

    application_id: ApplicationId | UnsetType = UNSET
    api_key: ApiKey | UnsetType = UNSET
    settings: SettingsMember = SettingsMember()
    onboarding: bool | UnsetType = UNSET
    auto_import: bool | UnsetType = UNSET
    lorawan_profile_id: ProfileId | UnsetType = UNSET
    claim_proof: ClaimProof | UnsetType = UNSET


async def list_integrations(call: Call[IntegrationQuery, None]) -> Page[IntegrationAnswer]:
    """List the integrations of your organization and those below."""
    query = call.query
    found = await call.services.integrations.list_(
        call.principal,
        query.after,
        query.limit + 1,
        organization=query.organization or None,
        profile=query.profile or None,
    )
    return paged(found, query.limit, _shown)


async def create_integration(call: Call[None, NewIntegration]) -> Reply[IntegrationAnswer]:
    """Have an application of a LoRaWAN network serve a device profile."""
    body = call.body
    change = IntegrationChange(
        application_id=body.application_id,
        api_key=body.api_key,
        settings=body.settings.change,
        onboarding=body.onboarding,
        auto_import=body.auto_import,
        lorawan_profile_id=body.lorawan_profile_id,
        claim_proof=body.claim_proof,
    )
    return _reply(
        await call.services.integrations.create(
            call.principal, body.profile, body.network, change, body.organization or None
        )
    )


async def show_integration(call: Call[None, None]) -> Reply[IntegrationDetailsAnswer]:
    """Show an integration, and how many of its devices are in which state."""
    details = await call.services.integrations.show(call.principal, call.id)
    answer = IntegrationDetailsAnswer.of(
        details.integration,
        settings=_settings(details.integration),
        devices=details.devices,
        webhook=details.webhook,
        warnings=warnings(details.integration),
    )
    return Reply(answer, revision=answer.revision)


async def update_integration(call: Call[None, IntegrationChanges]) -> Reply[IntegrationAnswer]:
    """Change an integration; devices that are onboarded already stay as they are in the network."""
    body = call.body
    change = IntegrationChange(**structs.asdict(body) | {"settings": body.settings.change})
    return _reply(await call.services.integrations.update(call.principal, call.id, change, call.revision))


async def delete_integration(call: Call[ForgetQuery, None]) -> IntegrationAnswer:
    """Delete an integration; nothing is removed from the network."""
    integrations = call.services.integrations
    return _shown(await integrations.delete(call.principal, call.id, call.revision, forget=call.query.forget))


async def test_integration(call: Call[None, None]) -> CheckAnswer:
    """Test the connection to a network, and list the rights that the API key lacks."""
    check = await call.services.integrations.test(call.principal, call.id)
    return CheckAnswer(
        check.status,
        check.error,
        check.remedy,
        [RightMember(*each) for each in check.missing],
        [ComponentMember(*each) for each in check.components],
    )


async def make_uplink_webhook(call: Call[None, None]) -> UplinkWebhookAnswer:
    """Have a network's uplinks come by webhook; a secret that was made before is good no more."""
    made, secret = await call.services.integrations.make_webhook(call.principal, call.id)
    return UplinkWebhookAnswer(f"/external/lorawan/{made.id}", WEBHOOK_HEADER, secret)


async def list_network_devices(call: Call[NetworkDeviceQuery, None]) -> Page[NetworkDeviceAnswer]:
    """List the devices of an integration, by their ids."""
    query = call.query
    found = await call.services.integrations.devices(
        call.principal, call.id, query.after, query.limit + 1, state=query.state or None
    )
    more = len(found) > query.limit
    return Page(
        [device_answer(each) for each in found[: query.limit]], found[query.limit - 1].device_id if more else None
    )


def _settings(of: Integration) -> SettingsAnswer:
    members = structs.asdict(of.settings)
    if isinstance(of.settings, ThingsStackSettings):
        members |= {"mqtt_address": of.settings.broker, "mqtt_user": of.settings.user(of.application_id)}
    return SettingsAnswer(**members)


def _shown(of: Integration) -> IntegrationAnswer:
    return IntegrationAnswer.of(of, settings=_settings(of), warnings=warnings(of))


def _reply(of: Integration) -> Reply[IntegrationAnswer]:
    return Reply(_shown(of), revision=of.revision)


def device_answer(device: NetworkDevice) -> NetworkDeviceAnswer:
    """A device in its network, as it is answered."""
    return NetworkDeviceAnswer.of(device, device_eui=device.dev_eui)


_VIEW, _MANAGE = Permission.PROFILES_VIEW, Permission.PROFILES_MANAGE

ROUTES = [
    route("GET", "/integrations", _VIEW, list_integrations, problems=("not_found", "conflict")),
    route(
        "POST",
        "/integrations",
        _MANAGE,
        create_integration,
        creates=True,
        revised=True,
        problems=("not_found", "conflict", "invalid"),
        example={
            "profile": "lora-sensor",
            "network": "things-stack",
            "applicationId": "my-app",
            "apiKey": "NNSXS.…",
            "settings": {
                "lorawanVersion": "MAC_V1_0_3",
                "frequencyPlan": "EU_863_870_TTN",
                "address": "eu1.cloud.thethings.network",
            },
            "onboarding": True,
            "lorawanProfileId": "000AF8BE",
        },
    ),
    route("GET", "/integrations/{id}", _VIEW, show_integration, revised=True),
    route(
        "PATCH",
        "/integrations/{id}",
        _MANAGE,
        update_integration,
        revised=True,
        problems=("conflict", "invalid"),
        example={"settings": {"classC": True}},
    ),
    route("DELETE", "/integrations/{id}", _MANAGE, delete_integration, revised=True, problems=("conflict",)),
    route("POST", "/integrations/{id}/test", _MANAGE, test_integration),
    route("POST", "/integrations/{id}/webhook", _MANAGE, make_uplink_webhook),
    route("GET", "/integrations/{id}/devices", _VIEW, list_network_devices),
]
