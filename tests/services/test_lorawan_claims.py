from contextlib import aclosing

import pytest

from provserver.core import statictoken, tr005
from provserver.core.authorization import Role
from provserver.core.integration import ClaimProof
from provserver.core.limits import Buckets
from provserver.core.tokenexport import OpenedToken
from provserver.errors import Conflict, Invalid, NotFound, TooManyRequests
from provserver.services.access import Access
from provserver.services.claiming import UNCLAIMABLE, Claiming, ClaimLimits
from provserver.services.eol import EndOfLine
from provserver.services.handover import Handover
from provserver.services.static_tokens import Selection
from provserver.services.token_export import TokenExport
from tests import qrcodes
from tests.conftest import Space
from tests.services.conftest import PEER
from tests.services.lorawan import CODES, SEED, Brand
from tests.services.ownership import Estate
from tests.services.test_token_export import unzipped, whole

OWNED = """Device EUI,Join EUI,Application Key,Owner Token
0018B20000000101,70B3D57ED0000010,2B7E151628AED2A6ABF7158809CF4F3C,abcd1234
0018B20000000102,70B3D57ED0000011,3B7E151628AED2A6ABF7158809CF4F3D,with:colon
"""


@pytest.fixture
async def estate(space: Space) -> Estate:
    return await Estate.make(space.database, space.keys, space.organization_id)


@pytest.fixture
async def brand(space: Space, estate: Estate) -> Brand:
    return await Brand.make(space, estate)


@pytest.fixture
def claiming(space: Space) -> Claiming:
    """Without a limit that a test would run into."""
    limits = ClaimLimits(Buckets(10**6, 10**6), Buckets(10**6, 10**6), Buckets(10**6, 10**6))
    return Claiming(space.database, space.keys, limits)


async def refused(claiming: Claiming, brand: Brand, code: str, name: str = "anna") -> None:
    with pytest.raises(NotFound) as answer:
        await claiming.claim(brand.estate.who(name), code, address="192.0.2.1")
    assert str(answer.value) == UNCLAIMABLE


async def streamed(brand: Brand) -> list[OpenedToken]:
    async with aclosing(brand.tokens.stream(brand.principal, Selection())) as tokens:
        return [token async for token in tokens]


# What the codes say


async def test_the_document_s_codes_are_those_of_its_file(brand: Brand) -> None:
    tokens = await brand.import_()
    assert [(await brand.code(token)) for token in tokens] == [
        f"{CODES[0]}:C8525",
        f"{CODES[1]}:C082B",
        f"{CODES[2]}:C0A7B",
    ]
    shown = await brand.tokens.show(brand.principal, tokens[0].id, open_=True)
    assert shown.payload == f"{CODES[0]}:C8525"
    assert [token.payload for token in await streamed(brand)] == [await brand.code(token) for token in tokens]


async def test_images_and_labels_say_so_too(brand: Brand) -> None:
    await brand.import_()
    export = TokenExport(brand.tokens)
    images = unzipped(await whole(export.zip_(brand.principal, Selection())))
    read = [qrcodes.read_png(image) for name, image in images.items() if name.startswith("qr/")]
    assert read == [[token.payload] for token in await streamed(brand)]
    assert "qr/0018B20000000101.png" in images
    assert (await whole(export.labels(brand.principal, Selection()))).startswith(b"%PDF")


async def test_the_production_line_s_labels_say_so_too(brand: Brand) -> None:
    await brand.demand(ClaimProof.OWNER_TOKEN)
    token, *_ = await brand.import_()
    eol = EndOfLine(brand.space.database, brand.space.keys)
    reserved = await eol.reserve(brand.principal, "sensors", "SN-1")
    assert (reserved.token_id, reserved.payload) == (token.id, await brand.code(token))
    assert reserved.payload.startswith(CODES[0])
    assert tr005.parse(reserved.payload).owner_token not in repr(reserved)


async def test_without_onboarding_or_euis_they_are_the_usual_ones(brand: Brand) -> None:
    tokens = await brand.import_(SEED + ",,5B7E151628AED2A6ABF7158809CF4F3F\n")
    assert (await brand.code(tokens[3])).startswith("sqr_")
    await brand.update(onboarding=False)
    assert (await brand.code(tokens[0])).startswith("sqr_")


async def test_an_owner_token_is_in_the_code_where_it_is_demanded(brand: Brand) -> None:
    await brand.demand(ClaimProof.OWNER_TOKEN)
    first, second, _ = [tr005.parse(await brand.code(token)) for token in await brand.import_()]
    assert len(first.owner_token) == statictoken.OWNER_TOKEN_LENGTH
    assert first.owner_token != second.owner_token
    qr_tokens = [token.qr_token for token in await streamed(brand)]
    assert not any(first.owner_token.lower() in each.lower() for each in qr_tokens)


# Claims


async def test_a_device_is_claimed_by_its_code(claiming: Claiming, brand: Brand, space: Space) -> None:
    tokens = await brand.import_()
    anna = brand.estate.who("anna")
    claimed = await claiming.claim(anna, CODES[0])
    assert claimed.device is not None
    assert (claimed.id, claimed.device.holder_id) == (tokens[0].id, anna.organization_id)
    statement = "SELECT value FROM attribute WHERE device_id = $1 AND key = 'meta.Device EUI'"
    assert await space.value(statement, claimed.id) == "0018B20000000101"
    await claiming.claim(anna, f" {CODES[1].lower()}:sABC:c".replace(":c", "") + "\n")


