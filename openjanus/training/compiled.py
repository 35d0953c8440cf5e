"""Layers as compiled kernels; on a GPU, attention skips what the documents' mask hides (FlexAttention)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from openjanus.model.attention import causal_document_mask
from openjanus.model.janus import Janus

attention_by_blocks = torch.compile(flex_attention)


class DocumentMask:
    """`causal_document_mask` as blocks: `mask(q, k, v)` is their attention, and hidden blocks are not computed."""

    def __init__(self, document: Tensor):
        B, T = document.shape

        def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (document[b, query] == document[b, key]) & (query >= key)

        self.blocks = create_block_mask(sees, B, None, T, T, device=document.device)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B, H, T, K], k and v [B, Hkv, T, K] -> [B, H, T, K]."""
        out = attention_by_blocks(q, k, v, block_mask=self.blocks, enable_gqa=q.shape[1] != k.shape[1])
        assert isinstance(out, Tensor)
        return out


def mask_of(document: Tensor) -> Tensor | DocumentMask:
    """The mask that is fast where the documents lie. On a CPU, FlexAttention has no way back."""
    return DocumentMask(document) if document.is_cuda else causal_document_mask(document)


def compile_layers(model: Janus, row_tokens: int) -> None:
    """Compiles the body's layers for rows of this length, when they first run; they share their kernels. Rows of
    another length, which are few, run as they are: for each length the layers would be compiled anew."""
    model.language_model.mask_of = mask_of
    for layer in model.language_model.layers:
        layer.forward = partial(_forward, layer.forward, torch.compile(layer.forward), row_tokens)


Forward = Callable[..., Tensor]


def _forward(plain: Forward, compiled: Forward, row_tokens: int, x: Tensor, *rest: Any) -> Tensor:
    return (compiled if x.shape[1] == row_tokens else plain)(x, *rest)
