"""`/v1/responses` as the real `openai` package sees it: the same answers and drawings as the other endpoints give."""

import json

import numpy as np
import openai
import pytest
import torch

from openjanus.processing.processor import Message
from openjanus.serve.limits import Limits
from tests.serve.conftest import run_server
from tests.serve.raw import send
from tests.serve.test_accepted import COLOR, TOOL
from tests.serve.test_contract import BLUE, RED, alone, data_url, drawn_alone, picture_of
from tests.serve.test_faults import slow

RESPONSES = "/v1/responses"
DRAW = {"tools": [{"type": "image_generation"}], "tool_choice": {"type": "image_generation"}}


def ask(client, input, **settings):
    return client.responses.create(**{"model": "tiny", "input": input, "max_output_tokens": 12, **settings})


def look(*pictures) -> list[dict]:
    return [{"type": "input_image", "image_url": data_url(picture), "detail": "auto"} for picture in pictures]


def words(text: str) -> dict:
    return {"type": "input_text", "text": text}


def talk(engine, *messages: Message, num: int = 12) -> str:
    return "".join(engine.chat(messages, max_new_tokens=num))


def test_text_in_text_out(client, engine) -> None:
    answer = ask(client, "a red cat", metadata={"a": "b"})
    assert answer.output_text == alone(engine, ["a red cat"])
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.model == "tiny" and answer.object == "response" and answer.metadata == {"a": "b"}
    (item,) = answer.output
    assert (item.type, item.role, item.status, item.content[0].annotations) == (
        "message",
        "assistant",
        "incomplete",
        [],
    )
    assert answer.usage.output_tokens == 12
    assert answer.usage.total_tokens == answer.usage.input_tokens + 12


def test_pictures_and_turns_reach_the_model(client, engine) -> None:
    turns = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [*look(RED), words("what is it?")]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a cat"}], "id": "msg_1"},
        {"role": "user", "content": [words("and this?"), *look(BLUE)]},
    ]
    answer = ask(client, turns, instructions="be brief")
    assert answer.output_text == talk(
        engine,
        Message("system", ["be brief\n\nbe kind"]),
        Message("user", [RED, "what is it?"]),
        Message("assistant", ["a cat"]),
        Message("user", ["and this?", BLUE]),
    )
    assert answer.instructions == "be brief"


def test_seeds_and_settings_reach_the_sampler(client, engine) -> None:
    settings = {"temperature": 1.0, "top_p": 0.9}
    answer = ask(client, "two red cats", extra_body={"top_k": 20, "seed": 7}, **settings)
    assert answer.output_text == alone(engine, ["two red cats"], top_k=20, seed=7, **settings)
    assert (answer.temperature, answer.top_p) == (1.0, 0.9)


def test_a_stream_has_the_whole_sequence_of_events(client) -> None:
    whole = ask(client, "a red cat")
    events = list(ask(client, "a red cat", stream=True))
    kinds = [event.type for event in events]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(deltas),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in deltas) == events[-4].text == events[-3].part.text == whole.output_text
    first, last = events[0].response, events[-1].response
    assert (first.status, first.output, first.id) == ("in_progress", [], last.id)
    assert last.output_text == whole.output_text and last.usage == whole.usage
    ids = {event.item_id for event in events if hasattr(event, "item_id")}
    assert ids == {last.output[0].id} == {events[2].item.id} and events[-2].item == last.output[0]


def test_the_clients_own_stream_helper_understands_it(client, engine) -> None:
    with client.responses.stream(model="tiny", input="a red cat", max_output_tokens=12) as stream:
        said = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(said) == alone(engine, ["a red cat"])
    form = {"format": {"type": "json_schema", "name": "a", "schema": {"type": "boolean"}}}
    with client.responses.stream(model="tiny", input="is it red?", text=form) as stream:
        stream.until_done()
        assert stream.get_final_response().output_text in ("true", "false")


def test_the_clients_defaults_are_accepted(client, engine) -> None:
    settings = {
        "tools": [{"type": "function", "name": "weather", "parameters": {}}, {"type": "web_search"}],
        "tool_choice": "auto", "parallel_tool_calls": True, "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}, "verbosity": "low"},
        "truncation": "auto", "store": False, "service_tier": "auto", "user": "me", "background": False,
        "prompt_cache_key": "a", "safety_identifier": "b", "top_logprobs": 0, "previous_response_id": None,
        "conversation": None, "stream_options": {"include_obfuscation": True},
    }  # fmt: skip
    answer = ask(client, "a red cat", **settings)
    assert answer.output_text == alone(engine, ["a red cat"]) and answer.tools == []


