"""What to paste into a shell or into firmware, so that a device provisions itself here and sends its first telemetry.

The texts are in `firmware/`, where `@NAME@` stands for what this module fills in, quoted as the language wants it.
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from ipaddress import ip_address

from provserver.core.model import ProvisionStrategy

SECRET_VARIABLE = "PROVISION_SECRET"  # noqa: S105 - a name
"""The shell's variable that has the secret, where it is not known here."""

FILL_IN = "the provision secret"
"""What firmware has where the secret is not known here."""

_CA = "ca.pem"


@dataclass(frozen=True, slots=True)
class Place:
    """Where devices reach a listener. host: a name or an address, without brackets."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """As a URL has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Subject:
    """What the snippets are for. secret: None where it is not known any more. name: of the device in the shell.

    ca: whether the listeners' certificate is by a CA that devices must be given.
    """

    profile: str
    strategy: ProvisionStrategy
    key: str | None = None
    secret: str | None = field(default=None, repr=False)
    name: str | None = None
    ca: bool = True

    @property
    def slug(self) -> str:
        """The profile's name in signs that mean nothing to any language, file system or server."""
        return re.sub(r"[^A-Za-z0-9]+", "-", self.profile)[:40].strip("-").lower() or "device"


@dataclass(frozen=True, slots=True)
class Snippet:
    """A text to paste. id: of its tab. language: shell, cpp, c or python. note: what must be known before."""

    id: str
    title: str
    language: str
    text: str = field(repr=False)
    note: str = ""


def places(addresses: Mapping[str, tuple[str, int]], host: str) -> dict[str, Place]:
    """Where devices reach the listeners that are on, by name: at `host`, unless one is bound to a single address."""
    return {name: Place(host if _is_any(bound) else bound, port) for name, (bound, port) in addresses.items()}


def snippets(at: Mapping[str, Place], subject: Subject, *, secure: bool = False) -> list[Snippet]:
    """All there are for the listeners that are on. secure: over TLS and DTLS where there is a choice."""
    if subject.strategy is ProvisionStrategy.X509_CERTIFICATE_CHAIN:
        return _with_chain(at, subject)
    http, mqtt, coap = (_chosen(at, *names, secure=secure) for names in _PAIRS)
    if subject.strategy is ProvisionStrategy.DISABLED or subject.key is None:
        return _with_token(http, mqtt, coap, subject)
    made = []
    if http:
        made.append(Snippet("curl", "curl", "shell", _shell("curl.sh", http, subject), _ca_note(http, subject)))
    if mqtt:
        text = _shell("mosquitto.sh", mqtt, subject)
        made.append(Snippet("mosquitto", "mosquitto", "shell", text, _ca_note(mqtt, subject)))
    if coap:
        file = "coaps.sh" if coap[0] == "coaps" else "coap.sh"
        note = "Needs libcoap's client with OpenSSL." if coap[0] == "coaps" else ""
        made.append(Snippet("coap", "coap-client", "shell", _shell(file, coap, subject), note))
    if http:
        made += [
            Snippet("arduino", "Arduino", "cpp", _firmware("arduino.ino", http, subject), _root_note(http, subject)),
            Snippet("esp-idf", "ESP-IDF", "c", _firmware("esp_idf.c", http, subject), _root_note(http, subject)),
            Snippet("micropython", "MicroPython", "python", _python(http, subject), _python_note(http)),
        ]
    return made


def first_lines(at: Mapping[str, Place], subject: Subject) -> list[Snippet]:
    """One line for each transport that provisions a first device, and no more. The subject must have a key."""
    made = []
    for (id_, title), names in zip(_SHELLS, _PAIRS, strict=True):
        if found := _chosen(at, *names, secure=False):
            text = _LINES[id_](found, f"{subject.slug}-{id_}" if subject.name is None else subject.name, subject)
            made.append(Snippet(id_, title, "shell", text))
    return made


_PAIRS = (("http", "https"), ("mqtt", "mqtts"), ("coap", "coaps"))
_SHELLS = (("curl", "curl"), ("mosquitto", "mosquitto"), ("coap", "coap-client"))

