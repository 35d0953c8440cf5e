"""What may be given as a prompt to draw from, and the guidance rows that become of it.

    "two red apples" ─► Message("user", ["two red apples"]) ─┐
    Message("user", [picture, "make it blue"]) ──────────────┼─► conversation ─► document ─► guidance rows
    [Message("user", ...), Message("assistant", ...), ...] ──┘

A prompt with pictures asks for an edit of them: only a checkpoint whose tasks include it takes one. Such a picture
enters through both eyes: the understanding eye sees what it is, the generation eye which image ids draw it.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from openjanus.inference.sampling import SamplingOptions
from openjanus.processing.message import Conversation, Message, as_conversation
from openjanus.processing.processor import Processor
from openjanus.sequence import Document, GenerateSpan, SignalSpan, TextSpan

Prompt = str | Message | Sequence[Message | Mapping[str, Any]]  # the last one is a conversation
EXPECTED = "expected text (str), a Message, or a conversation (a list of messages)"


def read_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Conversation]:
    """One prompt, or a list of them; a conversation is always inside a list. Raises ValueError for anything else."""
    if isinstance(prompts, (bytes, Mapping)) or not isinstance(prompts, (Iterable, Message)):
        raise ValueError(f"prompts are of type {type(prompts).__name__}; expected text (str) or a list of texts")
    each = [prompts] if isinstance(prompts, (str, Message)) else list(prompts)
    if not each:
        raise ValueError("empty prompt: say what to draw, such as 'two red apples'")
    return [read_prompt(prompt) for prompt in each]


def read_prompt(prompt: Any) -> Conversation:
    """One prompt as a conversation. Raises ValueError for what is none, or is empty."""
    if isinstance(prompt, Message) and prompt.role != "user":
        raise ValueError(f"a prompt is a message of role {prompt.role!r}; {EXPECTED}, a single message is the user's")
    if isinstance(prompt, (str, Message)):
        conversation: Conversation = [Message("user", prompt) if isinstance(prompt, str) else prompt]
    elif isinstance(prompt, (list, tuple)):
        conversation = as_conversation(prompt)
    else:
        raise ValueError(f"a prompt is of type {type(prompt).__name__}; {EXPECTED}")
    if not any(part.strip() if isinstance(part, str) else True for m in conversation for part in m.content):
        raise ValueError("empty prompt: say what to draw, such as 'two red apples'")
    return conversation


def check_editing(conversation: Conversation, tasks: Sequence[str]) -> None:
    """Raises ValueError for a prompt with pictures if the model was not trained to edit."""
    has_picture = any(not isinstance(part, (str, SignalSpan)) for m in conversation for part in m.content)
    if "edit" not in tasks and has_picture:
        raise ValueError(
            f"a prompt to draw from holds a picture, but this model was trained to {' and '.join(tasks)}, not to edit: "
            "ask for a drawing with words only"
        )


def check_image_ids(document: Document, num_ids: int) -> None:
    """Raises ValueError for an image id that the image tokenizer does not have."""
    for span in document:
        wrong = [id for id in span.image_ids if not 0 <= id < num_ids] if isinstance(span, GenerateSpan) else []
        if wrong:
            raise ValueError(f"image id {wrong[0]}: the image tokenizer has the ids 0 to {num_ids - 1}")


def guidance_rows(
    processor: Processor, document: Document, options: SamplingOptions
) -> tuple[list[Document], list[float]]:
    """The guidance rows of a document, and their scales, as a `Request` takes them.

        row                                scale
        the document                       guidance
        without its words                  image_guidance; only if it is given and the document has pictures or signals
        without its words and pictures     1

    The scale of a row multiplies its difference from the next row (`guide`). If two neighbours have the same scale,
    nothing depends on the second of them, and it is left out.
    """
    rows = [(document, options.guidance)]
    if options.image_guidance is not None and not all(isinstance(span, TextSpan) for span in document):
        rows.append((processor.drop(document, words=True), options.image_guidance))
    rows.append((processor.unconditional(document), 1.0))
    kept = [next(same) for _, same in groupby(rows, key=lambda row: row[1])]
    return [row for row, _ in kept], [scale for _, scale in kept[:-1]]
