from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from provserver.core import auditchain
from provserver.core.auditchain import GENESIS, Break, ChainKeys, Entry, Head, Link, Verifier
from provserver.core.secrets import ServerKeys

KEYS = auditchain.chain_keys(ServerKeys({1: bytes(32), 2: b"2" * 32}, {}))
AT = datetime(2026, 11, 22, tzinfo=UTC)

texts = st.text(max_size=8)
entries = st.builds(
    Entry,
    st.uuids(),
    st.integers(-(2**48), 2**52).map(lambda n: AT + timedelta(microseconds=n)),
    st.uuids(),
    texts,
    texts,
    texts,
    texts,
)


def made(told: Sequence[Entry], rotated_at: int = 1_000) -> list[Link]:
    links = []
    before = GENESIS
    for seq, entry in enumerate(told, 1):
        before = auditchain.mac(KEYS, 1 if seq <= rotated_at else 2, seq, before, entry)
        links.append(Link(seq, before, entry))
    return links


def head(links: Sequence[Link]) -> Head:
    return auditchain.sign(KEYS, links[-1].seq, links[-1].mac, AT)


def verified(links: Sequence[Link], end: Head | None = None, keys: ChainKeys = KEYS) -> Break | None:
    verifier = Verifier(keys, {} if end is None else {"the head": end})
    for link in links:
        if (broken := verifier.take(link)) is not None:
            return broken
    return verifier.end()


@st.composite
def chains(draw: st.DrawFn, least: int = 1) -> list[Link]:
    told = draw(st.lists(entries, min_size=least, max_size=6, unique_by=lambda entry: entry.id))
    return made(told, draw(st.integers(0, len(told))))


@given(chains())
def test_what_was_chained_is_right(links: list[Link]) -> None:
    assert verified(links, head(links)) is None
    assert auditchain.is_signed(KEYS, head(links))


@given(chains(), st.data())
def test_any_altered_entry_is_named(links: list[Link], data: st.DataObject) -> None:
    n = data.draw(st.integers(0, len(links) - 1))
    field = data.draw(st.sampled_from(Entry._fields))
    was = getattr(links[n].entry, field)
    other = getattr(data.draw(entries), field)
    if other == was:
        return
    altered = [*links]
    altered[n] = links[n]._replace(entry=links[n].entry._replace(**{field: other}))

    broken = verified(altered, head(links))

    assert broken is not None
    assert (broken.seq, broken.id) == (n + 1, altered[n].entry.id)


@given(chains())
def test_what_one_field_loses_another_cannot_gain(links: list[Link]) -> None:
    entry = links[0].entry
    moved = entry._replace(actor=entry.actor + entry.action, action="")
    broken = verified([links[0]._replace(entry=moved), *links[1:]])
    assert (broken is None) == (moved == entry)


@given(chains(), st.data())
def test_any_removed_entry_is_missed(links: list[Link], data: st.DataObject) -> None:
    n = data.draw(st.integers(0, len(links) - 1))

    broken = verified(links[:n] + links[n + 1 :], head(links))

    assert broken is not None
    assert broken.seq == n + 1


@given(chains(least=2), st.data(), st.booleans())
def test_two_entries_that_change_places_are_found(links: list[Link], data: st.DataObject, with_macs: bool) -> None:
    n, m = sorted(data.draw(st.lists(st.integers(0, len(links) - 1), min_size=2, max_size=2, unique=True)))
    swapped = [*links]
    a, b = links[n], links[m]
    swapped[n] = Link(a.seq, b.mac if with_macs else a.mac, b.entry)
    swapped[m] = Link(b.seq, a.mac if with_macs else b.mac, a.entry)

    broken = verified(swapped, head(links))

    assert broken is not None
    assert (broken.seq, broken.id) == (n + 1, b.entry.id)


@given(chains(least=2), st.data())
def test_what_is_cut_off_is_missed_by_whoever_has_the_head(links: list[Link], data: st.DataObject) -> None:
    n = data.draw(st.integers(0, len(links) - 1))

    broken = verified(links[:n], head(links))

    assert broken is not None
    assert (broken.seq, broken.id) == (n + 1, None)
    assert verified(links[:n]) is None  # nobody else can know


@given(chains(), chains())
def test_a_chain_that_was_made_anew_is_not_the_one_that_was_signed(links: list[Link], others: list[Link]) -> None:
    if [each.entry for each in links] == [each.entry for each in others[: len(links)]]:
        return
    broken = verified(others, head(links))
    assert broken is not None


@given(chains(), st.data())
def test_an_altered_head_is_no_head(links: list[Link], data: st.DataObject) -> None:
    right = head(links)
    changes: list[dict[str, Any]] = [
        {"seq": right.seq + 1},
        {"seq": 0},
        {"mac": right.mac[:-1] + bytes((right.mac[-1] ^ 1,))},
        {"mac": b""},
        {"at": right.at + timedelta(microseconds=1)},
        {"signature": right.signature[:-1]},
    ]
    wrong = right._replace(**data.draw(st.sampled_from(changes)))
    assert not auditchain.is_signed(KEYS, wrong)


def test_a_key_that_was_rotated_away_is_good_for_nothing_new() -> None:
    told = [Entry(UUID(int=n), AT, UUID(int=0), "operator", "device.created", "x", "{}") for n in range(3)]
    links = made(told, rotated_at=2)
    assert [link.mac[0] for link in links] == [1, 1, 2]
    old = auditchain.mac(KEYS, 1, 4, links[-1].mac, told[0])

    broken = verified([*links, Link(4, old, told[0])])

    assert broken is not None
    assert "key 1, which was rotated away" in broken.text


def test_a_key_that_is_not_there_is_named() -> None:
    links = made([Entry(UUID(int=1), AT, UUID(int=0), "operator", "device.created", "x", "{}")])
    broken = verified(links, keys={2: KEYS[2]})
    assert broken is not None
    assert "key 1, which this server does not have" in broken.text
