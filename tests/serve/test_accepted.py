"""What real clients send by default is accepted, and what cannot be honoured has one clear refusal."""

import base64
import io
import json
import urllib.error
import urllib.request

import numpy as np
import openai
import pytest
from PIL import Image

from openjanus.cli.serve import name_of
from openjanus.processing.processor import Message
from tests.serve.conftest import run_server
from tests.serve.raw import send
from tests.serve.test_contract import alone, ask, drawn_alone, picture_of
from tests.serve.test_faults import CHAT, DRAW, chat_body

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
DEFAULTS = {
    "tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True, "response_format": {"type": "text"},
    "logit_bias": {}, "frequency_penalty": 0, "presence_penalty": 0.0, "modalities": ["text"], "n": 1,
    "reasoning_effort": "medium", "verbosity": "low", "logprobs": False, "top_logprobs": 0,
    "stream_options": {"include_usage": True, "include_obfuscation": True}, "store": True,
    "metadata": {"chat": "1"}, "service_tier": "auto", "user": "me", "prompt_cache_key": "a",
    "prompt_cache_retention": "24h", "safety_identifier": "b", "prediction": {"type": "content", "content": "x"},
    "functions": [TOOL["function"]], "function_call": "none", "temperature": 0, "stop": [],
}  # fmt: skip


def said(answer) -> str:
    return answer.choices[0].message.content


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_default_of_a_client_changes_nothing(client, engine, name) -> None:
    assert said(ask(client, "a red cat", extra_body={name: DEFAULTS[name]})) == alone(engine, ["a red cat"])


def test_all_defaults_at_once(client, engine) -> None:
    assert said(ask(client, "a red cat", extra_body=DEFAULTS)) == alone(engine, ["a red cat"])


@pytest.mark.parametrize("path", [CHAT, DRAW])
def test_null_is_the_same_as_left_out(served, path) -> None:
    schema = served.client().get("/../openapi.json", cast_to=dict)["components"]["schemas"]
    fields = schema["ChatRequest" if path == CHAT else "ImagesRequest"]["properties"]
    body = {"prompt": "a cat"} if path == DRAW else chat_body()
    body = {**dict.fromkeys([*fields, "unheard_of"]), **body}
    assert send(served.port, path, body)[0] == 200
    part = {"type": "text", "text": "a", "cache_control": None}
    message = {"role": "user", "content": [part], "name": None, "tool_calls": None}
    assert send(served.port, CHAT, {"messages": [message], "max_tokens": 1})[0] == 200


def test_an_answer_can_be_sent_back_as_it_came(client, engine) -> None:
    first = ask(client, "a red cat").choices[0].message
    question, again = {"role": "user", "content": "a red cat"}, {"role": "user", "content": "why?"}
    wanted = [Message("user", ["a red cat"]), Message("assistant", [first.content]), Message("user", ["why?"])]
    wanted = "".join(engine.chat(wanted, max_new_tokens=12))
    for turn in (first, first.model_dump(), {**first.model_dump(), "tool_calls": [], "name": "a", "audio": None}):
        answer = client.chat.completions.create(model="tiny", messages=[question, turn, again], max_tokens=12)
        assert said(answer) == wanted


def test_system_messages_are_joined_wherever_they_stand(client, engine) -> None:
    user = {"role": "user", "content": "a red cat"}
    brief, kind = {"role": "system", "content": "be brief"}, {"role": "developer", "content": "be kind"}
    wanted = [Message("system", ["be brief\n\nbe kind"]), Message("user", ["a red cat"])]
    wanted = "".join(engine.chat(wanted, max_new_tokens=12))
    for messages in ([brief, kind, user], [brief, user, kind], [user, brief, kind]):
        assert said(client.chat.completions.create(model="tiny", messages=messages, max_tokens=12)) == wanted


def test_more_tokens_than_there_are_is_as_many_as_there_are(client) -> None:
    longest = ask(client, "a red cat", max_tokens=4000)
    for settings in ({"max_tokens": 10**9}, {"max_completion_tokens": 10**6}):
        assert said(ask(client, "a red cat", **{"max_tokens": None, **settings})) == said(longest)


REFUSED = {
    "a tool by force": ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice", "json_schema"),
    "a tool by name": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        "tool_choice", "calls no tools",
    ),
    "a function by name": ({"function_call": {"name": "weather"}}, "function_call", "calls no tools"),
    "penalties": ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
    "bias": ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
    "sound": ({"modalities": ["text", "audio"]}, "modalities", "answers are text"),
    "log-probabilities": ({"logprobs": True}, "logprobs", "not supported"),
    "several answers": ({"n": 2}, "n", "not supported"),
    "a search": ({"web_search_options": {}}, "web_search_options", "not supported"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_in_clear_words(client, name) -> None:
    settings, param, words = REFUSED[name]
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, "a red cat", **settings)
    assert error.value.param == param and words in str(error.value) and error.value.code == "unsupported_parameter"


PICTURE_DEFAULTS = {
    "quality": "hd", "style": "vivid", "moderation": "low", "background": "auto", "output_compression": 80,
    "response_format": "b64_json", "user": "me", "partial_images": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURE_DEFAULTS)
