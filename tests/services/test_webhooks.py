from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from provserver.core.authorization import Permission
from provserver.core.events import EventType
from provserver.core.webhook import DeliveryState
from provserver.errors import Conflict, Forbidden, Invalid, NotFound
from provserver.services import webhooks as module
from provserver.services.webhooks import WebhookChange, Webhooks
from tests.conftest import Space
from tests.services.accounts import Accounts, Tree, only
from tests.services.webhooks import Flying, Subscriber, client, operator, tell


@pytest.fixture
def accounts(space: Space, tmp_path: Path) -> Accounts:
    return Accounts(space, tmp_path)


@pytest.fixture
async def webhooks(space: Space) -> AsyncIterator[Webhooks]:
    made = Webhooks(space.database, space.keys, client)
    yield made
    await made.close()


@pytest.fixture
async def subscriber(space: Space) -> AsyncIterator[Subscriber]:
    async with Subscriber.listening(space) as made:
        yield made


async def delivered(subscriber: Subscriber, number: int) -> None:
    while (await subscriber.states()).get("delivered", 0) < number or len(subscriber.receiver.events) < number:
        pass


async def test_a_webhook_is_made_and_its_secret_shown_this_once(space: Space, webhooks: Webhooks) -> None:
    url = "https://example.com/hook?token=pl4nted"
    made, secret = await webhooks.create(operator(space), url, [EventType.DEVICE_CLAIMED, EventType.DEVICE_CLAIMED])
    assert secret.startswith("whsec_")
    assert (made.url, made.types, made.enabled) == (url, ["device.claimed"], True)
    assert await webhooks.list_(operator(space)) == [made]
    assert (await webhooks.show(operator(space), made.id)).webhook == made
    rows = [str(dict(row)) for row in await space.rows("SELECT * FROM webhook")]
    assert secret[6:] not in str(rows)
    audit = [str(dict(row)) for row in await space.rows("SELECT * FROM audit WHERE action LIKE 'webhook.%'")]
    assert len(audit) == 1
    assert "example.com" in audit[0]
    assert "pl4nted" not in audit[0]


async def test_it_is_changed_and_deleted(space: Space, subscriber: Subscriber) -> None:
    webhooks, id_ = subscriber.webhooks, subscriber.webhook.id
    changed = await webhooks.update(operator(space), id_, WebhookChange(types=[EventType.CREDENTIALS_REVOKED]))
    assert (changed.types, changed.enabled, changed.url) == (["credentials.revoked"], True, subscriber.webhook.url)
    changed = await webhooks.update(operator(space), id_, WebhookChange(enabled=False, types=[]))
    assert (changed.types, changed.enabled) == ([], False)
    with pytest.raises(Invalid):
        await webhooks.update(operator(space), id_, WebhookChange(url="http://127.0.0.2/"))
    assert await webhooks.delete(operator(space), id_) == changed
    with pytest.raises(NotFound):
        await webhooks.show(operator(space), id_)
    assert await space.value("SELECT count(*) FROM audit WHERE action LIKE 'webhook.%'") == 4


@pytest.mark.parametrize("url", ["http://localhost/", "http://10.0.0.1/", "http://[::1]/", "http://169.254.169.254/x"])
async def test_private_addresses_need_the_configuration(space: Space, url: str) -> None:
    from provserver.adapters.outgoing import Outgoing
    from provserver.adapters.webhook import WebhookClient

    webhooks = Webhooks(space.database, space.keys, lambda: WebhookClient(Outgoing()))
    with pytest.raises(Invalid, match="outgoing_private"):
        await webhooks.create(operator(space), url)


