from provserver.errors import RETRY_AFTER_SECONDS

WAITS = range(RETRY_AFTER_SECONDS, 2 * RETRY_AFTER_SECONDS + 1)
"""Seconds that who is told to come back may be told to wait."""
