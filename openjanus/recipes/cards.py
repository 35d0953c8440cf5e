"""What goes along with the result of a training: a model card, and the licence files of the base model."""

import shutil
from pathlib import Path

from openjanus import __version__
from openjanus.config import to_json, write_text
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run
from openjanus.weights.hub import find_checkpoint

LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "license*")


def write_card(run: Run, folder: Path) -> None:
    """Writes README.md, unless there is one, and copies the licence files of the base into the folder of a result."""
    if not isinstance(run.task, JanusTraining):
        return
    base = find_checkpoint(run.task.start) if isinstance(run.task.start, str) else None
    for path in [] if base is None else sorted({p for pattern in LICENCES for p in base.glob(pattern)}):
        if not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
    if not (folder / "README.md").exists():
        write_text(folder / "README.md", card(run, is_adapter=(folder / "adapter_config.json").is_file()))


def card(run: Run, is_adapter: bool) -> str:
    """The model card as Markdown, with the metadata that the hub reads."""
    task = run.task
    assert isinstance(task, JanusTraining)
    parts = {"the model": task.start} if isinstance(task.start, str) else task.start
    steps = sum(stage.num_steps for stage in run.stages)
    published = [start for start in parts.values() if "/" in start and not Path(start).exists()]
    data = [f"- `{name}`: `{c.path}`, {_use(c.use)}" for name, c in task.data.items() if c.path]
    sources = sorted({name for stage in run.stages for name in stage.sources if name not in task.data})
    data += [f"- `{name}`, of openjanus's own world" for name in sources]
    what = "An adapter (LoRA) for a Janus" if is_adapter else "A Janus"
    use = "generate PROMPT --adapter FOLDER" if is_adapter else "generate PROMPT --model FOLDER"
    lines = [
        "---",
        *(["base_model:", *(f"- {name}" for name in published)] if published else []),
        "library_name: openjanus",
        f"tags: [janus{', lora, peft' if is_adapter else ''}]",
        "---",
        "",
        f"# {run.name}",
        "",
        f"{what}: it understands and draws pictures (arXiv 2410.13848). It was trained with openjanus {__version__}.",
        "",
        f"Use it with `openjanus {use}`.",
        "",
        "## What it was made from",
        "",
        *(f"- {name}: `{start}`" for name, start in parts.items()),
        "",
        "The licence of the base model holds for this model, too.",
        "",
        f"## Data of the {steps:,} steps",
        "",
        *(data or ["- none of the user's own"]),
        "",
        "## Settings",
        "",
        "```json",
        to_json(run),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _use(use: str) -> str:
    return {"draw": "captions drawn", "describe": "captions described", "both": "captions drawn and described"}[use]
