"""The semantic decoder: causal, the same step by step as all at once, and independent of the pictures beside it."""

import base64
import random
from io import BytesIO

import pytest
import torch
from PIL import Image

from openjanus.inference.engine import Engine, load
from openjanus.inference.sampling import SamplingOptions
from openjanus.model.semantic_eye import SemanticEye
from openjanus.model.semantic_tokenizer import SemanticDecoder, SemanticDecoderConfig
from openjanus.serve.limits import Limits
from openjanus.weights import checkpoint
from tests import tiny
from tests.inference.test_pictures import mixed_requests
from tests.inference.test_scheduler import again, ids_of, make_scheduler
from tests.remembering import DECODER, SEMANTIC, SHARED_SEMANTIC
from tests.serve.conftest import run_server

M, N, C = 3, 16, 4


@pytest.fixture(scope="module")
def decoder() -> SemanticDecoder:
    torch.manual_seed(0)
    return tiny.shake(SemanticDecoder(DECODER, C, N)).eval().requires_grad_(False)


@pytest.fixture
def codes() -> torch.Tensor:
    return torch.randn(M, N, C, generator=torch.Generator().manual_seed(1))


def test_a_feature_depends_on_the_codes_up_to_its_own_and_on_no_later_one(decoder, codes) -> None:
    before = decoder(codes)
    for t in range(N):
        changed = codes.clone()
        changed[:, t] += 1
        moved = (decoder(changed) - before).abs().amax(dim=(0, 2)) > 1e-6
        assert moved.tolist() == [i >= t for i in range(N)]


def test_features_step_by_step_equal_those_of_whole_pictures(decoder, codes) -> None:
    whole, cache = decoder(codes), decoder.make_cache(M)
    for widths in ([1] * N, [5, 1, 10], [N]):
        done, parts = 0, []
        for width in widths:
            position = torch.arange(done, done + width).expand(M, -1)
            rows = cache.rows(0, M, position, done + width)
            parts.append(decoder(codes[:, done : done + width], rows))
            done += width
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-5)


def test_pictures_may_stand_at_different_ids(decoder, codes) -> None:
    cache, whole = decoder.make_cache(M), decoder(codes)
    starts = [0, 4, 9]
    for picture, start in enumerate(starts):
        if start:
            rows = cache.rows(picture, picture + 1, torch.arange(start)[None], start)
            decoder(codes[picture : picture + 1, :start], rows)
    position = torch.tensor(starts)[:, None]
    new = torch.stack([codes[picture, start] for picture, start in enumerate(starts)])[:, None]
    got = decoder(new, cache.rows(0, M, position, max(starts) + 1))[:, 0]
    wanted = torch.stack([whole[picture, start] for picture, start in enumerate(starts)])
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_the_papers_decoder_has_the_size_that_its_appendix_states() -> None:
    with torch.device("meta"):
        paper = SemanticDecoder(SemanticDecoderConfig(), 8, 576)
    c = paper.config
    assert (c.num_layers, c.num_heads, c.width) == (12, 12, 768)
    assert 85e6 < sum(p.numel() for p in paper.parameters()) < 88e6


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="width is 30, expected a multiple of num_heads 4"):
        SemanticDecoderConfig(width=30, num_heads=4)


# --- the eye, as a user has it


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "float16", "int8", "int4"])
@pytest.mark.parametrize("config", [SEMANTIC, SHARED_SEMANTIC], ids=["two eyes", "one eye"])
def test_a_saved_model_draws_each_picture_of_a_mix_as_it_draws_it_alone(config, weights, tmp_path) -> None:
    checkpoint.save(tiny.checkpoint(config), tmp_path / "model")
    engine = load(tmp_path / "model", "cpu", weights)
    assert isinstance(engine.model.generation, SemanticEye)
    for seed in range(3):
        requests = mixed_requests(engine, random.Random(seed))
        alone = []
        for request in requests:
            scheduler = make_scheduler(engine)
            twin = scheduler.submit(again(request))
            scheduler.run()
            alone.append(ids_of(twin))
        scheduler = make_scheduler(engine)
        for request in requests:
            scheduler.submit(request)
        scheduler.run()
        assert [ids_of(request) for request in requests] == alone


@pytest.mark.parametrize("config", [SEMANTIC, SHARED_SEMANTIC], ids=["two eyes", "one eye"])
def test_a_server_draws_and_answers_with_it_as_the_library_does(config) -> None:
    engine = Engine(tiny.checkpoint(config))
    picture = Image.new("RGB", (16, 16), "red")
    file = BytesIO()
    picture.save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is it?"}]
    with run_server(engine, Limits()) as running:
        client = running.client()
        drawn = client.images.generate(prompt="a cat", n=2, extra_body={"seed": 3, "guidance_scale": 3.0}).data
        asked = [{"role": "user", "content": parts}]
        answer = client.chat.completions.create(model="tiny", messages=asked, max_tokens=4, temperature=0)
    wanted = engine.generate("a cat", n=2, seed=3, guidance=3.0)
    given = [Image.open(BytesIO(base64.b64decode(each.b64_json))).convert("RGB").tobytes() for each in drawn]
    assert given == [image.tobytes() for image in wanted]
    assert answer.choices[0].message.content == engine.ask(picture, "what is it?", max_new_tokens=4)


def test_loading_changes_no_id(tmp_path) -> None:
    plain = tiny.checkpoint(SHARED_SEMANTIC)
    checkpoint.save(plain, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    assert loaded.config == plain.config
    state = plain.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.model.state_dict().items())
    again_ = load(tmp_path / "model", "cpu").generate_ids("a cat", SamplingOptions(seed=1, n=2))
    checkpoint.save(loaded, tmp_path / "copy")
    assert torch.equal(load(tmp_path / "copy", "cpu").generate_ids("a cat", SamplingOptions(seed=1, n=2)), again_)


@pytest.mark.parametrize("form", ["official", "transformers"])
@pytest.mark.parametrize("config", [SEMANTIC, SHARED_SEMANTIC], ids=["two eyes", "one eye"])
def test_foreign_formats_have_no_place_for_it(form, config, tmp_path) -> None:
    with pytest.raises(ValueError, match=f"the {form} format cannot express these eyes, .* and SemanticEyeConfig"):
        checkpoint.save(tiny.checkpoint(config), tmp_path / "model", form=form)
