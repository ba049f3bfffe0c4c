"""Certificate chains: from unknown to provisioned in one connection, names, renewal, revocation (spec §6)."""

from collections.abc import Callable

from cryptography import x509

from provserver.core.model import NameSource
from tests import chains
from tests.conformance.channels.cases.short import CERTIFICATE as REFUSED
from tests.conformance.channels.cases.short import Showing, comes, each, refused
from tests.conformance.channels.model import (
    ALL,
    CERTIFICATE,
    Attempted,
    Bystander,
    Case,
    Certified,
    Channel,
    Device,
    Devices,
    Ended,
    Enrolled,
    Kept,
    Login,
    Open,
    Pki,
    Profile,
    Provision,
    Publish,
    Send,
    Step,
    Subscribe,
    Trust,
    Verdict,
)
from tests.pki import Authority, Issued, days

CHAIN = "X509_CERTIFICATE_CHAIN"
BY_CHAIN = Profile(strategy=CHAIN, trusts=("root",))
TELEMETRY = "v1/devices/me/telemetry"
OWN = Login(certificate="device", gnutls=True)
STUBBORN = Login(certificate="device", stubborn=True)
MADE = Kept(credentials=("X509_CERTIFICATE",), state="provisioned")


def _showing(device: Issued, *certificates: bytes) -> Showing:
    return Showing(chains.Shown(device, certificates))


class _Factory:
    """A root, an intermediate and the device of one run."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.root = Authority.root(f"Root {tag}")
        self.line = self.root.intermediate(f"Line {tag}")

    def pki(self, **devices: Certified) -> Pki:
        named = {"device": self.line.leaf(self.tag)} | devices
        return Pki(devices=named, authorities={"root": self.root, "line": self.line})


def _usual(tag: str) -> Pki:
    return _Factory(tag).pki()


def _presented(choose: Callable[[Issued], tuple[bytes, ...]]) -> Callable[[str], Pki]:
    """The device presents other certificates than its chain."""

    def make(tag: str) -> Pki:
        factory = _Factory(tag)
        device = factory.line.leaf(tag)
        return factory.pki(device=_showing(device, *choose(device)))

    return make


def _named(cn: str | None, san: Callable[[str], list[x509.GeneralName]] | None = None) -> Callable[[str], Pki]:
    """The device's certificate has these names, with the tag filled in."""

    def make(tag: str) -> Pki:
        factory = _Factory(tag)
        name = None if cn is None else cn.replace("«tag»", tag)
        return factory.pki(device=factory.line.leaf(name, san=san(tag) if san is not None else ()))

    return make


def _unknown_between(device: Issued) -> tuple[bytes, ...]:
    leaf, line, root = device.full_chain
    return leaf, root, chains.OTHER.der, line, line


def _deep(tag: str) -> Pki:
    """Three CAs between device and root; the profile trusts the middle one."""
    root = Authority.root(f"Root {tag}")
    middle = root.intermediate(f"A {tag}").intermediate(f"B {tag}")
    return Pki(
        devices={"device": middle.intermediate(f"C {tag}").leaf(tag)}, authorities={"root": root, "line": middle}
    )


def _behind(tag: str) -> Pki:
    """A stranger, with the certificate of a device that is known behind its own."""
    factory = _Factory(tag)
    known = factory.line.leaf(tag)
    stranger = chains.OTHER.leaf(f"stranger-{tag}")
    return factory.pki(device=known, stranger=_showing(stranger, stranger.der, known.der))


def _renewal(tag: str) -> Pki:
    factory = _Factory(tag)
    devices = {"old": factory.line.leaf(tag, not_before=days(-9)), "new": factory.line.leaf(tag)}
    return factory.pki(**devices)


def _bare(tag: str) -> Pki:
    """The device has the leaf alone to show."""
    factory = _Factory(tag)
    device = factory.line.leaf(tag)
    return factory.pki(device=device, bare=_showing(device, device.der))