def test_a_default_of_a_drawing_client_changes_nothing(client, engine, name) -> None:
    extra = {"seed": 3, name: PICTURE_DEFAULTS[name]}
    answer = client.images.generate(prompt="a cat", extra_body=extra)
    assert np.array_equal(np.asarray(picture_of(answer.data[0].b64_json)), drawn_alone(engine, "a cat", seed=3)[0])


def test_another_size_gives_the_nearest_and_says_so(client, engine) -> None:
    for size in ("512x512", "1024x1536", "1x1", "auto", "16x16"):
        answer = client.images.generate(prompt="a cat", size=size, extra_body={"seed": 3})
        assert answer.size == "16x16"
        assert np.array_equal(np.asarray(picture_of(answer.data[0].b64_json)), drawn_alone(engine, "a cat", seed=3)[0])
    (*_, done) = client.images.generate(prompt="a cat", size="512x512", stream=True)
    assert done.size == "16x16"
    for size in ("large", "512", "512x", "0x0", "-1x5", "9" * 5000 + "x1"):
        with pytest.raises(openai.BadRequestError) as error:
            client.images.generate(prompt="a cat", size=size)
        assert error.value.param == "size" and error.value.code == "invalid_size" and len(str(error.value)) < 400


def test_strict_sizes_refuse_what_is_not_drawn(engine) -> None:
    with run_server(engine, strict_sizes=True) as running:
        client = running.client()
        assert client.images.generate(prompt="a cat", size="16x16").size == "16x16"
        with pytest.raises(openai.BadRequestError) as error:
            client.images.generate(prompt="a cat", size="512x512")
    assert error.value.code == "invalid_size" and "16x16" in str(error.value)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_pictures_come_in_the_format_that_is_asked_for(client, engine, form) -> None:
    extra = {"seed": 3}
    answer = client.images.generate(prompt="a cat", output_format=form, n=2, extra_body=extra)
    assert answer.output_format == form
    for data, wanted in zip(answer.data, drawn_alone(engine, "a cat", n=2, seed=3), strict=True):
        picture = picture_of(data.b64_json)
        assert picture.format == form.upper() and picture.size == (16, 16)
        grey = np.asarray(Image.fromarray(wanted).convert("L")).astype(int)  # colours of noise are smeared
        assert np.abs(np.asarray(picture.convert("L")) - grey).mean() < 12
    small = client.images.generate(prompt="a cat", output_format=form, output_compression=5, extra_body=extra)
    smaller = len(small.data[0].b64_json) < len(answer.data[0].b64_json)
    assert smaller == (form != "png")
    settings = {"stream": True, "partial_images": 2, "extra_body": extra}
    *partial, done = client.images.generate(prompt="a cat", output_format=form, **settings)
    for event in [*partial, done]:
        assert event.output_format == form and picture_of(event.b64_json).format == form.upper()
    for event in partial:
        mode = picture_of(event.b64_json).mode
        assert (mode, event.background) == (("RGB", "opaque") if form == "jpeg" else ("RGBA", "transparent"))


@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_a_url_holds_the_picture_itself(client, form) -> None:
    answer = client.images.generate(prompt="a cat", response_format="url", output_format=form)
    assert answer.data[0].b64_json is None and answer.data[0].url.startswith(f"data:image/{form};base64,")
    with urllib.request.urlopen(answer.data[0].url) as got:
        assert Image.open(io.BytesIO(got.read())).format == form.upper()


def test_a_picture_that_cannot_be_drawn_so_is_refused(client) -> None:
    for settings, param in (({"background": "transparent"}, "background"), ({"output_format": "gif"}, "output_format")):
        with pytest.raises(openai.BadRequestError) as error:
            client.images.generate(prompt="a cat", **settings)
        assert error.value.param == param


def test_answers_have_the_name_that_the_client_used(engine) -> None:
    with run_server(engine, aliases=("gpt-4o", "janus/nano"), name="org/tiny") as running:
        client = running.client()
        assert [model.id for model in client.models.list()] == ["org/tiny", "gpt-4o", "janus/nano"]
        for name in ("org/tiny", "gpt-4o", "janus/nano"):
            assert client.models.retrieve(name).id == name
            assert ask(client, "a red cat", model=name).model == name
            assert {chunk.model for chunk in ask(client, "a red cat", model=name, stream=True)} == {name}
        assert send(running.port, CHAT, chat_body())[2]["model"] == "org/tiny"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("org/other")


def test_the_models_name_is_that_of_its_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for model, name in ((".", tmp_path.name), ("./", tmp_path.name), ("a/b", "b"), ("..", tmp_path.parent.name)):
        assert name_of(model) == name
    assert name_of("nano") == "nano" and name_of("/") == "janus"


