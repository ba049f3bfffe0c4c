"""A file that devices are made of, on its page: checked first, then imported."""

import pytest

from tests.admin.console.conftest import Visitor
from tests.admin.console.pages.devices import make_profile


@pytest.fixture
async def profile(visitor: Visitor) -> str:
    return await make_profile(visitor)


async def test_a_file_is_checked_and_then_imported(visitor: Visitor, profile: str) -> None:
    assert "What a file looks like" in (await visitor.get("/devices/import")).text
    wrong = await visitor.send("/devices/import/check", b"name,gateway\r\na,maybe\r\nb,\r\n", profile=profile)
    assert "1 row is wrong" in wrong.text
    assert 'type="submit"' not in wrong.html
    good = b"name,attribute:meta.Serial\r\na,1\r\nb,2\r\n"
    assert "They make 2 devices" in (await visitor.send("/devices/import/check", good, profile=profile)).text
    assert (await visitor.api("GET", "/devices"))["items"] == []
    made = await visitor.send("/devices/import", good, profile=profile, rows="2")
    assert made.location == "/devices"
    assert "2 devices were made" in (await visitor.get("/devices")).text
    by_job = await visitor.send("/devices/import", b"name\r\nc\r\n", profile=profile, rows="5000")
    assert by_job.location.startswith("/jobs/")
    fault = await visitor.send("/devices/import/check", b"nam\r\nx\r\n", profile=profile)
    assert (fault.status, "Did you mean" in fault.text) == (422, True)
