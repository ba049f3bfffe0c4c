"""What pages are drawn and run with: files whose URLs have their hash in them, so that browsers may keep them."""

import gzip
import hashlib
import posixpath
import re
from pathlib import Path

from provserver.admin.messages import Request, Response

PATH = "/assets/"

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}

_FOREVER = "public, max-age=31536000, immutable"
_IMPORT = re.compile(rb"""(from\s*|import\s*\(?\s*)(["'])(\.{1,2}/[\w./-]+\.js)\2""")


class Assets:
    """The files of a directory, read once. Their modules import one another by the URLs that they are served at."""

    def __init__(self, directory: Path) -> None:
        self._content: dict[str, tuple[str, bytes, bytes]] = {}
        self._urls: dict[str, str] = {}
        self._files = {
            each.relative_to(directory).as_posix(): each
            for each in sorted(directory.rglob("*"))
            if each.is_file() and each.suffix in TYPES
        }
        for name in self._files:
            self.url(name)

    def url(self, name: str) -> str:
        """Where a file is served. Raises KeyError when there is none."""
        if name not in self._urls:
            path = self._files[name]
            data = path.read_bytes()
            if path.suffix == ".js":
                data = _IMPORT.sub(lambda found: self._resolved(name, found), data)
            stem, _, ending = name.rpartition(".")
            url = f"{PATH}{stem}.{hashlib.sha256(data).hexdigest()[:12]}.{ending}"
            self._content[url] = (TYPES[path.suffix], data, gzip.compress(data, 9, mtime=0))
            self._urls[name] = url
        return self._urls[name]

    def _resolved(self, name: str, found: re.Match[bytes]) -> bytes:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), found[3].decode()))
        if target not in self._files:
            return found[0]
        return found[1] + found[2] + self.url(target).encode() + found[2]

    def serve(self, request: Request) -> Response | None:
        """A file, compressed for who takes that; None when there is none."""
        found = self._content.get(request.path)
        if found is None:
            return None
        kind, data, packed = found
        headers = {"Content-Type": kind, "Cache-Control": _FOREVER, "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", "") and len(packed) < len(data):
            return Response(200, headers | {"Content-Encoding": "gzip"}, packed)
        return Response(200, headers, data)
