"""The API as the real `openai` package sees it; every answer is compared with the same request alone."""

import base64
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import openai
import pytest
import torch
from PIL import Image
from torch.nn.functional import one_hot

from openjanus.inference.engine import Engine
from openjanus.processing.processor import Message
from openjanus.processing.text import BOS, TextTokenizer
from openjanus.sequence import num_tokens
from tests import tiny
from tests.serve.conftest import Running, run_server

RED, BLUE = Image.new("RGB", (20, 12), "red"), Image.new("RGB", (16, 16), "blue")


def data_url(image: Image.Image, form: str = "PNG") -> str:
    file = io.BytesIO()
    image.save(file, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def picture_part(image: Image.Image) -> dict:
    return {"type": "image_url", "image_url": {"url": data_url(image)}}


def picture_of(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def text_of(stream) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def ask(client, content, **settings):
    settings = {"model": "tiny", "max_tokens": 12, **settings}
    return client.chat.completions.create(messages=[{"role": "user", "content": content}], **settings)


def alone(engine, content, max_new_tokens=12, **settings) -> str:
    return "".join(engine.chat([Message("user", content)], max_new_tokens=max_new_tokens, **settings))


def drawn_alone(engine, prompt, **settings) -> list[np.ndarray]:
    ids = engine.generate_ids(prompt, **settings)
    return [np.asarray(engine.decode_images(row[None])[0]) for row in ids]


def test_models(client) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").drawing["sizes"] == ["16x16"]
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("gpt-4")
    assert error.value.code == "model_not_found"


def test_an_alias_is_the_same_model(engine) -> None:
    with run_server(engine, aliases=("gpt-image-1",)) as running:
        client = running.client()
        drawn = [client.images.generate(prompt="a", model=m, extra_body={"seed": 1}) for m in ("tiny", "gpt-image-1")]
        assert drawn[0].data == drawn[1].data
        assert client.models.retrieve("gpt-image-1").id == "gpt-image-1"
        with pytest.raises(openai.NotFoundError):
            client.images.generate(prompt="a", model="gpt-image-2")


def test_an_answer_is_the_engines_own(client, engine) -> None:
    content = [{"type": "text", "text": "what is it?"}, picture_part(RED), picture_part(BLUE)]
    answer = ask(client, content)
    assert answer.choices[0].message.content == alone(engine, ["what is it?", RED, BLUE])
    document = engine.processor.prompt([Message("user", ["what is it?", RED, BLUE])])
    num_prompt = sum(len(span.ids) if hasattr(span, "ids") else span.num_features for span in document)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (num_prompt, 12)
    assert answer.usage.total_tokens == num_prompt + 12
    assert answer.choices[0].finish_reason == "length"
    assert answer.object == "chat.completion" and answer.model == "tiny"


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF"])
def test_other_formats_of_pictures(client, engine, form) -> None:
    url = data_url(RED, form)
    answer = ask(client, [{"type": "image_url", "image_url": {"url": url, "detail": "auto"}}])
    assert answer.choices[0].message.content == alone(engine, [picture_of(url.partition(",")[2]).convert("RGB")])


def test_a_stream_joins_to_the_whole(client) -> None:
    whole = ask(client, "a red cat")
    chunks = list(ask(client, "a red cat", stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert text_of(chunks) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in ask(client, "a red cat", stream=True))


def test_an_answer_that_ends_by_itself_says_stop(engine) -> None:
    """A head whose first choice is the end of the sentence."""
    with run_server(engine) as running:
        scheduler, eos = running.service.worker.scheduler, engine.processor.text.eos_id
        heads = dict(scheduler.heads)
        kind = next(kind for kind, head in heads.items() if head == engine._text_logits)

        def ends(hidden):
            logits = heads[kind](hidden)
            logits[..., eos] = 1e9
            return logits

        scheduler.heads[kind] = ends
        answer = ask(running.client(), "a red cat")
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].message.content == ""
    assert answer.usage.completion_tokens == 1


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(("stop", "wanted"), [(None, "a né\ufffd"), ("é\ufffd", "a n"), ("né\ufffd?", "a né\ufffd")])
def test_an_answer_that_ends_inside_a_character_keeps_its_end(engine, streams, stop, wanted) -> None:
    ids = engine.processor.text.encode(" a né☃")[:-1]
    with run_server(engine) as running:
        scheduler, said = running.service.worker.scheduler, iter(ids)
        kind = next(kind for kind, head in scheduler.heads.items() if head == engine._text_logits)
        scheduler.heads[kind] = lambda hidden: one_hot(torch.tensor([next(said)]), 1024).float()
        answer = ask(running.client(), "hello", max_tokens=len(ids), stop=stop, stream=streams)
        text = text_of(answer) if streams else answer.choices[0].message.content
    assert text == wanted


def test_marks_in_the_text_say_where_pictures_stand(client, engine) -> None:
    words = "<image_placeholder> is Figure 1.\n<image_placeholder> is Figure 2. Which is red?"
    answer = ask(client, [picture_part(RED), {"type": "text", "text": words}, picture_part(BLUE)])
    conversation = [Message("user", [RED, words, BLUE])]
    assert answer.choices[0].message.content == "".join(engine.chat(conversation, max_new_tokens=12))
    marked = engine.processor.prompt(conversation)
    assert answer.usage.prompt_tokens == num_tokens(marked)
    assert engine.processor.text.decode(marked[2].ids) == " is Figure 1.\n"


def test_a_question_before_its_picture_is_answered_as_one_behind_it() -> None:
    first = Engine(tiny.checkpoint())
    first.processor = tiny.processor(replace(tiny.PROCESSOR, pictures_first=True))
    question = {"type": "text", "text": "what is it?"}
    with run_server(first) as running:
        orders = [picture_part(RED), question], [question, picture_part(RED)]
        answers = [ask(running.client(), content).choices[0].message.content for content in orders]
    assert answers[0] == answers[1] == alone(first, [RED, "what is it?"])


def test_seeds_and_settings_reach_the_sampler(client, engine) -> None:
    settings = {"temperature": 1.0, "top_p": 0.9, "seed": 7}
    given = ask(client, "two red cats", extra_body={"top_k": 20}, **settings).choices[0].message.content
    assert given == alone(engine, ["two red cats"], top_k=20, **settings)
    assert given != ask(client, "two red cats", temperature=1.0, seed=8).choices[0].message.content
    assert len({ask(client, "two red cats", temperature=1.0).choices[0].message.content for _ in range(3)}) == 3


def test_several_turns(client, engine) -> None:
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [picture_part(RED), {"type": "text", "text": "what is it?"}]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "what color?"},
    ]
    answer = client.chat.completions.create(model="tiny", messages=turns, max_tokens=9)
    conversation = [
        Message("system", ["be brief"]),
        Message("user", [RED, "what is it?"]),
        Message("assistant", ["a cat"]),
        Message("user", ["what color?"]),
    ]
    assert answer.choices[0].message.content == "".join(engine.chat(conversation, max_new_tokens=9))


