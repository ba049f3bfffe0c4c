"""The seed's story as people see it: from a spreadsheet to a device in a customer's hand, and on to the next's."""

import asyncio
import csv
import io
import re
import zipfile
from pathlib import Path

from playwright.async_api import FilePayload, expect

from tests.browser.conftest import Seat
from tests.browser.person import Person
from tests.browser.photo import taken
from tests.qrcodes import read_png
from tests.server import Server
from tests.test_story import PASSWORD, flashed, mqtt

MAKER = "maker@example.com"
WRONG = """\
Serial,MAC address,Device Name
SN000001,2C:54:91:88:C9:E3,Temperature Sense Node AGHJ
SN000002,5C:62:91:82:C9:E8,Temperature Sense Node KJGF
SN000003,4A:33:54:68:K9:F1,Temperature Sense Node CVBN
"""
RIGHT = WRONG.replace("K9", "A9")
NODE = "Temperature Sense Node AGHJ"


async def set_up(maker: Person, server: Server) -> None:
    """The first user, by the link that the first start has left."""
    await maker.visit((server.data_dir / "setup-link").read_text().strip())
    await expect(maker.page).to_have_url(re.compile("/set-up$"))  # the link is not in the address any more
    await maker.fill("E-mail", MAKER)
    await maker.fill("Name", "Maker")
    await maker.fill("Password", PASSWORD)
    await maker.press("Set the server up")
    await maker.is_at("/")
    await maker.sees_heading("Overview")


async def makes_profile(maker: Person, name: str) -> None:
    """A profile whose tokens have two fields, and which needs no key."""
    await maker.follow("Profiles")
    await maker.follow("Create a profile")
    await maker.field("Name").first.fill(name)
    await maker.tick("None yet")
    await maker.page.get_by_text("Metadata fields", exact=True).click()
    for field, kind, unique in (("Serial Number", "text", "yes"), ("MAC address", "mac", "no")):
        await maker.press("Add a metadata field")
        row = maker.page.get_by_role("group", name="Metadata field").last
        await row.get_by_role("textbox", name="Name", exact=True).fill(field)
        await row.get_by_role("combobox", name="Type").select_option(kind)
        await row.get_by_role("combobox", name="Unique").select_option(label=unique)
    await maker.press("Create the profile")
    await maker.sees_heading(name)
    await maker.sees("Serial Number", "MAC address")


async def imports(maker: Person, profile: str) -> None:
    """A file with a mistake, and a column of another name; then the mended one."""
    await maker.visit("/static-tokens/import")
    await maker.choose("Device profile", profile)
    drop = maker.page.locator("[data-drop]")
    await maker.drops(drop, "nodes.csv", WRONG.encode())
    await maker.sees("nothing can be imported yet")
    await expect(maker.page.get_by_role("button", name=re.compile("^Make"))).to_be_disabled()
    await maker.page.get_by_role("combobox", name="Serial", exact=True).select_option(label="Serial Number")
    await expect(maker.page.get_by_text("1 error:")).to_be_visible()
    row = maker.page.get_by_role("region", name="Rows of the file").get_by_role("row").filter(has_text="SN000003")
    await expect(row.locator("td.wrong")).to_contain_text("4A:33:54:68:K9:F1")
    await maker.drops(drop, "nodes.csv", RIGHT.encode())
    await maker.page.get_by_role("combobox", name="Serial", exact=True).select_option(label="Serial Number")
    await maker.sees("3 rows are right.")
    await maker.press("Make 3 tokens")
    await maker.sees("Tokens that were made together")


async def exports(maker: Person, path: Path) -> zipfile.ZipFile:
    """The zip with what is flashed and what is printed."""
    await maker.follow("Export")
    await maker.sees_heading("Export 3 static tokens")
    saved = await maker.downloads(maker.button("Download the zip"), path)
    return zipfile.ZipFile(io.BytesIO(saved.read_bytes()))


async def invites(maker: Person, name: str, email: str) -> str:
    """A customer's organization, and the link for its first user."""
    await maker.visit("/organizations/new")
    await maker.fill("Name", name)
    await maker.press("Create")
    await maker.sees_heading(name)
    await maker.follow("Look at it")
    await maker.sees("You are looking at")
    return await links(maker, email, "User")


async def links(maker: Person, email: str, role: str) -> str:
    """The link for a user of the organization that is looked at."""
    await maker.follow("Users")
    await maker.follow("Invite a user")
    await maker.fill("E-mail", email)
    await maker.tick(role)
    await maker.press("Invite")
    await maker.sees_heading(f"{email} is invited")
    link = await maker.page.get_by_role("group", name="Link to accept the invitation").locator("code").inner_text()
    assert link.startswith(maker.url)
    return link


async def accepts(customer: Person, link: str, name: str) -> None:
    await customer.visit(link)
    await expect(customer.page).to_have_url(re.compile("/invitation$"))
    await customer.fill("Your name", name)
    await customer.fill("Password", PASSWORD)
    await customer.press("Accept and sign in")
    await customer.is_at("/")


async def shows(customer: Person, name: str, picture: bytes) -> None:
    """Claim by a picture of the code. name: of the file."""
    await customer.visit("/claim")
    kind = "image/jpeg" if name.endswith(".jpg") else "image/png"
    file: FilePayload = {"name": name, "mimeType": kind, "buffer": picture}
    await customer.page.get_by_label("Use a picture").set_input_files(file)


