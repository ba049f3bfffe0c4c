import base64
import datetime as dt
import re
import timeit
import warnings
from collections.abc import Sequence
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import chain
from provserver.core import credentials as building
from provserver.core.chain import MAX_SIZE, Certificate, Chain, InvalidPattern, Leaf, Trust
from provserver.core.decision import Reason, Refusal
from provserver.core.model import CertificateAuthority, ChainRules, NameSource
from tests import pki
from tests.chains import CASES, CONSTRAINED, DEVICE, FACTORY, NAMES, OTHER, ROOT, RSA_ROOT, TRUSTED
from tests.pki import Authority, Issued, days

NOW = pki.now()


def trust(*trusted: Authority, crls: dict[Authority, bytes] | None = None) -> Trust:
    return Trust([CertificateAuthority(each.der, (crls or {}).get(each)) for each in trusted])


def presented(*certificates: bytes) -> Chain:
    found = chain.read(certificates)
    assert isinstance(found, Chain)
    return found


def verdict(trusted: Trust, *certificates: bytes, now: dt.datetime | None = None) -> list[str] | Reason:
    """The subjects of the path, or why there is none."""
    found = trusted.verify(presented(*certificates), now or pki.now())
    if isinstance(found, Refusal):
        assert found.detail.isprintable()
        assert len(found.detail) < 300
        return found.reason
    return [str(each) for each in found]


# What is accepted


def test_a_chain_leads_to_its_root() -> None:
    assert verdict(trust(ROOT), *DEVICE.chain) == ["CN=sensor-1", "CN=Factory", "CN=Root"]
    assert verdict(trust(ROOT), *ROOT.leaf().chain) == ["CN=sensor-1", "CN=Root"]


def test_a_root_that_is_presented_changes_nothing() -> None:
    assert verdict(trust(ROOT), *DEVICE.full_chain) == verdict(trust(ROOT), *DEVICE.chain)


def test_an_intermediate_may_be_the_ca_and_the_root_be_absent() -> None:
    for certificates in (DEVICE.full_chain, DEVICE.chain, (DEVICE.der,)):
        assert verdict(trust(FACTORY), *certificates) == ["CN=sensor-1", "CN=Factory"]
    assert verdict(trust(ROOT, FACTORY), *DEVICE.chain) == ["CN=sensor-1", "CN=Factory"]  # the nearest


def test_issuers_may_come_in_any_order_twice_and_with_others() -> None:
    deep = ROOT.intermediate("A").intermediate("B").leaf()
    leaf, b, a, root = deep.full_chain
    strangers = (OTHER.der, OTHER.intermediate("Factory").der, DEVICE.der)

    assert verdict(trust(ROOT), leaf, root, a, b, a, *strangers) == ["CN=sensor-1", "CN=B", "CN=A", "CN=Root"]


def test_a_ca_that_is_renewed_or_cross_signed_serves_whichever_comes_first() -> None:
    expired = ROOT.intermediate("Line", not_after=days(-0.5))
    renewed = pki.renewed(expired)
    crossed = OTHER.intermediate("Line", key=expired.key)
    device = expired.leaf().der

    for certificates in ((expired.der, renewed.der, crossed.der), (crossed.der, renewed.der, expired.der)):
        assert verdict(trust(ROOT), device, *certificates) == ["CN=sensor-1", "CN=Line", "CN=Root"]
        assert verdict(trust(OTHER), device, *certificates) == ["CN=sensor-1", "CN=Line", "CN=Other"]


@pytest.mark.parametrize("key", ["p256", "p384", "p521", "rsa2048", "rsa3072", "ed25519", "k256", "bp256"])
def test_a_device_may_have_any_strong_key(key: str) -> None:
    assert verdict(trust(ROOT), *ROOT.leaf(key=key).chain) == ["CN=sensor-1", "CN=Root"]


@pytest.mark.parametrize("key", ["p256", "p384", "p521", "rsa2048"])
def test_a_ca_may_have_these_keys(key: str) -> None:
    assert verdict(trust(Authority.root(key=key)), *Authority.root(key=key).leaf().chain) is Reason.SIGNATURE_WRONG
    root = Authority.root(key=key)
    assert verdict(trust(root), *root.intermediate(key=key).leaf().chain) == ["CN=sensor-1", "CN=Factory", "CN=Root"]


