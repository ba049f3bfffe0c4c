import asyncio
from uuid import UUID

import pytest

from provserver.core.authorization import ALL, OPERATOR, Permission, Principal
from provserver.core.model import MetadataField
from provserver.core.statictoken import TokenStatus
from provserver.errors import Conflict, Forbidden, NotFound, Refused
from provserver.services import static_tokens
from provserver.services.static_tokens import Selection
from tests.conftest import Space
from tests.services.conftest import Locking, contents
from tests.services.shop import MAC, SERIAL, TEXT_MAC, Shop


@pytest.fixture
def shop(space: Space) -> Shop:
    return Shop(space)


# --- who may


@pytest.mark.parametrize("open_", [False, True])
async def test_only_who_manages_tokens_may(shop: Shop, *, open_: bool) -> None:
    await shop.profile()
    await shop.tokens.make(shop.maker, "sensors", 1)
    nobody = Principal("key:1", shop.space.organization_id, ALL - {Permission.TOKENS_MANAGE})
    for call in (
        shop.tokens.make(nobody, "sensors", 1),
        shop.import_("Device Name\na\n", by=nobody),
        shop.tokens.list_(nobody),
        shop.tokens.count(nobody, Selection()),
        shop.tokens.show(nobody, "1", open_=open_),
        shop.tokens.show_qr(nobody, "1"),
        shop.tokens.export_fields(nobody, Selection()),
        anext(shop.tokens.stream(nobody, Selection())),
    ):
        with pytest.raises(Forbidden, match="tokens:manage"):
            await call


async def test_what_is_not_below_is_not_there(shop: Shop) -> None:
    branch, other = await shop.below(), await shop.below("other")
    await shop.profile(SERIAL)
    await shop.profile(SERIAL, name="meters", of=branch)
    above = await shop.tokens.make(shop.maker, "sensors", 1)
    made = await shop.tokens.make(branch, "meters", 1)

    for stranger in (branch, other):
        with pytest.raises(NotFound, match="no profile"):
            await shop.tokens.make(stranger, "sensors", 1)
        with pytest.raises(NotFound, match="no profile"):
            await shop.import_("Device Name\na\n", by=stranger)
        with pytest.raises(NotFound, match=r"no static token .* by the id of its device"):
            await shop.tokens.show(stranger, str(above.first_number), open_=True)
    assert await shop.stored(other) == []
    assert await shop.tokens.list_(other) == []
    assert await shop.tokens.list_(other, batch=made.id) == []
    with pytest.raises(NotFound, match="no profile"):
        await shop.tokens.list_(other, "meters")
    with pytest.raises(NotFound, match="no profile"):
        await shop.tokens.export_fields(other, Selection(profile="meters"))
    assert [token.number for token in await shop.tokens.list_(branch)] == [made.first_number]
    assert [token.number for token in await shop.tokens.list_(shop.maker)] == [above.first_number, made.first_number]
    ids_ = [token.id for token in await shop.tokens.list_(shop.maker)]
    with pytest.raises(NotFound, match="Select them anew"):
        await anext(shop.tokens.stream(branch, Selection(ids=ids_)))


async def test_who_holds_the_device_does_not_see_its_token(shop: Shop) -> None:
    customer = await shop.below("customer")
    await shop.profile()
    await shop.tokens.make(shop.maker, "sensors", 1)
    (token,) = await shop.tokens.list_(shop.maker)
    await shop.space.rows(
        "INSERT INTO device (id, organization_id, profile_id, name, holder_id) VALUES ($1, $2, $3, 'd', $4)",
        token.id,
        token.organization_id,
        token.profile_id,
        customer.organization_id,
    )

    with pytest.raises(NotFound):
        await shop.tokens.show(customer, token.id, open_=True)
    assert await shop.stored(customer) == []
    shown = (await shop.tokens.show(shop.maker, token.id)).token
    assert (shown.device_name, shown.holder_id) == ("d", customer.organization_id)


async def test_the_profile_of_one_s_own_organization_goes_first(shop: Shop) -> None:
    one, two = await shop.below("one"), await shop.below("two")
    await shop.profile(of=one)
    await shop.profile(of=two)
    with pytest.raises(Conflict, match="Give its id"):
        await shop.tokens.make(shop.maker, "sensors", 1)
    await shop.profile()

    assert (await shop.tokens.make(shop.maker, "sensors", 1)).organization_id == shop.space.organization_id
    assert (await shop.tokens.make(two, "sensors", 1)).organization_id == two.organization_id
    profile_id = (await shop.tokens.make(one, "sensors", 1)).profile_id
    assert (await shop.tokens.make(shop.maker, str(profile_id), 1)).organization_id == one.organization_id


