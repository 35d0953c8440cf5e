"""The README's commands run: each `openjanus` line of its bash blocks, trainings cut to their first steps."""

import re
import shlex
from pathlib import Path

from openjanus.cli import main

ROOT = Path(__file__).parents[1]
# What keeps a long command short in a test; everything else runs as printed.
SHORTER = {"train": ["--stop-after", "2"], "tokenize": ["--num", "8"], "evaluate": ["--n", "2"]}


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words[1:] for words in lines if words[:1] == ["openjanus"]]


def test_readme_shows_each_door_and_each_training() -> None:
    assert {words[0] for words in commands()} >= {"generate", "ask", "evaluate", "train", "tokenize"}


def test_readme_commands_run_in_order(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "openjanus").symlink_to(ROOT / "openjanus")
    monkeypatch.chdir(tmp_path)
    for words in commands():
        if words[-1] == "runs/nano.janus/model":
            continue  # exists after a whole training only
        main([*words, *SHORTER.get(words[0], [])])
    out = capsys.readouterr().out
    assert (tmp_path / "drawings" / "two-red-apples-seed1-3.png").is_file()
    assert out.strip()
