"""The tensors of a folder: safetensors, one file or shards with an index, or pickled `.bin` files without code.

Names and shapes are known before a byte of the weights is read; what is read is memory-mapped. No pickle is ever
executed: `.bin` files are opened with torch's `weights_only` loader, which knows tensors and plain containers alone.
"""

import json
import math
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from openjanus.weights.names import is_flat

Progress = Callable[[int, int], None]  # (tensors done, tensors in all)
SHARD_SIZE = "5GB"
# The name of a single file -> that of the index of shards instead.
INDEXES = {name: f"{name}.index.json" for name in ("model.safetensors", "pytorch_model.bin")}
# A mapped file counts as memory of ours once it is read. Converting another dtype, it is let go after so many bytes.
GROUP_BYTES = 1 << 28


class TensorFiles:
    """The weights in a folder, or in one pickled file, which keeps them under `key`.

    shapes: name -> shape, of all of them.
    """

    def __init__(self, path: Path, key: str = ""):
        self.path, self.key = path, key
        self.file_of: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        files = [path] if path.is_file() else [path / name for name in weight_files(path)]
        if not files:
            raise ValueError(f"{path}: no weights there; expected model.safetensors, its shards, or .bin files")
        for file in files:
            if not file.is_file():
                raise ValueError(f"{file}: missing, though the index names it; copy or download it again")
            with self._open(file) as tensors:
                for name, shape in tensors.shapes():
                    if name in self.file_of:
                        raise ValueError(f"{path}: {name} stands both in {self.file_of[name].name} and in {file.name}")
                    self.file_of[name], self.shapes[name] = file, shape
        if absent := sorted(_indexed(path).keys() - self.file_of.keys()):
            raise ValueError(f"{path}: {absent[0]} is in the index, but not in its file")

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """The tensors named, mapped from their files where the platform can, file by file.

        A mapped file is opened again after `GROUP_BYTES`: what was read before and is not kept is then let go.
        """
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.file_of[name], []).append(name)
        for file, members in by_file.items():
            left = deque(members)
            while left:
                with self._open(file) as tensors:
                    size = 0
                    while left and (size < GROUP_BYTES or not tensors.mapped):
                        tensor = tensors.get(left[0])
                        size += tensor.nbytes
                        yield left.popleft(), tensor
                        del tensor  # it would keep the whole file mapped

    @contextmanager
    def _open(self, file: Path) -> Iterator["_Safetensors | _Pickled"]:
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, "pt") as opened:
                    yield _Safetensors(opened)
            except SafetensorError as error:
                raise ValueError(f"{file}: damaged or not safetensors ({error})") from None
        else:
            yield _Pickled(file, self.key)


class _Safetensors:
    mapped = True

    def __init__(self, file: Any):
        self.file = file

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name in self.file.keys():  # noqa: SIM118  (not a dict)
            yield name, tuple(self.file.get_slice(name).get_shape())

    def get(self, name: str) -> Tensor:
        return self.file.get_tensor(name)


class _Pickled:
    def __init__(self, path: Path, key: str):
        self.mapped = zipfile.is_zipfile(path)  # older files are one pickle, not an archive, and come in whole
        try:
            self.state = torch.load(path, "cpu", weights_only=True, mmap=self.mapped)
        except OSError:
            raise
        except Exception as error:  # torch raises the errors of pickle, which have no better parent
            raise ValueError(f"{path}: damaged, or it holds more than tensors; refused ({first_line(error)})") from None
        if key:
            self.state = self.state.get(key) if isinstance(self.state, dict) else None
        if not isinstance(self.state, dict) or not all(isinstance(t, Tensor) for t in self.state.values()):
            where = f" under {key!r}" if key else ""
            raise ValueError(f"{path}: expected a mapping of names to tensors{where}")

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from ((name, tuple(t.shape)) for name, t in self.state.items())

    def get(self, name: str) -> Tensor:
        return self.state[name]


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold a folder's weights; safetensors before pickles."""
    if indexed := _indexed(folder):
        return sorted(set(indexed.values()))
    for pattern in ("model.safetensors", "pytorch_model.bin", "pytorch_model-*.bin"):
        if found := sorted(p.name for p in folder.glob(pattern)):
            return found
    return []


def has_weights(folder: Path) -> bool:
    """Whether all files are there that hold a folder's weights."""
    names = weight_files(folder)
    return bool(names) and all((folder / name).is_file() for name in names)


def _indexed(folder: Path) -> dict[str, str]:
    """Name of each tensor -> its file, as the folder's index says; empty without an index that counts."""
    for single, index in INDEXES.items():
        if (folder / single).is_file():
            return {}
        path = folder / index
        if path.is_file():
            try:
                files = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
                if not all(Path(name).name == name for name in files.values()):
                    raise ValueError("it names a file in another folder")
                return files
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}: not an index of shards ({error})") from None
    return {}


