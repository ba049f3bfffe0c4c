from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_network
from itertools import product
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provserver.core import credentials as building
from provserver.core.decision import (
    MAX_NAME_LENGTH,
    Change,
    Create,
    Decision,
    Fresh,
    Intent,
    Provision,
    Reason,
    Refusal,
    Repeat,
    admit,
    check_name,
    decide,
)
from provserver.core.model import (
    PROVISIONED,
    VACANT,
    ApprovalState,
    ChainRules,
    Credentials,
    CredentialsType,
    DeviceProfile,
    KeyBudget,
    KnownDevice,
    MqttBasic,
    Origin,
    ProvisionKey,
    ProvisionStrategy,
    ReprovisionPolicy,
    Situation,
    StoredCredentials,
)
from provserver.core.wire import ProvisionRequest
from provserver.errors import RENDERINGS, Outcome
from tests.chains import CASES, FACTORY, NAMES
from tests.pki import days

ALLOW = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES
CHECK = ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES
CHAIN = ProvisionStrategy.X509_CERTIFICATE_CHAIN
DISABLED = ProvisionStrategy.DISABLED
DENY, UNTIL_FIRST_USE, RETURN_SAME, ROTATE = ReprovisionPolicy

PROFILE_ID, OTHER_PROFILE_ID, DEVICE_ID, OTHER_ID, STRANGER_ID = map(UUID, (f"{n:032x}" for n in range(1, 6)))
SECRET = "Tr0ub4dor"
NONCE = "0123456789abcdef0123456789ABCDEF"
DIGEST, OTHER_DIGEST = b"digest", b"other digest"
FRESH = Fresh("fresh", "chosen")
ADDRESS = "192.0.2.7"
TODAY = datetime(2026, 11, 22, tzinfo=UTC)
EARLIER, LATER = TODAY - timedelta(milliseconds=1), TODAY + timedelta(milliseconds=1)
NOW = TODAY.timestamp()


def untold() -> float:
    raise AssertionError("a key without a budget looks at no clock")


def profile(
    strategy: ProvisionStrategy = ALLOW, policy: ReprovisionPolicy = DENY, id_: UUID = PROFILE_ID
) -> DeviceProfile:
    return DeviceProfile(id_, UUID(int=9), "p", "TMPL", strategy, policy, 1, datetime(2026, 1, 1, tzinfo=UTC))


def token(text: str) -> Credentials:
    return building.access_token(text)


OLD, NEW, OWN = token("old"), token("new"), token("own")


def held(
    credentials: Credentials = OLD, origin: Origin = Origin.GENERATED, *, used: bool = False, pending: bool = False
) -> StoredCredentials:
    return StoredCredentials(credentials, origin, pending, used)


IMPORTED = held(origin=Origin.IMPORTED)
PENDING = held(NEW, pending=True)


def device(
    *credentials: StoredCredentials,
    name: str = "d",
    id_: UUID = DEVICE_ID,
    profile_id: UUID = PROFILE_ID,
    state: str | None = PROVISIONED,
    rearmed: bool = False,
    digest: bytes | None = None,
) -> KnownDevice:
    return KnownDevice(id_, profile_id, name, 1, state, rearmed, digest, credentials)


def described(decision: Decision) -> str:
    if isinstance(decision, Refusal):
        return decision.reason.name
    if isinstance(decision, Create):
        return f"create {decision.name}: {decision.origin} {decision.credentials.value}"
    if isinstance(decision, Repeat):
        return f"repeat {decision.credentials.value}"
    return f"{decision.change.value} {decision.origin} {decision.credentials.value}"


# The name


@pytest.mark.parametrize(
    ("name", "result"),
    [
        (None, None),
        ("", None),
        ("d", "d"),
        (" d\n", "d"),
        ("\0\x1f d e \t\r\n", "d e"),
        ("\xa0d\u2003", "\xa0d\u2003"),  # Java's trim knows no other blanks
        (" ", Reason.NAME_BLANK),
        ("\0\t\n", Reason.NAME_BLANK),
        ("x" * MAX_NAME_LENGTH, "x" * MAX_NAME_LENGTH),
        (" " + "x" * MAX_NAME_LENGTH + " ", "x" * MAX_NAME_LENGTH),
        ("\U0001f600" * MAX_NAME_LENGTH, "\U0001f600" * MAX_NAME_LENGTH),
        ("x" * (MAX_NAME_LENGTH + 1), Reason.NAME_TOO_LONG),
        ("a\0b", Reason.NAME_MALFORMED),
        ("a\nb", Reason.NAME_MALFORMED),
        ("a\x7f", Reason.NAME_MALFORMED),
        ("a\ud800", Reason.NAME_MALFORMED),
        ("<b>", Reason.NAME_MALFORMED),
        ("a</b", Reason.NAME_MALFORMED),
        ("a<!--", Reason.NAME_MALFORMED),
        ("a<?x", Reason.NAME_MALFORMED),
        ("{{a}}", Reason.NAME_MALFORMED),
        ("a < b > {c} <3 é/'\"&;%", "a < b > {c} <3 é/'\"&;%"),
        ("provision", "provision"),  # reserved as credentials, not as a name
    ],
)
def test_names(name: str | None, result: str | Reason | None) -> None:
    assert check_name(name) == (Refusal(result) if isinstance(result, Reason) else result)


# Admission


def key_of(*args: ProvisionStrategy | ReprovisionPolicy) -> ProvisionKey:
    strategy = next((a for a in args if isinstance(a, ProvisionStrategy)), ALLOW)
    policy = next((a for a in args if isinstance(a, ReprovisionPolicy)), DENY)
    return ProvisionKey("key", SECRET.encode(), profile(strategy, policy))


def matches(digest: bytes, secret: str) -> bool:
    return digest == secret.encode()


def ask(**members: object) -> ProvisionRequest:
    return ProvisionRequest("key", SECRET)._replace(**members)  # type: ignore[arg-type]


def admitted(strategy: ProvisionStrategy = ALLOW, **members: object) -> Intent | Refusal:
    return judged(ask(**members), key_of(strategy))


def judged(
    request: ProvisionRequest, key: ProvisionKey | None, address: str = ADDRESS, now: float = NOW
) -> Intent | Refusal:
    return admit(request, key, matches, address, lambda: now)


def reason(verdict: Intent | Decision) -> Reason:
    assert isinstance(verdict, Refusal)
    return verdict.reason


def test_an_admitted_request() -> None:
    verdict = admitted(device_name=" d ", token="t", gateway=True, request_nonce=NONCE)
    assert verdict == Intent(profile(), "d", token("t"), True, NONCE)


FAULTS: list[tuple[Reason, dict[str, object]]] = [
    (Reason.NAME_BLANK, {"device_name": " "}),
    (Reason.KEY_MISSING, {"key": ""}),
    (Reason.KEY_UNKNOWN, {}),
    (Reason.SECRET_WRONG, {"secret": "wrong"}),
    (Reason.PROFILE_DISABLED, {}),
    (Reason.NAME_MALFORMED, {"device_name": "<b>"}),
    (Reason.NONCE_MALFORMED, {"request_nonce": "short"}),
    (Reason.CREDENTIALS_INVALID, {"username": "provision", "credentials_type": "MQTT_BASIC"}),
]


