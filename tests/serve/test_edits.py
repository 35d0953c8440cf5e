"""`POST /v1/images/edits`, by the real client and by hand: what is drawn is what the library draws."""

import base64
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO

import numpy as np
import openai
import pytest
from PIL import Image

from openjanus.inference.engine import Engine
from openjanus.processing.message import Message
from openjanus.serve.limits import Limits
from tests import tiny
from tests.serve.conftest import Running, run_server
from tests.serve.raw import send

PATH = "/v1/images/edits"
WIDE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 40, 3), np.uint8))
SETTINGS = {"seed": 5, "guidance_scale": 4.0, "image_guidance_scale": 1.5}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(replace(tiny.checkpoint(sampling={"guidance": 3.0}), tasks=("talk", "draw", "edit")))


@pytest.fixture(scope="module")
def served(engine) -> Iterator[Running]:
    with run_server(engine, Limits(max_pictures=2)) as running:
        yield running


def file_of(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def url_of(image: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(file_of(image)).decode()}"


def pixels(picture: str) -> bytes:
    return Image.open(BytesIO(base64.b64decode(picture))).convert("RGB").tobytes()


@pytest.mark.parametrize("num", [1, 2])
def test_the_client_gets_what_the_library_draws(client, engine, num) -> None:
    given = [WIDE, WIDE.rotate(180)][:num]
    files = [file_of(image) for image in given]
    answer = client.images.edit(image=files if num > 1 else files[0], prompt="make it blue", n=2, extra_body=SETTINGS)
    wanted = engine.generate(
        Message("user", [*given, "make it blue"]), n=2, seed=5, guidance=4.0, image_guidance=1.5
    )  # fmt: skip
    assert [pixels(each.b64_json) for each in answer.data] == [image.tobytes() for image in wanted]
    assert answer.usage.input_tokens_details.image_tokens == num * (4 + 16)  # through both eyes
    assert answer.usage.input_tokens == answer.usage.input_tokens_details.text_tokens + num * (4 + 16)


def test_a_stream_has_the_events_of_an_edit(client, engine) -> None:
    events = list(
        client.images.edit(
            image=file_of(WIDE), prompt="make it blue", stream=True, partial_images=2, extra_body={"seed": 1}
        )
    )
    assert events[-1].type == "image_edit.completed"
    assert {event.type for event in events[:-1]} <= {"image_edit.partial_image"}
    assert pixels(events[-1].b64_json) == engine.edit(WIDE, "make it blue", seed=1)[0].tobytes()


def test_json_gives_the_same(served, engine) -> None:
    body = {"images": [{"image_url": url_of(WIDE)}], "prompt": "make it blue", "seed": 1}
    status, _, answer = send(served.port, PATH, body)
    assert status == 200
    assert pixels(answer["data"][0]["b64_json"]) == engine.edit(WIDE, "make it blue", seed=1)[0].tobytes()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mask": file_of(WIDE)}, "a mask is not supported: say in words what to change"),
        ({"prompt": " "}, "empty prompt"),
        ({"image": b"no picture"}, "not a readable picture"),
        ({"image": [file_of(WIDE)] * 4}, "Too many files. Maximum number of files is 3"),
        ({"image": [file_of(WIDE)] * 3}, "3 pictures, at most 2"),
        ({"n": 100}, "n is 100, at most"),
        ({"extra_body": {"colour": "red"}}, "colour"),
        ({"extra_body": {"image_guidance_scale": 0.5}}, "image_guidance_scale"),
    ],
    ids=["mask", "no words", "no picture", "many files", "many pictures", "n", "unknown field", "small scale"],
)
def test_what_is_wrong_is_one_line(client, given, words) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.images.edit(**{"image": file_of(WIDE), "prompt": "make it blue", **given})
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"no form"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na'),
        ("text/plain", b"{}"),
        ("application/x-www-form-urlencoded", b"prompt=a"),
    ],
)
def test_what_is_no_form_is_refused(served, media_type, body) -> None:
    status, _, answer = send(served.port, PATH, body, **{"Content-Type": media_type})
    assert status == 400 and answer["error"]["message"]


def test_a_form_with_many_fields_is_refused(served) -> None:
    part = '--x\r\nContent-Disposition: form-data; name="f{}"\r\n\r\n1\r\n'
    body = "".join(part.format(i) for i in range(1000)) + "--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    status, _, answer = send(served.port, PATH, body.encode(), **headers)
    assert status == 400 and "Too many fields" in answer["error"]["message"]


def test_the_card_says_which_model_edits(client) -> None:
    assert client.models.retrieve("tiny").drawing["edits"] is True
