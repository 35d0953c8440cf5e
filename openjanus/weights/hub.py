"""Where a checkpoint is: a local folder, the bundled model, or a repository of the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

BUNDLED = Path(__file__).parents[1] / "assets"
FILES = ("*.json", "*.jinja", "*.safetensors", "pytorch_model*.bin")


def find_checkpoint(source: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint; a hub id (`owner/name`) is downloaded first, with a progress bar, and kept.

    `source` is a folder, `nano` for the bundled model, or a hub id; `revision` a branch, tag or commit of the hub.
    Raises ValueError if there is nothing of that name, or no way to the hub.
    """
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"{folder} is a local folder: a revision belongs to a hub id")
        return folder
    if str(source) == "nano":
        return BUNDLED / "nano"
    owner, slash, name = str(source).partition("/")
    if not (slash and owner and name) or "/" in name or owner in (".", "..", "~"):
        raise ValueError(f"model {str(source)!r}: no such folder; expected a checkpoint folder, a hub id, or nano")
    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=list(FILES)))
    except HFValidationError as error:
        raise ValueError(f"model {str(source)!r}: no such folder, and not a hub id ({_first_line(error)})") from None
    except HfHubHTTPError as error:
        raise ValueError(f"model {str(source)!r}: the hub refuses ({_first_line(error)})") from None
    except OSError as error:  # among them LocalEntryNotFoundError: offline, and not downloaded before
        reason = _first_line(error)
        raise ValueError(f"model {str(source)!r}: no such folder, and the hub cannot be reached ({reason})") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
