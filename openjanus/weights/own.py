"""openjanus's own config files: the `config.json` of a checkpoint, the `run.json` and `model.json` of a run.

Each contains the plain data of a config and a format number. A file without a number has format 1; only this module
converts it:

    format 1                                             format 2
    model.vision_encoder                                 model.understanding.encoder, of a SigLIPEyeConfig
    model.image_tokenizer, model.image_head_width        model.generation.tokenizer, .head_width, of a VQEyeConfig
    processor.num_features                               not stored: it is the understanding eye's
    task.tokenizer_from, .encoder_from, .start_from      task.start
    task.text_tokenizer of a Janus                       task.start.text_tokenizer; none meant the emoji world's
"""

from pathlib import Path
from typing import Any, TypeVar

from openjanus import config as configs

FORMAT = 2
EMOJI = "emoji"  # the default text tokenizer of format 1
C = TypeVar("C")


def save(config: Any, path: Path) -> None:
    """Writes one config with its format number, atomically. Raises OSError naming the file."""
    configs.save({"format": FORMAT, **configs.to_dict(config)}, path)


def load(cls: type[C], path: Path) -> C:
    """Reads one config of any format. Raises ValueError naming the file and the problem."""
    return build(cls, configs.read_json(path), str(path))


def build(cls: type[C], data: Any, where: str) -> C:
    """As `load`, from the plain data of a file; `where` names it."""
    if not isinstance(data, dict):
        return configs.from_dict(cls, data, where)
    data = dict(data)
    number = data.pop("format", 1)
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"{where}: format is {number!r}, expected a number from 1 to {FORMAT}")
    if number > FORMAT:
        raise ValueError(
            f"{where}: format {number} is newer than {FORMAT}, the newest that this openjanus reads: install a newer "
            "openjanus"
        )
    num_features = None
    if number == 1:
        data, num_features = _from_format_1(data)
    config = configs.from_dict(cls, data, where)
    model = getattr(getattr(config, "task", config), "model", None)
    if num_features is not None and model is not None and num_features != model.num_features:
        raise ValueError(
            f"{where}: processor.num_features is {num_features}, but the understanding eye has {model.num_features} "
            "positions: they must be equal"
        )
    return config


def _from_format_1(data: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The same data in format 2, and the `num_features` that a processor stated, if there is one."""
    task = data.get("task")
    if isinstance(task, dict):  # a run
        task, num_features = _from_format_1(task)
        return {**data, "task": _task_from_format_1(task)}, num_features
    data, num_features = dict(data), None
    if isinstance(data.get("processor"), dict):
        processor = data["processor"] = dict(data["processor"])
        num_features = processor.pop("num_features", None)
    if isinstance(data.get("model"), dict):
        model = data["model"] = dict(data["model"])
        if "vision_encoder" in model:
            model["understanding"] = {"type": "SigLIPEyeConfig", "encoder": model.pop("vision_encoder")}
        parts = {"image_tokenizer": "tokenizer", "image_head_width": "head_width"}
        fields = {new: model.pop(old) for old, new in parts.items() if old in model}
        if fields:
            model["generation"] = {"type": "VQEyeConfig", **fields}
    return data, num_features


def _task_from_format_1(task: dict[str, Any]) -> dict[str, Any]:
    """The start of a training in format 2."""
    if task.get("type") == "ContrastiveTraining":
        return {**task, "text_tokenizer": task.get("text_tokenizer") or EMOJI}
    if task.get("type") != "JanusTraining" or "start" in task:
        return task
    task = dict(task)
    old = {key: task.pop(key, "") for key in ("start_from", "tokenizer_from", "encoder_from", "text_tokenizer")}
    parts = {
        "text_tokenizer": old["text_tokenizer"] or EMOJI,
        "understanding.encoder": old["encoder_from"],
        "generation.tokenizer": old["tokenizer_from"],
    }
    return {**task, "start": old["start_from"] or {part: source for part, source in parts.items() if source}}
