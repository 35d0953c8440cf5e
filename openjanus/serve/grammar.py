"""Structured output: masks the logits so that an answer matches a JSON schema.

llguidance (https://github.com/guidance-ai/llguidance) computes the mask of allowed ids. A client may send any schema,
so its size, and the work and memory of each step, are limited.
"""

import json
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from openjanus.inference.sampling import Sampler, SamplingOptions
from openjanus.processing.text import TextTokenizer
from openjanus.serve.errors import ApiError, invalid

MAX_SCHEMA_CHARS = 50_000
# At most about 20 ms for a mask, and 20 MB for all states of an answer.
BOUNDS: dict[str, Any] = {
    "max_items_in_row": 1000, "initial_lexer_fuel": 500_000, "step_lexer_fuel": 100_000, "step_max_items": 20_000,
    "max_lexer_states": 10_000, "max_grammar_size": 50_000, "verbose_errors": False,
}  # fmt: skip


class Grammars:
    """Makes samplers for the answers of one text tokenizer."""

    def __init__(self, text: TextTokenizer):
        self.text = text

    @cached_property
    def _tokenizer(self) -> Any:
        """Made at the first use, because it takes about a second for a large vocabulary."""
        import llguidance

        slices = llguidance.LLTokenizer.json_slices()
        return llguidance.LLTokenizer(self.text.tokenizer.to_str(), eos_token=self.text.eos_id, slices=slices)

    def sampler(self, schema: dict[str, Any], options: SamplingOptions) -> Sampler:
        """A sampler for one answer. Slow: for a thread. Raises ApiError for a schema that is not supported."""
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ImportError:
            raise _refused("JSON needs a library that is not installed here: pip install llguidance") from None
        text = json.dumps(schema)
        if len(text) > MAX_SCHEMA_CHARS:
            raise _refused(f"the schema has {len(text):,} characters, at most {MAX_SCHEMA_CHARS:,} are read")
        # No free whitespace: a model that was not trained on JSON could generate only whitespace.
        settings: Any = {"whitespace_flexible": False, "coerce_one_of": True}
        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=settings)
            matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LLParserLimits(**BOUNDS))
        except ValueError as error:
            raise _unfollowed(str(error)) from None
        if matcher.is_error():
            raise _unfollowed(matcher.get_error())
        return _GrammarSampler(options, matcher)


class _GrammarSampler(Sampler):
    def __init__(self, options: SamplingOptions, matcher: Any):
        super().__init__(options, [0])
        self.matcher = matcher

    def choose(self, logits: Tensor) -> Tensor:
        """logits [1, V] -> id [1]. Raises ApiError if a step exceeds `BOUNDS`."""
        bits = torch.frombuffer(bytearray(self.matcher.compute_bitmask()), dtype=torch.uint8)
        allowed = (bits[:, None] >> torch.arange(8, dtype=torch.uint8) & 1).bool().flatten()[: logits.shape[-1]]
        masked = torch.full_like(logits, float("-inf"))
        places = allowed.nonzero()[:, 0].to(logits.device)
        masked[:, places] = logits[:, places]
        id = super().choose(masked)
        if self.matcher.is_error() or not self.matcher.consume_token(int(id)):
            raise _unfollowed(self.matcher.get_error())
        return id


def _unfollowed(reason: str) -> ApiError:
    """The library's error, without its dump of the parser's state."""
    line = " ".join(reason.partition("<")[0].split())
    return _refused(f"the schema cannot be followed: {line[:200]}")


def _refused(message: str) -> ApiError:
    return invalid(message, "response_format", "invalid_json_schema")