@pytest.mark.parametrize("first", range(len(FAULTS)), ids=[reason.name for reason, _ in FAULTS])
def test_of_many_faults_the_first_in_thingsboards_order_is_told(first: int) -> None:
    left = FAULTS[first:]
    members: dict[str, object] = {}
    for _, fault in reversed(left):
        members |= fault
    reasons = {reason for reason, _ in left}
    key = key_of(DISABLED if Reason.PROFILE_DISABLED in reasons else ALLOW)
    known = None if Reason.KEY_UNKNOWN in reasons else key
    assert reason(judged(ask(**members), known)) is left[0][0]


@pytest.mark.parametrize(("key", "secret"), [("", SECRET), ("key", ""), ("", "")])
def test_an_empty_key_or_secret_is_not_found_whatever_it_matches(key: str, secret: str) -> None:
    verdict = admit(ProvisionRequest(key, secret), key_of(), lambda *_: True, ADDRESS, untold)
    assert verdict == Refusal(Reason.KEY_MISSING)


def test_the_secret_is_compared_as_it_came_and_once() -> None:
    asked: list[tuple[bytes, str]] = []

    def right(digest: bytes, secret: str) -> bool:
        asked.append((digest, secret))
        return True

    admit(ProvisionRequest("key", " é "), key_of(), right, ADDRESS, untold)
    assert asked == [(SECRET.encode(), " é ")]


@pytest.mark.parametrize("strategy", ProvisionStrategy)
@pytest.mark.parametrize("policy", ReprovisionPolicy)
@pytest.mark.parametrize("name", [None, "d"])
@pytest.mark.parametrize("secret", [SECRET, "wrong"])
def test_admission_by_strategy(
    strategy: ProvisionStrategy, policy: ReprovisionPolicy, name: str | None, secret: str
) -> None:
    verdict = judged(ProvisionRequest("key", secret, name), key_of(strategy, policy))
    if secret != SECRET:
        assert verdict == Refusal(Reason.SECRET_WRONG)
    elif strategy is DISABLED:
        assert verdict == Refusal(Reason.PROFILE_DISABLED)
    elif strategy is CHAIN:
        assert verdict == Refusal(Reason.CHAIN_ONLY)
    elif strategy is CHECK and name is None:
        assert verdict == Refusal(Reason.NAME_REQUIRED)
    else:
        assert verdict == Intent(profile(strategy, policy), name, None, False, None)


@pytest.mark.parametrize(
    ("nonce", "good"),
    [
        (NONCE, True),
        ("A" * 32, True),
        ("-_" * 16, True),
        ("f" * 128, True),
        ("f" * 31, False),
        ("f" * 129, False),
        ("", False),
        ("f" * 32 + "\n", False),
        ("f" * 32 + "=", False),
        (" " + "f" * 32, False),
        ("f" * 31 + "+", False),
        ("f" * 31 + "/", False),
        ("f" * 31 + "é", False),
        ("f" * 31 + "\u0661", False),
        ("f" * 31 + "\0", False),
    ],
)
def test_nonces(nonce: str, good: bool) -> None:
    verdict = admitted(request_nonce=nonce)
    assert isinstance(verdict, Intent) if good else verdict == Refusal(Reason.NONCE_MALFORMED)


def basic(client_id: str, user_name: str, password: str) -> tuple[dict[str, object], Credentials]:
    members: dict[str, object] = {"client_id": client_id, "username": user_name, "password": password}
    return members | {"credentials_type": "MQTT_BASIC"}, building.mqtt_basic(client_id, user_name, password)


SUPPLIED: list[tuple[dict[str, object], Credentials | str | None]] = [
    # No member of any type: a generated token, whatever type is named.
    ({}, None),
    *(({"credentials_type": type_}, None) for type_ in (*CredentialsType, "LWM2M_CREDENTIALS")),
    ({"token": "t"}, token("t")),
    ({"token": "t", "hash": "h", "username": "u", "password": "p", "client_id": "c"}, token("t")),
    ({"hash": "h"}, "the token is empty"),
    ({"username": "u"}, "the token is empty"),
    ({"password": "p"}, "the token is empty"),
    ({"client_id": "c"}, "the token is empty"),
    ({"token": "provision"}, "the token is a reserved id"),
    ({"credentials_type": "X509_CERTIFICATE", "hash": "testHash"}, building.certificate("testHash")),
    ({"credentials_type": "X509_CERTIFICATE", "hash": "h", "token": "t"}, building.certificate("h")),
    ({"credentials_type": "X509_CERTIFICATE", "token": "t"}, "the certificate is empty"),
    ({"credentials_type": "X509_CERTIFICATE", "hash": "\n"}, "the certificate is empty"),
    *[basic(c, u, p) for c, u, p in (("c", "", ""), ("c", "u", ""), ("c", "u", "p"), ("", "u", ""), ("", "u", "p"))],
    ({"credentials_type": "MQTT_BASIC", "username": "u", "token": "t", "hash": "h"}, building.mqtt_basic("", "u")),
    ({"credentials_type": "MQTT_BASIC", "password": "p"}, "both MQTT client id and user name are empty"),
    ({"credentials_type": "MQTT_BASIC", "token": "t"}, "both MQTT client id and user name are empty"),
    (
        {"credentials_type": "MQTT_BASIC", "client_id": "c", "password": "p"},
        "a password cannot go with a client id alone",
    ),
    ({"credentials_type": "LWM2M_CREDENTIALS", "token": "t"}, "LWM2M_CREDENTIALS cannot be supplied"),
]


@pytest.mark.parametrize(("members", "result"), SUPPLIED)
@pytest.mark.parametrize("strategy", [ALLOW, CHECK])
def test_supplied_credentials(
    strategy: ProvisionStrategy, members: dict[str, object], result: Credentials | str | None
) -> None:
    verdict = admitted(strategy, device_name="d", **members)
    if isinstance(result, str):
        assert verdict == Refusal(Reason.CREDENTIALS_INVALID, result)
    else:
        assert isinstance(verdict, Intent)
        assert verdict.supplied == result


# Budgets of keys


def bounded(not_before: datetime | None = None, not_after: datetime | None = None, *networks: str) -> ProvisionKey:
    return replace(key_of(), budget=KeyBudget(not_before, not_after, tuple(map(ip_network, networks))))


@pytest.mark.parametrize(
    ("not_before", "not_after", "refused"),
    [
        (None, LATER, None),
        (TODAY, None, None),
        (TODAY, LATER, None),
        (EARLIER, LATER, None),
        (LATER, None, Reason.KEY_NOT_YET_VALID),
        (None, TODAY, Reason.KEY_EXPIRED),
        (EARLIER, TODAY, Reason.KEY_EXPIRED),
        (None, EARLIER, Reason.KEY_EXPIRED),
        (TODAY.astimezone(timezone(timedelta(hours=9))), LATER.astimezone(timezone(timedelta(hours=-9))), None),
    ],
)
def test_a_key_is_valid_from_a_moment_until_another(
    not_before: datetime | None, not_after: datetime | None, refused: Reason | None
) -> None:
    verdict = judged(ask(), bounded(not_before, not_after))
    assert verdict == (Intent(profile(), None, None, False, None) if refused is None else Refusal(refused))


