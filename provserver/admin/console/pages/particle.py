"""Pages of Particle: products whose devices get a profile's static tokens, and the runs that see to it."""

from typing import Any

from provserver.admin.console.page import ApiProblem, Ask, Form, page
from provserver.admin.messages import Response
from provserver.admin.problem import Malformed
from provserver.core import particle
from provserver.core.authorization import Permission
from provserver.core.job import LIVE
from provserver.core.particle import Acting, Action
from provserver.errors import NotFound

RIGHTS = {
    "accessToken": "The access token is good",
    "devices": "It may list the product's devices",
    "readLedger": "It may read the ledger",
    "writeLedger": "It may write the ledger",
}

REMEDIES = {
    ("readLedger", "unknown"): "To apply makes it.",
    ("writeLedger", "unknown"): "Try it with one device: apply for it alone.",
}
"""What to do where the API's words are those of the command line."""

RUNS = {
    Acting.PLAN.value: ("Plan", "Says which device would get which token, and changes nothing."),
    Acting.APPLY.value: ("Apply", "Gives each device its token, as planned. Who has one keeps it."),
    Acting.VERIFY.value: ("Verify", "Looks whether each device's ledger has the token that is kept for it."),
    Acting.REVOKE.value: ("Revoke", "Takes tokens out of the ledger, and gives them up for good."),
}

ACTIONS = {
    Action.WRITE.value: ("gets a token", "info", ""),
    Action.ADOPT.value: ("is given what its ledger has", "info", ""),
    Action.KEEP.value: ("is as it is to be", "good", ""),
    Action.REVOKE.value: ("loses its token", "warn", ""),
    Action.REVOKED.value: ("has no token any more", "plain", "Name the device in a run to give it another."),
    Action.FOREIGN.value: (
        "has a token that is none of ours",
        "bad",
        "Look where it came from. To replace it, name the device in a run, and tick “also where a foreign token is”.",
    ),
    Action.OTHER.value: (
        "has another of our tokens",
        "bad",
        "The record, or metadata, says otherwise. To replace it, name it, and tick “also where a foreign token is”.",
    ),
    Action.SHARED.value: (
        "has another device's token",
        "bad",
        "To give it one of its own, name the device, and tick “also where a foreign token is”.",
    ),
    Action.AMBIGUOUS.value: (
        "is named by several tokens",
        "bad",
        "Mend the metadata of the static tokens: one token, one device.",
    ),
    Action.NO_TOKEN.value: (
        "gets none: no token is free",
        "bad",
        "Make static tokens for the profile, and run it again.",
    ),
    Action.CLAIMED.value: ("is claimed by a customer", "bad", "Unclaim its static token first."),
    Action.FAILED.value: ("was not taken by Particle", "bad", "Run it again."),
}
"""What a run did for a device, or why nothing: in words, how it looks, and what to do."""

_NAMES = ("product", "accessToken", "ledger", "org", "url")


async def list_products(ask: Ask) -> Response:
    """Every product."""
    return ask.show("particle/list.html", found=await ask.api("GET", "/particle", ask.chosen("cursor")))


async def new_product(ask: Ask) -> Response:
    """The form of one to be."""
    profiles = await ask.api("GET", "/profiles", {"limit": 500})
    choices = [(each["id"], each["name"]) for each in profiles["items"]]
    return ask.show("particle/new.html", profiles=choices, found=None, url=particle.URL, ledger=particle.LEDGER)


async def connect_product(ask: Ask) -> Response:
    """Have a product's devices get a profile's tokens."""
    form = await ask.form()
    body = {name: form[name] for name in ("profile", *_NAMES) if form[name]}
    made = await ask.api("POST", "/particle", body=body)
    return ask.go(_path(made["id"]), said=f"{made['product']} is connected. Test it, then make a plan.")


async def show_product(ask: Ask) -> Response:
    """One, the form of its runs, and those that were."""
    found = await _found(ask)
    return ask.show("particle/show.html", check=None, **await _about(ask, found))


async def test_product(ask: Ask) -> Response:
    """What the access token may do."""
    id_ = ask.parameters["product"]
    check = await ask.api("POST", f"/particle/{id_}/test")
    return ask.part("particle/access_part.html", check=check, found=await _found(ask), rights=RIGHTS, remedies=REMEDIES)


