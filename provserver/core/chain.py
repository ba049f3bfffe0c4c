"""Certificate chains that devices present: verified up to a profile's CA, and searched for the device's name.

RFC 5280 §6 by `cryptography`'s verifier, which says yes or no. Beside it, what it leaves open for a device's own
certificate (key, usage, CA bit), revocation lists, and the one reason that the operator is told for a no.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any, Final, NamedTuple, TypeVar

import re2
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from provserver.core.authentication import certificate_id
from provserver.core.credentials import MAX_CERTIFICATE_LENGTH, has_control_characters
from provserver.core.decision import Reason, Refusal, check_name
from provserver.core.model import CertificateAuthority, ChainRules, NameSource

_ALWAYS: Final = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

MAX_CERTIFICATES = 10
"""Certificates that are looked at: the device's, and its issuers in any order, superfluous ones among them."""

MAX_SIZE = MAX_CERTIFICATE_LENGTH // 4 * 3
"""Bytes of a certificate's DER: its base64 must fit into credentials."""

MAX_NAMESAKES = 3
"""Certificates of one subject: each multiplies the ways that are tried."""

MAX_WAYS = 8
"""Ways that are tried to complete a chain with issuers that are known."""

MAX_SOURCE_LENGTH = 1024
"""Characters of a name in a certificate that the pattern is applied to."""

MAX_PATTERN_LENGTH = 1024

_WEAK_HASHES = frozenset({"md5", "sha1", "sha224"})
_CA_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_CHECKED_NAMES = (x509.DNSName, x509.IPAddress, x509.RFC822Name, x509.UniformResourceIdentifier)
_CLIENT_USAGES = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
_SHOWN = 100

Extension = TypeVar("Extension", bound=x509.ExtensionType)


class InvalidPattern(ValueError):  # noqa: N818
    """The text is no RE2 expression; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """A certificate, with the names that link it to others as they are encoded in it."""

    x509: x509.Certificate
    subject: bytes
    issuer: bytes

    @classmethod
    def load(cls, der: bytes) -> "Certificate":
        """Raises ValueError."""
        with quiet():
            certificate = x509.load_der_x509_certificate(der)
            certificate.extensions  # noqa: B018 - read on demand, and here it may raise
            return cls(certificate, certificate.subject.public_bytes(), certificate.issuer.public_bytes())

    @property
    def identity(self) -> bytes:
        """What makes it the same CA when it is renewed: SHA-256 over subject and public key."""
        try:
            spki = self.x509.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        except (ValueError, UnsupportedAlgorithm):  # such a key links nothing: this certificate alone
            spki = self.x509.tbs_certificate_bytes
        return hashlib.sha256(len(self.subject).to_bytes(4) + self.subject + spki).digest()

    @property
    def der(self) -> bytes:
        """As it was presented."""
        return self.x509.public_bytes(Encoding.DER)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of its DER."""
        return self.x509.fingerprint(hashes.SHA256())

    @property
    def self_issued(self) -> bool:
        """Whether it names itself as its issuer, as roots do."""
        return self.subject == self.issuer

    def dated(self, now: datetime) -> Reason | None:
        """What is wrong with its dates."""
        return _dates(self.x509.not_valid_before_utc, self.x509.not_valid_after_utc, now)

    def signed_by(self, issuer: "Certificate") -> bool:
        """Whether the issuer's key made its signature. An algorithm that is not accepted is no signature."""
        try:
            self.x509.verify_directly_issued_by(issuer.x509)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True

    def __str__(self) -> str:
        """Its subject, for the operator."""
        return _shown(self.x509.subject)


@dataclass(frozen=True, slots=True)
class Chain:
    """What a device presented: its own certificate, and others."""

    leaf: Certificate
    others: tuple[Certificate, ...]

    @property
    def issuers(self) -> frozenset[bytes]:
        """What to look CAs up by: the digests of the names of those that issued these certificates."""
        return frozenset(digest(each.issuer) for each in (self.leaf, *self.others))


def digest(name: bytes) -> bytes:
    """SHA-256 of an encoded name."""
    return hashlib.sha256(name).digest()