@pytest.mark.parametrize("streams", [False, True])
def test_stop_strings_end_an_answer_before_them(client, streams) -> None:
    whole = ask(client, "a blue dog", max_tokens=30).choices[0].message.content
    for start, stop in ((5, 9), (8, 20), (len(whole) - 3, len(whole))):
        wanted = whole[: whole.index(whole[start:stop])]
        answer = ask(client, "a blue dog", max_tokens=30, stop=["never said", whole[start:stop]], stream=streams)
        if streams:
            chunks = list(answer)
            assert text_of(chunks) == wanted and chunks[-1].choices[0].finish_reason == "stop"
        else:
            assert answer.choices[0].message.content == wanted and answer.choices[0].finish_reason == "stop"
            assert answer.usage.completion_tokens < 30 or stop == len(whole)


def test_an_answer_ends_where_the_positions_do(client) -> None:
    answer = ask(client, "a blue dog", max_tokens=4000)
    assert answer.choices[0].finish_reason == "length" and answer.usage.total_tokens == 192


def test_drawings_are_the_engines_own_and_tell_how_they_were_made(client, engine) -> None:
    extra = {"seed": 3, "guidance_scale": 2, "temperature": 0.8, "top_k": 10, "top_p": 0.95}
    settings = {"n": 2, "size": "16x16", "response_format": "b64_json"}
    answer = client.images.generate(model="tiny", prompt=" two cats ", extra_body=extra, **settings)
    pictures = [picture_of(data.b64_json) for data in answer.data]
    wanted = drawn_alone(engine, "two cats", n=2, seed=3, guidance=2, temperature=0.8, top_k=10, top_p=0.95)
    assert all(np.array_equal(np.asarray(p), w) for p, w in zip(pictures, wanted, strict=True))
    text = pictures[1].text
    assert (text["prompt"], text["seed"], text["guidance"], text["index"]) == ("two cats", "3", "2.0", "1")
    assert (answer.usage.output_tokens, answer.size, answer.seed) == (32, "16x16", 3)
    assert answer.usage.total_tokens == answer.usage.input_tokens + 32


