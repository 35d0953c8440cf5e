"""Plain language models as the body of a Janus: Llama 2 and 3, DeepSeek-LLM, Mistral, Qwen2, Qwen2.5 and Qwen3.

    config.json
    model.safetensors | shards | pytorch_model*.bin
    tokenizer.json
    tokenizer_config.json, special_tokens_map.json      optional: which tokens begin and end a document

A Janus needs a pad id of its own, <begin_of_image>, <end_of_image> and a mark for the place of a picture. Where the
text tokenizer lacks them they are added: first in rows of the embedding that belong to no token, then in new ones.
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
MISTRAL_WINDOW = 4096  # counts where a Mistral's config has no such key; null switches it off
TEXT_HEAD = "text_head.weight"
ROWS_OF_IDS = ("embedding.weight", TEXT_HEAD)
# A table grows to a multiple of this: the stored forms of inference (inference/quantisation.py) want whole blocks.
ROW_BLOCK = 64


@dataclass(frozen=True)
class Backbone:
    """A plain language model. `config` has room for all ids of `text`; the files hold `num_stored` rows, of which
    `num_known` belong to tokens of the family. `window`: how far back its attention looks; None: to the beginning."""

    folder: Path
    config: LanguageModelConfig
    text: TextTokenizer
    num_stored: int
    num_known: int
    window: int | None

    def check(self, wanted: LanguageModelConfig) -> None:
        """Raises ValueError if a body of this config cannot hold the weights: if its table has fewer rows, or if its
        documents are longer than a sliding window, because our attention sees everything."""
        where = self.folder / "config.json"
        if wanted.vocab_size < self.num_stored:
            raise ValueError(f"{where}: vocab_size is {self.num_stored}, but the body has only {wanted.vocab_size}")
        if self.window is not None and self.window < wanted.max_positions:
            raise ValueError(
                f"{where}: sliding_window is {self.window}, but the body has max_positions {wanted.max_positions}, and "
                f"openjanus attends to all of them: add the change model.language_model.max_positions={self.window}"
            )


def read_backbone(folder: Path) -> Backbone:
    """A language model's folder but for its weights, which need not be there yet.

    Raises ValueError for what openjanus cannot honour: other families, scalings, activations, biases, experts.
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
    if tied and has_weights(folder):  # transformers, too, keeps the two apart if a file holds both
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
    """How far back the layers look that look least far."""
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
    """The tokens that begin and end a document. None: nothing begins it, as with Qwen."""
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
    """A token of transformers' files: its text, or a mapping with its text."""
    return token.get("content") if isinstance(token, dict) else token


def _token(tokenizer: Tokenizer, id: Any) -> str | None:
    """The token of an id, or of the first of several."""
    id = id[0] if isinstance(id, list) and id else id
    return tokenizer.id_to_token(id) if isinstance(id, int) else None


def fill_body(model: LanguageModel, backbone: Backbone) -> None:
    """Gives a body the weights of a language model. The rows of tokens that the family lacks begin as the mean of its
    own rows plus what they were initialised with, which tells them apart."""
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
