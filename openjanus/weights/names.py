"""Our parameter names in the words of the official and the transformers checkpoints.

A table maps our module paths, numbers left out, to theirs. Almost all is renaming; two things are more: transformers
keeps q, k and v of the vision encoder apart and its position embedding without a leading 1. Sources:
deepseek-ai/Janus (models/*.py); transformers, models/janus/modeling_janus.py.
"""

Table = dict[str, str]

# Tensors that may be there and that nobody needs: SigLIP's pooling head, usage statistics, tables that are computed.
OFFICIAL_DROPPED = (
    "vision_model.vision_tower.attn_pool.*",
    "gen_vision_model.quantize.codebook_used",
    "*.rotary_emb.inv_freq",
)
TRANSFORMERS_DROPPED = ("*.rotary_emb.inv_freq", "*.position_ids")


def _body(prefix: str, head: str) -> Table:
    layer, ours = f"{prefix}.layers.{{}}", "language_model.layers.{}"
    return {
        "language_model.embedding": f"{prefix}.embed_tokens",
        "language_model.norm": f"{prefix}.norm",
        "language_model.text_head": head,
        f"{ours}.attention_norm": f"{layer}.input_layernorm",
        f"{ours}.ffn_norm": f"{layer}.post_attention_layernorm",
        f"{ours}.attention.out": f"{layer}.self_attn.o_proj",
        **{f"{ours}.attention.{x}": f"{layer}.self_attn.{x}_proj" for x in "qkv"},
        **{f"{ours}.attention.{x}_norm": f"{layer}.self_attn.{x}_norm" for x in "qk"},
        **{f"{ours}.ffn.{x}": f"{layer}.mlp.{x}_proj" for x in ("gate", "up", "down")},
    }


def _image_tokenizer(prefix: str, encoder_levels: str, decoder_levels: str, block: str) -> Table:
    table = {"codebook": "quantize.embedding", "to_code": "quant_conv", "from_code": "post_quant_conv"}
    res = {x: x for x in ("norm1", "conv1", "norm2", "conv2")} | {"shortcut": "nin_shortcut"}
    attention = {x: x for x in ("norm", "q", "k", "v")} | {"out": "proj_out"}
    for side, levels, resample in (
        ("encoder", encoder_levels, "downsample"),
        ("decoder", decoder_levels, "upsample"),
    ):
        ours, theirs = f"{side}.levels.{{}}", f"{side}.{levels}.{{}}"
        table |= {f"{side}.{x}": f"{side}.{x}" for x in ("conv_in", "norm_out", "conv_out")}
        table |= {f"{ours}.blocks.{{}}.{a}": f"{theirs}.{block}.{{}}.{b}" for a, b in res.items()}
        table |= {f"{ours}.attentions.{{}}.{a}": f"{theirs}.attn.{{}}.{b}" for a, b in attention.items()}
        table |= {f"{side}.middle.{{}}.{a}": f"{side}.mid.{{}}.{b}" for a, b in (res | attention).items()}
        table[f"{ours}.resample.conv"] = f"{theirs}.{resample}.conv"
    return {f"generation.tokenizer.{a}": f"{prefix}.{b}" for a, b in table.items()}


def _vision_encoder(prefix: str, block: str, parts: Table, rest: Table) -> Table:
    ours = "understanding.encoder"
    return {
        **{f"{ours}.{a}": f"{prefix}.{b}" for a, b in rest.items()},
        **{f"{ours}.blocks.{{}}.{a}": f"{prefix}.{block}.{b}" for a, b in parts.items()},
    }


def _siglip(prefix: str, out: str) -> Table:
    parts = {
        "attention_norm": "layer_norm1",
        "attention.qkv": "self_attn.qkv",
        "attention.out": f"self_attn.{out}",
        "mlp_norm": "layer_norm2",
        "mlp.up": "mlp.fc1",
        "mlp.down": "mlp.fc2",
    }
    rest = {
        "patch": "embeddings.patch_embedding",
        "position": "embeddings.position_embedding.weight",
        "norm": "post_layernorm",
    }
    return _vision_encoder(prefix, "encoder.layers.{}", parts, rest)


