"""The routes, a module for each noun."""

from provserver.admin.routes import (
    activity,
    api_keys,
    description,
    devices,
    jobs,
    organizations,
    profiles,
    session,
    static_tokens,
    units,
    users,
)

ROUTES = [
    *session.ROUTES,
    *organizations.ROUTES,
    *users.ROUTES,
    *api_keys.ROUTES,
    *profiles.ROUTES,
    *devices.ROUTES,
    *static_tokens.ROUTES,
    *units.ROUTES,
    *jobs.ROUTES,
    *activity.ROUTES,
    *description.ROUTES,
]
"""All there are."""
