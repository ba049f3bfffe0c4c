"""The file that holds the server's keys, outside the database (DESIGN §4, "Secrets")."""

import base64
import binascii
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from provserver.core.secrets import KEY_LENGTH, ServerKeys
from provserver.errors import Misconfigured
from provserver.store.database import Database


def load_or_create(path: Path) -> ServerKeys:
    """The keys in the file; made at the first start, mode 0600. Raises Misconfigured.

    JSON: {"digest": {"1": base64 of 32 bytes}, "sealing": {"1": …}}.
    """
    try:
        if not path.exists():
            _create(path)
        if path.stat().st_mode & 0o077:
            raise Misconfigured(f"{path} can be read by others than its owner. Run: chmod 600 {path}")
        content = json.loads(path.read_text())
        keys = ServerKeys(_keys(content["digest"]), _keys(content["sealing"]))
    except OSError as fault:
        raise Misconfigured(f"{path} cannot be read: {fault.strerror}.") from None
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error):
        raise Misconfigured(
            f'{path} must be {{"digest": {{"1": KEY}}, "sealing": {{"1": KEY}}}}, '
            f"KEY being the base64 of {KEY_LENGTH} bytes. Restore it from your backup."
        ) from None
    if len(keys.digest_keys) > 1:  # look-ups know one: with a second, every secret would be unknown
        raise Misconfigured(f"{path} has {len(keys.digest_keys)} digest keys; this release works with one only.")
    return keys


async def prove(database: Database, keys: ServerKeys) -> None:
    """Check that the database was written with these keys, or mark a new one. Raises Misconfigured."""
    async with database.transaction() as connection:
        for purpose, versions in (("digest", keys.digest_keys), ("sealing", keys.sealing_keys)):
            for version, key in versions.items():
                proof = ServerKeys({version: key}, {}).digest("server-key", purpose)
                await connection.execute(
                    "INSERT INTO server_key (purpose, version, proof) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                    purpose,
                    version,
                    proof,
                )
                stored = await connection.fetchval(
                    "SELECT proof FROM server_key WHERE purpose = $1 AND version = $2", purpose, version
                )
                if stored != proof:
                    raise Misconfigured(
                        f"The {purpose} key {version} is not the one this database was written with. "
                        "Use the keys file that belongs to it (--data-dir, or option keys_file)."
                    )


def _create(path: Path) -> None:
    content = {purpose: {"1": base64.b64encode(os.urandom(KEY_LENGTH)).decode()} for purpose in ("digest", "sealing")}
    unfinished = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(unfinished, path)  # who comes second takes the first one's keys
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as fault:
        raise Misconfigured(f"{path} cannot be written: {fault.strerror}.") from None


def _keys(versions: Mapping[str, str]) -> dict[int, bytes]:
    keys = {int(version): base64.b64decode(key, validate=True) for version, key in versions.items()}
    if not keys or not all(0 < v < 256 and len(key) == KEY_LENGTH for v, key in keys.items()):
        raise ValueError
    return keys
