"""The body's config in the words of transformers, which both foreign formats use, and what else its configs hold.

The body is a Llama. With `qk_norm` it is a Qwen3. Inside a Janus that is written as a Qwen3-MoE without experts: it is
the same model, but transformers' Janus cannot draw with its Qwen3 (5.24: its masks by layer type break `generate`).
Sources: transformers, models/llama/configuration_llama.py, models/qwen3_moe/modeling_qwen3_moe.py
(Qwen3MoeDecoderLayer), modeling_rope_utils.py.
"""

from typing import Any

from openjanus.model.language_model import LanguageModelConfig
from openjanus.model.rope_scaling import LinearRope, Llama3Rope, RopeScaling
from openjanus.weights.fields import MISSING, Fields

LLAMA, QWEN3_IN_JANUS = "llama", "qwen3_moe"
QWEN2, QWEN3, MISTRAL = "qwen2", "qwen3", "mistral"
# These count where a key of a Llama is absent; the other families must say all.
LLAMA_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
}
# What transformers' base class writes into any config, defaults of text generation, and training settings: nothing
# here changes a forward pass. Whoever needs tie_word_embeddings has taken it before.
INDIFFERENT = (
    "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache", "initializer_*",
    "*_token_id", "attention_dropout", "_attn_implementation*", "_name_or_path", "_commit_hash", "auto_map",
    "id2label", "label2id", "num_labels", "output_attentions", "output_hidden_states", "tie_last_hidden_states",
    "return_dict", "chunk_size_feed_forward", "is_encoder_decoder", "is_decoder", "problem_type", "pretraining_tp",
    "torchscript", "use_bfloat16", "tie_encoder_decoder", "finetuning_task", "task_specific_params", "tokenizer_class",
    "prefix", "tf_legacy_loss", "tie_word_embeddings",
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


def ignore_indifferent(config: Fields) -> None:
    """Accepts what any config of transformers may hold beside the model's own keys, unless it changes the model. To be
    called once, for the whole file, when all its sections have been read."""
    for c in config.all():
        c.ignore(*INDIFFERENT)
        c.expect("add_cross_attention", False)
        c.expect("cross_attention_hidden_size")
        c.expect("pruned_heads", {})


def read_body(c: Fields, tied: bool, kinds: tuple[str, ...] = (LLAMA,)) -> LanguageModelConfig:
    """A body of one of these kinds. tied: the text head is the embedding."""
    c.expect("model_type", *kinds)
    kind = c.take("model_type", str, LLAMA)
    if kind == QWEN3_IN_JANUS:
        experts = "num_local_experts" if "num_local_experts" in c.data else "num_experts"
        c.take(experts, int)  # more than none by default
        c.expect(experts, 0)
        c.ignore("decoder_sparse_step", "mlp_only_layers", "moe_*", "*expert*", "norm_topk_prob", "*router*")
    c.expect("hidden_act", "silu")
    c.expect("attention_bias", False)
    c.expect("mlp_bias", False)
    if kind in (LLAMA, QWEN3_IN_JANUS):
        c.expect("use_sliding_window", False)
        c.ignore("sliding_window")
    rope = c.inner("rope_parameters", {})
    theta = rope.take("rope_theta", float, 10000.0)
    scalings = [read_rope_scaling(section) for section in (rope, c.inner("rope_scaling", {}))]

    def size(key: str) -> int:
        return c.size(key, LLAMA_DEFAULTS[key] if kind == LLAMA else MISSING)

    num_heads, width = size("num_attention_heads"), size("hidden_size")
    if kind == QWEN3 and "head_dim" not in c.data:
        raise ValueError(f"{c.file}: {c.path('head_dim')} is missing")
    return LanguageModelConfig(
        vocab_size=size("vocab_size"),
        width=width,
        num_layers=size("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=c.size("num_key_value_heads", num_heads if kind == LLAMA else MISSING),
        head_width=c.size("head_dim", width // num_heads),
        ffn_width=size("intermediate_size"),
        rms_eps=c.take("rms_norm_eps", float, 1e-6),
        rope_theta=c.take("rope_theta", float, theta),
        rope_scaling=next((scaling for scaling in scalings if scaling is not None), None),
        max_positions=size("max_position_embeddings"),
        qk_norm=kind in (QWEN3, QWEN3_IN_JANUS),
        qkv_bias=kind == QWEN2,
        tie_text_head=tied,
    )


def read_rope_scaling(c: Fields) -> RopeScaling | None:
    """How rotary positions are scaled; an empty mapping means that they are not. Other scalings than `linear` and
    `llama3` need more than other frequencies, and are unsupported."""
    key = "type" if "type" in c.data and "rope_type" not in c.data else "rope_type"  # older files have the short name
    c.expect(key, "default", "linear", "llama3")
    c.expect("partial_rotary_factor", 1.0)
    c.ignore("type", "rope_theta")
    if c.data.get(key) not in (None, "default", "linear", "llama3"):
        c.ignore("*")  # whatever else it has, its type is what is wrong
    match c.data.get(key):
        case "linear":
            return LinearRope(c.take("factor", float))
        case "llama3":
            return Llama3Rope(
                c.take("factor", float),
                c.take("low_freq_factor", float),
                c.take("high_freq_factor", float),
                c.size("original_max_position_embeddings"),
            )
    return None


def rope_scaling_words(scaling: RopeScaling | None) -> dict[str, Any]:
    """What `read_rope_scaling` reads."""
    match scaling:
        case LinearRope():
            return {"rope_type": "linear", "factor": scaling.factor}
        case Llama3Rope():
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
                "original_max_position_embeddings": scaling.original_positions,
            }
    return {}


def body_config(lm: LanguageModelConfig) -> dict[str, Any]:
    """What `read_body` reads."""
    kind = {"model_type": QWEN3_IN_JANUS, "num_experts": 0} if lm.qk_norm else {"model_type": LLAMA, "mlp_bias": False}
    scaling = {} if lm.rope_scaling is None else {"rope_scaling": rope_scaling_words(lm.rope_scaling)}
    return {
        **kind,
        **scaling,
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
