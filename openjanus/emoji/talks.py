"""Conversations as people have them: pictures and questions in either order, several pictures, follow-ups, small talk.

    user: [picture] "what is it?"                  assistant: "apple"
    user: "and how many are there?"                assistant: "1"
    user: "what about this one?" [picture]         assistant: "4"
    user: "who are you?"                           assistant: "I am nano, ..."

Each conversation is a pure function of (split, seed, index). What is asked has one right answer; a question without a
picture of its own is about the newest one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from openjanus.emoji import grammar, world
from openjanus.emoji.rewording import reworded
from openjanus.emoji.splits import stream
from openjanus.emoji.wide import wide_scene
from openjanus.emoji.words import coin, pick
from openjanus.emoji.world import Scene, place_of
from openjanus.processing.message import Conversation, Message

MAX_PICTURES = 8
MAX_TURNS = 4
ONE_PICTURE = 0.85  # share of conversations about one picture; few of the others have more than four
NOTE = 0.15  # share of conversations with a system prompt
LEAD = 0.15  # share of pictures with words before the question

NOTES = (
    "You are a helpful assistant.", "Answer in one word.", "You see pictures of emoji.", "Be brief.",
    "You are a helpful assistant who answers questions about pictures.", "Answer the question about the picture.",
)  # fmt: skip
LEADS = (
    "here is a picture.", "look at this.", "i have a question.", "hello!", "hi,", "please answer:",
    "a picture for you:", "another one:", "and this one:", "next:", "now look at this picture.",
)  # fmt: skip
DESCRIBE = (
    "describe the picture.", "describe it.", "what do you see in the picture? describe it.", "describe this picture",
    "tell me about the picture.", "what does the picture show?", "give a description of the picture.",
)  # fmt: skip
SAME_AGAIN = ("and this one?", "what about this one?", "and here?", "and now?", "the same question for this picture.")

# Questions that name no object, for scenes with objects of one kind. They can be asked again of another picture.
PLAIN: dict[str, tuple[str, ...]] = {
    "what": ("what is it?", "what is this?", "which object is it?", "and what is it?"),
    "how_many": ("how many are there?", "how many?", "and how many are there?", "count them."),
    "color": ("what color is it?", "which color?", "and the color?", "and what color is it?"),
    "background": ("what is the background?", "and the background?", "on which background?"),
    "where": ("where is it?", "and where is it?", "where?"),
}

HELLO = "Hello! Tell me what to draw, or show me a picture."
ABOUT = "I am nano, a small model of openjanus. I draw emoji pictures and answer questions about them."
CAN = "I draw what you say, such as two red apples, answer questions about pictures, and change pictures."
KNOWS = "I know forty objects, such as apple, cat and car, twenty-four colors, and numbers up to four."
SORRY = "I do not know that. I only know small emoji pictures."
ENGLISH = "I only know English."
SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("hello", "hi", "hey", "good morning", "good evening", "hello there", "hi!", "hello!", "greetings"), HELLO),
    (("who are you?", "what are you?", "what is your name?", "are you a robot?", "who made you?", "your name?"), ABOUT),
    (("what can you do?", "help", "how does this work?", "what can i ask you?", "what can you draw?"), CAN),
    (("what do you know?", "which objects do you know?", "which colors do you know?", "which words?"), KNOWS),
    (("thank you", "thanks", "thanks a lot", "great, thank you!", "nice", "well done", "good"), "You are welcome."),
    (("bye", "goodbye", "see you", "good night", "bye bye"), "Goodbye!"),
    (("how are you?", "how do you do?", "are you well?", "how is it going?"), "I am fine, thank you."),
    (("do you speak german?", "wer bist du?", "hallo", "guten tag", "bonjour", "hola", "ciao"), ENGLISH),
)
UNKNOWN = (
    "what is the capital of france?", "how is the weather?", "tell me a joke", "who is the president?",
    "write a poem", "what time is it?", "what is the meaning of life?", "how tall is a giraffe?", "translate this",
    "write some code", "what is love?", "who won the game?", "how old are you?", "where do you live?",
    "why is the sky blue?", "tell me a story", "what day is it?", "what should i eat?", "do you like music?",
    "what is the largest city?", "how do i cook rice?", "who wrote hamlet?", "what is the speed of light?",
)  # fmt: skip


def plain_answer(scene: Scene, kind: str) -> str | None:
    """The answer to a question of PLAIN; None if it has none, because the scene has two kinds of objects or no word
    fits."""
    item, count = scene.items[0], len(scene.items)
    if any(other.object != item.object for other in scene.items):
        return scene.background if kind == "background" else None
    if kind == "where":
        return place_of(item.x, item.y, item.size) if count == 1 else None
    return {"what": item.object, "how_many": str(count), "color": item.color, "background": scene.background}[kind]


def about_pictures(split: str, seed: int, index: int, order: str = "any", pictures: int = 0) -> Conversation:
    """Questions about one or several pictures, each with its answer.

    order: "picture", "words" (which of them comes first) or "any". pictures: their number; 0: any up to MAX_PICTURES.
    """
    rng = stream(split, seed, index, 9)
    number = pictures or (1 if coin(rng, ONE_PICTURE) else 2 + int((MAX_PICTURES - 1) * rng.random() ** 2))
    messages = [Message("system", [pick(rng, NOTES)])] if coin(rng, NOTE) else []
    last = ""  # the kind of the last question, if it was a plain one
    for place in range(number):
        scene = _scene(split, seed, index, place)
        num_turns = int(rng.integers(1, MAX_TURNS + 1)) if number == 1 else 1
        for turn in range(num_turns):
            text, answer, last = _question(scene, rng, last, is_new=turn == 0)
            words: list[str | Image.Image] = [reworded(text, rng)]
            if turn == 0:
                lead = [pick(rng, LEADS)] if coin(rng, LEAD) else []
                picture = Image.fromarray(world.render(scene))
                first = order == "picture" or (order == "any" and coin(rng, 0.5))
                words = [*lead, picture, *words] if first else [*lead, *words, picture]
            messages += [Message("user", words), Message("assistant", [answer])]
    return messages


def _scene(split: str, seed: int, index: int, place: int) -> Scene:
    number = index * MAX_PICTURES + place
    return wide_scene(split, seed, number) if split == "train" else world.sample_scene(split, seed, number)


def _question(scene: Scene, rng: np.random.Generator, last: str, is_new: bool) -> tuple[str, str, str]:
    """(text, answer, kind of a plain question or ""). is_new: whether the picture comes with the question."""
    if last and is_new and coin(rng, 0.4) and (again := plain_answer(scene, last)):
        return pick(rng, SAME_AGAIN), again, last
    kind = rng.random()
    if kind < 0.15:
        return pick(rng, DESCRIBE), grammar.description(scene), ""
    plain = {name: answer for name in PLAIN if name != last and (answer := plain_answer(scene, name))}
    if plain and kind < (0.35 if is_new else 0.75):
        name = pick(rng, list(plain))
        return pick(rng, PLAIN[name]), plain[name], name
    asked = grammar.question(scene, rng)
    return asked.text, asked.answer, ""


def small_talk(split: str, seed: int, index: int) -> Conversation:
    """Talk without pictures: who the model is, what it can do, and what it does not know."""
    rng = stream(split, seed, index, 10)
    messages = [Message("system", [pick(rng, NOTES)])] if coin(rng, NOTE) else []
    for _ in range(int(rng.integers(1, 4))):
        asked, answer = (UNKNOWN, SORRY) if coin(rng, 0.3) else pick(rng, SMALL_TALK)
        messages += [Message("user", [_typed(asked, rng)]), Message("assistant", [answer])]
    return messages


def _typed(texts: Sequence[str], rng: np.random.Generator) -> str:
    text = pick(rng, texts)
    text = text.removesuffix("?") if coin(rng, 0.3) else text
    changes: tuple[Callable[[str], str], ...] = (str, str, str.capitalize, str.upper)
    return pick(rng, changes)(text)
