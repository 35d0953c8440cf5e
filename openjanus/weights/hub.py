"""Where a checkpoint is: the bundled model, a local folder, or a repository of the Hugging Face hub."""

import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from openjanus.weights.checkpoint import read_config
from openjanus.weights.tensors import first_line, has_weights

BUNDLED = Path(__file__).parents[1] / "assets"
NANO = "nano"
CONFIGS = ("*.json", "*.jinja")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")  # the first of which a repository has anything


def find_checkpoint(source: str | Path, revision: str | None = None, ignore_config_keys: Sequence[str] = ()) -> Path:
    """The folder of a checkpoint: everything that takes a checkpoint asks here.

    source: `nano`, which always is the bundled model; a folder, such as `./nano`, or the folder of a finished run; or a
    hub id (`owner/name`), which is downloaded first, with a progress bar, and kept. A `Path` always is a folder.
    revision: a branch, tag or commit of the hub. ignore_config_keys: as in `checkpoint.load`; the config is checked
    before the weights are downloaded.
    Raises ValueError if there is nothing of that name, no way to the hub, or a config that openjanus cannot honour.
    """
    return find_folder(source, revision, partial(read_config, ignore_config_keys=ignore_config_keys))


def find_folder(source: str | Path, revision: str | None, check: Callable[[Path], object]) -> Path:
    """As `find_checkpoint`, for whatever `check` accepts, by its config files, before the weights are downloaded."""
    folder = BUNDLED / NANO if source == NANO else Path(source)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(
                f"{'nano is bundled' if source == NANO else f'{folder} is a local folder'}: "
                "a revision belongs to a hub id"
            )
        return _model_of(folder)
    owner, slash, name = str(source).partition("/")
    if not (slash and owner and name) or "/" in name or owner in (".", "..", "~"):
        raise ValueError(f"model {str(source)!r}: no such folder; expected a checkpoint folder, a hub id, or nano")
    return _download(str(source), revision, check)


def _model_of(folder: Path) -> Path:
    """A run stands for the model that it ended with."""
    if (folder / "config.json").is_file() or not (folder / "run.json").is_file():
        return folder
    if not (folder / "model" / "config.json").is_file():
        raise ValueError(
            f"{folder}: a run without a finished model; `openjanus convert {folder} TARGET` writes its newest state "
            "as a checkpoint folder"
        )
    return folder / "model"


def _download(name: str, revision: str | None, check: Callable[[Path], object]) -> Path:
    folder = _snapshot(name, revision, CONFIGS)
    if has_weights(folder):  # downloaded before
        return folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come when the checkpoint is loaded
        check(folder)
    if re.fullmatch("[0-9a-f]{40}", folder.name):  # the cache names a snapshot by its commit: stay with it
        revision = folder.name
    for pattern in WEIGHTS:
        folder = _snapshot(name, revision, (pattern,))
        if has_weights(folder):
            break
    return folder


def _snapshot(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except HFValidationError as error:
        raise ValueError(f"model {name!r}: no such folder, and not a hub id ({first_line(error)})") from None
    except HfHubHTTPError as error:
        raise ValueError(f"model {name!r}: the hub refuses ({first_line(error)})") from None
    except OSError as error:  # among them LocalEntryNotFoundError: offline, and not downloaded before
        reason = first_line(error)
        raise ValueError(f"model {name!r}: no such folder, and the hub cannot be reached ({reason})") from None