def _revocable(tag: str) -> Pki:
    factory = _Factory(tag)
    bad, good = (factory.line.leaf(f"{name}-{tag}") for name in ("bad", "good"))
    crls = {"none": factory.line.crl(number=1), "bad": factory.line.crl(bad, number=2)}
    return Pki(
        devices={"bad": bad, "good": good, "bare": _showing(bad, bad.der)},
        authorities={"root": factory.root, "line": factory.line},
        crls=crls,
    )


def _cas(tag: str) -> Pki:
    """CAs that no profile is to trust."""
    authorities = {
        "root": Authority.root(f"Root {tag}"),
        "ed25519": Authority.root(key="ed25519"),
        "weak": Authority.root(key="rsa1024"),
        "expired": Authority.root(not_before=days(-9), not_after=days(-1)),
        "leaf": Authority.root(ca=False),
        "elsewhere": chains.ROOT,
    }
    return Pki(devices={"device": authorities["root"].leaf(tag)}, authorities=authorities)


def _seen(count: int) -> tuple[Step, ...]:
    """What one connection has left."""
    return MADE, Kept(telemetry={"t": 1}), Enrolled(count), Devices(count)


_FIRST = (
    Case(
        id="enroll/one-connection",
        says="From unknown to provisioned in one connection: it is let in, and what it sends there is taken.",
        cites="3/chain 5.2/chain 6.2/1-cn 6.2/3-create 6.2/3-events 6.3/one-connection 6.4/coap 6.4/http",
        steps=each((Channel.HTTPS, Channel.X509), Send(payload='{"t":1}', login=OWN), *_seen(1))
        | each((Channel.MQTTS,), Open(login=OWN), Publish(topic=TELEMETRY, payload='{"t":1}'), *_seen(1)),
        profile=BY_CHAIN,
        device=None,
        pki=_usual,
    ),
    Case(
        id="enroll/mosquitto",
        says="The same by mosquitto_pub, in MQTT 5.",
        cites="6.3/one-connection",
        steps=(Send(payload='{"t":1}', login=OWN), MADE, Kept(telemetry={"t": 1}), Enrolled(1)),
        channels=(Channel.MQTTS,),
        profile=BY_CHAIN,
        device=None,
        pki=_usual,
    ),
    Case(
        id="enroll/comes-back",
        says="It comes back as the same device; nothing is made a second time.",
        cites="6.2/a-known",
        steps=(comes(OWN), comes(OWN), comes(OWN), Devices(1), Enrolled(1)),
        channels=CERTIFICATE,
        profile=BY_CHAIN,
        device=None,
        pki=_usual,
    ),
    Case(
        id="enroll/comes-back-bare",
        says="A device that is known needs its own certificate alone.",
        cites="6.2/a-known",
        steps=(comes(OWN), comes(Login(certificate="bare")), Devices(1)),
        channels=CERTIFICATE,
        profile=BY_CHAIN,
        device=None,
        pki=_bare,
    ),
    Case(
        id="enroll/root-presented",
        says="The root may be presented; it changes nothing.",
        cites="6.2/b-root",
        steps=(comes(OWN), MADE),
        channels=CERTIFICATE,
        profile=BY_CHAIN,
        device=None,
        pki=_presented(lambda device: device.full_chain),
    ),
    Case(
        id="enroll/intermediate-trusted",
        says="The profile's CA may be an intermediate, and the root be absent: the leaf alone will do.",
        cites="6.2/b-intermediate 6.1/single",
        steps=(comes(Login(certificate="device")), MADE),
        channels=CERTIFICATE,
        profile=Profile(strategy=CHAIN, trusts=("line",)),
        device=None,
        pki=_presented(lambda device: (device.der,)),
    ),
    Case(
        id="enroll/middle-trusted",
        says="The profile's CA may stand anywhere between device and root.",
        cites="6.2/b-intermediate 6.2/b-profile",
        steps=(comes(OWN), MADE),
        channels=CERTIFICATE,
        profile=Profile(strategy=CHAIN, trusts=("line",)),
        device=None,
        pki=_deep,
    ),
    Case(
        id="enroll/any-order",
        says="Issuers may come in any order, twice, and with certificates that have nothing to do with it.",
        cites="6.1/order",
        steps=(comes(STUBBORN), MADE),
        channels=CERTIFICATE,
        profile=BY_CHAIN,
        device=None,
        pki=_presented(_unknown_between),
    ),
    Case(
        id="enroll/leaf-alone-counts",
        says="A known device's certificate behind a stranger's makes the stranger nobody.",
        cites="6.2/a-leaf-only",
        steps=(comes(OWN), refused(Login(certificate="stranger", stubborn=True), REFUSED), Devices(1)),
        channels=CERTIFICATE,
        profile=BY_CHAIN,
        device=None,
        pki=_behind,
    ),
    Case(
        id="enroll/connect-ignored",
        says="What CONNECT says of user name, password and client id does not matter.",
        cites="6.3/ignored",
        steps=(
            Open(login=Login(certificate="device", client_id="any-«tag»", username="any", password="any")),
            MADE,
        ),
        channels=(Channel.MQTTS,),
        profile=BY_CHAIN,
        device=None,
        pki=_usual,
    ),
    Case(
        id="enroll/no-response",
        says="No `/provision/response` is involved: it cannot even be subscribed to.",
        cites="6.3/no-response",
        steps=(
            Open(login=OWN),
            Subscribe(filter="/provision/response", granted=None),
            Publish(topic=TELEMETRY, payload='{"t":1}'),
        ),
        channels=(Channel.MQTTS,),
        profile=BY_CHAIN,
        device=None,
        pki=_usual,
    ),
    Case(
        id="enroll/provision-session",
        says="With a certificate it may still ask to be provisioned by key and secret: another profile's matter.",
        cites="6.3/provision 1.1/tls",
        steps=(Provision(name="first", login=OWN), Kept(credentials=("ACCESS_TOKEN",)), Attempted(None)),
        channels=CERTIFICATE,
        device=None,
        pki=_usual,
    ),
    Case(
        id="enroll/key-and-secret",
        says="A chain profile opens nothing for key and secret: NOT_FOUND, at once.",
        cites="5.1/5-chain 6.2/not-found",
        steps=(Provision(status="NOT_FOUND"), Devices(0), Attempted("CHAIN_ONLY")),
        channels=tuple(channel for channel in ALL if channel is not Channel.OSCORE),
        profile=BY_CHAIN,
        device=None,
        pki=_usual,
    ),
    Case(
        id="enroll/other-strategy",
        says="A profile that trusts the CA but does not provision by chain: refused, with that reason.",
        cites="6.2/b-other-type",
        steps=(refused(OWN, REFUSED), Attempted("CHAIN_DISABLED"), Devices(0)),
        channels=CERTIFICATE,
        profile=Profile(strategy="DISABLED", trusts=("root",)),
        device=None,
        pki=_usual,
    ),
)


