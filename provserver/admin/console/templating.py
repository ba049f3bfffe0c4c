"""How pages are written: Jinja2, which escapes whatever it is given, and the words for numbers and times."""

import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def environment(directory: Path, asset: Callable[[str], str]) -> Environment:
    """The templates of a directory. asset: the URL of a file."""
    made = Environment(
        loader=FileSystemLoader(directory),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals |= {"asset": asset, "once": once, "joined": joined, "now": lambda: datetime.now(UTC)}
    made.filters |= {"number": number, "duration": duration, "ago": ago, "utc": utc, "segment": segment, "words": words}
    return made


def once() -> str:
    """What makes a form one that is sent once."""
    return secrets.token_urlsafe(16)


def joined(path: str, query: Mapping[str, object]) -> str:
    """A path with a query; members that are empty or None are left out."""
    pairs = [(name, value) for name, value in query.items() if value not in (None, "")]
    return f"{path}?{urlencode(pairs)}" if pairs else path


def segment(text: object) -> str:
    """A text as a segment of a path."""
    return quote(str(text), safe="")


def number(value: float | None) -> str:
    """12,345."""
    return "–" if value is None else f"{value:,}"


def words(value: str) -> str:
    """`CHECK_PRE_PROVISIONED_DEVICES` or `twoSidedClaim` as words."""
    spaced = "".join(f" {c.lower()}" if c.isupper() and value != value.upper() else c for c in value)
    return spaced.replace("_", " ").replace("-", " ").strip().lower()


def duration(seconds: float | None) -> str:
    """The two largest units of it: `3 days 4 hours`."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    left, found = int(seconds), []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count:
            found.append(f"{count} {unit}{'s' if count > 1 else ''}")
    return " ".join(found[:2])


def utc(value: Any) -> str:
    """2026-11-23 01:41:32 UTC."""
    return _moment(value).strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(value: Any) -> Markup:
    """How long ago a time was, or how far ahead it is, with the time itself for who points at it."""
    moment = _moment(value)
    away = (datetime.now(UTC) - moment).total_seconds()
    if abs(away) < 5:
        shown = "now"
    elif abs(away) > timedelta(days=60).total_seconds():
        shown = moment.strftime("%Y-%m-%d")
    else:
        size, unit = next((size, unit) for size, unit in _UNITS if abs(away) >= size)
        count = int(abs(away) // size)
        text = f"{count} {unit}{'s' if count > 1 else ''}"
        shown = f"{text} ago" if away > 0 else f"in {text}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(moment.isoformat(), utc(moment), shown)


def _moment(value: Any) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)
