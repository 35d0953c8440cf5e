"""Janus as a model of vLLM: paired KV inside one request.

    ids ─► embeddings c ──────────────────────────────┐  [c; u] through the same matrices   ┌─► c, u ─► heads ─► logits
        └► u: c if the id is kept, else pad's embedding┴─► two attentions, two KV caches ────┘

A guided drawing has a conditional and an unconditional row. Both have the same length, and the ids of the first
determine the second (vocabulary.py). So they share positions, slots and scheduling, and one request of vLLM is one
picture. For prefix cache, chunked prefill, preemption and tensor parallelism, this is a model with twice the attention
layers. Text requests also compute the second row, and ignore it; `paired=False` leaves it out.

The last id of a row decides whether `compute_logits` gives image logits or text logits; all others are -inf. So a chat
cannot give image ids, and a drawing cannot give text.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.weight_utils import default_weight_loader
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsMultiModal
from vllm.model_executor.models.utils import _merge_multimodal_embeddings
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from openjanus.fleet.config import FleetConfig
from openjanus.fleet.multimodal import LookInfo, LookInputs, LookProcessor
from openjanus.fleet.vocabulary import Vocabulary
from openjanus.inference.sampling import guide
from openjanus.model.eye import GenerationEye, UnderstandingEye
from openjanus.model.janus import GENERATION, UNDERSTANDING
from openjanus.model.language_model import LanguageModelConfig
from openjanus.model.shared_eye import SharedEyeConfig
from openjanus.weights.body import rope_scaling_words

# Our parameters that vLLM fuses: name -> (name of the fused parameter, part of it)
JOINED = {
    "attention.q.": ("attention.qkv.", "q"),
    "attention.k.": ("attention.qkv.", "k"),
    "attention.v.": ("attention.qkv.", "v"),
    "ffn.gate.": ("ffn.gate_up.", 0),
    "ffn.up.": ("ffn.gate_up.", 1),
}
# Not loaded: pictures are decoded in image_decoder.py, and SigLIP's pooling head is unused.
TOKENIZER, POOLING_HEAD = "generation.tokenizer.", "understanding.encoder.pooling_head."


class FleetAttention(nn.Module):
    """model/language_model.py, `Attention`, with a second cache for the unconditional rows."""

    def __init__(self, c: LanguageModelConfig, vllm_config: VllmConfig, paired: bool, prefix: str):
        super().__init__()
        size = get_tensor_model_parallel_world_size()
        self.head_width = c.head_width
        self.q_width = c.num_heads // size * c.head_width
        self.kv_width = max(1, c.num_kv_heads // size) * c.head_width
        quant = vllm_config.quant_config
        self.qkv = QKVParallelLinear(
            c.width, c.head_width, c.num_heads, c.num_kv_heads, bias=c.qkv_bias, quant_config=quant,
            prefix=f"{prefix}.qkv",
        )  # fmt: skip
        self.out = RowParallelLinear(
            c.num_heads * c.head_width, c.width, bias=False, quant_config=quant, prefix=f"{prefix}.out"
        )
        self.q_norm = RMSNorm(c.head_width, eps=c.rms_eps) if c.qk_norm else None
        self.k_norm = RMSNorm(c.head_width, eps=c.rms_eps) if c.qk_norm else None
        rope = {"rope_type": "default", **rope_scaling_words(c.rope_scaling), "rope_theta": c.rope_theta}
        self.rotary = get_rope(c.head_width, c.max_positions, rope_parameters=rope)

        def cached(name: str) -> Attention:
            return Attention(
                c.num_heads // size, c.head_width, c.head_width**-0.5, num_kv_heads=max(1, c.num_kv_heads // size),
                cache_config=vllm_config.cache_config, quant_config=quant, prefix=f"{prefix}.{name}",
            )  # fmt: skip

        self.conditional = cached("conditional")
        self.unconditional = cached("unconditional") if paired else None

    def forward(self, positions: Tensor, x: Tensor) -> Tensor:  # [T, D], or [2T, D] in pairs
        qkv, _ = self.qkv(x)
        q, k, v = qkv.split((self.q_width, self.kv_width, self.kv_width), dim=-1)
        if self.q_norm is not None and self.k_norm is not None:
            q = self.q_norm(q.reshape(-1, self.head_width)).view(q.shape)
            k = self.k_norm(k.reshape(-1, self.head_width)).view(k.shape)
        q, k = self.rotary(positions, q, k)
        if self.unconditional is None:
            y = self.conditional(q, k, v)
        else:
            # .contiguous: attention kernels expect contiguous rows
            (q, q_u), (k, k_u), (v, v_u) = (t.contiguous().chunk(2) for t in (q, k, v))
            y = torch.cat((self.conditional(q, k, v), self.unconditional(q_u, k_u, v_u)))
        return self.out(y)[0]


class FleetFFN(nn.Module):
    def __init__(self, c: LanguageModelConfig, vllm_config: VllmConfig, prefix: str):
        super().__init__()
        quant = vllm_config.quant_config
        self.gate_up = MergedColumnParallelLinear(
            c.width, [c.ffn_width] * 2, bias=False, quant_config=quant, prefix=f"{prefix}.gate_up"
        )
        self.down = RowParallelLinear(c.ffn_width, c.width, bias=False, quant_config=quant, prefix=f"{prefix}.down")
        self.activation = SiluAndMul()

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate_up(x)[0]))[0]


class FleetLayer(nn.Module):
    def __init__(self, c: LanguageModelConfig, vllm_config: VllmConfig, paired: bool, prefix: str):
        super().__init__()
        self.attention_norm = RMSNorm(c.width, eps=c.rms_eps)
        self.attention = FleetAttention(c, vllm_config, paired, f"{prefix}.attention")
        self.ffn_norm = RMSNorm(c.width, eps=c.rms_eps)
        self.ffn = FleetFFN(c, vllm_config, f"{prefix}.ffn")

    def forward(self, positions: Tensor, x: Tensor) -> Tensor:  # [T, D]
        x = x + self.attention(positions, self.attention_norm(x))
        return x + self.ffn(self.ffn_norm(x))


@support_torch_compile(dynamic_arg_dims={"positions": 0, "conditional": 0, "unconditional": 0})
class FleetBody(nn.Module):
    """The causal body (model/language_model.py) over pairs of rows."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        config: FleetConfig = vllm_config.model_config.hf_config
        c = config.read_checkpoint().model.language_model
        self.embedding = VocabParallelEmbedding(c.vocab_size, c.width, prefix=f"{prefix}.embedding")
        self.layers = nn.ModuleList(
            FleetLayer(c, vllm_config, config.paired, f"{prefix}.layers.{i}") for i in range(c.num_layers)
        )
        self.norm = RMSNorm(c.width, eps=c.rms_eps)
        self.text_head = ParallelLMHead(c.vocab_size, c.width, prefix=f"{prefix}.text_head")
        if c.tie_text_head:
            self.text_head = self.text_head.tie_weights(self.embedding)

    def forward(self, positions: Tensor, conditional: Tensor, unconditional: Tensor | None) -> Tensor:
        """positions [T], conditional and unconditional [T, D] -> hidden [T, D], or [T, 2 D] in pairs."""
        x = conditional
        if unconditional is not None:
            x, positions = torch.cat((x, unconditional)), torch.cat((positions, positions))
        for layer in self.layers:
            x = layer(positions, x)
        x = self.norm(x)
        return x if unconditional is None else torch.cat(x.chunk(2), dim=-1)