async def test_one_answer_for_whatever_cannot_be_claimed(claiming: Claiming, brand: Brand, space: Space) -> None:
    _, second, _ = await brand.import_()
    await claiming.claim(brand.estate.who("anna"), CODES[0])
    await Handover(space.database).delete_token(brand.principal, second.id)
    for code in (
        CODES[0],  # claimed
        CODES[1],  # deleted
        CODES[2].replace("0018B2", "0018B3"),  # unknown
        CODES[2].replace("70B3D5", "70B3D6"),
        CODES[2].replace("000AF8BE", "000AF8BF"),  # of another profile
        "0018B20000000103",  # a DevEUI alone
        "LW:D0",
    ):
        await refused(claiming, brand, code, "ben")
    await refused(claiming, brand, CODES[2], "cleo")  # no customer of the brand
    await refused(claiming, brand, CODES[2], "dora")
    await brand.update(onboarding=False)
    await refused(claiming, brand, CODES[2], "ben")
    await brand.update(onboarding=True)
    await claiming.claim(brand.estate.who("ben"), CODES[2])


async def test_a_code_that_was_misread_is_scanned_again(claiming: Claiming, brand: Brand) -> None:
    await brand.import_()
    with pytest.raises(Invalid, match="checksum"):
        await claiming.claim(brand.estate.who("anna"), f"{CODES[0]}:C8526")


async def test_codes_are_guessed_at_as_slowly_as_others(space: Space, brand: Brand) -> None:
    claiming = Claiming(space.database, space.keys, ClaimLimits(guesses=Buckets(2, 0.001)), monotonic=lambda: 100.0)
    await brand.import_()
    await refused(claiming, brand, CODES[0].replace("101:", "201:"))
    await refused(claiming, brand, CODES[0].replace("101:", "202:"), "ben")
    with pytest.raises(TooManyRequests):
        await claiming.claim(brand.estate.who("anna", Role.STAFF), CODES[0], address="192.0.2.1")


async def test_the_owner_token_is_a_secret_where_it_is_demanded(claiming: Claiming, brand: Brand) -> None:
    await brand.demand(ClaimProof.OWNER_TOKEN)
    tokens = await brand.import_()
    first, second, _ = [await brand.code(token) for token in tokens]
    other = tr005.parse(second).owner_token
    for code in (CODES[0], f"{CODES[0]}:O{other}", f"{CODES[0]}:O"):
        await refused(claiming, brand, code)
    claimed = await claiming.claim(brand.estate.who("anna"), first)
    assert claimed.id == tokens[0].id
    qr_token = (await brand.tokens.show_qr(brand.principal, tokens[1].id)).qr_token
    assert qr_token is not None
    assert (await claiming.claim(brand.estate.who("ben"), qr_token)).id == tokens[1].id  # which is one itself


async def test_the_printer_may_have_chosen_it(claiming: Claiming, brand: Brand, space: Space) -> None:
    await brand.demand(ClaimProof.OWNER_TOKEN)
    await space.rows(
        "UPDATE device_profile SET metadata_fields = metadata_fields || $1::jsonb, revision = revision + 1",
        [{"name": "Owner Token", "type": "text", "unique": False, "options": [], "default": ""}],
    )
    first, second = await brand.import_(OWNED)
    assert tr005.parse(await brand.code(first)).owner_token == "ABCD1234"
    assert (await brand.code(second)).startswith("sqr_")  # as no code can say it
    await refused(claiming, brand, f"{CODES[0]}:OABCD")
    assert (await claiming.claim(brand.estate.who("anna"), f"{CODES[0]}:OAbcd1234")).id == first.id


async def test_the_device_s_word_is_waited_for_where_it_is_demanded(
    claiming: Claiming, brand: Brand, space: Space
) -> None:
    await brand.demand(ClaimProof.DEVICE)
    first, second, _ = await brand.import_()
    begun = await claiming.claim(brand.estate.who("anna"), CODES[0])
    assert begun.device is None
    assert begun.expires_at is not None
    opened = await brand.tokens.show(brand.principal, first.id, open_=True)
    device = await Access(space.database, space.keys).with_token(opened.auth_token or "", PEER)
    assert not isinstance(device, str)
    assert await claiming.confirm(device)  # type: ignore[arg-type] # it was let in
    assert await space.value("SELECT status FROM static_token WHERE id = $1", first.id) == "CLAIMED"
    qr_token = (await brand.tokens.show_qr(brand.principal, second.id)).qr_token
    assert qr_token is not None
    assert (await claiming.claim(brand.estate.who("ben"), qr_token)).device is not None  # its secret is proof enough


async def test_who_blocks_a_claim_is_passed_over_by_the_maker(claiming: Claiming, brand: Brand, space: Space) -> None:
    await brand.demand(ClaimProof.DEVICE)
    first, second, _ = await brand.import_()
    anna, ben = brand.estate.who("anna"), brand.estate.who("ben")
    for code in CODES[:2]:
        await claiming.claim(anna, code)
        with pytest.raises(Conflict):
            await claiming.claim(ben, code)
    moved = await Handover(space.database).transfer(brand.principal, first.id, to_organization=anna.organization_id)
    assert moved.holder_id == anna.organization_id
    qr_token = (await brand.tokens.show_qr(brand.principal, second.id)).qr_token
    assert qr_token is not None
    assert (await claiming.claim(anna, qr_token)).device is not None
    for code in CODES[:2]:
        with pytest.raises(NotFound):
            await claiming.claim(ben, code)
    assert await space.value("SELECT count(*) FROM pending_claim") == 0
