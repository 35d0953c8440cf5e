"""Wordings of captions and questions, as plain tables of templates; grammar.py fills them in."""

# Tables read better packed than one wording a line.
# fmt: off

INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
SHORT = {"left of": "left", "right of": "right", "above": "above", "below": "below"}
RELATION_WORDS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "above", "over"),
    "below": ("below", "below", "under"),
}
SIDE_WORDS = {"left of": "on the left", "right of": "on the right", "above": "at the top", "below": "at the bottom"}

PREFIXES = (
    "a picture of", "an image of", "a drawing of", "a photo of", "an emoji picture of", "draw", "please draw",
    "show me", "show", "make a picture of", "paint", "create an image of", "can you draw", "generate", "i want to see",
)

# {a}: with article, {bare}: without; both carry size and (when stated) colour. {thing}: size and noun, no colour.
ONE_PHRASES = (
    "{a}", "{a}", "{a}", "{bare}", "{bare}", "one {bare}", "a single {bare}", "just {a}", "only {a}", "{a} alone",
    "{a} by itself", "exactly one {bare}", "{a} and nothing else",
)
ONE_SENTENCES = ("there is {a}", "this is {a}", "here is {a}", "i see {a}", "we see {a}", "it is {a}")
COLOR_PHRASES = (
    *ONE_PHRASES, "{a_thing} that is {color}", "{a_thing} in {color}", "{a_thing} which is {color}",
    "{a_thing}, {color}",
)
COLOR_SENTENCES = (*ONE_SENTENCES, "the {thing} is {color}", "there is {a_thing} and it is {color}")
COUNT_PHRASES = (
    "{n} {bare}", "{n} {bare}", "{n} {bare}", "{n} {bare}", "exactly {n} {bare}", "just {n} {bare}", "only {n} {bare}",
    "{bare}, {n} of them", "a group of {n} {bare}", "a set of {n} {bare}", "{n} identical {bare}",
)
COUNT_SENTENCES = ("there are {n} {bare}", "these are {n} {bare}", "here are {n} {bare}", "i count {n} {bare}",
                   "we see {n} {bare}")
COUNT_ONE_PHRASES = (
    "{n} {bare}", "{n} {bare}", "{n} {bare}", "exactly {n} {bare}", "just {n} {bare}", "only {n} {bare}",
    "a single {bare}", "{bare}, just {n}",
)
COUNT_ONE_SENTENCES = ("there is {n} {bare}", "here is {n} {bare}", "i count {n} {bare}", "we see {n} {bare}",
                       "there is only {n} {bare}")
TWO_PHRASES = (
    "{a} and {b}", "{a} and {b}", "{a} and {b}", "{bare_a} and {bare_b}", "{a} with {b}", "{a} together with {b}",
    "both {a} and {b}", "{a}, {b}", "{a} plus {b}", "{a} as well as {b}", "two things: {a} and {b}", "{a} & {b}",
)
TWO_SENTENCES = ("there is {a} and {b}", "here are {a} and {b}", "i see {a} and {b}", "we see {a} with {b}",
                 "there are {a} and {b}")
ATTRIBUTE_PHRASES = (
    *TWO_PHRASES, "{a_thing} that is {color_a} and {b_thing} that is {color_b}",
    "{a_thing} in {color_a} and {b_thing} in {color_b}",
)
ATTRIBUTE_SENTENCES = (*TWO_SENTENCES, "the {thing_a} is {color_a} and the {thing_b} is {color_b}",
                       "the {thing_a} is {color_a}, the {thing_b} is {color_b}")
POSITION_PHRASES = (
    "{a} {rel} {b}", "{a} {rel} {b}", "{a} {rel} {b}", "{a} {rel} {b}", "{bare_a} {rel} {bare_b}",
    "{a} that is {rel} {b}", "{a} {side_a} and {b} {side_b}", "{b} with {a} {rel} it", "{a} placed {rel} {b}",
    "{a} {side_a}, {b} {side_b}", "the {bare_a} {rel} the {bare_b}", "{b} and, {rel} it, {a}",
)
POSITION_SENTENCES = ("there is {a} {rel} {b}", "{a} is {rel} {b}", "the {bare_a} is {rel} the {bare_b}",
                      "put {a} {rel} {b}", "place {a} {rel} {b}", "{side_a} is {a}, {side_b} is {b}")