@pytest.mark.parametrize(
    ("networks", "address", "good"),
    [
        (["192.0.2.0/24"], "192.0.2.0", True),
        (["192.0.2.0/24"], "192.0.2.255", True),
        (["192.0.2.0/24"], "192.0.3.0", False),
        (["192.0.2.0/24"], "::ffff:192.0.2.7", True),
        (["192.0.2.0/24"], "2001:db8::1", False),
        (["192.0.2.7/32"], "192.0.2.7", True),
        (["192.0.2.7/32"], "192.0.2.8", False),
        (["10.0.0.0/8", "2001:db8::/32"], "2001:db8:ffff::1", True),
        (["10.0.0.0/8", "2001:db8::/32"], "2001:db9::1", False),
        (["10.0.0.0/8", "2001:db8::/32"], "10.255.0.1", True),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["0.0.0.0/0", "::/0"], "203.0.113.1", True),
        (["0.0.0.0/0"], "::1", False),
        (["0.0.0.0/0", "::/0"], "", False),
        (["0.0.0.0/0", "::/0"], "localhost", False),
    ],
)
def test_a_key_is_valid_from_its_networks(networks: list[str], address: str, good: bool) -> None:
    verdict = judged(ask(), bounded(None, None, *networks), address)
    assert isinstance(verdict, Intent) if good else verdict == Refusal(Reason.NETWORK_EXCLUDED)


def test_a_budget_says_nothing_to_who_has_no_secret() -> None:
    assert judged(ask(secret="wrong"), bounded(None, EARLIER, "10.0.0.0/8")) == Refusal(Reason.SECRET_WRONG)


def test_a_key_without_a_budget_looks_at_no_clock() -> None:
    assert isinstance(admit(ask(), key_of(), matches, "nowhere", untold), Intent)


texts = st.none() | st.sampled_from(["", " ", "d", "t", "provision", "<b>", NONCE, "\0"]) | st.text(max_size=6)
requests = st.builds(
    ProvisionRequest,
    st.sampled_from(["", "key"]),
    st.sampled_from(["", "wrong", SECRET]),
    texts,
    st.sampled_from([*CredentialsType, "LWM2M_CREDENTIALS"]),
    *5 * [texts],
    st.booleans(),
    texts,
)


@settings(deadline=None)
@given(requests, st.none() | st.sampled_from([key_of(strategy) for strategy in ProvisionStrategy]))
def test_only_the_right_key_and_secret_of_an_open_profile_are_admitted(
    request_: ProvisionRequest, key: ProvisionKey | None
) -> None:
    verdict = judged(request_, key)
    proven = key is not None and request_.key and request_.secret == SECRET
    if isinstance(verdict, Intent):
        assert proven
        assert key is not None
        assert verdict.profile is key.profile
        assert key.profile.strategy in (ALLOW, CHECK)
        assert verdict.name or key.profile.strategy is ALLOW
    elif verdict.reason is not Reason.NAME_BLANK:  # ThingsBoard looks at it first
        closed = not proven or (key is not None and key.profile.strategy in (DISABLED, CHAIN))
        assert (verdict.outcome is Outcome.NOT_FOUND) is closed


# Decision, by the name alone

GENERATED_USED = held(used=True)
UNPROVISIONED = {
    "not yet provisioned": device(held(), state=None),
    "not yet, used": device(GENERATED_USED, state=None),
    "not yet, imported": device(IMPORTED, state=None),
    "not yet, supplied": device(held(origin=Origin.SUPPLIED), state=None),
    "not yet, own": device(held(OWN), state=None),
    "not yet, bare": device(state=None),
}
DEVICES: dict[str, KnownDevice | None] = {
    "nothing": None,
    "elsewhere": device(held(), profile_id=OTHER_PROFILE_ID),
    "elsewhere, not yet": device(held(), state=None, profile_id=OTHER_PROFILE_ID),
    "elsewhere, rearmed": device(held(), rearmed=True, profile_id=OTHER_PROFILE_ID),
    **UNPROVISIONED,
    "odd state": device(held(), state="claimed"),
    "provisioned": device(held()),
    "used": device(GENERATED_USED),
    "supplied": device(held(origin=Origin.SUPPLIED)),
    "imported": device(IMPORTED),
    "imported, used": device(held(origin=Origin.IMPORTED, used=True)),
    "bare": device(),
    "own": device(held(OWN, Origin.SUPPLIED)),
    "own, used": device(held(OWN, Origin.SUPPLIED, used=True)),
    "pending": device(PENDING, held()),
    "pending, old used": device(PENDING, GENERATED_USED),
    "own pending": device(held(OWN, Origin.SUPPLIED, pending=True), GENERATED_USED),
    "own, then pending": device(PENDING, held(OWN, Origin.SUPPLIED)),
    "rearmed": device(GENERATED_USED, rearmed=True),
    "rearmed, supplied": device(held(origin=Origin.SUPPLIED), rearmed=True),
    "rearmed, imported": device(held(origin=Origin.IMPORTED, used=True), rearmed=True),
    "rearmed, own": device(held(OWN, Origin.SUPPLIED), rearmed=True),
    "rearmed, pending": device(PENDING, GENERATED_USED, rearmed=True),
    "rearmed, bare": device(rearmed=True),
    "rearmed, not yet": device(held(), state=None, rearmed=True),
    "rearmed, odd state": device(held(), state="claimed", rearmed=True),
}

Row = str | tuple[str, str, str, str]
"""One for every policy, or of DENY, UNTIL_FIRST_USE, RETURN_SAME, ROTATE."""

KEEPS = "keep generated old"
DENIED = "ALREADY_PROVISIONED"


def alike(rows: dict[str, Row]) -> dict[str, tuple[Row, Row]]:
    return {name: (row, row) for name, row in rows.items()}


