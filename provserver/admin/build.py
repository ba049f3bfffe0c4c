"""The admin API on a database: its services and its routes, put together."""

from datetime import timedelta
from functools import partial

from provserver.admin.api import Api
from provserver.admin.routes import ROUTES
from provserver.admin.services import Services
from provserver.config import Config
from provserver.services.api_keys import ApiKeys
from provserver.services.approvals import Approvals
from provserver.services.audit import Audit
from provserver.services.claiming import Claiming
from provserver.services.device_bulk import DeviceBulk
from provserver.services.device_counts import DeviceCounts
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
from provserver.services.limits import PeopleLimits
from provserver.services.network_check import outgoing
from provserver.services.network_devices import NetworkDevices
from provserver.services.organizations import Organizations
from provserver.services.overview import Overview
from provserver.services.particle import ParticleProducts
from provserver.services.particle import connect as particle_client
from provserver.services.passwords import Passwords
from provserver.services.profiles import Profiles
from provserver.services.request_keys import RequestKeys
from provserver.services.sightings import Sightings
from provserver.services.sign_in import SignIn
from provserver.services.static_tokens import StaticTokens
from provserver.services.token_export import TokenExport
from provserver.services.users import Users
from provserver.services.webhooks import Webhooks, connect
from provserver.services.wifi_sessions import WifiSessions
from provserver.workspace import Workspace, head_file


def build(space: Workspace, config: Config, limits: PeopleLimits | None = None) -> Api:
    """The API on a workspace. `await api.stop()` before its database is closed.

    limits: how often people may try, if that was begun to be counted before.
    """
    limits = limits or PeopleLimits()
    database, keys = space.database, space.keys
    passwords, counts = Passwords(), DeviceCounts(database)
    tokens = StaticTokens(database, keys)
    handover = Handover(database)
    services = Services(
        organizations=Organizations(database),
        users=Users(database, keys, passwords, sign_ups=limits.sign_ups),
        sign_in=SignIn(database, keys, passwords, config.set_up_path, limits=limits.sign_in),
        api_keys=ApiKeys(database, keys),
        profiles=lambda organization_id, actor: Profiles(database, keys, organization_id, actor=actor, counts=counts),
        issuing=lambda organization_id, actor: IssuingAuthorities(database, keys, organization_id, actor=actor),
        devices=lambda organization_id, actor: Devices(database, keys, organization_id, actor=actor),
        device_search=DeviceSearch(database),
        device_timeline=DeviceTimeline(database),
        device_bulk=DeviceBulk(database, keys, handover),
        request_keys=RequestKeys(database, keys),
        tokens=tokens,
        export=TokenExport(tokens),
        eol=EndOfLine(database, keys),
        claiming=Claiming(database, keys, limits.claims),
        handover=handover,
        approvals=Approvals(database),
        inbox=Inbox(database),
        jobs=Jobs(database),
        particle=ParticleProducts(database, keys, connect=partial(particle_client, config.outgoing_private)),
        audit=Audit(database, keys, file=head_file(config)),
        activity=Activity(database),
        explain=Explain(database, keys),
        feed=Feed(database),
        idempotency=Idempotency(database, keys),
        passwords=passwords,
        webhooks=Webhooks(database, keys, partial(connect, config.outgoing_private)),
        integrations=Integrations(database, keys, partial(outgoing, config.outgoing_private)),
        network_devices=NetworkDevices(database),
        sightings=Sightings(database, keys),
        wifi_sessions=WifiSessions(database, keys, timedelta(seconds=config.wifi_session_lifetime), limits.wifi),
        overview=Overview(database),
    )
    return Api(services, ROUTES)
