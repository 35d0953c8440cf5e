"""Checkpoint folders, in three formats: our own, the official one, and that of transformers.

Our own:

    config.json        {"format": 2, "model": JanusConfig, "processor": ProcessorConfig, "sampling": default sampling
                       settings, "tasks": what it was trained to do}; older formats are read, too (own.py)
    model.safetensors  all parameters by our own names, those of a vision tower by its published ones, or shards with an
                       index; a tied text head is stored once
    tokenizer.json     the text tokenizer (Hugging Face `tokenizers`)
    about.json         optional, in every format: what the model knows, for its users

Loading is strict, in every format: a tensor that is missing, extra, of another shape or not finite is an error that
names it. The model is built on the meta device and its tensors are mapped from the file, so that a load needs little
more memory than the weights. Saving never leaves a folder that looks whole and is not.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from openjanus import config as configs
from openjanus.model.janus import Janus
from openjanus.processing.text import TextTokenizer
from openjanus.weights import names, official, own, transformers_format
from openjanus.weights.config import About, Checkpoint, CheckpointConfig
from openjanus.weights.fields import ConfigFiles
from openjanus.weights.tensors import (
    INDEXES,
    Progress,
    TensorFiles,
    check_finite,
    fill,
    has_weights,
    read_renamed,
    shapes_of,
    to_dtype,
    weight_files,
    write_tensors,
)

Place = Callable[[Janus, str, Tensor], None]  # gives a model on the meta device the tensor of this name
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Format:
    """names: the name of a parameter in our own format -> theirs, several where ours joins them. dropped: tensors that
    nobody needs."""

    names: Callable[[str], tuple[str, ...]]
    dropped: tuple[str, ...]
    read_config: Callable[[ConfigFiles, Mapping[str, Any], TextTokenizer, bool], CheckpointConfig]
    write_config: Callable[[CheckpointConfig, TextTokenizer, Path], None]


def _read_own_config(
    files: ConfigFiles, tensors: Mapping[str, Any], text: TextTokenizer, as_configured: bool
) -> CheckpointConfig:
    return own.build(CheckpointConfig, files.read("config.json"), str(files.folder / "config.json"))


def _write_own_config(config: CheckpointConfig, text: TextTokenizer, folder: Path) -> None:
    own.save(config, folder / "config.json")
    text.save(folder / "tokenizer.json")


FORMATS = {
    "openjanus": Format(names.own_names, (), _read_own_config, _write_own_config),
    "official": Format(names.official_names, names.OFFICIAL_DROPPED, official.read_config, official.write_config),
    "transformers": Format(
        names.transformers_names,
        names.TRANSFORMERS_DROPPED,
        transformers_format.read_config,
        transformers_format.write_config,
    ),
}


SUPPORTED = (
    "openjanus reads Janus-1.3B, Janus-Pro-1B and Janus-Pro-7B, as deepseek-ai publishes them or in the format of "
    "transformers (deepseek-community), and what it has written itself"
)


def detect_format(folder: Path) -> str:
    """Which of `FORMATS` a folder is in, by its config.json. Raises ValueError for something else."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: no config.json; expected a checkpoint folder")
    data = ConfigFiles(folder).open("config.json").data
    kind = str(data.get("model_type", "openjanus"))
    if kind == "multi_modality":  # the official name of several models
        if "vision_gen_enc_config" in data:
            raise ValueError(f"{folder}: JanusFlow, which draws by rectified flow, is another model; {SUPPORTED}")
        if not any(name.startswith("gen_") for name in data):
            raise ValueError(f"{folder}: DeepSeek-VL, which cannot draw, is another model; {SUPPORTED}")
    form = {"multi_modality": "official", "janus": "transformers", "openjanus": "openjanus"}.get(kind)
    if form is None:
        raise ValueError(f"{folder}: model_type {kind!r} is another model; {SUPPORTED}")
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder}: no tokenizer.json; expected a checkpoint folder")
    return form


