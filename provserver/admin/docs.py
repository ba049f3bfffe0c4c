"""The API's description as a page: no script, nothing from elsewhere."""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from provserver.admin.problem import KINDS

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #06c; }
@media (prefers-color-scheme: dark) { :root { --accent: #6bf; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem 1.5rem 4rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
code, pre { font: .9em ui-monospace, monospace; } pre { background: var(--soft); padding: .6rem; overflow-x: auto; }
details { border-bottom: 1px solid var(--line); } summary { padding: .45rem 0; cursor: pointer; }
summary b { display: inline-block; min-width: 4.5rem; color: var(--accent); font: 600 .85em ui-monospace, monospace; }
summary span { float: right; opacity: .75; } details > div { padding: 0 0 1rem 1.2rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; }
th { font-weight: 600; opacity: .7; } h3 { font-size: 1rem; margin: 1rem 0 .3rem; } a { color: var(--accent); }
nav a { margin-right: .8rem; display: inline-block; } .more { opacity: .75; }
@media (max-width: 40rem) { summary span { float: none; display: block; } }
"""

_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""What a browser may do with the page: show it, in our style."""


def page(document: Mapping[str, Any]) -> bytes:
    """The page."""
    return "".join(_page(document)).encode()


def _page(document: Mapping[str, Any]) -> Iterator[str]:
    info, components = document["info"], document["components"]["schemas"]
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>"
    for paragraph in info["description"].split("\n\n"):
        yield f"<p>{_marked(paragraph)}</p>"
    yield '<p>For programs: <a href="/api/admin/openapi.json">openapi.json</a> (OpenAPI 3.1).</p><nav>'
    for tag in document["tags"]:
        yield f'<a href="#{escape(tag["name"])}">{escape(tag["name"])}</a>'
    yield '<a href="#problems">problems</a><a href="#schemas">schemas</a></nav>'
    for tag in document["tags"]:
        yield f'<h2 id="{escape(tag["name"])}">{escape(tag["name"])}</h2><p>{escape(tag["description"])}</p>'
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    yield from _operation(path, method, operation)
    yield '<h2 id="problems">problems</h2><table><tr><th>code</th><th>status</th><th>meaning</th></tr>'
    for code, kind in KINDS.items():
        yield f'<tr id="{code}"><td><code>{code}</code></td><td>{kind.status}</td><td>{escape(kind.meaning)}</td></tr>'
    yield '</table><h2 id="schemas">schemas</h2>'
    for name, schema in sorted(components.items()):
        yield from _schema(name, schema)
    yield "</body></html>"


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    name = escape(operation["operationId"])
    yield f'<details id="{name}"><summary><b>{method.upper()}</b> <code>{escape(path)}</code>'
    yield f"<span>{escape(operation['summary'])}</span></summary><div>"
    if operation["security"] == []:
        yield "<p>For everybody.</p>"
    elif "description" in operation:
        yield f"<p>{_marked(operation['description'])}</p>"
    else:
        yield "<p>For who is signed in.</p>"
    if parameters := operation.get("parameters"):
        yield "<h3>Parameters</h3><table>"
        for each in parameters:
            more = f"{each.get('description', '')}{' Required.' if each.get('required') else ''}"
            yield f"<tr><td><code>{escape(each['name'])}</code></td><td>{each['in']}</td>"
            yield f"<td>{_type(each['schema'])}</td><td>{_marked(more)}</td></tr>"
        yield "</table>"
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<h3>Body</h3><p>{escape(media)}: {_type(content['schema'])}</p>"
        if (example := content.get("example")) is not None:
            shown = example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)
            yield f"<pre>{escape(shown)}</pre>"
    yield "<h3>Answers</h3><table>"
    for status, response in operation["responses"].items():
        if "$ref" in response:
            codes = (
                f'<a href="#{code}"><code>{code}</code></a>'
                for code, kind in KINDS.items()
                if str(kind.status) == status
            )
            yield f'<tr><td>{status}</td><td class="more">{", ".join(codes)}</td></tr>'
        else:
            kinds = (
                f"{escape(media)}: {_type(content['schema'])}" for media, content in response.get("content", {}).items()
            )
            yield f"<tr><td>{status}</td><td>{escape(response['description'])} {', '.join(kinds)}</td></tr>"
    yield "</table></div></details>"


def _schema(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f'<details id="schema-{escape(name)}"><summary><code>{escape(name)}</code></summary><div>'
    if "description" in schema:
        yield f"<p>{_marked(schema['description'])}</p>"
    if "enum" in schema:
        yield f"<p>{', '.join(f'<code>{escape(str(each))}</code>' for each in schema['enum'])}</p>"
    if "properties" in schema:
        yield "<table>"
        for member, each in schema["properties"].items():
            required = "required" if member in schema.get("required", ()) else ""
            yield f"<tr><td><code>{escape(member)}</code></td><td>{_type(each)}</td>"
            yield f'<td class="more">{required}</td><td>{_marked(each.get("description", ""))}</td></tr>'
        yield "</table>"
    yield "</div></details>"


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(each))}</code>" for each in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(schema.get("format") or (" or ".join(kind) if isinstance(kind, list) else str(kind)))


def _marked(text: str) -> str:
    """Text with `code` in it."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
