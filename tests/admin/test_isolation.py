"""Every route, asked by everybody: nothing of one organization is seen or changed by another but from above.

The table below must name every route, so that a new one without an entry fails.
"""

import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from provserver.admin.route import PREFIX, Access, Route
from provserver.admin.routes import ROUTES
from provserver.core.authorization import PERMISSIONS, Permission, Role
from provserver.core.limits import Buckets
from provserver.services.claiming import ClaimLimits
from tests.admin.conftest import PASSWORD, Answer, Caller, Site
from tests.conftest import Space
from tests.pki import Authority
from tests.services.conftest import contents


@dataclass
class Ask:
    """A request that somebody who may everything in the victim's organization would have answered.

    own: what it names is the caller's own by nature, so that there is no victim; only permissions matter.
    """

    path: dict[str, str] = field(default_factory=dict)
    body: object = None
    query: dict[str, Any] = field(default_factory=dict)
    own: bool = False


class Victim:
    """One of everything that an organization has; as it is made, of things that do not exist."""

    def __init__(self) -> None:
        self.id, self.user, self.key, self.profile, self.device, self.token, self.claimed, self.reserved, self.job = (
            str(uuid4()) for _ in range(9)
        )
        self.attempt = str(uuid4())
        self.approval = str(uuid4())
        self.webhook = str(uuid4())
        self.event = str(uuid4())
        self.integration = str(uuid4())
        self.particle = str(uuid4())
        self.request_key = str(uuid4())
        self.wifi = str(uuid4())
        self.unit = f"SN-{self.user}"
        self.email = f"{self.user}@example.com"
        self.provision_key = self.key
        self.qr = "sqr_" + self.user.replace("-", "")

    @property
    def marks(self) -> set[str]:
        """What is in no answer to somebody who may not see the organization, unless he has named it himself."""
        return set(vars(self).values())


HOOK = "https://webhook.example/"

INTEGRATION = {
    "network": "things-stack",
    "apiKey": "NNSXS.KEY",
    "settings": {"lorawanVersion": "MAC_V1_0_3", "frequencyPlan": "EU_863_870_TTN", "address": "stack.invalid"},
}

Asks = Callable[[Victim], Ask]

AUTHORITY = Authority.root("Isolated")

