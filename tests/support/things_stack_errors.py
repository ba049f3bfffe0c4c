"""The Things Stack's errors: names, codes and attributes are its own, the sentences are ours."""

import secrets
from collections.abc import Mapping
from typing import Any

from aiohttp import web

INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED = 3, 5, 6, 7
RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = 8, 12, 13, 14, 16

_HTTP = {3: 400, 5: 404, 6: 409, 7: 403, 8: 429, 12: 501, 13: 500, 14: 503, 16: 401}


class Problem(Exception):  # noqa: N818
    """An error with details. attributes: public; headers: of the answer; cause: what led to it, shown too."""

    def __init__(
        self,
        code: int,
        name: str,
        text: str,
        /,
        *,
        headers: Mapping[str, str] | None = None,
        cause: "Problem | None" = None,
        **attributes: Any,
    ) -> None:
        super().__init__(name)
        self.code = code
        self.name = name
        self._text = text
        self._headers = headers
        self._cause = cause
        self._attributes = attributes

    @property
    def details(self) -> dict[str, Any]:
        """ErrorDetails."""
        namespace, _, name = self.name.partition(":")
        details: dict[str, Any] = {
            "namespace": namespace,
            "name": name,
            "message_format": self._text,
            "correlation_id": secrets.token_hex(16),
            "code": self.code,
        }
        if self._attributes:
            details["attributes"] = self._attributes
        if self._cause:
            details["cause"] = self._cause.details
        return details

    def response(self) -> web.Response:
        """The answer."""
        text = self._text
        for key, value in self._attributes.items():
            text = text.replace(f"{{{key}}}", str(value))
        details = {"@type": "type.googleapis.com/ttn.lorawan.v3.ErrorDetails"} | self.details
        body = {"code": self.code, "message": f"error:{self.name} ({text})", "details": [details]}
        return web.json_response(body, status=_HTTP[self.code], headers=self._headers)


def bare(code: int, message: str) -> web.Response:
    """What answers before a component does: no such route, JSON that is none."""
    return web.json_response({"code": code, "message": message, "details": []}, status=_HTTP[code])


def ids_taken(component: str, join_eui: str, dev_eui: str, device_id: str, application_id: str) -> Problem:
    """The EUIs are those of another device."""
    return Problem(
        ALREADY_EXISTS,
        f"{'pkg/identityserver' if component == 'is' else 'pkg/internal/registry'}:end_device_euis_taken",
        "JoinEUI `{join_eui}` and DevEUI `{dev_eui}` belong to `{device_id}` of application `{application_id}`",
        join_eui=join_eui,
        dev_eui=dev_eui,
        device_id=device_id,
        application_id=application_id,
    )


def id_taken() -> Problem:
    """The Identity Server has a device of that id."""
    cause = Problem(ALREADY_EXISTS, "pkg/util/store:already_exists", "there is one already")
    return Problem(
        ALREADY_EXISTS, "pkg/util/store:id_taken", "the ID is another's, choose one that is free", cause=cause
    )


def insufficient(application_id: str, *missing: str) -> Problem:
    """The key has rights on the application, but not these."""
    return Problem(
        PERMISSION_DENIED,
        "pkg/auth/rights:insufficient_application_rights",
        "too few rights on application `{uid}`",
        uid=application_id,
        missing=list(missing),
    )


def no_rights(application_id: str) -> Problem:
    """The key has none on the application, or there is no such application."""
    return Problem(
        PERMISSION_DENIED,
        "pkg/auth/rights:no_application_rights",
        "not a right on application `{uid}`",
        uid=application_id,
    )


def unauthenticated(name: str) -> Problem:
    """The key is none of this server's."""
    return Problem(UNAUTHENTICATED, f"pkg/identityserver:{name}", name.replace("_", " "))


def not_found(component: str, application_id: str, device_id: str) -> Problem:
    """There is no such device in that component."""
    if component == "is":
        return Problem(
            NOT_FOUND,
            "pkg/identityserver/store:end_device_not_found",
            "no end device `{device_id}` in application `{application_id}`",
            device_id=device_id,
            application_id=application_id,
        )
    namespace = {"js": "pkg/joinserver", "ns": "pkg/networkserver", "as": "pkg/applicationserver"}[component]
    if component == "as":
        uid = f"{application_id}.{device_id}"
        return Problem(NOT_FOUND, f"{namespace}:device_not_found", "no device `{device_uid}`", device_uid=uid)
    return Problem(NOT_FOUND, f"{namespace}:device_not_found", "no such device")


def read_only(component: str, field: str) -> Problem:
    """What a device was made with stays as it is."""
    namespace = {"js": "pkg/joinserver", "ns": "pkg/networkserver", "as": "pkg/applicationserver"}[component]
    return Problem(
        INVALID_ARGUMENT, f"{namespace}/redis:read_only_field", "field `{field}` can only be read", field=field
    )


def field_value(component: str, field: str) -> Problem:
    """A component does not take this value."""
    namespace = {"js": "pkg/joinserver", "ns": "pkg/networkserver", "as": "pkg/applicationserver"}[component]
    return Problem(INVALID_ARGUMENT, f"{namespace}:field_value", "field `{field}` cannot have that value", field=field)


def forbidden_paths(paths: list[str]) -> Problem:
    """A field mask holds what this call does not set."""
    return Problem(
        INVALID_ARGUMENT,
        "pkg/rpcmiddleware/validator:field_mask_paths",
        "the field mask holds what it must not",
        forbidden_paths=paths,
    )


def invalid(field: str, reason: str) -> Problem:
    """A value past its limits."""
    return Problem(
        INVALID_ARGUMENT, "pkg/errors:validation", "`{field}`: {reason}", field=field, reason=reason, name="EndDevice"
    )
