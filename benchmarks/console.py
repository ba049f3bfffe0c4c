"""How long the console's pages take: over HTTP, and until a browser shows them, with many devices there.

    python -m benchmarks.console [--devices 100000 1000000] [--rounds 20] [--no-browser]

Aims: the first page is usable in 1 s with 100,000 devices, and lists answer in 200 ms with a million. Needs Debian's
chromium, unless --no-browser. Exit code 1: an aim was missed.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from playwright.async_api import async_playwright

from benchmarks.sections.growth import _CHUNK, _FILL
from provserver.store.embedded import EmbeddedPostgres

PASSWORD = "correct horse battery staple"
USABLE, LIST = 1.0, 0.2
"""Seconds: the aims."""

LISTS = (
    "/devices",
    "/devices?search=fill-a",
    "/devices?search=fill-0123456789abcdef",
    "/devices?profile=bench",
    "/devices?online=false",
    "/static-tokens",
    "/static-tokens?status=UNCLAIMED",
    "/attempts",
    "/attempts?refused=true",
    "/audit",
    "/jobs",
    "/profiles",
)


async def main(arguments: argparse.Namespace) -> int:
    """Fill, measure, print; the exit code."""
    missed = []
    with tempfile.TemporaryDirectory(prefix="bench-console-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # noqa: ASYNC240 - it takes no time
        async with EmbeddedPostgres(folder / "postgres") as postgres:
            server, addresses = await start(folder, postgres.dsn)
            try:
                async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
                    url = f"http://{addresses['admin']}"
                    await sign_in(session, url, folder)
                    there = 0
                    for count in sorted(arguments.devices):
                        begun = time.perf_counter()
                        await fill(postgres.dsn, there + 1, count)
                        there = count
                        print(f"\n{count:,} devices (made in {time.perf_counter() - begun:.0f} s)")
                        print(f"{'page':<44}{'median':>10}{'worst':>10}{'aim':>10}")
                        missed += await lists(session, url, arguments.rounds)
                        if not arguments.no_browser:
                            missed += await first_page(session, url, arguments.rounds, at_most=count <= 100_000)
            finally:
                server.terminate()
                await asyncio.to_thread(server.wait)
    for each in missed:
        print(f"missed: {each}")
    return 1 if missed else 0


async def start(folder: Path, dsn: str) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """A server on a database; its addresses."""
    ready = folder / "ready.json"
    command = [sys.executable, "-m", "provserver", "serve", "--data-dir", str(folder / "data"), "--database-url", dsn]
    command += ["--ready-file", str(ready)]
    for listener in ("http", "mqtt", "coap", "admin"):
        command += [f"--{listener}", "127.0.0.1:0"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220 - it takes no time
    while not ready.exists():
        if process.poll() is not None:
            raise SystemExit((folder / "log").read_text())
        await asyncio.sleep(0.05)
    return process, json.loads(ready.read_text())


async def sign_in(session: aiohttp.ClientSession, url: str, folder: Path) -> None:
    """The first user, who has a profile called bench."""
    link = (folder / "data" / "setup-link").read_text().strip().partition("#")[2]
    person = {"link": link, "email": "bench@example.com", "password": PASSWORD, "name": "Bench"}
    async with session.post(f"{url}/api/admin/setup", json=person) as response:
        response.raise_for_status()
    signed = {"email": "bench@example.com", "password": PASSWORD}
    async with session.post(f"{url}/api/admin/session", json=signed) as response:
        headers = {"X-CSRF-Token": (await response.json())["csrfToken"]}
    async with session.post(f"{url}/api/admin/profiles", json={"name": "bench"}, headers=headers) as response:
        response.raise_for_status()
    tokens = {"profile": "bench", "count": 1000}
    async with session.post(f"{url}/api/admin/static-tokens", json=tokens, headers=headers) as response:
        response.raise_for_status()


async def fill(dsn: str, first: int, last: int) -> None:
    """Devices as provisioning leaves them."""
    connection = await asyncpg.connect(dsn, user="postgres")
    try:
        for begin in range(first, last + 1, _CHUNK):
            for statement in _FILL:
                await connection.execute(statement.format(first=begin, last=min(begin + _CHUNK - 1, last)))
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


async def lists(session: aiohttp.ClientSession, url: str, rounds: int) -> list[str]:
    """Times of pages over HTTP; what missed its aim."""
    missed = []
    for path in ("/", *LISTS):
        took = []
        for _ in range(rounds):
            begun = time.perf_counter()
            async with session.get(url + path) as response:
                await response.read()
                response.raise_for_status()
            took.append(time.perf_counter() - begun)
        if not tell(path, took, LIST):
            missed.append(path)
    return missed


async def first_page(session: aiohttp.ClientSession, url: str, rounds: int, *, at_most: bool) -> list[str]:
    """Times until a browser that keeps nothing shows the overview and its scripts have run."""
    unboxed = ["--no-sandbox"] if os.geteuid() == 0 else []
    took = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=unboxed)
        for _ in range(rounds):
            context = await browser.new_context(base_url=url)
            cookies: list[Any] = [{"name": each.key, "value": each.value, "url": url} for each in session.cookie_jar]
            await context.add_cookies(cookies)
            page = await context.new_page()
            begun = time.perf_counter()
            await page.goto("/", wait_until="domcontentloaded")
            await page.get_by_role("heading", level=1).wait_for()
            took.append(time.perf_counter() - begun)
            await context.close()
        await browser.close()
    return [] if tell("/ in a browser, until usable", took, USABLE) or not at_most else ["/ in a browser"]


def tell(name: str, took: list[float], aim: float) -> bool:
    """Print a line; whether the median is within the aim."""
    median = statistics.median(took)
    print(f"{name:<44}{1000 * median:>7.0f} ms{1000 * max(took):>7.0f} ms{1000 * aim:>7.0f} ms")
    return median <= aim


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--no-browser", action="store_true")
    sys.exit(asyncio.run(main(parser.parse_args())))