TABLE: dict[str, Asks] = {
    "POST /session": lambda v: Ask(body={"email": v.email, "password": "a wrong password"}),
    "GET /session": lambda _: Ask(own=True),
    "DELETE /session": lambda _: Ask(own=True),
    "POST /setup": lambda _: Ask(body={"link": "unknown", "email": "x@example.com", "password": PASSWORD}),
    "GET /setup": lambda _: Ask(),
    "POST /invitations/accept": lambda _: Ask(body={"link": "unknown", "password": PASSWORD}),
    "GET /sign-up": lambda _: Ask(query={"organizationNumber": 2_000_000}),
    "POST /sign-up": lambda _: Ask(
        body={"organizationNumber": 2_000_000, "email": "new@example.com", "password": PASSWORD}
    ),
    "POST /password": lambda _: Ask(body={"current": PASSWORD, "password": PASSWORD + "!"}, own=True),
    "POST /password/reset": lambda _: Ask(body={"link": "unknown", "password": PASSWORD}),
    "POST /email": lambda _: Ask(body={"current": PASSWORD, "email": "other@example.com"}, own=True),
    "GET /organizations": lambda v: Ask(query={"parent": v.id}),
    "POST /organizations": lambda v: Ask(body={"name": "below", "parent": v.id}),
    "GET /organizations/{organization}": lambda v: Ask({"organization": v.id}),
    "GET /organizations/{organization}/contents": lambda v: Ask({"organization": v.id}),
    "PATCH /organizations/{organization}": lambda v: Ask({"organization": v.id}, {"name": "renamed"}),
    "DELETE /organizations/{organization}": lambda v: Ask({"organization": v.id}),
    "GET /users": lambda v: Ask(query={"organization": v.id}),
    "POST /users": lambda v: Ask(body={"email": "more@example.com", "role": "user", "organization": v.id}),
    "GET /users/{user}": lambda v: Ask({"user": v.user}),
    "PATCH /users/{user}": lambda v: Ask({"user": v.user}, {"name": "Somebody else"}),
    "DELETE /users/{user}": lambda v: Ask({"user": v.user}),
    "POST /users/{user}/invite": lambda v: Ask({"user": v.user}),
    "POST /users/{user}/reset-password": lambda v: Ask({"user": v.user}),
    "GET /keys": lambda v: Ask(query={"organization": v.id}),
    "POST /keys": lambda v: Ask(body={"name": "more", "permissions": ["devices:view"], "organization": v.id}),
    "GET /keys/{key}": lambda v: Ask({"key": v.key}),
    "DELETE /keys/{key}": lambda v: Ask({"key": v.key}),
    "GET /request-keys": lambda v: Ask(query={"organization": v.id}),
    "POST /request-keys": lambda v: Ask(body={"organization": v.id}),
    "DELETE /request-keys/{key}": lambda v: Ask({"key": v.request_key}),
    "GET /profiles": lambda v: Ask(query={"organization": v.id}),
    "POST /profiles": lambda v: Ask(body={"name": "more"}, query={"organization": v.id}),
    "POST /profiles/import": lambda v: Ask(
        body={"toml": 'name = "imported"\nstrategy = "allow-create"\n'}, query={"organization": v.id}
    ),
    "GET /profiles/{profile}": lambda v: Ask({"profile": v.profile}, query={"organization": v.id}),
    "PATCH /profiles/{profile}": lambda v: Ask({"profile": v.profile}, {"name": "renamed"}, {"organization": v.id}),
    "DELETE /profiles/{profile}": lambda v: Ask({"profile": v.profile}, query={"organization": v.id}),
    "POST /profiles/{profile}/clone": lambda v: Ask({"profile": v.profile}, {"name": "twin"}, {"organization": v.id}),
    "GET /profiles/{profile}/export.toml": lambda v: Ask({"profile": v.profile}, query={"organization": v.id}),
    "GET /profiles/{profile}/ca": lambda v: Ask({"profile": v.profile}, query={"organization": v.id}),
    "POST /profiles/{profile}/ca": lambda v: Ask({"profile": v.profile}, {"replace": True}, {"organization": v.id}),
    "POST /profiles/{profile}/ca/import": lambda v: Ask(
        {"profile": v.profile},
        {"certificates": AUTHORITY.pem, "key": AUTHORITY.key_pem, "replace": True},
        {"organization": v.id},
    ),
    "POST /profiles/{profile}/keys": lambda v: Ask({"profile": v.profile}, {}, {"organization": v.id}),
    "PUT /profiles/{profile}/keys/{key}/budget": lambda v: Ask(
        {"profile": v.profile, "key": v.provision_key}, {"maxUses": 1}, {"organization": v.id}
    ),
    "DELETE /profiles/{profile}/keys/{key}": lambda v: Ask(
        {"profile": v.profile, "key": v.provision_key}, query={"organization": v.id}
    ),
    "GET /devices": lambda v: Ask(query={"profile": v.profile}),
    "GET /devices/{device}/timeline": lambda v: Ask({"device": v.device}),
    "POST /devices/bulk": lambda v: Ask(body={"act": "revoke", "devices": [v.device]}),
    "POST /devices": lambda v: Ask(body={"name": "more", "profile": v.profile}),
    "POST /devices/import": lambda v: Ask(body=b"name\r\nmore-1\r\n", query={"profile": v.profile}),
    "POST /devices/claim": lambda v: Ask(body={"device": v.device, "secret": "unknown"}),
    "GET /devices/{device}": lambda v: Ask({"device": v.device}, query={"credentials": "true"}),
    "PATCH /devices/{device}": lambda v: Ask({"device": v.device}, {"shared": {"interval": 1}}),
    "DELETE /devices/{device}": lambda v: Ask({"device": v.device}),
    "POST /devices/{device}/erase-data": lambda v: Ask({"device": v.device}),
    "POST /devices/{device}/revoke": lambda v: Ask({"device": v.device}),
    "POST /devices/{device}/rearm": lambda v: Ask({"device": v.device}),
    "POST /devices/{device}/rotate": lambda v: Ask({"device": v.device}, {"overlap": 60}),
    "POST /devices/{device}/transfer": lambda v: Ask({"device": v.device}, {"organization": v.id}),
    "POST /devices/{device}/quarantine": lambda v: Ask({"device": v.device}, {"reason": "seen twice"}),
    "POST /devices/{device}/release": lambda v: Ask({"device": v.device}, {"rotate": True}),
    "GET /approvals": lambda v: Ask(query={"profile": v.profile}),
    "POST /approvals/accept": lambda v: Ask(body={"profile": v.profile}),
    "POST /approvals/reject": lambda v: Ask(body={"profile": v.profile}),
    "POST /approvals/{approval}/accept": lambda v: Ask({"approval": v.approval}),
    "POST /approvals/{approval}/reject": lambda v: Ask({"approval": v.approval}),
    "GET /inbox": lambda _: Ask(own=True),
    "GET /inbox/quarantined": lambda _: Ask(),
    "GET /inbox/clone-signs": lambda _: Ask(),
    "POST /inbox/clone-signs/dismiss": lambda v: Ask(body={"device": v.device}),
    "GET /inbox/failed-jobs": lambda _: Ask(),
    "GET /inbox/ending-keys": lambda _: Ask(),
    "GET /static-tokens": lambda v: Ask(query={"profile": v.profile}),
    "POST /static-tokens": lambda v: Ask(body={"profile": v.profile, "count": 1}),
    "POST /static-tokens/import": lambda v: Ask(body=b"Device Name\r\nmore-2\r\n", query={"profile": v.profile}),
    "GET /static-tokens/batches": lambda v: Ask(query={"profile": v.profile}),
    "GET /static-tokens/count": lambda v: Ask(query={"profile": v.profile}),
    "GET /static-tokens/claims/{id}": lambda v: Ask({"id": v.claimed}),
    "GET /static-tokens/export.csv": lambda v: Ask(query={"id": v.token}),
    "GET /static-tokens/export.zip": lambda v: Ask(query={"id": v.token}),
    "GET /static-tokens/export.pdf": lambda v: Ask(query={"id": v.token}),
    "POST /static-tokens/claim": lambda v: Ask(body={"qr": v.qr}),
    "GET /static-tokens/{token}": lambda v: Ask({"token": v.token}, query={"open": "true"}),
    "DELETE /static-tokens/{token}": lambda v: Ask({"token": v.token}, query={"confirm": "true"}),
    "POST /static-tokens/{token}/unclaim": lambda v: Ask({"token": v.claimed}),
    "POST /static-tokens/{token}/disclaim": lambda v: Ask({"token": v.claimed}),
    "GET /static-tokens/{token}/qr.png": lambda v: Ask({"token": v.token}),
    "GET /static-tokens/{token}/qr.svg": lambda v: Ask({"token": v.token}),
    "GET /static-tokens/units": lambda v: Ask(query={"profile": v.profile}),
    "GET /static-tokens/units/hold": lambda v: Ask(query={"profile": v.profile, "unit": v.unit}),
    "POST /static-tokens/units/reserve": lambda v: Ask(body={"profile": v.profile, "unit": v.unit}),
    "POST /static-tokens/units/written": lambda v: Ask(body={"tokenId": v.reserved, "unit": v.unit}),
    "POST /static-tokens/units/fail": lambda v: Ask(body={"profile": v.profile, "unit": v.unit}),
    "GET /webhooks": lambda v: Ask(query={"organization": v.id}),
    "POST /webhooks": lambda v: Ask(body={"url": HOOK, "organization": v.id}),
    "GET /webhooks/{id}": lambda v: Ask({"id": v.webhook}),
    "PATCH /webhooks/{id}": lambda v: Ask({"id": v.webhook}, {"enabled": False}),
    "DELETE /webhooks/{id}": lambda v: Ask({"id": v.webhook}),
    "POST /webhooks/{id}/test": lambda v: Ask({"id": v.webhook}),
    "GET /webhooks/{id}/deliveries": lambda v: Ask({"id": v.webhook}),
    "GET /webhooks/{id}/deliveries/{event}": lambda v: Ask({"id": v.webhook, "event": v.event}),
    "POST /webhooks/{id}/replay": lambda v: Ask({"id": v.webhook}, {"dead": True}),
    "GET /integrations": lambda v: Ask(query={"organization": v.id}),
    "POST /integrations": lambda v: Ask(
        body=INTEGRATION | {"profile": v.profile, "applicationId": "more", "organization": v.id}
    ),
    "GET /integrations/{id}": lambda v: Ask({"id": v.integration}),
    "PATCH /integrations/{id}": lambda v: Ask({"id": v.integration}, {"autoImport": True}),
    "DELETE /integrations/{id}": lambda v: Ask({"id": v.integration}, query={"forget": "true"}),
    "POST /integrations/{id}/test": lambda v: Ask({"id": v.integration}),
    "POST /integrations/{id}/onboard": lambda v: Ask({"id": v.integration}),
    "POST /integrations/{id}/webhook": lambda v: Ask({"id": v.integration}),
    "GET /integrations/{id}/devices": lambda v: Ask({"id": v.integration}),
    "GET /integrations/{id}/sightings": lambda v: Ask({"id": v.integration}),
    "POST /integrations/{id}/import": lambda v: Ask({"id": v.integration}, {"networkDeviceId": "eui-none"}),
    "POST /devices/{device}/network/merge": lambda v: Ask({"device": v.device}, {"networkDeviceId": "eui-none"}),
    "GET /devices/{device}/network": lambda v: Ask({"device": v.device}),
    "POST /devices/{device}/network": lambda v: Ask({"device": v.device}, {}),
    "DELETE /devices/{device}/network": lambda v: Ask({"device": v.device}),
    "POST /devices/{device}/network/replace": lambda v: Ask(
        {"device": v.device}, {"deviceEui": "0018B20000000102", "applicationKey": "2B7E151628AED2A6ABF7158809CF4F3C"}
    ),
    "GET /particle": lambda v: Ask(query={"organization": v.id}),
    "POST /particle": lambda v: Ask(body={"profile": v.profile, "product": "more", "accessToken": v.key}),
    "GET /particle/{product}": lambda v: Ask({"product": v.particle}),
    "PATCH /particle/{product}": lambda v: Ask({"product": v.particle}, {"ledger": "other"}),
    "DELETE /particle/{product}": lambda v: Ask({"product": v.particle}),
    "POST /particle/{product}/test": lambda v: Ask({"product": v.particle}),
    "POST /particle/{product}/plan": lambda v: Ask({"product": v.particle}, {}),
    "POST /particle/{product}/apply": lambda v: Ask({"product": v.particle}, {}),
    "POST /particle/{product}/verify": lambda v: Ask({"product": v.particle}, {}),
    "POST /particle/{product}/revoke": lambda v: Ask({"product": v.particle}, {"group": "pilot"}),
    "GET /wifi-sessions": lambda v: Ask(query={"organization": v.id}),
    "POST /wifi-sessions": lambda v: Ask(body={"organization": v.id, "template": v.profile}),
    "GET /wifi-sessions/summary": lambda v: Ask(query={"organization": v.id}),
    "GET /wifi-sessions/{id}": lambda v: Ask({"id": v.wifi}),
    "POST /wifi-sessions/{id}/events": lambda v: Ask({"id": v.wifi}, {"event": "seen"}),
    "POST /wifi-sessions/{id}/cancel": lambda v: Ask({"id": v.wifi}),
    "POST /wifi-sessions/{id}/fail": lambda v: Ask({"id": v.wifi}, {"error": "device_not_found"}),
    "POST /devices/{device}/reconfigure": lambda v: Ask({"device": v.device}),
    "GET /overview": lambda _: Ask(own=True),
    "GET /jobs": lambda _: Ask(),
    "GET /jobs/{id}": lambda v: Ask({"id": v.job}),
    "POST /jobs/{id}/cancel": lambda v: Ask({"id": v.job}),
    "POST /jobs/{id}/retry": lambda v: Ask({"id": v.job}),
    "GET /attempts": lambda v: Ask(query={"profile": v.profile}),
    "GET /attempts/{id}": lambda v: Ask({"id": v.attempt}),
    "GET /attempts/{id}/explanation": lambda v: Ask({"id": v.attempt}),
    "POST /explain": lambda v: Ask(body={"profile": v.profile, "request": "{}"}),
    "GET /audit": lambda v: Ask(query={"organization": v.id}),
    "GET /audit/export": lambda v: Ask(query={"organization": v.id}),
    "GET /audit/head": lambda _: Ask(own=True),
    "POST /audit/verify": lambda _: Ask(body={}, own=True),
    "GET /events": lambda _: Ask(own=True),
    "GET /openapi.json": lambda _: Ask(),
    "GET /docs": lambda _: Ask(),
}