GENERATING: dict[str, tuple[Row, Row]] = {  # under ALLOW, under CHECK
    "nothing": ("create d: generated fresh", "NOT_PRE_PROVISIONED"),
    **dict.fromkeys(["elsewhere", "elsewhere, not yet", "elsewhere, rearmed"], ("NAME_ELSEWHERE", "NAME_ELSEWHERE")),
    "not yet provisioned": ("NAME_TAKEN", KEEPS),
    "not yet, used": ("NAME_TAKEN", KEEPS),
    "not yet, imported": ("NAME_TAKEN", "keep imported old"),
    "not yet, supplied": ("NAME_TAKEN", "keep supplied old"),
    "not yet, own": ("NAME_TAKEN", "keep generated own"),
    "not yet, bare": ("NAME_TAKEN", "replace generated fresh"),
    "odd state": ("STATE_UNKNOWN", "STATE_UNKNOWN"),
    **alike(
        {
            "provisioned": (DENIED, "repeat old", "repeat old", "add_pending generated fresh"),
            "used": (DENIED, "ALREADY_USED", "repeat old", "add_pending generated fresh"),
            "supplied": (DENIED, "repeat old", "repeat old", "add_pending generated fresh"),
            "imported": (DENIED, "repeat old", "repeat old", "repeat old"),
            "imported, used": (DENIED, "ALREADY_USED", "repeat old", "repeat old"),
            "bare": DENIED,
            "own": (DENIED, "repeat own", "repeat own", "add_pending generated fresh"),
            "own, used": (DENIED, "ALREADY_USED", "repeat own", "add_pending generated fresh"),
            "pending": (DENIED, "repeat new", "repeat new", "add_pending generated fresh"),
            "pending, old used": (DENIED, "ALREADY_USED", "repeat new", "add_pending generated fresh"),
            "own pending": (DENIED, "ALREADY_USED", "repeat own", "add_pending generated fresh"),
            "own, then pending": (DENIED, "repeat new", "repeat new", "add_pending generated fresh"),
            "rearmed, imported": "keep imported old",
            **dict.fromkeys(
                [
                    *("rearmed", "rearmed, supplied", "rearmed, own", "rearmed, pending", "rearmed, bare"),
                    *("rearmed, not yet", "rearmed, odd state"),
                ],
                "replace generated fresh",
            ),
        }
    ),
}

SUPPLYING: dict[str, tuple[Row, Row]] = {
    "nothing": ("create d: supplied own", "NOT_PRE_PROVISIONED"),
    **dict.fromkeys(["elsewhere", "elsewhere, not yet", "elsewhere, rearmed"], ("NAME_ELSEWHERE", "NAME_ELSEWHERE")),
    "not yet provisioned": ("NAME_TAKEN", "replace supplied own"),
    "not yet, used": ("NAME_TAKEN", "replace supplied own"),
    "not yet, imported": ("NAME_TAKEN", "keep imported old"),
    "not yet, supplied": ("NAME_TAKEN", "replace supplied own"),
    "not yet, own": ("NAME_TAKEN", "keep generated own"),
    "not yet, bare": ("NAME_TAKEN", "replace supplied own"),
    "odd state": ("STATE_UNKNOWN", "STATE_UNKNOWN"),
    **alike(
        {
            "provisioned": (DENIED, "OTHER_CREDENTIALS", "OTHER_CREDENTIALS", "add_pending supplied own"),
            "used": (DENIED, "ALREADY_USED", "OTHER_CREDENTIALS", "add_pending supplied own"),
            "supplied": (DENIED, "OTHER_CREDENTIALS", "OTHER_CREDENTIALS", "add_pending supplied own"),
            "imported": (DENIED, "repeat old", "repeat old", "repeat old"),
            "imported, used": (DENIED, "ALREADY_USED", "repeat old", "repeat old"),
            "bare": DENIED,
            "own": (DENIED, "repeat own", "repeat own", "repeat own"),
            "own, used": (DENIED, "ALREADY_USED", "repeat own", "repeat own"),
            "pending": (DENIED, "OTHER_CREDENTIALS", "OTHER_CREDENTIALS", "add_pending supplied own"),
            "pending, old used": (DENIED, "ALREADY_USED", "OTHER_CREDENTIALS", "add_pending supplied own"),
            "own pending": (DENIED, "ALREADY_USED", "repeat own", "repeat own"),
            "own, then pending": (DENIED, "OTHER_CREDENTIALS", "OTHER_CREDENTIALS", "repeat own"),
            "rearmed, imported": "keep imported old",
            "rearmed, own": "keep supplied own",
            **dict.fromkeys(
                [
                    *("rearmed", "rearmed, supplied", "rearmed, pending", "rearmed, bare"),
                    *("rearmed, not yet", "rearmed, odd state"),
                ],
                "replace supplied own",
            ),
        }
    ),
}


def expected(rows: tuple[Row, Row], strategy: ProvisionStrategy, policy: ReprovisionPolicy) -> str:
    row = rows[strategy is CHECK]
    return row if isinstance(row, str) else row[list(ReprovisionPolicy).index(policy)]


def owner(found: KnownDevice | None, supplied: Credentials | None) -> UUID | None:
    """The device that has the supplied credentials, if it is the named one."""
    has = found is not None and supplied in [each.credentials for each in found.credentials]
    return found.id if found is not None and has else None


@pytest.mark.parametrize("policy", ReprovisionPolicy)
@pytest.mark.parametrize("strategy", [ALLOW, CHECK], ids=["allow", "check"])
@pytest.mark.parametrize(("supplied", "table"), [(None, GENERATING), (OWN, SUPPLYING)], ids=["generated", "supplied"])
def test_what_a_name_deserves(
    supplied: Credentials | None,
    table: dict[str, tuple[Row, Row]],
    strategy: ProvisionStrategy,
    policy: ReprovisionPolicy,
) -> None:
    intent = Intent(profile(strategy, policy), "d", supplied, False, None)
    decisions = {
        name: decide(intent, Situation(found, None, owner(found, supplied)), None, FRESH)
        for name, found in DEVICES.items()
    }
    assert {name: described(decision) for name, decision in decisions.items()} == {
        name: expected(table[name], strategy, policy) for name in DEVICES
    }
    for name, decision in decisions.items():
        assert isinstance(decision, Refusal | Create) or decision.device is DEVICES[name]


@pytest.mark.parametrize("policy", ReprovisionPolicy)
@pytest.mark.parametrize("strategy", [ALLOW, CHECK], ids=["allow", "check"])
def test_no_one_gets_credentials_that_another_device_has(
    strategy: ProvisionStrategy, policy: ReprovisionPolicy
) -> None:
    intent = Intent(profile(strategy, policy), "d", OWN, False, None)
    for found in DEVICES.values():
        decision = decide(intent, Situation(found, None, STRANGER_ID), None, FRESH)
        assert not isinstance(decision, Create)
        assert not isinstance(decision, Provision) or decision.change is Change.KEEP
    taken = decide(intent, Situation(None, None, STRANGER_ID), None, FRESH)
    assert described(taken) == ("CREDENTIALS_TAKEN" if strategy is ALLOW else "NOT_PRE_PROVISIONED")
    taken = decide(intent, Situation(DEVICES["rearmed"], None, STRANGER_ID), None, FRESH)
    assert described(taken) == "CREDENTIALS_TAKEN"


def test_a_nameless_device_is_given_the_chosen_name() -> None:
    intent = Intent(profile(), None, None, False, None)
    assert described(decide(intent, VACANT, None, FRESH)) == "create chosen: generated fresh"


BASIC = building.mqtt_basic("c", "u", "p")
OTHER_PASSWORD = building.mqtt_basic("c", "u", "another")


@pytest.mark.parametrize(
    ("found", "rows"),
    [
        (device(held(BASIC)), (DENIED, "OTHER_CREDENTIALS", "OTHER_CREDENTIALS", "OTHER_CREDENTIALS")),
        (device(PENDING, held(BASIC)), (DENIED, "OTHER_CREDENTIALS", "OTHER_CREDENTIALS", "OTHER_CREDENTIALS")),
        (
            device(held(BASIC, pending=True), held()),
            (DENIED, "OTHER_CREDENTIALS", "OTHER_CREDENTIALS", "OTHER_CREDENTIALS"),
        ),
        (device(held(BASIC), rearmed=True), 4 * ("replace supplied another",)),
    ],
)
@pytest.mark.parametrize("policy", ReprovisionPolicy)
def test_another_password_is_other_credentials_though_the_id_is_the_same(
    found: KnownDevice, rows: tuple[str, ...], policy: ReprovisionPolicy
) -> None:
    intent = Intent(profile(ALLOW, policy), "d", OTHER_PASSWORD, False, None)
    decision = decide(intent, Situation(found, None, found.id), None, FRESH)
    if isinstance(decision, Provision):
        assert decision.change is Change.REPLACE
        assert decision.credentials.value == MqttBasic("c", "u", "another")
    else:
        assert described(decision) == rows[list(ReprovisionPolicy).index(policy)]


# Decision, with a nonce


def with_nonce(
    situation: Situation,
    *,
    name: str | None = "d",
    policy: ReprovisionPolicy = DENY,
    strategy: ProvisionStrategy = ALLOW,
    supplied: Credentials | None = None,
) -> str:
    intent = Intent(profile(strategy, policy), name, supplied, False, NONCE)
    return described(decide(intent, situation, DIGEST, FRESH))


each_policy = pytest.mark.parametrize("policy", ReprovisionPolicy)
each_way_to_ask = pytest.mark.parametrize("name", [None, "d"], ids=["nameless", "named"])


def found(holder: KnownDevice, name: str | None) -> Situation:
    """The holder, by its name too when that is given."""
    return Situation(holder if name == holder.name else None, holder)


@each_policy
@each_way_to_ask
@pytest.mark.parametrize(
    ("credentials", "answer"),
    [
        ((held(),), "repeat old"),
        ((IMPORTED,), "repeat old"),
        ((held(OWN, Origin.SUPPLIED),), "repeat own"),
        ((PENDING, held()), "repeat new"),
        ((PENDING, GENERATED_USED), "repeat new"),
    ],
)
def test_the_same_nonce_and_digest_get_the_same_answer_under_every_policy(
    credentials: tuple[StoredCredentials, ...], answer: str, name: str | None, policy: ReprovisionPolicy
) -> None:
    holder = device(*credentials, digest=DIGEST)
    assert with_nonce(found(holder, name), name=name, policy=policy) == answer


def test_the_same_nonce_and_digest_under_check_pre_provisioned() -> None:
    holder = device(IMPORTED, digest=DIGEST)
    assert with_nonce(found(holder, "d"), strategy=CHECK) == "repeat old"


def test_the_same_request_with_its_own_credentials_again() -> None:
    holder = device(held(OWN, Origin.SUPPLIED), digest=DIGEST)
    assert with_nonce(Situation(holder, holder, holder.id), supplied=OWN) == "repeat own"


@each_policy
@each_way_to_ask
@pytest.mark.parametrize("credentials", [(held(),), (GENERATED_USED,), (PENDING, held()), ()], ids=len)
def test_another_digest_is_another_request(
    credentials: tuple[StoredCredentials, ...], name: str | None, policy: ReprovisionPolicy
) -> None:
    holder = device(*credentials, digest=OTHER_DIGEST)
    assert with_nonce(found(holder, name), name=name, policy=policy) == "NONCE_REUSED"


SPENT: dict[str, KnownDevice] = {
    "spent": device(held(), digest=None),
    "used": device(GENERATED_USED, digest=DIGEST),
    "spent and used": device(GENERATED_USED, digest=None),
    "pending, spent": device(PENDING, held(), digest=None),
    "imported, used": device(held(origin=Origin.IMPORTED, used=True), digest=DIGEST),
    "bare": device(digest=DIGEST),
}
SPENT_ROWS: dict[str, Row] = {
    "spent": (DENIED, "repeat old", "repeat old", "add_pending generated fresh"),
    "used": (DENIED, "ALREADY_USED", "repeat old", "add_pending generated fresh"),
    "spent and used": (DENIED, "ALREADY_USED", "repeat old", "add_pending generated fresh"),
    "pending, spent": (DENIED, "repeat new", "repeat new", "add_pending generated fresh"),
    "imported, used": (DENIED, "ALREADY_USED", "repeat old", "repeat old"),
    "bare": DENIED,
}


@each_policy
@each_way_to_ask
@pytest.mark.parametrize("state", SPENT)
def test_a_spent_nonce_proves_nothing_and_the_policy_decides(
    state: str, name: str | None, policy: ReprovisionPolicy
) -> None:
    row = SPENT_ROWS[state]
    assert with_nonce(found(SPENT[state], name), name=name, policy=policy) == expected((row, row), ALLOW, policy)


@each_policy
@pytest.mark.parametrize("rearmed", [False, True])
@pytest.mark.parametrize("digest", [DIGEST, None, OTHER_DIGEST])
@pytest.mark.parametrize("other", [None, device(held(), name="e", id_=OTHER_ID)], ids=["unknown", "known"])
def test_a_nonce_of_one_device_does_nothing_for_another_name(
    other: KnownDevice | None, digest: bytes | None, rearmed: bool, policy: ReprovisionPolicy
) -> None:
    holder = device(GENERATED_USED, digest=digest, rearmed=rearmed)
    assert with_nonce(Situation(other, holder), name="e", policy=policy) == "NONCE_REUSED"


def test_a_rearmed_device_cannot_take_a_nonce_of_another() -> None:
    rearmed = device(GENERATED_USED, name="e", id_=OTHER_ID, rearmed=True)
    assert with_nonce(Situation(rearmed, device(held(), digest=None)), name="e") == "NONCE_REUSED"


@each_policy
@each_way_to_ask
@pytest.mark.parametrize("digest", [DIGEST, None, OTHER_DIGEST])
def test_rearming_outweighs_the_nonce_and_the_old_credentials_go(
    digest: bytes | None, name: str | None, policy: ReprovisionPolicy
) -> None:
    holder = device(held(), digest=digest, rearmed=True)
    assert with_nonce(found(holder, name), name=name, policy=policy) == "replace generated fresh"


def test_rearming_keeps_what_was_imported() -> None:
    holder = device(held(origin=Origin.IMPORTED, used=True), digest=DIGEST, rearmed=True)
    assert with_nonce(found(holder, "d")) == "keep imported old"


def test_a_new_nonce_opens_a_rearmed_device_and_no_other() -> None:
    assert with_nonce(Situation(device(GENERATED_USED, rearmed=True))) == "replace generated fresh"
    assert with_nonce(Situation(device(GENERATED_USED))) == DENIED
    assert with_nonce(Situation(device(held(), digest=OTHER_DIGEST))) == DENIED


