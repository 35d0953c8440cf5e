"""Plain language models as the body of a Janus: Llama 2 and 3, DeepSeek-LLM, Mistral, Qwen2, Qwen2.5 and Qwen3.

    config.json
    model.safetensors | shards | pytorch_model*.bin
    tokenizer.json
    tokenizer_config.json, special_tokens_map.json      optional: BOS and EOS

A Janus needs a separate pad id, <begin_of_image>, <end_of_image> and a mark for the place of a picture. If the text
tokenizer lacks them, they are added: first in unused rows of the embedding, then in new rows.
Sources: transformers, models/{llama,qwen2,qwen3,mistral}/configuration_*.py.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from openjanus.config import ConfigError
from openjanus.model.language_model import LanguageModel, LanguageModelConfig
from openjanus.processing.text import TextTokenizer
from openjanus.weights.body import LLAMA, MISTRAL, QWEN2, QWEN3, ignore_indifferent, read_body
from openjanus.weights.fields import ConfigFiles, Fields
from openjanus.weights.names import backbone_names
from openjanus.weights.tensors import TensorFiles, has_weights, read_renamed, shapes_of

FAMILIES = (LLAMA, MISTRAL, QWEN2, QWEN3)
DROPPED = ("*.rotary_emb.inv_freq",)
MISTRAL_WINDOW = 4096  # default if a Mistral's config lacks the key; null switches it off
TEXT_HEAD = "text_head.weight"
ROWS_OF_IDS = ("embedding.weight", TEXT_HEAD)
# The embedding is padded to a multiple of this, because quantised weights (inference/quantisation.py) need whole
# blocks.
ROW_BLOCK = 64


@dataclass(frozen=True)
class Backbone:
    """A plain language model. `config` has room for all ids of `text`. `num_stored`: rows of the embedding in the
    files; `num_known`: rows of the family's own tokens. `window`: length of the sliding window; None: full
    attention."""

    folder: Path
    config: LanguageModelConfig
    text: TextTokenizer
    num_stored: int
    num_known: int
    window: int | None

    def check(self, wanted: LanguageModelConfig) -> None:
        """Raises ValueError if the weights do not fit a body of this config: if its embedding has fewer rows, or if its
        documents can be longer than the sliding window, because openjanus has full attention only."""
        where = self.folder / "config.json"
        if wanted.vocab_size < self.num_stored:
            raise ValueError(f"{where}: vocab_size is {self.num_stored}, but the body has only {wanted.vocab_size}")
        if self.window is not None and self.window < wanted.max_positions:
            raise ValueError(
                f"{where}: sliding_window is {self.window}, but the body has max_positions {wanted.max_positions}, and "
                f"openjanus attends to all of them: add the change model.language_model.max_positions={self.window}"
            )


def read_backbone(folder: Path) -> Backbone:
    """Reads a language model's folder without its weights, which may be missing.

    Raises ValueError for unsupported models: other families, scalings, activations, biases, experts.
    """
    files = ConfigFiles(folder, remedy="correct it, or remove it from the file")
    c = files.open("config.json")
    kind = c.data.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(
            f"{folder}: model_type {kind!r} cannot be the body of a Janus; openjanus reads language models of the "
            f"types {', '.join(FAMILIES)}"
        )
    tied = c.take("tie_word_embeddings", bool, False)
    if tied and has_weights(folder):  # as in transformers, the head stays separate if the files contain it
        tied = "lm_head.weight" not in TensorFiles(folder).shapes
    try:
        config = read_body(c, tied, (kind,))
    except ConfigError as error:
        raise ValueError(f"{c.file}: {error}") from None
    window = _window(c, config.num_layers)
    ignore_indifferent(c)
    files.check()
    tokenizer = _read_tokenizer(folder)
    text = TextTokenizer.adopt(tokenizer, *_ends_of_documents(folder, c, tokenizer))
    num_known = max(tokenizer.get_vocab().values()) + 1
    if num_known > config.vocab_size:
        raise ValueError(f"{folder}: the tokenizer has {num_known} ids, the model only {config.vocab_size}")
    grown = max(config.vocab_size, -(-text.vocab_size // ROW_BLOCK) * ROW_BLOCK)
    num_rows = config.vocab_size if text.vocab_size <= config.vocab_size else grown
    return Backbone(folder, replace(config, vocab_size=num_rows), text, config.vocab_size, num_known, window)


def _window(c: Fields, num_layers: int) -> int | None:
    """The shortest sliding window of all layers."""
    kind = c.data["model_type"]
    if kind == LLAMA:
        return None
    default = MISTRAL_WINDOW if kind == MISTRAL and "sliding_window" not in c.data else 0
    window = c.take("sliding_window", int, default)
    if kind == MISTRAL:
        return window or None
    is_used = c.take("use_sliding_window", bool, False)
    first = c.take("max_window_layers", int, 0)
    kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(num_layers)]
    kinds = c.take("layer_types", list, kinds)
    if other := set(kinds) - {"full_attention", "sliding_attention"}:
        raise ValueError(f"{c.file}: layer_types holds {sorted(other)[0]!r}, openjanus supports full attention only")
    return window or None if is_used and "sliding_attention" in kinds else None


def _read_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(
            f"{folder}: no tokenizer.json; save it there with transformers: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises bare Exception
        raise ValueError(f"{path}: not a tokenizer file ({error})") from None


def _ends_of_documents(folder: Path, c: Fields, tokenizer: Tokenizer) -> tuple[str | None, str]:
    """BOS and EOS. BOS is None for families without it, such as Qwen."""
    bos, eos, begins = None, None, True
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if eos is None and path.is_file():
            settings = ConfigFiles(folder).read(name)
            bos, eos = (_content(settings.get(key)) for key in ("bos_token", "eos_token"))
            begins = begins and settings.get("add_bos_token") is not False
    if eos is None:
        bos, eos = (_token(tokenizer, c.data.get(key)) for key in ("bos_token_id", "eos_token_id"))
    if eos is None or tokenizer.token_to_id(eos) is None:
        raise ValueError(
            f"{folder}: its tokenizer has no token {eos or 'that ends a document'}; name one of its tokens as "
            "eos_token in tokenizer_config.json"
        )
    known = bos is not None and tokenizer.token_to_id(bos) is not None
    return (bos if known and begins and bos != eos else None), eos


def _content(token: Any) -> str | None:
    """The text of a token in transformers' files: a string, or a mapping with it."""
    return token.get("content") if isinstance(token, dict) else token


def _token(tokenizer: Tokenizer, id: Any) -> str | None:
    """The token of an id, or of the first of several."""
    id = id[0] if isinstance(id, list) and id else id
    return tokenizer.id_to_token(id) if isinstance(id, int) else None


def fill_body(model: LanguageModel, backbone: Backbone) -> None:
    """Loads the weights of a language model into a body. Rows of added tokens are the mean of the family's rows plus
    their random initialisation, so that they differ."""
    state = model.state_dict()
    shapes = shapes_of(state)
    if backbone.config.tie_text_head:
        del shapes[TEXT_HEAD]
    shapes |= {name: (backbone.num_stored, model.config.width) for name in ROWS_OF_IDS if name in shapes}
    with torch.no_grad():
        for name, tensor in read_renamed(TensorFiles(backbone.folder), shapes, backbone_names, DROPPED):
            mine = state[name]
            if name not in ROWS_OF_IDS:
                mine.copy_(tensor)
                continue
            known, new = backbone.num_known, slice(backbone.num_known, backbone.text.vocab_size)
            fresh = mine[new].clone()
            mine[: len(tensor)] = tensor
            mine[new] = tensor[:known].float().mean(dim=0) + fresh
