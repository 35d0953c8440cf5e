"""Both directions inside vLLM, greedy ids equal to the embedded engine's. An engine takes half a minute to start."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm has an environment with it")

from openjanus.fleet.config import FleetConfig
from openjanus.fleet.options import FleetOptions
from openjanus.model.janus import SIGNAL
from openjanus.testing.on_vllm import PICTURES, TINY_TIED, Ask, Draw, Embedded, OnVllm, Work, on_vllm, tiny_folder
from openjanus.weights import checkpoint
from openjanus.weights.hub import BUNDLED
from tests import tiny
from tests.fleet.test_vocabulary import INJECTIONS
from tests.toys.level_eye import LevelEye, LevelEyeConfig

pytestmark = pytest.mark.vllm

NANO = BUNDLED / "nano"
# Prompts that share beginnings (prefix cache), both directions, pictures, and every guidance in one batch.
MIXED: list[Work] = [
    Draw("two red apples"),
    Draw("two red apples", 1.0),
    Draw("two red apples", 3.0),
    Draw("two red apples", 5.0),
    Draw("a blue car on the left of a yellow star"),
    Draw("three green hearts on a pink background", 1.5),
    Ask("what color is the balloon?", PICTURES[0]),
    Ask("what is on the right of the cat?", PICTURES[0]),
    Ask("how many stars are there?", PICTURES[1]),
    Ask("what color are the stars?", PICTURES[1]),
    Ask("hello"),
]


@pytest.fixture(scope="module")
def embedded() -> Embedded:
    return Embedded(NANO)


@pytest.fixture(scope="module")
def expected(embedded: Embedded) -> list[list[int]]:
    return [embedded.ids(work) for work in MIXED]


@pytest.fixture(scope="class")
def nano(embedded: Embedded) -> Iterator[OnVllm]:
    with on_vllm(NANO, embedded) as running:
        yield running


class TestNano:
    """One engine for all that shares its settings; it ends with the class."""

    def test_a_mixed_batch(self, nano: OnVllm, expected: list[list[int]]) -> None:
        assert nano.ids(MIXED) == expected

    def test_one_at_a_time_from_the_prefix_cache(self, nano: OnVllm, expected: list[list[int]]) -> None:
        before = nano.metric("vllm:prefix_cache_hits")
        assert [nano.ids([work])[0] for work in MIXED] == expected
        assert nano.metric("vllm:prefix_cache_hits") > before

    def test_guidance_matters(self, expected: list[list[int]]) -> None:
        assert len({tuple(ids) for ids in expected[:4]}) >= 3  # or the tests above could not tell scales apart

    def test_a_seed_gives_the_same_picture_whatever_runs_beside_it(self, nano: OnVllm) -> None:
        works = [Draw("a red heart", 1.5, 0.8, seed) for seed in (3, 4, 5)]
        alone = [nano.ids([work])[0] for work in works]
        assert nano.ids([*works, *MIXED[:6], *works])[:3] == alone
        assert len({tuple(ids) for ids in alone}) == 3

    def test_no_words_switch_the_mode(self, nano: OnVllm) -> None:
        """The template of chat, as vLLM's own chat endpoint uses it; and what comes is text."""
        from vllm import SamplingParams

        for words in INJECTIONS:
            output = nano.llm.chat([{"role": "user", "content": words}], SamplingParams(max_tokens=8), use_tqdm=False)[
                0
            ]
            assert not {nano.v.draw_id, nano.v.begin_of_image_id} & set(output.prompt_token_ids)
            assert all(id < nano.v.num_text for id in output.outputs[0].token_ids)

    def test_sampling_never_leaves_its_side(self, nano: OnVllm) -> None:
        """At a temperature that makes every id likely; `ids` refuses a drawing with anything but image ids."""
        from vllm import SamplingParams

        drawn = nano.ids([Draw("a red heart", 1.0, 2.0, seed) for seed in range(8)])
        assert len({id for ids in drawn for id in ids}) > 100
        prompts = [nano.prompt(Ask("hello"))] * 4
        wild = SamplingParams(temperature=2.0, max_tokens=64, ignore_eos=True, logit_bias={1030: 100.0, 3: 100.0})
        said = [id for o in nano.llm.generate(prompts, wild, use_tqdm=False) for id in o.outputs[0].token_ids]
        assert len(said) == 256 and not set(said) & {nano.v.pad_id, nano.v.bos_id, nano.v.begin_of_image_id}
        assert max(said) < nano.v.num_known

    def test_wrong_guidance_is_refused(self, nano: OnVllm) -> None:
        from vllm.exceptions import VLLMValidationError

        with pytest.raises(VLLMValidationError, match=r"guidance is 0\.5, expected 1 or more"):
            nano.ids([Draw("a", 0.5)])

    def test_chat_is_the_processors(self, nano: OnVllm, embedded: Embedded) -> None:
        """vLLM's chat writes the ids that the processor writes, pictures in their places."""
        from vllm import SamplingParams

        ask = Ask("what color is the balloon?", PICTURES[0])
        (output,) = nano.llm.chat(ask.messages(), SamplingParams(temperature=0, max_tokens=12), use_tqdm=False)
        assert list(output.outputs[0].token_ids) == embedded.ids(ask)