OFFICIAL: Table = {
    **_body("language_model.model", "language_model.lm_head"),
    **_image_tokenizer("gen_vision_model", "conv_blocks", "conv_blocks", "res"),
    **_vision_encoder(
        "vision_model.vision_tower",
        "blocks.{}",
        {
            "attention_norm": "norm1",
            "attention.qkv": "attn.qkv",
            "attention.out": "attn.proj",
            "mlp_norm": "norm2",
            "mlp.up": "mlp.fc1",
            "mlp.down": "mlp.fc2",
        },
        {"patch": "patch_embed.proj", "position": "pos_embed", "norm": "norm"},
    ),
    "understanding.adaptor.up": "aligner.layers.0",
    "understanding.adaptor.out": "aligner.layers.2",
    "generation.adaptor.up": "gen_aligner.layers.0",
    "generation.adaptor.out": "gen_aligner.layers.2",
    "generation.embedding": "gen_embed",
    "generation.head.up": "gen_head.output_mlp_projector",
    "generation.head.out": "gen_head.vision_head",
}

TRANSFORMERS: Table = {
    **_body("model.language_model", "lm_head"),
    **_image_tokenizer("model.vqmodel", "down", "up", "block"),
    **_siglip("model.vision_model", "projection_layer"),
    "understanding.adaptor.up": "model.aligner.fc1",
    "understanding.adaptor.out": "model.aligner.hidden_layers.0",
    "generation.adaptor.up": "model.generation_aligner.fc1",
    "generation.adaptor.out": "model.generation_aligner.hidden_layers.0",
    "generation.embedding": "model.generation_embeddings",
    "generation.head.up": "model.generation_head.proj_out",
    "generation.head.out": "model.generation_head.vision_head",
}
SIGLIP = _siglip("vision_model", "out_proj")
BACKBONE: Table = {name.removeprefix("language_model."): theirs for name, theirs in _body("model", "lm_head").items()}
_MIDDLE = {"mid.0.": "mid.block_1.", "mid.1.": "mid.attn_1.", "mid.2.": "mid.block_2."}


def is_flat(their_name: str, num_dims: int) -> bool:
    """Whether this tensor lacks the leading dimension of 1 that ours, of so many dimensions, has."""
    return num_dims == 3 and their_name.endswith("position_embedding.weight")


def own_names(name: str) -> tuple[str, ...]:
    return (name,)


def official_names(name: str) -> tuple[str, ...]:
    """The official name of our parameter."""
    return (_translate(name, OFFICIAL),)


def transformers_names(name: str) -> tuple[str, ...]:
    """The names in transformers of our parameter; several where ours is theirs joined along the first dimension."""
    theirs = _translate(name, TRANSFORMERS)
    for ours, named in _MIDDLE.items():
        theirs = theirs.replace(ours, named)
    return _apart(theirs)


def siglip_names(name: str) -> tuple[str, ...]:
    """The names in SigLIP, as transformers has it, of a vision encoder's parameter."""
    return _apart(_translate(f"understanding.encoder.{name}", SIGLIP))


def llamagen_names(name: str) -> tuple[str, ...]:
    """The name in LlamaGen of an image tokenizer's parameter; the official checkpoints have kept it."""
    return (official_names(f"generation.tokenizer.{name}")[0].removeprefix("gen_vision_model."),)


def backbone_names(name: str) -> tuple[str, ...]:
    """The name of a body's parameter in a plain language model of transformers."""
    return (_translate(name, BACKBONE),)


def _apart(theirs: str) -> tuple[str, ...]:
    """Our q, k and v of a vision encoder are one matrix, theirs are three."""
    return tuple(theirs.replace(".qkv.", f".{x}_proj.") for x in "qkv") if ".qkv." in theirs else (theirs,)


def _translate(name: str, table: Table) -> str:
    parts = name.split(".")
    numbers = [part for part in parts if part.isdigit()]
    pattern = ".".join("{}" if part.isdigit() else part for part in parts)
    stem, _, leaf = pattern.rpartition(".")
    if pattern not in table and stem not in table:
        raise ValueError(f"{name} has no name in this format: it has no place for such a part")
    return (table[pattern] if pattern in table else f"{table[stem]}.{leaf}").format(*numbers)
