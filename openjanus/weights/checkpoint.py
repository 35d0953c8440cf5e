"""Checkpoint folders, in three formats: our own, the official one, and that of transformers.

Our own:

    config.json        {"format": 2, "model": JanusConfig, "processor": ProcessorConfig, "sampling": default sampling
                       settings, "tasks": what it was trained to do}; older formats are read, too (own.py)
    model.safetensors  all parameters by our own names, those of a vision tower by its published ones, or shards with an
                       index; a tied text head is stored once
    tokenizer.json     the text tokenizer (Hugging Face `tokenizers`)
    about.json         optional, in every format: a description for users

Loading is strict, in every format: a tensor that is missing, extra, of another shape or not finite is an error that
names it. The model is built on the meta device and its tensors are mapped from the file, so that a load needs little
more memory than the weights. An interrupted save leaves no folder that looks complete.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from openjanus import config as configs
from openjanus.model.janus import Janus
from openjanus.processing.text import TextTokenizer
from openjanus.weights import names, official, own, transformers_format
from openjanus.weights.adapters import Adapter, merged_state, read_adapter
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

Place = Callable[[Janus, str, Tensor], None]  # puts the tensor of this name into a model on the meta device
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
    """The format of a folder, one of `FORMATS`, by its config.json. Raises ValueError for other models."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: no config.json; expected a checkpoint folder")
    data = ConfigFiles(folder).open("config.json").data
    kind = str(data.get("model_type", "openjanus"))
    if kind == "multi_modality":  # several models have this model_type
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
    """Reads a checkpoint folder without its tensors; see `load`. The weights need not be there yet.

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
    adapter: Path | str | None = None,
) -> Checkpoint:
    """Reads a checkpoint folder of any format; `dtype` None keeps the stored one.

    `place` puts the tensors into the model, instead of `device` and `dtype` (inference/quantisation.py).
    `as_configured` follows a known mistake of official preprocessor files (foreign.py). `ignore_config_keys`: keys of
    the config files to ignore (fields.py). `only`: a prefix of openjanus's names; all other tensors stay on the meta
    device. `adapter`: the folder of an adapter to merge (adapters.py).
    Raises ValueError that names the wrong file, config key or tensor.
    """
    folder = Path(folder)
    form = FORMATS[detect_format(folder)]
    files = TensorFiles(folder)
    config, text = read_config(folder, as_configured, ignore_config_keys, files.shapes)
    with torch.device("meta"), _Uninitialised():
        model = Janus(config.model)
    place = place or place_as(torch.device(device), dtype)
    tasks = config.tasks
    if adapter is not None:
        read = read_adapter(Path(adapter), shapes_of(stored_tensors(model)))
        place, tasks = _adapted(place, read), read.tasks or tasks
    _fill(model, files, form, place, progress, only)
    about = configs.load(About, folder / "about.json") if (folder / "about.json").is_file() else None
    model.eval().requires_grad_(False)
    return Checkpoint(model, config.make_processor(text), config.sampling, about, tasks)


def save(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None = None, form: str = "openjanus") -> None:
    """Writes a checkpoint folder; floating tensors are stored as `dtype` (None: as they are).

    All files are first written into a draft inside the folder, because the folder may be a mounted volume or a link, or
    its parent may be read-only. Then each file is moved into place, config.json last: a folder without it is no
    checkpoint. Other files in the folder, such as a model card, stay.
    Raises ValueError for a model that the format cannot express, and for values that are not finite in `dtype`.
    """
    folder = Path(folder)
    is_new = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".draft-*"):  # of a process that was killed during a save
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
            with suppress(OSError):  # not empty
                folder.rmdir()


def _weights_in(folder: Path) -> list[str]:
    try:
        return weight_files(folder)
    except ValueError:  # a damaged index is removed, too
        return []


def _write(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None, form: str) -> None:
    """Writes all files of a checkpoint into an empty folder."""
    checkpoint = replace(checkpoint, model=checkpoint.model.plain())
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

    `dropped`: patterns of tensors that the part does not have. Raises ValueError if the run is missing or does not fit.
    """
    paths = sorted(Path(run).glob("checkpoints/[0-9]*/model.safetensors"))
    if not paths:
        raise ValueError(f"{run}: no checkpoint in it; train it first")
    files = TensorFiles(paths[-1].parent)
    others = [name for name in files.shapes if not name.startswith(prefix)]
    fill(part, files, lambda name: (f"{prefix}{name}",), (*others, *(f"{prefix}{pattern}" for pattern in dropped)))


def stored_tensors(model: Janus) -> dict[str, Tensor]:
    """The tensors to store: all, with LoRA merged, but a tied text head only once."""
    state = merged_state(model)
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
        if not isinstance(tensor, nn.Parameter):  # a tied head was placed with the embedding
            tensor = nn.Parameter(tensor, requires_grad=False)
        setattr(model.get_submodule(module), leaf, tensor)

    return place


def _adapted(place: Place, adapter: Adapter) -> Place:
    """Merges an adapter before a tensor is placed, so that a quantised matrix is that of the merged one."""
    return lambda model, name, tensor: place(model, name, adapter.applied(name, tensor))


class _Uninitialised(TorchFunctionMode):
    """Skips the initialisation of parameters: on the meta device its only effect would be to import torch's compiler,
    which takes longer than the rest of loading a small model."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        initialises = getattr(func, "__module__", None) == "torch.nn.init" or func is Tensor.normal_
        return (args or tuple(kwargs.values()))[0] if initialises else func(*args, **(kwargs or {}))


def _fill(model: Janus, files: TensorFiles, form: Format, place: Place, progress: Progress | None, only: str) -> None:
    """Loads the tensors of a model on the meta device whose names begin with `only`."""
    shapes = shapes_of(stored_tensors(model))

    def names_of(name: str) -> tuple[str, ...]:
        return form.names(model.stored_name(name))

    for name, tensor in read_renamed(files, shapes, names_of, form.dropped, progress, only):
        place(model, name, tensor)
    if model.config.language_model.tie_text_head and "language_model.embedding.weight".startswith(only):
        place(model, "language_model.text_head.weight", model.language_model.embedding.weight)
    for name, buffer in model.named_buffers():
        if buffer.is_meta and name.startswith(only):
            raise ValueError(f"{name} is a buffer that no checkpoint stores: register it as persistent")
