"""A TCP proxy before Postgres that can be cut, silent, and restored."""

from urllib.parse import parse_qs, urlsplit

from firmware_sim.proxy import StreamProxy


class PostgresProxy(StreamProxy):
    """Forwards to the unix socket of a DSN."""

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        super().__init__(f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432")
        self._database = parts.path.lstrip("/")

    @property
    def dsn(self) -> str:
        """Where the proxy stands in for Postgres."""
        return f"postgresql://provserver@{self.address}/{self._database}"
