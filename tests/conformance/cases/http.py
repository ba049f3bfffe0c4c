"""HTTP: methods, headers, bodies."""

from collections.abc import Mapping

from tests.conformance.model import (
    FAILURE,
    NOT_FOUND,
    TOO_LARGE,
    Case,
    Devices,
    Granted,
    Http,
    Step,
    Transport,
    invalid,
)
from tests.conformance.requests import Steps, raw, request

JSON = {"Content-Type": "application/json"}


def _http(*steps: Step) -> Mapping[Transport, Steps]:
    return {Transport.HTTP: steps}


def _named(suffix: str, headers: Mapping[str, str], has: Mapping[str, str] | None = None) -> Http:
    return Http(
        payload=request(deviceName=f"«tag»{suffix}"),
        expect=Granted(name=f"«tag»{suffix}"),
        headers=headers,
        has=has or {},
    )


CASES = (
    Case(
        id="http/content-types",
        says="The Content-Type does not matter: JSON, text, none, nonsense.",
        cites="2/content-type",
        steps=_http(
            _named("a", JSON),
            _named("b", {"Content-Type": "text/plain"}),
            _named("c", {}),
            _named("d", {"Content-Type": "image/png"}),
            _named("e", {"Content-Type": "nonsense"}),
            Devices(5),
        ),
    ),
    Case(
        id="http/form",
        says="JSON that is announced as a form, as `curl -d` does.",
        cites="2/form 2/content-type",
        steps=_http(_named("", {"Content-Type": "application/x-www-form-urlencoded"})),
    ),
    Case(
        id="http/real-form",
        says="A real form is no JSON: 400.",
        cites="2/form 2/malformed",
        steps=_http(
            Http(
                payload="provisionDeviceKey=«key»&provisionDeviceSecret=«secret»",
                headers={"Content-Type": "application/x-www-form-urlencoded"},
                status=400,
            ),
            Devices(0),
        ),
    ),
    Case(
        id="http/accept",
        says="Answers are JSON, whatever Accept says.",
        cites="2/json",
        steps=_http(
            _named("a", {"Accept": "text/plain"}, {"Content-Type": "application/json"}),
            _named("b", {"Accept": "application/xml;q=0.9"}, {"Content-Type": "application/json"}),
        ),
    ),
    Case(
        id="http/authorization",
        says="No authentication: what a client sends of it does not matter.",
        cites="2/endpoint",
        steps=_http(_named("", {"Authorization": "Bearer nonsense", "X-Authorization": "x", "Cookie": "a=b"})),
    ),
    Case(
        id="http/cors",
        says="A browser of any origin may ask, and asks first.",
        cites="2/cors",
        steps=_http(
            _named("", {"Origin": "https://example.com"}, {"Access-Control-Allow-Origin": "*"}),
            Http(
                method="OPTIONS",
                headers={"Origin": "https://example.com", "Access-Control-Request-Method": "POST"},
                status=204,
                has={
                    "Access-Control-Allow-Origin": "*",
                    "Access-Control-Allow-Methods": "POST",
                    "Access-Control-Allow-Headers": "*",
                },
            ),
        ),
    ),
    Case(
        id="http/methods",
        says="Other methods: 405, naming POST.",
        cites="2/method 2/json",
        steps=_http(
            *(
                Http(method=method, status=405, headers=JSON, payload=request(), has={"Allow": "OPTIONS,POST"})
                for method in ("PUT", "DELETE", "PATCH")
            ),
            *(Http(method=method, status=405, has={"Allow": "OPTIONS,POST"}) for method in ("GET", "HEAD")),
            Devices(0),
        ),
    ),
    Case(
        id="http/empty",
        says="An empty body, or none: 400.",
        cites="2/empty",
        steps=_http(Http(status=400, headers=JSON), Http(status=400, headers={"Content-Length": "0"})),
    ),
    Case(
        id="http/other-paths",
        says="No other path provisions, not even with a slash behind.",
        cites="2/endpoint",
        steps=_http(
            *(
                Http(payload=request(), path=path, status=404, headers=JSON)
                for path in ("/api/v1/provision/", "/api/v1/token/provision", "/provision", "/api/v1/Provision", "/")
            ),
            Devices(0),
        ),
    ),
    Case(
        id="http/query",
        says="A query does not matter.",
        cites="2/endpoint",
        steps=_http(Http(payload=request(), path="/api/v1/provision?a=b", expect=Granted())),
    ),
    Case(
        id="http/statuses",
        says="SUCCESS, FAILURE and NOT_FOUND are 200, an invalid request is 400.",
        cites="2/success 2/failure 2/not-found 2/invalid",
        steps=_http(
            Http(payload=request(), expect=Granted(), status=200),
            Http(payload=request(), expect=FAILURE, status=200),
            Http(payload=request(provisionDeviceSecret="wrong"), expect=NOT_FOUND, status=200),
            Http(payload=request(credentialsType="x"), expect=invalid("credentialsType"), status=400),
            Http(payload="{", status=400),
        ),
    ),
    Case(
        id="http/no-echo",
        says="No answer quotes the request.",
        cites="2/no-echo 4.4/missing 4.4/unparsable",
        steps=_http(
            Http(payload='{"provisionDeviceSecret":"«secret»"}', expect=invalid("provisionDeviceKey")),
            Http(payload=raw("{~"), status=400),
            Http(payload=raw("[{~}]"), status=400),
            Http(payload=request(token={"a": "«secret»"}), expect=invalid("token")),
        ),
    ),
    Case(
        id="http/limit",
        says="65 536 bytes are taken, one more is not.",
        cites="2/too-large",
        steps=_http(
            Http(payload=b"{}" + b" " * 65_534, expect=invalid("provisionDeviceKey")),
            Http(payload=b"{}" + b" " * 65_535, expect=TOO_LARGE),
        ),
    ),
    Case(
        id="http/lenient",
        says="Lenient JSON, line by line.",
        cites="2/lenient 1.3/1-lenient",
        steps=_http(Http(payload=raw("// mine\n{~;\n'deviceName' = «tag»}\n"), expect=Granted())),
    ),
)
