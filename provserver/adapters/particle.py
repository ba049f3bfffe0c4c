"""Particle's API, as far as ledgers go (spec particle E.1), through the guarded client. One call is one request."""

import ipaddress
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct
from yarl import URL

from provserver.adapters.outgoing import Forbidden, Outgoing, Response, Unreachable
from provserver.core.particle import KEY, Device, InvalidName, Place, device_id

PAGE = 100
"""Devices, or instances, asked for at a time; without being asked Particle gives 25 devices."""

MAX_RESPONSE = 4 << 20
"""Bytes of an answer: a page of devices with all their variables."""

LONGEST_WAIT = 3600.0
"""Seconds for which Particle can ask to be left alone."""

DESCRIPTION = "Access tokens of devices, by provserver"

Answer = TypeVar("Answer")


class Later(Exception):  # noqa: N818
    """It may come about when it is asked again. after: seconds, as far as Particle names them; limited: a 429."""

    def __init__(self, reason: str, after: float = 0.0, *, limited: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after
        self.limited = limited


class Denied(Exception):  # noqa: N818
    """It does not come about by asking again. Both texts may be shown. status: of HTTP; None: it was not asked."""

    def __init__(self, reason: str, remedy: str, status: int | None = None) -> None:
        super().__init__(f"{reason} {remedy}")
        self.reason = reason
        self.remedy = remedy
        self.status = status


class Ledger(Struct, frozen=True):
    """A definition."""

    scope: str
    direction: str
    archived_at: str | None = None


class _Device(Struct, frozen=True):
    id: str
    name: str | None = None
    serial_number: str | None = None
    iccid: str | None = None
    groups: tuple[str, ...] | None = None


class _Meta(Struct, frozen=True):
    total_pages: int | None = None
    total_page: int | None = None


class _Devices(Struct, frozen=True):
    devices: list[_Device]
    meta: _Meta | None = None


class _Scope(Struct, frozen=True):
    value: str


class _Listed(Struct, frozen=True):
    scope: _Scope


class _Instances(Struct, frozen=True):
    instances: list[_Listed]
    meta: _Meta | None = None


class _Instance(Struct, frozen=True):
    data: dict[str, Any] = {}


class _OneInstance(Struct, frozen=True):
    instance: _Instance


class _OneLedger(Struct, frozen=True):
    ledger: Ledger


class _Current(Struct, frozen=True):
    expires_at: str | None = None
    scopes: Any = None


class Access(NamedTuple):
    """Of an access token: when it ends (None: it does not, or nobody says), and whether it may do all its user may."""

    expires_at: datetime | None
    unlimited: bool


class ParticleCloud:
    """A product's devices and a ledger's instances. All calls raise Later, Denied."""

    def __init__(self, outgoing: Outgoing, place: Place, access_token: str) -> None:
        self._outgoing = outgoing
        self._place = place
        self._headers = {"Authorization": f"Bearer {access_token}", "Accept": "application/json"}
        base = URL(place.url)
        self._product = base / "v1/products" / place.product
        self._ledgers = (base / "v1/orgs" / place.org if place.org else base / "v1") / "ledgers"

    async def check_address(self) -> None:
        """Whether the access token may go there: not in clear to a public address."""
        await check_address(self._outgoing, self._place.url)

    async def expires_at(self) -> datetime | None:
        """When the access token ends; None: it does not, or nobody says."""
        return (await self.access()).expires_at

    async def access(self) -> Access:
        """What is said of the access token."""
        url = URL(self._place.url) / "v1/access_tokens/current"
        current = self._read(await self._ask("GET", url), _Current)
        unlimited = isinstance(current.scopes, list) and "*:*" in current.scopes
        return Access(_time(current.expires_at), unlimited)

    async def devices(self, page: int) -> tuple[list[Device], bool]:
        """A page of the product's devices, from 1, and whether there is another."""
        # In an order that does not change while the pages are read.
        query = {"page": str(page), "perPage": str(PAGE), "sortAttr": "deviceId", "sortDir": "asc"}
        found = self._read(await self._ask("GET", (self._product / "devices").with_query(query)), _Devices)
        try:
            devices = [
                Device(device_id(each.id), each.name, each.serial_number, each.iccid, each.groups or ())
                for each in found.devices
            ]
        except InvalidName:
            raise self._strange() from None
        return devices, _more(found.meta, page, len(devices))

    async def ledger(self) -> Ledger | None:
        """The ledger's definition, if there is one."""
        response = await self._ask("GET", self._ledgers / self._place.ledger, missing=True)
        return None if response is None else self._read(response, _OneLedger).ledger

    async def create_ledger(self) -> None:
        """Make it: an instance for each device, from the cloud to the device. One that is there by now is as good."""
        definition = {
            "name": self._place.ledger,
            "scope": "Device",
            "direction": "Downstream",
            "description": DESCRIPTION,
        }
        try:
            await self._ask("POST", self._ledgers, {"ledger": definition})
        except Denied as fault:
            if fault.status != 409:
                raise

    async def instances(self, page: int) -> tuple[list[str], bool]:
        """The devices that have an instance, a page from 1, and whether there is another."""
        url = (self._ledgers / self._place.ledger / "instances").with_query(page=str(page), per_page=str(PAGE))
        found = self._read(await self._ask("GET", url), _Instances)
        return [each.scope.value.lower() for each in found.instances], _more(found.meta, page, len(found.instances))

    async def token(self, device: str) -> str | None:
        """The token in a device's instance; None: there is none."""
        response = await self._ask("GET", self._instance(device), missing=True)
        return None if response is None else _token(self._read(response, _OneInstance).instance)

    async def write(self, device: str, token: str) -> None:
        """Put a token, or "" for none, into a device's instance; what else is in it stays."""
        url = self._instance(device).with_query(set_mode="Merge")
        response = await self._ask("PUT", url, {"instance": {"data": {KEY: token}}})
        if response is not None and _token(self._read(response, _OneInstance).instance) != (token or None):
            raise Later("Particle answered with another token than was written")

    async def close(self) -> None:
        """Let go of the connections."""
        await self._outgoing.close()

    def _instance(self, device: str) -> URL:
        return self._ledgers / self._place.ledger / "instances" / device

    async def _ask(self, method: str, url: URL, body: object = None, *, missing: bool = False) -> Response | None:
        """The answer; missing: None for a 404."""
        headers, content = self._headers, b""
        if body is not None:
            headers, content = {**headers, "Content-Type": "application/json"}, msgspec.json.encode(body)
        try:
            response = await self._outgoing.request(method, url, headers=headers, body=content)
        except Forbidden as fault:
            raise Denied(f"Particle's API cannot be asked: {fault}.", "Set another URL, or that option.") from None
        except Unreachable as fault:
            raise Later(f"Particle does not answer: {fault}") from None
        status = response.status
        if 200 <= status < 300:
            return response
        if status == 404 and missing:
            return None
        if status in (408, 429) or status >= 500:
            after = response.retry_after(datetime.now(UTC).timestamp(), LONGEST_WAIT)
            raise Later(f"Particle answers HTTP {status}", after, limited=status == 429)
        raise self._denied(status)

    def _denied(self, status: int) -> Denied:
        place = self._place
        reason = f"Particle answers HTTP {status}."
        match status:
            case 401:
                remedy = "The access token is wrong or has ended: make one with `particle token create`, and set it."
            case 403:
                remedy = f"The access token may not do this with {place.product!r}: use one of a member of its team."
            case 404:
                remedy = f"It knows no such product, organization or ledger ({place.product!r}, {place.ledger!r})."
            case 300 | 301 | 302 | 303 | 307 | 308:
                remedy = "Redirects are not followed: set the URL that it leads to."
            case _:
                remedy = f"Look at the ledger {place.ledger!r} in Particle's console."
        return Denied(reason, remedy, status)

    def _read(self, response: Response | None, type_: type[Answer]) -> Answer:
        try:
            if response is not None and response.complete:
                return msgspec.json.decode(response.body, type=type_)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        raise self._strange()

    def _strange(self) -> Denied:
        return Denied(
            f"What answers at {URL(self._place.url).host} does not answer as Particle's API.", "Check the URL."
        )


async def check_address(outgoing: Outgoing, url: str) -> None:
    """Whether an access token may go there: not in clear to a public address. Raises Later, Denied."""
    parts = URL(url)
    if parts.scheme == "https":  # its addresses are looked at with every connection
        return
    assert parts.host is not None  # noqa: S101 - as it was checked
    assert parts.port is not None  # noqa: S101
    try:
        address = await outgoing.resolve(parts.host, parts.port)
    except Forbidden as fault:
        raise Denied(f"Particle's API cannot be asked: {fault}.", "Set another URL, or that option.") from None
    except Unreachable as fault:
        raise Later(f"Particle does not answer: {fault}") from None
    if ipaddress.ip_address(address.partition("%")[0]).is_global:
        reason = f"{parts.host} is at a public address, where the access token must not go in clear."
        raise Denied(reason, "Set a URL that begins with https://.")


def _time(text: str | None) -> datetime | None:
    try:
        found = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found is None or found.tzinfo is not None else found.replace(tzinfo=UTC)


def _token(instance: _Instance) -> str | None:
    value = instance.data.get(KEY)
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _more(meta: _Meta | None, page: int, count: int) -> bool:
    pages = None if meta is None else meta.total_pages if meta.total_pages is not None else meta.total_page
    return count > 0 if pages is None else page < pages and count > 0
