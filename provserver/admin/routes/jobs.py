"""Jobs: work that takes longer than a request should."""

from datetime import datetime
from typing import Any
from uuid import UUID

from provserver.admin.fields import Answer, Page, PageQuery, paged
from provserver.admin.route import Access, Call, route


class JobAnswer(Answer, frozen=True):
    """A job. state: running, done, failed or cancelled. total: null while it is not known. result: of its kind."""

    id: UUID
    organization_id: UUID
    kind: str
    actor: str
    state: str
    done: int
    total: int | None
    result: Any
    error: str | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None


class Begun(Answer, frozen=True):
    """Work that goes on."""

    job: JobAnswer


async def list_jobs(call: Call[PageQuery, None]) -> Page[JobAnswer]:
    """List jobs, newest first."""
    query = call.query
    found = await call.services.jobs.list_(call.principal, query.after, query.limit + 1)
    return paged(found, query.limit, JobAnswer.of)


async def show_job(call: Call[None, None]) -> JobAnswer:
    """Show a job, with its progress or result."""
    return JobAnswer.of(await call.services.jobs.show(call.principal, call.id))


async def cancel_job(call: Call[None, None]) -> JobAnswer:
    """Have a job end."""
    return JobAnswer.of(await call.services.jobs.cancel(call.principal, call.id))


ROUTES = [
    route("GET", "/jobs", Access.ANYONE, list_jobs),
    route("GET", "/jobs/{id}", Access.ANYONE, show_job),
    route("POST", "/jobs/{id}/cancel", Access.ANYONE, cancel_job, problems=("conflict",)),
]
