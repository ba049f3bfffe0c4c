"""What happened to one device."""

from datetime import datetime
from uuid import UUID

from provserver.admin.fields import Answer, Page, PageQuery, paged
from provserver.admin.route import Call, route
from provserver.core.authorization import Permission
from provserver.core.timeline import Kind


class EntryAnswer(Answer, frozen=True):
    """Something that happened. text: a sentence; detail: what more there is to say. state: an attempt's outcome, a
    job's or session's state, an action of the audit.

    actor: who did it, where the reader may know; actorName: what he is called. subjectId: of the attempt, job or
    WiFi session itself.
    """

    id: UUID
    kind: Kind
    at: datetime
    text: str
    detail: str | None
    state: str | None
    actor: str | None
    actor_name: str | None
    subject_id: UUID | None


async def show_timeline(call: Call[PageQuery, None]) -> Page[EntryAnswer]:
    """List what happened to a device, newest first.

    Attempts are for who may see profiles, who did what for who may read the audit. Of connections there is the present
    or last one.
    """
    query, timeline = call.query, call.services.device_timeline
    found = await timeline.read(call.principal, call.text("device"), query.after, query.limit + 1)
    names = await timeline.actor_names(call.principal, found)
    return paged(
        found,
        query.limit,
        lambda entry: EntryAnswer.of(entry, actor_name=None if entry.actor is None else names.get(entry.actor)),
    )


ROUTES = [
    route("GET", "/devices/{device}/timeline", Permission.DEVICES_VIEW, show_timeline, problems=("conflict",)),
]
