"""Whoever has no mouse, or does not see, gets everywhere."""

from playwright.async_api import expect

from tests.browser import looks
from tests.browser.conftest import Gallery
from tests.browser.seed import MAKER, World


async def test_whoever_has_no_mouse_gets_everywhere(world: World, gallery: Gallery) -> None:
    """By Tab, Enter and Escape: past the menus, into a dialog and out of it, and to what is wrong in a form."""
    person = await gallery(MAKER, "desktop")
    page, keys = person.page, person.page.keyboard

    # The first stop of each page skips what is the same on all.
    await person.visit("/users")
    await looks.settle(page)
    await keys.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await expect(page.get_by_role("link", name="Skip to content")).to_be_in_viewport()
    await keys.press("Enter")
    await expect(page.locator("#main")).to_be_focused()

    # A dialog takes the focus to its harmless end, keeps it, and gives it back.
    await person.visit(f"/users/{world.ids['user']}")
    await looks.settle(page)
    opener = page.locator("button[data-dialog]:visible").last
    await opener.focus()
    await keys.press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_be_visible()
    await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    for _ in range(6):
        await keys.press("Tab")
        outside = "() => document.activeElement !== document.body && !document.activeElement.closest('dialog')"
        assert not await page.evaluate(outside)
    await keys.press("Escape")
    await expect(dialog).to_be_hidden()
    await expect(opener).to_be_focused()

    # What is wrong in a form is read out, and its field says so.
    await person.visit("/organizations/new")
    await page.get_by_label("Name").first.fill("Blue Farm")
    await keys.press("Enter")
    alert = page.get_by_role("alert").filter(has_text="Blue Farm")
    await expect(alert).to_be_visible()
    await expect(alert.locator(".problem")).to_be_focused()
    person.faults.clear()


async def test_the_menu_of_a_phone_is_opened_and_closed_by_keys(gallery: Gallery) -> None:
    person = await gallery(MAKER, "phone")
    await person.visit("/users")
    await looks.settle(person.page)
    menu = person.button("Menu")
    await menu.focus()
    await person.page.keyboard.press("Enter")
    await expect(menu).to_have_attribute("aria-expanded", "true")
    await expect(person.link("Devices")).to_be_visible()
    await person.page.keyboard.press("Escape")
    await expect(menu).to_have_attribute("aria-expanded", "false")
    await expect(menu).to_be_focused()
    person.faults.clear()


async def test_the_theme_and_the_switcher_say_how_they_are(gallery: Gallery) -> None:
    person = await gallery(MAKER, "desktop")
    page = person.page
    await person.visit("/users")
    await looks.settle(page)
    theme = page.locator(".top [data-theme-switch]")
    await expect(theme).to_have_attribute("aria-label", "Colours: automatic. Change them")
    for said in ("light", "dark", "automatic"):
        await theme.press("Enter")
        await expect(theme).to_have_attribute("aria-label", f"Colours: {said}. Change them")
        await expect(page.locator("#theme-said")).to_have_text(f"Colours: {said}")

    # Whoever tabs on leaves it closed, so that it covers nothing.
    switcher = page.locator("details[data-switcher]")
    await switcher.locator("> summary").press("Enter")
    await expect(switcher.get_by_role("searchbox")).to_be_focused()
    await expect(switcher.get_by_role("link").first).to_be_visible()
    await switcher.get_by_role("link").last.focus()
    await page.keyboard.press("Tab")
    await expect(switcher).not_to_have_attribute("open", "")
    await expect(page.locator(":focus")).not_to_have_count(0)
    person.faults.clear()
