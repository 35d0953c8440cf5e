"""What one request, and all of them together, may ask of the server."""

from dataclasses import dataclass, fields

MAY_BE_ZERO = ("max_pictures", "max_partial_images", "max_stored_bytes")


@dataclass(frozen=True)
class Limits:
    """Every bound of the server; what lies beyond is refused with a status of its own (docs/security.md).

    max_waiting: requests that wait for rows of the batch; one more gets 429.
    max_in_flight: requests at a time of one API key, or of one address where no keys are set; one more gets 429.
    max_connections: open connections at a time; one more is closed.
    max_body_bytes, body_seconds: size of a request's body (413), time until it is there (408).
    max_body_values: braces, brackets, commas and colons of a body beside those that its text may have (400).
    header_seconds: time until a connection has sent the head of a request; then it is closed.
    stall_seconds: a client that takes nothing of its answer for so long is dropped.
    request_seconds: from the whole body to the end of the answer (504).
    max_pictures, max_picture_bytes, max_picture_pixels: pictures of one conversation; of each, encoded size and decoded
    pixels.
    max_prompt_chars, max_prompt_tokens, max_new_tokens: text of all messages, their positions with pictures, an answer.
    max_n: drawings of one prompt.
    max_partial_images: unfinished pictures that a streamed drawing shows.
    max_stored_bytes: answers of /v1/responses that are kept for the next question, with their conversations; 0: none.
    fetch_seconds: to load one remote picture, where that is allowed.
    """

    max_waiting: int = 64
    max_in_flight: int = 64
    max_connections: int = 512
    max_body_bytes: int = 16 * 2**20
    body_seconds: float = 20.0
    max_body_values: int = 150_000
    header_seconds: float = 10.0
    stall_seconds: float = 30.0
    request_seconds: float = 300.0
    max_pictures: int = 8
    max_picture_bytes: int = 10 * 2**20
    max_picture_pixels: int = 16_000_000
    max_prompt_chars: int = 100_000
    max_prompt_tokens: int = 16_384
    max_new_tokens: int = 4096
    max_n: int = 16
    max_partial_images: int = 16
    max_stored_bytes: int = 64 * 2**20
    fetch_seconds: float = 10.0

    def __post_init__(self) -> None:
        for f in fields(self):
            value, may_be_zero = getattr(self, f.name), f.name in MAY_BE_ZERO
            if not (value > 0 or (may_be_zero and value == 0)):  # also catches nan
                raise ValueError(f"{f.name} is {value}, expected {'0 or more' if may_be_zero else 'more than 0'}")
