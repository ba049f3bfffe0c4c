"""The chain of the audit: each entry's mac is over the mac before it, so none can be altered, removed or moved.

Its keys are derived from the server's digest key, a chain key for each version of it; versions only rise along the
chain, so who has learnt a key that was rotated away can forge nothing before the first mac under its successor, and
cannot cut that off unseen where a head under the successor is kept (`store/headfile.py`).
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from provserver.core.secrets import ServerKeys

GENESIS = bytes(33)
"""What stands before the first mac."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Entry(NamedTuple):
    """An entry of the audit. detail: as Postgres writes it, which is the same for equal values."""

    id: UUID
    at: datetime
    organization_id: UUID
    actor: str
    action: str
    subject_id: str
    detail: str


class Link(NamedTuple):
    """An entry in its place. mac: a byte for the key's version, and 32 of HMAC-SHA256."""

    seq: int
    mac: bytes
    entry: Entry


class Head(NamedTuple):
    """The end of the chain at a time, signed: there were so many entries, and this is the last one's mac."""

    seq: int
    mac: bytes
    at: datetime
    signature: bytes


@dataclass(frozen=True, slots=True)
class Break:
    """Where the chain is broken first. seq: the place; id: of the entry there, None where there is none."""

    seq: int
    id: UUID | None
    text: str


ChainKeys = Mapping[int, bytes]
"""The chain's keys by version."""


def chain_keys(keys: ServerKeys) -> dict[int, bytes]:
    """Those that come of the digest keys there are."""
    return {version: ServerKeys({version: key}, {}).digest("audit-chain") for version, key in keys.digest_keys.items()}


def mac(keys: ChainKeys, version: int, seq: int, before: bytes, entry: Entry) -> bytes:
    """The mac of an entry in its place, under the key of a version."""
    return bytes((version,)) + _hmac(
        keys[version],
        b"entry",
        seq.to_bytes(8),
        before,
        entry.id.bytes,
        _microseconds(entry.at),
        entry.organization_id.bytes,
        entry.actor.encode(),
        entry.action.encode(),
        entry.subject_id.encode(),
        entry.detail.encode(),
    )


def sign(keys: ChainKeys, seq: int, last: bytes, at: datetime) -> Head:
    """A signed head, under the key of the last mac."""
    return Head(seq, last, at, _signature(keys[last[0]], seq, last, at))


def is_signed(keys: ChainKeys, head: Head) -> bool:
    """Whether a head is one that was signed with a key of these."""
    key = keys.get(head.mac[0]) if head.mac else None
    if key is None or not 0 < head.seq < 2**63:
        return False
    return hmac.compare_digest(_signature(key, head.seq, head.mac, head.at), head.signature)


class Verifier:
    """Walks along a chain from its beginning, told of the heads that it must lead to.

    heads: what was signed, by what each is called for people. One that is not signed is the caller's to refuse.
    """

    def __init__(self, keys: ChainKeys, heads: Mapping[str, Head]) -> None:
        self._keys = keys
        self._heads = dict(heads)
        self._last = GENESIS
        self.seq = 0

    def take(self, link: Link) -> Break | None:
        """The next one: what is wrong with it, or before it."""
        seq, found, entry = link
        wanted = self.seq + 1
        if seq != wanted:
            gone = f"{wanted}" if seq == wanted + 1 else f"{wanted} to {seq - 1}"
            if seq < wanted:
                return Break(seq, entry.id, "the entry stands where none belongs")
            return Break(wanted, None, f"removed: there is no entry {gone}; the next one is {entry.id}")
        version = found[0] if found else 0
        if version not in self._keys:
            return Break(seq, entry.id, f"its mac names key {version}, which this server does not have")
        if version < self._last[0]:
            return Break(seq, entry.id, f"its mac is under key {version}, which was rotated away before")
        if not hmac.compare_digest(mac(self._keys, version, seq, self._last, entry), found):
            return Break(seq, entry.id, "altered, or put here from another place")
        for name, head in self._heads.items():
            if head.seq == seq and head.mac != found:
                return Break(seq, entry.id, f"it is not the entry that {name} has seen here")
        self.seq, self._last = seq, found
        return None

    def end(self) -> Break | None:
        """There are no more: whether any are missing."""
        for name, head in self._heads.items():
            if head.seq > self.seq:
                return Break(
                    self.seq + 1, None, f"cut off: {name} has seen {head.seq} entries, and there are {self.seq}"
                )
        return None


def _signature(key: bytes, seq: int, last: bytes, at: datetime) -> bytes:
    return _hmac(key, b"head", seq.to_bytes(8), last, _microseconds(at))


def _microseconds(at: datetime) -> bytes:
    return ((at - _EPOCH) // _MICROSECOND).to_bytes(8, signed=True)


def _hmac(key: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"".join(len(part).to_bytes(4) + part for part in parts), hashlib.sha256)
