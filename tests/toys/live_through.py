"""What the test of the tables runs with a copy of the package: each toy trains, is saved, loaded, draws and answers.

Arguments: a folder to work in.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

import openjanus
from openjanus import config as configs
from openjanus.inference.engine import Engine
from openjanus.inference.sampling import SamplingOptions, guide
from openjanus.model.janus import JanusConfig
from openjanus.processing.message import Message
from openjanus.runtime import Runtime
from openjanus.sequence import GenerateSpan, Kind, TextSpan, collate
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run, restore, train
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint
from tests import tiny

PLAIN = configs.to_dict(tiny.CONFIG)
TOYS = {
    "patch": PLAIN | {"understanding": {"type": "PatchEyeConfig", "patch_px": 8}},
    "colour": PLAIN | {"generation": {"type": "ColourEyeConfig"}},
    "fading": PLAIN | {"generation": PLAIN["generation"] | {"type": "FadingEyeConfig"}},
    "shared fading": PLAIN
    | {"understanding": {"type": "SharedEyeConfig"}, "generation": PLAIN["generation"] | {"type": "FadingEyeConfig"}},
}
CPU = Runtime(torch.device("cpu"), "float32", "test")
PICTURE = Image.new("RGB", (16, 16), "red")


def live_through(config: JanusConfig, folder: Path) -> None:
    checkpoint.save(tiny.checkpoint(config), folder / "start")
    task = JanusTraining(str(folder / "start"), "", row_tokens=160)
    mixture = {"emoji.questions": 1, "emoji.drawings": 2}
    train(Run("toy", task, (Stage("all", 1, 1e-3, mixture),)), folder / "run", CPU)
    trained = restore(folder / "run")
    checkpoint.save(trained, folder / "model")
    for weights in ("float32", "int8"):
        engine = openjanus.load(folder / "model", "cpu", weights)
        assert engine.generate("a cat", seed=1)[0].size == PICTURE.size
        assert isinstance(engine.ask(PICTURE, "what is it?", max_new_tokens=3), str)
    engine = Engine(checkpoint.load(folder / "model"))
    assert engine.model.config == config
    kept, before = engine.model.state_dict(), checkpoint.load(folder / "start").model.state_dict()
    for eye in ("understanding.", "generation."):
        names = [name for name in kept if name.startswith(eye)]
        assert not names or any(not torch.equal(kept[name], before[name]) for name in names)
    draws_and_answers_as_without_a_cache(engine)


@torch.inference_mode()
def draws_and_answers_as_without_a_cache(engine: Engine) -> None:
    greedy = SamplingOptions(temperature=0.0, guidance=3.0, image_guidance=1.5)
    engine.tasks = ("talk", "draw", "edit")
    for prompt in (Message("user", "a cat"), Message("user", [PICTURE, "make it blue"])):
        request = engine.drawing(prompt, greedy)
        assert len(request.documents) == len(prompt.content) + 1
        ids: list[int] = []
        for _ in range(engine.model.config.generation.num_image_ids):
            logits = [
                engine.model.heads[Kind.GENERATE](engine.model(collate([[*given, GenerateSpan(ids)]]))[:, -1])
                for given in request.documents
            ]
            ids.append(int(guide(logits, request.scales).argmax()))
        for window in (0, 4):
            assert engine.generate_ids(prompt, greedy, speculative=window)[0].tolist() == ids
    question = [Message("user", [PICTURE, "what is it?"])]
    request = engine.answer(question, replace(greedy, guidance=1.0), 5)
    said: list[int] = []
    while len(said) < 5 and engine.processor.text.eos_id not in said:
        batch = collate([[*request.documents[0], *([TextSpan(said)] if said else [])]])
        said.append(int(engine._text_logits(engine.model(batch)[:, -1]).argmax()))
    scheduler = engine.scheduler(1, 100)
    scheduler.submit(request)
    scheduler.run()
    assert request.text_ids == said


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number, (name, data) in enumerate(TOYS.items()):
        live_through(configs.from_dict(JanusConfig, data), Path(sys.argv[1]) / str(number))
        print(name, "passed")