def read(certificates: Sequence[bytes]) -> Chain | Refusal:
    """The chain of what was presented: DER, the device's own first, the rest in any order."""
    if not certificates:
        return Refusal(Reason.CERTIFICATE_MALFORMED, "none was presented")
    if len(certificates) > MAX_CERTIFICATES:
        return Refusal(Reason.CHAIN_TOO_LONG, f"{len(certificates)}, of at most {MAX_CERTIFICATES}")
    if (size := max(map(len, certificates))) > MAX_SIZE:
        return Refusal(Reason.CERTIFICATE_TOO_LARGE, f"{size} bytes, of at most {MAX_SIZE}")
    try:
        leaf, *others = map(Certificate.load, dict.fromkeys(certificates))
    except Exception as fault:
        return Refusal(Reason.CERTIFICATE_MALFORMED, type(fault).__name__)
    return Chain(leaf, tuple(others))


class Leaf(NamedTuple):
    """A certificate that a device is known by, whoever issued it.

    id: of the credentials that it is. fault: what no time mends.
    """

    id: str
    not_before: datetime
    not_after: datetime
    fault: Reason | None

    @classmethod
    def read(cls, der: bytes) -> "Leaf":
        """Any bytes will do: what is no certificate has its fault."""
        id_ = certificate_id(der)
        chain = read([der])
        if isinstance(chain, Refusal):
            return cls(id_, *_ALWAYS, chain.reason)
        try:
            certificate = chain.leaf.x509
            return cls(id_, certificate.not_valid_before_utc, certificate.not_valid_after_utc, _key(chain.leaf))
        except Exception:
            return cls(id_, *_ALWAYS, Reason.CERTIFICATE_MALFORMED)

    def speaks_against(self, now: datetime) -> Reason | None:
        """What is wrong with its dates or its key."""
        return _dates(self.not_before, self.not_after, now) or self.fault


class _Authority:
    """A CA, and who it has revoked. next_update: None without a revocation list."""

    def __init__(self, stored: CertificateAuthority) -> None:
        self.certificate = Certificate.load(stored.certificate)
        self.revoked: frozenset[int] = frozenset()
        self.next_update: datetime | None = None
        if stored.crl is not None:
            crl = x509.load_der_x509_crl(stored.crl)
            self.revoked = frozenset(entry.serial_number for entry in crl)
            self.next_update = crl.next_update_utc


