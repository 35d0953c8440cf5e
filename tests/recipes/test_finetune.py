"""Fine-tuning as a user does it: short keys, what is told, held-out figures, the adapter, and learning by heart."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import openjanus
from openjanus.cli import main
from openjanus.cli.serve import ServedModel, _beside
from openjanus.data.image_ids import encode
from openjanus.inference.engine import load as load_engine
from openjanus.processing.message import Message
from openjanus.recipes import configure
from openjanus.recipes.own_data import OwnDataPreview
from openjanus.testing import tiny_checkpoint
from openjanus.training.janus import JanusData, JanusTraining
from openjanus.training.run import restore
from openjanus.weights.checkpoint import load
from tests.readers.files import picture, write_jsonl, write_pictures
from tests.serve.conftest import run_server

NUM = 20


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("base") / "tiny", "official")


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captions")
    write_pictures(folder, range(NUM))
    write_jsonl(folder / "metadata.jsonl", [{"file_name": f"{n}.png", "text": f"picture {n}"} for n in range(NUM)])
    return folder


def run_of(*overrides: str):
    run = configure("finetune.lora", overrides)
    assert isinstance(run.task, JanusTraining)
    return run


def test_short_keys(captions, tmp_path) -> None:
    run = run_of("start=nano", f"data={captions}", "data.use=draw", "data.held_out=0", "epochs=3")
    assert run.task.start == "nano" and run.task.data["data"].use == "draw"
    assert run.stages[0].num_steps == 4  # 3 epochs of 20 examples, 16 a step
    both = run_of("start=nano", f"data={captions}", "data.held_out=0", "epochs=3")
    assert both.stages[0].num_steps == 8
    for key, message in [
        ("epochs=0", "epochs is '0', expected more than 0"),
        ("data.uze=draw", "unknown key 'uze'; did you mean 'use'"),
    ]:
        with pytest.raises(ValueError, match=message):
            run_of("start=nano", f"data={captions}", key)
    with pytest.raises(ValueError, match=r"recipe nano\.encoder takes no data of your own"):
        configure("nano.encoder", [f"data={captions}"])


def test_check_tells_what_would_be_trained_and_keeps_nothing(base, captions, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["train", "finetune.lora", f"start={base}", f"data={captions}", "epochs=1", "--check"])
    told = capsys.readouterr()
    assert "language_model (LoRA)" in told.err and "examples to train" in told.err and "epochs" in told.err
    assert "s a step, about" in told.out and "memory:" in told.out
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def tuned(base, captions, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "mine"
    words = [f"start={base}", f"data={captions}", "data.held_out=0.2", "stages.tune.num_steps=4", "task.row_tokens=256"]
    main(["train", "finetune.lora", *words, "schedule.evaluate_steps=2", "--out", str(out)])
    return out


@pytest.mark.parametrize(("recipe", "kind"), [("finetune.lora", "adapter"), ("finetune.full", "model")])
def test_the_best_weights_are_a_result_of_their_own(recipe, kind, base, captions, tmp_path, capsys) -> None:
    """A rate that spoils the model: an early step has the least held-out loss, and the last one another model."""
    words = [f"start={base}", f"data={captions}", "data.held_out=0.3", "task.row_tokens=256", "stages.tune.num_steps=4"]
    words += ["stages.tune.lr=1", "stages.tune.schedule=constant", "stages.tune.warmup_steps=0"]
    main(["train", recipe, *words, "schedule.evaluate_steps=1", "--out", str(tmp_path / "run")])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line and line["step"]}
    assert sorted(losses) == [1, 2, 3, 4] and losses[4] > min(losses.values())
    told = capsys.readouterr()
    best, last = tmp_path / "run" / "best" / kind, tmp_path / "run" / kind
    assert f"the least held-out loss was at step {min(losses, key=losses.get)}: " in told.err
    assert told.out.splitlines()[-3:-1] == [str(last), str(best)] and (best / "README.md").is_file()

    def loss(folder) -> float:
        adapter = folder if kind == "adapter" else None
        kept = load(base if adapter else folder, adapter=adapter)
        task = replace(configure(recipe, words).task, drop_caption=0.0, drop_view=0.0)
        data = JanusData(task, 0, kept.processor, kept.model.generation.tokenizer)
        return OwnDataPreview(kept, data)(kept.model, 0, tmp_path)["held_out_loss"]

    with torch.inference_mode():
        assert loss(best) == pytest.approx(min(losses.values()), rel=1e-4)
        assert loss(last) == pytest.approx(losses[4], rel=1e-4)


def test_a_run_tells_held_out_losses_before_and_after_and_writes_a_report(tuned) -> None:
    lines = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line["mfu"] < 1.5 and 0 < line["padding"] < 1 for line in lines if "loss" in line)
    told = {line["step"]: line for line in lines if "held_out_image_loss" in line}
    assert set(told) == {0, 2, 4}
    for line in told.values():
        assert {"held_out_text_loss", "held_out_image_top1", "neutral_text_loss", "neutral_image_loss"} < set(line)
        assert line["held_out_image_loss"] < 50 and 0 <= line["held_out_image_top1"] <= 1
    assert {path.name for path in (tuned / "previews").iterdir()} == {"000000.png", "000002.png", "000004.png"}
    page = (tuned / "report.html").read_text()
    assert page.count("<img") >= 3 and "Step 4" in page and "finetune.lora" in page and "torch " in page


def test_the_adapter_is_used_by_the_commands(base, tuned, tmp_path, capsys) -> None:
    main(["convert", str(tuned), str(tmp_path / "merged"), "--format", "transformers"])
    main(
        ["convert", str(base), str(tmp_path / "also"), "--adapter", str(tuned / "adapter"), "--format", "transformers"]
    )
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("merged", "also"))
    assert one == two
    for out, model in (("a", [str(base), "--adapter", str(tuned / "adapter")]), ("b", [str(tmp_path / "merged")])):
        main(["generate", "picture 3", "--seed", "5", "--out", str(tmp_path / out), "--model", *model])
    first, second = (sorted((tmp_path / out).glob("*.png")) for out in ("a", "b"))
    assert [path.read_bytes()[-200:] for path in first] == [path.read_bytes()[-200:] for path in second] and first


@pytest.mark.parametrize("recipe", ["finetune.lora", "finetune.full"])
def test_a_tiny_official_model_learns_pictures_and_questions_by_heart(base, recipe, tmp_path) -> None:
    """20 captioned pictures and 20 questions: at temperature 0 and without guidance, ids and answers are equal."""
    write_pictures(tmp_path / "my", range(NUM))
    captioned = [{"image": f"{n}.png", "text": f"picture {n}"} for n in range(NUM)]
    asked = [{"image": f"{n}.png", "question": "which is it?", "answer": f"{n} {n % 7}"} for n in range(NUM)]
    write_jsonl(tmp_path / "my" / "data.jsonl", [*captioned, *asked])
    words = ["data.use=draw", "data.held_out=0", "task.drop_caption=0", "task.row_tokens=256", "task.text_weight=4"]
    words += ['stages.tune.mixture={"data": 40}', "stages.tune.num_steps=160", "stages.tune.lr=0.01"]
    words += ["schedule.evaluate_first=false", "schedule.evaluate_steps=1000"]
    if recipe == "finetune.lora":
        words += ["task.lora.rank=16"]
    out = tmp_path / "run"
    main(["train", recipe, f"start={base}", f"data={tmp_path / 'my'}", *words, "--out", str(out)])
    is_lora = recipe == "finetune.lora"
    engine = load_engine(base if is_lora else out / "model", "cpu", adapter=out / "adapter" if is_lora else None)
    targets = encode(engine.model.generation.tokenizer, [picture(n) for n in range(NUM)])
    drawn = engine.generate_ids([f"picture {n}" for n in range(NUM)], guidance=1, temperature=0).numpy()
    assert np.array_equal(drawn, targets)
    answers = engine.answers([[Message("user", [picture(n), "which is it?"])] for n in range(NUM)], max_new_tokens=8)
    assert answers == [f"{n} {n % 7}" for n in range(NUM)]
    if is_lora:
        served_as_well(base, out / "adapter", engine.decode_images(torch.from_numpy(targets)), answers)


def served_as_well(base, adapter, pictures: list[Image.Image], answers: list[str]) -> None:
    """The same drawings and answers from `openjanus serve --adapter mine=...`."""
    which = ServedModel(device="cpu", model=str(base))
    first = which.engine()
    with run_server(first, beside=_beside(which, [f"mine={adapter}"], first)) as served:
        client = served.client()
        for n in range(0, NUM, 5):
            options = {"guidance_scale": 1.0, "temperature": 0.0}
            drawn = client.images.generate(model="mine", prompt=f"picture {n}", extra_body=options).data[0]
            with Image.open(io.BytesIO(base64.b64decode(drawn.b64_json))) as image:
                assert image.tobytes() == pictures[n].tobytes()
            file = io.BytesIO()
            picture(n).save(file, "png")
            url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
            content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "which is it?"}]
            said = client.chat.completions.create(
                model="mine", messages=[{"role": "user", "content": content}], temperature=0, max_tokens=8
            )
            assert said.choices[0].message.content == answers[n]


@pytest.mark.parametrize("recipe", ["finetune.lora", "finetune.full"])
def test_a_model_that_learns_edits_edits(base, recipe, tmp_path) -> None:
    write_pictures(tmp_path / "my", range(4))
    edits = [{"input_image": f"{n}.png", "output_image": f"{n + 1}.png", "prompt": "one more"} for n in range(3)]
    write_jsonl(tmp_path / "my" / "edits.jsonl", edits)
    with pytest.raises(ValueError, match="edit"):
        load_engine(base, "cpu").edit(picture(1), "one more")
    overrides = ["data.held_out=0", "stages.tune.num_steps=1", "task.row_tokens=256"]
    result = openjanus.train(str(base), tmp_path / "my", tmp_path / "run", recipe, overrides, "cpu")
    adapter = result if recipe == "finetune.lora" else None
    engine = load_engine(base if adapter else result, "cpu", adapter=adapter)
    assert engine.tasks == ("talk", "draw", "edit")
    assert engine.edit(picture(1), "one more")[0].size == (64, 64)
    assert restore(tmp_path / "run").tasks == engine.tasks
