"""Settings of an integration: the application of a LoRaWAN network that a profile's devices are onboarded into.

Networks: The Things Stack (https://www.thethingsindustries.com/docs/) and ChirpStack (https://www.chirpstack.io/docs/).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType, structs

from provserver.core import lorawan
from provserver.core.lorawan import VALID_PAIRS, InvalidIdentifier, LorawanVersion, PhyVersion
from provserver.errors import Invalid

MAX_ADDRESS = 261
"""Characters: a name of DNS, a port, and `http://` before them."""

MAX_API_KEY = 1000

SANDBOX_IDENTITY_SERVER = "eu1.cloud.thethings.network"

WEBHOOK_HEADER = "X-Provserver-Secret"
"""What the secret of an integration's webhook comes in."""

HTTPS, HTTP, MQTTS, MQTT = 443, 80, 8883, 1883


class NetworkKind(StrEnum):
    """What the network runs."""

    THINGS_STACK = "things-stack"
    CHIRPSTACK = "chirpstack"

    @property
    def label(self) -> str:
        """Its name."""
        return "The Things Stack" if self is NetworkKind.THINGS_STACK else "ChirpStack"


class ClaimProof(StrEnum):
    """What who scans a TR005 code has to prove besides: EUIs are no secret, as every join request says them in clear.

    owner_token: that he has the code's owner token. device: that he has the device, which confirms the claim.
    """

    NONE = "none"
    OWNER_TOKEN = "owner_token"  # noqa: S105 - a kind of proof
    DEVICE = "device"


class Status(StrEnum):
    """What is known of the connection. unchecked: nothing since its settings were changed."""

    UNCHECKED = "unchecked"
    CONNECTED = "connected"
    BROKEN = "broken"


class NetworkState(StrEnum):
    """How a device stands with its network. imported: it came from there."""

    WAITING = "waiting"
    ONBOARDING = "onboarding"
    ONBOARDED = "onboarded"
    FAILED = "failed"
    REMOVING = "removing"
    REMOVED = "removed"
    IMPORTED = "imported"


