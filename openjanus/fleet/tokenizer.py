"""The text tokenizer for vLLM, and the renderer that turns conversations into ids (`--tokenizer-mode openjanus`).

A special token's string in a user's text is text like any other: the tokenizer encodes it as such, and prompts are not
rendered to text and read back, but written as ids by the one processor that knows the chat template
(processing/processor.py). Pictures are read by the rules of `openjanus serve` (serve/conversation.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from transformers import PreTrainedTokenizerFast
from vllm.config import VllmConfig
from vllm.renderers.base import BaseRenderer
from vllm.renderers.params import ChatParams
from vllm.tokenizers.hf import get_cached_tokenizer
from vllm.utils.async_utils import make_async

from openjanus.fleet.config import FleetConfig
from openjanus.fleet.settings import FleetSettings
from openjanus.processing.processor import Processor
from openjanus.processing.text import BOS, EOS, PAD, TextTokenizer
from openjanus.sequence import UnderstandSpan
from openjanus.serve.conversation import Fetch, check_messages, read_messages
from openjanus.serve.errors import ApiError, of_validation
from openjanus.serve.fetch import fetch_picture
from openjanus.serve.limits import Limits
from openjanus.serve.schemas.chat import ChatMessage
from openjanus.weights.hub import find_checkpoint

MESSAGES = TypeAdapter(list[ChatMessage])


class FleetTokenizer:
    """What `--tokenizer-mode openjanus` loads: a tokenizer of transformers' that knows no special tokens in text."""

    @classmethod
    def from_pretrained(cls, path: str | Path, *args: Any, revision: str | None = None, **kwargs: Any) -> Any:
        file = Path(path)
        text = TextTokenizer.load(file if file.is_file() else find_checkpoint(path, revision) / "tokenizer.json")
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=text.tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, split_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )  # fmt: skip
        return get_cached_tokenizer(tokenizer)


@dataclass
class Rendered:
    """A conversation as ids, and the pixels that its `look`s stand for."""

    ids: list[int]
    pixels: list[Any]


def render(
    processor: Processor, config: FleetConfig, messages: Sequence[Any], limits: Limits, fetch: Fetch | None
) -> Rendered:
    """Raises ValueError for what is wrong with the messages, in the words of `openjanus serve`."""
    plain = [dict(m) for m in messages]
    try:
        checked = MESSAGES.validate_python(plain)
        check_messages(checked, limits)
        document = processor.prompt(read_messages(checked, limits, fetch, processor.config))
    except ValidationError as error:
        raise ValueError(of_validation(error.errors(include_url=False, include_input=False), plain).message) from None
    except ApiError as error:
        raise ValueError(error.message) from None
    ids = config.read_vocabulary().prompt_ids(document, draw=False)
    return Rendered(ids, [span.pixels for span in document if isinstance(span, UnderstandSpan)])


class FleetRenderer(BaseRenderer):
    """Messages to ids, without a template of text in between."""

    def __init__(self, config: VllmConfig, tokenizer: Any):
        super().__init__(config, tokenizer)
        self.hf: FleetConfig = config.model_config.hf_config
        s, fetch = FleetSettings.from_environment().server, None
        limits = s.limits
        if s.remote_pictures:
            fetch = partial(fetch_picture, max_bytes=limits.max_picture_bytes, seconds=limits.fetch_seconds)
        text = TextTokenizer(self.get_tokenizer()._tokenizer)
        processor = self.hf.read_checkpoint().make_processor(text)
        self._render = partial(render, processor, self.hf, limits=limits, fetch=fetch)
        self._render_async = make_async(self._render, executor=self._executor)

    def render_messages(self, messages: list[Any], params: ChatParams) -> tuple[list[Any], Any]:
        _check(params)
        return _prompt(messages, self._render(messages))

    async def render_messages_async(self, messages: list[Any], params: ChatParams) -> tuple[list[Any], Any]:
        _check(params)
        return _prompt(messages, await self._render_async(messages))


def _prompt(messages: list[Any], rendered: Rendered) -> tuple[list[Any], Any]:
    conversation = [{"role": m["role"], "content": ""} for m in messages]
    prompt: dict[str, Any] = {"prompt_token_ids": rendered.ids}
    if rendered.pixels:
        prompt["multi_modal_data"] = {"image": rendered.pixels}
    return conversation, prompt


def _check(params: ChatParams) -> None:
    """Raises ValueError for what only a template could honour."""
    asked = params.chat_template_kwargs or {}
    if asked.get("continue_final_message"):
        raise ValueError("continue_final_message is not supported: the last message must be the user's")
    if asked.get("tools"):
        raise ValueError("tools are not supported: a Janus answers in words")
