"""The console's own address, as the browser that asks has it."""

from provserver.admin.console.page import Ask


def origin(ask: Ask) -> str:
    """The scheme, and the name that the listener has found to be one of ours: what links for others begin with."""
    return f"{'https' if ask.request.secure else 'http'}://{ask.request.headers.get('host', 'localhost')}"
