"""Enrollment over Secure Transport (RFC 7030): the same provisioning and rotation, as its clients ask for them."""

from dataclasses import dataclass, field

import msgspec

from provserver.core import x509
from provserver.core.authentication import BLYNK_USER, Denial
from provserver.core.credentials import has_control_characters
from provserver.core.decision import Reason, Refusal
from provserver.core.model import Authenticated, CredentialsType, Peer
from provserver.core.signing import MAX_REQUEST_LENGTH, common_name, read_request
from provserver.errors import RENDERINGS, Outcome
from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.provisioning import Provisioning
from provserver.services.rotation import in_words
from provserver.store import issuing
from provserver.store.database import Database


@dataclass(frozen=True, slots=True)
class Basic:
    """User and password of HTTP Basic: a provision key and its secret, or a device's token."""

    user: str = field(repr=False)
    password: str = field(repr=False)

    @property
    def token(self) -> str | None:
        """The token of a device: as the user without a password, or as the password of Blynk's user."""
        if not self.password:
            return self.user
        return self.password if self.user == BLYNK_USER else None


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What became of a request. certificate: the device's in PEM, and those above it. message: for the device.

    authenticated: whether who asked is known. retry_after: seconds, where asking again is right; 0: not said.
    """

    outcome: Outcome
    certificate: str = field(default="", repr=False)
    message: str = ""
    authenticated: bool = True
    retry_after: int = 0


_UNKNOWN = Enrolled(Outcome.NOT_FOUND, message="Who asks is not known!", authenticated=False)
_LIMITED = Enrolled(Outcome.LIMITED, message=RENDERINGS[Outcome.LIMITED].error or "")


class Est:
    """Enrolls and re-enrolls. Raises Unavailable. template_id: of the profile that the path names, if it names one."""

    def __init__(self, database: Database, provisioning: Provisioning, access: Access, data: Data) -> None:
        self._database = database
        self._provisioning = provisioning
        self._access = access
        self._data = data

    async def authorities(self, template_id: str | None) -> tuple[bytes, ...] | None:
        """The CA that issues, and those above it: DER. None where there is none, or more than one to choose from."""
        if template_id is not None and has_control_characters(template_id):
            return None
        async with self._database.connection() as connection:
            found = await issuing.certificates(connection, template_id)
        return found[0] if len(found) == 1 else None

    async def enroll(self, request: str, basic: Basic | None, peer: Peer, template_id: str | None) -> Enrolled:
        """A certificate for who presents a provision key, a device's token, or the certificate of its channel."""
        if basic is None:
            return await self._by_device(await self._access.with_channel(peer), request, peer, template_id)
        if (token := basic.token) is not None:
            return await self._by_device(await self._access.with_token(token, peer), request, peer, template_id)
        return await self._by_key(request, basic, peer, template_id)

    async def reenroll(self, request: str, peer: Peer, template_id: str | None) -> Enrolled:
        """The next certificate for the device whose present one the channel has proved; of the same subject."""
        found = await self._access.with_channel(peer) if peer.certificates else Denial.NOTHING
        return await self._by_device(found, request, peer, template_id, subject=True)

    async def _by_key(self, request: str, basic: Basic, peer: Peer, template_id: str | None) -> Enrolled:
        if template_id is not None:
            if has_control_characters(basic.user + template_id):
                return _UNKNOWN
            async with self._database.connection() as connection:
                if not await issuing.is_of(connection, basic.user, template_id):
                    return _UNKNOWN
        members = {
            "provisionDeviceKey": basic.user,
            "provisionDeviceSecret": basic.password,
            "deviceName": common_name(request) if len(request) <= MAX_REQUEST_LENGTH else "",
            "credentialsType": CredentialsType.X509_CERTIFICATE,
            "csr": request,
        }
        answer = await self._provisioning.answer(msgspec.json.encode(members), peer, accept_protobuf=False)
        reply = msgspec.json.decode(answer.body)
        if answer.outcome is not Outcome.SUCCESS:
            known = answer.outcome is not Outcome.NOT_FOUND
            return Enrolled(
                answer.outcome,
                message=reply.get("errorMsg", ""),
                authenticated=known,
                retry_after=answer.retry_after,
            )
        if reply["credentialsType"] != CredentialsType.X509_CERTIFICATE:  # an operator gave it others
            return Enrolled(Outcome.FAILURE, message=f"{Reason.CREDENTIALS_IMPORTED.text}!")
        return Enrolled(Outcome.SUCCESS, reply["credentialsValue"])

    async def _by_device(
        self,
        found: Authenticated | Denial,
        request: str,
        peer: Peer,
        template_id: str | None,
        *,
        subject: bool = False,
    ) -> Enrolled:
        if found is Denial.LIMITED:
            return _LIMITED
        if isinstance(found, Denial):
            return _UNKNOWN
        if template_id is not None:
            async with self._database.connection() as connection:
                if await issuing.template_of(connection, found.profile_id) != template_id:
                    return _UNKNOWN
        wanted = read_request(request)
        if subject and not isinstance(wanted, Refusal):
            present = x509.common_name(x509.text_of(peer.certificates[0]))
            if wanted.common_name not in ("", present):
                wanted = Refusal(Reason.CSR_SUBJECT)
        granted = await self._data.certify(found, wanted, peer)
        if isinstance(granted, Refusal):
            return Enrolled(granted.outcome, message=in_words(granted))
        return Enrolled(Outcome.SUCCESS, str(granted.credentials.value))
