"""Engines of vLLM for its tests: greedy ids from both directions, held against the embedded engine.

One at a time: an engine is three processes. `VLLM_CPU_*` is for the CPU backend, which these tests run on.
"""

import base64
import gc
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from openjanus.emoji.sources import world_text_tokenizer
from openjanus.fleet.command import engine_arguments, environment
from openjanus.fleet.options import FleetOptions
from openjanus.fleet.settings import FleetSettings
from openjanus.fleet.vocabulary import Vocabulary
from openjanus.inference.engine import Engine, load
from openjanus.inference.scheduler import Request
from openjanus.processing.image import PixelConfig, open_image
from openjanus.processing.processor import ROLES, Message, Processor, ProcessorConfig
from openjanus.testing import TINY, tiny_janus
from openjanus.weights.checkpoint import save
from openjanus.weights.config import Checkpoint
from openjanus.weights.hub import BUNDLED
from openjanus.weights.official import SYSTEM_PROMPT

PICTURES = sorted((BUNDLED / "pictures").glob("*.png"))
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}
# Its CPU backend has kernels for heads of 32 and wider.
TINY_WIDE = replace(TINY, language_model=replace(TINY.language_model, head_width=32))
TINY_TIED = replace(
    TINY, language_model=replace(TINY.language_model, head_width=32, qk_norm=True, qkv_bias=True, tie_text_head=True)
)


def tiny_folder(folder: Path, form: str = "openjanus", config: Any = TINY_WIDE) -> Path:
    """As `tiny_checkpoint`, with wider heads."""
    text = world_text_tokenizer().with_special(*ROLES["deepseek"].values())
    prompt = SYSTEM_PROMPT if form != "transformers" else ""
    processor = Processor(ProcessorConfig(PixelConfig(64), "deepseek", prompt), text, 16)
    save(Checkpoint(tiny_janus(0, config), processor, {}), folder, torch.float32, form)
    return folder


def data_url(path: Path) -> str:
    file = io.BytesIO()
    open_image(path).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@dataclass(frozen=True)
class Ask:
    """A question, with or without a picture."""

    question: str
    picture: Path | None = None
    num_new: int = 12

    def messages(self) -> list[dict[str, Any]]:
        """In the API's words."""
        text = {"type": "text", "text": self.question}
        if self.picture is None:
            return [{"role": "user", "content": [text]}]
        return [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url(self.picture)}}, text]}
        ]

    def conversation(self) -> list[Message]:
        return [Message("user", self.content())]

    def content(self) -> list[str | Image.Image]:
        return [self.question] if self.picture is None else [open_image(self.picture), self.question]


@dataclass(frozen=True)
class Draw:
    """A prompt to draw."""

    prompt: str
    guidance: float | None = None
    temperature: float = 0.0
    seed: int = 0


Work = Ask | Draw


class Embedded:
    """What the embedded engine gives for the same work: the truth of these tests."""

    def __init__(self, folder: Path):
        self.engine: Engine = load(folder, "cpu", "float32")

    def ids(self, work: Work) -> list[int]:
        """Of an answer with the id that ends it."""
        if isinstance(work, Draw):
            return self.engine.generate_ids(work.prompt, temperature=0, guidance=work.guidance)[0].tolist()
        request = self.engine.answer(work.conversation(), self.engine.options(temperature=0), work.num_new)
        self.run([request])
        return [int(step) for step in request.ids]

    def run(self, requests: Sequence[Request]) -> None:
        """Runs requests to their end, together."""
        for _ in self.engine._run(requests):
            pass


class OnVllm:
    """`vllm.LLM` with the plugin."""

    def __init__(self, llm: Any, engine: Engine):
        self.llm, self.engine = llm, engine
        self.v: Vocabulary = llm.llm_engine.model_config.hf_config.read_vocabulary()

    def prompt(self, work: Work) -> Any:
        if isinstance(work, Draw):
            document = self.engine.processor.prompt([Message("user", [work.prompt])], draw=True)
            return {"prompt_token_ids": self.v.prompt_ids(document, draw=True)}
        document = self.engine.processor.prompt(work.conversation())
        prompt: dict[str, Any] = {"prompt_token_ids": self.v.prompt_ids(document, draw=False)}
        if work.picture is not None:
            prompt["multi_modal_data"] = {"image": [open_image(work.picture)]}
        return prompt

    def params(self, work: Work) -> Any:
        from vllm import SamplingParams

        if isinstance(work, Ask):
            return SamplingParams(temperature=0, max_tokens=work.num_new)
        total = self.engine.model.config.generation.num_image_ids
        guidance = {} if work.guidance is None else {"guidance": work.guidance}
        return SamplingParams(
            temperature=work.temperature, seed=work.seed, max_tokens=total, ignore_eos=True, detokenize=False,
            extra_args=guidance,
        )  # fmt: skip

    def ids(self, works: Sequence[Work]) -> list[list[int]]:
        """All at once; image ids of drawings, text ids of answers."""
        outputs = self.llm.generate([self.prompt(w) for w in works], [self.params(w) for w in works], use_tqdm=False)
        given = [list(output.outputs[0].token_ids) for output in outputs]
        return [self.v.image_ids(ids) if isinstance(w, Draw) else ids for w, ids in zip(works, given, strict=True)]

    def metric(self, name: str) -> float:
        return sum(m.value for m in self.llm.get_metrics() if m.name == name)


@contextmanager
def on_vllm(folder: Path, embedded: Embedded, options: FleetOptions = FleetOptions(), **more: Any) -> Iterator[OnVllm]:  # noqa: B008
    from vllm import LLM

    os.environ.update(CPU_ENVIRONMENT | environment(FleetSettings()))
    settings = {
        **engine_arguments(folder, "float32", options),
        "enforce_eager": True, "block_size": 32, "max_num_seqs": 16, "disable_log_stats": False, **more,
    }  # fmt: skip
    llm = LLM(**settings)
    try:
        yield OnVllm(llm, embedded.engine)
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