class Trust:
    """The CAs of a profile, read once: each is the end of a chain, whether it is a root or not."""

    def __init__(self, authorities: Sequence[CertificateAuthority]) -> None:
        """authorities: as `core/authority.py` lets them in. Raises ValueError.

        revokes: whether there is a revocation list, so that every authentication needs the whole chain.
        """
        self._authorities = {(each := _Authority(stored)).certificate.identity: each for stored in authorities}
        self.revokes = any(each.next_update is not None for each in self._authorities.values())
        self._anchors = [each.certificate for each in self._authorities.values()]
        self._names = {anchor.subject for anchor in self._anchors}
        self._issuers = {anchor.identity: issuer for anchor in self._anchors if (issuer := self._issuer(anchor))}
        self._store = verification.Store([anchor.x509 for anchor in self._anchors]) if self._anchors else None

    def verify(
        self, chain: Chain, now: datetime, known: Sequence[Certificate] = ()
    ) -> tuple[Certificate, ...] | Refusal:
        """The path from the device's certificate to a CA of the profile, both included; or why there is none.

        known: intermediates to look among for those that the device did not present.
        """
        try:
            with quiet():
                verdict = self._verify(chain, now)
                if not known or not _incomplete(verdict):
                    return verdict
                for completed in islice(_completed(chain, known), MAX_WAYS):
                    found = self._verify(completed, now)
                    if not isinstance(found, Refusal):
                        return found
                    if _incomplete(verdict):
                        verdict = found  # the newest way's
                return verdict
        except Exception as fault:  # what the library makes of a hostile certificate when it is looked at closely
            return Refusal(Reason.CERTIFICATE_MALFORMED, type(fault).__name__)

    def _verify(self, chain: Chain, now: datetime) -> tuple[Certificate, ...] | Refusal:
        others = self._useful(chain, now)
        if others is None:
            return Refusal(Reason.CHAIN_INVALID, f"more than {MAX_NAMESAKES} certificates of one subject")
        said = ""
        if self._store is not None and _leaf(chain.leaf, now) is None:
            policy = verification.PolicyBuilder().store(self._store).time(now).max_chain_depth(MAX_CERTIFICATES)
            policy = policy.extension_policies(ca_policy=_CA_POLICY, ee_policy=_LEAF_POLICY)
            try:
                path = policy.build_client_verifier().verify(chain.leaf.x509, [each.x509 for each in others]).chain
            except verification.VerificationError as fault:
                said = str(fault)
            else:
                known = {each.x509: each for each in (chain.leaf, *others, *self._anchors)}
                verified = tuple(known[each] for each in path)
                return self._revoked(verified, now) or verified
        return self._diagnose(chain.leaf, others, now, said)

    def _useful(self, chain: Chain, now: datetime) -> list[Certificate] | None:
        """Of each issuer one certificate, the likeliest to lead to a CA: so no two ways fork and meet again.

        None for so many namesakes that trying their keys would be work that an attacker may not give us.
        """
        best: dict[bytes, Certificate] = {}
        subjects = [each.subject for each in chain.others]
        if len(set(subjects)) == len(subjects):
            return list(chain.others)
        if any(subjects.count(subject) > MAX_NAMESAKES for subject in subjects):
            return None
        for each in chain.others:
            held = best.setdefault(each.identity, each)
            if self._rank(each, now) > self._rank(held, now):
                best[each.identity] = each
        return list(best.values())

    def _rank(self, certificate: Certificate, now: datetime) -> tuple[bool, bool]:
        return certificate.dated(now) is None, certificate.issuer in self._names

    def _revoked(self, path: Sequence[Certificate], now: datetime) -> Refusal | None:
        """Ask the revocation list of every issuer on the path, and beyond it while CAs of the profile issued others."""
        if not self.revokes:
            return None
        links = list(pairwise(path))
        anchor = path[-1]
        while (above := self._issuers.get(anchor.identity)) is not None and len(links) < MAX_CERTIFICATES:
            links.append((anchor, above))
            anchor = above
        for certificate, issuer in links:
            authority = self._authorities.get(issuer.identity)
            if authority is None or authority.next_update is None:
                continue
            if certificate.x509.serial_number in authority.revoked:
                return Refusal(Reason.CERTIFICATE_REVOKED, f"{certificate}, by {issuer}")
            if authority.next_update < now:
                return Refusal(Reason.CRL_STALE, f"of {issuer}, nextUpdate {authority.next_update:%Y-%m-%d %H:%M} UTC")
        return None

    def _issuer(self, certificate: Certificate) -> Certificate | None:
        named = (each for each in self._anchors if each.subject == certificate.issuer and each is not certificate)
        return next((each for each in named if certificate.signed_by(each)), None)

    def _diagnose(self, leaf: Certificate, others: Sequence[Certificate], now: datetime, said: str) -> Refusal:
        """Why there is no valid path: first a link that is missing, then what is wrong with the certificates."""
        path = self._linked(leaf, others)
        if isinstance(path, Refusal):
            return path
        if fault := _leaf(leaf, now):
            return Refusal(fault, str(leaf))
        below = 0
        for issuer in path[1:]:
            if fault := _issuing(issuer, below, now):
                return Refusal(fault, str(issuer))
            below += not issuer.self_issued
        if "name constraint" in said or "nameConstraints" in said:
            return Refusal(Reason.NAME_CONSTRAINT, str(leaf))
        if "critical extension" in said:
            return Refusal(Reason.CRITICAL_EXTENSION)
        return Refusal(Reason.CHAIN_INVALID, _printable(said.partition(" (encountered")[0]))

    def _linked(self, leaf: Certificate, others: Sequence[Certificate]) -> list[Certificate] | Refusal:
        """The certificates from the leaf to a CA of the profile by their names and signatures alone."""
        if leaf.x509 in [anchor.x509 for anchor in self._anchors]:
            return Refusal(Reason.LEAF_IS_CA, str(leaf))
        path = [leaf]
        while path[-1] not in self._anchors:
            last = path[-1]
            named = [each for each in (*self._anchors, *others) if each.subject == last.issuer and each not in path]
            if named and _weakly_signed(last):
                return Refusal(Reason.WEAK_SIGNATURE, str(last))
            issuer = next((each for each in named if last.signed_by(each)), None)
            if issuer is not None:
                path.append(issuer)
            elif last.self_issued:
                return Refusal(Reason.SELF_SIGNED if last is leaf else Reason.UNTRUSTED, str(last))
            elif named:
                return Refusal(Reason.SIGNATURE_WRONG, f"of {last}")
            else:
                return Refusal(Reason.MISSING_INTERMEDIATE, f"{last} names {_shown(last.x509.issuer)}")
        return path


