from uuid import UUID

import pytest

from provserver.admin.console.pages.organizations import _section
from provserver.core.authorization import Role
from tests.admin.console.conftest import Visit, Visitor

SCRIPT = "<script>alert(1)</script>"


async def made(visitor: Visitor, name: str, parent: str | None = None, **more: object) -> dict[str, str]:
    body = {"name": name} | more | ({"parent": parent} if parent else {})
    organization: dict[str, str] = await visitor.api("POST", "/organizations", body)
    return organization


async def test_an_organization_is_made_changed_and_deleted(visitor: Visitor) -> None:
    assert "no organization below yet" in (await visitor.get("/organizations")).text
    page = await visitor.get("/organizations/new")
    parent = page.html.split('name="parent" value="')[1].split('"')[0]
    created = await visitor.post(
        "/organizations", name=SCRIPT, parent=parent, deviceQuota="10", tokenQuota="", signUp="on"
    )
    number = created.location.rpartition("/")[2]
    page = await visitor.get(created.location)
    assert f"The organization {SCRIPT} was created." in page.text
    assert "Devices, with all below it: 0 of 10" in page.text
    assert f"{visitor.url}/sign-up?organization={number}" in page.text
    assert SCRIPT not in page.html
    listed = await visitor.get("/organizations")
    assert (SCRIPT in listed.text, SCRIPT in listed.html) == (True, False)

    revision = page.html.split('name="revision" value="')[1].split('"')[0]
    form = {"name": "Customer", "deviceQuota": "", "tokenQuota": "7", "revision": revision}
    assert (await visitor.post(f"/organizations/{number}", **form)).location == f"/organizations/{number}"
    changed = await visitor.api("GET", f"/organizations/{number}")
    assert (changed["name"], changed["deviceQuota"], changed["tokenQuota"], changed["signUp"]) == (
        "Customer",
        None,
        7,
        False,
    )
    assert (await visitor.post(f"/organizations/{number}", **form)).status == 412
    odd = await visitor.post(f"/organizations/{number}", **form | {"revision": "2", "tokenQuota": "many"})
    assert (odd.status, 'data-field="tokenQuota"' in odd.html) == (400, True)

    await visitor.api("POST", "/keys", {"name": "line", "permissions": ["devices:view"], "organization": number})
    page = await visitor.get(f"/organizations/{number}")
    assert "With it go 1 API key" in page.text
    assert (await visitor.post(f"/organizations/{number}/delete")).location == "/organizations"
    assert (await visitor.get(f"/organizations/{number}")).status == 404


async def test_what_has_something_left_says_what(visitor: Visitor) -> None:
    organization = await made(visitor, "Customer")
    for n in range(2):
        await visitor.api(
            "POST", "/users", {"email": f"u{n}@example.com", "role": "user", "organization": organization["id"]}
        )
    page = await visitor.get(f"/organizations/{organization['number']}")
    assert "It cannot be deleted while it has 2 users." in page.text
    assert "/delete" not in page.html
    refused = await visitor.post(f"/organizations/{organization['number']}/delete")
    assert (refused.status, "still has users" in refused.text) == (409, True)


async def test_the_tree_is_opened_branch_by_branch(visitor: Visitor) -> None:
    above = await made(visitor, "Above")
    below = await made(visitor, "Below", above["id"])
    page = await visitor.get("/organizations")
    assert "Above" in page.text
    assert f'href="/organizations/{below["number"]}"' not in page.html
    assert f"/organizations/branch?parent={above['id']}" in page.html
    branch = await visitor.get("/organizations/branch", parent=above["id"], part=True)
    assert f'href="/organizations/{below["number"]}"' in branch.html
    assert "<html" not in branch.html
    found = await visitor.get("/organizations", search="BELO")
    assert "Below" in found.text
    assert "Manufacturer › Above" in found.text
    assert "No organization has “none such”" in (await visitor.get("/organizations", search="none such")).text
    crumbs = await visitor.get(f"/organizations/{below['number']}")
    assert "Manufacturer › Above › Below" in crumbs.text


