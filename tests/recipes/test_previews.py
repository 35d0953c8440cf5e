"""Previews of a training: all questions in one batch, with few new ids."""

from types import SimpleNamespace

from PIL import Image

from openjanus.inference.engine import Engine
from openjanus.inference.scheduler import Scheduler
from openjanus.recipes import evaluators
from openjanus.recipes.evaluators import ANSWER_TOKENS, NUM_PREVIEWS, JanusPreview
from tests import tiny


def test_a_preview_asks_all_its_questions_in_one_batch(tmp_path, monkeypatch) -> None:
    """The tiny model never ends an answer by itself: one at a time with room for 512 ids would take hours."""
    seen: list[int] = []
    decode = Scheduler._decode

    def count(scheduler: Scheduler) -> None:
        seen.append(len(scheduler.running))
        decode(scheduler)

    monkeypatch.setattr(Scheduler, "_decode", count)
    monkeypatch.setattr(
        Engine, "generate", lambda engine, prompts, *_, **__: [Image.new("RGB", (64, 64))] * len(prompts)
    )
    monkeypatch.setattr(evaluators, "judge", lambda scene, image: SimpleNamespace(accepted=True))
    figures = JanusPreview(tiny.checkpoint())(tiny.janus(), 7, tmp_path)
    assert figures == {"preview_accepted": 1.0, "preview_answers": 0.0}
    assert max(seen) == NUM_PREVIEWS and len(seen) < 3 * ANSWER_TOKENS
    assert (tmp_path / "000007.png").is_file()
