"""Limits of one request, of one client, and of the whole server."""

from dataclasses import dataclass

from openjanus.config import Config, NonNegativeInt, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class Limits(Config):
    """All limits of the server. A request beyond a limit gets the status in brackets (docs/security.md).

    max_waiting: requests that wait for rows of the batch; one more gets 429.
    max_in_flight: concurrent requests of one API key, or of one address if no keys are set; one more gets 429.
    max_wrong_keys: wrong API keys from one address within a minute; then it gets 429 for the rest of that minute.
    max_connections: open connections. For one more, an idle connection is closed; without an idle one, the new one is.
    max_body_bytes, body_seconds: size of a request's body (413), time to receive it (408).
    max_body_values: braces, brackets, commas and colons of a body, in addition to max_prompt_chars (400).
    header_seconds: time until a connection has sent the head of a request; then it is closed.
    keep_alive_seconds: idle time between two requests of a connection; then it is closed.
    stall_seconds: time without progress while an answer is sent; then the connection is closed.
    request_seconds: from the end of the body to the end of the answer (504).
    max_pictures: pictures of one conversation.
    max_picture_bytes, max_picture_pixels: encoded size and decoded pixels of one picture.
    max_prompt_chars, max_prompt_tokens: text of all messages, and their positions with pictures.
    max_new_tokens: tokens of an answer.
    max_n: pictures of one prompt.
    max_partial_images: unfinished pictures that a streamed drawing shows.
    max_stored_bytes: stored answers of /v1/responses with their conversations; 0: nothing is stored.
    fetch_seconds: to load one remote picture, if that is allowed.
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
