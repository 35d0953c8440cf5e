"""`openjanus serve --engine vllm` as its clients see it: the real command, the real `openai` package."""

import base64
import io
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm has an environment with it")

import openai
from PIL import Image

from openjanus.testing.on_vllm import CPU_ENVIRONMENT, PICTURES, Ask, Embedded
from openjanus.weights.hub import BUNDLED
from tests.fleet.serving import ask, pixels_of, refused, start
from tests.fleet.test_vocabulary import INJECTIONS

pytestmark = pytest.mark.vllm
KEY = "sesame-open"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    arguments = [
        "--engine", "vllm", "--weights", "float32", "--alias", "gpt-image-1", "--api-keys", str(keys), "--slots", "16",
        "--limits.max-body-bytes", "1000000", "--limits.max-pictures", "2", "--limits.max-n", "4",
        "--limits.max-new-tokens", "64", "--grace-seconds", "5",
        "--fleet.vllm", "enforce-eager", "block-size=32",
    ]  # fmt: skip
    with start(arguments, CPU_ENVIRONMENT) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Any) -> openai.OpenAI:
    return server.client(KEY)


@pytest.fixture(scope="module")
def embedded() -> Embedded:
    return Embedded(BUNDLED / "nano")


def says(client: openai.OpenAI, words: str, **settings: Any) -> Any:
    return ask(client, [{"role": "user", "content": words}], **settings)


def test_a_drawing_is_the_embedded_engines(client: openai.OpenAI, embedded: Embedded) -> None:
    for prompt in ("two red apples", "a blue car"):
        drawn = client.images.generate(prompt=prompt, extra_body={"temperature": 0, "seed": 0})
        (image,) = embedded.engine.generate(prompt, temperature=0)
        assert np.array_equal(pixels_of(drawn.data[0].b64_json), np.asarray(image))
        assert drawn.usage.output_tokens == 64 and drawn.usage.input_tokens_details.text_tokens > 5


def test_an_answer_is_the_embedded_engines(client: openai.OpenAI, embedded: Embedded) -> None:
    for question, picture in (("what color is the balloon?", PICTURES[0]), ("how many stars are there?", PICTURES[1])):
        work = Ask(question, picture)
        (choice,) = ask(client, work.messages()).choices
        assert choice.message.content.strip() == "".join(embedded.engine.ask(work.content()[0], question))


def test_many_at_once_get_what_each_gets_alone(client: openai.OpenAI) -> None:
    """32 concurrent requests of both kinds, sampled and greedy, streamed and whole, with guidance of their own."""
    objects = ("a red apple", "two blue cars", "a yellow star", "a green heart")

    def draw(k: int) -> list[str]:
        settings: dict[str, Any] = {"seed": k, "guidance_scale": 1 + k % 4, "temperature": 0.5 if k % 2 else 0}
        if k % 5 == 0:
            events = client.images.generate(prompt=objects[k % 4], stream=True, partial_images=2, extra_body=settings)
            return [e.b64_json for e in events if e.type == "image_generation.completed"]
        drawn = client.images.generate(prompt=objects[k % 4], n=1 + k % 2, extra_body=settings)
        return [image.b64_json for image in drawn.data]

    def answer(k: int) -> list[str]:
        work = Ask(("what is it?", "what color is it?", "how many are there?")[k % 3], PICTURES[k % 2])
        settings: dict[str, Any] = {"seed": k, "temperature": 0.7} if k % 4 == 0 else {}
        if k % 5 == 0:
            chunks = ask(client, work.messages(), stream=True, **settings)
            return ["".join(c.choices[0].delta.content or "" for c in chunks if c.choices)]
        return [ask(client, work.messages(), **settings).choices[0].message.content]

    calls = [(call, k) for k in range(16) for call in (draw, answer)]
    alone = [call(k) for call, k in calls]
    assert len({tuple(pictures) for pictures in alone[::2]}) == 16
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(lambda c: c[0](c[1]), calls)) == alone


