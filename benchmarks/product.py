"""The product as it is: `provserver serve` in a process of its own, on any free ports."""

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from benchmarks.load import KEY, PROFILE, SECRET
from benchmarks.machine import ROOT, START_LIMIT, Broken, Processes, wait_until


class Product:
    """A server. data_dir: its keys; database_url: empty for its embedded Postgres. workers: processes, if not one."""

    def __init__(
        self,
        processes: Processes,
        data_dir: Path,
        database_url: str = "",
        *,
        workers: int = 1,
        tls: bool = False,
        metrics: bool = False,
        core: int | None = None,
        keys: Path | None = None,
    ) -> None:
        self._processes = processes
        self._data_dir = ("--data-dir", data_dir)
        self._data = (*self._data_dir, *(("--database-url", database_url) if database_url else ()))
        self._workers = ("--workers", workers) if workers > 1 else ()
        names = ("http", "mqtt", "coap") + (("https", "mqtts", "coaps") if tls else ())
        self._listeners = (*names, "admin", *(("metrics",) if metrics else ()))
        self._core = core
        self._ready_file = data_dir.with_name(data_dir.name + ".ready.json")
        self._environment = os.environ | {"PROVSERVER_LOG_FORMAT": "json"}
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled once, not at every start
        if keys is not None:
            self._environment["PROVSERVER_KEYS_FILE"] = str(keys)
        self._log = "serve-" + data_dir.name
        self._process: subprocess.Popen[bytes] | None = None
        self._logged = 0  # bytes that servers before this one wrote
        self.data_dir = data_dir
        self.addresses: dict[str, str] = {}

    def start(self) -> float:
        """Start it; returns the seconds until every listener accepted."""
        self._ready_file.unlink(missing_ok=True)
        log = self._processes.log_file(self._log)
        self._logged = log.stat().st_size if log.exists() else 0
        listeners = [word for name in self._listeners for word in (f"--{name}", "127.0.0.1:0")]
        begun = time.perf_counter()
        self._process = process = self._processes.start(
            *(sys.executable, "-m", "provserver", "serve", *self._data, *self._workers, *listeners),
            *("--ready-file", self._ready_file),
            environment=self._environment,
            core=self._core,
            log=self._log,
        )
        wait_until(
            lambda: self._ready_file.exists() or process.poll() is not None,
            "provserver",
            START_LIMIT,
            pause=0.001,
        )
        if process.poll() is not None:
            raise Broken(f"provserver did not start: {self._processes.log(self._log)}")
        took = time.perf_counter() - begun
        self.addresses = json.loads(self._ready_file.read_text())
        return took

    def stop(self) -> None:
        """End it. Raises Broken if it does not end well, or has logged that something of its own is broken."""
        if self._process is not None:
            process, self._process = self._process, None
            if code := self._processes.end(process):
                raise Broken(f"provserver ended with {code}: {self._processes.log(self._log)}")
            if faults := self.faults():
                raise Broken(f"provserver logged {len(faults):,} errors, the first: {faults[0]}")

    def faults(self) -> list[str]:
        """What it has logged since its start that is an error, or a stack trace."""
        with self._processes.log_file(self._log).open("rb") as file:
            file.seek(self._logged)
            return [line for line in file.read().decode(errors="replace").splitlines() if is_fault(line)]

    @property
    def pid(self) -> int:
        """Of the process that all of its processes come of."""
        assert self._process is not None
        return self._process.pid

    def port(self, name: str) -> int:
        """Of a listener."""
        return int(self.addresses[name].rpartition(":")[2])

    def make_certificates(self) -> None:
        """A CA and a certificate of its own, for TLS."""
        self._run("ca", "init", *self._data_dir)

    def cli(self, *arguments: object, limit: float = 120.0) -> Any:
        """Run a command on its database; the JSON that it prints."""
        return self._run(*arguments, *self._data, limit=limit)

    def _run(self, *arguments: object, limit: float = 120.0) -> Any:
        command = (sys.executable, "-m", "provserver", *arguments, "--json")
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            timeout=limit,
            env=self._environment,
            cwd=ROOT,
            check=False,
        )
        if done.returncode:
            raise Broken(f"provserver {' '.join(map(str, arguments[:2]))}: {done.stderr[-2000:]}{done.stdout[-500:]}")
        return json.loads(done.stdout)

    def make_profile(self) -> None:
        """The profile that all provision requests are for."""
        self.cli("profile", "create", PROFILE, "--key", KEY, "--secret", SECRET)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.stop()


def is_fault(line: str) -> bool:
    """Whether a line of a server's log says that something is broken: an error, or a stack trace."""
    try:
        record = json.loads(line)
    except ValueError:
        return "Traceback" in line
    return isinstance(record, dict) and (record.get("level") in {"error", "critical"} or "exception" in record)


@functools.cache
def has_workers() -> bool:
    """Whether the product runs in several processes."""
    command = (sys.executable, "-m", "provserver", "serve", "--help")
    return "--workers" in subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


NO_WORKERS = "not measured: without --workers"
