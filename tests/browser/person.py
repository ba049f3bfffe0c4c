"""Somebody at a browser: sees what is on the screen, and acts by what things are called there."""

import re
from pathlib import Path
from typing import Self

from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Download,
    Locator,
    Page,
    Request,
    Response,
    expect,
)

from tests.test_story import PASSWORD

PATIENCE = 120_000.0
"""Milliseconds until a test gives up: a wall clock decides none that goes well."""

expect.set_options(timeout=PATIENCE)

SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
"""CSS pixels."""

SCHEMES = ("light", "dark")

_ANSWERED = re.compile(r"Failed to load resource: the server responded|Response Status Error Code 4\d\d")
_AWAY = re.compile(r"net::ERR_|htmx:(sendError|timeout|afterRequest)|Failed to fetch|EventSource")

_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", ({violatedDirective, blockedURI, sourceFile, lineNumber}) =>
    console.error(`CSP: ${violatedDirective} forbids ${blockedURI} (${sourceFile}:${lineNumber})`));
"""


class Person:
    """A browser context with one page. url: of the console.

    faults: what no page may do: errors on the console, what the content security policy forbids, answers of 500 and
    more, and pages or parts of them that are not there. away: the server is, on purpose.
    """

    def __init__(self, context: BrowserContext, page: Page, url: str) -> None:
        self.context = context
        self.page = page
        self.url = url
        self.faults: list[str] = []
        self.expected: set[str] = set()
        self.away = False
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.faults.append(f"{self._at}: {error}"))
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)

    @classmethod
    async def sit_down(cls, browser: Browser, url: str, *, size: str = "desktop") -> Self:
        """Open a browser that knows nothing yet."""
        width, height = SIZES[size]
        context = await browser.new_context(
            base_url=url,
            viewport={"width": width, "height": height},
            is_mobile=size == "phone",
            has_touch=size == "phone",
            locale="en-GB",
            timezone_id="UTC",
        )
        context.set_default_timeout(PATIENCE)
        await context.add_init_script(_VIOLATIONS)
        return cls(context, await context.new_page(), url)

    async def wears(self, scheme: str) -> None:
        """Have the system light or dark."""
        await self.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")

    async def holds_the_clock(self) -> None:
        """From the next page on, `later` puts the browser's clock forward; left alone, it goes as clocks do."""
        await self.page.clock.install()

    async def later(self, seconds: float) -> None:
        """So much later by the browser's clock: a page that asks again by itself does it now."""
        await self.page.clock.fast_forward(round(seconds * 1000))

    async def leave(self) -> None:
        await self.context.close()

    async def visit(self, path: str) -> None:
        """Type an address."""
        await self.page.goto(path)

    def field(self, label: str, *, exact: bool = False) -> Locator:
        """A field whose label begins with these words."""
        end = r"\s*$" if exact else r"(?![a-z0-9_])"
        return self.page.locator("input:visible, select:visible, textarea:visible").and_(
            self.page.get_by_label(re.compile(rf"^\s*{re.escape(label)}{end}"))
        )

    async def fill(self, label: str, text: str) -> None:
        await self.field(label).first.fill(text)

    async def choose(self, label: str, option: str) -> None:
        await self.field(label).first.select_option(label=option)

    async def tick(self, label: str) -> None:
        await self.field(label).first.check()

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True).locator("visible=true")

    def link(self, name: str) -> Locator:
        return self.page.get_by_role("link", name=name, exact=True).locator("visible=true")

    async def press(self, name: str) -> None:
        """Click a button."""
        await self.button(name).first.click()

    async def follow(self, name: str) -> None:
        """Click a link."""
        await self.link(name).first.click()

    async def sees(self, *texts: str | re.Pattern[str]) -> None:
        """Wait until each of these is somewhere on the page."""
        for text in texts:
            await expect(self.page.get_by_text(text).locator("visible=true").first).to_be_visible()

    async def sees_heading(self, name: str | re.Pattern[str]) -> None:
        await expect(self.page.get_by_role("heading", name=name).first).to_be_visible()

    async def sees_no(self, text: str) -> None:
        """Wait until this is nowhere on the page."""
        await expect(self.page.get_by_text(text).locator("visible=true")).to_have_count(0)

    async def is_at(self, path: str | re.Pattern[str]) -> None:
        await expect(self.page).to_have_url(
            path if isinstance(path, re.Pattern) else re.compile(f"^{re.escape(self.url + path)}(\\?.*)?$")
        )

    async def downloads(self, target: Locator, path: Path) -> Path:
        """Click, and keep the file that comes of it."""
        async with self.page.expect_download() as coming:
            await target.click()
        download: Download = await coming.value
        await download.save_as(path)
        return path

    async def drops(self, target: Locator, name: str, content: bytes, kind: str = "text/csv") -> None:
        """Drag a file from the desktop onto something, and let go."""
        handle = await self.page.evaluate_handle(
            """([name, kind, bytes]) => {
                const carried = new DataTransfer();
                carried.items.add(new File([new Uint8Array(bytes)], name, {type: kind}));
                return carried;
            }""",
            [name, kind, list(content)],
        )
        for event in ("dragenter", "dragover", "drop"):
            await target.dispatch_event(event, {"dataTransfer": handle})

    async def signs_in(self, email: str, password: str = PASSWORD) -> None:
        """By the form."""
        await self.visit("/sign-in")
        await self.fill("E-mail", email)
        await self.fill("Password", password)
        await self.press("Sign in")
        await expect(self.page.get_by_role("button", name="Sign out").or_(self.button("Menu")).first).to_be_visible()

    @property
    def _at(self) -> str:
        return self.page.url.removeprefix(self.url)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type != "error" or _ANSWERED.search(message.text):
            return  # answers are judged by themselves
        if self.away and _AWAY.search(message.text):
            return
        self.faults.append(f"{self._at}: {message.text}")

    def _failed(self, request: Request) -> None:
        reason = request.failure or ""
        if self.away or "ERR_ABORTED" in reason:  # a page that is left, a file that is saved
            return
        self.faults.append(f"{self._at}: {request.method} {request.url}: {reason}")

    def _answered(self, response: Response) -> None:
        path = response.url.removeprefix(self.url)
        refused = response.status >= 400 and response.request.method == "GET" and path not in self.expected
        if refused or (response.status >= 500 and not self.away):
            self.faults.append(f"{self._at}: {response.status} to {response.request.method} {path}")