def test_a_drawing_without_settings_takes_the_checkpoints_own_and_a_seed_that_it_names(client, engine) -> None:
    one, two = (client.images.generate(model="tiny", prompt="a cat") for _ in range(2))
    assert one.seed != two.seed
    (wanted,) = drawn_alone(engine, "a cat", seed=one.seed)  # guidance 3 and temperature 0.9 are the checkpoint's
    assert np.array_equal(np.asarray(picture_of(one.data[0].b64_json)), wanted)


def test_a_streamed_drawing_grows(client, engine) -> None:
    extra = {"seed": 5}
    events = list(client.images.generate(prompt="a red cat", n=2, stream=True, partial_images=3, extra_body=extra))
    partial = [e for e in events if e.type == "image_generation.partial_image"]
    done = [e for e in events if e.type == "image_generation.completed"]
    wanted = drawn_alone(engine, "a red cat", n=2, seed=5)
    assert events[-2:] == done and [e.image_index for e in done] == [0, 1]
    for event, picture in zip(done, wanted, strict=True):
        assert np.array_equal(np.asarray(picture_of(event.b64_json)), picture)
        assert event.usage.output_tokens == 16 and event.seed == 5
    assert {e.image_index for e in partial} <= {0, 1} and {e.partial_image_index for e in partial} <= {0, 1, 2}
    for event in partial:
        alpha = np.asarray(picture_of(event.b64_json))[..., 3]
        assert alpha.mean() / 255 == event.progress and set(np.unique(alpha)) <= {0, 255}
        assert alpha[0, 0] == 255 and alpha[-1, -1] == 0


def test_unfinished_pictures_come_while_the_rest_is_drawn(engine) -> None:
    """The engine is held after each step until the client has seen what came of it."""
    with run_server(engine) as running:
        scheduler, may_step = running.service.worker.scheduler, threading.Semaphore(0)
        step = scheduler.step

        def held() -> bool:
            may_step.acquire()
            return step()

        scheduler.step = held
        for _ in range(8):  # of 16
            may_step.release()
        stream = iter(running.client().images.generate(prompt="a cat", stream=True, partial_images=3))
        first = next(stream)
        assert first.type == "image_generation.partial_image" and first.progress <= 0.5
        for _ in range(20):
            may_step.release()
        assert [e.type for e in stream][-1] == "image_generation.completed"


