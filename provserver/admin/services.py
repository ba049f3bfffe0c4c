"""What the routes call."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from provserver.services.api_keys import ApiKeys
from provserver.services.approvals import Approvals
from provserver.services.audit import Audit
from provserver.services.claiming import Claiming
from provserver.services.device_bulk import DeviceBulk
from provserver.services.device_search import DeviceSearch
from provserver.services.device_timeline import DeviceTimeline
from provserver.services.devices import Devices
from provserver.services.eol import EndOfLine
from provserver.services.events import Activity, Feed
from provserver.services.explain import Explain
from provserver.services.handover import Handover
from provserver.services.idempotency import Idempotency
from provserver.services.inbox import Inbox
from provserver.services.integrations import Integrations
from provserver.services.issuing import IssuingAuthorities
from provserver.services.jobs import Jobs
from provserver.services.network_devices import NetworkDevices
from provserver.services.organizations import Organizations
from provserver.services.overview import Overview
from provserver.services.particle import ParticleProducts
from provserver.services.passwords import Passwords
from provserver.services.profiles import Profiles
from provserver.services.request_keys import RequestKeys
from provserver.services.sightings import Sightings
from provserver.services.sign_in import SignIn
from provserver.services.static_tokens import StaticTokens
from provserver.services.token_export import TokenExport
from provserver.services.users import Users
from provserver.services.webhooks import Webhooks
from provserver.services.wifi_sessions import WifiSessions


@dataclass(frozen=True, slots=True)
class Services:
    """The services of operators. profiles, issuing, devices: those of an organization, for an actor of the audit."""

    organizations: Organizations
    users: Users
    sign_in: SignIn
    api_keys: ApiKeys
    profiles: Callable[[UUID, str], Profiles]
    issuing: Callable[[UUID, str], IssuingAuthorities]
    devices: Callable[[UUID, str], Devices]
    device_search: DeviceSearch
    device_timeline: DeviceTimeline
    device_bulk: DeviceBulk
    request_keys: RequestKeys
    tokens: StaticTokens
    export: TokenExport
    eol: EndOfLine
    claiming: Claiming
    handover: Handover
    approvals: Approvals
    inbox: Inbox
    jobs: Jobs
    particle: ParticleProducts
    audit: Audit
    activity: Activity
    explain: Explain
    feed: Feed
    idempotency: Idempotency
    passwords: Passwords
    webhooks: Webhooks
    integrations: Integrations
    network_devices: NetworkDevices
    sightings: Sightings
    wifi_sessions: WifiSessions
    overview: Overview
