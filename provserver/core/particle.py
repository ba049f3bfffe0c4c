"""Particle: which static token each device of a product is to have, decided from what is there.

Everything here is without I/O: the same devices, ledger and tokens yield the same plan, in whatever order they come.
Tokens are named by their ids and what people call them, never by what they say.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct

KEY: Final = "blynk_token"
"""The member of a ledger's instance that firmware reads its token from (spec particle E.1)."""

LEDGER: Final = "blynk-tokens-c2d"
"""The ledger that the published firmware asks for."""

URL: Final = "https://api.particle.io"

MAX_SELECTED: Final = 1_000
"""Devices that a run can name."""

MAX_ENTRIES: Final = 10_000
"""Devices that a report tells of one by one; it counts all."""

UNANSWERED: Final = "Look whether Particle's API is up (https://status.particle.io), then run it again."
"""The remedy of a job that Particle did not answer."""

_DEVICE_ID = re.compile("[0-9a-f]{24}")
_LEDGER = re.compile("[a-z0-9][a-z0-9-]{0,31}")
_SLUG = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_ACCESS_TOKEN = re.compile("[!-~]{8,256}")


class InvalidName(ValueError):  # noqa: N818
    """What Particle has no such thing by; the text says what it must be, and quotes nothing."""


class Field(StrEnum):
    """What of a device a static token's metadata may name it by, the surest first."""

    DEVICE_ID = "Particle Device ID"
    SERIAL = "Serial Number"
    ICCID = "ICCID"


_FIELDS: Mapping[str, Field] = MappingProxyType(
    {"particledeviceid": Field.DEVICE_ID, "serialnumber": Field.SERIAL, "serial": Field.SERIAL, "iccid": Field.ICCID}
)


class Acting(StrEnum):
    """What a run does."""

    PLAN = "plan"
    APPLY = "apply"
    VERIFY = "verify"
    REVOKE = "revoke"


class Can(StrEnum):
    """Whether something can be done, as far as that can be told without changing anything."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Right(StrEnum):
    """What a product's runs need."""

    ACCESS_TOKEN = "accessToken"  # noqa: S105 - a name
    DEVICES = "devices"
    READ_LEDGER = "readLedger"
    WRITE_LEDGER = "writeLedger"


class Finding(NamedTuple):
    """How it stands with a right. reason: why it is not simply there; remedy: what to do."""

    name: Right
    state: Can
    reason: str | None = None
    remedy: str | None = None


class Check(NamedTuple):
    """What a test of a product found. expires_at: when the access token ends; None: it does not, or nobody says."""

    expires_at: datetime | None
    findings: Sequence[Finding]

    @property
    def ready(self) -> bool:
        """Whether nothing is known to be missing."""
        return all(each.state is not Can.NO for each in self.findings)


class Place(NamedTuple):
    """Where tokens go. org: the slug of the organization of Particle's that has the product; "": a sandbox."""

    url: str
    product: str
    ledger: str
    org: str = ""


class Pace(NamedTuple):
    """How Particle is asked: requests a second (about ten are allowed an address), at once, tries, seconds between."""

    rate: float = 8.0
    parallel: int = 8
    tries: int = 8
    first: float = 0.5
    last: float = 60.0


class Device(NamedTuple):
    """A device of a product. id: 24 lower-case hexadecimal digits."""

    id: str
    name: str | None = None
    serial: str | None = None
    iccid: str | None = None
    groups: tuple[str, ...] = ()


class Token(NamedTuple):
    """A static token. label: what people call it by. holder: the device that it is kept for, or was given up with.

    written: it is recorded that the ledger has it. given_up: it is good for no device any more. claimed: by a customer.
    """

    id: str
    label: str
    holder: str | None = None
    written: bool = False
    given_up: bool = False
    claimed: bool = False


class Content(NamedTuple):
    """What a device's instance has for a token. shown: instead of the token itself; None: it has none.

    token: which of ours it is.
    """

    shown: str | None = None
    token: Token | None = None


NOTHING: Final = Content()


class Action(StrEnum):
    """What is to be done for a device, or why nothing can be."""

    KEEP = "keep"
    WRITE = "write"
    ADOPT = "adopt"
    REVOKED = "revoked"
    FOREIGN = "foreign"
    OTHER = "other"
    SHARED = "shared"
    AMBIGUOUS = "ambiguous"
    NO_TOKEN = "no_token"  # noqa: S105 - no password
    FAILED = "failed"
    REVOKE = "revoke"
    CLAIMED = "claimed"


CHANGES: Final = frozenset({Action.WRITE, Action.ADOPT, Action.REVOKE})
SETTLED: Final = frozenset({Action.KEEP, Action.REVOKED})
"""All else needs somebody."""