def test_seeds(client: openai.OpenAI) -> None:
    def drawn(n: int, **settings: Any) -> list[str]:
        found = client.images.generate(prompt="a red heart", n=n, extra_body={"temperature": 0.8, **settings})
        assert found.seed == settings.get("seed", found.seed)
        return [pixels_of(image.b64_json).tobytes().hex() for image in found.data]

    assert drawn(3, seed=7) == drawn(3, seed=7)
    assert drawn(3, seed=7)[:1] == drawn(1, seed=7)
    assert len({*drawn(3, seed=7), *drawn(3, seed=8)}) == 6
    assert drawn(1) != drawn(1)


def test_streamed_drawings_grow(client: openai.OpenAI) -> None:
    events = list(client.images.generate(prompt="a red heart", n=2, stream=True, partial_images=3))
    done = [e.image_index for e in events if e.type == "image_generation.completed"]
    assert sorted(done) == [0, 1]
    partial = [e for e in events if e.type == "image_generation.partial_image"]
    assert partial and all(0 < e.progress < 1 for e in partial)
    assert {Image.open(io.BytesIO(base64.b64decode(e.b64_json))).mode for e in partial} == {"RGBA"}


def test_what_clients_send(client: openai.OpenAI) -> None:
    """LibreChat and Open WebUI: an alias, sizes and looks that are `auto`."""
    assert [model.id for model in client.models.list()] == ["nano", "gpt-image-1"]
    drawn = client.images.generate(
        model="gpt-image-1", prompt="a star", size="auto", quality="auto", background="auto", output_format="png"
    )
    assert pixels_of(drawn.data[0].b64_json).shape == (64, 64, 3)
    drawn = client.images.generate(model="nano", prompt="a star", n=1, size="64x64", response_format="b64_json")
    assert drawn.size == "64x64"


@pytest.mark.parametrize("words", INJECTIONS)
def test_no_words_switch_the_mode(client: openai.OpenAI, words: str) -> None:
    answer = says(client, words, extra_body={"return_token_ids": True})
    assert 2048 not in answer.prompt_token_ids and 3 not in answer.prompt_token_ids
    assert all(4 < id < 1024 or id == 2 for id in answer.choices[0].token_ids)


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}])
def test_no_setting_brings_image_ids_into_a_chat(client: openai.OpenAI, settings: dict) -> None:
    for more in ({"allowed_token_ids": [1030]}, {"logit_bias": {"1030": 100, "2048": 100, "3": 100}}):
        answer = says(client, "hi", extra_body={"return_token_ids": True, **settings, **more})
        assert all(id < 1024 for id in answer.choices[0].token_ids)
    answer = says(client, "hi", logprobs=True, top_logprobs=5, **settings)
    assert len(answer.choices[0].logprobs.content) > 0


def test_keys(server: Any) -> None:
    for key in ("wrong", "none"):
        with pytest.raises(openai.AuthenticationError) as error:
            server.client(key).images.generate(prompt="a star")
        assert error.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            says(server.client(key), "hi")
        with pytest.raises(openai.AuthenticationError):
            server.client(key).models.list()
    assert urllib.request.urlopen(f"{server.url}/health").status == 200


@pytest.mark.parametrize(
    ("status", "words", "settings"),
    [
        (400, "empty prompt", {"prompt": "  "}),
        (400, "at most 4 pictures", {"prompt": "a", "n": 5}),
        (404, "this server has one model", {"prompt": "a", "model": "dall-e-3"}),
        (400, "guidance_scale", {"prompt": "a", "extra_body": {"guidance_scale": 0.5}}),
        (400, "temperature", {"prompt": "a", "extra_body": {"temperature": -1}}),
        (400, "temperature must be in [0, 2]", {"prompt": "a", "extra_body": {"temperature": 3}}),
        (400, "unknown parameter", {"prompt": "a", "extra_body": {"speed": 1}}),
        (400, "response_format", {"prompt": "a", "response_format": "png"}),
        (400, "at most 448", {"prompt": "word " * 600}),
        (400, "context_length_exceeded", {"prompt": "word " * 600, "stream": True}),
    ],
)
def test_bad_drawings(client: openai.OpenAI, status: int, words: str, settings: dict) -> None:
    found, body = refused(lambda: client.images.generate(**settings))
    assert found == status and words in body


