"""The CAs of a profile: those that it trusts, and the one that it issues certificates with."""

from provserver.admin.console import profile_form as forms
from provserver.admin.console.page import ApiProblem, Ask, page
from provserver.admin.console.pages.profiles import CHAIN, details
from provserver.admin.messages import Response
from provserver.core.authorization import Permission


async def show_certificates(ask: Ask) -> Response:
    """What a profile trusts, or issues with; only one of the two goes with its strategy."""
    profile = await details(ask)
    issuing = None
    if profile["strategy"] != CHAIN:
        try:
            issuing = await ask.api("GET", f"/profiles/{ask.parameters['profile']}/ca")
        except ApiProblem as fault:
            if fault.status != 404:
                raise
    return ask.show(
        "profiles/certificates.html", profile=profile, issuing=issuing, names_from=forms.NAMES_FROM, chain=CHAIN
    )


async def change_trust(ask: Ask) -> Response:
    """Change whom it trusts, and how names are found."""
    form = await ask.form()
    body = forms.naming(form)
    if authorities := forms.files(form["authorities"]):
        body["authorities"] = authorities
    if crls := forms.files(form["crls"]):
        body["crls"] = crls
    if form["forgetCrls"] == "on":
        body["forgetCrls"] = True
    headers = {"if-match": f'"{form["revision"]}"'} if form["revision"].isdecimal() else {}
    await ask.api("PATCH", f"/profiles/{ask.parameters['profile']}", body=body, headers=headers)
    return ask.go(_path(ask), said="Saved: it holds from the next handshake on.")


async def make_authority(ask: Ask) -> Response:
    """Make a CA to issue with."""
    form = await ask.form()
    body: dict[str, object] = {"replace": form["replace"] == "on"}
    if name := form.optional("name"):
        body["name"] = name
    if (days := form.number("days")) is not None:
        body["days"] = days
    await ask.api("POST", f"/profiles/{ask.parameters['profile']}/ca", body=body)
    return ask.go(_path(ask), said="The CA is made. Its key is kept sealed in the database, and is never shown.")


async def import_authority(ask: Ask) -> Response:
    """Issue with a CA that there is."""
    form = await ask.form()
    body = {"certificates": form["certificates"], "key": form["key"], "replace": form["replace"] == "on"}
    await ask.api("POST", f"/profiles/{ask.parameters['profile']}/ca/import", body=body)
    return ask.go(_path(ask), said="The profile issues certificates with this CA now.")


def _path(ask: Ask) -> str:
    return f"/profiles/{ask.parameters['profile']}/certificates"


_VIEW, _MANAGE = Permission.PROFILES_VIEW, Permission.PROFILES_MANAGE

PAGES = [
    page("GET", "/profiles/{profile}/certificates", show_certificates, _VIEW),
    page("POST", "/profiles/{profile}/certificates", change_trust, _MANAGE),
    page("POST", "/profiles/{profile}/certificates/authority", make_authority, _MANAGE),
    page("POST", "/profiles/{profile}/certificates/import", import_authority, _MANAGE),
]