async def test_one_looks_at_what_is_below_and_goes_back(visitor: Visitor) -> None:
    top = await visitor.get("/organizations")
    assert "data-switcher" not in top.html
    above = await made(visitor, "Above")
    below = await made(visitor, "Below", above["id"])
    assert "data-switcher" in (await visitor.get("/organizations")).html

    base = f"/o/{above['number']}"
    at = {"HX-Current-URL": f"{visitor.url}{base}/users/123?search=x"}
    switcher = await visitor.get("/organizations/switcher", part=True, headers=at)
    assert 'href="/users"' in switcher.html
    assert f'href="{base}/users"' in switcher.html
    assert "Below" not in switcher.text.replace("Below Above", "")
    branch = await visitor.get("/organizations/switcher/branch", part=True, headers=at, parent=above["id"])
    assert f'href="/o/{below["number"]}/users"' in branch.html
    found = await visitor.get("/organizations/switcher", part=True, headers=at, search="elo")
    assert f'href="/o/{below["number"]}/users"' in found.html
    assert "No organization below yours" in (await visitor.get("/organizations/switcher", part=True, search="x y")).text

    page = await visitor.get(f"{base}/organizations")
    assert "You are looking at Above" in page.text
    assert f'href="{base}/organizations/{below["number"]}"' in page.html
    created = await visitor.post(
        f"{base}/organizations", name="Third", parent=above["id"], deviceQuota="", tokenQuota=""
    )
    assert created.location.startswith(f"{base}/organizations/")


@pytest.mark.parametrize(
    ("url", "section"),
    [
        ("http://h/", "/"),
        ("http://h/devices", "/devices"),
        ("http://h/o/3/devices/lamp%2F1?x=y#z", "/devices"),
        ("http://h/o/3/", "/"),
        ("http://h//evil.example", "/"),
        ("http://h/\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("http://h/o/3//evil.example/x", "/"),
        ('http://h/"><script>', "/"),
        ("http://[/devices", "/devices"),
        ("", "/"),
    ],
)
def test_the_section_is_kept_and_nothing_else(url: str, section: str) -> None:
    assert _section(url) == section


async def test_others_organizations_are_not_there(visit: Visit, visitor: Visitor) -> None:
    a, b = [await made(visitor, name) for name in ("A", "B")]
    other = await visit(Role.ADMIN, organization=UUID(a["id"]))
    for path in (f"/organizations/{b['number']}", f"/organizations/{b['id']}", f"/o/{b['number']}/"):
        assert (await other.get(path)).status == 404
    assert (await other.get("/organizations/branch", parent=b["id"])).status == 404
    assert (await other.get("/organizations/switcher/branch", parent=b["id"])).status == 404
    assert (await other.post(f"/organizations/{b['number']}", name="mine", revision="1")).status == 404
    assert (await other.post(f"/organizations/{b['number']}/delete")).status == 404
    assert "B" not in (await other.get("/organizations", search="b")).text.split("No organization")[0].split()
    assert (await visitor.api("GET", f"/organizations/{b['number']}"))["name"] == "B"


async def test_who_may_not_manage_is_not_asked_to(visit: Visit, visitor: Visitor) -> None:
    organization = await made(visitor, "Customer")
    staff, user = await visit(Role.STAFF), await visit(Role.USER)
    page = await staff.get(f"/organizations/{organization['number']}")
    assert page.status == 200
    assert 'name="deviceQuota"' not in page.html
    assert (await staff.get("/organizations/new")).status == 403
    assert (await staff.post("/organizations", name="x", parent=organization["id"])).status == 403
    assert (await user.get("/organizations")).status == 403
    assert (await user.get("/organizations/switcher")).status == 403
    assert "data-switcher" not in (await user.get("/account")).html


async def test_from_within_an_organization_nothing_is_offered_that_is_done_from_above(visitor: Visitor) -> None:
    organization = await made(visitor, "Customer", deviceQuota=10)
    number = organization["number"]
    above, within = (
        await visitor.get(f"/organizations/{number}"),
        await visitor.get(f"/o/{number}/organizations/{number}"),
    )
    for offered in ("Delete it", "Devices at most", "Look at it"):
        assert (offered in above.text, offered in within.text) == (True, False), offered
    assert f'href="/organizations/{number}"' in within.html
    revision = within.html.split('name="revision" value="')[1].split('"')[0]
    hidden = {
        name: within.html.split(f'name="{name}" value="')[1].split('"')[0] for name in ("deviceQuota", "tokenQuota")
    }
    changed = await visitor.post(f"/o/{number}/organizations/{number}", name="Renamed", revision=revision, **hidden)
    assert changed.status == 200, changed.text
    assert (await visitor.api("GET", f"/organizations/{number}"))["deviceQuota"] == 10
