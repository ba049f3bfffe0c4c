"""The provision keys of a profile on their page: bounded, replaced without a gap, shown once."""

import re

from provserver.core.model import MAX_USES
from provserver.errors import Outcome
from tests.admin.conftest import Site
from tests.admin.console.conftest import Visitor
from tests.admin.console.pages.profiles import key_and_secret, made
from tests.services.conftest import PEER


async def test_keys_are_added_bounded_and_removed(visitor: Visitor) -> None:
    profile = await made(visitor)
    at = f"/profiles/{profile['id']}/keys"
    added = await visitor.post(
        at, networks="192.0.2.0/24\n2001:db8::/32", maxUses="10", perMinute="3", notAfter="2099-01-31T12:00"
    )
    key, secret = key_and_secret(added)
    assert secret in added.html
    page = await visitor.get(at)
    assert "0 of 10 uses" in page.text
    assert "2099-01-31 12:00:00 UTC" in page.text
    assert secret not in page.html

    bound = await visitor.post(f"{at}/bounds", key=key, counted="on")
    assert bound.location == at
    held = {
        each["provisionDeviceKey"]: each for each in (await visitor.api("GET", f"/profiles/{profile['id']}"))["keys"]
    }
    assert (held[key]["maxUses"], held[key]["networks"], held[key]["perMinute"]) == (MAX_USES, [], None)
    assert "0 devices while counted" in (await visitor.get(at)).text
    wrong = await visitor.post(f"{at}/bounds", key=key, networks="here")
    assert "CIDR" in wrong.text

    assert (await visitor.post(f"{at}/removal", key=profile["provisionDeviceKey"])).location == at
    assert "It is the last key of wifi-sensor" in (await visitor.get(at)).text
    await visitor.post(f"{at}/removal", key=key)
    assert "No provision key" in (await visitor.get(at)).text


async def test_seconds_of_a_bound_outlive_a_change_of_another(visitor: Visitor) -> None:
    profile = await made(visitor)
    at = f"/profiles/{profile['id']}/keys"
    until = "2099-01-31T12:00:59Z"
    await visitor.api("POST", f"/profiles/{profile['id']}/keys", {"notAfter": until, "provisionDeviceKey": "second"})
    page = await visitor.get(at)
    shown = re.search(r'name="notAfter"[^>]*value="([^"]+)"|value="(2099[^"]+)"[^>]*name="notAfter"', page.html)
    assert shown is not None
    await visitor.post(f"{at}/bounds", key="second", notAfter=shown[1] or shown[2], perMinute="7")
    held = (await visitor.api("GET", f"/profiles/{profile['id']}"))["keys"]
    assert next(each["notAfter"] for each in held if each["provisionDeviceKey"] == "second") == until


async def test_odd_keys_are_in_no_path(visitor: Visitor) -> None:
    key = "a/b?c#d %41 <b>'\"é"
    profile = await made(visitor, provisionDeviceKey=key, provisionDeviceSecret="s")
    at = f"/profiles/{profile['id']}/keys"

    assert (await visitor.get(at)).status == 200
    assert (await visitor.post(f"{at}/bounds", key=key, perMinute="7")).location == at
    (held,) = (await visitor.api("GET", f"/profiles/{profile['id']}"))["keys"]
    assert held["perMinute"] == 7
    await visitor.post(f"{at}/removal", key=key)
    assert (await visitor.api("GET", f"/profiles/{profile['id']}"))["keys"] == []


async def test_a_key_is_replaced_without_a_gap(visitor: Visitor, site: Site) -> None:
    profile = await made(visitor)
    at = f"/profiles/{profile['id']}/keys"
    old, old_secret = profile["provisionDeviceKey"], profile["provisionDeviceSecret"]
    await visitor.post(f"{at}/bounds", key=old, networks="192.0.2.0/24")

    added = await visitor.post(f"{at}/replacement", key=old)
    new, new_secret = key_and_secret(added)
    assert f"The old key, {old} , stays good" in added.text
    for number, (key, secret) in enumerate([(old, old_secret), (new, new_secret), (new, new_secret)]):
        body = f'{{"deviceName":"d{number}","provisionDeviceKey":"{key}","provisionDeviceSecret":"{secret}"}}'
        answer = await site.space.provisioning.answer(body.encode(), PEER)
        assert answer.outcome is Outcome.SUCCESS

    first, second = (await visitor.api("GET", f"/profiles/{profile['id']}"))["keys"]
    assert (first["uses"], second["uses"]) == (1, 2)
    assert first["networks"] == second["networks"] == ["192.0.2.0/24"]
    page = await visitor.get(at)
    assert "Replacing a key" in page.text
    assert "1 device while counted" in page.text
    assert "2 devices while counted" in page.text
    assert (await visitor.post(f"{at}/removal", key=old)).location == at
    gone = await visitor.post(f"{at}/replacement", key=old)
    assert gone.location == at
    await visitor.post(f"{at}/bounds", key=new, notAfter="2020-01-01T00:00")
    after = await visitor.post(f"{at}/replacement", key=new)
    assert "stays good" not in after.text
    assert f"The old key, {new} , has expired" in after.text
