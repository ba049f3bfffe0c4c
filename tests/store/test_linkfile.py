import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from provserver.errors import Misconfigured
from provserver.store import linkfile


def test_a_link_is_there_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "setup-link"
    for mask in (0, 0o777):
        before = os.umask(mask)
        try:
            linkfile.write(path, "http://example.com/#token")
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert linkfile.read(path) == "http://example.com/#token"
    assert list(tmp_path.iterdir()) == [path]  # nothing unfinished is left

    linkfile.remove(path)
    linkfile.remove(path)
    assert linkfile.read(path) is None


def test_a_file_that_others_could_read_is_replaced_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "setup-link"
    path.write_text("old")
    path.chmod(0o666)
    with path.open() as held:
        linkfile.write(path, "new")
        assert held.read() == "old"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_lies_in_the_way_is_not_followed(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "setup-link", tmp_path / "elsewhere"
    path.symlink_to(elsewhere)

    linkfile.write(path, "link")

    assert not elsewhere.exists()
    assert not path.is_symlink()


def test_who_reads_meanwhile_reads_a_whole_link(tmp_path: Path) -> None:
    path = tmp_path / "setup-link"
    links = [f"{n}" * 500 for n in range(8)]
    linkfile.write(path, links[0])
    with ThreadPoolExecutor(4) as threads:
        writing = [threads.submit(linkfile.write, path, link) for link in links * 10]
        while not all(each.done() for each in writing):
            assert linkfile.read(path) in links


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such directories")
def test_where_it_cannot_be_written_the_fault_names_the_path(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "setup-link"
    with pytest.raises(Misconfigured, match=str(path)) as fault:
        linkfile.write(path, "http://example.com/#token")
    assert "token" not in str(fault.value)
    (tmp_path / "directory").mkdir()
    with pytest.raises(Misconfigured):
        linkfile.write(tmp_path / "directory", "link")
    with pytest.raises(Misconfigured):
        linkfile.remove(tmp_path / "directory")
    assert [each.name for each in tmp_path.iterdir()] == ["directory"]