def _name(id_: str, says: str, cites: str, profile: Profile, pki: Callable[[str], Pki], name: str = "«tag»") -> Case:
    """The device is made under this name."""
    return Case(
        id=f"enroll/{id_}",
        says=says,
        cites=cites,
        steps=(comes(OWN), Kept(name=name, credentials=("X509_CERTIFICATE",)), Devices(1)),
        channels=CERTIFICATE,
        profile=profile,
        device=None,
        pki=pki,
    )


def _nameless(id_: str, says: str, cites: str, profile: Profile, pki: Callable[[str], Pki], reason: str) -> Case:
    """The device is refused for its name."""
    return Case(
        id=f"enroll/{id_}",
        says=says,
        cites=cites,
        steps=(refused(OWN, REFUSED), Attempted(reason), Devices(0), Bystander()),
        channels=CERTIFICATE,
        profile=profile,
        device=None,
        pki=pki,
    )


def _by(pattern: str | None = None, name_from: NameSource | None = None) -> Profile:
    return Profile(strategy=CHAIN, trusts=("root",), name_pattern=pattern, name_from=name_from)


_NAMES = (
    _name(
        "name-first-group",
        "The pattern may match anywhere; its first group is the name.",
        "6.2/2-find",
        _by(r"urn:([a-z0-9]+):"),
        _named(cn="device urn:«tag»:v2"),
    ),
    _name(
        "name-whole-match",
        "A pattern without a group: what it matches is the name.",
        "6.2/2-whole",
        _by(r"t[0-9]+x[0-9a-f]{8}"),
        _named(cn="device «tag»."),
    ),
    _name(
        "name-san-dns",
        "From a DNS name.",
        "6.2/1-san",
        _by(r"^([^.]+)\.example\.com$", NameSource.SAN_DNS),
        _named(cn="x", san=lambda tag: [x509.DNSName("other.example.org"), x509.DNSName(f"{tag}.example.com")]),
    ),
    _name(
        "name-san-uri",
        "From a URI.",
        "6.2/1-san",
        _by(r"^urn:device:(.+)$", NameSource.SAN_URI),
        _named(cn="x", san=lambda tag: [x509.UniformResourceIdentifier(f"urn:device:{tag}")]),
    ),
    _name(
        "name-san-email",
        "From an email address.",
        "6.2/1-san",
        _by(r"^([^@]+)@", NameSource.SAN_EMAIL),
        _named(cn=None, san=lambda tag: [x509.RFC822Name(f"{tag}@example.com")]),
    ),
    _nameless(
        "name-mismatch",
        "A pattern that matches nothing.",
        "6.2/2-mismatch chain/no-match",
        _by(r"^gateway-(.*)$"),
        _usual,
        "NAME_MISMATCH",
    ),
    _nameless(
        "name-nameless",
        "No name where the profile looks for one.",
        "6.2/1-nameless",
        _by(name_from=NameSource.SAN_DNS),
        _usual,
        "CERTIFICATE_NAMELESS",
    ),
    _nameless(
        "name-catastrophic",
        "A pattern and a name on which others would search for ever.",
        "6.2/2-linear",
        _by(r"^(([a-z])+.)+[A-Z]([a-z])+$"),
        _named(cn="a" * 64),
        "NAME_MISMATCH",
    ),
    Case(
        id="enroll/name-pattern-wrong",
        says="A pattern that is none, or that cannot be searched for in linear time, is refused when it is saved.",
        cites="6.2/2-wrong",
        steps=(Trust(pattern="(", refused="not valid"), Trust(pattern=r"(a)\1", refused="not valid"), comes(OWN)),
        channels=(Channel.MQTTS,),
        profile=BY_CHAIN,
        device=None,
        pki=_usual,
    ),
)