@pytest.mark.parametrize(
    "how",
    [
        {"ca": False},
        {"eku": [pki.CLIENT_AUTH, pki.SERVER_AUTH]},
        {"eku": [pki.ANY_USAGE]},
        {"key_usage": pki.usages("digital_signature")},
        {"key_usage": pki.usages("key_agreement")},
        {"san": [x509.DNSName("sensor-1.example.com")]},
        {"cn": None, "san": [x509.UniformResourceIdentifier("urn:dev:1")]},
        {"serial": 1},
        {"cn": "x" * 65},
        {"extensions": [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), False)]},
    ],
    ids=lambda how: " ".join(how),
)
def test_a_device_needs_neither_names_nor_key_identifiers(how: dict[str, object]) -> None:
    leaf = FACTORY.leaf(**({"cn": "sensor-1"} | how))  # type: ignore[arg-type]

    assert isinstance(verdict(trust(ROOT), *leaf.chain), list)


def test_a_ca_without_key_usage_is_one() -> None:
    """As `openssl req -x509` makes it."""
    root = Authority.root(ca=None, extensions=[(x509.BasicConstraints(True, None), False)])

    assert verdict(trust(root), *root.leaf().chain) == ["CN=sensor-1", "CN=Root"]


# What is refused

EXPIRED_ROOT = Authority.root("Expired Root", not_before=days(-9), not_after=days(-1))
ED_ROOT = Authority.root("Ed Root", key="ed25519")
WEAK_ROOT = Authority.root("Weak Root", key="rsa1024")
TRUST = trust(*TRUSTED)


@pytest.mark.parametrize("case", CASES)
def test_a_chain_is_refused_with_its_reason(case: str) -> None:
    found = chain.read(CASES[case].make().certificates)
    refusal = found if isinstance(found, Refusal) else TRUST.verify(found, pki.now())

    assert isinstance(refusal, Refusal)
    assert refusal.reason is CASES[case].reason
    assert refusal.detail.isprintable()
    assert len(refusal.detail) < 300


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        (EXPIRED_ROOT, Reason.CERTIFICATE_EXPIRED),
        (ED_ROOT, Reason.KEY_UNSUPPORTED),
        (WEAK_ROOT, Reason.WEAK_KEY),
    ],
    ids=str,
)
def test_a_root_that_is_good_no_more_lets_nobody_in(root: Authority, reason: Reason) -> None:
    assert verdict(trust(root), *root.leaf().chain) is reason


def test_who_trusts_nobody_says_what_is_missing() -> None:
    nobody = trust()

    assert verdict(nobody, *pki.self_signed().chain) is Reason.SELF_SIGNED
    assert verdict(nobody, *DEVICE.chain) is Reason.MISSING_INTERMEDIATE
    assert verdict(nobody, *DEVICE.full_chain) is Reason.UNTRUSTED


def test_names_permitted_are_accepted() -> None:
    assert isinstance(verdict(TRUST, *CONSTRAINED.leaf(san=[x509.DNSName("a.example.com")]).chain), list)
    assert isinstance(verdict(TRUST, *CONSTRAINED.leaf().chain), list)  # which have no such names


def test_time_goes_by_the_clock_that_is_passed_in() -> None:
    assert verdict(trust(ROOT), *DEVICE.chain, now=days(366)) is Reason.CERTIFICATE_EXPIRED
    assert verdict(trust(ROOT), *DEVICE.chain, now=days(-2)) is Reason.CERTIFICATE_NOT_YET_VALID


def test_a_detail_names_the_certificate_at_fault() -> None:
    refusal = TRUST.verify(presented(*CASES["intermediate expired"].make().certificates), NOW)
    assert refusal == Refusal(Reason.CERTIFICATE_EXPIRED, "CN=Odd")

    gap = trust(ROOT).verify(presented(DEVICE.der), NOW)
    assert gap == Refusal(Reason.MISSING_INTERMEDIATE, "CN=sensor-1 names CN=Factory")

    hostile = trust(ROOT).verify(presented(OTHER.leaf("a\x1b[2J\0" + "b" * 9999).der), NOW)
    assert isinstance(hostile, Refusal)
    assert hostile.detail.isprintable()
    assert len(hostile.detail) < 220