ENDLESS = {"GET /events", "GET /static-tokens/units/hold"}
"""Tested by `test_activity.py` and `test_units.py`; here, that it is refused to whom it must be."""

REFUSED_ALL_THE_SAME = {
    "POST /password": 409,  # an API key has none
    "POST /email": 409,  # nor an address
    "DELETE /organizations/{organization}": 409,  # it has something left
    "DELETE /profiles/{profile}": 409,  # it has devices
    "POST /users/{user}/reset-password": 409,  # the invitation was not accepted
    "POST /devices/claim": 404,  # the secret is wrong
    "POST /integrations": 409,  # the profile has one
    "POST /devices/{device}/network": 409,  # onboarding is off
    "POST /integrations/{id}/onboard": 409,  # likewise
    "POST /devices/{device}/network/replace": 409,  # likewise
    "POST /integrations/{id}/import": 404,  # there is none
    "POST /devices/{device}/network/merge": 404,  # likewise
    "POST /particle": 409,  # the profile has one
    "POST /devices/{device}/transfer": 409,  # to the same owner
    "POST /devices/{device}/release": 409,  # it is not in quarantine
    "POST /jobs/{id}/cancel": 409,  # it has ended
    "POST /jobs/{id}/retry": 409,  # it has not failed
}
"""What does not come about for another reason than who asks."""