_KNOWN = (
    Case(
        id="enroll/renewed",
        says="A new certificate for the same name: the old one is good until the new one is used, and not afterwards.",
        cites="6.2/3-rotate 6.2/3-old-dies 6.2/3-superseded access/rotation",
        steps=(
            comes(Login(certificate="old", gnutls=True)),
            comes(Login(certificate="new", gnutls=True)),
            Kept(credentials=("X509_CERTIFICATE", "X509_CERTIFICATE")),
            comes(Login(certificate="old", gnutls=True)),
            comes(Login(certificate="new", gnutls=True)),
            Kept(credentials=("X509_CERTIFICATE",)),
            refused(Login(certificate="old", gnutls=True), REFUSED),
            Attempted("CERTIFICATE_SUPERSEDED"),
            comes(Login(certificate="new", gnutls=True)),
            Devices(1),
        ),
        channels=CERTIFICATE,
        profile=BY_CHAIN,
        device=None,
        pki=_renewal,
    ),
    Case(
        id="enroll/renewed-session",
        says="The session on the new certificate takes over from the one on the old.",
        cites="6.2/3-rotate access/one-session",
        steps=(
            Open(session="old", login=Login(certificate="old")),
            Open(session="new", login=Login(certificate="new")),
            Ended(session="old", expect=Verdict.TAKEN_OVER),
            Publish(session="new", topic=TELEMETRY, payload='{"t":1}'),
        ),
        channels=(Channel.MQTTS,),
        profile=BY_CHAIN,
        device=None,
        pki=_renewal,
    ),
    Case(
        id="enroll/imported-token",
        says="A device with a token that an operator imported keeps it: no certificate takes its place.",
        cites="6.2/3-other-type",
        steps=(
            refused(OWN, REFUSED),
            Attempted("CREDENTIALS_TYPE"),
            Kept(credentials=("ACCESS_TOKEN",)),
            comes(Login(token="«token»")),
        ),
        channels=CERTIFICATE,
        profile=BY_CHAIN,
        device=Device(token="token-«tag»"),
        pki=_usual,
    ),
    Case(
        id="enroll/pre-provisioned",
        says="A device that an operator made, without credentials of its own, gets the certificate; its token is gone.",
        cites="6.2/3-pre-provisioned 5.4/chain",
        steps=(comes(OWN), MADE, refused(Login(token="«token»"))),
        channels=CERTIFICATE,
        profile=Profile(strategy=CHAIN, trusts=("root",), allow_create=False),
        device=Device(generated=True),
        pki=_usual,
    ),
    Case(
        id="enroll/not-pre-provisioned",
        says="Without allow-create an unknown name is refused.",
        cites="6.2/3-no-create",
        steps=(refused(OWN, REFUSED), Attempted("NOT_PRE_PROVISIONED"), Devices(0)),
        channels=CERTIFICATE,
        profile=Profile(strategy=CHAIN, trusts=("root",), allow_create=False),
        device=None,
        pki=_usual,
    ),
    Case(
        id="enroll/ca-removed",
        says="A CA that is trusted no more lets no new device in, and keeps no known one out.",
        cites="6.2/4-removed",
        steps=(comes(OWN), Trust(authorities=()), comes(OWN), Devices(1)),
        channels=CERTIFICATE,
        profile=BY_CHAIN,
        device=None,
        pki=_usual,
    ),
    Case(
        id="enroll/revoked",
        says="Who is on the profile's revocation list is refused, with or without its issuers, though it is known.",
        cites="6.2/4-crl chain/revoked",
        steps=(
            comes(Login(certificate="bad", gnutls=True)),
            Trust(crls=("bad",)),
            refused(Login(certificate="bad", gnutls=True), REFUSED),
            Attempted("CERTIFICATE_REVOKED"),
            refused(Login(certificate="bare"), REFUSED),
            comes(Login(certificate="good", gnutls=True)),
        ),
        channels=CERTIFICATE,
        profile=Profile(strategy=CHAIN, trusts=("root", "line"), crls=("none",)),
        device=None,
        pki=_revocable,
    ),
    Case(
        id="enroll/revoked-first",
        says="Who is revoked before it ever came is not provisioned.",
        cites="6.2/4-crl chain/revoked",
        steps=(
            refused(Login(certificate="bad", gnutls=True), REFUSED),
            Attempted("CERTIFICATE_REVOKED"),
            Devices(0),
            comes(Login(certificate="good", gnutls=True)),
            Devices(1),
        ),
        channels=CERTIFICATE,
        profile=Profile(strategy=CHAIN, trusts=("root", "line"), crls=("bad",)),
        device=None,
        pki=_revocable,
    ),
    Case(
        id="enroll/ca-unsuitable",
        says="A CA that could never vouch for anybody is refused when it is saved, as is one of another profile.",
        cites="6.4/unsupported 6.4/unique",
        steps=(
            Trust(authorities=("ed25519",), refused="a CA's key must be RSA, P-256"),
            Trust(authorities=("weak",), refused="its key is weak"),
            Trust(authorities=("expired",), refused="it has expired"),
            Trust(authorities=("leaf",), refused="it is no CA's"),
            Trust(authorities=("elsewhere",), refused="trusts this CA already"),
            comes(Login(certificate="device")),
        ),
        channels=(Channel.MQTTS,),
        profile=BY_CHAIN,
        device=None,
        pki=_cas,
    ),
)

CASES = (*_FIRST, *_NAMES, *_KNOWN)