def test_a_new_nonce_makes_a_device() -> None:
    assert with_nonce(VACANT) == "create d: generated fresh"
    assert with_nonce(VACANT, name=None) == "create chosen: generated fresh"
    assert with_nonce(VACANT, strategy=CHECK) == "NOT_PRE_PROVISIONED"


# By certificate chain

ISSUED = FACTORY.leaf("d", not_before=days(-5))
CERTIFICATE = building.certificate(ISSUED.pem)
OLDER = building.certificate(FACTORY.leaf("d", not_before=days(-6)).pem)
SAME_DAY = building.certificate(FACTORY.leaf("d", not_before=days(-5)).pem)
NEWER = building.certificate(FACTORY.leaf("d", not_before=days(-4)).pem)
NO_CERTIFICATE = building.certificate("testHash")


def by_chain(named: KnownDevice | None, holder: UUID | None = None, *, allow_create: bool = True) -> Decision:
    of = replace(profile(CHAIN), chain=ChainRules(allow_create=allow_create))
    return decide(Intent(of, "d", CERTIFICATE, False, None), Situation(named, None, holder), None, FRESH)


def changed(decision: Decision) -> str:
    """As `described`, without the certificate's text."""
    text = described(decision)
    known = {"certificate": CERTIFICATE, "older": OLDER, "same day": SAME_DAY, "newer": NEWER}
    for short, credentials in known.items():
        text = text.replace(str(credentials.value), short)
    return text


IMPORTED_OLDER = held(OLDER, Origin.IMPORTED, used=True)
USED_OLDER, USED_NEWER = held(OLDER, Origin.SUPPLIED, used=True), held(NEWER, Origin.SUPPLIED, used=True)
GENERATED, USED_TOKEN = held(), held(used=True)
PENDING_NEWER = held(NEWER, Origin.SUPPLIED, pending=True)
HAS_IT = held(CERTIFICATE, Origin.SUPPLIED)


@pytest.mark.parametrize(
    ("named", "outcome"),
    [
        (None, "create d: supplied certificate"),
        (device(HAS_IT), "repeat certificate"),
        (device(held(CERTIFICATE, Origin.SUPPLIED, pending=True), USED_OLDER), "repeat certificate"),
        (device(PENDING_NEWER, HAS_IT), "repeat certificate"),  # the old one, which is good still
        (device(held(CERTIFICATE, Origin.IMPORTED), state=None), "keep imported certificate"),
        (device(HAS_IT, rearmed=True), "replace supplied certificate"),
        # A certificate that is known, and this one
        (device(USED_OLDER), "add_pending supplied certificate"),
        (device(held(SAME_DAY, Origin.SUPPLIED, used=True)), "add_pending supplied certificate"),
        (device(IMPORTED_OLDER), "add_pending supplied certificate"),
        (device(IMPORTED_OLDER, state=None), "add_pending supplied certificate"),
        (device(held(NO_CERTIFICATE, Origin.IMPORTED)), "add_pending supplied certificate"),
        (device(USED_NEWER), "CERTIFICATE_SUPERSEDED"),
        (device(held(NEWER, Origin.IMPORTED), state=None), "CERTIFICATE_SUPERSEDED"),
        (device(PENDING_NEWER, USED_OLDER), "CERTIFICATE_SUPERSEDED"),
        (device(USED_NEWER, rearmed=True), "replace supplied certificate"),
        # Credentials of another type
        (device(GENERATED, state=None), "replace supplied certificate"),
        (device(state=None), "replace supplied certificate"),
        (device(), "replace supplied certificate"),
        (device(USED_TOKEN, state=None), "CREDENTIALS_TYPE"),
        (device(IMPORTED, state=None), "CREDENTIALS_TYPE"),
        (device(GENERATED), "CREDENTIALS_TYPE"),
        (device(held(BASIC, Origin.SUPPLIED)), "CREDENTIALS_TYPE"),
        (device(USED_TOKEN, rearmed=True), "replace supplied certificate"),
        (device(IMPORTED, rearmed=True), "CREDENTIALS_TYPE"),
        # Not for it
        (device(USED_OLDER, state="claimed"), "STATE_UNKNOWN"),
        (device(HAS_IT, state="claimed"), "STATE_UNKNOWN"),
        (device(USED_OLDER, profile_id=OTHER_PROFILE_ID), "NAME_ELSEWHERE"),
        (device(HAS_IT, profile_id=OTHER_PROFILE_ID), "NAME_ELSEWHERE"),
    ],
)
def test_a_certificate_is_the_devices_on_its_cas_word(named: KnownDevice | None, outcome: str) -> None:
    assert changed(by_chain(named)) == outcome
    if named is not None:
        assert changed(by_chain(named, allow_create=False)) == outcome


def test_without_allow_create_only_known_devices_come() -> None:
    assert by_chain(None, allow_create=False) == Refusal(Reason.NOT_PRE_PROVISIONED)


@pytest.mark.parametrize("named", [None, device(USED_OLDER), device(GENERATED, state=None)], ids=["none", "old", "new"])
def test_a_certificate_of_another_device_is_not_given_away(named: KnownDevice | None) -> None:
    assert by_chain(named, STRANGER_ID) == Refusal(Reason.CREDENTIALS_TAKEN)


# Every reason


def approving(
    situation: Situation,
    *,
    strategy: ProvisionStrategy = ALLOW,
    policy: ReprovisionPolicy = DENY,
    supplied: Credentials | None = None,
    nonce: bool = False,
) -> Decision:
    """As `decided`, of a profile whose operator approves each device."""
    intent = Intent(replace(profile(strategy, policy), approval=True), "d", supplied, False, NONCE if nonce else None)
    return decide(intent, situation, DIGEST if nonce else None, FRESH)


PROVEN = device(held(), digest=DIGEST)

APPROVALS: list[tuple[str, Callable[[Situation], Decision], Situation, str]] = [
    ("new", approving, VACANT, "create d: generated fresh"),
    (
        "pre-provisioned",
        lambda s: approving(s, strategy=CHECK),
        Situation(device(held(), state=None)),
        "keep generated old",
    ),
    ("return_same", lambda s: approving(s, policy=RETURN_SAME), Situation(device(held())), "repeat old"),
    ("rotate", lambda s: approving(s, policy=ROTATE), Situation(device(held())), "add_pending generated fresh"),
    ("chain", lambda s: approving(s, strategy=CHAIN, supplied=OWN), VACANT, "create d: supplied own"),
    (
        "chain, pre-provisioned",
        lambda s: approving(s, strategy=CHAIN, supplied=OWN),
        Situation(device(held(), state=None)),
        "replace supplied own",
    ),
]


@pytest.mark.parametrize(("ask_", "found", "granted"), [each[1:] for each in APPROVALS], ids=[e[0] for e in APPROVALS])
def test_what_nobody_has_proved_waits_for_an_operator(
    ask_: Callable[[Situation], Decision], found: Situation, granted: str
) -> None:
    said = {state: described(ask_(replace(found, approval=state))) for state in (None, *ApprovalState)}

    assert said == {
        None: "APPROVAL_PENDING",
        ApprovalState.PENDING: "APPROVAL_PENDING",
        ApprovalState.ACCEPTED: granted,
        ApprovalState.REJECTED: "APPROVAL_REJECTED",
    }


