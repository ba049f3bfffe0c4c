"""Where the console's pages are in a world full of things, and who looks at them."""

from dataclasses import dataclass

from provserver.admin.console.pages import PAGES
from tests.browser.seed import CUSTOMER, MAKER, NEWCOMER, RIVAL

NOBODY = ""


@dataclass(frozen=True)
class Place:
    """A page to look at. path: with names of `World.ids` in braces. who: by e-mail. name: of its picture."""

    path: str
    who: str = MAKER
    name: str = ""

    @property
    def picture(self) -> str:
        """A name for files."""
        return self.name or "-".join(part for part in self.path.split("/") if part and "{" not in part) or "overview"


_PART: tuple[Place, ...] = ()
"""What is a part of a page, and looked at with it."""

_FILE: tuple[Place, ...] = ()
"""What is saved, and not looked at."""

PLACES: dict[str, tuple[Place, ...]] = {
    "/sign-in": (Place("/sign-in", NOBODY),),
    "/set-up": (Place("/set-up", NOBODY),),
    "/invitation": (Place("/invitation#a-link-that-is-good-once", NOBODY, "invitation"),),
    "/password-reset": (Place("/password-reset#a-link-that-is-good-once", NOBODY, "password-reset"),),
    "/sign-up": (Place("/sign-up", NOBODY),),
    "/account": (Place("/account"), Place("/account", CUSTOMER, "account-customer")),
    "/users": (Place("/users"),),
    "/users/new": (Place("/users/new"),),
    "/users/roles": _PART,
    "/users/{user}": (Place("/users/{user}", name="user"),),
    "/organizations": (Place("/organizations"),),
    "/organizations/new": (Place("/organizations/new"),),
    "/organizations/branch": _PART,
    "/organizations/switcher": _PART,
    "/organizations/switcher/branch": _PART,
    "/organizations/{organization}": (Place("/organizations/{organization}", name="organization"),),
    "/keys": (Place("/keys"),),
    "/keys/new": (Place("/keys/new"),),
    "/keys/{key}": (Place("/keys/{key}", name="key"),),
    "/": (
        Place("/"),
        Place("/?hours=24&table=1", name="overview-table"),
        Place("/", CUSTOMER, "overview-customer"),
        Place("/", NEWCOMER, "overview-empty"),
    ),
    "/overview/figures": _PART,
    "/feed": _PART,
    "/static-tokens": (Place("/static-tokens"), Place("/static-tokens?batch={batch}", name="static-tokens-batch")),
    "/static-tokens/batches": (Place("/static-tokens/batches"),),
    "/static-tokens/units": (Place("/static-tokens/units"),),
    "/static-tokens/new": (Place("/static-tokens/new"),),
    "/static-tokens/jobs/{id}": (Place("/static-tokens/jobs/{tokens job}", name="static-tokens-job"),),
    "/static-tokens/import": (Place("/static-tokens/import"),),
    "/static-tokens/export": (Place("/static-tokens/export?batch={batch}", name="static-tokens-export"),),
    "/static-tokens/export.csv": _FILE,
    "/static-tokens/export.zip": _FILE,
    "/static-tokens/export.pdf": _FILE,
    "/static-tokens/{token}": (
        Place("/static-tokens/{token}", name="static-token"),
        Place("/static-tokens/{claimed}", name="static-token-claimed"),
    ),
    "/static-tokens/{token}/qr": (Place("/static-tokens/{token}/qr", name="static-token-qr"),),
    "/static-tokens/{token}/qr.svg": _FILE,
    "/static-tokens/{token}/qr.png": _FILE,
    "/profiles": (Place("/profiles"), Place("/profiles", NEWCOMER, "profiles-empty")),
    "/profiles/new": (Place("/profiles/new"),),
    "/profiles/import": (Place("/profiles/import"),),
    "/profiles/{profile}": (Place("/profiles/{profile}", name="profile"),),
    "/profiles/{profile}/settings": (Place("/profiles/{profile}/settings", name="profile-settings"),),
    "/profiles/{profile}/fields": (Place("/profiles/{nodes}/fields", name="profile-fields"),),
    "/profiles/{profile}/datastreams": (Place("/profiles/{profile}/datastreams", name="profile-datastreams"),),
    "/profiles/{profile}/firmware": (Place("/profiles/{profile}/firmware", name="profile-firmware"),),
    "/profiles/{profile}/export.toml": _FILE,
    "/profiles/{profile}/keys": (Place("/profiles/{profile}/keys", name="profile-keys"),),
    "/profiles/{profile}/certificates": (Place("/profiles/{profile}/certificates", name="profile-certificates"),),
    "/request-keys": (Place("/request-keys"),),
    "/claim": (Place("/claim", CUSTOMER), Place("/claim", NOBODY, "claim-nobody")),
    "/claim/outcome/{id}": _PART,
    "/claim/device/{id}": _PART,
    "/attempts": (Place("/attempts"), Place("/attempts?outcome=not_found", name="attempts-refused")),
    "/attempts/rehearse": (Place("/attempts/rehearse"),),
    "/attempts/{attempt}": (Place("/attempts/{attempt}", name="attempt"),),
    "/audit": (Place("/audit"),),
    "/audit/chain": _PART,
    "/audit/head.json": _FILE,
    "/audit/export.jsonl": _FILE,
    "/jobs": (Place("/jobs"),),
    "/jobs/{job}": (Place("/jobs/{job}", name="job"), Place("/jobs/{refused job}", name="job-refused")),
    "/jobs/{job}/progress": _PART,
    "/webhooks": (Place("/webhooks"), Place("/webhooks", RIVAL, "webhooks-empty")),
    "/webhooks/new": (Place("/webhooks/new"),),
    "/webhooks/{webhook}": (
        Place("/webhooks/{webhook}", name="webhook"),
        Place("/webhooks/{webhook away}", name="webhook-away"),
    ),
    "/webhooks/{webhook}/edit": (Place("/webhooks/{webhook}/edit", name="webhook-edit"),),
    "/webhooks/{webhook}/deliveries/{event}": (
        Place("/webhooks/{webhook away}/deliveries/{event}", name="webhook-delivery"),
    ),
    "/integrations": (Place("/integrations"), Place("/integrations", NEWCOMER, "integrations-empty")),
    "/integrations/new": (Place("/integrations/new"),),
    "/integrations/new/regions": _PART,
    "/integrations/{id}": (Place("/integrations/{integration}", name="integration"),),
    "/integrations/{id}/edit": (Place("/integrations/{integration}/edit", name="integration-edit"),),
    "/integrations/{id}/devices": (Place("/integrations/{integration}/devices", name="integration-devices"),),
    "/integrations/{id}/sightings": (Place("/integrations/{integration}/sightings", name="integration-sightings"),),
    "/devices": (
        Place("/devices"),
        Place("/devices", CUSTOMER, "devices-customer"),
        Place("/devices", NEWCOMER, "devices-empty"),
        Place("/devices?search=nothing-is-called-so", name="devices-none-found"),
    ),
    "/devices/import": (Place("/devices/import"),),
    "/devices/new": (Place("/devices/new?profile={nodes}", name="devices-new"),),
    "/devices/{device}": (
        Place("/devices/{device}", name="device"),
        Place("/devices/{quarantined}", name="device-quarantined"),
        Place("/devices/{network device}", name="device-network"),
        Place("/devices/{claimed}", CUSTOMER, "device-customer"),
    ),
    "/devices/{device}/timeline": (Place("/devices/{device}/timeline", name="device-timeline"),),
    "/devices/{device}/data": (Place("/devices/{device}/data", name="device-data"),),
    "/devices/{device}/credentials": (Place("/devices/{device}/credentials", name="device-credentials"),),
    "/devices/{device}/edit": (Place("/devices/{device}/edit", name="device-edit"),),
    "/devices/{device}/transfer": (Place("/devices/{device}/transfer", name="device-transfer"),),
    "/devices/{device}/network": _PART,
    "/devices/{device}/live": _PART,
    "/integrations/particle": (Place("/integrations/particle"),),
    "/integrations/particle/new": (Place("/integrations/particle/new"),),
    "/integrations/particle/{product}": (Place("/integrations/particle/{product}", name="particle-product"),),
    "/integrations/particle/{product}/edit": (
        Place("/integrations/particle/{product}/edit", name="particle-product-edit"),
    ),
    "/integrations/particle/{product}/runs/{id}": (
        Place("/integrations/particle/{product}/runs/{particle job}", name="particle-run"),
    ),
    "/wifi-sessions": (Place("/wifi-sessions"),),
    "/wifi-sessions/new": (Place("/wifi-sessions/new"),),
    "/wifi-sessions/{id}": (
        Place("/wifi-sessions/{wifi}", name="wifi-session"),
        Place("/wifi-sessions/{wifi failed}", name="wifi-session-failed"),
    ),
    "/inbox": (Place("/inbox"), Place("/inbox", NEWCOMER, "inbox-empty")),
    "/inbox/count": _PART,
    "/inbox/approvals": _PART,
    "/inbox/quarantine": _PART,
    "/inbox/clone-signs": _PART,
    "/inbox/jobs": _PART,
}
"""Of each page that is asked for with GET, by its path."""


def shown() -> list[str]:
    """The paths of all pages that somebody looks at."""
    return [each.path for each in PAGES if each.method == "GET"]


ALL = [place for places in PLACES.values() for place in places]
"""In order."""