CAPTION_TEMPLATES = {
    "one": (ONE_PHRASES, ONE_SENTENCES),
    "color": (COLOR_PHRASES, COLOR_SENTENCES),
    "counting": (COUNT_PHRASES, COUNT_SENTENCES),
    "two": (TWO_PHRASES, TWO_SENTENCES),
    "position": (POSITION_PHRASES, POSITION_SENTENCES),
    "attribute": (ATTRIBUTE_PHRASES, ATTRIBUTE_SENTENCES),
}
BACKGROUND_WORDS = ("on a {} background", "on a {} background", "on {}", "against a {} background",
                    "with a {} background", ", {} background")
STYLE_WORDS = ("in {} style", "in {} style", ", {} emoji", ", {} style", "in the style of {}")
CORNER_WORDS = ("in the {} corner", "in the {} corner", "at the {}", "in the {}")
PLACE_WORDS = {
    "top left": CORNER_WORDS, "top right": CORNER_WORDS, "bottom left": CORNER_WORDS, "bottom right": CORNER_WORDS,
    "middle": ("in the {}", "in the {}", "in the center"), "top": ("at the {}",), "bottom": ("at the {}",),
    "left": ("on the {}", "on the {} side"), "right": ("on the {}", "on the {} side"),
}

ASK_BACKGROUND = ("what is the background?", "which background is it?", "what background is behind?",
                  "name the background.")
ASK_WHAT_ONE = ("what is this?", "what is in the picture?", "what do you see?", "which object is this?",
                "name the object.", "what is shown?", "what object is it?")
ASK_WHAT_MANY = ("which object is repeated?", "what kind of object is this?", "which object is there more than once?",
                 "name the object.", "what is shown?", "what do you see?")
ASK_WHAT_BOTH = ("which two objects are there?", "what are the two objects?", "name both objects.",
                 "what two things do you see?")
ASK_WHAT_COLOR = ("what is {}?", "which object is {}?", "what is the {} object?", "name the {} object.",
                  "what is colored {}?")
ASK_WHAT_RELATION = ("what is {rel} the {b}?", "which object is {rel} the {b}?", "name the object {rel} the {b}.",
                     "what do you see {rel} the {b}?")
ASK_WHAT_SIDE = ("what is {}?", "which object is {}?", "name the object {}.", "what do you see {}?")
ASK_HOW_MANY_ALL = ("how many objects are there?", "how many objects do you see?", "how many things are shown?",
                    "count the objects.")
ASK_HOW_MANY = ("how many {} are there?", "how many {} do you see?", "count the {}.", "how many {} are shown?",
                "how many {} are in the picture?", "what is the number of {}?")
ASK_COLOR_ONE = ("what color is the {}?", "which color is the {}?", "what is the color of the {}?",
                 "name the color of the {}.", "which color does the {} have?", "the {} is what color?")
ASK_COLOR_MANY = ("what color are the {}?", "which color do the {} have?", "what is the color of the {}?",
                  "name the color of the {}.", "the {} are what color?")
ASK_PLACE = ("where is the {}?", "where do you see the {}?", "in which part of the picture is the {}?",
             "where is the {} placed?", "at which place is the {}?")
ASK_RELATION = ("is the {a} {options} the {b}?", "where is the {a} relative to the {b}?",
                "where is the {a} seen from the {b}?", "on which side of the {b} is the {a}?",
                "how does the {a} stand to the {b}?")
ASK_SIDE = ("is the {a} {p} the {low} or {p} the {high}?", "is the {a} {p} the {low} or the {high}?",
            "{low} or {high}: where is the {a}?")
IS_PRESENT = ("is there {a}?", "do you see {a}?", "is {a} in the picture?", "can you see {a}?",
              "does the picture show {a}?")
IS_COLOR_ONE = ("is the {noun} {color}?", "is there {a}?", "do you see {a}?", "is the color of the {noun} {color}?")
IS_COLOR_MANY = ("are the {nouns} {color}?", "do you see {color} {nouns}?", "are there {color} {nouns}?")
IS_COUNT = ("{are} there exactly {n} {nouns}?", "is the number of {plural} {n}?", "do you count exactly {n} {nouns}?",
            "is it exactly {n} {nouns}?")
IS_RELATED = ("is the {a} {rel} the {b}?", "do you see the {a} {rel} the {b}?", "is there {one_a} {rel} {one_b}?")
# fmt: on
