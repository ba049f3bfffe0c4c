"""A TCP proxy before Postgres that can be cut, silent, and restored."""

import asyncio
from typing import Self
from urllib.parse import parse_qs, urlsplit


class PostgresProxy:
    """Listens on 127.0.0.1 and forwards to the unix socket of a DSN."""

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        self._target = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._database = parts.path.lstrip("/")
        self._port = 0
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    @property
    def dsn(self) -> str:
        """Where the proxy stands in for Postgres."""
        return f"postgresql://provserver@127.0.0.1:{self._port}/{self._database}"

    async def restore(self) -> None:
        """Accept connections, again if need be, and let bytes pass."""
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._link, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Reset every connection and refuse new ones: Postgres is gone."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task, writers in list(self._links.items()):
            for writer in writers:
                writer.transport.abort()
            task.cancel()
        if self._links:
            await asyncio.wait(list(self._links))

    def freeze(self) -> None:
        """Let no byte pass, and close nothing: Postgres is stuck."""
        self._flowing.clear()

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links[task] = [writer]
        task.add_done_callback(self._links.pop)
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(self._target)
            self._links[task].append(inner_writer)
            async with asyncio.TaskGroup() as pipes:
                pipes.create_task(self._pipe(reader, inner_writer))
                pipes.create_task(self._pipe(inner_reader, writer))
        except (asyncio.CancelledError, OSError, ExceptionGroup):
            pass  # an end that broke off ends the link
        finally:
            for each in self._links[task]:
                each.transport.abort()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionError
