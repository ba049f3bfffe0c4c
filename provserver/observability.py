"""Logs: structured, one line an event, for people on a terminal and as JSON otherwise.

Levels: error, something of ours is broken; warning, the operator should look; info, the server's own life;
debug, each request. What a peer sends is never logged, nor is a stack trace for it. Who logs takes care that no
secret is in it; should one slip through, `redacted` takes out what looks like one.
"""

import logging
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import structlog

from provserver.errors import Misconfigured, ProvserverError

FORMATS = ("auto", "console", "json")
LEVELS = ("debug", "info", "warning", "error")

REDACTED = "[redacted]"

_NAMES = r"(?:secret|passwo?r?d|passwd|token|api[_-]?key|private[_-]?key|credentials?value|authorization|cookie)"
_NAMED = re.compile(rf"{_NAMES}$", re.IGNORECASE)
_LOOKS: tuple[tuple[re.Pattern[str], str], ...] = (
    # A private key in PEM, whole or cut off; its line ends may be escaped.
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REDACTED),
    # The password of a URL.
    (re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@:]*:)[^\s/?#]*(?=@)"), rf"\g<before>{REDACTED}"),
    # API keys and QR tokens.
    (re.compile(r"(?P<before>psk_|sqr_)[A-Za-z0-9_-]{16,}"), rf"\g<before>{REDACTED}"),
    # "accessToken": "…", password=…, Authorization: Bearer …
    (
        re.compile(
            rf"""(?P<before>{_NAMES}(?P<quote>["'])\s*:\s*["'])(?:\\.|(?!(?P=quote)).)*""", re.IGNORECASE | re.DOTALL
        ),
        rf"\g<before>{REDACTED}",
    ),
    (
        re.compile(rf"""(?P<before>{_NAMES}=(?:\\?["'])?)(?!\[redacted\])[^\s"'&,;)}}\]\\]+""", re.IGNORECASE),
        rf"\g<before>{REDACTED}",
    ),
    (re.compile(r"(?P<before>\b(?:Bearer|Basic) )[A-Za-z0-9._~+/=-]{8,}"), rf"\g<before>{REDACTED}"),
    # Device tokens, digests, keys in hex: no word is so long.
    (re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]{32,}(?![A-Za-z0-9])"), REDACTED),
)


def set_up(level: str, format_: str) -> None:
    """Send every logger's records to stderr. level: of LEVELS; format_: of FORMATS. Raises Misconfigured."""
    for option, value, allowed in (("log_level", level, LEVELS), ("log_format", format_, FORMATS)):
        if value not in allowed:
            raise Misconfigured(f"{option} must be one of {', '.join(allowed)}, not {value!r}.")
    console = format_ == "console" or (format_ == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if console else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _told_stack, _cleaned, renderer],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("provserver.http.protocol", "provserver.coap.protocol"):
        logging.getLogger(name).addFilter(_without_peers_faults)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("asyncpg").setLevel(logging.ERROR)  # that Postgres is away is ours to say, once


def redacted(text: str) -> str:
    """A text without what looks like a secret."""
    for pattern, instead in _LOOKS:
        text = pattern.sub(instead, text)
    return text


def _cleaned(_logger: object, _method: str, record: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The record without what looks like a secret, or stands under a name of one."""
    return {name: _clean(value, name) for name, value in record.items()}


def _clean(value: Any, name: str = "") -> Any:
    if _NAMED.search(name) and value is not None and not isinstance(value, bool):
        return REDACTED
    if isinstance(value, Mapping):
        return {redacted(str(key)): _clean(each, str(key)) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(each) for each in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redacted(value if isinstance(value, str) else str(value))


def _told_stack(_logger: object, _method: str, record: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The stack of a fault, and what kind it was; messages only of faults that are meant to be read (`errors.py`).

    Others' may quote what was sent, or a row: Postgres' do.
    """
    info = record.pop("exc_info", None)
    fault = info[1] if isinstance(info, tuple) else sys.exception() if info is True else info
    if isinstance(fault, BaseException):
        record["exception"] = "".join(_stack(fault, set())).rstrip()
    return record


def _stack(fault: BaseException, told: set[int]) -> list[str]:
    told.add(id(fault))
    before = fault.__cause__ or (None if fault.__suppress_context__ else fault.__context__)
    lines = [*_stack(before, told), "then:\n"] if before is not None and id(before) not in told else []
    lines += traceback.format_tb(fault.__traceback__)
    message = f": {fault}" if isinstance(fault, ProvserverError) else ""
    lines.append(f"{type(fault).__qualname__}{message}\n")
    for each in fault.exceptions if isinstance(fault, BaseExceptionGroup) else ():
        if id(each) not in told:
            lines += ["in the group:\n", *_stack(each, told)]
    return lines


def _without_peers_faults(record: logging.LogRecord) -> bool:
    """What aiohttp and aiocoap say is about bytes of a peer: neither those nor a stack trace is kept."""
    fault = record.exc_info[0] if record.exc_info else None
    if fault is not None:
        record.msg, record.args = f"{record.name}: a request could not be read ({fault.__name__})", ()
        record.exc_info = None
    if fault is not None or record.levelno < logging.ERROR:
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return record.levelno >= logging.getLogger(record.name).getEffectiveLevel()
