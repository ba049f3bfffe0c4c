"""Jobs: work that takes longer than a request should."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import PRINTABLE, Answer, Page, PageQuery, paged
from provserver.admin.route import Access, Call, route
from provserver.core.job import JobState

Kind = Annotated[str, Meta(min_length=1, max_length=64, pattern=PRINTABLE, examples=["static_tokens.make"])]


class JobAnswer(Answer, frozen=True):
    """A job. state: waiting, running, done, failed or cancelled. total: null while it is not known.

    result: of its kind. error: why it failed, or why it is tried again; remedy: what to do about it. subjectId: what it
    is about, a device for example. step: the one begun last. dueAt: when it is tried again. ending: what it is once
    all it did is undone. durable: it outlives the process that does it, is undone when it is cancelled, and may be
    tried again. actorName: what the actor is called; null of those that you cannot see, and of a job that was
    only just asked for.
    """

    id: UUID
    organization_id: UUID
    kind: str
    actor: str
    state: JobState
    done: int
    total: int | None
    result: Any
    error: str | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    subject_id: UUID | None
    step: str | None
    tries: int
    due_at: datetime | None
    ending: str | None
    remedy: str | None
    durable: bool
    actor_name: str | None

    @classmethod
    def of(cls, thing: object, **more: object) -> Self:
        """A job as the service has it."""
        return super().of(thing, **({"actor_name": None} | more))


class StepAnswer(Answer, frozen=True):
    """A step of a job. state: begun, done, failed (and so without effect) or undone. tries: how often it was begun."""

    name: str
    state: str
    tries: int
    result: Any
    begun_at: datetime
    ended_at: datetime | None


class JobDetailsAnswer(JobAnswer, frozen=True, kw_only=True):
    """A job and its steps, in their order; of many the newest."""

    steps: Sequence[StepAnswer]


class JobsQuery(PageQuery, frozen=True):
    """Which jobs. subject: the id of what they are about."""

    state: JobState | UnsetType = UNSET
    kind: Kind | UnsetType = UNSET
    subject: UUID | UnsetType = UNSET


class Begun(Answer, frozen=True):
    """Work that goes on."""

    job: JobAnswer


async def list_jobs(call: Call[JobsQuery, None]) -> Page[JobAnswer]:
    """List jobs, newest first: of a state, of a kind, about something, or all."""
    query = call.query
    found = await call.services.jobs.list_(
        call.principal,
        query.after,
        query.limit + 1,
        state=query.state or None,
        kind=query.kind or None,
        subject_id=query.subject or None,
    )
    names = await call.services.jobs.names(call.principal, [each.actor for each in found])
    return paged(found, query.limit, lambda job: JobAnswer.of(job, actor_name=names.get(job.actor)))


async def show_job(call: Call[None, None]) -> JobDetailsAnswer:
    """Show a job, with its progress, steps and result."""
    job, steps = await call.services.jobs.details(call.principal, call.id)
    name = (await call.services.jobs.names(call.principal, [job.actor])).get(job.actor)
    return JobDetailsAnswer.of(job, actor_name=name, steps=[StepAnswer.of(each) for each in steps])


async def cancel_job(call: Call[None, None]) -> JobAnswer:
    """Have a job end; what a durable one did is undone first."""
    return JobAnswer.of(await call.services.jobs.cancel(call.principal, call.id))


async def retry_job(call: Call[None, None]) -> JobAnswer:
    """Have a durable job that failed be tried again."""
    return JobAnswer.of(await call.services.jobs.retry(call.principal, call.id))


ROUTES = [
    route("GET", "/jobs", Access.ANYONE, list_jobs),
    route("GET", "/jobs/{id}", Access.ANYONE, show_job),
    route("POST", "/jobs/{id}/cancel", Access.ANYONE, cancel_job, problems=("conflict",)),
    route("POST", "/jobs/{id}/retry", Access.ANYONE, retry_job, problems=("conflict",)),
]
