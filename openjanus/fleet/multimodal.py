"""Pictures to look at, as vLLM wants them told: one `look` in the prompt, N positions in the sequence, and pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from vllm.config.multimodal import MultiModalDummyOptions
from vllm.inputs import MultiModalDataDict
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    ProcessorInputs,
    PromptReplacement,
    PromptUpdate,
)

from openjanus.fleet.config import FleetConfig
from openjanus.processing.processor import ProcessorConfig
from openjanus.processing.tiles import single_pixels


class LookInfo(BaseProcessingInfo):
    def get_hf_config(self) -> FleetConfig:
        return self.ctx.get_hf_config(FleetConfig)

    def processor(self) -> ProcessorConfig:
        return self.get_hf_config().read_checkpoint().processor

    def num_features(self) -> int:
        return self.get_hf_config().read_checkpoint().model.num_features

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        return {"image": self.num_features()}

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        return {}  # nothing about a picture is a request's to choose

    def get_default_tok_params(self) -> Any:
        return super().get_default_tok_params().with_kwargs(add_special_tokens=False)


class LookInputs(BaseDummyInputsBuilder[LookInfo]):
    """What vLLM measures its memory with; `LookProcessor.get_dummy_inputs` writes the prompt, as no text stands for a
    picture."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return ""

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: MultiModalDummyOptions
    ) -> MultiModalDataDict:
        side = self.info.processor().pixels.size_px
        number = mm_counts.get("image", 0)
        return {"image": self._get_dummy_images(width=side, height=side, num_images=number)}


class LookProcessor(BaseMultiModalProcessor[LookInfo]):
    """Pictures are PIL images, or pixels [3, H, W] that the processor has made already (renderer.py)."""

    def get_dummy_inputs(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> ProcessorInputs:
        inputs = super().get_dummy_inputs(seq_len, mm_counts, mm_options)
        look = self.info.get_hf_config().read_vocabulary().look_id
        return replace(inputs, prompt=[look] * mm_counts.get("image", 0))

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        processor, dtype = self.info.processor(), self.info.ctx.model_config.dtype
        images: Any = hf_data["images"]
        c, tiles = processor.pixels, processor.tiles
        pixels = [single_pixels(i, c, tiles) if isinstance(i, Image.Image) else i for i in images]
        if not all(isinstance(p, Tensor) and p.shape == (3, c.size_px, c.size_px) for p in pixels):
            raise ValueError(f"a picture must be a PIL image, or pixels [3, {c.size_px}, {c.size_px}]")
        return BatchFeature({"pixels": torch.stack(pixels).to(dtype)})

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {"pixels": MultiModalFieldConfig.batched("image")}

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        look, number = self.info.get_hf_config().read_vocabulary().look_id, self.info.num_features()
        return [PromptReplacement(modality="image", target=[look], replacement=[look] * number)]
