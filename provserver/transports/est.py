"""EST (RFC 7030) over HTTPS, below `/.well-known/est/` and `/.well-known/est/{template id of a profile}/`.

cacerts, csrattrs, simpleenroll and simplereenroll. Keys are made by devices (no serverkeygen); there is no full CMC.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from provserver.errors import RENDERINGS, Outcome, Unavailable
from provserver.services.est import Basic, Enrolled, Est
from provserver.services.limits import retry_after
from provserver.transports.http_server import body, peer

PATH = "/.well-known/est"

# SEQUENCE { ecdsa-with-SHA256, SEQUENCE { id-ecPublicKey, SET { secp256r1 } } } (RFC 7030 §4.5.2)
_ATTRIBUTES = bytes.fromhex("3021 06082a8648ce3d040302 301506072a8648ce3d0201310a06082a8648ce3d030107")

_CERTIFICATES = "application/pkcs7-mime; smime-type=certs-only"
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="provserver", charset="UTF-8"'}
_ABSENT = ("serverkeygen", "fullcmc")

_Handler = Callable[[web.Request], Awaitable[web.Response]]


def routes(est: Est, body_timeout: float) -> list[web.RouteDef]:
    """What to mount. body_timeout: seconds for a request to come."""

    async def authorities(request: web.Request) -> web.Response:
        found = await est.authorities(_template(request))
        if found is None:
            return _refused(404, f"There is no CA, or more than one. Name a profile: {PATH}/TMPL…/cacerts")
        return _certificates(x509.load_der_x509_certificate(each) for each in found)

    async def attributes(_request: web.Request) -> web.Response:
        return _encoded(_ATTRIBUTES, "application/csrattrs")

    async def enroll(request: web.Request) -> web.Response:
        content = await _signing_request(request, body_timeout)
        given = request.headers.get("Authorization")
        basic = None if given is None else _basic(given)
        if given is not None and basic is None:
            return _refused(401, "Only HTTP Basic is understood.", _CHALLENGE)
        return _answer(await est.enroll(content, basic, peer(request), _template(request)))

    async def reenroll(request: web.Request) -> web.Response:
        content = await _signing_request(request, body_timeout)
        enrolled = await est.reenroll(content, peer(request), _template(request))
        if not enrolled.authenticated:  # no password would help
            return _refused(403, "The client's certificate is not accepted, or there is none.")
        return _answer(enrolled)

    made = []
    for prefix in (PATH, PATH + "/{template}"):
        made += [
            web.get(f"{prefix}/cacerts", _over_tls(authorities)),
            web.get(f"{prefix}/csrattrs", _over_tls(attributes)),
            web.post(f"{prefix}/simpleenroll", _over_tls(enroll)),
            web.post(f"{prefix}/simplereenroll", _over_tls(reenroll)),
        ]
        made += [web.post(f"{prefix}/{name}", _absent) for name in _ABSENT]
    return made


def _over_tls(handler: _Handler) -> _Handler:
    async def guarded(request: web.Request) -> web.Response:
        if not request.secure:  # what is sent here are secrets, and what is told is to be believed
            return _refused(403, "EST needs HTTPS.")
        try:
            return await handler(request)
        except Unavailable:
            return _refused(503, RENDERINGS[Outcome.UNAVAILABLE].error or "", {"Retry-After": str(retry_after())})

    return guarded


async def _absent(_request: web.Request) -> web.Response:
    return _refused(501, "This is not offered: devices make their keys themselves, and enroll by simpleenroll.")


async def _signing_request(request: web.Request, limit: float) -> str:
    if request.content_type != "application/pkcs10":
        raise web.HTTPUnsupportedMediaType(reason="The body must be application/pkcs10")
    content = await body(request, limit)
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:  # DER as it is: some clients send it so
        return base64.b64encode(content).decode()


def _template(request: web.Request) -> str | None:
    return request.match_info.get("template")


def _basic(header: str) -> Basic | None:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, separator, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return Basic(user, password) if separator else None


def _answer(enrolled: Enrolled) -> web.Response:
    if enrolled.outcome is Outcome.SUCCESS:
        return _certificates(x509.load_pem_x509_certificates(enrolled.certificate.encode())[:1])
    wait = {"Retry-After": str(enrolled.retry_after or retry_after())}
    if not enrolled.authenticated:
        return _refused(401, enrolled.message, _CHALLENGE)
    if enrolled.outcome is Outcome.PENDING:
        return _refused(202, enrolled.message, wait)  # (§4.2.3)
    status = RENDERINGS[enrolled.outcome].http
    if RENDERINGS[enrolled.outcome].retried:
        return _refused(status, enrolled.message, wait)
    return _refused(max(status, 400), enrolled.message)


def _certificates(found: Iterable[x509.Certificate]) -> web.Response:
    return _encoded(pkcs7.serialize_certificates(list(found), Encoding.DER), _CERTIFICATES)


def _encoded(content: bytes, kind: str) -> web.Response:
    headers = {"Content-Type": kind, "Content-Transfer-Encoding": "base64"}
    return web.Response(body=base64.encodebytes(content), headers=headers)


def _refused(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(text=message, status=status, content_type="text/plain", headers=headers)
