"""Converts messages of the API to the processor's: text, and pictures decoded within limits."""

from collections.abc import Callable, Sequence
from io import BytesIO

from PIL import Image

from openjanus.processing.image import DATA_URL, data_url_bytes, read_image
from openjanus.processing.processor import Message, ProcessorConfig
from openjanus.serve.errors import ApiError, invalid
from openjanus.serve.limits import Limits
from openjanus.serve.schemas.chat import ChatMessage, ImagePart, Part, TextPart

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")  # each further decoder would add attack surface
SYSTEM = ("system", "developer")
Fetch = Callable[[str], bytes]


def check_messages(messages: Sequence[ChatMessage], limits: Limits) -> None:
    """All checks that need no decoding. Raises ApiError."""
    parts = [part for m in messages for part in _parts(m)]
    num_chars = sum(len(part.text) for part in parts if isinstance(part, TextPart))
    num_pictures = sum(isinstance(part, ImagePart) for part in parts)
    if num_chars > limits.max_prompt_chars:
        raise invalid(
            f"the messages have {num_chars:,} characters, at most {limits.max_prompt_chars:,} are read",
            "messages",
            "context_length_exceeded",
        )
    if num_pictures > limits.max_pictures:
        raise invalid(
            f"the messages have {num_pictures} pictures, at most {limits.max_pictures} are read",
            "messages",
            "too_many_images",
        )
    number = max((i for i, m in enumerate(messages) if m.role not in SYSTEM), default=0)
    if not messages or messages[number].role != "user":
        raise invalid("the last message must be the user's", "messages")
    last = messages[number]
    if not any(isinstance(part, ImagePart) or part.text.strip() for part in _parts(last)):
        raise invalid("empty message: say something", f"messages.{number}.content")
    for i, message in enumerate(messages):
        if message.role != "user" and any(isinstance(part, ImagePart) for part in _parts(message)):
            raise invalid("only the user's messages can have pictures", f"messages.{i}.content")


def read_messages(
    messages: Sequence[ChatMessage], limits: Limits, fetch: Fetch | None, processor: ProcessorConfig
) -> list[Message]:
    """The conversation with decoded pictures. Raises ApiError that names the part. Slow: call it from a thread.

    Each picture is resized for the model before the next is decoded, to bound the memory. A model with tiles needs the
    whole pictures, so they are kept.

    A model has one system prompt, at the beginning: all system messages are joined into it.
    """
    system = [words_of(m) for m in messages if m.role in SYSTEM]
    read = [Message("system", ["\n\n".join(filter(None, system))])] if system else []
    for i, message in enumerate(messages):
        if message.role == "system" or message.role == "developer":
            continue
        content: list[str | Image.Image] = []
        for j, part in enumerate(_parts(message)):
            if isinstance(part, TextPart):
                content.append(part.text)
            else:
                param = f"messages.{i}.content.{j}.image_url"
                content.append(read_picture(part.image_url.url, param, limits, fetch, processor.shrunk))
        read.append(Message(message.role, content))
    return read


def words_of(message: ChatMessage) -> str:
    """The text of a message."""
    return "".join(part.text for part in _parts(message) if isinstance(part, TextPart))


def _parts(message: ChatMessage) -> Sequence[Part]:
    return [TextPart(type="text", text=message.content)] if isinstance(message.content, str) else message.content


def read_picture(
    url: str,
    param: str,
    limits: Limits,
    fetch: Fetch | None,
    shrink: Callable[[Image.Image], Image.Image] = lambda image: image,
) -> Image.Image:
    """The picture of a data URL, or of another if `fetch` is given. Raises ApiError for `param`. Slow: for a thread."""
    try:
        data = _bytes(url, limits, fetch)
        return shrink(read_image(BytesIO(data), "the picture", limits.max_picture_pixels, FORMATS))
    except ApiError as error:
        error.param = param
        raise
    except ValueError as error:
        raise invalid(str(error), param, "invalid_image") from None


def _bytes(url: str, limits: Limits, fetch: Fetch | None) -> bytes:
    scheme = url[:8].partition(":")[0].lower()
    if scheme in ("http", "https"):
        if fetch is None:
            raise invalid("this server loads no remote pictures: send a data URL", code="remote_images_off")
        return fetch(url)
    if not DATA_URL.match(url):
        raise invalid("expected data:image/...;base64,... or an http(s) URL", code="invalid_image_url")
    data = data_url_bytes(url)
    if len(data) > limits.max_picture_bytes:
        raise invalid(f"the picture is larger than {limits.max_picture_bytes:,} bytes", code="image_too_large")
    return data
