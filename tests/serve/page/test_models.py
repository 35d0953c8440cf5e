"""A server with adapters: each is a model of its own, answers as its merged model, and shares what is equal."""

import base64
import io
import threading
import urllib.request

import pytest
import torch
from PIL import Image

from openjanus.cli import main
from openjanus.cli.serve import ServedModel, _beside
from openjanus.inference.engine import load
from openjanus.model.lora import LoRALinear
from openjanus.recipes.adapter_files import save_adapter
from openjanus.serve.service import Service
from openjanus.serve.settings import ServerSettings
from openjanus.testing import tiny_checkpoint
from openjanus.training.lora import LoRAConfig, add_lora
from openjanus.weights import checkpoint
from tests.serve.conftest import run_server
from tests.serve.page.browsing import draw, expect, opened

PROMPT = "two red apples"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    """Two adapters with random values."""
    folders = []
    for seed in (1, 2):
        model = checkpoint.load(base).model
        torch.manual_seed(seed)
        add_lora(model, LoRAConfig(rank=4))
        for layer in model.modules():
            if isinstance(layer, LoRALinear):
                torch.nn.init.normal_(layer.lora_b, std=0.3)
        folders.append(tmp_path_factory.mktemp(f"adapter{seed}"))
        save_adapter(model, folders[-1], str(base))
    return folders


@pytest.fixture(scope="module")
def served(base, adapters):
    which = ServedModel(device="cpu", model=str(base))
    engine = which.engine()
    beside = _beside(which, [f"one={adapters[0]}", f"two={adapters[1]}"], engine)
    with run_server(engine, beside=beside, aliases=("gpt-image-1",)) as running:
        yield running


def drawn(served, model: str | None) -> bytes:
    chosen = {} if model is None else {"model": model}
    answer = served.client().images.generate(prompt=PROMPT, extra_body={"seed": 3, **chosen})
    return base64.b64decode(answer.data[0].b64_json)


def pixels(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).tobytes()


def test_each_adapter_is_a_model_and_draws_and_answers_as_the_merged_one(served, base, adapters) -> None:
    listed = served.client().models.list().data
    assert [card.id for card in listed] == ["tiny", "gpt-image-1", "one", "two"]
    assert [card.model_extra["alias_of"] for card in listed] == [None, "tiny", None, None]
    seen = set()
    for name, adapter in (("tiny", None), ("one", adapters[0]), ("two", adapters[1])):
        engine = load(base, "cpu", adapter=adapter)
        expected = engine.generate(PROMPT, seed=3)[0].tobytes()
        assert pixels(drawn(served, name)) == expected
        seen.add(expected)
        asked = [{"role": "user", "content": "hello"}]
        said = served.client().chat.completions.create(model=name, messages=asked, max_tokens=6, temperature=0)
        assert said.model == name and said.choices[0].message.content == engine.answers([asked], max_new_tokens=6)[0]
    assert len(seen) == 3
    assert pixels(drawn(served, "gpt-image-1")) == pixels(drawn(served, None)) == pixels(drawn(served, "tiny"))


def test_models_run_at_the_same_time_and_do_not_change_each_other(served) -> None:
    names = ["tiny", "one", "two"] * 3
    alone = {name: pixels(drawn(served, name)) for name in set(names)}
    together: list[bytes | None] = [None] * len(names)

    def ask(place: int) -> None:
        together[place] = pixels(drawn(served, names[place]))

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [alone[name] for name in names]
    assert f"openjanus_batch_slots {3 * 16}.0" in urllib.request.urlopen(f"{served.url}/metrics").read().decode()


def test_an_unknown_model_is_told_which_there_are(served) -> None:
    with pytest.raises(Exception, match="this server has the models 'tiny', 'one', 'two'"):
        drawn(served, "three")


def test_equal_tensors_are_shared(served) -> None:
    first, second = (model.engine.model for model in served.service.models[:2])
    tensors = [{**dict(model.named_parameters()), **dict(model.named_buffers())} for model in (first, second)]
    own = {name for name, tensor in tensors[0].items() if tensors[1][name] is not tensor}
    layers = {name for name in tensors[0] if name.startswith("language_model.layers.") and "norm" not in name}
    assert own == layers and len(layers) == 14


def test_the_page_lets_one_choose(browser, served) -> None:
    with opened(browser, served) as page:
        choice = page.get_by_label("Model")
        expect(choice.locator("option")).to_have_text(["tiny", "one", "two"])
        sources = []
        for name in ("tiny", "one"):
            choice.select_option(name)
            draw(page, PROMPT)
            sources.append(page.locator(".frame img").last.get_attribute("src"))
        assert sources[0] != sources[1]


def test_names_must_differ_and_have_a_path(base, adapters, capsys) -> None:
    engine = load(base, "cpu")
    with pytest.raises(ValueError, match="two models are called 'tiny': give the adapter another name"):
        Service(engine, ServerSettings(name="tiny", slots=2), {"tiny": engine})
    for given in (str(adapters[0]), "=x", "one="):
        with pytest.raises(ValueError, match="expected NAME=PATH, such as mine=runs/mine/adapter"):
            _beside(ServedModel(model=str(base)), [given], engine)
    with pytest.raises(SystemExit):
        main(["serve", "--model", str(base), "--engine", "ray", "--adapter", "one=x"])
    assert "serves no adapters: merge them by" in capsys.readouterr().err