def test_a_talk_goes_on_from_a_kept_answer(client, engine) -> None:
    first = ask(client, [{"role": "user", "content": [*look(RED), words("what?")]}], instructions="be brief")
    second = ask(client, "why?", previous_response_id=first.id)
    third = ask(client, "when?", previous_response_id=second.id, stream=True)
    turns = [Message("user", [RED, "what?"]), Message("assistant", [first.output_text]), Message("user", ["why?"])]
    assert second.output_text == talk(engine, *turns) and second.previous_response_id == first.id
    turns += [Message("assistant", [second.output_text]), Message("user", ["when?"])]
    assert list(third)[-1].response.output_text == talk(engine, *turns)
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError) as error:
        client.responses.retrieve(first.id)
    assert error.value.code == "response_not_found"
    with pytest.raises(openai.NotFoundError) as error:
        ask(client, "why?", previous_response_id=first.id)
    assert error.value.param == "previous_response_id"


def test_output_items_can_be_sent_back_whole_or_by_reference(client, engine) -> None:
    first = ask(client, "a red cat")
    question, again = {"role": "user", "content": "a red cat"}, {"role": "user", "content": "why?"}
    wanted = talk(
        engine, Message("user", ["a red cat"]), Message("assistant", [first.output_text]), Message("user", ["why?"])
    )
    reference = {"type": "item_reference", "id": first.output[0].id}
    for item in (first.output[0], first.output[0].model_dump(), reference):
        assert ask(client, [question, item, again]).output_text == wanted
    drawn = client.responses.create(model="tiny", input="a cat", **DRAW)
    assert ask(client, [question, first.output[0], drawn.output[0], again]).output_text == wanted
    with pytest.raises(openai.NotFoundError, match="item"):
        ask(client, [{"type": "item_reference", "id": "msg_none"}, again])