class ThingsStackSettings(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Of The Things Stack. Addresses: `host[:port]`, or `http://host[:port]` for one without TLS, as `url` takes them.

    mqtt_address: `host[:port]` with TLS, `mqtt://host[:port]` without. It and mqtt_user may be empty: `broker`, `user`.
    """

    lorawan_version: LorawanVersion
    regional_parameters: PhyVersion
    frequency_plan: str
    identity_server: str
    network_server: str
    join_server: str
    application_server: str
    class_b: bool = False
    class_c: bool = False
    mqtt_address: str = ""
    mqtt_user: str = ""

    @property
    def broker(self) -> str:
        """Where its MQTT is, as `mqtt_address`."""
        if self.mqtt_address:
            return self.mqtt_address
        host = hostname(self.application_server)
        return f"mqtt://{host}" if self.application_server.startswith("http://") else host

    def user(self, application_id: str) -> str:
        """Who connects to its MQTT: the application, at its tenant where there are any."""
        if self.mqtt_user:
            return self.mqtt_user
        if is_sandbox(self.identity_server):
            return f"{application_id}@ttn"
        tenant = _TENANT.fullmatch(self.identity_server)
        return f"{application_id}@{tenant[1]}" if tenant else application_id


class ChirpStackSettings(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Of ChirpStack. address: of its REST API, as those of The Things Stack. device_profile_id: a UUID there."""

    lorawan_version: LorawanVersion
    address: str
    device_profile_id: str


Settings: TypeAlias = ThingsStackSettings | ChirpStackSettings

SETTINGS: Mapping[NetworkKind, type[Settings]] = MappingProxyType(
    {NetworkKind.THINGS_STACK: ThingsStackSettings, NetworkKind.CHIRPSTACK: ChirpStackSettings}
)


class SettingsChange(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Settings as they are given; what is unset stays, or is as usual.

    address: of ChirpStack, or of all four components of The Things Stack that have none of their own here.
    """

    lorawan_version: LorawanVersion | UnsetType = UNSET
    regional_parameters: PhyVersion | UnsetType = UNSET
    frequency_plan: str | UnsetType = UNSET
    class_b: bool | UnsetType = UNSET
    class_c: bool | UnsetType = UNSET
    address: str | UnsetType = UNSET
    identity_server: str | UnsetType = UNSET
    network_server: str | UnsetType = UNSET
    join_server: str | UnsetType = UNSET
    application_server: str | UnsetType = UNSET
    mqtt_address: str | UnsetType = UNSET
    mqtt_user: str | UnsetType = UNSET
    device_profile_id: str | UnsetType = UNSET


RIGHTS: Mapping[str, str] = MappingProxyType(
    {
        "RIGHT_APPLICATION_DEVICES_READ_KEYS": "View device keys in application",
        "RIGHT_APPLICATION_DEVICES_WRITE": "Create devices in application",
        "RIGHT_APPLICATION_DEVICES_WRITE_KEYS": "Edit device keys in application",
        "RIGHT_APPLICATION_TRAFFIC_READ": "Read application traffic (uplink and downlink)",
        "RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE": "Write downlink application traffic",
    }
)
"""What the console of The Things Stack calls the rights of an API key, by their names in its API."""


UPLINK_RIGHTS: Final = frozenset({"RIGHT_APPLICATION_TRAFFIC_READ"})
"""Those of them that MQTT needs, and onboarding does not."""

MQTT_ERROR: Final = "MQTT: "
"""What the error of an integration begins with that only its MQTT connection can mend."""


def changed(network: NetworkKind, before: Settings | None, change: SettingsChange) -> Settings:
    """Settings as they were with a change, or new ones. Raises Invalid, with all that is wrong."""
    kind = SETTINGS[network]
    given = {name: value for name in change.__struct_fields__ if (value := getattr(change, name)) is not UNSET}
    of_cluster: dict[str, object] = {}
    if network is NetworkKind.THINGS_STACK and "address" in given:
        of_cluster = {name: each for name, each in _components(given.pop("address")).items() if name not in given}
        given = of_cluster | given
    known = {each.name: each for each in structs.fields(kind)}
    wrong = dict.fromkeys(sorted(given.keys() - known.keys()), f"is no setting of {network.label}")
    members: dict[str, Any] = {} if before is None else structs.asdict(before)
    members |= {name: value for name, value in given.items() if name in known}
    if network is NetworkKind.THINGS_STACK and ("regional_parameters" not in given) and "lorawan_version" in members:
        pairs = VALID_PAIRS[members["lorawan_version"]]
        if len(pairs) == 1:  # so there is no choice to make
            members["regional_parameters"] = next(iter(pairs))
    for name, field in known.items():
        if name not in members and field.required:
            wrong[name] = _MISSING.get(name, "is missing")
        elif name in members and name in _CHECKS:
            try:
                members[name] = _CHECKS[name](members[name])
            except ValueError as fault:
                wrong["address" if name in of_cluster else name] = str(fault)
    if not wrong and network is NetworkKind.THINGS_STACK:
        wrong = dict(_unpaired(members["lorawan_version"], members["regional_parameters"]))
    if wrong:
        raise _invalid({known[name].encode_name if name in known else _camel(name): wrong[name] for name in wrong})
    return kind(**members)


def hints(network: NetworkKind, settings: Settings) -> Iterator[str]:
    """What a person should know of settings that are valid."""
    if isinstance(settings, ThingsStackSettings):
        if is_sandbox(settings.network_server) and settings.identity_server != SANDBOX_IDENTITY_SERVER:
            yield (
                f"The Identity Server of The Things Stack Sandbox is {SANDBOX_IDENTITY_SERVER} whatever the cluster: "
                f"set identityServer to it instead of {settings.identity_server}."
            )
        addresses = [settings.identity_server, settings.network_server, settings.join_server]
        addresses.append(settings.application_server)
    else:
        addresses = [settings.address]
    if any(each.startswith("http://") for each in addresses):
        yield f"The API key goes to {network.label} in clear, which is for a network of your own alone. Use TLS."


def checked_application_id(network: NetworkKind, text: str) -> str:
    """An application's id in its network. Raises Invalid."""
    text = text.strip()
    if network is NetworkKind.CHIRPSTACK:
        try:
            return _uuid(text)
        except ValueError as fault:
            raise _invalid({"applicationId": str(fault)}) from None
    if len(text) > lorawan.MAX_DEVICE_ID or _ID.fullmatch(text) is None:
        raise _invalid({"applicationId": f"must be {_ID_FORM}, as the console shows it (its id, not its name)"})
    return text


def checked_profile_id(text: str) -> str:
    """A LoRaWAN Profile ID in its normal form: 8 digits. Raises Invalid."""
    try:
        return lorawan.profile_id(text)
    except InvalidIdentifier as fault:
        raise _invalid({"lorawanProfileId": str(fault)}) from None


def checked_api_key(network: NetworkKind, text: str) -> str:
    """An API key, which no error quotes. Raises Invalid."""
    text = text.strip()
    if not text or len(text) > MAX_API_KEY or not text.isascii() or not text.isprintable() or " " in text:
        raise _invalid({"apiKey": f"must be 1-{MAX_API_KEY} characters of ASCII without blanks"})
    if network is NetworkKind.THINGS_STACK and not text.startswith("NNSXS."):
        raise _invalid({"apiKey": "is none of The Things Stack: those begin with NNSXS."})
    return text


def api_host(settings: Settings) -> str:
    """The host, with its port unless it is the usual one, of the server that has the applications."""
    address = settings.identity_server if isinstance(settings, ThingsStackSettings) else settings.address
    return address.removeprefix("http://")


def addresses(settings: Settings) -> dict[str, str]:
    """Every address that is called, by its name in JSON; MQTT's as well."""
    if isinstance(settings, ChirpStackSettings):
        return {"address": settings.address}
    return {
        "identityServer": settings.identity_server,
        "networkServer": settings.network_server,
        "joinServer": settings.join_server,
        "applicationServer": settings.application_server,
        "mqttAddress": settings.broker,
    }


def url(address: str) -> str:
    """Where an address in its normal form is, without a slash at its end."""
    return address if address.startswith("http://") else f"https://{address}"


def endpoint(address: str) -> tuple[str, int, bool]:
    """Host, port and whether with TLS of an address in its normal form."""
    return _endpoint(address, HTTPS, HTTP)


def broker_endpoint(address: str) -> tuple[str, int, bool]:
    """The same of an address of MQTT."""
    return _endpoint(address, MQTTS, MQTT)


def _endpoint(address: str, usual: int, plain: int) -> tuple[str, int, bool]:
    scheme, _, rest = address.rpartition("://")
    parts = urlsplit(f"//{rest}")
    return parts.hostname or "", parts.port or (plain if scheme else usual), not scheme


def hostname(address: str) -> str:
    """The host of an address in its normal form, in brackets if it is an IPv6 address."""
    host = endpoint(address)[0]
    return f"[{host}]" if ":" in host else host


def is_sandbox(address: str) -> bool:
    """Whether it is of The Things Stack Sandbox, The Things Network's."""
    return _SANDBOX.fullmatch(address) is not None


def _components(address: str) -> dict[str, object]:
    """All four at one address, but for the Sandbox' Identity Server, which is in one cluster for all."""
    names = ("identity_server", "network_server", "join_server", "application_server")
    given: dict[str, object] = dict.fromkeys(names, address)
    if is_sandbox(address.strip().lower().removeprefix("https://").rstrip("/")):
        given["identity_server"] = SANDBOX_IDENTITY_SERVER
    return given


def _unpaired(version: LorawanVersion, phy: PhyVersion) -> Iterator[tuple[str, str]]:
    valid = VALID_PAIRS[version]
    if phy not in valid:
        yield "regional_parameters", f"must be {' or '.join(sorted(valid))} with {version}, not {phy}"


def _address(text: str) -> str:
    """`host`, `host:port` or `http://host[:port]`."""
    return _host_and_port(text, {"https": HTTPS, "http": HTTP})


def _mqtt_address(text: str) -> str:
    """The same with `mqtt://`; empty as it is."""
    return _host_and_port(text, {"mqtts": MQTTS, "mqtt": MQTT}) if text.strip() else ""


def _host_and_port(text: str, schemes: Mapping[str, int]) -> str:
    """schemes: with the port of each; the first is the usual one, and left out."""
    usual, plain = schemes
    form = f"must be host or host:port ({plain}:// before it without TLS), such as {SANDBOX_IDENTITY_SERVER}"
    text = text.strip().lower()
    scheme, _, rest = text.rpartition("://")
    rest = rest.rstrip("/")
    scheme = scheme or usual
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port
    except ValueError:
        raise ValueError(form) from None
    host = parts.hostname or ""
    if (
        scheme not in schemes
        or port == 0
        or parts.netloc != rest
        or "@" in rest
        or rest.endswith(":")
        or len(text) > MAX_ADDRESS
    ):
        raise ValueError(form)
    if not (_HOST.fullmatch(host) or _is_ipv6(rest, host)):
        raise ValueError(form)
    host = f"[{host}]" if ":" in host else host
    address = host if port in (None, schemes[scheme]) else f"{host}:{port}"
    return address if scheme == usual else f"{plain}://{address}"


def _is_ipv6(rest: str, host: str) -> bool:
    return rest.startswith("[") and _IPV6.fullmatch(host) is not None


def _frequency_plan(text: str) -> str:
    text = text.strip()
    if text.upper() in _PLANS:
        raise ValueError(f"{text.upper()} is a region; its usual frequency plan is {_PLANS[text.upper()]}")
    if len(text) > 64 or _PLAN.fullmatch(text) is None:
        raise ValueError("must be the id of a frequency plan, such as EU_863_870_TTN")
    return text


def _mqtt_user(text: str) -> str:
    text = text.strip()
    if text and _MQTT_USER.fullmatch(text) is None:
        raise ValueError("must be the application's id, @ and the tenant's, such as my-app@ttn")
    return text


def _uuid(text: str) -> str:
    try:
        return str(UUID(text.strip()))
    except ValueError:
        raise ValueError("must be a UUID, as ChirpStack shows it") from None


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def _invalid(wrong: Mapping[str, str]) -> Invalid:
    said = "; ".join(f"{name} {reason}" for name, reason in wrong.items())
    return Invalid(f"{said}.", [{"field": name, "reason": reason} for name, reason in wrong.items()])


_ID = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,}")
_ID_FORM = f"3 to {lorawan.MAX_DEVICE_ID} small letters, digits and single dashes between them"
_SANDBOX = re.compile(r"[a-z0-9]+\.cloud\.thethings\.network")
_TENANT = re.compile(r"([a-z0-9-]+)\.[a-z0-9]+\.cloud\.thethings\.industries")
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")
_IPV6 = re.compile(r"[0-9a-f:.]{2,45}")
_PLAN = re.compile(r"[A-Z]{2,4}(?:_[A-Z0-9]+)+")
_MQTT_USER = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,35}(?:@[a-z0-9](?:-?[a-z0-9])*)?")