def test_head_is_answered_where_get_is(served) -> None:
    for path in ("/v1/models", "/v1/models/tiny", "/health", "/ready", "/", "/openapi.json", "/metrics"):
        request = urllib.request.Request(served.url + path, method="HEAD")
        with urllib.request.urlopen(request) as head, urllib.request.urlopen(served.url + path) as get:
            assert head.status == 200 and head.read() == b""
            if path != "/metrics":  # whose numbers grow
                assert head.headers["Content-Length"] == get.headers["Content-Length"]
    for path, status in (("/v1/models/none", 404), (CHAT, 405)):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(urllib.request.Request(served.url + path, method="HEAD"))
        assert error.value.code == status and error.value.read() == b""


def test_edits_say_what_to_use(client, served) -> None:
    file = base64.b64decode(client.images.generate(prompt="a cat").data[0].b64_json)
    with pytest.raises(openai.NotFoundError) as error:
        client.images.edit(image=file, prompt="make it red")
    assert "/v1/images/generations" in str(error.value) and "/v1/chat/completions" in str(error.value)
    status, _, body = send(served.port, "/v1/embeddings", {"input": "a"})
    assert status == 404 and "/v1/chat/completions" in body["error"]["message"]


COLOR = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "blue"]}, "count": {"type": "integer", "minimum": 1, "maximum": 20}},
    "required": ["color", "count"],
    "additionalProperties": False,
}


def schema_format(schema: dict) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "thing", "strict": True, "schema": schema}}


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("streams", [False, True])
def test_an_answer_follows_a_json_schema(client, temperature, streams) -> None:
    settings = {"response_format": schema_format(COLOR), "max_tokens": 100, "temperature": temperature, "seed": 3}
    answer = ask(client, "what is it?", stream=streams, **settings)
    if streams:
        chunks = list(answer)
        text, finish = "".join(c.choices[0].delta.content or "" for c in chunks), chunks[-1].choices[0].finish_reason
    else:
        text, finish = said(answer), answer.choices[0].finish_reason
    value = json.loads(text)
    assert value["color"] in ("red", "blue") and 1 <= value["count"] <= 20 and len(value) == 2
    assert finish == "stop"


def test_the_openai_client_parses_an_answer_into_a_class(client) -> None:
    from typing import Literal

    from pydantic import BaseModel

    class Thing(BaseModel):
        color: Literal["red", "green"]
        is_large: bool

    messages = [{"role": "user", "content": "what is it?"}]
    answer = client.chat.completions.parse(model="tiny", messages=messages, response_format=Thing, max_tokens=100)
    assert isinstance(answer.choices[0].message.parsed, Thing)


def test_a_json_object_is_one_as_far_as_it_goes(client) -> None:
    for seed in range(3):
        settings = {"temperature": 1, "seed": seed, "response_format": {"type": "json_object"}, "max_tokens": 100}
        answer = ask(client, "what is it?", **settings)
        text = said(answer)
        assert text.startswith("{")
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(text), dict)


def test_json_and_words_run_side_by_side(client, engine) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(6) as pool:
        words = [pool.submit(ask, client, "a red cat") for _ in range(3)]
        values = [
            pool.submit(ask, client, "what?", response_format=schema_format(COLOR), max_tokens=60) for _ in range(3)
        ]
        assert {said(f.result()) for f in words} == {alone(engine, ["a red cat"])}
        assert len({said(f.result()) for f in values}) == 1 and json.loads(said(values[0].result()))


HOSTILE = {
    "no schema": ({"type": "bogus"}, "bogus"),
    "remote": ({"$ref": "http://127.0.0.1:1/x"}, "127.0.0.1"),
    "unknown keyword": ({"not": {"type": "string"}}, "not"),
    "large": ({"enum": ["v" * 1000 + str(i) for i in range(200)]}, "characters"),
    "look-ahead": ({"type": "string", "pattern": "(?=x)y"}, "look-around"),
    "many ways": ({"anyOf": [{"properties": {f"a{i}{j}": {} for j in range(9)}} for i in range(150)]}, ""),
    "many states": ({"type": "string", "pattern": "(.*a.{500}.*b.{500}|.*c.{400}x){20}", "minLength": 900}, ""),
    "impossible": ({"type": "string", "pattern": "^a$", "minLength": 5}, ""),
    "huge number": ({"type": "integer", "maximum": 10**300}, ""),
    "deep": (json.loads('{"properties":{"a":' * 90 + "{}" + "}}" * 90), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_schema_that_cannot_be_followed_is_refused(served, engine, name) -> None:
    schema, words = HOSTILE[name]
    body = chat_body(response_format=schema_format(schema), max_tokens=40, temperature=1, seed=1)
    status, _, answer = send(served.port, CHAT, body)
    if status == 400:
        error = answer["error"]
        assert words in error["message"] and len(error["message"]) < 400 and error["param"] == "response_format"
    else:  # the library may learn to follow it
        assert status == 200
    assert said(ask(served.client(), "a red cat")) == alone(engine, ["a red cat"])


def test_json_without_the_library_has_one_clear_refusal(client, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "llguidance", None)
    for form in ({"type": "json_object"}, schema_format(COLOR)):
        with pytest.raises(openai.BadRequestError, match="pip install llguidance") as error:
            ask(client, "what is it?", response_format=form)
        assert error.value.param == "response_format"
