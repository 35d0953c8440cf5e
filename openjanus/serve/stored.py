"""Stored answers of `/v1/responses`, for follow-up questions. Memory is bounded: the least recently used go first."""

import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from openjanus.serve.errors import ApiError, shortened
from openjanus.serve.schemas.chat import ChatMessage, ImagePart
from openjanus.serve.schemas.responses import ImageCall, ResponsesAnswer

ENTRY_BYTES = 4096  # of an answer without its text and pictures


@dataclass(frozen=True)
class Stored:
    """owner: who may read it. messages: the conversation including the answer, without instructions."""

    owner: str
    answer: ResponsesAnswer
    messages: Sequence[ChatMessage]

    @cached_property  # cached, because `sys.getsizeof` of a string grows when it is encoded
    def num_bytes(self) -> int:
        """Answers of one conversation share messages, but each answer counts them."""
        drawn = [item.result for item in self.answer.output if isinstance(item, ImageCall) and item.result]
        return ENTRY_BYTES + sum(map(_num_bytes, self.messages)) + sum(map(sys.getsizeof, drawn))


class Store:
    """Used in the event loop's thread only. For everybody but its owner, an answer does not exist."""

    def __init__(self, max_bytes: int):
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._kept: OrderedDict[str, Stored] = OrderedDict()

    def fits(self, stored: Stored) -> bool:
        return stored.num_bytes <= self.max_bytes

    def put(self, stored: Stored) -> None:
        self._kept[stored.answer.id] = stored
        self.num_bytes += stored.num_bytes
        while self.num_bytes > self.max_bytes:
            self._forget(next(iter(self._kept)))

    def get(self, id: str, owner: str, param: str | None = None) -> Stored:
        """Raises ApiError 404."""
        stored = self._kept.get(id)
        if stored is None or stored.owner != owner:
            raise ApiError(404, f"no answer {shortened(id)!r} is kept", "response_not_found", param)
        self._kept.move_to_end(id)
        return stored

    def message(self, item_id: str, owner: str) -> ChatMessage | None:
        """The message of an output item; None for a drawing. Raises ApiError 404."""
        for stored in reversed(self._kept.values()):
            for item in stored.answer.output:
                if item.id == item_id and stored.owner == owner:
                    return None if isinstance(item, ImageCall) else stored.messages[-1]
        raise ApiError(404, f"no item {shortened(item_id)!r} is kept: send its content", "item_not_found", "input")

    def delete(self, id: str, owner: str) -> None:
        """Raises ApiError 404."""
        self.get(id, owner)
        self._forget(id)

    def _forget(self, id: str) -> None:
        self.num_bytes -= self._kept.pop(id).num_bytes


def _num_bytes(message: ChatMessage) -> int:
    if isinstance(message.content, str):
        return sys.getsizeof(message.content)
    texts = (part.image_url.url if isinstance(part, ImagePart) else part.text for part in message.content)
    return sum(map(sys.getsizeof, texts))