OF_ONES_OWN = {
    "POST /devices": 404,
    "POST /devices/import": 404,
    "GET /attempts": 404,
    "POST /explain": 404,
    "POST /static-tokens/claim": 404,
}
"""What is for the caller's own organization: profiles that are named, and codes of its makers."""


AT_THE_TOP = {"GET /audit/head", "POST /audit/verify"}
"""What is of the whole server."""

OF_OTHERS: dict[Role, dict[str, int]] = {
    Role.STAFF: {"PATCH /users/{user}": 403},
    Role.USER: {
        "GET /users/{user}": 403,
        "PATCH /users/{user}": 403,
        "GET /jobs/{id}": 404,
        "POST /jobs/{id}/cancel": 404,
        "POST /jobs/{id}/retry": 404,
        "GET /devices/{device}": 403,  # with its credentials
        "DELETE /devices/{device}": 403,
        "POST /static-tokens/{token}/unclaim": 403,
        "POST /wifi-sessions/{id}/events": 403,
        "POST /wifi-sessions/{id}/cancel": 403,
        "POST /wifi-sessions/{id}/fail": 403,
        "POST /devices/{device}/reconfigure": 403,
    },
}
"""What is for everybody with his own things, and not with others'."""

BESIDE = {
    *("POST /organizations", "POST /users", "POST /keys", "POST /request-keys", "POST /webhooks", "POST /explain"),
    *("POST /profiles", "POST /profiles/import", "POST /profiles/{profile}/clone", "POST /audit/verify"),
    *("POST /devices", "POST /devices/import", "POST /static-tokens", "POST /static-tokens/import"),
    "POST /wifi-sessions",
}
"""What makes something new, or nothing, and leaves a victim as it is for the next."""