def read_config(
    folder: Path,
    as_configured: bool = False,
    ignore_config_keys: Sequence[str] = (),
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[CheckpointConfig, TextTokenizer]:
    """All of a checkpoint folder but its tensors; see `load`. The weights need not be there yet.

    shapes: those of the tensors, if they are known already.
    """
    files, form = ConfigFiles(folder, ignore_config_keys), FORMATS[detect_format(folder)]
    if shapes is None:
        shapes = TensorFiles(folder).shapes if has_weights(folder) else {}
    text = TextTokenizer.load(folder / "tokenizer.json")
    try:
        config = form.read_config(files, shapes, text, as_configured)
    except configs.ConfigError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    vocab_size = config.model.language_model.vocab_size
    if text.vocab_size > vocab_size:
        raise ValueError(f"{folder}: the tokenizer has {text.vocab_size} ids, the model only {vocab_size}")
    return config, text


def load(
    folder: Path,
    device: torch.device | str = CPU,
    dtype: torch.dtype | None = torch.float32,
    as_configured: bool = False,
    progress: Progress | None = None,
    place: Place | None = None,
    ignore_config_keys: Sequence[str] = (),
    only: str = "",
) -> Checkpoint:
    """Reads a checkpoint folder of any format; `dtype` None keeps the stored one.

    `place` puts the tensors into the model in a way of its own (inference/quantisation.py), instead of on `device` in
    `dtype`. `as_configured` follows an official preprocessor file even where it is known to be mistaken (foreign.py).
    `ignore_config_keys`: keys of the config files that are left out (fields.py). `only`: read only the tensors whose
    name, of ours, begins so; the others stay on the meta device.
    Raises ValueError naming what is wrong: file, config key or tensor.
    """
    folder = Path(folder)
    form = FORMATS[detect_format(folder)]
    files = TensorFiles(folder)
    config, text = read_config(folder, as_configured, ignore_config_keys, files.shapes)
    with torch.device("meta"), _Uninitialised():
        model = Janus(config.model)
    _fill(model, files, form, place or place_as(torch.device(device), dtype), progress, only)
    about = configs.load(About, folder / "about.json") if (folder / "about.json").is_file() else None
    model.eval().requires_grad_(False)
    return Checkpoint(model, config.make_processor(text), config.sampling, about, config.tasks)


def save(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None = None, form: str = "openjanus") -> None:
    """Writes a checkpoint folder; floating tensors are stored as `dtype` (None: as they are).

    All files are first written into a draft inside the folder, so that the folder may be a mounted volume, a link, or
    lie in one that cannot be written. Then each takes its place at once, config.json last: without it, nobody takes the
    folder for a checkpoint. What else lies in the folder, such as a model card, stays.
    Raises ValueError for a model that the format has no place for, and for values that are not finite in `dtype`.
    """
    folder = Path(folder)
    is_new = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".draft-*"):  # by a process that was killed while it saved
        shutil.rmtree(left, ignore_errors=True)
    draft = folder / f".draft-{os.getpid()}"
    try:
        draft.mkdir()
        _write(checkpoint, draft, dtype, form)
        written = [path.name for path in draft.iterdir()]
        stale_files = {*_weights_in(folder), *INDEXES.values(), "about.json"} - set(written)
        for name in ("config.json", *stale_files):
            (folder / name).unlink(missing_ok=True)
        for name in sorted(written, key=lambda name: name == "config.json"):
            os.replace(draft / name, folder / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # there is something in it
                folder.rmdir()


def _weights_in(folder: Path) -> list[str]:
    try:
        return weight_files(folder)
    except ValueError:  # a damaged index: it goes, too
        return []


def _write(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None, form: str) -> None:
    """Writes all files of a checkpoint into an empty folder."""
    FORMATS[form].write_config(checkpoint.config, checkpoint.processor.text, folder)
    if checkpoint.about is not None:
        configs.save(checkpoint.about, folder / "about.json")
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored_tensors(checkpoint.model).items():
        check_finite(tensor, name, "the model")
        theirs = FORMATS[form].names(checkpoint.model.stored_name(name))
        parts = to_dtype(tensor.detach().cpu(), dtype, name).chunk(len(theirs))
        tensors |= {
            their: part.squeeze(0) if names.is_flat(their, tensor.dim()) else part
            for their, part in zip(theirs, parts, strict=True)
        }
    write_tensors(tensors, folder, {"format": "pt" if form != "openjanus" else "openjanus"})


def load_part(part: nn.Module, run: str, prefix: str, dropped: tuple[str, ...] = ()) -> None:
    """Fills `part` with the tensors under `prefix` of a training run's newest checkpoint.

    `dropped` are patterns of tensors that the part has no use for. Raises ValueError if the run is not there or does
    not fit.
    """
    found = sorted(Path(run).glob("checkpoints/[0-9]*/model.safetensors"))
    if not found:
        raise ValueError(f"{run}: no checkpoint there; train it first")
    files = TensorFiles(found[-1].parent)
    others = [name for name in files.shapes if not name.startswith(prefix)]
    fill(part, files, lambda name: (f"{prefix}{name}",), (*others, *(f"{prefix}{pattern}" for pattern in dropped)))


def stored_tensors(model: Janus) -> dict[str, Tensor]:
    """The tensors that a file holds: all, but a tied text head only once."""
    state = model.state_dict()
    if model.config.language_model.tie_text_head:
        del state["language_model.text_head.weight"]
    return state


def place_as(device: torch.device, dtype: torch.dtype | None) -> Place:
    """Places tensors on `device` in `dtype`; None keeps the stored one.

    In float16, whose range is small, the parts that an eye calls precise stay in float32.
    """

    def place(model: Janus, name: str, tensor: Tensor) -> None:
        narrow = dtype == torch.float16 and name.startswith(model.prefixes("precise"))
        module, _, leaf = name.rpartition(".")
        tensor = to_dtype(tensor, torch.float32 if narrow else dtype, name).to(device)
        if not isinstance(tensor, nn.Parameter):  # a tied head is placed by the parameter that it shares
            tensor = nn.Parameter(tensor, requires_grad=False)
        setattr(model.get_submodule(module), leaf, tensor)

    return place


class _Uninitialised(TorchFunctionMode):
    """Leaves out what initialises parameters: on the meta device it has no effect but that it imports torch's compiler,
    which takes longer than all the rest of loading a small model."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        initialises = getattr(func, "__module__", None) == "torch.nn.init" or func is Tensor.normal_
        return (args or tuple(kwargs.values()))[0] if initialises else func(*args, **(kwargs or {}))


def _fill(model: Janus, files: TensorFiles, form: Format, place: Place, progress: Progress | None, only: str) -> None:
    """Gives the parameters of a model on the meta device, those whose name begins with `only`, their tensors."""
    shapes = shapes_of(stored_tensors(model))

    def names_of(name: str) -> tuple[str, ...]:
        return form.names(model.stored_name(name))

    for name, tensor in read_renamed(files, shapes, names_of, form.dropped, progress, only):
        place(model, name, tensor)
    if model.config.language_model.tie_text_head and "language_model.embedding.weight".startswith(only):
        place(model, "language_model.text_head.weight", model.language_model.embedding.weight)
