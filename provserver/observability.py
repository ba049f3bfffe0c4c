"""Logs: structured, one line an event, for people on a terminal and as JSON otherwise.

Levels: error, something of ours is broken; warning, the operator should look; info, the server's own life;
debug, each request. What a peer sends is never logged, nor is a stack trace for it.
"""

import logging
import sys

import structlog

from provserver.errors import Misconfigured

FORMATS = ("auto", "console", "json")
LEVELS = ("debug", "info", "warning", "error")


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
    renderer: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("provserver.http.protocol", "provserver.coap.protocol"):
        logging.getLogger(name).addFilter(_without_peers_faults)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("asyncpg").setLevel(logging.ERROR)  # that Postgres is away is ours to say, once


def _without_peers_faults(record: logging.LogRecord) -> bool:
    """What aiohttp and aiocoap say is about bytes of a peer: neither those nor a stack trace is kept."""
    fault = record.exc_info[0] if record.exc_info else None
    if fault is not None:
        record.msg, record.args = f"{record.name}: a request could not be read ({fault.__name__})", ()
        record.exc_info = None
    if fault is not None or record.levelno < logging.ERROR:
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return record.levelno >= logging.getLogger(record.name).getEffectiveLevel()