async def edit_product(ask: Ask) -> Response:
    """The form of one that is there."""
    return ask.show("particle/edit.html", found=await _found(ask), url=particle.URL, ledger=particle.LEDGER)


async def update_product(ask: Ask) -> Response:
    """Change one; an access token that is left empty stays."""
    form, found = await ask.form(), await _found(ask)
    body = {name: form[name] for name in _NAMES if form[name] != found.get(name, "")}
    await ask.api("PATCH", f"/particle/{found['id']}", body=body, headers={"if-match": f'"{form["revision"]}"'})
    return ask.go(_path(found["id"]), said="The product was changed.")


async def disconnect_product(ask: Ask) -> Response:
    """Forget one."""
    gone = await ask.api("DELETE", f"/particle/{ask.parameters['product']}")
    return ask.go("/integrations/particle", said=f"{gone['product']} is disconnected; its devices keep what they have.")


async def begin_run(ask: Ask) -> Response:
    """Begin to plan, apply, verify or revoke; the run's page shows how far it is."""
    form, id_ = await ask.form(), ask.parameters["product"]
    acting = form["acting"]
    if acting not in RUNS:
        raise Malformed(
            "Choose what to do.", [{"in": "body", "field": "acting", "reason": "one of those that are there"}]
        )
    begun = await ask.api("POST", f"/particle/{id_}/{acting}", body=_run(form))
    return ask.go(f"{_path(id_)}/runs/{begun['job']['id']}")


async def show_run(ask: Ask) -> Response:
    """How far a run is, and once it is done its report; asks again by itself until then."""
    job = await ask.api("GET", f"/jobs/{ask.parameters['id']}")
    if not str(job["kind"]).startswith("particle."):
        raise NotFound("This job is no run for Particle devices.")
    acting = str(job["kind"]).removeprefix("particle.")
    context: dict[str, Any] = {
        "job": job,
        "acting": acting,
        "title": RUNS.get(acting, ("Run", ""))[0],
        "live": job["state"] in LIVE,
        "report": job["result"] if job["state"] == "done" else None,
        "actions": ACTIONS,
    }
    if ask.is_part and ask.request.headers.get("hx-target") == "run":
        return ask.part("particle/run_part.html", product=ask.parameters["product"], **context)
    try:
        found = await _found(ask)
    except ApiProblem as fault:
        if fault.status != 404:
            raise
        found = None
    return ask.show("particle/run.html", found=found, product=ask.parameters["product"], **context)


async def _about(ask: Ask, found: Any) -> dict[str, Any]:
    jobs = await ask.api("GET", "/jobs", {"subject": found["id"], "limit": 10})
    return {"found": found, "jobs": jobs["items"], "runs": RUNS, "rights": RIGHTS, "remedies": REMEDIES}


async def _found(ask: Ask) -> Any:
    return await ask.api("GET", f"/particle/{ask.parameters['product']}")


def _run(form: Form) -> dict[str, Any]:
    devices = form["devices"].replace(",", " ").split()
    return {
        "devices": devices,
        "group": form["group"],
        "serial": form["serial"],
        "force": "force" in form,
        "exported": "exported" in form,
    }


def _path(id_: str) -> str:
    return f"/integrations/particle/{id_}"


_MANAGE = Permission.TOKENS_MANAGE

PAGES = [
    page("GET", "/integrations/particle", list_products, _MANAGE),
    page("POST", "/integrations/particle", connect_product, _MANAGE),
    page("GET", "/integrations/particle/new", new_product, _MANAGE),
    page("GET", "/integrations/particle/{product}", show_product, _MANAGE),
    page("POST", "/integrations/particle/{product}", update_product, _MANAGE),
    page("GET", "/integrations/particle/{product}/edit", edit_product, _MANAGE),
    page("POST", "/integrations/particle/{product}/test", test_product, _MANAGE),
    page("POST", "/integrations/particle/{product}/disconnect", disconnect_product, _MANAGE),
    page("POST", "/integrations/particle/{product}/runs", begin_run, _MANAGE),
    page("GET", "/integrations/particle/{product}/runs/{id}", show_run, _MANAGE),
]
