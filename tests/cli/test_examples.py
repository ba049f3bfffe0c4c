"""The commands in the docs of operators do what is said there, one after the other."""

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.server import Server

DOCS = Path(__file__).parents[2] / "docs"
OTHERS = "S/N,Remarks\nSN000003,blue\n"


def commands(page: str) -> list[list[str]]:
    """Those of all shell blocks, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.startswith("provserver ")]


@pytest.mark.parametrize("page", ["organizations.md", "static-tokens.md"])
def test_the_examples_run(
    page: str, local: Cli, remote: Cli, administered: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "line-7.key"
    key.write_text(remote.options[-1])
    monkeypatch.setenv("PROVSERVER_API_KEY_FILE", str(key))
    monkeypatch.chdir(tmp_path)
    csv = re.search(r"```csv\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    (tmp_path / "nodes.csv").write_text(csv[1] if csv else "")
    (tmp_path / "others.csv").write_text(OTHERS)

    for _, *words in commands(page):
        if "claim" in words or ("show" in words and "1" in words):
            (first, *_) = local.json("token", "list", "--profile", "Temperature Node", "--limit", "1")
            shown = local.json("token", "show", str(first["number"]), "--open")
            words = [{"1": str(first["number"])}.get(word, word) for word in words]
            words = [shown["qrPayload"] if word.startswith("sqr_") else word for word in words]
        if "--server" in words:
            words = [word.replace("localhost:8081", administered.admin) for word in words]
            done = Cli().run(*words)
        else:
            done = local.run(*words)
        assert done.code == 0, (words, done.err)
