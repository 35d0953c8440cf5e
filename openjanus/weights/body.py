"""The body's config in the words of transformers, which both foreign formats use, and what else its configs hold.

The body is a Llama. With `qk_norm` it is a Qwen3, written as a Qwen3-MoE without experts: that is the same model, but
transformers' Janus cannot draw with its Qwen3 (5.24: its masks by layer type break `generate`). Source: transformers,
models/llama/configuration_llama.py, models/qwen3_moe/modeling_qwen3_moe.py (Qwen3MoeDecoderLayer).
"""

from typing import Any

from openjanus.model.language_model import LanguageModelConfig
from openjanus.weights.fields import MISSING, Fields

LLAMA, QWEN3 = "llama", "qwen3_moe"
# These count where a key is absent; a Qwen3 must say all.
LLAMA_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
}
# What transformers' base class writes into any config, defaults of text generation, and training settings: nothing
# here changes a forward pass.
INDIFFERENT = (
    "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache", "initializer_*",
    "*_token_id", "attention_dropout", "_attn_implementation*", "_name_or_path", "_commit_hash", "auto_map",
    "id2label", "label2id", "num_labels", "output_attentions", "output_hidden_states", "tie_last_hidden_states",
    "return_dict", "chunk_size_feed_forward", "is_encoder_decoder", "is_decoder", "problem_type", "pretraining_tp",
    "torchscript", "use_bfloat16", "tie_encoder_decoder", "finetuning_task", "task_specific_params", "tokenizer_class",
    "prefix", "tf_legacy_loss",
    # generation: which ids are chosen is ours to say
    "*max_length", "*min_length", "*max_new_tokens", "*min_new_tokens", "max_time", "stop_strings", "do_sample",
    "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "min_p",
    "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff", "*repetition_penalty", "length_penalty",
    "*no_repeat_ngram_size", "bad_words_ids", "force_words_ids", "constraints", "num_return_sequences",
    "output_scores", "output_logits", "return_dict_in_generate", "remove_invalid_values", "renormalize_logits",
    "exponential_decay_length_penalty", "*suppress_tokens", "sequence_bias", "token_healing", "guidance_scale",
    "watermarking_config", "penalty_alpha", "dola_layers", "low_memory", "use_mtp", "cache_implementation",
    "cache_config", "max_cache_len", "prefill_chunk_size", "is_assistant", "*assistant_*", "target_lookbehind",
    "prompt_lookup_num_tokens", "max_matching_ngram_size", "speculation_type", "compile_config", "disable_compile",
    "continuous_batching_config", "_from_model_config",
)  # fmt: skip


def ignore_indifferent(*sections: Fields) -> None:
    """Accepts what any config of transformers may hold beside the model's own keys, unless it changes the model."""
    for c in sections:
        c.ignore(*INDIFFERENT)
        c.expect("add_cross_attention", False)
        c.expect("cross_attention_hidden_size")
        c.expect("pruned_heads", {})


def read_body(c: Fields, tied: bool, kinds: tuple[str, ...] = (LLAMA,)) -> LanguageModelConfig:
    """A body of one of these kinds. tied: the text head is the embedding."""
    c.expect("model_type", *kinds)
    kind = c.take("model_type", str, LLAMA)
    if kind == QWEN3:
        experts = "num_local_experts" if "num_local_experts" in c.data else "num_experts"
        c.take(experts, int)  # more than none by default
        c.expect(experts, 0)
        c.ignore("decoder_sparse_step", "mlp_only_layers", "moe_*", "*expert*", "norm_topk_prob", "*router*")
    c.expect("hidden_act", "silu")
    c.expect("attention_bias", False)
    c.expect("mlp_bias", False)
    c.expect("rope_scaling")
    c.expect("use_sliding_window", False)
    c.ignore("sliding_window", "tie_word_embeddings")
    rope = c.inner("rope_parameters", {})
    rope.expect("rope_type", "default")
    theta = rope.take("rope_theta", float, 10000.0)

    def size(key: str) -> int:
        return c.size(key, MISSING if kind == QWEN3 else LLAMA_DEFAULTS[key])

    num_heads, width = size("num_attention_heads"), size("hidden_size")
    config = LanguageModelConfig(
        vocab_size=size("vocab_size"),
        width=width,
        num_layers=size("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=c.size("num_key_value_heads", num_heads),
        head_width=c.size("head_dim", width // num_heads),
        ffn_width=size("intermediate_size"),
        rms_eps=c.take("rms_norm_eps", float, 1e-6),
        rope_theta=c.take("rope_theta", float, theta),
        max_positions=size("max_position_embeddings"),
        qk_norm=kind == QWEN3,
        tie_text_head=tied,
    )
    ignore_indifferent(c)
    return config


def body_config(lm: LanguageModelConfig) -> dict[str, Any]:
    """What `read_body` reads."""
    kind = {"model_type": QWEN3, "num_experts": 0} if lm.qk_norm else {"model_type": LLAMA, "mlp_bias": False}
    return {
        **kind,
        "hidden_size": lm.width,
        "intermediate_size": lm.ffn_width,
        "num_hidden_layers": lm.num_layers,
        "num_attention_heads": lm.num_heads,
        "num_key_value_heads": lm.num_kv_heads,
        "head_dim": lm.head_width,
        "vocab_size": lm.vocab_size,
        "max_position_embeddings": lm.max_positions,
        "rms_norm_eps": lm.rms_eps,
        "rope_theta": lm.rope_theta,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": lm.tie_text_head,
    }
