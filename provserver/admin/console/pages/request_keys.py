"""Request keys: what devices seal their requests to that cannot do TLS."""

from provserver.admin.console.page import Ask, page
from provserver.admin.messages import Response
from provserver.core.authorization import Permission


async def list_request_keys(ask: Ask) -> Response:
    """The keys of the organization and those below."""
    return ask.show("profiles/request_keys.html", found=await ask.api("GET", "/request-keys", ask.chosen("cursor")))


async def create_request_key(ask: Ask) -> Response:
    """Make one."""
    made = await ask.api("POST", "/request-keys", body={})
    return ask.go("/request-keys", said=f"The request key {made['keyId']} is made. Its public key goes into firmware.")


async def delete_request_key(ask: Ask) -> Response:
    """Delete one: what is sealed to it opens no more."""
    gone = await ask.api("DELETE", f"/request-keys/{ask.parameters['key']}")
    return ask.go("/request-keys", said=f"The request key {gone['keyId']} was deleted.")


_VIEW, _MANAGE = Permission.PROFILES_VIEW, Permission.PROFILES_MANAGE

PAGES = [
    page("GET", "/request-keys", list_request_keys, _VIEW),
    page("POST", "/request-keys", create_request_key, _MANAGE),
    page("POST", "/request-keys/{key}/delete", delete_request_key, _MANAGE),
]
