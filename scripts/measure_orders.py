#!/usr/bin/env python3
"""Asks a running server questions about emoji scenes never trained on, in each order of words and picture that clients
send, and prints the right answers: `python scripts/measure_orders.py [URL] [QUESTIONS]`."""

import base64
import json
import sys
import urllib.request
from io import BytesIO

from PIL import Image

from openjanus.emoji import grammar, world
from openjanus.emoji.splits import stream

SEED = 11
NOTE = {"role": "system", "content": "You are a helpful assistant."}


def orders(words: str, picture: str) -> dict[str, list[dict]]:
    """The messages of one question by the name of their order; picture is a data URL."""
    text, image = {"type": "text", "text": words}, {"type": "image_url", "image_url": {"url": picture}}
    words_first, picture_first = {"role": "user", "content": [text, image]}, {"role": "user", "content": [image, text]}
    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello"}]
    return {
        "picture, words (the page)": [picture_first],
        "words, picture (what the clients send)": [words_first],
        "system note, words, picture (Open WebUI with a system prompt set)": [NOTE, words_first],
        "an earlier turn of words, then words, picture": [*talk, words_first],
    }


def ask(url: str, messages: list[dict]) -> str:
    body = json.dumps({"model": "nano", "messages": messages, "max_tokens": 16}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["choices"][0]["message"]["content"].strip()


def measure(url: str, num_questions: int) -> dict[str, int]:
    """Right answers by order, of `num_questions` each."""
    right: dict[str, int] = {}
    for i in range(num_questions):
        scene = world.sample_scene("seen", SEED, i)
        question = grammar.question(scene, stream("seen", SEED, i, 2))
        file = BytesIO()
        Image.fromarray(world.render(scene)).save(file, "PNG")
        picture = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        for name, messages in orders(question.text, picture).items():
            right[name] = right.get(name, 0) + (ask(url, messages) == question.answer)
    return right


if __name__ == "__main__":
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    num_questions = int(sys.argv[2]) if len(sys.argv) > 2 else 150
    for name, count in measure(url, num_questions).items():
        print(f"{count:4d} of {num_questions}  {name}")