@pytest.mark.parametrize("state", [None, *ApprovalState])
@pytest.mark.parametrize(
    ("ask_", "found", "outcome"),
    [
        (lambda s: approving(s, nonce=True), Situation(PROVEN, PROVEN), "repeat old"),
        (approving, Situation(device(held(), rearmed=True)), "replace generated fresh"),
        (approving, Situation(device(held())), "ALREADY_PROVISIONED"),
        (lambda s: approving(s, strategy=CHECK), VACANT, "NOT_PRE_PROVISIONED"),
    ],
    ids=["proved", "re-armed", "refused", "unknown"],
)
def test_what_is_proved_or_refused_anyway_needs_no_operator(
    ask_: Callable[[Situation], Decision], found: Situation, outcome: str, state: ApprovalState | None
) -> None:
    assert described(ask_(replace(found, approval=state))) == outcome


def test_the_next_certificate_of_a_device_that_is_known_needs_no_operator() -> None:
    intent = Intent(replace(profile(CHAIN), approval=True), "d", CERTIFICATE, False, None)

    assert changed(decide(intent, Situation(device(USED_OLDER)), None, FRESH)) == "add_pending supplied certificate"


@pytest.mark.parametrize(
    "found",
    [
        Situation(device(held(), state=None)),
        Situation(device(held(), rearmed=True)),
        Situation(PROVEN, PROVEN),
        Situation(None, PROVEN),
    ],
    ids=["new", "re-armed", "proved", "by nonce alone"],
)
@pytest.mark.parametrize("strategy", [ALLOW, CHECK, CHAIN])
def test_a_device_in_quarantine_gets_nothing(found: Situation, strategy: ProvisionStrategy) -> None:
    there = replace(
        found,
        named=found.named and replace(found.named, quarantined=True),
        nonce_holder=found.nonce_holder and replace(found.nonce_holder, quarantined=True),
    )

    assert decided(there, strategy=strategy, supplied=OWN, nonce=True) == Refusal(Reason.QUARANTINED)


def decided(
    situation: Situation,
    *,
    strategy: ProvisionStrategy = ALLOW,
    policy: ReprovisionPolicy = DENY,
    supplied: Credentials | None = None,
    nonce: bool = False,
) -> Decision:
    intent = Intent(profile(strategy, policy), "d", supplied, False, NONCE if nonce else None)
    return decide(intent, situation, DIGEST if nonce else None, FRESH)


FOUND_ELSEWHERE = {case.reason for case in (CASES | NAMES).values()} | {
    Reason.CERTIFICATE_MALFORMED,
    Reason.CERTIFICATE_REVOKED,
    Reason.CRL_STALE,
    Reason.NAME_MISMATCH,
    Reason.CHAIN_DISABLED,
    *(reason for reason in Reason if reason.name.startswith(("CSR_", "ISSUER_"))),
    Reason.CREDENTIALS_EXPIRED,
    Reason.CREDENTIALS_IMPORTED,
    Reason.CREDENTIALS_STATIC,
    Reason.PSK_UNPROVEN,
}
"""By the verifier: see tests/core/test_chain.py and tests/services/test_enrollment.py; of certificates that are asked
for, and of rotation: tests/core/test_signing.py, tests/core/test_rotation.py and tests/services/test_rotation.py.
"""

REACHED: dict[Reason, Callable[[], Intent | Decision]] = {
    Reason.NAME_BLANK: lambda: admitted(device_name=" "),
    Reason.NAME_TOO_LONG: lambda: admitted(device_name="x" * 256),
    Reason.NAME_MALFORMED: lambda: admitted(device_name="{{x"),
    Reason.NAME_REQUIRED: lambda: admitted(CHECK),
    Reason.NAME_TAKEN: lambda: decided(Situation(device(held(), state=None))),
    Reason.NAME_ELSEWHERE: lambda: decided(Situation(device(held(), profile_id=OTHER_PROFILE_ID))),
    Reason.KEY_MISSING: lambda: admitted(key=""),
    Reason.KEY_UNKNOWN: lambda: judged(ask(), None),
    Reason.SECRET_WRONG: lambda: admitted(secret="wrong"),
    Reason.PROFILE_DISABLED: lambda: admitted(DISABLED),
    Reason.CHAIN_ONLY: lambda: admitted(CHAIN),
    Reason.KEY_NOT_YET_VALID: lambda: judged(ask(), bounded(LATER)),
    Reason.KEY_EXPIRED: lambda: judged(ask(), bounded(None, TODAY)),
    Reason.NETWORK_EXCLUDED: lambda: judged(ask(), bounded(None, None, "198.51.100.0/24")),
    Reason.CREDENTIALS_INVALID: lambda: admitted(token="device"),
    Reason.CREDENTIALS_TAKEN: lambda: decided(Situation(None, None, STRANGER_ID), supplied=OWN),
    Reason.NONCE_MALFORMED: lambda: admitted(request_nonce="x"),
    Reason.NONCE_REUSED: lambda: decided(Situation(None, device(held(), digest=OTHER_DIGEST)), nonce=True),
    Reason.NOT_PRE_PROVISIONED: lambda: decided(VACANT, strategy=CHECK),
    Reason.STATE_UNKNOWN: lambda: decided(Situation(device(held(), state="claimed"))),
    Reason.ALREADY_PROVISIONED: lambda: decided(Situation(device(held()))),
    Reason.ALREADY_USED: lambda: decided(Situation(device(held(used=True))), policy=UNTIL_FIRST_USE),
    Reason.CREDENTIALS_TYPE: lambda: by_chain(device(USED_TOKEN)),
    Reason.CERTIFICATE_SUPERSEDED: lambda: by_chain(device(USED_NEWER)),
    Reason.OTHER_CREDENTIALS: lambda: decided(Situation(device(held())), policy=RETURN_SAME, supplied=OWN),
    Reason.QUARANTINED: lambda: decided(Situation(replace(device(held()), quarantined=True))),
    Reason.APPROVAL_PENDING: lambda: approving(VACANT),
    Reason.APPROVAL_REJECTED: lambda: approving(Situation(approval=ApprovalState.REJECTED)),
    Reason.APPROVAL_UNNAMED: lambda: judged(ask(), replace(key_of(), profile=replace(profile(), approval=True))),
}


COUNTED = {reason_ for reason_ in Reason if reason_.outcome is Outcome.LIMITED} | {Reason.KEY_USED_UP}
"""By `services/limits.py` and `services/provision_writes.py`."""


def test_every_reason_is_reached() -> None:
    assert set(REACHED) | FOUND_ELSEWHERE | COUNTED == set(Reason)


@pytest.mark.parametrize("reason_", REACHED, ids=lambda r: r.name)
def test_a_reason_is_told(reason_: Reason) -> None:
    refusal = REACHED[reason_]()
    assert reason(refusal) is reason_
    assert isinstance(refusal, Refusal)
    assert refusal.outcome is reason_.outcome
    assert RENDERINGS[reason_.outcome].status in ("NOT_FOUND", "FAILURE")
    assert reason_.text


