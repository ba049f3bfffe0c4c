"""WiFi sessions: tries of people to get one device onto WiFi with a token of ours (spec wifi-inject B.1)."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple
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


class Said(NamedTuple):
    """What a word means. what: a sentence; remedy: what to do, sentences, too."""

    what: str
    remedy: str


_AGAIN = "Then start another session."

_SAID: Mapping[str, Said] = MappingProxyType(
    {
        TEMPLATE_UNKNOWN: Said(
            "The device named a template that this server does not have.",
            "Compare the template id in its firmware with the profile's, letter by letter. " + _AGAIN,
        ),
        TEMPLATE_ELSEWHERE: Said(
            "The device is of a maker whose customer the session's organization is not.",
            "Start the session for the right organization.",
        ),
        TEMPLATE_WRONG: Said(
            "The board is of another template than the session, or the device, is of.",
            "The phone was joined to another board's access point. Join the right one, and start another session; "
            "delete the device that was made by mistake.",
        ),
        QUOTA: Said(
            "The organization may have no more devices.",
            "Raise its quota, or delete a device: the board comes back by itself.",
        ),
        "timeout": Said(
            "Neither the device nor its access point has said anything in time.",
            "See what its LED tells, and whether it is near enough to the WiFi. It may come until the session ends.",
        ),
        "device_not_found": Said(
            "The phone found no access point of a device.",
            "See that the device is powered; hold its button for 10 seconds until its access point opens. " + _AGAIN,
        ),
        "no_reason": Said(
            "The device came back to its access point without a reason.",
            "It may have lost power, or its button was pressed. See that it is powered well. " + _AGAIN,
        ),
        "config_invalid": Said(
            "The device did not take its settings.",
            "See that its firmware takes tokens of 32 characters, and that the network has a name. " + _AGAIN,
        ),
        "wifi_not_connected": Said(
            "The device could not join the WiFi.",
            "Check the network's name and password, that it has 2.4 GHz, and that the device is near enough. " + _AGAIN,
        ),
        "server_unreachable": Said(
            "The device joined the WiFi, but could not reach this server.",
            "Check the host and port that it was given, and that no firewall is between them. " + _AGAIN,
        ),
        "token_invalid": Said(
            "The server that the device reached did not know its token.",
            "The session had ended, or it was another server: check the host that it was given. " + _AGAIN,
        ),
        "access_point_failed": Said(
            "The device's access point did not open.",
            "Take its power away and give it back; update old versions of the ESP8266's core. " + _AGAIN,
        ),
        "server_refused": Said(
            "The device reached the server, but could not log in.",
            "The attempts have the reason. See that host and port are those of the listener for its firmware. "
            + _AGAIN,
        ),
        "host_unknown": Said(
            "The device could not resolve the server's name.",
            "Check the host that it was given, and the DNS of its WiFi. " + _AGAIN,
        ),
        "certificate_invalid": Said(
            "The device does not trust this server's certificate.",
            "See that the certificate is of the host's name, in date and of a CA that the firmware has, and that the "
            "device can set its clock by NTP. " + _AGAIN,
        ),
        "captive_portal": Said(
            "The WiFi wants somebody to log in on a web page first.",
            "Use another network, or have its owner let the device through by its MAC address. " + _AGAIN,
        ),
        "wifi_not_found": Said(
            "The device does not see that WiFi.",
            "Check its name, that it has 2.4 GHz, and that the device is near enough. " + _AGAIN,
        ),
        "no_cable": Said("There is no cable in the device.", "Plug one in, or choose WiFi. " + _AGAIN),
        "wifi_wrong_password": Said("The WiFi did not take that password.", "Type it anew. " + _AGAIN),
        "wifi_no_address": Said(
            "The WiFi gave the device no address.",
            "Restart the router; see whether its DHCP is on and has addresses left. " + _AGAIN,
        ),
        "sim_missing": Said("There is no SIM card in the device.", "Put one in, or choose WiFi. " + _AGAIN),
        "sim_locked": Said("The SIM card wants its PIN.", "Unlock it in a telephone, or choose WiFi. " + _AGAIN),
        "sim_wrong_pin": Said(
            "The SIM card did not take its PIN.", "Check the PIN before the card locks itself. " + _AGAIN
        ),
    }
)


def said(word: str | None) -> Said | None:
    """What a last error means; None for none, and for words that only the phone side knows."""
    return None if word is None else _SAID.get(word)


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
