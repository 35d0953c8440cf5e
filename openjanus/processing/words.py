"""Which words of a prompt a model was not taught, by the word list of its checkpoint (weights/config.py, `About`)."""

import difflib
import re
from collections.abc import Iterable, Mapping

# Words of a request that say nothing of what is in the picture, and those that say how things stand.
_SMALL_WORDS = """
a an the this that these they there here it its itself i i'd i'm we you your me my them and or but not no nothing else
is are was be been has have had do does did can could would will should let want need like see show give get make made
create draw drawing paint painting sketch generate render picture image photo photograph icon emoji illustration style
please thanks thank hello hi hey ok now again just only exactly very really some any each every both all of in on at by
to from for with without as about against next near beside between behind around above below over under left right top
bottom middle center centre front side corner place placed put standing sitting single alone identical same other plus
together group set pair couple one count x color colour colored coloured background backdrop nice what which who how
thing things object objects well
"""
SMALL_WORDS = frozenset(_SMALL_WORDS.split())
NUMBERS = frozenset(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])
LONG = 5  # letters from which a word may have a slip of the pen in it
ALIKE = 0.87  # of difflib; "strawbery" and "strawberry" have 0.95, "banner" and "banana" 0.67


def unknown_words(text: str, known: Mapping[str, Iterable[str]]) -> list[str]:
    """The words of a prompt that a model was not taught, in order, each once; none if it lists no words.

    known: its words by kind (`About.words`). Plurals, numbers up to ten, words of a request, and words with a slip of
    the pen are taken as known.
    """
    taught = {part for words in known.values() for word in words for part in re.findall(r"[\w'-]+", word.lower())}
    if not taught:
        return []
    taught |= SMALL_WORDS | NUMBERS
    said = dict.fromkeys(re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", text.lower()))
    return [word for word in said if not any(_is_taught(part, taught) for part in (word, *word.split("-")))]


def _is_taught(word: str, taught: set[str]) -> bool:
    ends = {"s": "", "es": "", "ies": "y", "ves": "f", "i": "us"}
    singular = {word.removesuffix(end) + other for end, other in ends.items() if word.endswith(end)}
    if {word, *singular} & taught:
        return True
    long = [other for other in taught if len(other) >= LONG]
    return len(word) >= LONG and bool(difflib.get_close_matches(word, long, 1, ALIKE))