def test_loops_and_forks_end_soon() -> None:
    """Ways that fork and meet again would multiply."""
    key = pki.new_key()
    loop = [Authority.root("Root", key=key).intermediate("Root", key=key, serial=n + 2) for n in range(3)]
    a, b = pki.new_key(), pki.new_key()
    cross = [
        certificate.der
        for n in range(3)
        for certificate in (
            Authority.root("B", key=b).intermediate("A", key=a, serial=n + 2),
            Authority.root("A", key=a).intermediate("B", key=b, serial=n + 2),
        )
    ]
    leaf = Authority.root("A", key=a).leaf()

    assert isinstance(verdict(trust(ROOT), loop[0].leaf().der, *(each.der for each in loop)), Reason)
    assert isinstance(verdict(trust(ROOT, Authority.root("A")), leaf.der, *cross), Reason)


# Issuers that are known from before


def completed(trusted: Trust, known: Sequence[Authority], *certificates: bytes) -> list[str] | Reason:
    """As `verdict`, with help."""
    found = trusted.verify(presented(*certificates), pki.now(), [Certificate.load(each.der) for each in known])
    return found.reason if isinstance(found, Refusal) else [str(each) for each in found]


def test_known_issuers_complete_a_chain_at_any_place() -> None:
    a = ROOT.intermediate("A")
    b = a.intermediate("B")
    leaf = b.leaf()
    whole = ["CN=sensor-1", "CN=B", "CN=A", "CN=Root"]
    for others, known in (((), [a, b]), ((b.der,), [a]), ((a.der,), [FACTORY, b]), ((OTHER.der,), [OTHER, b, a])):
        assert completed(trust(ROOT), known, leaf.der, *others) == whole
    assert completed(trust(ROOT), [a, FACTORY], leaf.der) is Reason.MISSING_INTERMEDIATE
    assert completed(trust(OTHER), [a, b], leaf.der) is Reason.MISSING_INTERMEDIATE


def test_what_known_issuers_complete_is_verified_like_the_rest() -> None:
    expired, impostor = ROOT.intermediate("Line", not_after=days(-0.5)), OTHER.intermediate("Factory")

    assert completed(trust(ROOT), [expired], expired.leaf().der) is Reason.CERTIFICATE_EXPIRED
    assert completed(trust(ROOT, crls={ROOT: ROOT.crl(FACTORY)}), [FACTORY], DEVICE.der) is Reason.CERTIFICATE_REVOKED
    assert completed(trust(ROOT, OTHER), [impostor], DEVICE.der) is Reason.MISSING_INTERMEDIATE
    assert completed(trust(ROOT), [FACTORY], FACTORY.leaf(not_after=days(-0.1)).der) is Reason.CERTIFICATE_EXPIRED


def test_of_known_issuers_that_were_renewed_any_that_is_good_will_do() -> None:
    line = ROOT.intermediate("Line", not_before=days(-9), not_after=days(-0.5))
    renewals = [ROOT.intermediate("Line", key=line.key, not_before=days(-n)) for n in range(1, 6)]
    revoking = trust(ROOT, crls={ROOT: ROOT.crl(renewals[0])})

    assert completed(revoking, [line, *renewals], line.leaf().der) == ["CN=sensor-1", "CN=Line", "CN=Root"]
    assert completed(revoking, [line, renewals[0]], line.leaf().der) is Reason.CERTIFICATE_REVOKED


def test_known_issuers_in_a_loop_end_soon() -> None:
    a, b = Authority.root("A"), Authority.root("B")
    loop = [a.intermediate("B", key=b.key), b.intermediate("A", key=a.key)]

    assert completed(trust(ROOT), loop, loop[0].leaf().der) is Reason.MISSING_INTERMEDIATE


# Revocation


def test_who_is_revoked_is_refused() -> None:
    revoking = trust(ROOT, crls={ROOT: ROOT.crl(FACTORY)})
    assert revoking.revokes
    assert verdict(revoking, *DEVICE.chain) is Reason.CERTIFICATE_REVOKED
    assert verdict(revoking, *ROOT.intermediate("Other Factory").leaf().chain) == [
        "CN=sensor-1",
        "CN=Other Factory",
        "CN=Root",
    ]
    by_factory = trust(FACTORY, crls={FACTORY: FACTORY.crl(DEVICE)})
    assert verdict(by_factory, *DEVICE.chain) is Reason.CERTIFICATE_REVOKED
    assert isinstance(verdict(by_factory, *FACTORY.leaf().chain), list)
    assert not trust(ROOT).revokes