@pytest.mark.parametrize("reference", ["nothing", "", "a\0b"])
async def test_a_profile_that_is_not_there(shop: Shop, reference: str) -> None:
    with pytest.raises(NotFound, match="no profile"):
        await shop.tokens.make(shop.maker, reference, 1)


# --- listing, showing, streaming


async def test_a_token_is_shown_by_id_and_number(shop: Shop) -> None:
    await shop.profile()
    await shop.tokens.make(shop.maker, "sensors", 2)
    (first, second) = await shop.stored()

    for reference in (first.id, str(first.id), str(first.number)):
        details = await shop.tokens.show(shop.maker, reference)
        assert details.token.id == first.id
        assert (details.auth_token, details.qr_token) == (None, None)
    opened = await shop.tokens.show(shop.maker, second.id, open_=True)
    assert (opened.auth_token, opened.qr_token) == (second.auth_token, second.qr_token)
    assert await shop.audited("static_token.shown") == [(shop.space.organization_id, OPERATOR, str(second.id), {})]


async def test_a_qr_token_is_shown_without_the_auth_token_and_audited_as_what_opens_a_claim(shop: Shop) -> None:
    await shop.profile()
    await shop.tokens.make(shop.maker, "sensors", 1)
    (token,) = await shop.stored()

    for reference in (token.id, str(token.number)):
        shown = await shop.tokens.show_qr(shop.maker, reference)
        assert (shown.token.id, shown.auth_token, shown.qr_token) == (token.id, None, token.qr_token)
        assert token.qr_token not in repr(shown)
    assert await shop.audited("static_token.shown") == []
    with pytest.raises(NotFound):
        await shop.tokens.show_qr(await shop.below(), token.id)
    entry: tuple[object, ...] = (shop.space.organization_id, OPERATOR, str(token.id), {})
    assert await shop.audited("static_token.qr_shown") == [entry, entry]


@pytest.mark.parametrize("reference", [UUID(int=1), str(UUID(int=2)), "4711", "9" * 30, "x", "", "²", "-1"])
async def test_a_token_that_is_not_there(shop: Shop, reference: UUID | str) -> None:
    for call in (shop.tokens.show(shop.maker, reference), shop.tokens.show_qr(shop.maker, reference)):
        with pytest.raises(NotFound, match=r"no static token .* by the id of its device"):
            await call


async def test_lists_go_on_after_a_cursor(shop: Shop) -> None:
    await shop.profile()
    await shop.tokens.make(shop.maker, "sensors", 5)

    found: list[int] = []
    cursor = None
    while page := await shop.tokens.list_(shop.maker, cursor=cursor, limit=2):
        found += [token.number for token in page]
        cursor = page[-1].id

    assert found == [token.number for token in await shop.stored()]


async def test_what_is_selected_is_streamed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_tokens, "PAGE", 2)
    await shop.profile(SERIAL)
    await shop.profile(TEXT_MAC, SERIAL, name="meters")
    first = await shop.tokens.make(shop.maker, "sensors", 4)
    second = await shop.tokens.make(shop.maker, "meters", 3)
    everything = await shop.stored()
    await shop.space.rows("UPDATE static_token SET status = 'CLAIMED' WHERE id = $1", everything[1].id)
    low = first.first_number

    for selection, places in (
        (Selection(), [0, 1, 2, 3, 4, 5, 6]),
        (Selection(profile="meters"), [4, 5, 6]),
        (Selection(batch=first.id), [0, 1, 2, 3]),
        (Selection(batch=second.id), [4, 5, 6]),
        (Selection(batch=second.id, profile="sensors"), []),
        (Selection(status=TokenStatus.CLAIMED), [1]),
        (Selection(status=TokenStatus.UNCLAIMED, batch=first.id), [0, 2, 3]),
        (Selection(ids=[everything[6].id, everything[2].id, everything[2].id]), [2, 6]),
        (Selection(ids=[]), []),
    ):
        found = [token.number async for token in shop.tokens.stream(shop.maker, selection)]
        assert found == [low + place for place in places]
        assert await shop.tokens.count(shop.maker, selection) == len(places)
    assert await shop.tokens.export_fields(shop.maker, Selection(batch=second.id)) == ["MAC address", "Serial Number"]
    assert sorted(await shop.tokens.export_fields(shop.maker, Selection())) == ["MAC address", "Serial Number"]


