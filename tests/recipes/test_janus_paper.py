"""The paper's recipes against its Table 1, line by line, and against the report of Janus-Pro."""

import json

import pytest

from openjanus.cli import main
from openjanus.recipes import RECIPES, configure
from openjanus.training.stage import Stage
from tests.readers.files import write_jsonl, write_pictures

UNDERSTAND, TEXTS = ("descriptions", "understanding", "chats"), ("texts", "text_chats")


def shares(mixture: dict[str, float]) -> tuple[float, float, float]:
    """Examples to understand, of text alone, and to draw."""
    looked_at = sum(count for name, count in mixture.items() if name in UNDERSTAND)
    text = sum(count for name, count in mixture.items() if name in TEXTS)
    return looked_at, text, sum(mixture.values()) - looked_at - text


# recipe: steps, batch, ratio, rate, schedule, warm-up, weight decay of each stage
TABLES = {
    "janus-1.3b": [
        (10_000, 256, (1, 0, 1), 1e-3, "cosine", 300, 0.0),
        (180_000, 512, (2, 3, 5), 1e-4, "constant", 5000, 0.0),
        (24_000, 256, (7, 3, 10), 2e-5, "constant", 0, 0.1),
    ],
    "janus-pro-1b": [
        (20_000, 256, (1, 0, 3), 1e-3, "constant", 600, 0.0),
        (360_000, 512, (2, 3, 5), 1e-4, "constant", 5000, 0.0),
        (80_000, 128, (5, 1, 4), 4e-5, "constant", 0, 0.0),
    ],
    "janus-pro-7b": [
        (20_000, 256, (1, 0, 3), 1e-3, "constant", 600, 0.0),
        (360_000, 512, (2, 3, 5), 1e-4, "constant", 5000, 0.0),
        (40_000, 128, (5, 1, 4), 4e-5, "constant", 0, 0.0),
    ],
}


@pytest.mark.parametrize("recipe", TABLES)
def test_a_recipe_is_the_published_table(recipe) -> None:
    run = RECIPES[recipe]()
    for stage, (steps, batch, ratio, lr, schedule, warmup, decay) in zip(run.stages, TABLES[recipe], strict=True):
        assert (stage.num_steps, stage.lr, stage.schedule, stage.warmup_steps) == (steps, lr, schedule, warmup)
        assert (stage.weight_decay, stage.betas, stage.clip_norm) == (decay, (0.9, 0.95), 1.0)
        for mixture in (stage.mixture, *(switch.mixture for switch in stage.switches)):
            assert sum(mixture.values()) == pytest.approx(batch)
            assert shares(mixture) == pytest.approx([batch * part / sum(ratio) for part in ratio])
    assert run.task.row_tokens == 4096 and run.task.drop_caption == 0.1 and run.task.text_weight == 1.0
    assert run.task.data["captions"].first_sentence == 0.25


def test_the_second_stage_draws_imagenet_for_120_000_steps() -> None:
    unify: Stage = RECIPES["janus-1.3b"]().stages[1]
    first = 10_000  # the steps of the first stage
    for step, source in ((first, "classes"), (first + 119_999, "classes"), (first + 120_000, "captions")):
        assert source in unify.mixture_at(step) and len(unify.mixture_at(step)) == 3


def test_the_stages_train_what_the_paper_says() -> None:
    adapt, unify, tune = RECIPES["janus-1.3b"]().stages
    assert "language_model.*" not in adapt.trainable and "language_model.*" in unify.trainable
    assert not any(name.startswith("understanding.encoder") for name in (*adapt.trainable, *unify.trainable))
    assert tune.trainable == ("*", "!generation.tokenizer.*")


def test_data_for_its_slots(tmp_path, capsys) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "a text"}')
    path = str(tmp_path / "texts.jsonl")
    slots = {"descriptions": path, "classes": {"path": path, "crop": "random"}}
    (tmp_path / "data.json").write_text(json.dumps(slots))
    run = configure("janus-1.3b", [f"data={tmp_path / 'data.json'}", f"data.captions.path={path}", "start=nano"])
    data = run.task.data
    assert [data[name].path for name in ("descriptions", "classes", "captions", "texts")] == [path] * 3 + [""]
    assert data["classes"].crop == "random" and data["classes"].use == "draw" and data["descriptions"].use == "describe"
    for words, message in [
        ([], "stage adapt needs data for 'descriptions': give data=FILE, where FILE holds"),
        ([f"data={tmp_path / 'none.json'}"], "takes data for descriptions, classes"),
    ]:
        with pytest.raises(SystemExit):
            main(["train", "janus-1.3b", "start=nano", *words, "--out", str(tmp_path / "run")])
        assert message in capsys.readouterr().err
    (tmp_path / "data.json").write_text('{"classe": "x"}')
    with pytest.raises(ValueError, match="holds data for 'classe'; expected a table for descriptions"):
        configure("janus-1.3b", [f"data={tmp_path / 'data.json'}"])


def test_it_runs_all_stages_with_small_numbers(tmp_path) -> None:
    """From nano instead of its parts, one step a stage, and the switch of sources in the second stage."""
    write_pictures(tmp_path / "pictures", range(4))
    captions = [{"file_name": f"{n}.png", "text": f"a red cat. It is {n}."} for n in range(4)]
    write_jsonl(tmp_path / "pictures" / "metadata.jsonl", captions)
    chat = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}]}
    write_jsonl(tmp_path / "chats.jsonl", [chat] * 3)
    write_jsonl(tmp_path / "texts.jsonl", [{"text": f"two red cats {n}"} for n in range(3)])
    pictures = dict.fromkeys(("descriptions", "classes", "understanding", "captions", "drawings"), "pictures")
    slots = pictures | {"chats": "chats.jsonl", "text_chats": "chats.jsonl", "texts": "texts.jsonl"}
    (tmp_path / "data.json").write_text(json.dumps({name: str(tmp_path / path) for name, path in slots.items()}))
    few = {"adapt": {"descriptions": 1, "classes": 1}, "tune": {"chats": 1, "text_chats": 1, "drawings": 1}}
    unify = {"understanding": 1, "texts": 1, "classes": 1}
    words = [f"stages.{name}.mixture={json.dumps(mixture)}" for name, mixture in (*few.items(), ("unify", unify))]
    words += [f"stages.{name}.num_steps={steps}" for name, steps in (("adapt", 1), ("unify", 2), ("tune", 1))]
    switch = [{"step": 2, "mixture": {**unify, "classes": 0, "captions": 2}}]
    words += [f"stages.unify.switches={json.dumps(switch)}", "task.row_tokens=256", "schedule.log_steps=1"]
    words += [f"task.data.{name}.held_out=0" for name in slots]
    main(
        ["train", "janus-1.3b", "start=nano", f"data={tmp_path / 'data.json'}", *words, "--out", str(tmp_path / "run")]
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert (tmp_path / "run" / "model" / "config.json").is_file()
