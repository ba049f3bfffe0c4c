"""Pages on which people choose a password by a one-time link: to set the server up, when invited, after a reset.

The link's token is behind the `#`, so it is in no request for a page and in no log; the page's own script sends it.
"""

import base64
import hashlib
from html import escape
from typing import NamedTuple

from provserver.admin.route import PREFIX

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 24rem; margin: 4rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.4rem; } label { display: block; margin: 1rem 0; }
input { display: block; width: 100%; box-sizing: border-box; font: inherit; padding: .4rem; }
button { font: inherit; padding: .4rem 1.2rem; } output { display: block; margin: 1rem 0; font-weight: 600; }
"""

_SCRIPT = """
const form = document.querySelector("form"), said = document.querySelector("output");
const link = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = Object.assign(Object.fromEntries(new FormData(form)), {link});
  try {
    const answer = await fetch(location.pathname, {
      method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body),
    });
    if (answer.ok) { form.remove(); said.textContent = "Done. You can sign in now."; }
    else { said.textContent = (await answer.json()).detail; }
  } catch { said.textContent = "The server cannot be reached. Try again."; }
});
"""


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


POLICY = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a browser may do with a page: show it in our style, run our script, and ask nobody but us."""


class Form(NamedTuple):
    """What a page asks for. It posts to its own path."""

    title: str
    fields: tuple[str, ...]


FORMS = {
    f"{PREFIX}/setup": Form("Set the server up", ("email", "name", "password")),
    f"{PREFIX}/invitations/accept": Form("Accept the invitation", ("name", "password")),
    f"{PREFIX}/password/reset": Form("Choose a new password", ("password",)),
}
"""The pages, by their paths."""

_INPUTS = {
    "email": '<label>E-mail <input name="email" type="email" autocomplete="username" required></label>',
    "name": '<label>Name <input name="name" autocomplete="name"></label>',
    "password": '<label>Password <input name="password" type="password" autocomplete="new-password" required></label>',
}


def page(path: str) -> bytes:
    """The page at a path of FORMS."""
    form = FORMS[path]
    title = escape(form.title)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1><form>"
        f"{''.join(_INPUTS[field] for field in form.fields)}<button>{title}</button></form>"
        f'<output role="status"></output><script>{_SCRIPT}</script></body></html>'
    ).encode()
