"""The nouns of those who operate: organizations, users, API keys; and what their names must look like."""

import re
import unicodedata
from datetime import datetime
from uuid import UUID

from msgspec import Struct

from provserver.core.authorization import Permission, Role
from provserver.errors import Invalid

MAX_DEPTH = 4
"""Organizations from the root down to the lowest, both counted."""

MAX_NAME_LENGTH = 255
MAX_EMAIL_LENGTH = 254

_EMAIL = re.compile(r'[^\s@,;:<>()\[\]\\"]{1,64}@[^\W_](?:[\w-]*[^\W_])?(?:\.[^\W_](?:[\w-]*[^\W_])?)*')


class Organization(Struct, frozen=True):
    """Owner of everything, in a tree. path: its ancestors and itself, the root first.

    number: for people and QR payloads. device_quota, token_quota: of it and all below; None: none.
    sign_up: whoever likes may make a client organization below it.
    """

    id: UUID
    number: int
    parent_id: UUID | None
    name: str
    path: tuple[UUID, ...]
    device_quota: int | None
    token_quota: int | None
    sign_up: bool
    revision: int
    created_at: datetime


class User(Struct, frozen=True):
    """A person, of one organization. email: lower-case, of no other user.

    accepted: has chosen a password. activated_at: first signed in; from then on may own devices.
    """

    id: UUID
    organization_id: UUID
    email: str
    name: str
    role: Role
    accepted: bool
    activated_at: datetime | None
    revision: int
    created_at: datetime


class ApiKey(Struct, frozen=True):
    """What a program signs in with. hint: the secret's first characters. created_by: the actor, as the audit has it."""

    id: UUID
    organization_id: UUID
    name: str
    hint: str
    permissions: tuple[Permission, ...]
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime


def checked_name(text: str, what: str) -> str:
    """A name as it is kept. what: whose it is, for the message. Raises Invalid."""
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise Invalid(f"{what} needs a name.")
    if len(name) > MAX_NAME_LENGTH:
        raise Invalid(f"The name is longer than {MAX_NAME_LENGTH} characters. Choose a shorter one.")
    if not name.isprintable():
        raise Invalid("The name has characters that cannot be shown. Leave out line breaks and the like.")
    return name


def checked_email(text: str) -> str:
    """An e-mail address as it is kept and looked up: two that differ by case are one. Raises Invalid."""
    email = unicodedata.normalize("NFC", text.strip().lower())
    if len(email) > MAX_EMAIL_LENGTH or not email.isprintable() or not _EMAIL.fullmatch(email):
        raise Invalid("This is not an e-mail address. Write it as name@example.com.")
    return email
