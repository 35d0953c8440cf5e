"""The reduced world (mini.py) in several languages, to draw in one never drawn from (arXiv 2410.13848, §4.4).

    say("de", scene, rng)              "ein roter Apfel oben links auf weißem Grund"
    ask("de", scene, rng, "color")     ("welche Farbe hat der Apfel?", "rot")

    en        English; only its captions are ever drawn in training
    cipher    English with another word for each word, in another script: no overlap, by construction
    de        German: adjectives agree with the gender of the noun
    zh        Chinese: no spaces, another order
    emoji     emoji as words
    unseen    a second cipher, which no training text has

The words are our own; they say the same of a scene in each language.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image

from openjanus.data.sources import Source
from openjanus.emoji import mini, world
from openjanus.emoji.splits import allowed_colors, stream
from openjanus.emoji.sprites import BACKGROUNDS, COLORS, RECOLOURABLE
from openjanus.emoji.words import coin, pick
from openjanus.emoji.world import PLACES, Scene, place_of
from openjanus.processing.message import Conversation, Message
from openjanus.processing.text import TextTokenizer

LEARNED = ("cipher", "de", "zh", "emoji")
LANGUAGES = ("en", *LEARNED, "unseen")
# Objects that no parallel and no mixed line names: other languages know them from questions and their own texts only.
LEFT_OUT = ("star", "umbrella", "key", "fish", "tulip", "crown", "lock", "moon")

# Objects whose German and English words are not alike.
NO_COGNATE = (
    "car", "umbrella", "shirt", "key", "bell", "butterfly", "mushroom", "leaf", "gem", "dress", "lock", "bird",
)  # fmt: skip

# --- words: object, colour, place, background, in this order of the tables

GERMAN_NOUNS = {
    "heart": "das Herz", "star": "der Stern", "car": "das Auto", "balloon": "der Luftballon", "apple": "der Apfel",
    "umbrella": "der Schirm", "shirt": "das Hemd", "key": "der Schlüssel", "bell": "die Glocke",
    "butterfly": "der Schmetterling", "fish": "der Fisch", "book": "das Buch", "mushroom": "der Pilz",
    "tulip": "die Tulpe", "leaf": "das Blatt", "crown": "die Krone", "gem": "der Edelstein", "hat": "der Hut",
    "dress": "das Kleid", "lock": "das Schloss", "bird": "der Vogel", "shoe": "der Schuh", "moon": "der Mond",
    "guitar": "die Gitarre",
}  # fmt: skip
GERMAN_COLORS = {
    "red": "rot", "orange": "orangefarben", "yellow": "gelb", "green": "grün", "cyan": "türkisfarben", "blue": "blau",
    "purple": "violett", "pink": "rosafarben",
}  # fmt: skip
GERMAN_PLACES = {
    "top left": "oben links", "top": "oben", "top right": "oben rechts", "left": "links", "middle": "in der Mitte",
    "right": "rechts", "bottom left": "unten links", "bottom": "unten", "bottom right": "unten rechts",
}  # fmt: skip
GERMAN_GROUNDS = {
    "white": "weißem", "mint": "minzfarbenem", "grey": "grauem", "sky": "himmelfarbenem", "night": "nachtfarbenem"
}  # fmt: skip


def _table(words: str) -> dict[str, str]:
    """Words in the order of the objects, colours, places and backgrounds; then yes and no."""
    return dict(zip((*RECOLOURABLE, *COLORS, *PLACES, *BACKGROUNDS, "yes", "no"), words.split(), strict=True))


CHINESE = _table(
    "心 星星 汽车 气球 苹果 雨伞 衬衫 钥匙 铃铛 蝴蝶 鱼 书 "
    "蘑菇 郁金香 叶子 王冠 宝石 帽子 裙子 锁 鸟 鞋 月亮 吉他 "
    "红色 橙色 黄色 绿色 青色 蓝色 紫色 粉色 "
    "左上角 上方 右上角 左边 中间 右边 左下角 下方 右下角 "
    "白底 薄荷底 灰底 天空底 夜晚底 "
    "是 不是"
)
EMOJI = _table(
    "❤ ⭐ 🚗 🎈 🍎 ☂ 👕 🔑 🔔 🦋 🐟 📕 "
    "🍄 🌷 🍁 👑 💎 🎩 👗 🔒 🐦 👟 🌙 🎸 "
    "🔴 🟠 🟡 🟢 🧊 🔵 🟣 🌸 "
    "↖ ⬆ ↗ ⬅ 🎯 ➡ ↙ ⬇ ↘ "
    "⬜ 🌿 🌫 🌤 🌃 "
    "✅ ❌"
)
ENGLISH_PLACES = {
    "top left": "at the top left", "top": "at the top", "top right": "at the top right", "left": "on the left",
    "middle": "in the middle", "right": "on the right", "bottom left": "at the bottom left", "bottom": "at the bottom",
    "bottom right": "at the bottom right",
}  # fmt: skip
ENDINGS = {"der": "er", "die": "e", "das": "es"}
SCRIPTS = {"cipher": "აბგდევზთიკლმნოპრსტუფქღყშჩცძწჭხჯჰ", "unseen": "աբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփք"}
HALF_LENGTHS = (2, 4)  # half the letters of a code word: from, below

Words = dict[str, str]  # what a sentence needs, by English names: noun, color, place, ground, other


def _words(scene: Scene) -> Words:
    (item,) = scene.items
    place = place_of(item.x, item.y, item.size)
    assert item.color is not None and place is not None, "a scene of mini.py names both"
    return {"noun": item.object, "color": item.color, "place": place, "ground": scene.background}


# --- sentences


# What is said, with the words of the language in their places.
FORMS = {
    "en": {
        "say": "a {color} {noun} {where} on {ground}",
        "what": "what is it?",
        "color": "what color is the {noun}?",
        "where": "where is the {noun}?",
        "is_noun": "is it a {other}?",
        "is_color": "is the {noun} {other}?",
    },
    "zh": {
        "say": "{place}有一个{color}的{noun}，{ground}",
        "what": "这是什么？",
        "color": "{noun}是什么颜色？",
        "where": "{noun}在哪里？",
        "is_noun": "这是{other}吗？",
        "is_color": "{noun}是{other}吗？",
    },
    "emoji": {
        "say": "{color} {noun} {place} {ground}",
        "what": "👀 ❓",
        "color": "{noun} 🎨 ❓",
        "where": "{noun} 🧭 ❓",
        "is_noun": "👀 {other} ❓",
        "is_color": "{noun} {other} ❓",
    },
}


def _plainly(language: str, form: str, w: Words) -> str:
    """A form of a language whose words never change."""
    words = {key: word(language, english) for key, english in w.items()}
    return FORMS[language][form].format(**words, where=ENGLISH_PLACES[w["place"]])


def _german(form: str, w: Words) -> str:
    article, noun = GERMAN_NOUNS[w["noun"]].split()
    color = GERMAN_COLORS[w["color"]]
    if form == "say":
        one = "eine" if article == "die" else "ein"
        ground = GERMAN_GROUNDS[w["ground"]]
        return f"{one} {color}{ENDINGS[article]} {noun} {GERMAN_PLACES[w['place']]} auf {ground} Grund"
    if form == "is_noun":
        other_article, other = GERMAN_NOUNS[w["other"]].split()
        return f"ist es {'eine' if other_article == 'die' else 'ein'} {other}?"
    forms = {
        "what": "was ist das?",
        "color": f"welche Farbe hat {article} {noun}?",
        "where": f"wo ist {article} {noun}?",
        "is_color": f"ist {article} {noun} {GERMAN_COLORS.get(w.get('other', ''), '')}?",
    }
    return forms[form]


@cache
def _code(script: str, word: str) -> str:
    """Another word for an English one; different words get different ones (a test)."""
    rng = np.random.default_rng([len(script), *word.encode()])
    length = int(rng.integers(*HALF_LENGTHS)) * 2
    return "".join(pick(rng, tuple(script)) for _ in range(length))


def encipher(language: str, english: str) -> str:
    """Each word and each sign of an English text by its code word."""
    return " ".join(_code(SCRIPTS[language], part) for part in re.findall(r"[a-z]+|[?]", english))


def _speak(language: str, form: str, w: Words) -> str:
    """A form of `FORMS` about these words, in any language."""
    if language in SCRIPTS:
        return encipher(language, _plainly("en", form, w))
    return _german(form, w) if language == "de" else _plainly(language, form, w)


def word(language: str, english: str) -> str:
    """An object, a colour, a place, yes or no in a language: what an answer consists of."""
    if language in SCRIPTS:
        return encipher(language, english)
    if language == "de":
        known = {**{n: w.split()[1] for n, w in GERMAN_NOUNS.items()}, **GERMAN_COLORS, **GERMAN_PLACES}
        return {**known, "yes": "ja", "no": "nein"}[english]
    return {"zh": CHINESE, "emoji": EMOJI}[language][english] if language != "en" else english


def say(language: str, scene: Scene) -> str:
    """All of a scene in one sentence: the caption that is drawn."""
    return _speak(language, "say", _words(scene))


def mix(language: str, scene: Scene, rng: np.random.Generator) -> str:
    """The English caption with about half of its words in another language, at least one of each."""
    words = _words(scene)
    chosen = rng.random(3) < 0.5
    if chosen.all() or not chosen.any():
        chosen[int(rng.integers(3))] ^= True
    noun, color, place = (
        word(language, words[key]) if is_other else words[key]
        for key, is_other in zip(("noun", "color", "place"), chosen, strict=True)
    )
    where = place if chosen[2] else ENGLISH_PLACES[words["place"]]
    return f"a {color} {noun} {where} on {words['ground']}"


def ask(language: str, scene: Scene, rng: np.random.Generator, kind: str) -> tuple[str, str]:
    """A question of one of mini.KINDS and its answer. No question names a held-out pair."""
    words = _words(scene)
    if kind != "yes_no":
        return _speak(language, kind, words), word(language, words[{"what": "noun", "where": "place"}.get(kind, kind)])
    truth, form = coin(rng, 0.5), pick(rng, ("is_noun", "is_color"))
    key, all_of = ("noun", RECOLOURABLE) if form == "is_noun" else ("color", allowed_colors(words["noun"]))
    other = words[key] if truth else pick(rng, [o for o in all_of if o != words[key]])
    return _speak(language, form, {**words, "other": other}), word(language, "yes" if truth else "no")


# --- sources: what is drawn is English; other languages come as texts and in questions


def _scene(split: str, seed: int, index: int, purpose: int) -> tuple[Scene, np.random.Generator, str]:
    """A scene, a stream for its texts, and a learned language."""
    rng = stream(split, seed, index, purpose)
    return mini.mini_scene(split, seed, index), rng, pick(rng, LEARNED)


def _known(split: str, seed: int, index: int, purpose: int) -> tuple[Scene, np.random.Generator, str]:
    """As `_scene`, with an object that is not left out."""
    while True:
        scene, rng, language = _scene(split, seed, index, purpose)
        if scene.items[0].object not in LEFT_OUT:
            return scene, rng, language
        index += 1_000_003  # far from the indices of a training


def _text(words: str) -> Conversation:
    return [Message("text", [words])]


def drawings(split: str, seed: int) -> Source:
    """An English caption to draw."""

    def at(index: int) -> Conversation:
        scene = mini.mini_scene(split, seed, index)
        return [Message("user", [say("en", scene)]), Message("assistant", [Image.fromarray(world.render(scene))])]

    return at


def parallel(split: str, seed: int) -> Source:
    """A sentence in English and in another language, in either order."""

    def at(index: int) -> Conversation:
        scene, rng, language = _known(split, seed, index, 12)
        both = [say("en", scene), say(language, scene)]
        return _text(" = ".join(both if coin(rng, 0.5) else both[::-1]))

    return at


def monolingual(split: str, seed: int) -> Source:
    """A sentence in one of the other languages."""

    def at(index: int) -> Conversation:
        scene, _, language = _scene(split, seed, index, 13)
        return _text(say(language, scene))

    return at


def mixed(split: str, seed: int) -> Source:
    """An English sentence with words of another language."""

    def at(index: int) -> Conversation:
        scene, rng, language = _known(split, seed, index, 14)
        return _text(mix(language, scene, rng))

    return at


def english(split: str, seed: int) -> Source:
    """An English sentence."""
    return lambda index: _text(say("en", mini.mini_scene(split, seed, index)))


def _asked(scene: Scene, rng: np.random.Generator, language: str) -> Conversation:
    picture, messages = Image.fromarray(world.render(scene)), []
    for turn, kind in enumerate(rng.permutation(len(mini.KINDS))[: mini.QUESTIONS_PER_PICTURE]):
        question, answer = ask(language, scene, rng, mini.KINDS[kind])
        messages.append(Message("user", [picture, question] if turn == 0 else [question]))
        messages.append(Message("assistant", [answer]))
    return messages


def questions(split: str, seed: int) -> Source:
    """A picture with questions in one of the other languages, or in English one time in five."""

    def at(index: int) -> Conversation:
        scene, rng, language = _scene(split, seed, index, 15)
        return _asked(scene, rng, "en" if coin(rng, 0.2) else language)

    return at


def english_questions(split: str, seed: int) -> Source:
    """A picture with questions in English."""

    def at(index: int) -> Conversation:
        scene, rng, _ = _scene(split, seed, index, 16)
        return _asked(scene, rng, "en")

    return at


@lru_cache(maxsize=1)
def languages_text_tokenizer() -> TextTokenizer:
    """A tokenizer that has read as much of each language, the unseen one included (scripts/make_tokenizer.py)."""
    return TextTokenizer.load(str(files("openjanus.emoji") / "assets" / "tokenizer-languages.json"))


assert set(PLACES) == set(ENGLISH_PLACES) == set(GERMAN_PLACES), "every place has a word"