NOTHING_TO_SAY = {
    "GET /jobs",
    "POST /devices/bulk",
    "GET /static-tokens/claims/{id}",
    "GET /inbox/quarantined",
    "GET /inbox/clone-signs",
    "GET /inbox/failed-jobs",
    "GET /inbox/ending-keys",
}
"""What answers a stranger, but that there is nothing."""


def key(route: Route) -> str:
    return f"{route.method} {route.path.removeprefix(PREFIX)}"


def test_the_table_names_every_route() -> None:
    assert {key(route) for route in ROUTES} == set(TABLE)


class World:
    """A manufacturer and another tree beside it; customers A and B, one below A; and their programs."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.callers: dict[str, Caller] = {}
        self.organizations: dict[str, str] = {}
        self.paths: dict[str, list[str]] = {}
        self.numbers = itertools.count(1)

    async def grow(self) -> None:
        site = self.site
        unlimited = ClaimLimits(Buckets(1e9, 1e9), Buckets(1e9, 1e9), Buckets(1e9, 1e9))
        site.api.services.claiming._limits = unlimited
        root = str(site.space.organization_id)
        self.organizations["manufacturer"] = root
        self.organizations["a"] = await self._organization("customer-a", root)
        self.organizations["b"] = await self._organization("customer-b", root)
        self.organizations["below-a"] = await self._organization("below-a", self.organizations["a"])
        self.organizations["foreign"] = str(
            await site.space.value(
                "INSERT INTO organization (id, name, path, parent_id) SELECT i, 'Foreign', ARRAY[i], NULL"
                " FROM gen_random_uuid() AS i RETURNING id"
            )
        )
        for name, organization in self.organizations.items():
            for role in Role:
                self.callers[f"{name} {role}"] = await site.caller(role, UUID(organization))
        before = [row["id"] for row in await site.space.rows("SELECT id FROM api_key")]
        self.callers["expired"] = await site.caller(Role.ADMIN, UUID(self.organizations["a"]))
        await site.space.value("UPDATE api_key SET expires_at = now() WHERE id <> ALL($1::uuid[]) RETURNING 1", before)
        self.callers["unknown"] = Caller(site.session, site.url, "psk_" + "A" * 40)
        self.callers["nobody"] = site.nobody
        rows = await site.space.rows("SELECT id, path FROM organization")
        paths = {str(row["id"]): list(map(str, row["path"])) for row in rows}
        self.paths = {name: paths[id_] for name, id_ in self.organizations.items()}

    async def _organization(self, name: str, parent: str) -> str:
        made = await self.site.api.services.organizations.create(self.site.operator, name, parent)
        return str(made.id)

    def strangers(self, owner: str) -> list[str]:
        """Who is not above an organization."""
        return [name for name, id_ in self.organizations.items() if id_ not in self.paths[owner]]

    async def victim(self, owner: str) -> Victim:
        """One of everything, made by the organization's own admin."""
        admin, victim, n = self.callers[f"{owner} admin"], Victim(), next(self.numbers)
        victim.id = self.organizations[owner]
        victim.profile = (await admin.ok("POST", "/profiles", {"name": f"profile {n}"}))["id"]
        await admin.ok("POST", f"/profiles/{victim.profile}/ca", {})
        victim.provision_key = (await admin.ok("POST", f"/profiles/{victim.profile}/keys", {}))["provisionDeviceKey"]
        victim.email = f"victim-{n}@example.com"
        victim.user = (await admin.ok("POST", "/users", {"email": victim.email, "role": "user"}))["id"]
        made = await admin.ok("POST", "/keys", {"name": f"key of victim {n}", "permissions": ["devices:view"]})
        victim.key = made["id"]
        victim.request_key = (await admin.ok("POST", "/request-keys", {}))["id"]
        device = {"name": f"device {n}", "profile": victim.profile}
        victim.device = (await admin.ok("POST", "/devices", device))["id"]
        tokens = (await admin.ok("POST", "/static-tokens", {"profile": victim.profile, "count": 4}))["items"]
        victim.token, victim.claimed = tokens[3]["id"], tokens[1]["id"]
        unit = {"profile": victim.profile, "unit": victim.unit}
        victim.reserved = (await admin.ok("POST", "/static-tokens/units/reserve", unit))["tokenId"]
        opened = await admin.ok("GET", f"/static-tokens/{victim.claimed}", open=True)
        await admin.ok("POST", "/static-tokens/claim", {"qr": opened["qrPayload"]})
        victim.qr = (await admin.ok("GET", f"/static-tokens/{tokens[2]['id']}", open=True))["qrPayload"]
        victim.webhook = (await admin.ok("POST", "/webhooks", {"url": HOOK}))["id"]
        integration = INTEGRATION | {"profile": victim.profile, "applicationId": f"app-{n}"}
        victim.integration = (await admin.ok("POST", "/integrations", integration))["id"]
        product = {"profile": victim.profile, "product": f"product-{n}", "accessToken": victim.key}
        victim.particle = (await admin.ok("POST", "/particle", product))["id"]
        victim.wifi = (await admin.ok("POST", "/wifi-sessions", {"name": f"lamp {n}"}))["id"]
        await self.site.space.rows(
            "INSERT INTO network_device (device_id, integration_id, network_device_id, dev_eui, state, made)"
            " VALUES ($1, $2, 'eui-0', '0018B20000000101', 'onboarded', $3)",
            UUID(victim.device),
            UUID(victim.integration),
            ["is"],
        )
        await self.site.space.rows(  # where nothing is sent, and no name is looked up for it
            "UPDATE webhook SET url = 'http://127.0.0.1/' WHERE id = $1", UUID(victim.webhook)
        )
        await self.site.space.rows(
            "INSERT INTO event (id, type, organization_id, payload, created_at)"
            " VALUES ($1, 'device.claimed', $2, '{}', now())",
            UUID(victim.event),
            UUID(victim.id),
        )
        await self.site.space.rows(
            "INSERT INTO webhook_delivery (event_id, webhook_id, state, queued_at) VALUES ($1, $2, 'delivered', now())",
            UUID(victim.event),
            UUID(victim.webhook),
        )
        await self.site.space.rows(  # likewise
            "UPDATE particle_product SET url = 'http://127.0.0.1:9' WHERE id = $1", UUID(victim.particle)
        )
        await self.site.space.rows(
            "INSERT INTO clone_sign (device_id, organization_id, kind, count)"
            " SELECT id, organization_id, 'name', 1 FROM device WHERE id = $1",
            UUID(victim.device),
        )
        await self.site.space.rows(
            "UPDATE provision_key SET not_after = now() + interval '1 day' WHERE key = $1", victim.provision_key
        )
        begun = await admin.ok("POST", "/devices/import", b"name\r\n", profile=victim.profile, asJob=True)
        victim.job = begun["job"]["id"]
        await self.site.space.rows(
            "INSERT INTO attempt (id, transport, address, outcome, reason, profile_id)"
            " VALUES ($1, 'HTTP', '192.0.2.7', 'not_found', 'SECRET_WRONG', $2)",
            UUID(victim.attempt),
            UUID(victim.profile),
        )
        await self.site.space.rows(
            "INSERT INTO provision_approval (id, profile_id, digest, transport, address, expires_at)"
            " VALUES ($1, $2, '', 'HTTP', '192.0.2.7', now() + interval '1 hour')",
            UUID(victim.approval),
            UUID(victim.profile),
        )
        while (await admin.ok("GET", f"/jobs/{victim.job}"))["state"] == "running":
            pass
        return victim

    async def ask(self, caller: str, route: Route, victim: Victim) -> Answer:
        ask = TABLE[key(route)](victim)
        path = route.path.removeprefix(PREFIX)
        for name, value in ask.path.items():
            path = path.replace("{" + name + "}", value)
        return await self.callers[caller](route.method, path, ask.body, **ask.query)