def test_a_serial_number_is_its_issuers() -> None:
    namesake = ROOT.leaf(serial=DEVICE.certificate.serial_number)

    assert isinstance(verdict(trust(ROOT, FACTORY, crls={FACTORY: FACTORY.crl(DEVICE)}), namesake.der), list)


def test_a_ca_of_the_profile_is_revoked_by_another_of_it() -> None:
    revoking = trust(ROOT, FACTORY, crls={ROOT: ROOT.crl(FACTORY)})

    assert verdict(revoking, DEVICE.der) is Reason.CERTIFICATE_REVOKED
    assert verdict(revoking, *DEVICE.full_chain) is Reason.CERTIFICATE_REVOKED


def test_what_a_renewed_ca_revokes_stays_so() -> None:
    """Its key is what signs, whichever certificate of it a device presents."""
    renewed = pki.renewed(FACTORY)
    revoking = trust(ROOT, renewed, crls={renewed: renewed.crl(DEVICE)})

    assert verdict(revoking, *DEVICE.chain) is Reason.CERTIFICATE_REVOKED


def test_a_stale_list_refuses_those_it_is_about() -> None:
    stale = trust(
        ROOT,
        FACTORY,
        OTHER,
        crls={FACTORY: FACTORY.crl(this_update=days(-9), next_update=days(-1)), OTHER: OTHER.crl()},
    )

    assert verdict(stale, *DEVICE.chain) is Reason.CRL_STALE
    assert isinstance(verdict(stale, *OTHER.leaf().chain), list)
    assert isinstance(verdict(stale, *ROOT.leaf().chain), list)


def test_who_is_on_a_stale_list_is_revoked() -> None:
    stale = trust(ROOT, crls={ROOT: ROOT.crl(FACTORY, this_update=days(-9), next_update=days(-1))})

    assert verdict(stale, *DEVICE.chain) is Reason.CERTIFICATE_REVOKED


# What cannot be read, or is too much


def test_chains_are_bounded() -> None:
    fifty = [DEVICE.der] + [Authority.root(f"CA {n}").der for n in range(9)] + [ROOT.der] * 40
    assert refused(*fifty) is Reason.CHAIN_TOO_LONG
    assert isinstance(chain.read(fifty[:10]), Chain)
    assert refused() is Reason.CERTIFICATE_MALFORMED
    assert refused(FACTORY.leaf("x" * 65536).der, *FACTORY.chain) is Reason.CERTIFICATE_TOO_LARGE
    assert refused(DEVICE.der, b"x" * (MAX_SIZE + 1)) is Reason.CERTIFICATE_TOO_LARGE


def test_what_fits_is_good_for_credentials() -> None:
    building.certificate(base64.b64encode(b"x" * MAX_SIZE).decode())
    with pytest.raises(building.InvalidCredentials):
        building.certificate(base64.b64encode(b"x" * (MAX_SIZE + 1)).decode())


def refused(*certificates: bytes) -> Reason:
    found = chain.read(certificates)
    assert isinstance(found, Refusal)
    return found.reason


GARBAGE = [
    *(b"", b"\x30", b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"garbage"),
    *(DEVICE.pem.encode(), DEVICE.der[:-1], DEVICE.der + b"\0"),
]


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x30",
        b"\x30\x80",
        b"garbage",
        DEVICE.pem.encode(),
        DEVICE.der[:-1],
        DEVICE.der + b"\0",
        b"\x30\x84\xff\xff\xff\xff",
    ],
    ids=range(8),
)
def test_garbage_is_refused(garbage: bytes, position: int) -> None:
    certificates = [DEVICE.der, FACTORY.der]
    certificates[position] = garbage

    assert refused(*certificates) is Reason.CERTIFICATE_MALFORMED
    assert Leaf.read(garbage).speaks_against(NOW) is Reason.CERTIFICATE_MALFORMED


NAMED = CONSTRAINED.leaf(san=[x509.DNSName("example.com"), x509.RFC822Name("a@example.com")])
CORPUS = [DEVICE.der, FACTORY.der, ROOT.der, RSA_ROOT.leaf().der, NAMED.der]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    der = bytearray(draw(st.sampled_from(CORPUS)))
    for _ in range(draw(st.integers(0, 4))):
        der[draw(st.integers(0, len(der) - 1))] = draw(st.integers(0, 255))
    return bytes(der)