async def test_an_organization_has_so_many_at_most(
    space: Space, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WEBHOOKS", 2)
    for _ in range(2):
        await webhooks.create(operator(space), "https://example.com/")
    with pytest.raises(Conflict, match="at most"):
        await webhooks.create(operator(space), "https://example.com/")


async def test_nobody_reaches_another_s(accounts: Accounts, space: Space, webhooks: Webhooks) -> None:
    tree = await Tree.grow(accounts)
    left = only(tree.left.id, Permission.ORGANIZATIONS_MANAGE)
    right = only(tree.right.id, Permission.ORGANIZATIONS_MANAGE)
    made, _ = await webhooks.create(left, "https://example.com/")
    assert await webhooks.list_(right) == []
    assert [each.id for each in await webhooks.list_(operator(space))] == [made.id]
    for refused in (
        webhooks.show(right, made.id),
        webhooks.update(right, made.id, WebhookChange(enabled=False)),
        webhooks.delete(right, made.id),
        webhooks.test(right, made.id),
        webhooks.deliveries(right, made.id),
        webhooks.replay(right, made.id, dead=True),
        webhooks.create(right, "https://example.com/", (), tree.left.id),
    ):
        with pytest.raises(NotFound):
            await refused
    with pytest.raises(Forbidden):
        await webhooks.list_(only(tree.left.id, Permission.KEYS_MANAGE))


async def test_a_test_is_sent_at_once(space: Space, subscriber: Subscriber) -> None:
    answer = await subscriber.webhooks.test(operator(space), subscriber.webhook.id)
    assert (answer.status, answer.error) == (200, "")
    (event,) = subscriber.receiver.events
    assert (event["type"], event["data"]) == ("webhook.test", {"webhookId": str(subscriber.webhook.id)})
    subscriber.receiver.answers = lambda _: 500
    answer = await subscriber.webhooks.test(operator(space), subscriber.webhook.id)
    assert (answer.status, answer.error) == (500, "HTTP 500")


async def test_deliveries_are_listed_newest_first(space: Space, subscriber: Subscriber) -> None:
    subscriber.receiver.answers = lambda event: 422 if event["data"]["n"] == 2 else 200
    await tell(space, 1, 0, 1)
    async with Flying(space, tries=1).running():
        await delivered(subscriber, 2)
        await tell(space, 1, 2)
        while "dead" not in await subscriber.states():
            pass
    webhooks, id_ = subscriber.webhooks, subscriber.webhook.id
    newest, *rest = await webhooks.deliveries(operator(space), id_)
    assert (newest.state, newest.tries, newest.status, newest.error) == (DeliveryState.DEAD, 1, 422, "HTTP 422")
    assert [each.state for each in rest] == [DeliveryState.DELIVERED] * 2
    assert [each.device_id for each in rest] == [UUID(int=1)] * 2
    assert await webhooks.deliveries(operator(space), id_, newest.id) == rest
    assert await webhooks.deliveries(operator(space), id_, limit=1) == [newest]
    assert await webhooks.deliveries(operator(space), id_, state=DeliveryState.DEAD) == [newest]
    assert (await webhooks.show(operator(space), id_)).counts == (0, 1)


async def test_events_are_sent_again(space: Space, subscriber: Subscriber) -> None:
    await tell(space, 1, 0, 1, 2)
    async with Flying(space).running():
        await delivered(subscriber, 3)
        id_, webhooks = subscriber.webhook.id, subscriber.webhooks
        event = UUID(subscriber.receiver.events[1]["id"])
        assert await webhooks.replay(operator(space), id_, event=event) == 1
        await delivered(subscriber, 3)
        while len(subscriber.receiver.events) < 4:
            await subscriber.states()
        begin = datetime.now(UTC) - timedelta(hours=1)
        while await subscriber.states() != {"delivered": 3}:
            pass
        assert await webhooks.replay(operator(space), id_, since=begin) == 3
        while len(subscriber.receiver.events) < 7:
            await subscriber.states()
        assert await webhooks.replay(operator(space), id_, since=begin, until=begin) == 0
        assert await webhooks.replay(operator(space), id_, event=uuid4()) == 0
        assert await webhooks.replay(operator(space), id_, dead=True) == 0
    assert [each["data"]["n"] for each in subscriber.receiver.events] == [0, 1, 2, 1, 0, 1, 2]


async def test_a_new_webhook_can_be_told_of_what_was_before(space: Space, subscriber: Subscriber) -> None:
    await tell(space, 1, 0, 1)
    async with Flying(space).running():
        await delivered(subscriber, 2)
        async with Subscriber.listening(space) as later:
            since = datetime.now(UTC) - timedelta(hours=1)
            assert await later.webhooks.replay(operator(space), later.webhook.id, since=since) == 2
            await delivered(later, 2)
            assert later.receiver.first == subscriber.receiver.first


async def test_what_to_send_again_must_be_one_thing(space: Space, subscriber: Subscriber) -> None:
    now = datetime.now(UTC)
    for wanted in ({}, {"event": uuid4(), "dead": True}, {"since": now, "dead": True}, {"until": now}):
        with pytest.raises(Invalid):
            await subscriber.webhooks.replay(operator(space), subscriber.webhook.id, **wanted)