REASONS: Mapping[Action, str] = MappingProxyType(
    {
        Action.REVOKED: "its token was revoked; name the device (--device) to give it another",
        Action.FOREIGN: "its ledger has a token that is none of this profile's, or was deleted; --force replaces it",
        Action.OTHER: "its ledger has another of our tokens than it is to have; --force replaces it",
        Action.SHARED: "the token in its ledger belongs to another device; --force gives it one of its own",
        Action.AMBIGUOUS: "the metadata of static tokens names it more than once, or names others too: mend that",
        Action.NO_TOKEN: "no static token is free for it; make some: provserver token create",
        Action.CLAIMED: "its device is claimed: its customer has it. Unclaim it first",
    }
)


class Entry(NamedTuple):
    """What a plan has for a device. token: that it is to have, or has. before: what its ledger has instead.

    loose: what a revocation gives up, too: it is in the ledger, and recorded nowhere.
    """

    device: Device
    action: Action
    token: Token | None = None
    before: str | None = None
    reason: str = ""
    loose: Token | None = None


class Run(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What a run is about. devices: none: all of the product. force: also where a foreign token is.

    exported: also tokens that were exported or shown, if nothing else was done with them here, are free.
    """

    devices: tuple[str, ...] = ()
    group: str = ""
    serial: str = ""
    force: bool = False
    exported: bool = False

    def selects(self, device: Device) -> bool:
        """Whether it is about a device."""
        return (
            (not self.devices or device.id in self.devices)
            and (not self.group or self.group in device.groups)
            and (not self.serial or device.serial == self.serial)
        )

    @property
    def narrow(self) -> bool:
        """Whether it is not about all devices."""
        return bool(self.devices or self.group or self.serial)


def plan(
    devices: Iterable[Device],
    contents: Mapping[str, Content],
    held: Mapping[str, Token],
    matched: Mapping[str, Sequence[Token]],
    free: Iterable[Token],
    *,
    run: Run,
    revoked: Collection[str] = (),
) -> list[Entry]:
    """What is to be done, in order of the devices' ids.

    contents: of the instances of all devices. held: the token that is kept for each. matched: those whose metadata
    names a device. free: those that nobody has had and that name nobody, in the order in which they are given.
    revoked: devices whose token was given up, and that have got no other.
    """
    there = Counter(content.token.id for content in contents.values() if content.token)
    named = Counter(id_ for tokens in matched.values() for id_ in {token.id for token in tokens})
    held_ids = {token.id for token in held.values()}
    left = (token for token in free if token.id not in there and token.id not in held_ids and token.id not in named)
    chooser = _Chooser(held, matched, there, named, left, run, revoked)
    wanted = {device.id: device for device in devices if run.selects(device)}
    return [chooser.choose(wanted[id_], contents.get(id_, NOTHING)) for id_ in sorted(wanted)]


class _Chooser:
    """There are rules for a device that has a token kept for it, and for one that has none yet."""

    def __init__(
        self,
        held: Mapping[str, Token],
        matched: Mapping[str, Sequence[Token]],
        there: Mapping[str, int],
        named: Mapping[str, int],
        free: Iterator[Token],
        run: Run,
        revoked: Collection[str],
    ) -> None:
        self._held = held
        self._matched = matched
        self._there = there
        self._named = named
        self._free = free
        self._run = run
        self._revoked = revoked

    def choose(self, device: Device, content: Content) -> Entry:
        """What is to be done for a device."""
        kept = self._held.get(device.id)
        if kept is not None:
            return self._for_holder(device, content, kept)
        if device.id in self._revoked and device.id not in self._run.devices:
            return _entry(device, Action.REVOKED, None, content)
        return self._for_new(device, content)

    def _for_holder(self, device: Device, content: Content, kept: Token) -> Entry:
        ours = content.token
        if ours is not None and ours.id == kept.id:
            return Entry(device, Action.KEEP, kept)
        if content.shown is None or self._run.force or (ours is not None and _was_its(ours, device)):
            return _entry(device, Action.WRITE, kept, content)
        return _entry(device, Action.FOREIGN if ours is None else Action.OTHER, kept, content)

    def _for_new(self, device: Device, content: Content) -> Entry:
        named = [token for token in self._matched.get(device.id, ()) if not token.given_up]
        if len({token.id for token in named}) > 1 or any(self._named[token.id] > 1 for token in named):
            return _entry(device, Action.AMBIGUOUS, None, content)
        meant = named[0] if named else None
        if meant is not None and meant.holder not in (None, device.id):
            return _entry(device, Action.AMBIGUOUS, meant, content)
        ours = content.token
        if content.shown is None or (ours is not None and _was_its(ours, device)):
            return self._write(device, meant, content)
        if ours is None:
            action = Action.FOREIGN
        elif meant is not None and meant.id != ours.id:
            action = Action.OTHER
        elif self._is_anothers(ours, device):
            action = Action.SHARED
        else:
            return Entry(device, Action.ADOPT, ours)
        return self._write(device, meant, content) if self._run.force else _entry(device, action, meant, content)

    def _is_anothers(self, ours: Token, device: Device) -> bool:
        """Whether a token that a ledger has is not to be its device's."""
        matches = any(token.id == ours.id for token in self._matched.get(device.id, ()))
        return (
            ours.given_up
            or ours.holder not in (None, device.id)
            or (self._there.get(ours.id, 0) > 1 and not matches)
            or (self._named[ours.id] > 0 and not matches)
        )

    def _write(self, device: Device, meant: Token | None, content: Content) -> Entry:
        token = meant or next(self._free, None)
        if token is None:
            return _entry(device, Action.NO_TOKEN, None, content)
        return _entry(device, Action.WRITE, token, content)


def _was_its(token: Token, device: Device) -> bool:
    """Whether a token was given up with this very device."""
    return token.given_up and token.holder == device.id


def _entry(device: Device, action: Action, token: Token | None, content: Content) -> Entry:
    return Entry(device, action, token, content.shown, REASONS.get(action, ""))


def revocation(device: Device, content: Content, kept: Token | None, *, force: bool) -> Entry:
    """What revoking a device's token comes to."""
    ours = content.token
    for token in filter(None, (kept, ours)):
        if token.claimed:
            return _entry(device, Action.CLAIMED, token, content)
    if kept is None and content.shown is None:
        return Entry(device, Action.REVOKED, reason="it has no token of ours")
    mine = ours is not None and (_was_its(ours, device) or (kept is not None and ours.id == kept.id))
    if content.shown is None or mine or force:
        loose = ours if ours is not None and ours.holder is None else None
        return Entry(device, Action.REVOKE, kept or loose, content.shown, loose=loose)
    return _entry(device, Action.FOREIGN if ours is None else Action.OTHER, kept, content)


def lacking(exported: int) -> str:
    """Why no token is free. exported: how many would be with `Run.exported`."""
    if not exported:
        return REASONS[Action.NO_TOKEN]
    were = "1 token was" if exported == 1 else f"{exported:,} tokens were"
    return (
        f"no static token is free for it, but {were} exported or shown and never connected with: "
        "--exported takes those, if they are in no other unit; or make some: provserver token create"
    )


def field_of(header: str) -> Field | None:
    """What a metadata field, or a column of a CSV, names devices by; None: by nothing."""
    return _FIELDS.get("".join(filter(str.isalnum, header.casefold())))


def named_by(device: Device, field: Field) -> str | None:
    """A device's value of a field, in the form of `same`."""
    value = {Field.DEVICE_ID: device.id, Field.SERIAL: device.serial, Field.ICCID: device.iccid}[field]
    return same(value) if value else None


def same(value: str) -> str:
    """Texts that mean the same are equal after this."""
    return value.strip().casefold()


def fingerprint(value: str) -> str:
    """What a token that is none of ours is shown as: by it two can be told apart, and nothing more."""
    return f"sha256:{hashlib.sha256(value.encode(errors='surrogatepass')).hexdigest()[:8]}"


def device_id(text: str) -> str:
    """A device's id in its one form. Raises InvalidName."""
    id_ = text.strip().lower()
    if not _DEVICE_ID.fullmatch(id_):
        raise InvalidName("A Particle device's id has 24 hexadecimal digits.")
    return id_


def ledger_name(text: str) -> str:
    """A ledger's name. Raises InvalidName."""
    if not _LEDGER.fullmatch(text):
        raise InvalidName("A ledger's name is up to 32 lower-case letters, digits and dashes.")
    return text


def api_url(text: str) -> str:
    """Where the API is, by scheme, host and port. Raises InvalidName."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and text.isprintable()
        if usable and parts.username is None and parts.path in ("", "/") and not parts.query and not parts.fragment:
            return f"{parts.scheme}://{parts.netloc.lower()}"
    except ValueError:
        pass
    raise InvalidName(f"The URL of the API is like {URL}, without a path or credentials.")


def slug(text: str) -> str:
    """The id or slug of a product or organization of Particle's. Raises InvalidName."""
    if not _SLUG.fullmatch(text):
        raise InvalidName("A product or organization of Particle's goes by its number or slug: letters, digits, - _ .")
    return text


def access_token(text: str) -> str:
    """An access token for Particle's API, without what an editor puts around it. Raises InvalidName."""
    token = text.strip()
    if not _ACCESS_TOKEN.fullmatch(token):
        raise InvalidName("A Particle access token is 8-256 printable characters; `particle token create` makes one.")
    return token
