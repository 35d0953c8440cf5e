"""The paper's Janus-1.3B and its successor Janus-Pro, as published: stages, rates, batches and ratios.

    torchrun --nproc-per-node 8 -m openjanus train janus-1.3b data=data.json --out runs/janus

`data.json` names a folder or file for each slot, such as {"classes": "imagenet", "descriptions": "sharegpt4v.json"}.
Sources: arXiv 2410.13848, Table 1 and §4.2; janus_pro_tech_report.pdf, Table 2. Batches are counted in examples.
"""

from dataclasses import replace

from openjanus.data.config import DataConfig
from openjanus.training.janus import JanusTraining
from openjanus.training.loop import Schedule
from openjanus.training.run import Run
from openjanus.training.stage import Stage, Switch

ADAPTORS_AND_HEAD = ("understanding.adaptor.*", "generation.adaptor.*", "generation.embedding.*", "generation.head.*")
BODY = (*ADAPTORS_AND_HEAD, "language_model.*")
ALL = ("*", "!generation.tokenizer.*")
DETAIL = "Describe the image in detail."
DATA = {
    "descriptions": DataConfig(use="describe", question=DETAIL),  # stage 1: ShareGPT4V
    "classes": DataConfig(use="draw"),  # stages 1 and 2: ImageNet, drawn by the names of its classes
    "understanding": DataConfig(use="describe", question=DETAIL),  # stage 2: captions, interleaved text, tables
    "texts": DataConfig(),  # stage 2: text alone
    "captions": DataConfig(use="draw", first_sentence=0.25),  # the last third of stage 2
    "chats": DataConfig(),  # stage 3: instructions with pictures
    "text_chats": DataConfig(),  # stage 3: instructions without pictures
    "drawings": DataConfig(use="draw"),  # stage 3
}


def janus() -> Run:
    """The three stages of the paper's Table 1 as they stand, from DeepSeek-LLM 1.3B, SigLIP-L and LlamaGen's VQ."""
    parts = {
        "language_model": "deepseek-ai/deepseek-llm-1.3b-base",
        "understanding.encoder": "google/siglip-large-patch16-384",
        "generation.tokenizer": "vq_ds16_t2i.pt",
    }
    task = JanusTraining(parts, data=DATA, row_tokens=4096, micro_batch_rows=1, sampling={"guidance": 5.0})
    adapt = Stage(
        "adapt", 10_000, 1e-3, {"descriptions": 128, "classes": 128}, ADAPTORS_AND_HEAD, "cosine", warmup_steps=300
    )
    at_first = {"understanding": 102.4, "texts": 153.6, "classes": 256}  # 2 : 3 : 5 of 512
    later = {"understanding": 102.4, "texts": 153.6, "captions": 256}
    unify = Stage("unify", 180_000, 1e-4, at_first, BODY, warmup_steps=5000, switches=(Switch(130_000, later),))
    tune = Stage("tune", 24_000, 2e-5, {"chats": 89.6, "text_chats": 38.4, "drawings": 128}, ALL, weight_decay=0.1)
    return Run("janus-1.3b", task, (adapt, unify, tune), schedule=Schedule(workers=8))


def pro_1b() -> Run:
    """Janus-Pro-1B: longer stages at constant rates, and other ratios."""
    return _pro("janus-pro-1b", "deepseek-ai/deepseek-llm-1.3b-base", tune_steps=80_000)


def pro_7b() -> Run:
    """Janus-Pro-7B: as Janus-Pro-1B, with half the steps of the last stage."""
    return _pro("janus-pro-7b", "deepseek-ai/deepseek-llm-7b-base", tune_steps=40_000)


def _pro(name: str, body: str, tune_steps: int) -> Run:
    run = janus()
    assert isinstance(run.task, JanusTraining) and isinstance(run.task.start, dict)
    task = replace(
        run.task,
        start={**run.task.start, "language_model": body},
        changes=("processor.template=deepseek",),
    )
    adapt, unify, tune = run.stages
    adapt = replace(
        adapt, num_steps=20_000, schedule="constant", warmup_steps=600, mixture={"descriptions": 64, "classes": 192}
    )
    mixture = {"understanding": 102.4, "texts": 153.6, "captions": 256}  # no ImageNet any more
    unify = replace(unify, num_steps=360_000, mixture=mixture, switches=())
    chats = {"chats": 64, "text_chats": 12.8, "drawings": 51.2}  # 5 : 1 : 4 of 128
    tune = replace(tune, num_steps=tune_steps, lr=4e-5, weight_decay=0.0, mixture=chats)
    return replace(run, name=name, task=task, stages=(adapt, unify, tune))
