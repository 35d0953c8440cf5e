"""The paper's experiments on shared and decoupled eyes (arXiv 2410.13848, §4.5 and Table 5), as six configurations.

    A   one VQ tokenizer for both tasks          D   Janus: SigLIP to understand, a VQ tokenizer to draw
    B   one semantic tokenizer for both tasks    E   as D, but it learns to understand only
    C   as B, but it learns to understand only   F   as D, but it learns to draw only

Each experiment is a change of D. `mini` has a world small enough for a laptop (emoji/mini.py), and `janus-1.3b` the
shapes, stages and steps of the paper. Where the paper is silent, docs/choices.md says what was chosen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from openjanus import config as configs
from openjanus.eyes.contrastive import ContrastiveTraining
from openjanus.eyes.tokenizer import TokenizerTraining
from openjanus.model.image_tokenizer import ImageTokenizerConfig
from openjanus.model.janus import JanusConfig
from openjanus.model.language_model import LanguageModelConfig
from openjanus.model.semantic_eye import SemanticEyeConfig
from openjanus.model.semantic_tokenizer import SemanticDecoderConfig
from openjanus.model.shared_eye import SharedEyeConfig
from openjanus.model.siglip_eye import SigLIPEyeConfig
from openjanus.model.vision_encoder import VisionEncoderConfig
from openjanus.model.vq_eye import VQEyeConfig
from openjanus.processing.image import PixelConfig
from openjanus.processing.processor import ProcessorConfig
from openjanus.recipes import janus_paper, nano
from openjanus.starting.parts import ENCODER, IMAGE_TOKENIZER, SEMANTIC
from openjanus.starting.start import SHARED
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run
from openjanus.training.stage import Stage

# --- what an experiment changes


@dataclass(frozen=True)
class Setting:
    """A size at which the experiments are run.

    base: D, from the folder of the eyes and that of the ids. eyes: what is trained before, by name and in order; each
    gets the folder of the eyes. draws, understands: the sources of each task. semantic: the shape of B's and C's
    decoder; semantic_run: the folder of the run that trains it. drawings: the source whose pictures become ids in
    advance, and how many of them; "": none.
    """

    base: Callable[[str, str], Run]
    eyes: Mapping[str, Callable[[str], Run]]
    draws: tuple[str, ...]
    understands: tuple[str, ...]
    semantic: SemanticDecoderConfig
    semantic_run: str = "semantic"
    drawings: str = ""
    num_drawings: int = 0


def _task(run: Run) -> JanusTraining:
    assert isinstance(run.task, JanusTraining) and isinstance(run.task.start, dict)
    return run.task


def _start(run: Run) -> dict[str, str]:
    start = _task(run).start
    assert isinstance(start, dict)
    return start


def _trained(run: Run, dropped: Sequence[str], more: Sequence[str] = ()) -> Run:
    """The run with other patterns of trainable parameters; `more` only where all but some parameters are trained."""

    def changed(stage: Stage) -> Stage:
        kept = tuple(pattern for pattern in stage.trainable if pattern.lstrip("!").partition("*")[0] not in dropped)
        return replace(stage, trainable=(*kept, *more) if "*" in kept else kept)

    return replace(run, stages=tuple(map(changed, run.stages)))


def shared(run: Run) -> Run:
    """One eye for both tasks: pictures to understand enter as ids, through the generation eye and its adaptor."""
    task = _task(run)
    model = None if task.model is None else replace(task.model, understanding=SharedEyeConfig())
    run = replace(run, task=replace(task, start={**_start(run), ENCODER: SHARED}, model=model))
    return _trained(run, dropped=("understanding.adaptor.", "understanding.encoder."))


def semantic(run: Run, decoder: SemanticDecoderConfig, source: str, ids: str) -> Run:
    """The generation eye over a semantic tokenizer, which stays as it is. source: the run that trained it."""
    task, model = _task(run), _task(run).model
    if model is not None:
        assert isinstance(model.generation, VQEyeConfig)
        eye = SemanticEyeConfig(model.generation.tokenizer, model.generation.head_width, decoder)
        model = replace(model, generation=eye)
    start = {**_start(run), IMAGE_TOKENIZER: source, SEMANTIC: source}
    run = replace(run, task=replace(task, start=start, model=model, image_ids=ids))
    return _trained(run, dropped=("generation.embedding.",), more=("!generation.semantic.*",))


def without(run: Run, sources: Sequence[str]) -> Run:
    """The run without some sources. All others keep their numbers for each step, and the steps stay. A stage that has
    nothing else keeps them, too."""

    def left(mixture: Mapping[str, float]) -> dict[str, float]:
        return {name: count for name, count in mixture.items() if name not in sources} or dict(mixture)

    stages = [
        replace(s, mixture=left(s.mixture), switches=tuple(replace(w, mixture=left(w.mixture)) for w in s.switches))
        for s in run.stages
    ]
    return replace(run, stages=tuple(stages))


def experiment(setting: Setting, name: str, eyes: str, ids: str, seed: int = 0) -> Run:
    """One of `EXPERIMENTS` or `STAGES`. eyes: the folder with the runs of the eyes. ids: that of the image ids."""
    run = replace(setting.base(eyes, ids), seed=seed)
    semantic_ids = f"{ids}/semantic.safetensors" if setting.drawings else ""
    if name in ("A", "B", "C"):
        run = shared(run)
    if name in ("B", "C"):
        run = semantic(run, setting.semantic, f"{eyes}/{setting.semantic_run}", semantic_ids)
    if name in ("C", "E"):
        run = without(run, setting.draws)
    if name == "F":
        run = without(run, setting.understands)
    if name in STAGES:
        run = STAGES[name][1](run)
    return replace(run, name=f"{run.name}.{name.lower()}")


def recipe_of(name: str) -> Callable[[], Run]:
    """The recipe of an experiment at the size of the paper. B and C start from `runs/janus-1.3b.semantic`."""

    def recipe() -> Run:
        return experiment(SETTINGS["janus-1.3b"], name, "runs", "")

    recipe.__doc__ = f"Exp-{name} of the paper's Table 5: {' for '.join(EXPERIMENTS[name])}."
    return recipe


def differences(setting: Setting, name: str) -> list[str]:
    """The fields in which an experiment's configuration differs from D's, a line each."""
    base, other = (configs.to_dict(experiment(setting, which, "EYES", "IDS")) for which in ("D", name))
    for run in (base, other):
        for stage in run["stages"]:
            stage["trainable"] = " ".join(stage["trainable"])  # one field, however many patterns
    found = [change for change in configs.differences(base, other) if change[0] != "name"]
    return [f"{key}: {_shortly(before)} -> {_shortly(now)}" for key, before, now in found]


def _shortly(value: object) -> str:
    """A value of a config; of a part only its type, and of a stage its name."""
    if isinstance(value, dict):
        return str(value.get("name", value.get("type")))
    return "none" if value is None else str(value)


# name -> the visual encoder and the tasks, as in Table 5
EXPERIMENTS = {
    "A": ("VQ tokenizer", "understanding + drawing"),
    "B": ("semantic tokenizer", "understanding + drawing"),
    "C": ("semantic tokenizer", "understanding"),
    "D": ("SigLIP + VQ tokenizer", "understanding + drawing"),
    "E": ("SigLIP", "understanding"),
    "F": ("VQ tokenizer", "drawing"),
}


def _without_first_stage(run: Run) -> Run:
    return replace(run, stages=tuple(stage for stage in run.stages if stage.name != "adapt"))


def _without_blank_captions(run: Run) -> Run:
    return replace(run, task=replace(_task(run), drop_caption=0.0))


# The stages and shares that the paper describes and does not ablate: name -> words, and a change of D.
STAGES: dict[str, tuple[str, Callable[[Run], Run]]] = {
    "D-adapt": ("D without stage I", _without_first_stage),
    "D-text": ("D without texts", partial(without, sources=("emoji.texts", "texts", "text_chats"))),
    "D-blank": ("D without blank captions", _without_blank_captions),
}


# --- in miniature

MINI_TOKENIZER = replace(nano.IMAGE_TOKENIZER, num_ids=512, local_encoder=False)  # LlamaGen's encoder
MINI_ENCODER = VisionEncoderConfig(
    image_size_px=64, patch_px=8, width=128, num_layers=4, num_heads=4, mlp_width=512, pooling_head=True
)
MINI_SEMANTIC = SemanticDecoderConfig(width=128, num_layers=4, num_heads=4, mlp_width=512, feature_width=128)


def mini_tokenizer(eyes: str) -> Run:
    """As `nano.tokenizer`, on pictures of the reduced world and with fewer steps."""
    run = nano.tokenizer()
    assert isinstance(run.task, TokenizerTraining)
    task = replace(run.task, tokenizer=MINI_TOKENIZER, discriminator_start=1300, revive_end=1000)
    stage = replace(run.stages[0], num_steps=1500, mixture={"emoji.mini.pictures": 16.0})
    return Run("mini.tokenizer", task, (stage,))


def mini_encoder(eyes: str) -> Run:
    """As `nano.encoder`, on pictures of the reduced world and their captions, with a smaller encoder."""
    run = nano.encoder()
    assert isinstance(run.task, ContrastiveTraining)
    task = replace(run.task, vision_encoder=MINI_ENCODER, text_num_heads=4, text_mlp_width=512, bias=-4.0)
    stage = replace(run.stages[0], num_steps=800, mixture={"emoji.mini.captions": 64.0})
    return Run("mini.encoder", task, (stage,))


def mini_semantic(eyes: str) -> Run:
    """As the VQ tokenizer, with the semantic loss towards that encoder."""
    run = mini_tokenizer(eyes)
    assert isinstance(run.task, TokenizerTraining)
    task = replace(run.task, semantic=MINI_SEMANTIC, teacher=f"{eyes}/encoder")
    return replace(run, name="mini.semantic", task=task)


def mini(eyes: str, ids: str, width: int = 192, num_layers: int = 4, steps: float = 1.0) -> Run:
    """D in miniature: texts, then the three stages. width, num_layers: of the body. steps: times the usual number."""
    model = JanusConfig(
        language_model=LanguageModelConfig(
            vocab_size=1024,
            width=width,
            num_layers=num_layers,
            num_heads=width // 32,
            num_kv_heads=width // 32,
            head_width=32,
            ffn_width=width * 8 // 3,
            max_positions=512,
            qk_norm=True,
            tie_text_head=True,
        ),
        understanding=SigLIPEyeConfig(replace(MINI_ENCODER, pooling_head=False)),
        generation=VQEyeConfig(MINI_TOKENIZER, head_width=192),
    )
    task = JanusTraining(
        start={"text_tokenizer": "emoji", ENCODER: f"{eyes}/encoder", IMAGE_TOKENIZER: f"{eyes}/tokenizer"},
        image_ids=f"{ids}/tokenizer.safetensors",
        model=model,
        processor=ProcessorConfig(PixelConfig(size_px=64)),
        row_tokens=256,
        micro_batch_rows=32,
        text_weight=4.0,
        sampling={"guidance": 1.5, "temperature": 0.5},
    )
    adaptors = ("understanding.adaptor.*", "generation.adaptor.*", "generation.embedding.*", "generation.head.*")
    body = ("language_model.*",)
    muon = ("language_model.layers.*",)
    both: dict[str, float] = {"emoji.mini.questions": 12, "emoji.texts": 2, "emoji.mini.drawings": 24}
    stages = (
        Stage("language", round(60 * steps), 1.5e-3, {"emoji.texts": 32}, body, warmup_steps=20, muon=muon),
        Stage(
            "adapt",
            round(60 * steps),
            1.5e-3,
            {"emoji.mini.questions": 12, "emoji.mini.drawings": 24},
            adaptors,
            "cosine",
            warmup_steps=20,
        ),
        Stage("unify", round(700 * steps), 1.5e-3, both, adaptors + body, warmup_steps=50, muon=muon),
        Stage(
            "tune",
            round(500 * steps),
            1e-3,
            both,
            ("*", "!generation.tokenizer.*"),
            "cosine",
            warmup_steps=20,
            weight_decay=0.05,
            muon=muon,
        ),
    )
    return Run("mini", task, stages)


# --- at the size of the paper


def paper_semantic(eyes: str = "runs") -> Run:
    """The semantic tokenizer of Appendix A, from random weights: 40 epochs of ImageNet-1k, then one of drawing data."""
    task = TokenizerTraining(
        ImageTokenizerConfig(),
        semantic=SemanticDecoderConfig(),
        teacher="google/siglip-large-patch16-384",
        data={name: janus_paper.DATA[name] for name in ("classes", "drawings")},
    )
    imagenet = Stage("imagenet", 400_000, 1e-4, {"classes": 128}, weight_decay=0.05)
    drawings = Stage("drawings", 390_000, 1e-4, {"drawings": 128}, weight_decay=0.05)
    return Run("janus-1.3b.semantic", task, (imagenet, drawings))


def paper(eyes: str = "runs", ids: str = "") -> Run:
    """D is Janus itself."""
    return janus_paper.janus()


SETTINGS: dict[str, Setting] = {
    "mini": Setting(
        mini,
        {"tokenizer": mini_tokenizer, "encoder": mini_encoder, "semantic": mini_semantic},
        ("emoji.mini.drawings",),
        ("emoji.mini.questions",),
        MINI_SEMANTIC,
        drawings="emoji.mini.drawings",
        num_drawings=12_000,
    ),
    "janus-1.3b": Setting(
        paper,
        {"semantic": paper_semantic},
        ("classes", "captions", "drawings"),
        ("descriptions", "understanding", "chats"),
        SemanticDecoderConfig(),
        semantic_run="janus-1.3b.semantic",
    ),
}
SETTINGS["mini.small"] = replace(SETTINGS["mini"], base=partial(mini, width=128, num_layers=3))