def test_what_is_not_to_be_kept_is_not(client) -> None:
    answer = ask(client, "a red cat", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_an_answer_belongs_to_its_key(engine) -> None:
    with run_server(engine, keys=("one", "two")) as running:
        mine, other = running.client("one"), running.client("two")
        answer = ask(mine, "my secret")
        for attempt in (
            lambda: other.responses.retrieve(answer.id),
            lambda: other.responses.delete(answer.id),
            lambda: ask(other, "what did I say?", previous_response_id=answer.id),
            lambda: ask(
                other, [{"type": "item_reference", "id": answer.output[0].id}, {"role": "user", "content": "?"}]
            ),
        ):
            with pytest.raises(openai.NotFoundError):
                attempt()
        assert mine.responses.retrieve(answer.id).output_text == answer.output_text


def test_the_oldest_answers_make_room(engine) -> None:
    with run_server(engine, Limits(max_stored_bytes=20_000)) as running:
        client = running.client()
        answers = [ask(client, f"cat number {i}") for i in range(8)]
        store = running.service.store
        assert store.num_bytes <= 20_000 and store.num_bytes == sum(kept.num_bytes for kept in store._kept.values())
        assert client.responses.retrieve(answers[-1].id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(answers[0].id)
    with run_server(engine, Limits(max_stored_bytes=0)) as running:
        answer = ask(running.client(), "a red cat")
        assert answer.store is False and not running.service.store._kept


@pytest.mark.parametrize("streams", [False, True])
def test_a_forced_tool_draws(client, engine, streams) -> None:
    tools = [TOOL, {"type": "image_generation", "size": "1024x1024", "quality": "high", "partial_images": 2}]
    settings = {"tools": tools, "tool_choice": {"type": "image_generation"}, "extra_body": {"seed": 5}}
    answer = client.responses.create(model="tiny", input="a red cat", stream=streams, **settings)
    if streams:
        events = list(answer)
        kinds = [event.type for event in events]
        partial = [event for event in events if event.type == "response.image_generation_call.partial_image"]
        assert kinds == [
            "response.created", "response.in_progress", "response.output_item.added",
            "response.image_generation_call.in_progress", "response.image_generation_call.generating",
            *["response.image_generation_call.partial_image"] * len(partial),
            "response.image_generation_call.completed", "response.output_item.done", "response.completed",
        ]  # fmt: skip
        assert all(picture_of(event.partial_image_b64).size == (16, 16) for event in partial)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        answer = events[-1].response
    (call,) = answer.output
    assert (call.type, call.status, answer.status) == ("image_generation_call", "completed", "completed")
    assert np.array_equal(np.asarray(picture_of(call.result)), drawn_alone(engine, "a red cat", seed=5)[0])
    assert answer.usage.output_tokens == 16 and answer.output_text == ""


def test_a_tool_that_is_required_draws_if_nothing_else_could(client) -> None:
    tool = {"type": "image_generation", "output_format": "webp"}
    answer = client.responses.create(model="tiny", input="a cat", tools=[tool], tool_choice="required")
    assert picture_of(answer.output[0].result).format == "WEBP"
    answer = ask(client, "a cat", tools=[tool])  # not forced: words
    assert answer.output[0].type == "message"


@pytest.mark.parametrize("streams", [False, True])
def test_an_answer_follows_a_json_schema(client, streams) -> None:
    form = {"type": "json_schema", "name": "thing", "schema": COLOR, "strict": True}
    answer = ask(client, "what is it?", text={"format": form}, max_output_tokens=100, stream=streams)
    answer = list(answer)[-1].response if streams else answer
    assert json.loads(answer.output_text)["color"] in ("red", "blue") and answer.status == "completed"


def test_the_openai_client_parses_an_answer_into_a_class(client) -> None:
    from pydantic import BaseModel

    class Thing(BaseModel):
        is_large: bool

    answer = client.responses.parse(model="tiny", input="what is it?", text_format=Thing, max_output_tokens=60)
    assert isinstance(answer.output_parsed, Thing)


REFUSED = {
    "a tool by force": ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
    "a tool that is not listed": ({"tool_choice": {"type": "image_generation"}}, "tool_choice"),
    "a tool by name": ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}}, "tool_choice"),
    "background": ({"background": True}, "background"),
    "conversation": ({"conversation": "conv_1"}, "conversation"),
    "prompt": ({"prompt": {"id": "a"}}, "prompt"),
    "unknown": ({"extra_body": {"colour": 1}}, "colour"),
    "nothing": ({"input": []}, "input"),
    "empty": ({"input": " "}, "input"),
    "number": ({"input": 7}, "input"),
    "file": ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "a"}]}]}, "input.0.content.0"),
    "tool's output": ({"input": [{"type": "function_call_output", "call_id": "a", "output": "b"}]}, "input.0"),
    "nothing that says anything": ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
    "assistant last": ({"input": [{"role": "assistant", "content": "a"}]}, "input"),
    "metadata": ({"metadata": {str(i): "a" for i in range(17)}}, "metadata"),
    "not a picture": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,aaaa"}]}]},
        "input",
    ),
    "an edit": (
        {"input": [{"role": "user", "content": [words("red"), *look(RED)]}], **DRAW}, "input",
    ),
    "a drawing of nothing": ({"input": " ", **DRAW}, "input"),
    "a transparent drawing": ({**DRAW, "tools": [{"type": "image_generation", "background": "transparent"}]}, "tools"),
}  # fmt: skip


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_and_named(client, name, streams) -> None:
    settings, param = REFUSED[name]
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, **{"input": "a red cat", **settings, "stream": streams})
    assert error.value.param == param
    assert error.value.type == "invalid_request_error"


def test_a_fault_amid_a_stream_is_its_last_event(engine) -> None:
    with run_server(engine) as running, slow(running, 0.01):
        scheduler = running.service.worker.scheduler
        logits = scheduler._next_logits

        def faulty(plan):
            if len(scheduler.running[0].ids) == 5:
                raise torch.OutOfMemoryError("no")
            return logits(plan)

        scheduler._next_logits = faulty
        with pytest.raises(openai.APIError, match="out of memory"):
            list(ask(running.client(), "a red cat", stream=True))
        status, _, body = send(running.port, RESPONSES, {"input": "a red cat", "stream": True})
        events = [json.loads(line[6:]) for line in body["text"].split("\n") if line.startswith("data: ")]
        assert status == 200 and events[-1]["type"] == "error" and events[-1]["code"] == "out_of_memory"
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        running.settles()
        assert not running.service.store._kept
