"""WiFi sessions: tokens for devices that a person puts onto WiFi, what became of them, and reconfiguration."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import PRINTABLE, Answer, Body, Page, PageQuery, Query, Reference, paged
from provserver.admin.route import Call, route
from provserver.core.authorization import Permission
from provserver.core.wifisession import CLIENT, MAX_DETAIL, MAX_NAME, WORD, WifiSession, WifiState, said
from provserver.services.wifi_sessions import Wanted

Word = Annotated[str, Meta(pattern=WORD, max_length=64, examples=["wifi_wrong_password"])]
Client = Annotated[str, Meta(pattern=CLIENT, max_length=32, description="With what it is asked for.", examples=["app"])]
DeviceName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, pattern=PRINTABLE)]
Detail = Annotated[str, Meta(max_length=MAX_DETAIL, pattern=PRINTABLE)]
Moment = Annotated[datetime, Meta(tz=True)]


class WifiEvent(Answer, frozen=True):
    """What was seen of a session."""

    at: datetime
    event: str
    detail: str | None


class WifiSessionAnswer(Answer, frozen=True):
    """A WiFi session. deviceId: of the device, or of the device to be. duration: in seconds, once it is over.

    deviceName: as asked for, and once the device is there its own: of a customer's it ends in a part of its id.
    lastError: a word; error, remedy: what it means and what to do, null where it is a word of the phone side's alone.
    reprovisioning: the device was there before. log: oldest first.
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
    error: str | None
    remedy: str | None
    started_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    duration: float | None
    log: Sequence[WifiEvent]


class NewWifiSessionAnswer(WifiSessionAnswer, frozen=True, kw_only=True):
    """A new WiFi session. token: for the device, shown this once."""

    token: str


class WifiSummaryAnswer(Answer, frozen=True):
    """What became of sessions. successRate: of those that are over. averageDuration: in seconds, of the successes.

    error, remedy: what the commonest error means, and what to do.
    """

    total: int
    succeeded: int
    success_rate: float | None
    average_duration: float | None
    commonest_error: str | None
    error: str | None
    remedy: str | None


class ReconfiguredAnswer(Answer, frozen=True):
    """Whether the device was told: it is not while it is offline."""

    device_is_offline: bool


class WifiSessionQuery(PageQuery, frozen=True):
    """Which sessions. organization: only those of this one. state: all unless it is given."""

    organization: Reference | UnsetType = UNSET
    state: WifiState | UnsetType = UNSET


class WifiSummaryQuery(Query, frozen=True):
    """Of which sessions. organization: only those of this one. since: only those begun from then on."""

    organization: Reference | UnsetType = UNSET
    since: Moment | UnsetType = UNSET


class NewWifiSession(Body, frozen=True):
    """A session to be: for a device to be, or for one that is there, which `device` names alone.

    organization: that is to have the device; the owner's, or the caller's own, if it is left out. owner: a user, by id
    or e-mail. template: a profile by template id, name or id; left out, the device says it. name: the device's; where
    the organization is not the maker of it, a part of the device's id is put behind it.
    """

    organization: Reference | UnsetType = UNSET
    owner: Reference | UnsetType = UNSET
    template: Reference | UnsetType = UNSET
    name: DeviceName | UnsetType = UNSET
    device: Reference | UnsetType = UNSET
    client: Client = "app"


class Seen(Body, frozen=True):
    """What the phone side saw. error: becomes the last error; the session goes on."""

    event: Word
    detail: Detail | UnsetType = UNSET
    error: Word | UnsetType = UNSET


class Failure(Body, frozen=True):
    """Why a session came to nothing."""

    error: Word


async def list_wifi_sessions(call: Call[WifiSessionQuery, None]) -> Page[WifiSessionAnswer]:
    """List the WiFi sessions of your organization and those below, the newest first."""
    query = call.query
    found = await call.services.wifi_sessions.list_(
        call.principal,
        query.after,
        query.limit + 1,
        organization=query.organization or None,
        state=query.state or None,
    )
    return paged(found, query.limit, _shown)


