"""The routes, a module for each noun."""

from provserver.admin.routes import (
    activity,
    api_keys,
    approvals,
    audit,
    description,
    devices,
    explain,
    issuing,
    jobs,
    organizations,
    profiles,
    request_keys,
    session,
    static_tokens,
    units,
    users,
    webhooks,
)

ROUTES = [
    *session.ROUTES,
    *organizations.ROUTES,
    *users.ROUTES,
    *api_keys.ROUTES,
    *profiles.ROUTES,
    *issuing.ROUTES,
    *request_keys.ROUTES,
    *devices.ROUTES,
    *approvals.ROUTES,
    *static_tokens.ROUTES,
    *units.ROUTES,
    *jobs.ROUTES,
    *webhooks.ROUTES,
    *activity.ROUTES,
    *explain.ROUTES,
    *audit.ROUTES,
    *description.ROUTES,
]
"""All there are."""