def _incomplete(verdict: tuple[Certificate, ...] | Refusal) -> bool:
    return isinstance(verdict, Refusal) and verdict.reason is Reason.MISSING_INTERMEDIATE


def _completed(chain: Chain, known: Sequence[Certificate]) -> Iterator[Chain]:
    """The ways up from the device's certificate through those presented and those known; the newest first.

    Each is one line of issuers, so that what else is known neither counts as namesakes nor makes ways fork.
    """
    candidates = sorted((*chain.others, *known), key=lambda each: each.x509.not_valid_before_utc, reverse=True)

    def ways(path: tuple[Certificate, ...], keys: frozenset[bytes]) -> Iterator[Chain]:
        last, is_end = path[-1], True
        if len(path) < MAX_CERTIFICATES:
            for each in candidates:
                if each.subject == last.issuer and each.identity not in keys and last.signed_by(each):
                    is_end = False
                    yield from ways((*path, each), keys | {each.identity})
        if is_end:
            yield Chain(chain.leaf, path[1:])

    return ways((chain.leaf,), frozenset((chain.leaf.identity,)))


def device_name(chain: Chain, rules: ChainRules) -> str | Refusal:
    """The device's name, as the profile finds it in the certificate: in the first of several that matches."""
    try:
        with quiet():
            sources = _sources(chain.leaf.x509, rules.name_from)
    except Exception as fault:
        return Refusal(Reason.CERTIFICATE_MALFORMED, type(fault).__name__)
    if not sources:
        return Refusal(Reason.CERTIFICATE_NAMELESS, f"looked for: {rules.name_from}")
    pattern = compile_pattern(rules.name_pattern)
    for source in sources:
        if has_control_characters(source):
            return Refusal(Reason.NAME_MALFORMED, "in the certificate")
        if len(source) > MAX_SOURCE_LENGTH:
            return Refusal(Reason.NAME_TOO_LONG, "in the certificate")
        if (found := pattern(source)) is not None:
            return check_name(found) or Refusal(Reason.NAME_BLANK)
    return Refusal(Reason.NAME_MISMATCH, _printable(sources[0]))


@lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> Callable[[str], str | None]:
    """What finds a name in a text, in time linear to it: RE2 knows no backtracking. Raises InvalidPattern."""
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise InvalidPattern(f"it is longer than {MAX_PATTERN_LENGTH} characters")
    if has_control_characters(pattern):
        raise InvalidPattern("it has control characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        expression = re2.compile(pattern, options)
    except re2.error as fault:
        (said,) = fault.args
        raise InvalidPattern(said.decode(errors="replace") if isinstance(said, bytes) else str(said)) from None
    group = min(1, expression.groups)

    def find(text: str) -> str | None:
        match = expression.search(text)
        return None if match is None else match.group(group)

    return find


def _sources(certificate: x509.Certificate, name_from: NameSource) -> list[str]:
    if name_from is NameSource.CN:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return [str(name.value) for name in common[:1]]  # ThingsBoard's choice too (spec thingsboard §6.2)
    names = extension(certificate.extensions, x509.SubjectAlternativeName)
    if names is None:
        return []
    if name_from is NameSource.SAN_DNS:
        return names.get_values_for_type(x509.DNSName)
    if name_from is NameSource.SAN_URI:
        return names.get_values_for_type(x509.UniformResourceIdentifier)
    return names.get_values_for_type(x509.RFC822Name)


def _leaf(leaf: Certificate, now: datetime) -> Reason | None:
    """What is wrong with a device's own certificate."""
    if fault := leaf.dated(now) or _key(leaf):
        return fault
    if _weakly_signed(leaf):
        return Reason.WEAK_SIGNATURE
    extensions = leaf.x509.extensions
    constraints, usage = extension(extensions, x509.BasicConstraints), extension(extensions, x509.KeyUsage)
    if constraints is not None and constraints.ca:
        return Reason.LEAF_IS_CA
    if usage is not None and not usage.digital_signature and not usage.key_agreement:
        return Reason.KEY_USAGE
    return _extended_key_usage(extension(extensions, x509.ExtendedKeyUsage))


def _issuing(issuer: Certificate, below: int, now: datetime) -> Reason | None:
    """What is wrong with a CA's certificate. below: the CAs between it and the device's."""
    if fault := issuer.dated(now) or _key(issuer):
        return fault
    key = issuer.x509.public_key()
    if not isinstance(key, rsa.RSAPublicKey) and not (
        isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CA_CURVES
    ):
        return Reason.KEY_UNSUPPORTED  # by the verifier, as an issuer's
    extensions = issuer.x509.extensions
    constraints = extension(extensions, x509.BasicConstraints)
    if constraints is not None and constraints.path_length is not None and constraints.path_length < below:
        return Reason.PATH_LENGTH
    return (
        _authority(constraints)
        or _signing(extension(extensions, x509.KeyUsage))
        or _extended_key_usage(extension(extensions, x509.ExtendedKeyUsage))
        or _checkable(extension(extensions, x509.NameConstraints))
    )


def check_authority(certificate: Certificate, now: datetime) -> Reason | None:
    """What is wrong with a certificate as a CA that a profile is to trust."""
    return _issuing(certificate, 0, now)


def _dates(not_before: datetime, not_after: datetime, now: datetime) -> Reason | None:
    if not_after < now:
        return Reason.CERTIFICATE_EXPIRED
    if not_before > now:
        return Reason.CERTIFICATE_NOT_YET_VALID
    return None


def _key(certificate: Certificate) -> Reason | None:
    try:
        key = certificate.x509.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return Reason.KEY_UNSUPPORTED
    if isinstance(key, rsa.RSAPublicKey):
        return Reason.WEAK_KEY if key.key_size < 2048 else None
    if isinstance(key, ec.EllipticCurvePublicKey):
        return Reason.WEAK_KEY if key.key_size < 256 else None
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return None
    return Reason.KEY_UNSUPPORTED


def _weakly_signed(certificate: Certificate) -> bool:
    try:
        algorithm = certificate.x509.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return True
    return algorithm is not None and algorithm.name in _WEAK_HASHES  # None: part of the algorithm, as in Ed25519


def _authority(constraints: x509.BasicConstraints | None) -> Reason | None:
    return None if constraints is not None and constraints.ca else Reason.ISSUER_NOT_CA


def _signing(usage: x509.KeyUsage | None) -> Reason | None:
    return Reason.KEY_USAGE if usage is not None and not usage.key_cert_sign else None


def _extended_key_usage(usage: x509.ExtendedKeyUsage | None) -> Reason | None:
    return Reason.EXTENDED_KEY_USAGE if usage is not None and _CLIENT_USAGES.isdisjoint(usage) else None


def _checkable(constraints: x509.NameConstraints | None) -> Reason | None:
    """Directory names, above all, are not checked by the verifier: it must not look as if they were."""
    if constraints is None:
        return None
    subtrees = (*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ()))
    return None if all(isinstance(each, _CHECKED_NAMES) for each in subtrees) else Reason.NAME_CONSTRAINT


def _validator(check: Callable[[Any], Reason | None]) -> Callable[..., None]:
    """The check as the verifier asks for it. Beside it, the verifier does what takes more than one certificate."""

    def validate(_policy: verification.Policy, _certificate: x509.Certificate, extension: object) -> None:
        if fault := check(extension):
            raise ValueError(fault.name)

    return validate


def _policy() -> verification.ExtensionPolicy:
    """What a CA's extensions must say. Looser than the web's: a key usage or key identifier may be absent."""
    either = verification.Criticality.AGNOSTIC
    return (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, either, _validator(_authority))
        .may_be_present(x509.KeyUsage, either, _validator(_signing))
        .may_be_present(x509.ExtendedKeyUsage, either, _validator(_extended_key_usage))
        .may_be_present(x509.NameConstraints, either, _validator(_checkable))
    )


_CA_POLICY = _policy()
_LEAF_POLICY = verification.ExtensionPolicy.permit_all()


def extension(extensions: x509.Extensions, type_: type[Extension]) -> Extension | None:
    """The extension's value; None where it is absent."""
    try:
        return extensions.get_extension_for_class(type_).value
    except x509.ExtensionNotFound:
        return None


def _shown(name: x509.Name) -> str:
    return _printable(name.rfc4514_string()) or "(no name)"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:_SHOWN])


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that the library has for odd certificates: what is odd here is a stranger's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