async def test_from_the_factory_to_the_second_customer(server: Server, seat: Seat, tmp_path: Path) -> None:
    url = f"http://{server.admin}"
    maker = await seat(url)
    await set_up(maker, server)
    assert not (server.data_dir / "setup-link").exists()

    # A spreadsheet becomes tokens, and tokens become a zip: AuthTokens to flash, codes to print.
    await makes_profile(maker, "Temperature node")
    await imports(maker, "Temperature node")
    archive = await exports(maker, tmp_path / "tokens.zip")
    (listed,) = (each for each in archive.namelist() if each.endswith(".csv"))
    rows = list(csv.DictReader(io.StringIO(archive.read(listed).decode())))
    assert [row["Serial Number"] for row in rows] == ["SN000001", "SN000002", "SN000003"]
    images = {Path(each).stem: archive.read(each) for each in archive.namelist() if each.endswith(".png")}
    codes = {serial: read_png(image)[0] for serial, image in images.items()}
    assert codes == {row["Serial Number"]: f"{row['QR Token']}+1" for row in rows}
    tokens = [row["Device Token"] for row in rows]

    # Two devices connect as they are flashed; they are the maker's, unclaimed.
    for token, transport in zip(tokens, ("mqtt", "http"), strict=False):
        result = await flashed(server, transport, token)
        assert result.code == 0, result.stderr
    await maker.visit("/devices")
    await maker.sees(NODE, "Temperature Sense Node KJGF")
    await maker.sees_no("Temperature Sense Node CVBN")
    await maker.visit("/static-tokens")
    await expect(maker.page.get_by_role("row").filter(has_text=NODE)).to_contain_text("connected, unclaimed")

    # Two customers are invited. Each of them has a phone.
    link = await invites(maker, "Blue Farm", "customer@example.com")
    customer = await seat(url, size="phone")
    await customer.holds_the_clock()
    await accepts(customer, link, "Carla")
    link = await invites(maker, "City of Sunfield", "other@example.com")
    other = await seat(url, size="phone")
    await accepts(other, link, "Otis")

    # A photo of the label is enough.
    await shows(customer, "IMG_2041.jpg", taken(images["SN000001"]))
    await customer.sees_heading(f"{NODE} is yours")

    # Whoever scans the same code next is told what to do, and not who has it.
    await shows(other, "code.png", images["SN000001"])
    await other.sees_heading("This code cannot be claimed")
    await other.sees("Did somebody have it before you?")
    await other.sees_no("Carla")

    # The code alone, as it was exported: of a device that was never switched on. It says so as it comes online.
    await shows(customer, "SN000003.png", images["SN000003"])
    await customer.sees_heading("Temperature Sense Node CVBN is yours")
    await customer.sees("not online yet")
    async with mqtt(server, tokens[2]) as session:
        assert session.code == 0
        await customer.later(3)  # when its page asks again
        await customer.sees("It is connected and works.")
    await customer.visit("/devices")
    await customer.sees(NODE, "Temperature Sense Node CVBN")
    await customer.sees_no("Temperature Sense Node KJGF")

    # A picture without a code, and words that are none.
    await shows(customer, "cat.jpg", taken(blank()))
    await customer.sees("There is no QR code to be found in this picture.")
    await customer.fill("Code", "sqr_" + "x" * 32)
    await customer.press("Claim the device")
    await customer.sees_heading("This code cannot be claimed")

    # Returned: an operator of the maker finds it, reads what happened to it, and takes it back, knowing what is lost.
    await maker.visit("/")
    operator = await seat(url)
    await accepts(operator, await links(maker, "operator@example.com", "Staff"), "Olga")
    await operator.follow("Devices")
    await operator.fill("Search", NODE)
    await operator.follow(NODE)
    await operator.follow("Timeline")
    await operator.sees(re.compile("claimed"))
    await operator.visit("/static-tokens")
    row = operator.page.get_by_role("row").filter(has_text=NODE)
    await expect(row).to_contain_text("Carla")
    await row.get_by_role("link", name="1", exact=True).click()
    await operator.press("Disclaim")
    dialog = operator.page.get_by_role("dialog")
    await expect(dialog).to_contain_text("loses the device")
    await expect(dialog).to_contain_text(NODE)
    await dialog.get_by_role("button", name="Disclaim").click()
    await operator.sees("connected, unclaimed")
    await customer.visit("/devices")
    await customer.sees("Temperature Sense Node CVBN")
    await customer.sees_no(NODE)
    assert (await flashed(server, "coap", tokens[0])).code == 0
    await shows(other, "code.png", images["SN000001"])
    await other.sees_heading(f"{NODE} is yours")

    # Deleted for ever: who is connected is cut, and nobody comes in with it again.
    async with mqtt(server, tokens[0]) as session:
        assert session.code == 0
        await maker.visit("/static-tokens")
        await maker.page.get_by_role("row").filter(has_text=NODE).get_by_role("link", name="1", exact=True).click()
        await maker.press("Delete for ever")
        dialog = maker.page.get_by_role("dialog")
        await expect(dialog).to_contain_text("Otis")
        word = await dialog.get_by_role("textbox").get_attribute("pattern")
        assert word is not None
        await dialog.get_by_role("textbox").fill(word)
        await dialog.get_by_role("button", name="Delete for ever").click()
        await maker.is_at("/static-tokens")
        assert await session.reader.read() == b""
    async with mqtt(server, tokens[0]) as session:
        assert session.code == 5
    await other.visit("/devices")
    await other.sees_no(NODE)

    # The audit has it all, in words; no page and no log has a token.
    await maker.visit("/audit")
    await maker.sees(re.compile("static token", re.IGNORECASE))
    for token in tokens:
        assert token not in await maker.page.content()
        assert token not in server.log
    await asyncio.gather(maker.leave(), customer.leave(), other.leave())


def blank() -> bytes:
    """A label without a code."""
    from PIL import Image

    target = io.BytesIO()
    Image.new("L", (300, 300), 255).save(target, "PNG")
    return target.getvalue()