@MULTIMODAL_REGISTRY.register_processor(LookProcessor, info=LookInfo, dummy_inputs=LookInputs)
class OpenJanus(nn.Module, SupportsMultiModal):
    """Janus for chat and drawing. Its hidden states, [T, D + 1] or [T, 2 D + 1], contain one or two rows and whether an
    image id follows, since `compute_logits` gets nothing else."""

    requires_raw_input_tokens = True  # the forward also needs the ids: for the head, and for the second row

    understanding: UnderstandingEye
    language_model: "FleetBody"
    generation: GenerationEye
    unsayable: Tensor
    pad: Tensor

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        return None  # fleet/tokenizer.py writes prompts as ids

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        config: FleetConfig = vllm_config.model_config.hf_config
        c = config.read_checkpoint().model
        self.v: Vocabulary = config.read_vocabulary()
        self.width, self.paired, self.guidance = c.language_model.width, config.paired, config.guidance
        # The columns for guidance per request are computed only if the logits processor (guidance.py) is configured.
        self.gives_changes = self.paired and bool(vllm_config.model_config.logits_processors)
        self.generation = GENERATION[type(c.generation)](c.generation, self.width)
        self.needs_tokenizer = isinstance(c.understanding, SharedEyeConfig)
        if not self.needs_tokenizer:
            del self.generation.tokenizer
        with self._mark_tower_model(vllm_config, "image"):  # type: ignore[operator]
            eye = UNDERSTANDING[type(c.understanding)](c.understanding, self.width)
            eye.connect(self.generation)
            self.understanding = eye
        with self._mark_language_model(vllm_config):  # type: ignore[operator]
            self.language_model = FleetBody(vllm_config=vllm_config, prefix="language_model")
        self.logits_processor = LogitsProcessor(c.language_model.vocab_size)
        self.register_buffer("unsayable", self.v.unsayable(), persistent=False)
        self.register_buffer("pad", torch.tensor([self.v.pad_id]), persistent=False)

    def get_language_model(self) -> nn.Module:
        return self.language_model

    def embed_multimodal(self, **kwargs: Any) -> MultiModalEmbeddings:
        """pixels [M, 3, H, W] -> M times [N, D]."""
        pixels = kwargs.get("pixels")
        return [] if pixels is None else list(self.understanding(pixels))

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: MultiModalEmbeddings | None = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """ids [T] -> embeddings [T, D], each by its kind."""
        text = self.language_model.embedding(self.v.text(input_ids))
        drawn = self.generation(self.v.codes(input_ids)).to(text.dtype)
        x = torch.where(self.v.is_code(input_ids)[:, None], drawn, text)
        if multimodal_embeddings is not None and is_multimodal is not None:
            x = _merge_multimodal_embeddings(x, multimodal_embeddings, is_multimodal)
        return x

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        c = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        u = None
        if self.paired:
            u = torch.where(self.v.stays(input_ids)[:, None], c, self.language_model.embedding(self.pad))
        hidden = self.language_model(positions, c, u)
        return torch.cat((hidden, self.v.draws(input_ids)[:, None].to(hidden.dtype)), dim=-1)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """[R, D + 1] or [R, 2 D + 1] -> float32 [R, vocabulary.size]."""
        hidden, drawing = hidden_states[:, :-1], hidden_states[:, -1:] > 0.5
        c = hidden[:, : self.width].contiguous()
        text = self.logits_processor(self.language_model.text_head, c)
        if text is None:  # tensor parallelism: only one rank gets logits
            return None
        never = float("-inf")
        logits = torch.full((len(c), self.v.size), never, dtype=torch.float32, device=c.device)
        logits[:, : self.v.num_text] = text.float().masked_fill(self.unsayable | drawing, never)
        image = self.generation.head(c).float()
        if self.paired:
            unconditional = self.generation.head(hidden[:, self.width :].contiguous()).float()
            if self.gives_changes:
                logits[:, self.v.changes :] = (image - unconditional).masked_fill(~drawing, never)
            image = guide((image, unconditional), (self.guidance,))
        logits[:, self.v.num_text : self.v.draw_id] = image.masked_fill(~drawing, never)
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Loads tensors by openjanus's names (weights/checkpoint.py). Raises ValueError if a parameter gets no
        tensor."""
        parameters, loaded = dict(self.named_parameters()), set()
        for name, tensor in weights:
            if name.startswith(POOLING_HEAD) or (name.startswith(TOKENIZER) and not self.needs_tokenizer):
                continue
            joined = next(((old, new, part) for old, (new, part) in JOINED.items() if f".{old}" in name), None)
            if joined is not None:
                old, new, part = joined
                name = name.replace(f".{old}", f".{new}")
                parameters[name].weight_loader(parameters[name], tensor, part)  # type: ignore[attr-defined]
            elif name in parameters:
                loader = getattr(parameters[name], "weight_loader", default_weight_loader)
                loader(parameters[name], tensor)
            elif not name.startswith("understanding."):  # the eye is left out if pictures are disabled
                raise ValueError(f"unexpected tensor {name}")
            loaded.add(name)
        if missing := sorted(parameters.keys() - loaded):
            raise ValueError(f"no tensor for {missing[0]} and {len(missing) - 1} others")
        return loaded
