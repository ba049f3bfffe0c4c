"""The keys that devices seal requests to, on their page."""

from tests.admin.console.conftest import Visitor


async def test_request_keys(visitor: Visitor) -> None:
    assert "No request key yet" in (await visitor.get("/request-keys")).text
    assert (await visitor.post("/request-keys")).location == "/request-keys"
    (key,) = (await visitor.api("GET", "/request-keys"))["items"]
    assert key["publicKey"] in (await visitor.get("/request-keys")).html
    assert (await visitor.post(f"/request-keys/{key['id']}/delete")).location == "/request-keys"
    assert (await visitor.api("GET", "/request-keys"))["items"] == []