def test_both_kinds_overlap_and_each_gets_what_it_gets_alone(engine) -> None:
    questions = [f"is it a {word} cat on grass?" for word in ("red", "blue", "green", "small")]
    prompts = [f"a {word} car" for word in ("red", "blue", "green", "small")]
    kinds: set[frozenset] = set()
    with run_server(engine, slots=24) as running:
        scheduler = running.service.worker.scheduler
        step = scheduler.step

        def watched() -> bool:
            kinds.add(frozenset(r.kind for r in scheduler.running))
            if max(map(len, kinds)) < 2:  # on a busy machine all of one kind could be done before the other comes
                time.sleep(0.02)
            return step()

        scheduler.step = watched
        client, settings = running.client(), {"temperature": 1.0, "seed": 4, "max_tokens": 40}

        def answer(i: int) -> str:
            if i % 2:
                return text_of(ask(client, questions[i // 2], stream=True, **settings))
            return ask(client, questions[i // 2], **settings).choices[0].message.content

        def drawing(i: int) -> np.ndarray:
            prompt, extra = prompts[i // 2], {"seed": i}
            if i % 2:
                *_, last = client.images.generate(prompt=prompt, stream=True, partial_images=2, extra_body=extra)
            else:
                last = client.images.generate(prompt=prompt, extra_body=extra).data[0]
            return np.asarray(picture_of(last.b64_json))

        with ThreadPoolExecutor(16) as pool:
            answers = [pool.submit(answer, i) for i in range(8)]
            drawings = [pool.submit(drawing, i) for i in range(8)]
            answers, drawings = [f.result() for f in answers], [f.result() for f in drawings]
        running.settles()
    assert any(len(together) == 2 for together in kinds)
    for i in range(8):
        assert answers[i] == alone(engine, [questions[i // 2]], 40, temperature=1.0, seed=4)
        assert np.array_equal(drawings[i], drawn_alone(engine, prompts[i // 2], seed=i)[0])


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"seed": -1}, "seed"),
        ({"extra_body": {"colour": "red"}}, "colour"),
    ],
)
def test_a_chat_setting_that_cannot_be_honoured_is_named(client, settings, param) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, "hello", **settings)
    assert error.value.param == param and error.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"prompt": " "}, "prompt"),
        ({"prompt": "cat " * 300}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": 9}, "n"),  # rows: 18 of 16
        ({"size": "384"}, "size"),
        ({"response_format": "file"}, "response_format"),
        ({"partial_images": 17, "stream": True}, "partial_images"),
        ({"extra_body": {"guidance_scale": 0.5}}, "guidance_scale"),
        ({"extra_body": {"image_guidance": 2}}, "image_guidance"),
        ({"background": "transparent"}, "background"),
    ],
)
def test_a_drawing_that_cannot_be_made_is_refused_before_anything_is_sent(client, settings, param) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.images.generate(**{"prompt": "a cat", **settings})
    assert error.value.param == param


def test_another_model_is_not_found(client) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(client, "hello", model="gpt-4")
    with pytest.raises(openai.NotFoundError):
        client.images.generate(prompt="a cat", model="dall-e-3")


def test_a_conversation_out_of_order_is_refused(client) -> None:
    user, assistant = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hi"}
    for messages in (
        [],
        [user, assistant],
        [{"role": "system", "content": "alone"}],
        [{"role": "user", "content": " "}],
        [{"role": "user", "content": "cat " * 300}],
        [{"role": "assistant", "content": [picture_part(RED)]}, user],
    ):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="tiny", messages=messages)


def test_status_and_metrics(served: Running, client) -> None:
    import urllib.request

    ask(client, "hello")
    client.images.generate(prompt="a cat", n=2)

    def get(path: str) -> str:
        with urllib.request.urlopen(served.url + path) as answer:
            return answer.read().decode()

    assert get("/health") == get("/ready") == '{"status":"ok"}'
    lines = dict(line.rsplit(" ", 1) for line in get("/metrics").splitlines() if not line.startswith("#"))
    assert float(lines['openjanus_requests_total{endpoint="/v1/images/generations",status="200"}']) >= 1
    assert float(lines['openjanus_ids_total{kind="text"}']) >= 12
    assert float(lines["openjanus_images_total"]) >= 2
    assert float(lines['openjanus_time_to_first_id_seconds_count{kind="image"}']) >= 1
    assert float(lines["openjanus_batch_slots"]) == 16
    assert lines["openjanus_requests_waiting"] == lines["openjanus_batch_rows"] == "0.0"
    assert "openjanus_request_seconds_bucket" in get("/metrics")


def test_a_model_whose_documents_no_token_begins_is_served_as_any(tmp_path) -> None:
    """As with a body of Qwen."""
    data = json.loads(tiny.text_tokenizer().tokenizer.to_str().replace(BOS, "<other>"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    kept = tiny.checkpoint()
    text = TextTokenizer.load(tmp_path / "tokenizer.json")
    assert text.bos_id is None
    kept.processor.text = text
    engine = Engine(kept)
    alone = "".join(engine.chat([Message("user", ["what is it?"])], max_new_tokens=6, temperature=0.0))
    with run_server(engine) as running:
        client = running.client()
        reply = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "what is it?"}], max_tokens=6, temperature=0.0
        )
        assert reply.choices[0].message.content == alone
        drawn = client.images.generate(prompt="a cat", response_format="b64_json", extra_body={"seed": 1})
        assert drawn.data and drawn.data[0].b64_json