def write_tensors(tensors: dict[str, Tensor], folder: Path, metadata: dict[str, str]) -> None:
    """Writes model.safetensors, or shards with an index if they take more than `SHARD_SIZE`.

    Raises OSError naming a file that there is no room for.
    """
    tensors = _with_memory_of_their_own(tensors)
    plan = split_torch_state_dict_into_shards(tensors, max_shard_size=SHARD_SIZE)
    for name, members in plan.filename_to_tensors.items():
        try:
            save_file({member: tensors[member].contiguous() for member in members}, folder / name, metadata)
        except SafetensorError as error:
            raise OSError(f"{folder / name}: cannot be written ({error})") from None
        (folder / name).chmod(0o644)  # safetensors makes it readable by its owner alone
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEXES["model.safetensors"]).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _with_memory_of_their_own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors stores no tensor twice, but a pickled file may: a tied head beside its embedding."""
    taken: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        own[name] = tensor.clone() if tensor.data_ptr() in taken else tensor
        taken.add(tensor.data_ptr())
    return own


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinities; in one pass, without a copy."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # of 8-bit formats torch knows no least and largest
    least, largest = torch.aminmax(tensor if tensor.element_size() > 1 else tensor.float())
    return math.isfinite(least.item()) and math.isfinite(largest.item())


def check_finite(tensor: Tensor, name: str, where: str) -> None:
    """Raises ValueError naming the tensor if it holds NaN or infinities."""
    if not is_finite(tensor):
        raise ValueError(
            f"{where}: {name} holds NaN or infinite values: its file is damaged, or the training that made it diverged"
        )


def to_dtype(tensor: Tensor, dtype: torch.dtype | None, name: str) -> Tensor:
    """A finite tensor in another dtype; None keeps it. Raises ValueError if a value leaves the dtype's range."""
    if dtype is None or dtype == tensor.dtype or not tensor.is_floating_point():
        return tensor if dtype is None else tensor.to(dtype)
    converted = tensor.to(dtype)
    if torch.finfo(dtype).max < torch.finfo(tensor.dtype).max and not is_finite(converted):
        raise ValueError(
            f"{name} has values up to {tensor.abs().max().item():.3g}, but {str(dtype).removeprefix('torch.')} ends at "
            f"{torch.finfo(dtype).max:.3g}: use bfloat16 or float32"
        )
    return converted


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, such as of a state dict."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_shapes(
    found: dict[str, tuple[int, ...]],
    wanted: dict[str, tuple[int, ...]],
    where: str,
    dropped: tuple[str, ...] = (),
) -> None:
    """Raises ValueError naming the first tensors that are missing, unknown or of another shape.

    `dropped` are patterns of tensors that may be there and are not used.
    """
    wrong = [f"missing {name}" for name in wanted if name not in found]
    wrong += [
        f"unknown {name}"
        for name in found
        if name not in wanted and not any(fnmatchcase(name, pattern) for pattern in dropped)
    ]
    wrong += [
        f"{name} has shape {list(found[name])}, expected {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"{where}: {'; '.join(wrong[:3])}{more}")


def read_renamed(
    files: TensorFiles,
    shapes: Mapping[str, tuple[int, ...]],
    names_of: Callable[[str], tuple[str, ...]],
    dropped: tuple[str, ...] = (),
    progress: Progress | None = None,
    only: str = "",
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of these names and shapes, from files that hold them by other names (names.py).

    dropped: patterns of theirs that nobody needs. only: give those whose name begins so; all are checked.
    Raises ValueError naming tensors that are missing, unknown, of another shape or not finite.
    """
    parts_of = {name: names_of(name) for name in shapes}
    wanted: dict[str, tuple[int, ...]] = {}
    for name, parts in parts_of.items():
        rows, *rest = shapes[name]
        for part in parts:
            wanted[part] = tuple(rest) if is_flat(part, len(shapes[name])) else (rows // len(parts), *rest)
    check_shapes(files.shapes, wanted, str(files.path), dropped)
    owner = {part: name for name, parts in parts_of.items() for part in parts if name.startswith(only)}
    waiting: dict[str, dict[str, Tensor]] = {}
    for done, (part, tensor) in enumerate(files.read(owner), 1):
        check_finite(tensor, part, str(files.path))
        name = owner[part]
        read = waiting.setdefault(name, {})
        read[part] = tensor
        if len(read) == len(parts_of[name]):
            whole = torch.cat([read[p] for p in parts_of[name]]) if len(read) > 1 else read[part]
            del waiting[name]
            yield name, whole.view(shapes[name])
        if progress is not None:
            progress(done, len(owner))


def fill(
    module: nn.Module, files: TensorFiles, names_of: Callable[[str], tuple[str, ...]], dropped: tuple[str, ...] = ()
) -> None:
    """Gives a module its tensors as `read_renamed` finds them. Raises ValueError as that does."""
    module.load_state_dict(dict(read_renamed(files, shapes_of(module.state_dict()), names_of, dropped)))
