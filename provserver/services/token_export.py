"""Static tokens as files: CSV, a zip with QR codes, labels to print; made while they are sent."""

import asyncio
import io
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from provserver.core import qr, tokenexport
from provserver.core.archive import Archive
from provserver.core.authorization import Principal
from provserver.core.labels import SHEETS, Label, LabelDocument
from provserver.core.metadata import DEVICE_NAME
from provserver.core.tokenexport import FileNames, OpenedToken
from provserver.errors import Invalid
from provserver.services import memory
from provserver.services.static_tokens import Selection, StaticTokens

Progress: TypeAlias = Callable[[int], None]
"""Is told how many tokens are done."""

Images: TypeAlias = Literal["png", "svg"]

SERIAL, AUTH_TOKEN, METADATA = "serial", "auth-token", "metadata:"
"""How images are named: by number, by AuthToken as Blynk does it, by a metadata field (with its name behind it)."""

MAX_LABELS = 5_000
"""Of one document, which is kept in memory until it is whole."""

_LABELS = 21  # that are drawn before anybody is told of it: a sheet
_ROWS = 500  # that are written at once
_CHUNK = 1 << 16  # bytes
_TURN = 0.002  # seconds of work before others have their turn


class TokenExport:
    """Writes what an export holds, chunk by chunk.

    Each method checks all it was told before its first chunk. Nothing is sent twice or kept: whoever stops reading
    closes the iterator. progress: of the tokens that are written.
    """

    def __init__(self, tokens: StaticTokens) -> None:
        self._tokens = tokens
        self._encoder = qr.Encoder()

    async def csv(
        self, principal: Principal, selection: Selection, progress: Progress | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The tokens as CSV. Raises Forbidden, NotFound, Invalid."""
        fields = await self._tokens.export_fields(principal, selection)
        done = 0

        def count(_: OpenedToken) -> None:
            nonlocal done
            done += 1

        async with aclosing(self._rows(principal, selection, fields, count)) as chunks:
            async for chunk in chunks:
                yield chunk
                if progress:
                    progress(done)

    async def zip_(
        self,
        principal: Principal,
        selection: Selection,
        naming: str | None = None,
        images: Images = "png",
        progress: Progress | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """A zip of tokens.csv and the QR code of each token in it, `qr/<name>.png` or `.svg`.

        naming: None: by a metadata field that is unique, where the profile has one, else by number.
        The tokens are read once: what is kept of each is its image's name and what its QR code says, as bytes.
        Raises Forbidden, NotFound, Invalid.
        """
        if images not in ("png", "svg"):
            raise Invalid("Images are png or svg.")
        fields = await self._tokens.export_fields(principal, selection)
        unique = await self._tokens.unique_fields(principal, selection) if naming is None else []
        name = FileNames(*unique).name if naming is None else _naming(naming, fields)
        archive = Archive(datetime.now(UTC))
        named = io.BytesIO()  # a line each: neither has a line break in it

        def keep(token: OpenedToken) -> None:
            named.write(f"{token.payload} {name(token)}\n".encode())

        pending = bytearray(archive.begin("tokens.csv", mode=0o600))
        async with aclosing(self._rows(principal, selection, fields, keep)) as chunks:
            async for chunk in chunks:
                pending += archive.write(chunk)
                if len(pending) >= _CHUNK:
                    yield bytes(pending)
                    pending.clear()
        pending += archive.end()
        turn = _Turn()
        named.seek(0)
        done = 0
        for done, line in enumerate(named, 1):
            payload, _, file_name = line.decode().rstrip("\n").partition(" ")
            symbol = self._encoder.symbol(payload)
            image = symbol.png() if images == "png" else symbol.svg()
            pending += archive.add(f"qr/{file_name}.{images}", image, deflate=images == "svg")
            if len(pending) >= _CHUNK:
                yield bytes(pending)
                pending.clear()
                if progress:
                    progress(done)
            await turn.over()
        yield bytes(pending)
        yield archive.close()
        if progress:
            progress(done)

    async def labels(
        self,
        principal: Principal,
        selection: Selection,
        sheet: str = "L7160",
        field: str | None = None,
        progress: Progress | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """A PDF of labels with QR code, name, number, and the value of a metadata field; never the AuthToken.

        Raises Forbidden, NotFound, Invalid.
        """
        if sheet not in SHEETS:
            raise Invalid(f"There is no label sheet {sheet!r}. There are {', '.join(SHEETS)}.")
        if field is not None:
            _check_field(field, await self._tokens.export_fields(principal, selection))
        wanted: list[Label] = []
        async with aclosing(self._tokens.stream(principal, selection, labels=True)) as tokens:
            async for token in tokens:
                if len(wanted) == MAX_LABELS:
                    raise Invalid(f"One PDF holds at most {MAX_LABELS} labels. Select fewer static tokens.")
                wanted.append(_label(token, field))
        document = await asyncio.to_thread(LabelDocument, SHEETS[sheet], self._encoder)  # loads fpdf2
        for done in range(0, len(wanted), _LABELS):
            part = wanted[done : done + _LABELS]
            await asyncio.to_thread(document.add_all, part)  # a label takes longer than a turn may
            if progress:
                progress(done + len(part))
        data = await asyncio.to_thread(document.finish)
        del document, wanted
        await asyncio.to_thread(memory.give_back)
        for start in range(0, len(data), _CHUNK):
            yield data[start : start + _CHUNK]

    async def _rows(
        self, principal: Principal, selection: Selection, fields: Sequence[str], each: Callable[[OpenedToken], None]
    ) -> AsyncGenerator[bytes, None]:
        """The CSV; `each` is called with each token that is in it."""
        rows = [tokenexport.header(fields)]
        turn = _Turn()
        async with aclosing(self._tokens.stream(principal, selection)) as tokens:
            async for token in tokens:
                each(token)
                await turn.over()
                rows.append(tokenexport.row(token, fields))
                if len(rows) == _ROWS:
                    yield tokenexport.encode(rows)
                    rows.clear()
        yield tokenexport.encode(rows)


class _Turn:
    """Gives way to whatever else the process does, between pieces of work without an await."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ends = self._loop.time() + _TURN

    async def over(self) -> None:
        """Wait for the others when the turn has lasted long enough."""
        if self._loop.time() >= self._ends:
            await asyncio.sleep(0)
            self._ends = self._loop.time() + _TURN


def _naming(naming: str, fields: Sequence[str]) -> Callable[[OpenedToken], str]:
    """How a token's image is called, without suffix. Raises Invalid."""
    if naming == AUTH_TOKEN:
        return lambda token: token.auth_token
    if naming == SERIAL:
        return FileNames().name
    field = naming.removeprefix(METADATA)
    if field == naming:
        raise Invalid(f"Images are named by {SERIAL!r}, {AUTH_TOKEN!r} or '{METADATA}' and a metadata field.")
    _check_field(field, [*fields, DEVICE_NAME])
    return FileNames(field).name


def _check_field(field: str, fields: Sequence[str]) -> None:
    if field not in fields:
        there = f"There are {', '.join(map(repr, fields))}." if fields else "The profile has none."
        raise Invalid(f"There is no metadata field {field!r}. {there}")


def _label(token: OpenedToken, field: str | None) -> Label:
    lines = [token.name or f"{token.profile_name} {token.number}", f"No. {token.number}"]
    if field is not None and (value := token.metadata.get(field)):
        lines.append(f"{field}: {value}")
    return Label(token.payload, tuple(lines))
