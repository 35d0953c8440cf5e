"""The reference: transformers' Janus at a tiny random size, written by its own code; and the official folder of the
same weights, written by names spelled out here rather than by ours."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import (
    GenerationConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusProcessor,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

from openjanus.emoji.sources import world_text_tokenizer

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
PICTURE, BOI, EOI = "<image_placeholder>", "<begin_of_image>", "<end_of_image>"
ROLES = {"deepseek": ("<|User|>", "<|Assistant|>"), "deepseek_old": ("User", "Assistant")}
NUM_FEATURES = 16
WIDTH, SIZE_PX = 64, 64


def tokenizer_file(path: Path, template: str) -> Path:
    """A vocabulary of 1,024 words with the special tokens of Janus-Pro, or of Janus-1.3B after loading."""
    tokenizer = Tokenizer.from_str(world_text_tokenizer().tokenizer.to_str())
    tokenizer.add_special_tokens([PICTURE, *(ROLES["deepseek"] if template == "deepseek" else ())])
    tokenizer.save(str(path))
    return path


def make_model(seed: int = 0, tied: bool = False) -> JanusForConditionalGeneration:
    """Random weights, large enough that no part can be left out unseen.

    tied: the text head is the embedding. As transformers' converter does, only the outermost config says so.
    """
    torch.manual_seed(seed)
    text = LlamaConfig(
        vocab_size=1088,
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        rope_theta=10000.0,
        rms_norm_eps=1e-6,
    )
    vision = JanusVisionConfig(
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIZE_PX,
        patch_size=16,
        mlp_ratio=2.0,
        num_image_tokens=NUM_FEATURES,
        projection_dim=WIDTH,
        depth=2,
    )
    vq = JanusVQVAEConfig(
        embed_dim=8,
        num_embeddings=96,
        latent_channels=32,
        base_channels=32,
        channel_multiplier=[1, 1, 1, 1, 2],
        num_res_blocks=2,
        projection_dim=WIDTH,
        image_token_embed_dim=WIDTH,
        depth=2,  # no field of this config; the converter gives it, and every save keeps it
    )
    config = JanusConfig(text_config=text, vision_config=vision, vq_config=vq, tie_word_embeddings=tied)
    model = JanusForConditionalGeneration(config).eval().requires_grad_(False)
    for name, p in model.named_parameters():
        if p.dim() == 1:
            p.add_(0.1 * torch.randn(p.shape))
        else:
            p.copy_(torch.randn(p.shape) * (1.0 if "embed" in name else p[0].numel() ** -0.5))
    if tied:  # else the model would say one word again and again
        model.model.language_model.embed_tokens.weight.mul_(0.03)
    return model


def make_reference(
    folder: Path, template: str = "deepseek", seed: int = 0, tied: bool = False
) -> tuple[JanusForConditionalGeneration, JanusProcessor]:
    """Model and processor of transformers, saved into `folder` by the steps of its own converter
    (convert_janus_weights_to_hf.py), and read from there again by transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file(folder / "tokenizer.json", template)),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens={"image_token": PICTURE, "boi_token": BOI, "eoi_token": EOI},
        padding_side="left",
    )
    half = [0.5, 0.5, 0.5]
    images = JanusImageProcessorPil(size={"height": SIZE_PX, "width": SIZE_PX}, image_mean=half, image_std=half)
    user, assistant = ROLES[template]
    processor = JanusProcessor(images, tokenizer, chat_template=f"{user}{assistant}", num_image_tokens=NUM_FEATURES)
    model = make_model(seed, tied)
    model.config.image_token_id = tokenizer.convert_tokens_to_ids(PICTURE)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        guidance_scale=5.0,
        temperature=1.0,
        generation_kwargs={"boi_token_id": tokenizer.convert_tokens_to_ids(BOI)},
    )
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return JanusForConditionalGeneration.from_pretrained(folder).eval().requires_grad_(False), processor


