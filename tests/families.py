"""Tiny language models of every family in transformers' format, with random weights and a tokenizer of their own kind.

Each tokenizer knows the tokens that end (and begin) the family's documents, and none of Janus.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.tiny import shake

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 5000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
CORPUS = ["two red apples and a big green car on a white background", "what is it? it is a purple butterfly."] * 9

# family -> (model class, config, what begins a document, what ends it)
FAMILIES: dict[str, tuple[type[PreTrainedModel], Any, str | None, str]] = {
    "llama-2": (LlamaForCausalLM, LlamaConfig(**SIZES), "<s>", "</s>"),
    "llama-3": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
        "<|begin_of_text|>",
        "<|end_of_text|>",
    ),
    "deepseek-llm": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, rope_parameters=LINEAR_ROPE),
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
    ),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, head_dim=32, sliding_window=512), "<s>", "</s>"),
    "qwen2.5": (Qwen2ForCausalLM, Qwen2Config(**SIZES, tie_word_embeddings=True), None, "<|endoftext|>"),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=32), None, "<|im_end|>"),
}
NO_BOS = [name for name, (_, _, bos, _) in FAMILIES.items() if bos is None]


def byte_level(specials: Iterable[str]) -> Tokenizer:
    """As those of Llama 3, DeepSeek-LLM and Qwen: the special tokens come after all others."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def sentence_pieces(specials: Iterable[str]) -> Tokenizer:
    """As those of Llama 2 and Mistral: ▁ for spaces, unknown characters as bytes, the special tokens first."""
    first = ["<unk>", *specials, *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = sorted({*"".join(CORPUS), "▁", ":", "\n"} - {" "})
    vocab = {token: id for id, token in enumerate([*first, *letters, "re", "▁re"])}
    model = models.BPE(vocab, [("r", "e"), ("▁", "re")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = (decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(list(parts))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", *specials)])
    return tokenizer


def language_model(family: str, folder: Path, num_rows: int = 448) -> PreTrainedModel:
    """Writes a family's folder and returns its model. num_rows: of the embedding; the tokenizers have about 300 ids."""
    model_class, config, bos, eos = FAMILIES[family]
    config = type(config)(**{**config.to_dict(), "vocab_size": num_rows})
    torch.manual_seed(0)
    model = shake(model_class(config)).eval()
    model.save_pretrained(folder)
    specials = [eos] if bos is None else [bos, eos]
    tokenizer = (sentence_pieces if "<s>" in specials else byte_level)(specials)
    if bos is not None:
        ids = [(bos, tokenizer.token_to_id(bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": bos, "eos_token": {"content": eos, "special": True}, "pad_token": eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return model
