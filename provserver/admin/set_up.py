"""The link by which the first user is made: there before anybody can ask for it."""

import logging
from ipaddress import ip_address

from provserver.config import Config, join_address
from provserver.errors import Misconfigured
from provserver.services.passwords import Passwords
from provserver.services.sign_in import SignIn
from provserver.workspace import Workspace

log = logging.getLogger("provserver.admin")


async def offer(space: Workspace, config: Config, host: str, port: int) -> None:
    """While there is no user, have the link in its file (services/sign_in.py). host, port: where operators are served.

    Devices are served without it, too.
    """
    shown = "localhost" if ip_address(host).is_unspecified else host
    page = f"http://{join_address(shown, port)}/set-up#"  # browsers keep what follows to themselves
    try:
        config.set_up_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        await SignIn(space.database, space.keys, Passwords(), config.set_up_path).offer_set_up(page)
    except (OSError, Misconfigured) as fault:
        log.warning("the first user cannot be made: %s", fault)
