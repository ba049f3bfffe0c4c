"""Running a program without root's rights. That Postgres runs so is test_embedded's."""

import os
import subprocess
from pathlib import Path

import pytest

from provserver.store.unprivileged import Identity, passable, place_for_others, reachable, unprivileged_user

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to shed")


def test_as_ourselves_a_command_runs_in_its_directory(tmp_path: Path) -> None:
    identity = Identity("self", os.geteuid(), os.getegid())
    assert subprocess.check_output(identity.command(tmp_path, "/bin/pwd"), text=True).strip() == str(tmp_path)


@as_root
@pytest.mark.parametrize("mode", ["userns", "setuid"])
def test_root_is_somebody_else(tmp_path: Path, mode: str) -> None:
    user = unprivileged_user()
    tmp_path.chmod(0o755)
    identity = Identity("userns" if mode == "userns" else "setuid", user.pw_uid, user.pw_gid)
    assert subprocess.check_output(identity.command(Path("/"), "/usr/bin/id", "-u"), text=True) == f"{user.pw_uid}\n"


@as_root
def test_in_the_namespace_root_reaches_its_own_files_and_has_no_capability(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "own").write_text("reached")
    (tmp_path / "others").write_text("")
    os.chown(tmp_path / "others", 12345, 12345)
    (tmp_path / "others").chmod(0o600)
    user = unprivileged_user()
    identity = Identity("userns", user.pw_uid, user.pw_gid)
    assert subprocess.check_output(identity.command(tmp_path, "/bin/cat", "own"), text=True) == "reached"
    refused = subprocess.run(identity.command(tmp_path, "/bin/cat", "others"), capture_output=True, check=False)
    assert b"Permission denied" in refused.stderr


def test_a_command_that_cannot_be_run_says_why(tmp_path: Path) -> None:
    identity = Identity("self", os.geteuid(), os.getegid())
    done = subprocess.run(identity.command(tmp_path, str(tmp_path / "none")), capture_output=True, check=False)
    assert done.returncode == 1
    assert b"No such file or directory" in done.stderr


def test_reach(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert passable(closed, os.geteuid())
    assert not passable(closed, 12345)
    (closed / "inner").mkdir(mode=0o755)
    assert passable(closed / "inner", 12345)
    assert not reachable(closed / "inner", 12345)


def test_each_directory_has_a_place_of_its_own(tmp_path: Path) -> None:
    assert place_for_others(tmp_path / "a") == place_for_others(tmp_path / "a") != place_for_others(tmp_path / "b")