async def test_streaming_is_audited_before_the_first_token(shop: Shop) -> None:
    await shop.profile()
    batch = await shop.tokens.make(shop.maker, "sensors", 3)

    stream = shop.tokens.stream(shop.maker, Selection(batch=batch.id))
    await anext(stream)
    await stream.aclose()

    assert await shop.audited("static_token.exported") == [
        (shop.space.organization_id, OPERATOR, str(batch.id), {"count": 3})
    ]


async def test_a_token_is_used_before_its_auth_token_leaves(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is made while the stream is read; and when it was is kept for good."""
    monkeypatch.setattr(static_tokens, "PAGE", 2)
    used = "SELECT count(*) FROM static_token WHERE used_at IS NOT NULL"
    await shop.profile()
    await shop.tokens.make(shop.maker, "sensors", 4)

    stream = shop.tokens.stream(shop.maker, Selection(profile="sensors"))
    first = await anext(stream)
    assert await shop.space.value(used) == 2
    since = await shop.space.value("SELECT used_at FROM static_token WHERE id = $1", first.id)
    await shop.tokens.make(shop.maker, "sensors", 1)
    assert len([token async for token in stream]) == 4
    assert await shop.space.value(used) == 5

    await shop.tokens.show(shop.maker, first.id, open_=True)
    await shop.stored()
    assert await shop.space.value("SELECT used_at FROM static_token WHERE id = $1", first.id) == since


async def test_a_look_at_tokens_without_auth_tokens_uses_none(shop: Shop) -> None:
    await shop.profile()
    await shop.tokens.make(shop.maker, "sensors", 2)

    labels = [token async for token in shop.tokens.stream(shop.maker, Selection(), labels=True)]
    assert [each[-1] for each in await shop.audited("static_token.exported")] == [{"count": 2, "labels": True}]
    await shop.tokens.show(shop.maker, labels[0].id)
    await shop.tokens.show_qr(shop.maker, labels[0].id)

    assert len(labels) == 2
    assert await shop.space.value("SELECT count(*) FROM static_token WHERE used_at IS NOT NULL") == 0


async def test_exports_of_the_same_tokens_at_once_wait_for_each_other(shop: Shop, lock: Locking) -> None:
    await shop.profile()
    await shop.tokens.make(shop.maker, "sensors", 2)
    _, last = await shop.tokens.list_(shop.maker)
    async with lock("SELECT FROM static_token WHERE id = $1 FOR UPDATE", last.id) as other:
        exports = [asyncio.create_task(shop.stored()) for _ in range(2)]
        await other.until_waiting()
        await other.commit()
        assert [len(found) for found in await asyncio.gather(*exports)] == [2, 2]


async def test_a_slow_reader_holds_no_connection(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_tokens, "PAGE", 1)
    await shop.profile()
    await shop.tokens.make(shop.maker, "sensors", 2)
    readers = [shop.tokens.stream(shop.maker, Selection()) for _ in range(8)]  # the pool has 4

    for _ in range(2):
        for reader in readers:
            await anext(reader)


async def test_a_profile_with_tokens_is_not_deleted(shop: Shop) -> None:
    await shop.profile()
    await shop.tokens.make(shop.maker, "sensors", 1)

    with pytest.raises(Refused, match="static tokens"):
        await shop.space.profiles.delete("sensors")


async def test_a_batch_that_fails_leaves_the_database_as_it_was(shop: Shop) -> None:
    await shop.profile(SERIAL, MAC)
    before = await contents(shop.space)

    await shop.import_("Serial Number\na\na\n")
    await shop.import_("")

    assert await contents(shop.space) == before


async def test_keys_are_shown_to_who_asks_for_secrets_alone(space: Space) -> None:
    shop = Shop(space)
    await shop.profile(SERIAL, MetadataField("Radio", "key128"), MetadataField("Owner Token"))
    key = "000102030405060708090A0B0C0D0E0F"
    report = await shop.import_(f"Serial Number,Radio,Owner Token\nSN1,{key},0WNER\n")
    assert report.batch is not None
    masked = {"Serial Number": "SN1", "Radio": static_tokens.MASK, "Owner Token": static_tokens.MASK}
    (listed,) = await shop.tokens.list_(shop.maker)
    assert listed.metadata == masked
    assert (await shop.tokens.show(shop.maker, listed.id)).token.metadata == masked
    opened = await shop.tokens.show(shop.maker, listed.id, open_=True)
    assert opened.token.metadata == {"Serial Number": "SN1", "Radio": key, "Owner Token": "0WNER"}
    assert len(await shop.audited("static_token.shown")) == 1
    assert [each.metadata["Radio"] for each in await shop.stored()] == [key]
