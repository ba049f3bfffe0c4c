"""Pages of Particle, with a stand-in for its cloud: connected, tested, planned and applied, with reports to read."""

from collections.abc import AsyncIterator

import pytest

from provserver.core.authorization import Principal, Role
from provserver.core.particle import Pace
from provserver.services.job_runner import JobRunner
from provserver.services.jobs import Progress
from provserver.services.network_check import outgoing
from provserver.services.particle import kinds
from tests.admin.conftest import Site
from tests.admin.console.conftest import Visit, Visitor
from tests.support.particle import PRODUCT, TOKEN, Particle

EVIL = "nodes <script>alert(1)</script>"
PACE = Pace(rate=10_000.0, first=0.0)


@pytest.fixture
async def cloud(site: Site) -> AsyncIterator[Particle]:
    site.api.services.particle._connect = lambda: outgoing("127.0.0.1")
    async with Particle() as made:
        made.add(1, 2, 3)
        yield made


@pytest.fixture
async def profile(visitor: Visitor) -> str:
    made = await visitor.api("POST", "/profiles", {"name": EVIL, "keyless": True})
    return str(made["id"])


@pytest.fixture
async def runner(site: Site) -> AsyncIterator[JobRunner]:
    """A process that runs the jobs."""
    space = site.space
    made = JobRunner(space.database, kinds(space.database, space.keys, lambda: outgoing("127.0.0.1"), PACE), idle=0.01)
    await made.start()
    yield made
    await made.stop(5)


async def connected(visitor: Visitor, cloud: Particle, profile: str) -> str:
    made = await visitor.post(
        "/integrations/particle",
        profile=profile,
        product=PRODUCT,
        accessToken=TOKEN,
        ledger="blynk-tokens-c2d",
        org="",
        url=cloud.url,
    )
    assert made.status == 200, made.text
    return made.location


async def ended(visitor: Visitor, path: str) -> str:
    """What a run's page says in the end."""
    while 'hx-trigger="every 1s"' in (shown := await visitor.get(path, part=True, headers={"HX-Target": "run"})).html:
        pass
    return shown.text


async def test_a_product_is_connected_and_its_token_never_shown(
    visitor: Visitor, cloud: Particle, profile: str
) -> None:
    assert "No product is connected" in (await visitor.get("/integrations/particle")).text
    assert (await visitor.get("/integrations/particle/new")).status == 200

    path = await connected(visitor, cloud, profile)

    for shown in (
        await visitor.get(path),
        await visitor.get(path + "/edit"),
        await visitor.get("/integrations/particle"),
    ):
        assert shown.status == 200
        assert TOKEN not in shown.html
        assert EVIL not in shown.html
        assert PRODUCT in shown.text


async def test_its_access_is_tested_in_words(visitor: Visitor, cloud: Particle, profile: str) -> None:
    path = await connected(visitor, cloud, profile)

    good = await visitor.post(path + "/test")
    cloud.tokens.clear()
    bad = await visitor.post(path + "/test")

    assert "Nothing is known to be missing" in good.text
    assert "It may list the product's devices" in good.text
    assert "provserver particle" not in good.text
    assert "Something is missing" in bad.text


@pytest.mark.usefixtures("runner")
async def test_plan_apply_verify_and_revoke_with_reports_to_read(
    visitor: Visitor, cloud: Particle, profile: str
) -> None:
    path = await connected(visitor, cloud, profile)
    await visitor.api("POST", "/static-tokens", {"profile": profile, "count": 2})

    planned = await visitor.post(path + "/runs", acting="plan", devices="", group="", serial="")
    assert planned.location.startswith(path + "/runs/"), planned.text
    plan = await ended(visitor, planned.location)
    assert "3 devices looked at; 2 would be changed." in plan
    assert "gets none: no token is free" in plan
    assert cloud.tokens_given() == {}

    applied = await visitor.post(path + "/runs", acting="apply")
    assert "2 changed" in await ended(visitor, applied.location)
    given = cloud.tokens_given()
    assert len(given) == 2

    verified = await visitor.post(path + "/runs", acting="verify", devices="\n".join(given))
    text = await ended(visitor, verified.location)
    assert "All is as it is to be" in text
    assert not any(token in text for token in given.values())

    assert (await visitor.post(path + "/runs", acting="revoke")).status == 422
    revoked = await visitor.post(path + "/runs", acting="revoke", devices=min(given))
    assert "loses its token" in await ended(visitor, revoked.location)
    assert len(cloud.tokens_given()) == 1
    page = await visitor.get(path)
    for word in ("Plan", "Apply", "Verify", "Revoke"):
        assert f">{word}</a>" in page.html


async def test_it_is_changed_with_the_token_left_as_it_is(visitor: Visitor, cloud: Particle, profile: str) -> None:
    path = await connected(visitor, cloud, profile)
    same = {"product": PRODUCT, "accessToken": "", "org": "", "url": cloud.url, "revision": "1"}

    changed = await visitor.post(path, ledger="other-ledger", **same)

    assert changed.location == path, changed.text
    assert "other-ledger" in (await visitor.get(path)).text
    assert (await visitor.post(path, ledger="more", **same)).status == 412


async def test_it_is_disconnected(visitor: Visitor, cloud: Particle, profile: str) -> None:
    path = await connected(visitor, cloud, profile)
    assert "is forgotten here" in (await visitor.get(path)).text

    gone = await visitor.post(path + "/disconnect")

    assert gone.location == "/integrations/particle"
    assert (await visitor.get(path)).status == 404


async def test_what_cannot_be_asked_for(visit: Visit, visitor: Visitor, cloud: Particle, profile: str) -> None:
    path = await connected(visitor, cloud, profile)

    assert (await visitor.post(path + "/runs", acting="explode")).status == 400
    assert (await visitor.post(path + "/runs", acting="revoke", devices="XYZ")).status == 422
    assert (await (await visit(Role.USER)).get("/integrations/particle")).status == 403


async def test_a_job_of_another_kind_is_no_run(visitor: Visitor, site: Site, cloud: Particle, profile: str) -> None:
    path = await connected(visitor, cloud, profile)

    async def work(progress: Progress) -> object:
        progress(1, 1)
        return {"imported": 1}

    principal = Principal(f"user:{visitor.id}", site.space.organization_id)
    job = await site.api.services.jobs.start(principal, "devices.import", work)
    page = await visitor.get(f"{path}/runs/{job.id}")
    assert page.status == 404
    assert "no run" in page.text
