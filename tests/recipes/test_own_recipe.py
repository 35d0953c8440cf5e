"""A recipe in a Python file of the user's."""

import pytest

from openjanus.recipes import configure

GOOD = """
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run
from openjanus.training.stage import Stage


def recipe():
    return Run("mine", JanusTraining("nano"), (Stage("only", 3, 1e-3, {"emoji.texts": 4}),))
"""


def test_a_file_is_a_recipe_like_others(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    run = configure(str(tmp_path / "mine.py"), ["stages.only.num_steps=7"])
    assert run.name == "mine" and run.stages[0].num_steps == 7


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "no such file"),
        ("x = 1", "has no function called recipe; expected one that returns a Run"),
        ("def recipe(): return 3", r"recipe\(\) returns int, expected a Run"),
        ("def recipe(:", "cannot be run .SyntaxError"),
        ("import nothing_like_this", "cannot be run .ModuleNotFoundError"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(code, message, tmp_path) -> None:
    if code is not None:
        (tmp_path / "mine.py").write_text(code)
    with pytest.raises(ValueError, match=message):
        configure(str(tmp_path / "mine.py"), [])