@pytest.fixture
async def world(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("provserver.services.webhooks.MAX_WEBHOOKS", 1000)  # of which each victim has one
    async with Site.open(space, tmp_path) as site:
        world = World(site)
        await world.grow()
        yield world


def may(route: Route, role: Role) -> bool:
    return not isinstance(route.access, Permission) or route.access in PERMISSIONS[role]


async def state(world: World) -> dict[str, list[tuple[object, ...]]]:
    """What there is, but for what a look itself leaves behind."""
    kept = await contents(world.site.space)
    return {table: rows for table, rows in kept.items() if table not in ("idempotency_key", "api_key")}


async def test_who_is_not_known_gets_nowhere(world: World) -> None:
    victim = await world.victim("a")
    before = await state(world)
    for route in ROUTES:
        for caller in ("nobody", "unknown", "expired"):
            if route.access is not Access.PUBLIC:
                answer = await world.ask(caller, route, victim)
                assert (answer.status, answer.code) == (401, "unauthenticated"), (caller, key(route))
    assert await state(world) == before


@pytest.mark.parametrize("owner", ["manufacturer", "a", "below-a", "foreign"])
async def test_nothing_is_seen_or_changed_across_organizations(world: World, owner: str) -> None:
    """Who may not see what is asked for cannot tell it from what is not there."""
    victim, ghost = await world.victim(owner), Victim()
    before = await state(world)
    for route, stranger, role in itertools.product(ROUTES, world.strangers(owner), Role):
        ask = TABLE[key(route)](victim)
        if ask.own or route.access is Access.PUBLIC:
            continue
        if key(route) == "POST /static-tokens/claim" and world.organizations[owner] in world.paths[stranger]:
            continue  # which is what customers are for
        answer = await world.ask(f"{stranger} {role}", route, victim)
        told = (stranger, role, key(route), answer.status, answer.body)
        if not may(route, role):
            assert (answer.status, answer.code) == (403, "forbidden"), told
            continue
        of_nothing = await world.ask(f"{stranger} {role}", route, ghost)
        assert answer.status == of_nothing.status, (told, of_nothing.body)
        if answer.status >= 400:
            assert answer.status in (403, 404), told
            assert answer.code == of_nothing.code, told
        else:
            assert key(route) in NOTHING_TO_SAY, told
        given = repr(ask)
        assert not [mark for mark in victim.marks if mark not in given and mark.encode() in answer.body], told
    assert await state(world) == before


@pytest.mark.parametrize("caller", ["a admin", "a staff", "a user", "manufacturer admin", "manufacturer user"])
async def test_roles_may_what_they_may_and_no_more(world: World, caller: str) -> None:
    """Within one's own organization, and from above."""
    role = Role(caller.split()[1])
    above = caller.startswith("manufacturer")
    victim = await world.victim("a")
    used = False
    for route in ROUTES:
        if route.access is Access.PUBLIC or key(route) in ENDLESS or not may(route, role):
            continue
        if used:
            victim = await world.victim("a")
        answer = await world.ask(caller, route, victim)
        used = route.method != "GET" and answer.status < 300 and key(route) not in BESIDE
        told = (key(route), answer.status, answer.body)
        expected = REFUSED_ALL_THE_SAME.get(key(route))
        if above:
            expected = OF_ONES_OWN.get(key(route), expected)
        elif key(route) in AT_THE_TOP:
            expected = 403
        if role is not Role.ADMIN:
            expected = OF_OTHERS[role].get(key(route), expected)
        assert answer.status == expected if expected else answer.status < 300, told
    before = await state(world)
    for route in ROUTES:
        if not may(route, role):
            answer = await world.ask(caller, route, victim)
            assert (answer.status, answer.code) == (403, "forbidden"), key(route)
    assert await state(world) == before
