"""Running a coroutine from a command."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import typer

INTERRUPTED = 130

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], threads: int = 1) -> T:
    """Run on uvloop where there is one. threads: aiomqtt connects, and FileFlash syncs, in one."""
    logging.getLogger().addHandler(logging.NullHandler())  # what the libraries log is in the errors we report
    if sys.platform == "win32":
        loop_factory = asyncio.new_event_loop
    else:
        import uvloop

        loop_factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.get_loop().set_default_executor(ThreadPoolExecutor(threads))
            return runner.run(main)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


async def until_stopped(main: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, or to a Ctrl-C or SIGTERM, which is an end as good as any."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(main)
    signals = (signal.SIGINT, signal.SIGTERM)
    with contextlib.suppress(NotImplementedError):
        for number in signals:
            loop.add_signal_handler(number, task.cancel)
    try:
        await asyncio.wait({task})
    finally:
        with contextlib.suppress(NotImplementedError):
            for number in signals:
                loop.remove_signal_handler(number)
        if not task.done():
            task.cancel()
    if not task.cancelled():
        task.result()