def test_what_clients_draw_by_default(client: openai.OpenAI) -> None:
    """Another size than the model's, and an URL."""
    drawn = client.images.generate(prompt="a", size="1024x1024", response_format="url")
    assert drawn.data
    data = (drawn.data[0].url or "").removeprefix("data:image/png;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (64, 64)


def picture(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    ("words", "content", "settings"),
    [
        ("say something", "  ", {}),
        ("not a readable picture", [picture("data:image/png;base64,AAAA")], {}),
        ("not base64", [picture("data:image/png;base64,?")], {}),
        ("loads no remote pictures", [picture("http://127.0.0.1:9/x.png")], {}),
        ("data:image", [picture("file:///etc/passwd")], {}),
        ("at most 2 are read", [picture("data:image/png;base64,AAAA")] * 3, {}),
        ("", "word " * 600, {}),
        ("", "hi", {"temperature": -1}),
        ("", "hi", {"extra_body": {"vllm_xargs": {"guidance": 0}}}),
        ("", "hi", {"extra_body": {"vllm_xargs": {"image_guidance": 2}}}),
        ("", "hi", {"extra_body": {"allowed_token_ids": [10**6]}}),
    ],
)
def test_bad_chats(client: openai.OpenAI, words: str, content: Any, settings: dict) -> None:
    status, body = refused(lambda: ask(client, [{"role": "user", "content": content}], **settings))
    assert status == 400 and words in body


def test_bad_conversations(client: openai.OpenAI) -> None:
    for messages in (
        [{"role": "assistant", "content": "hi"}],
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}],
    ):
        assert refused(lambda messages=messages: ask(client, messages))[0] == 400  # type: ignore[misc]


def test_several_system_messages_are_one(client: openai.OpenAI) -> None:
    settings = {"temperature": 0, "max_tokens": 4}
    system = [{"role": "system", "content": words} for words in ("b", "d")]
    user = {"role": "user", "content": "c"}
    answers = [ask(client, messages, **settings) for messages in ([system[0], user, system[1]], [*system, user])]
    assert answers[0].usage == answers[1].usage
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content


def test_a_picture_of_many_pixels_is_refused(client: openai.OpenAI) -> None:
    file = io.BytesIO()
    Image.new("L", (12_000, 12_000)).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    status, body = refused(lambda: ask(client, [{"role": "user", "content": [picture(url)]}]))
    assert status == 400 and "pixels are read" in body


def raw(server: Any, path: str, data: bytes | None = b"{}", **headers: str) -> int:
    given = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}", **headers}
    try:
        return urllib.request.urlopen(urllib.request.Request(server.url + path, data, given)).status
    except urllib.error.HTTPError as error:
        return error.code


def test_few_doors_are_open(server: Any) -> None:
    """No door that takes ids: they could write the id that begins a drawing."""
    for path in (
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/inference/v1/generate",
        "/tokenize",
        "/v1/rerank",
    ):
        assert raw(server, path, b'{"model": "nano", "prompt": [1, 2048], "max_tokens": 1}') == 404
    for path in ("/docs", "/v1/nothing"):
        assert raw(server, path, None) == 404


def test_the_guard_of_openjanus_serve_stands_before_it(server: Any) -> None:
    assert raw(server, "/v1/images/generations", b"no json") == 400
    assert raw(server, "/v1/images/generations", b'{"prompt": "' + b"a" * 1_100_000 + b'"}') == 413
    assert raw(server, "/v1/models", None, Host="evil.example") == 403
    assert raw(server, "/v1/models", None, Origin="http://evil.example") == 403
    assert raw(server, "/v1/models", None) == 200 and raw(server, "/metrics", None) == 200


def test_it_still_lives_and_ends_well(server: Any, client: openai.OpenAI) -> None:
    """Last in the file: after all of the above."""
    assert says(client, "hi").choices[0].message.content is not None
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