_PLANS: Mapping[str, str] = {
    "EU868": "EU_863_870_TTN",
    "US915": "US_902_928_FSB_2",
    "AU915": "AU_915_928_FSB_2",
    "AS923": "AS_923",
    "IN865": "IN_865_867",
    "KR920": "KR_920_923_TTN",
}
"""What The Things Network uses in these regions."""

_MISSING: Mapping[str, str] = {
    "lorawan_version": f"is missing: one of {', '.join(LorawanVersion)}",
    "regional_parameters": "is missing: this LoRaWAN version leaves several to choose from",
    "frequency_plan": "is missing: the id of a frequency plan, such as EU_863_870_TTN",
    "identity_server": "is missing: it, or one address for all components",
    "network_server": "is missing: it, or one address for all components",
    "join_server": "is missing: it, or one address for all components",
    "application_server": "is missing: it, or one address for all components",
    "address": "is missing: where the REST API is, host or host:port",
    "device_profile_id": "is missing: the device profile's id in ChirpStack",
}

_CHECKS: Mapping[str, Callable[[str], str]] = {
    "frequency_plan": _frequency_plan,
    "identity_server": _address,
    "network_server": _address,
    "join_server": _address,
    "application_server": _address,
    "address": _address,
    "mqtt_address": _mqtt_address,
    "mqtt_user": _mqtt_user,
    "device_profile_id": _uuid,
}