# Keys of transformers -> official keys, in the order of transformers' own converter.
RENAMED = (
    (r"^model\.vision_model\.embeddings\.patch_embedding\.", "vision_model.vision_tower.patch_embed.proj."),
    (r"^model\.vision_model\.embeddings\.position_embedding\.weight", "vision_model.vision_tower.pos_embed"),
    (r"^model\.vision_model\.encoder\.layers\.(\d+)\.", r"vision_model.vision_tower.blocks.\1."),
    (r"^model\.vision_model\.post_layernorm\.", "vision_model.vision_tower.norm."),
    (r"(vision_tower\.blocks\.\d+)\.layer_norm(\d)\.", r"\1.norm\2."),
    (r"(vision_tower\.blocks\.\d+)\.self_attn\.projection_layer\.", r"\1.attn.proj."),
    (r"^model\.(aligner|generation_aligner)\.fc1\.", r"\1.layers.0."),
    (r"^model\.(aligner|generation_aligner)\.hidden_layers\.0\.", r"\1.layers.2."),
    (r"^generation_aligner\.", "gen_aligner."),
    (r"^model\.generation_embeddings\.", "gen_embed."),
    (r"^model\.generation_head\.proj_out\.", "gen_head.output_mlp_projector."),
    (r"^model\.generation_head\.vision_head\.", "gen_head.vision_head."),
    (r"^model\.vqmodel\.", "gen_vision_model."),
    (r"(gen_vision_model\.(?:encoder|decoder))\.(?:down|up)\.(\d+)\.block\.", r"\1.conv_blocks.\2.res."),
    (r"(gen_vision_model\.(?:encoder|decoder))\.(?:down|up)\.(\d+)\.", r"\1.conv_blocks.\2."),
    (r"\.mid\.block_1\.", ".mid.0."),
    (r"\.mid\.attn_1\.", ".mid.1."),
    (r"\.mid\.block_2\.", ".mid.2."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)


# What official files hold and nobody needs: SigLIP's pooling head (siglip_vit.py) and the use of codes (vq_model.py).
UNUSED = {
    "vision_model.vision_tower.attn_pool.latent": torch.zeros(1, 1, WIDTH),
    **{
        f"vision_model.vision_tower.attn_pool.{layer}.{leaf}": torch.zeros(WIDTH)
        for layer in ("q", "kv", "norm", "proj", "mlp.fc1", "mlp.fc2")
        for leaf in ("weight", "bias")
    },
    "gen_vision_model.quantize.codebook_used": torch.zeros(65536),
}


def official_state(model: JanusForConditionalGeneration) -> dict[str, torch.Tensor]:
    """The weights under their official names, with the tensors that official files hold and nobody needs."""
    state = {}
    for name, tensor in model.state_dict().items():
        for pattern, name_there in RENAMED:
            name = re.sub(pattern, name_there, name)
        state[name] = tensor
    for name in [n for n in state if ".self_attn.q_proj." in n and "vision_tower" in n]:
        parts = [state.pop(name.replace("q_proj", f"{x}_proj")) for x in "qkv"]
        state[name.replace("self_attn.q_proj", "attn.qkv")] = torch.cat(parts)
    state["vision_model.vision_tower.pos_embed"] = state["vision_model.vision_tower.pos_embed"][None]
    return state | UNUSED


def official_config(model: JanusForConditionalGeneration) -> dict[str, Any]:
    """config.json as the official files have it, with the sizes of the two eyes that the official code fixes."""
    text, vision, vq = model.config.text_config, model.config.vision_config, model.config.vq_config

    def aligner(width: int) -> dict[str, Any]:
        params = {"depth": 2, "input_dim": width, "n_embed": WIDTH, "projector_type": "mlp_gelu"}
        return {"cls": "MlpProjector", "model_type": "aligner", "params": params}

    return {
        "model_type": "multi_modality",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.33.1",
        "aligner_config": aligner(vision.hidden_size),
        "gen_aligner_config": aligner(vq.embed_dim),
        "gen_head_config": {
            "cls": "vision_head",
            "params": {"image_token_embed": WIDTH, "image_token_size": vq.num_embeddings, "n_embed": WIDTH},
        },
        "gen_vision_config": {
            "cls": "VQ-16",
            "params": {
                "image_token_size": vq.num_embeddings,
                "n_embed": vq.embed_dim,
                "ch": vq.base_channels,
                "ch_mult": list(vq.channel_multiplier),
                "num_res_blocks": vq.num_res_blocks,
                "z_channels": vq.latent_channels,
            },
        },
        "language_config": {
            "model_type": "llama",
            "torch_dtype": "bfloat16",
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "tie_word_embeddings": model.config.tie_word_embeddings,
            "max_position_embeddings": text.max_position_embeddings,
        },
        "vision_config": {
            "cls": "CLIPVisionTower",
            "params": {
                "image_size": vision.image_size,
                "model_name": "siglip_large_patch16_384",
                "select_feature": "same",
                "select_layer": -1,
                "patch_size": vision.patch_size,
                "width": vision.hidden_size,
                "layers": vision.num_hidden_layers,
                "heads": vision.num_attention_heads,
                "mlp_width": int(vision.hidden_size * vision.mlp_ratio),
            },
        },
    }


def write_official(model: JanusForConditionalGeneration, folder: Path, template: str = "deepseek") -> Path:
    """The official folder of a reference model."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in official_state(model).items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    tokenizer_file(folder / "tokenizer.json", template)
    half = [0.5, 0.5, 0.5]
    files = {
        "config.json": official_config(model),
        "processor_config.json": {
            "add_special_token": False,
            "ignore_id": -100,
            "image_tag": PICTURE,
            "mask_prompt": True,
            "num_image_tokens": NUM_FEATURES,
            "processor_class": "VLChatProcessor",
            "sft_format": template,
        },
        "preprocessor_config.json": {
            "background_color": [127, 127, 127],
            "do_normalize": True,
            "image_mean": half,
            "image_processor_type": "VLMImageProcessor",
            "image_size": SIZE_PX,
            "image_std": half,
            "min_size": 14,
            "processor_class": "VLChatProcessor",
            "rescale_factor": 0.00392156862745098,
        },
    }
    for name, data in files.items():
        (folder / name).write_text(json.dumps(data))
    return folder