def test_reasons_are_told_apart() -> None:
    assert len({reason_.text for reason_ in Reason}) == len(Reason.__members__) == len(Reason)


def test_what_handshakes_and_certificates_tell_is_a_failure() -> None:
    assert {reason_.outcome for reason_ in FOUND_ELSEWHERE} == {Outcome.FAILURE}


def test_not_found_says_nothing_of_devices() -> None:
    not_found = {reason_ for reason_ in Reason if reason_.outcome is Outcome.NOT_FOUND}
    assert not_found == {
        Reason.KEY_MISSING,
        Reason.KEY_UNKNOWN,
        Reason.SECRET_WRONG,
        Reason.PROFILE_DISABLED,
        Reason.CHAIN_ONLY,
        Reason.KEY_NOT_YET_VALID,
        Reason.KEY_EXPIRED,
        Reason.NETWORK_EXCLUDED,
        Reason.KEY_USED_UP,
    }


# Whatever is found

POOL = [OLD, NEW, OWN, BASIC, OTHER_PASSWORD, building.certificate("MIIB")]
REPLACEABLE = [Origin.GENERATED, Origin.SUPPLIED]
CREDENTIALS: list[tuple[StoredCredentials, ...]] = [
    (),
    *((held(each, origin, used=used),) for each, origin, used in product(POOL, Origin, (False, True))),
    *(
        (held(pending, origin, pending=True), held(old, Origin.GENERATED, used=used))  # what is imported is not rotated
        for pending, origin, old, used in product(POOL, REPLACEABLE, POOL, (False, True))
        if pending.id != old.id
    ),
]
STATES = [None, PROVISIONED, PROVISIONED, PROVISIONED, "claimed"]


def devices(name: str, id_: UUID, profile_ids: list[UUID]) -> list[KnownDevice]:
    each = product(CREDENTIALS, profile_ids, STATES, (False, True), (None, DIGEST, OTHER_DIGEST))
    return [KnownDevice(id_, of, name, 1, state, rearmed, digest, has) for has, of, state, rearmed, digest in each]


NAMED = st.none() | st.sampled_from(devices("d", DEVICE_ID, [PROFILE_ID, PROFILE_ID, OTHER_PROFILE_ID]))
HOLDERS = st.none() | st.sampled_from(devices("e", OTHER_ID, [PROFILE_ID]))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Intent, Situation, bytes | None]:
    """What the store can find: the nonce's holder is of the profile, and has the name asked for or another."""
    strategy = draw(st.sampled_from([ALLOW, CHECK]))
    name = "d" if strategy is CHECK else draw(st.sampled_from([None, "d"]))
    named = draw(NAMED) if name else None
    nonce = draw(st.none() | st.just(NONCE))
    holder = None
    if nonce is not None:
        holder = draw(HOLDERS)
        if named is not None and named.profile_id == PROFILE_ID and draw(st.booleans()):
            holder = named
    supplied = draw(st.none() | st.sampled_from(POOL))
    taken = draw(st.sampled_from([None, None, DEVICE_ID, OTHER_ID, STRANGER_ID])) if supplied else None
    intent = Intent(profile(strategy, draw(st.sampled_from(ReprovisionPolicy))), name, supplied, False, nonce)
    return intent, Situation(named, holder, taken), DIGEST if nonce else None


def proven(device_: KnownDevice, situation: Situation, digest: bytes | None) -> bool:
    """By the nonce, that this very request was answered before, and that the answer was never used."""
    newest = device_.newest
    return (
        device_ is situation.nonce_holder
        and device_.request_digest is not None
        and device_.request_digest == digest
        and newest is not None
        and not newest.used
    )


@settings(deadline=None, max_examples=200)
@given(cases())
def test_invariants(case: tuple[Intent, Situation, bytes | None]) -> None:
    intent, situation, digest = case
    decision = decide(intent, situation, digest, FRESH)
    assert decision == decide(intent, situation, digest, FRESH)
    strategy, policy = intent.profile.strategy, intent.profile.reprovision_policy
    chosen = intent.supplied or token("fresh")

    if isinstance(decision, Refusal):
        assert decision.outcome is Outcome.FAILURE
        assert decision == decide(intent, situation, digest, Fresh("another", "another"))
        return
    if isinstance(decision, Create):
        assert strategy is ALLOW
        assert situation == VACANT
        assert decision.name == (intent.name or "chosen")
        assert decision.credentials == chosen
        assert decision.origin is (Origin.SUPPLIED if intent.supplied else Origin.GENERATED)
        return

    found_ = decision.device
    newest = found_.newest
    assert found_ in (situation.named, situation.nonce_holder)
    assert found_.profile_id == intent.profile.id
    assert found_.name == intent.name or intent.name is None or proven(found_, situation, digest)
    repeatable = proven(found_, situation, digest) and not found_.rearmed
    if found_.provision_state == PROVISIONED and not found_.rearmed and not repeatable:
        assert policy is not DENY
        assert policy is not UNTIL_FIRST_USE or not any(each.used for each in found_.credentials)
    if isinstance(decision, Repeat) or decision.change is Change.KEEP:
        assert newest is not None
        assert decision.credentials in (newest.credentials, intent.supplied)
        assert decision.credentials in [each.credentials for each in found_.credentials]
        assert decision == decide(intent, situation, digest, Fresh("another", "another"))
    if isinstance(decision, Repeat):
        assert not found_.rearmed
        assert repeatable or found_.provision_state == PROVISIONED
        return

    assert not repeatable or (decision.change is Change.KEEP and found_.provision_state is None)
    assert found_.rearmed or found_.provision_state in (None, PROVISIONED)
    if any(each.origin is Origin.IMPORTED for each in found_.credentials):
        assert decision.change is Change.KEEP
    if decision.change is Change.KEEP:
        assert newest is not None
        assert decision.origin is newest.origin
    else:
        assert decision.credentials == chosen
        assert decision.origin is (Origin.SUPPLIED if intent.supplied else Origin.GENERATED)
        assert situation.credentials_holder in (None, found_.id)
        assert (decision.change is Change.ADD_PENDING) is (
            policy is ROTATE and not found_.rearmed and found_.provision_state == PROVISIONED
        )
        if decision.change is Change.ADD_PENDING:
            assert decision.credentials.id not in [each.credentials.id for each in found_.credentials]
        else:
            assert found_.rearmed or strategy is CHECK


# Reprs


@pytest.mark.parametrize(
    "thing",
    [
        Intent(profile(), "d", token(SECRET), False, SECRET),
        Fresh(SECRET, "chosen"),
        Create("d", token(SECRET), Origin.SUPPLIED),
        Provision(device(held(token(SECRET))), Change.KEEP, token(SECRET), Origin.GENERATED),
        Repeat(device(held(token(SECRET))), token(SECRET)),
        admitted(username=SECRET, password=SECRET),
        admitted(token=SECRET * 100),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_reprs_show_no_secret(thing: object) -> None:
    assert SECRET not in repr(thing)
