import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from provserver.admin.console.pages import jobs
from provserver.core.authorization import Principal, Role
from provserver.core.job import JobState
from provserver.services.jobs import Progress
from tests.admin.conftest import Site
from tests.admin.console.conftest import Visit, Visitor

MARKUP = "<script>alert(1)</script>"


async def durable(site: Site, state: str, **columns: Any) -> str:
    """A job as `job_runner.py` leaves it."""
    row = {
        "id": uuid4(),
        "organization_id": site.space.organization_id,
        "kind": "network.onboard",
        "actor": "operator",
        "state": state,
        "durable": True,
    } | columns
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    await site.space.rows(f"INSERT INTO job ({', '.join(row)}) VALUES ({places})", *row.values())
    return str(row["id"])


async def test_there_is_no_job_yet(visitor: Visitor) -> None:
    page = await visitor.get("/jobs")
    assert page.status == 200
    assert "There is no job yet" in page.text


async def test_a_job_is_followed_until_it_is_done_and_its_result_shown(visitor: Visitor, site: Site) -> None:
    go, begun = asyncio.Event(), asyncio.Event()

    async def work(progress: Progress) -> object:
        progress(30, 100)
        begun.set()
        await go.wait()
        progress(100)
        return {"imported": 99, "errors": [{"row": 7, "column": MARKUP, "reason": MARKUP}]}

    assert visitor.id is not None
    principal = Principal(f"user:{visitor.id}", site.space.organization_id)
    job = await site.api.services.jobs.start(principal, "devices.import", work)
    await begun.wait()
    page = await visitor.get(f"/jobs/{job.id}")
    while "30 of 100" not in page.text:
        page = await visitor.get(f"/jobs/{job.id}")
    assert 'hx-trigger="every 1s"' in page.html
    assert "Stop this job?" in page.text
    assert "by you" in page.text
    part = await visitor.get(f"/jobs/{job.id}/progress", part=True)
    assert "Stop this job?" not in part.text  # a dialog that is open stays so
    assert "hx-swap-oob" not in part.html
    go.set()
    while "every 1s" in part.html:
        part = await visitor.get(f"/jobs/{job.id}/progress", part=True)
    assert "hx-swap-oob" in part.html
    assert "Imported 99" in part.text
    assert "row 7" in part.text
    assert MARKUP not in part.html
    listed = await visitor.get("/jobs", state="done", kind="devices.import")
    assert f"/jobs/{job.id}" in listed.html
    assert "No job fits" in (await visitor.get("/jobs", state="failed")).text


async def test_a_job_is_cancelled(visitor: Visitor, site: Site) -> None:
    begun = asyncio.Event()

    async def work(_: Progress) -> object:
        begun.set()
        return await asyncio.Event().wait()

    principal = Principal(f"user:{visitor.id}", site.space.organization_id)
    job = await site.api.services.jobs.start(principal, "devices.import", work)
    await begun.wait()
    done = await visitor.post(f"/jobs/{job.id}/cancel")
    assert done.location == f"/jobs/{job.id}"
    page = await visitor.get(f"/jobs/{job.id}")
    assert "The job is cancelled." in page.text
    assert "Stop this job?" not in page.text
    assert (await visitor.post(f"/jobs/{job.id}/cancel")).status == 409


async def test_a_durable_job_that_failed_says_why_and_is_tried_again(visitor: Visitor, site: Site) -> None:
    device = uuid4()
    id_ = await durable(site, "failed", error=MARKUP, remedy="Make another key.", subject_id=device)
    await site.space.rows(
        "INSERT INTO job_step (job_id, name, state, tries) VALUES ($1, 'join_server', 'failed', 3)", UUID(id_)
    )
    page = await visitor.get(f"/jobs/{id_}")
    assert "Why it failed" in page.text
    assert "Make another key." in page.text
    assert MARKUP not in page.html
    assert "join server" in page.text
    assert f"/devices/{device}" in page.html
    again = await visitor.post(f"/jobs/{id_}/retry")
    assert again.location == f"/jobs/{id_}"
    page = await visitor.get(f"/jobs/{id_}")
    assert "The job is tried again." in page.text
    assert "For its turn" in page.text
    assert "all that it has done is undone" in page.text
    assert (await visitor.post(f"/jobs/{id_}/cancel")).location == f"/jobs/{id_}"
    assert "What it did is being undone" in (await visitor.get(f"/jobs/{id_}")).text


async def test_jobs_with_pages_of_their_own_lead_there(visitor: Visitor, site: Site) -> None:
    id_ = await durable(site, "done", kind="static_tokens.make", durable=False, finished_at=datetime.now(UTC))
    assert f'href="/jobs/{id_}"' in (await visitor.get("/jobs")).html
    assert f'href="/static-tokens/jobs/{id_}"' in (await visitor.get(f"/jobs/{id_}")).html


async def test_each_sees_the_own_jobs(visit: Visit, site: Site) -> None:
    admin, user = await visit(), await visit(Role.USER)
    mine = await durable(site, "done", actor=f"user:{user.id}")
    other = await durable(site, "done")
    page = await user.get("/jobs")
    assert mine in page.html
    assert other not in page.html
    assert (await user.get(f"/jobs/{other}")).status == 404
    assert (await user.post(f"/jobs/{other}/retry")).status == 404
    page = await admin.get("/jobs")
    assert "person-2@example.com" in page.text
    assert other in page.html
    customer = await site.api.services.organizations.create(site.operator, "customer")
    below = await visit(Role.ADMIN, customer.id)
    assert (await below.get(f"/jobs/{other}")).status == 404
    assert (await below.get(f"/jobs/{other}/progress")).status == 404


def test_every_state_has_its_words() -> None:
    assert set(jobs.STATES) == set(JobState)


def test_what_is_left_is_foretold_by_what_was_done() -> None:
    begun = datetime(2026, 11, 23, tzinfo=UTC)
    job = {"state": "running", "createdAt": begun.isoformat(), "done": 50, "total": 200}
    now = begun + timedelta(seconds=10)
    assert jobs.pace(job, now) == (5.0, 30.0)
    assert jobs.pace(job | {"total": None}, now) == (5.0, None)
    assert jobs.pace(job | {"done": 0}, now) == (None, None)
    assert jobs.pace(job | {"state": "done"}, now) == (None, None)
    assert jobs.pace(job | {"total": 10**12}, now) == (5.0, None)