Found = tuple[str, Place]
"""A listener by its name, and where it is."""


def _is_any(bound: str) -> bool:
    """Whether a socket that is bound to this hears what is sent to any address of the machine."""
    try:
        return ip_address(bound.partition("%")[0]).is_unspecified
    except ValueError:
        return not bound


def _chosen(at: Mapping[str, Place], plain: str, over_tls: str, *, secure: bool) -> Found | None:
    first, second = (over_tls, plain) if secure else (plain, over_tls)
    return next(((name, at[name]) for name in (first, second) if name in at), None)


def _with_chain(at: Mapping[str, Place], subject: Subject) -> list[Snippet]:
    note = "Whoever shows a certificate of a trusted CA is enrolled; there is neither key nor secret."
    if subject.ca:
        note += f" {_CA} is the CA of this server's certificate: tls/{_CA} in the server's data directory."
    made = []
    for name, id_, title, file in (
        ("https", "curl", "curl", "curl_chain.sh"),
        ("mqtts", "mosquitto", "mosquitto", "mosquitto_chain.sh"),
        ("coaps", "coap", "coap-client", "coaps_chain.sh"),
    ):
        if name in at:
            made.append(Snippet(id_, title, "shell", _shell(file, (name, at[name]), subject), note))
    return made


def _with_token(http: Found | None, mqtt: Found | None, coap: Found | None, subject: Subject) -> list[Snippet]:
    note = "Nothing is provisioned by key and secret here: a device has its token from the factory."
    made = []
    for found, (id_, title), file in zip(
        (http, mqtt, coap), _SHELLS, ("curl_token.sh", "mosquitto_token.sh", "coap_token.sh"), strict=True
    ):
        if found and found[0] != "coaps":  # where a token is a key, and goes with a device's id
            made.append(Snippet(id_, title, "shell", _shell(file, found, subject), note))
    return made


def _shell(file: str, found: Found, subject: Subject) -> str:
    listener, place = found
    id_ = file.partition(".")[0].partition("_")[0]
    name = f"{subject.slug}-{id_}" if subject.name is None else subject.name
    secret = (
        f"${{{SECRET_VARIABLE}:?the secret of this key}}" if subject.secret is None else shlex.quote(subject.secret)
    )
    return _filled(
        file,
        SERVER=shlex.quote(f"{listener}://{place.authority}"),
        HOST=shlex.quote(place.host),
        PORT=str(place.port),
        NAME=shlex.quote(name),
        FILE=f"{subject.slug}-{id_}",
        KEY=shlex.quote(subject.key or ""),
        SECRET=secret,
        TLS=_tls(listener, subject),
        CA=_CA if subject.ca else "/etc/ssl/certs/ca-certificates.crt",
    )


def _tls(listener: str, subject: Subject) -> str:
    """The options by which a client knows whom it talks to."""
    if listener == "mqtts":
        return f" --cafile {_CA}" if subject.ca else " --tls-use-os-certs"
    return f" --cacert {_CA}" if listener == "https" and subject.ca else ""


def _firmware(file: str, found: Found, subject: Subject) -> str:
    listener, place = found
    over_tls = listener == "https"
    root = '\n// The CA of the server\'s certificate, in PEM.\nstatic const char ROOT_CA[] = "…";\n' if over_tls else ""
    return _filled(
        file,
        SERVER=in_c(f"{listener}://{place.authority}"),
        KEY=in_c(subject.key or ""),
        SECRET=in_c(FILL_IN if subject.secret is None else subject.secret),
        PREFIX=in_c(f"{subject.slug}-"),
        ROOT=root,
        ROOT_ARGUMENT=", ROOT_CA" if over_tls else "",
        ROOT_MEMBER=", .cert_pem = ROOT_CA" if over_tls else "",
    )


def _python(found: Found, subject: Subject) -> str:
    listener, place = found
    return _filled(
        "micropython.txt",
        SERVER=in_python(f"{listener}://{place.authority}"),
        KEY=in_python(subject.key or ""),
        SECRET=in_python(FILL_IN if subject.secret is None else subject.secret),
        PREFIX=in_python(f"{subject.slug}-"),
    )


