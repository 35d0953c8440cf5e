"""openjanus push: a folder with a model or an adapter to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

SECRETS = (".*", "**/.*", "checkpoints/**", "tensorboard/**")  # never a part of a model


def push(
    folder: Annotated[Positional[Path], arg(metavar="FOLDER", help="a checkpoint folder, or that of an adapter")],
    name: Annotated[Positional[str], arg(metavar="OWNER/NAME", help="the repository; it is made if need be")],
    private: Annotated[bool, arg(help="if the repository is new, only its owner sees it")] = False,
    message: Annotated[str, arg(help="of the commit")] = "Upload by openjanus",
) -> None:
    """Publish a model or an adapter on the Hugging Face hub. Log in first, by `hf auth login` or HF_TOKEN."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if not any((folder / config).is_file() for config in ("config.json", "adapter_config.json")):
        raise ValueError(f"{folder}: no config.json and no adapter_config.json; expected a checkpoint folder")
    if not (folder / "README.md").is_file():
        raise ValueError(f"{folder}: no README.md; write a model card, such as a training leaves (docs/training.md)")
    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        print(
            api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, ignore_patterns=list(SECRETS))
        )
    except HFValidationError as error:
        raise ValueError(f"{name!r}: expected owner/name ({_line(error)})") from None
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"{name}: the hub did not take it ({_line(error)})") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
