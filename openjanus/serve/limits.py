"""What one request, and all of them together, may ask of the server."""

from dataclasses import dataclass

from openjanus.config import Config, NonNegativeInt, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class Limits(Config):
    """Every bound of the server; what lies beyond is refused with a status of its own (docs/security.md).

    max_waiting: requests that wait for rows of the batch; one more gets 429.
    max_in_flight: requests at a time of one API key, or of one address where no keys are set; one more gets 429.
    max_wrong_keys: wrong API keys from one address within a minute; for the rest of it that address gets 429.
    max_connections: open connections at a time; one more closes one that has sent no whole request, or is closed.
    max_body_bytes, body_seconds: size of a request's body (413), time until it is there (408).
    max_body_values: braces, brackets, commas and colons of a body beside those that its text may have (400).
    header_seconds: time until a connection has sent the head of a request; then it is closed.
    keep_alive_seconds: between two requests of a connection; then it is closed.
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

    max_waiting: PositiveInt = 64
    max_in_flight: PositiveInt = 64
    max_wrong_keys: PositiveInt = 20
    max_connections: PositiveInt = 512
    max_body_bytes: PositiveInt = 16 * 2**20
    body_seconds: PositiveFloat = 20.0
    max_body_values: PositiveInt = 150_000
    header_seconds: PositiveFloat = 10.0
    keep_alive_seconds: PositiveFloat = 75.0
    stall_seconds: PositiveFloat = 30.0
    request_seconds: PositiveFloat = 300.0
    max_pictures: NonNegativeInt = 8
    max_picture_bytes: PositiveInt = 10 * 2**20
    max_picture_pixels: PositiveInt = 16_000_000
    max_prompt_chars: PositiveInt = 100_000
    max_prompt_tokens: PositiveInt = 16_384
    max_new_tokens: PositiveInt = 4096
    max_n: PositiveInt = 16
    max_partial_images: NonNegativeInt = 16
    max_stored_bytes: NonNegativeInt = 64 * 2**20
    fetch_seconds: PositiveFloat = 10.0