def _ca_note(found: Found, subject: Subject) -> str:
    if found[0] not in ("https", "mqtts") or not subject.ca:
        return ""
    return f"{_CA} is the CA of this server's certificate: tls/{_CA} in the server's data directory."


def _root_note(found: Found, subject: Subject) -> str:
    if found[0] != "https":
        return ""
    which = "the CA of this server's certificate" if subject.ca else "the root CA of this server's certificate"
    return f"Put {which} into ROOT_CA, in PEM."


def _python_note(found: Found) -> str:
    if found[0] != "https":
        return ""
    return "MicroPython's requests does not check whose certificate it is: anybody on the way can read the secret."


def _curl_line(found: Found, name: str, subject: Subject) -> str:
    tls = _tls(found[0], subject)
    return (
        f"curl -sS{tls} {shlex.quote(f'{found[0]}://{found[1].authority}/api/v1/provision')} -d {_body(name, subject)}"
    )


def _mosquitto_line(found: Found, name: str, subject: Subject) -> str:
    host, port = shlex.quote(found[1].host), found[1].port
    topics = "-q 1 -t /provision/request -e /provision/response"
    server = f"-h {host} -p {port}{_tls(found[0], subject)}"
    return f"mosquitto_rr {server} -u provision {topics} -W 10 -m {_body(name, subject)}"


def _coap_line(found: Found, name: str, subject: Subject) -> str:
    """The body by standard input, as `-e` would have what follows a % decoded."""
    url = shlex.quote(f"{found[0]}://{found[1].authority}/api/v1/provision")
    client = "coap-client-notls" if found[0] == "coap" else f"coap-client-openssl {_shared_key(subject)}"
    return f"printf %s {_body(name, subject)} | {client} -B 10 -m post -t json -f - {url}"


_LINES = {"curl": _curl_line, "mosquitto": _mosquitto_line, "coap": _coap_line}


def _shared_key(subject: Subject) -> str:
    secret = f'"${SECRET_VARIABLE}"' if subject.secret is None else shlex.quote(subject.secret)
    return f"-u {shlex.quote(subject.key or '')} -k {secret}"


def _body(name: str, subject: Subject) -> str:
    """A request as a word of the shell; a secret that is not known is left to its variable."""
    request = {
        "deviceName": name,
        "provisionDeviceKey": subject.key or "",
        "provisionDeviceSecret": subject.secret or "",
    }
    text = json.dumps(request, separators=(",", ":"), ensure_ascii=False)
    if subject.secret is not None:
        return shlex.quote(text)
    return f'{shlex.quote(text[:-2])}"${SECRET_VARIABLE}"{shlex.quote(text[-2:])}'


def in_c(text: str) -> str:
    """A literal of C and C++: bytes that are not printable ASCII in octal; no trigraph comes about."""
    return '"' + "".join(map(_byte_in_c, text.encode())) + '"'


def _byte_in_c(byte: int) -> str:
    sign = chr(byte)
    if sign in '"\\?':
        return "\\" + sign
    return sign if " " <= sign <= "~" else f"\\{byte:03o}"


def in_python(text: str) -> str:
    """A literal of Python and MicroPython, in ASCII: JSON's escapes of what is beyond 16 bits are none of Python's."""
    return '"' + "".join(map(_sign_in_python, text)) + '"'


def _sign_in_python(sign: str) -> str:
    if sign in '"\\':
        return "\\" + sign
    if " " <= sign <= "~":
        return sign
    return f"\\u{ord(sign):04x}" if ord(sign) < 0x10000 else f"\\U{ord(sign):08x}"


@lru_cache(maxsize=32)
def _text(file: str) -> str:
    return files("provserver.admin.console").joinpath("firmware", file).read_text("utf-8")


def _filled(file: str, **values: str) -> str:
    """A text with its places filled; what was filled in is not looked at again."""
    return re.sub("@([A-Z_]+)@", lambda found: values[found[1]], _text(file))