def test_preemption_and_chunked_prefill(embedded: Embedded, expected: list[list[int]]) -> None:
    works = MIXED * 3
    with on_vllm(NANO, embedded, num_gpu_blocks_override=40, max_num_batched_tokens=48, max_num_seqs=32) as small:
        assert small.ids(works) == expected * 3
        assert small.metric("vllm:num_preemptions") > 0


def test_compiled(embedded: Embedded, expected: list[list[int]]) -> None:
    """By torch.compile, which is vLLM's default; the other tests are eager to start sooner."""
    with on_vllm(NANO, embedded, enforce_eager=False) as compiled:
        assert compiled.llm.llm_engine.vllm_config.compilation_config.mode > 0
        assert compiled.ids(MIXED) == expected


def test_tensor_parallel(embedded: Embedded, expected: list[list[int]]) -> None:
    with on_vllm(NANO, embedded, tensor_parallel_size=2) as two:
        assert two.ids(MIXED) == expected


def test_unpaired(embedded: Embedded, expected: list[list[int]]) -> None:
    """Chat is the same, and so is a drawing without guidance; a position takes half the cache."""
    works = [work for work in MIXED if isinstance(work, Ask) or work.guidance == 1]
    with on_vllm(NANO, embedded, FleetOptions(unpaired=True)) as single:
        assert single.ids(works) == [ids for work, ids in zip(MIXED, expected, strict=True) if work in works]
        config = single.llm.llm_engine.vllm_config.cache_config
        assert config.num_gpu_blocks * config.block_size == pytest.approx(2**30 / (5 * 2 * 6 * 32 * 4), rel=0.01)


@pytest.mark.parametrize("form", ["openjanus", "official", "transformers"])
def test_every_format(tmp_path: Path, form: str) -> None:
    """Tiny models with random weights; ours with everything that only our own format can hold."""
    folder = tiny_folder(tmp_path / form, form, *([TINY_TIED] if form == "openjanus" else []))
    embedded = Embedded(folder)
    works: list[Work] = [
        Draw("two red apples", 5.0),
        Draw("two red apples", 2.0),
        Draw("a cat"),
        Ask("what is it?", PICTURES[0]),
        Ask("hi"),
    ]
    with on_vllm(folder, embedded, FleetOptions(guidance=4.0)) as running:
        truth = [embedded.ids(Draw("a cat", 4.0)) if work == Draw("a cat") else embedded.ids(work) for work in works]
        assert running.ids(works) == truth


def test_a_model_with_a_signal_eye_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIGNAL, LevelEyeConfig, LevelEye)
    checkpoint.save(tiny.checkpoint(replace(tiny.CONFIG, signal=LevelEyeConfig())), tmp_path / "model")
    with pytest.raises(ValueError, match="signal eye, LevelEyeConfig, but the plugin for vLLM takes text and pictures"):
        FleetConfig.read(tmp_path / "model")
