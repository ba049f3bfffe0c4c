"""The CAs that a profile trusts, and the one that it issues with."""

from tests.admin.console.conftest import Visitor
from tests.admin.console.pages.profiles import BASIC, made
from tests.pki import Authority


async def test_certificates(visitor: Visitor) -> None:
    root, other = Authority.root("Factory"), Authority.root("Other factory")
    body = BASIC | {"strategy": "X509_CERTIFICATE_CHAIN", "nameFrom": "cn", "namePattern": "", "allowCreate": "on"}
    created = await visitor.post("/profiles", name="chain", authorities=f"{root.pem}\n{other.pem}", **body)
    assert created.location.startswith("/profiles/"), created.text
    at = f"{created.location}/certificates"
    assert "Other factory" in (await visitor.get(at)).text

    saved = await visitor.post(at, authorities=root.pem, nameFrom="san-dns", namePattern="x(.*)", crls="")
    assert saved.location == at
    profile = await visitor.api("GET", "/profiles/chain")
    assert [each["subject"] for each in profile["certificateAuthorities"]] == ["CN=Factory"]
    assert (profile["nameFrom"], profile["namePattern"], profile["allowCreate"]) == ("san-dns", "x(.*)", False)
    assert "PEM" in (await visitor.post(at, authorities="nonsense!", nameFrom="cn")).text


async def test_a_profile_issues_certificates(visitor: Visitor) -> None:
    profile = await made(visitor)
    at = f"/profiles/{profile['id']}/certificates"
    assert "It issues no certificates" in (await visitor.get(at)).text
    assert (await visitor.post(f"{at}/authority", name="My CA", days="30")).location == at
    shown = await visitor.get(at)
    assert "CN=My CA" in shown.text
    assert "PRIVATE KEY-----" not in shown.html
    assert (await visitor.post(f"{at}/authority", name="Other CA")).status == 409
    assert (await visitor.post(f"{at}/authority", name="Other CA", replace="on")).location == at
    assert (await visitor.post(f"{at}/import", certificates="x", key="y")).status >= 400
