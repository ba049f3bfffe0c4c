"""WiFi sessions: tries of people to get one device onto WiFi with a token of ours (spec wifi-inject B.1)."""

import re
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from msgspec import Struct


class WifiState(StrEnum):
    """What has become of a session.

    WAITING: its token is given; CONNECTED: a device has logged in with it and is yet to say of which template it is.
    The others are the end of it.
    """

    WAITING = "WAITING"
    CONNECTED = "CONNECTED"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"


OPEN: Final = (WifiState.WAITING, WifiState.CONNECTED)

MAX_NAME: Final = 200
"""Characters of the name that a device is to have; what is put behind it is not counted."""

MAX_DETAIL: Final = 200
"""Characters of what is said of an event beside its word."""

MAX_LOG: Final = 200
"""Entries of a session's log; further ones are not kept."""

WORD: Final = "^[a-z0-9_]{1,64}$"
"""What events and errors are."""

CLIENT: Final = "^[a-z0-9_-]{1,32}$"
"""What clients are: `cli`, `app`."""

TEMPLATE_UNKNOWN: Final = "hw_info_tmpl_not_found"
TEMPLATE_ELSEWHERE: Final = "template_of_another_organization"
TEMPLATE_WRONG: Final = "wrong_template"
QUOTA: Final = "device_quota"


class WifiSession(Struct, frozen=True, gc=False):
    """A session without its token.

    organization_id: that is to have the device; owner_id: who of it, if anybody. requester: the actor. client: with
    what it was asked for. device_id: the device's, or that which it will have. profile_id, profile, template_id: None
    while nobody knows. reprovisioning: the device was there before. last_error: a word. log: of `at`, `event`,
    `detail`, oldest first.
    """

    id: UUID
    organization_id: UUID
    organization: str
    owner_id: UUID | None
    owner: str | None
    requester: str
    client: str
    device_id: UUID
    device_name: str | None
    profile_id: UUID | None
    profile: str | None
    template_id: str | None
    reprovisioning: bool
    state: WifiState
    last_error: str | None
    started_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    log: Sequence[dict[str, Any]]

    @property
    def duration(self) -> float | None:
        """Seconds that it took; None while it goes on."""
        return None if self.ended_at is None else (self.ended_at - self.started_at).total_seconds()


class Summary(Struct, frozen=True):
    """What became of sessions.

    success_rate: of those that are over; average_duration: seconds, of those that succeeded; None when there is none.
    commonest_error: the last errors of those that did not.
    """

    total: int
    succeeded: int
    success_rate: float | None
    average_duration: float | None
    commonest_error: str | None


def is_word(text: str) -> bool:
    """Whether a text may be an event or an error."""
    return re.fullmatch(WORD, text) is not None


def is_client(text: str) -> bool:
    """Whether a text may be a client."""
    return re.fullmatch(CLIENT, text) is not None