@given(st.lists(mutated() | st.binary(max_size=200), max_size=12), st.sampled_from(NameSource))
def test_nothing_raises(certificates: list[bytes], source: NameSource) -> None:
    found = chain.read(certificates)
    if isinstance(found, Chain):
        verified = TRUST.verify(found, NOW)
        named = chain.device_name(found, ChainRules(source))
        assert isinstance(verified, tuple | Refusal)
        assert isinstance(named, str | Refusal)
        assert Leaf.read(certificates[0]).speaks_against(NOW) in {None, *Reason}
        if isinstance(verified, tuple):
            assert certificates[0] in CORPUS  # nothing else is signed


@given(st.binary(max_size=500))
def test_bytes_are_no_certificate(garbage: bytes) -> None:
    assert refused(garbage) is Reason.CERTIFICATE_MALFORMED


def test_an_odd_certificate_warns_nobody() -> None:
    odd = OTHER.leaf("x" * 9000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = presented(odd.der)
        trust(ROOT).verify(found, NOW)
        assert chain.device_name(found, ChainRules()) == Refusal(Reason.NAME_TOO_LONG, "in the certificate")


# A certificate that a device is known by


@pytest.mark.parametrize(
    ("issued", "reason"),
    [
        (DEVICE, None),
        (pki.self_signed(), None),
        (pki.self_signed(key="ed25519"), None),
        (pki.self_signed(not_after=days(-1), not_before=days(-2)), Reason.CERTIFICATE_EXPIRED),
        (pki.self_signed(not_before=days(1)), Reason.CERTIFICATE_NOT_YET_VALID),
        (pki.self_signed(key="rsa1024"), Reason.WEAK_KEY),
        (FACTORY.leaf(weak_key=True), Reason.WEAK_KEY),
        (FACTORY.leaf("x" * 65536), Reason.CERTIFICATE_TOO_LARGE),
    ],
    ids=range(8),
)
def test_a_known_certificate_is_checked_again(issued: Issued, reason: Reason | None) -> None:
    assert Leaf.read(issued.der).speaks_against(NOW) is reason


# Names


def named(issued: Issued, pattern: str = "(.*)", source: NameSource = NameSource.CN) -> str | Reason:
    found = chain.device_name(presented(issued.der), ChainRules(source, pattern))
    return found.reason if isinstance(found, Refusal) else found


@pytest.mark.parametrize("case", NAMES)
def test_an_odd_name_is_refused_with_its_reason(case: str) -> None:
    assert named(NAMES[case].make().device) is NAMES[case].reason


@pytest.mark.parametrize(
    ("cn", "pattern", "expected"),
    [
        ("sensor-1", "(.*)", "sensor-1"),
        ("sensor-1", ".*", "sensor-1"),
        ("sensor-1.example.com", r"^([^.]+)\.example\.com$", "sensor-1"),
        ("sensor-1.example.com", r"\.(\w+)\.(\w+)", "example"),  # anywhere, and the first group
        ("sensor-1.example.com", r"\w+\.\w+$", "example.com"),  # no group: all that matches
        ("SN 0042", r"(?:SN|S/N) (\d+)", "0042"),
        ("Sensor-1", "(?i)sensor-(1)", "1"),
        ("  sensor-1 ", "(.*)", "sensor-1"),
        ("Kühlhaus № 7", r"(\pL+) № \d", "Kühlhaus"),
        ("sensor-1", "(gateway.*)", Reason.NAME_MISMATCH),
        ("sensor-1", "sensor|(gateway)", Reason.NAME_MISMATCH),  # a group that took no part
        ("sensor-1", "()", Reason.NAME_BLANK),
        (" ", "(.*)", Reason.NAME_BLANK),
        ("", "(.*)", Reason.NAME_BLANK),
        (None, "(.*)", Reason.CERTIFICATE_NAMELESS),
        ("a\0b", "(.*)", Reason.NAME_MALFORMED),
        ("sensor-1\0.example.com", "^(sensor-1)", Reason.NAME_MALFORMED),  # not what is before the NUL
        ("a\nb", "(a)", Reason.NAME_MALFORMED),
        ("<script>", "(.*)", Reason.NAME_MALFORMED),
        ("{{x}}", "(.*)", Reason.NAME_MALFORMED),
        ("x" * 256, "(.*)", Reason.NAME_TOO_LONG),
        ("x" * 256, "^(.{255})", "x" * 255),
        ("x" * 1025, "^(.{255})", Reason.NAME_TOO_LONG),
    ],
)
def test_a_name_is_what_the_pattern_finds(cn: str | None, pattern: str, expected: str | Reason) -> None:
    assert named(OTHER.leaf(cn), pattern) == expected


def test_of_several_common_names_the_first_counts() -> None:
    """ThingsBoard's choice."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text) for text in ("first", "second")])
    odd = Authority(OTHER.certificate, OTHER.key)
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=OTHER.certificate.subject)
    builder = builder.public_key(odd.key.public_key()).serial_number(7)
    builder = builder.not_valid_before(NOW).not_valid_after(days(1))
    certificate = builder.sign(odd.key, pki._digest(odd.key))

    assert named(Issued(certificate, odd.key)) == "first"


def test_a_name_comes_from_an_alternative_name() -> None:
    leaf = OTHER.leaf(
        "not this",
        san=[
            x509.DNSName("gateway.example.com"),
            x509.DNSName("sensor-1.example.com"),
            x509.UniformResourceIdentifier("urn:dev:ops:32473-sensor-2"),
            x509.RFC822Name("sensor-3@example.com"),
        ],
    )

    assert named(leaf, r"^(sensor-\d)", NameSource.SAN_DNS) == "sensor-1"  # the first that matches
    assert named(leaf, r"(sensor-\d)$", NameSource.SAN_URI) == "sensor-2"
    assert named(leaf, r"^(.*)@", NameSource.SAN_EMAIL) == "sensor-3"
    assert named(leaf, "^(not)", NameSource.SAN_DNS) is Reason.NAME_MISMATCH
    for source in (NameSource.SAN_DNS, NameSource.SAN_URI, NameSource.SAN_EMAIL):
        assert named(OTHER.leaf("sensor-1"), "(.*)", source) is Reason.CERTIFICATE_NAMELESS


@pytest.mark.parametrize(
    "pattern", ["(", "a)", "[", "*", r"(a)\1", "(?=a)", "(?<!a)b", "a++", "\udcff", "a" * 1025, "((a{100}){100}){100}"]
)
def test_what_is_no_re2_expression_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidPattern) as raised:
        chain.compile_pattern(pattern)
    assert str(raised.value).isascii()


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(x+x+)+y|(a*)*b", "(.*)*(.*)*(.*)*c"])
def test_no_pattern_takes_more_than_linear_time(pattern: str) -> None:
    """Python's `re` would be at some of these until the end of days."""
    text = "a" * 1023 + "!"
    assert chain.compile_pattern(pattern)(text) is None


@given(st.text(max_size=80), st.sampled_from(["(.*)", r"^([\w-]+)$", "(?s)(.+)", "^(...)", r"(\d+)"]))
def test_a_name_is_what_re_would_find(cn: str, pattern: str) -> None:
    """Where both understand a pattern, RE2 finds what Python's `re` does; a name is never more than was there."""
    try:
        issued = OTHER.leaf(cn)
    except (ValueError, UnicodeEncodeError):
        return
    found = named(issued, pattern)
    if isinstance(found, str):
        match = re.search(pattern, cn, re.ASCII)
        assert match is not None
        assert found == match.group(1).strip("".join(map(chr, range(33))))
        assert 1 <= len(found) <= 255
        assert "\0" not in found


# Its speed


def test_a_chain_of_three_is_verified_soon() -> None:
    """No limit here, a figure to read with `-rP`."""
    trusted = trust(ROOT)
    runs = 50

    def verify() -> None:
        assert isinstance(trusted.verify(presented(*DEVICE.full_chain), NOW), tuple)

    print(f"three certificates: {timeit.timeit(verify, number=runs) / runs * 1e6:.0f} µs")  # noqa: T201


def test_a_renewed_ca_is_the_same() -> None:
    renewed = pki.renewed(FACTORY)
    identities = [Certificate.load(each.der).identity for each in (FACTORY, renewed, ROOT, Authority.root())]
    assert identities[0] == identities[1]
    assert len(set(identities)) == 3
    assert UUID(bytes=identities[0][:16])