async def request_wifi_session(call: Call[None, NewWifiSession]) -> NewWifiSessionAnswer:
    """Begin a WiFi session: a token for a device, good once.

    The device that logs in with it is made, or takes it over instead of its present token.
    """
    body = call.body
    wanted = Wanted(
        organization=body.organization or None,
        owner=body.owner or None,
        template=body.template or None,
        name=body.name or None,
        device=body.device or None,
        client=body.client,
    )
    made = await call.services.wifi_sessions.request(call.principal, wanted)
    session = made.session
    return NewWifiSessionAnswer.of(session, **_said(session.last_error), log=_log(session), token=made.token)


async def summarize_wifi_sessions(call: Call[WifiSummaryQuery, None]) -> WifiSummaryAnswer:
    """Tell what became of the WiFi sessions of your organization and those below."""
    query = call.query
    found = await call.services.wifi_sessions.summary(
        call.principal, organization=query.organization or None, since=query.since or None
    )
    return WifiSummaryAnswer.of(found, **_said(found.commonest_error))


async def show_wifi_session(call: Call[None, None]) -> WifiSessionAnswer:
    """Show a WiFi session."""
    return _shown(await call.services.wifi_sessions.show(call.principal, call.id))


async def note_wifi_event(call: Call[None, Seen]) -> WifiSessionAnswer:
    """Add what the phone side saw to a WiFi session's log."""
    body = call.body
    return _shown(
        await call.services.wifi_sessions.note(
            call.principal, call.id, body.event, body.detail or None, body.error or None
        )
    )


async def cancel_wifi_session(call: Call[None, None]) -> WifiSessionAnswer:
    """End a WiFi session: its token is good no more."""
    return _shown(await call.services.wifi_sessions.cancel(call.principal, call.id))


async def fail_wifi_session(call: Call[None, Failure]) -> WifiSessionAnswer:
    """End a WiFi session that came to nothing: its token is good no more."""
    return _shown(await call.services.wifi_sessions.fail(call.principal, call.id, call.body.error))


async def reconfigure_device(call: Call[None, None]) -> ReconfiguredAnswer:
    """Have a device open its access point, if it is connected."""
    online = await call.services.wifi_sessions.reconfigure(call.principal, call.text("device"))
    return ReconfiguredAnswer(not online)


def _shown(session: WifiSession) -> WifiSessionAnswer:
    return WifiSessionAnswer.of(session, **_said(session.last_error), log=_log(session))


def _said(word: str | None) -> dict[str, str | None]:
    found = said(word)
    return {"error": found and found.what, "remedy": found and found.remedy}


def _log(session: WifiSession) -> list[WifiEvent]:
    return [WifiEvent(datetime.fromisoformat(each["at"]), each["event"], each["detail"]) for each in session.log]


_VIEW, _CLAIM = Permission.DEVICES_VIEW, Permission.DEVICES_CLAIM

ROUTES = [
    route("GET", "/wifi-sessions", _VIEW, list_wifi_sessions, problems=("not_found", "conflict")),
    route(
        "POST",
        "/wifi-sessions",
        _CLAIM,
        request_wifi_session,
        creates=True,
        problems=("not_found", "conflict", "invalid"),
        example={"template": "TMPLk3wJ2mQx9", "client": "app"},
    ),
    route(
        "GET", "/wifi-sessions/summary", _VIEW, summarize_wifi_sessions, problems=("not_found", "conflict", "invalid")
    ),
    route("GET", "/wifi-sessions/{id}", _VIEW, show_wifi_session),
    route(
        "POST",
        "/wifi-sessions/{id}/events",
        _CLAIM,
        note_wifi_event,
        problems=("conflict", "invalid"),
        example={"event": "device_says", "error": "wifi_wrong_password"},
    ),
    route("POST", "/wifi-sessions/{id}/cancel", _CLAIM, cancel_wifi_session, problems=("conflict",)),
    route(
        "POST",
        "/wifi-sessions/{id}/fail",
        _CLAIM,
        fail_wifi_session,
        problems=("conflict", "invalid"),
        example={"error": "device_not_found"},
    ),
    route("POST", "/devices/{device}/reconfigure", _CLAIM, reconfigure_device, problems=("conflict",)),
]
