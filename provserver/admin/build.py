"""The admin API on a database: its services and its routes, put together."""

from provserver.admin.api import Api
from provserver.admin.routes import ROUTES
from provserver.admin.services import Services
from provserver.config import Config
from provserver.services.api_keys import ApiKeys
from provserver.services.audit import Audit
from provserver.services.claiming import Claiming
from provserver.services.devices import Devices
from provserver.services.eol import EndOfLine
from provserver.services.events import Activity, Feed
from provserver.services.idempotency import Idempotency
from provserver.services.jobs import Jobs
from provserver.services.organizations import Organizations
from provserver.services.passwords import Passwords
from provserver.services.profiles import Profiles
from provserver.services.sign_in import SignIn
from provserver.services.static_tokens import StaticTokens
from provserver.services.token_export import TokenExport
from provserver.services.users import Users
from provserver.workspace import Workspace


def build(space: Workspace, config: Config) -> Api:
    """The API on a workspace. `await api.stop()` before its database is closed."""
    database, keys = space.database, space.keys
    passwords = Passwords()
    tokens = StaticTokens(database, keys)
    services = Services(
        organizations=Organizations(database),
        users=Users(database, keys, passwords),
        sign_in=SignIn(database, keys, passwords, config.set_up_path),
        api_keys=ApiKeys(database, keys),
        profiles=lambda organization_id, actor: Profiles(database, keys, organization_id, actor=actor),
        devices=lambda organization_id, actor: Devices(database, keys, organization_id, actor=actor),
        tokens=tokens,
        export=TokenExport(tokens),
        eol=EndOfLine(database, keys),
        claiming=Claiming(database, keys),
        jobs=Jobs(database),
        audit=Audit(database),
        activity=Activity(database),
        feed=Feed(database),
        idempotency=Idempotency(database, keys),
        passwords=passwords,
    )
    return Api(services, ROUTES)
